"""Import of the published AV-GZSL folders (lists, word vectors, per-class feature files) into a feature store.

Both published forms are read: pickled sequences (``<set>_features_non_averaged``) and HDF5 temporal means
(``<set>_features``). All faults of a folder are told at once; a killed import carries on; an import that is done
already is not done again. One class is in memory at a time. ``stage_2_train`` is the union of three other splits and is
not read.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.data.cards import Card, FeatureSetCard
from benchmark.data.importing.class_files import list_class_files, read_class
from benchmark.data.importing.class_lists import ClassLists, read_lists
from benchmark.data.importing.importing import (
    FLOAT16_MAX,
    Dtype,
    ImportReport,
    Progress,
    earlier_store,
    only_import,
    split_counts,
    write_staged,
)
from benchmark.data.importing.oddities import list_oddities
from benchmark.data.importing.places import FOLDER, SUFFIX, Form, ListPlaces, official_places, official_root
from benchmark.data.importing.problems import ImportProblems, ProblemLog
from benchmark.data.importing.staging import StagedClass, StagedFrames, Staging
from benchmark.data.importing.word_vectors import check_vectors_file
from benchmark.data.names import NO_FILE_NAME, folded, is_file_name
from benchmark.data.store import MODALITIES, SPLITS, FeatureStore, ModalityContent, StoreContent
from benchmark.errors import UsageError
from benchmark.system.files import SourceFile, fingerprint, unchanged
from benchmark.untrusted.pickles import unreadable

IMPORTER_VERSION = 1
RECORDS = ("files", "list_oddities")
"""What the provenance holds besides the plan's identity."""
FORMS: tuple[Form, ...] = ("sequences", "means")


@dataclass(frozen=True)
class _Wanted:
    """One class of one split and its two files."""

    split: str
    label: int
    name: str
    paths: Mapping[str, Path]


@dataclass(frozen=True)
class _Plan:
    """What is to be imported, from where, to where."""

    card: Card
    features: str
    feature_set: FeatureSetCard
    root: Path
    target: Path
    form: Form
    dtype: Dtype
    generated: bool
    vectors: Path | None

    @property
    def dims(self) -> dict[str, int]:
        return {"audio": self.feature_set.audio.dim, "video": self.feature_set.video.dim}

    @property
    def files(self) -> Path:
        return self.root / "features" / FOLDER[self.form].format(self.features)

    def identity(self, lists: ClassLists) -> dict[str, Any]:
        """All that decides the store besides the content of the files."""
        given = {"word_vectors": lists.vectors_record} if lists.vectors_record else {}
        return {
            **given,
            "importer": "official layout",
            "importer_version": IMPORTER_VERSION,
            "card": self.card.name,
            "features": self.features,
            "form": self.form,
            "dtype": self.dtype,
            "generated": self.generated,
            "source": self.root.name,
            "dims": {**self.dims, "text": self.feature_set.text_dim},
        }


def import_official(
    card: Card,
    features: str | None,
    source: Path,
    target: Path,
    form: Literal["auto", "sequences", "means"] = "auto",
    dtype: Dtype = "float32",
    progress: Progress | None = None,
    *,
    vectors: Path | None = None,
    force: bool = False,
    generated: bool = False,
) -> ImportReport:
    """Import a folder of the official layout.

    Args:
        card: the data set; its dimensions are checked, its counts compared.
        features: feature set (``cls``, ``main``); None for the card's default one.
        source: the data set folder (``.../UCF``) or its parent.
        target: the store to write. ``<target>.import`` beside it keeps what was read until the store is written.
        form: which published form; ``auto`` takes sequences where there are any.
        dtype: of the stored frames.
        progress: called with (what, done, total).
        vectors: file of the word vectors, see ``word_vectors.py``, in place of those of the layout.
        force: import again even where the store is there and its sources have not changed.
        generated: mark the store as holding generated data, as trial folders do.

    Raises:
        ImportProblems: faults of the folder, all of them.
        UsageError: no such folder or feature set, another import is running, or the disk is full.
    """
    given = check_vectors_file(vectors) if vectors is not None else None
    plan = _plan(card, features, source, target, form, dtype, generated, given)
    with only_import(target):
        return _import(plan, progress or (lambda what, done, total: None), force)


