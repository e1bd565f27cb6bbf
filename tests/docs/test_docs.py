"""What the documents promise: their examples run, their commands and options exist, their links lead
somewhere, their words are those of the field, and the site builds."""

from __future__ import annotations

import ast
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
import words
from support.checkout import PROJECT
from support.tiny import Bench

from benchmark import registry
from benchmark.cli import app
from benchmark.data.cards import (
    Card,
    FeatureSetConfig,
    ModalityConfig,
    OfficialLayout,
    Preset,
    load_cards,
)
from benchmark.data.checks.verify import verify_store
from benchmark.running import planning
from benchmark.settings.resolve import parse_overrides
from benchmark.settings.schema import LengthConfig, ProtocolConfig, TrainConfig, TuningConfig

PAGES = [
    *sorted((PROJECT / "docs").rglob("*.md")),
    *(PROJECT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
]
CARD_MODELS = (Card, FeatureSetConfig, ModalityConfig, OfficialLayout, Preset)
PORT = "how-to/port-a-method.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block of a page."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def write_files(page: str, folder: Path) -> dict[str, Path]:
    """Write the blocks of a page of docs/ that begin with ``# file: NAME`` to a folder."""
    written = {}
    for _, text in blocks(PROJECT / "docs" / page):
        found = re.match(r"# file: (\S+)\n", text)
        if found:
            written[found[1]] = folder / found[1]
            written[found[1]].write_text(text, encoding="utf-8")
    return written


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Path]:
    """The method of how-to/port-a-method.md with its search space, as a plug-in; forgotten afterwards."""
    files = write_files(PORT, tmp_path)
    assert set(files) == {"pooled.py", "pooled.yaml"}
    yield files["pooled.py"]
    registry.REGISTERED.pop("pooled", None)


@pytest.fixture
def first_method(tmp_path: Path) -> Iterator[Path]:
    """The method of tutorials/my-method.md with its search space, as a plug-in; forgotten afterwards."""
    files = write_files("tutorials/my-method.md", tmp_path)
    assert set(files) == {"mine.py", "mine.yaml"}
    yield files["mine.py"]
    registry.REGISTERED.pop("mine", None)


def test_the_method_of_the_tutorial_trains_and_is_tested(bench: Bench, first_method: Path) -> None:
    result = bench.run(bench.call("train.epochs=1", methods="mine", plugins=[first_method]))
    assert [(e.method, e.stage, e.state) for e in result.entries] == [
        ("mine", 1, "done"),
        ("mine", 2, "done"),
    ]


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
    snippet = next(text for language, text in blocks(PROJECT / "docs" / PORT) if "def fit(" in text)
    head, tail = example.read_text().split("\n\ndef masked_mean", 1)
    example.write_text(f"{head}\n{snippet}\n\ndef masked_mean{tail}")
    registry.load([example])
    assert "fit" in vars(registry.REGISTERED["pooled"])
    assert not bench.run(bench.call("train.epochs=1", methods="pooled", plugins=[example], stages="1")).failed


@pytest.mark.slow
def test_the_methods_of_the_guides_pass_the_contract_tests(example: Path, first_method: Path) -> None:
    plugins = os.pathsep.join(map(str, (example, first_method)))
    env = {**os.environ, "GZSL_CONTRACT_PLUGINS": plugins, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "tests/contract", "-k", "pooled or mine", "-rp"]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[pooled]" in done.stdout
    assert "[mine]" in done.stdout


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Card]:
    """The dataset configs of two guides; the feature file of the tutorial's script is below ``tmp_path``."""
    files = write_files("how-to/write-features.md", tmp_path) | write_files("how-to/import.md", tmp_path)
    assert set(files) == {"birds.yaml", "make_crickets.py", "crickets.yaml"}
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(files["make_crickets.py"]))
    return load_cards(tmp_path)


