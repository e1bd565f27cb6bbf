"""A connection to the tracking store. Only this module imports MLflow.

The names of tags, metrics and artifacts, and how runs are nested, are in ``schema.py``.
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlparse
from uuid import uuid4

from benchmark.errors import Unavailable, UsageError
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
from benchmark.tracking.runs import RunRecord, hidden_tags
from benchmark.tracking.schema import Kind, Tag
from benchmark.tracking.sql import RunTables

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

AS_TRAINING = {"workflowType": "machine_learning"}
"""Parameter of the addresses of MLflow's pages; without it they show what is of use for chat models."""
EXPERIMENT = "gzsl-bench"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    Tag.DESCRIPTION: "A run for each benchmark run; below it ([+]) one per method, and below that one per "
    "job: a stage of a seed, or a trial. The run of a method has its means over seeds as metrics, in "
    "fractions: `1 HM`, `2 ZSL`, `3 S` and `4 U`, with `tuned` added for the best hyperparameters. The "
    "description of a benchmark run links to a comparison of its methods, and its report is among its "
    "artifacts.",
}
LAST_TABLE = "experiments"
"""MLflow writes its first row when it has created all tables of a database."""
T = TypeVar("T")
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
HTTP_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""How long MLflow's client itself waits. The rest is up to ``system/patience.py``, so that training can
continue."""
PAGE = 1000
BATCH = 900


class Tracker:
    """A connection to a tracking store.

    Args:
        uri: any MLflow tracking address. A SQLite file and the tables of a database are created if needed;
            several processes can do so at the same time.
        artifacts: folder for the artifacts of a database; a server has its own. Those of a SQLite file move
            with it.
        address: what to open instead of ``uri``: a copy of it.

    Raises:
        UsageError: the store cannot be opened, or its experiment was deleted.
        Unavailable: the disk is full, and was so for ``patience()`` seconds.
    """

    def __init__(self, uri: str, artifacts: Path, *, address: str | None = None) -> None:
        self.uri, self.artifacts, self.experiment = uri, artifacts, EXPERIMENT
        self.address = address or uri
        """Address of what is open: the store or its copy."""
        _load_mlflow(server=_is_server(uri))
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        failures = (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
        try:
            patiently(self._open, disk_is_full, f"tracking store {without_password(uri)} cannot be written")
        except failures as error:
            reason = why_closed(error)
            if _is_half_made(uri):
                reason += "; its tables are incomplete and hold no run: drop the database and create it again"
            raise UsageError(
                f"--tracking-uri {without_password(uri)}: cannot be opened ({reason})"
            ) from error
        self._tables = _tables(self.client, self.experiment_id)

    @classmethod
    def existing(cls, uri: str, artifacts: Path) -> Tracker | None:
        """A connection for reading; None if there is no store. A read-only store is read from a copy.

        Raises:
            UsageError: the store cannot be opened.
        """
        address = readable(uri)
        if not _is_server(uri) and not has_rows(address, LAST_TABLE):
            return None
        return cls(uri, artifacts, address=address)

    @classmethod
    def waiting(cls, uri: str, artifacts: Path) -> Tracker:
        """A connection to a store that exists. If it does not answer, wait for it; never create a new one.

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
        tags = dict(EXPERIMENT_TAGS)
        if file is not None:
            tags[PLACE] = place_beside(file, self.artifacts)
            location = (Path(os.path.realpath(file)).parent / tags[PLACE]).as_uri()
        with opening(
            self.address, LAST_TABLE, lambda address: _make(address, self.experiment, str(location), tags)
        ):
            client = MlflowClient(self.address)
            found: Any = client.get_experiment_by_name(self.experiment)
            if found is None:
                try:
                    client.create_experiment(self.experiment, artifact_location=location, tags=tags)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process has just created it
                        raise
                found = client.get_experiment_by_name(self.experiment)
            if found.lifecycle_stage == "deleted":
                raise UsageError(self._deleted(found.experiment_id))
            for key in EXPERIMENT_TAGS.keys() - found.tags.keys():  # created by an earlier version
                client.set_experiment_tag(found.experiment_id, key, EXPERIMENT_TAGS[key])
            self._folder = local_folder(str(found.artifact_location))
            self._moves = False
            if file is not None and self._folder is not None:
                self._find_artifacts(client, found, file)
        self.client, self.experiment_id = client, str(found.experiment_id)

    def _find_artifacts(self, client: MlflowClient, found: Any, file: Path) -> None:
        """Find the artifacts beside the SQLite file, and correct the address that MLflow's pages use."""
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
            f"experiment {self.experiment!r} of {uri} was deleted; restore it, or choose another store with "
            f"--tracking-uri: MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore -x "
            f"{experiment_id}"
        )

    def _do(self, action: Callable[[], T], *, wait: bool = True) -> T:
        """Send a request to the store; wait if it does not answer.

        Raises:
            Unavailable: it does not answer, with ``wait`` within ``patience()`` seconds.
            UsageError: a run or the experiment was deleted in the meantime.
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
                    f"{without_password(self.uri)}: a run was deleted while this command used it "
                    f"({first_line(error)}); rerun the command, which repeats what is missing, or restore "
                    "the run in MLflow's page"
                ) from error
            raise

    def start(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        """Create a run and return its id. A repeated request does not create a second run."""
        source = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "run_benchmark.py"}
        name, tags = hide(name), hidden_tags(tags)
        all_tags = {"mlflow.runName": name, **source, "opening": uuid4().hex, **tags}
        if parent is not None:
            all_tags[Tag.PARENT] = parent
        tried = False

        def create() -> str:
            nonlocal tried
            if tried:
                for run in self.client.search_runs(
                    [self.experiment_id], f"tags.opening = '{all_tags['opening']}'"
                ):
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

        entries = [RunTag(key, value) for key, value in hidden_tags(tags).items()]
        self._do(lambda: self.client.log_batch(run_id, tags=entries))

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log settings; logging the same values again has no effect."""
        from mlflow.entities import Param

        entries = [Param(key, hide_values(str(value))[:5900]) for key, value in params.items()]
        for i in range(0, len(entries), 90):
            self._do(partial(self.client.log_batch, run_id, params=entries[i : i + 90]))

    def log_metrics(
        self, run_id: str, metrics: Mapping[str, float], step: int = 0, *, wait: bool = True
    ) -> None:
        """Log metrics at a step.

        Raises:
            Unavailable: the store does not answer; raised immediately with ``wait=False``.
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
        """All values of a metric by step; the later one if a step was logged twice."""
        values = self._do(lambda: self.client.get_metric_history(run_id, metric))
        return sorted({m.step: m.value for m in values}.items())

    def histories(
        self, run_ids: Iterable[str], metrics: Sequence[str]
    ) -> dict[tuple[str, str], dict[int, float]]:
        """Values by step of metrics of runs, by run and metric; without metrics that were never logged."""
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
        """Store files as artifacts in a folder of the run; replace files of the same name."""
        with tempfile.TemporaryDirectory() as copies:
            for file in files:
                shutil.copy(file, copies)
            self._put(run_id, Path(copies), folder)

    @contextmanager
    def _new_artifact(self, run_id: str, file: str) -> Iterator[Path]:
        """Give a file to write, then store it as an artifact."""
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
        """Register the dataset that a run used."""
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
        except MlflowException:  # another process has just registered the same dataset
            time.sleep(0.2)
            self._do(log)

    def read_text(self, run_id: str, file: str) -> str:
        """A text artifact of a run.

        Raises:
            UsageError: the run has no such artifact.
            Unavailable: it cannot be read at present.
        """
        lost = f"run {run_id} of {without_password(self.uri)}: artifact {file} cannot be read"
        own = None if self._folder is None else run_folder(self._folder, run_id)
        if own is not None and (self._moves or own.is_dir()):  # 500 times as fast as by the client
            try:
                return (own / file).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                with suppress(OutsideError):  # another error: the file is missing
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
            Unavailable: it cannot be read at present.
        """
        text = self.read_text(run_id, file)
        try:
            return json.loads(text)
        except ValueError as error:
            raise UsageError(
                f"run {run_id} of {without_password(self.uri)}: artifact {file} is not JSON ({error})"
            ) from None

    def get(self, run_id: str) -> RunRecord:
        """One run."""
        return RunRecord.of_client(self._do(lambda: self.client.get_run(run_id)))

    def find(self, *, status: str | None = None, parent: str | None = None, **tags: str) -> list[RunRecord]:
        """Runs with these tags, newest first."""
        if (tables := self._tables) is not None:
            wanted = tags if parent is None else {**tags, Tag.PARENT: parent}
            return self._do(lambda: tables.find(wanted, status))
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
            yield from map(RunRecord.of_client, page)
            token = page.token
            if not token:
                return

    def by_job_key(self, keys: Iterable[str]) -> dict[str, RunRecord]:
        """The newest finished run of each job key that has one."""
        wanted = set(keys)
        if (tables := self._tables) is not None:
            return self._do(lambda: tables.by_job_key(wanted))
        found: dict[str, RunRecord] = {}
        for run in self.find(status="FINISHED", kind=Kind.JOB):
            key = run.tags.get(Tag.JOB_KEY, "")
            if key in wanted:
                found.setdefault(key, run)
        return found


