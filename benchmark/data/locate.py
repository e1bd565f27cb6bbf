"""Finds feature stores, and builds those that need no download.

This module has the paths, the locks, and the check that a built store matches its dataset config.
``data/built/`` builds the data. Published features are imported by a command, never at first use.
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
class _Build:
    """How to build a store, and the provenance that it will have."""

    path: Path
    provenance: dict[str, Any]
    build: Callable[[Path], None]


def store_path(data_root: Path, dataset: str, features: str) -> Path:
    """The path of a dataset's store for a feature set: ``<data_root>/<dataset>-<features>.h5``."""
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
    """Open the store of a dataset; build it first if the config has a builder and no current store exists.

    A store is current if its provenance is what the source, the builder and the config give today. Two
    processes at the same time build it once. Synthetic data whose settings differ from the config get their
    own file.

    Args:
        card: the dataset config.
        features: the feature set; None for the default.
        data_root: folder of the stores.
        in_memory: read the arrays instead of mapping them.
        overrides: settings of synthetic data that replace those of the config.
        sources: folder with the shipped sources, by dataset name.

    Raises:
        UsageError: the store is missing and cannot be built, is damaged, holds another dataset, or a setting
            is wrong.
        Unavailable: the store cannot be read or built for another reason, which may pass. It is not changed.
    """
    name, _ = card.feature_set(features)
    if overrides and card.builder != "synthetic":
        raise UsageError(
            f"dataset {card.name!r} is not synthetic: its settings cannot be overridden "
            f"({', '.join(overrides)})"
        )
    if card.builder is None:
        return _open(card, name, store_path(data_root, card.name, name), in_memory)
    if name != card.default_features:
        raise UsageError(
            f"dataset {card.name!r}: only the feature set {card.default_features!r} can be built, not "
            f"{name!r}"
        )
    plan = _plan(card, data_root, overrides or {}, sources)
    if not _is_current(plan):
        check_replaceable(plan.path)
        with file_lock(plan.path.with_name(f".{plan.path.name}.lock")):
            if not _is_current(plan):  # another process may have built it
                remove_partials(plan.path)
                log.info("building %s", plan.path)
                try:
                    plan.build(plan.path)
                except (OSError, MemoryError) as error:
                    raise_outside(error, plan.path)
                    raise
    return FeatureStore(plan.path, in_memory=in_memory)


def _open(card: Card, features: str, path: Path, in_memory: bool) -> FeatureStore:
    try:
        store = FeatureStore(path, in_memory=in_memory)
    except OutsideError as error:
        if error.reason.kind != "missing":
            raise
        how = f"{card.obtain.strip()}\n" if card.obtain else ""
        raise UsageError(
            f"no features of dataset {card.name!r} ({features}): looked for {path}\n{how}"
            f"Import: {program()} data import {card.name} --features {features} --from DIR "
            f"--data-root {path.parent}\n(or set --data-root to the folder with {path.name})"
        ) from None
    if (store.dataset, store.features) != (card.name, features):
        raise UsageError(
            f"{path}: holds {store.dataset!r} ({store.features}), not {card.name!r} ({features}); import it "
            "again or rename it"
        )
    _warn_of_other_sizes(card, store)
    return store


def _warn_of_other_sizes(card: Card, store: FeatureStore) -> None:
    """Warn of a store whose features have other sizes than in the dataset config: one of the two is wrong."""
    _, expected = card.feature_set(store.features)
    sizes = {
        "audio": (store.audio_dim, expected.audio.dim),
        "video": (store.video_dim, expected.video.dim),
        "text": (store.text_dim, expected.text_dim),
    }
    wrong = ", ".join(
        f"{what} {found}, not {wanted}" for what, (found, wanted) in sizes.items() if found != wanted
    )
    if wrong:
        log.warning(
            "%s: feature sizes differ from the dataset config of %r (%s): %s; "
            "correct the config, or import the features that it describes",
            store.path,
            card.name,
            store.features,
            wrong,
        )


def _plan(card: Card, data_root: Path, overrides: Mapping[str, Any], sources: Path) -> _Build:
    path = store_path(data_root, card.name, card.default_features)
    if card.builder == "stamps":
        source = sources / card.name
        return _Build(
            path, stamps_provenance(card, source), lambda target: build_stamps(card, source, target)
        )
    config = synthetic_config(card, overrides)
    if config != synthetic_config(card):
        settings = json.dumps(config.model_dump(mode="json"), sort_keys=True)
        path = path.with_stem(f"{path.stem}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}")
    return _Build(
        path, synthetic_provenance(card, config), lambda target: build_synthetic(card, target, **overrides)
    )


def _is_current(plan: _Build) -> bool:
    """Whether the store exists with the provenance of a store built now. False if it is missing or damaged.

    Raises:
        OutsideError, Unavailable: it cannot be read, although it may be sound.
    """
    try:
        found = FeatureStore(plan.path).provenance
    except OutsideError as error:
        if error.reason.kind not in ("missing", "link"):  # whether a link is good is found out by writing
            raise
        return False
    except DamagedStore as error:
        log.warning("%s; building it again", error)
        return False
    if found == json.loads(json.dumps(plan.provenance)):
        return True
    log.info("%s was built from another source or with other settings; building it again", plan.path)
    return False
