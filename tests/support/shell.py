"""The command line in the process of a test, since starting another one takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmark.cli.app import main


class Shell:
    """Runs the command line in its own folder."""

    def __init__(
        self, folder: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self.runs, self.monkeypatch, self.capsys = folder, runs, monkeypatch, capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What a command prints; fails unless it ends with this code."""
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["run_benchmark.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        text = "".join(self.capsys.readouterr())
        assert (stop.value.code or 0) == code, text
        assert "Traceback" not in text, text
        return text

    def refused(self, *arguments: str) -> str:
        """What is said of wrong usage, in one line."""
        return " ".join(self(*arguments, code=2).split())
