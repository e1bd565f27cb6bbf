"""Which part of some calls a report is to hold: methods, data sets, feature sets, modes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.errors import UsageError, near

EVERYTHING = {"methods": "all", "mode": "both"}
"""What an option takes for no choice, as ``run`` does."""
OPTIONS = {"methods": "method", "dataset": "dataset", "features": "features", "mode": "mode"}
"""Options of the command line, and what of a job each names."""


@dataclass(frozen=True)
class Choice:
    """Names that a report is to hold; of what is empty, all."""

    methods: Sequence[str] = ()
    dataset: Sequence[str] = ()
    """Names of datasets, or presets such as ``demo``."""
    features: Sequence[str] = ()
    mode: Sequence[str] = ()

    @classmethod
    def of(cls, **options: str | None) -> Choice:
        """The choice of options as they are written: names separated by commas; None for all.

        Raises:
            UsageError: an option without a name in it.
        """
        names = {}
        for option, text in options.items():
            if text is None or text.strip() == EVERYTHING.get(option):
                continue
            names[option] = tuple(name for part in text.split(",") if (name := part.strip()))
            if not names[option]:
                raise UsageError(f"--{option} {text!r}: no name in it; write for example --{option} A,B or leave it away")
        return cls(**names)

    def __bool__(self) -> bool:
        return any(getattr(self, option) for option in OPTIONS)

    def __str__(self) -> str:
        """As options of the command line."""
        return " ".join(f"--{o} {','.join(getattr(self, o))}" for o in OPTIONS if getattr(self, o))

    def resolved(self, jobs: Iterable[Mapping[str, str]]) -> Choice:
        """The same choice with the names of datasets for presets.

        Args:
            jobs: what the calls hold: ``method``, ``dataset``, ``features``, ``mode`` and perhaps ``preset`` of each.

        Raises:
            UsageError: a name that no job has, near ones are named; or names that no job has together.
        """
        held, problems = list(jobs), []
        presets = {job["preset"]: job["dataset"] for job in held if job.get("preset")}
        chosen = {option: tuple(getattr(self, option)) for option in OPTIONS}
        chosen["dataset"] = tuple(presets.get(name, name) for name in chosen["dataset"])
        for option, names in chosen.items():
            known = {job[OPTIONS[option]] for job in held}
            shown = known | set(presets) if option == "dataset" else known
            problems += [f"--{option}: no {name!r} in these calls: {near(name, shown)}" for name in names if name not in known]
        if problems:
            raise UsageError("\n".join(problems))
        found = Choice(**chosen)
        if not any(found.has(job) for job in held):
            raise UsageError(f"{found}: these calls have no job of all of this; leave one of the options away")
        return found

    def has(self, job: Mapping[str, str]) -> bool:
        """Whether a job is chosen."""
        return all(not getattr(self, option) or job[name] in getattr(self, option) for option, name in OPTIONS.items())
