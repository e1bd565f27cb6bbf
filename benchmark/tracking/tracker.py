"""MLflow, and the only place that imports it: the one record of results.

Runs of a benchmark call are nested: the call, below it a run per method, below that a run per job (a trial, or one stage of
one seed). What a run means is in its tags; the reporter reads nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlparse
from uuid import uuid4

from benchmark.errors import Unavailable, UsageError
from benchmark.system.beside import NOT_WRITTEN
from benchmark.system.databases import (
    expect,
    has_rows,
    has_table,
    is_unavailable,
    opening,
    readable,
    sqlite_file,
    without_password,
)
from benchmark.system.files import OutsideError, raise_outside
from benchmark.system.patience import disk_is_full, first_line, patiently, why_closed
from benchmark.system.redaction import hide, hide_values
from benchmark.system.surroundings import keep_mlflow_settings, refuse_unreadable_mlflow_settings
from benchmark.tracking.artifacts import PLACE, folder_of, local_folder, place_beside, put, run_folder
from benchmark.tracking.schema import Kind, Tag, current_params, current_tags
from benchmark.tracking.sql import Row, RunTables

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

AS_TRAINING = {"workflowType": "machine_learning"}
"""In the addresses of MLflow's pages: else they show what is of use for chat models."""
EXPERIMENT = "gzsl-bench"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    Tag.DESCRIPTION: "A run per benchmark call; below it ([+]) a run per method, below that a run per job: a stage of a "
    "seed, or a trial of a search. The means of a method over its seeds are the metrics `1 HM`, `2 ZSL`, `3 S` and `4 U` of "
    "its run, fractions; `tuned` stands behind those with the settings found. The description of a call leads to a comparison "
    "of its methods, and its report is among its artifacts.",
}
TEXT_TAGS = (Tag.COMMAND, Tag.ERROR, NOT_WRITTEN, Tag.DESCRIPTION)
"""Tags with text for people; all others name things, and are compared."""
LAST_TABLE = "experiments"
"""Gets its first row when MLflow has made all tables of a database."""
T = TypeVar("T")
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
HTTP_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""What MLflow's client waits for by itself; ``system/patience.py`` does the rest, so that training need not stand still."""
PAGE = 1000
BATCH = 900


@dataclass(frozen=True)
class RunRecord:
    """A run as it stands in the store."""

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """Latest value of each metric, fractions."""
    start: float
    """Seconds since the epoch."""
    end: float | None
    parent: str | None


