"""The options of the commands. Those that several commands have stand here once; ``with_options`` gives them to a command."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from pydantic import ValidationError

from benchmark.errors import UsageError, near, validation_message
from benchmark.system.reading import NAME_RULE, is_name, read_fields

if TYPE_CHECKING:
    from benchmark.running.jobs import Call
    from benchmark.tracking.tracker import Tracker


def local(place: Any) -> Any:
    """Refuse an address such as ``s3://bucket`` where a path of this machine is expected."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)):
        raise typer.BadParameter(f"{place} is an address; name a folder or file of this machine")
    return place


def _report_name(name: str | None) -> str | None:
    if name is not None and not is_name(name):
        raise typer.BadParameter(f"{name!r} is not the name of a folder in --reports-dir: {NAME_RULE}")
    return name


DataRoot = Annotated[Path, typer.Option(envvar="GZSL_DATA_ROOT", callback=local, help="Folder of the feature stores.")]
RunsDir = Annotated[Path, typer.Option(envvar="GZSL_RUNS_DIR", callback=local, help="Folder of everything that runs write.")]
TrackingUri = Annotated[
    str | None,
    typer.Option(envvar="GZSL_TRACKING_URI", help="MLflow store; a SQLite file in the runs folder if not given."),
]
Storage = Annotated[
    str | None,
    typer.Option(envvar="GZSL_STORAGE", help="Optuna storage; a SQLite file in the runs folder if not given."),
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json", callback=local, help="Results as JSON, to FILE (a name with a suffix) or, without one, to the screen."
    ),
]
Plugin = Annotated[list[Path] | None, typer.Option(help="Python file with more methods; may be repeated.")]
Methods = Annotated[str | None, typer.Option(help="Names of methods separated by commas, or all.")]
Dataset = Annotated[str | None, typer.Option(help="Names of data sets separated by commas.")]
Features = Annotated[str | None, typer.Option(help="Feature set; the data set's default if not given.")]
Vectors = Annotated[
    Path | None,
    typer.Option(help="Word vectors: FILE.bin of fastText, FILE.vec or FILE.npy; those of the layout if not given."),
]
ModeOption = Annotated[str | None, typer.Option(help="paper (as published), corrected, or both.")]
Stages = Annotated[str | None, typer.Option(help="1, 2 or all.")]
Seeds = Annotated[int | None, typer.Option(help="Repetitions, each with a seed of its own.")]
BaseSeed = Annotated[int | None, typer.Option(help="Number from which the seeds are derived.")]
Trials = Annotated[int | None, typer.Option(help="Tuning trials per method in all; 0 uses published or default settings.")]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds of trials, in all, after which a study starts no more; alone or with --trials.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="SECTION.FIELD=VALUE; may be repeated.")]
Ablate = Annotated[
    str | None,
    typer.Option(
        "--ablate-protocol",
        metavar="[SWITCHES]",
        help="Mode paper, then the same with each protocol switch corrected alone, then mode corrected; "
        "names separated by commas choose switches.",
    ),
]
InMemory = Annotated[bool | None, typer.Option("--in-memory", help="Read features into memory instead of mapping the file.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try jobs again that failed in an earlier call.")]
Config = Annotated[Path | None, typer.Option(help="YAML file of these options, such as a run's config.yaml artifact.")]
Report = Annotated[str | None, typer.Option("--report", callback=_report_name, help="Name of the report's folder in reports/.")]
ReportsDir = Annotated[Path, typer.Option(envvar="GZSL_REPORTS_DIR", callback=local, help="Folder of the reports.")]
OnlyMethods = Annotated[str | None, typer.Option("--methods", help="Only these methods, separated by commas.")]
OnlyDatasets = Annotated[str | None, typer.Option("--dataset", help="Only these data sets, separated by commas.")]
OnlyFeatures = Annotated[str | None, typer.Option("--features", help="Only these feature sets, separated by commas.")]
OnlyMode = Annotated[str | None, typer.Option("--mode", help="Only paper or corrected.")]
MlflowUi = Annotated[
    str | None,
    typer.Option(
        "--mlflow-ui", metavar="URL", help="Where the page's links to runs lead; the tracking server, or http://127.0.0.1:5000."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print tables and errors only.")]


@dataclass(frozen=True)
class SearchOptions:
    """What decides which studies a call has."""

    methods: Methods = None
    dataset: Dataset = None
    features: Features = None
    mode: ModeOption = None
    base_seed: BaseSeed = None
    trials: Trials = None
    timeout: Timeout = None
    set_: Set = None
    plugin: Plugin = None
    in_memory: InMemory = None

    def call(self) -> Call:
        """The call of these options and, where there is one, of the configuration file, over which they win.

        Raises:
            UsageError: the file cannot be read, or a value does not fit; all are listed.
        """
        return _call({CALL_FIELDS.get(name, name): value for name, value in vars(self).items()})


@dataclass(frozen=True)
class CallOptions(SearchOptions):
    """What decides which jobs a call has."""

    stages: Stages = None
    seeds: Seeds = None
    ablate: Ablate = None
    config: Config = None


CALL_FIELDS = {"set_": "settings", "plugin": "plugins"}
"""Fields of a call that have another name than their option."""


@dataclass(frozen=True)
class Places:
    """Where data and records lie."""

    data_root: DataRoot = Path("data")
    runs_dir: RunsDir = Path("runs")
    tracking_uri: TrackingUri = None
    storage: Storage = None


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer reads it: in place of a parameter that is a dataclass, an option for each of its fields."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {name: p.annotation for name, p in signature.parameters.items() if is_dataclass(p.annotation)}

    @wraps(command)
    def called(**given: Any) -> None:
        made = {name: group(**{f.name: given.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        command(**made, **given)

    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            hints = get_type_hints(groups[name], include_extras=True)
            for f in fields(groups[name]):
                default = parameter.empty if f.default is MISSING else f.default
                parameters.append(parameter.replace(name=f.name, default=default, annotation=hints[f.name]))
        else:
            parameters.append(parameter)
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return called


def _call(options: dict[str, Any]) -> Call:
    from benchmark.running.jobs import Call

    config: Path | None = options.pop("config", None)
    if options.get("ablate") is not None:
        options["ablate"] = [name.strip() for name in options["ablate"].split(",")]
    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = read_fields(config)
        except UsageError as error:
            raise UsageError(f"--config {error}") from None
        unknown = [str(k) for k in values if k not in Call.model_fields]
        if unknown:
            raise UsageError("\n".join(f"--config {config}: no option {k!r}: {near(k, Call.model_fields)}" for k in unknown))
    given = {k: v for k, v in options.items() if v is not None and v != []}
    try:
        call = Call.model_validate({**values, **{k: v for k, v in given.items() if k != "settings"}})
    except ValidationError as error:
        raise UsageError(validation_message(error, "options")) from None
    settings: list[str] = given.get("settings", [])
    replaced = {text.partition("=")[0].strip() for text in settings}
    kept = [text for text in call.settings if text.partition("=")[0].strip() not in replaced]
    return call.model_copy(update={"settings": [*kept, *settings]})


def tracking_uri_of(runs_dir: Path, tracking_uri: str | None) -> str:
    from benchmark.system.addresses import tracking_address
    from benchmark.system.databases import sqlite_uri

    return tracking_address(tracking_uri) if tracking_uri else sqlite_uri(runs_dir / "mlflow.db")


def tracker_of(runs_dir: Path, tracking_uri: str | None) -> Tracker:
    from benchmark.tracking.tracker import Tracker

    return Tracker(tracking_uri_of(runs_dir, tracking_uri), runs_dir / "artifacts")


def existing_tracker_of(runs_dir: Path, tracking_uri: str | None) -> Tracker:
    """The store for reading.

    Raises:
        UsageError: there is none.
    """
    from benchmark.system.databases import sqlite_file, without_password
    from benchmark.system.shipped_files import program
    from benchmark.tracking.tracker import Tracker

    uri = tracking_uri_of(runs_dir, tracking_uri)
    tracker = Tracker.existing(uri, runs_dir / "artifacts")
    if tracker is None:
        raise UsageError(
            f"no tracking store at {sqlite_file(uri) or f'--tracking-uri {without_password(uri)}'} yet; a call makes one: "
            f"{program()} --dataset demo (or name another place with --runs-dir or --tracking-uri)"
        )
    return tracker


def storage_of(runs_dir: Path, storage: str | None) -> str:
    from benchmark.system.addresses import storage_address
    from benchmark.system.databases import sqlite_uri

    return storage_address(storage) if storage else sqlite_uri(runs_dir / "optuna.db")
