"""The command ``list``, and what ``--help`` shows of all commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import typer
from support.shell import Shell

from benchmark import registry
from benchmark.cli import app
from benchmark.cli.help import EXAMPLES
from benchmark.cli.terminal import HidingConsole, show_table
from benchmark.settings.descriptions import settings_of
from benchmark.settings.resolve import SECTIONS, parse_overrides
from benchmark.tracking.schema import Artifact, Kind, Tag
from benchmark.tracking.tracker import Tracker


def commands(group: Any) -> Iterator[Any]:
    """All commands below a group."""
    for command in group.commands.values():
        yield from commands(command) if hasattr(command, "commands") else [command]


COMMANDS = {command.name: command for command in commands(typer.main.get_command(app.app))}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_short_types_and_a_default_once(name: str) -> None:
    command = COMMANDS[name]
    context = command.context_class(command)
    for option in (p for p in command.get_params(context) if p.param_type_name == "option"):
        assert not set("<>[]") & set(option.metavar or "") or option.metavar in (
            "[FILE]",
            "[FLAGS]",
            "[PARTS]",
        )
        assert option.help.count("(default") <= 1, option.name
        given = option.default is not None and not option.is_flag
        assert not given or option.required or f"(default: {option.default})" in option.help, option.name


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_help_are_commands_that_exist(name: str) -> None:
    lines = [line.split() for line in EXAMPLES[name].splitlines() if "run_benchmark.py" in line]
    for words in lines:
        words = [w for w in words[2:] if w not in ("data", "extract")]
        known = {option for parameter in COMMANDS[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_every_setting_is_described_and_its_default_can_be_set() -> None:
    known = registry.load()
    models = {**SECTIONS, **{name: method.Config for name, method in known.methods.items()}}
    spaces = {name: known.search_space(method).search for name, method in known.methods.items()}
    found = [s for name, model in models.items() for s in settings_of(name, model, spaces.get(name, {}))]
    assert not [s.name for s in found if not s.description and not s.name.startswith("data.")]
    plain = [s for s in found if isinstance(s.default, (int, float, str)) and s.name != "protocol.mode"]
    parse_overrides([f"{s.name}={json.dumps(s.default)}" for s in plain], known.methods)


def test_list_shows_bounds_choices_and_search_ranges_of_settings(shell: Shell) -> None:
    found = {s["name"]: s for s in json.loads(shell("list", "--settings", "tcaf", "--json"))}
    assert found["tcaf.lr"]["search"] == "1e-05 to 0.001, logarithmic"
    assert found["tcaf.depth"]["allowed"] == "integer, 1 to 32"
    assert "Published hyperparameters replace" in shell("list", "--settings", "tcaf")
    assert "best, last" in shell("list", "--settings", "train")
    assert "did you mean 'tcaf'" in shell.refused("list", "--settings", "tcaff")
    assert "give one of them" in shell.refused("list", "--settings", "tcaf", "--runs")


def test_list_shows_benchmark_runs_and_creates_no_store(shell: Shell, tracker: Tracker) -> None:
    none = shell.folder / "none"
    assert "No benchmark run yet" in shell("list", "--runs", "--runs-dir", str(none))
    assert json.loads(shell("list", "--runs", "--runs-dir", str(none), "--json")) == []
    assert not none.exists()
    tags = {Tag.KIND: Kind.BENCHMARK_RUN, Tag.DATASET: "synthetic", Tag.MODE: "paper"}
    older, newer = (tracker.start(name, tags) for name in ("older", "newer"))
    for method in ("tcaf", "cjme"):
        tracker.start(method, {Tag.KIND: Kind.METHOD, Tag.METHOD: method}, newer)
    tracker.log_json(newer, [{"repetition": 0}, {"repetition": 1}], Artifact.JOBS)
    file = shell.folder / "a name without a suffix"
    shell("list", "--runs", "--json", str(file))
    first, second = json.loads(file.read_text())
    assert [first["id"], second["id"]] == [newer, older]
    assert (first["methods"], first["dataset"], first["mode"]) == ("tcaf, cjme", "synthetic", "paper")
    assert (first["seeds"], first["state"], second["seeds"]) == ("2", "running", "?")
    assert newer in shell("list", "--runs")
    assert json.loads(shell("list", "--runs", "--json", "-")) == [first, second]


def test_a_table_that_is_too_wide_wraps_and_loses_no_number() -> None:
    console = HidingConsole(width=40, file=StringIO())
    row = ["TCAF", "26.69 (24.77 to 28.62)", "21.39 (20.56 to 22.22)"]
    show_table(console, "", ["Method", "S", "U"], [row], numeric=[False, True, True])
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert {word for text in row for word in text.split()} <= set(shown.split())
