"""A model's card, written where it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reactometer.cli import app
from reactometer.errors import OutputError
from reactometer.evaluation.evaluate import evaluate
from reactometer.models.card import card
from reactometer.models.folder import load_model


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    """A model folder of one's own."""
    return Path(shutil.copytree(model_folder, tmp_path / "mine"))


@pytest.mark.slow
def test_it_holds_what_was_measured_after_training(model: Path, model_folder: Path, tmp_path: Path) -> None:
    prepared = Path(load_model(model_folder).config.data.cache or "")
    evaluation = evaluate(model, prepared, split="all", out=tmp_path / "scores", progress=False)
    result = CliRunner().invoke(app, ["card", str(model), "--scores", str(tmp_path / "scores")])
    assert result.exit_code == 0
    text = (model / "README.md").read_text(encoding="utf-8")
    assert "# mine" in text
    assert "reactometer pull" not in text  # it is in no repository
    assert f"{evaluation.metrics.n_clips} clips of the all split, among them those that it was trained on" in text
    assert f"| {evaluation.metrics.mae[0]:.4f} |" in text
    assert load_model(model).labels  # it is still a whole model folder


def test_a_card_that_somebody_edited_stays(model: Path) -> None:
    (model / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="is there already"):
        card(model)
    assert (model / "README.md").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("content", [None, "no JSON", "[]", json.dumps({"pearson": {"Joy": 0.5}})])
def test_what_are_no_scores_of_this_model_is_refused(model: Path, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "metrics.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(OutputError, match="scores"):
        card(model, file)
    assert not (model / "README.md").exists()
