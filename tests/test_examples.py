"""The examples run as they are, on less training; each is short, and its head has its time and its result."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkout import PROJECT

import benchmark as gz
from benchmark.method import REGISTERED

EXAMPLES = PROJECT / "examples"
QUICK = {"train.epochs": 1, "train.batches_per_epoch": 4}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which runs take a second."""
    run: Callable[..., Any] = gz.run

    def quick(*names: Any, settings: dict[str, Any] | None = None, **options: Any) -> Any:
        kept = {k: v for k, v in (settings or {}).items() if not k.startswith("train.")}
        return run(*names, settings={**kept, **QUICK}, **{**options, "seeds": 2})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gz, "run", quick, raising=False)
    monkeypatch.setattr(gz, "load_results", gz.load_results, raising=False)
    return tmp_path


def cells(name: str, kind: str) -> list[str]:
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_examples_are_short_and_tell_their_time() -> None:
    files = sorted(p for p in EXAMPLES.iterdir() if p.suffix in (".py", ".md", ".sbatch", ".ipynb"))
    assert len(files) == 8
    for file in files:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".ipynb":
            text = "\n".join([*cells(file.name, "markdown"), *cells(file.name, "code")])
        assert len(text.splitlines()) < 60, file.name
        assert any(word in text for word in ("minute", "second", "hours", "takes as long")), file.name


@pytest.mark.slow
def test_a_method_an_own_dataset_and_distances(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        for name in ("my_method", "my_features", "evaluate_my_model"):
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        REGISTERED.pop("mine", None)
    printed = capsys.readouterr().out
    assert "HM of mine - linear" in printed
    assert (folder / "datasets" / "birds.yaml").exists()
    assert "HM       72.97" in printed


@pytest.mark.slow
def test_a_comparison_of_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gz.run("linear,cjme", dataset="demo", trials=0, tracking="runs", progress=False)
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", "linear", "cjme"])
    runpy.run_path(str(EXAMPLES / "compare_runs.py"))
    assert capsys.readouterr().out.count("Nothing is inferred from fewer than 5 seeds") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["results_in_pandas.ipynb", "protocol_ablation.ipynb"])
def test_a_notebook(folder: Path, name: str) -> None:
    state: dict[str, Any] = {"__name__": "__main__"}
    for text in cells(name, "code"):
        exec(compile(text, name, "exec"), state)


@pytest.mark.slow
def test_the_blocks_of_the_readme(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 3
    (folder / "mine.py").write_text(blocks[0])  # a class needs a file or a notebook
    try:
        runpy.run_path("mine.py")
        for block in blocks[1:]:
            exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    finally:
        REGISTERED.pop("mine", None)
    assert re.search(r"birds +eszsl", capsys.readouterr().out)
