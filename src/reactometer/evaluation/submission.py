"""Write predictions for the test split in a challenge's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from reactometer.errors import ModelError, OutputError
from reactometer.evaluation.evaluate import choose_split, open_for_model
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.scoring import score_split
from reactometer.io import write_atomic
from reactometer.labels import EMI, HUME_REACTION

ID_COLUMNS = {HUME_REACTION: "File_ID", EMI: "Filename"}
"""Name of the id column by challenge; the label set identifies the challenge."""


def submission(model: LoadedModel | Path | str, data: Path | str, out: Path | str, *, progress: bool = True) -> Path:
    """Predict the test split and write the challenge's file.

    The file has one row per test clip, sorted by id, and one column per label in the challenge's order. Ids are written
    as in the dataset. A clip without a usable face or voice, or an unreadable one, gets the training mean.

    Args:
        model: a checkpoint, or a loaded model; its labels identify the challenge.
        data: the dataset, or a folder prepared before; its test labels may be withheld.
        out: the CSV file to write.
        progress: show bars on standard error.

    Raises:
        ModelError: the labels are those of no challenge.
        DataError: the dataset has no test clips.
        OutputError: ``out`` does not end in .csv, or cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() != ".csv":
        raise OutputError(f"{out}: a submission is a CSV file", got=out.suffix or "no suffix", expected=".csv")
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    if loaded.labels not in ID_COLUMNS:
        raise ModelError(
            "the model's labels are those of no challenge",
            got=", ".join(loaded.labels),
            expected=" or ".join(", ".join(labels) for labels in ID_COLUMNS),
            fix="For a table of predictions: reactometer evaluate DATA --model MODEL --out FOLDER",
        )
    prepared = open_for_model(loaded, data, progress=progress)
    ids = [row.clip.clip_id for row in prepared.split(choose_split(prepared, "test"))]
    scores, _ = score_split(loaded, prepared, "test", progress=progress)
    intensities = np.array([score.intensities for score in scores], dtype=np.float32)  # (clips, L) in [0, 1]
    table = pd.DataFrame(intensities, columns=list(loaded.labels))
    table.insert(0, ID_COLUMNS[loaded.labels], ids)
    table = table.drop_duplicates(subset=table.columns[0])  # of a duplicate id, the first row counts
    table = table.sort_values(by=table.columns[0])
    return write_atomic(out, table.to_csv(index=False, float_format="%.6f"))
