"""Killed imports continue to the same feature file, and a large one stays within its memory."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkout import PROJECT

from benchmark.data.cards import load_cards
from benchmark.data.checks.verify import verify_store
from benchmark.data.importing.official_layout import ImportReport, import_official

Folder = Any  # tests/data/conftest.py: OfficialFolder
HANDSTAND = "HandStandPushups"


def take(folder: Folder, target: Path, **options: Any) -> ImportReport:
    return import_official(folder.card(), "cls", folder.parent, target, **options)


CHILD = """
import os, sys, time
from pathlib import Path
import benchmark.data.importing.staging as staging
from benchmark.data.cards import Card
from benchmark.data.importing.official_layout import import_official

card = Card.model_validate_json(Path(sys.argv[1]).read_text())
source, target, stop = *map(Path, sys.argv[2:4]), sys.argv[4]

def wait(place):
    if place == stop:
        print(place, flush=True)
        time.sleep(60)

synced = 0
def fsync(descriptor, sync=os.fsync):
    global synced
    synced += 1
    wait(f"before sync {synced}")
    sync(descriptor)

staging.os.fsync = fsync
import_official(card, "cls", source, target, progress=lambda what, done, total: wait(f"{what} {done}"))
print("ended", flush=True)
"""
# Where the child is killed -> classes that are resumed. Each class has three syncs: audio, video, journal.
# The first sync of all is the journal's header, the last that of the feature file. A written line survives
# SIGKILL, synced or not.
STOPS = {
    "before sync 1": 0,
    "before sync 2": 0,
    "before sync 3": 0,
    "before sync 4": 1,
    "before sync 15": 4,
    "before sync 16": 5,
    "reading classes 1": 1,
    "reading classes 14": 14,
    "writing the feature file 0": 15,
    "before sync 47": 15,
    "writing the feature file 1": 15,
}
SOME = ("before sync 1", "before sync 4", "reading classes 14", "writing the feature file 0")
"""What the fast tests stop at."""


def run_child(script: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def kill_at(folder: Folder, target: Path, stop: str) -> None:
    card = target.with_suffix(".json")
    card.write_text(folder.card().model_dump_json())
    child = run_child(CHILD, card, folder.parent, target, stop)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == stop
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


@pytest.fixture(scope="module")
def digest(written_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of an undisturbed import."""
    return take(written_folder, tmp_path_factory.mktemp("undisturbed") / "store.h5").digest


@pytest.mark.parametrize(
    "stop", [stop if stop in SOME else pytest.param(stop, marks=pytest.mark.slow) for stop in STOPS]
)
def test_a_killed_import_continues_to_the_same_digest(
    folder: Folder, digest: str, tmp_path: Path, stop: str
) -> None:
    target = tmp_path / "killed.h5"
    kill_at(folder, target, stop)
    report = take(folder, target)
    assert report.digest == digest
    if stop == "writing the feature file 1":
        assert report.already
    else:
        assert report.resumed == STOPS[stop]
    assert verify_store(target, folder.card()) == []


@pytest.mark.parametrize(
    "damage",
    [
        "torn journal line",
        "frames beyond the journal",
        "frames lost",
        "journal of another form",
        "old journal",
    ],
)
def test_damaged_staging_costs_time_and_no_correctness(
    folder: Folder, digest: str, tmp_path: Path, damage: str
) -> None:
    target = tmp_path / "killed.h5"
    kill_at(folder, target, "reading classes 5")
    staging = tmp_path / "killed.h5.import"
    journal = staging / "journal.jsonl"
    if damage == "torn journal line":
        journal.write_bytes(journal.read_bytes()[:-7])
    elif damage == "frames beyond the journal":
        with open(staging / "audio.f32", "ab") as f:
            f.write(b"torn")
    elif damage == "frames lost":
        os.truncate(staging / "video.f32", (staging / "video.f32").stat().st_size - 4)
    elif damage == "old journal":  # earlier versions called a split "part"
        journal.write_bytes(journal.read_bytes().replace(b'"split"', b'"part"'))
    else:
        journal.write_bytes(journal.read_bytes().replace(b'"sequences"', b'"means"'))
    report = take(folder, target)
    resumed = {"frames beyond the journal": 5, "old journal": 5, "journal of another form": 0}.get(damage, 4)
    assert (report.digest, report.resumed) == (digest, resumed)


