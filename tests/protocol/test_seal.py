"""The seal: a method can reach only its own data, and attacks end in an error or in honest results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from support.reachable import memory, reachable
from support.tiny import Bench

from benchmark import registry
from benchmark.data.store import DEVELOPMENT_SPLITS, SPLITS, FeatureStore, Section, Tables
from benchmark.errors import JobError
from benchmark.protocol.evaluation import nearest_classes
from benchmark.protocol.stages import TRAIN, VAL_SEEN, VAL_UNSEEN, evaluation_set
from benchmark.running.jobs import Plan
from benchmark.running.worker import Worker
from benchmark.tracking.tracker import Tracker

LINEAR = '''
"""A linear map of temporal means."""
import gc

import torch
from torch import nn
from torch.nn import functional

from benchmark.method import Embeddings, Method, MethodConfig, register

{before}

@register("{name}", title="Trial", paper="none", bibtex="@misc{{x}}", inputs="{inputs}")
class Trial(Method):
    class Config(MethodConfig):
        pass

    given = []

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.map = nn.Linear(spec.audio_dim + spec.video_dim, spec.text_dim)

    def joint(self, batch):
        audio, video = (x if x.dim() == 2 else x.mean(1) for x in (batch.audio, batch.video))
        return self.map(torch.cat([audio, video], 1))

    def loss(self, batch, classes):
        distances = torch.cdist(self.joint(batch), classes.text)
        return {{"total": functional.cross_entropy(-distances, batch.label)}}

    def embed(self, batch):
        return Embeddings({{"joint": self.joint(batch)}})

    def embed_classes(self, text):
        return text

{body}
'''


def plugin(folder: Path, name: str, body: str = "", before: str = "", inputs: str = "mean") -> Path:
    """A plug-in: a linear map with some methods replaced."""
    file = folder / f"{name}.py"
    file.write_text(LINEAR.format(name=name, body=body, before=before, inputs=inputs))
    return file


RECORDING = """
    def fit(self, data, loop):
        self.given.append(("fit", loop.keep_best, (data, loop, loop.listener, self.config, self.spec)))
        return super().fit(data, loop)

    def optimizer(self):
        made = super().optimizer()
        self.given.append(("optimizer", None, (self, made)))
        return made

    def after_step(self, batch):
        self.given.append(("after_step", None, (batch,)))

    def loss(self, batch, classes):
        self.given.append(("loss", None, (batch, classes)))
        audio, video = (x if x.dim() == 2 else x.mean(1) for x in (batch.audio, batch.video))
        x = self.map(torch.cat([audio, video], 1))
        return {"total": functional.cross_entropy(-torch.cdist(x, classes.text), batch.label)}

    def embed(self, batch):
        self.given.append(("embed", None, (batch,)))
        return Embeddings({"joint": self.joint(batch)})

    def embed_classes(self, text):
        self.given.append(("embed_classes", None, (text,)))
        return text

    def distances(self, embeddings, classes):
        self.given.append(("distances", None, (embeddings, classes)))
        return super().distances(embeddings, classes)
