"""Every error this package raises on purpose, in one tree::

    ReactometerError           anything a user can cause or mend
    ├── ConfigError            a setting is unknown or has a wrong value
    ├── DataError              a data set's table or layout cannot be used as it is
    ├── MediaError             one media file is missing, empty, truncated or undecodable
    ├── WeightsError           a weight file cannot be found, downloaded or trusted
    ├── ModelError             a model folder is damaged, or does not fit what it is asked to do
    ├── ScoreError             a score is not defined on the clips given
    ├── OutputError            a result cannot be written where it was asked for
    ├── ClusterError           a Ray cluster is not available, or was lost
    └── RequestError           a service does not serve a request

Every message is one line: the problem, what was got, what was expected, and what to do next. The docstring of each
class explains its causes and fixes; the page Errors of the documentation shows them.
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
    """A setting is unknown or has a wrong value.

    It is told before any work. Settings are keys of a TOML file, as in ``configs/``, and what stands behind it as
    ``section.key=value``, which wins. An unknown key is most often misspelt, or of another section: the message names
    the nearest. Every key, what it takes and its default: the page Settings, or ``config.py``. In a shell, quote a
    value that has spaces, brackets or quotation marks: ``'model.encoder="microsoft/resnet-50"'``. Values that are
    right alone may not go together; then the message says which to change.
    """


class DataError(ReactometerError):
    """A data set's table or layout cannot be used as it is.

    Nothing was changed or left out in silence. The message names the table and the line, or the clip. Usual causes: a
    column that is missing or called otherwise; labels that are not in [0, 1], or empty; a path that leads nowhere
    (paths count from the table's folder); a split with too few clips; people or stimuli that two splits share
    (``reactometer split`` makes splits that do not; ``--allow-leak`` trains all the same, and the score says so). A
    prepared folder that was changed by hand, or damaged, is refused too: prepare it again. ``reactometer audit DATA``
    looks at a data set before anything is trained on it.
    """


class MediaError(ReactometerError):
    """One media file is missing, empty, truncated or undecodable.

    The other files are done; the command ends with status 1, and a run into a folder lists the file in
    ``failed.csv``. A truncated file is to be copied or downloaded again. One that no decoder knows can be converted:
    ``ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4``. Each file is read by a process with bounds of memory (4 GiB),
    silence (60 s) and processor time (600 s for each of its minutes): a file beyond them is given up alone; cut or
    convert it. "The process that read it died" is a fault in a decoder, or a machine out of memory.
    """


class WeightsError(ReactometerError):
    """A weight file cannot be found, downloaded or trusted.

    Weights are looked for in the folder ``REACTOMETER_WEIGHTS``, then in the cache, then on the network. For a machine
    without a network, run ``reactometer download NAME --to FOLDER`` on one that has it, copy the folder, and set
    ``REACTOMETER_WEIGHTS`` to it. ``HF_HUB_OFFLINE=1`` stops all downloads. A YuNet file whose SHA-256 differs from the
    one in this package is never used: delete it and download it again.
    """


class ModelError(ReactometerError):
    """A model folder is damaged, or does not fit what it is asked to do.

    A model folder holds ``model.json``, ``weights.safetensors`` and what was measured of it, with their hashes; what
    does not agree with its hash, holds a field that this version does not know, or would run code is refused. Copy it
    again from its source; ``reactometer download`` gets it from the Hugging Face Hub. Of a folder of a training, name
    the ``model`` inside it. A model of given features takes no video, and an exported engine only the weights that it
    was made of.
    """


class ScoreError(ReactometerError):
    """A score is not defined on the clips given.

    A correlation needs at least three clips, and labels and predictions that are not all the same; predictions and
    labels must be of the same clips, in the same number. No number is made up in its place: where single labels are
    undefined they are left out by name, and only where nothing is left this error is raised.
    """


class OutputError(ReactometerError):
    """A result cannot be written where it was asked for.

    It is found out before the work where that is possible. Files appear under their names whole or not at all; a
    folder that holds something else is left as it is (``--overwrite`` deletes an earlier training, ``--resume`` goes on
    with it). Usual causes: no permission, a full disk, a folder where a file is asked for, a run of another model or
    of other settings. What was finished before stays.
    """


class ClusterError(ReactometerError):
    """A Ray cluster is not available, or was lost.

    ``--ray local`` starts one on this machine and shows whether everything else works. All machines need the same
    versions of Ray, Python and this package, and must see the clips under the same path (a shared folder, or
    ``s3://``). The same command resumes the run.
    """


class RequestError(ReactometerError):
    """A service does not serve a request: the HTTP ``status``, and after how many seconds it may come again.

    400: no clip came, or a setting is wrong. 401: a key is missing, or nobody's. 403: a page of another site sent
    it. 404: no such prediction, somebody else's, or deleted after its time.
    409: it is not done yet. 413: larger than the service allows. 422: what was asked for needs a timeline. 429: too
    many at a time. 503 and 507: it is ending, or has no room. After the last three, come again when ``Retry-After``
    says. Limits are options of ``reactometer serve``.
    """

    def __init__(self, status: int, what: str, *, retry_s: int | None = None, **details: Any) -> None:
        super().__init__(what, **details)
        self.status, self.retry_s = status, retry_s


def suggestion(name: str, known: Iterable[str]) -> str:
    """``"Did you mean 'epochs'?"`` for a near miss, else the list of all known names."""
    names = list(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f"Did you mean '{lowered[near[0]]}'?" if near else f"Known names: {', '.join(names)}"
