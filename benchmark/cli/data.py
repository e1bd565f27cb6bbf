"""The ``data`` commands: import, build, info, verify, audit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmark.cli.options import (
    DataRoot,
    DatasetConfig,
    Features,
    Json,
    ReportsDir,
    Vectors,
    local,
    with_options,
)
from benchmark.cli.progress import counted
from benchmark.cli.terminal import emit, err, escape, out, rows_table, show_table
from benchmark.errors import UsageError
from benchmark.system.shipped_files import program

if TYPE_CHECKING:
    from benchmark.data.cards import Card
    from benchmark.data.checks.audit import Audit
    from benchmark.data.checks.audit_report import AuditTable
    from benchmark.data.importing.importing import ImportOptions
    from benchmark.data.store import FeatureStore

SCREEN_ROWS, SCREEN_TEXT = 20, 60
"""Rows of an audit's table, and characters of a cell, that the screen shows; the files have all."""


@dataclass(frozen=True)
class DataOptions:
    """The dataset, and the options that all ``data`` commands have."""

    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of a dataset.")]
    features: Features = None
    json_file: Json = None
    data_root: DataRoot = Path("data")
    dataset_config: DatasetConfig = None

    @property
    def on_screen(self) -> bool:
        """Whether the screen shows tables; it shows JSON otherwise."""
        return self.json_file != "-"

    def card(self) -> tuple[Card, str]:
        """The dataset config and the name of the feature set."""
        from benchmark.data.cards import find_card, load_cards

        card, _ = find_card(self.dataset, load_cards(files=self.dataset_config or []))
        return card, card.feature_set(self.features)[0]

    def store(self) -> FeatureStore:
        """The feature file; built if the dataset has a builder."""
        from benchmark.data.locate import open_or_build

        card, features = self.card()
        return open_or_build(card, features, self.data_root)


@with_options
def import_(
    source: Annotated[
        Path, typer.Option("--from", metavar="DIR", help="Folder in the published layout.", exists=False)
    ],
    of: DataOptions,
    extracted: Annotated[
        Path | None,
        typer.Option(
            help="Output of the authors' extraction scripts (file or folder); --from then only needs the "
            "split lists."
        ),
    ] = None,
    form: Annotated[
        Literal["auto", "sequences", "means", "vectors", "cache"],
        typer.Option(help="Published form of the features to read; clip_clap has vectors and cache."),
    ] = "auto",
    dtype: Annotated[
        Literal["float32", "float16"], typer.Option(help="Type of the stored time steps.")
    ] = "float32",
    vectors: Vectors = None,
    force: Annotated[bool, typer.Option("--force", help="Import again even if nothing changed.")] = False,
    generated: Annotated[
        bool, typer.Option("--generated", help="Mark the features as synthetic in every table.")
    ] = False,
) -> None:
    """Import features into a feature file. Rerun an interrupted import to resume it."""
    from benchmark.data.importing.extracted_lists import import_extracted
    from benchmark.data.importing.official_layout import import_official
    from benchmark.data.locate import store_path

    card, name = of.card()
    if card.official is None:
        raise UsageError(f"dataset {card.name!r} has no official layout; build it: data build {card.name}")
    if extracted is not None and form == "means":
        raise UsageError(
            "--extracted and --form means: extracted files hold sequences; omit --form, the result has both"
        )

    target = store_path(of.data_root, card.name, name)
    with counted(out, err) as show:
        options: ImportOptions = {"dtype": dtype, "force": force, "generated": generated, "progress": show}
        if extracted is not None:
            report = import_extracted(card, name, source, extracted, target, vectors=vectors, **options)
        else:
            report = import_official(card, name, source, target, form, vectors=vectors, **options)

    # Report the counts of the splits and the notes.
    state = "was imported already" if report.already else "imported"
    if report.resumed:
        state += f" ({report.resumed} files were read before the interruption)"
    splits = [{"split": split, **asdict(count)} for split, count in report.splits.items()]
    if of.on_screen:
        out.print(
            f"{report.target}: {state}; {report.form}, {report.dtype}, hash {report.digest[:16]}",
            highlight=False,
        )
        rows_table(
            out, "Splits", list(splits[0]), [["-" if v is None else v for v in p.values()] for p in splits]
        )
        for note in report.notes:
            out.print_line(f"note: {note}")
    notes = [str(note) for note in report.notes]
    facts = {"store": str(report.target), "digest": report.digest, "state": state}
    emit(of.json_file, {**facts, "splits": splits, "notes": notes})