def test_the_example_store_has_no_fault_and_trains(
    bench: Bench, own_data: dict[str, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verify_store(tmp_path / "data" / "crickets-native.h5", own_data["crickets"]) == []
    monkeypatch.setattr(planning, "load_cards", lambda **_: own_data)
    result = bench.run(bench.call("train.epochs=1", methods="cjme,tcaf", dataset="crickets"))
    assert not result.failed
    assert len(result.entries) == 4


def test_the_tutorials_arrays_become_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_files("tutorials/my-features.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(files["birds.py"]))
    assert verify_store(tmp_path / "data" / "birds-native.h5", load_cards()["birds"]) == []


def test_the_example_card_describes_an_import(own_data: dict[str, Card]) -> None:
    card = own_data["birds"]
    assert card.official is not None
    assert card.feature_set(None)[0] == "native"


@pytest.mark.parametrize("of", ["def summarise(", "parts = {"])
def test_other_snippets_of_the_example_run_too(bench: Bench, example: Path, of: str) -> None:
    snippet = next(text for _, text in blocks(PROJECT / "docs" / PORT) if of in text and "# file" not in text)
    head, tail = example.read_text().split("\n\ndef masked_mean", 1)
    example.write_text(f"{head}\n{snippet}\n\ndef masked_mean{tail}")
    parts = ["all"] if "parts" in of else None
    call = bench.call("train.epochs=1", methods="pooled", plugins=[example], ablate_parts=parts)
    result = bench.run(call)
    assert not result.failed
    assert len(result.entries) == (4 if parts else 2)


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
    made_up = ("pooled.", "mine.")
    parse_overrides([v for v in values if not v.startswith(made_up)], registry.load().methods)


NOT_RUN = {
    " ucf": "needs features that are offline", "vggsound": "the same", "activitynet": "the same",
    "--executor ray": "needs a cluster: tests/running/test_cluster.py",
    "extract videos": "needs videos: tests/extract",
    "--weights": "needs files of weights: tests/extract/test_weights_files.py",
    "--from": "needs a folder of features or sources: tests/data/importing, tests/extract",
    "--methods all": "trains for minutes: make demo",
    " ui": "serves until Ctrl-C: tests/cli/test_ui.py",
    "evaluate": "names a training: tests/running/test_evaluate.py",
    "--run 3f2a": "names runs: tests/report", "--runs-dir": "the same", "--run all": "the same",
    "--leaderboard": "names reports: tests/report/test_leaderboard.py",
}  # fmt: skip
"""Part of a command that no test runs as it is written: the reason, and what tests it."""
QUICK = ["--set", "train.epochs=1", "--set", "train.batches_per_epoch=2", "--set", "tuning.confirm=0"]


@pytest.mark.slow(45)
def test_commands_of_the_guides_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it is written, with less training, one after the other in one folder as a reader would."""
    todo = [line for line in commands() if not any(part in line for part in NOT_RUN)]
    assert len(todo) > 20
    for page in ("tutorials/my-method.md", PORT, "tutorials/my-features.md", "how-to/write-features.md"):
        write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "crickets.yaml").rename(tmp_path / "datasets" / "crickets.yaml")
    for script in ("birds.py", "make_crickets.py"):
        runpy.run_path(script)
    try:
        for line in sorted(todo, key=lambda line: (" tune " not in line, " run " not in line, line)):
            words = shlex.split(line)[2:]
            trains = words[0] in ("run", "tune") or words[0].startswith("--")
            less = [word if word != "20" else "2" for word in words]
            with pytest.raises(SystemExit) as ended:
                app.main(
                    [*less, *QUICK, *(["--seeds", "1"] if "--seeds" in words else [])] if trains else words
                )
            assert not ended.value.code, line
    finally:
        for name in ("mine", "pooled"):
            registry.REGISTERED.pop(name, None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
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
        "datasets/own/",  # git ignores it: the configs of a user
        "datasets/own/birds.yaml",
        "datasets/crickets.yaml",
    }
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if name not in made_up and not (PROJECT / name).exists()]
    assert missing == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with all warnings as errors, so that all of its links lead somewhere."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_the_site_builds_and_fetches_nothing(site: Path) -> None:
    pages = {page.relative_to(site).as_posix(): page.read_text("utf-8") for page in site.rglob("*.html")}
    assert {"index.html", "faq.html", "development/contributing.html"} <= pages.keys()
    assert not list(site.rglob("*.py"))
    fetched = re.compile(
        r"<(?:script|img|iframe)[^>]*\bsrc=.?(?:https?:)?//|<link[^>]*\bhref=.?(?:https?:)?//"
    )
    assert [name for name, text in pages.items() if fetched.search(text)] == []


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_the_reference_has_every_command_setting_and_method(site: Path) -> None:
    reference = {page.stem: page.read_text("utf-8") for page in (site / "reference").glob("*.html")}
    group: Any = typer.main.get_command(app.app)
    options = {option for parameter in group.commands["run"].params for option in parameter.opts}
    for page, names in {
        "cli": {*group.commands, *options} - {"--help", "-h"},
        "settings": {*TrainConfig.model_fields, *ProtocolConfig.model_fields, *TuningConfig.model_fields},
        "methods": {
            name for m in registry.load().methods.values() for name in (m.title, *m.Config.model_fields)
        },
        "dataset-config": {*Card.model_fields},
        "report-files": {"HM_percent", "job_key"},
    }.items():
        assert [name for name in sorted(names) if name not in reference[page]] == []


def test_every_setting_has_a_description() -> None:
    models = [TrainConfig, LengthConfig, ProtocolConfig, TuningConfig, *CARD_MODELS]
    models += [method.Config for method in registry.load().methods.values()]
    fields = {
        f"{m.__name__}.{name}": field.description for m in models for name, field in m.model_fields.items()
    }
    assert [name for name, description in fields.items() if not description] == []


@pytest.mark.parametrize(
    "page",
    words.pages(),
    ids=lambda page: page.relative_to(PROJECT).as_posix(),
)
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    assert list(words.avoided(page.read_text("utf-8"))) == []


KEPT = {
    "cards.py": "aliases", "reading.py": "aliases", "store.py": "feature store", "method.py": "views",
    "pickles.py": "a call", "attention_fusion.py": "sounds",
}  # fmt: skip
"""By file a word that is meant: an earlier name, the format of a file, a call of a function, a title."""


def test_help_messages_and_captions_use_the_words_of_the_field() -> None:
    """All texts with a space in the code, except docstrings."""
    found = []
    for file in sorted([*(PROJECT / "benchmark").rglob("*.py"), *(PROJECT / "methods").glob("*.py")]):
        tree = ast.parse(file.read_text("utf-8"))
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        for node in texts:
            if " " in str(node.value) and id(node) not in documents:
                lines = words.avoided(str(node.value))
                kept = f"{KEPT.get(file.name)!r};"
                found += [f"{file}:{node.lineno}: {line}" for line in lines if kept not in line.lower()]
    assert found == []


def test_the_readme_is_short_and_its_sentences_too() -> None:
    text = (PROJECT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 120
    lines = [line for line in words.prose(text).splitlines() if not line.startswith(("|", "#", "!["))]
    paragraphs = re.split(r"\n\s*\n|\n(?=- )", "\n".join(lines))
    sentences = [s for p in paragraphs for s in re.split(r"[.:?!]\s", " ".join(p.split()) + " ")]
    assert [s for s in sentences if len(s.split()) > 25] == []


def test_avoided_words_are_found_in_prose_alone() -> None:
    text = "Two data sets.\n\n```\na feature store\n```\n\nThe `card` of [it](card.md) stands\nhere."
    assert list(words.avoided(text)) == [
        "line 1: 'data sets'; write: dataset",
        "line 7: 'stands'; write: is listed",
    ]
