"""What people read in MLflow's pages: names and descriptions of runs, and metrics that sort first.

Reports read none of this.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np

from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.jobs import Job, Plan, Unit
from benchmark.system.shipped_files import program
from benchmark.tracking.schema import Artifact, Metric
from benchmark.tracking.tracker import AS_TRAINING
from benchmark.uncertainty import FEWEST_SEEDS, spread

LONGEST = 7_500
"""Characters of a description; MLflow takes 8,000."""
FIRST = {"hm": "1 HM", "zsl": "2 ZSL", "seen": "3 S", "unseen": "4 U"}
"""Names of a method's means, fractions: MLflow's pages sort metrics by name, and a digit comes before all
others."""
ON_VALIDATION = {"hm": "5 validation HM", "zsl": "6 validation ZSL"}
COMPARED = 60
"""Methods in the address of a comparison at most."""


@dataclass(frozen=True)
class Means:
    """What the seeds of a method gave with one kind of settings."""

    seeds: int
    mean: Mapping[str, float]
    """By metric, fractions."""
    ends: Mapping[str, tuple[float, float]]
    """The 95 % interval of the mean or, with few seeds, the range (``uncertainty.spread``)."""

    @classmethod
    def of(cls, results: Sequence[Mapping[str, float]]) -> Means:
        """Of the metrics of jobs; those that all have."""
        names = [name for name in results[0] if all(name in metrics for metrics in results)]
        values = {name: [metrics[name] for metrics in results] for name in names}
        means = {name: float(np.mean(v)) for name, v in values.items()}
        return cls(len(results), means, {name: spread(v) for name, v in values.items()})

    def text(self, metric: str) -> str:
        """Percent, with the interval or the range if there are several seeds."""
        if metric not in self.mean:
            return ""
        text, (low, high) = f"{100 * self.mean[metric]:.2f}", self.ends[metric]
        if self.seeds < 2:
            return text
        if self.seeds >= FEWEST_SEEDS:
            return f"{text} ± {50 * (high - low):.2f}"
        return f"{text} ({100 * low:.2f} to {100 * high:.2f})"


def run_name(plan: Plan) -> str:
    """``demo · 6 methods · paper · 2026-11-25 13:33``: the differences come first, since pages cut names."""
    run, methods = plan.run, len({unit.method.name for unit in plan.units})
    what = run.methods if methods <= 2 and run.methods != "all" else f"{methods} method{'s' * (methods != 1)}"
    kind = ["tuning"] if plan.tune_only else ["ablation"] if run.ablates else []
    return " · ".join([run.dataset, *kind, what, plan.mode, time.strftime("%Y-%m-%d %H:%M")])


def job_name(job: Job, variant: str, trial: str | None = None, confirms: str | None = None) -> str:
    """``TCAF · tuned · seed 0 · stage 2 · ucf/cls · paper``; two jobs of a method have two names."""
    unit = job.unit
    place = unit.title.removeprefix(f"{unit.method.title} · ")
    own = [f"trial {trial}"] if trial is not None else [f"seed {job.repetition}", f"stage {job.stage}"]
    kind = ["tuned"] if variant == "tuned" else []
    kind += [f"trial {confirms} again"] if confirms is not None else []
    return " · ".join([unit.method.title, *kind, *own, place])


def method_metrics(untuned: Means | None, tuned: Means | None, prefix: str) -> dict[str, float]:
    """The means of a method, in the order in which they are to be shown.

    Args:
        prefix: of the jobs' metrics: ``test/`` or ``best/`` (on the validation splits).
    """
    found = {}
    for metric, name in (FIRST if prefix == Metric.TEST else ON_VALIDATION).items():
        for means, ending in ((untuned, ""), (tuned, " tuned")):
            if means is not None and prefix + metric in means.mean:
                found[name + ending] = means.mean[prefix + metric]
    return found


def run_note(
    plan: Plan, command: str, runs: Sequence[str], experiment: str, means: Mapping[tuple[int, str], Means]
) -> str:
    """The description of a benchmark run.

    Args:
        runs: ids of the methods' MLflow runs.
        experiment: id of the experiment.
        means: by the method's index and kind of settings, as far as there are any.
    """
    # What it is, with a link to the comparison of its methods.
    pair = {"runs": json.dumps(list(runs)[:COMPARED]), "experiments": json.dumps([experiment])}
    compare = urlencode({**pair, **AS_TRAINING})
    seeds, tuning = len(plan.units[0].repetitions), plan.units[0].tuning
    search = f"tuning budget {tuning.budget}" if tuning.searches else "no tuning"
    facts = f"{plan.run.dataset}, mode {plan.mode}, {seeds} seed{'s' * (seeds != 1)}, {search}"
    parts = [f"**Benchmark run**: {facts}. [Compare its methods](#/compare-runs?{compare})"]

    # What came out.
    rows = [[unit.title, *row] for i, unit in enumerate(plan.units) for row in _rows(means, i)]
    if rows:
        parts += [_table(["method", *HEADINGS], rows), MEANING]
    return _short([*parts, _repeat(command)])


def method_note(unit: Unit, run: BenchmarkRun, means: Mapping[tuple[int, str], Means], index: int) -> str:
    """The description of a method's run."""
    protocol = unit.settings.protocol
    parts = [
        f"**{unit.method.title}** on {unit.card.title}, features {unit.features}, mode {unit.mode}, text "
        f"alignment {protocol.text_alignment}; {unit.variant} settings. {unit.method.paper}"
        + (f" ({unit.note})" if unit.note else "")
    ]
    dataset = unit.preset or unit.card.name
    mode = "paper" if unit.ablation else unit.mode
    one = run.model_copy(update={"methods": unit.method.name, "dataset": dataset, "mode": mode})
    if rows := _rows(means, index):
        parts += [_table(HEADINGS, rows), MEANING]
    return _short([*parts, _repeat(command_of(one))])


