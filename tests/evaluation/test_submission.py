"""The file to hand in: what a challenge asks for, from a model to a file."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reactometer.config import Config
from reactometer.data.cache import PreparedSet, write_index
from reactometer.data.prepare import prepare
from reactometer.errors import DataError, ModelError, OutputError
from reactometer.evaluation.evaluate import evaluate, submission
from reactometer.inference.checkpoint import load_model
from reactometer.labels import BASIC, EMI, HUME_REACTION

HEADER = "File_ID," + ",".join(HUME_REACTION)


@pytest.fixture
def withheld(simulated: Path, tmp_path: Path) -> Path:
    """The test part of the small data set as a challenge gives it: without labels; its rows in no order."""
    shutil.copytree(simulated / "test", tmp_path / "data" / "test")
    table = pd.read_csv(simulated / "data_info.csv", dtype=str).query("Split == 'Test'")
    table[list(HUME_REACTION)] = ""
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "data" / "data_info.csv", index=False)
    return tmp_path / "data"


@pytest.mark.slow
def test_the_file_has_the_prediction_of_every_test_clip(
    model_folder: Path, withheld: Path, prepared: PreparedSet, simulated: Path, tmp_path: Path
) -> None:
    """The values are those of ``evaluate`` on the same clips with their labels; a duplicate row counts
    once."""
    broken = sorted((withheld / "test" / "mp4").iterdir())[0]
    broken.write_bytes(b"broken")
    first, *lines = (withheld / "data_info.csv").read_text().splitlines()
    (withheld / "data_info.csv").write_text("\n".join([first, *lines, lines[0]]) + "\n")
    out = submission(model_folder, withheld, tmp_path / "to" / "file.csv", progress=False)
    assert out == tmp_path / "to" / "file.csv"
    assert out.read_text().splitlines()[0] == HEADER
    table = pd.read_csv(out, dtype={"File_ID": str})
    ids = sorted(row.clip.clip_id for row in prepared.split("test"))
    assert list(table["File_ID"]) == ids
    assert all(re.fullmatch(r"\[\d{5}\]", clip_id) for clip_id in ids)
    expected = evaluate(model_folder, prepared.folder, split="test", progress=False).predictions.set_index(
        "File_ID"
    )
    index = ids.index(f"[{broken.stem}]")
    values, expected_values = (
        table[list(HUME_REACTION)].to_numpy(),
        expected.loc[ids, list(HUME_REACTION)].to_numpy(),
    )
    np.testing.assert_allclose(np.delete(values, index, 0), np.delete(expected_values, index, 0), atol=2e-6)
    train = pd.read_csv(simulated / "data_info.csv").query("Split == 'Train'")
    np.testing.assert_allclose(values[index], train[list(HUME_REACTION)].mean(), atol=2e-6)


@pytest.mark.slow
def test_emi_from_its_folder_to_its_file(simulated: Path, small_config: Config, tmp_path: Path) -> None:
    """A model is trained on a folder in EMI's layout; the file goes by its ``Filename``."""
    from reactometer.training.train import train

    videos = sorted(simulated.rglob("*.mp4"))[:12]
    (tmp_path / "emi" / "raw").mkdir(parents=True)
    for index, video in enumerate(videos):
        shutil.copy(video, tmp_path / "emi" / "raw" / f"{index:05}.mp4")
    rows = [
        f"{index:05}," + ",".join(f"{(index * step) % 7 / 7:.3f}" for step in range(1, 7))
        for index in range(12)
    ]
    header = "Filename," + ",".join(EMI)
    for name, part in {
        "train": rows[:6],
        "valid": rows[6:10],
        "test": [row[:5] for row in rows[:9:-1]],
    }.items():
        lines = ["Filename" if name == "test" else header, *part]
        (tmp_path / "emi" / f"{name}_split.csv").write_text("\n".join(lines) + "\n")
    data = prepare(
        tmp_path / "emi", tmp_path / "out", settings=small_config.prepare, workers=1, progress=False
    ).folder
    config = small_config.model_copy(
        update={
            "data": small_config.data.model_copy(update={"path": data}),
            "training": small_config.training.model_copy(update={"epochs": 1, "out": tmp_path / "run"}),
        }
    )
    out = submission(train(config=config, progress=False), data, tmp_path / "emi.csv", progress=False)
    first, *lines = out.read_text().splitlines()
    assert first == "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"
    assert [line[:6] for line in lines] == ["00010,", "00011,"]


def test_labels_of_no_challenge_are_refused(
    model_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    other = replace(load_model(model_folder), labels=BASIC)
    with pytest.raises(ModelError, match=r"labels.*Anger.*reactometer evaluate"):
        submission(other, prepared.folder, tmp_path / "file.csv", progress=False)
    with pytest.raises(OutputError, match=r"file\.txt.*\.csv"):
        submission(model_folder, prepared.folder, tmp_path / "file.txt", progress=False)
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        submission(model_folder, prepared.folder, tmp_path / "taken" / "file.csv", progress=False)
    no_test = Path(shutil.copytree(prepared.folder, tmp_path / "no_test"))
    write_index(
        replace(
            prepared, folder=no_test, rows=tuple(row for row in prepared.rows if row.clip.split != "test")
        )
    )
    with pytest.raises(DataError, match="'test' has no clips"):
        submission(model_folder, no_test, tmp_path / "file.csv", progress=False)
