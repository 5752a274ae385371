"""The configurations that come with the project: each names a system, and the small ones train."""

from __future__ import annotations

from pathlib import Path

import pytest

from reactometer.config import load_config, load_pretrain_config
from reactometer.models.catalogue import list_systems
from reactometer.models.pretrained import PRETRAINED
from reactometer.models.zoo import SYSTEMS, system_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_every_system_has_a_configuration_and_a_small_one() -> None:
    for folder in (CONFIGS, CONFIGS / "small"):
        assert set(SYSTEMS) <= {path.stem for path in folder.glob("*.toml")}


PRETRAIN = sorted((CONFIGS / "pretrain").glob("*.toml"))
TRAIN = sorted(set(CONFIGS.rglob("*.toml")) - set(PRETRAIN))


@pytest.mark.parametrize("path", PRETRAIN, ids=lambda path: path.stem)
def test_a_configuration_of_pretrain_is_whole_and_says_whose_choice_it_is(path: Path) -> None:
    config = load_pretrain_config(path)
    text = path.read_text(encoding="utf-8")
    assert config.backbone.encoder in text
    assert "our choice" in text
    assert f"reactometer pretrain configs/{path.relative_to(CONFIGS)}" in text


@pytest.mark.parametrize("path", TRAIN, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_configuration_is_whole_and_says_whose_choice_it_is(path: Path) -> None:
    config = load_config(path)
    system = system_of(config.model)
    text = path.read_text(encoding="utf-8")
    assert "our choice" in text.lower()
    assert f"reactometer train configs/{path.relative_to(CONFIGS)}" in text
    if path.stem in SYSTEMS and path.parent == CONFIGS:
        assert config.model.encoder == system.encoder
        assert PRETRAINED[system.encoder].licence in text or path.stem == "multimodal"


@pytest.mark.slow
def test_the_catalogue_lists_every_system_with_its_cost() -> None:
    entries = {entry.name: entry for entry in list_systems()}
    assert list(entries) == list(SYSTEMS)
    assert entries["resnet50"].parameters == pytest.approx(23.5e6, rel=0.01)  # He et al. 2016, less the classifier
    assert entries["resnet50"].multiply_adds == pytest.approx(32 * 4.09e9, rel=0.01)
    assert entries["videomae"].multiply_adds == pytest.approx(180e9, rel=0.01)  # Tong et al. 2022, table 8
    assert all(entry.weights.licence for entry in entries.values())
