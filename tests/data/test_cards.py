"""Dataset configs: shipped ones fit the published lists; wrong ones are reported with all errors."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from benchmark.data.cards import Card, Preset, find_card, load_cards
from benchmark.data.store import SPLITS
from benchmark.errors import UsageError

PUBLISHED = {"ucf": "UCF", "activitynet": "ActivityNet", "vggsound": "VGGSound"}
# Table of the published protocol: classes and samples per split; unseen test differs between cls and main.
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
# Test-seen samples that share their group with a training sample, all test-seen samples, and the
# same sharing for test unseen:
# one ActivityNet video (yDH9iAn82Q8) has segments of a training class and of an unseen class.
LEAKS = {"ucf": (555, 555, 0), "activitynet": (784, 1615, 1), "vggsound": (3144, 9032, 0)}


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    return load_cards()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cards_have_both_feature_sets_with_dimensions_steps_and_scales(
    cards: dict[str, Card], name: str
) -> None:
    cls, main = cards[name].features["cls"], cards[name].features["main"]
    assert (cls.audio.dim, cls.video.dim, cls.text_dim) == (128, 4096, 300)
    assert (main.audio.dim, main.video.dim, main.text_dim) == (512, 512, 300)
    assert (cls.audio.seconds, cls.video.seconds, main.audio.seconds, main.video.seconds) == (
        0.96,
        0.64,
        1,
        1,
    )
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
        assert set(expected) == {*SPLITS, "stage_2_train"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text_files": {"audio": "a.npy"}}, "layout.text_files must name a file for each of text_parts"),
        ({"cache_files": {"a.pkl": ["stage_1_train"]}}, "stage_2_test_unseen must be in one file"),
        ({"cache_files": {"a.pkl": list(SPLITS), "b.pkl": ["stage_1_train"]}}, "must be in one file"),
    ],
)
def test_a_layout_that_lacks_a_part_or_a_split_is_refused(
    cards: dict[str, Card], change: dict[str, Any], reason: str
) -> None:
    fields = cards["ucf"].model_dump()
    fields["features"]["clip_clap"]["layout"] |= change
    with pytest.raises(ValidationError, match=reason):
        Card.model_validate(fields)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cards_say_how_to_obtain_the_features(cards: dict[str, Card], name: str) -> None:
    text = cards[name].obtain
    layout = cards[name].official
    assert layout is not None
    assert layout.folder == PUBLISHED[name]
    for needed in (
        "2025-12",
        layout.names_file,
        layout.text_file,
    ):
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
def test_the_group_of_a_sample_is_what_it_was_cut_from(
    cards: dict[str, Card], name: str, sample: str, group: str
) -> None:
    match = re.search(cards[name].grouping or "", sample)
    assert match is not None
    assert match[1] == group


@pytest.mark.parametrize("name", PUBLISHED)
def test_grouping_finds_the_known_leakage_in_the_published_lists(
    cards: dict[str, Card], name: str, shared: Path
) -> None:
    lists = shared / "official" / "avgzsl_benchmark_datasets" / PUBLISHED[name] / "class-split" / "cls_split"
    pattern = re.compile(cards[name].grouping or "")

    def groups(split: str) -> list[str]:
        with open(lists / f"{split}.csv", newline="") as f:
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
    (folder / f"{fields.get('file', name)}.yaml").write_text(
        yaml.safe_dump({k: v for k, v in card.items() if k != "file"})
    )


def test_all_errors_of_a_card_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "bad", kind="imaginary", colour="red", features={"native": {"audio": {"dim": 0}}})
    with pytest.raises(UsageError) as caught:
        find_card("bad", load_cards(tmp_path))
    told = str(caught.value)
    for field in (
        "kind",
        "colour",
        "features.native.audio.dim",
        "features.native.video",
        "features.native.text_dim",
    ):
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
def test_a_grouping_rule_without_the_groups_that_are_read_is_told(
    tmp_path: Path, fields: dict[str, Any], told: str
) -> None:
    write(tmp_path, "bad", **fields)
    with pytest.raises(UsageError, match=told):
        find_card("bad", load_cards(tmp_path))


def test_vggsound_clips_have_a_start_and_a_length(cards: dict[str, Card]) -> None:
    match = re.search(cards["vggsound"].grouping or "", "-8lzdlqUtJQ_000061")
    assert match is not None
    assert (match[1], int(match[2]), cards["vggsound"].overlap_seconds) == ("-8lzdlqUtJQ", 61, 10)
    assert {name for name, card in cards.items() if card.overlap_seconds is not None} == {"vggsound"}


def test_a_file_that_is_not_yaml_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UsageError, match=r"bad\.yaml: not valid YAML: line 1"):
        find_card("bad", load_cards(tmp_path))


def test_of_two_cards_of_one_name_the_copy_is_blamed(tmp_path: Path) -> None:
    write(tmp_path, "one", file="one (copy)")
    write(tmp_path, "one", title="The one")
    cards = load_cards(tmp_path)
    assert cards["one"].title == "The one"
    (copy,) = cards.broken
    assert re.search(r"one \(copy\)\.yaml: the name 'one' is taken by one\.yaml", copy.reason)


def test_of_two_cards_of_one_name_in_other_files_none_counts(tmp_path: Path) -> None:
    write(tmp_path, "one", file="a")
    write(tmp_path, "one", file="b")
    with pytest.raises(
        UsageError, match=r"'one' cannot be used: .*a\.yaml: the name 'one' is taken by b\.yaml"
    ):
        find_card("one", load_cards(tmp_path))


def break_a_card(folder: Path, kind: str) -> str:
    """A file beside the good card ``one``; what is to be said of it."""
    file = folder / "bad.yaml"
    if kind == "folder":
        file.mkdir()
        return "is not a readable file"
    if kind == "pipe":
        os.mkfifo(file)
        return "is not a readable file"
    if kind == "link":
        file.symlink_to(folder / "nowhere")
        return "No such file"
    texts = {
        "syntax": (b"name: [", "not valid YAML: line 1"),
        "latin-1": (
            "name: bad\ntitle: Vögel\n".encode("latin-1"),
            "line 2: not UTF-8 .byte 0xf6.; save it as UTF-8",
        ),
        "nothing": (b"", "is empty; write fields"),
        "list": (b"- name: bad\n", "holds a list; write fields"),
        "fields": (b"name: bad\n", "title: is required"),
        "two": (b"name: bad\n---\nname: bad\n", "holds 2 documents"),
        "twice": (
            b"name: bad\ntrain: {epochs: 3}\ntrain: {batch_size: 8}\n",
            "line 3: key 'train' is given twice .first in line 2",
        ),
    }
    content, told = texts[kind]
    file.write_bytes(content)
    return told


@pytest.mark.parametrize(
    "kind", ["folder", "pipe", "link", "syntax", "latin-1", "nothing", "list", "fields", "two", "twice"]
)
def test_a_broken_card_stops_only_what_needs_it(tmp_path: Path, kind: str) -> None:
    write(tmp_path, "one")
    told = break_a_card(tmp_path, kind)
    cards = load_cards(tmp_path)
    assert list(cards) == ["one"]
    assert [b.names[0] for b in cards.broken] == ["bad"]
    with pytest.raises(
        UsageError, match=rf"(?s)dataset 'bad' cannot be used: .*bad\.yaml: .*{told}|bad\.yaml.*{told}"
    ):
        find_card("bad", cards)
    with pytest.raises(UsageError, match=r"(?s)unknown dataset 'baad'.*not read: .*bad\.yaml"):
        find_card("baad", cards)


def test_a_preset_of_a_broken_config_leads_to_its_reason(tmp_path: Path) -> None:
    write(tmp_path, "one", kind="imaginary", presets={"quick": {}})
    with pytest.raises(UsageError, match=r"dataset 'quick' cannot be used: .*one\.yaml: kind"):
        find_card("quick", load_cards(tmp_path))


def test_a_preset_of_two_configs_is_refused_when_it_is_used(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path, name, presets={"quick": {}})
    with pytest.raises(UsageError, match="'quick' is a preset of one and of two"):
        find_card("quick", load_cards(tmp_path))


def test_junk_is_not_read_and_yml_is(tmp_path: Path) -> None:
    write(tmp_path, "one")
    (tmp_path / "one.yaml").rename(tmp_path / "one.yml")
    for name in (
        "._one.yaml",
        ".hidden.yaml",
        "one.yaml~",
        "#one.yaml#",
        "Thumbs.db",
        ".DS_Store",
        "notes.txt",
    ):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    cards = load_cards(tmp_path)
    assert (list(cards), cards.broken) == (["one"], [])


@pytest.mark.parametrize("name", ["../zz", "z z", "z,z", "z/z", "Z", "", "-z", ".z", "z" * 65, "ä", "z.z"])
@pytest.mark.parametrize("field", ["name", "features", "presets"])
def test_a_name_that_cannot_be_chosen_or_be_a_file_is_refused(tmp_path: Path, field: str, name: str) -> None:
    write(tmp_path, "one")
    card = yaml.safe_load((tmp_path / "one.yaml").read_text())
    features = card["features"]["native"]
    changed = {"name": name, "features": {"native": features, name: features}, "presets": {name: {}}}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({**card, field: changed[field]}))
    with pytest.raises(
        UsageError, match=rf"one\.yaml: {field}.*use lower-case letters, digits, hyphens and underscores"
    ):
        find_card("one", load_cards(tmp_path))


def test_a_name_that_yaml_reads_as_something_else_is_told(tmp_path: Path) -> None:
    write(tmp_path, "one")
    file = tmp_path / "one.yaml"
    file.write_text(file.read_text().replace("name: one", "name: no"))
    with pytest.raises(
        UsageError, match=r"name: .*YAML reads this as False, not as a text: write it in quotes"
    ):
        find_card("one", load_cards(tmp_path))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"default_features": "natve"}, "no feature set 'natve': did you mean 'native'"),
        (
            {"presets": {"quick": {"trials": True}}},
            "presets.quick.trials: .*is a truth value .true., not a number",
        ),
        ({"presets": {"quick": {"seeds": "3"}}}, "presets.quick.seeds: .*is a text, not a number"),
        (
            {"overlap_seconds": "10", "grouping": r"^(.+)_(\d+)$"},
            "overlap_seconds: .*is a text, not a number",
        ),
        ({"published_order": "yes"}, "published_order: .*write true or false, not 'yes'"),
    ],
)
def test_no_value_of_a_card_is_taken_for_another(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    write(tmp_path, "one", **fields)
    with pytest.raises(UsageError, match=told):
        find_card("one", load_cards(tmp_path))


def test_counts_of_a_split_that_there_is_not_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "one")
    card = yaml.safe_load((tmp_path / "one.yaml").read_text())
    card["features"]["native"]["samples"] = {"stage_1_trian": 5}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(UsageError, match=r"samples.*no such split: did you mean 'stage_1_train'"):
        find_card("one", load_cards(tmp_path))


def test_a_preset_is_found_with_its_config_and_a_near_name_is_suggested(tmp_path: Path) -> None:
    write(tmp_path, "one", presets={"quick": {"train": {"epochs": 2}, "seeds": 1}})
    cards = load_cards(tmp_path)
    card, preset = find_card("quick", cards)
    assert (card.name, preset.train) == ("one", {"epochs": 2})
    assert find_card("one", cards)[1] == Preset()
    with pytest.raises(UsageError, match="did you mean 'quick'"):
        find_card("quik", cards)


def test_presets_are_read_by_their_earlier_name_and_not_by_both(tmp_path: Path) -> None:
    quick = {"quick": {"train": {"epochs": 2}, "trials": 3}}
    write(tmp_path, "one", aliases=quick)
    write(tmp_path, "two", presets=quick)
    cards = load_cards(tmp_path)
    assert cards["one"].presets == cards["two"].presets == {"quick": Preset(train={"epochs": 2}, trials=3)}
    write(tmp_path, "two", presets={"slow": {}}, aliases={"fast": {}})
    for name in ("two", "slow", "fast"):
        with pytest.raises(
            UsageError, match="aliases is the earlier name of presets: move what it holds to presets"
        ):
            find_card(name, load_cards(tmp_path))


def test_an_unknown_feature_set_is_told_with_the_known_ones(cards: dict[str, Card]) -> None:
    assert cards["ucf"].feature_set(None)[0] == "cls"
    with pytest.raises(
        UsageError, match=r"no feature set 'man': did you mean 'main'\? \(known: clip_clap, cls, main\)"
    ):
        cards["ucf"].feature_set("man")
