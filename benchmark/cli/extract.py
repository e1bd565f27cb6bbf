"""The command ``extract videos``: extract features from videos."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from benchmark.cli.help import Group
from benchmark.cli.options import DataRoot, DatasetConfig, Features, Json, Vectors, local
from benchmark.cli.progress import counted
from benchmark.cli.terminal import INTERRUPTED, SOME_FAILED, emit, err, out, rows_table
from benchmark.errors import UsageError

if TYPE_CHECKING:
    from benchmark.data.cards import Card
    from benchmark.extract.assembly import Assembled
    from benchmark.extract.devices import ExtractionSpec
    from benchmark.extract.extraction import Extracted, Shard
    from benchmark.extract.extractor import Extractor
    from benchmark.extract.plan import Plan, ProblemRow
    from benchmark.extract.results import Outcome, ResultFolder
    from benchmark.extract.weights_files import ExtractorWeights

SCREEN_ROWS = 30
"""Rows of the table of problems on the screen; the file has all of them."""
PROBLEMS = "problems.csv"

WeightsOption = Annotated[
    list[str] | None,
    typer.Option("--weights", metavar="PATH", help="Folder of weights, or NAME=FILE (repeatable)."),
]
ExtractorPlugin = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Python file with an extractor (repeatable)."),
]


class DefaultVideos(Group):
    """A command group that runs ``videos`` if the first argument is not the name of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["videos", *args]
        return super().parse_args(ctx, args)


def videos(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of a dataset.")],
    folder: Annotated[
        Path,
        typer.Option(
            "--videos", metavar="DIR", help="Folder of the videos, named after their samples, at any depth."
        ),
    ],
    lists: Annotated[
        Path,
        typer.Option(
            "--lists", metavar="DIR", help="Folder in the official layout: class-split/ and class embeddings."
        ),
    ],
    features: Features = None,
    dataset_config: DatasetConfig = None,
    weights: WeightsOption = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights", help="Dry run with random weights; the output is marked as synthetic."
        ),
    ] = False,
    published_preprocessing: Annotated[
        bool,
        typer.Option(
            "--published-preprocessing",
            help="Reproduce the known deviations of the published extraction.",
        ),
    ] = False,
    no_audio: Annotated[
        Literal["skip", "zeros"],
        typer.Option("--no-audio", "--no-sound", help="Videos without audio: skip them, or use silence."),
    ] = "skip",
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N", help="Extract shard K of N only, such as 3/16; --merge writes the feature file."
        ),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Write the feature file of all shards.")] = False,
    segments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="ActivityNet-style annotation file; clips are cut from full videos."
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            callback=local,
            metavar="DIR",
            help="Folder of per-video results. (default: the feature file's name with .extract)",
        ),
    ] = None,
    frames: Annotated[
        int,
        typer.Option(help="Evenly spaced frames of each video, for features of single frames.", min=1),
    ] = 1,
    vectors: Vectors = None,
    official: Annotated[
        Path | None,
        typer.Option(
            "--write-official-layout", metavar="DIR", help="Also write the official layout, to this folder."
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16"], typer.Option(help="Type of the stored features.")
    ] = "float32",
    device: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="auto, cpu, cuda, cuda:1, mps; or several, such as cuda:0,cuda:1 or cpu,cpu.",
        ),
    ] = "auto",
    precision: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(help="Network precision. Results cached at another precision are recomputed."),
    ] = "float32",
    decoders: Annotated[
        int | None,
        typer.Option(
            help="Videos decoded in parallel per device. (default: 1 on a CPU, up to 8 on a GPU)", min=1
        ),
    ] = None,
    plugin: ExtractorPlugin = None,
    json_file: Json = None,
    data_root: DataRoot = Path("data"),
) -> None:
    """Extract features of all listed videos into a feature file. Resumes after an interruption."""
    from benchmark.data.cards import find_card, load_cards
    from benchmark.data.locate import store_path
    from benchmark.extract.assembly import refuse_to_spoil
    from benchmark.extract.devices import ExtractionSpec
    from benchmark.extract.extraction import Shard, chosen_quirks, identity
    from benchmark.extract.extractor import find_extractor
    from benchmark.extract.plan import make_plan
    from benchmark.extract.results import ResultFolder
    from benchmark.extract.weights_files import load_weights

    if official is not None and shard is not None:
        raise UsageError(
            "--write-official-layout and --shard: give it with --merge, once all shards are extracted"
        )
    if merge and shard is not None:
        raise UsageError("--merge and --shard: extract all shards first, then merge them")

    # The dataset, its extractor, and the videos that the lists name.
    share = Shard.parse(shard) if shard is not None else Shard()
    card, _ = find_card(dataset, load_cards(files=dataset_config or []))
    name, feature_set = card.feature_set(features)
    extractor = find_extractor(name, plugin or [])
    _check_dims(card, name, extractor)
    quirks: frozenset[str] = frozenset()
    if published_preprocessing:
        quirks = chosen_quirks(extractor, feature_set.published_quirks, card.name)
    _check_options(extractor, frames, official, published=published_preprocessing)
    target = store_path(data_root, card.name, name)
    place = work or target.with_name(f"{target.name}.extract")

    # The class embeddings are given, or those of the layout, or computed by the extractor.
    quiet = json_file == "-"
    loaded = None
    if extractor.embeds_names and vectors is None:
        if not folder.is_dir():
            raise UsageError(f"--videos {folder}: no such folder")
        loaded = load_weights(extractor, weights or [], random=random_weights)
        vectors = _class_embeddings(extractor, loaded, quirks, card, lists, device, place, quiet=quiet)
    plan = make_plan(card, name, folder, lists, vectors, segments)

    # The weights are part of the identity of the results. Each process reads them itself.
    loaded = loaded or load_weights(extractor, weights or [], random=random_weights)
    made_of = identity(extractor, loaded.record, quirks, precision, frames)
    results = ResultFolder(place, made_of, no_audio)
    generated = loaded.generated or card.kind == "generated"
    del loaded
    refuse_to_spoil(target, generated)
    extraction = _Extraction(card, name, plan, results, target, dtype, generated, quiet)
    spec = ExtractionSpec(
        name, plugin or [], weights or [], random_weights, quirks, precision, plan.videos, results, frames
    )

    # Extract, or collect the results of all shards; a shard alone makes no feature file.
    done = _merge(extraction) if merge else _extract(extraction, share, spec, device, decoders)
    rows, assembled = done.rows, None
    if shard is None:
        rows = [*plan.rows, *rows]
        assembled = _assemble(extraction, done.outcomes, rows)
        rows = [*rows, *assembled.rows]
    written = None
    if official is not None:
        written = str(_write_official(extraction, extractor.timed(quirks).rate or 0, official))

    # What was wrong and what was made, as tables, as a file and as JSON.
    table = f"problems-{share.number}-of-{share.of}.csv" if shard else PROBLEMS
    _show_problems(rows, place / table, quiet=extraction.quiet)
    if not extraction.quiet:
        _show_result(extraction, shard, done, assembled)
        if written is not None:
            out.print_line(f"{written}: the same in the official layout")
    emit(json_file, {**_as_json(extraction, shard, done, assembled, rows), "official": written})
    if any(row.left_out for row in rows):
        raise typer.Exit(SOME_FAILED)


