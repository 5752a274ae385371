"""Every error this package raises on purpose, in one tree.

ReactometerError           anything a user can cause or mend
├── ConfigError            a setting is unknown or has a wrong value
├── DataError              a data set's table or layout cannot be used as it is
├── MediaError             one media file is missing, empty, truncated or undecodable
├── WeightsError           a weight file cannot be found, fetched or trusted
├── ModelError             a model folder is damaged, or does not fit what it is asked to do
├── ScoreError             a score is not defined on the clips given
├── OutputError            a result cannot be written where it was asked for
├── ClusterError           a cluster cannot be had, or was lost
└── RequestError           a service does not serve a request

Every message is one line and says what, got, expected, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ReactometerError(Exception):
    """A problem the user can mend: ``what`` happened, what was ``got``, what was ``expected``, and the ``fix``."""

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str = "") -> None:
        details = [f"got {got}"] if got is not None else []
        details += [f"expected {expected}"] if expected is not None else []
        parts = [f"{what} ({'; '.join(details)})" if details else what, fix]
        sentences = [part.rstrip(". ") for part in parts if part]
        message = " ".join(part if part.endswith("?") else f"{part}." for part in sentences)
        super().__init__(" ".join(message.split()))


class ConfigError(ReactometerError):
    """A setting is unknown or has a wrong value."""


class DataError(ReactometerError):
    """A data set's table or layout cannot be used as it is."""


class MediaError(ReactometerError):
    """One media file is missing, empty, truncated or undecodable."""


class WeightsError(ReactometerError):
    """A weight file cannot be found, fetched or trusted."""


class ModelError(ReactometerError):
    """A model folder is damaged, or does not fit what it is asked to do."""


class ScoreError(ReactometerError):
    """A score is not defined on the clips given."""


class OutputError(ReactometerError):
    """A result cannot be written where it was asked for."""


class ClusterError(ReactometerError):
    """A cluster cannot be had, or was lost."""


class RequestError(ReactometerError):
    """A service does not serve a request: the HTTP ``status``, and after how many seconds it may come again."""

    def __init__(self, status: int, what: str, *, retry_s: int | None = None, **details: Any) -> None:
        super().__init__(what, **details)
        self.status, self.retry_s = status, retry_s


def suggestion(name: str, known: Iterable[str]) -> str:
    """``"Did you mean 'epochs'?"`` for a near miss, else the list of all known names."""
    names = list(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f"Did you mean '{lowered[near[0]]}'?" if near else f"Known names: {', '.join(names)}"
