"""Cross-validation: each clip is predicted by the model that held it out, and a stopped run resumes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from reactometer.data.cache import PreparedSet, write_index
from reactometer.data.splits import assign_folds
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.evaluation.evaluate import evaluate
from reactometer.inference.conformal import load_uncertainty
from reactometer.training.crossval import crossval

pytestmark = pytest.mark.slow


def test_each_clip_is_predicted_by_the_model_that_held_it_out(
    toml: Path, prepared: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [f'data.path="{prepared.folder}"', "model.frozen=true"]
    out = tmp_path / "cv"
    with monkeypatch.context() as patch:  # killed in the second fold
        patch.setattr("reactometer.training.crossval.join_models", None)
        with pytest.raises(TypeError):
            crossval(toml, out, overrides, folds=3, progress=False)
    first = (out / "fold0of3" / "model" / "weights.safetensors").stat()
    evaluation = crossval(toml, out, overrides, folds=3, n_resamples=50, progress=False)
    assert (out / "fold0of3" / "model" / "weights.safetensors").stat().st_mtime_ns == first.st_mtime_ns
    labelled = [row.clip for row in prepared.rows if row.clip.labels]
    assert evaluation.metrics.n_clips == len(labelled) == len(evaluation.predictions)
    assert evaluation.overlap.n_val == 0
    fitted = load_uncertainty(out / "model")
    assert fitted is not None
    n_usable = len(labelled) - len(evaluation.without_input)
    assert (fitted.fitted_on["split"], fitted.fitted_on["n_clips"]) == ("out-of-fold", n_usable)
    assert load_uncertainty(out / "fold0of3" / "model") is None
    written = json.loads((out / "metrics.json").read_text())
    assert (written["split"], written["intervals"]["unit"]) == ("out-of-fold", "person")
    assert written["pearson_by_fold"] == pytest.approx(evaluation.pearson_by_fold)
    assert len(evaluation.pearson_by_fold) == 3
    table = pd.read_csv(out / "predictions.csv").set_index("File_ID")
    held_out = [clip.clip_id for clip in assign_folds(labelled, 3, 1, nested=True) if clip.split == "test"]
    member = evaluate(
        out / "fold1of3" / "model", prepared.folder, split="all", in_sample=True, progress=False
    )
    assert member.overlap.n_train > 0
    expected = member.predictions.set_index("File_ID").loc[held_out]
    pd.testing.assert_frame_equal(table.loc[held_out], expected, atol=1e-5, check_dtype=False)
    with pytest.raises(OutputError, match="another configuration"):
        crossval(toml, out, [*overrides, "model.dropout=0.5"], folds=3, progress=False)


def test_people_are_needed_to_leave_one_out(toml: Path, prepared: PreparedSet, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(prepared.folder, tmp_path / "unknown"))
    rows = tuple(replace(row, clip=replace(row.clip, person=None)) for row in prepared.rows)
    write_index(replace(prepared, folder=folder, rows=rows))
    with pytest.raises(ConfigError, match=r"the person of each clip.*0 people.*--folds"):
        crossval(toml, tmp_path / "cv", [f'data.path="{folder}"'], leave_one_person_out=True, progress=False)
    with pytest.raises(ConfigError, match="more folds than people"):
        crossval(toml, tmp_path / "cv", [f'data.path="{prepared.folder}"'], folds=len(rows), progress=False)
    copies = (replace(rows[0], sha256="a" * 64), replace(rows[-1], sha256="a" * 64))
    write_index(replace(prepared, folder=folder, rows=(copies[0], *rows[1:-1], copies[1])))
    with pytest.raises(DataError, match=r"copies of a clip.*file: 1 in"):
        crossval(toml, tmp_path / "cv", [f'data.path="{folder}"'], folds=len(rows) - 5, progress=False)
