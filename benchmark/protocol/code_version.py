"""The digest of the code that decides numbers: this folder, a few modules beside it, and the method's own files."""

from __future__ import annotations

import ast
from functools import cache
from hashlib import sha256
from pathlib import Path

from benchmark.method import Method
from benchmark.registry import METHODS_DIR, source_file

PROTOCOL = Path(__file__).parent
BESIDE = ("method", "data/store", "data/samples", "data/groups", "data/mapping", "system/streams")
"""Modules outside this folder that decide numbers too."""


@cache
def code_version(method: type[Method]) -> str:
    """Digest of the code that decides a method's numbers: all of ``protocol/``, ``BESIDE``, and the files of its classes with
    what these import from ``methods/``.

    It is computed once in a process, so that editing a file while jobs run does not name them by code that they did not run.
    """
    files = {*PROTOCOL.glob("*.py"), *(PROTOCOL.parent / f"{name}.py" for name in BESIDE)}
    left = [source_file(base) for base in method.__mro__ if issubclass(base, Method) and base is not Method]
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
    """Files of ``methods/`` that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found = (METHODS_DIR.parent / f"{name.replace('.', '/')}.py" for name in names if name.startswith("methods."))
    return [file for file in found if file.is_file()]
