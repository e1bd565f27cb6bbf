"""How far the demo moves on other processors: the same run with kernels for other instruction sets, and with
weights that differ by rounding.

    python -m perf.processors FOLDER [--methods all --controls --dataset demo ...]

Each variant is a separate run below FOLDER; a repeated command continues. The table has for each method the
means of HM and ZSL by variant, half the 95 % interval of the first one, and the largest difference to it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tabulate import tabulate

from benchmark.method import Method
from benchmark.protocol.stages import Experiment

PERTURBED = "GZSL_PERTURBED"
VARIANTS: dict[str, dict[str, str]] = {
    "as it is": {},
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "SSE4": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
    "weights · (1 + 1e-7 u)": {PERTURBED: "1e-7"},
}
DEMO = ["--methods", "all", "--controls", "--dataset", "demo", "--jobs", "2"]


def perturb() -> None:
    """Let every model start from weights times 1 + size · u, u uniform in (-1, 1). Processes that import this
    module as their main module do it too."""
    size, build = float(os.environ.get(PERTURBED, "0")), Experiment.build

    def built(self: Experiment) -> Method:
        method = build(self)
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weights in method.parameters():
                weights.mul_(1 + size * (2 * torch.rand(weights.shape, generator=random) - 1))
        return method

    if size:
        Experiment.build = built  # type: ignore[method-assign]


perturb()


def run(folder: Path, options: list[str], variant: str) -> pd.DataFrame:
    """The results of the run with a variant's environment, a row per method and kind of settings."""
    name = "".join(c for c in variant.lower() if c.isascii() and c.isalnum())
    places = ["--runs-dir", str(folder / name), "--reports-dir", str(folder), "--report", f"{name}-report"]
    command = [sys.executable, "-m", "perf.processors", "--only", "run", *options, *places, "--quiet"]
    subprocess.run(command, check=True, env={**os.environ, **VARIANTS[variant]})
    frame = pd.read_csv(folder / f"{name}-report" / "full.csv")
    return frame.set_index(["method", "settings"])


def compare(frames: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """A row per method, kind of settings and metric."""
    (first, *others), rows = list(frames.values()), []
    for key, mine in first.iterrows():
        for metric in ("HM", "ZSL"):
            means = {name: frame.loc[key, f"{metric}_percent"] for name, frame in frames.items()}
            half = (mine[f"{metric}_high_percent"] - mine[f"{metric}_low_percent"]) / 2
            apart = max(
                abs(frame.loc[key, f"{metric}_percent"] - mine[f"{metric}_percent"]) for frame in others
            )
            facts = {"method": " ".join(map(str, key)), "metric": metric}  # type: ignore[arg-type]
            rows.append({**facts, **means, "±": half, "moved": apart, "within": bool(apart <= half)})
    return rows


def main() -> None:
    """Run all variants and print the table."""
    folder, options = Path(sys.argv[1]), sys.argv[2:] or DEMO
    folder.mkdir(parents=True, exist_ok=True)
    rows = compare({variant: run(folder, options, variant) for variant in VARIANTS})
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))
    (folder / "processors.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:
        from benchmark.cli import main as command

        command(sys.argv[2:])
    else:
        main()
