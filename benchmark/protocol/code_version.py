"""The digest of the code that determines results."""

from __future__ import annotations

import ast
from functools import cache
from hashlib import sha256
from pathlib import Path

from benchmark.method import Method
from benchmark.registry import METHODS_DIR, source_file

PROTOCOL = Path(__file__).parent
BESIDE = ("method", "data/store", "data/samples", "data/groups", "data/mapping", "system/streams")
"""Modules outside this folder that determine results too."""


@cache
def code_version(method: type[Method]) -> str:
    """The digest of the code that determines a method's results. Keys of jobs contain it.

    It covers ``protocol/``, ``BESIDE``, the files of the method's classes, and what these import from
    ``methods/``. The class of a notebook has no file, so ``api.run`` keeps no run of it. It is computed once
    per process, so editing a file does not change the keys of running jobs.
    """
    files = {*PROTOCOL.glob("*.py"), *(PROTOCOL.parent / f"{name}.py" for name in BESIDE)}
    bases = [base for base in method.__mro__ if issubclass(base, Method) and base is not Method]
    left = [file for base in bases if (file := source_file(base)) is not None]
    while left:
        path = left.pop()
        if path not in files:
            files.add(path)
            left += _imported(path)
    sha = sha256()
    for content in sorted(path.read_bytes() for path in files):  # independent of where the files are
        sha.update(content)
    return sha.hexdigest()[:16]


@cache
def _imported(path: Path) -> list[Path]:
    """The files of ``methods/`` that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found = (
        METHODS_DIR.parent / f"{name.replace('.', '/')}.py" for name in names if name.startswith("methods.")
    )
    return [file for file in found if file.is_file()]
