"""What the logged settings of a run say of the protocol's switches."""

from __future__ import annotations

from collections.abc import Mapping

PREFIX = "protocol."


def switched(settings: Mapping[str, str]) -> list[str]:
    """Switches that are set against the mode, as ``calibration = corrected``; text alignment is told by itself."""
    return [
        f"{name.removeprefix(PREFIX)} = {value}"
        for name, value in settings.items()
        if name.startswith(PREFIX) and name not in (f"{PREFIX}mode", f"{PREFIX}text_alignment")
        if value in ("paper", "corrected") and value != settings.get(f"{PREFIX}mode")
    ]


def beyond_switches(method: str, one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Settings that differ and are neither a switch nor what a switch of the method sets."""
    names, own = {**one, **other}, f"{PREFIX}{method}_"
    set_by_switch = {f"{method}.{name.removeprefix(own)}" for name in names if name.startswith(own)}
    return [n for n in names if not n.startswith(PREFIX) and n not in set_by_switch and one.get(n) != other.get(n)]
