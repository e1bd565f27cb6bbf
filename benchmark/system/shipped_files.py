"""Where files that ship with the code are, and which command starts the program."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "shipped"
"""Folder of an installed package with what is beside the package in a checkout (mapped by
``pyproject.toml``)."""


def shipped(*parts: str) -> Path:
    """A folder that ships with the project, such as ``shipped("reports", "published")``."""
    return (INSTALLED if INSTALLED.is_dir() else PACKAGE.parent).joinpath(*parts)


def own(name: str) -> Path | None:
    """The user's folder of this name in the working folder, such as ``methods``.

    Returns:
        None if there is none, or it is that of the checkout.
    """
    try:
        found = Path.cwd() / name
        return found if found.is_dir() and not is_of_checkout(found) else None
    except OSError:  # the working folder was removed, or cannot be entered
        return None


def is_of_checkout(folder: Path) -> bool:
    """Whether a folder, such as ``datasets``, is the one of the checkout that this code is in."""
    try:
        return os.path.realpath(folder) == os.path.realpath(PACKAGE.parent / folder.name)
    except OSError:  # the working folder was removed
        return False


def program() -> str:
    """The command to show in messages: a checkout has a script, an installed package a command."""
    return "gzsl-bench" if INSTALLED.is_dir() else "python run_benchmark.py"


def install(extra: str) -> str:
    """The command to show in messages that installs an optional part, such as ``cluster``."""
    if not INSTALLED.is_dir():
        return f"pip install -c constraints.txt -e '.[{extra}]'"
    return "pip install " + " ".join(f"'{one}'" for one in _requirements(extra))


def _requirements(extra: str) -> list[str]:
    found: list[str] = []
    for line in metadata.requires("gzsl-bench") or ():
        requirement, _, condition = line.partition(";")
        if re.search(rf"""extra == ['"]{extra}['"]""", condition):
            inner = re.match(r"gzsl-bench\[(.*)\]", requirement.strip())
            names = inner[1].split(",") if inner else []
            found += [one for name in names for one in _requirements(name)] or [requirement.strip()]
    return found
