"""What ``perf/extraction.py`` measures with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.extract.extractor import find_extractor
from benchmark.extract.weights_files import load_weights
from perf import extraction


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    paths = []
    for number, kind in enumerate(extraction.KINDS.values()):
        paths.append(tmp_path / f"{number}{kind.end}")
        extraction.write_video(paths[-1], replace(kind, seconds=1), number)
    return paths


def test_all_ways_of_extracting_are_measured(tiny: Path, videos: list[Path], tmp_path: Path) -> None:
    kind = find_extractor("tiny", [tiny])
    weights = load_weights(kind, [], random=True)
    found = {
        way: [extraction.measure(kind, weights, how, videos, tmp_path)]
        for way, how in extraction.WAYS.items()
    }
    assert all(measured.videos == 2 and measured.decoding > 0 for (measured,) in found.values())
    shares, ratios = extraction.rows("tiny", "ucf", found)
    assert shares["decoding (%)"] + shares["networks (%)"] + shares["elsewhere (%)"] == pytest.approx(
        100, abs=0.2
    )
    assert all(ratios[name] > 0 for name in extraction.RATIOS)
