"""What jobs log of a tested model: correct on cases by hand, and without effect on results."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.tiny import Bench, results
from torch import Tensor, nn
from torch.nn import functional

from benchmark import inspection, registry
from benchmark.data.cards import load_cards
from benchmark.figures.embedding_layout import flat_map
from benchmark.inspection import (
    balanced_rows,
    embedding_map,
    flops_per_sample,
    group_counts,
    nearest_seen,
    parameter_count,
    unseen_confusion,
)
from benchmark.method import Batch, Embeddings, Method, MethodConfig, Spec
from benchmark.protocol import stages
from benchmark.protocol.batching import FeatureRules
from benchmark.protocol.evaluation import EvaluationSet, Nearest
from benchmark.protocol.randomness import random_states
from benchmark.protocol.stages import TEST_SEEN, TEST_UNSEEN, evaluation_set
from benchmark.report.results.artifacts import artifact_frame
from benchmark.tracking.schema import Artifact


def test_the_nearest_seen_class_is_that_of_the_highest_cosine_whatever_the_lengths() -> None:
    seen = np.array([[1, 0], [0, 5], [-1, 0]], np.float32)
    unseen = np.array([[0, 0.1], [3, 3], [0, -2], [0, 0]], np.float32)

    rows, cosines = nearest_seen(seen, unseen)

    assert list(rows) == [1, 0, 0, 0], "the lower row at a tie"
    assert list(cosines) == pytest.approx([1, np.sqrt(0.5), 0, 0])


def test_confusion_counts_unseen_samples_among_unseen_classes_only() -> None:
    distances = np.array(
        [
            [0.1, 0.9, 0.2, 0.8],  # a sample of seen class 0, not counted
            [0.0, 0.9, 0.2, 0.8],  # of unseen class 2: nearest to a seen class, but to 2 among the unseen
            [0.5, 0.9, 0.8, 0.2],  # of 2, predicted as 3
            [0.5, 0.9, 0.8, 0.2],  # again
            [0.5, 0.9, 0.8, 0.2],  # of 3
        ],
        np.float32,
    )
    nearest = Nearest.of(distances, np.array([0, 1, 2, 3]), np.array([0, 1]), np.array([0, 2, 2, 2, 3]))

    assert unseen_confusion(nearest) == [(2, 2, 1), (2, 3, 2), (3, 3, 1)]


def test_correct_predictions_are_counted_by_class_and_source_in_any_order_of_samples() -> None:
    """Two clips of g01 and one of g02 in each class. A group is counted in each class separately."""
    ids = [f"v_{name}_g{group}_c01" for name in ("Run", "Swim", "Fly") for group in ("01", "02")] + [
        "v_Run_g01_c02",
        "odd",
    ]
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 2])
    distances = np.array(
        [
            [0.1, 0.9, 0.5],
            [0.8, 0.1, 0.5],
            [0.9, 0.1, 0.5],
            [0.9, 0.1, 0.5],
            [0.1, 0.9, 0.2],
            [0.8, 0.9, 0.2],
            [0.1, 0.9, 0.5],
            [0.8, 0.9, 0.2],
        ],
        np.float32,
    )
    nearest = Nearest.of(distances, np.array([0, 1, 2]), np.array([0, 1]), labels)
    section = SimpleNamespace(classes=SimpleNamespace(names={0: "run", 1: "swim", 2: "fly"}))
    experiment = SimpleNamespace(card=load_cards()["ucf"])
    order, found = np.array([6, 3, 0, 7, 5, 1, 2, 4]), []
    for rows in (np.arange(8), order):
        data = SimpleNamespace(samples=SimpleNamespace(ids=ids), rows=rows)
        sorted_ = Nearest(**{name: values[rows] for name, values in vars(nearest).items()})
        found.append(group_counts(experiment, section, data, sorted_, 0.0, exact=False))  # type: ignore[arg-type]

    assert found[0] == found[1]
    assert found[0] == {
        "grouping": experiment.card.grouping,
        "classes": [
            {"class": "run", "group": "seen", "samples": [2, 1], "gzsl": [2, 0], "own_group": [2, 0]},
            {"class": "swim", "group": "seen", "samples": [1, 1], "gzsl": [1, 1], "own_group": [1, 1]},
            {
                "class": "fly",
                "group": "unseen",
                "samples": [1, 1, 1],
                "gzsl": [1, 0, 1],
                "own_group": [1, 1, 1],
            },
        ],
    }, "an id that does not fit the rule is its own group"
    assert "g01" not in json.dumps(found[0]["classes"]), "no names of sources"
    data = SimpleNamespace(samples=SimpleNamespace(ids=ids), rows=np.arange(8))
    alone = SimpleNamespace(
        card=experiment.card.model_copy(update={"grouping": None, "overlap_seconds": None})
    )
    single = group_counts(alone, section, data, nearest, 0.0, exact=False)  # type: ignore[arg-type]
    assert single["grouping"] is None
    assert [c["samples"] for c in single["classes"]] == [[1, 1, 1], [1, 1], [1, 1, 1]]
    data.samples.ids = [*ids[:-1], "stage_2_test_unseen/Fly/00000"]  # a made-up id: its source is unknown
    assert group_counts(experiment, section, data, nearest, 0.0, exact=False) == single  # type: ignore[arg-type]


def test_a_draw_is_balanced_over_classes_and_unseen_classes_come_first() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 50, 50, 3])
    is_seen = np.isin(labels, [0, 1])

    rows = balanced_rows(labels, is_seen, limit=40, seed=7)

    assert list(np.bincount(labels[rows])) == [10, 10, 17, 3], (
        "half of them unseen; class 3 has no more than 3"
    )
    assert list(rows) == sorted(set(rows))
    assert list(rows) == list(balanced_rows(labels, is_seen, limit=40, seed=7))
    assert list(rows) != list(balanced_rows(labels, is_seen, limit=40, seed=8))


@pytest.mark.parametrize(("limit", "counts"), [(1000, [5, 2]), (7, [5, 2]), (6, [4, 2]), (1, [0, 1])])
def test_a_draw_of_few_samples_takes_all(limit: int, counts: list[int]) -> None:
    labels = np.repeat([0, 1], [5, 2])

    rows = balanced_rows(labels, labels == 0, limit, seed=0)

    assert list(np.bincount(labels[rows], minlength=2)) == counts


class Config(MethodConfig):
    lr: float = 0.1
    weight_decay: float = 0.0
    plateau: bool = False


class Probe(Method):
    """A linear layer on the audio, attention on the video, and noise from all generators."""

    Config = Config
    reported_output = "both"
    inputs = "mean"

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        self.layer = nn.Linear(spec.audio_dim, 3)
        self.frozen = nn.Parameter(torch.zeros(7), requires_grad=False)

    def loss(self, batch: Batch, classes: Any) -> dict[str, Tensor]:
        raise AssertionError("nothing is trained here")

    def embed(self, batch: Batch) -> Embeddings:
        torch.rand(1), np.random.rand()
        assert not self.training
        assert not torch.is_grad_enabled()
        return Embeddings({"audio": self.layer(batch.audio), "video": batch.video[:, :3]})

    def embed_classes(self, text: Tensor) -> Tensor:
        return text[:, :3]


class Attending(Probe):
    def embed(self, batch: Batch) -> Embeddings:
        q = batch.audio[:, None, None, :4].expand(-1, 2, 5, -1)  # 2 heads, 5 steps, width 4
        return Embeddings({"audio": functional.scaled_dot_product_attention(q, q, q).flatten(1)})


class Uncountable(Probe):
    def embed(self, batch: Batch) -> Embeddings:
        raise RuntimeError("cannot be dispatched")


@pytest.fixture
def tested(bench: Bench) -> tuple[EvaluationSet, FeatureRules, Spec]:
    """The test splits of the synthetic data for a method of means."""
    experiment = bench.units(bench.call(methods="cjme"))[0].job(2, 0).experiment()
    return (
        evaluation_set(stages.open_test(experiment), TEST_SEEN, TEST_UNSEEN, experiment.seed),
        experiment.rules,
        experiment.spec,
    )


def test_operations_of_a_linear_layer_are_two_for_each_weight(
    tested: tuple[EvaluationSet, FeatureRules, Spec],
) -> None:
    data, rules, spec = tested
    method = Probe(Config(), spec)

    assert flops_per_sample(method, data, rules, 16, seed=0) == 2 * spec.audio_dim * 3
    assert parameter_count(method) == spec.audio_dim * 3 + 3


def test_operations_of_attention_are_those_of_its_two_products(
    tested: tuple[EvaluationSet, FeatureRules, Spec],
) -> None:
    data, rules, spec = tested

    found = flops_per_sample(Attending(Config(), spec), data, rules, 16, seed=0)

    assert found == 2 * 2 * (2 * 5 * 5 * 4), "two products, two heads, 5 x 5 pairs of width 4"


@pytest.mark.parametrize("name", registry.load().methods)
def test_each_method_is_counted_and_stays_trainable(
    bench: Bench, name: str, request: pytest.FixtureRequest
) -> None:
    data_of: dict[str, str] = {}
    if registry.load().get(name).needs_text_parts:
        bench, data_of = request.getfixturevalue("clip_clap"), {"dataset": "ucf", "features": "clip_clap"}
    experiment = bench.units(bench.call(methods=name, **data_of))[0].job(2, 0).experiment()
    data = evaluation_set(stages.open_test(experiment), TEST_SEEN, TEST_UNSEEN, experiment.seed)
    method = experiment.method(experiment.settings.config, experiment.spec)
    trainable = [p.requires_grad for p in method.parameters()]

    found = flops_per_sample(method, data, experiment.rules, 16, seed=0)

    assert found is not None
    assert found > parameter_count(method) / 10 or not any(trainable)
    assert [p.requires_grad for p in method.parameters()] == trainable
    assert any(trainable) or name in ("chance", "frozen")


def test_a_method_that_cannot_be_counted_has_no_count(
    tested: tuple[EvaluationSet, FeatureRules, Spec],
) -> None:
    data, rules, spec = tested

    assert flops_per_sample(Uncountable(Config(), spec), data, rules, 16, seed=0) is None


def test_inspecting_a_method_changes_neither_its_mode_nor_a_random_state(
    tested: tuple[EvaluationSet, FeatureRules, Spec],
) -> None:
    data, rules, spec = tested
    method = Probe(Config(), spec).train()
    before = random_states()

    flops_per_sample(method, data, rules, 16, seed=0)
    embedding_map(method, data, rules, data.rows[:5], 2)

    after = random_states()
    assert method.training
    assert torch.equal(before["torch"], after["torch"])
    assert str(before["numpy"]) == str(after["numpy"])
    assert before["python"] == after["python"]


def test_a_map_has_samples_and_classes_in_one_space(tested: tuple[EvaluationSet, FeatureRules, Spec]) -> None:
    data, rules, spec = tested
    method = Probe(Config(), spec)

    found = embedding_map(method, data, rules, data.rows[:5], 2)

    assert found.samples.shape == (5, 6), (
        "the reported output has no embedding: both outputs beside each other"
    )
    assert np.allclose(found.samples[:, 3:], data.samples.video.means[data.rows[:5], :3])
    assert np.allclose(found.classes, np.tile(data.text[:, :3], 2))
    assert list(found.labels) == list(data.samples.labels[data.rows[:5]])


def test_jobs_log_what_figures_need(bench: Bench) -> None:
    bench.run(bench.call(methods="cjme,tcaf", seeds=2))

    for run in bench.tracker.find(kind="job", stage="2"):
        recall, confusion = (
            pd.read_csv(io.StringIO(bench.tracker.read_text(run.run_id, f"{n}.csv")))
            for n in ("recall", "confusion")
        )
        seen, unseen = (recall[recall["group"] == group] for group in ("seen", "unseen"))
        assert seen[["nearest_seen_class", "nearest_seen_cosine"]].isna().all(axis=None)
        assert unseen["nearest_seen_class"].isin(seen["class"]).all()
        assert unseen["nearest_seen_cosine"].between(-1, 1).all()
        right = confusion[confusion["true"] == confusion["predicted"]].set_index("true")["count"]
        expected = (unseen.set_index("class")["own_group"] * unseen.set_index("class")["samples"]).round()
        assert right.reindex(expected.index, fill_value=0).astype(float).to_dict() == expected.to_dict()
        assert (
            confusion.groupby("true")["count"].sum().to_dict()
            == unseen.set_index("class")["samples"].to_dict()
        )
        groups = bench.tracker.read_json(run.run_id, "groups.json")
        assert groups["grouping"] is None, "each sample is its own group"
        assert {n for c in groups["classes"] for n in c["samples"]} == {1}
        for name in ("gzsl", "own_group"):
            shares = {c["class"]: sum(c[name]) / sum(c["samples"]) for c in groups["classes"]}
            assert shares == pytest.approx(recall.set_index("class")[name].to_dict())
        for metric in ("seen", "unseen", "hm", "zsl"):
            low, high = (run.metrics[f"bootstrap/{metric}_{end}"] for end in ("low", "high"))
            assert low <= run.metrics[f"test/{metric}"] <= high
            assert high > low
        assert run.metrics["parameters"] > 0
        assert run.metrics["flops_per_sample"] > 0
        files = {f.path for f in bench.tracker.client.list_artifacts(run.run_id)}
        assert ("embedding.csv" in files) == (run.tags["repetition"] == "0")


@pytest.mark.figures
def test_a_job_logs_the_map_that_a_report_would_lay_out(bench: Bench) -> None:
    bench.run(bench.call(methods="cjme", seeds=2))

    for run in bench.tracker.find(kind="job", stage="2"):
        logged = artifact_frame(bench.tracker, run.run_id, Artifact.EMBEDDING_MAP)
        embedded = artifact_frame(bench.tracker, run.run_id, "embedding.csv")
        assert (logged is None) == (embedded is None) == (run.tags["repetition"] == "1")
        if logged is not None and embedded is not None:
            pd.testing.assert_frame_equal(logged, flat_map(embedded))


def test_the_logged_map_is_bounded_rounded_and_holds_all_classes(bench: Bench) -> None:
    bench.run(bench.call(methods="avca"))
    (run,) = bench.tracker.find(kind="job", stage="2")

    text = bench.tracker.read_text(run.run_id, "embedding.csv")

    frame = pd.read_csv(io.StringIO(text), dtype=str)
    samples, classes = (frame[frame["kind"] == kind] for kind in ("sample", "class"))
    assert list(frame)[:4] == ["kind", "class", "group", "e0"]
    assert len(samples) <= inspection.MAP_SAMPLES
    assert set(samples["class"]) <= set(classes["class"])
    assert classes["class"].is_unique
    assert set(samples["group"]) == {"seen", "unseen"}
    digits = (
        frame.filter(regex="^e")
        .stack()
        .str.replace(r"e[-+]\d+$", "", regex=True)
        .str.replace(r"[-.]", "", regex=True)
    )
    assert digits.str.lstrip("0").str.len().max() <= 4


def test_results_are_the_same_with_and_without_inspection(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = bench.call("cjme.dropout=0.3", methods="cjme,tcaf")
    bench.run(call)
    with monkeypatch.context() as patch:
        patch.setattr(inspection, "cost", lambda *_: {})
        patch.setattr(inspection, "embedding_map", lambda *_: None)
        patch.setattr(inspection, "unseen_confusion", lambda *_: [])
        other.run(call)

    openings = [
        {
            b.tracker.read_json(r.run_id, "result.json")["test_openings"]
            for r in b.tracker.find(kind="job", stage="2")
        }
        for b in (bench, other)
    ]
    assert results(bench.tracker) == results(other.tracker), "and under the same job keys"
    assert openings == [{1}, {1}]


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems give the peak of the whole process"
)
@pytest.mark.slow
def test_the_memory_peak_is_that_of_the_job_alone() -> None:
    code = """
import numpy
from benchmark.running.memory import peak_memory_mb, restart_peak_memory

first = peak_memory_mb()
ones = numpy.ones(200 * 2**17)
high = peak_memory_mb()
del ones
restart_peak_memory()
print(first, high, peak_memory_mb())
"""
    ones = np.ones(600 * 2**17)  # 600 MiB of the parent process
    answer = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    first, high, last = map(float, answer.stdout.split())
    assert first < ones.nbytes / 2**20
    assert high > first + 190
    assert last < high - 190
