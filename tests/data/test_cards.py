"""Data set cards: shipped ones are right about the published lists; wrong ones are told with all their errors."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.data.cards import Card, find_card, load_cards
from benchmark.data.store import PARTS
from benchmark.errors import UsageError

PUBLISHED = {"ucf": "UCF", "activitynet": "ActivityNet", "vggsound": "VGGSound"}
# Table of the published protocol: classes and samples per part; unseen test differs between cls and main.
COUNTS: dict[str, dict[str, Any]] = {
    "vggsound": {"classes": (138, 138, 69, 207, 207), "samples": (70351, 7817, 3102, 81270, 9032)},
    "ucf": {"classes": (30, 30, 12, 42, 42), "samples": (3174, 353, 1467, 4994, 555)},
    "activitynet": {"classes": (99, 99, 51, 150, 150), "samples": (9204, 1023, 4307, 14534, 1615)},
}
UNSEEN = {
    "vggsound": {"cls": (64, 3200), "main": (69, 3450)},
    "ucf": {"cls": (6, 845), "main": (9, 1267)},
    "activitynet": {"cls": (48, 4052), "main": (50, 4199)},
}
ORDER = ("stage_1_train", "stage_1_val_seen", "stage_1_val_unseen", "stage_2_train", "stage_2_test_seen")
# Test-seen samples that share their group with a training sample, test-seen samples, and the same sharing for test unseen:
# one ActivityNet video (yDH9iAn82Q8) has segments of a training class and of an unseen class.
LEAKS = {"ucf": (555, 555, 0), "activitynet": (784, 1615, 1), "vggsound": (3144, 9032, 0)}


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    return load_cards()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cards_have_both_feature_sets_with_dimensions_steps_and_scales(cards: dict[str, Card], name: str) -> None:
    cls, main = cards[name].features["cls"], cards[name].features["main"]
    assert (cls.audio.dim, cls.video.dim, cls.text_dim) == (128, 4096, 300)
    assert (main.audio.dim, main.video.dim, main.text_dim) == (512, 512, 300)
    assert (cls.audio.seconds, cls.video.seconds, main.audio.seconds, main.video.seconds) == (0.96, 0.64, 1, 1)
    assert (cls.audio.scale, cls.audio.published_scale) == (255, None)
    assert (main.audio.scale, main.audio.published_scale) == (1, 255)
    assert (cls.video.scale, main.video.scale) == (1, 1)
    assert cards[name].default_features == "cls"
    assert cards[name].published_order


@pytest.mark.parametrize("features", ["cls", "main"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cards_have_the_published_counts(cards: dict[str, Card], name: str, features: str) -> None:
    found = cards[name].features[features]
    for what, position in (("classes", 0), ("samples", 1)):
        expected = dict(zip(ORDER, COUNTS[name][what], strict=True))
        expected["stage_2_test_unseen"] = UNSEEN[name][features][position]
        assert getattr(found, what) == expected
        assert set(expected) == {*PARTS, "stage_2_train"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cards_say_how_to_obtain_the_features(cards: dict[str, Card], name: str) -> None:
    text = cards[name].obtain
    layout = cards[name].official
    assert layout is not None
    assert layout.folder == PUBLISHED[name]
    for needed in ("2025-12", f"data import {name} --features cls --from DIR", layout.names_file, layout.text_file):
        assert needed in text


@pytest.mark.parametrize(
    ("name", "sample", "group"),
    [
        ("ucf", "v_Archery_g01_c03", "v_Archery_g01"),
        ("ucf", "v_HandStandPushups_g25_c07", "v_HandStandPushups_g25"),
        ("activitynet", "-IkL9Kq9zfQ_0", "-IkL9Kq9zfQ"),
        ("activitynet", "a_b_1_12", "a_b_1"),
        ("vggsound", "-8lzdlqUtJQ_000061", "-8lzdlqUtJQ"),
    ],
)
def test_the_group_of_a_sample_is_what_it_was_cut_from(cards: dict[str, Card], name: str, sample: str, group: str) -> None:
    match = re.search(cards[name].grouping or "", sample)
    assert match is not None
    assert match[1] == group


@pytest.mark.parametrize("name", PUBLISHED)
def test_grouping_finds_the_known_leakage_in_the_published_lists(cards: dict[str, Card], name: str, shared: Path) -> None:
    split = shared / "official" / "avgzsl_benchmark_datasets" / PUBLISHED[name] / "class-split" / "cls_split"
    pattern = re.compile(cards[name].grouping or "")

    def groups(part: str) -> list[str]:
        with open(split / f"{part}.csv", newline="") as f:
            matches = [pattern.search(row["filename"]) for row in csv.DictReader(f)]
        assert all(matches)
        return [match[1] for match in matches if match]

    train = set(groups("stage_2_train"))
    seen, unseen = groups("stage_2_test_seen"), groups("stage_2_test_unseen")
    found = sum(group in train for group in seen), len(seen), sum(group in train for group in unseen)
    assert found == LEAKS[name]


def write(folder: Path, name: str, **fields: Any) -> None:
    modality = {"extractor": "none", "dim": 3, "seconds": 1}
    card = {
        "name": name,
        "title": name,
        "kind": "real",
        "description": "",
        "default_features": "native",
        "features": {"native": {"description": "", "audio": modality, "video": modality, "text_dim": 4}},
        **fields,
    }
    (folder / f"{fields.get('file', name)}.yaml").write_text(yaml.safe_dump({k: v for k, v in card.items() if k != "file"}))


def test_all_errors_of_a_card_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "bad", kind="imaginary", colour="red", features={"native": {"audio": {"dim": 0}}})
    with pytest.raises(UsageError) as caught:
        load_cards(tmp_path)
    told = str(caught.value)
    for field in ("kind", "colour", "features.native.audio.dim", "features.native.video", "features.native.text_dim"):
        assert f"bad.yaml: {field}: " in told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"grouping": "("}, "no regular expression"),
        ({"grouping": "^clip"}, "needs a group in parentheses"),
        ({"grouping": r"^(.+)_\d+$", "overlap_seconds": 10}, "needs a second group in grouping"),
        ({"overlap_seconds": 10}, "needs a second group in grouping"),
        ({"grouping": r"^(.+)_(\d+)$", "overlap_seconds": 0}, "overlap_seconds"),
    ],
)
def test_a_grouping_rule_without_the_groups_that_are_read_is_told(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    write(tmp_path, "bad", **fields)
    with pytest.raises(UsageError, match=told):
        load_cards(tmp_path)


def test_vggsound_clips_have_a_start_and_a_length(cards: dict[str, Card]) -> None:
    match = re.search(cards["vggsound"].grouping or "", "-8lzdlqUtJQ_000061")
    assert match is not None
    assert (match[1], int(match[2]), cards["vggsound"].overlap_seconds) == ("-8lzdlqUtJQ", 61, 10)
    assert {name for name, card in cards.items() if card.overlap_seconds is not None} == {"vggsound"}


def test_a_file_that_is_not_yaml_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UsageError, match=r"bad\.yaml: not valid YAML"):
        load_cards(tmp_path)


def test_two_cards_of_one_name_are_told(tmp_path: Path) -> None:
    write(tmp_path, "one")
    write(tmp_path, "one", file="two")
    with pytest.raises(UsageError, match=r"two\.yaml: the name 'one' is taken"):
        load_cards(tmp_path)


def test_an_alias_finds_its_card_and_budget_and_a_near_name_is_suggested(tmp_path: Path) -> None:
    write(tmp_path, "one", aliases={"quick": {"train": {"epochs": 2}, "seeds": 1}})
    cards = load_cards(tmp_path)
    card, budget = find_card("quick", cards)
    assert budget is not None
    assert (card.name, budget.train) == ("one", {"epochs": 2})
    assert find_card("one", cards)[1] is None
    with pytest.raises(UsageError, match="did you mean 'quick'"):
        find_card("quik", cards)


def test_an_unknown_feature_set_is_told_with_the_known_ones(cards: dict[str, Card]) -> None:
    assert cards["ucf"].feature_set(None)[0] == "cls"
    with pytest.raises(UsageError, match=r"no feature set 'man': did you mean 'main'\? \(known: cls, main\)"):
        cards["ucf"].feature_set("man")
