"""The peak memory of a job."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def restart_peak_memory() -> None:
    """Let ``peak_memory_mb`` count from what is in use now, where the system can (Linux, CUDA)."""
    # another system, or a container that forbids it: then the peak is that of the process
    with suppress(OSError):
        CLEAR_REFS.write_text("5", encoding="utf-8")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Largest resident memory of this process since ``restart_peak_memory``, plus the largest of the CUDA
    device, in MiB."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    with suppress(OSError):  # Linux, where getrusage also counts what the process had that started this one
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                kib = float(line.split()[1])
    cuda = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return kib / 1024 + cuda
