"""All that the author of a method reads: the base class, what it is given, what it gives back, and how it registers.

Nothing here knows about datasets, modes, tuning or tracking. A method sees the word vectors of its training classes and
batches of features; class names, the division into seen and unseen, and labels of other splits never reach it.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Protocol, TypeVar, get_args

import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor, nn

from benchmark.errors import JobError
from benchmark.system.reading import Fields

__all__ = [
    "REGISTERED",
    "Batch",
    "Batches",
    "Classes",
    "Embeddings",
    "EpochRecord",
    "Field",
    "FitResult",
    "Listener",
    "Method",
    "MethodConfig",
    "Spec",
    "TrainSettings",
    "TrainingData",
    "TrainingLoop",
    "Use",
    "Validation",
    "register",
]

Inputs = Literal["sequence", "mean"]
Use = Literal["unseen_names"]
"""What a transductive method may see while it trains: embeddings of the unseen classes."""


class MethodConfig(Fields):
    """Settings of a method; subclass it as ``Config`` inside the method. Unknown keys and wrong types are errors.

    The optimiser settings live here because every published method has its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    lr: float = Field(1e-3, gt=0, le=1, description="learning rate of Adam")
    weight_decay: float = Field(0.0, ge=0, le=1, description="L2 penalty of Adam")
    plateau: bool = Field(True, description="divide the learning rate by 10 after 3 epochs without a better validation HM")


@dataclass(frozen=True)
class Spec:
    """What a method must know of a feature set to build its parameters."""

    audio_dim: int
    video_dim: int
    text_dim: int
    audio_seconds: float
    """Seconds between two audio steps."""
    video_seconds: float
    """Seconds between two video steps."""


@dataclass(frozen=True)
class Classes:
    """The classes of the training split, in the order in which ``Batch.label`` counts them."""

    text: Tensor
    """Word vectors, ``[C, D_w]``."""


@dataclass(frozen=True)
class Batch:
    """Samples, ready to use: cut, padded, scaled, with masks and times already decided by the protocol.

    Sequence methods get ``[B, T, D]`` features with masks and times; mean methods get ``[B, D]`` and None for those.
    """

    audio: Tensor
    """``[B, T_a, D_a]`` zero-padded, or ``[B, D_a]``."""
    video: Tensor
    """``[B, T_v, D_v]`` zero-padded, or ``[B, D_v]``."""
    audio_mask: Tensor | None = None
    """``[B, T_a]`` bool, True where the step is real."""
    video_mask: Tensor | None = None
    audio_times: Tensor | None = None
    """``[B, T_a]`` position of each step on the time axis (seconds, or step numbers if the protocol says so)."""
    video_times: Tensor | None = None
    label: Tensor | None = None
    """``[B]`` rows of ``Classes.text``; None in evaluation."""
    text: Tensor | None = None
    """``[B, D_w]`` word vectors of the labels; None in evaluation."""
    negative: Batch | None = None
    """For methods with ``needs_negatives``: one sample of another class for each sample."""
    padding_in_statistics: bool = True
    """Whether padded steps pass through the per-step encoders and so enter BatchNorm statistics (published behaviour)."""

    def __len__(self) -> int:
        return self.audio.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, (Tensor, Batch))
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a batch of samples in the space of the class embeddings, one or more outputs of each sample."""

    outputs: Mapping[str, Tensor]
    """Output name -> ``[B, d]``."""
    gate: Tensor | None = None
    """``[B]`` weight of the second modality, for methods that gate two outputs in ``distances``."""

    def __new__(cls, *_: Any, **given: Any) -> Embeddings:
        if "views" in given:
            raise TypeError("Embeddings(views=...): the argument is called outputs now")
        return super().__new__(cls)

    @property
    def views(self) -> NoReturn:
        """The name of ``outputs`` in earlier versions."""
        raise AttributeError("Embeddings.views: it is called outputs now")


@dataclass(frozen=True)
class EpochRecord:
    """What is known of one finished epoch; epochs count from 0."""

    epoch: int
    losses: Mapping[str, float]
    """Mean of each part over the epoch's batches."""
    validation: Mapping[str, float]
    """Validation metrics (fractions) and the beta they hold at."""
    lr: float
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """A finished training."""

    history: Sequence[EpochRecord]
    best_epoch: int
    """Epoch with the highest validation HM, the first such; the last epoch if all have HM 0."""
    best_calibration: Mapping[str, Any]
    """What the validation of that epoch chose."""