def test_a_source_that_changed_after_a_kill_is_read_again(folder: Folder, tmp_path: Path) -> None:
    target = tmp_path / "killed.h5"
    kill_at(folder, target, "reading classes 5")
    folder.change("audio", "stage_1_train", HANDSTAND, lambda frames, ids: ([x + 1 for x in frames], ids))
    report = take(folder, target)
    undisturbed = take(folder, tmp_path / "undisturbed.h5")
    assert (report.digest, report.resumed) == (undisturbed.digest, 4)


# Memory

LIMIT_MB = 2000
BIG_SPLITS = {  # split -> (classes, samples of each): 100,500 samples
    "stage_1_train": (range(60), 1200),
    "stage_1_val_seen": (range(60), 130),
    "stage_1_val_unseen": (range(60, 90), 100),
    "stage_2_test_seen": (range(90), 150),
    "stage_2_test_unseen": (range(90, 120), 140),
}
BIG_CHILD = """
import sys
from pathlib import Path
from benchmark.data.cards import load_cards
from benchmark.data.importing.official_layout import import_official

report = import_official(load_cards()["vggsound"], "main", Path(sys.argv[1]), Path(sys.argv[2]),
                         progress=lambda what, done, total: print(what, done, flush=True))
print("digest", report.digest, report.resumed, sum(split.found for split in report.splits.values()))
status = Path("/proc/self/status").read_text()  # getrusage also counts what the parent had when it forked
print("peak", next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


def write_big_folder(root: Path) -> int:
    """A folder like VGGSound's main features, of cheap noise; returns its bytes."""
    rng = np.random.default_rng(0)
    noise = rng.random((4096, 512), np.float32)
    card = load_cards()["vggsound"]
    assert card.official is not None
    lists, features = root / "class-split", root / "features" / "main_features_non_averaged"
    (lists / "main_split").mkdir(parents=True)
    (features / "text").mkdir(parents=True)
    names = [f"class {i:03d}" for i in range(120)]
    (lists / "all_class.txt").write_text("\n".join(names))
    (lists / card.official.names_file).write_text("original,manual\n" + "".join(f"{n},{n}\n" for n in names))
    np.save(
        features / "text" / card.official.text_file, dict.fromkeys(names, noise[0, :300]), allow_pickle=True
    )  # type: ignore[arg-type]
    total = 0
    for split, (classes, n) in BIG_SPLITS.items():
        (lists / "main_split" / f"{split}.txt").write_text("\n".join(names[c] for c in classes))
        rows = [f"{split}_{c}_{i:06d},{names[c]}\n" for c in classes for i in range(n)]
        (lists / "main_split" / f"{split}.csv").write_text("filename,label\n" + "".join(rows))
        for modality, steps in (("audio", 6), ("video", 9)):
            (features / modality / split).mkdir(parents=True)
            for c in classes:
                starts = rng.integers(0, 4000, n)
                lengths = rng.integers(steps - 2, steps + 3, n)
                content = {
                    "features": [noise[s : s + t].copy() for s, t in zip(starts, lengths, strict=True)],
                    "video_names": [f"{split}_{c}_{i:06d}".encode() for i in range(n)],
                }
                path = features / modality / split / f"{names[c]}.pkl"
                with open(path, "wb") as f:
                    pickle.dump(content, f)
                total += path.stat().st_size
    return total


@pytest.fixture
def big_tmp(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed immediately; pytest would keep nine gigabytes of three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow(90)
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_samples_import_in_two_gigabytes_killed_once(big_tmp: Path) -> None:
    tmp_path = big_tmp
    size = write_big_folder(tmp_path / "VGGSound")
    assert size > 2.5e9
    target = tmp_path / "big.h5"
    started = time.monotonic()
    child = run_child(BIG_CHILD, tmp_path, target)
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "reading classes 150":
            peak_of_killed = _peak_kb(child.pid)
            child.kill()
            break
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    killed = time.monotonic()
    child = run_child(BIG_CHILD, tmp_path, target)
    lines = child.communicate()[0].splitlines()
    assert child.returncode == 0
    _, digest, resumed, found = lines[-2].split()
    peak_mb = max(peak_of_killed, int(lines[-1].split()[1])) / 1024
    seconds = time.monotonic() - started
    spent = f"{killed - started:.1f} s to the kill, {seconds:.1f} s"
    print(f"{size / 1e9:.2f} GB, peak {peak_mb:.0f} MB, {spent}, digest {digest}")
    assert (int(found), int(resumed) >= 150) == (100_500, True)
    assert peak_mb < LIMIT_MB < size / 2**20
    assert not (tmp_path / "big.h5.import").exists()
    findings = verify_store(target, load_cards()["vggsound"])
    assert {finding.severity for finding in findings} == {"note"}


def _peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
