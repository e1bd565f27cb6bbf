"""The settings of a benchmark run and their defaults, typed and validated.

Later sources win: the default here, the published value for the dataset (``search_spaces/``), ``sizes`` and
``train`` of the dataset config, the preset, mode ``corrected``, tuned values, ``--set``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from benchmark.system.reading import Fields
from benchmark.tracking.schema import Budget, current_alignment

MOST_SEEDS = 1000
"""Most trainings of a trial."""
Mode = Literal["paper", "corrected"]
Switch = Literal["paper", "corrected"]
Length = Literal["max"] | Annotated[int, Field(ge=1, le=100_000)]


def _switch(description: str) -> Any:
    """A switch of the protocol, which follows published code by default."""
    return Field("paper", description=description)


def _two_values(grid: Any) -> Any:
    if not isinstance(grid, (list, tuple)) or len(grid) != 2:
        raise ValueError("must be the largest beta and the number of betas, such as [5, 76]")
    return grid


class TrainConfig(Fields):
    """How long and on which device a method trains."""

    epochs: int = Field(50, ge=1, le=10_000, description="epochs of stage 1; stage 2 may be shorter")
    batches_per_epoch: int = Field(300, ge=1, le=1_000_000, description="batches of an epoch")
    selection: Literal["best", "last"] = Field(
        "best",
        description="epoch that a training keeps: best has the highest validation HM, as published; last is "
        "the last one",
    )
    schedule: Literal["published", "cosine"] = Field(
        "published",
        description="learning rate: published follows the method's `plateau`; cosine falls to zero along "
        "half a cosine",
    )
    batch_size: int = Field(
        64, ge=2, le=65_536, description="samples of a training step; BatchNorm needs at least two"
    )
    eval_batch_size: int = Field(
        256, ge=1, le=65_536, description="samples embedded together; changes no result beyond rounding"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="device of the training; auto: CUDA if available, otherwise the CPU"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="precision of the networks; bfloat16 and float16 use autocast"
    )
    deterministic: bool = Field(
        False,
        description="whether CUDA uses only algorithms that give the same bits each time, which are slower; "
        "the CPU always does",
    )
    resident_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="features are kept on the CUDA device if they fit into this fraction of its free memory; "
        "otherwise batches are copied while the step before runs. It changes no number",
    )
    threads: int = Field(
        1,
        ge=1,
        le=1024,
        description="CPU threads of torch; they change rounding, so they are part of the job",
    )


class LengthConfig(Fields):
    """How sequences get one length: padded to the batch's longest, or cut and padded to n video steps."""

    train: Length = Field(
        "max",
        description="video time steps in training; max: pad to the longest of the batch and cut nothing",
    )
    test: Length = Field("max", description="the same for validation and test")
    train_cut: Literal["random", "centre"] = Field(
        "random", description="where cuts start in training; evaluation always cuts in the centre"
    )


class ProtocolConfig(Fields):
    """The published protocol, with a flag for each known deviation (``docs/reference/protocol.md``)."""

    mode: Mode = Field("paper", description="sets all flags below; a flag that is set by name wins")
    text_alignment: Annotated[
        Literal["official", "by_name", "shuffled"], BeforeValidator(current_alignment)
    ] = Field(
        "official",
        description="official: class embeddings by row, as in published code; by_name: each class has its "
        "own; shuffled: a control, classes have embeddings of others",
    )
    evaluation_times: Switch = _switch(
        "paper: positions 0, 1, 2, ... at evaluation; times restart after cuts"
    )
    extra_bn_pass: Switch = _switch("paper: a second forward pass moves BatchNorm statistics after each step")
    padding_in_bn: Switch = _switch("paper: padded time steps enter the encoders' BatchNorm statistics")
    video_norm: Switch = _switch(
        "paper: video sequences are L2-normalised over time; corrected: over channels"
    )
    audio_scale: Switch = _switch("paper: audio sequences are divided by 255 in every feature set")
    length_rule: Switch = _switch(
        "paper: audio length n*s_v*s_a, cuts as published; corrected: n*s_v/s_a, audio and video "
        "cut at the same time (s: seconds per time step)"
    )
    beta_output: Switch = Field(
        "paper",
        validation_alias=AliasChoices("beta_output", "beta_view"),
        description="paper: mean of the outputs' betas; corrected: beta of the reported output",
    )
    calibration: Switch = _switch("paper: beta from a grid of values; corrected: exact optimum")
    grid: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1000)], Annotated[int, Field(ge=2, le=10_000)]],
        BeforeValidator(_two_values),
    ] = Field(
        (3.0, 16),
        description="grid of calibration=paper: the largest beta, and how many betas from 0 on; each method "
        "has that of its published code",
    )
    stage2_schedule: Switch = _switch(
        "paper: plateau on the training data; corrected: the learning rates of stage 1 again"
    )
    dead_biases: Switch = _switch(
        "paper: biases in front of a BatchNorm are trained, though rounding alone moves them; "
        "corrected: they keep their start"
    )
    seen_test: Literal["published", "group_disjoint"] = Field(
        "published",
        description="group_disjoint: also reports S and HM without test-seen samples of groups in training",
    )


class TuningConfig(Fields):
    """Hyperparameter search on the validation splits."""

    trials: int | None = Field(
        0,
        ge=0,
        le=100_000,
        description="finished trials in total, including trial 0; 0: no tuning; null: only the timeout",
    )
    timeout: float | None = Field(
        None, gt=0, description="total seconds of trials after which no further trial starts"
    )
    pruner: Literal["median", "hyperband", "none"] = Field(
        "median", description="how hopeless trials are stopped early"
    )
    startup_trials: int = Field(
        5, ge=1, description="random trials before the sampler learns, and before anything is pruned"
    )
    warmup_epochs: int = Field(3, ge=0, description="epochs before a trial may be pruned")
    parallel: int = Field(
        1,
        ge=1,
        le=1000,
        description="trials that may run in parallel, each drawn without the results of the others",
    )
    seed: int = Field(0, ge=0, description="seed of the search: of its sampler and its trainings")
    seeds: int = Field(
        1,
        ge=1,
        le=MOST_SEEDS,
        description="trainings of a trial, each with its own seed; their mean is its result",
    )
    confirm: int = Field(
        3,
        ge=0,
        le=1000,
        description="best trials that are trained again, like trial 0, with seeds that took no part in the "
        "search; their mean decides. 0: the best trial wins",
    )

    @property
    def searches(self) -> bool:
        """Whether there is a study."""
        return self.trials != 0

    @property
    def budget(self) -> Budget:
        """The budget of a study."""
        return Budget(self.trials, self.timeout)