def _no_answer(uri: str) -> str:
    return f"tracking store {without_password(uri)} does not answer"


def _is_deleted(error: Exception) -> bool:
    """Whether an error means that a run or experiment was deleted."""
    code = getattr(error, "error_code", None)
    return code == "RESOURCE_DOES_NOT_EXIST" or (
        code is not None and "Current state is deleted" in str(error)
    )


def _is_half_made(uri: str) -> bool:
    """Whether a database has tables but is no store yet. A SQLite file is never left in this state."""
    known = not _is_server(uri) and sqlite_file(uri) is None
    return known and has_table(uri, LAST_TABLE) and not has_rows(uri, LAST_TABLE)


def _is_server(uri: str) -> bool:
    return urlparse(uri).scheme in ("http", "https", "databricks") or uri == "databricks"


def _load_mlflow(*, server: bool) -> None:
    """Import MLflow (which takes a second) without settings of other programs and without its messages."""
    keep_mlflow_settings(server=server)
    own = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # our display shows the progress of jobs
        **HTTP_PATIENCE,
    }
    for variable, value in own.items():
        os.environ.setdefault(variable, value)
    from mlflow import environment_variables

    refuse_unreadable_mlflow_settings(vars(environment_variables))
    for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _make(address: str, experiment: str, artifacts: str, tags: Mapping[str, str]) -> None:
    """Create a store with the experiment in a SQLite file."""
    from mlflow.entities import ExperimentTag
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    try:
        store: Any = SqlAlchemyStore(address, artifacts)  # type: ignore[no-untyped-call]
        store.create_experiment(
            experiment, artifacts, [ExperimentTag(key, value) for key, value in tags.items()]
        )
    finally:
        if (engine := SqlAlchemyStore._engine_map.pop(address, None)) is not None:
            engine.dispose()


def _tables(client: MlflowClient, experiment_id: str) -> RunTables | None:
    """The tables of the store; None for a server, or if the tables are those of another version of MLflow."""
    engine = getattr(client._tracking_client.store, "engine", None)
    if engine is None or not experiment_id.isdecimal():
        return None
    tables = RunTables(engine, int(experiment_id))
    return tables if tables.fits() else None