def _check_options(
    extractor: type[Extractor], frames: int, official: Path | None, *, published: bool
) -> None:
    """Check that the extractor has what some options ask for."""
    if frames != 1 and not extractor.several_frames:
        raise UsageError(f"--frames: {extractor.name!r} uses all frames of a video; omit the option")
    if frames != 1 and published:
        raise UsageError("--frames and --published-preprocessing: the published extraction used one frame")
    if official is not None and frames != 1:
        raise UsageError(
            "--frames and --write-official-layout: the published layout has one vector per sample"
        )


def _class_embeddings(
    extractor: type[Extractor],
    loaded: ExtractorWeights,
    quirks: frozenset[str],
    card: Card,
    lists: Path,
    device: str,
    place: Path,
    *,
    quiet: bool,
) -> Path:
    """The file of the class embeddings by the extractor, which are computed unless an earlier run did so."""
    from benchmark.extract.class_texts import class_texts, embeddings_name, write_class_embeddings

    classes = class_texts(card, extractor.name, lists)
    path = place / embeddings_name(extractor, loaded, quirks, card, classes)
    if not path.is_file():
        first = torch_device(device.split(",")[0])
        with counted(out, err) as show:
            write_class_embeddings(extractor, loaded, quirks, card, classes, first, path, show)
    if not quiet:
        out.print_line(f"{path}: class embeddings of {len(classes.names)} names ({classes.source})")
    return path


@dataclass(frozen=True)
class _Extraction:
    """What one run of the command extracts."""

    card: Card
    features: str
    plan: Plan
    results: ResultFolder
    target: Path
    dtype: Literal["float32", "float16"]
    generated: bool
    quiet: bool


def _check_dims(card: Card, name: str, extractor: type[Extractor]) -> None:
    for what, dim, seconds, wanted in (
        ("audio", extractor.audio_dim, extractor.audio_seconds, card.features[name].audio),
        ("video", extractor.video_dim, extractor.video_seconds, card.features[name].video),
    ):
        if (dim, seconds) != (wanted.dim, wanted.seconds):
            raise UsageError(
                f"dataset {card.name!r}, features {name}: the config has {what} of {wanted.dim} numbers per "
                f"{wanted.seconds:g} s, the extractor computes {dim} per {seconds:g} s; correct the config"
            )


def _extract(
    extraction: _Extraction, shard: Shard, spec: ExtractionSpec, device: str, decoders: int | None
) -> Extracted:
    from benchmark.extract.devices import default_decoders, extract_on

    devices = [torch_device(name) for name in device.split(",")]
    if spec.precision == "float16" and "cpu" in devices:
        raise UsageError("--precision float16: no faster on a CPU; give bfloat16, or a GPU (--device cuda)")
    each = decoders or default_decoders(devices)
    try:
        with counted(out, err) as show:
            return extract_on(extraction.plan, shard, spec, devices, each, show)
    except KeyboardInterrupt:
        err.print("Interrupted. Rerun the same command to resume.")
        raise typer.Exit(INTERRUPTED) from None