class Batches(Protocol):
    """Batches over the training splits of a stage."""

    @property
    def classes(self) -> Classes:
        """The training classes."""

    def epoch(self, seed: int, epoch: int, batches: int, size: int) -> Iterator[Batch]:
        """The batches of an epoch, the same whenever it is repeated."""

    def at_evaluation_times(self, batch: Batch) -> Batch:
        """A batch with the positions that evaluation uses, for ``Method.after_step``."""


class Listener(Protocol):
    """Hears of progress; may stop the loop by raising."""

    def on_batch(self, epoch: int, batch: int, loss: float) -> None:
        """After each optimiser step."""

    def on_note(self, text: str) -> None:
        """Something that the user should know."""

    def on_epoch(self, record: EpochRecord) -> None:
        """After each epoch, once its checkpoint is written; for epochs of an earlier process, at once on resume."""


@dataclass(frozen=True)
class Validation:
    """Result of scoring a model on the validation splits."""

    metrics: Mapping[str, float]
    calibration: Mapping[str, Any]


@dataclass(frozen=True)
class TrainingData:
    """What a method may train on and be selected by: batches of this stage's training splits, and a function that scores it.

    It holds no sample of another split. A method that declares it in ``@register(uses=...)`` may ask for the embeddings of
    unseen classes; of any other method the request fails.
    """

    method: type[Method]
    batches: Batches
    validate: Callable[[Method], Validation]
    embeddings_of_unseen: Callable[[], Classes] | None = None
    """Given to methods that declare ``unseen_names`` only."""

    def unseen_classes(self) -> Classes:
        """Word vectors of the classes that are unseen in this stage: of validation in stage 1, of the test in stage 2.

        Raises:
            JobError: the method does not declare ``unseen_names``.
        """
        if self.embeddings_of_unseen is None or "unseen_names" not in self.method.uses:
            raise JobError(
                f"{self.method.title} asks for unseen_names in training but is declared inductive; "
                'declare it in @register(..., uses=("unseen_names",)), so that the tables say so'
            )
        return self.embeddings_of_unseen()


class TrainSettings(Protocol):
    """The settings of training that a loop of its own needs; ``docs/settings.md`` has them all."""

    @property
    def epochs(self) -> int:
        """Epochs at most."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch."""

    @property
    def batch_size(self) -> int:
        """Samples of a batch."""


class TrainingLoop(Protocol):
    """The loop that all methods share."""

    @property
    def train(self) -> TrainSettings:
        """Settings of training."""

    @property
    def seed(self) -> int:
        """Seed of the batches."""

    @property
    def folder(self) -> Path:
        """Folder for files of the job."""

    @property
    def listener(self) -> Listener:
        """Hears of progress; a loop of its own calls ``on_epoch`` after each epoch."""

    @property
    def extra_pass(self) -> bool:
        """Whether ``Method.after_step`` is called."""

    @property
    def replay(self) -> Sequence[float] | None:
        """Learning rate of each epoch in stage 2 of mode ``corrected``, else None."""

    def run(self, method: Method, data: TrainingData) -> FitResult:
        """Train: epochs, schedule, selection by validation HM, checkpoints, exact resume."""


