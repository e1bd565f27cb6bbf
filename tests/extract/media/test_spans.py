"""Spans of whole videos: the same as of files that were cut there, in step, and without decoding what lies
before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import correlate
from support.videos import Clip, clock, shown_time, write_video

from benchmark.extract.media import decode
from benchmark.extract.media.decode import UnreadableVideo, read_audio, read_frames
from benchmark.extract.media.segments import Span

TELLS = Clip(seconds=9, picture=clock, rise=100.0, options={"g": "60"})
"""Frames and audio encode their time; there is a keyframe every 60 frames."""
LOSSLESS = {
    "h264.mov": replace(TELLS, sound="pcm_s16le", options={"g": "60", "qp": "0"}),
    "ffv1.mkv": replace(TELLS, codec="ffv1", sound="pcm_s16le", sound_rate=16_000, rate=50),
    "h264.mp4": replace(TELLS, sound="flac", options={"g": "1000", "qp": "0"}),
}
LOSSY = {
    "h264.mp4": TELLS,
    "mpeg4.avi": replace(TELLS, codec="mpeg4", sound="libmp3lame"),
    "vp8.webm": replace(TELLS, codec="libvpx", sound="libopus", sound_rate=48_000, rate=30),
    "h264.ts": replace(TELLS, sound="mp2"),
    "open-gop.mkv": replace(TELLS, options={"x264-params": "open-gop=1:keyint=60:bframes=3"}),
    "raw.h264": replace(TELLS, sound=None),
}
LATE = {"mpeg4.avi": (0.04, 1105 / 44_100), "h264.ts": (481 / 44_100, 481 / 44_100)}
"""Seconds by which the frames and audio of our encoders are late, without a record of it in the file."""
SPAN = Span(3.48, 6.2)


def shown(path: Path, rate: int | None, span: Span | None = None) -> tuple[np.ndarray, list[str]]:
    """The times of the frames, and notes."""
    notes: list[str] = []
    return np.array([shown_time(frame) for frame in read_frames(path, rate, notes.append, span)]), notes


def heard(path: Path, span: Span | None = None, rate: int = 16_000) -> np.ndarray:
    return np.concatenate([np.zeros(0), *read_audio(path, rate, lambda note: None, span)])


@pytest.fixture
def frames_decoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the frames that are decoded, by the kind of their stream."""
    counts = {"video": 0, "audio": 0}
    decoded = decode._decoded

    def counting(container: Any, stream: Any, note: Any) -> Any:
        for frame in decoded(container, stream, note):
            counts[stream.type] += 1
            yield frame

    monkeypatch.setattr(decode, "_decoded", counting)
    return counts


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_span_is_what_a_file_cut_there_holds(tmp_path: Path, name: str) -> None:
    whole = write_video(tmp_path / name, LOSSLESS[name])
    length = SPAN.end - SPAN.start
    cut = write_video(tmp_path / f"cut-{name}", replace(LOSSLESS[name], seconds=length, begins=SPAN.start))
    for rate in (25, 10, None):
        expected = list(read_frames(cut, rate, lambda note: None))
        found = list(read_frames(whole, rate, lambda note: None, SPAN))
        np.testing.assert_array_equal(found, expected[: len(found)])
        assert 0 <= len(expected) - len(found) <= 1  # 27.2 frames at 10 a second
    expected_audio, found_audio = heard(cut), heard(whole, SPAN)
    assert len(found_audio) == len(expected_audio) == round(length * 16_000)
    np.testing.assert_allclose(found_audio, expected_audio, atol=1e-4)  # the last bit of the encoder's sine


@pytest.mark.parametrize("name", LOSSY)
def test_frames_and_audio_of_a_span_stand_at_their_times(tmp_path: Path, name: str) -> None:
    """Also if the times of a file do not start at 0 (``.ts``), or there are none (``.h264``)."""
    whole = write_video(tmp_path / name, LOSSY[name])
    late_frames, late_audio = LATE.get(name, (0.0, 0.0))
    for span in (SPAN, Span(0.3, 1.5), Span(5.017, 8.9)):
        times, notes = shown(whole, 25, span)
        assert len(times) == round((span.end - span.start) * 25)
        assert np.abs(times + late_frames - span.start - np.arange(len(times)) / 25).max() < 0.05
        assert notes == []
        if LOSSY[name].sound:
            wave = heard(whole, span)
            assert abs(len(wave) - (span.end - span.start) * 16_000) <= 1
            content = span.start - late_audio + np.arange(len(wave)) / 16_000
            exact = 0.375 * np.sin(2 * np.pi * (440 + 50 * content) * content)
            assert (
                best_shift(wave, exact) <= 32
            )  # 2 ms: some encoders and times of containers are not more exact


