"""Reads runs straight from a database of MLflow: milliseconds instead of the minutes that MLflow's client
takes.

It writes only what the client cannot: a new address of artifacts that were moved. Only ``tracker.py`` uses
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Engine, Select, TableClause, bindparam, column, func, literal, select, table, update

from benchmark.tracking.runs import RunRecord
from benchmark.tracking.schema import Tag

SHOWN = ("run_uuid", "name", "status", "start_time", "end_time")
RUNS = table("runs", *map(column, (*SHOWN, "experiment_id", "lifecycle_stage")))
TAGS, PARAMS = (table(name, *map(column, ("key", "value", "run_uuid"))) for name in ("tags", "params"))
METRICS = table("latest_metrics", *map(column, ("key", "value", "is_nan", "run_uuid")))
HISTORY = table("metrics", *map(column, ("key", "value", "timestamp", "step", "is_nan", "run_uuid")))
PLACES = table("runs", column("artifact_uri"), column("experiment_id"))
EXPERIMENTS = table("experiments", column("artifact_location"), column("experiment_id"))
FACTS = [RUNS.c[name] for name in SHOWN]
PORTION = 500
"""Values in one condition at most; databases have limits."""


@dataclass(frozen=True)
class RunTables:
    """The runs of an experiment in a database of MLflow."""

    engine: Engine
    experiment: int

    def fits(self) -> bool:
        """Whether the tables have the columns used here; those of another version of MLflow may not."""
        try:
            with self.engine.connect() as connection:
                for known in (RUNS, TAGS, PARAMS, METRICS, HISTORY):
                    connection.execute(select(known).limit(0))
        except Exception:  # in any case MLflow's client can do the same, slower
            return False
        return True

    def move_artifacts(self, before: str, now: str) -> None:
        """Record a new address of the folder of artifacts, in one transaction."""
        rest = func.substr(PLACES.c.artifact_uri, len(before) + 1)
        inside = func.substr(PLACES.c.artifact_uri, 1, len(before) + 1) == f"{before}/"
        with self.engine.begin() as connection:
            mine = EXPERIMENTS.c.experiment_id == self.experiment
            connection.execute(update(EXPERIMENTS).where(mine).values(artifact_location=now))
            runs = update(PLACES).where(PLACES.c.experiment_id == self.experiment, inside)
            connection.execute(runs.values(artifact_uri=literal(now).concat(rest)))

    def find(self, tags: Mapping[str, str], status: str | None = None) -> list[RunRecord]:
        """Active runs with these tags, newest first."""
        # The values of tags have no index. The tag with the most distinct values leaves the fewest runs to
        # search.
        names = sorted(tags, key=lambda name: (name != Tag.JOB_KEY, name != Tag.PARENT))
        query = self._active(status)
        for i, name in enumerate(names):
            tag = TAGS.alias(f"tag{i}")
            matching = (tag.c.key == name, tag.c.value == tags[name])
            if i == 0:
                query = query.where(RUNS.c.run_uuid.in_(select(tag.c.run_uuid).where(*matching)))
            else:
                of_run = select(tag.c.run_uuid).where(tag.c.run_uuid == RUNS.c.run_uuid, *matching)
                query = query.where(of_run.exists())
        with self.engine.connect() as connection:
            return self._complete(connection, connection.execute(query).all())

    def by_job_key(self, keys: Iterable[str]) -> dict[str, RunRecord]:
        """The newest finished run of each job key that has one."""
        found: dict[str, str] = {}
        with self.engine.connect() as connection:
            query = (
                self._active("FINISHED")
                .add_columns(TAGS.c.value)
                .join(TAGS, TAGS.c.run_uuid == RUNS.c.run_uuid)
                .where(TAGS.c.key == Tag.JOB_KEY, TAGS.c.value.in_(bindparam("keys", expanding=True)))
            )
            facts: dict[str, Any] = {}
            for some in _portions(keys):
                for row in connection.execute(query, {"keys": some}):
                    if found.setdefault(row.value, row.run_uuid) == row.run_uuid:
                        facts[row.run_uuid] = row[: len(FACTS)]
            rows = {row.run_id: row for row in self._complete(connection, list(facts.values()))}
        return {key: rows[run_id] for key, run_id in found.items()}

    def histories(
        self, run_ids: Iterable[str], metrics: Sequence[str]
    ) -> dict[tuple[str, str], dict[int, float]]:
        """Values by step of metrics of runs, by run and metric; the later one if a step was logged twice."""
        shown = [HISTORY.c[name] for name in ("run_uuid", "key", "step", "value", "is_nan")]
        query = (
            select(*shown)
            .where(HISTORY.c.run_uuid.in_(bindparam("runs", expanding=True)), HISTORY.c.key.in_(metrics))
            .order_by(HISTORY.c.timestamp)
        )
        found: dict[tuple[str, str], dict[int, float]] = {}
        with self.engine.connect() as connection:
            for some in _portions(run_ids):
                for run_id, key, step, value, is_nan in connection.execute(query, {"runs": some}):
                    found.setdefault((run_id, key), {})[step] = float("nan") if is_nan else value
        return found

    def _active(self, status: str | None) -> Select[Any]:
        query = select(*FACTS).where(
            RUNS.c.experiment_id == self.experiment, RUNS.c.lifecycle_stage == "active"
        )
        query = query if status is None else query.where(RUNS.c.status == status)
        return query.order_by(RUNS.c.start_time.desc(), RUNS.c.run_uuid)

    def _complete(self, connection: Any, facts: Sequence[Any]) -> list[RunRecord]:
        """Runs with their tags, settings and metrics."""
        tags, params, metrics = (
            self._values(connection, source, facts) for source in (TAGS, PARAMS, METRICS)
        )
        return [RunRecord.of(tuple(fact), tags[fact[0]], params[fact[0]], metrics[fact[0]]) for fact in facts]

    def _values(
        self, connection: Any, source: TableClause, facts: Sequence[Any]
    ) -> dict[str, dict[str, Any]]:
        """Values by key of a table, for each run."""
        found: dict[str, dict[str, Any]] = {run_id: {} for run_id, *_ in facts}
        chosen = [source.c[name] for name in ("run_uuid", "key", "value", "is_nan") if name in source.c]
        query = select(*chosen).where(source.c.run_uuid.in_(bindparam("runs", expanding=True)))
        for some in _portions(found):
            for run_id, key, value, *is_nan in connection.execute(query, {"runs": some}):
                found[run_id][key] = float("nan") if any(is_nan) else value
        return found


def _portions(values: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(dict.fromkeys(values))
    while some := list(islice(rest, PORTION)):
        yield some
