"""The command ``evaluate`` on small generated data under the name of a published dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.published_runs import Data, write_data

from benchmark.cli import app


class Place:
    """A data root with small generated data under the name of a published dataset, and the command on it."""

    def __init__(self, folder: Path, runs: Path, data: Data) -> None:
        self.folder, self.runs, self.data = folder, runs, data
        write_data(folder / "data" / "ucf-cls.h5", data)

    def evaluate(
        self, stage_a: Path, stage_b: Path, *options: str, dataset: str = "ucf", code: int = 0
    ) -> dict[str, float]:
        file = self.folder / "numbers.json"
        places = ["--data-root", str(self.folder / "data"), "--runs-dir", str(self.runs), "--json", str(file)]
        folders = ["--stage-a", str(stage_a), "--stage-b", str(stage_b), "--dataset", dataset]
        with pytest.raises(SystemExit) as ended:
            app.main(["evaluate", *folders, *places, *options])
        assert (ended.value.code or 0) == code
        numbers: dict[str, float] = json.loads(file.read_text()) if code == 0 else {}
        return numbers
