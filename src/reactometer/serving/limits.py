"""What a service takes, and from whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reactometer.workers.media_worker import Bounds


@dataclass(frozen=True)
class Limits:
    """Bounds of what is taken; all defaults are our choice."""

    body_bytes: int = 512 * 2**20  # of a request
    upload_s: float = 600.0  # from a request's first byte to its last
    bounds: Bounds = field(default_factory=lambda: Bounds(duration_s=3600.0, pixels=4096 * 2304))  # of a clip
    short_s: float = 30.0  # clips up to this length are answered at once
    wait_s: float = 60.0  # so long is waited for the answer, at most
    queue: int = 64  # clips that wait
    per_client: int = 8  # clips that wait or are under way
    keep_s: float = 24 * 3600.0  # results
    drain_s: float = 30.0  # clips under way are given so long when the service ends


@dataclass(frozen=True)
class Settings:
    """How a service is run."""

    folder: Path  # jobs, and uploads until they are scored
    database: str | None = None  # address for SQLAlchemy; None: SQLite inside the folder
    keys: dict[str, str] = field(default_factory=dict)  # key by client's name; none: everybody is let in
    allowed: tuple[Path, ...] = ()  # folders whose files may be named by path
    hosts: tuple[str, ...] = ("*",)  # names under which it may be called
    readers: int | None = None  # processes that read files; None: one a processor
    limits: Limits = Limits()
