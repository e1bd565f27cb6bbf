"""How ``--help`` shows commands: options in panels, short types, defaults, and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup

from benchmark.system.shipped_files import program

RUN_PANELS = {
    "What to run": (
        "methods", "dataset", "features", "stages", "seeds", "base_seed", "controls", "settings", "plugins",
        "dataset_configs", "config",
    ),
    "Protocol": ("mode", "ablate", "ablate_parts"),
    "Tuning": ("trials", "timeout", "studies"),
    "Execution": (
        "jobs", "executor", "ray_address", "gpus_per_job", "in_memory", "retry_failed", "dry_run",
        "data_root", "runs_dir", "tracking_uri", "storage",
    ),
}  # fmt: skip
"""Panels of the options of a benchmark run, by the name of the option's parameter; all others are in
``OUTPUT``, the last one."""
VIDEOS_PANELS = {
    "What to extract": (
        "folder", "lists", "features", "weights", "random_weights", "published_preprocessing", "no_audio",
        "segments", "vectors", "plugin", "dataset_config",
    ),
    "Execution": ("shard", "merge", "work", "device", "precision", "decoders"),
}  # fmt: skip
OUTPUT = "Output"
TYPES = {
    "str": "TEXT",
    "int": "N",
    "int range": "N",
    "float": "NUMBER",
    "float range": "NUMBER",
    "path": "PATH",
    "list[str]": "TEXT",
    "list[Path]": "PATH",
}
"""Typer's names of types, and ours; those of choices, such as ``local|ray``, are shown as they are."""


class _Readable:
    """What commands and groups have in common."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {}

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        of = {name: panel for panel, names in self.panels.items() for name in names}
        for param in params:
            if param.param_type_name == "option":
                _shorten(param, ctx)
                param.rich_help_panel = of.get(param.name, OUTPUT) if of else param.rich_help_panel
            else:
                param.display_type = lambda ctx: ""  # Typer shows the type of arguments beside any metavar
        order = [*of]
        return sorted(params, key=lambda p: order.index(p.name) if p.name in of else len(order))


def _shorten(option: Any, ctx: Any) -> None:
    """Show the type in a word, and the default as the help texts do."""
    if option.metavar is None:
        kind = option.display_type(ctx).strip("<>")
        option.metavar = "" if option.is_flag else TYPES.get(kind, kind)
    default = option.default
    if option.show_default and not option.is_flag and default is not None and not callable(default):
        option.show_default = False
        option.help = f"{option.help} (default: {default})"


class Command(_Readable, TyperCommand):
    """A command with a readable help."""


class RunCommand(Command):
    """A command with the options of a benchmark run."""

    panels = RUN_PANELS


class VideosCommand(Command):
    """The command that extracts features."""

    panels = VIDEOS_PANELS


class Group(_Readable, TyperGroup):
    """A group of commands with a readable help."""


def examples(*lines: tuple[str, str]) -> str:
    """The end of a command's help.

    Args:
        lines: a command without the program's name, and what it does.
    """
    shown = [f"  [dim]# {what}[/]\n  {program()} {command}" for command, what in lines]
    return "\n".join(["Examples:", *shown])


EXAMPLES = {
    "run": examples(
        ("run --datasets demo", "all methods on small real data, in minutes"),
        ("run --methods avca,tcaf --datasets ucf --seeds 5", "the published protocol, with intervals"),
        ("run --methods tcaf --datasets ucf --trials 30 --jobs 4", "tune, train and test in 4 processes"),
        ("run --datasets ucf --dry-run", "show the jobs and the expected time"),
    ),
    "tune": examples(
        ("tune --methods tcaf --datasets ucf --trials 30", "30 trials on the validation splits"),
        ("tune --methods tcaf,avca --datasets ucf --timeout 7200", "two hours of trials for each method"),
    ),
    "report": examples(
        ("report", "the newest benchmark run again"),
        ("report --run all --methods tcaf,avca --report both", "two methods of all runs, into reports/both"),
        ("report --leaderboard reports/a reports/b --out site", "a static site of two reports"),
    ),
    "status": examples(
        ("status --methods tcaf --datasets ucf --seeds 5", "the jobs of this run, with their state"),
        ("status --config config.yaml --json -", "the same of a configuration, as JSON"),
    ),
    "list": examples(
        ("list", "methods and datasets"),
        ("list --settings tcaf", "hyperparameters of a method, with their search ranges"),
        ("list --settings train", "settings of training; also protocol, lengths, tuning, data"),
        ("list --runs", "benchmark runs, for report --run"),
    ),
    "import": examples(
        ("data import ucf --from downloads/ucf", "the authors' features and lists"),
        ("data import ucf --from downloads/ucf --dtype float16", "half the size"),
    ),
    "videos": examples(
        ("extract videos ucf --videos UCF-101 --lists ucf --weights weights", "all listed videos"),
        ("extract videos ucf --videos UCF-101 --lists ucf --weights weights --shard 1/4", "a quarter"),
        ("extract videos ucf --videos UCF-101 --lists ucf --weights weights --merge", "collect the shards"),
    ),
}
"""The ends of the commands' help texts."""
