"""The results of a method are checked: an error names method, file, what was expected and got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from protocol.test_seal import plugin
from support.tiny import Bench
from torch import Tensor

from benchmark.errors import JobError, Terminated
from benchmark.method import Embeddings, EpochRecord, FitResult, Method
from benchmark.protocol import border
from benchmark.running.worker import text_of

EPOCH = EpochRecord(0, {"total": 1.0}, {"hm": 0.1}, 0.1, 1.0)
FITTED = FitResult([EPOCH], 0, {"beta": 0.0, "rule": "grid", "per_output": {"both": 0.0}})
JOINT = {"joint": torch.zeros(3, 4)}


@pytest.fixture
def method(bench: Bench) -> Method:
    return bench.units(bench.call(methods="cjme"))[0].job(1, 0).experiment().build()


def loss(value: Any) -> Callable[[Method], Any]:
    return lambda method: border.checked_losses(method, value)


def embed(value: Any) -> Callable[[Method], Any]:
    return lambda method: border.checked_embeddings(method, value, 3)


def classes(value: Any) -> Callable[[Method], Any]:
    return lambda method: border.checked_classes(method, value, 5)


def distances(value: Any) -> Callable[[Method], Any]:
    return lambda method: border.checked_distances(method, value, 3, 5)


def compared(samples: Tensor, classes: Tensor) -> Callable[[Method], Any]:
    def check(method: Method) -> None:
        own = {"distances": Method.distances, "__module__": type(method).__module__}
        method.__class__ = type("Default", (type(method),), own)
        border.check_comparable(method, Embeddings({"joint": samples}), classes)

    return check


def fit(value: Any) -> Callable[[Method], Any]:
    return lambda method: border.checked_fit(method, value, 2)


META, COMPLEX = torch.zeros((), device="meta"), torch.zeros(3, 5, dtype=torch.complex64)
TOTAL, VECTOR = torch.ones((), requires_grad=True), torch.ones(2, requires_grad=True)
INFINITE, BROKEN = torch.full((3, 5), torch.inf), torch.full((3, 5), torch.nan)


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (loss(TOTAL), "loss must return a dict of scalar tensors with 'total', got a tensor [] of float32"),
        (
            loss({"loss": TOTAL}),
            "loss must return a dict of scalar tensors with 'total', got a dict with 'loss'",
        ),
        (loss({}), "got an empty dict"),
        (loss(None), "got None"),
        (loss({"total": VECTOR}), "loss: 'total' must return a scalar tensor (shape []), got a tensor [2]"),
        (
            loss({"total": TOTAL, "part": None}),
            "loss: 'part' must return a scalar tensor (shape []), got None",
        ),
        (loss({"total": TOTAL, "part": 0.5}), "loss: 'part' must return a scalar tensor (shape []), got 0.5"),
        (loss({"total": torch.ones((), dtype=torch.long)}), "a tensor [] of int64"),
        (loss({"total": torch.ones(())}), "a tensor that depends on a parameter, got one without a gradient"),
        (
            loss({"total": TOTAL, "a/b": TOTAL}),
            "names of letters, digits, spaces and _ - . :, 100 at most, got 'a/b'",
        ),
        (loss({"total": TOTAL, "x" * 101: TOTAL}), "100 at most, got 'xxx"),
        (loss({"total": TOTAL, "part": META}), "got a tensor [] of float32 without storage (device meta)"),
        (loss({"total": TOTAL, 3: TOTAL}), "got 3"),
        (embed({"joint": torch.zeros(3, 4)}), "embed must return an Embeddings, got a dict with 'joint'"),
        (embed(torch.zeros(3, 4)), "embed must return an Embeddings, got a tensor [3, 4]"),
        (embed(Embeddings({})), "an Embeddings with at least one output, got an empty dict"),
        (
            embed(Embeddings({"joint": VECTOR[:, None]})),
            "tensor [3, d], a row per sample, got a tensor [2, 1]",
        ),
        (embed(Embeddings({"joint": torch.zeros(3)})), "got a tensor [3]"),
        (embed(Embeddings({"joint": None})), "got None"),
        (
            embed(Embeddings(JOINT, torch.zeros(2))),
            "embed: gate must return a tensor [3], a row per sample, got a tensor [2]",
        ),
        (
            classes(torch.zeros(4, 6)),
            "embed_classes must return a tensor [5, d], a row per class, got a tensor [4, 6]",
        ),
        (embed(Embeddings({**JOINT, "": JOINT["joint"]})), "embed: outputs must return names of letters"),
        (embed(Embeddings({3: JOINT["joint"]})), "got 3"),
        (embed(Embeddings({"joint": COMPLEX})), "a row per sample, got a tensor [3, 5] of complex64"),
        (embed(Embeddings({"joint": COMPLEX.real.to_sparse()})), "got a sparse_coo tensor [3, 5] of float32"),
        (classes(None), "got None"),
        (classes(torch.zeros(5, 6, device="meta")), "without storage (device meta)"),
        (
            compared(torch.zeros(3, 4), torch.zeros(5, 6)),
            "must return as many columns as embed_classes, [3, 6], got",
        ),
        (compared(torch.zeros(3, 0), torch.zeros(5, 0)), "or override distances"),
        (
            compared(torch.zeros(3, 2, 6), torch.zeros(5, 6)),
            "a tensor [3, 2, 6] of float32 and classes [5, 6]",
        ),
        (
            distances(torch.zeros(3, 5)),
            "distances must return a dict with the reported output 'both', got a tensor [3, 5]",
        ),
        (
            distances({"joint": torch.zeros(3, 5)}),
            "a dict with the reported output 'both', got a dict with 'joint'",
        ),
        (distances({"both": torch.zeros(5, 3)}), "tensor [3, 5] (samples, classes), got a tensor [5, 3]"),
        (
            distances({"both": torch.zeros(3, 5), 3: torch.zeros(3, 5)}),
            "distances: outputs must return names of letters",
        ),
        (distances({"both": INFINITE}), "finite numbers, got 15 of 15 that are not"),
        (
            distances({"both": torch.zeros(3, 5), "audio": BROKEN}),
            "output 'audio' must return finite numbers",
        ),
        (distances({"both": COMPLEX}), "got a tensor [3, 5] of complex64"),
        (distances({"both": COMPLEX.real > 0}), "got a tensor [3, 5] of bool"),
        (distances({"both": torch.full((3, 5), 1e300, dtype=torch.float64)}), "finite numbers, got 15 of 15"),
        (distances({"both": torch.zeros(3, 5), "a/b": torch.zeros(3, 5)}), "got 'a/b'"),
        (fit(None), "fit must return a FitResult, such as that of loop.run, got None"),
        (
            fit(replace(FITTED, history=[])),
            "history must return an EpochRecord for each epoch, at least one, got list of 0",
        ),
        (fit(replace(FITTED, history=[0.1])), "got list of 1"),
        (fit(replace(FITTED, best_epoch=1)), "fit: best_epoch must return an epoch from 0 to 0, got 1"),
        (fit(replace(FITTED, best_epoch=-1)), "got -1"),
        (fit(replace(FITTED, best_calibration={"beta": 1.0})), "the best epoch, got a dict with 'beta'"),
        (
            fit(replace(FITTED, best_calibration={**FITTED.best_calibration, "beta": torch.nan})),
            "the best epoch, got a dict",
        ),
        (
            fit(replace(FITTED, best_calibration={**FITTED.best_calibration, "per_output": {}})),
            "the best epoch, got a dict",
        ),
        (
            fit(replace(FITTED, best_calibration={**FITTED.best_calibration, "more": 1})),
            "the best epoch, got a dict",
        ),
        (
            fit(replace(FITTED, history=[EPOCH] * 3)),
            "history must return at most the 2 epochs of loop.train.epochs, got 3",
        ),
        (
            fit(replace(FITTED, history=[replace(EPOCH, validation={})])),
            "history[0] must return validation metrics",
        ),
        (fit(replace(FITTED, history=[replace(EPOCH, lr=None)])), "and a learning rate, got EpochRecord"),
        (
            lambda method: border.checked_optimizer(method, torch.optim.SGD([TOTAL], 1)),
            "1 that are not in self.parameters()",
        ),
        (
            lambda method: border.checked_optimizer(method, torch.optim.LBFGS(method.parameters())),
            "no closure, got an LBFGS",
        ),
        (
            lambda method: border.checked_optimizer(method, None),
            "optimizer must return a torch.optim.Optimizer, got None",
        ),
    ],
)
def test_a_mistake_of_a_method_is_reported_with_what_was_expected_and_got(
    method: Method, check: Callable[[Method], Any], told: str
) -> None:
    with pytest.raises(JobError) as error:
        check(method)
    assert str(error.value).startswith("CJME (methods/cjme.py): ")
    assert told in str(error.value)


def test_valid_results_pass(method: Method) -> None:
    for check in (
        loss({"total": TOTAL, "part 1": torch.zeros(())}),
        embed(Embeddings(JOINT, torch.zeros(3))),
        classes(torch.zeros(5, 6)),
        distances({"both": torch.zeros(3, 5)}),
        fit(FITTED),
    ):
        assert check(method) is not None


class Watching(torch.Tensor):
    """A tensor whose code would see the labels that predictions are compared with."""

    def float(self) -> torch.Tensor:
        raise AssertionError("code of the method runs")

    @classmethod
    def __torch_function__(cls, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("code of the method runs")


def test_distances_lose_the_code_of_their_tensor_class(method: Method) -> None:
    own = torch.Tensor._make_subclass(Watching, torch.ones(3, 5))
    checked = border.checked_distances(method, {"both": own}, 3, 5)["both"]
    assert type(checked) is torch.Tensor
    assert checked.float().numpy().tolist() == [[1.0] * 5] * 3


OTHER_OUTPUTS = """
    count = 0

    def distances(self, embeddings, classes):
        self.count += 1
        found = super().distances(embeddings, classes)
        return {**found, f"output {self.count}": found["joint"]}
