"""Finds methods: files of ``methods/``, installed entry points, and files given with ``--plugin``.

A file that cannot be imported does not stop the others: it stays listed with its reason.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path

from benchmark.config import RECIPES_DIR, Recipe, load_recipe
from benchmark.errors import UsageError, near
from benchmark.method import REGISTERED, Method

METHODS_DIR = Path(__file__).resolve().parents[1] / "methods"
SHARED_FILES = ("__init__", "blocks", "losses")
ENTRY_POINTS = "gzsl_bench.methods"


@dataclass
class Registry:
    """Known methods, and files that could not be read with the reason."""

    methods: dict[str, type[Method]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> type[Method]:
        """The method of a name.

        Raises:
            UsageError: unknown (near names are given) or broken (the reason is given).
        """
        if name in self.methods:
            return self.methods[name]
        if name in self.broken:
            raise UsageError(f"method {name!r} cannot be loaded: {self.broken[name]}")
        raise UsageError(f"unknown method {name!r}: {near(name, self.methods)}")

    def select(self, names: str) -> list[type[Method]]:
        """Methods of a comma-separated list, or all of them for ``all``.

        Raises:
            UsageError: an unknown name, or ``all`` while a method is broken.
        """
        if names == "all":
            if self.broken:
                listed = "; ".join(f"{n}: {why}" for n, why in self.broken.items())
                raise UsageError(f"--methods all, but some methods cannot be loaded: {listed}")
            return list(self.methods.values())
        wanted = list(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
        if not wanted:
            raise UsageError(f"--methods: no method is named (known: all, {', '.join(self.methods)})")
        return [self.get(name) for name in wanted]

    def recipe(self, method: type[Method]) -> Recipe | None:
        """The recipe of a method: beside a plug-in's own file, else in ``search_spaces/``; None where there is none.

        Raises:
            UsageError: the file has errors (all are listed).
        """
        for path in (source_file(method).with_suffix(".yaml"), RECIPES_DIR / f"{method.name}.yaml"):
            if path.is_file():
                return load_recipe(path, method)
        return None


def load(plugins: Sequence[Path] = ()) -> Registry:
    """Read all methods.

    Raises:
        UsageError: a ``--plugin`` file is missing, cannot be imported, or registers nothing.
    """
    registry = Registry()
    for path in sorted(METHODS_DIR.glob("*.py")):
        if path.stem not in SHARED_FILES:
            _attempt(registry, path.stem, lambda name=path.stem: importlib.import_module(f"methods.{name}"))  # type: ignore[misc]
    for point in entry_points(group=ENTRY_POINTS):
        _attempt(registry, point.name, point.load)
    for plugin in plugins:
        _load_plugin(plugin)
    registry.methods.update(sorted(REGISTERED.items()))
    return registry


def _attempt(registry: Registry, name: str, read: Callable[[], object]) -> None:
    try:
        read()
    except Exception as error:  # a stranger's file may fail in any way; it is listed as broken
        registry.broken[name] = f"{type(error).__name__}: {error}"


def _load_plugin(path: Path) -> None:
    name = import_file(path)
    if not any(cls.__module__ == name for cls in REGISTERED.values()):
        raise UsageError(f"--plugin {path.resolve()}: registers no method; decorate a Method with @register(...)")


def import_file(path: Path) -> str:
    """Import a ``--plugin`` file once and give the name of its module.

    Raises:
        UsageError: it is missing or cannot be imported.
    """
    path = path.resolve()
    if not path.is_file():
        raise UsageError(f"--plugin {path}: no such file")
    name = f"gzsl_bench_plugin_{sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    if name in sys.modules:
        return name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"--plugin {path}: {type(error).__name__}: {error}") from error
    return name


def source_file(method: type[Method]) -> Path:
    """The file in which a method stands."""
    return Path(str(sys.modules[method.__module__].__file__))


@cache
def code_version(method: type[Method]) -> str:
    """Digest of the code that decides a method's numbers: its file, the shared blocks, and the harness's own part.

    It is taken once in a process, so that editing a file while jobs run does not name them by code that they did not run.
    """
    harness = Path(__file__).parent
    bases = [base for base in method.__mro__ if issubclass(base, Method) and base is not Method]
    files = {
        *(source_file(base) for base in bases),
        *(METHODS_DIR / f"{name}.py" for name in SHARED_FILES),
        *(harness / f"{name}.py" for name in ("method", "training", "protocol", "evaluation")),
        *(harness / "data" / f"{name}.py" for name in ("batching", "store")),
    }
    sha = sha256()
    for _, content in sorted((path.name, path.read_bytes()) for path in files):  # wherever the files are installed
        sha.update(content)
    return sha.hexdigest()[:16]
