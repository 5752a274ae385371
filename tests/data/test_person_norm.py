"""Per-person normalisation: what it does to features, to whom, and what it is worth where people differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reactometer.config import Config, DataConfig, ModelConfig, TrainingConfig
from reactometer.data.cache import PreparedRow
from reactometer.data.inputs import ClipPart, Item
from reactometer.data.person_norm import (
    MIN_PARTS,
    FeatureStats,
    PersonReader,
    apply_person_norm,
    fit_person_stats,
    fit_stream_stats,
    person_by_path,
)
from reactometer.errors import DataError
from reactometer.evaluation.evaluate import evaluate
from reactometer.models.batches import TrainingDataset
from reactometer.training.train import train
from reactometer.types import Clip, FloatArray

POPULATION = {
    "face": FeatureStats(np.array([1.0, -2.0, 30.0], np.float32), np.array([0.5, 2.0, 10.0], np.float32)),
    "voice": FeatureStats(np.array([-8.0, 0.0], np.float32), np.array([3.0, 1.0], np.float32)),
}


def _item(seed: int, shift: float = 0.0, frames: int = 7, steps: int = 5) -> Item:
    generator = np.random.default_rng(seed)
    return Item(
        frames=(generator.normal(size=(frames, 3)) * [1, 5, 0.1] + shift).astype(np.float32),
        face_mask=np.arange(frames) != 2,
        times_s=np.arange(frames, dtype=np.float32),
        voice=(generator.normal(size=(steps, 2)) + 10 * shift).astype(np.float32),
        voice_times_s=np.arange(steps, dtype=np.float32),
    )


def _of_people() -> list[tuple[str | None, Item]]:
    """Six clips of Ann, four of Ben, six of nobody knows whom."""
    people = ["Ann"] * 6 + ["Ben"] * (MIN_PARTS - 1) + [None] * 6
    return [(person, _item(seed, shift=float(seed > 5))) for seed, person in enumerate(people)]


def _seen(items: list[Item]) -> FloatArray:
    return np.concatenate([item.frames[item.face_mask] for item in items])


def test_a_person_gets_exactly_the_mean_and_spread_of_the_population() -> None:
    items = _of_people()
    people = fit_person_stats(items)
    ann = [apply_person_norm(item, people["Ann"], POPULATION) for person, item in items if person == "Ann"]
    for stream, steps in (("face", _seen(ann)), ("voice", np.concatenate([item.voice for item in ann]))):
        np.testing.assert_allclose(steps.mean(axis=0), POPULATION[stream].mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(steps.std(axis=0), POPULATION[stream].std, rtol=1e-4)
    assert ann[0].frames.dtype == ann[0].voice.dtype == np.float32
    assert [item.face_mask.tolist() for item in ann] == [item.face_mask.tolist() for _, item in items[:6]]


def test_people_with_few_clips_and_unknown_people_are_not_normalised() -> None:
    people = fit_person_stats(_of_people())
    assert list(people) == ["Ann"]
    rows = [
        PreparedRow(Clip(f"{seed}", Path(), person=person)) for seed, (person, _) in enumerate(_of_people())
    ]
    stored = {row.clip.clip_id: item for row, (_, item) in zip(rows, _of_people(), strict=True)}
    reader = PersonReader(lambda row, part, rng: stored[row.clip.clip_id], people, POPULATION)
    for index, row in enumerate(rows):
        item, original = reader(row, ClipPart(index, 0.0, 1.0)), stored[row.clip.clip_id]
        assert (
            np.array_equal(item.frames, original.frames)
            == np.array_equal(item.voice, original.voice)
            == (index >= 6)
        )
    assert reader.describe(rows[:6]) == "6 clips normalised by the mean and spread of their person (1 people)"
    assert reader.describe(rows).endswith("; 10 unchanged (people with fewer than 5 clips)")


def test_people_are_found_by_the_path_of_their_file() -> None:
    paths = ["clips/a.mp4", "./b.mp4", "c.mp4"]
    assert person_by_path({"clips//a.mp4": "Ann", "b.mp4": "Ben"}, paths) == {
        "clips/a.mp4": "Ann",
        "./b.mp4": "Ben",
    }
    assert person_by_path({Path("./c.mp4"): "Cy"}, paths) == {"c.mp4": "Cy"}
    assert person_by_path({}, paths) == {}


def test_a_person_of_an_unknown_file_is_an_error() -> None:
    """As where a table has names without their folder."""
    with pytest.raises(DataError, match=r"not predicted.*a\.mp4.*such as clips/a\.mp4"):
        person_by_path({"a.mp4": "Ann", "clips/b.mp4": "Ben", "z.mp4": "Zoe"}, ["clips/a.mp4", "clips/b.mp4"])


def test_clips_without_face_and_voice_do_not_count() -> None:
    empty = _item(0, frames=0, steps=0)
    unseen = replace(_item(1, steps=0), face_mask=np.zeros(7, bool))
    items: list[tuple[str | None, Item]] = [("Ann", _item(seed)) for seed in range(MIN_PARTS - 1)]
    assert fit_person_stats([*items, ("Ann", empty), ("Ann", unseen)]) == {}
    only_voice = replace(_item(2), face_mask=np.zeros(7, bool))
    assert set(fit_person_stats([*items, ("Ann", only_voice)])["Ann"]) == {"face", "voice"}
    assert set(fit_person_stats([("Ann", only_voice)] * MIN_PARTS)["Ann"]) == {"voice"}


def test_a_person_may_have_any_hashable_key() -> None:
    keyed = [((number, person), item) for person, item in _of_people() if person for number in (0, 1)]
    by_key, by_name = fit_person_stats(keyed), fit_person_stats(_of_people())
    assert list(by_key) == [(0, "Ann"), (1, "Ann")]
    assert by_key[1, "Ann"]["face"].mean.tolist() == by_name["Ann"]["face"].mean.tolist()


def test_features_that_do_not_vary_do_not_explode() -> None:
    """A constant comes out as the population's mean, be it large or with the noise of float32."""
    generator = np.random.default_rng(0)
    for value, noise in ((0.0, 0.0), (123456.7, 0.0), (1000.0, 1e-7), (-3.0, 1e-7)):
        values = np.float32(value) * (1.0 + noise * generator.standard_normal((9, 3)))
        item = replace(
            _item(0, frames=9, steps=0), frames=values.astype(np.float32), face_mask=np.ones(9, bool)
        )
        (stats,) = fit_person_stats([("Ann", item)] * MIN_PARTS).values()
        assert stats["face"].std.tolist() == [1.0] * 3
        np.testing.assert_allclose(
            apply_person_norm(item, stats, POPULATION).frames, [[1.0, -2.0, 30.0]] * 9, rtol=0.03
        )


