"""What a configuration names as its data -> prepared clips, of media or of features."""

from __future__ import annotations

from reactometer.config import DataConfig, PrepareConfig
from reactometer.data.cache import SETTINGS_FILE, PreparedSet
from reactometer.data.feature_files import prepare_features
from reactometer.data.prepare import default_folder, prepare
from reactometer.errors import ConfigError


def open_data(config: DataConfig, settings: PrepareConfig | None = None, *, progress: bool = True) -> PreparedSet:
    """The data set that a configuration names: media, prepared here if need be, or features of a file.

    Raises:
        ConfigError: it names none.
        DataError: its table or features cannot be used.
    """
    if config.path is None:
        raise ConfigError("no data set named", fix="Set data.path in the TOML file, or add data.path=FOLDER")
    is_prepared = (config.path / SETTINGS_FILE).is_file()
    if is_prepared or not (config.face_features or config.voice_features):
        return prepare(
            config.path, config.cache, settings=settings, labels=config.labels, votes=config.votes, progress=progress
        )
    return prepare_features(
        config.path,
        config.cache or default_folder(config.path, config.face_features, config.voice_features),
        face=config.face_features,
        voice=config.voice_features,
        labels=config.labels,
        progress=progress,
    )
