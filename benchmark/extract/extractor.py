"""What an extractor is: a feature set's two networks and what comes before and after them. And finding extractors.

An extractor is one file: in ``benchmark/extract/sets/``, or anywhere with ``--plugin``. It says names, dimensions and times,
and computes features of windows of sound and clips of pictures; decoding, cutting, resuming and storing are not its business.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.errors import UsageError, near
from benchmark.extract.calls import Calls
from benchmark.extract.networks.building import cast_weights
from benchmark.extract.packages import Package
from benchmark.registry import attempt, import_file
from benchmark.system.reading import NAME_RULE, files_in, is_name

SETS_DIR = Path(__file__).with_name("sets")
Features = NDArray[np.float32]
State = Mapping[str, Tensor]
Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights that an extractor needs from the user."""

    name: str
    """How it is called on the command line."""
    file: str
    """Its usual file name."""
    what: str
    published: str
    """Where it was published."""
    key: str | None = None
    """Where the file holds more than the state dict: the entry that is it."""
    ignored: tuple[str, ...] = ()
    """Beginnings of names that the file may have and the extractor does not use."""
    package: Package | None = None
    """The PyPI package that has it: taken from there where no other place is given. Its sha256 is then asked for."""


@dataclass(frozen=True)
class Sound:
    """The sound that a step is made from."""

    rate: int
    """Samples a second, mono."""
    window: int
    """Samples of a step."""
    hop: int
    """Samples between the beginnings of two steps."""


@dataclass(frozen=True)
class Clip:
    """The pictures that a step is made from."""

    rate: int | None
    """Pictures a second; None for those that the video has."""
    length: int
    """Pictures of a step."""
    pad: bool
    """Whether the last step is filled up with zeros; else what is left over is dropped."""


class Extractor(ABC):
    """Base class of extractors. Subclasses set all class attributes that have no value here.

    Args:
        weights: for each of ``weights_files`` its tensors by name; complete, of the right shapes, and finite.
        quirks: names of published quirks to repeat, of those that ``quirks`` names.
        device: a torch device, such as ``cpu`` or ``cuda:1``.
    """

    name: ClassVar[str]
    """Also the name of the feature set."""
    title: ClassVar[str]
    version: ClassVar[int]
    """Raise it when the same videos would give other features."""
    audio_dim: ClassVar[int]
    video_dim: ClassVar[int]
    audio_seconds: ClassVar[float]
    video_seconds: ClassVar[float]
    """Seconds between two steps."""
    sound: ClassVar[Sound]
    clip: ClassVar[Clip]
    weights_files: ClassVar[Sequence[WeightsFile]]
    quirks: ClassVar[frozenset[str]] = frozenset()
    """Published quirks that it can repeat."""
    paired: ClassVar[bool] = False
    """Whether a step of sound and a step of pictures are of the same moment: the longer sequence is cut to the shorter one."""
    batch: ClassVar[int] = 8
    """Steps that are computed together, but on a CPU, where that gains nothing."""

    def __init__(self, weights: Mapping[str, State], quirks: frozenset[str], device: str) -> None:
        self.repeated = quirks
        self.device = device
        self.precision: Precision = "float32"
        rows = 1 if torch.device(device).type == "cpu" else self.batch
        self.calls = Calls({"audio": self.audio, "video": self.video}, rows, kept=2 * self.batch)

    @classmethod
    @abstractmethod
    def expected(cls, weights: str) -> State:
        """Tensors on the device ``meta`` with the names, shapes and kinds that a file of weights must have."""

    @classmethod
    @abstractmethod
    def random(cls, weights: str) -> State:
        """Weights for trials, always the same ones."""

    @classmethod
    def read(cls, weights: str, path: Path) -> State | None:
        """The tensors of a file of a form of its own; None for a state dict and a ``.npz``, which need no help.

        Raises:
            UsageError: it cannot be read.
        """
        return None

    @property
    def timing(self) -> Clip:
        """``clip``, or what a quirk makes of it."""
        return self.timed(self.repeated)

    @classmethod
    def timed(cls, quirks: frozenset[str]) -> Clip:
        """``clip``, or what published quirks make of it."""
        return replace(cls.clip, rate=None) if "own_rate" in quirks else cls.clip

    def use(self, precision: Precision) -> None:
        """Compute networks in another precision than float32: those that are attributes and are called by ``run``."""
        self.precision = precision
        for value in vars(self).values():
            if isinstance(value, nn.Module):
                cast_weights(value, getattr(torch, precision))

    @torch.inference_mode()
    def run(self, network: nn.Module, x: Tensor) -> Features:
        """What a network makes of a batch, in the precision that was chosen, in float32."""
        dtype = None if self.precision == "float32" else getattr(torch, self.precision)
        with torch.autocast(torch.device(self.device).type, dtype, enabled=dtype is not None):
            computed: Features = network(x.to(self.device)).float().cpu().numpy()
        return computed

    @abstractmethod
    def prepare(self, frame: NDArray[np.uint8]) -> Features:
        """A picture ``[height, width, 3]`` (red, green, blue) as the network takes it, ``[3, H, W]``."""

    @abstractmethod
    def audio(self, waveforms: NDArray[np.floating[Any]]) -> Features:
        """Windows of sound ``[N, window]``, in -1 to 1 -> ``[N, audio_dim]``."""

    @abstractmethod
    def video(self, clips: Features) -> Features:
        """Clips of prepared pictures ``[N, length, 3, H, W]`` -> ``[N, video_dim]``."""