class Method(nn.Module, ABC):
    """Base class of all methods. See ``docs/add-a-method.md`` for a complete example."""

    Config: type[MethodConfig] = MethodConfig
    reported_output: ClassVar[str] = "joint"
    """The output whose numbers stand in the tables and whose validation HM selects the epoch."""
    needs_negatives: ClassVar[bool] = False
    """Whether ``loss`` wants ``batch.negative``."""
    corrected_settings: ClassVar[Mapping[str, Any]] = {}
    """Fields of ``Config`` that mode ``corrected`` sets, for defects that sit in the published method itself."""
    published_class: ClassVar[str] = ""
    """Class name in the file names of the checkpoints that the authors' code writes; empty where there are none."""

    # filled in by @register
    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    bibtex: ClassVar[str]
    inputs: ClassVar[Inputs]
    note: ClassVar[str]
    uses: ClassVar[tuple[Use, ...]]

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @abstractmethod
    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """Scalar losses of a training batch; ``"total"`` is minimised, every entry is logged."""

    @abstractmethod
    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of a batch, in evaluation mode and without gradients; must not depend on padding."""

    @abstractmethod
    def embed_classes(self, text: Tensor) -> Tensor:
        """Class embeddings ``[C, d]`` of word vectors ``[C, D_w]``."""

    def distances(self, embeddings: Embeddings, classes: Tensor) -> dict[str, Tensor]:
        """Distance of every sample to every class, output name -> ``[B, C]``; smaller is nearer. Default: Euclidean."""
        return {output: euclidean(x, classes) for output, x in embeddings.outputs.items()}

    def after_step(self, batch: Batch) -> None:
        """Called after each optimiser step, in training mode and without gradients. Default: nothing.

        The batch has the positions of evaluation. Published TCAF and AVCA pass the batch through the model once more
        here, which moves their BatchNorm statistics; mode ``corrected`` does not call it.
        """

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser; Adam with the configured rate and decay by default."""
        fused = next(self.parameters()).device.type in ("cpu", "cuda")
        return torch.optim.Adam(self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay, fused=fused)

    @classmethod
    def published_config(cls, args: Mapping[str, Any]) -> MethodConfig:
        """Settings from the arguments that the authors' code stores beside a checkpoint (``args.pkl``).

        Raises:
            ValueError: the arguments ask for a variant that is not implemented.
        """
        raise ValueError(f"{cls.title} reads no published checkpoints")

    @classmethod
    def published_state(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of a published checkpoint under our names.

        Raises:
            ValueError: tensors are missing or left over; the message names them.
        """
        raise ValueError(f"{cls.title} reads no published checkpoints")

    def fit(self, data: TrainingData, loop: TrainingLoop) -> FitResult:
        """Train on ``data``. Override only for a method that needs a loop of its own (a generative one, say)."""
        return loop.run(self, data)


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances ``[N, C]`` of rows of ``x`` ``[N, d]`` and ``y`` ``[C, d]``, without the cancellation of the
    matrix-product form, so that near ties are decided by the embeddings and not by rounding."""
    return torch.cdist(x.float(), y.float(), compute_mode="donot_use_mm_for_euclid_dist")


NAME, LONGEST_NAME = re.compile(r"[a-z][a-z0-9_]*"), 64
RESERVED = ("all", "data", "train", "lengths", "protocol", "tuning")
"""Names that ``--methods`` and ``--set`` give another meaning."""
HOOKS = ("__init__", "loss", "embed", "embed_classes", "distances", "after_step", "optimizer", "fit")
"""What the harness calls of a method."""
REGISTERED: dict[str, type[Method]] = {}
"""Methods by name, in the order in which their files were read."""

M = TypeVar("M", bound=Method)


def register(
    name: str, *, title: str, paper: str, bibtex: str, inputs: Inputs, note: str = "", uses: tuple[Use, ...] = ()
) -> Callable[[type[M]], type[M]]:
    """Class decorator that makes a method known to the benchmark.

    Args:
        name: short name for the command line, lower case, unique.
        title: name in tables.
        paper: where the method was published (authors, title, venue, year).
        bibtex: reference for a paper's bibliography.
        inputs: ``"sequence"`` for frame features, ``"mean"`` for their temporal means.
        note: what a reader of the tables must know, such as "our adaptation".
        uses: what the method asks for in training beyond the training classes (``TrainingData.unseen_classes``); empty for
            an inductive method. Tables say it, and other requests fail.

    Raises:
        ValueError: a name of other than lower-case letters, digits and underscores, a name that is taken, or anything else
            that is not as it must be; all of it is named with what is expected.
    """
    declared = {"title": title, "paper": paper, "bibtex": bibtex, "note": note}
    problems = [f"name={name!r}: use lower-case letters, digits and underscores, a letter first, {LONGEST_NAME} at most"]
    if isinstance(name, str) and NAME.fullmatch(name) and len(name) <= LONGEST_NAME:
        problems = [f"name={name!r}: means something else on the command line; choose another"] if name in RESERVED else []
    problems += [f"{key}={value!r}: must be a text" for key, value in declared.items() if not isinstance(value, str)]
    problems += ["title='': must be the method's name in tables"] if isinstance(title, str) and not title.strip() else []
    if inputs not in (known := get_args(Inputs)):
        problems.append(f"inputs={inputs!r}: known are {', '.join(map(repr, known))}")
    if not isinstance(uses, (tuple, list)) or any(use not in get_args(Use) for use in uses):
        problems.append(f"uses={uses!r}: must be a tuple; known are {', '.join(map(repr, get_args(Use)))}")
    if problems:
        raise ValueError(f"@register({name!r}): {'; '.join(problems)}")

    def add(cls: type[M]) -> type[M]:
        problems = list(_class_problems(cls))
        earlier = vars(cls).get("name")
        if earlier != name and REGISTERED.get(str(earlier)) is cls:
            problems.append(f"{cls.__name__} is registered as {earlier!r} already; write a subclass for the second name")
        if problems:
            raise ValueError(f"method {name!r}: {'; '.join(problems)}")
        other = REGISTERED.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"method name {name!r} is taken by {other.__module__}.{other.__qualname__}; choose another")
        cls.name, cls.title, cls.paper, cls.bibtex = name, title, paper, bibtex
        cls.inputs, cls.note, cls.uses = inputs, note, tuple(uses)
        REGISTERED[name] = cls
        return cls

    return add


