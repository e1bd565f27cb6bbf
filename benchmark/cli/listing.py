"""The command ``list``: methods, datasets, settings, and benchmark runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.options import DataRoot, Json, Plugin, RunsDir, TrackingUri, tracking_uri_of
from benchmark.cli.terminal import emit, out, rows_table
from benchmark.errors import UsageError, near

if TYPE_CHECKING:
    from benchmark.registry import Registry
    from benchmark.settings.descriptions import Setting
    from benchmark.tracking.tracker import Tracker


def list_(
    settings: Annotated[
        str | None,
        typer.Option(
            "--settings",
            metavar="NAME",
            help="List the settings of a method, or of train, protocol, lengths, tuning or data, instead.",
        ),
    ] = None,
    runs: Annotated[
        bool,
        typer.Option("--runs", help="List the benchmark runs of the tracking store, newest first, instead."),
    ] = False,
    plugin: Plugin = None,
    json_file: Json = None,
    data_root: DataRoot = Path("data"),
    runs_dir: RunsDir = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """List methods and datasets, the settings of a method, or past benchmark runs."""
    from benchmark import registry
    from benchmark.tracking.tracker import Tracker

    if runs and settings is not None:
        raise UsageError("list: --settings and --runs list different things; give one of them")
    if runs:
        uri = tracking_uri_of(runs_dir, tracking_uri)
        _list_runs(Tracker.existing(uri, runs_dir / "artifacts"), json_file)
        return
    known = registry.load(plugin or [])
    if settings is not None:
        _list_settings(known, settings, json_file)
    else:
        _list_all(known, data_root, json_file)


def _list_all(known: Registry, data_root: Path, json_file: str | None) -> None:
    """Methods and datasets."""
    from benchmark.data.cards import load_cards
    from benchmark.data.locate import store_path

    cards = load_cards()
    methods: list[tuple[str, ...]] = []
    for m in known.methods.values():
        training = f"transductive ({', '.join(m.uses)})" if m.uses else "inductive"
        methods.append((m.name, m.title, str(m.inputs), training, m.paper, m.note))
    methods += [(name, "", "", "", "", f"cannot be loaded: {why}") for name, why in known.broken.items()]
    datasets: list[tuple[str, ...]] = [
        (card.name, f, card.title, card.kind, "ready" if store_path(data_root, card.name, f).exists() else
         ("built at first use" if card.builder else "not imported"), ", ".join(card.presets))
        for card in cards.values()
        for f in card.features
    ]  # fmt: skip
    datasets += [
        (b.names[0], "", "", "", f"cannot be used: {'; '.join(b.reason.splitlines())}", "")
        for b in cards.broken
    ]
    method_columns = ("name", "title", "inputs", "training", "paper", "note")
    dataset_columns = ("name", "features", "title", "kind", "state", "presets")
    if json_file != "-":
        rows_table(out, "Methods", method_columns, methods)
        rows_table(out, "Datasets", dataset_columns, datasets)
    emit(
        json_file,
        {
            "methods": [dict(zip(method_columns, row, strict=True)) for row in methods],
            "datasets": [dict(zip(dataset_columns, row, strict=True)) for row in datasets],
        },
    )


def _list_settings(known: Registry, name: str, json_file: str | None) -> None:
    """The settings of a method or section, with notes on what replaces their defaults."""
    found, notes = settings_named(known, name)

    # Columns without any text are omitted.
    if json_file != "-":
        rows = [(s.name, s.default, s.allowed, s.search, s.description) for s in found]
        columns = ["setting", "default", "allowed", "searched", "description"]
        shown = [i for i, column in enumerate(zip(*rows, strict=True)) if any(v != "" for v in column)]
        picked: Sequence[Sequence[Any]] = [[row[i] for i in shown] for row in rows]
        rows_table(out, f"Settings of {name}", [columns[i] for i in shown], picked)
        for note in [*notes, f"Change a setting with --set, for example --set {found[0].name}=VALUE."]:
            out.print(note, highlight=False)
    emit(json_file, [asdict(setting) for setting in found])


def settings_named(known: Registry, name: str) -> tuple[list[Setting], list[str]]:
    """The settings of a method or section, and notes on what replaces their defaults.

    Raises:
        UsageError: nothing has this name.
    """
    from benchmark.settings.descriptions import settings_of, switches_of
    from benchmark.settings.resolve import SECTIONS

    if name in SECTIONS:
        found = [s for s in settings_of(name, SECTIONS[name]) if s.name != "protocol.mode"]  # it is --mode
        note = "Mode corrected corrects all flags, and assigns class embeddings by name."
        return found, [note] if name == "protocol" else []
    if name in known.methods or name in known.broken:
        method = known.get(name)
        space = known.search_space(method)
        found = [*settings_of(name, method.Config, space.search), *switches_of(method)]
        notes = []
        for kind, adapted in (("Published hyperparameters", False), ("Our adaptations", True)):
            of = {
                d: [f for f, s in sets.items() if bool(s.note) == adapted]
                for d, sets in space.published.items()
            }
            places = [f"{dataset} ({', '.join(sets)})" for dataset, sets in of.items() if sets]
            notes += [f"{kind} replace these defaults on {', '.join(places)}."] if places else []
        return found, notes
    hint = near(name, [*SECTIONS, *known.methods])
    raise UsageError(f"--settings {name}: no method or section has this name: {hint}")


def _list_runs(tracker: Tracker | None, json_file: str | None) -> None:
    """The benchmark runs of a store, newest first; no error if there is no store yet."""
    found = [] if tracker is None else _runs(tracker)
    if json_file != "-":
        if found:
            rows_table(out, "Benchmark runs", list(found[0]), [list(run.values()) for run in found])
        else:
            out.print("No benchmark run yet.")
    emit(json_file, found)


def _runs(tracker: Tracker) -> list[dict[str, str]]:
    from benchmark.tracking.benchmark_runs import benchmark_runs
    from benchmark.tracking.schema import Artifact, Kind, Tag

    # Methods have their own runs. The seeds are in the list of jobs, which exists from the first job on.
    methods: dict[str, list[str]] = {}
    for run in tracker.find(kind=Kind.METHOD):
        names = methods.setdefault(run.parent or "", [])
        if (name := run.tags.get(Tag.METHOD, "?")) not in names:
            names.insert(0, name)
    found = []
    for run in benchmark_runs(tracker):
        try:
            jobs = tracker.read_json(run.run_id, Artifact.JOBS)
        except UsageError:
            jobs = []
        found.append(
            {
                "id": run.run_id,
                "started": datetime.fromtimestamp(run.start).strftime("%Y-%m-%d %H:%M"),
                "methods": ", ".join(methods.get(run.run_id, [])),
                "dataset": run.tags.get(Tag.DATASET, "?"),
                "mode": run.tags.get(Tag.MODE, "?"),
                "seeds": str(len({job["repetition"] for job in jobs}) or "?"),
                "state": run.status.lower(),
            }
        )
    return found
