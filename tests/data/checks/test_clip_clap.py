"""The feature set clip_clap in ``data info``, ``verify`` and ``audit``, and what needs source videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.clipclap import make_clipclap_layout
from support.small_store import rows_of

from benchmark.cli.app import main
from benchmark.data.cards import load_cards
from benchmark.data.checks.audit import audit_store
from benchmark.data.checks.audit_report import audit_sections
from benchmark.data.checks.verify import verify_store
from benchmark.data.groups import (
    groups_of,
    is_made_up,
    made_up_id,
    origin_rule,
    shares_group,
    usable_grouping,
)
from benchmark.data.importing.official_layout import import_official
from benchmark.data.store import SPLITS, FeatureStore
from benchmark.errors import UsageError

CARD = load_cards()["ucf"]
DROP = {("stage_2_test_seen", "Rowing"): [0], ("stage_2_test_seen", "Archery"): [3]}
CLIPS = 4
UNUSABLE = 2 * (CLIPS - 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the feature file; two clips of two test-seen classes were dropped."""
    folder = tmp_path_factory.mktemp("data")
    root = make_clipclap_layout(folder, "ucf", clips=CLIPS, form="classes", drop=DROP)
    import_official(CARD, "clip_clap", root, folder / "ucf-clip_clap.h5")
    return folder


@pytest.fixture(scope="module")
def store(data: Path) -> FeatureStore:
    return FeatureStore(data / "ucf-clip_clap.h5")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--json", str(tmp_path / "out.json")])
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_info_shows_contamination_parts_licence_and_unusable_names(
    command: Callable[..., tuple[int, str, str]], data: Path, tmp_path: Path
) -> None:
    code, _, _ = command("data", "info", "ucf", "--features", "clip_clap", "--data-root", str(data))
    facts = json.loads((tmp_path / "out.json").read_text())
    assert code == 0
    assert facts["contamination"] == CARD.features["clip_clap"].contamination
    assert facts["dimensions"] == "audio 1024, video 512, text 1536 (512 of video + 1024 of audio)"
    assert "WavCaps" in facts["licence"]
    assert "TCAF-GZSL" in facts["licence"]
    assert facts["sample names"].startswith(f"unusable for {UNUSABLE} samples of 2 class files")


def test_the_commands_import_verify_and_audit_know_the_feature_set(
    command: Callable[..., tuple[int, str, str]], data: Path, tmp_path: Path
) -> None:
    places = ("ucf", "--features", "clip_clap", "--data-root", str(tmp_path))
    code, text, _ = command("data", "import", *places, "--from", str(data), "--form", "vectors")
    assert code == 0
    assert "imported; vectors, float32" in text
    assert command("data", "verify", *places)[0] == 0
    assert {found["level"] for found in json.loads((tmp_path / "out.json").read_text())} == {"note"}
    assert command("data", "audit", *places, "--out", str(tmp_path / "audit"))[0] == 0
    misaligned = rows_of(tmp_path / "audit" / "misaligned.csv")
    assert {row["class"]: row["vector used"] for row in misaligned}["Longboarding"] == "handstand pushups"


# Lengths


def spoil(data: Path, target: Path, how: Callable[[h5py.File], None]) -> Path:
    target.write_bytes((data / "ucf-clip_clap.h5").read_bytes())
    with h5py.File(target, "r+") as file:
        how(file)
    return target


def _longer(file: h5py.File) -> None:
    file["audio/frames"][3] = 2 * file["audio/frames"][3]
    file["audio/means"][3] = 2 * file["audio/means"][3]


def test_verify_and_audit_name_time_steps_and_embeddings_that_are_not_of_length_1(
    data: Path, tmp_path: Path
) -> None:
    assert not [found for found in verify_store(data / "ucf-clip_clap.h5", CARD) if "length" in found.kind]
    path = spoil(data, tmp_path / "audio.h5", _longer)
    ids = FeatureStore(path).tables().ids
    found = {note.kind: note for note in verify_store(path, CARD)}
    assert found["not of length 1"].what == f"audio: {ids[3]}, 1 from it"
    audit = audit_store(CARD, FeatureStore(path))
    (odd,) = [odd for odd in audit.oddities if odd.kind == "not of length 1"]
    assert (odd.place, odd.what, odd.count) == ("stage_1_train", "time steps of audio", 1)

    def part(file: h5py.File) -> None:
        file["classes/vectors"][4, :512] = 0

    path = spoil(data, tmp_path / "text.h5", part)
    name = FeatureStore(path).tables().vector_names[4]
    found = {note.kind: note for note in verify_store(path, CARD)}
    assert found["not of length 1"].what == f"class embeddings: {name}, video part: 0"
    odd = next(o for o in audit_store(CARD, FeatureStore(path)).oddities if o.kind == "not of length 1")
    assert (odd.place, odd.what) == ("class embeddings", f"{name}, video part: 0")


