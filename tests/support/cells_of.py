"""Finds tables and rows for the tests of this folder."""

from __future__ import annotations

from typing import Any

from benchmark.report.results.collect import Results
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.table import Table


def tables_of(results: Results) -> dict[str, Table]:
    """The tables by name, each of which must be the only one of its name.

    Of the two matrices of wins it is the one in ZSL.
    """
    tables = build_tables(results)
    names = [t.name for t in tables if not t.title.startswith("Wins in HM")]
    assert len(set(names)) == len(names), "several tables of a name: look at build_tables itself"
    return {t.name: t for t in tables}


def row(table: Table, **labels: str) -> dict[str, Any]:
    """The cells of the one row that has these labels."""
    found = [r for r in table.cells.to_dict("records") if all(r[k] == v for k, v in labels.items())]
    assert len(found) == 1, f"{len(found)} rows have {labels}"
    return {str(k): v for k, v in found[0].items()}


def said(table: Table) -> str:
    """All that is written below a table without others."""
    return " ".join([table.text, *table.notes])
