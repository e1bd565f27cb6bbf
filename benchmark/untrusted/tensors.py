"""Reads untrusted files of ``torch.save``: tensors and plain values, and no code is run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import UsageError
from benchmark.system.files import raise_outside, raise_unreadable
from benchmark.untrusted.kinds import FETCH_AGAIN, Foreign, first_bytes, likely_kind
from benchmark.untrusted.pickles import CheckedDtype, checked_scalar

SHOWN = 6
NUMPY_SCALARS: list[Any] = [
    *((checked_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    (CheckedDtype, "numpy.dtype"),
]
"""Globals of a numpy scalar, which the score of a checkpoint may be, with the module names of numpy 1 and
2."""


def state_fault(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Why tensors cannot be the state of a network, at most ``SHOWN`` problems; empty if they can.

    Args:
        state: the tensors by name.
        wanted: the network's own tensors, of which only names, shapes and types matter.
    """
    problems = list(_state_problems(state, wanted))
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def _state_problems(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    """One phrase for each problem of ``state_fault``."""
    yield from (f"missing {name}" for name in sorted(wanted.keys() - state.keys()))
    yield from (f"extra {name}" for name in sorted(state.keys() - wanted.keys()))
    for name in sorted(wanted.keys() & state.keys()):
        found, like = state[name], wanted[name]
        if found.shape != like.shape:
            yield f"{name} is {list(found.shape)}, not {list(like.shape)}"
        elif found.is_complex() or found.is_floating_point() != like.is_floating_point():
            yield f"{name} holds {found.dtype}, not {like.dtype}"
        elif not bool(torch.isfinite(found.to(like.dtype)).all()):
            yield f"{name} is not finite"
        elif name.endswith("running_var") and bool((found < 0).any()):
            yield f"{name} has negative variances"


def is_plain(x: object) -> bool:
    return (
        isinstance(x, Tensor)
        and x.layout == torch.strided
        and not (x.is_meta or x.is_quantized or x.is_nested)
    )


_WEIGHTS = "give a file that torch.save wrote"


def load_tensors(path: Path) -> Any:
    """The content of a file of ``torch.save``: tensors and plain values only.

    Raises:
        UsageError: it is missing, no checkpoint, damaged, or refused because it asks for something else.
        Unavailable: it cannot be read for another reason, which may pass.
    """
    start = first_bytes(path)
    if not start.startswith((b"PK", b"\x80")):
        kind = likely_kind(start) or Foreign(f"something else (it starts with {start[:20]!r})", _WEIGHTS)
        raise UsageError(f"{path}: not a checkpoint but {kind.what}; {kind.fix_for(_WEIGHTS)}")
    _refuse_inflated(path)
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UsageError(
            f"{path}: refused: it asks for {_unsafe(path)}, which no checkpoint needs; nothing was run. "
            "Fetch it again from a source you trust"
        ) from None
    except Exception as error:  # a damaged file can fail in any way
        raise_outside(error, path)
        raise_unreadable(path)  # torch hides the system's error
        why = f"{type(error).__name__}: {error!s:.150}"
        raise UsageError(
            f"{path}: cannot be read as a checkpoint, truncated or damaged ({why}); {FETCH_AGAIN}"
        ) from None


def _refuse_inflated(path: Path) -> None:
    """Refuse an archive that unpacks to more than the file's size: torch stores records uncompressed.

    Raises:
        UsageError: it does so.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(record.file_size for record in archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return  # the older format, a damaged file or a failing disk, which are reported later
    if size > path.stat().st_size:
        raise UsageError(
            f"{path}: refused: its records unpack to {size:,} bytes, more than the file; fetch it again"
        )


def _unsafe(path: Path) -> str:
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return (
                ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(path))
                or "an instruction that is not allowed"
            )
    except Exception:  # this only names the problem, and a damaged or old file can fail in any way
        return "something other than tensors and plain values"
