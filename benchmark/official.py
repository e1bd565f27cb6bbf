"""Trained weights from a folder: run folders of the published code bases (and what their authors distribute), and our own.

Read here, never trusted: arguments through a restricted unpickler, tensors with ``weights_only``. What the weights are worth
is measured elsewhere (``protocol.evaluate_weights``).

A published run folder has ``args.pkl`` and, in stage A (trained for selection), ``<Class>_score.pt``; in stage B (trained on
all training data) ``checkpoints/<Class>_score_ckpt_<epoch>.pt``. The ``epoch`` that stage A's file holds, minus one, names
stage B's file. Ours has ``config.json`` and one of ``model.safetensors`` (exported), ``best.pt``, ``final.pt``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from benchmark.config import LengthConfig, ProtocolConfig, Settings, TrainConfig
from benchmark.data.unpickle import load_arguments
from benchmark.errors import UsageError, near, validation_message
from benchmark.method import Method, MethodConfig

ARGUMENTS, CONFIG = "args.pkl", "config.json"
OWN_WEIGHTS = ("model.safetensors", "best.pt", "final.pt")
SCORE = "_score"
NUMPY_SCALARS: list[Any] = [  # the score of a checkpoint may be one, under the module name of numpy 1 or 2
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]

Origin = Literal["published", "ours"]


@dataclass(frozen=True)
class Weights:
    """Trained weights of one stage with all that is needed to use them."""

    file: Path
    origin: Origin
    method: type[Method]
    config: MethodConfig
    lengths: LengthConfig
    state: Mapping[str, Tensor]
    """Under our names."""
    epochs: int
    """Epochs trained."""
    seed: int
    dataset: str
    """As the run names it: a data set's folder (published) or card (ours); empty where it does not say."""
    features: str
    dims: Mapping[str, int]
    """Feature sizes that the run names: ``audio``, ``video``."""
    recorded: Settings | None = None
    """All settings of the job, for weights of ours."""
    data_digest: str = ""
    """Digest of the data that weights of ours were trained on."""

    def load_into(self, method: Method) -> None:
        """Give a method built with ``config`` these weights.

        Raises:
            UsageError: tensors are missing, left over, of another size, or not finite; they are named.
        """
        wanted = {name: tuple(x.shape) for name, x in method.state_dict().items()}
        found = {name: tuple(x.shape) for name, x in self.state.items()}
        problems = [f"missing {name}" for name in sorted(wanted.keys() - found.keys())]
        problems += [f"extra {name}" for name in sorted(found.keys() - wanted.keys())]
        sizes = [n for n in sorted(wanted.keys() & found.keys()) if wanted[n] != found[n]]
        problems += [f"{name} is {list(found[name])}, not {list(wanted[name])}" for name in sizes]
        problems += [f"{n} is not finite" for n, x in self.state.items() if not bool(torch.isfinite(x).all())]
        if problems:
            listed = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
            raise UsageError(f"{self.file}: does not fit {self.method.title} on these features: {listed}")
        method.load_state_dict(dict(self.state))


def digest_of(*weights: Weights) -> str:
    """16 hexadecimal digits that name weight files by their content."""
    sha = hashlib.sha256()
    for each in weights:
        with open(each.file, "rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()[:16]


def read_pair(stage_a: Path, stage_b: Path, methods: Mapping[str, type[Method]]) -> tuple[Weights, Weights]:
    """The weights of both stages of one training.

    Args:
        stage_a: folder of the run that selects epoch and beta (stage 1).
        stage_b: folder of the run that is tested (stage 2).
        methods: known methods by name.

    Raises:
        UsageError: a folder is neither form, a file is missing, damaged or refused, stages are swapped, or the folders are of
            different methods or forms.
    """
    kinds = [_kind(folder, option) for folder, option in ((stage_a, "--stage-a"), (stage_b, "--stage-b"))]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"--stage-a {stage_a} is {kinds[0]} and --stage-b {stage_b} is {kinds[1]}; give both stages of one training"
        )
    if kinds[0] == "ours":
        first, final = _read_own(stage_a, 1, methods), _read_own(stage_b, 2, methods)
    else:
        first, final = _read_published(stage_a, stage_b, methods)
    if first.method is not final.method:
        raise UsageError(
            f"--stage-a {stage_a} is {first.method.title} and --stage-b {stage_b} {final.method.title}; "
            "give both stages of one training"
        )
    return first, final


