"""The configurations that come with the project: each names a system, and the small ones train."""

from __future__ import annotations

from pathlib import Path

import pytest

from reactometer.cli.app import app
from reactometer.config import FOLDER, load_config
from reactometer.errors import ConfigError
from reactometer.models.architectures import ARCHITECTURES, ENCODER_LICENCES, get_architecture

CONFIGS = FOLDER


def test_every_architecture_has_a_configuration_and_a_small_one() -> None:
    for folder in (CONFIGS, CONFIGS / "small"):
        assert set(ARCHITECTURES) <= {path.stem for path in folder.glob("*.toml")}


def test_packaged_configurations_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("resnet50") == load_config(CONFIGS / "resnet50.toml")
    assert load_config(Path("small/resnet50")) == load_config(CONFIGS / "small" / "resnet50.toml")
    (tmp_path / "resnet50").write_text("[training]\nepochs = 7\n", encoding="utf-8")
    assert load_config("resnet50").training.epochs == 7  # an existing file precedes a packaged configuration
    with pytest.raises(ConfigError, match=r"configs/resnet5\.toml.*'resnet50'"):
        load_config("configs/resnet5.toml")


def test_a_custom_configuration_starts_from_a_packaged_one(capsys: pytest.CaptureFixture[str]) -> None:
    app(["model", "config", "your-own"], standalone_mode=False)
    assert capsys.readouterr().out == (CONFIGS / "your-own.toml").read_text(encoding="utf-8")


def test_every_architecture_is_listed_with_its_weights_and_licence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app(["model", "list"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ARCHITECTURES)
    assert all(ENCODER_LICENCES[system.encoder] in printed for system in ARCHITECTURES.values())


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.toml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_a_configuration_lists_all_settings_and_their_source(path: Path) -> None:
    config = load_config(path)
    system = get_architecture(config.model)
    text = path.read_text(encoding="utf-8")
    assert "our choice" in text.lower()
    assert f"reactometer train configs/{path.relative_to(CONFIGS)}" in text
    if path.stem in ARCHITECTURES and path.parent == CONFIGS:
        assert config.model.encoder == system.encoder
        assert ENCODER_LICENCES[system.encoder] in text or path.stem == "multimodal"
