"""Tables of features, with one row per clip or step, from reading to a trained model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reactometer.config import Config, DataConfig, ModelConfig, TrainingConfig
from reactometer.data import feature_tables
from reactometer.data.cache import PreparedRow, PreparedSet, open_prepared
from reactometer.data.feature_store import open_store
from reactometer.data.feature_tables import prepare_features, read_file_features
from reactometer.data.inputs import Item, split_parts
from reactometer.data.manifest import NO_LABEL
from reactometer.data.prepare import open_data
from reactometer.errors import DataError
from reactometer.evaluation.evaluate import evaluate
from reactometer.inference.checkpoint import join_models, load_model
from reactometer.training.train import train

LABELS = ("Joy", "Fear")


def _table(n_clips: int = 30, steps: int = 1, split: bool = True) -> pd.DataFrame:
    """Clips "000" and so on, two of each person, ``steps`` rows each; the labels follow from the first two
    features."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(n_clips):
        clip_cells: dict[str, object] = {"clip": f"{number:03d}", "person": f"p{number // 2:02d}"}
        if split:
            clip_cells["split"] = ("train", "train", "train", "val", "test")[number // 2 % 5]
        joy, fear = generator.uniform(0.1, 0.9, 2).round(3)
        for step in range(steps):
            values = generator.normal(size=6) * 0.05 + [joy, fear, 0, 0, 1, joy]
            names = ("AU06", "AU12", "pose_x", "pose_y", "voice_pitch", "voice_power")
            row = {**clip_cells, **dict(zip(names, values.round(4), strict=True)), "Joy": joy, "Fear": fear}
            rows.append({**row, "time_s": step * 0.5} if steps > 1 else row)
    return pd.DataFrame(rows)


def _open(path: Path, out: Path, face: str | None = "AU*", voice: str | None = None) -> PreparedSet:
    features = {name: columns for name, columns in (("face", face), ("voice", voice)) if columns}
    return prepare_features(path, out, features, labels=LABELS, progress=False)


def _items(prepared: PreparedSet, rows: Sequence[PreparedRow] | None = None) -> list[Item]:
    """Every part of the clips, in order."""
    rows, read = (
        prepared.rows if rows is None else rows,
        open_store(prepared.folder / "features" / prepared.tables),
    )
    return [read(rows[part.index], part) for part in split_parts(rows)]


def _save(table: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return path


def _config(data: Path, tmp_path: Path, **settings: object) -> Config:
    features = {"face": "AU*,pose_*", "voice": "voice_*"}
    data_settings = {"features": features, "labels": LABELS, **settings}
    return Config(
        data=DataConfig.model_validate({"path": data, "cache": tmp_path / "cache", **data_settings}),
        model=ModelConfig(name="multimodal", hidden=16, layers=1),
        training=TrainingConfig(
            out=tmp_path / "run", epochs=2, batch_size=8, accumulate=1, accelerator="cpu"
        ),
    )


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_a_row_is_a_clip(name: str, tmp_path: Path) -> None:
    table = _table()
    prepared = _open(_save(table, tmp_path / name), tmp_path / "out", voice="voice_*")
    assert prepared.feature_sizes == {"face": 2, "voice": 2}
    assert [row.clip.clip_id for row in prepared.rows] == table["clip"].tolist()  # with their leading zeros
    assert [row.clip.split for row in prepared.rows] == table.split.tolist()
    assert [row.clip.person for row in prepared.rows] == table.person.tolist()
    np.testing.assert_allclose([row.clip.labels or () for row in prepared.rows], table[list(LABELS)])
    faces, voices = (
        np.concatenate(arrays)
        for arrays in zip(
            *((i.streams["face"].values, i.streams["voice"].values) for i in _items(prepared)), strict=True
        )
    )
    np.testing.assert_array_equal(faces, table[["AU06", "AU12"]].to_numpy(np.float32))
    np.testing.assert_array_equal(voices, table[["voice_pitch", "voice_power"]].to_numpy(np.float32))


def test_rows_are_steps_with_their_times(tmp_path: Path) -> None:
    table = _table(n_clips=6, steps=4)
    shuffled = table.sample(frac=1.0, random_state=0).sort_values(
        "time_s", kind="stable"
    )  # clips may be interleaved
    prepared = _open(_save(shuffled, tmp_path / "table.csv"), tmp_path / "out", face="pose_*")
    assert len(prepared.rows) == 6
    for row, item in zip(prepared.rows, _items(prepared), strict=True):
        clip_rows = table[table["clip"] == row.clip.clip_id]
        assert item.streams["face"].times_s.tolist() == [0.0, 0.5, 1.0, 1.5]
        np.testing.assert_array_equal(
            item.streams["face"].values, clip_rows[["pose_x", "pose_y"]].to_numpy(np.float32)
        )
        assert set(item.streams) == {"face"}
        assert (row.n_faces, row.has_sound, row.duration_s) == (4, False, 1.5)


def test_columns_are_sorted_so_that_their_order_in_the_table_has_no_influence(tmp_path: Path) -> None:
    table = _table(n_clips=4)
    prepared = _open(_save(table, tmp_path / "table.csv"), tmp_path / "out", face="pose_y, AU06")
    np.testing.assert_array_equal(
        _items(prepared)[0].streams["face"].values[0], table.loc[0, ["AU06", "pose_y"]].astype(np.float32)
    )


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = _save(_table(n_clips=4), tmp_path / "table.csv")
    with pytest.raises(DataError, match=r"'voice_pich'.*'voice_pitch'"):
        _open(path, tmp_path / "out", voice="voice_pich")
    with pytest.raises(DataError, match="no column matches 'id'"):  # the standard columns are no features
        _open(
            _save(_table(4).rename(columns={"clip": "id"}), tmp_path / "id.csv"), tmp_path / "out", face="id"
        )
    with pytest.raises(DataError, match=r"AU06.*clip or File_ID"):
        _open(_save(_table(4)[["AU06", "Joy"]], tmp_path / "b.csv"), tmp_path / "out")
    with pytest.raises(DataError, match=r"gone\.csv"):
        _open(tmp_path / "gone.csv", tmp_path / "out")
    (tmp_path / "table.parquet").write_text("no", encoding="utf-8")
    with pytest.raises(DataError, match=r"table\.parquet.*CSV or Parquet"):
        _open(tmp_path / "table.parquet", tmp_path / "out")
    with pytest.raises(DataError, match="'Joy'"):
        _open(_save(_table(4).drop(columns="Joy"), tmp_path / "c.csv"), tmp_path / "out")


def test_steps_without_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    table = _table(n_clips=4, steps=4).astype({"AU06": object, "time_s": object})
    table.loc[1, "AU06"] = np.nan
    table.loc[2, "AU06"] = "none"
    table.loc[4, "time_s"] = "soon"
    table.loc[9, "AU06"] = np.inf
    prepared = _open(_save(table, tmp_path / "table.csv"), tmp_path / "out")
    assert [(row.n_faces, row.n_unreadable) for row in prepared.rows] == [(2, 2), (3, 1), (3, 1), (4, 0)]
    first, second, third, _ = _items(prepared)
    assert [item.streams["face"].times_s.tolist() for item in (first, second, third)] == [
        [0, 1.5],
        [0.5, 1.0, 1.5],
        [0, 1.0, 1.5],
    ]
    assert all(np.isfinite(item.streams["face"].values).all() for item in (first, second, third))


def test_an_invalid_clip_has_a_problem(tmp_path: Path) -> None:
    table = _table(n_clips=8).astype({"Fear": object})
    table.loc[0, "Joy"] = 1.5
    table.loc[1, "Fear"] = "much"
    table.loc[2, "split"] = "tast"
    table.loc[3, "clip"] = None
    table.loc[4, ["person", "split"]] = None
    table.loc[5, list(LABELS)] = None
    for name in ("table.csv", "table.parquet"):
        whole = table.astype({"Fear": str}) if name == "table.parquet" else table
        prepared = _open(
            _save(whole.replace("nan", None), tmp_path / name), tmp_path / name.replace(".", "-")
        )
        assert len(prepared.rows) == 8
        problems = [row.clip.problem for row in prepared.rows]
        assert problems[0] == f"label Joy is not a number in [0, 1] (got '1.5'); {NO_LABEL}"
        assert str(problems[1]).startswith("label Fear is not a number in [0, 1] (got 'much')")
        assert problems[2] == "unknown split (got 'tast'; expected train, val or test)"
        assert problems[3] == "empty id"
        assert problems[4:] == [None] * 4
        clip = prepared.rows[4].clip
        assert (clip.person, clip.split) == (None, None)
        assert prepared.rows[5].clip.labels is None
        assert [len(item.streams["face"].values) for item in _items(prepared)] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_split_and_person_may_be_spelt_with_capitals(tmp_path: Path) -> None:
    table = _table(n_clips=8).rename(columns={"clip": "File_ID", "split": "Split", "person": "Person"})
    prepared = _open(_save(table, tmp_path / "table.csv"), tmp_path / "out")
    assert [(row.clip.split, row.clip.person) for row in prepared.rows] == list(
        zip(table.Split, table.Person, strict=True)
    )


def test_a_second_call_reuses_the_store_unless_the_table_changed(tmp_path: Path) -> None:
    path, out = _save(_table(), tmp_path / "table.csv"), tmp_path / "out"
    first = _open(path, out)
    files = {file: file.stat().st_mtime_ns for file in out.rglob("*.*")}
    again = _open(path, out)
    assert [row.clip for row in again.rows] == [
        row.clip.__class__(**{**vars(row.clip), "path": path}) for row in first.rows
    ]
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.*")} == files
    other = _open(path, out, face="pose_*,AU06")
    assert _items(other)[0].streams["face"].values.shape == (1, 3)
    assert _items(_open(path, out))[0].streams["face"].values.shape == (1, 2)
    table = _table()
    table["AU06"] += 1.0
    _save(table, path)
    os.utime(path, ns=(1, 1))
    np.testing.assert_allclose(
        _items(_open(path, out))[3].streams["face"].values[0], table.loc[3, ["AU06", "AU12"]].astype(float)
    )


def test_a_stopped_run_leaves_no_mixture_of_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    path, out = _save(_table(n_clips=5), tmp_path / "table.csv"), tmp_path / "out"
    expected = [item.streams["face"].values.tolist() for item in _items(_open(path, out))]

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(feature_tables, "write_index", stop)
        with pytest.raises(KeyboardInterrupt):
            _open(path, out, face="pose_*,AU12")
    assert [item.streams["face"].values.tolist() for item in _items(_open(path, out))] == expected


def test_a_long_sequence_is_split_into_parts_without_losing_steps(tmp_path: Path) -> None:
    times_s = np.arange(0, 130.5, 0.5)
    table = pd.DataFrame({"clip": "long", "time_s": times_s, "AU06": times_s, "Joy": 0.5, "Fear": 0.1})
    short = table[table.time_s <= 60].assign(
        clip="short", time_s=table.time_s.where(table.time_s < 60, 60.05)
    )
    prepared = _open(_save(pd.concat([table, short]), tmp_path / "table.csv"), tmp_path / "out", face="AU06")
    parts = split_parts(prepared.rows)
    assert [(part.index, part.start_s, part.end_s) for part in parts] == [
        (0, 0.0, 60.0),
        (0, 60.0, 120.0),
        (0, 120.0, 130.0),
        (1, 0.0, 60.0),
    ]
    items = _items(prepared)
    assert (
        np.concatenate([item.streams["face"].values[:, 0] for item in items[:3]]).tolist() == times_s.tolist()
    )
    assert [item.streams["face"].times_s.max() for item in items[:3]] == [59.5, 59.5, 10.0]
    assert len(items[3].streams["face"].times_s) == len(short)


@pytest.mark.slow
def test_a_table_trains_and_scores(tmp_path: Path) -> None:
    """A clip without a number gets the training mean, and twice the same minute the score of the one."""
    table = _table(steps=3)
    table.loc[
        table["clip"] == "008", [column for column in table if str(column)[:2] in ("AU", "po", "vo")]
    ] = np.nan
    minute = table[table["clip"] == "009"]
    later = minute.assign(time_s=minute.time_s + 60.0)
    path = _save(
        pd.concat([table, minute.assign(clip="twice"), later.assign(clip="twice")]), tmp_path / "table.csv"
    )
    folder = train(config=_config(path, tmp_path), progress=False)
    streams = load_model(folder).networks.inputs
    assert {name: len(stream.powers) for name, stream in streams.items()} == {"face": 4, "voice": 2}
    proof = json.loads((folder / "model.json").read_text())["proof"]  # powers in training and in prediction
    assert max(proof["differences"].values()) < 1e-5
    evaluation = evaluate(folder, path, progress=False)
    assert evaluation.split == "test"
    assert evaluation.without_input == ("008",)
    assert evaluation.metrics.n_clips == 7
    scores = evaluation.predictions.set_index("File_ID")
    np.testing.assert_allclose(
        scores.loc["008"], table[table.split == "train"][list(LABELS)].mean(), atol=1e-6
    )
    np.testing.assert_allclose(scores.loc["twice"], scores.loc["009"], atol=1e-6)
    assert scores.drop(index=["008", "twice"]).std().min() > 0


@pytest.mark.slow(20)
def test_members_of_an_ensemble_may_have_different_streams(tmp_path: Path) -> None:
    """Each clip has the mean of the members whose stream it has."""
    table = _table()
    table.loc[table["clip"] == "008", [name for name in table if str(name)[:2] in ("AU", "po")]] = np.nan
    path, folders = _save(table, tmp_path / "table.csv"), []
    for stream in ("face", "voice"):
        config = _config(path, tmp_path)
        model = config.model.model_copy(update={"modalities": [stream]})
        training = config.training.model_copy(update={"out": tmp_path / stream})
        folders.append(
            train(config=config.model_copy(update={"model": model, "training": training}), progress=False)
        )
    folders.append(join_models(folders, tmp_path / "joint"))
    face, voice, joint = (
        evaluate(folder, path, progress=False).predictions.set_index("File_ID") for folder in folders
    )
    expected = (face + voice) / 2
    expected.loc["008"] = voice.loc["008"]
    np.testing.assert_allclose(joint, expected, atol=1e-6)
    assert joint.std().min() > 0


def test_a_folder_with_other_files_is_unchanged(tmp_path: Path) -> None:
    path = _save(_table(n_clips=4), tmp_path / "table.csv")
    (tmp_path / "manifest.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"other files.*--out"):
        _open(path, tmp_path)
    assert (tmp_path / "manifest.csv").read_text(encoding="utf-8") == "mine"


def test_separators_at_the_ends_of_rows_do_no_harm(tmp_path: Path) -> None:
    """pandas would take the first column for the rows' names, and every other for its neighbour."""
    (tmp_path / "table.csv").write_text("clip,AU01,Joy,Fear\na,1,0.5,0.5,\nb,2,0.5,0.25,\n")
    first, second = _open(tmp_path / "table.csv", tmp_path / "out").rows
    assert (first.clip.clip_id, second.clip.labels) == ("a", (0.5, 0.25))


def test_media_and_features_of_a_dataset_have_separate_folders(tmp_path: Path) -> None:
    """Each has another folder in the user's cache; in a folder named twice, the last one is valid."""
    data = _save(_table(n_clips=5).rename(columns={"clip": "path"}), tmp_path / "table.csv")
    face = DataConfig(path=data, features={"face": "AU*"}, labels=LABELS)
    voice = DataConfig(path=data, features={"voice": "voice_*"}, labels=LABELS)
    one, other = open_data(face, progress=False), open_data(voice, progress=False)
    assert one.folder != other.folder
    assert open_prepared(one.folder).feature_sizes == {"face": 2}
    again = open_data(DataConfig(path=one.folder), progress=False)  # a prepared folder is known as such
    assert [len(item.streams["face"].values) for item in _items(again)] == [1] * 5
    media = open_data(DataConfig(path=data, cache=one.folder, labels=LABELS), progress=False)
    assert not media.feature_sizes
    assert open_data(face.model_copy(update={"cache": one.folder}), progress=False).feature_sizes


def test_tables_as_openface_writes_them_are_joined_by_the_name_of_the_file(tmp_path: Path) -> None:
    """One table per clip in a folder, spaces before names, and 0 in ``success`` for frames without a face."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(
            "frame, timestamp, success, AU01_r\n1, 0.0, 1, 0.5\n2, 0.04, 0, 0.0\n3, 0.08, 1, 1.5\n"
        )
    features = read_file_features([tmp_path], {"au": ("AU01_r",)}, ["clips/a.mp4", "c.mp4"])
    assert features.keys() == {"clips/a.mp4"}
    steps = features["clips/a.mp4"]["au"]
    assert steps.values.tolist() == [[0.5], [1.5]]
    assert steps.times_s == pytest.approx([0.0, 0.08])
    with pytest.raises(DataError, match=r"'AU02_r'.*'AU01_r'"):
        read_file_features([tmp_path], {"au": ("AU02_r",)}, ["a.mp4"])
    with pytest.raises(DataError, match=r"no row names a clip.*c\.mp4"):
        read_file_features([tmp_path], {"au": ("AU01_r",)}, ["c.mp4"])


def test_frames_of_py_feat_are_spread_over_their_second(tmp_path: Path) -> None:
    table = pd.DataFrame({"input": "/videos/a.mp4", "frame": range(6), "AU01": np.arange(6.0)})
    table["approx_time"] = ["00:00"] * 4 + ["00:01"] * 2
    table.loc[1, "AU01"] = np.nan
    steps = read_file_features([_save(table, tmp_path / "fex.csv")], {"au": ("AU01",)}, ["a.mp4"])["a.mp4"]
    assert steps["au"].times_s.tolist() == [0.0, 0.5, 0.75, 1.0, 1.25]


def test_a_table_without_times_belongs_to_every_window(tmp_path: Path) -> None:
    table = pd.DataFrame({"clip": ["a"], "text_0": [1.0], "text_1": [2.0]})
    columns = {"text": ("text_0", "text_1")}
    text = read_file_features([_save(table, tmp_path / "text.parquet")], columns, ["a.mp4"])["a.mp4"]["text"]
    for start_s in (0.0, 59.0):
        window = text.between(start_s, start_s + 2.0)
        assert (window.values.tolist(), window.times_s.tolist()) == ([[1.0, 2.0]], [0.0])


def test_each_stream_of_a_file_comes_from_the_table_that_has_it(tmp_path: Path) -> None:
    text = _save(pd.DataFrame({"clip": ["a"], "text_0": [1.0]}), tmp_path / "text.parquet")
    units = _save(pd.DataFrame({"clip": ["a", "b"], "AU01": [2.0, 3.0]}), tmp_path / "units.csv")
    columns = {"units": ("AU01",), "text": ("text_0",)}
    read = read_file_features([text, units], columns, ["a.mp4", "b.mp4"])
    assert {path: sorted(streams) for path, streams in read.items()} == {
        "a.mp4": ["text", "units"],
        "b.mp4": ["units"],
    }
    with pytest.raises(DataError, match=r"stream 'units'.*no column 'AU01' in.*text\.parquet"):
        read_file_features([text], columns, ["a.mp4"])


@pytest.mark.slow
def test_tables_beside_media_are_streams_of_one_model(
    small_config: Config, prepared: PreparedSet, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    ids = [row.clip.clip_id.strip("[]") for row in prepared.rows]
    table = pd.DataFrame(generator.normal(size=(len(ids), 4))).add_prefix("text_").assign(clip=ids)
    table.iloc[:-1].to_parquet(tmp_path / "text.parquet")
    data = small_config.data.model_copy(
        update={"path": prepared.folder, "features": {"text": f"{tmp_path / 'text.parquet'}:text_*"}}
    )
    with pytest.warns(UserWarning, match=f"no rows for 1 of {len(ids)} clips"):
        opened = open_data(data, small_config.prepare, progress=False)
    assert (opened.media, opened.feature_sizes) == (("face", "voice"), {"text": 4})
    store = open_store(opened.folder / "features" / opened.tables)
    parts = split_parts(opened.rows)
    has = [store(opened.rows[part.index], part).has("text") for part in parts]
    assert has == [part.index < len(ids) - 1 for part in parts]
