"""The official layout: the published folders of lists, class embeddings and one feature file per class.

All published forms are read: pickled sequences (``<set>_features_non_averaged``), HDF5 temporal means
(``<set>_features``), and for a feature set with its own layout pickles of one vector per sample, or the
caches of the published loader (``cached_layout.py``). One class is in memory at a time. Class files of
``stage_2_train`` are not read.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Unpack

from benchmark.data.cards import Card, FeatureSetConfig
from benchmark.data.groups import is_made_up
from benchmark.data.importing.cached_layout import Cached
from benchmark.data.importing.class_files import first_shapes, list_class_files, read_class
from benchmark.data.importing.class_lists import ClassLists
from benchmark.data.importing.findings import FindingLog
from benchmark.data.importing.importing import ImportOptions, ImportPlan, ImportReport, Layout, import_store
from benchmark.data.importing.places import (
    FOLDER,
    SUFFIX,
    Form,
    ListPlaces,
    list_places,
    smallest_cache,
)
from benchmark.data.importing.staging import StagedClass, Staging
from benchmark.data.names import NO_FILE_NAME, folded, is_file_name
from benchmark.data.store import MODALITIES, SPLITS
from benchmark.errors import UsageError
from benchmark.system.files import SourceFile, fingerprint
from benchmark.untrusted.pickles import unreadable


def forms_of(feature_set: FeatureSetConfig) -> tuple[Form, ...]:
    """The published forms of a feature set, the preferred one first."""
    return ("sequences", "means") if feature_set.layout is None else ("vectors", "cache")


def import_official(
    card: Card,
    features: str | None,
    source: Path,
    target: Path,
    form: Form | Literal["auto"] = "auto",
    *,
    vectors: Path | None = None,
    **options: Unpack[ImportOptions],
) -> ImportReport:
    """Import a folder of the official layout.

    Args:
        card: the dataset; its dimensions are checked, its counts compared.
        features: feature set (``cls``, ``main``); None for the default of the dataset.
        source: the dataset folder (``.../UCF``) or its parent.
        target: the feature file to write.
        form: which published form; ``auto`` takes sequences if there are any, or vectors before caches.
        vectors: file of the class embeddings, see ``word_vectors.py``; None for those of the layout.
        options: see ``ImportOptions``.

    Raises:
        ImportProblems: problems of the folder, all of them.
        UsageError: no such folder, form or feature set, the folder has the files of another feature set,
            another import is running, or the disk is full.
    """
    name, feature_set = card.feature_set(features)
    places, forms = list_places(card, name, source, vectors), forms_of(feature_set)
    if form != "auto" and form not in forms:
        raise UsageError(
            f"--form {form}: feature set {name!r} has no such form; choose from {', '.join(forms)}"
        )

    # The first form of which there are files.
    root, wanted = places.root, forms if form == "auto" else (form,)
    patterns = {f: _patterns(places, f) for f in wanted}
    found = next((f for f in wanted if any(any(root.glob(p)) for p in patterns[f])), None)
    if found is None:
        looked = " and ".join(f"{root.name}/{p}" for f in wanted for p in patterns[f])
        raise UsageError(
            f"{root}: no class files of feature set {name!r}: looked for {looked}\n{card.obtain.strip()}"
        )
    if found in ("sequences", "vectors"):
        _refuse_other_set(card, name, _folder(places, found), found)

    plan = ImportPlan(card, name, _text_of(places, found), str(root), target, found, **options)
    return import_store(plan, Cached if found == "cache" else _Official)


def _folder(places: ListPlaces, form: Form) -> Path:
    """The folder of the class files of a form."""
    name = places.own.folder if places.own else FOLDER[form].format(places.features)
    return places.root / "features" / name


def _patterns(places: ListPlaces, form: Form) -> list[str]:
    """Patterns of the files of a form, relative to the dataset folder."""
    if places.own and form == "cache":
        return [f"{places.own.cache}/{name}" for name in places.own.cache_files]
    return [f"{_folder(places, form).relative_to(places.root).as_posix()}/*/*/*{SUFFIX[form]}"]


def _text_of(places: ListPlaces, form: Form) -> ListPlaces:
    """The places with the class embeddings that belong to a form."""
    if places.own is None:
        folders = [_folder(places, f) for f in ("sequences", "means")]
        folders.sort(key=lambda folder: folder != _folder(places, form))
        text = [(folder / "text" / places.layout.text_file,) for folder in folders]
        return replace(places, text_files=text)
    if form == "cache" and places.vectors is None:
        return replace(places, cached_text=smallest_cache(places.root, places.own))
    return replace(places, cached_text=None)


def _refuse_other_set(card: Card, name: str, folder: Path, form: Form) -> None:
    """Refuse class files that fit another feature set whose folder has the same name.

    Raises:
        UsageError: they do; the feature set to give is named.
    """
    others = {
        other: config
        for other, config in card.features.items()
        if other != name and _folder_name(other, config) == folder.name
    }
    shapes = first_shapes(folder, form) if others else {}
    if len(shapes) < len(MODALITIES) or _fits(card.features[name], shapes):
        return
    for other, config in others.items():
        if _fits(config, shapes):
            kind = "one vector per sample" if len(shapes["audio"]) == 1 else "sequences"
            sizes = ", ".join(f"{m} {shapes[m][-1]}" for m in MODALITIES)
            raise UsageError(
                f"{folder}: holds the features of {other!r} ({kind}, {sizes}), not of {name!r}; "
                f"import them with --features {other}"
            )


def _folder_name(features: str, config: FeatureSetConfig) -> str:
    return config.layout.folder if config.layout else FOLDER["sequences"].format(features)


def _fits(config: FeatureSetConfig, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether samples of these shapes are of a feature set: of its sizes, and vectors if it has those."""
    sizes = {"audio": config.audio.dim, "video": config.video.dim}
    dimensions = {1 if config.layout else 2}
    return {len(shape) for shape in shapes.values()} == dimensions and all(
        shapes[m][-1] == sizes[m] for m in MODALITIES
    )


