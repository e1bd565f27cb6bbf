"""A seventh method is one file and one YAML: it is listed, runs, is tuned, and passes the contract tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import Bench

from benchmark import registry
from benchmark.errors import UsageError

PROJECT = Path(__file__).resolve().parents[1]
METHOD = '''
"""Ridge-like baseline: a linear map of both means to the word vectors."""
import torch
from torch.nn import functional
from benchmark.method import Embeddings, Field, Method, MethodConfig, register


@register("linear", title="Linear", paper="none", bibtex="@misc{linear}", inputs="mean")
class Linear(Method):
    class Config(MethodConfig):
        dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the inputs")

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.norm = torch.nn.BatchNorm1d(spec.audio_dim + spec.video_dim)
        self.map = torch.nn.Linear(spec.audio_dim + spec.video_dim, spec.text_dim)

    def _embed(self, batch):
        x = self.norm(torch.cat([batch.audio, batch.video], 1))
        return self.map(functional.dropout(x, self.config.dropout, self.training))

    def loss(self, batch, classes):
        return {"total": functional.cross_entropy(10 * self._embed(batch) @ classes.text.T, batch.label)}

    def embed(self, batch):
        return Embeddings({"joint": self._embed(batch)})

    def embed_classes(self, text):
        return text
'''
RECIPE = "method: linear\nsearch: {dropout: {type: float, low: 0.0, high: 0.5}}\n"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "linear.py"
    path.write_text(METHOD)
    path.with_suffix(".yaml").write_text(RECIPE)
    yield path
    registry.REGISTERED.pop("linear", None)


def test_a_plugin_is_listed_runs_and_is_tuned(bench: Bench, plugin: Path) -> None:
    assert "linear" in registry.load([plugin]).methods
    result = bench.run(bench.call(methods="linear,cjme", trials=2, plugins=[plugin]))
    assert not result.failed
    assert {e.method for e in result.entries} == {"linear", "cjme"}


def test_a_plugin_passes_the_contract_tests(plugin: Path) -> None:
    env = {**os.environ, "GZSL_CONTRACT_PLUGINS": str(plugin), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "tests/contract", "-k", "linear", "-p", "no:cacheprovider", "-n0"]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout


@pytest.mark.parametrize(
    ("searched", "says"),
    [
        (
            "dropout: {type: float, low: 0.1, high: 50}",
            r"linear\.yaml: search\.dropout: high: Input should be less than 1 \(got 50",
        ),
        (
            "dropout: {type: float, low: -1, high: 0.5}",
            r"linear\.yaml: search\.dropout: low: .*greater than or equal to 0 \(got -1",
        ),
        (
            "dropout: {type: categorical, choices: [0.1, some]}",
            r"linear\.yaml: search\.dropout: choices\[1\]: .*number.*\(got 'some'",
        ),
        ("train.epochs: {type: float, low: 1, high: 9}", r"search\.train\.epochs: between low and high: .*integer"),
    ],
)
def test_a_range_with_values_that_the_method_refuses_is_told_before_anything_runs(
    bench: Bench, plugin: Path, searched: str, says: str
) -> None:
    plugin.with_suffix(".yaml").write_text(f"method: linear\nsearch: {{{searched}}}\n")
    with pytest.raises(UsageError, match=says) as error:
        bench.units(bench.call(methods="linear", plugins=[plugin]))
    assert "or change the limits of its Config" in str(error.value)


def test_values_that_do_not_fit_together_fail_their_trial_alone(bench: Bench, plugin: Path) -> None:
    plugin.write_text(
        METHOD.replace("import torch\n", "import torch\nfrom pydantic import model_validator\n").replace(
            'description="dropout of the inputs")\n',
            'description="dropout of the inputs")\n'
            "        @model_validator(mode='after')\n"
            "        def _fits(self):\n"
            "            if self.dropout > 0 and self.lr != 0.25:\n"
            "                raise ValueError('dropout wants another rate')\n"
            "            return self\n",
        )
    )
    result = bench.run(bench.call(methods="linear,cjme", trials=1, plugins=[plugin]))
    assert not result.failed
    result = bench.run(bench.call(methods="linear,cjme", trials=2, plugins=[plugin]))
    assert {(e.method, e.variant, e.state) for e in result.failed} == {("linear", "tuned", "failed")}
    assert any(e.method == "cjme" and e.variant == "tuned" for e in result.entries), "the other method goes on"
    told = [o for o in bench.display.outcomes if o.state == "failed"]
    assert told
    assert "dropout wants another rate" in told[0].error


def test_a_plugin_that_registers_nothing_or_cannot_be_read_says_so(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty.py", tmp_path / "broken.py"
    empty.write_text("x = 1\n")
    broken.write_text("import nowhere\n")
    with pytest.raises(UsageError, match="registers no method"):
        registry.load([empty])
    with pytest.raises(UsageError, match=r"broken\.py: ModuleNotFoundError"):
        registry.load([broken])


def test_a_name_cannot_be_taken_twice(tmp_path: Path) -> None:
    thief = tmp_path / "thief.py"
    thief.write_text(METHOD.replace('"linear"', '"tcaf"'))
    with pytest.raises(UsageError, match=r"method name 'tcaf' is taken by methods\.tcaf"):
        registry.load([thief])


def test_a_broken_method_file_stays_listed_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong.py").write_text("")
    monkeypatch.setattr(registry, "METHODS_DIR", tmp_path)
    found = registry.load()
    assert "No module named 'methods.wrong'" in found.broken["wrong"]
    with pytest.raises(UsageError, match="'wrong' cannot be loaded"):
        found.get("wrong")
