"""Paths of the files of the official layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmark.data.cards import Card, FeatureSetLayout, OfficialLayout
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
    text_files: Sequence[Sequence[Path]]
    """Possible places of the class embeddings, the preferred one first. Each is the files of all parts."""
    vectors: Path | None = None
    """File given with ``--vectors`` instead, see ``word_vectors.py``."""
    own: FeatureSetLayout | None = None
    """The feature set's own layout, if it does not follow ``layout``."""
    text_parts: Sequence[int] = ()
    """Sizes of the parts of a class embedding; empty if it has no parts."""
    cached_text: Path | None = None
    """Cache of the published loader that has the class embeddings, if there are no files of them."""

    @property
    def all_classes(self) -> Path:
        return self.root / "class-split" / "all_class.txt"

    @property
    def names_table(self) -> Path:
        """The table of class names."""
        return self.root / "class-split" / (self.own or self.layout).names_file

    @property
    def name_column(self) -> str:
        """Column of the table with the names of the class embeddings."""
        return self.own.name_column if self.own else "manual"

    def split_file(self, split: str, kind: str) -> Path:
        folder = self.own.lists if self.own else f"{self.features}_split"
        return self.root / "class-split" / folder / f"{split}.{kind}"

    def found_text(self) -> Sequence[Path] | None:
        """Return the files of the class embeddings, one for each part; None if some are missing."""
        return next((files for files in self.text_files if all(path.is_file() for path in files)), None)

    def shown(self, path: Path) -> str:
        """Return a path for messages: relative to the dataset folder, or in full if it is elsewhere."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def list_files(self) -> list[Path]:
        """Return all list files that exist, files of class embeddings included."""
        splits = [self.split_file(split, kind) for split in (*SPLITS, UNION_SPLIT) for kind in ("txt", "csv")]
        text = () if self.vectors or self.cached_text else self.found_text() or ()
        return [path for path in (self.all_classes, self.names_table, *splits, *text) if path.is_file()]


Form = Literal["sequences", "means", "vectors", "cache"]
"""Published forms: class files of sequences, of temporal means, of one vector per sample; loader's caches."""
SUFFIX: Mapping[Form, str] = {"sequences": ".pkl", "means": ".h5", "vectors": ".pkl"}
FOLDER: Mapping[Form, str] = {"sequences": "{}_features_non_averaged", "means": "{}_features"}
"""Folders of the official layout, below ``features/``."""


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
"""Folder of the class embeddings in the published code bases, beside the folder of the datasets."""


def list_places(
    card: Card, features: str, source: Path, vectors: Path | None, text: Path | None = None
) -> ListPlaces:
    """Find the lists of a feature set and the class embeddings.

    Args:
        source: folder in the published layout.
        vectors: file of the class embeddings, see ``word_vectors.py``; None to look for those of the layout.
        text: a ``.npy`` file of whole class embeddings; None to look for those of the layout.

    Raises:
        UsageError: there is no such folder or file.
    """
    given = check_vectors_file(vectors) if vectors is not None else None
    root, layout = official_root(card, source), official_places(card)
    feature_set = card.features[features]
    places = ListPlaces(
        root,
        features,
        layout,
        [(text,)] if text is not None else text_places(card, features, source),
        given,
        feature_set.layout,
        list(feature_set.text_parts.values()),
    )
    if given or places.own is None or places.found_text() is not None:
        return places
    return replace(places, cached_text=smallest_cache(root, places.own))


def text_places(card: Card, features: str, source: Path) -> list[tuple[Path, ...]]:
    """List where class embeddings may be, with a file for each part.

    In ``features/*/text/``, those of the feature set first, then in ``w2v_features/`` of the folder, its
    parent and its grandparent, as in the published code bases.
    """
    root, feature_set = official_root(card, source), card.features[features]
    names = [official_places(card).text_file]
    folders = {FOLDER[form].format(features) for form in FOLDER}
    if feature_set.layout is not None:
        names = [feature_set.layout.text_files[part] for part in feature_set.text_parts]
        folders = {feature_set.layout.folder}
    found = sorted({path.parent for name in names for path in root.glob(f"features/*/text/{name}")})
    found.sort(key=lambda folder: folder.parent.name not in folders)
    bases = [base for start in (source.resolve(), root) for base in (start, *start.parents[:2])]
    places = [*found, *(base / VECTORS_FOLDER for base in dict.fromkeys(bases))]
    if feature_set.layout is not None:  # the published code has these in one place
        places = [root / "features" / feature_set.layout.folder / "text", *found]
    return [tuple(place / name for name in names) for place in dict.fromkeys(places)]


def smallest_cache(root: Path, layout: FeatureSetLayout) -> Path | None:
    """Return the smallest cache of the published loader, all of which hold the class embeddings."""
    paths = [root / layout.cache / name for name in layout.cache_files]
    return min((path for path in paths if path.is_file()), key=lambda path: path.stat().st_size, default=None)
