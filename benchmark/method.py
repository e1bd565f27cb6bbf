"""All that the author of a method reads: the base class, its inputs, its results, and how it is registered.

The life cycle of a method. The protocol (``protocol/stages.py``) does these steps in each of its two stages,
with a new model each time. B samples, T time steps, C classes, D features, d the size of the embedding space,
and D_w the size of a class embedding as it is given:

1. ``__init__(config, spec)`` builds the model, after the random state was seeded.
2. ``fit(data, loop)`` trains it on its device. By default that is ``loop.run(self, data)``
   (``protocol/training.py``), which does this in each epoch:

    - For each batch, in training mode: ``loss(batch, classes)`` returns scalars, of which ``total`` is
      minimised by ``optimizer()``. Mode ``paper`` then calls ``after_step(batch)`` without gradients.
    - Validation, in evaluation mode without gradients: ``embed_classes(text)`` maps ``[C, D_w]`` to
      ``[C, d]`` once. For each block of samples, ``embed(batch)`` returns ``[B, d]`` per output, and
      ``distances(embeddings, classes)`` returns ``[B, C]`` per output. ``reported_output`` names the output
      that selects the epoch. A method whose distances need numbers of all samples, such as a scale, computes
      them in ``summarise``.

3. Stage 2 then tests its last model: the same calls as in validation, on the test splits. The numbers of
   ``summarise`` are those of validation, as beta is, unless the method declares the use ``test_samples``.

A method never learns which dataset, mode or search it runs in. It gets the class embeddings of its training
classes and batches of features. Class names, the division into seen and unseen classes, and labels of other
splits never reach it. ``protocol/border.py`` checks what each hook returns; a mistake fails the job.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
Use = Literal["unseen_names", "test_samples"]
"""What a transductive method uses: the class embeddings of the unseen classes in training, or numbers of all
test samples, without labels, at the test (``Method.summarise``)."""


class MethodConfig(Fields):
    """Hyperparameters of a method. Subclass it as ``Config`` inside the method.

    Unknown keys and wrong types are errors. The hyperparameters of the optimiser are here because every
    published method has its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    lr: float = Field(1e-3, gt=0, le=1, description="learning rate of Adam")
    weight_decay: float = Field(0.0, ge=0, le=1, description="L2 penalty of Adam")
    plateau: bool = Field(
        True, description="divide the learning rate by 10 after 3 epochs without a better validation HM"
    )


@dataclass(frozen=True)
class Spec:
    """Sizes of a feature set, from which a method builds its parameters."""

    audio_dim: int
    video_dim: int
    text_dim: int
    audio_seconds: float
    """Seconds between two audio time steps."""
    video_seconds: float
    """Seconds between two video time steps."""
    text_parts: Mapping[str, int] = field(default_factory=dict)
    """Modality -> how many numbers of a class embedding are in the space of its features, in their order in
    the class embedding (CLIP and CLAP). Empty if the class embeddings are of another model (word2vec)."""

    def text_columns(self, modality: str) -> slice:
        """The columns of a class embedding that are in the space of a modality's features."""
        before = list(self.text_parts).index(modality)
        start = sum(list(self.text_parts.values())[:before])
        return slice(start, start + self.text_parts[modality])


@dataclass(frozen=True)
class Classes:
    """The training classes, in the order in which ``Batch.label`` counts them."""

    text: Tensor
    """Class embeddings, ``[C, D_w]``."""


