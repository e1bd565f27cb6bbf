"""A new method is a Python file and a YAML file: it is listed, runs, is tuned, meets the contract."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from support.checkout import PROJECT
from support.tiny import Bench

from benchmark import registry
from benchmark.errors import Terminated, UsageError
from benchmark.method import RESERVED
from benchmark.settings.resolve import SECTIONS

METHOD = '''
"""Ridge-like baseline: a plain map of both means to the class embeddings."""
import torch
from torch.nn import functional
from benchmark.method import Embeddings, Field, Method, MethodConfig, register


@register("plain", title="Linear", paper="none", bibtex="@misc{plain}", inputs="mean")
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
SEARCH_SPACE = "method: plain\nsearch: {dropout: {type: float, low: 0.0, high: 0.5}}\n"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "plain.py"
    path.write_text(METHOD)
    path.with_suffix(".yaml").write_text(SEARCH_SPACE)
    return path


def test_a_plugin_is_listed_runs_and_is_tuned(bench: Bench, plugin: Path) -> None:
    assert "plain" in registry.load([plugin]).methods
    result = bench.run(bench.call(methods="plain,cjme", trials=2, plugins=[plugin]))
    assert not result.failed
    assert {e.method for e in result.entries} == {"plain", "cjme"}


@pytest.mark.slow
def test_a_plugin_passes_the_contract_tests(plugin: Path) -> None:
    env = {**os.environ, "GZSL_CONTRACT_PLUGINS": str(plugin), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/contract",
        "-k",
        "plain",
        "-p",
        "no:cacheprovider",
        "-n0",
    ]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout


@pytest.mark.parametrize(
    ("searched", "says"),
    [
        (
            "dropout: {type: float, low: 0.1, high: 50}",
            r"plain\.yaml: search\.dropout: high: must be less than 1 \(got 50",
        ),
        (
            "dropout: {type: float, low: -1, high: 0.5}",
            r"plain\.yaml: search\.dropout: low: must be at least 0 \(got -1",
        ),
        (
            "dropout: {type: categorical, choices: [0.1, some]}",
            r"plain\.yaml: search\.dropout: choices\[1\]: .*number.*\(got 'some'",
        ),
        (
            "train.epochs: {type: float, low: 1, high: 9}",
            r"search\.train\.epochs: between low and high: must be a whole number",
        ),
    ],
)
def test_a_range_with_values_that_the_method_refuses_is_reported_before_anything_runs(
    bench: Bench, plugin: Path, searched: str, says: str
) -> None:
    plugin.with_suffix(".yaml").write_text(f"method: plain\nsearch: {{{searched}}}\n")
    with pytest.raises(UsageError, match=says) as error:
        bench.units(bench.call(methods="plain", plugins=[plugin]))
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
    result = bench.run(bench.call(methods="plain,cjme", trials=1, plugins=[plugin]))
    assert not result.failed
    result = bench.run(bench.call(methods="plain,cjme", trials=2, plugins=[plugin]))
    assert {(e.method, e.variant, e.state) for e in result.failed} == {("plain", "tuned", "failed")}
    assert any(e.method == "cjme" and e.variant == "tuned" for e in result.entries), (
        "the other method continues"
    )
    told = [o for o in bench.display.outcomes if o.state == "failed"]
    assert told
    assert "dropout wants another rate" in told[0].error


def test_a_plugin_that_registers_nothing_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty.py", tmp_path / "broken.py"
    empty.write_text("x = 1\n")
    broken.write_text("import nowhere\n")
    with pytest.raises(UsageError, match="registers no method"):
        registry.load([empty])
    with pytest.raises(UsageError, match=r"broken\.py: ModuleNotFoundError"):
        registry.load([broken])


def test_a_name_cannot_be_registered_twice(tmp_path: Path) -> None:
    thief = tmp_path / "thief.py"
    thief.write_text(METHOD.replace('"plain"', '"tcaf"'))
    with pytest.raises(UsageError, match=r"method name 'tcaf' is taken by methods\.tcaf"):
        registry.load([thief])


def test_a_broken_method_file_stays_listed_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong.py").write_text("")
    monkeypatch.setattr(registry, "METHODS_DIR", tmp_path)
    found = registry.load()
    assert "No module named 'methods.wrong'" in found.broken["wrong"]
    with pytest.raises(UsageError, match="'wrong' cannot be loaded"):
        found.get("wrong")


ENDINGS = {
    "argparse": (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--data', "
        "required=True)\np.parse_args()",
        "SystemExit: 2",
    ),
    "sys.exit": ("import sys\nprint('working')\nsys.exit(3)", "SystemExit: 3"),
    "exit without a word": ("raise SystemExit", "SystemExit: "),
    "a text that fails": (
        "class Stop(SystemExit):\n    def __str__(self):\n        raise KeyError\nraise Stop",
        "Stop: its text cannot be shown, KeyError",
    ),
    "another base": ("class Stop(BaseException): pass\nraise Stop('over')", "Stop: over"),
    "cancelled": ("import asyncio\nraise asyncio.CancelledError", "CancelledError: "),
}


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_plugin_that_ends_the_process_is_an_error(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, reason = ENDINGS[kind]
    path = tmp_path / "train.py"
    path.write_text(f"{METHOD.replace('plain', 'begun')}\n{code}\n")
    with pytest.raises(UsageError) as error:
        registry.load([path])
    message = str(error.value)
    assert message.startswith(
        f"--plugin {path}: ended at import ({reason}): put what a script does below if __name__"
    )
    assert ("it printed:" in message) == (kind in ("argparse", "sys.exit"))
    assert ("the following arguments are required: --data" in message) == (kind == "argparse")
    assert "usage" not in "".join(capfd.readouterr()), "the text of argparse looks like ours"
    assert "begun" not in registry.REGISTERED


def test_what_a_plugin_changes_of_the_process_is_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "busy.py"
    path.write_text(
        METHOD.replace('"plain"', '"busy"') + "import logging, os, sys, warnings\n"
        "print('on stdout')\nsys.argv[:] = ['other']\nsys.argv = "
        "[]\nos.chdir('/')\nwarnings.simplefilter('error')\n"
        "torch.set_default_dtype(torch.float64)\n"
        "log = logging.getLogger('busy')\nlog.addHandler(logging.StreamHandler())\n"
    )
    before = (sys.argv, list(sys.argv), os.getcwd(), list(warnings.filters), torch.get_default_dtype())
    assert "busy" in registry.load([path]).methods
    assert (
        sys.argv,
        list(sys.argv),
        os.getcwd(),
        list(warnings.filters),
        torch.get_default_dtype(),
    ) == before
    assert capsys.readouterr() == ("", "on stdout\n"), "stdout is for results"
    logging.getLogger("busy").warning("later")
    assert capsys.readouterr().err == "later\n", "a handler made at import continues to write"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise KeyboardInterrupt", KeyboardInterrupt),
        ("from benchmark.errors import Terminated\nraise Terminated(1)", Terminated),
    ],
)
def test_interrupts_from_outside_are_not_blamed_on_a_plugin(
    tmp_path: Path, code: str, error: type[BaseException]
) -> None:
    path = tmp_path / "slow.py"
    path.write_text(code)
    with pytest.raises(error):
        registry.load([path])


def test_a_plugin_that_wraps_the_output_leaves_it_open(tmp_path: Path) -> None:
    (tmp_path / "wraps.py").write_text(
        METHOD.replace('"plain"', '"wraps"')
        + "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'utf-8')\n"
    )
    code = "import gc\nfrom pathlib import Path\nfrom benchmark import registry\n"
    code += "registry.load([Path('wraps.py')]); gc.collect(); print('still open')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("still open\n", "")


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of methods instead of the shipped one."""
    import methods as package

    folder = tmp_path / "methods"
    folder.mkdir()
    monkeypatch.setattr(registry, "METHODS_DIR", folder)
    monkeypatch.setattr(package, "__path__", [str(folder)])
    for name in ("exits", "fine_one"):
        monkeypatch.delitem(sys.modules, f"methods.{name}", raising=False)
    return folder