"""
SPEECHLESS = """
    def loss(self, batch, classes):
        class Speechless(Exception):
            def __str__(self):
                raise KeyError
        raise Speechless
"""
OF_STAGE_1 = """
    kept = []

    def fit(self, data, loop):
        self.kept[:] = self.kept or [loop.run(self, data)]
        return self.kept[0]
"""


FAILING = [
    (
        "tensor_loss",
        "    def loss(self, batch, classes):\n        return self.map.weight.sum()",
        "loss must return a dict",
    ),
    ("no_result", "    def fit(self, data, loop):\n        pass", "fit must return a FitResult"),
    (
        "a_dict",
        "    def embed(self, batch):\n        return {'joint': batch.audio}",
        "embed must return an Embeddings",
    ),
    (
        "views",
        "    def embed(self, batch):\n        return Embeddings(views={})",
        "the argument is called outputs",
    ),
    (
        "a_view",
        "    def distances(self, e, classes):\n        return e.views",
        "it is called outputs now",
    ),
    (
        "breaks",
        "    def embed_classes(self, text):\n        return text.no_such_thing",
        "(Trial: embed_classes, ",
    ),
    (
        "of_none",
        "    def loss(self, *_):\n        return {'total': nn.Parameter(torch.ones(())) * 1}",
        "no parameter of",
    ),
    (
        "has_none",
        "    def __init__(self, *given):\n        super().__init__(*given)",
        "has no parameters",
    ),
    ("other_outputs", OTHER_OUTPUTS, "distances must return the same outputs for every batch"),
    (
        "a_copy",
        "    def fit(self, data, loop):\n        return loop.run(copy.deepcopy(self), data)",
        "another model",
    ),
    ("of_stage_1", OF_STAGE_1, "fit trained another model or none"),
    ("speechless", SPEECHLESS, "Speechless: its text cannot be shown, KeyError (Trial: loss, "),
    (
        "leaves",
        "    def loss(self, batch, classes):\n        raise SystemExit(3)",
        "SystemExit: 3 (Trial: loss, ",
    ),
]
"""Name, body and what is told of methods that fail."""


def test_jobs_fail_with_their_message_and_the_other_method_continues(
    bench: Bench, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    files = {name: plugin(tmp_path, name, body, "import copy") for name, body, _ in FAILING}
    fine = plugin(tmp_path, "fine")
    names = ",".join([*files, "fine"])
    result = bench.run(bench.call("train.epochs=1", methods=names, plugins=[*files.values(), fine]))
    failed = [entry for entry in result.failed if entry.state == "failed"]
    assert sorted(entry.method for entry in failed) == sorted(files)
    errors = {entry.method: entry.error for entry in failed}
    for name, _, told in FAILING:
        with subtests.test(name):
            assert told in errors[name]
            assert str(files[name]) in errors[name]
    assert len(bench.tracker.find(kind="job", status="FINISHED", method="fine")) == 2


def test_a_process_that_is_told_to_end_leaves_its_job_open(bench: Bench, tmp_path: Path) -> None:
    file = plugin(
        tmp_path,
        "ended",
        "    def loss(self, batch, classes):\n        raise Terminated(1)",
        f"from {Terminated.__module__} import Terminated",
    )
    with pytest.raises(Terminated):
        bench.run(bench.call("train.epochs=1", methods="ended", plugins=[file]))
    assert [run.status for run in bench.tracker.find(kind="job", method="ended")] == ["RUNNING"]


def test_an_error_outside_the_method_s_file_names_no_place(method: Method) -> None:
    with pytest.raises(ValueError, match="invalid literal") as error:
        int("no number")
    assert (
        text_of(error.value, type(method))
        == "ValueError: invalid literal for int() with base 10: 'no number'"
    )
