"""The ``data`` commands: import, build, info, verify, audit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from benchmark.cli.options import DataRoot, Features, Json, ReportsDir, Vectors, local
from benchmark.cli.progress import counted
from benchmark.cli.terminal import emit, err, escape, out, rows_table, show_table
from benchmark.errors import UsageError

if TYPE_CHECKING:
    from benchmark.data.cards import Card
    from benchmark.data.checks.audit import Audit
    from benchmark.data.checks.audit_report import AuditTable
    from benchmark.data.importing.importing import ImportOptions
    from benchmark.data.store import FeatureStore

Name = Annotated[str, typer.Argument(help="Name of a data set.")]
SCREEN_ROWS, SCREEN_TEXT = 20, 60
"""Rows of a table and characters of a cell that the screen shows of an audit; its files have all."""


def _card(name: str, features: str | None) -> tuple[Any, str]:
    from benchmark.data.cards import find_card, load_cards

    card, _ = find_card(name, load_cards())
    return card, card.feature_set(features)[0]


def import_(
    dataset: Name,
    source: Annotated[Path, typer.Option("--from", help="Folder in the official layout.", exists=False)],
    features: Features = None,
    extracted: Annotated[
        Path | None,
        typer.Option(help="File or folder of what the published extraction scripts wrote; --from then has the lists alone."),
    ] = None,
    form: Annotated[Literal["auto", "sequences", "means"], typer.Option(help="Which published form to read.")] = "auto",
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Type of the stored frames.")] = "float32",
    vectors: Vectors = None,
    force: Annotated[bool, typer.Option("--force", help="Import again although nothing changed.")] = False,
    generated: Annotated[
        bool, typer.Option("--generated", help="The features are generated: every table will say so.")
    ] = False,
    json_file: Json = None,
    data_root: DataRoot = Path("data"),
) -> None:
    """Turn a folder in the official layout, or extracted features, into a feature store. Resumes after an interruption."""
    from benchmark.data.importing.extracted_lists import import_extracted
    from benchmark.data.importing.official_layout import import_official
    from benchmark.data.locate import store_path

    card, name = _card(dataset, features)
    if card.official is None:
        raise UsageError(f"data set {card.name!r} has no official layout; build it with: data build {card.name}")
    if extracted is not None and form == "means":
        raise UsageError("--extracted and --form means: extracted files hold sequences; leave --form out, the store has both")
    target = store_path(data_root, card.name, name)
    with counted(out, err) as show:
        options: ImportOptions = {"dtype": dtype, "force": force, "generated": generated, "progress": show}
        if extracted is not None:
            report = import_extracted(card, name, source, extracted, target, vectors=vectors, **options)
        else:
            report = import_official(card, name, source, target, form, vectors=vectors, **options)
    state = "was imported already" if report.already else "imported"
    if report.resumed:
        state += f" ({report.resumed} files were read before the interruption)"
    splits = [{"split": split, **asdict(count)} for split, count in report.splits.items()]
    if json_file != "-":
        out.print(f"{report.target}: {state}; {report.form}, {report.dtype}, digest {report.digest[:16]}", highlight=False)
        rows_table(out, "Splits", list(splits[0]), [["-" if v is None else v for v in p.values()] for p in splits])
        for note in report.notes:
            out.print(f"note: {note}", highlight=False, soft_wrap=True)
    notes = [str(note) for note in report.notes]
    emit(json_file, {"store": str(report.target), "digest": report.digest, "state": state, "splits": splits, "notes": notes})


def build(
    dataset: Name,
    features: Features = None,
    sources: Annotated[
        Path | None,
        typer.Option(
            "--from-sources",
            help="Of stamps: compute the shipped features again from Debian's package in this folder, and compare them.",
        ),
    ] = None,
    json_file: Json = None,
    data_root: DataRoot = Path("data"),
) -> None:
    """Build a data set that needs no download."""
    from benchmark.data.locate import open_or_build

    card, name = _card(dataset, features)
    if card.builder is None:
        raise UsageError(f"data set {card.name!r} is not built but imported. {card.obtain}")
    if sources is not None:
        _rebuild(card, sources, data_root, json_file)
        return
    store = open_or_build(card, name, data_root)
    if json_file != "-":
        out.print(f"{store.path}: {sum(store.counts.values())} samples, digest {store.digest[:16]}", highlight=False)
    emit(json_file, {"store": str(store.path), "digest": store.digest, "samples": sum(store.counts.values())})


def _rebuild(card: Card, sources: Path, data_root: Path, json_file: str | None) -> None:
    """Compute shipped features again, beside the shipped ones, and show how far they agree."""
    from benchmark.data.built.stamps import ARRAYS
    from benchmark.data.cards import CARDS_DIR

    if card.builder != "stamps":
        raise UsageError(f"--from-sources: data set {card.name!r} is generated and has no sources; leave the option out")
    from benchmark.extract.stamps_sources import AGREEMENT, rebuild

    target = data_root / f"{card.name}-rebuilt" / ARRAYS
    with counted(out, err) as show:
        agreements = rebuild(sources, CARDS_DIR / card.name / ARRAYS, target, show)
    if json_file != "-":
        rows = [(a.features, f"{a.values:,}", f"{a.correlation:.5f}", f"{a.lowest:.5f}") for a in agreements]
        rows_table(out, "Agreement with the shipped features", ["features", "values", "correlation", "lowest of a row"], rows)
        out.print(f"{target}: written", highlight=False, soft_wrap=True)
    emit(json_file, {"file": str(target), "agreement": [asdict(a) for a in agreements]})
    differing = [a.features for a in agreements if a.correlation < AGREEMENT]
    if differing:
        raise UsageError(
            f"{target}: {', '.join(differing)} correlate with the shipped features by less than {AGREEMENT}; "
            "see docs/extraction.md for the versions that they were made with"
        )


def info(
    dataset: Name,
    features: Features = None,
    json_file: Json = None,
    data_root: DataRoot = Path("data"),
) -> None:
    """Show what a feature store holds."""
    from benchmark.data.locate import open_or_build
    from benchmark.data.store import SPLITS

    card, name = _card(dataset, features)
    store = open_or_build(card, name, data_root)
    expected, classes = card.features[name], store.tables().class_splits
    splits = [
        {
            "split": split,
            "classes": len(classes[split]),
            "expected classes": expected.classes.get(split, "-"),
            "samples": store.counts[split],
            "expected samples": expected.samples.get(split, "-"),
        }
        for split in SPLITS
    ]
    facts = {
        "data set": card.title,
        "features": f"{name}: {expected.description}",
        "file": str(store.path),
        "digest": store.digest,
        "form": "sequences and means" if store.has_sequences else "means only",
        "dimensions": f"audio {store.audio_dim}, video {store.video_dim}, text {store.text_dim}",
        "generated": "yes" if store.generated else "no",
        "licence": card.licence or "see the data set's own terms",
    }
    if json_file != "-":
        rows_table(out, "", ["", ""], list(facts.items()))
        rows_table(out, "Splits", list(splits[0]), [list(p.values()) for p in splits])
    emit(json_file, {**facts, "splits": splits})


def verify(
    dataset: Name,
    features: Features = None,
    json_file: Json = None,
    data_root: DataRoot = Path("data"),
) -> None:
    """Check a feature store: digest, counts, values. Exit code 2 if something is wrong."""
    from benchmark.data.checks.verify import verify_store
    from benchmark.data.locate import open_or_build

    card, name = _card(dataset, features)
    store = open_or_build(card, name, data_root)
    findings = verify_store(store.path, card)
    rows = [(f.severity, str(f)) for f in findings]
    if json_file != "-":
        if rows:
            rows_table(out, str(store.path), ["", "finding"], rows)
        else:
            out.print(
                f"{store.path}: all is well ({sum(store.counts.values())} samples, digest {store.digest[:16]})", highlight=False
            )
    emit(json_file, [{"level": level, "text": text} for level, text in rows])
    if any(f.severity == "problem" for f in findings):
        raise UsageError(f"{store.path}: the store is broken; build or import it again")


def audit(
    dataset: Name,
    features: Features = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder in the official layout: audit its lists; no features are needed.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="With --from: file of the word vectors.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", callback=local, help="Folder; reports/audit-DATASET-FEATURES if not given."),
    ] = None,
    json_file: Json = None,
    data_root: DataRoot = Path("data"),
    reports_dir: ReportsDir = Path("reports"),
) -> None:
    """Look for misaligned word vectors, leakage between splits and odd lists, counts and values. Findings are no errors."""
    from benchmark.data.checks.audit import audit_lists, audit_store
    from benchmark.data.checks.audit_files import audit_json, write_audit

    card, name = _card(dataset, features)
    if text is not None and source is None:
        raise UsageError("--text names the word vectors of a folder: give the folder too, --from DIR")
    folder = folder or reports_dir / f"audit-{card.name}-{name}"
    if source is not None:
        found = audit_lists(card, name, source, text)
    else:
        store = _store_to_audit(card, name, data_root)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)  # told before the features are read if it cannot be written
        with counted(out, err) as show:
            found = audit_store(card, store, show)
    with _writing(folder):
        files = write_audit(found, folder)
    if json_file != "-":
        _show_audit(found)
        out.print(f"Audit: {os.path.relpath(files[0])}", highlight=False, soft_wrap=True)
    emit(json_file, audit_json(found, files))


def _store_to_audit(card: Card, features: str, data_root: Path) -> FeatureStore:
    from benchmark.data.locate import open_or_build, store_path

    try:
        return open_or_build(card, features, data_root)
    except UsageError as error:
        if card.official is None or store_path(data_root, card.name, features).exists():
            raise
        raise UsageError(f"{error}\nThe lists alone need no features: data audit {card.name} --from DIR") from None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns a failure to write into an error that says what mends it."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{folder}: the audit cannot be written ({error.strerror}); choose another folder with --out"
        ) from None


def _show_audit(found: Audit) -> None:
    from benchmark.data.checks.audit_report import audit_sections, audit_title

    out.print(
        f"[bold]Audit of {escape(audit_title(found))}[/], {escape(found.material.source)}", highlight=False, soft_wrap=True
    )
    for section in audit_sections(found):
        out.print(f"\n[bold]{escape(section.title)}[/]", highlight=False)
        for sentence in section.sentences:
            out.print(escape(sentence), highlight=False)
        for table in section.tables:
            if table.rows and table.screen:
                _show_table(table.on_screen())


def _show_table(table: AuditTable) -> None:
    rows = [[t if len(t) <= SCREEN_TEXT else f"{t[: SCREEN_TEXT - 3]}..." for t in row] for row in table.cells()]
    width = sum(max(map(len, column)) + 3 for column in zip(table.headings(), *rows, strict=True))
    more = len(rows) - SCREEN_ROWS
    notes = [f"and {more:,} more, see {table.name}.csv"] if more > 0 else []
    numeric = table.numeric() if width <= out.width else None  # too wide: cells wrap
    show_table(out, "", table.headings(), rows[:SCREEN_ROWS], numeric=numeric, notes=notes)
