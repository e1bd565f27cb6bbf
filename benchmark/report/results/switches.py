"""Reads the logged settings of runs: which protocol switches are set, and which settings differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

PREFIX = "protocol."
NO_SWITCHES = (f"{PREFIX}seen_test", f"{PREFIX}grid")
"""Protocol settings that are the same in all modes."""

Logged = Mapping[str, str]
"""Settings of a run."""


def switched(settings: Logged) -> list[str]:
    """Protocol switches that differ from the mode, as ``calibration = corrected``, except the text
    alignment."""
    return [
        f"{name.removeprefix(PREFIX)} = {value}"
        for name, value in settings.items()
        if name.startswith(PREFIX) and name not in (f"{PREFIX}mode", f"{PREFIX}text_alignment")
        if value in ("paper", "corrected") and value != settings.get(f"{PREFIX}mode")
    ]


def differing(runs: Iterable[Logged]) -> list[str]:
    """Names of the settings that differ between runs."""
    known = list(runs)
    return sorted(
        {name for one in known for name in one if any(other.get(name) != one[name] for other in known)}
    )


def told_apart(settings: Logged, names: Iterable[str]) -> list[str]:
    """A run's values of these settings, as ``train.epochs=2``."""
    return [f"{name}={settings.get(name, 'unset')}" for name in names]


def beyond_switches(method: str, runs: Sequence[Logged]) -> list[str]:
    """Settings that differ between runs of a method and that no protocol switch explains."""
    own = f"{PREFIX}{method}_"
    set_by_switch = {
        f"{method}.{name.removeprefix(own)}" for one in runs for name in one if name.startswith(own)
    }
    switches = {name for one in runs for name in one if name.startswith(PREFIX) and name not in NO_SWITCHES}
    return [name for name in differing(runs) if name not in switches | set_by_switch]
