"""Where results come from: tags of runs, environment, processor and revision."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_info

from benchmark.data.cards import Card
from benchmark.data.store import SPLITS, FeatureStore
from benchmark.method import Use
from benchmark.running.jobs import Unit
from benchmark.system.shipped_files import PACKAGE
from benchmark.tracking.schema import Tag

PROJECT = PACKAGE.parent


def unit_tags(unit: Unit) -> dict[str, str]:
    """Tags that describe a unit: people, MLflow's filters and the report read them."""
    lengths = unit.settings.lengths
    return {
        **unit.identity(),
        Tag.ALIGNMENT: unit.settings.protocol.text_alignment,
        Tag.METHOD_TITLE: unit.method.title,
        Tag.METHOD_NOTE: unit.note,
        Tag.METHOD_INPUTS: unit.method.inputs,
        Tag.CONTROL: unit.method.control,
        Tag.METHOD_USES: words_of_uses(unit.settings.uses),
        Tag.DATASET_TITLE: unit.card.title,
        Tag.DATASET_KIND: "generated" if unit.store.generated else unit.card.kind,
        Tag.DATASET_CAPTION: ", ".join(
            [data_caption(unit.store, unit.card), *(f"{k}={v}" for k, v in unit.data_settings.items())]
        ),
        Tag.REDUCED_SIZES: str(_is_reduced(unit)).lower(),
        Tag.EPOCHS: str(unit.settings.train.epochs),
        Tag.BATCHES: str(unit.settings.train.batches_per_epoch),
        Tag.LENGTHS: f"{lengths.train}/{lengths.test}",
        Tag.PRESET: unit.preset or "",
    }


def words_of_uses(uses: Iterable[Use]) -> str:
    """What a transductive method uses, in words."""
    words = {
        "unseen_names": "class embeddings of the unseen classes in training",
        "test_samples": "all test samples together at the test",
    }
    return ", ".join(words[use] for use in uses)


def _is_reduced(unit: Unit) -> bool:
    """Whether the dataset config gives the method a smaller width or depth than its default."""
    fields = unit.method.Config.model_fields
    given = unit.card.sizes.get(unit.method.name, {})
    return any(
        isinstance(value, int) and isinstance(fields[name].default, int) and value < fields[name].default
        for name, value in given.items()
        if name in fields
    )


def environment() -> dict[str, str]:
    """Versions, machine and revision of a run."""
    return {
        Tag.REVISION: git_revision(),
        Tag.PYTHON: platform.python_version(),
        Tag.TORCH: str(torch.__version__),
        Tag.NUMPY: np.__version__,
        Tag.PLATFORM: platform.platform(),
        **processor(),
        Tag.CUDA_DEVICE: torch.cuda.get_device_name() if torch.cuda.is_available() else "",
    }


GIT_SECONDS = 10.0
"""How long git may take to answer, for example on a slow network disk."""


@cache
def processor() -> dict[str, str]:
    """The parts of this machine's CPU and libraries that decide rounding.

    Returns:
        ``cpu_capability``: the instruction set that torch uses, such as ``AVX2``. ``blas``: the linear
        algebra libraries of torch and numpy, with the processor of their kernels if they name it, such as
        ``mkl + openblas Haswell``.
    """
    loaded = {
        f"{x['internal_api']} {x.get('architecture') or ''}".strip()
        for x in threadpool_info()
        if x["user_api"] == "blas"
    }
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    own = {"open": "openblas"}.get(found[1], found[1]) if found else "unknown"
    names = sorted(loaded | ({own} if not any(name.startswith(own) for name in loaded) else set()))
    return {Tag.CPU_CAPABILITY: str(torch.backends.cpu.get_cpu_capability()), Tag.BLAS: " + ".join(names)}


@cache
def git_revision() -> str:
    """Revision of the project, with ``+changes`` if files differ; ``unknown`` and why if git fails.

    The checkout may belong to another user: its code runs already, so git may read it.
    """
    tracked = _git("ls-files", "--error-unmatch", "--", f"benchmark/running/{Path(__file__).name}")
    if not tracked.done:
        missing = "did not match any file" in tracked.text or "not a git repository" in tracked.text
        return f"unknown ({'not a git checkout' if missing else tracked.text})"
    revision = _git("rev-parse", "--short=12", "HEAD")
    status = _git("status", "--porcelain", "-uno", "--", ".")
    for answer in (revision, status):
        if not answer.done:
            return f"unknown ({answer.text})"
    return revision.text + ("+changes" if status.text else "")


class _Answer(NamedTuple):
    done: bool
    text: str
    """What git printed, or why there is no answer."""


def _git(*words: str) -> _Answer:
    """Ask git about the project's own folder, whatever repository the environment names; change nothing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    # core.fsmonitor would run a program
    options = ["-c", f"safe.directory={PROJECT}", "-c", "core.fsmonitor=false"]
    command = ["git", *options, "-C", str(PROJECT), *words]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        return _Answer(False, "git is not installed")
    except OSError as error:
        return _Answer(False, f"git: {error.strerror}")
    try:
        printed, complaint = process.communicate(timeout=GIT_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it started
        process.communicate()
        return _Answer(False, f"git does not answer within {GIT_SECONDS:.0f} s")
    if process.returncode:
        lines = complaint.strip().splitlines() or [f"git failed with exit code {process.returncode}"]
        return _Answer(False, lines[0].removeprefix("fatal: "))
    return _Answer(True, printed.strip())


def data_caption(store: FeatureStore, card: Card) -> str:
    """The caption of the dataset config, what its pre-training may have seen, and how many published samples
    the feature file lacks."""
    wanted = card.features[store.features].samples
    missing = [max(0, wanted[split] - store.counts[split]) for split in SPLITS if split in wanted]
    listed = sum(wanted[split] for split in SPLITS if split in wanted)
    texts = (card.caption, card.features[store.features].contamination)
    parts = [text.rstrip(". ") for text in texts if text]
    if any(missing) and not store.generated:
        parts.append(f"{sum(missing):,} of {listed:,} listed samples missing")
    return ", ".join(parts)
