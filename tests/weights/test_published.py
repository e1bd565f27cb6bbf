"""Run folders that are broken, foreign or hostile: each gets an error that names it, and nothing of them is
run."""

from __future__ import annotations

import argparse
import errno
import os
import pickle
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.evaluating import Place
from support.published_runs import Sizes, make_data, write_run

from benchmark.data.store import FeatureStore
from benchmark.errors import Unavailable, UsageError
from benchmark.tracking.schema import Kind
from benchmark.tracking.tracker import Tracker
from benchmark.untrusted.pickles import RefusedPickle, UnreadableFile, load_arguments
from benchmark.untrusted.tensors import load_tensors

SMALL = Sizes(hidden=10, decoder=6, depth=1, heads=2, dim_head=5, mlp=7, embedding=6)
SIZES = {"default-like": Sizes(), "other sizes": SMALL, "fixed length": replace(SMALL, lengths=4)}


@pytest.fixture
def place(tmp_path: Path, runs: Path) -> Place:
    return Place(tmp_path, runs, make_data())


def _says(place: Place, capsys: pytest.CaptureFixture[str], *texts: str, **how: Any) -> None:
    folders = [how.pop(stage, place.folder / stage) for stage in ("stage_a", "stage_b")]
    capsys.readouterr()
    place.evaluate(*folders, *how.pop("options", []), code=2, **how)
    said = " ".join(capsys.readouterr().err.split())
    for text in texts:
        assert text in said
    assert "--debug" not in said  # the last resort for errors that nobody foresaw
    tracker = Tracker(f"sqlite:///{place.runs / 'mlflow.db'}", place.runs / "artifacts")
    assert not tracker.find(kind=Kind.EVALUATION)


def _change_model(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = load_tensors(path)
    change(content["model"])
    torch.save(content, path)


def _change_arguments(folder: Path, **changes: Any) -> None:
    arguments = {**Sizes().arguments("avca", folder.name == "stage_b"), **changes}
    (folder / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(**arguments)))


