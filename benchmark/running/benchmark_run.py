"""What one command asks for. The options of ``run`` and ``config.yaml`` are made of these fields.

This module imports neither torch nor the data, so that ``--help`` is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AliasChoices, Field, field_validator

from benchmark.settings.schema import Mode
from benchmark.system.reading import Fields
from benchmark.tracking.schema import RENAMED_SWITCHES

Stages = Literal["1", "2", "all"]
BASE_SEED = 42


def _option(default: Any, name: str, earlier: str, description: str) -> Any:
    """A field whose option and key in ``config.yaml`` is ``name``.

    Files of earlier versions have ``earlier``.
    """
    choices = AliasChoices(name, earlier)
    return Field(default, validation_alias=choices, serialization_alias=name, description=description)


class BenchmarkRun(Fields):
    """What one command asks for: methods, datasets, modes, seeds and tuning.

    ``cli/options.py`` makes an option of each field; a field's description is the option's help. The option
    of ``dataset`` is ``--datasets``.
    """

    methods: str = Field("all", description="Comma-separated methods, or all.")
    dataset: str = Field("demo", description="Comma-separated datasets or presets.")
    features: str | None = Field(None, description="Feature set. (default: the dataset's)")
    mode: Literal["paper", "corrected", "both"] | None = Field(
        None,
        description=(
            "paper reproduces the published code, corrected fixes its known deviations. (default: the "
            "dataset's; paper for published datasets)"
        ),
    )
    stages: Stages = Field(
        "all", description="Training stages: 1 (model selection), 2 (final training and test) or all."
    )
    seeds: int | None = Field(
        None, ge=1, le=10_000, description="Number of seeds. (default: 1, or the preset's)"
    )
    repetitions: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="Numbers of single repetitions, instead of seeds."
    )
    base_seed: int = Field(BASE_SEED, ge=0, description="Base seed; each repetition derives its own.")
    trials: int | None = Field(
        None, ge=0, description="Total tuning trials per method; 0 = no tuning. (default: 0, or the preset's)"
    )
    timeout: float | None = Field(
        None, gt=0, description="Total tuning time per method; alone or with --trials. (default: no limit)"
    )
    studies: int = Field(
        1,
        ge=1,
        le=100,
        description="Independent searches per method, each with its own trainings. With several, the ± of "
        "tuned rows is over searches.",
    )
    settings: list[str] = _option(
        [],
        "set",
        "settings",
        "Override a setting, e.g. --set train.epochs=2 (repeatable). See list --settings.",
    )
    ablate: list[str] | None = _option(
        None, "ablate_protocol", "ablate",
        "Correct the protocol flags one at a time, starting from mode paper. (default of FLAGS: all)",
    )  # fmt: skip
    ablate_parts: list[str] | None = Field(
        None,
        description="Leave out the parts of the methods one at a time, starting from mode paper. "
        "(default of PARTS: all)",
    )
    controls: bool = Field(
        False, description="Add rows that should be at chance: no training, and shuffled class embeddings."
    )
    dataset_configs: list[Path] = _option(
        [], "dataset_config", "dataset_configs", "YAML file of a further dataset (repeatable)."
    )
    plugins: list[Path] = _option([], "plugin", "plugins", "Python file with more methods (repeatable).")
    in_memory: bool = Field(
        False, description="Load features into memory instead of memory-mapping the file."
    )

    @field_validator("ablate")
    @classmethod
    def _current(cls, flags: list[str] | None) -> list[str] | None:
        return flags and [RENAMED_SWITCHES.get(name, name) for name in flags]

    @field_validator("repetitions", "ablate", "ablate_parts")
    @classmethod
    def _each_once(cls, values: list[Any] | None) -> list[Any] | None:
        twice = [value for i, value in enumerate(values or []) if value in (values or [])[:i]]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice; give it once")
        return values

    @property
    def ablates(self) -> bool:
        """Whether protocol flags or parts of methods are compared."""
        return self.ablate is not None or self.ablate_parts is not None

    def modes(self, default: Mode) -> list[Mode]:
        """The modes to run on a dataset with this default mode."""
        return ["paper", "corrected"] if self.mode == "both" else [self.mode or default]

    def options(self) -> dict[str, Any]:
        """All that differs from the defaults, by the names of the options."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)

    def as_yaml(self) -> str:
        """The text that ``run --config`` reads."""
        return yaml.safe_dump(self.options(), sort_keys=False)
