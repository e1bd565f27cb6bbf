"""The published networks, with random weights, from real videos to the tables of a method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny import TINY
from support.video_set import VideoSet
from support.videos import Clip

from benchmark.cli import app
from benchmark.data import cards
from benchmark.data.checks.verify import verify_store
from benchmark.data.store import FeatureStore
from benchmark.running import planning

STEPS = {"cls": ((1, 2, 3), (1, 2)), "main": ((1, 2), (1, 2))}
"""Time steps of audio and video that 1.1 seconds may have; codecs add a little audio."""


def give(words: list[object]) -> int:
    with pytest.raises(SystemExit) as ended:
        app.main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.mark.slow(80)
@pytest.mark.parametrize("features", ["cls", "main"])
def test_videos_are_extracted_trained_on_and_reported(
    features: str,
    tmp_path: Path,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = VideoSet(tmp_path / "set", each=2, seconds=1.1)
    made.write()
    silent, broken = "v_Archery_g00_c01", "v_Bowling_g00_c01"
    made.write_video(silent, ".mp4", Clip(sound=None))
    made.files[broken].write_bytes(made.files[broken].read_bytes()[:50])
    for module in (cards, planning):
        monkeypatch.setattr(module, "load_cards", lambda **_: cards.Cards({"sports": made.card()}))
    data = tmp_path / "data"
    places = ["--videos", made.videos, "--lists", made.lists, "--data-root", data, "--device", "cpu"]
    assert give(["extract", "sports", "--features", features, "--random-weights", *places]) == 1
    screen = capsys.readouterr().out
    assert "Problems: 2 left out" in screen
    store = FeatureStore(data / f"sports-{features}.h5")
    assert set(store.tables().ids) == made.samples.keys() - {silent, broken}
    assert verify_store(store.path, made.card()) == []
    assert (store.audio_dim, store.video_dim) == ((128, 4096) if features == "cls" else (512, 512))
    samples = [section.samples for section in (store.development("by_name"), store.open_test("by_name"))]
    for modality, steps in zip(("audio", "video"), STEPS[features], strict=True):
        values = [getattr(s, modality) for s in samples]
        assert {int(n) for v in values for n in v.lengths} <= set(steps)
        assert all(len(np.unique(v.means, axis=0)) == len(v.means) for v in values)
    if features == "cls":
        assert all(set(np.unique(s.audio.frames)) <= set(range(256)) for s in samples)
    settings = [
        word
        for setting in (*TINY, "train.epochs=1")
        for word in ("--set", setting)
        if "synthetic" not in setting
    ]
    run = [
        "run",
        "--methods",
        "tcaf",
        "--dataset",
        "sports",
        "--features",
        features,
        *settings,
        "--data-root",
        data,
    ]
    assert give([*run, "--runs-dir", runs, "--reports-dir", tmp_path / "reports"]) == 0
    screen = capsys.readouterr().out
    assert "Generalised zero-shot learning: Sports" in screen
    assert "synthetic data" in screen
    assert "TCAF" in screen
