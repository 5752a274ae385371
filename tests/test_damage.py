"""Files of which a bit or the end is not right: made anew, refused, or read as they were written; never
otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from item_of import item_of
from reactometer.data.cache import PreparedRow, PreparedSet, load_clip, open_prepared, write_clip
from reactometer.data.feature_store import write_store
from reactometer.data.inputs import ClipPart, Item, split_parts
from reactometer.errors import DataError, ModelError, OutputError, ReactometerError
from reactometer.inference.checkpoint import load_model
from reactometer.models.registry import load_network
from reactometer.paths import STARTER, find_checkpoint
from reactometer.training.trainer import _AtomicCheckpointIO, read_checkpoint
from reactometer.types import Clip, FaceSample, FrameState, PreparedClip


def _damaged(file: Path, count: int) -> Iterator[str]:
    """The file with one bit flipped, so many times another one, then cut at some places; as it was in the
    end."""
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for place_, bit in zip(rng.integers(len(whole), size=count), rng.integers(8, size=count), strict=True):
        data = bytearray(whole)
        data[place_] ^= 1 << int(bit)
        file.write_bytes(data)
        yield f"bit {bit} of byte {place_}"
    for length in rng.integers(len(whole), size=count // 8):
        file.write_bytes(whole[:length])
        yield f"cut at {length}"
    file.write_bytes(whole)


def _never_otherwise(
    file: Path, read: Callable[[], Any], error: type[ReactometerError], count: int = 150, least: float = 0.3
) -> None:
    """Reading it gives what it gave, or this error, which says 'damaged' or the like; it is this error now
    and then."""
    whole, refused = read(), 0
    for how in _damaged(file, count):
        try:
            assert read() == whole, how
        except error:
            refused += 1
    assert refused > least * count
    assert read() == whole


def _cut_is_refused(file: Path, read: Callable[[], Any], error: type[ReactometerError]) -> None:
    """A file that lacks its end raises this error."""
    whole = file.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 3):
        file.write_bytes(whole[:length])
        with pytest.raises(error):
            read()
    file.write_bytes(whole)


@pytest.fixture
def clip(tmp_path: Path) -> PreparedRow:
    samples = [
        FaceSample(float(time), FrameState.FACE, (1.0, 2.0, 3.0, 4.0), 0.5, b"crop %d" % time)
        for time in range(3)
    ]
    made = PreparedClip(0.0, 3.0, tuple(samples), (np.arange(40) / 32767).astype(np.float32), 9)
    write_clip(tmp_path / "clip.npz", made)
    return PreparedRow(Clip("clip", tmp_path / "clip.mp4"), tmp_path / "clip.npz")


def test_a_prepared_clip(clip: PreparedRow) -> None:
    def read() -> tuple[Any, ...]:
        loaded = load_clip(clip)
        sound = loaded.waveform is not None and loaded.waveform.tolist()
        return loaded.samples, loaded.start_s, loaded.end_s, loaded.frames_read, sound

    assert clip.file is not None
    _never_otherwise(clip.file, read, DataError, count=300)
    with np.load(clip.file) as arrays:
        np.savez(
            clip.file, **{name: arrays[name] for name in arrays.files if name not in ("waveform", "counts")}
        )
    with pytest.raises(DataError, match=r"clip.npz: damaged.*reactometer prepare"):
        load_clip(
            clip
        )  # an archive whose directory has lost its last entries; without a sound is another clip


def test_a_prepared_set(prepared: PreparedSet, tmp_path: Path) -> None:
    shutil.copy(prepared.folder / "cache.json", tmp_path / "cache.json")
    _cut_is_refused(tmp_path / "cache.json", lambda: open_prepared(tmp_path), DataError)


def _item(_row: PreparedRow, part: ClipPart, _rng: object) -> Item:
    values = np.arange(12, dtype=np.float32).reshape(3, 4) + part.index
    return item_of(
        values,
        np.ones(3, bool),
        np.arange(3, dtype=np.float32),
        values[:, :2],
        np.arange(3, dtype=np.float32),
    )


def test_features(clip: PreparedRow, tmp_path: Path) -> None:
    """A part whose file lacks its end is reported; a damaged index is written anew."""
    rows = [
        replace(clip, clip=replace(clip.clip, clip_id=f"{number}"), duration_s=3.0) for number in range(4)
    ]
    parts, folder = split_parts(rows), tmp_path / "store"

    def read() -> list[Any]:
        store = write_store(folder, rows, _item, {"face": 4, "voice": 2})
        items = [store(rows[part.index], part) for part in parts]
        return [
            [
                item.streams["face"].values.tolist(),
                item.streams["face"].times_s.tolist(),
                item.streams["voice"].values.tolist(),
            ]
            for item in items
        ]

    whole = read()
    _cut_is_refused(sorted(folder.glob("*.safetensors"))[0], read, DataError)
    (folder / "features.json").write_text("{")
    assert read() == whole


def test_the_checkpoint_of_a_training(tmp_path: Path) -> None:
    """PyTorch reads damaged numbers, because it does not verify the checksums of the archive."""
    file = tmp_path / "last.ckpt"
    _AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(50.0), "epoch": 3}, file)

    def read() -> tuple[Any, ...]:
        checkpoint = read_checkpoint(file)
        return checkpoint["weights"].tolist(), checkpoint["epoch"]

    _never_otherwise(file, read, OutputError)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(OutputError, match=r"last.ckpt: damaged.*--fresh"):
        _AtomicCheckpointIO().load_checkpoint(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["screening.safetensors", "weights.safetensors", "face.onnx", "head.onnx"])
def test_the_files_of_a_model(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(find_checkpoint(STARTER), tmp_path / "model"))

    def read() -> tuple[Any, ...]:
        loaded = load_model(folder, "cpu")
        load_network(folder)
        uncertainty = loaded.uncertainty
        assert uncertainty is not None
        return (
            dict(loaded.description),
            uncertainty.by_modalities,
            uncertainty.fitted_on,
            vars(loaded.screening).keys() if loaded.screening else None,
            uncertainty.recalibration,
        )

    _never_otherwise(folder / name, read, ModelError, count=24)
    for description in ("model.json", "uncertainty.json"):
        _cut_is_refused(folder / description, read, ModelError)
