"""``perf.cuda`` runs from end to end: on the CPU, with every branch that needs no GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.method import Batch
from perf import cuda, device_checks
from perf.device_speed import with_train
from perf.generated import experiment_on, generate
from perf.trainer import Trainer

TINY = ["--device", "cpu", "--features", "main", "--samples", "60", "--batch-size", "8"]
PROCESSES = ("resume", "company")
"""Parts that start processes, each of which imports torch."""


def run(tmp_path: Path, parts: list[str], method: str = "cjme", minutes: str = "0.01") -> dict[str, Any]:
    file = tmp_path / "cuda.json"
    options = ["--minutes", minutes, "--methods", method, "--parts", ",".join(parts), "--json", str(file)]
    code = cuda.main([*TINY, *options, "--processes", "1"])
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))["parts"]
    assert {name: did["error"] for name, did in found.items()} == dict.fromkeys(parts, "")
    assert code == 0
    return found


@pytest.mark.slow  # steps at published sizes
@pytest.mark.parametrize("method", ["cjme", "tcaf"])
def test_all_parts_without_processes_of_their_own_run_and_pass(tmp_path: Path, method: str) -> None:
    found = run(tmp_path, [part for part in cuda.PARTS if part not in PROCESSES], method)

    rows = {name: did["rows"] for name, did in found.items()}
    assert all(row["ok"] for name in ("agreement", "batches", "contract", "not finite") for row in rows[name])
    (step,) = rows["steps"]
    assert step["epoch (s)"] > step["float32 (ms)"] / 1000 > 0
    assert rows["waiting"][0]["waits"] == "not checked on a CPU"
    assert rows["sources"][0]["plain (ms)"] > 0
    assert len(rows["peak"]) == 3


@pytest.mark.slow  # six processes import torch: only processes can be killed
def test_a_killed_process_resumes_and_jobs_run_in_company(tmp_path: Path) -> None:
    found = run(tmp_path, list(PROCESSES), minutes="1")

    (resumed,) = found["resume"]["rows"]
    assert (resumed["killed"], resumed["same bits"]) == (True, True)
    assert all(row["jobs per hour"] > 0 for row in found["company"]["rows"])


def test_what_no_time_is_left_for_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    bench = cuda.Bench("cpu", [], [60], Path(), minutes=0.0, processes=[1])
    assert list(bench.while_time("steps", [1, 2, 3], seconds=100)) == [1]
    assert capsys.readouterr().out == "steps: no time left for 2 of 3 measurements\n"
    assert list(replace(bench, minutes=1.0).while_time("steps", [1, 2, 3], seconds=100)) == [1, 2, 3]


def test_every_part_has_a_share_of_the_time() -> None:
    assert cuda.SHARES.keys() == cuda.PARTS.keys()
    assert sum(cuda.SHARES.values()) == pytest.approx(1)


def test_a_part_that_fails_is_reported_and_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: cuda.Bench) -> Any:
        yield {"method": "X", "ok": True}
        raise ValueError("no such kernel")

    monkeypatch.setitem(cuda.PARTS, "agreement", broken)
    monkeypatch.setitem(cuda.PARTS, "batches", lambda _: iter([{"method": "X", "ok": False}]))
    monkeypatch.setitem(cuda.PARTS, "contract", lambda _: iter([{"method": "X", "ok": True}]))
    file = tmp_path / "cuda.json"
    code = cuda.main([*TINY, "--parts", "agreement,batches,contract", "--json", str(file)])

    assert code == 1
    did = json.loads(file.read_text("utf-8"))["parts"]["agreement"]
    assert (did["rows"], did["error"]) == ([{"method": "X", "ok": True}], "ValueError: no such kernel")
    assert "failed: agreement, batches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu", "--parts", "speed"], "there is no speed; known: agreement"),
        ([], "no CUDA device"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        cuda.main(options)
    assert message in capsys.readouterr().err


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    store = generate(tmp_path / "store.h5", "main", 60)
    return Trainer(experiment_on(store, "cjme", batch_size=8, device="cpu", batches_per_epoch=3))


def test_a_device_that_computes_something_else_fails_the_check(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert device_checks.agreement(trainer)["ok"]
    plain, calls = device_checks.cast, 0

    def wrong(batch: Batch, *arguments: Any) -> Batch:
        nonlocal calls
        calls += 1
        changed = plain(batch, *arguments)
        if calls >= 5:  # on the device: the CPU's batch and its negatives come first
            changed.audio[0] += 1
        return changed

    monkeypatch.setattr(device_checks, "cast", wrong)
    assert not device_checks.agreement(trainer)["ok"]


def test_trainings_of_other_seeds_do_not_have_the_same_bits(trainer: Trainer, tmp_path: Path) -> None:
    quick = with_train(trainer.experiment, epochs=1)
    one, again, other = (
        device_checks.trained(Trainer(replace(quick, seed=seed)), tmp_path / str(i))
        for i, seed in enumerate((0, 0, 1))
    )
    assert device_checks.same(one[0], again[0])
    assert one[1] == again[1]
    assert not device_checks.same(one[0], other[0])
