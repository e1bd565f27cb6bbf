"""A cheap extractor as a plug-in, and a small data set of real videos with its lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkout import PROJECT
from support.video_set import VideoSet

from benchmark.extract.extractor import EXTRACTORS

GUIDE = PROJECT / "docs" / "extraction.md"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """The example of the guide, whose features are cheap, as a plug-in; forgotten again afterwards."""
    found = re.search(r"^```python\n(# file: (tiny_extractor.py)\n.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    path = tmp_path / found[2]
    path.write_text(found[1])
    yield path
    EXTRACTORS.pop("tiny", None)


@pytest.fixture
def video_set(tmp_path: Path) -> VideoSet:
    """Nine videos of four classes, lists and word vectors."""
    made = VideoSet(tmp_path / "set")
    made.write()
    return made
