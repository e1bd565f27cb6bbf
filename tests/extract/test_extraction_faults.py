"""What goes wrong in an extraction: interruptions, kills, full disks, libraries that fail. Nothing that was
done is lost."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.checkout import PROJECT
from support.extracting import Command, in_video
from support.videos import Clip, write_video

from benchmark.errors import Unavailable
from benchmark.extract import extraction
from benchmark.extract.results import ResultFolder


def test_ctrl_c_keeps_what_is_done(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, begun = extraction._compute, 0

    def interrupted(*arguments: Any) -> bool:
        nonlocal begun
        begun += 1
        if begun == 4:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(extraction, "_compute", interrupted)
    command(code=130)
    assert not command.store.exists()
    assert command()["resumed"] == 3


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SystemExit("out of memory")])
def test_a_video_on_which_a_library_fails_stops_nothing_and_is_tried_again(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    compute = extraction._compute
    bad = next(iter(command.video_set.samples))

    def failing(video: Path, *arguments: Any) -> bool:
        if video.stem == bad:
            raise error
        return compute(video, *arguments)

    monkeypatch.setattr(extraction, "_compute", failing)
    assert command(code=1)["extracted"] == 8
    assert command.problems()[bad] == (f"{type(error).__name__}: out of memory; tried again next time", True)
    command(code=1)
    assert command.problems()[bad] == (
        f"{type(error).__name__}: out of memory (2 times); tried again next time",
        True,
    )
    monkeypatch.setattr(extraction, "_compute", compute)
    again = command()
    assert (again["extracted"], again["resumed"]) == (1, 8)


def test_results_that_cannot_be_read_for_now_are_not_extracted_again(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = next(iter(command.video_set.samples))
    results = ResultFolder(command.results, {}, "skip")
    video = command.video_set.files[sample]
    assert results.read(sample, video, video.parent) is None  # there is none yet
    results.folder.mkdir(parents=True)
    results.path(sample).write_bytes(b"damaged")
    assert results.read(sample, video, video.parent) is None

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(Unavailable, match=r"too many files are open; raise the limit \(ulimit -n\)"):
        results.read(sample, video, video.parent)


def test_a_file_that_an_extractor_misses_is_no_fault_of_the_results(command: Command) -> None:
    bad = next(iter(command.video_set.samples))
    in_video(command.tiny, "if clips.max() > 0.99:", "    open('no such table')")
    write_video(
        command.video_set.files[bad], Clip(picture=lambda seconds: np.full((48, 64, 3), 255, np.uint8))
    )
    assert command(code=1)["extracted"] == 8
    what = "FileNotFoundError: [Errno 2] No such file or directory: 'no such table'; tried again next time"
    assert command.problems()[bad] == (what, True)


def test_a_full_disk_is_reported_in_a_line_and_leaves_nothing_behind(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)  # where HDF5 complains
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (100, 3000):  # in the first file, at once and later
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            command(code=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (
            f"{command.results}: cannot be written (File too large); make room"
            in capsys.readouterr().err.replace("\n", "")
        )
        assert not list(command.results.glob("*.h5*"))
        assert not list(command.results.glob(".*.partial"))
    gc.collect()
    assert ignored == []
    assert command()["extracted"] == 9


CHILD = """
import sys, time
from pathlib import Path
from benchmark.cli import app
from benchmark.data import cards
from benchmark.extract import devices, extraction, results
from support.in_process import extract_here

card, stop = cards.Card.model_validate_json(Path(sys.argv[1]).read_text()), sys.argv[2]
cards.load_cards = lambda **_: {"sports": card}
begun = 0

def wait(place):
    if place == stop:
        print(place, flush=True)
        time.sleep(60)

compute = extraction._compute
def slow(*arguments):
    global begun
    begun += 1
    compute(*arguments)
    wait(f"computed {begun}")

record = results.ResultFolder.record
def recording(self, file, outcome):
    record(self, file, outcome)
    file.flush()
    wait(f"recorded {begun}")

extraction._compute = slow
results.ResultFolder.record = recording
devices.extract_on = extract_here
app.main(sys.argv[3:])
"""


def kill_at(command: Command, stop: str) -> None:
    card = command.data.parent / "card.json"
    card.write_text(command.video_set.card().model_dump_json())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (PROJECT, PROJECT / "tests")))}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(card), stop, *command.words()],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == stop
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


@pytest.mark.slow
def test_an_extraction_killed_three_times_gives_the_same_store(command: Command, tmp_path: Path) -> None:
    undisturbed = command("--work", tmp_path / "undisturbed")["digest"]
    command.store.unlink()
    for stop in ("computed 2", "recorded 3", "computed 1"):
        kill_at(command, stop)
        assert not command.store.exists()
    assert list(command.results.glob(".*.partial"))
    said = command()
    assert (said["digest"], said["resumed"], said["extracted"]) == (undisturbed, 3, 6)
    assert not list(command.results.glob(".*.partial"))
