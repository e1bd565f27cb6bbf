"""The two stages, and the seal on the test splits."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkout import PROJECT
from support.tiny import Bench, QuietListener

from benchmark.data.built.synthetic import synthetic_config, synthetic_content, synthetic_provenance
from benchmark.data.cards import load_cards
from benchmark.data.locate import open_or_build, store_path
from benchmark.data.store import DEVELOPMENT_SPLITS, SPLITS, ModalityContent, StoreContent, write_store
from benchmark.protocol import evaluation
from benchmark.protocol.evaluation import Calibration
from benchmark.protocol.randomness import derive_seed
from benchmark.protocol.stages import (
    VAL_SEEN,
    VAL_UNSEEN,
    StageOne,
    embed_and_rank,
    evaluation_set,
    stage_two,
    training_data,
)
from benchmark.protocol.training import EpochRecord
from benchmark.tracking.tracker import Tracker


def noisy_copy(data: Path, seed: int) -> None:
    """The synthetic data with noise in place of test features, test labels and embeddings of test classes."""
    card = load_cards()["synthetic"]
    config = synthetic_config(card, {})
    content = synthetic_content(config)
    rng = np.random.default_rng(seed)
    first = int(np.searchsorted(content.splits, len(DEVELOPMENT_SPLITS)))

    def noise(modality: ModalityContent) -> ModalityContent:
        assert modality.frames is not None
        assert modality.offsets is not None
        frames = np.array(modality.frames)
        frames[modality.offsets[first] :] = rng.normal(size=frames[modality.offsets[first] :].shape)
        return replace(modality, frames=frames)

    labels, vectors = content.labels.copy(), np.array(content.vectors)
    for i, split in enumerate(SPLITS[3:], start=3):
        rows = content.splits == i
        labels[rows] = rng.permutation(labels[rows])
        if split == "stage_2_test_unseen":
            own = np.array(content.own_vector)[list(content.class_splits[split])]
            vectors[own] = rng.normal(size=vectors[own].shape)
    provenance = {**content.provenance, **synthetic_provenance(card, config)}
    changed: StoreContent = replace(
        content,
        labels=labels,
        vectors=vectors,
        audio=noise(content.audio),
        video=noise(content.video),
        provenance=provenance,
    )
    write_store(store_path(data, "synthetic", "native"), changed)


def decisions(bench: Bench, tracker: Tracker) -> dict[str, object]:
    """Everything that is decided before a test-set access: trials, epochs, betas, losses of all epochs."""
    call = bench.call(methods="cjme,tcaf", trials=2, seeds=1)
    result = bench.run(call)
    assert not result.failed
    found: dict[str, object] = {f"study {i}": vars(s) | {"study": ""} for i, s in enumerate(result.studies)}
    for run in tracker.find(kind="job", stage="1"):
        record = tracker.read_json(run.run_id, "result.json")
        for epoch in record["history"]:
            del epoch["seconds"]
        found[f"{run.name} {run.tags.get('trial')}"] = record
    for run in tracker.find(kind="job", stage="2"):
        found[run.name] = [
            tracker.history(run.run_id, m) for m in ("train/total", "val/hm", "calibration/beta")
        ]
    return found


def test_noise_in_the_test_splits_changes_no_trial_epoch_or_beta(
    bench: Bench, other: Bench, tmp_path: Path
) -> None:
    clean = decisions(bench, bench.tracker)
    other = Bench(other.tracker, other.runs, tmp_path / "noise")
    noisy_copy(tmp_path / "noise", seed=1)
    noisy = decisions(other, other.tracker)
    assert clean == noisy
    test_hm = [
        {r.metrics["test/hm"] for r in b.tracker.find(kind="job", stage="2", status="FINISHED")}
        for b in (bench, other)
    ]
    assert test_hm[0] != test_hm[1]  # the noise was used


def test_development_data_hold_no_test_sample_and_no_test_class(tmp_path: Path) -> None:
    store = open_or_build(load_cards()["synthetic"], None, tmp_path)
    section = store.development("by_name")
    n = sum(store.counts[split] for split in DEVELOPMENT_SPLITS)
    for modality in (section.samples.audio, section.samples.video):
        assert modality.offsets is not None
        assert modality.frames is not None
        assert len(modality.means) == n
        assert len(modality.frames) == modality.offsets[-1]
    assert set(section.samples.splits) == {0, 1, 2}
    assert not set(section.classes.vectors) & set(store.tables().class_splits["stage_2_test_unseen"].tolist())


def test_only_the_protocol_opens_test_splits() -> None:
    root = PROJECT
    users = set()
    for path in [*root.glob("benchmark/**/*.py"), *root.glob("methods/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "open_test":
                users.add(path.name)
    assert users == {"stages.py"}


def test_the_test_splits_are_opened_once_for_each_final_model(bench: Bench) -> None:
    bench.run(bench.call(methods="cjme", seeds=2))
    finals = bench.tracker.find(kind="job", stage="2")
    assert [bench.tracker.read_json(r.run_id, "result.json")["test_openings"] for r in finals] == [1, 1]


def test_an_interruption_while_testing_is_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation.Nearest, "recall", interrupted)  # used on the test splits only
        with pytest.raises(KeyboardInterrupt):
            bench.run(bench.call(methods="cjme"))
    bench.run(bench.call(methods="cjme"))
    final = bench.tracker.find(kind="job", stage="2", status="FINISHED")[0]
    assert bench.tracker.read_json(final.run_id, "result.json")["test_openings"] == 2


def test_stage_two_trains_on_the_union_for_one_epoch_more_than_the_best_index(bench: Bench) -> None:
    bench.run(bench.call(methods="avgzslnet"))
    runs = {r.tags["stage"]: r for r in bench.tracker.find(kind="job")}
    best = bench.tracker.read_json(runs["1"].run_id, "result.json")["best_epoch"]
    assert len(bench.tracker.history(runs["2"].run_id, "train/total")) == best + 1
    assert runs["2"].metrics["calibration/beta"] == runs["1"].metrics["calibration/beta"]
    experiment = bench.units(bench.call(methods="avgzslnet"))[0].job(2, 0).experiment()
    section = experiment.development()
    union = training_data(experiment, 2).batches
    assert len(union.sampler.rows) == len(section.samples.ids)
    assert union.classes.text.shape[0] == 22


def test_seeds_depend_on_base_dataset_and_repetition_only() -> None:
    seeds = {derive_seed(b, d, r) for b in (42, 43) for d in ("ucf", "vggsound") for r in range(50)}
    assert len(seeds) == 200
    assert derive_seed(42, "ucf", 0) == derive_seed(42, "ucf", 0)


@pytest.mark.parametrize("switch", ["evaluation_times", "extra_bn_pass", "padding_in_bn", "video_norm"])
def test_each_flag_changes_the_results_of_a_sequence_method(bench: Bench, switch: str) -> None:
    for value in ("paper", "corrected"):
        bench.run(bench.call(f"protocol.{switch}={value}", methods="tcaf", stages="1"))
    for run in bench.tracker.find(kind="job"):
        assert run.params[f"protocol.{switch}"] in ("paper", "corrected")
    histories = [bench.tracker.history(r.run_id, "val/ausuc") for r in bench.tracker.find(kind="job")]
    assert histories[0] != histories[1]


def test_calibration_flags_change_the_beta_and_nothing_before_it(bench: Bench) -> None:
    for switch in ("calibration", "beta_output"):
        for value in ("paper", "corrected"):
            bench.run(bench.call(f"protocol.{switch}={value}", methods="cjme", stages="1"))
    runs = bench.tracker.find(kind="job")
    assert len(runs) == 3  # both flags share the job with all flags as published
    records = {
        (r.params["protocol.calibration"], r.params["protocol.beta_output"]): bench.tracker.read_json(
            r.run_id, "result.json"
        )
        for r in runs
    }
    paper, own, exact = (
        records[x]["calibration"] for x in (("paper",) * 2, ("paper", "corrected"), ("corrected", "paper"))
    )
    assert (paper["rule"], own["rule"], exact["rule"]) == ("grid", "grid", "exact")
    for mean in (paper, exact):
        assert mean["beta"] == pytest.approx(np.mean(list(mean["per_output"].values())))
    assert own["beta"] == own["per_output"]["both"]
    assert paper["per_output"] == own["per_output"] != exact["per_output"]
    assert len({str([e["losses"] for e in r["history"]]) for r in records.values()}) == 1


@pytest.mark.parametrize("schedule", ["paper", "corrected"])
def test_stage_two_replays_the_rates_of_stage_one_if_corrected(bench: Bench, schedule: str) -> None:
    experiment = (
        bench.units(bench.call(f"protocol.stage2_schedule={schedule}", "cjme.lr=0.01", methods="cjme"))[0]
        .job(2, 0)
        .experiment()
    )
    rates = [0.01, 0.003, 0.002]  # not what a plateau schedule gives
    heard = Rates()
    stage_two(
        experiment,
        StageOne(2, Calibration(0.5, "grid", {"both": 0.5}), {}, rates),
        bench.runs / "second",
        "k",
        heard,
    )
    assert heard.rates == (rates if schedule == "corrected" else [0.01] * 3)


class Rates(QuietListener):
    """Records the learning rate of each epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_epoch(self, record: EpochRecord) -> None:
        self.rates.append(record.lr)


