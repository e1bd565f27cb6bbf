"""Finds the folder with the artifacts of runs, which moves together with its SQLite store.

MLflow records absolute paths. Our stores also have the experiment's tag ``PLACE``: the folder of artifacts
relative to the folder of the database, or an absolute path if the artifacts are elsewhere on purpose.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from benchmark.errors import Unavailable
from benchmark.system.files import check_links, replacing

PLACE = "artifacts"


def place_beside(database: Path, artifacts: Path) -> str:
    """The tag ``PLACE`` of a new store.

    Args:
        database: the SQLite file.
        artifacts: the folder; it may be a symbolic link, which is kept.
    """
    home = Path(os.path.realpath(database)).parent
    folder = Path(os.path.realpath(artifacts.parent)) / artifacts.name
    return str(folder.relative_to(home) if folder.is_relative_to(home) else folder)


def folder_of(
    database: Path, recorded: str, tags: Mapping[str, str], name: str, runs: Callable[[], Sequence[str]]
) -> Path | None:
    """The folder with the artifacts of a SQLite store; None if they are not files of this machine.

    Args:
        database: the SQLite file, where it is now.
        recorded: the address that MLflow recorded.
        tags: tags of the experiment.
        name: name of the folder in a runs folder, for stores without the tag ``PLACE``.
        runs: returns the ids of all runs.

    Raises:
        Unavailable: neither the recorded folder nor one beside the database has artifacts of the runs.
        OutsideError: a symbolic link to the folder is broken.
    """
    folder = local_folder(recorded)
    if folder is None:
        return None
    home = Path(os.path.realpath(database)).parent
    if PLACE in tags:
        folder = home / tags[PLACE]
    else:
        ids = runs()
        # moved or copied with the database
        if not ids or any((home / name / run_id).is_dir() for run_id in ids):
            folder = home / name
        elif not folder.is_dir():
            raise Unavailable(
                f"{database}: the artifacts of its runs are neither in {folder} nor in {home / name}; mount "
                "their disk, or move them to the second folder (if they are lost, create the first one, and "
                "their jobs are run again)"
            )
    check_links(folder)
    return folder


def local_folder(uri: str) -> Path | None:
    """The folder of a ``file:`` address or a plain path; None for any other address."""
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file") or parsed.netloc not in ("", "localhost"):
        return None
    return Path(unquote(parsed.path)) if parsed.scheme else Path(uri)


def run_folder(folder: Path, run_id: str) -> Path:
    """The folder in which MLflow keeps the artifacts of a run."""
    return folder / run_id / "artifacts"


def put(source: Path, target: Path) -> None:
    """Copy a file, or all files of a folder, to the artifacts; each file is replaced atomically."""
    if source.is_dir():
        for file in source.iterdir():
            put(file, target / file.name)
        return
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
