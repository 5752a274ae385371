"""The feature store: parts are read back exactly, recomputed only if necessary, and never loaded all at
once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, current_thread

import numpy as np
import pytest

from item_of import item_of
from reactometer.data.cache import PreparedRow
from reactometer.data.feature_store import FeatureStore, open_store, part_key, write_store
from reactometer.data.inputs import ClipPart, Item, all_steps, split_parts
from reactometer.errors import DataError
from reactometer.types import Clip

SIZES = {"face": 4, "voice": 3}


@pytest.fixture
def rows(tmp_path: Path) -> list[PreparedRow]:
    """Eight clips, the third of two minutes and a half, the last one not readable."""
    clips = [Clip(f"clip {number}", tmp_path / f"{number}.npz") for number in range(8)]
    for clip in clips:
        clip.path.write_text(clip.clip_id, encoding="utf-8")
    readable = [
        PreparedRow(clip, clip.path, duration_s=150.0 if clip == clips[2] else 3.0) for clip in clips[:7]
    ]
    return [*readable, PreparedRow(replace(clips[7], problem="broken"))]


def _item(part: ClipPart) -> Item:
    """Return an item that depends only on the part; clip 1 has no face, clip 5 no voice."""
    generator = np.random.default_rng((part.index, int(part.start_s)))
    n_frames, n_steps = (int(number) for number in generator.integers(2, 9, 2))
    steps = 0 if part.index == 5 else n_steps
    return item_of(
        frames=generator.normal(size=(n_frames, 4)).astype(np.float32),
        face_mask=np.full(n_frames, part.index != 1) & (np.arange(n_frames) != 1),
        times_s=np.sort(generator.uniform(0, 60, n_frames)).astype(np.float32),
        voice=generator.normal(size=(steps, 3)).astype(np.float32),
        voice_times_s=np.arange(steps, dtype=np.float32),
    )


def _read(_row: PreparedRow, part: ClipPart, _rng: object) -> Item:
    return _item(part)


def _write(
    folder: Path, rows: Sequence[PreparedRow], made: list[ClipPart] | None = None, source: str = ""
) -> FeatureStore:
    def read(_row: PreparedRow, part: ClipPart, _rng: object) -> Item:
        if made is not None:
            made.append(part)
        return _item(part)

    return write_store(folder, rows, read, SIZES, source=source)


def _check(store: FeatureStore, rows: Sequence[PreparedRow]) -> None:
    for part in split_parts(rows):
        row, item = rows[part.index], store(rows[part.index], part)
        expected = _item(part)
        seen = (
            expected.streams["face"].mask if row.file else np.zeros(len(expected.streams["face"].mask), bool)
        )
        heard = slice(None if row.file else 0)
        assert item.streams["face"].mask.all()
        assert item.streams["face"].values.tolist() == expected.streams["face"].values[seen].tolist()
        assert item.streams["face"].times_s.tolist() == expected.streams["face"].times_s[seen].tolist()
        assert item.streams["voice"].values.tolist() == expected.streams["voice"].values[heard].tolist()
        assert item.streams["voice"].times_s.tolist() == expected.streams["voice"].times_s[heard].tolist()
        assert (item.streams["face"].values.shape[1], item.streams["voice"].values.shape[1]) == (4, 3)


def test_stored_items_are_read_back_unchanged(rows: list[PreparedRow], tmp_path: Path) -> None:
    store = _write(tmp_path / "store", rows)
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 9  # 7 readable clips, one of 3 parts
    _check(store, rows)
    _check(open_store(tmp_path / "store"), rows)


def test_a_clip_that_could_not_be_read_does_not_hide_one_with_the_same_id(
    rows: list[PreparedRow], tmp_path: Path
) -> None:
    """As where a data set lists an id twice: the first row is used, the second one is a problem without a
    file."""
    twice = PreparedRow(replace(rows[0].clip, problem="duplicate id"))
    both = [rows[0], twice]
    store = _write(tmp_path / "store", both)
    part = split_parts(both)[0]
    assert (
        store(rows[0], part).streams["face"].values.tolist()
        == _item(part).streams["face"].values[_item(part).streams["face"].mask].tolist()
    )
    assert len(store(twice, part).streams["face"].values) == 0


def test_existing_files_are_reused(rows: list[PreparedRow], tmp_path: Path) -> None:
    made: list[ClipPart] = []
    _write(tmp_path / "store", rows, made)
    assert len(made) == 9
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "store").glob("*.safetensors")}
    _check(_write(tmp_path / "store", rows, made), rows)
    assert len(made) == 9
    assert {
        file.name: file.stat().st_mtime_ns for file in (tmp_path / "store").glob("*.safetensors")
    } == before


def test_a_stopped_run_resumes_and_ends_the_same(rows: list[PreparedRow], tmp_path: Path) -> None:
    def stopped(_row: PreparedRow, part: ClipPart, _rng: object) -> Item:
        if part.index == 3:
            raise KeyboardInterrupt
        return _item(part)

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "store", rows, stopped, SIZES)
    with pytest.raises(DataError, match="no features"):
        open_store(tmp_path / "store")
    made: list[ClipPart] = []
    _check(_write(tmp_path / "store", rows, made), rows)
    assert [part.index for part in made] == [3, 4, 5, 6]
    _write(tmp_path / "whole", rows)
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "store" / file.name).read_bytes()


def test_a_changed_file_is_computed_again_and_no_other(rows: list[PreparedRow], tmp_path: Path) -> None:
    _write(tmp_path / "store", rows)
    rows[4].clip.path.write_text("changed", encoding="utf-8")
    made: list[ClipPart] = []
    _check(_write(tmp_path / "store", rows, made), rows)
    assert [part.index for part in made] == [4]


def test_changed_inputs_recompute_all_features(rows: list[PreparedRow], tmp_path: Path) -> None:
    made: list[ClipPart] = []
    _write(tmp_path / "store", rows, made, source="AU*")
    _write(tmp_path / "store", rows, made, source="pose_*")
    assert len(made) == 18


def test_files_of_a_larger_set_do_not_linger(rows: list[PreparedRow], tmp_path: Path) -> None:
    _write(tmp_path / "store", rows)
    _write(tmp_path / "store", rows[:2])
    assert (
        len(list((tmp_path / "store").glob("*.safetensors")))
        == len(open_store(tmp_path / "store").files)
        == 2
    )


def test_two_runs_at_once_write_the_features_once(rows: list[PreparedRow], tmp_path: Path) -> None:
    """The lock is of the file, so threads stand for processes. Each run waits in each shard for the other to
    begin."""
    made: list[ClipPart] = []
    begin, other_is_in = Barrier(2), Event()
    inside: list[str] = []

    def read(_row: PreparedRow, part: ClipPart, _rng: object) -> Item:
        inside.append(current_thread().name)
        if len(set(inside)) == 2:
            other_is_in.set()
        other_is_in.wait(0.02)
        made.append(part)
        return _item(part)

    def run() -> FeatureStore:
        begin.wait()
        return write_store(tmp_path / "store", rows, read, SIZES)

    with ThreadPoolExecutor(2) as pool:
        stores = [pool.submit(run) for _ in range(2)]
    for store in stores:
        _check(store.result(), rows)
    assert made == split_parts(rows)[:-1]
    assert not other_is_in.is_set()
    _check(open_store(tmp_path / "store"), rows)
    assert not list((tmp_path / "store").glob("*.part"))


def test_two_stores_are_joined(rows: list[PreparedRow], tmp_path: Path) -> None:
    one = write_store(tmp_path / "one", rows[:4], _read, SIZES)
    rest = lambda row, part, _: _item(replace(part, index=part.index + 4))  # noqa: E731
    other = write_store(tmp_path / "other", rows[4:], rest, SIZES)
    _check(one | other, rows)
    nothing = write_store(tmp_path / "nothing", [], _read, SIZES)
    _check(nothing | one | other, rows)


def test_a_damaged_file_is_reported_with_a_fix(rows: list[PreparedRow], tmp_path: Path) -> None:
    store, part = _write(tmp_path / "store", rows), split_parts(rows)[-2]
    file = store.files[part_key(rows[6], part)]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"damaged: .*Delete .*store and run the command again"):
        store(rows[6], part)
    file.unlink()
    with pytest.raises(DataError, match="No such file"):
        store(rows[6], part)
    (tmp_path / "store" / "features.json").write_text('{"sizes": ', encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        open_store(tmp_path / "store")
    _check(_write(tmp_path / "store", rows), rows)


def test_a_store_is_never_loaded_whole(tmp_path: Path) -> None:
    """Read one by one, in any order, its parts take less than an eighth of its memory."""
    n_clips, n_frames, size = 40, 8, 500
    generator = np.random.default_rng(0)
    rows = [PreparedRow(Clip(f"{number}", Path()), tmp_path, 3.0) for number in range(n_clips)]
    times_s = np.arange(n_frames, dtype=np.float32)

    def read(_row: PreparedRow, part: ClipPart, _rng: object) -> Item:
        frames = generator.random((n_frames, size), dtype=np.float32)
        frames[0, 0] = part.index
        return Item({"face": all_steps(frames, times_s)})

    parts = split_parts(rows)
    store = write_store(tmp_path / "store", rows, read, {"face": size})
    n_bytes = sum(file.stat().st_size for file in (tmp_path / "store").glob("*.safetensors"))
    tracemalloc.start()
    try:
        order = generator.permutation(len(parts))
        total = sum(
            float(store(rows[parts[index].index], parts[index]).streams["face"].values[0, 0])
            for index in order
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == sum(range(n_clips))
    assert peak_bytes < n_bytes / 8
