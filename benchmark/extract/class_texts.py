"""Class embeddings by the text encoders of an extractor, written as a file for ``--vectors``."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.data.cards import Card
from benchmark.data.importing.class_lists import manual_names
from benchmark.data.importing.importing import Progress
from benchmark.data.importing.places import ListPlaces, official_places, official_root
from benchmark.data.importing.word_vectors import write_word_vectors
from benchmark.data.names import composed
from benchmark.errors import UsageError
from benchmark.extract.extractor import Extractor
from benchmark.extract.weights_files import ExtractorWeights
from benchmark.system.files import outside_reason

CLIP_TABLES = "*_clip_class_names.csv"
"""Files in ``class-split`` with the class names of CLIP's authors, as in ClipClap's folder of UCF."""
CLIP_NAME = "clip_class_name"


@dataclass(frozen=True)
class ClassTexts:
    """The texts that stand for classes."""

    keys: Sequence[str]
    """Sorted manual names, by which the class embeddings are found."""
    texts: Sequence[str]
    """What is embedded for each."""
    source: str
    """The file and the column of the texts."""


def class_texts(card: Card, lists: Path) -> ClassTexts:
    """The texts of a dataset's classes: its column ``clip_class_name``, or the manual names without one.

    Args:
        card: the dataset.
        lists: folder in the official layout, whose tables of class names are read.

    Raises:
        ImportProblems: the table of class names is missing or broken.
        UsageError: the table with the column ``clip_class_name`` cannot be read.
    """
    places = ListPlaces(official_root(card, lists), "", official_places(card), [])
    keys = manual_names(places)
    tables = sorted((places.root / "class-split").glob(CLIP_TABLES))
    if not tables:
        return ClassTexts(keys, keys, f"{places.layout.names_file}, column manual")
    clip_names = _clip_names(tables[0])
    return ClassTexts(
        keys, [clip_names.get(key, key) for key in keys], f"{tables[0].name}, column {CLIP_NAME}"
    )


def _clip_names(path: Path) -> Mapping[str, str]:
    """Manual name -> the name in the column ``clip_class_name``."""
    try:
        text = composed(path.read_text(encoding="utf-8-sig"))
        rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
        return {row["manual"].strip(): row[CLIP_NAME].strip() for row in rows}
    except OSError as error:
        raise UsageError(f"{path}: {outside_reason(error, path) or error.strerror}") from None
    except (KeyError, AttributeError, UnicodeDecodeError, csv.Error):
        raise UsageError(
            f"{path}: needs columns manual and {CLIP_NAME}, in UTF-8 and without gaps; correct or remove it"
        ) from None


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
    count = len(classes.texts)
    embeddings = extractor.class_embeddings(
        loaded.states, classes.texts, card.name, quirks, device, lambda done: progress("classes", done, count)
    )
    try:
        write_word_vectors(target, classes.keys, embeddings)
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
        "classes": [list(classes.keys), list(classes.texts)],
    }
    sha = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return f"class-embeddings-{sha[:16]}.npy"