@dataclass(frozen=True)
class Batch:
    """A batch of samples, ready to use: the protocol has cut, padded and scaled them.

    It is made by ``protocol/batching.py`` and given to ``loss``, ``embed`` and ``after_step``. Sequence
    methods get ``[B, T, D]`` features with masks and times. Mean methods get ``[B, D]`` features, and None
    for masks and times.
    """

    audio: Tensor
    """``[B, T_a, D_a]`` zero-padded, or ``[B, D_a]``."""
    video: Tensor
    """``[B, T_v, D_v]`` zero-padded, or ``[B, D_v]``."""
    audio_mask: Tensor | None = None
    """``[B, T_a]`` bool, True where the time step is real and not padding."""
    video_mask: Tensor | None = None
    audio_times: Tensor | None = None
    """``[B, T_a]`` position of each time step: seconds, or indices if the protocol asks for them."""
    video_times: Tensor | None = None
    label: Tensor | None = None
    """``[B]`` rows of ``Classes.text``; None in evaluation."""
    text: Tensor | None = None
    """``[B, D_w]`` class embeddings of the labels; None in evaluation."""
    negative: Batch | None = None
    """One sample of another class for each sample, if the method has ``needs_negatives``."""
    padding_in_statistics: bool = True
    """Whether padded time steps enter BatchNorm statistics of per-step encoders, as published."""
    audio_steps: Tensor | None = None
    """``[M_a]`` indices of the real time steps among all ``B * T_a``, ascending. With them no method waits
    for the device to count the mask."""
    video_steps: Tensor | None = None

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
    """What ``Method.embed`` returns: one or more embeddings of each sample, in the space of the classes."""

    outputs: Mapping[str, Tensor]
    """Output name -> ``[B, d]``."""
    gate: Tensor | None = None
    """``[B]`` weight of the second modality, for methods whose ``distances`` choose between two outputs."""

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
    """Losses and validation metrics of one finished epoch; epochs count from 0."""

    epoch: int
    losses: Mapping[str, float]
    """Mean of each loss over the epoch's batches."""
    validation: Mapping[str, float]
    """Validation metrics (fractions), and the beta at which they hold."""
    lr: float
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """What ``Method.fit`` returns. The protocol takes the epoch and beta of stage 1 from it."""

    history: Sequence[EpochRecord]
    best_epoch: int
    """The first epoch with the highest validation HM; the last epoch if all have HM 0."""
    best_calibration: Mapping[str, Any]
    """``Validation.calibration`` of that epoch."""


class Batches(Protocol):
    """Batches of the training splits of a stage (``protocol.batching.TrainingBatches``)."""

    @property
    def classes(self) -> Classes:
        """The training classes."""

    def epoch(self, seed: int, epoch: int, batches: int, size: int) -> Iterator[Batch]:
        """The batches of an epoch. The same arguments always give the same batches."""

    def each(self, size: int) -> Iterator[Batch]:
        """Every training sample once, uncut, ``size`` at a time, for methods that need no random batches."""

    def on(self, device: torch.device) -> Batches:
        """The same batches, assembled on a device; called once per training, off the CPU only."""

    def at_evaluation_times(self, batch: Batch) -> Batch:
        """A training batch with the times that evaluation uses, for ``Method.after_step``."""


class Listener(Protocol):
    """Is called with the progress of training; it stops the loop by raising an exception."""

    def on_batch(self, epoch: int, batch: int, loss: float) -> None:
        """Called after each optimiser step."""

    def on_note(self, text: str) -> None:
        """Called with a message for the user."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Called after each epoch, once its checkpoint is written. On resume, earlier epochs come again."""


@dataclass(frozen=True)
class Validation:
    """Scores of a model on the validation splits, from ``TrainingData.validate``."""

    metrics: Mapping[str, float]
    """Fractions, ``hm`` among them."""
    calibration: Mapping[str, Any]
    """The beta chosen on these samples."""