"""


@pytest.mark.parametrize("inputs", ["mean", "sequence"])
def test_nothing_that_a_method_is_given_leads_to_what_it_must_not_see(
    bench: Bench, tmp_path: Path, inputs: str
) -> None:
    name = f"recording_{inputs}"
    file = plugin(tmp_path, name, RECORDING, inputs=inputs)
    call = bench.call("train.epochs=2", methods=name, plugins=[file])
    units = bench.units(call)
    assert not bench.runner.run(Plan(call, units)).failed
    given = units[0].method.given  # type: ignore[attr-defined]
    store = units[0].store
    tables = store.tables()
    stages = [i for i, (hook, _, _) in enumerate(given) if hook == "fit"]
    assert [given[i][1] for i in stages] == [True, False]
    for start, end, trained in ((0, stages[1], (TRAIN,)), (stages[1], len(given), DEVELOPMENT_SPLITS)):
        hooks = given[start:end]
        assert {hook for hook, _, _ in hooks} >= {
            "fit",
            "optimizer",
            "after_step",
            "loss",
            "embed",
            "embed_classes",
            "distances",
        }
        evaluated = ("embed", "embed_classes", "distances")
        everything = reachable([value for _, _, values in hooks for value in values])
        refuse_things(everything, tables, store.path)
        training = memory(
            reachable([value for hook, _, values in hooks if hook not in evaluated for value in values])
        )
        assert max(map(len, training)) > 10_000, "the features that it trains on are seen"
        refuse_values(training, store, tables, trained)
        refuse_labels(memory(everything), tables, trained)


def refuse_things(found: Sequence[Any], tables: Tables, path: Path) -> None:
    """No store, record, worker, file or class name."""
    assert not [
        type(thing)
        for thing in found
        if isinstance(thing, (FeatureStore, Tables, Section, Tracker, Worker, h5py.File))
    ]
    texts = {str(thing) for thing in found if isinstance(thing, (str, Path))}
    assert not [text for text in texts if path.name in text]
    assert not texts & set(tables.class_names)
    assert not texts & set(tables.ids)


def refuse_values(held: Sequence[bytes], store: FeatureStore, tables: Tables, trained: Sequence[str]) -> None:
    """No features of samples and no embeddings of classes outside the splits that are trained on."""
    with h5py.File(store.path) as f:
        arrays = [f[m][a][:] for m in ("audio", "video") for a in ("means", "frames")]
        lengths = [f[m]["offsets"][:] for m in ("audio", "video") for _ in range(2)]
    outside = [split for split in SPLITS if split not in trained]
    sealed_rows = np.flatnonzero(np.isin(tables.splits, [SPLITS.index(split) for split in outside]))
    sealed_rows = np.unique(
        sealed_rows[np.linspace(0, len(sealed_rows) - 1, 24).astype(int)]
    )  # the first and the last included
    whole = b"|".join(held)
    for array, offsets in zip(arrays, lengths, strict=True):
        rows = sealed_rows if len(array) == len(tables.ids) else offsets[sealed_rows]
        assert not [row for row in rows if array[row].tobytes() in whole]
    known = {c for split in trained for c in tables.class_splits[split].tolist()}
    unseen = [c for split in outside for c in tables.class_splits[split].tolist() if c not in known]
    assert unseen
    assert not [c for c in unseen if tables.vectors[tables.own_vector[c]].tobytes() in whole]


def refuse_labels(held: Sequence[bytes], tables: Tables, trained: Sequence[str]) -> None:
    """No labels of a split that is not trained on."""
    whole = b"|".join(held)
    for index, split in enumerate(SPLITS):
        if split not in trained:
            assert tables.labels[tables.splits == index].tobytes() not in whole, split


def test_pages_mapped_next_to_the_training_samples_would_be_found(bench: Bench) -> None:
    """The control: in an array of numpy's own map of the file, test values and the file's name are found."""
    unit = bench.units(bench.call(methods="cjme"))[0]
    tables = unit.store.tables()
    with h5py.File(unit.store.path) as f:
        offset, shape = f["audio/means"].id.get_offset(), f["audio/means"].shape
    mapped = np.memmap(unit.store.path, "<f4", "r", offset, (unit.store.counts[TRAIN], shape[1]))
    found = reachable([mapped])
    with pytest.raises(AssertionError):
        refuse_things([*found, mapped.filename], tables, unit.store.path)
    with pytest.raises(AssertionError):
        refuse_values(memory(found), unit.store, tables, [TRAIN])


SEARCHING = """
    def fit(self, data, loop):
        found, left = {}, [data, loop, loop.listener]
        while left:
            thing = left.pop()
            if id(thing) in found or isinstance(thing, type(gc)):
                continue
            found[id(thing)] = thing
            closure = getattr(thing, "__closure__", None)
            left.extend(closure if isinstance(closure, tuple) else [])
            left.append(getattr(thing, "__self__", None))
            left.extend(gc.get_referents(thing) if not hasattr(thing, "__globals__") else [])
        stores = [thing for thing in found.values() if hasattr(thing, "open_test")]
        if stores:
            self.cheat(stores[0])
        return super().fit(data, loop)

    def cheat(self, store):
        section = store.open_test("by_name")
        self.stolen = section.samples.labels
"""
COLLECTING = """
    def fit(self, data, loop):
        stores = [thing for thing in gc.get_objects() if type(thing).__name__ == "FeatureStore"]
        for store in stores:
            if store.path.exists():  # not one of an earlier test
                store.open_test("by_name")
        return super().fit(data, loop)
"""
NEIGHBOURS = """
    def distances(self, embeddings, classes):
        x = torch.cdist(embeddings.outputs["joint"], classes)
        padded = torch.cat([x[:1].expand(10, -1), x, x[-1:].expand(10, -1)])
        return {"joint": padded.unfold(0, 21, 1).mean(-1)}
"""
STATISTICS = """
    def embed(self, batch):
        x = self.joint(batch)
        return Embeddings({"joint": (x - x.mean(0)) / (x.std(0, correction=0) + 1e-3)})
"""
GROWING = """
    def distances(self, embeddings, classes):
        x = embeddings.outputs["joint"]
        self.seen = torch.cat([getattr(self, "seen", x[:0]), x])
        return {"joint": torch.cdist(x - self.seen.mean(0), classes)}
