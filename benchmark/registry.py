"""Finds methods: files of ``methods/`` (the project's and that of the working folder), installed entry
points, and files given with ``--plugin``.

A file that cannot be imported does not stop the others: it is listed with the reason. While a method's file
is imported, it cannot end this process (except by ``os._exit``) nor change its arguments, working folder,
warnings or torch's default dtype.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import indent
from typing import Any, TextIO

import torch

from benchmark.errors import Terminated, UsageError, near, words_of
from benchmark.method import REGISTERED, Method
from benchmark.settings.search_space import SEARCH_SPACES_DIR, SearchSpace, load_search_space
from benchmark.system.reading import YAML_SUFFIXES, files_in
from benchmark.system.redaction import hide
from benchmark.system.shipped_files import own

METHODS_DIR = Path(__file__).resolve().parents[1] / "methods"
SHARED_FILES = ("__init__", "adaptations", "blocks", "compatibility", "losses", "one_validation")
MARK = b"benchmark.method"
"""What a file of ``methods/`` in the working folder must contain to be imported: the folder may be of another
project."""
ENTRY_POINTS = "gzsl_bench.methods"
ALL = "all"
"""Stands for all methods but controls in ``--methods``."""
_digests: dict[str, str] = {}
"""Modules of imported files -> hash of what was imported."""
_replaced: list[object] = []
"""Streams with which method files replaced the standard ones, which would close if these were collected."""
LONGEST_OUTPUT = 2_000
"""Most characters shown of the output of a file that tried to end the process."""


@dataclass
class Registry:
    """The known methods, and the reason for each file that cannot be imported."""

    methods: dict[str, type[Method]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> type[Method]:
        """The method of a name.

        Raises:
            UsageError: it is unknown (similar names are given) or cannot be imported (the reason is given).
        """
        if name in self.methods:
            return self.methods[name]
        if name in self.broken:
            raise UsageError(f"method {name!r} cannot be loaded: {self.broken[name]}")
        raise UsageError(f"unknown method {name!r}: {near(name, self.methods)}")

    def select(self, names: str) -> list[type[Method]]:
        """The methods of a comma-separated list, or all for ``all``, which leaves out controls.

        Raises:
            UsageError: a name is unknown, or it is ``all`` and a method cannot be imported.
        """
        if names == ALL:
            if self.broken:
                listed = "; ".join(f"{n}: {why}" for n, why in self.broken.items())
                raise UsageError(
                    f"--methods all, but some methods cannot be loaded: {listed}\n"
                    "repair or remove these files, or name the methods to run"
                )
            return [method for method in self.methods.values() if not method.control]
        wanted = named_once(names, "--methods")
        if not wanted:
            raise UsageError(f"--methods: no method given (known: all, {', '.join(self.methods)})")
        if ALL in wanted:
            raise UsageError(f"--methods {names}: all cannot be combined with names; write --methods all")
        return [self.get(name) for name in wanted]

    def controls(self) -> list[type[Method]]:
        """The methods that are controls."""
        return [method for method in self.methods.values() if method.control]

    def search_space(self, method: type[Method]) -> SearchSpace:
        """The search space of a method: beside its file, else in ``search_spaces/``, else an empty one.

        Raises:
            UsageError: the file has errors (all are listed) or cannot be read, or there are two files.
        """
        folders = [SEARCH_SPACES_DIR, *([users] if (users := own("search_spaces")) else [])]
        file = source_file(method)
        for bases in ([file] if file else [], [folder / f"{method.name}.py" for folder in folders]):
            found = [
                path
                for base in bases
                for suffix in YAML_SUFFIXES
                if _is_there(path := base.with_suffix(suffix))
            ]
            if len(found) > 1:
                other = found[1].name if found[1].parent == found[0].parent else found[1]
                raise UsageError(f"{found[0]}: there is {other} too; keep one of them")
            if found:
                return load_search_space(found[0], method)
        return SearchSpace(method=method.name)


def _is_there(path: Path) -> bool:
    """Whether there is something of this name, be it a link that leads nowhere."""
    try:
        return path.exists() or path.is_symlink()
    except OSError as error:
        raise UsageError(f"{path}: {_unreadable(error)}") from None


def named_once(names: str, option: str) -> list[str]:
    """The names of a comma-separated list.

    Raises:
        UsageError: a name is given twice.
    """
    wanted = [n.strip() for n in names.split(",") if n.strip()]
    for i, name in enumerate(wanted):
        if name in wanted[:i]:
            raise UsageError(f"{option} {names}: {name!r} is named twice; name it once")
    return wanted


def load(plugins: Sequence[Path] = ()) -> Registry:
    """Import all methods.

    Raises:
        UsageError: a ``--plugin`` file is missing, cannot be imported, or registers nothing.
    """
    registry = Registry()
    for path in files_in(METHODS_DIR, ".py"):
        if path.stem in SHARED_FILES:
            continue
        if not path.is_file() or not path.stem.isidentifier():
            misnamed = "no Python module can have this name; rename it"
            fault = misnamed if path.is_file() else "is not a readable file"
            registry.broken[path.stem] = f"{path}: {fault}"
        elif reason := attempt(partial(importlib.import_module, f"methods.{path.stem}")):
            registry.broken[path.stem] = reason
    for point in entry_points(group=ENTRY_POINTS):
        if reason := attempt(point.load):
            registry.broken[point.name] = f"entry point {point.value}: {reason}"
    registry.broken.update(_load_users())
    for plugin in plugins:
        _load_plugin(plugin)
    registry.methods.update(sorted(REGISTERED.items()))
    return registry


def _load_users() -> Iterator[tuple[str, str]]:
    """Import the methods of the working folder.

    Yields:
        Name and reason of each file that cannot be read or imported.
    """
    users = own("methods")
    if users is None:
        return
    try:
        paths = files_in(users, ".py")
    except OSError as error:
        yield f"{users.name}/", f"{users}: {_unreadable(error)}"
        return
    for path in paths:
        if reason := _load_users_file(path):
            yield path.stem, f"{path}: {reason}"


def _load_users_file(path: Path) -> str:
    """Import a file of the working folder if it is a method's; returns why that failed, or an empty text."""
    try:
        if not path.is_file():
            return "is not a readable file"
        content = path.read_bytes()
    except OSError as error:
        return _unreadable(error)
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "is UTF-16; save it as UTF-8"
    return _import(path)[1] if MARK in content else ""


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror or error})"