@dataclass(frozen=True)
class TrainingData:
    """What ``fit`` gets: batches of this stage's training splits, and a function that scores the model.

    The protocol makes it for each stage, and it holds no sample of another split.
    """

    method: type[Method]
    batches: Batches
    validate: Callable[[Method], Validation]
    embeddings_of_unseen: Callable[[], Classes] | None = None
    """None unless the method declares ``unseen_names``."""

    def unseen_classes(self) -> Classes:
        """Class embeddings of this stage's unseen classes: of validation in stage 1, of the test in stage 2.

        Raises:
            JobError: the method does not declare ``unseen_names``.
        """
        if self.embeddings_of_unseen is None or "unseen_names" not in self.method.uses:
            raise JobError(
                f"{self.method.title} asks for unseen_names in training but is declared inductive; "
                'declare it in @register(..., uses=("unseen_names",)), so that the tables show it'
            )
        return self.embeddings_of_unseen()


class TrainSettings(Protocol):
    """The training settings for a method's own loop; ``settings/schema.py`` has all of them."""

    @property
    def epochs(self) -> int:
        """Number of epochs, at most."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches per epoch."""

    @property
    def batch_size(self) -> int:
        """Samples per batch."""


class TrainingLoop(Protocol):
    """The training loop that all methods share (``protocol.training.Loop``)."""

    @property
    def train(self) -> TrainSettings:
        """Training settings."""

    @property
    def seed(self) -> int:
        """Seed of the batches."""

    @property
    def folder(self) -> Path:
        """Folder for files of the job."""

    @property
    def listener(self) -> Listener:
        """Is called with the progress. A method's own loop calls ``on_epoch`` after each epoch."""

    @property
    def extra_pass(self) -> bool:
        """Whether ``Method.after_step`` is called."""

    @property
    def replay(self) -> Sequence[float] | None:
        """Learning rate of each epoch, in stage 2 of mode ``corrected``; otherwise None."""

    def run(self, method: Method, data: TrainingData) -> FitResult:
        """Train: epochs, learning-rate schedule, selection by validation HM, checkpoints, exact resume."""


