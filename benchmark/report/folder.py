"""The folder of a report: its manifest, when it would be the same again, and how new files replace the earlier ones.

Files are replaced one by one and whole; nothing else is touched.
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


def facts(tracker: Tracker, results: Results) -> dict[str, Any]:
    """Plain data: ``made`` (end of the newest run, seconds since the epoch), ``calls``, ``revision``, ``data`` (digests of what
    was tested, by data set and features) and ``units`` (``UNIT`` with titles, kind of data and tuning budget)."""
    runs = [*results.calls, *results.runs.values(), *(w.run for w in results.released)]
    data: dict[str, list[str]] = {}
    if len(results.test):
        known = digests(tracker, pd.DataFrame(results.test))
        data = {f"{dataset}/{features}": values for (dataset, features, _), values in known.items()}
    for weights in results.released:
        tags = weights.run.tags
        data.setdefault(f"{tags[Tag.DATASET]}/{tags[Tag.FEATURES]}", [tags.get(Tag.DATA_DIGEST, "not recorded")])
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
    """A digest of all that a report depends on: results, the runs whose artifacts it shows, texts, and the code that writes it.

    Artifacts of finished runs do not change, so that the runs' ids stand for them.

    Args:
        texts: those of the report's parts that are made without its figures.
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
    """A digest of the code that reports are written by, with its libraries."""
    here = Path(__file__).parent
    digest = hashlib.sha256("".join(f"{name} {version(name)}\n" for name in DRAWN_BY).encode())
    for file in [
        here.parent / "uncertainty.py",
        *sorted(
            f
            for place in (here, here.parent / "figures")
            for f in place.rglob("*")
            if f.suffix in (".py", ".j2", ".css", ".js")
        ),
    ]:
        digest.update(file.read_bytes())
    return digest.digest()
