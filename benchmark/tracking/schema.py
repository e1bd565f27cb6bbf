"""The names in the tracking store, which ``running/`` writes and ``report/`` reads.

Runs are nested: a benchmark run, below it a run per method, below that a run per job. Stores of earlier
versions have the same names: if one changes here, the old one must still be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Kind:
    """Values of the tag ``kind``: what a run is the record of."""

    BENCHMARK_RUN, EARLIER_BENCHMARK_RUN = "benchmark_run", "call"
    """What one command asks for; stores of version 0.1.0 have the second name."""
    METHOD = "method"
    """A method on a dataset in a mode, within a benchmark run."""
    JOB = "job"
    """One stage of one seed, or a trial."""
    EVALUATION = "published-checkpoint"
    """A test of weights from folders (``evaluate``), which belongs to no benchmark run."""


EVERYTHING = "all"
"""All flags or parts, in an ablation."""
WITHOUT = "without "
"""Before the name of a part that a row of an ablation leaves out."""


def ablation_words(ablation: str) -> str:
    """What a row of an ablation changes, in words; empty for the row that the others are compared with."""
    if ablation in ("", EVERYTHING):
        return f"{EVERYTHING} flags corrected" if ablation else ""
    return ablation if ablation.startswith(WITHOUT) else f"{ablation} corrected"


class Tag:
    """Names of tags; one more is ``system.beside.NOT_WRITTEN``, on every kind of run."""

    KIND = "kind"
    PARENT = "mlflow.parentRunId"
    DESCRIPTION = "mlflow.note.content"
    """Markdown, which MLflow shows as the description of the run."""

    # runs of methods, jobs, evaluations
    METHOD, METHOD_TITLE, METHOD_NOTE = "method", "method_title", "method_note"
    METHOD_INPUTS, METHOD_USES = "method_inputs", "method_uses"
    CONTROL = "control"
    """What a control checks; empty for a method."""
    DATASET, DATASET_TITLE = "dataset", "dataset_title"
    DATASET_KIND, DATASET_CAPTION = "dataset_kind", "dataset_caption"
    FEATURES, MODE, ALIGNMENT, ABLATION = "features", "mode", "alignment", "ablation"
    REDUCED_SIZES, EPOCHS, BATCHES, LENGTHS = "reduced_sizes", "epochs", "batches_per_epoch", "lengths"
    PRESET = "preset"

    # a benchmark run
    RUN_KEY, COMMAND = "benchmark_run_key", "command"

    # a method's run, when its search is over
    TUNING_TRIALS, TUNING_PRUNED = "tuning.trials", "tuning.pruned"
    """Finished trials, pruned ones included; pruned trials."""
    TUNING_CONFIRMED = "tuning.confirmed"
    """The trial that is kept after the best ones were trained again, out of which, and how often."""

    # a job
    JOB_KEY, STAGE, SEED, REPETITION, BASE_SEED = "job_key", "stage", "seed", "repetition", "base_seed"
    TUNED, VARIANT, TRIAL, STUDY = "tuned", "variant", "trial", "study"
    CONFIRMS = "confirms_trial"
    """The trial that a job trains again with another seed."""
    DESCRIBED, OUTCOME, ERROR, WEIGHTS = "described", "outcome", "error", "weights"
    """Whether settings and data are logged; done, pruned, failed or lost; the reason; the file."""

    # an evaluation
    ORIGIN, SOURCE, PUBLISHED_SETTINGS = "origin", "source", "published_settings"
    WEIGHTS_DIGEST, DATA_DIGEST = "weights_digest", "data_digest"

    # jobs and evaluations: the machine; a benchmark run has the revision alone
    REVISION, PYTHON, TORCH, NUMPY, PLATFORM = "git_revision", "python", "torch", "numpy", "platform"
    CPU_CAPABILITY, BLAS, CUDA_DEVICE = "cpu_capability", "blas", "cuda_device"


def of_study(name: str, number: int) -> str:
    """The name of a tag or artifact of one of several searches of a method; that of the first is the name
    itself."""
    return f"study-{number}-{name}" if number else name


METRIC_LABELS = {"seen": "S", "unseen": "U", "hm": "HM", "zsl": "ZSL", "ausuc": "AUSUC"}
"""The tables' names of what a test gives, by the names of the metrics."""