Spoil = Callable[[Path, Path], None]
FAULTS: dict[str, tuple[Spoil, list[str]]] = {
    "missing parameter": (
        lambda a, b: _change_model(a / "AVCA_score.pt", lambda m: m.pop("W_proj.fc.0.bias")),
        ["AVCA_score.pt", "missing ['W_proj.fc.0.bias']"],
    ),
    "extra parameter": (
        lambda a, b: _change_model(a / "AVCA_score.pt", lambda m: m.update(more=torch.zeros(1))),
        ["AVCA_score.pt", "extra ['more']"],
    ),
    "parameter of another size": (
        lambda a, b: _change_model(
            a / "AVCA_score.pt", lambda m: m.update({"W_proj.fc.0.bias": torch.zeros(3)})
        ),
        ["AVCA_score.pt", "word_projection.0.bias is [3], not [64]"],
    ),
    "not a number": (
        lambda a, b: _change_model(
            b / "checkpoints/AVCA_score_ckpt_7.pt", lambda m: m["W_proj.fc.0.bias"].fill_(np.nan)
        ),
        ["AVCA_score_ckpt_7.pt", "word_projection.0.bias is not finite"],
    ),
    "another dataset": (
        lambda a, b: _change_arguments(a, dataset_name="VGGSound"),
        ["trained on VGGSound", "--dataset is ucf"],
    ),
    "another feature set": (
        lambda a, b: _change_arguments(a, zero_shot_split="main_split"),
        ["made for main", "--features"],
    ),
    "other dimensions": (
        lambda a, b: _change_arguments(a, input_size_audio=128, input_size_video=4096),
        ["audio 128, video 4096", "has audio 12, video 20"],
    ),
    "an unknown variant": (lambda a, b: _change_arguments(a, reg_loss=False), ["args.pkl", "reg_loss"]),
    "a setting out of range": (
        lambda a, b: _change_arguments(a, embedding_dropout=7.0),
        ["args.pkl", "encoder_dropout"],
    ),
    "the epoch is not there": (
        lambda a, b: (b / "checkpoints/AVCA_score_ckpt_7.pt").unlink(),
        ["AVCA_score_ckpt_7.pt is missing", "AVCA_score_ckpt_6.pt"],
    ),
    "no weights": (lambda a, b: (a / "AVCA_score.pt").unlink(), ["<Class>_score.pt", "found none"]),
    "two methods": (
        lambda a, b: shutil.copy(a / "AVCA_score.pt", a / "CJME_score.pt") and None,
        ["found several: AVCA_score.pt, CJME_score.pt"],
    ),
    "an unknown class": (
        lambda a, b: (a / "AVCA_score.pt").rename(a / "AVCAx_score.pt") and None,
        ["no method has published class 'AVCAx'", "did you mean 'AVCA'"],
    ),
    "truncated": (
        lambda a, b: os.truncate(a / "AVCA_score.pt", 5000),
        ["AVCA_score.pt", "truncated or damaged"],
    ),
    "no arguments": (
        lambda a, b: (a / "args.pkl").unlink(),
        ["--stage-a", "neither args.pkl", "config.json"],
    ),
    "damaged arguments": (lambda a, b: os.truncate(a / "args.pkl", 40), ["args.pkl", "truncated or damaged"]),
    "no epoch": (
        lambda a, b: torch.save({"epoch": 10**30, "model": {}}, a / "AVCA_score.pt"),
        ["AVCA_score.pt", "'epoch'"],
    ),
    "a key that is no name": (
        lambda a, b: _change_model(a / "AVCA_score.pt", lambda m: m.update({7: torch.zeros(1)})),
        ["AVCA_score.pt", "'model'"],
    ),
    "a sparse tensor": (
        lambda a, b: _change_model(
            a / "AVCA_score.pt", lambda m: m.update({"W_proj.fc.0.bias": torch.zeros(64).to_sparse()})
        ),
        ["AVCA_score.pt", "plain state dict"],
    ),
    "complex numbers": (
        lambda a, b: _change_model(
            a / "AVCA_score.pt", lambda m: m.update({"W_proj.fc.0.bias": torch.zeros(64) * 1j})
        ),
        ["word_projection.0.bias holds torch.complex64, not torch.float32"],
    ),
    "whole numbers": (
        lambda a, b: _change_model(
            a / "AVCA_score.pt", lambda m: m.update({"W_proj.fc.0.bias": torch.zeros(64).long()})
        ),
        ["word_projection.0.bias holds torch.int64, not torch.float32"],
    ),
    "numbers beyond float32": (
        lambda a, b: _change_model(
            a / "AVCA_score.pt",
            lambda m: m.update({"W_proj.fc.0.bias": torch.full((64,), 1e300, dtype=torch.float64)}),
        ),
        ["word_projection.0.bias is not finite"],
    ),
    "a negative variance": (
        lambda a, b: _change_model(a / "AVCA_score.pt", lambda m: m["W_proj.fc.1.running_var"].fill_(-1)),
        ["word_projection.1.running_var has negative variances"],
    ),
    "a tensor that is large without bytes": (
        lambda a, b: _change_model(
            a / "AVCA_score.pt", lambda m: m.update({"W_proj.fc.0.bias": torch.zeros(1).expand(10**12)})
        ),
        ["word_projection.0.bias is [1000000000000], not [64]"],
    ),
    "a web page": (
        lambda a, b: (a / "AVCA_score.pt").write_text("<!DOCTYPE html>") and None,
        ["not a checkpoint", "web page"],
    ),
    "sizes without end": (
        lambda a, b: _change_arguments(a, embeddings_hidden_size=10**12),
        ["does not fit AVCA", "1000000000000"],
    ),
    "a seed that is no number": (lambda a, b: _change_arguments(a, seed="abc"), ["args.pkl", "seed"]),
    "a seed without bound": (lambda a, b: _change_arguments(a, seed=2**70), ["args.pkl", "seed"]),
    "an input size that is no number": (
        lambda a, b: _change_arguments(a, input_size_audio="wide"),
        ["args.pkl", "input_size_audio"],
    ),
    "another distance": (
        lambda a, b: _change_arguments(a, distance_fn="SquaredL2Loss"),
        ["distance_fn", "Euclidean"],
    ),
    "a random cut in the test": (
        lambda a, b: _change_arguments(
            a, batch_seqlen_test="fixed", batch_seqlen_test_maxlen=9, batch_seqlen_test_trim="random"
        ),
        ["batch_seqlen_test_trim", "centre"],
    ),
    "a fixed length without a number": (
        lambda a, b: _change_arguments(a, batch_seqlen_test="fixed"),
        ["batch_seqlen_test_maxlen"],
    ),
    "an unknown length": (lambda a, b: _change_arguments(a, batch_seqlen_test="some"), ["batch_seqlen_test"]),
    "no model": (lambda a, b: torch.save({"epoch": 8}, a / "AVCA_score.pt"), ["AVCA_score.pt", "'model'"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_run_folder_gets_an_error_that_names_it(
    place: Place, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    spoil, texts = FAULTS[fault]
    spoil(*write_run(place.folder, "avca", Sizes()))
    _says(place, capsys, *texts)


def test_swapped_stages_and_missing_folders_are_named(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write_run(place.folder, "avca", SMALL)
    _says(place, capsys, "swap the two folders", stage_a=b, stage_b=a)
    _says(place, capsys, "no such folder", stage_a=place.folder / "nowhere")
    _says(place, capsys, "cannot be changed for trained weights", "avca.lr", options=["--set", "avca.lr=0.1"])
    _says(
        place,
        capsys,
        "cannot be changed for trained weights",
        "train.epochs",
        options=["--set", "train.epochs=3"],
    )
    _says(
        place,
        capsys,
        "--set protocol.cjme_pairing: cannot be changed for trained weights",
        options=["--set", "protocol.cjme_pairing=corrected"],
    )


def test_stages_of_different_seeds_get_a_note(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(place.folder, "avca", Sizes())
    _change_arguments(b, seed=7)
    place.evaluate(a, b)
    assert "trained with different settings: seed 42 and 7" in capsys.readouterr().out


def test_methods_on_sequences_need_sequences(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = FeatureStore._read_header

    def without_sequences(self: FeatureStore, file: Any) -> None:
        read(self, file)
        self.has_sequences = False

    monkeypatch.setattr(FeatureStore, "_read_header", without_sequences)
    write_run(place.folder, "tcaf", SMALL)
    _says(place, capsys, "TCAF needs sequences", "--form sequences")


def test_the_leak_free_view_is_shown_where_it_is_asked_for(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = write_run(place.folder, "avca", SMALL)
    numbers: dict[str, Any] = place.evaluate(*folders, "--set", "protocol.seen_test=group_disjoint")  # type: ignore[assignment]
    assert numbers["disjoint"]["samples"] == 42  # no id of these data has a relative
    assert (numbers["disjoint"]["seen"], numbers["disjoint"]["hm"]) == (numbers["seen"], numbers["hm"])
    assert "42 samples of 7 classes" in capsys.readouterr().out


def test_other_stored_arguments_are_other_weights(place: Place, tracker: Tracker) -> None:
    a, b = write_run(place.folder, "tcaf", SMALL)
    for lengths in (None, 4):
        for folder in (a, b):
            arguments = replace(SMALL, lengths=lengths).arguments("tcaf", folder.name == "stage_b")
            (folder / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(**arguments)))
        place.evaluate(a, b)
    runs = tracker.find(kind=Kind.EVALUATION)
    assert len({r.tags["weights_digest"] for r in runs}) == 2
    assert {r.tags["published_settings"] for r in runs} == {"false"}


class _Attack:
    """Runs a command when it is unpickled without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


def test_hostile_pickles_are_refused_by_name_and_run_nothing(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = place.folder / "victim"
    a, b = write_run(place.folder, "avca", SMALL)
    good = (a / "args.pkl").read_bytes()
    for value in (argparse.Namespace(x=_Attack(victim)), _Attack(victim)):
        (a / "args.pkl").write_bytes(pickle.dumps(value))
        _says(place, capsys, "refused", "system", "args.pkl")
    (a / "args.pkl").write_bytes(good)
    for file in (a / "AVCA_score.pt", b / "checkpoints" / "AVCA_score_ckpt_7.pt"):
        content = load_tensors(file)
        torch.save({**content, "more": _Attack(victim)}, file)
        _says(place, capsys, "refused", "system", file.name)
        torch.save(content, file)
    assert not victim.exists()


_TEXT = b"X\x64\0\0\0" + b"a" * 100
_LONG_TEXT = b"X\0\0\x10\0" + b"a" * 2**20
BOMBS = {
    "a path that doubles": b"\x80\x02cpathlib\nPath\nq\x010"
    + _TEXT
    + b"q\x020"
    + b"h\x01h\x02h\x02\x86Rq\x020" * 40
    + b"h\x02.",
    "a list whose text has no end": b"\x80\x02]q\x020"
    + b"(h\x02h\x02lq\x020" * 60
    + b"cpathlib\nPath\nh\x02\x85R.",
    "copies of one text": b"\x80\x02"
    + _LONG_TEXT
    + b"q\x020"
    + b"c_codecs\nencode\nh\x02\x85R" * 100_000
    + b"N.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_pickle_cannot_ask_for_much_memory(tmp_path: Path, bomb: str) -> None:
    file = tmp_path / "args.pkl"
    file.write_bytes(BOMBS[bomb])
    tracemalloc.start()
    with pytest.raises(RefusedPickle):
        load_arguments(file)
    assert tracemalloc.get_traced_memory()[1] < 10 * file.stat().st_size + 2**23
    tracemalloc.stop()


def _with_metric(folder: Path, instructions: bytes) -> Path:
    """A checkpoint whose pickle is ``instructions``."""
    path = folder / "x.pt"
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, instructions if name.endswith("data.pkl") else content)
    return path


SCALAR = b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX"


@pytest.mark.parametrize(
    "instructions",
    [
        SCALAR + b"\x0b\0\0\0V2000000000\x89\x88\x87R\x85R.",  # two gigabytes
        SCALAR + b"\x01\0\0\0O\x89\x88\x87R\x85R.",
        SCALAR
        + b"\x02\0\0\0f8\x89\x88\x87R"
        + pickle.dumps((3, "<", None, None, None, -1, -1, 63), 2)[2:-1]
        + b"b\x85R.",
        SCALAR
        + b"\x02\0\0\0f8\x89\x88\x87R"
        + pickle.dumps((3, "<", None, None, None, 2**40, -1, 0), 2)[2:-1]
        + b"b\x85R.",
    ],
)
def test_numpy_is_told_nothing_that_it_would_believe(tmp_path: Path, instructions: bytes) -> None:
    with pytest.raises(UsageError, match=r"x\.pt"):
        load_tensors(_with_metric(tmp_path, instructions))


def test_records_that_unpack_to_more_than_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"epoch": 1, "model": {}}, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data/more", b"0" * 10**7)
    with pytest.raises(UsageError, match="unpack to"):
        load_tensors(path)


@pytest.mark.parametrize("protocol", range(6))
def test_stored_arguments_load_from_every_protocol_with_paths_as_text(tmp_path: Path, protocol: int) -> None:
    values = {
        "a": 1,
        "b": [1, 2.5, None],
        "c": Path("/x/y"),
        "d": True,
        "e": Path("rel"),
        "f": np.float64(2),
        "g": Path("/"),
    }
    file = tmp_path / "args.pkl"
    file.write_bytes(pickle.dumps(argparse.Namespace(**values), protocol))
    assert load_arguments(file) == {**values, "c": "/x/y", "e": "rel", "g": "/"}


@pytest.mark.parametrize(
    "content",
    [
        b"cargparse\nNamespace\n(S'x'\ntR.",  # called as a function
        b"cargparse\nArgumentParser\n(tR.",
        b"cpathlib\nPath\n(I1\ntR.",
        b"ccopyreg\n_reconstructor\n(cbuiltins\nlist\ncbuiltins\nobject\nNtR.",
        b"\x80\x02cargparse\nNamespace\n)\x81}I1\nI2\nsb.",  # a name that is no text
        b"(iargparse\nNamespace\n.",
    ],
)
def test_arguments_may_hold_nothing_else(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "args.pkl"
    file.write_bytes(content)
    with pytest.raises(RefusedPickle):
        load_arguments(file)
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnreadableFile, match="no argparse Namespace"):
        load_arguments(file)


def test_weights_that_the_system_cannot_read_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.pt"
    torch.save({"model": {}, "epoch": 1}, path)

    def hide(*arguments: object, **options: object) -> None:
        raise RuntimeError("PytorchStreamReader failed reading file")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(torch, "load", hide)
    with pytest.raises(UsageError, match=r"best\.pt: .*truncated or damaged .*fetch or extract it again"):
        load_tensors(path)
    monkeypatch.setattr("benchmark.untrusted.tensors.first_bytes", lambda path: b"PK")
    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(Unavailable, match=r"best\.pt: the disk or network drive failed"):
        load_tensors(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html>", "a web page; open it"),
        (b"version https://git-lfs.github.com", "git lfs pull"),
        (b"", "an empty file"),
    ],
)
def test_what_is_saved_in_place_of_weights_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"best\.pt: not a checkpoint but .*{told}"):
        load_tensors(path)
