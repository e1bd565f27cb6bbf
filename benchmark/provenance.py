"""What is written beside results so that a reader knows where they come from: tags, environment, revision, memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml

from benchmark.data.verify import data_caption
from benchmark.jobs import Call, Unit
from benchmark.shipped_files import INSTALLED, PACKAGE

PROJECT = PACKAGE.parent


def unit_tags(unit: Unit) -> dict[str, str]:
    """Tags that say what a run is, for people, the UI's filters and the reporter."""
    lengths = unit.settings.lengths
    return {
        **unit.identity(),
        "alignment": unit.settings.protocol.text_alignment,
        "method_title": unit.method.title,
        "method_note": unit.method.note,
        "method_inputs": unit.method.inputs,
        "method_uses": ", ".join(unit.method.uses).replace("_", " "),
        "dataset_title": unit.card.title,
        "dataset_kind": "generated" if unit.store.generated else unit.card.kind,
        "dataset_caption": ", ".join(
            [data_caption(unit.store, unit.card), *(f"{k}={v}" for k, v in unit.data_settings.items())]
        ),
        "reduced_sizes": str(unit.method.name in unit.card.sizes).lower(),
        "epochs": str(unit.settings.train.epochs),
        "batches_per_epoch": str(unit.settings.train.batches_per_epoch),
        "lengths": f"{lengths.train}/{lengths.test}",
        "alias": unit.alias or "",
    }


def environment() -> dict[str, str]:
    """Versions, machine and revision of a run."""
    return {
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
    }


@cache
def git_revision() -> str:
    """Revision of the project, with ``+changes`` where files differ; ``unknown`` outside a checkout."""
    if INSTALLED.is_dir():  # a repository around it is another project's
        return "unknown"
    try:
        revision, status = (
            subprocess.run(["git", "-C", str(PROJECT), *args], capture_output=True, check=True).stdout.decode(errors="replace")
            for args in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision.strip() + ("+changes" if status.strip() else "")


CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def restart_peak_memory() -> None:
    """Let ``peak_memory_mb`` count from what is in use now, where the system can (Linux, CUDA)."""
    with suppress(OSError):  # another system, or a container that forbids it: then the peak is that of the process
        CLEAR_REFS.write_text("5", encoding="utf-8")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Largest resident memory of this process since ``restart_peak_memory``, plus the largest of the CUDA device, in MiB."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    with suppress(OSError):  # Linux, where getrusage also counts what the process had that started this one
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                kib = float(line.split()[1])
    cuda = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return kib / 1024 + cuda


def dump_call(call: Call) -> str:
    """A call as YAML that ``run --config`` takes."""
    return yaml.safe_dump(call.model_dump(mode="json", exclude_none=True, exclude_defaults=True), sort_keys=False)