@with_options
def build(
    of: DataOptions,
    sources: Annotated[
        Path | None,
        typer.Option(
            "--from-sources",
            metavar="DIR",
            help="stamps only: recompute the shipped features from Debian's package in DIR, and compare.",
        ),
    ] = None,
) -> None:
    """Build a dataset that ships with the project or is synthetic."""
    card, _ = of.card()
    if card.builder is None:
        how = f"{program()} data import {card.name} --from DIR"
        raise UsageError(f"dataset {card.name!r} cannot be built; import it: {how}\n{card.obtain}".strip())
    if sources is not None:
        _rebuild(card, sources, of)
        return
    store = of.store()
    samples = sum(store.counts.values())
    if of.on_screen:
        out.print(f"{store.path}: {samples} samples, hash {store.digest[:16]}", highlight=False)
    emit(of.json_file, {"store": str(store.path), "digest": store.digest, "samples": samples})


def _rebuild(card: Card, sources: Path, of: DataOptions) -> None:
    """Recompute shipped features into another file, and show how well they agree with the shipped ones."""
    from benchmark.data.built.stamps import ARRAYS
    from benchmark.data.cards import CARDS_DIR

    if card.builder != "stamps":
        raise UsageError(
            f"--from-sources: dataset {card.name!r} is synthetic and has no sources; omit the option"
        )
    from benchmark.extract.stamps_sources import AGREEMENT, rebuild

    target = of.data_root / f"{card.name}-rebuilt" / ARRAYS
    with counted(out, err) as show:
        agreements = rebuild(sources, CARDS_DIR / card.name / ARRAYS, target, show)
    if of.on_screen:
        rows = [(a.features, f"{a.values:,}", f"{a.correlation:.5f}", f"{a.lowest:.5f}") for a in agreements]
        columns = ["features", "values", "correlation", "lowest of a row"]
        rows_table(out, "Agreement with the shipped features", columns, rows)
        out.print_line(f"{target}: written")
    emit(of.json_file, {"file": str(target), "agreement": [asdict(a) for a in agreements]})
    differing = [a.features for a in agreements if a.correlation < AGREEMENT]
    if differing:
        raise UsageError(
            f"{target}: {', '.join(differing)} correlate with the shipped features by less than {AGREEMENT}; "
            "docs/how-to/packaged-features.md lists the versions that the shipped ones were made with"
        )


@with_options
def info(of: DataOptions) -> None:
    """Show the contents of a feature file."""
    from benchmark.data.store import SPLITS

    card, name = of.card()
    store = of.store()
    expected, classes = card.features[name], store.tables().class_splits
    parts = " + ".join(f"{size} of {part}" for part, size in expected.text_parts.items())
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
        "dataset": card.title,
        "features": f"{name}: {expected.description}",
        "file": str(store.path),
        "digest": store.digest,
        "form": "sequences and means" if store.has_sequences else "means only",
        "dimensions": f"audio {store.audio_dim}, video {store.video_dim}, text {store.text_dim}"
        + (f" ({parts})" if parts else ""),
        "generated": "yes" if store.generated else "no",
        "licence": " ".join(filter(None, [card.licence, expected.licence])) or "see the terms of the dataset",
    }
    if expected.contamination:
        facts["contamination"] = expected.contamination
    if store.unusable_names:
        facts["sample names"] = (
            f"unusable for {store.unusable_samples:,} samples of {len(store.unusable_names)} class files: "
            "their ids are made up and their source videos unknown"
        )
    if of.on_screen:
        rows_table(out, "", ["", ""], list(facts.items()))
        rows_table(out, "Splits", list(splits[0]), [list(p.values()) for p in splits])
    emit(of.json_file, {**facts, "splits": splits})