def best_shift(wave: np.ndarray, exact: np.ndarray, most: int = 400) -> int:
    """Samples by which a wave must be moved to agree best with another one."""
    products = correlate(wave[: len(exact)], exact[most:-most], mode="valid", method="fft")
    return abs(int(np.argmax(products)) - most)


def test_a_frame_that_lasts_is_seen_from_the_start_of_a_span_to_the_next_one(tmp_path: Path) -> None:
    times = [*np.arange(0, 2.01, 0.04), 5.0, 5.04, 5.08, 8.0, 8.04]
    path = write_video(tmp_path / "v.mkv", replace(TELLS, times=times, sound=None))
    found, notes = shown(path, 25, Span(3.0, 7.0))
    assert len(found) == 100
    assert notes == []
    np.testing.assert_allclose(found[:49], 2.0, atol=0.02)
    np.testing.assert_allclose(found[53:], 5.08, atol=0.02)
    assert shown(path, None, Span(3.0, 7.0))[0] == pytest.approx([5.0, 5.04, 5.08], abs=0.02)


@pytest.mark.parametrize("end", ["mp4", "mkv", "ts"])
def test_a_span_that_begins_behind_the_end_is_unreadable(tmp_path: Path, end: str) -> None:
    path = write_video(tmp_path / f"v.{end}", replace(TELLS, seconds=4, sound="aac"))
    for start in (4.1, 10.0):
        with pytest.raises(
            UnreadableVideo, match=rf"no frame from {start:g} s to 30 s: its frames end at 4.0 s"
        ):
            shown(path, 25, Span(start, 30.0))
        assert len(heard(path, Span(start + 0.1, 30.0))) == 0


def test_a_span_before_the_first_frame_is_unreadable(tmp_path: Path) -> None:
    times = [3 + i / 25 for i in range(75)]
    path = write_video(tmp_path / "v.mkv", replace(TELLS, times=times, sound="pcm_s16le"))
    for rate in (25, None):
        with pytest.raises(UnreadableVideo, match=r"no frame from 0\.5 s to 2 s: its frames begin at 3\.0 s"):
            shown(path, rate, Span(0.5, 2.0))
    found, notes = shown(path, 25, Span(2.0, 4.0))
    assert found == pytest.approx([*[3.0] * 25, *(3 + np.arange(25) / 25)], abs=0.02)
    assert notes == ["video begins 1.0 s late"]


def test_a_span_that_ends_behind_the_end_has_what_there_is_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", replace(TELLS, seconds=4, sound="flac"))
    found, notes = shown(path, 25, Span(2.0, 6.0))
    assert len(found) == 50
    assert notes == ["video ends after 2.0 s of 4.0 s"]
    assert len(heard(path, Span(2.0, 6.0))) == 32_000


def test_audio_that_begins_late_is_silence_until_then(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mov", replace(TELLS, sound="pcm_s16le", sound_delay=2.0))
    wave = heard(path, Span(0.5, 3.5))
    assert len(wave) == 48_000
    assert np.abs(wave[:23_000]).max() < 1e-3
    assert np.abs(wave[24_500:]).max() > 0.3
    assert len(heard(path, Span(0.5, 1.5))) == 0


@pytest.mark.parametrize("name", ["h264.mp4", "vp8.webm", "mpeg4.avi"])
def test_what_is_before_and_after_a_span_is_not_decoded(
    tmp_path: Path, name: str, frames_decoded: dict[str, int]
) -> None:
    path = write_video(tmp_path / name, replace(LOSSY[name], seconds=30))
    span = Span(24.0, 26.0)
    assert len(list(read_frames(path, 25, lambda note: None, span))) == 50
    assert len(heard(path, span)) == 32_000
    assert frames_decoded["video"] < 200  # of 750 or 900
    assert frames_decoded["audio"] < 400  # of 1150 or more


def test_a_span_of_less_than_a_frame_has_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", TELLS)
    assert shown(path, 25, Span(3.0, 3.01))[0] == pytest.approx([3.0], abs=0.02)
