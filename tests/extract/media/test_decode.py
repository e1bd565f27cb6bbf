"""Decoding of real files: rates, turns, channels, damage, and memory."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.checkout import PROJECT
from support.videos import Clip, write_video

from benchmark.extract.media import decode
from benchmark.extract.media.decode import UnreadableVideo, has_audio, read_audio, read_frames
from benchmark.extract.media.segments import Span
from benchmark.extract.media.steps import batches, clips, windows

CODECS = {
    "h264.mp4": Clip(rate=30),
    "mpeg4.avi": Clip(codec="mpeg4", sound="libmp3lame"),
    "vp8.webm": Clip(codec="libvpx", sound="libopus", sound_rate=48_000, rate=15),
    "mjpeg.mov": Clip(
        codec="mjpeg", pixels="yuvj420p", sound="pcm_s16le", sound_rate=22_050, layout="mono", rate=24
    ),
    "hevc.mkv": Clip(codec="libx265", rate=60, size=(96, 64)),
    "raw.h264": Clip(sound=None),
}


def decoded(path: Path, rate: int | None = 25) -> tuple[list[float], list[str]]:
    """Mean brightness of each frame, and notes."""
    notes: list[str] = []
    return [float(p.mean()) for p in read_frames(path, rate, notes.append)], notes


def heard(path: Path, rate: int = 16_000) -> np.ndarray:
    return np.concatenate([np.zeros(0), *read_audio(path, rate, lambda note: None)])


@pytest.mark.parametrize("name", CODECS)
def test_any_rate_becomes_25_frames_a_second_at_their_times(tmp_path: Path, name: str) -> None:
    found, notes = decoded(write_video(tmp_path / name, CODECS[name]))
    assert abs(len(found) - 50) <= 1
    assert notes == []
    wanted = 20 + 20 * np.arange(len(found)) / 25
    assert (
        np.abs(np.array(found) - wanted).max() < 7
    )  # a level of 2 a tenth of a second, and what the codec loses


def test_without_a_rate_frames_come_as_they_are(tmp_path: Path) -> None:
    assert len(decoded(write_video(tmp_path / "v.mp4", Clip(rate=30)), None)[0]) == 60


def test_a_variable_rate_repeats_a_frame_until_the_next_one(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.08, 1.0, 1.04, 1.08]
    found, _ = decoded(write_video(tmp_path / "v.mkv", Clip(times=times, sound=None)))
    assert 27 <= len(found) <= 29
    np.testing.assert_allclose(found[4:24], found[3], atol=1)
    assert found[26] > found[10] + 12


def test_times_that_leap_end_a_video_instead_of_filling_hours(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.08, 5000.0, 5000.04]
    found, notes = decoded(write_video(tmp_path / "v.mkv", Clip(times=times, sound=None)))
    assert len(found) <= 4
    assert notes[0].startswith("video breaks off: its times jump by 5000 s")


def test_a_last_frame_that_would_last_for_hours_is_shown_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", Clip(times=[0.0, 0.04, 0.12], sound=None, options={"bf": "0"}))
    content = bytearray(path.read_bytes())
    place = content.index(b"stts") + 8
    struct.pack_into(
        ">I", content, place + 8 * struct.unpack_from(">I", content, place)[0], 2**24
    )  # the last duration
    path.write_bytes(content)
    assert 3 <= len(decoded(path)[0]) <= 5


def test_frames_of_joined_files_follow_each_other(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{i}.ts", Clip(seconds=3, begins=3 * i, sound="mp2")) for i in range(3)]
    path = tmp_path / "v.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for rate in (25, None):
        found, notes = decoded(path, rate)
        assert len(found) == 225
        assert np.abs(np.array(found) - 20 - 20 * np.arange(225) / 25).max() < 7
        assert notes == ["times of frames jump back 2 times; later frames follow the earlier ones"]
    assert len(heard(path)) / 16_000 == pytest.approx(9, abs=0.1)


def test_a_burst_after_long_stills_does_not_jump_back(tmp_path: Path) -> None:
    times = [*(4.0 * i for i in range(8)), *(28 + 0.04 * i for i in range(1, 4))]
    found, notes = decoded(
        write_video(tmp_path / "v.mp4", Clip(times=times, sound=None, options={"bf": "0"}))
    )
    assert len(found) == pytest.approx(28 * 25 + 4, abs=3)
    assert not [note for note in notes if "jump" in note]


def test_a_slide_show_is_shown_as_long_as_it_is_and_its_stills_are_noted(tmp_path: Path) -> None:
    times = [20.0 * i for i in range(40)]
    found, notes = decoded(write_video(tmp_path / "v.mkv", Clip(times=times, sound=None)), 1)
    assert len(found) == 780
    assert notes == ["stills longer than 3 s: 39, 778 s in total"]


@pytest.mark.parametrize("says", [True, False])
def test_leaps_that_take_longer_than_the_file_end_it(tmp_path: Path, says: bool) -> None:
    """A file of 300 s by its header, or one that does not say how long it is."""
    path = write_video(tmp_path / "v.mkv", Clip(times=[100.0 * i for i in range(40)], sound=None))
    content = path.read_bytes()
    place = content.index(b"\x44\x89\x88") + 3
    path.write_bytes(content[:place] + struct.pack(">d", 300_000.0 if says else 0.0) + content[place + 8 :])
    found, notes = decoded(path, 1)
    assert len(found) == (300 if says else 600)
    places = 3 if says else 6
    assert notes[:2] == [
        "video breaks off: its times jump by 100 s",
        f"stills longer than 3 s: {places}, {places}00 s in total",
    ]
    assert len(decoded(path, None)[0]) == 40  # where nothing is repeated, times do no harm


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_rotated_videos_come_upright(tmp_path: Path, rotation: int, corner: tuple[int, int]) -> None:
    """The white corner of the stored frame is turned counter-clockwise by so many degrees."""

    def picture(seconds: float) -> np.ndarray:
        stored = np.zeros((48, 64, 3), np.uint8)
        stored[:24, :32] = 255
        return stored

    path = write_video(tmp_path / "v.mp4", Clip(seconds=0.4, rotation=rotation, picture=picture, sound=None))
    first = next(read_frames(path, 25, lambda note: None))
    assert first.shape == ((64, 48, 3) if rotation % 180 else (48, 64, 3))
    halves = [np.array_split(half, 2, axis=1) for half in np.array_split(first, 2, axis=0)]
    assert halves[corner[0]][corner[1]].mean() > 200
    assert first.mean() < 80


@pytest.mark.parametrize("name", [name for name in CODECS if CODECS[name].sound])
def test_audio_is_the_mean_of_the_channels_at_the_wanted_rate(tmp_path: Path, name: str) -> None:
    clip = CODECS[name]
    path = write_video(tmp_path / name, clip)
    assert has_audio(path)
    wave = heard(path)
    assert abs(len(wave) / 16_000 - 2) < 0.1
    middle = wave[8000:24_000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 440
    assert np.sqrt(2 * (middle**2).mean()) == pytest.approx(0.5 if clip.layout == "mono" else 0.375, rel=0.05)


@pytest.mark.parametrize("count", [1, 6, 8, 9, 16])
def test_audio_of_any_number_of_channels(tmp_path: Path, count: int) -> None:
    levels = np.arange(count * 1000) * 30_000 // (count * 1000)
    with wave.open(str(tmp_path / "v.wav"), "wb") as file:
        file.setparams((count, 2, 16_000, 0, "NONE", ""))
        file.writeframes(levels.astype("<i2").tobytes())
    expected = (levels.reshape(1000, count) / 2**15).mean(1)
    np.testing.assert_allclose(heard(tmp_path / "v.wav"), expected, atol=1e-7)


def test_audio_of_seven_and_one_channels_in_aac(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", Clip(seconds=1, layout="7.1"))
    found = heard(path)
    assert len(found) >= 16_000
    assert np.sqrt(2 * (found[4000:12_000] ** 2).mean()) == pytest.approx(
        0.5 * 7 / 8, rel=0.05
    )  # the last one is for bass only


def test_sixteen_bits_are_rounded_channel_by_channel(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mov", Clip(sound="pcm_f32le"))
    plain = np.concatenate(list(read_audio(path, 44_100, lambda note: None)))
    rounded = np.concatenate(list(read_audio(path, 44_100, lambda note: None, sixteen_bit=True)))
    assert 0 < np.abs(plain - rounded).max() <= 0.5 / 2**15
    np.testing.assert_array_equal(rounded * 2**16, np.round(rounded * 2**16))


def test_audio_that_begins_late_is_silence_until_then(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", Clip(sound="pcm_s16le", sound_delay=1.0))
    notes: list[str] = []
    wave = np.concatenate(list(read_audio(path, 16_000, notes.append)))
    assert len(wave) == 48_000
    assert np.abs(wave[:15_900]).max() < 1e-3
    assert np.abs(wave[16_000:16_100]).max() > 0.3
    assert notes == ["audio begins 1.0 s late"]


def test_frames_that_begin_late_are_the_first_one_until_then(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", Clip(times=[1 + i / 25 for i in range(25)], sound="pcm_s16le"))
    found, notes = decoded(path)
    assert found == pytest.approx([40.0] * 25 + [40 + 20 * i / 25 for i in range(25)], abs=7)
    assert notes == ["video begins 1.0 s late"]
    assert len(heard(path)) == 32_000


def test_frames_and_audio_of_a_recording_that_begins_between_keyframes_keep_in_step(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.ts", Clip(seconds=5, sound="mp2", options={"g": "50"}))
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 2 // 188 * 188 :])
    found, notes = decoded(path)
    assert notes == ["video begins 0.3 s late"]
    assert len(set(found[:8])) == 1
    assert len(found) / 25 == pytest.approx(len(heard(path)) / 16_000, abs=0.1)


@pytest.mark.parametrize("delay", [0.08, 700.0])
def test_audio_that_is_late_by_an_encoders_delay_or_beyond_belief_is_as_it_comes(
    tmp_path: Path, delay: float
) -> None:
    notes: list[str] = []
    path = write_video(tmp_path / "v.mkv", Clip(sound="pcm_s16le", sound_delay=delay))
    assert sum(map(len, read_audio(path, 16_000, notes.append))) == 32_000
    late = "audio begins 700 s late, implausibly: taken to begin with the file"
    assert (late in notes) == (delay > 1)


def test_a_silent_video_has_frames_and_no_sound(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", Clip(sound=None))
    assert not has_audio(path)
    assert len(heard(path)) == 0
    assert len(decoded(path)[0]) == 50


@pytest.mark.parametrize("content", [b"", b"hello world" * 1000])
def test_an_empty_or_foreign_file_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    for read in (lambda: decoded(path), lambda: heard(path), lambda: has_audio(path)):
        with pytest.raises(UnreadableVideo, match="cannot be opened"):
            read()


def test_a_file_without_frames_is_unreadable(tmp_path: Path) -> None:
    import av

    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableVideo, match="no video stream"):
        decoded(path)


def test_a_file_that_breaks_off_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", CODECS["mpeg4.avi"])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found, notes = decoded(path)
    assert 5 < len(found) < 45
    assert len(notes) == 1
    assert "video ends after" in notes[0]


@pytest.mark.parametrize(("rate", "seconds"), [(10, "0.1"), (5, "0.2")])
def test_frames_that_last_less_than_half_a_place_are_too_short_and_not_damaged(
    tmp_path: Path, rate: int, seconds: str
) -> None:
    path = write_video(tmp_path / "v.mkv", Clip(times=[0.0], sound="pcm_s16le"))
    told = f"too short: its frames last 0.04 s, less than half of the {seconds} s of one frame"
    with pytest.raises(UnreadableVideo, match=f"^{told}$"):
        decoded(path, rate)
    with pytest.raises(UnreadableVideo, match=f"^{told}$"):
        list(read_frames(path, rate, lambda note: None, Span(0, 1)))
    assert len(decoded(path, 25)[0]) == 1
    assert len(decoded(path, None)[0]) == 1


def test_a_span_between_two_frames_is_too_short_and_not_behind_the_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", Clip(sound=None))
    with pytest.raises(
        UnreadableVideo, match=r"^too short: no frame from 1\.01 s to 1\.03 s, in which none begins$"
    ):
        list(read_frames(path, None, lambda note: None, Span(1.01, 1.03)))


@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        *((0.0, []), (0.04, []), (0.09, [])),
        *((0.15, ["audio ends after 0.06 s of 0.21 s"]), (0.102, ["audio ends after 0.1 s of 0.2 s"])),
    ],
)
def test_a_short_stream_is_not_noted_to_end_early_for_lack_of_a_frame(lacks: float, told: list[str]) -> None:
    class Stream:
        duration, time_base, type = 21, 0.01, "audio"

    notes: list[str] = []
    decode._note_early_end(None, Stream(), 0.21 - lacks, notes.append, None)
    assert notes == told


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_video_that_the_system_cannot_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = write_video(tmp_path / "v.mp4", Clip(seconds=0.2))

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(decode.av, "open", fail)
    if code == errno.EIO:  # which ffmpeg also says of damaged files: then reading the file decides
        with pytest.raises(UnreadableVideo, match="cannot be opened: Input/output error"):
            decoded(path)
        monkeypatch.setattr("builtins.open", fail)
    for read in (lambda: decoded(path), lambda: heard(path), lambda: has_audio(path)):
        with pytest.raises(OSError, match=os.strerror(code)):
            read()


@pytest.mark.parametrize("end", ["ts", "flv"])
def test_a_stream_that_begins_late_in_a_file_disturbs_nothing(tmp_path: Path, end: str) -> None:
    """Audio after more frames than ffmpeg reads to find the streams of a file."""

    def noise(seconds: float) -> np.ndarray:
        return np.random.default_rng(round(seconds * 1000)).integers(0, 255, (720, 1280, 3), np.uint8)

    silent = Clip(seconds=0.2, size=(1280, 720), picture=noise, codec="mpeg2video", sound=None)
    silent = replace(silent, options={"qmin": "1", "qmax": "1", "g": "1", "b": "200000000"})
    path = tmp_path / f"v.{end}"
    if end == "ts":
        parts = [
            write_video(tmp_path / "a.ts", silent),
            write_video(tmp_path / "b.ts", replace(silent, sound="mp2")),
        ]
        path.write_bytes(b"".join(part.read_bytes() for part in [parts[0], parts[1], parts[0]]))
    else:
        content = write_video(
            path, replace(silent, codec="flv", sound="libmp3lame", sound_delay=0.16)
        ).read_bytes()
        path.write_bytes(content[:4] + b"\1" + content[5:])  # the header has no audio stream
    assert not has_audio(path)
    found, notes = decoded(path, None)
    assert len(found) == (15 if end == "ts" else 5)
    assert notes in ([], ["video ends after 0.2 s of 0.4 s"])  # the audio of the other one is that long


@pytest.mark.slow
def test_decoding_of_damaged_videos_can_break_off_at_any_frame(tmp_path: Path) -> None:
    script = PROJECT / "tests" / "support" / "damaged_videos.py"
    path = os.pathsep.join(sys.path)
    answer = subprocess.run(
        [sys.executable, script, tmp_path / "v.mp4"],
        env={**os.environ, "PYTHONPATH": path},
        timeout=60,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert int(answer.stdout) > 100


def test_clips_cut_without_overlap_and_pad_the_last_with_zeros() -> None:
    found = list(clips((np.full(2, i + 1.0) for i in range(5)), 2, pad=True))
    assert [clip[:, 0].tolist() for clip in found] == [[1, 2], [3, 4], [5, 0]]
    assert len(list(clips((np.ones(2) for _ in range(5)), 2, pad=False))) == 2
    assert len(list(clips((np.ones(2) for _ in range(4)), 2, pad=True))) == 2
    assert [len(batch) for batch in batches(found, 2)] == [2, 1]


@pytest.mark.parametrize(("length", "hop"), [(5, 5), (7, 5), (3, 5)])
@pytest.mark.parametrize("size", [1, 4, 50])
def test_windows_are_those_of_the_whole_waveform(length: int, hop: int, size: int) -> None:
    wave = np.arange(33.0)
    wanted = [wave[i : i + length].tolist() for i in range(0, len(wave) - length + 1, hop)]
    blocks = [wave[i : i + size] for i in range(0, len(wave), size)]
    assert [window.tolist() for window in windows(blocks, length, hop)] == wanted