def attempt(read: Callable[[], object]) -> str:
    """Import a method's file; returns why that failed, or an empty text.

    Its output is shown on stderr or is part of the reason. If it fails, its registrations are undone.
    """
    before = dict(REGISTERED)
    with _contained() as printed:
        try:
            read()
        except (KeyboardInterrupt, Terminated):  # by the user or the system
            raise
        except BaseException as error:  # SystemExit too, which argparse raises: a file may fail in any way
            REGISTERED.clear()
            REGISTERED.update(before)
            reason = f"{type(error).__name__}: {words_of(error)}"
            if isinstance(error, Exception):
                return reason
            said = "".join(printed)[-LONGEST_OUTPUT:].strip()
            printed.clear()
            return f"ended at import ({reason}): put what a script does below if __name__ == '__main__'" + (
                f"; it printed:\n{indent(said, '  ')}" if said else ""
            )
    return ""


class _Held:
    """A stream that keeps what is written; once released, it writes to the real one."""

    def __init__(self, stream: TextIO | None, kept: list[str]) -> None:
        self._stream, self._kept = stream, kept
        self.released = False

    def write(self, text: str) -> int:
        if not self.released:
            self._kept.append(text)
        elif self._stream is not None:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self.released and self._stream is not None:
            self._stream.flush()

    def close(self) -> None:
        """Do nothing: the real stream does not belong to the imported file."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _contained() -> Iterator[list[str]]:
    """Run a method's file: restore what it changes of this process and keep its output.

    Yields:
        Its output; what is left of it at the end goes to stderr.
    """
    arguments, words, dtype = sys.argv, list(sys.argv), torch.get_default_dtype()
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        folder = None
    streams, printed = (sys.stdout, sys.stderr), list[str]()
    held = [_Held(stream, printed) for stream in streams]
    sys.stdout, sys.stderr = held
    try:
        with warnings.catch_warnings():
            yield printed
    finally:
        _replaced.extend(stream for stream in (sys.stdout, sys.stderr) if stream not in held)
        sys.stdout, sys.stderr = streams
        for stream in held:
            stream.released = True
        if printed and sys.stderr is not None:
            sys.stderr.write(hide("".join(printed)))
        arguments[:] = words
        sys.argv = arguments
        if folder is not None:
            with suppress(OSError):
                os.chdir(folder)
        torch.set_default_dtype(dtype)


def _load_plugin(path: Path) -> None:
    name = import_file(path)
    if not any(cls.__module__ == name for cls in REGISTERED.values()):
        raise UsageError(
            f"--plugin {path.resolve()}: registers no method; decorate a Method with @register(...)"
        )


def import_file(path: Path) -> str:
    """Import a ``--plugin`` file once; returns the name of its module.

    Raises:
        UsageError: it is missing or cannot be imported.
    """
    path = Path(os.path.realpath(path))
    if not path.is_file():
        raise UsageError(f"--plugin {path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    name, reason = _import(path)
    if reason:
        raise UsageError(f"--plugin {path}: {reason}")
    return name


def _import(path: Path) -> tuple[str, str]:
    """Import a file, again only if it was edited.

    Returns:
        The name of its module, and why that failed, or an empty text.
    """
    path = Path(os.path.realpath(path))
    name = f"gzsl_bench_plugin_{sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    try:
        digest = sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return name, _unreadable(error)
    if _digests.get(name) == digest and name in sys.modules:
        return name, ""
    for registered in [key for key, cls in REGISTERED.items() if cls.__module__ == name]:
        del REGISTERED[registered]  # the file was edited, in a notebook's process
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        return name, "not a Python file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if reason := attempt(partial(spec.loader.exec_module, module)):
        del sys.modules[name]
        return name, reason
    _digests[name] = digest
    return name, ""


def source_file(method: type[Method]) -> Path | None:
    """The file that defines a method; None if it is defined in a notebook."""
    file = getattr(sys.modules[method.__module__], "__file__", None)
    return None if file is None else Path(file)
