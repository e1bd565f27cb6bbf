"""Imports of a tiny folder in the official layout, and ways to change it, for tests of forms and messages."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.data.importing.findings import Finding, ImportProblems
from benchmark.data.importing.official_layout import import_official

Folder = Any  # tests/data/conftest.py: OfficialFolder
ARCHERY = ("audio", "stage_1_train", "Archery")


def digest(folder: Folder, target: Path, **options: Any) -> str:
    with warnings.catch_warnings(action="error"):
        return import_official(folder.card(), "cls", folder.parent, target, **options).digest


def problem(folder: Folder, target: Path, **options: Any) -> Finding:
    """The one kind of problem of an import."""
    with warnings.catch_warnings(action="error"), pytest.raises(ImportProblems) as caught:
        import_official(folder.card(), "cls", folder.parent, target, **options)
    assert not target.exists()
    (found,) = caught.value.problems
    return found


def rewrite(folder: Folder, how: Callable[[list[Any], list[bytes]], Any]) -> None:
    """Write all class files of sequences as ``how(frames, ids)``."""
    for path in folder.sequences.glob("*/*/*.pkl"):
        content = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps(how(content["features"], content["video_names"])))


def rename(folder: Folder, new: str, *, files: bool = True) -> None:
    """The class Fencing by another name, in lists and files; its samples and word vector keep their names."""
    for path in (folder.root / "class-split").rglob("*"):
        if path.is_file():
            path.write_text(re.sub("(?<!v_)Fencing", new, path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in sorted((folder.root / "features").rglob("Fencing.*")) if files else ():
        target = path.parent / f"{new}{path.suffix}"
        target.parent.mkdir(exist_ok=True)
        path.rename(target)


def vectors_of(folder: Folder) -> dict[str, Any]:
    found: dict[str, Any] = np.load(folder.text, allow_pickle=True).item()
    return found