def _kind(folder: Path, option: str) -> Origin:
    if not folder.is_dir():
        raise UsageError(f"{option} {folder}: no such folder")
    if (folder / ARGUMENTS).is_file():
        return "published"
    if (folder / CONFIG).is_file():
        return "ours"
    raise UsageError(
        f"{option} {folder}: neither {ARGUMENTS} (a run folder of the published code) nor {CONFIG} (a folder of runs/jobs/ or "
        "of the command export) is in it"
    )


def _read_published(stage_a: Path, stage_b: Path, methods: Mapping[str, type[Method]]) -> tuple[Weights, Weights]:
    arguments = [load_arguments(folder / ARGUMENTS) for folder in (stage_a, stage_b)]
    for folder, option, args, expected in zip(
        (stage_a, stage_b), ("--stage-a", "--stage-b"), arguments, (False, True), strict=True
    ):
        if bool(args.get("retrain_all", expected)) != expected:
            is_stage = "A (trained for selection)" if expected else "B (trained on all training data)"
            raise UsageError(f"{option} {folder}: its retrain_all says that it is stage {is_stage}; swap the two folders")
    method, file_a = _scored(stage_a, methods)
    content_a = load_checkpoint(file_a)
    epoch = content_a["epoch"] - 1
    folder = stage_b / "checkpoints"
    file_b = folder / f"{method.published_class}{SCORE}_ckpt_{epoch}.pt"
    if not file_b.is_file():
        there = sorted(p.name for p in folder.glob("*.pt"))
        raise UsageError(
            f"--stage-b {stage_b}: checkpoints/{file_b.name} is missing (stage A kept epoch {epoch}); "
            f"{len(there)} other checkpoints are there{': ' + ', '.join(there[:5]) if there else ''}"
        )
    content_b = load_checkpoint(file_b)
    first = _published_weights(file_a, method, arguments[0], content_a)
    return first, _published_weights(file_b, method, arguments[1], content_b)


def _scored(folder: Path, methods: Mapping[str, type[Method]]) -> tuple[type[Method], Path]:
    """The method and the kept weights of a published stage A."""
    known = {m.published_class: m for m in methods.values() if m.published_class}
    files = sorted(folder.glob(f"*{SCORE}.pt"))
    if len(files) != 1:
        what = f"several: {', '.join(p.name for p in files)}" if files else "none"
        raise UsageError(
            f"--stage-a {folder}: expected one file <Class>{SCORE}.pt, found {what}; <Class> is one of {', '.join(known)}"
        )
    name = files[0].name.removesuffix(f"{SCORE}.pt")
    if name not in known:
        raise UsageError(f"{files[0]}: no method has published class {name!r}: {near(name, known)}")
    return known[name], files[0]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of the published code: ``epoch``, ``model`` (a state dict) and more; nothing of it is run.

    Raises:
        UsageError: it is missing, damaged, asks for objects that no checkpoint needs, or lacks one of the two.
    """
    loaded = load_tensors(path)
    content: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    model = content.get("model")
    if not isinstance(model, dict) or not all(isinstance(x, Tensor) for x in model.values()):
        raise UsageError(f"{path}: holds no state dict under the key 'model'")
    if not isinstance(content.get("epoch"), int):
        raise UsageError(f"{path}: holds no number under the key 'epoch'")
    return content


def load_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote, tensors and plain values only.

    Raises:
        UsageError: it is missing, damaged, or refused because it asks for something else.
    """
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UsageError(
            f"{path}: refused: it asks for {_unsafe(path)}, which no checkpoint needs; nothing was run. "
            "Fetch it again from a source you trust"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: cannot be read as a checkpoint, truncated or damaged ({error!s:.150})") from None


def _unsafe(path: Path) -> str:
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(path)) or "an instruction that is not allowed"
    except Exception:  # only to name it; a damaged or old file can fail in any way
        return "something other than tensors and plain values"


