"""Reads the class embeddings of a feature set and finds the one of each class.

They are in one file, in a file for each part (an embedding is then the parts one after the other), in a cache
of the published loader, or in a file of ``--vectors``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmark.data.importing.cache_files import CachedText, read_cached_text
from benchmark.data.importing.findings import FindingLog
from benchmark.data.importing.list_files import read_table
from benchmark.data.importing.places import ListPlaces
from benchmark.data.importing.word_vectors import read_word_vectors, vectors_record
from benchmark.data.names import composed, folded
from benchmark.data.store import Floats
from benchmark.data.vector_norms import OddNorm, odd_norms
from benchmark.untrusted.arrays import load_npy_dict
from benchmark.untrusted.pickles import UnreadableFile


@dataclass
class Embeddings:
    """Class embeddings sorted by name, and which one each class has."""

    names: list[str] = field(default_factory=list)
    vectors: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """``[K, D_w]`` in the order of ``names``; no rows if some have a wrong size."""
    own: list[int] = field(default_factory=list)
    """For each class id the row of its own embedding; shorter if some classes have none."""
    record: dict[str, Any] | None = None
    """Name, size and hash of a file given with ``--vectors``."""
    originals: list[str] = field(default_factory=list)
    """Class names as the table of class names spells them."""


def read_embeddings(
    places: ListPlaces, classes: Sequence[str], used: Set[int], text_dim: int, findings: FindingLog
) -> Embeddings:
    """Read the class embeddings, sort them by name, and join them with the classes.

    Args:
        places: where they are.
        classes: class names by id.
        used: ids of the classes of the splits.
        text_dim: numbers per embedding.
        findings: gets problems and notes.
    """
    found = Embeddings()
    if not places.names_table.is_file():
        findings.problem("missing class list", places.shown(places.names_table))
    known = bool(places.vectors or places.cached_text or places.found_text())
    if not known:
        findings.problem("missing class embeddings", _looked_for(places))
    if not known or not places.names_table.is_file():
        return found

    # Rows of the table: class name and name of its embedding.
    rows = read_table(places, places.names_table, ("original", places.name_column), findings)
    keys = [key for _, key in rows or ()]
    read = _read(places, keys, findings) if rows is not None or not places.cached_text else None
    if read is None:
        return found
    vectors, cached = read

    # Sort the embeddings by name, and join them with the classes.
    wrong = _check(vectors, text_dim, _shown_source(places), findings)
    found.names = sorted(vectors)
    found.record = vectors_record(places.vectors, vectors) if places.vectors else None
    if vectors and not wrong:
        found.vectors = np.stack([vectors[name] for name in found.names])
    if rows is not None:
        found.originals = [original for original, _ in rows]
        found.own = _own_rows(classes, found.names, rows, findings)
        _compare_with_cache(places, classes, found, cached, findings)

    # Norms are compared only if every class has an embedding.
    if not wrong and len(found.own) == len(classes):
        for odd in odd_norms(found.names, found.vectors):
            owners = [classes[label] for label in sorted(used) if found.own[label] == odd.row]
            _report_norm(odd, owners, findings)
    return found


def _looked_for(places: ListPlaces) -> str:
    """Return where the files were looked for; of a place that has some parts, which ones are missing."""
    for files in places.text_files:
        missing = [path for path in files if not path.is_file()]
        if len(missing) < len(files):
            there = ", ".join(path.name for path in files if path.is_file())
            return f"{' and '.join(map(places.shown, missing))} (beside it there is {there})"
    return f"looked for {' and '.join(places.shown(path) for files in places.text_files for path in files)}"


def _shown_source(places: ListPlaces) -> str:
    """Return the files of the embeddings, for messages."""
    one = places.vectors or places.cached_text
    return " and ".join(map(places.shown, [one] if one else places.found_text() or ()))


def _read(
    places: ListPlaces, keys: Sequence[str], findings: FindingLog
) -> tuple[dict[str, Floats], CachedText | None] | None:
    """Read the embeddings by name: of a given file those of ``keys``, of the layout all."""
    path = places.vectors or places.cached_text
    try:
        if places.vectors is not None:
            given = read_word_vectors(places.vectors, keys, places.text_parts)
            return {composed(name): vector for name, vector in given.items()}, None
        if places.cached_text is not None:
            cached = read_cached_text(places.cached_text)
            return _named_rows(places, cached, keys, findings)
        parts = []
        for path in places.found_text() or ():
            content = load_npy_dict(path)
            parts.append({composed(name): vector for name, vector in content.items()})
    except UnreadableFile as error:
        assert path is not None  # the file that was read
        if places.vectors is not None and error.kind == "unreadable file":
            kind, what = "unreadable class embeddings", f"{places.shown(path)}: {error.what}"
            findings.problem(kind, what, fix=error.fix)
        else:
            findings.unreadable(error, places.shown(path))
        return None
    if len(parts) > 1 and not _check_parts(places, parts, findings):
        return None
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, None


def _check_parts(places: ListPlaces, parts: Sequence[Mapping[str, Floats]], findings: FindingLog) -> bool:
    """Whether all parts are of the same names, and of their sizes."""
    before, files = findings.problem_count, places.found_text() or ()
    names = {name for part in parts for name in part}
    for part, size, path in zip(parts, places.text_parts, files, strict=True):
        for name in sorted(names - set(part)):
            findings.problem("missing class embedding", f"{name!r} in {places.shown(path)}")
        for name, vector in sorted(part.items()):
            if len(vector) != size:
                what = f"class embedding {name!r} in {places.shown(path)}: {len(vector)}, not {size}"
                findings.problem("wrong dimension", what)
    return findings.problem_count == before


def _named_rows(
    places: ListPlaces, cached: CachedText, keys: Sequence[str], findings: FindingLog
) -> tuple[dict[str, Floats], CachedText] | None:
    """Name the rows of a cache, which the published loader has sorted by the names that it omits."""
    names = sorted({composed(key) for key in keys})
    if len(names) != len(cached.vectors):
        assert places.cached_text is not None  # it was read
        what = f"{len(cached.vectors)} class embeddings for {len(names)} names of {places.names_table.name}"
        findings.problem("wrong structure", f"{places.shown(places.cached_text)}: {what}")
        return None
    return dict(zip(names, cached.vectors, strict=True)), cached


def _compare_with_cache(
    places: ListPlaces,
    classes: Sequence[str],
    found: Embeddings,
    cached: CachedText | None,
    findings: FindingLog,
) -> None:
    """Check that a cache gives its rows to the same classes as the table of class names does."""
    if cached is None or places.cached_text is None or len(found.own) != len(classes):
        return
    for row, label in enumerate(cached.labels):
        if not 0 <= label < len(classes) or found.own[label] != row:
            owner = classes[label] if 0 <= label < len(classes) else f"class id {label}"
            what = f"row {row} is of {owner}, but {found.names[row]!r} is not its name"
            where = f"{places.shown(places.cached_text)} and {places.names_table.name}"
            fix = "give the lists and the table of class names that the cache was made with"
            findings.problem("lists of another dataset", f"{where}: {what}", fix)


def _check(vectors: Mapping[str, Floats], text_dim: int, shown: str, findings: FindingLog) -> bool:
    """Return whether there are embeddings of a wrong size. Values that are not finite are problems too."""
    wrong = False
    for name in sorted(vectors):
        if len(vectors[name]) != text_dim:
            wrong = True
            fix = f"give vectors of {text_dim} numbers (--vectors FILE), or correct the config's text_dim"
            findings.problem(
                "wrong dimension", f"class embedding {name!r}: {len(vectors[name])}, not {text_dim}", fix=fix
            )
        elif not np.isfinite(vectors[name]).all():
            fix = f"correct these vectors in {shown}, or give another file (--vectors FILE)"
            findings.problem(
                "not a number or infinite", f"class embedding {name!r} (or beyond float32)", fix=fix
            )
    return wrong


def _report_norm(odd: OddNorm, owners: Sequence[str], findings: FindingLog) -> None:
    """Report an odd norm. Zeros are a problem if a class of a split has them; all else is a note.

    Args:
        odd: the embedding.
        owners: classes of the splits that have it.
        findings: gets it.
    """
    what = f"{odd.name!r} (classes: {', '.join(owners)})" if owners else f"{odd.name!r} (of no class)"
    if odd.is_zero and owners:
        findings.problem("class embedding of zeros", f"{what}: norm {odd.norm:.2g}, {odd.usual:.2g} is usual")
    else:
        findings.note(
            "class embedding of an odd norm", f"{what}: norm {odd.norm:.2g}, {odd.usual:.2g} is usual"
        )


def _own_rows(
    classes: Sequence[str],
    vector_names: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    findings: FindingLog,
) -> list[int]:
    names = {folded(original): name for original, name in rows}
    row_of = {name: row for row, name in enumerate(vector_names)}
    own = []
    for name in classes:
        if folded(name) not in names:
            findings.problem("missing manual name", name)
        elif names[folded(name)] not in row_of:
            findings.problem("missing class embedding", f"{name} ({names[folded(name)]!r})")
        else:
            own.append(row_of[names[folded(name)]])
    return own
