"""Where the files of the official layout are."""

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
    """Where the lists of one feature set lie."""

    root: Path
    """The data set folder, which has ``class-split``."""
    features: str
    layout: OfficialLayout
    text_files: Sequence[Path]
    """Where the word vectors may lie, the preferred place first."""
    vectors: Path | None = None
    """File given for them instead, see ``word_vectors.py``."""

    @property
    def all_classes(self) -> Path:
        return self.root / "class-split" / "all_class.txt"

    def split_file(self, split: str, kind: str) -> Path:
        return self.root / "class-split" / f"{self.features}_split" / f"{split}.{kind}"

    def shown(self, path: Path) -> str:
        """A path as messages show it: relative to the data set folder, or in full where it lies elsewhere."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def list_files(self) -> list[Path]:
        """All list files that are there, word vectors included."""
        splits = [self.split_file(split, kind) for split in (*SPLITS, UNION_SPLIT) for kind in ("txt", "csv")]
        table = self.root / "class-split" / self.layout.names_file
        text = None if self.vectors else next((path for path in self.text_files if path.is_file()), None)
        files = [self.all_classes, table, *splits, *([text] if text else [])]
        return [path for path in files if path.is_file()]


Form = Literal["sequences", "means"]


SUFFIX: Mapping[Form, str] = {"sequences": ".pkl", "means": ".h5"}
FOLDER: Mapping[Form, str] = {"sequences": "{}_features_non_averaged", "means": "{}_features"}


def official_root(card: Card, source: Path) -> Path:
    """The data set folder, which has ``class-split``: ``source`` or the folder of the card's name in it.

    Raises:
        UsageError: neither has it, or the card has no official layout.
    """
    candidates = (source, source / official_places(card).folder)
    root = next((path for path in candidates if (path / "class-split").is_dir()), None)
    if root is None:
        raise UsageError(
            f"{source}: no folder in the official layout: neither it nor {candidates[1].name}/ in it has class-split/\n"
            f"{card.obtain.strip()}"
        )
    return root.resolve()


def official_places(card: Card) -> OfficialLayout:
    """What the card says of the official layout.

    Raises:
        UsageError: it says nothing.
    """
    if card.official is None:
        raise UsageError(f"data set {card.name!r} has no official layout (its card names none): it cannot be imported")
    return card.official


VECTORS_FOLDER = "w2v_features"
"""Where the published code bases keep the word vectors, beside the folder of the data sets."""


def list_places(card: Card, features: str, source: Path, vectors: Path | None) -> ListPlaces:
    """Where the lists of a feature set and the word vectors lie.

    Args:
        source: folder in the official layout.
        vectors: file of the word vectors, see ``data/importing/word_vectors.py``; those of the layout are looked for if None.

    Raises:
        UsageError: there is no such folder or file.
    """
    given = check_vectors_file(vectors) if vectors is not None else None
    root, layout = official_root(card, source), official_places(card)
    return ListPlaces(root, features, layout, text_places(root, source, features, layout.text_file), given)


def text_places(root: Path, source: Path, features: str, text_file: str) -> list[Path]:
    """Where word vectors may lie: ``features/*/text/``, those of the feature set first, then ``w2v_features/`` in the
    folder, its parent and its grandparent, as in the published code bases."""
    folders = {FOLDER[form].format(features) for form in FOLDER}
    found = sorted(root.glob(f"features/*/text/{text_file}"), key=lambda path: (path.parts[-3] not in folders, path))
    bases = [base for start in (source.resolve(), root) for base in (start, *start.parents[:2])]
    return [*found, *(base / VECTORS_FOLDER / text_file for base in dict.fromkeys(bases))]
