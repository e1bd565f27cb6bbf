"""What both the writers and the readers of the tracking store name: the kind of a run, the budget of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """A total over all calls."""

    trials: int | None
    """Finished and pruned trials; in reports more than were asked for where the study had them from earlier calls. None: the
    seconds alone bound them."""
    seconds: float | None
    """Seconds of trials after which no further one starts; None without such a limit."""

    def __str__(self) -> str:
        """``30 trials``, ``600 s of trials`` or ``600 s of trials, at most 30 trials``."""
        trials = "" if self.trials is None else f"{self.trials} trial{'s' * (self.trials != 1)}"
        return trials if self.seconds is None else f"{self.seconds:g} s of trials" + (f", at most {trials}" if trials else "")


KIND = "published-checkpoint"

RENAMED_SWITCHES = {"beta_view": "beta_output"}
"""Old name -> name of the protocol switches that earlier versions called otherwise."""


def current_params(params: Mapping[str, str]) -> dict[str, str]:
    """The logged settings of a run under the names of this version."""
    renamed = {f"protocol.{old}": f"protocol.{new}" for old, new in RENAMED_SWITCHES.items()}
    return {renamed.get(name, name): value for name, value in params.items()}


RENAMED_TAGS = {"alias": "preset"}
"""Tags with another name in stores of version 0.1: that name -> ours."""


def current_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a run under the names of this version."""
    return {RENAMED_TAGS.get(name, name): value for name, value in tags.items()}
