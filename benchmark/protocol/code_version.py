"""The digest of the code that decides numbers."""

from __future__ import annotations

import ast
from functools import cache
from hashlib import sha256
from pathlib import Path

from benchmark.method import Method
from benchmark.registry import METHODS_DIR, source_file

KEYED = frozenset(
    f"benchmark.{name}"
    for name in (
        *("settings.schema", "data.cards", "data.built.synthetic", "data.hdf5"),  # settings and data, which the key holds
        *("errors", *(f"system.{name}" for name in ("patience", "beside", "files", "locks", "reading", "shipped_files"))),
    )
)
"""Modules that no number depends on, other than through settings and data, which a job's key holds."""


@cache
def code_version(method: type[Method]) -> str:
    """Digest of the code that decides a method's numbers: the files of its classes, ``protocol/stages.py``, and what these import.

    Modules of the harness and of ``methods/`` count, but for ``KEYED``. It is taken once in a process, so that editing a file
    while jobs run does not name them by code that they did not run.
    """
    files: set[Path] = set()
    left = [
        Path(__file__).parent / "protocol" / "stages.py",
        *(source_file(base) for base in method.__mro__ if issubclass(base, Method)),
    ]
    while left:
        path = left.pop()
        if path not in files:
            files.add(path)
            left += _imported(path)
    sha = sha256()
    for content in sorted(path.read_bytes() for path in files):  # wherever they lie
        sha.update(content)
    return sha.hexdigest()[:16]


@cache
def _imported(path: Path) -> list[Path]:
    """Files of the harness and of ``methods/`` that a file imports, but for those of ``KEYED``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = (name for name in names - KEYED if name.partition(".")[0] in ("benchmark", "methods"))
    files = (METHODS_DIR.parent / f"{name.replace('.', '/')}.py" for name in ours)
    return [file for file in files if file.is_file()]
