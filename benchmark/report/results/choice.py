"""Selects the methods, datasets, feature sets and modes of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.errors import UsageError, near

EVERYTHING = {"methods": "all", "mode": "both"}
"""Values of options that select everything, as for ``run``."""
OPTIONS = {"methods": "method", "datasets": "dataset", "features": "features", "mode": "mode"}
"""Options of the command line, with the field of a job that each selects by."""


@dataclass(frozen=True)
class Choice:
    """Names to report; an empty field selects everything."""

    methods: Sequence[str] = ()
    datasets: Sequence[str] = ()
    """Names of datasets, or presets such as ``demo``."""
    features: Sequence[str] = ()
    mode: Sequence[str] = ()

    @classmethod
    def of(cls, **options: str | None) -> Choice:
        """The choice from options of the command line: comma-separated names, or None for all.

        Raises:
            UsageError: an option contains no name.
        """
        names = {}
        for option, text in options.items():
            if text is None or text.strip() == EVERYTHING.get(option):
                continue
            names[option] = tuple(name for part in text.split(",") if (name := part.strip()))
            if not names[option]:
                raise UsageError(
                    f"--{option} {text!r}: contains no name; write for example --{option} A,B or omit it"
                )
        return cls(**names)

    def __bool__(self) -> bool:
        return any(getattr(self, option) for option in OPTIONS)

    def __str__(self) -> str:
        """The options of the command line."""
        return " ".join(f"--{o} {','.join(getattr(self, o))}" for o in OPTIONS if getattr(self, o))

    def resolved(self, jobs: Iterable[Mapping[str, str]]) -> Choice:
        """The same choice with the names of datasets for presets.

        Args:
            jobs: ``method``, ``dataset``, ``features``, ``mode`` and, if any, ``preset`` of each job.

        Raises:
            UsageError: a name that no job has (similar names are listed), or a combination that no job has.
        """
        held, problems = list(jobs), []
        presets = {job["preset"]: job["dataset"] for job in held if job.get("preset")}
        chosen = {option: tuple(getattr(self, option)) for option in OPTIONS}
        chosen["datasets"] = tuple(presets.get(name, name) for name in chosen["datasets"])
        for option, names in chosen.items():
            known = {job[OPTIONS[option]] for job in held}
            shown = known | set(presets) if option == "datasets" else known
            problems += [
                f"--{option}: no {name!r} in these runs: {near(name, shown)}"
                for name in names
                if name not in known
            ]
        if problems:
            raise UsageError("\n".join(problems))
        found = Choice(**chosen)
        if not any(found.has(job) for job in held):
            raise UsageError(f"{found}: no job of these benchmark runs matches all of them; omit an option")
        return found

    def has(self, job: Mapping[str, str]) -> bool:
        """Whether a job is selected."""
        return all(
            not getattr(self, option) or job[name] in getattr(self, option)
            for option, name in OPTIONS.items()
        )
