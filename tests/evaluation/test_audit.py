"""The audit finds what was planted, and nothing where nothing was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from reactometer.data.cache import PreparedSet
from reactometer.data.fingerprints import ALIKE, Trace, correlate, find_alike
from reactometer.data.prepare import prepare
from reactometer.evaluation.audit import audit
from reactometer.labels import HUME_REACTION


def _reencode(source: Path, target: Path) -> None:
    """Three quarters of the size, and other encoders' settings."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        video = read.streams.video[0]
        coded = write.add_stream("libx264", rate=video.average_rate, options={"crf": "30", "preset": "veryfast"})
        coded.width, coded.height, coded.pix_fmt = video.width * 3 // 8 * 2, video.height * 3 // 8 * 2, "yuv420p"
        spoken = write.add_stream("aac", rate=16_000, options={"b": "24k"}, layout="mono")
        for frame in read.decode():
            if isinstance(frame, av.VideoFrame):
                write.mux(coded.encode(frame.reformat(coded.width, coded.height)))
            elif isinstance(frame, av.AudioFrame):
                write.mux(spoken.encode(frame))
        write.mux(coded.encode(None))
        write.mux(spoken.encode(None))


def test_a_clean_data_set_has_no_leak_and_its_facts_are_its_tables(prepared: PreparedSet, tmp_path: Path) -> None:
    found = audit(prepared.folder, out=tmp_path / "audit.json", progress=False)
    assert found.leaks == ()
    assert found.unseen == ()
    said = json.loads((tmp_path / "audit.json").read_text())
    for split in ("train", "val", "test"):
        rows, own = prepared.split(split), said["splits"][split]
        values = np.array([row.clip.labels for row in rows])
        assert (own["n_clips"], own["n_labelled"], own["n_failed"]) == (len(rows), len(rows), 0)
        assert own["n_without_face"] == sum(row.n_faces == 0 for row in rows)
        assert own["n_without_sound"] == sum(not row.has_sound for row in rows)
        for name, expected in (("mean", values.mean(0)), ("std", values.std(0)), ("low", values.min(0))):
            np.testing.assert_allclose(own[name], expected)
    train, val = (np.array([row.clip.labels for row in prepared.split(name)]) for name in ("train", "val"))
    np.testing.assert_allclose(found.splits["val"].drift, (val.mean(0) - train.mean(0)) / train.std(0))
    assert found.splits["train"].drift == (0.0,) * 7
    first, second, r = found.correlations[0]
    values = np.array([row.clip.labels for row in prepared.rows])
    places = [HUME_REACTION.index(first), HUME_REACTION.index(second)]
    assert r == pytest.approx(np.corrcoef(values[:, places].T)[0, 1])
    assert set(found.cues) == {"clip length", "sound level", "brightness"}
    assert found.cue_split == "val"


@pytest.mark.slow
def test_planted_leaks_are_each_named_with_their_size(excerpt: Callable[..., Path], tmp_path: Path) -> None:
    """A person and labels of train in val, a file of train in val, a re-encoded one in test, a broken one."""
    data = excerpt(train=12, val=5, test=4)
    table = pd.read_csv(data / "data_info.csv", dtype=str)
    train, val, test = (table.index[table.Split == split].tolist() for split in ("Train", "Val", "Test"))
    files = {
        row: data / table.Split[row].lower() / "mp4" / f"{table.File_ID[row].strip('[]')}.mp4" for row in table.index
    }
    shutil.copy(files[train[0]], files[val[0]])
    speaking = next(row for row in train[5:] if len(av.open(str(files[row])).streams.audio))
    _reencode(files[speaking], files[test[0]])
    files[train[1]].write_bytes(b"broken")
    table.loc[val[1], "Person"] = table.Person[train[2]]
    watched = np.random.default_rng(0).uniform(size=(4, 7)).round(4).astype(str)
    table.loc[train[:4], list(HUME_REACTION)] = table.loc[val[:4], list(HUME_REACTION)] = watched
    table.loc[test, "Stimulus"] = ""
    table.to_csv(data / "data_info.csv", index=False)
    prepare(data, tmp_path / "cache", progress=False, workers=1)
    found = audit(tmp_path / "cache", progress=False)
    leaks = {(leak.kind, leak.splits[1]): leak for leak in found.leaks}
    planted = {
        ("person", "val"),
        ("label vector", "val"),
        ("file", "val"),
        ("near-duplicate", "val"),
        ("near-duplicate", "test"),
    }
    assert set(leaks) >= planted
    assert leaks["person", "val"].examples == (table.Person[train[2]],)
    assert leaks["label vector", "val"].n_clips >= 4
    assert leaks["file", "val"].examples == (f"{table.File_ID[train[0]]} = {table.File_ID[val[0]]}",)
    assert leaks["near-duplicate", "test"].examples == (f"{table.File_ID[speaking]} = {table.File_ID[test[0]]}",)
    assert ("stimulus", "test") not in leaks
    assert found.splits["train"].n_failed == 1
    assert any(text.startswith(f"stimulus unknown for {len(test)} of 21 clips") for text in found.unseen)
    assert "1 clips could not be read" in found.unseen


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
    cache = tmp_path / "cache"
    found = audit(tmp_path / "features.parquet", cache=cache, face_features="AU*", progress=False)
    assert set(found.cues) == {"clip length"}
    assert found.cues["clip length"].low > 0.9
    assert found.alike_within == {}
    assert any("features instead of media" in text for text in found.unseen)
    assert found.leaks == ()  # three coarse label vectors tell no stimulus
    assert found.vectors.shared == {"val": 1.0}
    assert audit(cache, progress=False) == found


def test_pairs_are_those_whose_pictures_and_sound_agree(prepared: PreparedSet) -> None:
    """Against NumPy's correlation; a clip of another length is in no pair, nor one that nothing is known of."""
    generator = np.random.default_rng(1)
    pictures, sounds = generator.normal(size=(2, 30, 400)).astype(np.float32)
    for one, other, noise in ((3, 17, 1.5), (4, 18, 0.1), (5, 19, 0.1), (6, 20, 0.6)):
        pictures[other] = pictures[one] + noise * generator.normal(size=400)
    for one, other in ((3, 17), (5, 19), (8, 21)):
        sounds[other] = sounds[one] + 0.1 * generator.normal(size=400)
    traces: list[Trace | None] = [Trace(0.5, -20.0, *own) for own in zip(pictures, sounds, strict=True)]
    traces[7] = None
    traces[20] = Trace(0.5, np.nan, pictures[20], None)
    rows = [replace(row, duration_s=9.0 if place == 19 else 1.5) for place, row in enumerate(prepared.rows[:30])]
    ((_, _, found, heard),) = [
        tuple(values[(one == 3) & (other == 17)] for values in (one, other, picture, sound))
        for one, other, picture, sound in correlate(rows, traces)
    ]
    assert found[0] == pytest.approx(np.corrcoef(pictures[3], pictures[17])[0, 1], abs=0.05)
    assert heard[0] == pytest.approx(np.corrcoef(sounds[3], sounds[17])[0, 1], abs=0.05)
    assert found[0] < ALIKE < (found[0] + heard[0]) / 2
    assert find_alike(rows, traces) == [(3, 17), (4, 18), (6, 20), (8, 21)]
