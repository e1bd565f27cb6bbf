"""Where feature stores lie, and building those that need no download.

Belongs here: paths, locks, and whether a built store is still the one that its card describes. How data are built is in
``data/built/stamps.py`` and ``data/built/synthetic.py``; published features are imported by command, never at first use.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.data.built.stamps import build_stamps, stamps_provenance
from benchmark.data.built.synthetic import build_synthetic, synthetic_config, synthetic_provenance
from benchmark.data.cards import CARDS_DIR, Card
from benchmark.data.store import DamagedStore, FeatureStore
from benchmark.errors import UsageError
from benchmark.system.files import OutsideError, check_replaceable, file_lock, raise_outside, remove_partials
from benchmark.system.shipped_files import program

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Recipe:
    """How a store is built and what its provenance will be."""

    path: Path
    provenance: dict[str, Any]
    build: Callable[[Path], None]


def store_path(data_root: Path, dataset: str, features: str) -> Path:
    """The store of a data set and feature set: ``<data_root>/<dataset>-<features>.h5``."""
    return data_root / f"{dataset}-{features}.h5"


def open_or_build(
    card: Card,
    features: str | None,
    data_root: Path,
    *,
    in_memory: bool = False,
    overrides: Mapping[str, Any] | None = None,
    sources: Path = CARDS_DIR,
) -> FeatureStore:
    """Open the store of a data set; build it first where the card has a builder and no current store is there.

    A store is current when its provenance is what the source, the builder and the card give today. Two processes that
    ask at once build it once. Settings of generated data that differ from the card's get a file of their own.

    Args:
        card: the data set.
        features: feature set; None for the card's default one.
        data_root: folder of the stores.
        in_memory: read the arrays instead of mapping them.
        overrides: settings of generated data that replace the card's.
        sources: folder with the shipped sources, by data set name.

    Raises:
        UsageError: the store is missing and cannot be built, is damaged, holds another data set, or a setting is wrong.
        Unavailable: the store cannot be read or built for another reason, which may pass: it is left as it is.
    """
    name, _ = card.feature_set(features)
    if overrides and card.builder != "synthetic":
        raise UsageError(f"data set {card.name!r} is not generated: its settings cannot be overridden ({', '.join(overrides)})")
    if card.builder is None:
        return _open(card, name, store_path(data_root, card.name, name), in_memory)
    if name != card.default_features:
        raise UsageError(f"data set {card.name!r}: only the feature set {card.default_features!r} can be built, not {name!r}")
    recipe = _recipe(card, data_root, overrides or {}, sources)
    if not _is_current(recipe):
        check_replaceable(recipe.path)
        with file_lock(recipe.path.with_name(f".{recipe.path.name}.lock")):
            if not _is_current(recipe):
                remove_partials(recipe.path)
                log.info("building %s", recipe.path)
                try:
                    recipe.build(recipe.path)
                except (OSError, MemoryError) as error:
                    raise_outside(error, recipe.path)
                    raise
    return FeatureStore(recipe.path, in_memory=in_memory)


def _open(card: Card, features: str, path: Path, in_memory: bool) -> FeatureStore:
    try:
        store = FeatureStore(path, in_memory=in_memory)
    except OutsideError as error:
        if error.reason.kind != "missing":
            raise
        how = f"{card.obtain.strip()}\n" if card.obtain else ""
        raise UsageError(
            f"no features of data set {card.name!r} ({features}): looked for {path}\n{how}"
            f"then import them: {program()} data import {card.name} --features {features} --from DIR "
            f"--data-root {path.parent}\n(or point --data-root to the folder that has {path.name})"
        ) from None
    if (store.dataset, store.features) != (card.name, features):
        raise UsageError(
            f"{path}: holds {store.dataset!r} ({store.features}), not {card.name!r} ({features}); import it again or rename it"
        )
    _tell_other_sizes(card, store)
    return store


def _tell_other_sizes(card: Card, store: FeatureStore) -> None:
    """Warn of a store whose features have other sizes than its card names: one of the two is not what it should be."""
    _, expected = card.feature_set(store.features)
    sizes = {
        "audio": (store.audio_dim, expected.audio.dim),
        "video": (store.video_dim, expected.video.dim),
        "text": (store.text_dim, expected.text_dim),
    }
    wrong = ", ".join(f"{what} {found}, not {wanted}" for what, (found, wanted) in sizes.items() if found != wanted)
    if wrong:
        log.warning(
            "%s: other feature sizes than the card of %r (%s): %s; correct the card, or import the features that it describes",
            *(store.path, card.name, store.features, wrong),
        )


def _recipe(card: Card, data_root: Path, overrides: Mapping[str, Any], sources: Path) -> _Recipe:
    path = store_path(data_root, card.name, card.default_features)
    if card.builder == "stamps":
        source = sources / card.name
        return _Recipe(path, stamps_provenance(card, source), lambda target: build_stamps(card, source, target))
    config = synthetic_config(card, overrides)
    if config != synthetic_config(card):
        settings = json.dumps(config.model_dump(mode="json"), sort_keys=True)
        path = path.with_stem(f"{path.stem}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}")
    return _Recipe(path, synthetic_provenance(card, config), lambda target: build_synthetic(card, target, **overrides))


def _is_current(recipe: _Recipe) -> bool:
    """Whether the store is there and of the same provenance as a store built now; not if it is missing or damaged.

    Raises:
        OutsideError, Unavailable: it cannot be read, though it may be sound.
    """
    try:
        found = FeatureStore(recipe.path).provenance
    except OutsideError as error:
        if error.reason.kind not in ("missing", "link"):  # of a link, writing tells whether it is good
            raise
        return False
    except DamagedStore as error:
        log.warning("%s; building it again", error)
        return False
    if found == json.loads(json.dumps(recipe.provenance)):
        return True
    log.info("%s was built from another source or with other settings; building it again", recipe.path)
    return False
