"""The clips that a service was given, in a database: what is to be done, and what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    Float,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from reactometer.errors import ConfigError
from reactometer.inference.formats import dump_predictions, load_predictions
from reactometer.records import Prediction

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"

_JOBS = Table(
    "reactometer_jobs",
    MetaData(),
    Column("id", String(64), primary_key=True),
    Column("home", String(64), index=True, nullable=False),  # the service that scores it
    Column("owner", String(200), nullable=False),  # the client's name; empty where none have any
    Column("name", Text, nullable=False),  # the file's, as the client calls it
    Column("path", Text, nullable=False),
    Column("request", Text, nullable=False),  # JSON
    Column("status", String(16), index=True, nullable=False),
    Column("created_s", Float(53), nullable=False),  # seconds since 1970
    Column("finished_s", Float(53), index=True),
    Column("error", Text),
    Column("about", Text, nullable=False),  # JSON
    Column("predictions", LargeBinary),  # JSON
)


@dataclass(frozen=True)
class Job:
    """One clip: whose, where, how it is to be predicted, and how far it is."""

    id: str
    owner: str
    name: str
    path: str
    request: Mapping[str, Any]
    status: str = QUEUED
    created_s: float = field(default_factory=time.time)
    finished_s: float | None = None
    error: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)  # of the clip: size, length, the voice's level


class JobTable:
    """All jobs of a database; those of this service are told by its ``home``."""

    def __init__(self, address: str, home: str) -> None:
        """Open the database, and make the table where there is none.

        Args:
            address: such as ``sqlite:///FILE`` or ``postgresql+psycopg://USER:PASSWORD@HOST/NAME``.
            home: names this service among those that share the database.

        Raises:
            ConfigError: it cannot be opened.
        """
        self.home = home
        try:
            self._engine = create_engine(address, pool_pre_ping=True)
            if self._engine.dialect.name == "sqlite":
                event.listen(self._engine, "connect", _settle_sqlite)
            _JOBS.metadata.create_all(self._engine)
        except (SQLAlchemyError, ArgumentError, NoSuchModuleError, ImportError) as error:
            raise ConfigError(
                f"the database cannot be opened: {str(error).splitlines()[0]}",
                expected="an address such as sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME",
                fix="PostgreSQL needs the extra: pip install 'reactometer[postgres]'",
            ) from error

    @property
    def engine(self) -> Engine:
        """The database."""
        return self._engine

    def add(self, job: Job) -> None:
        """Keep a new job."""
        values = {own.name: getattr(job, own.name) for own in fields(job)}
        values |= {name: json.dumps(values[name]) for name in ("request", "about")}
        with self._engine.begin() as connection:
            connection.execute(insert(_JOBS).values(home=self.home, **values))

    def get(self, job_id: str) -> Job | None:
        """A job by its id."""
        with self._engine.connect() as connection:
            row = connection.execute(_columns().where(_JOBS.c.id == job_id)).one_or_none()
        return None if row is None else _job(row)

    def predictions(self, job_id: str) -> list[Prediction]:
        """What came of a job; nothing where it is not done."""
        with self._engine.connect() as connection:
            text = connection.execute(select(_JOBS.c.predictions).where(_JOBS.c.id == job_id)).scalar()
        return load_predictions(text) if text else []

    def begin(self, job_id: str) -> None:
        """A job is under way."""
        self._set(job_id, status=RUNNING)

    def requeue(self, job_id: str) -> None:
        """A job that was under way waits again."""
        self._set(job_id, status=QUEUED)

    def finish(self, job_id: str, about: Mapping[str, Any], predictions: list[Prediction]) -> None:
        """Keep what came of a job."""
        done = {"about": json.dumps(about), "predictions": dump_predictions(predictions)}
        self._set(job_id, status=DONE, finished_s=time.time(), **done)

    def fail(self, job_id: str, about: Mapping[str, Any], error: str) -> None:
        """Keep why nothing came of a job."""
        self._set(job_id, status=FAILED, finished_s=time.time(), about=json.dumps(about), error=error)

    def delete(self, job_id: str) -> None:
        """Forget a job, and what came of it."""
        with self._engine.begin() as connection:
            connection.execute(delete(_JOBS).where(_JOBS.c.id == job_id))

    def forget(self, before_s: float) -> None:
        """Delete what was finished before a moment, seconds since 1970."""
        with self._engine.begin() as connection:
            connection.execute(delete(_JOBS).where(_JOBS.c.home == self.home, _JOBS.c.finished_s < before_s))

    def unfinished(self) -> list[Job]:
        """Jobs of this service that wait, or were under way when it ended; the oldest first."""
        mine = _columns().where(_JOBS.c.home == self.home, _JOBS.c.finished_s.is_(None)).order_by(_JOBS.c.created_s)
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(mine)]

    def _set(self, job_id: str, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(update(_JOBS).where(_JOBS.c.id == job_id).values(**values))


def sqlite_address(file: Path) -> str:
    """The address of an SQLite database in a file."""
    return f"sqlite:///{file.resolve()}"


def _columns() -> Any:
    return select(*(_JOBS.c[own.name] for own in fields(Job)))


def _job(row: Row[Any]) -> Job:
    values = row._asdict()
    return Job(**{**values, "request": json.loads(values["request"]), "about": json.loads(values["about"])})


def _settle_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
    connection.execute("PRAGMA busy_timeout=10000")
    connection.execute("PRAGMA secure_delete=ON")  # what is deleted is gone from the file
