"""The names in the tracking store are written down once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import benchmark
from benchmark.tracking.schema import Artifact, Metric, Tag

PACKAGE = Path(benchmark.__file__).parent


def names_of(group: type) -> set[str]:
    return {value for name, value in vars(group).items() if not name.startswith("_")}


def strings_of(file: Path) -> set[str]:
    """String literals, those within f-strings too."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("group", [Artifact, Metric, Tag])
def test_no_other_module_types_a_name_that_only_the_store_has(group: type) -> None:
    names = {
        name for name in names_of(group) if "." in name or "/" in name
    }  # others are fields or columns too
    others = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "tracking" / "schema.py"]
    twins = {str(file.relative_to(PACKAGE)): strings_of(file) & names for file in others}
    assert names
    assert len(others) > 100
    assert not {file: found for file, found in twins.items() if found}
