"""Each protocol flag alone, the group-disjoint test, and what a method may use in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.clipclap import make_clipclap_layout
from support.tiny import Bench

from benchmark.data.cards import load_cards
from benchmark.data.groups import shares_group
from benchmark.data.importing.official_layout import import_official
from benchmark.data.locate import store_path
from benchmark.errors import JobError, UsageError
from benchmark.protocol import stages
from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.means import ablation_effects
from benchmark.report.tables.table import NOTHING
from benchmark.running.jobs import Plan
from benchmark.settings.resolve import switches


def test_each_row_differs_from_mode_paper_in_one_flag_only(bench: Bench) -> None:
    base, *rows, corrected = bench.units(bench.call(methods="cjme", ablate=["all"]))
    paper = base.settings.as_dict()["protocol"]
    assert base.ablation == ""
    assert (corrected.ablation, corrected.mode) == ("all", "corrected")
    assert {u.ablation for u in rows} == {*switches(base.method)} - {
        "text_alignment"
    }  # these data have no published order
    assert "cjme_pairing" in {u.ablation for u in rows}
    for unit in rows:
        assert {k for k, v in unit.settings.as_dict()["protocol"].items() if v != paper[k]} == {unit.ablation}
        assert unit.settings.train == base.settings.train
    assert len({u.job(1, 0).key for u in [base, *rows, corrected]}) == len(rows) + 2


def test_a_flag_of_a_method_can_be_set_alone(bench: Bench) -> None:
    unit = bench.units(bench.call("protocol.cjme_pairing=corrected", methods="cjme"))[0]
    settings = unit.settings.as_dict()
    assert (settings["cjme"]["pairing"], settings["protocol"]["cjme_pairing"]) == ("sample", "corrected")
    assert settings["protocol"]["calibration"] == "paper"


def test_an_ablation_has_a_table_with_effects_seed_by_seed(bench: Bench) -> None:
    assert not bench.run(bench.call(methods="cjme", ablate=["calibration", "beta_output"], seeds=2)).failed
    results = collect(bench.tracker)
    effects = ablation_effects(results.ablation).set_index("ablation")
    assert set(effects.index) == {"", "calibration", "beta_output"}
    hm = {
        name: 100 * rows.sort_values("repetition")["hm"].to_numpy(float)
        for name, rows in results.ablation.groupby("ablation")
    }
    difference = hm["calibration"] - hm[""]
    assert effects.loc["calibration", "hm_effect"] == pytest.approx(difference.mean())
    assert effects.loc["calibration", "hm_effect_std"] == pytest.approx(difference.std(ddof=1))
    assert len(results.test) == 2  # rows of an ablation are in no other table
    table = next(t for t in build_tables(results) if t.name == "ablation")
    assert next(iter(table.cells["Changed"])) == "nothing: mode paper"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ablate": ["calibratoin"]}, "calibration"),
        ({"ablate": ["all"], "mode": "corrected"}, "starts from mode paper"),
        ({"ablate": ["all"], "trials": 3}, "cannot be combined with tuning"),
        ({"ablate": ["all"], "timeout": 60}, "omit --timeout"),
        ({"ablate": ["all"], "stages": "1"}, "both stages"),
    ],
)
def test_an_ablation_that_compares_something_else_is_refused(
    bench: Bench, options: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        bench.units(bench.call(methods="cjme", **options))


def test_clips_of_one_source_are_found_by_the_first_group_of_the_rule(bench: Bench) -> None:
    card = bench.units(bench.call(methods="cjme"))[0].card.model_copy(
        update={"grouping": r"^(.+_g\d+)_c\d+$"}
    )
    found = shares_group(card, ["v_a_g01_c01", "v_a_g02_c01", "odd"], ["v_a_g01_c07", "v_b_g02_c01", "odd"])
    assert found.tolist() == [True, False, True]


def test_the_group_disjoint_test_drops_only_related_seen_samples(bench: Bench) -> None:
    call = bench.call("train.epochs=1", methods="cjme")
    unit = bench.units(call)[0]
    with pytest.raises(UsageError, match="no grouping rule"):
        bench.units(bench.call("protocol.seen_test=group_disjoint", methods="cjme"))
    experiment = unit.job(2, 0).experiment()
    settings = replace(
        experiment.settings, protocol=experiment.protocol.model_copy(update={"seen_test": "group_disjoint"})
    )
    section = stages.open_test(experiment)
    data = stages.evaluation_set(section, stages.TEST_SEEN, stages.TEST_UNSEEN, experiment.seed)
    is_seen = np.isin(section.samples.labels[data.rows], data.seen_ids)
    first = np.flatnonzero(is_seen)[0]
    kept_id = section.samples.ids[data.rows[first]]
    card = unit.card.model_copy(
        update={"grouping": f"^(?!{kept_id}$)()"}
    )  # all samples but one are one group
    experiment = replace(experiment, settings=settings, card=card)
    nearest = stages.embed_and_rank(experiment.settings, experiment.rules, data, experiment.build())["both"]
    seen = float(nearest.predict(0.5)[first] == nearest.label[first])
    unseen = nearest.at(0.5).unseen
    expected = {
        "samples": 1.0,
        "classes": 1.0,
        "seen": seen,
        "hm": 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0,
    }
    assert stages.without_shared_groups(experiment, data, nearest, 0.5, exact=False) == pytest.approx(
        expected
    )


def test_parts_of_methods_are_left_out_and_frozen_features_stand_first(bench: Bench, tmp_path: Path) -> None:
    source = make_clipclap_layout(tmp_path / "source", "ucf", form="classes")
    import_official(load_cards()["ucf"], "clip_clap", source, store_path(bench.data, "ucf", "clip_clap"))
    call = bench.call(
        "train.epochs=1",
        *(f"hspmoe.{size}=16" for size in ("encoding_dim", "projection_hidden")),
        dataset="ucf",
        features="clip_clap",
        methods="frozen,hspmoe",
        ablate=["hspmoe_far_scale"],
        ablate_parts=["far", "dp"],
    )
    units = bench.units(call)
    assert [(u.method.name, u.ablation) for u in units] == [
        ("frozen", ""),
        ("hspmoe", ""),
        ("hspmoe", "hspmoe_far_scale"),
        ("hspmoe", "without far"),
        ("hspmoe", "without dp"),
    ]
    assert units[3].title == "HSP-MoE · ucf/clip_clap · paper without far"
    assert not bench.run(call).failed

    table = next(t for t in build_tables(collect(bench.tracker)) if "HSP-MoE" in t.title)

    assert list(table.cells["Changed"]) == [
        "frozen features, no training: mode paper",
        "nothing: mode paperᵗ",
        "hspmoe_far_scale corrected",
        "without far",
        "without dpᵗ",
    ]
    assert any(note.startswith("ᵗ Transductive") for note in table.notes)
    assert list(table.cells["Effect on HM"])[:2] == [NOTHING, NOTHING]


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"methods": "cjme"}, (), "none of the methods has parts"),
        (
            {"methods": "hyper_single"},
            ("hyper_single.align_weight=0",),
            "omit --set hyper_single.align_weight",
        ),
    ],
)
def test_an_ablation_of_parts_that_are_not_there_is_refused(
    bench: Bench, options: dict[str, str], settings: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        bench.units(bench.call(*settings, ablate_parts=["all"], **options))


@pytest.mark.parametrize(
    ("parts", "message"), [(["fra"], "--ablate-parts: no part 'fra'"), ([], "--ablate-parts: no part")]
)
def test_an_unknown_part_is_named(bench: Bench, parts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench.units(bench.call(methods="hyper_single", ablate_parts=parts))


PLUGIN = """
from benchmark.method import register
from methods.cjme import Cjme


