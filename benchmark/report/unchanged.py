"""What a report is made from, as one number: where it is that of the report in the folder, nothing is drawn again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmark.report.results.collect import Results, UnitFacts
from benchmark.system.beside import NOT_WRITTEN

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
