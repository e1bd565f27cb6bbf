"""The import rules hold for type-only imports too, and the documents name the folders that there are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support.checkout import PROJECT

PACKAGE = PROJECT / "benchmark"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """Modules of the harness that a file imports anywhere, in ``if TYPE_CHECKING`` and in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys()
            found |= {node.module} if inner - MODULES.keys() else set()
    return found & MODULES.keys()


def layers() -> list[str]:
    config = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = (c for c in config["contracts"] if c["type"] == "layers")
    assert contract["exhaustive"]
    return list(contract["layers"])


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(
        {name: imported(path) - {name} for name, path in MODULES.items()}
    ).prepare()  # raises CycleError


def test_layers_hold_for_type_only_imports() -> None:
    level = {name.strip(): number for number, line in enumerate(layers()) for name in line.split("|")}
    for name, path in MODULES.items():
        for other in imported(path):
            here, there = ((*module.split("."), "")[1] for module in (name, other))
            if here and there and here != there:
                assert level[there] > level[here], f"{name} imports {other}"


def test_the_guide_has_the_layers_of_the_contract() -> None:
    (block,) = re.findall(
        r"```\n((?:[a-z |]+\n)+errors\n)```", (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    )
    assert block.splitlines() == layers()


def test_the_page_on_architecture_names_every_folder_and_file_of_the_harness() -> None:
    text = (PROJECT / "docs" / "development" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^  (\w+(?:/|\.py)) ", text, re.MULTILINE)
    there = {
        f"{path.name}/"
        for path in PACKAGE.iterdir()
        if path.is_dir() and path.name not in ("__pycache__", "shipped")
    }
    there |= {path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_a_command_that_only_prints_loads_no_library_that_is_slow_to_load(argument: str) -> None:
    slow = ("torch", "pandas", "matplotlib", "mlflow", "optuna")
    code = f"import sys\nfrom benchmark.cli import main\ntry:\n    main([{argument!r}])\n"
    code += f"finally:\n    print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