@with_options
def verify(of: DataOptions) -> None:
    """Check the hash, counts and values of a feature file. Exit code 2 if there is a problem."""
    from benchmark.data.checks.verify import verify_store

    store = of.store()
    findings = verify_store(store.path, of.card()[0])
    rows = [(f.severity, str(f)) for f in findings]
    if of.on_screen and rows:
        rows_table(out, str(store.path), ["", "finding"], rows)
    elif of.on_screen:
        facts = f"{sum(store.counts.values())} samples, hash {store.digest[:16]}"
        out.print(f"{store.path}: all is well ({facts})", highlight=False)
    emit(of.json_file, [{"level": level, "text": text} for level, text in rows])
    if any(f.severity == "problem" for f in findings):
        raise UsageError(f"{store.path}: the feature file is broken; build or import it again")


@with_options
def audit(
    of: DataOptions,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", help="Folder in the official layout: audit its lists, without features."
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --from: file of the class embeddings.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            callback=local,
            metavar="DIR",
            help="Folder to write. (default: audit-DATASET-FEATURES in --reports-dir)",
        ),
    ] = None,
    reports_dir: ReportsDir = Path("reports"),
) -> None:
    """Check a dataset for misaligned class embeddings, train/test leakage and malformed data.

    Findings do not change the exit code."""
    from benchmark.data.checks.audit import audit_lists, audit_store
    from benchmark.data.checks.audit_files import audit_json, write_audit

    card, name = of.card()
    if text is not None and source is None:
        raise UsageError("--text names the class embeddings of a folder: give the folder too, --from DIR")
    folder = folder or reports_dir / f"audit-{card.name}-{name}"
    if source is not None:
        found = audit_lists(card, name, source, text)
    else:
        store = _store_to_audit(of)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)  # fails here, before the features are read
        with counted(out, err) as show:
            found = audit_store(card, store, show)
    with _writing(folder):
        files = write_audit(found, folder)
    if of.on_screen:
        _show_audit(found)
        out.print_line(f"Audit: {os.path.relpath(files[0])}")
    emit(of.json_file, audit_json(found, files))


def _store_to_audit(of: DataOptions) -> FeatureStore:
    from benchmark.data.locate import store_path

    try:
        return of.store()
    except UsageError as error:
        card, features = of.card()
        if card.official is None or store_path(of.data_root, card.name, features).exists():
            raise
        raise UsageError(
            f"{error}\nThe lists alone need no features: data audit {card.name} --from DIR"
        ) from None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write into an error with a fix."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{folder}: the audit cannot be written ({error.strerror}); choose another folder with --out"
        ) from None


def _show_audit(found: Audit) -> None:
    from benchmark.data.checks.audit_report import audit_sections, audit_title

    out.print_line(f"[bold]Audit of {escape(audit_title(found))}[/], {escape(found.material.source)}")
    for section in audit_sections(found):
        out.print(f"\n[bold]{escape(section.title)}[/]", highlight=False)
        for sentence in section.sentences:
            out.print(escape(sentence), highlight=False)
        for table in section.tables:
            if table.rows and table.screen:
                _show_table(table.on_screen())


def _show_table(table: AuditTable) -> None:
    rows = [
        [t if len(t) <= SCREEN_TEXT else f"{t[: SCREEN_TEXT - 3]}..." for t in row] for row in table.cells()
    ]
    more = len(rows) - SCREEN_ROWS
    notes = [f"and {more:,} more, see {table.name}.csv"] if more > 0 else []
    show_table(out, "", table.headings(), rows[:SCREEN_ROWS], numeric=table.numeric(), notes=notes)
