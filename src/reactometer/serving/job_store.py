"""The jobs of a service and their results, in a database."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
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
from sqlalchemy.exc import ArgumentError, DisconnectionError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from reactometer.errors import ConfigError, RequestError, require
from reactometer.inference.tables import dump_predictions, load_predictions
from reactometer.io import write_whole
from reactometer.types import Prediction

logger = logging.getLogger(__name__)
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
    """One clip: its owner, file, request and status."""

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
    """The jobs in a database, of which ``home`` names those of this service."""

    def __init__(self, address: str, home: str) -> None:
        """Open the database, and create the table if it is missing.

        Args:
            address: such as ``sqlite:///FILE`` or ``postgresql+psycopg://USER:PASSWORD@HOST/NAME``.
            home: name of this service among those that share the database.

        Raises:
            ConfigError: the database cannot be opened.
            MissingPackageError: the address is of PostgreSQL, and psycopg is not installed.
        """
        if address.startswith("postgresql"):
            require("psycopg", extra="postgres")
        self.home = home
        try:
            self.engine = create_engine(address, pool_pre_ping=True)
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _settle_sqlite)
                event.listen(self.engine, "checkout", _check_file)
            _JOBS.metadata.create_all(self.engine)
        except (SQLAlchemyError, ArgumentError, NoSuchModuleError, ImportError) as error:
            raise ConfigError(
                f"the database cannot be opened: {str(error).splitlines()[0]}",
                expected="an address such as sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME",
            ) from error

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Open a transaction.

        Raises:
            RequestError: 503, the database is away; 507, it has no room. The next transaction connects anew.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            self.engine.dispose()  # reopens a file that was deleted or replaced
            reason = str(error).splitlines()[0]
            logger.warning("the database does not do its work: %s", reason)
            if any(words in reason for words in ("disk is full", "No space left")):  # of SQLite and PostgreSQL
                raise no_room() from error
            fix = "Ask again when it is back"
            raise RequestError(503, "the service's database does not answer", retry_s=10, fix=fix) from error

    def check(self) -> None:
        """Raise RequestError if the table cannot be read now."""
        with self.connected() as connection:
            connection.execute(select(_JOBS.c.id).limit(1))

    def add(self, job: Job) -> None:
        """Insert a new job."""
        values = {own.name: getattr(job, own.name) for own in fields(job)}
        values |= {name: json.dumps(values[name]) for name in ("request", "about")}
        with self.connected() as connection:
            connection.execute(insert(_JOBS).values(home=self.home, **values))

    def get(self, job_id: str) -> Job | None:
        """Find a job by its id."""
        with self.connected() as connection:
            row = connection.execute(_columns().where(_JOBS.c.id == job_id)).one_or_none()
        return None if row is None else _job(row)

    def predictions(self, job_id: str) -> list[Prediction]:
        """Load a job's predictions; empty if it is not done."""
        with self.connected() as connection:
            text = connection.execute(select(_JOBS.c.predictions).where(_JOBS.c.id == job_id)).scalar()
        return load_predictions(text) if text else []

    def begin(self, job_id: str) -> None:
        """Mark a job as running."""
        self._set(job_id, status=RUNNING)

    def requeue(self, job_id: str) -> None:
        """Mark a job as queued again."""
        self._set(job_id, status=QUEUED)

    def finish(self, job_id: str, about: Mapping[str, Any], predictions: list[Prediction]) -> None:
        """Mark a job as done, and keep its predictions."""
        done = {"about": json.dumps(about), "predictions": dump_predictions(predictions)}
        self._set(job_id, status=DONE, finished_s=time.time(), **done)

    def fail(self, job_id: str, about: Mapping[str, Any], error: str) -> None:
        """Mark a job as failed, and keep the reason."""
        self._set(job_id, status=FAILED, finished_s=time.time(), about=json.dumps(about), error=error)

    def delete(self, job_id: str) -> None:
        """Delete a job and its predictions."""
        with self.connected() as connection:
            connection.execute(delete(_JOBS).where(_JOBS.c.id == job_id))

    def forget(self, before_s: float) -> None:
        """Delete jobs that finished before ``before_s``, in seconds since 1970."""
        outdated = (_JOBS.c.finished_s < before_s) | (_JOBS.c.finished_s > time.time() + 3600.0)  # the clock was ahead
        with self.connected() as connection:
            connection.execute(delete(_JOBS).where(_JOBS.c.home == self.home, outdated))

    def unfinished(self) -> list[Job]:
        """List this service's jobs that are queued, or were running when it ended; the oldest first."""
        mine = _columns().where(_JOBS.c.home == self.home, _JOBS.c.finished_s.is_(None)).order_by(_JOBS.c.created_s)
        with self.connected() as connection:
            return [_job(row) for row in connection.execute(mine)]

    def _set(self, job_id: str, **values: Any) -> None:
        with self.connected() as connection:
            connection.execute(update(_JOBS).where(_JOBS.c.id == job_id).values(**values))


def no_room() -> RequestError:
    """Build the error for a full disk."""
    fix = "Ask again when its operator has made room"
    return RequestError(507, "the service has no room left on its disk", retry_s=60, fix=fix)


def home_of(folder: Path) -> str:
    """Return the name of this folder's service in a shared database; it is made once."""
    file = folder / "home"
    return (file if file.is_file() else write_whole(file, secrets.token_hex(8))).read_text(encoding="utf-8")


def sqlite_address(file: Path) -> str:
    """Build the address of an SQLite database in a file."""
    return f"sqlite:///{file.resolve()}"


def _columns() -> Any:
    return select(*(_JOBS.c[own.name] for own in fields(Job)))


def _job(row: Row[Any]) -> Job:
    values = row._asdict()
    return Job(**{**values, "request": json.loads(values["request"]), "about": json.loads(values["about"])})


def _settle_sqlite(connection: Any, record: ConnectionPoolEntry) -> None:
    file = connection.execute("PRAGMA database_list").fetchone()[2]
    record.info["file"] = file, _file_identity(file)
    connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
    connection.execute("PRAGMA busy_timeout=10000")
    connection.execute("PRAGMA secure_delete=ON")  # what is deleted is gone from the file


def _check_file(_: object, record: ConnectionPoolEntry, *__: object) -> None:
    """Reconnect if the file was deleted or replaced: SQLite would go on writing into it, and all of that is lost."""
    file, identity = record.info["file"]
    if _file_identity(file) != identity:
        raise DisconnectionError


def _file_identity(file: str) -> tuple[int, int] | None:
    with suppress(OSError):
        status = Path(file).stat()
        return status.st_dev, status.st_ino
    return None
