"""What is written beside results: what decides how a machine rounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.tiny import Bench

from benchmark.running import provenance


@pytest.fixture
def fresh() -> Iterator[None]:
    provenance.processor.cache_clear()
    yield
    provenance.processor.cache_clear()


def library(name: str, architecture: str | None = None, api: str = "blas") -> dict[str, Any]:
    return {"internal_api": name, "user_api": api} | ({"architecture": architecture} if architecture else {})


@pytest.mark.parametrize(
    ("built_with", "loaded", "expected"),
    [
        (
            "BLAS_INFO=mkl, BUILD",
            [library("openblas", "Haswell"), library("openmp", api="openmp")],
            "mkl + openblas Haswell",
        ),
        ("BLAS_INFO=mkl, BUILD", [library("mkl"), library("openblas", "Zen")], "mkl + openblas Zen"),
        ("BLAS_INFO=open, BUILD", [library("openblas", "neoversen1")] * 2, "openblas neoversen1"),
        ("BLAS_INFO=accelerate, BUILD", [], "accelerate"),
        ("nothing of it", [library("openblas", "Haswell")], "openblas Haswell + unknown"),
    ],
)
@pytest.mark.usefixtures("fresh")
def test_the_processor_is_named_by_instruction_set_and_linear_algebra(
    monkeypatch: pytest.MonkeyPatch, built_with: str, loaded: list[dict[str, Any]], expected: str
) -> None:
    monkeypatch.setattr(provenance, "threadpool_info", lambda: loaded)
    monkeypatch.setattr(torch.__config__, "show", lambda: f"Build settings: {built_with}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert provenance.processor() == {"cpu_capability": "AVX512", "blas": expected}
    assert provenance.environment().items() >= provenance.processor().items()


def test_a_job_records_the_processor_in_its_tags_and_in_its_result(bench: Bench) -> None:
    bench.run(bench.call("train.epochs=1", methods="cjme", stages="1"))
    here = provenance.processor()
    assert here["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    (run,) = bench.tracker.find(kind="job")
    assert here.items() <= run.tags.items()
    assert bench.tracker.read_json(run.run_id, "result.json")["processor"] == here
