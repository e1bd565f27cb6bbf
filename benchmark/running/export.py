"""Copies trained weights out of a runs folder."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmark.errors import UsageError
from benchmark.tracking.benchmark_runs import find_benchmark_runs
from benchmark.tracking.schema import Artifact
from benchmark.tracking.tracker import Tracker
from benchmark.weights.own import CONFIG, OWN_WEIGHTS, load_checkpoint


@dataclass(frozen=True)
class Exported:
    """A training whose weights were exported."""

    folder: Path
    """Holds ``stage_a`` and ``stage_b``, each with ``model.safetensors`` and ``config.json``."""
    title: str


def export(
    tracker: Tracker, runs_dir: Path, target: Path, run: str | None, methods: Sequence[str]
) -> list[Exported]:
    """Copy the weights of a benchmark run's finished trainings, as safetensors with configurations.

    Args:
        tracker: the store of the benchmark runs.
        runs_dir: the folder with their weights.
        target: a folder in which each training gets its own.
        run: id of a benchmark run, or its beginning; the newest one if None.
        methods: names; all methods of the run if empty.

    Raises:
        UsageError: no such run, nothing finished in it, removed weights, or a folder that exists with other
            content.
    """
    found = find_benchmark_runs(tracker, None if run is None else [run])
    trainings = _trainings(tracker.read_json(found[0].run_id, Artifact.JOBS), methods)
    if not trainings:
        wanted = f" of {', '.join(methods)}" if methods else ""
        raise UsageError(f"run {found[0].run_id} ({found[0].name}) has no finished training{wanted}")
    missing = [
        f"{title}: {runs_dir / 'jobs' / key}"
        for title, keys in trainings.items()
        for key in keys
        if _weights_of(runs_dir / "jobs" / key) is None
    ]
    if missing:
        raise UsageError("weights no longer on disk:\n" + "\n".join(missing))
    exported = []
    for title, keys in trainings.items():
        folder = target / title
        for stage, key in zip(("stage_a", "stage_b"), keys, strict=True):
            _export_job(runs_dir / "jobs" / key, folder / stage)
        exported.append(Exported(folder, title))
    return exported


def _trainings(entries: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Title -> job keys of stages 1 and 2 of each training whose two stages are done."""
    keys: dict[str, dict[int, str]] = {}
    for entry in entries:
        if entry["state"] in ("done", "reused") and (not methods or entry["method"] in methods):
            fields = ("dataset", "features", "mode", "ablation", "method", "variant")
            names = [str(entry[name]) for name in fields if entry.get(name)]
            title = "-".join(names) + f"-seed{entry['repetition']}"
            title = re.sub(r"[^\w.+-]", "-", title)  # a folder's name, whatever the store says
            keys.setdefault(title, {})[entry["stage"]] = entry["job_key"]
    return {title: (stages[1], stages[2]) for title, stages in keys.items() if {1, 2} <= stages.keys()}


def _weights_of(folder: Path) -> Path | None:
    files = [folder / name for name in OWN_WEIGHTS if (folder / name).is_file()]
    return files[0] if files and (folder / CONFIG).is_file() else None


def _export_job(source: Path, target: Path) -> None:
    """Write the weights and the configuration of a job; the folder appears when it is complete."""
    file = _weights_of(source)
    assert file is not None  # checked
    record = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    if target.exists():
        if not (target / OWN_WEIGHTS[0]).is_file() or _job_key(target / CONFIG) != record["job_key"]:
            raise UsageError(
                f"{target}: exists with other or incomplete content; remove it or choose another --to"
            )
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        state = {name: tensor.contiguous() for name, tensor in load_checkpoint(file)["model"].items()}
        save_file(
            state, new / OWN_WEIGHTS[0], metadata={"method": record["method"], "job_key": record["job_key"]}
        )
        shutil.copy(source / CONFIG, new / CONFIG)
        new.chmod(0o755)
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _job_key(path: Path) -> str | None:
    """The job that an exported configuration is of; None where it is none."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["job_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
