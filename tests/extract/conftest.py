"""A cheap extractor as a plug-in, and a small dataset of real videos with its lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkout import PROJECT
from support.extracting import Command
from support.video_set import VideoSet

from benchmark.extract.extractor import EXTRACTORS

GUIDE = PROJECT / "docs" / "how-to" / "add-an-extractor.md"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """The example of the guide, whose features are cheap, as a plug-in; forgotten again afterwards."""
    found = re.search(
        r"^```python\n(# file: (tiny_extractor.py)\n.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    path = tmp_path / found[2]
    path.write_text(found[1])
    yield path
    EXTRACTORS.pop("tiny", None)


@pytest.fixture(scope="session")
def written_video_set(tmp_path_factory: pytest.TempPathFactory) -> VideoSet:
    """The videos of ``video_set``, which are encoded once."""
    made = VideoSet(tmp_path_factory.mktemp("videos") / "set")
    made.write()
    return made


@pytest.fixture
def video_set(written_video_set: VideoSet, tmp_path: Path) -> VideoSet:
    """Nine videos of four classes, lists and class embeddings, in a folder of the test's own."""
    return written_video_set.copied(tmp_path / "set")


@pytest.fixture
def command(video_set: VideoSet, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command ``extract`` with the tiny extractor, in the process of the test."""
    return Command(video_set, tiny, tmp_path / "data", monkeypatch)
