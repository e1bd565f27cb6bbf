"""A real film through the packaged encoders, and through the networks of ``cls`` with random weights."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from support.needs import encoders, real_video

from benchmark.extract.extraction import attempt, identity
from benchmark.extract.extractor import find_extractor
from benchmark.extract.plan import Wanted
from benchmark.extract.results import ResultFolder
from benchmark.extract.weights_files import given_files, random_weights, read_weights

SECONDS = 5.3


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_video(tmp_path_factory.mktemp("video"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "audio", "frames"), [("packaged", (55, 58), (10, 11)), ("cls", (5, 5), (8, 9))]
)
def test_a_real_film_becomes_features(
    video: Path, tmp_path: Path, features: str, audio: tuple[int, int], frames: tuple[int, int]
) -> None:
    if features == "packaged":
        encoders()
    kind = find_extractor(features)
    weights = read_weights(kind, given_files(kind, [])) if features == "packaged" else random_weights(kind)
    results = ResultFolder(tmp_path / "results", identity(kind, weights.record, frozenset()), "skip")
    film = Wanted("film", "stage_1_train", 0, video)
    outcome = attempt(film, video.parent, kind(weights.states, frozenset(), "cpu"), results)
    assert (outcome.problem, outcome.notes) == (None, ())
    steps = outcome.steps
    assert steps is not None
    assert audio[0] <= steps["audio"] <= audio[1]
    assert frames[0] <= steps["video"] <= frames[1]
    with h5py.File(results.path("film")) as file:
        for modality, dim in (("audio", kind.audio_dim), ("video", kind.video_dim)):
            values = file[modality][:]
            assert values.shape == (steps[modality], dim)
            assert np.isfinite(values).all()
            assert len(np.unique(values, axis=0)) == len(values)
