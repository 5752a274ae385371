"""The configuration: TOML in, key=value on top, and clear words for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from reactometer.config import Config, change_settings, load_config, parse_config
from reactometer.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def _write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_overrides_replace_values_of_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, '[training]\nepochs = 3\n[model]\nencoder = "a"\n')
    config = load_config(
        path, ["training.epochs=7", "data.path=/some/where", "model.frozen=true", "model.encoder=random:x"]
    )
    assert config.training.epochs == 7
    assert config.data.path == Path("/some/where")
    assert config.model.frozen is True
    assert config.model.encoder == "random:x"
    assert config.training.out == Path("runs/mine")


def test_labels_can_be_a_list(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, ""), ['data.labels=["Joy", "Awe"]'])
    assert config.data.labels == ("Joy", "Awe")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path: Path) -> None:
    assert load_config(path).training.epochs > 0


def test_an_unknown_key_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.epoch'.*'epochs'"):
        load_config(_write(tmp_path, "[training]\nepoch = 3\n"))
    with pytest.raises(ConfigError, match=r"trainning.*'training'"):
        parse_config({"trainning": {}})


def test_an_unrelated_key_gets_the_list_of_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.zzz.*path, cache, labels"):
        load_config(_write(tmp_path, ""), ["data.zzz=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.epochs=0",
            r"invalid value for training\.epochs \(got 0; expected .*greater than or equal to 1",
        ),
        (
            "prepare.detector=dlib",
            r"invalid value for prepare\.detector \(got 'dlib'; expected .*'auto', 'yunet' or 'haar'",
        ),
        ("training.epochs=many", r"invalid value for training\.epochs \(got 'many'"),
        ("epochs=3", r"invalid override \(got 'epochs=3'; expected section\.key=value"),
        ("training.epochs", r"invalid override"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(_write(tmp_path, ""), [override])


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    assert load_config(str(_write(tmp_path, ""))) == load_config(_write(tmp_path, ""))
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        load_config(_write(tmp_path, "[training\nepochs"))


def test_a_configuration_is_unchanged_by_json() -> None:
    config = Config.model_validate({"data": {"path": "a", "labels": ["x", "y"]}, "training": {"out": "b"}})
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_settings_are_changed_by_name() -> None:
    config = change_settings(Config(), {"epochs": 7, "encoder": "starter", "path": Path("videos.csv")})
    assert (config.training.epochs, config.model.encoder) == (7, "starter")
    assert config.data.path == Path("videos.csv")
    assert change_settings(config, {}) == config
    for setting, words in (("epoch", "'epochs'"), ("size_px", r"prepare\.size_px"), ("epochs", "epochs")):
        with pytest.raises(ConfigError, match=words):
            change_settings(config, {setting: 0})