@dataclass(frozen=True)
class _Wanted:
    """One class of one split and its two files."""

    split: str
    label: int
    name: str
    paths: Mapping[str, Path]


class _Official(Layout):
    importer = "official layout"

    def __init__(self, plan: ImportPlan, lists: ClassLists, findings: FindingLog) -> None:
        super().__init__(plan, lists, findings)
        self._root = plan.places.root
        self._folder = _folder(plan.places, plan.form)
        self._wanted = [wanted for split in SPLITS for wanted in self._wanted_of(split)]

    def _wanted_of(self, split: str) -> list[_Wanted]:
        """Find the class files of all listed classes. Missing ones are problems, extra ones notes."""
        suffix, labels = SUFFIX[self.plan.form], self.lists.splits[split].classes
        classes = [self.lists.names[label] for label in labels]
        present = {
            m: list_class_files(self._folder / m / split, self.plan.form, classes, self.findings)
            for m in MODALITIES
        }
        listed = set(map(folded, classes))
        taken = {path for files in present.values() for name, path in files.items() if name in listed}
        wanted = []
        for label, name in zip(labels, classes, strict=True):
            paths = {m: present[m][folded(name)] for m in MODALITIES if folded(name) in present[m]}
            for modality in MODALITIES:
                if modality not in paths:
                    fix = None if is_file_name(name) else NO_FILE_NAME
                    file = Path(modality, split, f"{name}{suffix}")
                    self.findings.problem(
                        "missing class file", f"{file}{_near(self._folder / file, taken)}", fix
                    )
            if len(paths) == len(MODALITIES):
                wanted.append(_Wanted(split, label, name, paths))
        for modality in MODALITIES:
            for key, path in present[modality].items():
                if key not in listed:
                    self.findings.note(
                        "class files of unlisted classes, not read", f"{modality}/{split}/{path.name}"
                    )
        return wanted

    def is_source_of(self, provenance: Mapping[str, Any]) -> bool:
        class_files = [wanted.paths[m] for wanted in self._wanted for m in MODALITIES]
        return self.is_recorded(provenance["files"], [*self.list_files, *class_files])

    def header(self) -> dict[str, Any]:
        return {"card": self.plan.card.name, "form": self.plan.form, "source": self._root.name}

    def read(self, staging: Staging) -> list[StagedClass]:
        staged = []
        for done, wanted in enumerate(self._wanted):
            self.plan.progress("reading classes", done, len(self._wanted))
            entry = self._read_class(wanted, staging)
            if entry is not None:
                self._assign(wanted, entry)
                staged.append(entry)
        self.plan.progress("reading classes", len(self._wanted), len(self._wanted))
        return staged

    def _read_class(self, wanted: _Wanted, staging: Staging) -> StagedClass | None:
        paths = [wanted.paths[m] for m in MODALITIES]
        entry = staging.current(wanted.split, wanted.name, self._root, paths)
        if entry is not None:
            self.resumed += 1
            return entry
        try:
            sources = [fingerprint(path, self._root) for path in paths]
        except OSError as error:
            path = Path(error.filename or paths[0])
            self.findings.unreadable(unreadable(path, error), str(path))
            return None
        content = read_class(
            wanted.paths,
            self.plan.form,
            self.plan.dims,
            self._root,
            self.findings,
            split=wanted.split,
            name=wanted.name,
        )
        return None if content is None else staging.append(wanted.split, wanted.name, sources, content)

    def _assign(self, wanted: _Wanted, entry: StagedClass) -> None:
        """Give the samples their split and class. Duplicate and unlisted samples are problems."""
        names, listed = self.lists.names, self.lists.splits[wanted.split].samples
        place = f"{wanted.split}/{wanted.name}"
        for sample in entry.ids:
            if sample in self.samples:
                split, label = self.samples[sample]
                self.findings.problem(
                    "duplicate sample id", f"{sample} in {split}/{names[label]} and {place}"
                )
            self.samples.setdefault(sample, (wanted.split, wanted.label))
            if listed is not None and listed.get(sample) != wanted.label and not is_made_up(sample):
                where = f", listed as {names[listed[sample]]}" if sample in listed else ""
                self.findings.problem("unlisted sample", f"{sample} in {place}{where}")

    def records(self, sources: Sequence[SourceFile]) -> dict[str, Any]:
        lists = [fingerprint(path, self._root) for path in self.list_files]
        return {"files": [asdict(source) for source in (*lists, *sources)]}


def _near(missing: Path, taken: Collection[Path]) -> str:
    """Name a file that may be a missing class file: one with nearly its name, such as a packed one."""
    if missing.is_symlink():
        return f" (a link to {os.readlink(missing)}, which is not there: mount its disk)"
    others = {
        folded(path.name): path.name
        for path in missing.parent.glob("*")
        if path not in taken and path.exists()
    }
    close = difflib.get_close_matches(folded(missing.name), others, n=1, cutoff=0.75)
    return f" (there is {others[close[0]]!r}: rename or unpack it)" if close else ""