def test_images_are_not_normalised() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (4, 3, 8, 8), dtype=np.uint8)
    item = replace(_item(0, frames=4), frames=pictures, face_mask=np.ones(4, bool))
    (stats,) = fit_person_stats([("Ann", item)] * MIN_PARTS).values()
    assert set(stats) == {"voice"}
    assert apply_person_norm(item, stats, POPULATION).frames is pictures


def test_a_stream_without_statistics_is_unchanged() -> None:
    item = _item(0)
    stats = {"face": POPULATION["face"]}
    assert apply_person_norm(item, stats, {"voice": POPULATION["voice"]}).frames is item.frames
    assert apply_person_norm(item, stats, POPULATION).voice is item.voice
    assert apply_person_norm(item, {}, POPULATION).frames is item.frames


def test_statistics_are_over_all_steps() -> None:
    items = [_item(seed, shift=1e4, frames=3 + seed) for seed in range(9)]
    moments, everything = fit_stream_stats(items)["face"], _seen(items).astype(np.float64)
    np.testing.assert_allclose(moments.mean, everything.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.std, everything.std(axis=0), rtol=1e-4)
    assert fit_stream_stats([_item(0, frames=0, steps=0)]) == {}


def _table(path: Path, n_people: int, n_clips: int) -> Path:
    """One feature: the person's level, which is large, plus a small reaction, which is the label."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for person in range(n_people):
        level = generator.normal(size=2) * 20.0
        split = ("train", "train", "train", "val", "test")[person % 5]
        for number in range(n_clips):
            joy = float(generator.uniform(0.1, 0.9))
            values = level + [joy, -joy] + generator.normal(size=2) * 0.02
            cells = {
                "clip": f"{person}-{number}",
                "person": f"p{person}",
                "split": split,
                "Joy": round(joy, 4),
            }
            rows.append({**cells, "AU06": values[0], "AU12": values[1]})
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def _config(data: Path, run: Path, person_norm: bool, epochs: int = 12) -> Config:
    return Config(
        data=DataConfig(
            path=data, face_features="AU*", labels=("Joy",), cache=run.with_name(f"{run.name}-cache")
        ),
        model=ModelConfig(name="resnet50", person_norm=person_norm, dropout=0.0),
        training=TrainingConfig(
            out=run,
            epochs=epochs,
            batch_size=8,
            accumulate=1,
            learning_rate=0.05,
            ema_decay=0.9,
            accelerator="cpu",
        ),
    )


@pytest.mark.slow
def test_normalising_helps_if_people_differ_more_than_they_react(tmp_path: Path) -> None:
    data = _table(tmp_path / "table.csv", n_people=20, n_clips=8)
    reached = {}
    for person_norm in (True, False):
        folder = train(_config(data, tmp_path / f"{person_norm}", person_norm), progress=False)
        evaluation = evaluate(folder, data, progress=False)
        reached[person_norm] = evaluation.metrics.pearson[0] or 0.0
        note = "32 clips normalised by the mean and spread of their person (4 people)"
        assert evaluation.person_norm == (note if person_norm else None)
    assert reached[True] > 0.8
    assert reached[False] < 0.4


def test_labels_have_no_influence(tmp_path: Path) -> None:
    """With other labels on the same clips the readers of train and val give the same items."""
    from reactometer.data.prepare import open_data
    from reactometer.training.setup import build_training

    data = _table(tmp_path / "table.csv", n_people=10, n_clips=6)
    other = pd.read_csv(data)
    other["Joy"] = np.random.default_rng(1).permutation(other.Joy)
    other.to_csv(tmp_path / "other.csv", index=False)

    def frames(path: Path) -> Iterator[list[float]]:
        config = _config(path, tmp_path / path.stem, person_norm=True)
        data = build_training(config, open_data(config.data, progress=False), progress=False).data
        for dataset in (data.val, TrainingDataset(data.train.rows, data.train.load_item, seed=0, epoch=0)):
            for index in range(len(dataset)):
                yield dataset[index].frames.ravel().tolist()

    assert list(frames(data)) == list(frames(tmp_path / "other.csv"))


def test_a_person_is_normalised_by_the_clips_of_one_split(tmp_path: Path) -> None:
    """Other splits of the table have no influence on a split's scores."""
    data = _table(tmp_path / "table.csv", n_people=10, n_clips=6)
    folder = train(_config(data, tmp_path / "run", person_norm=True, epochs=1), progress=False)
    whole = evaluate(folder, data, split="test", progress=False).predictions
    table = pd.read_csv(data)
    table[table.split == "test"].to_csv(tmp_path / "alone.csv", index=False)
    alone = evaluate(folder, tmp_path / "alone.csv", split="test", progress=False).predictions
    pd.testing.assert_frame_equal(whole, alone)
