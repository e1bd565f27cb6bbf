"""The options of the commands. Those of a benchmark run are made from its fields; ``with_options`` gives them
to a command."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from benchmark.errors import UsageError, near, validation_message
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.system.reading import NAME_RULE, is_name, read_fields

if TYPE_CHECKING:
    from benchmark.tracking.tracker import Tracker


SETTING = "SECTION.FIELD=VALUE"
SET_EXAMPLE = "--set train.epochs=2 (repeatable). See list --settings."


def local(place: Any) -> Any:
    """Refuse an address such as ``s3://bucket`` where a path of this machine is expected."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)):
        raise typer.BadParameter(f"{place} is an address; name a folder or file of this machine")
    return place


def _report_name(name: str | None) -> str | None:
    if name is not None and not is_name(name):
        raise typer.BadParameter(f"{name!r} is not the name of a folder in --reports-dir: {NAME_RULE}")
    return name


DataRoot = Annotated[
    Path,
    typer.Option(envvar="GZSL_DATA_ROOT", callback=local, metavar="DIR", help="Folder of the feature files."),
]
RunsDir = Annotated[
    Path,
    typer.Option(
        envvar="GZSL_RUNS_DIR",
        callback=local,
        metavar="DIR",
        help="Folder of checkpoints, weights, and the tracking and tuning databases.",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        envvar="GZSL_TRACKING_URI",
        metavar="URL",
        help="MLflow tracking URI. (default: SQLite in --runs-dir)",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="GZSL_STORAGE", metavar="URL", help="Optuna storage URL. (default: SQLite in --runs-dir)"
    ),
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        callback=local,
        metavar="[FILE]",
        help="Write machine-readable results to FILE; without FILE or with - to standard output.",
    ),
]
Plugin = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="Python file with more methods (repeatable).")
]
DatasetConfig = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="YAML file of a further dataset (repeatable).")
]
Features = Annotated[str | None, typer.Option(metavar="NAME", help="Feature set. (default: the dataset's)")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar=SETTING, help=f"Override a setting, e.g. {SET_EXAMPLE}")
]
Vectors = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Vectors of words for the class embeddings: FILE.bin of fastText, FILE.vec or FILE.npy. "
        "(default: those of the layout)",
    ),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Rerun jobs that failed in an earlier run.")
]
REPORT_HELP = "Name of the report's folder in --reports-dir."
Report = Annotated[
    str | None, typer.Option("--report", callback=_report_name, metavar="NAME", help=REPORT_HELP)
]
ReportOfRun = Annotated[
    str | None,
    typer.Option(
        "--report",
        callback=_report_name,
        metavar="NAME",
        help=f"{REPORT_HELP} (default: that of the datasets)",
    ),
]
ReportsDir = Annotated[
    Path,
    typer.Option(envvar="GZSL_REPORTS_DIR", callback=local, metavar="DIR", help="Folder of the reports."),
]
OnlyMethods = Annotated[
    str | None, typer.Option("--methods", metavar="NAMES", help="Only these methods. (default: all)")
]
OnlyDatasets = Annotated[
    str | None,
    typer.Option("--datasets", "--dataset", metavar="NAMES", help="Only these datasets. (default: all)"),
]
OnlyFeatures = Annotated[
    str | None, typer.Option("--features", metavar="NAMES", help="Only these feature sets. (default: all)")
]
OnlyMode = Annotated[
    str | None, typer.Option("--mode", metavar="paper|corrected", help="Only this mode. (default: both)")
]
MlflowUi = Annotated[
    str | None,
    typer.Option(
        "--mlflow-ui",
        metavar="URL",
        help="Base URL of the page's links to runs. (default: the tracking server, or http://127.0.0.1:5000)",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print tables and errors only.")]

LISTS = {"ablate", "ablate_parts"}
"""Options with a list of names, separated by commas."""


class RunOptions:
    """The options of a benchmark run: its fields, and ``--config`` for a file of them."""

    omitted: ClassVar[tuple[str, ...]] = ("repetitions",)
    """Fields without an option."""

    def __init__(self, **given: Any) -> None:
        self.given = given

    @classmethod
    def parameters(cls) -> dict[str, Any]:
        """Name -> annotation of each option.

        All default to None, so that only what is given wins over the file.
        """
        options = {name: _option(name, field) for name, field in BenchmarkRun.model_fields.items()}
        help_text = "YAML file of these options, such as a run's config.yaml artifact."
        options["config"] = Annotated[Path | None, typer.Option(metavar="FILE", help=help_text)]
        return {name: option for name, option in options.items() if name not in cls.omitted}

    def run(self) -> BenchmarkRun:
        """The benchmark run of these options and of the configuration file, if one is given; options win.

        Raises:
            UsageError: the file cannot be read, or a value does not fit; all are listed.
        """
        given = {name: value for name, value in self.given.items() if value is not None and value != []}
        for listed in LISTS & given.keys():
            given[listed] = [name.strip() for name in given[listed].split(",")]
        config: Path | None = given.pop("config", None)
        values = {} if config is None else _read_config(config)

        # Settings add up; of two for one field the option wins.
        settings: list[str] = given.pop("settings", [])
        try:
            run = BenchmarkRun.model_validate({**values, **given})
        except ValidationError as error:
            raise UsageError(validation_message(error, "", "--")) from None
        replaced = {text.partition("=")[0].strip() for text in settings}
        kept = [text for text in run.settings if text.partition("=")[0].strip() not in replaced]
        return run.model_copy(update={"settings": [*kept, *settings]})


class TuneOptions(RunOptions):
    """The options of a benchmark run that only searches hyperparameters."""

    omitted = (*RunOptions.omitted, "stages", *sorted(LISTS), "controls", "config")


NAMES = {"dataset": ("--datasets", "--dataset")}
"""Names of options that are not those of their fields; ``config.yaml`` has the field's."""
TYPES = {
    "methods": "NAMES",
    "dataset": "NAMES",
    "features": "NAME",
    "timeout": "SECONDS",
    "settings": SETTING,
    "ablate": "[FLAGS]",
    "ablate_parts": "[PARTS]",
    "plugins": "FILE",
    "dataset_configs": "FILE",
}


def _option(name: str, field: FieldInfo) -> Any:
    """The option of a field of ``BenchmarkRun``."""
    shown = "--" + (field.serialization_alias or name).replace("_", "-")
    kind: Any = field.annotation
    if NoneType in get_args(kind):
        kind = next(one for one in get_args(kind) if one is not NoneType)
    metavar = TYPES.get(name)
    if get_origin(kind) is Literal:
        metavar = "|".join(get_args(kind))
    if name in LISTS or get_origin(kind) is Literal:  # read as text; ``BenchmarkRun`` checks all values
        kind = str

    # All options are None if they are not given, so Typer cannot show the defaults.
    simple = field.default not in (None, [], False)
    help_text = f"{field.description} (default: {field.default})" if simple else field.description
    option = typer.Option(*NAMES.get(name, (shown,)), help=help_text, metavar=metavar)
    return Annotated[kind | None, option]


def _read_config(file: Path) -> dict[str, Any]:
    """The fields of a configuration file, by their own names; the names of earlier versions are read too."""
    try:
        values = read_fields(file)
    except UsageError as error:
        raise UsageError(f"--config {error}") from None
    shown = {f.serialization_alias or name: name for name, f in BenchmarkRun.model_fields.items()}
    options = {option.removeprefix("--"): name for name, (option, _) in NAMES.items()}
    names = {**{name: name for name in BenchmarkRun.model_fields}, **shown, **options}
    unknown = [str(key) for key in values if key not in names]
    if unknown:
        raise UsageError(
            "\n".join(f"--config {file}: no option {key!r}: {near(key, shown)}" for key in unknown)
        )
    if twice := [key for key in values if key != names[key] and names[key] in values]:
        raise UsageError(
            f"--config {file}: {twice[0]!r} and {names[twice[0]]!r} are one option; keep {twice[0]!r}"
        )
    return {names[key]: value for key, value in values.items()}


@dataclass(frozen=True)
class Folders:
    """Where data and results are."""

    data_root: DataRoot = Path("data")
    runs_dir: RunsDir = Path("runs")
    tracking_uri: TrackingUri = None
    storage: Storage = None


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer reads it: a parameter that is a group of options is replaced by these.

    A group is a dataclass, with an option for each field, or one of ``RunOptions``.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {name: p.annotation for name, p in signature.parameters.items() if _is_group(p.annotation)}
    members = {name: _members(group) for name, group in groups.items()}

    @wraps(command)
    def called(**given: Any) -> None:
        made = {
            name: group(**{n: given.pop(n) for n, _, _ in members[name]}) for name, group in groups.items()
        }
        command(**made, **given)

    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            parameters += [
                parameter.replace(name=member, annotation=annotation, default=default)
                for member, annotation, default in members[name]
            ]
        else:
            parameters.append(parameter)
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return called


def _is_group(annotation: Any) -> bool:
    return is_dataclass(annotation) or (isinstance(annotation, type) and issubclass(annotation, RunOptions))


def _members(group: Any) -> list[tuple[str, Any, Any]]:
    """Name, annotation and default of each option of a group."""
    if issubclass(group, RunOptions):
        return [(name, annotation, None) for name, annotation in group.parameters().items()]
    hints = get_type_hints(group, include_extras=True)
    defaults = {f.name: inspect.Parameter.empty if f.default is MISSING else f.default for f in fields(group)}
    return [(name, hints[name], default) for name, default in defaults.items()]


def tracking_uri_of(runs_dir: Path, tracking_uri: str | None) -> str:
    from benchmark.system.addresses import tracking_address
    from benchmark.system.databases import sqlite_uri

    return tracking_address(tracking_uri) if tracking_uri else sqlite_uri(runs_dir / "mlflow.db")


def tracker_of(runs_dir: Path, tracking_uri: str | None) -> Tracker:
    from benchmark.tracking.tracker import Tracker

    return Tracker(tracking_uri_of(runs_dir, tracking_uri), runs_dir / "artifacts")


def existing_tracker_of(runs_dir: Path, tracking_uri: str | None) -> Tracker:
    """The tracking store, for reading.

    Raises:
        UsageError: there is none.
    """
    from benchmark.system.databases import sqlite_file, without_password
    from benchmark.system.shipped_files import program
    from benchmark.tracking.tracker import Tracker

    uri = tracking_uri_of(runs_dir, tracking_uri)
    tracker = Tracker.existing(uri, runs_dir / "artifacts")
    if tracker is None:
        place = sqlite_file(uri) or f"--tracking-uri {without_password(uri)}"
        raise UsageError(
            f"no tracking store at {place} yet; run something first: "
            f"{program()} --datasets demo (or name another place with --runs-dir or --tracking-uri)"
        )
    return tracker


def storage_of(runs_dir: Path, storage: str | None) -> str:
    from benchmark.system.addresses import storage_address
    from benchmark.system.databases import sqlite_uri

    return storage_address(storage) if storage else sqlite_uri(runs_dir / "optuna.db")
