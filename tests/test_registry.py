"""The digest of the code that decides numbers: which files it is of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark import registry

PROJECT = Path(__file__).resolve().parents[1]
DECIDING = [
    *(f"protocol/{name}" for name in ("stages", "training", "evaluation", "batching", "border", "seal")),
    "method",
    "system/streams",
    "data/groups",
    "data/store",
]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The digest taken of a copy of the project's code, which may be edited."""
    for name in ("benchmark", "methods"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    method = registry.load().methods["attention_fusion"]
    monkeypatch.setattr(registry, "METHODS_DIR", tmp_path / "methods")
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "benchmark" / "registry.py"))
    monkeypatch.setattr(registry, "source_file", lambda cls: tmp_path / f"{cls.__module__.replace('.', '/')}.py")
    forget()
    assert method.__module__ == "methods.attention_fusion"
    yield tmp_path
    forget()


def forget() -> None:
    registry.code_version.cache_clear()
    registry._imported.cache_clear()


def version() -> str:
    forget()
    return registry.code_version(registry.load().methods["attention_fusion"])


@pytest.mark.parametrize(
    "file", [*(f"benchmark/{name}" for name in DECIDING), *(f"methods/{n}" for n in ("attention_fusion", "blocks", "losses"))]
)
def test_an_edit_of_code_that_decides_numbers_changes_the_digest(copy: Path, file: str) -> None:
    before = version()
    path = copy / f"{file}.py"
    path.write_text(path.read_text() + "\n# edited\n")
    assert version() != before


@pytest.mark.parametrize(
    "file",
    [
        "benchmark/errors",
        "benchmark/inspection",
        "benchmark/system/files",
        "benchmark/system/reading",
        "benchmark/cli/progress",
        "benchmark/report/tables/captions",
        "methods/cjme",
    ],
)
def test_an_edit_of_other_code_does_not(copy: Path, file: str) -> None:
    before = version()
    path = copy / f"{file}.py"
    path.write_text(path.read_text() + "\n# edited\n")
    assert version() == before


def test_a_module_that_is_split_off_joins_the_digest(copy: Path) -> None:
    protocol, new = copy / "benchmark" / "protocol" / "stages.py", copy / "benchmark" / "split_off.py"
    new.write_text("VALUE = 1\n")
    protocol.write_text(protocol.read_text() + "\nfrom benchmark.split_off import VALUE  # noqa\n")
    before = version()
    new.write_text("VALUE = 2\n")
    assert version() != before


@pytest.mark.parametrize("folder", ["a", "z"])
def test_the_digest_does_not_depend_on_where_a_plug_in_lies(copy: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    before, beside = version(), registry.source_file
    elsewhere = copy / folder / "attention_fusion.py"  # before and after the harness in alphabetical order
    elsewhere.parent.mkdir()
    shutil.move(copy / "methods" / "attention_fusion.py", elsewhere)
    monkeypatch.setattr(registry, "source_file", lambda m: elsewhere if "fusion" in m.__module__ else beside(m))
    assert version() == before


def test_modules_left_out_are_there() -> None:
    assert all((PROJECT / f"{name.replace('.', '/')}.py").is_file() for name in registry.KEYED)