"""


def test_a_search_from_the_listener_finds_no_store_and_the_numbers_are_honest(
    bench: Bench, tmp_path: Path
) -> None:
    honest, searching = plugin(tmp_path, "honest"), plugin(tmp_path, "searching", SEARCHING)
    result = bench.run(bench.call(methods="honest,searching", plugins=[honest, searching]))
    assert [entry.error for entry in result.failed] == []
    finals = bench.tracker.find(kind="job", stage="2")
    records = [bench.tracker.read_json(run.run_id, "result.json") for run in finals]
    assert [record["test_openings"] for record in records] == [1, 1]
    assert records[0]["metrics"] == records[1]["metrics"]


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("collecting", COLLECTING, "the test data were opened while it trained"),
        ("neighbours", NEIGHBOURS, "change with the other samples of a batch"),
        ("statistics", STATISTICS, "change with the other samples of a batch"),
        ("growing", GROWING, "change with the other samples of a batch"),
    ],
)
def test_an_attack_ends_in_an_error_that_names_the_method(
    bench: Bench, tmp_path: Path, name: str, body: str, told: str
) -> None:
    file = plugin(tmp_path, name, body)
    result = bench.run(bench.call("train.epochs=1", methods=name, plugins=[file]))
    error = result.failed[0].error
    assert told in error
    assert f"Trial ({file})" in error
    assert not bench.tracker.find(kind="job", stage="2", status="FINISHED")


def test_results_do_not_depend_on_the_order_in_which_a_method_gets_the_samples(bench: Bench) -> None:
    experiment = bench.units(bench.call(methods="avca"))[0].job(1, 0).experiment()
    method = experiment.build()
    section = experiment.development((VAL_SEEN, VAL_UNSEEN))
    found = []
    for seed, size in ((0, 7), (1, 64)):
        data = evaluation_set(section, VAL_SEEN, VAL_UNSEEN, seed)
        found.append(
            nearest_classes(method, data, experiment.rules, batch_size=size, check=True)[
                method.reported_output
            ]
        )
        assert found[-1].label.tolist() == section.samples.labels[data.rows].tolist()
    np.testing.assert_allclose(found[0].seen_distance, found[1].seen_distance, rtol=1e-5)
    np.testing.assert_array_equal(found[0].unseen_class, found[1].unseen_class)


def neighbours(x: torch.Tensor) -> torch.Tensor:
    """The distances of each sample mixed with those of the other samples, plus a large constant."""
    return 1e5 + (x + x.roll(1, 0) + x.roll(2, 0))


@pytest.mark.parametrize(
    "constant", [lambda x: torch.full_like(x, 5.0), lambda x: 1e5 + x, lambda x: 5.0 + 1e-6 * x]
)
def test_distances_that_differ_by_rounding_alone_pass_and_others_are_refused_behind_a_constant(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, constant: Any
) -> None:
    experiment = bench.units(bench.call(methods="avca"))[0].job(1, 0).experiment()
    method = experiment.build()
    data = evaluation_set(experiment.development((VAL_SEEN, VAL_UNSEEN)), VAL_SEEN, VAL_UNSEEN, 0)
    honest = method.distances
    for change in (constant, neighbours):
        monkeypatch.setattr(
            method, "distances", lambda *given, f=change: {v: f(x) for v, x in honest(*given).items()}
        )
        for size in (7, 256):
            with (
                pytest.raises(JobError, match="other samples of a batch")
                if change is neighbours
                else nullcontext()
            ):
                nearest_classes(method, data, experiment.rules, batch_size=size, check=True)


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("samples", [2, 3, 5])
def test_a_few_samples_can_be_checked(bench: Bench, samples: int, size: int) -> None:
    experiment = bench.units(bench.call(methods="cjme"))[0].job(1, 0).experiment()
    data = evaluation_set(experiment.development((VAL_SEEN, VAL_UNSEEN)), VAL_SEEN, VAL_UNSEEN, 0)
    few = replace(data, rows=data.rows[:: len(data.rows) // samples][:samples])
    found = nearest_classes(experiment.build(), few, experiment.rules, batch_size=size, check=True)
    assert {len(nearest.label) for nearest in found.values()} == {samples}


def test_a_method_may_change_the_class_embeddings_that_it_gets(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = bench.units(bench.call(methods="avca"))[0].job(1, 0).experiment()
    method = experiment.build()
    data = evaluation_set(experiment.development((VAL_SEEN, VAL_UNSEEN)), VAL_SEEN, VAL_UNSEEN, 0)
    embed = method.embed_classes
    monkeypatch.setattr(method, "embed_classes", lambda text: embed(text.mul_(2)))
    first, second = (
        nearest_classes(method, data, experiment.rules, batch_size=64)[method.reported_output]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.seen_distance, second.seen_distance)


def test_no_module_of_the_harness_keeps_a_store_or_a_section(bench: Bench) -> None:
    bench.run(bench.call("train.epochs=1", methods="cjme"))
    modules = [
        module for name, module in sys.modules.items() if name.split(".")[0] in ("benchmark", "methods")
    ]
    values = [value for module in modules for value in vars(module).values()]
    held = reachable(
        v for v in values if isinstance(v, (dict, list, set, tuple)) and v is not registry.__dict__
    )
    assert not [thing for thing in held if isinstance(thing, (FeatureStore, Section, Tables))]