class Metric:
    """Names of metrics, accuracies as fractions; those that end in ``/`` or ``_`` are prefixes."""

    # by epoch
    TRAIN, TRAIN_LOSS = "train/", "train/total"
    VALIDATION, VALIDATION_HM = "val/", "val/hm"
    LEARNING_RATE, EPOCH_SECONDS = "lr", "epoch_seconds"

    # stage 1: the selected epoch
    BEST, BEST_EPOCH = "best/", "best/epoch"

    # stage 2 and evaluations
    TEST, DISJOINT, BOOTSTRAP = "test/", "disjoint_", "bootstrap/"
    """``DISJOINT`` follows ``TEST``: without test-seen samples that share a group with a training sample."""
    EPOCHS, PARAMETERS, FLOPS = "epochs", "parameters", "flops_per_sample"

    # both stages
    CALIBRATION, BETA = "calibration/", "calibration/beta"
    DURATION, PEAK_MEMORY = "duration_seconds", "peak_memory_mb"

    # a method's run: means over its seeds; those with tuned settings have this before the job's name
    TUNED = "tuned/"


class Artifact:
    """Names of artifacts."""

    # a benchmark run
    EARLIER_CONFIG, JOBS, REPORT = "call.yaml", "jobs.json", "report"
    """Its options in stores of version 0.1.0; the list of its jobs, from which reports are made; its report's
    folder."""

    # a method's run, when its search is over
    TUNING, TRIALS, IMPORTANCES = "tuning.json", "trials.csv", "importances.json"
    TUNING_FIGURE, IMPORTANCES_FIGURE = "tuning-history.png", "importances.png"

    # a benchmark run, a job, or an evaluation (without the options)
    CONFIG, IDENTITY, RESULT, TRACEBACK = "config.yaml", "identity.json", "result.json", "traceback.txt"
    """Options that repeat it; what its key is made of; its result; where it failed."""

    # stage 2 and evaluations
    CURVE, CURVE_FIGURE = "curve.csv", "curve.png"
    RECALL, CONFUSION, GROUPS = "recall.csv", "confusion.csv", "groups.json"
    EMBEDDING, EMBEDDING_MAP = "embedding.csv", "map-1.csv"
    """Embeddings of some samples; the same in two dimensions, with the number of the layout
    (``figures/embedding_layout.py``): after a change there reports compute the maps of earlier jobs again."""


PARAMETER = "param."
"""Prefix of the columns of ``Artifact.TRIALS`` that hold searched settings."""


@dataclass(frozen=True)
class Budget:
    """The budget of a search, over all benchmark runs that share it."""

    trials: int | None
    """Finished and pruned trials; None: only the time is limited. In reports at least those of the study."""
    seconds: float | None
    """Seconds of trials after which no further one starts; None: no such limit."""

    def __str__(self) -> str:
        """``30 trials``, ``600 s of trials`` or ``600 s of trials, at most 30 trials``."""
        trials = "" if self.trials is None else f"{self.trials} trial{'s' * (self.trials != 1)}"
        if self.seconds is None:
            return trials
        return f"{self.seconds:g} s of trials" + (f", at most {trials}" if trials else "")


RENAMED_SWITCHES = {"beta_view": "beta_output"}
"""Old name -> name of the protocol switches that earlier versions called otherwise."""


def current_params(params: Mapping[str, str]) -> dict[str, str]:
    """The logged settings of a run under the names of this version."""
    renamed = {f"protocol.{old}": f"protocol.{new}" for old, new in RENAMED_SWITCHES.items()}
    return _with_alignment(
        {renamed.get(name, name): value for name, value in params.items()}, "protocol.text_alignment"
    )


RENAMED_ALIGNMENTS = {"corrected": "by_name"}
"""Old value -> value of the text alignments that earlier versions called otherwise."""
RENAMED_TAGS = {"alias": "preset"}
"""Tags with another name in stores of version 0.1: that name -> ours."""


def current_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a run under the names of this version."""
    return _with_alignment({RENAMED_TAGS.get(name, name): value for name, value in tags.items()}, "alignment")


def current_alignment(value: Any) -> Any:
    """A text alignment under the name of this version; anything else as it is."""
    return RENAMED_ALIGNMENTS.get(value, value) if isinstance(value, str) else value


def _with_alignment(values: dict[str, str], name: str) -> dict[str, str]:
    return {**values, name: current_alignment(values[name])} if name in values else values
