"""The commands for trained weights: evaluate and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmark.cli.options import (
    DataRoot,
    DatasetConfig,
    Features,
    Json,
    Plugin,
    RunsDir,
    Set,
    TrackingUri,
    existing_tracker_of,
    local,
    tracker_of,
)
from benchmark.cli.terminal import emit, err, out, rows_table
from benchmark.errors import UsageError
from benchmark.system.shipped_files import program


def evaluate(
    stage_a: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of the stage-1 training, which selects epoch and beta."),
    ],
    stage_b: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of the stage-2 training (on all data), which is tested."),
    ],
    dataset: Annotated[str, typer.Option(metavar="NAME", help="Dataset to test on.")],
    features: Features = None,
    mode: Annotated[
        Literal["paper", "corrected"] | None,
        typer.Option(
            help="Protocol of the evaluation. (default: that of the training; paper for published weights)"
        ),
    ] = None,
    set_: Set = None,
    plugin: Plugin = None,
    dataset_config: DatasetConfig = None,
    json_file: Json = None,
    data_root: DataRoot = Path("data"),
    runs_dir: RunsDir = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Test trained weights: run folders of the published code, folders of runs/jobs/, or exported folders.

    Model A selects beta on the validation splits. Model B is tested with it.
    """
    from benchmark import registry
    from benchmark.data.cards import find_card, load_cards
    from benchmark.data.locate import open_or_build
    from benchmark.running.evaluate import evaluate as measure
    from benchmark.running.evaluate import log_evaluation
    from benchmark.settings.resolve import parse_overrides
    from benchmark.weights.published import read_pair

    # Weights, dataset and settings.
    known = registry.load(plugin or [])
    overrides = parse_overrides(set_ or [], known.methods)
    card, _ = find_card(dataset, load_cards(files=dataset_config or []))
    pair = read_pair(stage_a, stage_b, known.methods)
    name, _ = card.feature_set(features or pair[1].features or None)
    store = open_or_build(card, name, data_root, overrides=overrides.get("data", {}))

    # Test and record.
    measured = measure(pair, card, name, store, mode, overrides, known.search_space(pair[1].method))
    found = log_evaluation(tracker_of(runs_dir, tracking_uri), measured, card, name, store)
    numbers, disjoint = found.numbers(), found.disjoint()

    # Show.
    if json_file != "-":
        protocol = found.settings.protocol
        generated = ", synthetic data" if store.generated else ""
        title = f"{found.final.method.title} on {card.title}, features {name}{generated}"
        rows_table(
            out, title, ["S", "U", "HM", "ZSL", "beta"], [[f"{value:.2f}" for value in numbers.values()]]
        )
        weights = "published weights" if found.final.origin == "published" else "our own weights"
        out.print_line(
            f"[dim]Mean per-class accuracy in % of {weights}; mode {protocol.mode}, "
            f"class-to-embedding assignment {protocol.text_alignment}; beta selected by "
            f"model A on validation (HM {100 * found.validation['hm']:.2f}). MLflow run {found.run_id}.[/]"
        )
        if disjoint:
            out.print(
                f"Without test-seen samples from source videos in training: {_disjoint_text(disjoint)}",
                highlight=False,
            )
        for note in found.notes:
            out.print_line(f"note: {note}")
    for note in found.notes if json_file == "-" else ():
        err.print_line(f"note: {note}")
    emit(json_file, {**numbers, **({"disjoint": disjoint} if disjoint else {})})


def _disjoint_text(numbers: dict[str, float]) -> str:
    if not numbers["samples"]:
        return "none remain"
    remain = f"{numbers['samples']:.0f} samples of {numbers['classes']:.0f} classes"
    return f"S {numbers['seen']:.2f}  HM {numbers['hm']:.2f}  ({remain})"


def export(
    to: Annotated[
        Path,
        typer.Option(
            callback=local, metavar="DIR", help="Output folder; each trained model gets a folder in it."
        ),
    ],
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            "--call",
            metavar="ID",
            help="Benchmark run: its id or the beginning of it; see list --runs. (default: the newest)",
        ),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Comma-separated methods. (default: all of the run)")
    ] = None,
    json_file: Json = None,
    runs_dir: RunsDir = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Export the trained weights of a benchmark run, both stages, as safetensors with a configuration."""
    from benchmark.running.export import export as copy

    names = [name.strip() for name in (methods or "").split(",") if name.strip()]
    try:
        exported = copy(existing_tracker_of(runs_dir, tracking_uri), runs_dir, to, run, names)
    except OSError as error:
        raise UsageError(f"--to {to}: cannot be written ({error.strerror or error})") from None
    if json_file != "-":
        for training in exported:
            out.print_line(str(training.folder))
        out.print_line(
            f"[dim]Trained models: {len(exported)}. To test one: {program()} evaluate "
            "--stage-a FOLDER/stage_a --stage-b FOLDER/stage_b --dataset NAME[/]"
        )
    emit(json_file, [str(training.folder) for training in exported])
