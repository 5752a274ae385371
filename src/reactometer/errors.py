"""The errors that this package raises on purpose, in one tree::

    ReactometerError           anything a user can cause or fix
    ├── ConfigError            a setting is unknown or has a wrong value
    ├── DataError              a dataset's table or layout cannot be used as it is
    ├── MediaError             one media file is missing, empty, truncated or undecodable
    ├── WeightsError           a weight file cannot be found, downloaded or trusted
    ├── ModelError             a checkpoint is damaged, or does not fit its use
    ├── ScoreError             a score is undefined on these clips
    ├── OutputError            a result cannot be written
    ├── ClusterError           a Ray cluster is not available, or was lost
    └── RequestError           a service refuses a request

Every message is one line: the problem, the value got, the value expected, and a hint.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class ReactometerError(Exception):
    """A problem the user can fix, in one line: ``problem (got …; expected …). hint: fix.``"""

    def __init__(self, problem: str, *, got: object = None, expected: object = None, fix: str = "") -> None:
        details = [f"got {got}"] if got is not None else []
        details += [f"expected {expected}"] if expected is not None else []
        parts = [f"{problem} ({'; '.join(details)})" if details else problem, f"hint: {fix}" if fix else ""]
        sentences = [part.rstrip(". ") for part in parts if part]
        message = " ".join(part if part.endswith("?") else f"{part}." for part in sentences)
        super().__init__(" ".join(message.split()))


class ConfigError(ReactometerError):
    """A setting is unknown or has a wrong value.

    Settings are keys of a TOML file, or ``section.key=value`` on the command line, which wins; the page
    Settings lists all. In a shell, quote values with spaces, brackets or quotation marks:
    ``'model.encoder="microsoft/resnet-50"'``.
    """


class DataError(ReactometerError):
    """A dataset's table or layout cannot be used as it is.

    Usual causes: a missing column, labels outside [0, 1], a path that is not relative to the table's folder,
    a split with too few clips, or people and stimuli that two splits share (``reactometer data split`` makes
    disjoint splits). If a prepared folder is damaged or was edited, prepare it again.
    """


class MediaError(ReactometerError):
    """One media file is missing, empty, truncated or undecodable; the other files are processed.

    If no decoder supports a file, convert it: ``ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4``. Each file may
    take 4 GiB of memory, 60 s without a result, and 600 s of CPU time per minute of the file: cut or convert
    a larger one.
    """


class WeightsError(ReactometerError):
    """A weight file cannot be found, downloaded or trusted.

    For a machine without a network, run ``reactometer model download NAME -o FOLDER`` elsewhere, copy
    the folder, and set ``REACTOMETER_WEIGHTS`` to it. A file with a wrong SHA-256 is not used.
    """


class ModelError(ReactometerError):
    """A checkpoint is damaged, or does not fit its use.

    A file with a wrong SHA-256, an unknown field or code to run is refused: copy or download the checkpoint
    again. In a training's folder, name the ``model`` inside it. A model trained on feature tables takes no
    video. A device needs the ONNX Runtime package that supports it.
    """


class ScoreError(ReactometerError):
    """A score is undefined on these clips.

    A correlation needs at least three clips, and labels and predictions that vary. A single undefined label
    is reported as undefined; this error is raised if no label is left.
    """


class OutputError(ReactometerError):
    """A result cannot be written.

    Usual causes: no permission, a full disk, a folder in place of a file, or a folder of another model or of
    other settings. Files appear whole or not at all, and a folder with other contents is left unchanged.
    """


class ClusterError(ReactometerError):
    """A Ray cluster is not available, or was lost; the same command resumes the run.

    ``--ray local`` shows whether everything else works. All machines need the same versions of Ray, Python
    and this package, and must see the clips under the same path (a shared folder or an object store).
    """


class RequestError(ReactometerError):
    """A service refuses a request, with an HTTP ``status`` and the seconds after which to retry, if any.

    400: no clip, or a wrong setting. 401: a missing or unknown key. 403: sent by another site's page. 404: no
    such prediction of this client. 409: not finished. 413: larger than the limit. 422: the format needs a
    timeline. 429: too many requests. 503 and 507: shutting down, or no disk space. Limits are options of
    ``reactometer serve``.
    """

    def __init__(self, status: int, problem: str, *, retry_s: int | None = None, **details: Any) -> None:
        super().__init__(problem, **details)
        self.status, self.retry_s = status, retry_s


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """Return ``"Did you mean 'epochs'?"`` for a near miss, else the list of all candidates."""
    names = list(candidates)
    lowered = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f"Did you mean '{lowered[near[0]]}'?" if near else f"Known names: {', '.join(names)}"


def missing_path_hint(path: Path) -> str:
    """Return a hint for a path that does not exist: download it, a near name, or the missing folder."""
    if web := re.match(r"(https?):/+(.*)", str(path)):
        return f"Web addresses are not read: download the file first, 'curl -LO {web[1]}://{web[2]}'"
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist"
    names = [entry.name for entry in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"Did you mean '{path.parent / near[0]}'?" if near else "Check the path"


def require(*modules: str, extra: str) -> None:
    """Raise ReactometerError if a module of an extra of this package is not installed; import nothing."""
    if missing := [name for name in modules if find_spec(name) is None]:
        verb = "is" if len(missing) == 1 else "are"
        raise ReactometerError(
            f"{', '.join(missing)} {verb} not installed", fix=f"pip install 'reactometer[{extra}]'"
        )
