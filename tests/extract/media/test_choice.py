"""The frames and the audio that ``clip_clap`` uses, against the published extraction and on real files."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.tiny import need
from support.videos import Clip, clock, shown_time, write_video

from benchmark.extract.media.choice import centre_of, chosen_frames
from benchmark.extract.media.decode import UnreadableVideo, claimed_frames, read_frames
from benchmark.extract.media.footage import Footage
from benchmark.extract.media.segments import Span
from benchmark.extract.sets.clip_clap import ClipClap

PUBLISHED = {
    "UCF": {"bgr", "inverted", "claimed_middle"},
    "VGGSound": {"bgr", "early_middle", "blank_single"},
    "ActivityNet": {"bgr", "early_middle"},
}
VIDEOS = ("1", "2", "3", "10", "10_count6", "10_count14", "10_count24")
CASES = [f"{name}_{video}" for name in PUBLISHED for video in VIDEOS]
LOSSLESS = Clip(seconds=0.4, codec="ffv1", pixels="bgr0", sound=None, picture=clock)


class Frames(Footage):
    """Footage of an array ``[n, h, w, 3]`` whose header claims ``claimed`` frames."""

    def __init__(self, frames: NDArray[np.uint8], claimed: int) -> None:
        self._frames = frames
        self.count, self.claimed = len(frames), claimed

    def chosen(self, indices: Collection[int]) -> Iterator[NDArray[np.uint8]]:
        return (self._frames[i] for i in sorted(set(indices)))


def given(footage: Footage, quirks: Collection[str], frames: int = 1) -> list[NDArray[Any]]:
    """What CLIP's preprocessing gets of a video; a prepared image if it is left out."""
    extractor = object.__new__(ClipClap)
    extractor.repeated, extractor.frames = frozenset(quirks), frames
    extractor.prepare = extractor.given_to_clip  # type: ignore[assignment, method-assign]
    return [step[0] for step in extractor.clips(footage)]


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]]]:
    folder = shared / "golden" / "clip_frames"
    if not folder.is_dir():
        need(f"golden frames not found in {folder} (set GZSL_SHARED)")
    return json.loads((folder / "expected.json").read_text()), dict(np.load(folder / "data.npz"))


@pytest.mark.parametrize("case", CASES)
def test_published_frames_are_repeated(case: str, golden: tuple[Any, Any]) -> None:
    expected, data = golden
    wanted = expected[case]
    footage = Frames(data[f"clip_{wanted['frames']}"], wanted["container_frame_count"])
    quirks = PUBLISHED[wanted["dataset"]]
    if wanted["given_to_clip"] == "dropped":
        with pytest.raises(UnreadableVideo, match="1 readable frames"):
            given(footage, quirks)
        return
    (found,) = given(footage, quirks)
    if wanted["given_to_clip"] == "zero_tensor":
        np.testing.assert_array_equal(found, np.zeros((3, 224, 224), np.float32))
    else:
        np.testing.assert_array_equal(found, data[case])


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_without_deviations_it_is_the_middle_frame_as_filmed(n: int, golden: tuple[Any, Any]) -> None:
    _, data = golden
    (found,) = given(Frames(data[f"clip_{n}"], claimed=24), ())
    np.testing.assert_array_equal(found, data[f"corrected_{n}"])


def test_several_frames_are_evenly_spaced() -> None:
    assert chosen_frames(10, 10, 1, ()) == [5]
    assert chosen_frames(10, 10, 5, ()) == [1, 3, 5, 7, 9]
    assert chosen_frames(2, 2, 4, ()) == [0, 0, 1, 1]
    frames = np.arange(2, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert [int(frame[0, 0, 0]) for frame in given(Frames(frames, 2), (), 4)] == [0, 0, 1, 1]


@pytest.mark.parametrize("quirks", [{"claimed_middle"}, {"early_middle", "blank_single"}, {"early_middle"}])
def test_a_header_without_a_number_of_frames_leaves_the_video_out(quirks: set[str]) -> None:
    with pytest.raises(UnreadableVideo, match="the published code left it out"):
        chosen_frames(10, 0, 1, quirks)


def test_frames_of_a_file_are_counted_and_chosen(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write_video(tmp_path / "lossless.mkv", LOSSLESS)
    footage = Footage(path, notes.append)
    every = list(read_frames(path, None, notes.append))
    assert (footage.count, footage.claimed, len(every)) == (10, 10, 10)
    for i, frame in zip((2, 7), footage.chosen([7, 2]), strict=True):
        np.testing.assert_array_equal(frame, every[i])
    (middle,) = given(footage, {"bgr", "inverted"})
    np.testing.assert_array_equal(middle, (256 - every[5][:, :, ::-1].astype(int)) % 256)
    with pytest.raises(UnreadableVideo, match="frame 10 cannot be decoded"):
        list(footage.chosen([10]))
    assert notes == []


def test_the_number_in_the_header_is_that_of_the_file_even_if_frames_are_missing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "whole.mp4", Clip(seconds=2, sound=None, options={"g": "5"}))
    assert claimed_frames(path) == 50
    avi = write_video(tmp_path / "whole.avi", Clip(seconds=2, codec="mpeg4"))
    claimed = claimed_frames(avi)
    assert claimed == pytest.approx(50, abs=1)  # encoders may count a frame that is late
    avi.write_bytes(avi.read_bytes()[: avi.stat().st_size // 2])
    notes: list[str] = []
    cut = Footage(avi, notes.append)
    assert cut.count < 40
    assert cut.claimed == claimed
    assert notes


def test_frames_of_a_span_are_its_own(tmp_path: Path) -> None:
    path = write_video(tmp_path / "whole.mp4", Clip(seconds=3, picture=clock))
    footage = Footage(path, lambda note: None, Span(1, 2))
    assert (footage.count, footage.claimed) == (25, 25)
    (middle,) = given(footage, ())
    assert shown_time(middle) == pytest.approx(1.48, abs=0.03)


def test_a_file_without_readable_frames_ends_as_a_problem_of_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "sound.mp4", Clip(seconds=0.5))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnreadableVideo):
        given(Footage(path, lambda note: None), PUBLISHED["VGGSound"])


@pytest.mark.parametrize("samples", [0, 1, 9, 10, 11, 12, 57, 100])
@pytest.mark.parametrize("block", [1, 4, 30, 200])
def test_the_centre_of_audio_does_not_depend_on_the_blocks(samples: int, block: int) -> None:
    waveform = np.arange(samples, dtype=np.float64)
    blocks = (waveform[i : i + block] for i in range(0, samples, block))
    first = max(0, (samples - 10) // 2)
    np.testing.assert_array_equal(centre_of(blocks, 10), waveform[first : first + 10])


def test_short_audio_is_filled_up_on_the_right() -> None:
    extractor = object.__new__(ClipClap)
    (window,) = extractor.windows(iter([np.ones(3), np.ones(2)]))
    assert window.shape == (320_000,)
    assert (window[:5] == 1).all()
    assert not window[5:].any()
    assert list(extractor.windows(iter([]))) == []
