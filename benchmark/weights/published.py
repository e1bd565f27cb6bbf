"""Reads run folders of the published code, also those that its authors distribute, as weights of our methods.

Each folder has ``args.pkl``. That of stage A (trained for selection) has ``<Class>_score.pt``, that of stage
B (trained on all training data) ``checkpoints/<Class>_score_ckpt_<epoch>.pt``. The ``epoch`` in stage A's
file, minus one, gives the name of stage B's file. No code of them runs: a restricted unpickler reads
arguments, and ``weights_only`` reads tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import UsageError, near, validation_message
from benchmark.method import Method
from benchmark.settings.schema import LengthConfig
from benchmark.untrusted.pickles import load_arguments
from benchmark.weights.own import CONFIG, Weights, load_checkpoint, read_own

ARGUMENTS = "args.pkl"
SCORE = "_score"
TRAINING = {"epochs": "epochs", "batches_per_epoch": "n_batches", "batch_size": "bs"}
"""Setting of the section ``train`` -> stored argument."""
Count = Annotated[int, Field(ge=1, le=100_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def read_pair(stage_a: Path, stage_b: Path, methods: Mapping[str, type[Method]]) -> tuple[Weights, Weights]:
    """Read the weights of both stages of one training, published or ours.

    Args:
        stage_a: folder of the run that selects epoch and beta (stage 1).
        stage_b: folder of the run that is tested (stage 2).
        methods: known methods by name.

    Raises:
        UsageError: a folder has neither form, a file is missing, damaged or refused, stages are swapped, or
            the folders are of different methods or forms.
    """
    stages = ((stage_a, "--stage-a"), (stage_b, "--stage-b"))
    kinds = [_kind(folder, option, methods) for folder, option in stages]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"--stage-a {stage_a} is {kinds[0]} and --stage-b {stage_b} is {kinds[1]}; give both stages of "
            "one training"
        )
    if kinds[0] == "ours":
        first, final = read_own(stage_a, 1, methods), read_own(stage_b, 2, methods)
    elif kinds[0] == "published":
        first, final = _read_published(stage_a, stage_b, methods)
    else:
        first, final = (_read_released(folder, option, methods) for folder, option in stages)
    if first.method is not final.method:
        raise UsageError(
            f"--stage-a {stage_a} is {first.method.title} and --stage-b {stage_b} {final.method.title}; "
            "give both stages of one training"
        )
    if kinds[0] == "ours":
        _check_same_training(first, final)
    return first, final


def _check_same_training(first: Weights, final: Weights) -> None:
    """Refuse two stages of ours that are of different trainings.

    Raises:
        UsageError: they differ in seed, dataset, feature set or settings.
    """
    facts = []
    for w in (first, final):
        own = {"method": w.method.name, "seed": w.seed, "dataset": w.dataset, "features": w.features}
        facts.append(own | (w.recorded.flat() if w.recorded else {}))
    names = [
        n for n in facts[0] | facts[1] if facts[0].get(n) != facts[1].get(n) and n != "protocol.seen_test"
    ]
    if names:
        shown = ", ".join(f"{n} {facts[0].get(n)} and {facts[1].get(n)}" for n in names[:6])
        raise UsageError(f"{first.file.parent} and {final.file.parent} are of different trainings: {shown}")


def _kind(
    folder: Path, option: str, methods: Mapping[str, type[Method]]
) -> Literal["published", "ours", "distributed"]:
    if not folder.is_dir():
        raise UsageError(f"{option} {folder}: no such folder")
    if (folder / ARGUMENTS).is_file():
        return "published"
    if (folder / CONFIG).is_file():
        return "ours"
    if any((folder / f"{name}{SCORE}.pt").is_file() for name in _released(methods)):
        return "distributed"
    raise UsageError(
        f"{option} {folder}: has neither {ARGUMENTS} (a run folder of the published code) nor {CONFIG} "
        "(a folder of runs/jobs/ or of the command export)"
    )


def _released(methods: Mapping[str, type[Method]]) -> dict[str, type[Method]]:
    """Methods whose authors distribute weights without arguments, by the class in the file name."""
    return {m.released_class: m for m in methods.values() if m.released_class}


def _read_released(folder: Path, option: str, methods: Mapping[str, type[Method]]) -> Weights:
    """Weights that the authors distribute alone. Sizes come from their shapes, everything else is default."""
    known = _released(methods)
    files = {name: path for name in known if (path := folder / f"{name}{SCORE}.pt").is_file()}
    if len(files) > 1:
        raise UsageError(f"{option} {folder}: has weights of several methods; keep one of {', '.join(files)}")
    name, file = next(iter(files.items()))
    content, method = load_checkpoint(file), known[name]
    try:
        config, state = method.released_config(content["model"]), method.published_state(content["model"])
    except (ValueError, RuntimeError, IndexError) as error:
        raise UsageError(f"{file}: {error}") from None
    return Weights(
        file=file,
        record=file,
        origin="published",
        method=method,
        config=config,
        lengths=LengthConfig(),
        state=state,
        epochs=content["epoch"],
        seed=0,
        dataset="",
        features=method.published_features,
        dims={},
        training={},
    )


class _Arguments(BaseModel):
    """The stored arguments that are read here; ``Method.published_config`` reads those of the method."""

    model_config = ConfigDict(extra="ignore")

    retrain_all: bool | None = None
    seed: Seed | None = None
    dataset_name: str | None = None
    zero_shot_split: str | None = None
    input_size: Count | None = None
    input_size_audio: Count | None = None
    input_size_video: Count | None = None
    distance_fn: str | None = None
    batch_seqlen_train: Literal["max", "fixed"] = "max"
    batch_seqlen_test: Literal["max", "fixed"] = "max"
    batch_seqlen_train_maxlen: Count | None = None
    batch_seqlen_test_maxlen: Count | None = None
    batch_seqlen_train_trim: str = "random"
    batch_seqlen_test_trim: str = "centre"

    def lengths(self) -> LengthConfig:
        """The lengths to which the run cut and padded sequences.

        Raises:
            ValueError: the run has a cut or a distance that the published evaluation does not have.
        """
        if "squared" in (self.distance_fn or "").lower():
            raise ValueError(
                f"distance_fn={self.distance_fn!r} is not supported; the published numbers use Euclidean "
                "distances"
            )
        if self.batch_seqlen_test == "fixed" and not self.batch_seqlen_test_trim.lower().startswith("cent"):
            raise ValueError(
                f"batch_seqlen_test_trim={self.batch_seqlen_test_trim!r} is not supported: the test cuts in "
                "the centre"
            )
        parts = {"train": self.batch_seqlen_train_maxlen, "test": self.batch_seqlen_test_maxlen}
        kinds = {"train": self.batch_seqlen_train, "test": self.batch_seqlen_test}
        missing = [
            f"batch_seqlen_{part}_maxlen"
            for part, kind in kinds.items()
            if kind == "fixed" and parts[part] is None
        ]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing beside a fixed length")
        wanted = {part: "max" if kind == "max" else parts[part] for part, kind in kinds.items()}
        cut = "random" if self.batch_seqlen_train_trim == "random" else "centre"
        return LengthConfig.model_validate({**wanted, "train_cut": cut})


def _read_arguments(folder: Path) -> tuple[dict[str, Any], _Arguments]:
    """The stored arguments: all that are plain, for the method, and those that are read here, checked."""
    path = folder / ARGUMENTS
    stored = {k: v.item() if isinstance(v, np.generic) else v for k, v in load_arguments(path).items()}
    plain = {k: v for k, v in stored.items() if v is None or isinstance(v, str | bool | int | float)}
    try:
        return plain, _Arguments.model_validate(plain)
    except ValidationError as error:
        raise UsageError(validation_message(error, str(path))) from None


def _read_published(
    stage_a: Path, stage_b: Path, methods: Mapping[str, type[Method]]
) -> tuple[Weights, Weights]:
    arguments = [_read_arguments(folder) for folder in (stage_a, stage_b)]
    for folder, option, (_, args), expected in zip(
        (stage_a, stage_b), ("--stage-a", "--stage-b"), arguments, (False, True), strict=True
    ):
        if args.retrain_all is not None and args.retrain_all != expected:
            is_stage = "A (trained for selection)" if expected else "B (trained on all training data)"
            raise UsageError(
                f"{option} {folder}: its retrain_all belongs to stage {is_stage}; swap the two folders"
            )
    method, file_a = _scored(stage_a, methods, arguments[0][0])
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
    first = _published_weights(stage_a, file_a, method, arguments[0], content_a)
    return first, _published_weights(stage_b, file_b, method, arguments[1], content_b)


def _scored(
    folder: Path, methods: Mapping[str, type[Method]], args: Mapping[str, Any]
) -> tuple[type[Method], Path]:
    """The method and the selected weights of a published stage A.

    Some methods share a published class. Then the stored arguments decide.
    """
    known: dict[str, list[type[Method]]] = {}
    for method in methods.values():
        if method.published_class:
            known.setdefault(method.published_class, []).append(method)
    files = sorted(folder.glob(f"*{SCORE}.pt"))
    if len(files) != 1:
        what = f"several: {', '.join(p.name for p in files)}" if files else "none"
        raise UsageError(
            f"--stage-a {folder}: expected one file <Class>{SCORE}.pt, found {what}; <Class> is one of "
            f"{', '.join(known)}"
        )
    name = files[0].name.removesuffix(f"{SCORE}.pt")
    if name not in known:
        raise UsageError(f"{files[0]}: no method has published class {name!r}: {near(name, known)}")
    return next((m for m in known[name] if m.is_published_as(args)), known[name][0]), files[0]


def _published_weights(
    folder: Path,
    file: Path,
    method: type[Method],
    arguments: tuple[Mapping[str, Any], _Arguments],
    content: Mapping[str, Any],
) -> Weights:
    stored, args = arguments
    path = folder / ARGUMENTS
    try:
        config, lengths = method.published_config(stored), args.lengths()
    except ValidationError as error:
        raise UsageError(validation_message(error, str(path))) from None
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"{path}: {error!s:.300}") from None
    try:
        state = method.published_state(content["model"])
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"{file}: {error}") from None
    sizes = {
        "audio": args.input_size_audio or args.input_size,
        "video": args.input_size_video or args.input_size,
    }
    return Weights(
        file=file,
        record=path,
        origin="published",
        method=method,
        config=config,
        lengths=lengths,
        state=state,
        epochs=content["epoch"],
        seed=args.seed or 0,
        dataset=args.dataset_name or "",
        features=method.published_features or (args.zero_shot_split or "").removesuffix("_split"),
        dims={} if method.published_features else {m: size for m, size in sizes.items() if size},
        training={ours: stored[name] for ours, name in TRAINING.items() if name in stored},
    )