class Method(nn.Module, ABC):
    """Base class of all methods.

    Subclass it and decorate the subclass with ``@register``. The protocol builds and calls it as the module's
    docstring describes. ``docs/how-to/port-a-method.md`` has a complete example.
    """

    Config: type[MethodConfig] = MethodConfig
    reported_output: ClassVar[str] = "joint"
    """The output whose results are reported, and whose validation HM selects the epoch."""
    needs_negatives: ClassVar[bool] = False
    """Whether ``loss`` needs ``batch.negative``."""
    corrected_settings: ClassVar[Mapping[str, Any]] = {}
    """Fields of ``Config`` that mode ``corrected`` sets, for known deviations of the published method."""
    published_grid: ClassVar[tuple[float, int]] = (3.0, 16)
    """Calibration grid of the published code: the largest beta, and how many betas from 0 on."""
    needs_text_parts: ClassVar[bool] = False
    """Whether the class embeddings must be in the spaces of the features (``Spec.text_parts``)."""
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Parts that ``--ablate-parts`` leaves out one at a time: name -> fields of ``Config`` without it."""
    control: ClassVar[Literal["", "chance", "shuffled"]] = ""
    """What a control checks; empty for a method. ``--methods all`` leaves controls out, ``--controls`` adds
    them, and they are never tuned. ``shuffled``: classes have the embeddings of others."""
    published_class: ClassVar[str] = ""
    """Class name in the file names of the authors' checkpoints; empty if there are none."""
    published_features: ClassVar[str] = ""
    """Feature set of all published runs, if their arguments name another feature set and other sizes."""
    released_class: ClassVar[str] = ""
    """The same of weights that the authors distribute without the arguments of the training."""

    # Set by @register.
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
        self.summary: Mapping[str, float] = {}
        """The numbers of ``summarise`` that belong to the samples, set before ``distances`` is called."""

    @abstractmethod
    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """Scalar losses of a training batch by name. ``"total"`` is minimised, and every entry is logged."""

    @abstractmethod
    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of a batch, each output ``[B, d]``.

        Called in evaluation mode without gradients. An embedding must depend on its own sample alone: neither
        on padding nor on the other samples of the batch.
        """

    @abstractmethod
    def embed_classes(self, text: Tensor) -> Tensor:
        """Classes in the space of the samples, ``[C, d]``, from class embeddings ``[C, D_w]``."""

    def distances(self, embeddings: Embeddings, classes: Tensor) -> dict[str, Tensor]:
        """Distances of every sample to every class, output name -> ``[B, C]``; smaller is nearer.

        Default: the Euclidean distance of each output to ``classes`` ``[C, d]``.
        """
        return {output: euclidean(x, classes) for output, x in embeddings.outputs.items()}

    def summarise(self, embeddings: Embeddings, classes: Tensor) -> dict[str, float]:
        """Numbers of all samples together that ``distances`` reads in ``self.summary``. Default: none.

        Called in each validation with all its samples. The numbers of the best epoch are kept with beta, and
        the test applies both. A method that declares the use ``test_samples`` is called with the test samples
        too, as some published evaluations do.

        Args:
            embeddings: of all samples, each output ``[N, d]``.
            classes: result of ``embed_classes``, ``[C, d]``.
        """
        return {}

    @classmethod
    def uses_with(cls, config: Any) -> tuple[Use, ...]:
        """What the method uses with these hyperparameters, out of ``uses``. Default: all of it."""
        return cls.uses

    def after_step(self, batch: Batch) -> None:
        """Called after each optimiser step, in training mode without gradients. Default: nothing.

        The batch has the times of evaluation. Published TCAF and AVCA pass it through the model again here,
        which changes their BatchNorm statistics. Mode ``corrected`` does not call it.
        """

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser, called once per training. Default: Adam with the configured rate and decay."""
        fused = next(self.parameters()).device.type in ("cpu", "cuda")
        return torch.optim.Adam(
            self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay, fused=fused
        )

    @classmethod
    def is_published_as(cls, args: Mapping[str, Any]) -> bool:
        """Whether stored arguments are of this method, if another one has the same ``published_class``."""
        return True

    @classmethod
    def published_config(cls, args: Mapping[str, Any]) -> MethodConfig:
        """Hyperparameters from the arguments beside an authors' checkpoint (``args.pkl``).

        Raises:
            ValueError: the arguments ask for a variant that is not implemented.
        """
        raise ValueError(f"{cls.title} reads no published checkpoints")

    @classmethod
    def released_config(cls, state: Mapping[str, Tensor]) -> MethodConfig:
        """Hyperparameters from the shapes of weights of ``released_class``.

        Raises:
            ValueError: the weights are of a variant that is not implemented.
        """
        raise ValueError(f"{cls.title} reads no weights without arguments")

    @classmethod
    def published_state(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of a published checkpoint with our names.

        Raises:
            ValueError: tensors are missing or left over; the message names them.
        """
        raise ValueError(f"{cls.title} reads no published checkpoints")

    def fit(self, data: TrainingData, loop: TrainingLoop) -> FitResult:
        """Train on ``data``. Override it only if the method needs its own loop."""
        return loop.run(self, data)


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances ``[N, C]`` of the rows of ``x`` ``[N, d]`` and ``y`` ``[C, d]``.

    Without the cancellation of the matrix-product form, so that rounding does not decide near ties.
    """
    return torch.cdist(x.float(), y.float(), compute_mode="donot_use_mm_for_euclid_dist")


NAME, LONGEST_NAME = re.compile(r"[a-z][a-z0-9_]*"), 64
RESERVED = ("all", "data", "train", "lengths", "protocol", "tuning")
"""Names that have another meaning in ``--methods`` and ``--set``."""
HOOKS = (
    "__init__", "loss", "embed", "embed_classes", "distances", "summarise", "after_step", "optimizer", "fit"
)  # fmt: skip
"""The functions of a method that the harness calls."""
REGISTERED: dict[str, type[Method]] = {}
"""Methods by name, in the order in which their files were imported."""

M = TypeVar("M", bound=Method)


def register(
    name: str,
    *,
    title: str,
    inputs: Inputs,
    paper: str = "",
    bibtex: str = "",
    note: str = "",
    uses: tuple[Use, ...] = (),
) -> Callable[[type[M]], type[M]]:
    """Class decorator that registers a method with the benchmark.

    Args:
        name: short name for the command line, lower case, unique.
        title: name in tables.
        inputs: ``"sequence"`` for features per time step, ``"mean"`` for their temporal means.
        paper: where the method was published (authors, title, venue, year); empty if it was not.
        bibtex: BibTeX entry of that paper.
        note: what a reader of the tables must know, such as "our adaptation".
        uses: what the method uses beyond the training classes and each sample itself: ``"unseen_names"``
            (``TrainingData.unseen_classes``) or ``"test_samples"`` (``Method.summarise``). Empty for an
            inductive method. Tables show it.

    Raises:
        ValueError: an invalid value, or a name that is taken. The message lists all problems.
    """
    declared = {"title": title, "paper": paper, "bibtex": bibtex, "note": note}
    problems = [
        f"name={name!r}: use lower-case letters, digits and underscores, letter first, {LONGEST_NAME} at most"
    ]
    if isinstance(name, str) and NAME.fullmatch(name) and len(name) <= LONGEST_NAME:
        problems = (
            [f"name={name!r}: means something else on the command line; choose another"]
            if name in RESERVED
            else []
        )
    problems += [
        f"{key}={value!r}: must be a text" for key, value in declared.items() if not isinstance(value, str)
    ]
    problems += (
        ["title='': must be the method's name in tables"]
        if isinstance(title, str) and not title.strip()
        else []
    )
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
            problems.append(
                f"{cls.__name__} is registered as {earlier!r} already; write a subclass for the second name"
            )
        if problems:
            raise ValueError(f"method {name!r}: {'; '.join(problems)}")
        other = REGISTERED.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"method name {name!r} is taken by {other.__module__}.{other.__qualname__}; choose another"
            )
        cls.name, cls.title, cls.paper, cls.bibtex = name, title, paper, bibtex
        cls.inputs, cls.note, cls.uses = inputs, note, tuple(uses)
        REGISTERED[name] = cls
        return cls

    return add


