"""Without the starter model: an error names its installation, and other models use any sound as a voice."""

from __future__ import annotations

import math
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from reactometer.cli.app import main
from reactometer.config import Config
from reactometer.data.cache import PreparedSet
from reactometer.errors import WeightsError
from reactometer.evaluation import screening_fit
from reactometer.inference.checkpoint import load_model
from reactometer.inference.predictor import predict_files
from reactometer.inference.screening import load_screening, save_screening
from reactometer.media.speech import speech_share
from reactometer.training.train import train

pytestmark = pytest.mark.usefixtures("no_starter")
INSTALL = r"pip install 'reactometer\[starter\]', or in a checkout: pip install \./starter"


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_a_command_without_a_model_names_the_installation(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reactometer", command, "video.mp4"])
    with pytest.raises(SystemExit, match="2"):
        main()
    message = capsys.readouterr().err
    assert message.startswith(
        "error: the starter model is not installed. hint: pip install 'reactometer[starter]'"
    )
    assert len(message.splitlines()) == 1


def test_training_on_its_backbone_names_the_installation_before_anything_is_prepared(
    small_config: Config, tmp_path: Path
) -> None:
    model = small_config.model.model_copy(update={"encoder": "starter"})
    data = small_config.data.model_copy(update={"cache": tmp_path / "prepared"})
    with pytest.raises(WeightsError, match=INSTALL):
        train(config=small_config.model_copy(update={"model": model, "data": data}), progress=False)
    assert not (tmp_path / "prepared").exists()


def test_a_model_that_ignores_sounds_without_speech_warns_once_and_uses_them(
    model_folder: Path, simulated: Path
) -> None:
    with pytest.warns(UserWarning, match=rf"Any sound is used as a voice.*{INSTALL}"):
        loaded = load_model(model_folder)
    clip = min((simulated / "test" / "mp4").iterdir())
    with warnings.catch_warnings(action="error"):
        (prediction,) = predict_files([clip], loaded, progress=False)
    assert "voice not used: no speech" not in prediction.warnings
    assert prediction.status == "ok"


def test_a_model_fitted_without_the_detector_needs_none(
    model_folder: Path, prepared: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening_fit, "MAX_PEOPLE", 4)
    assert math.isnan(speech_share(np.ones(16_000, np.float32)))
    with pytest.warns(UserWarning):
        loaded = load_model(model_folder)
    with pytest.warns(UserWarning, match=rf"any sound as a voice.*{INSTALL}"):
        screening = screening_fit.fit_screening(loaded, prepared)
    assert screening.min_speech == 0.0
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    save_screening(folder, screening)
    with warnings.catch_warnings(action="error"):
        load_model(folder)
    assert load_screening(folder, loaded.networks.inputs["face"].feature_size)
