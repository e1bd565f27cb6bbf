"""Settings: where they come from, which win, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmark import registry
from benchmark.data.cards import Card, Cards, Preset, load_cards
from benchmark.errors import UsageError
from benchmark.running import planning
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.planning import make_plan, plan_notes, search_ranges
from benchmark.settings.resolve import Settings, parse_overrides, protocol_for, resolve
from benchmark.settings.schema import ProtocolConfig, TrainConfig
from benchmark.settings.search_space import Range, load_search_space

METHODS = registry.load()
CARDS = load_cards()


def settings(method: str, *overrides: str, card: Card = CARDS["ucf"], features: str = "cls") -> Settings:
    cls = METHODS.get(method)
    return resolve(
        cls, METHODS.search_space(cls), card, features, "paper", parse_overrides(overrides, METHODS.methods)
    )


def test_published_settings_are_the_default_on_published_data() -> None:
    found = settings("tcaf")
    assert found.published
    assert (found.config.lr, found.train.batch_size, found.train.batches_per_epoch, found.train.epochs) == (
        7e-5,
        64,
        300,
        50,
    )
    activitynet = settings("tcaf", card=CARDS["activitynet"])
    assert (activitynet.lengths.train, activitynet.lengths.test) == (60, 300)
    assert settings("avca", card=CARDS["vggsound"], features="main").train.batch_size == 64


def test_the_card_wins_over_the_class_and_set_wins_over_all() -> None:
    own = {"name": "own", "sizes": {"tcaf": {"depth": 3, "lr": 0.5}}, "train": {"epochs": 7}}
    found = settings(
        "tcaf", "tcaf.lr=0.25", "train.batch_size=9", card=CARDS["synthetic"].model_copy(update=own)
    )
    assert not found.published
    assert found.as_dict()["tcaf"]["depth"] == 3
    assert (found.config.lr, found.train.epochs, found.train.batch_size) == (0.25, 7, 9)


def test_a_number_in_scientific_notation_is_a_number() -> None:
    assert settings("tcaf", "tcaf.lr=1e-4").config.lr == 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.epoch=2", "'train' has no setting 'epoch': did you mean 'epochs'"),
        ("trian.epochs=2", "no section 'trian': did you mean 'train'"),
        ("train.epochs", "SECTION.FIELD=VALUE"),
        ("train.epochs=two", "train.epochs=two.*must be a whole number"),
        ("train.epochs=0", "must be at least 1"),
        ("tcaf.drop=0.5", "did you mean 'dropout'"),
        ("tcaf.dropout=7", "dropout"),
        ("protocol.video_norm=maybe", "'paper' or 'corrected'"),
        ("train.epochs=true", "train.epochs=true: epochs: .*is a truth value .true., not a number"),
        ("train.epochs='3'", "is a text, not a number"),
        ("tcaf.plateau=1", "write true or false, not 1"),
        ("train.epochs={a: 1, a: 2}", "--set .*key 'a' is given twice"),
        ("train.epochs=[", "--set .*not valid YAML"),
    ],
)
def test_a_wrong_override_is_named_with_the_near_ones(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        parse_overrides([text], METHODS.methods)


def test_mode_paper_is_official_only_where_an_order_was_published() -> None:
    avca = METHODS.get("avca")
    assert protocol_for(avca, "paper", published_order=True)["text_alignment"] == "official"
    assert protocol_for(avca, "paper", published_order=False)["text_alignment"] == "by_name"
    corrected = protocol_for(avca, "corrected", published_order=True)
    assert {name for name, value in corrected.items() if value != "corrected"} == {"text_alignment", "grid"}
    assert corrected["text_alignment"] == "by_name"
    paper = protocol_for(avca, "paper", published_order=True)
    assert set(paper) == set(ProtocolConfig.model_fields) - {"seen_test"}


def test_the_calibration_grid_is_that_of_the_published_code() -> None:
    grids = {name: settings(name).protocol.grid for name in ("avca", "clipclap", "hspmoe", "hyper_single")}
    assert grids == {"avca": (3, 16), "clipclap": (5, 76), "hspmoe": (5, 76), "hyper_single": (3, 16)}
    assert settings("avca", "protocol.grid=[5, 76]").protocol.grid == (5, 76)
    for wrong in ("3", "[5]"):
        with pytest.raises(UsageError, match=r"grid: must be the largest beta and the number of betas"):
            settings("avca", f"protocol.grid={wrong}")


def test_settings_are_read_again_from_what_they_recorded() -> None:
    tcaf, found = METHODS.get("tcaf"), settings("tcaf", "tcaf.dropout=0.25", "lengths.train=5")
    assert Settings.validated(tcaf, found.as_dict(), "record", published=True) == found
    assert found.with_values(tcaf, {"lr": 0.5, "train.epochs": 3}) == settings(
        "tcaf", "tcaf.dropout=0.25", "lengths.train=5", "tcaf.lr=0.5", "train.epochs=3"
    )
    with pytest.raises(UsageError, match=r"searched settings of TCAF: epochs: .*must be at least 1"):
        found.with_values(tcaf, {"train.epochs": 0})


def test_the_text_alignment_of_version_0_1_is_read_by_its_name_of_today() -> None:
    now, before = (settings("avca", f"protocol.text_alignment={name}") for name in ("by_name", "corrected"))
    assert before == now
    record = now.as_dict()
    assert record["protocol"]["text_alignment"] == "by_name"
    record["protocol"]["text_alignment"] = "corrected"
    assert Settings.validated(METHODS.get("avca"), record, "record", published=True) == now
    with pytest.raises(UsageError, match="'official', 'by_name' or 'shuffled'"):
        settings("avca", "protocol.text_alignment=paper")


def test_a_search_space_reports_all_its_errors_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tcaf.yaml"
    path.write_text(
        "method: tcaff\n"
        "published: {ucf: {cls: {config: {lr: 0.5, layers: 3}, train: {epochs: none}}}}\n"
        "search: {lr: {type: float, low: 0.00001, high: 0.1}, width: {type: int, low: 1, high: 2}}\n"
    )
    with pytest.raises(UsageError) as error:
        load_search_space(path, METHODS.get("tcaf"))
    for part in ("expected 'tcaf'", "layers", "epochs", "is outside the search range", "no such setting; "):
        assert part in str(error.value), part


def test_the_ranges_of_a_dataset_config_are_checked_as_those_of_a_search_space() -> None:
    tcaf = METHODS.get("tcaf")
    wrong = {
        "dropout": {"type": "float", "low": 0, "high": 2},
        "width": {"type": "int", "low": 1, "high": 2},
        "train.epoch": {"type": "int", "low": 1, "high": 2},
        "train.epochs": {"type": "categorical", "choices": [5, 0]},
    }
    card = load_cards()["stamps"].model_copy(update={"search": {"tcaf": wrong}})
    with pytest.raises(UsageError) as error:
        search_ranges(tcaf, METHODS.search_space(tcaf), card)
    lines = str(error.value).splitlines()
    for line, part in zip(
        lines, ("high: ", "no such setting", "'train.epochs'", "choices[1]: "), strict=True
    ):
        assert line.startswith("dataset config stamps: search.tcaf."), line
        assert part in line, line


@pytest.mark.parametrize(
    "values",
    [
        {"type": "float", "low": 1},
        {"type": "int", "low": 3, "high": 2},
        {"type": "categorical"},
        {"type": "categorical", "choices": [1], "low": 0},
        {"type": "float", "low": 0, "high": 1, "log": True},
    ],
)
def test_impossible_ranges_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="range"):
        Range.model_validate(values)


def test_all_defaults_are_visible_in_the_flat_settings() -> None:
    flat = settings("avca").flat()
    assert {f"train.{name}" for name in TrainConfig.model_fields} <= set(flat)
    assert flat["protocol.text_alignment"] == "official"
    assert flat["avca.momentum"] == 0.99


def notes(tmp_path: Path, **options: object) -> str:
    call = BenchmarkRun.model_validate({"dataset": "synthetic", "methods": "cjme", **options})
    return "\n".join(plan_notes(make_plan(call, METHODS, tmp_path), METHODS))


def test_a_value_that_is_not_used_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert notes(tmp_path) == ""
    assert notes(tmp_path, settings=["train.epochs=3", "train.epochs = 3"]) == ""
    twice = notes(tmp_path, settings=["train.epochs=3", "cjme.hidden=8", "train.epochs=2"])
    assert twice == "--set train.epochs is given more than once; the last one counts: train.epochs=2"
    cards = load_cards()
    odd = {
        "sizes": {"cjmee": {"hidden": 8}},
        "search": {"tcf": {}},
        "presets": {"quick": Preset(searched=["hiden"])},
    }
    changed = Cards({**cards, "synthetic": cards["synthetic"].model_copy(update=odd)})
    del changed["ucf"]
    monkeypatch.setattr(planning, "load_cards", lambda **_: changed)
    text = notes(tmp_path)
    assert "dataset synthetic: sizes.cjmee is not used, no method has this name: did you mean 'cjme'" in text
    assert "dataset synthetic: search.tcf is not used" in text
    assert (
        "dataset synthetic: presets.quick.searched: no method has a setting 'hiden': did you mean 'hidden'"
        in text
    )
    assert "search space of cjme: published.ucf is not used, no dataset has this name" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"methods": "cjme,tcaf, cjme"}, "--methods cjme,tcaf, cjme: 'cjme' is named twice"),
        ({"dataset": "synthetic,synthetic"}, "--datasets synthetic,synthetic: 'synthetic' is named twice"),
        ({"repetitions": [0, 1, 0]}, "(?s)repetitions.*0 is given twice"),
        ({"ablate": ["video_norm", "video_norm"]}, "(?s)ablate.*'video_norm' is given twice"),
        ({"seeds": True}, "truth value"),
        ({"in_memory": 1}, "write true or false"),
    ],
)
def test_what_is_named_twice_or_is_of_another_kind_is_refused(
    tmp_path: Path, options: dict[str, object], told: str
) -> None:
    with pytest.raises((UsageError, ValidationError), match=told):
        notes(tmp_path, **options)
