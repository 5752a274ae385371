"""A checkpoint in 8 bits is kept or refused by its score; what cannot be exported is refused before any
work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reactometer.data.cache import PreparedSet
from reactometer.data.inputs import MediaReader, split_parts
from reactometer.errors import ModelError, OutputError
from reactometer.inference.checkpoint import join_models, load_model
from reactometer.training import quantise
from reactometer.training.quantise import export


@pytest.mark.slow
def test_an_8_bit_copy_is_written_or_refused_by_its_score(
    model_folder: Path, prepared: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "MAX_LOSS", 2.0)  # a network trained for two epochs may lose anything
    pearson = export(model_folder, prepared.folder, tmp_path / "kept", progress=False)
    single, eight = load_model(model_folder), load_model(tmp_path / "kept")
    assert eight.precision == "int8"
    assert eight.description["proof"] == {**single.description["proof"], "pearson": list(pearson)}
    assert eight.uncertainty == single.uncertainty
    assert not (tmp_path / "kept" / "weights.safetensors").exists()
    sizes = [(folder / "face.onnx").stat().st_size for folder in (tmp_path / "kept", model_folder)]
    assert sizes[0] < 0.6 * sizes[1]
    row = prepared.split("val")[0]
    item = MediaReader(single.sampling)(row, split_parts([row])[0])
    rounded, exact = (
        loaded.networks.encode(item).streams["face"].values.ravel() for loaded in (eight, single)
    )
    assert np.abs(rounded - exact).max() > 1e-5
    assert np.corrcoef(rounded, exact)[0, 1] > 0.98
    monkeypatch.setattr(quantise, "MAX_LOSS", 0.005)
    for after in (0.4949, float("nan")):
        scores = iter([0.5, after])
        monkeypatch.setattr(quantise, "_pearson", lambda *_, scores=scores: next(scores))
        with pytest.raises(ModelError, match=r"in 8 bits.*mean Pearson.*instead of 0\.5000"):
            export(model_folder, prepared.folder, tmp_path / "refused", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


def test_what_cannot_be_exported_is_refused_before_any_work(
    model_folder: Path, features_folder: Path, tmp_path: Path
) -> None:
    both = join_models([features_folder, features_folder], tmp_path / "both")
    for folder, words in ((both, "an ensemble.*reactometer model join"), (features_folder, "no encoder")):
        with pytest.raises(ModelError, match=words):
            export(folder, tmp_path / "nothing", tmp_path / "out", progress=False)
    with pytest.raises(OutputError, match="exists"):
        export(model_folder, tmp_path / "nothing", tmp_path / "both", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["both"]