def _published_weights(file: Path, method: type[Method], args: Mapping[str, Any], content: Mapping[str, Any]) -> Weights:
    try:
        config = method.published_config(args)
        lengths = published_lengths(args)
    except ValidationError as error:
        raise UsageError(validation_message(error, f"{ARGUMENTS} beside {file}")) from None
    except ValueError as error:
        raise UsageError(f"{ARGUMENTS} beside {file}: {error}") from None
    try:
        state = method.published_state(content["model"])
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
    both = args.get("input_size")
    dims = {m: args.get(f"input_size_{m}") or both for m in ("audio", "video")}
    return Weights(
        file=file,
        origin="published",
        method=method,
        config=config,
        lengths=lengths,
        state=state,
        epochs=int(content["epoch"]),
        seed=int(args.get("seed") or 0),
        dataset=str(args.get("dataset_name") or ""),
        features=str(args.get("zero_shot_split") or "").removesuffix("_split"),
        dims={m: int(size) for m, size in dims.items() if size},
    )


def published_lengths(args: Mapping[str, Any]) -> LengthConfig:
    """How the published run brought sequences to one length, from its arguments.

    Raises:
        ValueError: a way of cutting, or a distance, that the published evaluation does not have.
    """
    if "squared" in str(args.get("distance_fn", "")).lower():
        raise ValueError(f"distance_fn={args['distance_fn']!r} is not supported; the published numbers use Euclidean distances")
    wanted: dict[str, Any] = {}
    for part in ("train", "test"):
        kind = args.get(f"batch_seqlen_{part}", "max")
        if kind not in ("max", "fixed"):
            raise ValueError(f"batch_seqlen_{part}={kind!r} is not supported (max and fixed are)")
        wanted[part] = "max" if kind == "max" else args.get(f"batch_seqlen_{part}_maxlen")
    cuts = {
        part: str(args.get(f"batch_seqlen_{part}_trim", default)) for part, default in (("train", "random"), ("test", "centre"))
    }
    if wanted["test"] != "max" and not cuts["test"].lower().startswith("cent"):
        raise ValueError(f"batch_seqlen_test_trim={cuts['test']!r} is not supported: the test cuts in the centre")
    return LengthConfig(**wanted, train_cut="random" if cuts["train"] == "random" else "centre")


def _read_own(folder: Path, stage: int, methods: Mapping[str, type[Method]]) -> Weights:
    path = folder / CONFIG
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        name, settings = str(record["method"]), record["settings"]
        found = {key: record[key] for key in ("stage", "seed", "epochs", "dataset", "features", "digest")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not the record of a trained job ({type(error).__name__}: {error})") from None
    if found["stage"] != stage:
        raise UsageError(f"--stage-{'ab'[stage - 1]} {folder}: holds stage {found['stage']}; swap the two folders")
    if name not in methods:
        raise UsageError(f"{path}: unknown method {name!r}: {near(name, methods)} (a plug-in needs --plugin)")
    file = next((folder / name for name in OWN_WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise UsageError(f"{folder}: no weights in it (one of {', '.join(OWN_WEIGHTS)}); they were moved or removed")
    recorded = _recorded_settings(path, methods[name], settings)
    return Weights(
        file=file,
        origin="ours",
        method=methods[name],
        config=recorded.config,
        lengths=recorded.lengths,
        state=_own_state(file),
        epochs=int(found["epochs"]),
        seed=int(found["seed"]),
        dataset=str(found["dataset"]),
        features=str(found["features"]),
        dims={},
        recorded=recorded,
        data_digest=str(found["digest"]),
    )


def _own_state(file: Path) -> Mapping[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{file}: cannot be read, truncated or damaged ({error!s:.150})") from None
    state: Mapping[str, Tensor] = load_checkpoint(file)["model"]
    return state


def _recorded_settings(path: Path, method: type[Method], record: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Settings as a job recorded them (``Settings.as_dict``)."""

    def section(name: str, fields: Iterable[str] | None = None) -> dict[str, Any]:
        values = record.get(name, {})
        return {k: v for k, v in values.items() if fields is None or k in fields}

    try:
        return Settings(
            method=method.name,
            config=method.Config.model_validate(section(method.name)),
            train=TrainConfig.model_validate(section("train")),
            lengths=LengthConfig.model_validate(section("lengths")),
            protocol=ProtocolConfig.model_validate(section("protocol", ProtocolConfig.model_fields)),
            published=False,
            corrections=method.corrected_settings,
        )
    except ValidationError as error:
        raise UsageError(validation_message(error, str(path))) from None
