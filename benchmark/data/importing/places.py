"""Paths of the files of the official layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.data.cards import Card, OfficialLayout
from benchmark.data.importing.word_vectors import check_vectors_file
from benchmark.data.store import SPLITS
from benchmark.errors import UsageError

UNION_SPLIT = "stage_2_train"


@dataclass(frozen=True)
class ListPlaces:
    """Paths of the lists of one feature set."""

    root: Path
    """The dataset folder, which has ``class-split``."""
    features: str
    layout: OfficialLayout
    text_files: Sequence[Path]
    """Possible files of the word vectors, the preferred one first."""
    vectors: Path | None = None
    """File given with ``--vectors`` instead, see ``word_vectors.py``."""

    @property
    def all_classes(self) -> Path:
        return self.root / "class-split" / "all_class.txt"

    def split_file(self, split: str, kind: str) -> Path:
        return self.root / "class-split" / f"{self.features}_split" / f"{split}.{kind}"

    def shown(self, path: Path) -> str:
        """Return a path for messages: relative to the dataset folder, or in full if it is elsewhere."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def list_files(self) -> list[Path]:
        """Return all list files that exist, word vectors included."""
        splits = [self.split_file(split, kind) for split in (*SPLITS, UNION_SPLIT) for kind in ("txt", "csv")]
        table = self.root / "class-split" / self.layout.names_file
        text = None if self.vectors else next((path for path in self.text_files if path.is_file()), None)
        files = [self.all_classes, table, *splits, *([text] if text else [])]
        return [path for path in files if path.is_file()]


Form = Literal["sequences", "means"]
SUFFIX: Mapping[Form, str] = {"sequences": ".pkl", "means": ".h5"}
FOLDER: Mapping[Form, str] = {"sequences": "{}_features_non_averaged", "means": "{}_features"}


def official_root(card: Card, source: Path) -> Path:
    """Return the dataset folder, which has ``class-split``: ``source``, or the dataset's folder in it.

    Raises:
        UsageError: the folder does not exist, neither has it, or the dataset has no official layout.
    """
    if not source.exists():
        raise UsageError(f"{source}: no such folder\n{card.obtain.strip()}")
    candidates = (source, source / official_places(card).folder)
    root = next((path for path in candidates if (path / "class-split").is_dir()), None)
    if root is None:
        raise UsageError(
            f"{source}: not in the official layout: neither it nor {candidates[1].name}/ in it "
            f"has class-split/\n{card.obtain.strip()}"
        )
    return root.resolve()


def official_places(card: Card) -> OfficialLayout:
    """Return the official layout of a dataset config.

    Raises:
        UsageError: it has none.
    """
    if card.official is None:
        raise UsageError(
            f"dataset {card.name!r} has no official layout in its dataset config: it cannot be imported"
        )
    return card.official


VECTORS_FOLDER = "w2v_features"
"""Folder of the word vectors in the published code bases, beside the folder of the datasets."""


def list_places(card: Card, features: str, source: Path, vectors: Path | None) -> ListPlaces:
    """Find the lists of a feature set and the word vectors.

    Args:
        source: folder in the official layout.
        vectors: file of the word vectors, see ``word_vectors.py``; None to look for those of the layout.

    Raises:
        UsageError: there is no such folder or file.
    """
    given = check_vectors_file(vectors) if vectors is not None else None
    root, layout = official_root(card, source), official_places(card)
    return ListPlaces(root, features, layout, text_places(root, source, features, layout.text_file), given)


def text_places(root: Path, source: Path, features: str, text_file: str) -> list[Path]:
    """List where word vectors may be: in ``features/*/text/``, those of the feature set first, then in
    ``w2v_features/`` of the folder, its parent and its grandparent, as in the published code bases."""
    folders = {FOLDER[form].format(features) for form in FOLDER}
    found = sorted(
        root.glob(f"features/*/text/{text_file}"), key=lambda path: (path.parts[-3] not in folders, path)
    )
    bases = [base for start in (source.resolve(), root) for base in (start, *start.parents[:2])]
    return [*found, *(base / VECTORS_FOLDER / text_file for base in dict.fromkeys(bases))]
