"""Killed imports of ClipClap's layout continue to the same feature file, and leave nothing half written."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from support.checkout import PROJECT
from support.clipclap import make_clipclap_layout

from benchmark.data.cards import load_cards
from benchmark.data.checks.verify import verify_store
from benchmark.data.importing.official_layout import ImportReport, import_official
from benchmark.data.store import FeatureStore

Form = Literal["vectors", "cache"]
FORMS: tuple[Form, ...] = ("vectors", "cache")
CARD = load_cards()["ucf"]
CHILD = """
import os, sys, time
from pathlib import Path
import benchmark.data.importing.staging as staging
from benchmark.data.cards import load_cards
from benchmark.data.importing.official_layout import import_official

source, target, form, stop = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]

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
import_official(load_cards()["ucf"], "clip_clap", source, target, form,
                progress=lambda what, done, total: wait(f"{what} {done}"))
print("ended", flush=True)
"""
# 19 classes of splits. Each has three syncs: audio, video, journal; the first of all is the journal's header.
STOPS: dict[Form, dict[str, int]] = {
    "vectors": {
        "before sync 3": 0,
        "before sync 13": 4,
        "reading classes 7": 7,
        "writing the feature file 0": 19,
    },
    "cache": {
        "before sync 3": 0,
        "before sync 13": 4,
        "reading caches 2": 10,
        "writing the feature file 0": 19,
    },
}
SOME = "before sync 13"
"""What the fast tests stop at."""


def take(source: Path, target: Path, form: Form) -> ImportReport:
    return import_official(CARD, "clip_clap", source, target, form)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drop = {("stage_1_train", "Archery"): [1]}
    return make_clipclap_layout(tmp_path_factory.mktemp("source"), "ucf", clips=3, drop=drop)


@pytest.fixture(scope="module")
def digest(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of an undisturbed import, in either form."""
    return take(source, tmp_path_factory.mktemp("undisturbed") / "store.h5", "vectors").digest


def kill_at(source: Path, target: Path, form: Form, stop: str) -> None:
    command = [sys.executable, "-c", CHILD, str(source), str(target), form, stop]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == stop
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


@pytest.mark.parametrize(
    ("form", "stop"),
    [
        pytest.param(form, stop, marks=[] if stop == SOME else pytest.mark.slow)
        for form in FORMS
        for stop in STOPS[form]
    ],
)
def test_a_killed_import_continues_to_the_same_digest(
    source: Path, digest: str, tmp_path: Path, form: Form, stop: str
) -> None:
    target = tmp_path / "killed.h5"
    kill_at(source, target, form, stop)
    assert not target.exists()
    report = take(source, target, form)
    assert (report.digest, report.resumed) == (digest, STOPS[form][stop])
    assert {finding.severity for finding in verify_store(target, CARD)} == {"note"}
    assert FeatureStore(target).unusable_names == [
        {"split": "stage_1_train", "class": "Archery", "samples": 2}
    ]
    assert not (tmp_path / "killed.h5.import").exists()


def stop_after(source: Path, target: Path, form: Form, place: str) -> None:
    """Interrupt an import in this process."""

    def progress(what: str, done: int, total: int) -> None:
        if f"{what} {done}" == place:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_official(CARD, "clip_clap", source, target, form, progress=progress)


@pytest.mark.parametrize(("form", "place"), [("vectors", "reading classes 5"), ("cache", "reading caches 1")])
def test_an_interrupted_import_leaves_its_staging_only_and_reads_what_has_changed(
    source: Path, tmp_path: Path, form: Form, place: str
) -> None:
    root = make_clipclap_layout(tmp_path, "ucf", clips=3)
    target = tmp_path / "store.h5"
    stop_after(root, target, form, place)
    assert sorted(path.name for path in tmp_path.iterdir() if "store" in path.name) == [
        ".store.h5.import.lock",
        "store.h5.import",
    ]
    if form == "vectors":
        path = root / "features/cls_features_non_averaged/audio/stage_1_train/Archery.pkl"
        content = pickle.loads(path.read_bytes())
        content["features"][0] = -content["features"][0]
        path.write_bytes(pickle.dumps(content))
    else:
        path = root / "_features_processed/cls_features_non_averaged/trainingcls_split.pkl"
        content = pickle.loads(path.read_bytes())
        content["audio"]["data"][0] = -content["audio"]["data"][0]
        path.write_bytes(pickle.dumps(content))
    report = take(root, target, form)
    assert report.resumed == (4 if form == "vectors" else 0)
    assert report.digest == take(root, tmp_path / "undisturbed.h5", form).digest


def test_lists_that_changed_decide_anew_which_names_of_a_cache_are_usable(tmp_path: Path) -> None:
    root = make_clipclap_layout(tmp_path, "ucf", clips=3)
    target = tmp_path / "store.h5"
    stop_after(root, target, "cache", "reading caches 1")
    path = root / "class-split" / "cls_split" / "stage_1_train.csv"
    path.write_text(path.read_text() + "v_Rowing_g77_c01,Rowing\n")
    (root / "class-split" / "cls_split" / "stage_2_train.csv").unlink()
    report = take(root, target, "cache")
    assert report.resumed == 0
    assert [entry["class"] for entry in FeatureStore(target).unusable_names] == ["Rowing"]