def job_note(job: Job, variant: str, result: Mapping[str, Any] | None = None) -> str:
    """The description of a job."""
    unit = job.unit
    what = "is trained on the training split, and its epoch and beta are chosen on the validation splits"
    if job.stage == 2:
        what = (
            "is trained on training and validation splits for the epochs that stage 1 chose, and tested once"
        )
    parts = [
        f"**{unit.method.title}** on {unit.card.title}, features {unit.features}, mode {unit.mode}, "
        f"{variant} settings, seed {job.repetition}, stage {job.stage}: it {what}."
    ]
    if result is not None:
        stage_1 = "validation" in result
        numbers = result["validation"] if stage_1 else result["metrics"]
        names = {"seen": "S", "unseen": "U", "hm": "HM", "zsl": "ZSL"}
        numbers_text = ", ".join(f"{label} {100 * numbers[name]:.2f}" for name, label in names.items())
        where = f"epoch {result['best_epoch'] + 1} on validation" if stage_1 else "test"
        parts.append(f"**Result** ({where}, %): {numbers_text}")
    command = f"{program()} run --config {Artifact.CONFIG} --runs-dir runs-again"
    parts.append(_repeat(command, f"with the artifact `{Artifact.CONFIG}`, "))
    return _short(parts)


def command_of(run: BenchmarkRun) -> str:
    """The command line of a benchmark run."""
    words: list[str] = []
    for name, value in run.options().items():
        option = "--datasets" if name == "dataset" else "--" + name.replace("_", "-")
        if name in ("set", "plugin", "dataset_config"):
            words += [word for entry in value for word in (option, entry)]
        elif value is True:
            words.append(option)
        elif name != "repetitions":
            words += [option, ",".join(value) if isinstance(value, list) else str(value)]
    return f"{program()} {shlex.join(['run', *words])}"


HEADINGS = ["settings", "seeds", "S", "U", "HM", "ZSL"]
MEANING = (
    "Mean per-class accuracy in % on the test splits, mean over seeds. ±: half of its 95 % interval, from "
    f"{FEWEST_SEEDS} seeds on; in parentheses: lowest and highest."
)


def _rows(means: Mapping[tuple[int, str], Means], index: int) -> list[list[str]]:
    mine = [(variant, m) for (i, variant), m in means.items() if i == index]
    return [
        [variant, str(m.seeds), *(m.text(Metric.TEST + n) for n in ("seen", "unseen", "hm", "zsl"))]
        for variant, m in mine
    ]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _repeat(command: str, how: str = "") -> str:
    return f"To repeat it, {how}run\n\n```\n{command}\n```"


def _short(parts: Sequence[str]) -> str:
    """The parts as paragraphs; what comes before the last one is cut at a line where it is too long."""
    *body, last = parts
    text, room = "\n\n".join(body), max(0, LONGEST - len(last))
    if len(text) > room:
        text = text[:room].rsplit("\n", 1)[0] + "\n\n(shortened; the report among the artifacts has all)"
    return f"{text}\n\n{last}"[: LONGEST + 100]