def test_files_that_are_no_methods_do_not_stop_others(methods: Path) -> None:
    (methods / "exits.py").write_text("import sys\nsys.exit('not now')\n")
    (methods / "fine_one.py").write_text(METHOD.replace('"plain"', '"fine_one"'))
    (methods / "fine_one (copy).py").write_text(METHOD.replace('"plain"', '"fine_one"'))
    (methods / "link.py").symlink_to(methods / "nowhere.py")
    (methods / "folder.py").mkdir()
    for junk in ("._fine_one.py", ".hidden.py", "fine_one.py~", "#fine_one.py#"):
        (methods / junk).write_bytes(b"\x00\x05")
    found = registry.load()
    assert found.methods["fine_one"].__module__ == "methods.fine_one", "not its copy"
    assert set(found.broken) == {"exits", "fine_one (copy)", "link", "folder"}
    assert "ended at import (SystemExit: not now)" in found.broken["exits"]
    assert "rename it" in found.broken["fine_one (copy)"]


def test_all_methods_cannot_be_combined_with_one() -> None:
    with pytest.raises(
        UsageError, match="--methods all,cjme: all cannot be combined with names; write --methods all"
    ):
        registry.load().select("all,cjme")


def test_a_file_that_closes_the_output_leaves_it_open(
    plugin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin.write_text(f"import sys\nsys.stdout.close()\nsys.stderr.close()\n{METHOD}")
    registry.load([plugin])
    print("heard")
    assert capsys.readouterr().out == "heard\n"


def test_an_entry_point_that_ends_the_process_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "their_package:Method", registry.ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", lambda self: sys.exit(4))
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    found = registry.load()
    assert found.broken["theirs"].startswith(
        "entry point their_package:Method: ended at import (SystemExit: 4)"
    )
    assert "tcaf" in found.methods


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('inputs="mean"', 'inputs="Mean"', r"inputs='Mean': known are 'sequence', 'mean'"),
        ('inputs="mean"', 'inputs=["mean"]', r"inputs=\['mean'\]: known are"),
        ('inputs="mean"', 'inputs="mean", uses=("names",)', r"uses=\('names',\): .*known are 'unseen_names'"),
        ('inputs="mean"', 'inputs="mean", uses="unseen_names"', "must be a tuple"),
        ('inputs="mean"', 'inputs="mean", note=3', "note=3: must be a text"),
        ('title="Linear"', 'title=""', "title=''"),
        ('title="Linear"', "title=None", "title=None: must be a text"),
        ('paper="none"', "paper=1", "paper=1: must be a text"),
        ('@register("plain"', "@register(7", "name=7: use lower-case letters"),
        ('@register("plain"', '@register("Linear"', "name='Linear': use lower-case letters"),
        ('@register("plain"', '@register("größe"', "use lower-case letters"),
        ('@register("plain"', '@register("../plain"', "use lower-case letters"),
        ('@register("plain"', f'@register("{"l" * 65}"', "64 at most"),
        ('@register("plain"', '@register("all"', "name='all': means something else on the command line"),
        ('@register("plain"', '@register("train"', "name='train': means something else"),
        ("Config(MethodConfig)", "Config", "Config=<class .*: must be a subclass of MethodConfig"),
        (
            "class Linear(Method):",
            "class Linear(Method):\n    reported_output = None",
            "reported_output=None: must be",
        ),
        (
            "class Linear(Method):",
            "class Linear(Method):\n    reported_view = 'a'",
            "reported_view: it is called reported_output",
        ),
        (
            "class Linear(Method):",
            "class Linear(Method):\n    needs_negatives = 'no'",
            "needs_negatives='no': must be",
        ),
        (
            "class Linear(Method):",
            "class Linear(Method):\n    corrected_settings = {'x': 1}",
            "there is no 'x'",
        ),
        (
            "class Linear(Method):",
            "class Linear(Method):\n    corrected_settings = {'dropout': 7}",
            r"corrected_settings\['dropout'\]: ",
        ),
        (
            "class Linear(Method):",
            "class Linear(Method):\n    corrected_settings = ['dropout']",
            "must map fields",
        ),
        (
            "def loss(self, batch, classes)",
            "def loss(self, batch)",
            r"loss of Linear must be a function of \(self, batch, classes\)",
        ),
        (
            "class Linear(Method):",
            "class Linear(Method):\n    fit = 3",
            r"fit of Linear must be a function of \(self, data, loop\)",
        ),
        (
            "(MethodConfig):",
            "(MethodConfig):\n        x: int = 'three'",
            r"Config: the default of x: .* \(got 'three'\)",
        ),
        (
            "@register(",
            "@register('second', title='B', paper='', bibtex='', inputs='mean')\n@register(",
            "Linear is registered as 'plain' already",
        ),
        ("def embed_classes", "def embed_class", "Linear must define embed_classes"),
        ("class Linear(Method):", "class Linear(torch.nn.Module):", "decorate a subclass of Method, not"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_file_and_what_is_expected(
    plugin: Path, old: str, new: str, told: str
) -> None:
    plugin.write_text(METHOD.replace(old, new))
    with pytest.raises(UsageError, match=rf"--plugin .*plain\.py: ValueError: .*{told}"):
        registry.load([plugin])


def test_all_sections_of_settings_are_names_that_no_method_may_have() -> None:
    assert {*SECTIONS, "all"} == set(RESERVED)


def test_a_search_space_with_a_key_twice_or_in_two_files_is_refused(plugin: Path, bench: Bench) -> None:
    space = plugin.with_suffix(".yaml")
    space.write_text(f"{SEARCH_SPACE}search: {{}}\n")
    call = bench.call(methods="plain", plugins=[plugin])
    with pytest.raises(
        UsageError, match=r"plain\.yaml: line 3: key 'search' is given twice \(first in line 2\)"
    ):
        bench.units(call)
    space.write_text(SEARCH_SPACE)
    space.with_suffix(".yml").write_text(SEARCH_SPACE)
    with pytest.raises(UsageError, match=r"plain\.yaml: there is plain\.yml too"):
        bench.units(call)
    space.unlink()
    assert set(bench.units(call)[0].ranges) == {"dropout"}
    assert bench.units(bench.call(methods="cjme")), "another method needs no search space of this one"