def test_other_feature_sets_may_have_any_length(data: Path, tmp_path: Path) -> None:
    free = CARD.features["clip_clap"].model_copy(update={"unit_length": False})
    card = CARD.model_copy(update={"features": {"clip_clap": free}})
    path = spoil(data, tmp_path / "audio.h5", _longer)
    assert not [found for found in verify_store(path, card) if "length 1" in found.kind]
    audit = audit_store(card, FeatureStore(path))
    assert audit.statistics is not None
    assert {split.not_unit for split in audit.statistics.splits} == {None}


# Missing clips and unusable names


def test_the_audit_lists_missing_clips_and_unusable_names_by_class(store: FeatureStore) -> None:
    audit = audit_store(CARD, store)
    odd: dict[str, list[tuple[str, str, int]]] = {}
    for found in audit.oddities:
        odd.setdefault(found.kind, []).append((found.place, found.what, found.count))
    split = "stage_2_test_seen"
    assert odd["listed samples without features"] == [
        (split, "Archery: 1 of 4", 1), (split, "Rowing: 1 of 4", 1)
    ]  # fmt: skip
    assert odd["sample names unusable, ids made up"] == [
        (split, "Archery: 3", 3), (split, "Rowing: 3", 3)
    ]  # fmt: skip
    assert "ids that the grouping rule does not match" not in odd


def test_the_audit_counts_no_shared_sources_of_samples_without_names(store: FeatureStore) -> None:
    audit = audit_store(CARD, store)
    leak = next(x for x in audit.leakage.leaks if x.split == "stage_2_test_seen" and len(x.against) == 3)
    # Two clips of a class that is trained on share their source with it; two of four such classes have names.
    assert {found.label for found in leak.related} == {"HandstandPushups", "Longjump"}
    assert (leak.samples, leak.unfit) == (6 * CLIPS - 2, UNUSABLE)
    sentences = " ".join(audit_sections(audit)[1].sentences)
    assert f"The source videos of {UNUSABLE} samples are unknown" in sentences


def test_without_any_usable_name_shared_sources_are_unknown(tmp_path: Path) -> None:
    splits = ("stage_2_test_unseen", ["Drumming", "Longboarding", "YoYo"])
    drop = {(splits[0], name): [0] for name in splits[1]}
    root = make_clipclap_layout(tmp_path, "ucf", clips=2, form="classes", drop=drop)
    import_official(CARD, "clip_clap", root, tmp_path / "x.h5")
    leaks = audit_store(CARD, FeatureStore(tmp_path / "x.h5")).leakage.leaks
    known = {leak.split: leak.known for leak in leaks if len(leak.against) == 3}
    assert known == {"stage_2_test_seen": True, "stage_2_test_unseen": False}


def test_a_made_up_id_has_no_group_whatever_the_rule_matches() -> None:
    name = made_up_id("stage_1_train", "v_a_g01_c01", 7)
    assert is_made_up(name)
    assert not any(map(is_made_up, ["v_a_g01_c01", "stage_1_train/a/7", "-8lzdlqUtJQ_000061", "a/b/00007"]))
    anything = CARD.model_copy(update={"grouping": "^(.)"})
    assert origin_rule(anything)(name).fits is False
    assert origin_rule(anything)("other").group == "o"


def test_groups_of_samples_without_names_are_refused_or_single(store: FeatureStore) -> None:
    ids = list(store.tables().ids)
    with pytest.raises(UsageError, match=rf"{UNUSABLE} samples have unusable names .*seen_test=published"):
        shares_group(CARD, ids[:3], ids)
    assert usable_grouping(CARD, ids) is None
    assert groups_of(CARD, ids) == ids
    named = [name for name in ids if not is_made_up(name)]
    assert usable_grouping(CARD, named) == CARD.grouping
    assert len(set(groups_of(CARD, named))) < len(named)


def test_group_disjoint_is_refused_before_a_job_starts(
    command: Callable[..., tuple[int, str, str]], data: Path, tmp_path: Path
) -> None:
    folders = {"--data-root": data, "--runs-dir": tmp_path / "runs", "--reports-dir": tmp_path / "reports"}
    options = [text for pair in folders.items() for text in map(str, pair)]
    run = ("--methods", "eszsl", "--datasets", "ucf", "--features", "clip_clap", *options, "--dry-run")
    code, _, error = command(*run, "--set", "protocol.seen_test=group_disjoint")
    assert code == 2
    assert f"ucf (clip_clap): {UNUSABLE} samples have unusable names" in " ".join(error.split())
    assert command(*run)[0] == 0


def test_samples_of_a_class_without_names_keep_the_order_of_their_file(store: FeatureStore) -> None:
    tables: Any = store.tables()
    made_up = [name for name in tables.ids if is_made_up(name)]
    assert made_up == [made_up_id(SPLITS[3], name, i) for name in ("Archery", "Rowing") for i in range(3)]
    video = np.asarray(store.open_test("by_name").samples.video.means)
    assert np.isfinite(video).all()
