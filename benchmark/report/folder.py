"""The folder of a report: its manifest, how new files replace earlier ones, and when a report would be the
same again.

Each file is replaced atomically; other files in the folder are not touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.report.results.collect import UNIT, Results, UnitFacts, digests, distinct
from benchmark.report.tables.studies import budget_of
from benchmark.system.beside import NOT_WRITTEN
from benchmark.tracking.schema import Tag
from benchmark.tracking.tracker import Tracker

MANIFEST = "manifest.json"


def install(new: Path, folder: Path, first: str, facts: Mapping[str, Any]) -> list[str]:
    """Move new files into place and remove those of an earlier report; returns the names, ``first`` first.

    Args:
        new: a folder on the same disk.
        first: the main file, which is moved last.
        facts: plain data for the manifest, besides the list of files.
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
    """The files in a folder's manifest; only plain names, so that no file outside the folder is named."""
    files = read_manifest(folder).get("files")
    if not isinstance(files, list):
        return []
    return [n for n in files if isinstance(n, str) and re.fullmatch(r"\w[\w.+-]*", n)]


def is_whole(folder: Path) -> bool:
    """Whether all files in a folder's manifest exist and are unchanged."""
    digests = read_manifest(folder).get("sha256")
    names = listed_files(folder)
    try:
        return (
            bool(names)
            and isinstance(digests, dict)
            and all(_digest(folder / n) == digests.get(n) for n in names)
        )
    except OSError:
        return False


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; empty if it is missing or damaged."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def facts(tracker: Tracker, results: Results) -> dict[str, Any]:
    """What the manifest says of a report, as plain data.

    Returns:
        ``made`` (end of the newest run, seconds since the epoch), ``calls``, ``revision``, ``data`` (hashes
        of the test data by dataset and features) and ``units`` (``UNIT`` with titles, whether data are
        synthetic, tuning budget).
    """
    runs = [*results.calls, *results.runs.values(), *(w.run for w in results.released)]
    data: dict[str, list[str]] = {}
    if len(results.test):
        known = digests(tracker, pd.DataFrame(results.test))
        data = {f"{dataset}/{features}": values for (dataset, features, _), values in known.items()}
    for weights in results.released:
        tags = weights.run.tags
        data.setdefault(
            f"{tags[Tag.DATASET]}/{tags[Tag.FEATURES]}", [tags.get(Tag.DATA_DIGEST, "not recorded")]
        )
    units = [
        {
            **dict(zip(UNIT, u.key, strict=True)),
            "method_title": u.title,
            "dataset_title": u.dataset_title,
            "generated": u.generated,
            "budget": str(budget_of(u) or ""),
        }
        for u in results.units
    ]
    return {
        "made": max((run.end or run.start for run in runs), default=0.0),
        "calls": [c.run_id for c in results.calls],
        "revision": ", ".join(distinct(r.tags.get(Tag.REVISION, "") for r in results.calls)),
        "data": data,
        "units": units,
    }


DRAWN_BY = ("matplotlib", "numpy", "pandas", "scikit-learn", "scipy", "jinja2")


def made_from(results: Results, texts: Iterable[str]) -> str:
    """A hash of everything that determines a report: results, runs, texts, and the code that writes it.

    Artifacts of finished runs do not change, so the ids of the runs suffice.

    Args:
        texts: all texts of the report without its figures.
    """
    runs = [*results.runs.values(), *(weights.run for weights in results.released)]
    facts = {
        "calls": [[c.run_id, c.status, c.start, c.tags.get(NOT_WRITTEN, "")] for c in results.calls],
        "runs": [vars(run) for run in sorted(runs, key=lambda run: run.run_id)],
        "units": [_unit(unit) for unit in results.units],
        "texts": list(texts),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    digest.update(_code())
    return digest.hexdigest()


def _unit(unit: UnitFacts) -> list[Any]:
    search = None if unit.search is None else unit.search.to_csv()
    return [unit.key, unit.tags, unit.call, unit.run_id, unit.study, search, unit.importances]


def _code() -> bytes:
    """A hash of the code that writes reports, and of the versions of its libraries."""
    here = Path(__file__).parent
    digest = hashlib.sha256("".join(f"{name} {version(name)}\n" for name in DRAWN_BY).encode())
    files = [file for folder in (here, here.parent / "figures") for file in folder.rglob("*")]
    code = sorted(file for file in files if file.suffix in (".py", ".j2", ".css", ".js"))
    for file in [here.parent / "uncertainty.py", *code]:
        digest.update(file.read_bytes())
    return digest.digest()
