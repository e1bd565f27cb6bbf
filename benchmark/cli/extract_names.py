"""The ``extract`` commands besides ``videos``: list weights, embed class names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.extract import ExtractorPlugin, WeightsOption, torch_device
from benchmark.cli.options import DatasetConfig, Features, Json, local
from benchmark.cli.progress import counted
from benchmark.cli.terminal import emit, err, out, rows_table
from benchmark.errors import UsageError

if TYPE_CHECKING:
    from benchmark.data.cards import Card
    from benchmark.extract.extractor import Extractor


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
    features: Features = None,
    dataset_config: DatasetConfig = None,
    weights: WeightsOption = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Dry run with random weights, of --features.")
    ] = False,
    published_preprocessing: Annotated[
        bool,
        typer.Option(
            "--published-preprocessing", help="Reproduce the known deviations of the published texts."
        ),
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda, mps, of --features.")
    ] = "auto",
    plugin: ExtractorPlugin = None,
    json_file: Json = None,
) -> None:
    """Embed the class names, and save them as a .npy file for --vectors.

    By default with all-MiniLM-L6-v2 (384-dimensional); with --features by that feature set's own encoders.
    """
    from benchmark.data.cards import find_card, load_cards
    from benchmark.extract.networks.sentences import DIM, write_class_vectors

    card, _ = find_card(dataset, load_cards(files=dataset_config or []))
    if features is None:
        if weights or random_weights or published_preprocessing or plugin:
            raise UsageError("extract names: --weights and other options of encoders need --features")
        count, dim, source = write_class_vectors(card, lists, target), DIM, None
    else:
        options = _TextOptions(features, weights or [], random_weights, published_preprocessing, device)
        count, dim, source = _names_by_extractor(card, lists, target, options, plugin or [])
    if json_file != "-":
        out.print_line(
            f"{target}: {count} class names, {dim}-dimensional" + (f" ({source})" if source else "")
        )
    emit(json_file, {"file": str(target), "names": count, "dim": dim})


@dataclass(frozen=True)
class _TextOptions:
    """Options of ``extract names`` for the encoders of a feature set."""

    features: str
    weights: Sequence[str]
    random_weights: bool
    published: bool
    device: str


def _names_by_extractor(
    card: Card, lists: Path, target: Path, options: _TextOptions, plugins: Sequence[Path]
) -> tuple[int, int, str]:
    """Write the class embeddings of a feature set's own encoders; their number, dimension and texts."""
    from benchmark.extract.class_texts import class_texts, write_class_embeddings
    from benchmark.extract.extraction import chosen_quirks
    from benchmark.extract.extractor import find_extractor
    from benchmark.extract.weights_files import load_weights

    name, feature_set = card.feature_set(options.features)
    extractor = find_extractor(name, plugins)
    if not extractor.embeds_names:
        raise UsageError(f"--features {name}: has no encoder of texts; omit the option for all-MiniLM-L6-v2")
    quirks: frozenset[str] = frozenset()
    if options.published:
        quirks = chosen_quirks(extractor, feature_set.published_quirks, card.name)
    classes = class_texts(card, name, lists)
    loaded = load_weights(extractor, options.weights, random=options.random_weights)
    with counted(out, err) as show:
        device = torch_device(options.device)
        write_class_embeddings(extractor, loaded, quirks, card, classes, device, target, show)
    return len(classes.names), feature_set.text_dim, classes.source


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
            "licence": needed.package.licence if needed.package else needed.licence or None,
            "tensors": {name: list(x.shape) for name, x in expected.items()},
            "numbers": sum(x.numel() for x in expected.values()),
            "file": str(files[needed.name]) if needed.name in files else None,
            "sha256": record.get("sha256"),
        }
