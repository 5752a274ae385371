"""The folders and files that this package reads and writes between runs, and where the starter model is."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from reactometer.errors import WeightsError
from reactometer.io import sha256_of

STARTER = Path("starter")
"""In place of a checkpoint's folder, the starter model: the default of ``predict``, and a backbone
(``model.encoder=starter``). It is a distribution of its own, because its licence is not this package's."""

INSTALL_STARTER = "pip install 'reactometer[starter]', or in a checkout: pip install ./starter"

FOLDER_VARIABLE = "REACTOMETER_WEIGHTS"  # folder of weights that is searched before any cache or network
CACHE_VARIABLE = "REACTOMETER_CACHE"  # cache folder of YuNet and prepared clips
OFFLINE_VARIABLE = "HF_HUB_OFFLINE"  # Hugging Face's switch; here it stops the download of YuNet too

YUNET_FILE = "yunet_n_320_320.onnx"
YUNET_URL = f"https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/master/onnx/{YUNET_FILE}"
YUNET_SHA256 = "81dbde155e982455488235acb8ec2dec5d647edf7cf7080d33e4abb69b93a0d2"
"""The face detector YuNet (Wu, Peng, Yu 2023), Apache-2.0."""

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 30.0


def find_starter() -> Path | None:
    """Return the checkpoint that the distribution ``reactometer-starter`` installs, if it is installed."""
    spec = find_spec("reactometer_starter")
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def find_checkpoint(model: Path | str) -> Path:
    """Return the folder of a checkpoint; the word "starter" names the starter model.

    Raises:
        WeightsError: the starter model is not installed.
    """
    if str(model) != STARTER.name:
        return Path(model)
    if folder := find_starter():
        return folder
    raise WeightsError("the starter model is not installed", fix=INSTALL_STARTER)


def cache_folder() -> Path:
    """Return the folder for files kept between runs: ``$REACTOMETER_CACHE``, or the user's cache folder.

    Raises:
        WeightsError: the user has no home folder.
    """
    if folder := os.environ.get(CACHE_VARIABLE):
        return _expand(folder)
    return _expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "reactometer"


def offline_folder() -> Path | None:
    """Return the user's folder of weights, ``$REACTOMETER_WEIGHTS``, or ``None`` if the variable is not
    set."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return _expand(folder) if folder else None


def _expand(folder: str) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        fix = f"Set HOME, or set {CACHE_VARIABLE} to a writable folder"
        raise WeightsError(f"{folder}: no such home folder", fix=fix) from error


def offline_encoder(name: str) -> Path | None:
    """Return the folder ``$REACTOMETER_WEIGHTS/OWNER--NAME`` of an encoder ``OWNER/NAME`` if it exists."""
    offline = offline_folder()
    folder = offline / name.replace("/", "--") if offline else None
    return folder if folder and (folder / "config.json").is_file() else None


def yunet_on_disk() -> Path | None:
    """Return the path of YuNet's file in ``$REACTOMETER_WEIGHTS`` or the cache, verified by SHA-256, if it
    exists."""
    offline = offline_folder()
    candidates = [offline / YUNET_FILE] if offline else []
    with suppress(WeightsError):  # no home folder
        candidates.append(cache_folder() / "weights" / YUNET_FILE)
    return next((file for file in candidates if file.is_file() and sha256_of(file) == YUNET_SHA256), None)


def find_yunet() -> Path:
    """Return the path of YuNet's file, verified by SHA-256.

    The search order is ``$REACTOMETER_WEIGHTS``, the cache, and a download into the cache. With
    ``HF_HUB_OFFLINE=1`` nothing is downloaded.

    Raises:
        WeightsError: the file cannot be downloaded.
    """
    if file := yunet_on_disk():
        return file
    import pooch  # here, since most commands download nothing

    folder = cache_folder() / "weights"
    pooch.get_logger().setLevel(logging.ERROR)
    get = pooch.HTTPDownloader(timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
    try:
        if os.environ.get(OFFLINE_VARIABLE, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise ValueError(f"{OFFLINE_VARIABLE} is set")
        return Path(pooch.retrieve(YUNET_URL, YUNET_SHA256, fname=YUNET_FILE, path=folder, downloader=get))
    except (OSError, ValueError) as error:
        cause: BaseException = error
        while inner := cause.__cause__ or cause.__context__:
            cause = (
                inner  # "Connection refused" or "No space left on device", not the wrapper of each library
            )
        raise WeightsError(
            f"cannot download YuNet from {YUNET_URL}",
            got=cause,
            fix="Run 'reactometer model download yunet -o FOLDER' on a machine with a network, copy the "
            f"folder, and set {FOLDER_VARIABLE} to it",
        ) from error