class Tracker:
    """A connection to a tracking store.

    Args:
        uri: any MLflow tracking address; a SQLite file and tables of a database are created, safely also by several processes
            at once.
        artifacts: folder for artifacts of a database (a server has its own place). Those of a SQLite file move with it.
        address: what to open in place of ``uri``: a copy of it.

    Raises:
        UsageError: the store cannot be opened, or its experiment was deleted.
        Unavailable: the disk is full, and was so for ``patience()`` seconds.
    """

    def __init__(self, uri: str, artifacts: Path, experiment: str = EXPERIMENT, *, address: str | None = None) -> None:
        self.uri, self.artifacts, self.experiment = uri, artifacts, experiment
        self.address = address or uri
        """Of what is open: the store, or its copy."""
        _load_mlflow(server=_is_server(uri))
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            patiently(self._open, disk_is_full, f"tracking store {without_password(uri)} cannot be written")
        except (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
            reason = why_closed(error)
            if _is_half_made(uri):
                reason += "; its tables were left half made and hold no run: drop the database and create it again"
            raise UsageError(f"--tracking-uri {without_password(uri)}: cannot be opened ({reason})") from error
        self._tables = _tables(self.client, self.experiment_id)

    @classmethod
    def existing(cls, uri: str, artifacts: Path) -> Tracker | None:
        """A connection for reading, None where there is no store: none is made. One that may only be read is read from a copy.

        Raises:
            UsageError: the store cannot be opened.
        """
        address = readable(uri)
        if not _is_server(uri) and not has_rows(address, LAST_TABLE):
            return None
        return cls(uri, artifacts, address=address)

    @classmethod
    def waiting(cls, uri: str, artifacts: Path) -> Tracker:
        """A connection to a store that another process has open: it is waited for, and no new one is made in its place.

        Raises:
            UsageError: the store cannot be opened although it answers.
            Unavailable: it did not answer within ``patience()`` seconds.
        """
        expect(uri)
        return patiently(lambda: cls(uri, artifacts), is_unavailable, _no_answer(uri))

    def _open(self) -> None:
        from mlflow import MlflowClient, MlflowException

        file = sqlite_file(self.uri)
        location = None if _is_server(self.uri) else self.artifacts.resolve().as_uri()
        tags = EXPERIMENT_TAGS if file is None else {**EXPERIMENT_TAGS, PLACE: place_beside(file, self.artifacts)}
        if file is not None:
            location = (Path(os.path.realpath(file)).parent / tags[PLACE]).as_uri()
        with opening(self.address, LAST_TABLE, lambda address: _make(address, self.experiment, str(location), tags)):
            client = MlflowClient(self.address)
            found: Any = client.get_experiment_by_name(self.experiment)
            if found is None:
                try:
                    client.create_experiment(self.experiment, artifact_location=location, tags=tags)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by another process of a server, at the same moment
                        raise
                found = client.get_experiment_by_name(self.experiment)
            if found.lifecycle_stage == "deleted":
                raise UsageError(self._deleted(found.experiment_id))
            for key in EXPERIMENT_TAGS.keys() - found.tags.keys():  # made by an older version
                client.set_experiment_tag(found.experiment_id, key, EXPERIMENT_TAGS[key])
            self._folder = local_folder(str(found.artifact_location))
            self._moves = False
            if file is not None and self._folder is not None:
                self._find_artifacts(client, found, file)
        self.client, self.experiment_id = client, str(found.experiment_id)

    def _find_artifacts(self, client: MlflowClient, found: Any, file: Path) -> None:
        """Take the artifacts from where the SQLite file is now, and correct what MLflow has, for its own pages."""
        tables = _tables(client, str(found.experiment_id))

        def runs() -> list[str]:
            return [] if tables is None else [row.run_id for row in tables.find({})]

        folder = folder_of(file, found.artifact_location, found.tags, self.artifacts.name, runs)
        assert folder is not None
        if PLACE not in found.tags:
            client.set_experiment_tag(found.experiment_id, PLACE, place_beside(file, folder))
        if folder != self._folder and tables is not None:
            tables.move_artifacts(found.artifact_location, folder.as_uri())
        self._folder, self._moves = folder, True

    def _deleted(self, experiment_id: str) -> str:
        uri = without_password(self.uri)
        return (
            f"experiment {self.experiment!r} of {uri} was deleted; restore it, or give another store (--tracking-uri): "
            f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore -x {experiment_id}"
        )

    def _do(self, action: Callable[[], T], *, wait: bool = True) -> T:
        """Ask the store for something; wait for a store that does not answer.

        Raises:
            Unavailable: it does not answer, or did not within ``patience()`` seconds.
            UsageError: a run or the experiment was deleted meanwhile.
        """
        what = _no_answer(self.uri)
        try:
            return patiently(action, is_unavailable, what) if wait else action()
        except Unavailable:
            raise
        except Exception as error:
            if is_unavailable(error):
                raise Unavailable(f"{what} ({first_line(error)})") from error
            if _is_deleted(error):
                raise UsageError(
                    f"{without_password(self.uri)}: a run was deleted while this command worked on it ({first_line(error)}); "
                    "repeat the command, which does again what is missing, or restore the run in MLflow's page"
                ) from error
            raise

    def start(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        """Create a run and return its id; one run, also where the store created it and its answer was lost."""
        source = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "run_benchmark.py"}
        name, tags = hide(name), _hidden_tags(tags)
        all_tags = {"mlflow.runName": name, **source, "opening": uuid4().hex, **tags}
        if parent is not None:
            all_tags[Tag.PARENT] = parent
        tried = False

        def create() -> str:
            nonlocal tried
            if tried:
                for run in self.client.search_runs([self.experiment_id], f"tags.opening = '{all_tags['opening']}'"):
                    return str(run.info.run_id)
            tried = True
            return str(self.client.create_run(self.experiment_id, tags=all_tags, run_name=name).info.run_id)

        return self._do(create)

    def reopen(self, run_id: str) -> None:
        """Mark an existing run as running again."""
        self._do(lambda: self.client.update_run(run_id, status="RUNNING"))

    def finish(self, run_id: str, status: Status = "FINISHED") -> None:
        """Close a run."""
        self._do(lambda: self.client.set_terminated(run_id, status))

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, in one request."""
        from mlflow.entities import RunTag

        entries = [RunTag(key, value) for key, value in _hidden_tags(tags).items()]
        self._do(lambda: self.client.log_batch(run_id, tags=entries))

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log settings; logging the same values again changes nothing."""
        from mlflow.entities import Param

        entries = [Param(key, hide_values(str(value))[:5900]) for key, value in params.items()]
        for i in range(0, len(entries), 90):
            self._do(partial(self.client.log_batch, run_id, params=entries[i : i + 90]))

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0, *, wait: bool = True) -> None:
        """Log metrics at a step, in one call.

        Raises:
            Unavailable: the store does not answer; at once with ``wait=False``.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        for i in range(0, len(entries), BATCH):
            self._do(partial(self.client.log_batch, run_id, metrics=entries[i : i + BATCH]), wait=wait)

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        """Steps at which a metric was logged."""
        return {m.step for m in self._do(lambda: self.client.get_metric_history(run_id, metric))}

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """All values of a metric by step; of a step logged twice the later one."""
        return sorted({m.step: m.value for m in self._do(lambda: self.client.get_metric_history(run_id, metric))}.items())

    def histories(self, run_ids: Iterable[str], metrics: Sequence[str]) -> dict[tuple[str, str], dict[int, float]]:
        """All values of metrics of runs by run and metric, then by step; those that were never logged are missing."""
        ids = list(run_ids)
        if (tables := self._tables) is not None:
            return self._do(lambda: tables.histories(ids, metrics))
        found = {(run_id, metric): dict(self.history(run_id, metric)) for run_id in ids for metric in metrics}
        return {key: values for key, values in found.items() if values}

    def log_text(self, run_id: str, text: str, file: str) -> None:
        """Store a text as an artifact."""
        shown = hide(text) if file.endswith((".txt", ".md")) else hide_values(text)
        with self._new_artifact(run_id, file) as path:
            path.write_text(shown, encoding="utf-8")

    def log_json(self, run_id: str, content: Any, file: str) -> None:
        """Store plain data as a JSON artifact."""
        with self._new_artifact(run_id, file) as path:
            path.write_text(json.dumps(hide_values(content), indent=1), encoding="utf-8")

    def log_figure(self, run_id: str, figure: Figure, file: str) -> None:
        """Store a figure as an artifact."""
        with self._new_artifact(run_id, file) as path:
            figure.savefig(path)

    def log_files(self, run_id: str, files: Iterable[Path], folder: str) -> None:
        """Store files as artifacts in a folder of the run; files of the same names are replaced."""
        with tempfile.TemporaryDirectory() as copies:
            for file in files:
                shutil.copy(file, copies)
            self._put(run_id, Path(copies), folder)

    @contextmanager
    def _new_artifact(self, run_id: str, file: str) -> Iterator[Path]:
        """A file to write, which is stored as an artifact then."""
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / Path(file).name
            parent = Path(file).parent
            self._put(run_id, Path(folder), None if parent == Path(".") else parent.as_posix())

    def _put(self, run_id: str, source: Path, folder: str | None) -> None:
        """Store the files of a folder as artifacts in a folder of the run."""
        if self._moves and self._folder is not None:
            target = run_folder(self._folder, run_id) / (folder or "")
            self._do(lambda: put(source, target))
        else:
            self._do(lambda: self.client.log_artifacts(run_id, str(source), folder))

    def log_dataset(self, run_id: str, *, name: str, digest: str, source: str, context: str) -> None:
        """Register the data set that a run used."""
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        dataset: Any = MetaDataset(  # type: ignore[abstract]
            CodeDatasetSource({"mlflow.source.name": source}), name=name, digest=digest[:36]
        )
        entity = dataset._to_mlflow_entity()
        inputs = [DatasetInput(entity, [InputTag("mlflow.data.context", context)])]
        log = partial(self.client.log_inputs, run_id, inputs)
        try:
            self._do(log)
        except MlflowException:  # another process registered the same data set at the same moment: now it is there
            time.sleep(0.2)
            self._do(log)

    def read_text(self, run_id: str, file: str) -> str:
        """A text artifact of a run.

        Raises:
            UsageError: the run has no such artifact.
            Unavailable: it cannot be read for a reason that may pass.
        """
        lost = f"run {run_id} of {without_password(self.uri)}: artifact {file} cannot be read"
        own = None if self._folder is None else run_folder(self._folder, run_id)
        if own is not None and (self._moves or own.is_dir()):  # 500 times as fast
            try:
                return (own / file).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                with suppress(OutsideError):  # it is not there
                    raise_outside(error, own / file)
                raise UsageError(f"{lost} ({error})") from error
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = self._do(lambda: self.client.download_artifacts(run_id, file, folder))
                return Path(found).read_text(encoding="utf-8")
        except Unavailable:
            raise
        except Exception as error:
            raise UsageError(f"{lost} ({error})") from error

    def read_json(self, run_id: str, file: str) -> Any:
        """A JSON artifact of a run.

        Raises:
            UsageError: the run has no such artifact, or it is not JSON.
            Unavailable: it cannot be read for a reason that may pass.
        """
        text = self.read_text(run_id, file)
        try:
            return json.loads(text)
        except ValueError as error:
            raise UsageError(f"run {run_id} of {without_password(self.uri)}: artifact {file} is not JSON ({error})") from None

    def get(self, run_id: str) -> RunRecord:
        """One run."""
        return _record(self._do(lambda: self.client.get_run(run_id)))

    def find(self, *, status: str | None = None, parent: str | None = None, **tags: str) -> list[RunRecord]:
        """Runs with these tags, newest first."""
        if (tables := self._tables) is not None:
            wanted = tags if parent is None else {**tags, Tag.PARENT: parent}
            return [_record_of(row) for row in self._do(lambda: tables.find(wanted, status))]
        conditions = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        if status is not None:
            conditions.append(f"attributes.status = '{status}'")
        if parent is not None:
            conditions.append(f"tags.`{Tag.PARENT}` = '{parent}'")
        return list(self._search(" and ".join(conditions)))

    def _search(self, condition: str) -> Iterator[RunRecord]:
        token: str | None = None
        while True:
            search = partial(self.client.search_runs, [self.experiment_id], condition, max_results=PAGE)
            page = self._do(partial(search, order_by=["attributes.start_time DESC"], page_token=token))
            yield from map(_record, page)
            token = page.token
            if not token:
                return

    def by_job_key(self, keys: Iterable[str]) -> dict[str, RunRecord]:
        """The newest finished run of each job key that has one."""
        wanted = set(keys)
        if (tables := self._tables) is not None:
            return {key: _record_of(row) for key, row in self._do(lambda: tables.by_job_key(wanted)).items()}
        found: dict[str, RunRecord] = {}
        for run in self.find(status="FINISHED", kind=Kind.JOB):
            key = run.tags.get(Tag.JOB_KEY, "")
            if key in wanted:
                found.setdefault(key, run)
        return found


def _hidden_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags without secrets, as they are written."""
    return {key: hide(value) if key in TEXT_TAGS else hide_values(value) for key, value in tags.items()}


