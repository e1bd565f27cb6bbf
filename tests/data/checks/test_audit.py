"""An audit finds, counts and writes misaligned embeddings, leakage, oddities, counts and feature values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_store import CLASS_SPLITS, default_samples, make_store, own_card, rows_of

from benchmark.data.cards import Card
from benchmark.data.checks import audit_files
from benchmark.data.checks.audit import Audit, Leak, audit_lists, audit_store
from benchmark.data.checks.audit_files import audit_json, write_audit
from benchmark.data.checks.audit_report import audit_sections
from benchmark.data.groups import Origin, origin_rule, relatives
from benchmark.data.importing.oddities import DROPPED
from benchmark.data.importing.official_layout import import_official
from benchmark.data.store import DEVELOPMENT_SPLITS, SPLITS, FeatureStore
from benchmark.errors import UsageError

Folder = Any  # tests/data/conftest.py: OfficialFolder
GROUPING = r"^(.+)_(\d+)$"


def card_of(folder: Folder, **changes: Any) -> Card:
    card: Card = folder.card()
    return card.model_copy(update={"published_order": True, "grouping": r"^(.+)_c\d+$", **changes})


def audit_folder(folder: Folder, **changes: Any) -> Audit:
    return audit_lists(card_of(folder, **changes), "cls", folder.parent)


def leak(audit: Audit, split: str, against: int = 3, rule: str = "same source") -> Leak:
    """The leak of a split against so many splits."""
    return next(x for x in audit.leakage.leaks if (x.split, len(x.against), x.rule) == (split, against, rule))


# Word vectors


def test_each_class_that_gets_anothers_vector_is_named_with_the_vector_and_its_rightful_class(
    folder: Folder,
) -> None:
    found = {c.name: c for c in audit_folder(folder).alignment.classes}
    manual = manual_names(folder)
    names = sorted(manual)
    by_row = sorted(manual.values())
    assert set(found) == {name for row, name in enumerate(names) if by_row[row] != manual[name]}
    for row, name in enumerate(names):
        if name in found:
            assert (found[name].manual_name, found[name].vector_used) == (manual[name], by_row[row])
            assert manual[found[name].vector_of] == by_row[row]
    assert found["Archery"].splits == ("stage_1_train", "stage_1_val_seen", "stage_2_test_seen")


def manual_names(folder: Folder) -> dict[str, str]:
    return {row["original"]: row["manual"] for row in rows_of(folder.names_file)}


def test_each_split_has_its_share_of_misaligned_classes(folder: Folder) -> None:
    audit = audit_folder(folder)
    wrong = {c.name.casefold() for c in audit.alignment.classes}
    listed = {split: (folder.lists / f"{split}.txt").read_text().split("\n")[:-1] for split in SPLITS}
    listed["all classes"] = list(manual_names(folder))
    listed["test classes"] = [*listed["stage_2_test_seen"], *listed["stage_2_test_unseen"]]
    assert {p.split for p in audit.alignment.splits} == set(listed)
    for split in audit.alignment.splits:
        assert split.classes == len(listed[split.split])
        assert split.misaligned == sum(name.casefold() in wrong for name in listed[split.split])
        assert split.share == split.misaligned / split.classes


def test_equal_vectors_under_two_names_are_no_misalignment_but_an_oddity(tmp_path: Path) -> None:
    vectors = np.eye(4, dtype="f4")[[0, 0, 2, 3]]
    store = make_store(tmp_path / "own.h5", vectors=vectors, own_vector=[1, 0, 3, 2])
    audit = audit_store(own_card(published_order=True), store)
    assert [c.name for c in audit.alignment.classes] == ["cat", "dog"]
    assert [c.cosine for c in audit.alignment.classes] == [0, 0]
    assert [o.what for o in audit.oddities if o.kind == "equal class embeddings"] == ["ant, bee"]


def test_without_a_published_order_the_classes_are_aligned_correctly(tmp_path: Path) -> None:
    audit = audit_store(own_card(), make_store(tmp_path / "own.h5", own_vector=[1, 0, 3, 2]))
    assert audit.alignment.reason == "no published order: each class gets its own embedding"
    assert not audit.alignment.classes


def test_word_vectors_are_looked_for_beside_the_datasets_or_named(folder: Folder) -> None:
    expected = audit_folder(folder).alignment
    for place in (folder.root, folder.parent, folder.parent.parent):
        target = place / "w2v_features" / folder.text.name
        target.parent.mkdir()
        folder.text.rename(target)
        assert audit_folder(folder).alignment == expected
        target.rename(folder.text)
    named = folder.text.rename(folder.parent / "others.npy")
    assert audit_lists(card_of(folder), "cls", folder.root, named).alignment == expected


def test_missing_word_vectors_are_reported_and_the_rest_is_audited(folder: Folder) -> None:
    folder.text.unlink()
    audit = audit_folder(folder)
    assert audit.alignment.reason.endswith("; --text FILE names the file of the class embeddings")
    assert any(o.severity == "problem" and "class embeddings" in o.kind for o in audit.oddities)
    assert leak(audit, "stage_2_test_seen").samples == 20


def test_a_named_file_that_lacks_word_vectors_is_named_in_the_reason(folder: Folder) -> None:
    wrong = folder.parent / "others.npy"
    wrong.write_bytes(b"no array")
    reason = audit_lists(card_of(folder), "cls", folder.root, wrong).alignment.reason
    assert reason == f"some classes have no known class embedding, see the oddities; --text named {wrong}"


def test_a_file_of_word_vectors_that_is_not_there_is_wrong_usage(folder: Folder) -> None:
    with pytest.raises(UsageError, match=r"--text nowhere\.npy: no such file"):
        audit_lists(card_of(folder), "cls", folder.root, Path("nowhere.npy"))
    with pytest.raises(UsageError, match="no lists of feature set 'main'"):
        audit_lists(card_of(folder), "main", folder.root)


# Leakage


def test_samples_that_share_a_group_with_what_is_trained_on_are_counted_and_listed(folder: Folder) -> None:
    relative = "v_Bowling_stage_1_val_unseen_g00_c02"
    rows = [
        (s.replace("v_Diving_stage_2_test_unseen_g00", relative[:-4]), n)
        for s, n in folder.listed("stage_2_test_unseen")
    ]
    folder.write_samples("stage_2_test_unseen", rows)
    audit = audit_folder(folder)
    found = leak(audit, "stage_2_test_unseen")
    assert (len(found.related), found.samples, found.share, found.groups, found.same_class) == (
        1,
        8,
        1 / 8,
        1,
        0,
    )
    sample = found.related[0]
    assert (sample.sample, sample.label) == ("v_Bowling_stage_1_val_unseen_g00_c01", "Diving")
    assert (sample.relative_split, sample.relative_label) == ("stage_1_val_unseen", "Bowling")
    assert not any(x.related for x in audit.leakage.leaks if x.split != "stage_2_test_unseen")


def test_samples_of_unlisted_classes_are_in_no_denominator(folder: Folder) -> None:
    audit = audit_folder(folder)
    assert len(folder.listed("stage_2_test_unseen")) == 12
    assert leak(audit, "stage_2_test_unseen").samples == 8
    assert {c.split: (c.samples, c.dropped) for c in audit.counts}["stage_2_test_unseen"] == (8, 4)


@pytest.mark.parametrize(("start", "overlaps"), [(0, False), (1, True), (10, True), (19, True), (20, False)])
def test_clips_overlap_that_start_less_than_their_length_apart(
    tmp_path: Path, start: int, overlaps: bool
) -> None:
    samples = default_samples()
    samples[0] = ("video_000010", *samples[0][1:])
    samples[-1] = (f"video_{start:06d}", *samples[-1][1:])
    card = own_card(grouping=r"^(.+)_(\d{6})$", overlap_seconds=10)
    audit = audit_store(card, make_store(tmp_path / "own.h5", samples))
    assert len(leak(audit, "stage_2_test_unseen").related) == 1
    assert len(leak(audit, "stage_2_test_unseen", rule="overlapping seconds").related) == overlaps


def test_ids_that_the_rule_does_not_fit_are_their_own_group_and_an_oddity(tmp_path: Path) -> None:
    audit = audit_store(own_card(grouping="^(g[0-9]+)_"), make_store(tmp_path / "own.h5"))
    assert not any(x.related for x in audit.leakage.leaks)
    unfit = [o for o in audit.oddities if o.kind == "ids that the grouping rule does not match"]
    assert {o.place: o.count for o in unfit} == {split: 2 * len(CLASS_SPLITS[split]) for split in SPLITS}


def test_where_the_rule_fits_no_id_relatives_are_unknown_and_that_is_a_problem(tmp_path: Path) -> None:
    audit = audit_store(own_card(grouping="^(g[0-9]+)_"), make_store(tmp_path / "own.h5"))
    assert {o.severity for o in audit.oddities if o.kind == "ids that the grouping rule does not match"} == {
        "problem"
    }
    sentences, (table, _) = (s := audit_sections(audit)[1]).sentences, s.tables
    others = sum(2 * len(CLASS_SPLITS[split]) for split in DEVELOPMENT_SPLITS)
    assert sentences[1] == (
        "Unknown how many of 2 test-unseen samples share their source with a training or validation sample; "
        f"the grouping rule does not match 2 of their ids and {others} of the ids of training and validation."
    )
    assert {row[table.columns.index("related")] for row in table.rows} == {None}
    assert {pair["related"] for pair in audit_json(audit, [])["leakage"]["pairs"]} == {None}


def test_ids_that_the_rule_does_not_fit_are_counted_beside_the_relatives(tmp_path: Path) -> None:
    samples = [
        (name if i == 0 else f"g{i}_{name}", *rest) for i, (name, *rest) in enumerate(default_samples())
    ]
    samples[-1] = (samples[-1][0].split("_", 1)[1], *samples[-1][1:])
    audit = audit_store(own_card(grouping="^(g[0-9]+)_"), make_store(tmp_path / "own.h5", samples))
    assert {o.severity for o in audit.oddities if o.kind == "ids that the grouping rule does not match"} == {
        "note"
    }
    assert audit_sections(audit)[1].sentences[1] == (
        "0 of 2 test-unseen samples (0.0 %) share their source with a training or validation sample; "
        "the grouping rule does not match 1 of their ids and 1 of the ids of training and validation."
    )


def test_without_a_rule_the_audit_reports_that(tmp_path: Path) -> None:
    audit = audit_store(own_card(), make_store(tmp_path / "own.h5"))
    assert "no grouping rule" in audit.leakage.reason
    with pytest.raises(UsageError, match="write `grouping` in its dataset config"):
        origin_rule(own_card())


origins = st.lists(
    st.builds(Origin, st.sampled_from("ab"), st.one_of(st.none(), st.integers(0, 30).map(float))), max_size=8
)


@given(origins, origins, st.one_of(st.none(), st.integers(1, 20).map(float)))
def test_relatives_are_those_of_a_comparison_of_all_pairs(
    ours: list[Origin], others: list[Origin], seconds: float | None
) -> None:
    for origin, found in zip(ours, relatives(ours, others, seconds), strict=True):
        expected = []
        for index, other in enumerate(others):
            timed = origin.start is not None and other.start is not None
            near = timed and abs((origin.start or 0) - (other.start or 0)) < (seconds or 0)
            if origin.group == other.group and (seconds is None or near):
                expected.append(index)
        assert sorted(found) == expected
        apart = [
            abs((origin.start or 0) - (others[i].start or 0)) for i in found if others[i].start is not None
        ]
        assert origin.start is None or apart == sorted(apart)


# Oddities and counts


def oddities(audit: Audit, kind: str) -> list[tuple[str, str, int]]:
    return [(o.place, o.what, o.count) for o in audit.oddities if o.kind == kind]


def test_names_that_differ_in_case_only_are_reported_with_their_files(folder: Folder) -> None:
    (found,) = oddities(audit_folder(folder), "name differs in upper and lower case")
    assert found[1:] == ("HandStandPushups, the class is HandstandPushups", 8)
    assert "class-split/cls_split/stage_1_train.txt, class-split/cls_split/stage_1_train.csv" in found[0]


def test_listed_samples_of_unlisted_classes_are_reported_by_class(folder: Folder) -> None:
    assert oddities(audit_folder(folder), DROPPED) == [("stage_2_test_unseen", "Gliding", 4)]


def test_samples_listed_twice_or_in_two_splits_are_problems(folder: Folder) -> None:
    rows = folder.listed("stage_2_test_seen")
    folder.write_samples("stage_2_test_seen", [*rows, rows[0], folder.listed("stage_1_train")[0]])
    audit = audit_folder(folder)
    assert oddities(audit, "sample listed twice") == [("stage_2_test_seen", rows[0][0], 1)]
    twice = folder.listed("stage_1_train")[0][0]
    assert oddities(audit, "sample in two splits") == [("stage_1_train, stage_2_test_seen", twice, 2)]
    assert {
        o.severity for o in audit.oddities if o.kind in ("sample listed twice", "sample in two splits")
    } == {"problem"}


def test_a_split_without_a_sample_list_is_reported_and_not_compared(folder: Folder) -> None:
    (folder.lists / "stage_2_test_seen.csv").unlink()
    audit = audit_folder(folder)
    assert [place for place, _, _ in oddities(audit, "no sample list")] == ["stage_2_test_seen"]
    assert "stage_2_test_seen" not in {x.split for x in audit.leakage.leaks}
    assert {c.split: c.samples for c in audit.counts}["stage_2_test_seen"] is None


def test_faults_of_the_lists_are_findings_and_no_errors(folder: Folder) -> None:
    (folder.lists / "stage_1_val_seen.txt").write_text("Archery\nNo such class\n")
    audit = audit_folder(folder)
    assert any(o.severity == "problem" and "No such class" in o.what for o in audit.oddities)
    assert ("stage_1_val_seen", "HandstandPushups", 1) in oddities(audit, "training class is not validated")


def test_an_unseen_class_that_is_trained_on_and_classes_without_samples_are_problems(tmp_path: Path) -> None:
    splits = {**CLASS_SPLITS, "stage_2_test_unseen": [2, 3], "stage_2_test_seen": [0, 1]}
    samples = [s for s in default_samples() if s[1:3] != ("stage_2_test_seen", 2)]
    audit = audit_store(own_card(), make_store(tmp_path / "own.h5", samples, class_splits=splits))
    assert oddities(audit, "unseen class is trained on") == [("stage_2_test_unseen", "cat", 1)]
    assert oddities(audit, "training class is not tested") == [("stage_2_test_seen", "cat", 1)]
    assert oddities(audit, "class without samples") == [("stage_2_test_unseen", "cat", 1)]


def test_counts_are_compared_with_the_dataset_config_with_the_union_of_training(folder: Folder) -> None:
    def differing(audit: Audit) -> list[str]:
        return [count.split for count in audit.counts if not count.as_expected]

    features = folder.card().features["cls"]
    samples = {**features.samples, "stage_2_train": 12 + 12 + 8}
    expected = {"cls": features.model_copy(update={"samples": samples})}
    audit = audit_folder(folder, features=expected)
    assert differing(audit) == []
    union = next(count for count in audit.counts if count.split == "stage_2_train")
    assert (union.classes, union.samples) == (5, 32)
    folder.write_samples("stage_1_train", folder.listed("stage_1_train")[1:])
    assert differing(audit_folder(folder, features=expected)) == ["stage_1_train", "stage_2_train"]


def test_a_store_has_the_same_findings_as_the_lists_that_it_was_imported_with(
    folder: Folder, tmp_path: Path
) -> None:
    card = card_of(folder)
    import_official(card, "cls", folder.parent, tmp_path / "tiny.h5")
    store, lists = audit_store(card, FeatureStore(tmp_path / "tiny.h5")), audit_folder(folder)
    assert store.alignment == lists.alignment
    assert store.oddities == lists.oddities
    assert store.counts == lists.counts
    assert [(x.split, x.samples, len(x.related)) for x in store.leakage.leaks] == [
        (x.split, x.samples, len(x.related)) for x in lists.leakage.leaks
    ]
    assert lists.statistics is None
    assert store.statistics is not None


def test_a_feature_file_without_a_record_of_its_lists_has_unknown_findings(
    folder: Folder, tmp_path: Path
) -> None:
    target = tmp_path / "tiny.h5"
    import_official(card_of(folder), "cls", folder.parent, target)
    with h5py.File(target, "r+") as f:
        kept = {k: v for k, v in json.loads(f.attrs["provenance"]).items() if k != "list_oddities"}
        f.attrs["provenance"] = json.dumps(kept)
    assert import_official(card_of(folder), "cls", folder.parent, target).already
    audit = audit_store(card_of(folder), FeatureStore(target))
    assert audit.material.from_lists is None
    assert {c.dropped for c in audit.counts} == {None}
    assert "--from DIR" in (write_audit(audit, tmp_path / "out")[0]).read_text()


def test_findings_that_an_earlier_version_recorded_are_read(folder: Folder, tmp_path: Path) -> None:
    target = tmp_path / "tiny.h5"
    import_official(card_of(folder), "cls", folder.parent, target)
    now = audit_store(card_of(folder), FeatureStore(target)).oddities
    with h5py.File(target, "r+") as f:
        provenance = json.loads(f.attrs["provenance"])
        assert [found.pop("fix") for found in provenance["list_oddities"]], "version 0.1 recorded no fixes"
        f.attrs["provenance"] = json.dumps(provenance)
    assert audit_store(card_of(folder), FeatureStore(target)).oddities == now


# What is written


def test_each_section_has_a_csv_file_and_the_page_has_all(folder: Folder, tmp_path: Path) -> None:
    target = tmp_path / "tiny.h5"
    card = card_of(folder)
    import_official(card, "cls", folder.parent, target)
    audit = audit_store(card, FeatureStore(target))
    files = write_audit(audit, tmp_path / "out")
    assert [path.name for path in files] == ["audit.md", *(f"{name}.csv" for name in audit_files.TABLES)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files)
    assert [row["class"] for row in rows_of(tmp_path / "out" / "misaligned.csv")] == [
        c.name for c in audit.alignment.classes
    ]
    assert len(rows_of(tmp_path / "out" / "features.csv")) == 2 * len(SPLITS)
    page = files[0].read_text()
    for text in (
        "# Audit of Tiny (cls)",
        f"`{audit.material.digest}`",
        "Gliding",
        "HandStandPushups",
        "a fencing bout",
    ):
        assert text in page


def test_an_interrupted_audit_leaves_the_earlier_page_whole(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_audit(audit_folder(folder), out)
    before = {path.name: path.read_text() for path in out.iterdir()}

    def half_written(path: Path, text: str, encoding: str) -> int:
        with open(path, "w", encoding=encoding) as f:
            f.write(text[: len(text) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", half_written)
    with pytest.raises(OSError, match="disk full"):
        write_audit(audit_folder(folder, title="Other"), out)
    assert {path.name: path.read_text() for path in out.iterdir()} == before


def test_an_audit_of_lists_takes_away_the_feature_tables_of_an_earlier_one_and_nothing_else(
    folder: Folder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_audit(audit_store(own_card(), make_store(tmp_path / "own.h5")), out)
    (out / "mine.txt").write_text("mine")
    assert (out / "features.csv").is_file()
    files = write_audit(audit_folder(folder), out)
    assert {path.name for path in out.iterdir()} == {"mine.txt", *(path.name for path in files)}
    assert "lists have no features" in (out / "audit.md").read_text()


def test_files_of_others_stay_where_no_audit_was_before(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "features.csv").write_text("mine")
    write_audit(audit_folder(folder), tmp_path)
    assert (tmp_path / "features.csv").read_text() == "mine"


def test_the_json_is_plain_data_without_values_that_json_has_not(tmp_path: Path) -> None:
    samples = default_samples()
    samples[0] = (*samples[0][:3], np.full((2, 2), np.nan), samples[0][4])
    audit = audit_store(own_card(grouping=GROUPING), make_store(tmp_path / "own.h5", samples))
    text = json.dumps(audit_json(audit, []), allow_nan=False)
    found = json.loads(text)["statistics"]["splits"][0]
    assert (found["nan"], found["bad_samples"], found["examples"]) == (4, 1, [samples[0][0]])
