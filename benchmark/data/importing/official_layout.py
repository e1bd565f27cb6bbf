"""The official layout: the published AV-GZSL folders of lists, word vectors and one feature file per class.

Both published forms are read: pickled sequences (``<set>_features_non_averaged``) and HDF5 temporal means
(``<set>_features``). One class is in memory at a time. There are no class files of ``stage_2_train``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

from benchmark.data.cards import Card
from benchmark.data.importing.class_files import list_class_files, read_class
from benchmark.data.importing.class_lists import ClassLists
from benchmark.data.importing.findings import FindingLog
from benchmark.data.importing.importing import ImportOptions, ImportPlan, ImportReport, Layout, import_store
from benchmark.data.importing.places import FOLDER, SUFFIX, Form, ListPlaces, official_places, official_root
from benchmark.data.importing.staging import StagedClass, Staging
from benchmark.data.importing.word_vectors import check_vectors_file
from benchmark.data.names import NO_FILE_NAME, folded, is_file_name
from benchmark.data.store import MODALITIES, SPLITS
from benchmark.errors import UsageError
from benchmark.system.files import SourceFile, fingerprint
from benchmark.untrusted.pickles import unreadable

FORMS: tuple[Form, ...] = ("sequences", "means")


def import_official(
    card: Card,
    features: str | None,
    source: Path,
    target: Path,
    form: Literal["auto", "sequences", "means"] = "auto",
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
        form: which published form; ``auto`` takes sequences if there are any.
        vectors: file of the word vectors, see ``word_vectors.py``; None for those of the layout.
        options: see ``ImportOptions``.

    Raises:
        ImportProblems: problems of the folder, all of them.
        UsageError: no such folder or feature set, another import is running, or the disk is full.
    """
    given = check_vectors_file(vectors) if vectors is not None else None
    name, root, layout = card.feature_set(features)[0], official_root(card, source), official_places(card)
    folders = {f: root / "features" / FOLDER[f].format(name) for f in FORMS}
    wanted = FORMS if form == "auto" else (form,)
    found = next((f for f in wanted if any(folders[f].glob(f"*/*/*{SUFFIX[f]}"))), None)
    if found is None:
        looked = " and ".join(f"{folders[f].relative_to(root.parent)}/*/*/*{SUFFIX[f]}" for f in wanted)
        raise UsageError(
            f"{root}: no class files of feature set {name!r}: looked for {looked}\n{card.obtain.strip()}"
        )
    texts = [folders[f] / "text" / layout.text_file for f in sorted(FORMS, key=lambda f: f != found)]
    places = ListPlaces(root, name, layout, texts, given)
    return import_store(ImportPlan(card, name, places, str(root), target, found, **options), _Official)


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
        self._folder = self._root / "features" / FOLDER[plan.form].format(plan.features)
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
        content = read_class(wanted.paths, self.plan.form, self.plan.dims, self._root, self.findings)
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
            if listed is not None and listed.get(sample) != wanted.label:
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
