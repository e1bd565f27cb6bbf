"""Class embeddings by the text encoders of an extractor, written as a file for ``--vectors``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.data.cards import Card
from benchmark.data.importing.class_lists import manual_names
from benchmark.data.importing.importing import Progress
from benchmark.data.importing.places import list_places
from benchmark.data.importing.word_vectors import write_word_vectors
from benchmark.errors import UsageError
from benchmark.extract.extractor import Extractor
from benchmark.extract.weights_files import ExtractorWeights
from benchmark.system.files import outside_reason


@dataclass(frozen=True)
class ClassTexts:
    """The names of a dataset's classes, which are embedded and by which the embeddings are found."""

    names: Sequence[str]
    """Sorted."""
    source: str
    """The file and the column that has them."""


def class_texts(card: Card, features: str, lists: Path) -> ClassTexts:
    """The names of all classes of a feature set.

    Args:
        card: the dataset.
        features: name of the feature set, whose config may name a table of its own.
        lists: folder in the official layout, whose table of class names is read.

    Raises:
        ImportProblems: the table is missing or broken.
    """
    places = list_places(card, features, lists, None)
    return ClassTexts(manual_names(places), f"{places.names_table.name}, column {places.name_column}")


def write_class_embeddings(
    extractor: type[Extractor],
    loaded: ExtractorWeights,
    quirks: frozenset[str],
    card: Card,
    classes: ClassTexts,
    device: str,
    target: Path,
    progress: Progress,
) -> None:
    """Write the class embeddings of a dataset in the published form, a dict in a ``.npy``.

    Raises:
        UsageError: a library is not installed, or the file cannot be written.
    """
    count = len(classes.names)
    embeddings = extractor.class_embeddings(
        loaded.states, classes.names, card.name, quirks, device, lambda done: progress("classes", done, count)
    )
    try:
        write_word_vectors(target, classes.names, embeddings)
    except OSError as error:
        why = outside_reason(error, target) or f"{error.strerror or error}; choose another folder"
        raise UsageError(f"{target}: cannot be written: {why}") from None


def embeddings_name(
    extractor: type[Extractor],
    loaded: ExtractorWeights,
    quirks: frozenset[str],
    card: Card,
    classes: ClassTexts,
) -> str:
    """A file name with a hash of all that determines the class embeddings."""
    made_of = {
        "extractor": [extractor.name, extractor.version],
        "weights": {name: record.get("sha256") for name, record in loaded.record.items()},
        "quirks": sorted(quirks),
        "dataset": card.name,
        "classes": list(classes.names),
    }
    sha = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return f"class-embeddings-{sha[:16]}.npy"
