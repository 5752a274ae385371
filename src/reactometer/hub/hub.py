"""Download encoders and checkpoints from the Hugging Face Hub (or ``HF_ENDPOINT``), and push checkpoints."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError  # type: ignore[attr-defined]

from reactometer.errors import ConfigError, ModelError, OutputError, WeightsError, suggestion
from reactometer.hub.model_card import CARD_FILE, model_card
from reactometer.inference.checkpoint import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    LoadedModel,
    check_digest,
    load_model,
)
from reactometer.inference.checkpoint import FILES as CHECKPOINT_FILES
from reactometer.io import atomic_folder, write_atomic
from reactometer.models.architectures import ENCODER_LICENCES
from reactometer.paths import find_yunet, offline_encoder

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
YUNET = "yunet"

CHECKPOINT_FOLDERS = (
    "",
    "[0-9][0-9]/",
    "[0-9][0-9][0-9]/",
)  # the checkpoint itself, and an ensemble's members
CHECKPOINT_PATTERNS = (
    CARD_FILE,
    *(f"{folder}{file}" for file in CHECKPOINT_FILES for folder in CHECKPOINT_FOLDERS),
)
"""File patterns of a checkpoint; other files are not pushed."""

ENCODER_CONFIG, ENCODER_WEIGHTS = "config.json", "model.safetensors"
ENCODER_PATTERNS = (
    CARD_FILE,
    ENCODER_CONFIG,
    "*processor*_config.json",
    "processor_config.json",
    ENCODER_WEIGHTS,
)
"""File patterns of an encoder: model card with the licence, architecture, preprocessing and weights."""

CHECK_NAME = (
    "Check the name and revision; for a private repository, log in with 'hf auth login' or set HF_TOKEN"
)
CHECK_NETWORK = "Check the network, and HF_ENDPOINT and HF_HUB_OFFLINE if they are set"


def download(name: str, to: Path | str | None = None, *, revision: str | None = None) -> Path:
    """Download the face detector YuNet, an encoder or a checkpoint into a cache or a folder.

    YuNet is cached by this package, encoders and checkpoints by Hugging Face. Files that exist already, in
    ``$REACTOMETER_WEIGHTS`` or in a cache, are not downloaded again. Only graphs, weights in safetensors,
    JSON, model cards and plots are downloaded, and a checkpoint is loaded once to check it.

    Args:
        name: "yunet", or a repository of the Hub, ``OWNER/NAME``.
        to: copy the files into this folder, which ``$REACTOMETER_WEIGHTS`` can then name. A repository is
            copied to its subfolder ``OWNER--NAME``, which must not exist yet.
        revision: a commit, tag or branch of the repository; default: the newest commit of its main branch.

    Returns:
        YuNet's file, or the folder of the encoder or checkpoint.

    Raises:
        ConfigError: the name is unknown.
        WeightsError: the download failed, or the repository holds neither an encoder nor a checkpoint.
        ModelError: the checkpoint is damaged or refused.
        OutputError: the folder exists, or cannot be written.
    """
    if name == YUNET:
        file = find_yunet()
        return write_atomic(Path(to) / file.name, file.read_bytes()) if to else file
    if not REPOSITORY.fullmatch(name):
        fix = suggestion(name, (YUNET, *ENCODER_LICENCES))
        raise ConfigError("unknown name", got=repr(name), expected="OWNER/NAME", fix=fix)
    source = None if revision else offline_encoder(name)
    if source is None:
        patterns = [*CHECKPOINT_PATTERNS, *ENCODER_PATTERNS]
        with _hub_errors(f"cannot download '{name}' from {constants.ENDPOINT}", WeightsError):
            source = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    if (source / DESCRIPTION_FILE).is_file():
        try:
            _load_verified(source)
        except ModelError as error:
            raise ModelError(str(error).replace(str(source), name)) from error
    elif not all((source / file).is_file() for file in (ENCODER_CONFIG, ENCODER_WEIGHTS)):
        raise WeightsError(
            f"'{name}' holds neither a checkpoint nor an encoder",
            expected=f"{DESCRIPTION_FILE}, or {ENCODER_CONFIG} and {ENCODER_WEIGHTS} (no pickle is read)",
            fix="Convert an encoder with transformers' save_pretrained, or name a repository of 'reactometer "
            "push'",
        )
    if to is None:
        return source
    target = Path(to) / name.replace("/", "--")
    with atomic_folder(target) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)
    return target


def push(folder: Path | str, name: str, *, private: bool = False) -> str:
    """Push a checkpoint's files and nothing else in its folder; write a model card if it has none.

    Args:
        folder: a checkpoint of a model or an ensemble; it is loaded once to check it.
        name: the repository, ``OWNER/NAME``; it is created, or gets a new commit.
        private: only you (or your organisation) may see it.

    Returns:
        The new commit, which :func:`download` takes as ``revision``.

    Raises:
        ConfigError: the name is not ``OWNER/NAME``.
        ModelError: the checkpoint is incomplete or damaged.
        OutputError: the Hub cannot be reached or refuses the push.
    """
    if not REPOSITORY.fullmatch(name):
        raise ConfigError("not the name of a repository", got=repr(name), expected="OWNER/NAME")
    folder = Path(folder)
    model = _load_verified(folder)
    if not (folder / CARD_FILE).exists():
        write_atomic(folder / CARD_FILE, model_card(model, name))
    api = HfApi()
    with _hub_errors(f"cannot push to '{name}' on {constants.ENDPOINT}", OutputError):
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise OutputError(f"'{name}' exists and is public", fix="Make it private on the Hub first")
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(CHECKPOINT_PATTERNS),
            delete_patterns=list(CHECKPOINT_PATTERNS),
            commit_message=f"Checkpoint of reactometer {version('reactometer')}",
        )
    return str(commit.oid)


def _load_verified(folder: Path) -> LoadedModel:
    """Load a checkpoint, and verify the digests of its PyTorch weights; predictions read only the ONNX
    graphs."""
    model = load_model(folder, "cpu")
    for name, member in zip(model.description.get("members", ["."]), model.members, strict=True):
        if (file := folder / name / WEIGHTS_FILE).is_file():
            check_digest(file, member.description["sha256"].get(WEIGHTS_FILE))
    return model


@contextmanager
def _hub_errors(problem: str, kind: type[OutputError | WeightsError]) -> Iterator[None]:
    """Re-raise any error of the Hub's client as ``kind``, in one line with a fix."""
    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        is_refused = isinstance(error, RepositoryNotFoundError | RevisionNotFoundError) or status in (
            401,
            403,
        )
        cause = error.__cause__ or error  # more specific: "connection refused" instead of "not in the cache"
        first_line = str(cause).strip().split("\n")[0]
        raise kind(
            problem,
            got=f"{type(error).__name__}: {first_line}",
            fix=CHECK_NAME if is_refused else CHECK_NETWORK,
        ) from error
