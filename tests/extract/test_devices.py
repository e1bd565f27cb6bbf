"""Extraction by several processes: the store of one, and what a process that dies costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.checkout import PROJECT
from support.extracting import Command, in_video
from support.video_set import VideoSet
from support.videos import Clip, write_video

from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError
from benchmark.extract.devices import ExtractionSpec, default_decoders
from benchmark.extract.extraction import failed, identity
from benchmark.extract.extractor import find_extractor
from benchmark.extract.plan import Wanted
from benchmark.extract.results import ResultFolder
from benchmark.extract.weights_files import load_weights

slow = pytest.mark.slow  # a process takes seconds to begin


@pytest.fixture
def command(video_set: VideoSet, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(video_set, tiny, tmp_path / "data", monkeypatch, processes=True)


@slow
def test_several_devices_and_decoders_give_the_store_of_one(command: Command, tmp_path: Path) -> None:
    sample = next(iter(command.video_set.samples))
    command.video_set.files[sample].write_bytes(b"")
    alone = command("--work", tmp_path / "alone", code=1)
    command.store.unlink()
    said = command("--device", "cpu,cpu", "--decoders", "3", code=1)
    assert (said["digest"], said["extracted"]) == (alone["digest"], 9)
    assert said["problems"] == alone["problems"]
    command.store.unlink()
    shards = ["--work", tmp_path / "shards", "--shard"]
    first, second = (
        command(*shards, "1/2", "--decoders", "2", code=1),
        command(*shards, "2/2", "--decoders", "3"),
    )
    merged = command(*shards[:2], "--merge", code=1)
    assert (first["extracted"], second["extracted"], merged["digest"]) == (5, 4, alone["digest"])


@slow
def test_a_video_whose_process_dies_is_tried_again_alone(command: Command, tmp_path: Path) -> None:
    undisturbed = command("--work", tmp_path / "undisturbed", code=0)["digest"]
    command.store.unlink()
    died = tmp_path / "died"
    in_video(
        command.tiny,
        "import os, pathlib",
        f"died = pathlib.Path({str(died)!r})",
        "if not died.exists():",
        "    died.touch()",
        "    os.kill(os.getpid(), 9)",
    )
    said = command("--decoders", "2")
    assert (said["extracted"], said["problems"], said["digest"]) == (9, [], undisturbed)
    assert died.exists()
    assert not list(command.results.glob(".*.partial"))


@slow
@pytest.mark.parametrize("before", [0, 1])
def test_a_video_whose_process_dies_each_time_is_left_out_and_the_rest_continues(
    command: Command, before: int
) -> None:
    deadly, *others = command.video_set.samples
    plain = command.tiny.read_text()
    write_video(
        command.video_set.files[deadly], Clip(picture=lambda seconds: np.full((48, 64, 3), 255, np.uint8))
    )
    in_video(command.tiny, "import ctypes", "if clips.max() > 0.99:", "    ctypes.string_at(0)")
    if before:  # a call that was itself killed after the first death
        died_once(command, deadly)
    said = command("--decoders", "3", code=1)
    assert (said["extracted"], set(FeatureStore(command.store).tables().ids)) == (9, set(others))
    (row,) = (row for row in said["problems"] if row["file"])
    what = "its worker process crashed (exit code -11), as before; left out until its file changes"
    assert (row["sample"], row["what"]) == (deadly, what)
    command.tiny.write_text(plain)
    assert command(code=1)["resumed"] == 9
    os.utime(command.video_set.files[deadly])
    again = command()
    assert (again["extracted"], again["resumed"]) == (1, 8)


@slow
def test_a_video_whose_process_is_killed_each_time_is_tried_again_by_the_next_call(command: Command) -> None:
    unlucky = next(iter(command.video_set.samples))
    write_video(
        command.video_set.files[unlucky], Clip(picture=lambda seconds: np.full((48, 64, 3), 255, np.uint8))
    )
    plain = command.tiny.read_text()
    in_video(command.tiny, "import os", "if clips.max() > 0.99:", "    os.kill(os.getpid(), 9)")
    said = command(code=1)
    assert said["extracted"] == 8
    (row,) = (row for row in said["problems"] if row["file"])
    what = "its worker process crashed (exit code -9: killed, for example by the system when memory ran out)"
    assert row["what"] == f"{what} (2 times); tried again next time"
    command.tiny.write_text(plain)
    again = command()
    assert (again["extracted"], again["resumed"]) == (1, 8)


@slow
def test_a_video_that_hangs_is_ended_and_left_out(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.extract.devices.SILENCE", 6.0)
    hanging, *others = command.video_set.samples
    write_video(
        command.video_set.files[hanging], Clip(picture=lambda seconds: np.full((48, 64, 3), 255, np.uint8))
    )
    in_video(command.tiny, "import time", "time.sleep(1000 if clips.max() > 0.99 else 0)")
    said = command("--decoders", "2", code=1)
    assert set(FeatureStore(command.store).tables().ids) == set(others)
    (row,) = (row for row in said["problems"] if row["file"])
    assert row["sample"] == hanging
    assert row["what"].startswith(
        "its worker process crashed (ended after 0.1 minutes without a sign of life), as before"
    )


@slow
def test_a_long_video_that_continues_is_not_taken_for_one_that_hangs(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.extract.devices.SILENCE", 6.0)
    command.video_set.seconds = 20.0
    sample = next(iter(command.video_set.samples))
    command.video_set.write_video(sample, ".mp4", Clip())
    in_video(command.tiny, "import time", "time.sleep(0.3)")
    assert command()["problems"] == []


def died_once(command: Command, sample: str) -> None:
    """Record that the process of a sample's video died."""
    kind = find_extractor("tiny", [command.tiny])
    made_from = identity(kind, load_weights(kind, [], random=True).record, frozenset())
    video, root = command.video_set.files[sample], command.video_set.videos
    wanted = Wanted(sample, *command.video_set.samples[sample][:1], 0, video)
    assert (
        failed(wanted, root, ResultFolder(command.results, made_from, "skip"), "why", died=True).attempts == 1
    )