def _shown_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as they are read: older versions wrote commands and errors with their secrets."""
    return current_tags({**tags, **{key: hide(tags[key]) for key in TEXT_TAGS if key in tags}})


def _no_answer(uri: str) -> str:
    return f"tracking store {without_password(uri)} does not answer"


def _is_deleted(error: Exception) -> bool:
    """Whether an error says that what was asked for was deleted, or deleted for good."""
    code = getattr(error, "error_code", None)
    return code == "RESOURCE_DOES_NOT_EXIST" or (code is not None and "Current state is deleted" in str(error))


def _is_half_made(uri: str) -> bool:
    """Whether the tables of a database are there without what makes them a store; a SQLite file is never left so."""
    known = not _is_server(uri) and sqlite_file(uri) is None
    return known and has_table(uri, LAST_TABLE) and not has_rows(uri, LAST_TABLE)


def _is_server(uri: str) -> bool:
    return urlparse(uri).scheme in ("http", "https", "databricks") or uri == "databricks"


def _load_mlflow(*, server: bool) -> None:
    """Import MLflow, which takes a second, without settings of other programs; it prints nothing of its own."""
    keep_mlflow_settings(server=server)
    own = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the display shows what jobs do
        **HTTP_PATIENCE,
    }
    for variable, value in own.items():
        os.environ.setdefault(variable, value)
    from mlflow import environment_variables

    refuse_unreadable_mlflow_settings(vars(environment_variables))
    for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _make(address: str, experiment: str, artifacts: str, tags: Mapping[str, str]) -> None:
    """Make a store in a SQLite file, with the experiment."""
    from mlflow.entities import ExperimentTag
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    try:
        store: Any = SqlAlchemyStore(address, artifacts)  # type: ignore[no-untyped-call]
        store.create_experiment(experiment, artifacts, [ExperimentTag(key, value) for key, value in tags.items()])
    finally:
        if (engine := SqlAlchemyStore._engine_map.pop(address, None)) is not None:
            engine.dispose()


def _tables(client: MlflowClient, experiment_id: str) -> RunTables | None:
    """The tables of a database, None where the store is a server or its tables are not known."""
    engine = getattr(client._tracking_client.store, "engine", None)
    if engine is None or not experiment_id.isdecimal():
        return None
    tables = RunTables(engine, int(experiment_id))
    return tables if tables.fits() else None


def _record_of(row: Row) -> RunRecord:
    return RunRecord(
        run_id=row.run_id,
        name=row.name,
        status=row.status,
        tags=_shown_tags(row.tags),
        params=current_params(row.params),
        metrics=row.metrics,
        start=row.start / 1000,
        end=row.end / 1000 if row.end else None,
        parent=row.tags.get(Tag.PARENT),
    )


def _record(run: Any) -> RunRecord:
    tags = _shown_tags(run.data.tags)
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        tags=tags,
        params=current_params(run.data.params),
        metrics=dict(run.data.metrics),
        start=run.info.start_time / 1000,
        end=run.info.end_time / 1000 if run.info.end_time else None,
        parent=tags.get(Tag.PARENT),
    )