def test_mode_corrected_sets_all_flags_and_those_of_the_method(bench: Bench) -> None:
    unit = bench.units(bench.call(methods="cjme", mode="corrected"))[0]
    protocol = unit.settings.protocol.model_dump()
    assert {v for k, v in protocol.items() if k not in ("text_alignment", "seen_test", "grid")} == {
        "corrected"
    }
    assert unit.settings.as_dict()["cjme"]["pairing"] == "sample"
    paper = bench.units(bench.call(methods="cjme"))[0].settings
    assert paper.as_dict()["cjme"]["pairing"] == "outer"
    assert paper.protocol.text_alignment == "by_name"  # no published order in these data
    assert not bench.run(bench.call(methods="cjme", mode="corrected")).failed


def test_shuffled_class_embeddings_are_a_permutation_that_the_seed_fixes(tmp_path: Path) -> None:
    store = open_or_build(load_cards()["synthetic"], None, tmp_path)
    rows = store.tables().vector_rows("shuffled", 3)
    assert sorted(rows) == sorted(store.tables().vector_rows("by_name"))
    assert (rows == store.tables().vector_rows("shuffled", 3)).all()
    assert (rows != store.tables().vector_rows("shuffled", 4)).any()


def test_distances_are_in_full_precision_whatever_the_precision_of_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = bench.units(bench.call("train.precision=bfloat16", methods="avca"))[0].job(1, 0).experiment()
    section, method, seen = experiment.development(), experiment.build(), set()
    embed, distances = method.embed, method.distances
    monkeypatch.setattr(
        method, "embed", lambda batch: seen.add(("embed", torch.is_autocast_enabled("cpu"))) or embed(batch)
    )
    monkeypatch.setattr(
        method,
        "distances",
        lambda *both: seen.add(("distances", torch.is_autocast_enabled("cpu"))) or distances(*both),
    )

    embed_and_rank(
        experiment.settings,
        experiment.rules,
        evaluation_set(section, VAL_SEEN, VAL_UNSEEN, experiment.seed),
        method,
    )

    assert seen == {("embed", True), ("distances", False)}
