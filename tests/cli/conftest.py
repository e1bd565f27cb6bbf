"""The command line on synthetic data, in its own folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.shell import Shell


@pytest.fixture
def shell(
    tmp_path: Path,
    runs: Path,
    templates: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    data = shutil.copytree(templates / "data", tmp_path / "data")
    for name, place in {"DATA_ROOT": data, "RUNS_DIR": runs, "REPORTS_DIR": tmp_path / "reports"}.items():
        monkeypatch.setenv(f"GZSL_{name}", str(place))
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, runs, monkeypatch, capsys)
