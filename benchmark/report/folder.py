"""A folder's new files take the place of the earlier ones, one by one and whole, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def install(new: Path, folder: Path, first: str, facts: Mapping[str, Any]) -> list[str]:
    """Move new files into place, ``first`` last, and remove what an earlier call left; returns the names, ``first`` first.

    Args:
        new: a folder on the same disk.
        facts: plain data that the manifest holds beside the list of files.
    """
    names = sorted((p.name for p in new.iterdir() if p.is_file()), key=lambda name: (name != first, name))
    for name in set(listed_files(folder)) - {*names, MANIFEST}:
        (folder / name).unlink(missing_ok=True)
    content = {"files": names, "sha256": {name: _digest(new / name) for name in names}, **facts}
    (new / MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for name in [MANIFEST, *reversed(names)]:
        os.replace(new / name, folder / name)
    return names


def listed_files(folder: Path) -> list[str]:
    """The files that a folder's manifest lists; plain names only, so that nothing outside can be meant."""
    files = read_manifest(folder).get("files")
    return [n for n in files if isinstance(n, str) and re.fullmatch(r"\w[\w.+-]*", n)] if isinstance(files, list) else []


def is_whole(folder: Path) -> bool:
    """Whether all files that a folder's manifest lists are there as they were written."""
    digests = read_manifest(folder).get("sha256")
    names = listed_files(folder)
    try:
        return bool(names) and isinstance(digests, dict) and all(_digest(folder / n) == digests.get(n) for n in names)
    except OSError:
        return False


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, empty where there is none that can be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
