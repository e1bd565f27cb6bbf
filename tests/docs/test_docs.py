"""What the guides in docs/ promise: their examples run, their commands and options exist, their links lead
somewhere."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support.checkout import PROJECT
from support.tiny import Bench

from benchmark import registry
from benchmark.cli import app
from benchmark.data.cards import Card, load_cards
from benchmark.data.checks.verify import verify_store
from benchmark.running import planning
from benchmark.settings.resolve import parse_overrides

PAGES = [
    *sorted((PROJECT / "docs").glob("*.md")),
    *(PROJECT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block of a page."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def write_files(page: str, folder: Path) -> dict[str, Path]:
    """Write the blocks of a page that begin with ``# file: NAME`` to a folder."""
    written = {}
    for _, text in blocks(PROJECT / "docs" / page):
        found = re.match(r"# file: (\S+)\n", text)
        if found:
            written[found[1]] = folder / found[1]
            written[found[1]].write_text(text, encoding="utf-8")
    return written


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Path]:
    """The method of docs/add-a-method.md with its search space, as a plug-in; forgotten afterwards."""
    files = write_files("add-a-method.md", tmp_path)
    assert set(files) == {"pooled.py", "pooled.yaml"}
    yield files["pooled.py"]
    registry.REGISTERED.pop("pooled", None)


def test_the_example_method_is_listed_with_its_search_space(example: Path) -> None:
    found = registry.load([example])
    space = found.search_space(found.get("pooled"))
    assert set(space.search) == {"lr", "dropout", "train.batch_size"}


def test_the_example_method_trains_and_is_tested(bench: Bench, example: Path) -> None:
    result = bench.run(bench.call("train.epochs=1", methods="pooled", plugins=[example]))
    assert not result.failed
    assert [(e.method, e.stage, e.state) for e in result.entries] == [
        ("pooled", 1, "done"),
        ("pooled", 2, "done"),
    ]


def test_the_loop_of_the_example_trains_too(bench: Bench, example: Path) -> None:
    snippet = next(
        text for language, text in blocks(PROJECT / "docs" / "add-a-method.md") if "def fit(" in text
    )
    head, tail = example.read_text().split("\n\ndef masked_mean", 1)
    example.write_text(f"{head}\n{snippet}\n\ndef masked_mean{tail}")
    registry.load([example])
    assert "fit" in vars(registry.REGISTERED["pooled"])
    assert not bench.run(bench.call("train.epochs=1", methods="pooled", plugins=[example], stages="1")).failed


@pytest.mark.slow
def test_the_example_method_passes_the_contract_tests(example: Path) -> None:
    env = {**os.environ, "GZSL_CONTRACT_PLUGINS": str(example), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "tests/contract", "-k", "pooled", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Card]:
    """The cards of docs/data.md; the store of its script is written below ``tmp_path``."""
    files = write_files("data.md", tmp_path)
    assert set(files) == {"birds.yaml", "make_crickets.py", "crickets.yaml"}
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(files["make_crickets.py"]))
    return load_cards(tmp_path)


def test_the_example_store_has_no_fault_and_trains(
    bench: Bench, own_data: dict[str, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verify_store(tmp_path / "data" / "crickets-native.h5", own_data["crickets"]) == []
    monkeypatch.setattr(planning, "load_cards", lambda: own_data)
    result = bench.run(bench.call("train.epochs=1", methods="cjme,tcaf", dataset="crickets"))
    assert not result.failed
    assert len(result.entries) == 4


def test_the_example_card_describes_an_import(own_data: dict[str, Card]) -> None:
    card = own_data["birds"]
    assert card.official is not None
    assert card.feature_set(None)[0] == "native"


def test_every_field_of_a_card_is_in_the_guide() -> None:
    text = (PROJECT / "docs" / "data.md").read_text(encoding="utf-8")
    assert [name for name in Card.model_fields if f"`{name}" not in text] == []


def commands() -> list[str]:
    """All command lines of the pages, without comments."""
    lines = [line for page in PAGES for _, text in blocks(page) for line in text.splitlines()]
    return sorted(
        {line.split("  #")[0].strip() for line in lines if line.startswith("python run_benchmark.py")}
    )


@pytest.mark.parametrize("line", commands())
def test_commands_and_options_of_the_guides_exist(line: str) -> None:
    words = shlex.split(line)[2:]
    group: Any = typer.main.get_command(app.app)
    command = (
        group.commands[words.pop(0)] if words and not words[0].startswith("-") else group.commands["run"]
    )
    if hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    values = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    parse_overrides([v for v in values if not v.startswith("pooled.")], registry.load().methods)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    named = re.findall(
        r"`((?:benchmark|docs|tests|methods|search_spaces|datasets|reports/published)/[\w/.-]*)`", text
    )
    made_up = {
        "methods/pooled.py",
        "search_spaces/pooled.yaml",
        "datasets/birds.yaml",
        "datasets/crickets.yaml",
    }
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if name not in made_up and not (PROJECT / name).exists()]
    assert missing == []