EXTRACTORS: dict[str, type[Extractor]] = {}
"""All extractors that were imported, by name."""


def register(extractor: type[Extractor]) -> type[Extractor]:
    """Class decorator: makes an extractor known under its name; a later one replaces an earlier one.

    Raises:
        ValueError: what it declares is not as it must be; all of it is named.
    """
    if not (isinstance(extractor, type) and issubclass(extractor, Extractor)):
        raise ValueError(f"@register: decorate a subclass of Extractor, not {extractor!r}")
    problems = list(_declaration_problems(extractor))
    if problems:
        raise ValueError(f"extractor {extractor.__name__}: {'; '.join(problems)}")
    EXTRACTORS[extractor.name] = extractor
    return extractor


def _declaration_problems(extractor: type[Extractor]) -> Iterator[str]:
    """What of an extractor's class attributes is missing or of another kind."""
    if missing := [name for name in Extractor.__annotations__ if not hasattr(extractor, name)]:
        yield f"lacks {', '.join(missing)}"
    name = getattr(extractor, "name", "a")
    if not (isinstance(name, str) and is_name(name)):
        yield f"name={name!r}: {NAME_RULE}"
    for field in ("version", "audio_dim", "video_dim"):
        value = getattr(extractor, field, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            yield f"{field}={value!r}: must be a whole number of at least 1"
    for field in ("audio_seconds", "video_seconds"):
        value = getattr(extractor, field, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            yield f"{field}={value!r}: must be seconds, more than 0"


def load_extractors(plugins: Sequence[Path] = ()) -> Mapping[str, type[Extractor]]:
    """Extractors of ``benchmark/extract/sets/`` and of ``--plugin`` files, by name.

    Raises:
        UsageError: a plug-in is missing, or a file cannot be imported or registers no extractor.
    """
    for path in files_in(SETS_DIR, ".py"):
        if path.stem != "__init__" and (reason := attempt(partial(importlib.import_module, f"{__package__}.sets.{path.stem}"))):
            raise UsageError(f"{path}: {reason}")
    for plugin in plugins:
        module = import_file(plugin)
        if not any(extractor.__module__ == module for extractor in EXTRACTORS.values()):
            raise UsageError(f"--plugin {plugin}: registers no extractor; decorate an Extractor with @register")
    return dict(sorted(EXTRACTORS.items()))


def find_extractor(name: str, plugins: Sequence[Path] = ()) -> type[Extractor]:
    """The extractor of a feature set.

    Raises:
        UsageError: there is none of that name; or as ``load_extractors``.
    """
    known = load_extractors(plugins)
    if name not in known:
        raise UsageError(f"no extractor for feature set {name!r}: {near(name, known)}; --plugin FILE.py adds one")
    return known[name]