def _class_problems(cls: Any) -> Iterator[str]:
    """What is wrong with a class that is to be a method, a message for each problem."""
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
    corrected, parts = cls.corrected_settings, cls.parts
    changing = {"corrected_settings": corrected}
    if isinstance(parts, Mapping):
        changing |= {f"parts[{name!r}]": fields for name, fields in parts.items()}
    else:
        yield f"parts={parts!r}: must map names to fields of Config"
    for place, fields in changing.items():
        if not isinstance(fields, Mapping) or (
            unknown := [k for k in fields if k not in cls.Config.model_fields]
        ):
            yield f"{place}={fields!r}: must map fields of Config to values" + (
                f"; there is no {unknown[0]!r}" if isinstance(fields, Mapping) else ""
            )
            return
    try:
        cls.Config.model_validate(dict(corrected))
    except ValidationError as error:
        # A search space may give a missing value, so that is no error here.
        for wrong in (e for e in error.errors() if e["loc"] and e["type"] != "missing"):
            name = wrong["loc"][0]
            yield (
                f"corrected_settings[{name!r}]: {wrong['msg']}"
                if name in corrected
                else (f"Config: the default of {name}: {wrong['msg']} (got {wrong['input']!r})")
            )


def _can_take(cls: type[Method], hook: str, count: int) -> bool:
    """Whether a hook can be called with ``count`` arguments, ``self`` included."""
    bound = isinstance(inspect.getattr_static(cls, hook), (staticmethod, classmethod))
    try:
        inspect.signature(getattr(cls, hook)).bind(*range(count - bound))
    except TypeError:
        return False
    except ValueError:  # not written in Python, so it has no signature
        pass
    return True
