"""The Hugging Face Hub (or a mirror, ``HF_ENDPOINT``): encoders fetched, model folders pushed and pulled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of the HTTP library that it uses
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from reactometer.errors import ConfigError, ModelError, OutputError, WeightsError, suggestion
from reactometer.io import appearing
from reactometer.models.card import CARD_FILE, write_card
from reactometer.models.folder import DESCRIPTION_FILE, load_model
from reactometer.models.folder import FILES as MODEL_FOLDER_FILES
from reactometer.models.pretrained import PRETRAINED
from reactometer.models.store import REPOSITORY

MEMBERS = ("[0-9][0-9]", "[0-9][0-9][0-9]")
MODEL_FILES = (
    CARD_FILE,
    *(f"{folder}{file}" for file in MODEL_FOLDER_FILES for folder in ("", *(f"{m}/" for m in MEMBERS))),
)
"""All that ever goes to the Hub and comes from it, as patterns: a model folder's files, and an ensemble's members'."""

LOG_IN = "Check the name; for what is not public, log in with 'hf auth login' or set HF_TOKEN"
GO_OFFLINE = "Check the network, or HF_ENDPOINT and HF_HUB_OFFLINE where they are set"


@dataclass(frozen=True)
class Pushed:
    """A model folder on the Hub."""

    url: str
    revision: str  # the commit, for 'reactometer pull --revision'
    wrote_card: bool


def download(name: str, patterns: Sequence[str], *, revision: str | None = None, folder: Path | None = None) -> Path:
    """Get those files of a repository of models that match, into Hugging Face's cache or a folder of their own.

    Args:
        name: the repository, ``owner/name``.
        patterns: of file names.
        revision: a commit, tag or branch; default: the newest of the main branch.
        folder: where to put them; default: the cache, which keeps every file that has come whole.

    Returns:
        The folder they are in.

    Raises:
        WeightsError: they cannot be had.
    """
    with _told(f"cannot fetch '{name}' from {constants.ENDPOINT}", name, WeightsError):
        return Path(snapshot_download(name, revision=revision, local_dir=folder, allow_patterns=list(patterns)))


def push(folder: Path | str, name: str, *, private: bool = False) -> Pushed:
    """Put a model folder on the Hub as it is, and nothing else that lies in it; a model card is written if it has none.

    Args:
        folder: a model folder, or an ensemble's; it is checked first.
        name: the repository, ``owner/name``; it is made if there is none, else it gets a new commit.
        private: only you (or your organisation) may see it.

    Raises:
        ConfigError: not the name of a repository.
        ModelError: not a whole model folder.
        OutputError: the Hub does not take it.
    """
    _check_name(name)
    folder = Path(folder)
    model = load_model(folder, "cpu")
    wrote_card = write_card(folder, model, name)
    api = HfApi()
    with _told(f"cannot push to '{name}' on {constants.ENDPOINT}", name, OutputError):
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise OutputError(f"'{name}' is there already, and is public", fix="Make it private on the Hub first")
        files = list(MODEL_FILES)
        message = f"Model folder of reactometer {version('reactometer')}"
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=files, delete_patterns=files, commit_message=message
        )
    return Pushed(f"{constants.ENDPOINT}/{name}", commit.oid, wrote_card)


def pull(name: str, out: Path | str, *, revision: str | None = None) -> Path:
    """Get a model folder from the Hub; it is loaded and checked before it gets its name, so a wrong one never stays.

    Args:
        name: the repository, ``owner/name``.
        out: must not exist yet.
        revision: a commit, tag or branch; default: the newest of the main branch.

    Raises:
        ConfigError: not the name of a repository.
        WeightsError: it cannot be had.
        ModelError: it is no model folder, or not a whole one.
        OutputError: ``out`` exists.
    """
    _check_name(name)
    with appearing(Path(out)) as partial:
        download(name, MODEL_FILES, revision=revision, folder=partial)
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # what the Hub's client notes beside the files
        if not (partial / DESCRIPTION_FILE).is_file():
            raise ModelError(
                f"'{name}' on the Hub is no model folder: no {DESCRIPTION_FILE}",
                fix="Name one that 'reactometer push' has put there",
            )
        try:
            load_model(partial, "cpu")
        except ModelError as error:
            raise ModelError(str(error).replace(str(partial), name), fix=f"{out} was not written") from error
    return Path(out)


def _check_name(name: str) -> None:
    if not REPOSITORY.fullmatch(name):
        raise ConfigError("not the name of a repository", got=repr(name), expected="OWNER/NAME")


@contextmanager
def _told(what: str, name: str, kind: type[OutputError | WeightsError]) -> Iterator[None]:
    """Turn what the Hub's client raises into one line that says what to do."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise kind(what, got="no such revision", fix="Name a commit, a tag or a branch of it") from error
    except RepositoryNotFoundError as error:
        near = suggestion(name, PRETRAINED) if name not in PRETRAINED else ""
        fix = f"{LOG_IN}. {near}" if near.startswith("Did you mean") else LOG_IN
        raise kind(what, got="no such repository, or none that you may use", fix=fix) from error
    except LocalEntryNotFoundError as error:
        raise kind(what, got=_first_line(error.__cause__ or error), fix=GO_OFFLINE) from error
    except (HTTPError, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise kind(what, got=_first_line(error), fix=LOG_IN if status in (401, 403) else GO_OFFLINE) from error


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(". ") if lines else type(error).__name__