def _plan(
    card: Card,
    features: str | None,
    source: Path,
    target: Path,
    form: str,
    dtype: Dtype,
    generated: bool,
    vectors: Path | None,
) -> _Plan:
    name, feature_set = card.feature_set(features)
    root = official_root(card, source)
    folders = {f: root / "features" / FOLDER[f].format(name) for f in FORMS}
    wanted = FORMS if form == "auto" else tuple(f for f in FORMS if f == form)
    found = next((f for f in wanted if any(folders[f].glob(f"*/*/*{SUFFIX[f]}"))), None)
    if found is None:
        looked = " and ".join(f"{folders[f].relative_to(root.parent)}/*/*/*{SUFFIX[f]}" for f in wanted)
        raise UsageError(f"{root}: no class files of feature set {name!r}: looked for {looked}\n{card.obtain.strip()}")
    is_generated = generated or card.kind == "generated"
    return _Plan(card, name, feature_set, root, target, found, dtype, is_generated, vectors)


def _import(plan: _Plan, progress: Progress, force: bool) -> ImportReport:
    problems, notes = ProblemLog(), ProblemLog()
    folders = [plan.files] + [plan.root / "features" / FOLDER[f].format(plan.features) for f in FORMS if f != plan.form]
    layout = official_places(plan.card)
    texts = [folder / "text" / layout.text_file for folder in folders]
    places = ListPlaces(plan.root, plan.features, layout, texts, plan.vectors)
    lists = read_lists(places, plan.feature_set.text_dim, problems, notes)
    wanted = _wanted(plan, lists, problems, notes)
    if not problems and not force:
        store = _already(plan, lists, wanted)
        if store is not None:
            counts = split_counts(plan.feature_set, lists, list(store.counts.values()), notes)
            return ImportReport(plan.target, plan.form, plan.dtype, store.digest, True, 0, counts, list(notes))
    staging = _open_staging(plan, lists)
    staged, resumed = _stage(plan, wanted, staging, problems, progress)
    _check_samples(plan, lists, staged, problems)
    counts = split_counts(
        plan.feature_set, lists, [sum(len(c.ids) for w, c in staged if w.split == split) for split in SPLITS], notes
    )
    if problems:
        raise ImportProblems(str(plan.root), list(problems))
    digest = write_staged(plan.target, _content(plan, lists, staged, staging), plan.dtype, staging, progress)
    return ImportReport(plan.target, plan.form, plan.dtype, digest, False, resumed, counts, list(notes))


def _open_staging(plan: _Plan, lists: ClassLists) -> Staging:
    no_matter = ("dtype", "generated", "dims", "word_vectors")
    header = {key: value for key, value in plan.identity(lists).items() if key not in no_matter}
    return Staging(plan.target.with_name(f"{plan.target.name}.import"), header, plan.dims)


def _wanted(plan: _Plan, lists: ClassLists, problems: ProblemLog, notes: ProblemLog) -> list[_Wanted]:
    """The class files of all listed classes; missing ones are problems, extra ones notes."""
    wanted = []
    for split in SPLITS:
        classes = [lists.names[c] for c in lists.splits[split].classes]
        present = {m: list_class_files(plan.files / m / split, plan.form, classes, problems) for m in MODALITIES}
        listed = set(map(folded, classes))
        taken = {path for files in present.values() for name, path in files.items() if name in listed}
        for label in lists.splits[split].classes:
            name = lists.names[label]
            for modality in MODALITIES:
                if folded(name) not in present[modality]:
                    fix = None if is_file_name(name) else NO_FILE_NAME
                    file = Path(modality, split, f"{name}{SUFFIX[plan.form]}")
                    problems.add("missing class file", f"{file}{_near(plan.files / file, taken)}", fix=fix)
            if all(folded(name) in present[m] for m in MODALITIES):
                wanted.append(_Wanted(split, label, name, {m: present[m][folded(name)] for m in MODALITIES}))
        for modality in MODALITIES:
            for key, path in present[modality].items():
                if key not in listed:
                    notes.add("class files of unlisted classes, not read", f"{modality}/{split}/{path.name}")
    return wanted


def _near(missing: Path, taken: Collection[Path]) -> str:
    """The file whose name is nearly that of a missing class file and that is none of another class, such as a packed one."""
    if missing.is_symlink():
        return f" (a link to {os.readlink(missing)}, which is not there: mount its disk)"
    others = {folded(path.name): path.name for path in missing.parent.glob("*") if path not in taken and path.exists()}
    close = difflib.get_close_matches(folded(missing.name), others, n=1, cutoff=0.75)
    return f" (there is {others[close[0]]!r}: rename or unpack it)" if close else ""


