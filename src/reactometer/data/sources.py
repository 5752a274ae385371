"""What a configuration names as its data -> prepared clips, of media or of features."""

from __future__ import annotations

from filelock import FileLock

from reactometer.config import DataConfig, PrepareConfig
from reactometer.data.cache import SETTINGS_FILE, PreparedSet, open_prepared
from reactometer.data.feature_files import prepare_features
from reactometer.data.prepare import claim_folder, default_folder, prepare
from reactometer.errors import ConfigError


def open_data(config: DataConfig, settings: PrepareConfig | None = None, *, progress: bool = True) -> PreparedSet:
    """The data set that a configuration names: media, prepared here if need be, or features of a file.

    Raises:
        ConfigError: it names none.
        DataError: its table or features cannot be used.
    """
    if config.path is None:
        raise ConfigError("no data set named", fix="Set data.path in the TOML file, or add data.path=FOLDER")
    if (config.path / SETTINGS_FILE).is_file():
        return open_prepared(config.path)
    face, voice = config.face_features, config.voice_features
    folder = config.cache or default_folder(config.path, *((face, voice) if face or voice else ()))
    claim_folder(folder)
    with FileLock(folder / "clips" / "preparing.lock"):  # the others that train along find all done
        if face or voice:
            return prepare_features(
                config.path, folder, face=face, voice=voice, labels=config.labels, progress=progress
            )
        return prepare(
            config.path, folder, settings=settings, labels=config.labels, votes=config.votes, progress=progress
        )
