"""The audit finds what was planted, and nothing where nothing was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reactometer.data.cache import PreparedSet
from reactometer.data.prepare import prepare
from reactometer.evaluation.audit import audit
from reactometer.labels import HUME_REACTION


def test_a_clean_data_set_has_no_leak_and_its_facts_are_its_tables(
    prepared: PreparedSet, tmp_path: Path
) -> None:
    result = audit(prepared.folder, out=tmp_path / "audit.json", progress=False)
    assert result.leaks == ()
    assert result.limitations == ()
    content = json.loads((tmp_path / "audit.json").read_text())
    for split in ("train", "val", "test"):
        rows, summary = prepared.split(split), content["splits"][split]
        values = np.array([row.clip.labels for row in rows])
        assert (summary["n_clips"], summary["n_labelled"], summary["n_failed"]) == (len(rows), len(rows), 0)
        assert summary["n_without_face"] == sum(row.n_faces == 0 for row in rows)
        assert summary["n_without_sound"] == sum(not row.has_sound for row in rows)
        np.testing.assert_allclose(summary["mean"], values.mean(0))
    train, val = (np.array([row.clip.labels for row in prepared.split(name)]) for name in ("train", "val"))
    np.testing.assert_allclose(result.splits["val"].drift, (val.mean(0) - train.mean(0)) / train.std(0))
    assert result.splits["train"].drift == (0.0,) * 7
    assert result.length_baseline is not None
    assert result.length_split == "val"
    np.testing.assert_allclose(result.to_pandas().loc["val", list(HUME_REACTION)].astype(float), val.mean(0))
    assert repr(result) == "Audit(40 clips, leaks: 0)"
    assert "<td>24</td>" in result._repr_html_()


@pytest.mark.slow
def test_planted_leaks_are_each_named_with_their_size(excerpt: Callable[..., Path], tmp_path: Path) -> None:
    """A person and labels of train in val, a file of train in val, a broken one."""
    data = excerpt(train=12, val=5, test=4)
    table = pd.read_csv(data / "data_info.csv", dtype=str)
    train, val, test = (table.index[table.Split == split].tolist() for split in ("Train", "Val", "Test"))
    files = {
        row: data / table.Split[row].lower() / "mp4" / f"{table.File_ID[row].strip('[]')}.mp4"
        for row in table.index
    }
    shutil.copy(files[train[0]], files[val[0]])
    files[train[1]].write_bytes(b"broken")
    table.loc[val[1], "Person"] = table.Person[train[2]]
    watched = np.random.default_rng(0).uniform(size=(4, 7)).round(4).astype(str)
    table.loc[train[:4], list(HUME_REACTION)] = table.loc[val[:4], list(HUME_REACTION)] = watched
    table.loc[test, "Stimulus"] = ""
    table.to_csv(data / "data_info.csv", index=False)
    prepare(data, tmp_path / "cache", progress=False, workers=1)
    result = audit(tmp_path / "cache", progress=False)
    leaks = {(leak.type, leak.splits[1]): leak for leak in result.leaks}
    assert set(leaks) >= {("person", "val"), ("label vector", "val"), ("file", "val")}
    assert ("file", "test") not in leaks
    assert leaks["person", "val"].examples == (table.Person[train[2]],)
    assert leaks["label vector", "val"].n_clips >= 4
    assert leaks["file", "val"].examples == (table.File_ID[train[0]],)
    assert ("stimulus", "test") not in leaks
    assert result.splits["train"].n_failed == 1
    assert any(
        text.startswith(f"stimulus unknown for {len(test)} of 21 clips") for text in result.limitations
    )
    assert "1 clips could not be read" in result.limitations


def test_features_have_no_media_and_length_can_give_labels_away(tmp_path: Path) -> None:
    """A row a step; what was watched decides the length and the labels."""
    generator = np.random.default_rng(0)
    rows = []
    for clip in range(150):
        watched = int(generator.integers(3))
        labels = {"Joy": (0.1, 0.5, 0.9)[watched], "Fear": (0.8, 0.3, 0.6)[watched]}
        split = ("train", "train", "val")[clip % 3]
        steps = [{"time_s": 0.5 * step, "AU1": generator.normal()} for step in range(4 * (watched + 1))]
        rows += [{"clip": f"c{clip}", "split": split, **step, **labels} for step in steps]
    pd.DataFrame(rows).to_parquet(tmp_path / "features.parquet")
    result = audit(tmp_path / "features.parquet", features={"face": "AU*"}, progress=False)
    assert result.length_baseline is not None
    assert result.length_baseline.low > 0.9
    assert result.leaks == ()  # three coarse label vectors tell no stimulus
    assert result.label_vectors.shared == {"val": 1.0}