def torch_device(name: str) -> str:
    """The device of ``--device``.

    Raises:
        UsageError: it cannot be used.
    """
    import torch

    from benchmark.protocol.device import choose_device

    try:
        return str(torch.empty(0, device=choose_device(name)).device)
    except (UsageError, RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name}: cannot be used ({reason:.100}); give --device cpu") from None


def _merge(extraction: _Extraction) -> Extracted:
    from benchmark.extract.extraction import recorded

    with counted(out, err) as show:
        done, missing = recorded(extraction.plan, extraction.results, show)
    if missing:
        raise UsageError(
            f"{extraction.results.folder}: {len(missing):,} videos not tried with these options, among them "
            f"{missing[0].video}; extract all shards first, or omit --merge to extract them now"
        )
    return done


def _assemble(
    extraction: _Extraction, outcomes: Mapping[str, Outcome], rows: Sequence[ProblemRow]
) -> Assembled:
    """Write the feature file. If that fails, show the problems, which may be the reason."""
    from benchmark.extract.assembly import assemble

    try:
        return assemble(
            extraction.plan,
            extraction.card,
            extraction.features,
            extraction.results,
            outcomes,
            extraction.target,
            dtype=extraction.dtype,
            generated=extraction.generated,
        )
    except UsageError:
        _show_problems(rows, extraction.results.folder / PROBLEMS, quiet=extraction.quiet)
        raise


def _write_official(extraction: _Extraction, rate: int, folder: Path) -> Path:
    from benchmark.data.store import FeatureStore
    from benchmark.extract.official_files import write_official

    return write_official(
        FeatureStore(extraction.target), extraction.plan.root, extraction.card, rate, folder
    )


def _show_problems(rows: Sequence[ProblemRow], path: Path, *, quiet: bool) -> None:
    """Show the table of problems, and write it to a file."""
    from benchmark.extract.plan import ProblemRow
    from benchmark.system.files import replacing

    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f.name for f in fields(ProblemRow)])
        writer.writerows(astuple(row) for row in rows)
    if quiet or not rows:
        return
    ordered = sorted(rows, key=lambda row: not row.left_out)
    cells = [
        (row.sample, row.file, row.what, "left out" if row.left_out else "kept")
        for row in ordered[:SCREEN_ROWS]
    ]
    left_out = sum(row.left_out for row in rows)
    title = f"Problems: {left_out:,} left out, {len(rows) - left_out:,} notes"
    rows_table(out, title, ["sample", "file", "what", ""], cells)
    if len(rows) > SCREEN_ROWS:
        out.print_line(f"and {len(rows) - SCREEN_ROWS:,} more, see {path}")


def _show_result(
    extraction: _Extraction, shard: str | None, done: Extracted, assembled: Assembled | None
) -> None:
    left_out = sum(outcome.problem is not None for outcome in done.outcomes.values())
    before = f", {done.resumed:,} of them by earlier runs" if done.resumed else ""
    counts = f"{len(done.outcomes) - left_out:,} videos extracted and {left_out:,} left out{before}"
    out.print_line(f"{counts}; results of each in {extraction.results.folder}")
    failed = f"{done.again:,} videos failed for a reason that may pass" if done.again else ""
    if assembled is None:
        but = f" except that {failed}: repeat the command to try them again" if failed else ""
        then = f"when all shards are, give --merge instead of --shard to write {extraction.target}"
        out.print_line(f"shard {shard} is done{but}; {then}")
        return
    if failed:
        out.print_line(f"{failed}: repeat the command, without --merge, to try them again")
    state = "is there already" if assembled.already else "written"
    out.print_line(f"{extraction.target}: {state}, hash {assembled.digest[:16]}")
    listed = _listed(extraction)
    splits = assembled.splits.items()
    rows = [(split, n, listed[split], f"{100 * (1 - n / listed[split]):.1f} %") for split, n in splits]
    rows_table(out, "Splits", ["split", "samples", "listed", "missing"], rows)


def _listed(extraction: _Extraction) -> dict[str, int]:
    """Number of listed samples by split."""
    return {split: len(samples.kept()) for split, samples in extraction.plan.lists.splits.items()}


def _as_json(
    extraction: _Extraction,
    shard: str | None,
    done: Extracted,
    assembled: Assembled | None,
    rows: Sequence[ProblemRow],
) -> dict[str, Any]:
    return {
        "store": str(extraction.target) if assembled else None,
        "digest": assembled.digest if assembled else None,
        "splits": dict(assembled.splits) if assembled else None,
        "listed": _listed(extraction),
        "results": str(extraction.results.folder),
        "shard": shard,
        "extracted": len(done.outcomes) - done.resumed - done.again,
        "resumed": done.resumed,
        "problems": [asdict(row) for row in rows],
    }
