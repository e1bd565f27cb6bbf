"""The ``extract`` commands: extract features from videos, list weights, embed class names."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
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
    plan = make_plan(card, name, folder, lists, vectors, segments)

    # The weights are part of the identity of the results. Each process reads them itself.
    loaded = load_weights(extractor, weights or [], random=random_weights)
    target = store_path(data_root, card.name, name)
    place = work or target.with_name(f"{target.name}.extract")
    results = ResultFolder(place, identity(extractor, loaded.record, quirks, precision), no_audio)
    generated = loaded.generated or card.kind == "generated"
    del loaded
    refuse_to_spoil(target, generated)
    extraction = _Extraction(card, name, plan, results, target, dtype, generated, json_file == "-")
    spec = ExtractionSpec(
        name, plugin or [], weights or [], random_weights, quirks, precision, plan.videos, results
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

    devices = [_device(name) for name in device.split(",")]
    if spec.precision == "float16" and "cpu" in devices:
        raise UsageError("--precision float16: no faster on a CPU; give bfloat16, or a GPU (--device cuda)")
    each = decoders or default_decoders(devices)
    try:
        with counted(out, err) as show:
            return extract_on(extraction.plan, shard, spec, devices, each, show)
    except KeyboardInterrupt:
        err.print("Interrupted. Rerun the same command to resume.")
        raise typer.Exit(INTERRUPTED) from None


def _device(name: str) -> str:
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
    from benchmark.data.importing.places import official_places
    from benchmark.data.store import FeatureStore
    from benchmark.extract.official_files import write_official

    return write_official(
        FeatureStore(extraction.target), extraction.plan.root, official_places(extraction.card), rate, folder
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


def names(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of a dataset.")],
    lists: Annotated[
        Path,
        typer.Option(
            "--lists", metavar="DIR", help="Folder in the official layout: class-split/ has the names."
        ),
    ],
    target: Annotated[
        Path,
        typer.Option("--to", callback=local, metavar="FILE", help="The .npy file to write, for --vectors."),
    ],
    dataset_config: DatasetConfig = None,
    json_file: Json = None,
) -> None:
    """Embed the class names with all-MiniLM-L6-v2 (384-dimensional), and save them as a .npy file."""
    from benchmark.data.cards import find_card, load_cards
    from benchmark.extract.networks.sentences import DIM, write_class_vectors

    card, _ = find_card(dataset, load_cards(files=dataset_config or []))
    count = write_class_vectors(card, lists, target)
    if json_file != "-":
        out.print_line(f"{target}: {count} class names, {DIM}-dimensional")
    emit(json_file, {"file": str(target), "names": count, "dim": DIM})


def weights_(
    name: Annotated[
        str | None, typer.Argument(metavar="EXTRACTOR", help="Name of an extractor. (default: all)")
    ] = None,
    weights: WeightsOption = None,
    plugin: ExtractorPlugin = None,
    json_file: Json = None,
) -> None:
    """List the weights that extractors need, or check weight files and show their sha256."""
    from benchmark.extract.extractor import find_extractor, load_extractors

    if weights and name is None:
        raise UsageError(
            "extract weights --weights: name the extractor too, such as: extract weights cls --weights DIR"
        )
    chosen = [find_extractor(name, plugin or [])] if name else list(load_extractors(plugin or []).values())
    described = [entry for extractor in chosen for entry in _describe(extractor, weights or [])]
    if json_file != "-":
        columns = ["extractor", "name", "usual file", "what", "published at", "tensors", "numbers"]
        rows = [[*list(e.values())[:5], len(e["tensors"]), f"{e['numbers']:,}"] for e in described]
        rows_table(out, "Weights", columns, rows)
        checked = [
            (e["name"], e["file"] or "not given", e["sha256"] or "", e["licence"] or "") for e in described
        ]
        if weights or any(e["file"] for e in described):
            rows_table(out, "Files with the expected content", ["name", "file", "sha256", "licence"], checked)
        if name and not weights:
            for entry in described:
                tensors = [
                    (n, " x ".join(map(str, shape)) or "one number") for n, shape in entry["tensors"].items()
                ]
                rows_table(out, f"{entry['name']}: {entry['what']}", ["tensor", "shape"], tensors)
    emit(json_file, described)


def _describe(extractor: type[Extractor], given: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each file must hold; its name and sha256 if a valid one is given."""
    from benchmark.extract.weights_files import given_files, read_file

    files = given_files(extractor, given)
    for needed in extractor.weights_files:
        expected = extractor.expected(needed.name)
        record = read_file(extractor, needed, files[needed.name])[1] if needed.name in files else {}
        yield {
            "extractor": extractor.name,
            "name": needed.name,
            "usual file": needed.file,
            "what": needed.what,
            "published at": needed.published,
            "licence": needed.package.licence if needed.package else None,
            "tensors": {name: list(x.shape) for name, x in expected.items()},
            "numbers": sum(x.numel() for x in expected.values()),
            "file": str(files[needed.name]) if needed.name in files else None,
            "sha256": record.get("sha256"),
        }
