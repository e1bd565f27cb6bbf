"""Where the artifacts of runs lie: a folder that moves with its SQLite store, so its place is relative to that.

MLflow records absolute places. A store of ours also has the experiment's tag ``PLACE``, the artifacts' folder relative to the
folder of the database; it is absolute where the artifacts are elsewhere on purpose.
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
    """The folder of a SQLite store's artifacts; None where they are not files of this machine.

    Args:
        database: the SQLite file, where it is now.
        recorded: the address that MLflow has.
        tags: of the experiment.
        name: of the folder of artifacts in a runs folder, for stores that have no tag ``PLACE``.
        runs: gives the ids of all runs.

    Raises:
        Unavailable: neither the recorded folder nor one beside the database has artifacts of the runs.
        OutsideError: a link to the folder leads nowhere.
    """
    folder = local_folder(recorded)
    if folder is None:
        return None
    home = Path(os.path.realpath(database)).parent
    if PLACE in tags:
        folder = home / tags[PLACE]
    else:
        ids = runs()
        if not ids or any((home / name / run_id).is_dir() for run_id in ids):  # it was moved or copied together
            folder = home / name
        elif not folder.is_dir():
            raise Unavailable(
                f"{database}: the artifacts of its runs are neither in {folder} nor in {home / name}; mount their disk, or put "
                "them into the second folder (if they are lost, make the first one again, and their jobs are done again)"
            )
    check_links(folder)
    return folder


def local_folder(uri: str) -> Path | None:
    """The folder of a ``file:`` address or a plain path, None for any other."""
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file") or parsed.netloc not in ("", "localhost"):
        return None
    return Path(unquote(parsed.path)) if parsed.scheme else Path(uri)


def run_folder(folder: Path, run_id: str) -> Path:
    """Where MLflow keeps the artifacts of a run."""
    return folder / run_id / "artifacts"


def put(source: Path, target: Path) -> None:
    """Copy a file, or the files of a folder, to where artifacts lie; each file is there entirely or as it was before."""
    if source.is_dir():
        for file in source.iterdir():
            put(file, target / file.name)
        return
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
