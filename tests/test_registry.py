"""The digest of the code that decides numbers: which files it is of."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support.checkout import PROJECT

from benchmark import registry
from benchmark.method import Method
from benchmark.protocol import code_version

PROTOCOL = sorted(path.stem for path in (PROJECT / "benchmark" / "protocol").glob("*.py"))
METHOD = [f"methods/{name}" for name in ("attention_fusion", "blocks", "losses")]
DECIDING = [
    *(f"benchmark/protocol/{name}" for name in PROTOCOL),
    *(f"benchmark/{name}" for name in code_version.BESIDE),
    *METHOD,
]
OTHERS = [
    path.relative_to(PROJECT).with_suffix("").as_posix()
    for folder in ("benchmark", "methods")
    for path in sorted((PROJECT / folder).rglob("*.py"))
]
NO_NUMBER = (
    "benchmark.errors",
    "benchmark.registry",
    "benchmark.settings",
    "benchmark.system",
    "benchmark.data.cards",
    "benchmark.data.hdf5",
)
"""Modules that no number depends on, other than through settings and data, which a job's key holds."""


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The digest taken of a copy of the project's code, which may be edited."""
    for name in ("benchmark", "methods"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert method().__module__ == "methods.attention_fusion"
    monkeypatch.setattr(code_version, "METHODS_DIR", tmp_path / "methods")
    monkeypatch.setattr(code_version, "PROTOCOL", tmp_path / "benchmark" / "protocol")
    monkeypatch.setattr(
        code_version, "source_file", lambda cls: tmp_path / f"{cls.__module__.replace('.', '/')}.py"
    )
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    code_version.code_version.cache_clear()
    code_version._imported.cache_clear()


@cache
def method() -> type[Method]:
    return registry.load().methods["attention_fusion"]


def version() -> str:
    forget()
    return code_version.code_version(method())


def edit(path: Path) -> str:
    """Edit a file; return what it held."""
    before = path.read_text()
    path.write_text(before + "\n# edited\n")
    return before


def edited(path: Path) -> str:
    """The digest while a file is edited."""
    before = edit(path)
    try:
        return version()
    finally:
        path.write_text(before)


def test_an_edit_of_code_that_decides_numbers_changes_the_digest_and_no_other_edit_does(copy: Path) -> None:
    before = version()
    assert set(DECIDING) <= set(OTHERS)
    for file in DECIDING:
        assert edited(copy / f"{file}.py") != before, file
    for file in set(OTHERS) - set(DECIDING):
        edit(copy / f"{file}.py")
    assert version() == before


def test_a_module_that_is_split_off_joins_the_digest(copy: Path) -> None:
    before = version()
    (copy / "benchmark" / "protocol" / "split_off.py").write_text("VALUE = 1\n")
    assert version() != before


def test_the_protocol_imports_nothing_else_that_decides_numbers() -> None:
    deciding = {name.replace("/", ".") for name in DECIDING}
    for name in (
        *(f"benchmark/protocol/{name}" for name in PROTOCOL),
        *(f"benchmark/{name}" for name in code_version.BESIDE),
    ):
        for node in ast.walk(ast.parse((PROJECT / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmark"):
                assert node.module in deciding or str(node.module).startswith(NO_NUMBER), (name, node.module)


@pytest.mark.parametrize("folder", ["a", "z"])
def test_the_digest_does_not_depend_on_where_a_plug_in_lies(
    copy: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    before, beside = version(), code_version.source_file
    elsewhere = copy / folder / "attention_fusion.py"  # before and after the harness in alphabetical order
    elsewhere.parent.mkdir()
    shutil.move(copy / "methods" / "attention_fusion.py", elsewhere)
    monkeypatch.setattr(
        code_version, "source_file", lambda m: elsewhere if "fusion" in m.__module__ else beside(m)
    )
    assert version() == before
