"""Writes the files of an audit: ``audit.md``, a CSV file for each table, and JSON, which has fractions."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmark.data.checks.audit import Audit
from benchmark.data.checks.audit_report import EXAMPLES, AuditSection, AuditTable, audit_sections, audit_title
from benchmark.system.files import replacing

MARKDOWN_ROWS = 400
"""Most rows of a table in the markdown file; the CSV file has all."""
TABLES = (
    "alignment", "misaligned", "leakage", "leaking_samples", "oddities", "counts", "features", "lengths",
    "duplicates",
)  # fmt: skip
"""Names of all CSV files that an audit may write."""


def write_audit(audit: Audit, folder: Path) -> list[Path]:
    """Write ``audit.md`` and a CSV file for each table. Each file is replaced atomically, ``audit.md`` last.

    Tables of an earlier audit in the folder are removed if this audit does not have them.

    Returns:
        The files, ``audit.md`` first.
    """
    sections = audit_sections(audit)
    tables = [table for section in sections for table in section.tables]
    page = folder / "audit.md"
    if page.is_file():  # the folder has an earlier audit
        for name in set(TABLES) - {table.name for table in tables}:
            (folder / f"{name}.csv").unlink(missing_ok=True)
    files = []
    for table in tables:
        files.append(folder / f"{table.name}.csv")
        _write(files[-1], _csv(table))
    _write(page, audit_markdown(audit, sections))
    return [page, *files]


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _csv(table: AuditTable) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        writer.writerow(["" if v is None else f"{v:.8g}" if isinstance(v, float) else v for v in row])
    return buffer.getvalue()


def audit_markdown(audit: Audit, sections: Sequence[AuditSection]) -> str:
    """Return the whole audit as markdown."""
    digest = f"\n- hash: `{audit.material.digest}`" if audit.material.digest else ""
    blocks = [f"# Audit of {audit_title(audit)}", f"- source: {_escaped(audit.material.source)}{digest}"]
    for section in sections:
        blocks.append(f"## {section.title}")
        blocks += [_escaped(sentence) for sentence in section.sentences]
        for table in section.tables:
            if not table.rows:
                continue
            cells = [[_escaped(text) for text in row] for row in table.cells()[:MARKDOWN_ROWS]]
            align = ["right" if numeric else "left" for numeric in table.numeric()]
            blocks.append(
                tabulate(cells, headers=table.columns, tablefmt="pipe", colalign=align, disable_numparse=True)
            )
            if len(table.rows) > MARKDOWN_ROWS:
                blocks.append(f"{len(table.rows) - MARKDOWN_ROWS:,} more rows are in {table.name}.csv.")
    return "\n\n".join(blocks) + "\n"


def _escaped(text: str) -> str:
    """Escape the characters that have a meaning in markdown."""
    return re.sub(r"([\\`*|<>\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def audit_json(audit: Audit, files: Sequence[Path]) -> dict[str, Any]:
    """Return the audit as JSON data. It has a few examples of related samples; the CSV file has all."""
    leaks = [
        {
            "rule": leak.rule, "split": leak.split, "against": list(leak.against), "samples": leak.samples,
            "related": len(leak.related) if leak.known else None, "share": leak.share if leak.known else None,
            "same_class": leak.same_class if leak.known else None,
            "sources": leak.groups if leak.known else None,
            "unfit": leak.unfit, "unfit_others": leak.unfit_others,
            "examples": [asdict(found) for found in leak.related[:EXAMPLES]],
        }
        for leak in audit.leakage.leaks
    ]  # fmt: skip
    material, alignment = audit.material, audit.alignment
    return {
        "dataset": material.card.name,
        "features": material.features,
        "source": material.source,
        "digest": material.digest,
        "generated": material.generated,
        "alignment": {
            "reason": alignment.reason,
            "splits": [{**asdict(split), "share": split.share} for split in alignment.splits],
            "misaligned": [asdict(found) for found in alignment.classes],
        },
        "leakage": {"reason": audit.leakage.reason, "pairs": leaks},
        "oddities": [asdict(found) for found in audit.oddities],
        "lists_known": material.from_lists is not None,
        "counts": [{**asdict(count), "as_expected": count.as_expected} for count in audit.counts],
        "statistics": None if audit.statistics is None else asdict(audit.statistics),
        "files": [str(path) for path in files],
    }