def _class_problems(cls: Any) -> Iterator[str]:
    """What keeps a class from being a method."""
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        yield f"decorate a subclass of Method, not {cls!r}"
        return
    if missing := sorted(cls.__abstractmethods__):
        yield f"{cls.__name__} must define {', '.join(missing)}"
    if not (isinstance(cls.reported_output, str) and cls.reported_output):
        yield f"reported_output={cls.reported_output!r}: must be the name of an output of embed"
    if hasattr(cls, "reported_view"):
        yield "reported_view: it is called reported_output now"
    for hook in HOOKS:
        given = list(inspect.signature(getattr(Method, hook)).parameters)
        if not _can_take(cls, hook, len(given)):
            yield f"{hook} of {cls.__name__} must be a function of ({', '.join(given)})"
    if not isinstance(cls.needs_negatives, bool):
        yield f"needs_negatives={cls.needs_negatives!r}: must be True or False"
    if not (isinstance(cls.Config, type) and issubclass(cls.Config, MethodConfig)):
        yield f"Config={cls.Config!r}: must be a subclass of MethodConfig"
        return
    corrected = cls.corrected_settings
    if not isinstance(corrected, Mapping) or (unknown := [key for key in corrected if key not in cls.Config.model_fields]):
        yield f"corrected_settings={corrected!r}: must map fields of Config to values" + (
            f"; there is no {unknown[0]!r}" if isinstance(corrected, Mapping) else ""
        )
        return
    try:
        cls.Config.model_validate(dict(corrected))
    except ValidationError as error:
        for wrong in (e for e in error.errors() if e["loc"] and e["type"] != "missing"):  # search spaces may give the rest
            name = wrong["loc"][0]
            yield (
                f"corrected_settings[{name!r}]: {wrong['msg']}"
                if name in corrected
                else (f"Config: the default of {name}: {wrong['msg']} (got {wrong['input']!r})")
            )


def _can_take(cls: type[Method], hook: str, count: int) -> bool:
    """Whether a hook can be called with as many arguments, ``self`` among them, as ``Method`` says."""
    bound = isinstance(inspect.getattr_static(cls, hook), (staticmethod, classmethod))
    try:
        inspect.signature(getattr(cls, hook)).bind(*range(count - bound))
    except TypeError:
        return False
    except ValueError:  # it is not written in Python and does not say
        pass
    return True
