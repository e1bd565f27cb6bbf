"""Everything that can be reached from objects by attributes, closures, containers and shared memory."""

from __future__ import annotations

import ctypes
import gc
import mmap
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch


def reachable(roots: Iterable[Any]) -> list[Any]:
    """All objects that the roots lead to.

    Classes, modules, code and the globals of functions are left out.
    """
    found: dict[int, Any] = {}
    left = list(roots)
    while left:
        thing = left.pop()
        if id(thing) in found or isinstance(thing, (ModuleType, CodeType, type)):
            continue
        found[id(thing)] = thing
        left.extend(neighbours(thing))
    return list(found.values())


def neighbours(thing: Any) -> Iterator[Any]:
    """What an object leads to in one step."""
    if isinstance(thing, FunctionType):
        yield from (thing.__closure__, thing.__defaults__, thing.__kwdefaults__, thing.__dict__)
        return
    yield from gc.get_referents(thing)
    if isinstance(thing, np.ndarray):  # the collector does not look into these
        yield thing.base
    if isinstance(thing, memoryview):
        yield thing.obj


def memory(things: Iterable[Any]) -> list[bytes]:
    """What the arrays and tensors among some objects hold, of maps the whole pages."""
    found: dict[int, bytes] = {}
    for thing in things:
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = (
                ctypes.string_at(storage.data_ptr(), storage.nbytes()) if storage.nbytes() else b""
            )
        elif isinstance(thing, (mmap.mmap, ctypes.Array)):
            if isinstance(thing, mmap.mmap):
                with suppress(ValueError, OSError):
                    thing.madvise(mmap.MADV_DONTNEED)  # a private map then shows its file again
            view = np.frombuffer(thing, np.uint8)
            found[view.ctypes.data] = ctypes.string_at(
                view.ctypes.data, len(view) + -len(view) % mmap.PAGESIZE
            )
        elif isinstance(thing, np.ndarray) and not thing.dtype.hasobject:
            found.setdefault(thing.ctypes.data, np.ascontiguousarray(thing).tobytes())
    return list(found.values())
