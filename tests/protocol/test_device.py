"""Which device is chosen, what is said where one is missing or too small, and deterministic algorithms.

No test has a GPU: what torch says of one is replaced.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import Bench

from benchmark.errors import UsageError
from benchmark.method import Method
from benchmark.protocol import device
from benchmark.protocol.device import choose_device, overlooked_gpu, repeatable, unused_gpu
from benchmark.running.jobs import Plan
from benchmark.settings.schema import TrainConfig

CPU_BUILD = "torch .* was built for CPUs; install the CUDA build .*pip install --force-reinstall torch=="


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine with an NVIDIA GPU and a torch for CPUs."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(device, "GPU_FILE", tmp_path / "nvidia0")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv(device.VISIBLE, raising=False)
    return monkeypatch


def test_auto_is_cuda_if_torch_can_use_it_and_nothing_is_said(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    assert overlooked_gpu(TrainConfig()) is None


@pytest.mark.usefixtures("machine")
def test_a_torch_for_cpus_on_a_machine_with_a_gpu_is_named_with_the_command_that_fixes_it() -> None:
    assert choose_device("auto").type == "cpu"
    note = overlooked_gpu(TrainConfig())
    assert note is not None
    assert note.startswith("train.device=auto: the CPU, because this machine has an NVIDIA GPU, but ")
    assert "\n" not in note
    with pytest.raises(UsageError, match=f"train.device=cuda: .*{CPU_BUILD}.*use train.device=cpu"):
        choose_device("cuda")


@pytest.mark.usefixtures("machine")
def test_who_chose_the_cpu_hears_nothing_of_a_gpu() -> None:
    assert overlooked_gpu(TrainConfig(device="cpu")) is None


@pytest.mark.parametrize("hidden", ["", " ", "-1"])
def test_gpus_that_were_hidden_are_no_surprise(machine: pytest.MonkeyPatch, hidden: str) -> None:
    machine.setenv(device.VISIBLE, hidden)
    assert choose_device("auto").type == "cpu"
    assert overlooked_gpu(TrainConfig()) is None
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES is empty and hides all GPUs"):
        choose_device("cuda")


def test_a_gpu_without_a_usable_driver_is_named_too(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.version, "cuda", "12.8")
    assert "cannot use the NVIDIA GPU" in str(unused_gpu())
    assert "nvidia-smi" in str(unused_gpu())


def test_a_machine_without_a_gpu_is_no_surprise(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(device, "GPU_FILE", tmp_path / "none")
    machine.setattr(device, "GPU_TOOL", "no-such-tool")
    assert overlooked_gpu(TrainConfig()) is None
    with pytest.raises(UsageError, match="this machine or this build of torch has none; or use"):
        choose_device("cuda")


@pytest.mark.usefixtures("machine")
def test_a_run_says_once_that_a_gpu_is_not_used(bench: Bench) -> None:
    said: list[str] = []
    bench.display.say = said.append  # type: ignore[method-assign]
    call = bench.call("train.epochs=1", "train.batches_per_epoch=1", methods="cjme,avgzslnet", stages="1")
    bench.run(call)
    assert len([text for text in said if "train.device=auto" in text]) == 1
    bench.run(call)  # there is nothing left to do
    assert len([text for text in said if "train.device=auto" in text]) == 1


def test_deterministic_algorithms_are_of_jobs_on_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(device.CUBLAS, "")
    monkeypatch.delenv(device.CUBLAS)
    with repeatable(TrainConfig(deterministic=True, device="cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(device, "choose_device", lambda *_: torch.device("cuda"))
    with repeatable(TrainConfig(deterministic=False)):
        assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(TrainConfig(deterministic=True)):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ[device.CUBLAS] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("setting", ["deterministic=true", "resident_share=0.25"])
def test_settings_of_the_device_are_recorded_and_part_of_a_jobs_key(bench: Bench, setting: str) -> None:
    job, other = (
        bench.units(bench.call(*extra, methods="cjme"))[0].job(1, 0) for extra in ([], [f"train.{setting}"])
    )
    name, value = setting.split("=")
    assert str(other.settings.flat()[f"train.{name}"]).lower() == value
    assert job.key != other.key


FULL = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1 is"
)


@pytest.mark.parametrize(
    ("hook", "lower"),
    [
        ("loss", r"train.batch_size \(16\) or train.resident_share \(0.5\)"),
        ("embed", r"train.eval_batch_size \(256\)"),
    ],
)
def test_out_of_memory_names_the_setting_to_lower_and_the_job_can_be_retried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, hook: str, lower: str
) -> None:
    call = bench.call("train.epochs=1", methods="cjme", stages="1")
    units = bench.units(call)
    method: type[Method] = units[0].method
    with monkeypatch.context() as small:

        def hungry(self: Method, *_: Any) -> Any:
            raise torch.OutOfMemoryError(FULL)

        small.setattr(method, hook, hungry)
        bench.runner.run(Plan(call, units))
    (line,) = bench.display.outcomes
    assert line.state == "failed"
    expected = rf"CUDA out of memory. Tried to allocate 20.00 GiB; lower {lower}\. .*--retry-failed"
    assert re.fullmatch(expected, line.error), line.error
    replace(bench.runner, retry_failed=True).run(Plan(call, units))
    assert bench.display.outcomes[-1].state == "done"