@register("asking{number}", title="Asking", paper="", bibtex="", inputs="mean", uses={uses})
class Asking(Cjme):
    sizes = []

    def fit(self, data, loop):
        self.sizes.append(tuple(data.unseen_classes().text.shape))
        return super().fit(data, loop)
"""


@pytest.mark.parametrize("uses", [(), ("unseen_names",)])
def test_a_method_that_asks_for_more_than_it_declares_fails(
    bench: Bench, tmp_path: Path, uses: tuple[str, ...]
) -> None:
    file = tmp_path / f"asking{len(uses)}.py"
    file.write_text(PLUGIN.replace("{uses}", repr(uses)).replace("{number}", str(len(uses))))
    call = bench.call("train.epochs=1", methods=f"asking{len(uses)}", plugins=[file])
    units = bench.units(call)
    result = bench.runner.run(Plan(call, units))
    if uses:
        assert not result.failed
        splits, dim = units[0].store.tables().class_splits, units[0].store.text_dim
        asked = units[0].method.sizes  # type: ignore[attr-defined]
        assert asked == [(len(splits[split]), dim) for split in ("stage_1_val_unseen", "stage_2_test_unseen")]
        assert "Transductive: Asking" in build_tables(collect(bench.tracker))[0].text
        stage_two = bench.tracker.find(kind="job", stage="2")[0]
        assert (
            bench.tracker.read_json(stage_two.run_id, "result.json")["test_openings"] == 1
        )  # class embeddings are no samples
    else:
        assert "asks for unseen_names in training" in result.failed[0].error


def test_an_inductive_method_does_not_get_the_unseen_classes(bench: Bench) -> None:
    experiment = bench.units(bench.call(methods="cjme"))[0].job(2, 0).experiment()
    data = stages.training_data(experiment, 1)
    assert data.embeddings_of_unseen is None
    with pytest.raises(JobError, match="declared inductive"):
        data.unseen_classes()