def _already(plan: _Plan, lists: ClassLists, wanted: Sequence[_Wanted]) -> FeatureStore | None:
    """The store, where it is there and made from these files as they are now."""
    store = earlier_store(plan.target, plan.identity(lists), "files", RECORDS)
    if store is None:
        return None
    files = [SourceFile(**recorded) for recorded in store.provenance["files"]]
    paths = [*lists.files, *(w.paths[m] for w in wanted for m in MODALITIES)]
    same = [f.path for f in files] == [_relative(plan, path) for path in paths]
    return store if same and all(unchanged(recorded, plan.root) for recorded in files) else None


def _relative(plan: _Plan, path: Path) -> str:
    return path.relative_to(plan.root).as_posix()


def _stage(
    plan: _Plan, wanted: Sequence[_Wanted], staging: Staging, problems: ProblemLog, progress: Progress
) -> tuple[list[tuple[_Wanted, StagedClass]], int]:
    """Read each class that is not staged yet. Faulty ones are left out, so that all faults come to light."""
    staged, resumed = [], 0
    for done, w in enumerate(wanted):
        progress("reading classes", done, len(wanted))
        paths = [w.paths[m] for m in MODALITIES]
        entry = staging.current(w.split, w.name, plan.root, paths)
        if entry is not None:
            resumed += 1
        else:
            try:
                sources = [fingerprint(path, plan.root) for path in paths]
            except OSError as error:
                path = Path(error.filename or paths[0])
                problems.add_unreadable(unreadable(path, error), str(path))
                continue
            content = read_class(w.paths, plan.form, plan.dims, plan.root, problems)
            if content is None:
                continue
            entry = staging.append(w.split, w.name, sources, content)
        staged.append((w, entry))
    progress("reading classes", len(wanted), len(wanted))
    return staged, resumed


def _check_samples(plan: _Plan, lists: ClassLists, staged: Sequence[tuple[_Wanted, StagedClass]], problems: ProblemLog) -> None:
    """What shows only across classes: samples that stand twice or that no list names; and what float16 cannot hold."""
    seen: dict[str, str] = {}
    for w, entry in staged:
        place = f"{w.split}/{w.name}"
        listed = lists.splits[w.split].samples
        for sample in entry.ids:
            if sample in seen:
                problems.add("duplicate sample id", f"{sample} in {seen[sample]} and {place}")
            seen.setdefault(sample, place)
            if listed is not None and listed.get(sample) != w.label:
                where = f", listed as {lists.names[listed[sample]]}" if sample in listed else ""
                problems.add("unlisted sample", f"{sample} in {place}{where}")
        for modality in MODALITIES:
            if plan.dtype == "float16" and entry.modality(modality).peak > FLOAT16_MAX:
                example = f"{modality}/{place}: {entry.modality(modality).peak:g}, beyond {FLOAT16_MAX:g}"
                problems.add("too large for float16", example)


def _content(plan: _Plan, lists: ClassLists, staged: Sequence[tuple[_Wanted, StagedClass]], staging: Staging) -> StoreContent:
    """Staged classes in the order of the store: by split, then class id, then sample id."""
    entries = [entry for _, entry in staged]
    sizes = [len(entry.ids) for entry in entries]
    files = [asdict(fingerprint(path, plan.root)) for path in lists.files]
    files += [asdict(source) for entry in entries for source in entry.sources]
    return StoreContent(
        dataset=plan.card.name,
        features=plan.features,
        generated=plan.generated,
        class_names=lists.names,
        class_splits={split: lists.splits[split].classes for split in SPLITS},
        vector_names=lists.vector_names,
        vectors=lists.vectors,
        own_vector=lists.own_vector,
        ids=[sample for entry in entries for sample in entry.ids],
        labels=np.repeat([w.label for w, _ in staged], sizes).astype(np.int64),
        splits=np.repeat([SPLITS.index(w.split) for w, _ in staged], sizes).astype(np.uint8),
        audio=_modality(plan, "audio", entries, staging),
        video=_modality(plan, "video", entries, staging),
        provenance={**plan.identity(lists), "files": files, "list_oddities": [asdict(found) for found in list_oddities(lists)]},
    )


def _modality(plan: _Plan, name: str, entries: Sequence[StagedClass], staging: Staging) -> ModalityContent:
    places = [entry.modality(name) for entry in entries]
    frames: Any = StagedFrames(
        staging, name, [p.start for p in places], [p.stop for p in places]
    )  # read by slices, as an array
    if plan.form == "means":
        return ModalityContent(plan.dims[name], means=frames)
    lengths = [n for entry in entries for n in entry.modality(name).lengths]
    return ModalityContent(plan.dims[name], frames=frames, offsets=np.concatenate([[0], np.cumsum(lengths)]))