@slow
def test_a_process_that_cannot_begin_says_so(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    content = command.tiny.read_text().replace("import numpy", "import os\nimport numpy", 1)
    head = "        super().__init__(weights, quirks, device)\n"
    command.tiny.write_text(content.replace(head, f"{head}        os._exit(3)\n"))
    command("--decoders", "2", code=2)
    assert (
        "--device cpu: its worker process crashed before its first video (exit code 3"
        in capsys.readouterr().err.replace("\n", " ")
    )
    command.tiny.write_text(content.replace(head, f"{head}        raise RuntimeError('out of memory')\n"))
    command("--decoders", "2", code=2)
    assert "--device cpu: out of memory" in capsys.readouterr().err.replace("\n", " ")


@contextmanager
def interruptible() -> Iterator[None]:
    """Programs that begin meanwhile hear Ctrl-C, also where these tests run in the background and do not."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


CHILD = """
import sys
from pathlib import Path
from benchmark.cli import app
from benchmark.data import cards

if __name__ == "__main__":
    card = cards.Card.model_validate_json(Path(sys.argv[1]).read_text())
    cards.load_cards = lambda **_: {"sports": card}
    app.main(sys.argv[2:])
"""


@slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_command_and_the_next_one_continues(
    command: Command, tmp_path: Path, how: signal.Signals
) -> None:
    begun, plain = tmp_path / "begun", command.tiny.read_text()
    in_video(command.tiny, "import pathlib, time", f"pathlib.Path({str(begun)!r}).touch()", "time.sleep(1)")
    card, script = tmp_path / "card.json", tmp_path / "child.py"
    card.write_text(command.video_set.card().model_dump_json())
    script.write_text(CHILD)
    words = [sys.executable, str(script), str(card), *command.words("--device", "cpu,cpu")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with interruptible():
        child = subprocess.Popen(
            words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    while not begun.exists():
        assert child.poll() is None
        time.sleep(0.05)
    processes = psutil.Process(child.pid).children(recursive=True)
    if how is signal.SIGINT:
        os.killpg(child.pid, how)  # as a terminal does it
    else:
        child.kill()
    assert child.wait() == (130 if how is signal.SIGINT else -how)
    gone, left = psutil.wait_procs(processes, timeout=60)
    assert (len(gone) >= 2, left) == (True, [])
    assert child.stderr is not None
    said = child.stderr.read()
    child.stderr.close()
    assert "Traceback" not in said
    assert ("Rerun the same command to resume" in said) == (how is signal.SIGINT)
    command.tiny.write_text(plain)
    digest = command()["digest"]
    command.store.unlink()
    assert command("--work", tmp_path / "undisturbed")["digest"] == digest


def test_results_are_not_mixed_with_those_of_other_weights(tiny: Path, tmp_path: Path) -> None:
    results = ResultFolder(tmp_path, {"weights": "others"}, "skip")
    with pytest.raises(UsageError, match="changed while the command ran"):
        ExtractionSpec("tiny", [tiny], [], True, frozenset(), "float32", tmp_path, results).build("cpu")


def test_a_cpu_decodes_one_video_at_a_time_and_others_share_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmark.extract.devices.cpu_count", lambda: 12)
    assert [default_decoders(d) for d in (["cpu"], ["cpu", "cpu"], ["cuda:0"], ["cuda:0", "cuda:1"])] == [
        1,
        1,
        8,
        6,
    ]


def test_decoders_are_at_least_one(command: Command) -> None:
    command("--decoders", "0", code=2)
