"""The command ``extract`` on a small set of videos."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from support.in_process import extract_here
from support.video_set import VideoSet

from benchmark.cli import app
from benchmark.data import cards
from benchmark.extract import devices


class Command:
    """The command ``extract`` on a set of videos with the tiny extractor, in the process of the test unless
    said otherwise."""

    def __init__(
        self,
        video_set: VideoSet,
        tiny: Path,
        data: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        processes: bool = False,
    ) -> None:
        self.video_set, self.tiny, self.data = video_set, tiny, data
        self.store = data / "sports-tiny.h5"
        self.results = data / "sports-tiny.h5.extract"
        monkeypatch.setattr(cards, "load_cards", lambda **_: {"sports": video_set.card()})
        if not processes:
            monkeypatch.setattr(devices, "extract_on", extract_here)

    def words(self, *more: object, weights: bool = True) -> list[str]:
        chosen = ["--random-weights"] if weights else []
        places = [
            "--videos",
            self.video_set.videos,
            "--lists",
            self.video_set.lists,
            "--data-root",
            self.data,
        ]
        return [str(w) for w in ("extract", "sports", *places, "--plugin", self.tiny, *chosen, *more)]

    def __call__(self, *more: object, code: int = 0, weights: bool = True) -> dict[str, Any]:
        """Give the command, check its exit code, and give what ``--json`` says."""
        file = self.data.parent / "out.json"
        file.unlink(missing_ok=True)
        with pytest.raises(SystemExit) as ended:
            app.main(self.words("--json", file, *more, weights=weights))
        assert (ended.value.code or 0) == code
        content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        return content

    def problems(self, name: str = "problems.csv") -> dict[str, tuple[str, bool]]:
        """Sample -> what, and whether it is left out, of the table's file."""
        with open(self.results / name, newline="") as file:
            return {row["sample"]: (row["what"], row["left_out"] == "True") for row in csv.DictReader(file)}


def in_video(tiny: Path, *lines: str) -> None:
    """Let the plug-in's network of pictures begin with these lines."""
    head = "    def video(self, clips):  # [N, length, 3, H, W] -> [N, video_dim]\n"
    content = tiny.read_text()
    assert head in content
    tiny.write_text(content.replace(head, head + "".join(f"        {line}\n" for line in lines)))
