"""Per-person normalisation: what it does to features, to whom, and what it is worth where people differ."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from item_of import item_of
from reactometer.config import Config, DataConfig, ModelConfig, TrainingConfig
from reactometer.data.cache import PreparedRow
from reactometer.data.inputs import ClipPart, Item, all_steps
from reactometer.data.person_norm import (
    FeatureStats,
    PersonReader,
    PersonShift,
    Shifts,
    clip_means,
    fit_population,
    fit_shifts,
    fit_step_stats,
    person_by_path,
    shift_item,
)
from reactometer.errors import DataError
from reactometer.evaluation.evaluate import evaluate
from reactometer.training.train import train
from reactometer.types import Clip, FloatArray

POPULATION = {
    "face": FeatureStats(np.array([1.0, -2.0, 30.0], np.float32), np.array([0.5, 2.0, 10.0], np.float32)),
    "voice": FeatureStats(np.array([-8.0, 0.0], np.float32), np.array([3.0, 1.0], np.float32)),
}


def _item(seed: int, shift: float = 0.0, frames: int = 7, steps: int = 5) -> Item:
    generator = np.random.default_rng(seed)
    return item_of(
        frames=(generator.normal(size=(frames, 3)) * [1, 5, 0.1] + shift).astype(np.float32),
        face_mask=np.arange(frames) != 2,
        times_s=np.arange(frames, dtype=np.float32),
        voice=(generator.normal(size=(steps, 2)) + 10 * shift).astype(np.float32),
        voice_times_s=np.arange(steps, dtype=np.float32),
    )


def _face(values: np.ndarray) -> Item:
    return Item({"face": all_steps(values, np.zeros(len(values), np.float32))})


def _seen(items: list[Item]) -> FloatArray:
    return np.concatenate([item.streams["face"].visible for item in items])


def _mean(items: list[Item]) -> FloatArray:
    """Mean over clips of each clip's mean, by feature of the face."""
    means: FloatArray = np.stack([item.streams["face"].visible.mean(axis=0) for item in items]).mean(axis=0)
    return means


def _fit(items: list[tuple[str | None, Item]]) -> dict[str, Shifts]:
    return fit_shifts(clip_means(items), POPULATION)


def test_the_mean_of_a_person_moves_by_the_variety_of_the_clips() -> None:
    """Many clips as varied as the population's nearly reach its mean."""
    rng = np.random.default_rng(0)
    levels = rng.normal(size=(200, 3))
    for scale, variety in ((1.0, 1.0), (2.0, 1.0), (0.5, 0.25), (0.1, 0.01), (0.0, 0.0)):
        values = 100.0 + levels / levels.std(axis=0) * POPULATION["face"].std * scale
        items = [_face(row[None].astype(np.float32)) for row in values]
        shifts = _fit([("Ann", item) for item in items])["Ann"]
        assert shifts["face"].variety == pytest.approx(variety, abs=1e-4)
        moved = _mean([shift_item(item, shifts) for item in items])
        share = variety**1.5 * 200 / 204  # four clips would halve it
        expected = _mean(items) + share * (POPULATION["face"].mean - _mean(items))
        np.testing.assert_allclose(moved, expected, rtol=1e-3)


def test_few_clips_move_less_and_one_clip_stays() -> None:
    """n clips of a varied person are expected to have 1 - 1/n of the variance."""
    rng = np.random.default_rng(0)
    varieties = []
    for n_clips in (1, 2, 4, 20):
        drawn = rng.normal(size=(400, n_clips, 3)) * POPULATION["face"].std
        fitted = fit_shifts({str(i): {"face": list(clips)} for i, clips in enumerate(drawn)}, POPULATION)
        varieties.append(np.mean([shifts["face"].variety for shifts in fitted.values()]))
    assert varieties[0] == 0.0
    assert varieties == sorted(varieties)
    assert varieties[1] < 0.5 < varieties[3]


def test_people_with_similar_clips_are_reported() -> None:
    varied: list[tuple[str | None, Item]] = [("Ann", _item(seed, shift=5.0 * seed)) for seed in range(6)]
    alike: list[tuple[str | None, Item]] = [("Ben", varied[0][1])] * 6
    with pytest.warns(UserWarning, match="1 of 2 people are too few or too similar to normalise"):
        people = _fit([*varied, *alike, (None, varied[0][1])])
    assert set(people) == {"Ann", "Ben"}
    rows = [
        PreparedRow(Clip(f"{index}", Path(), person=person))
        for index, (person, _) in enumerate([*varied, *alike])
    ]
    reader = PersonReader(lambda row, part, rng: varied[0][1], people)
    assert reader.describe(rows[:6]) == "6 clips normalised per person (2 people)"
    assert reader.describe(rows).endswith("; 6 hardly changed (few or similar clips of a person)")
    assert reader.describe([PreparedRow(Clip("new", Path()))]).endswith("; 1 unchanged (unknown person)")
    moved = [reader(row, ClipPart(0, 0.0, 1.0)).streams["face"].values for row in rows]
    assert not np.array_equal(moved[0], varied[0][1].streams["face"].values)
    assert np.array_equal(moved[6], varied[0][1].streams["face"].values)


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


def test_in_training_about_half_of_the_clips_stay_unchanged() -> None:
    item = _item(0)
    shift = PersonShift(np.ones(3, np.float32), 1.0)
    reader = PersonReader(lambda row, part, rng: item, {"Ann": {"face": shift}})
    row = PreparedRow(Clip("a", Path(), person="Ann"))
    rng = np.random.default_rng(0)
    changed = [
        not np.array_equal(
            reader(row, ClipPart(0, 0.0, 1.0), rng).streams["face"].values, item.streams["face"].values
        )
        for _ in range(200)
    ]
    assert 0.4 < np.mean(changed) < 0.6


def test_empty_items_images_and_unknown_streams_stay_unchanged() -> None:
    empty = _item(0, frames=0, steps=0)
    steps = _item(1).streams["face"]
    unseen = Item({"face": steps._replace(mask=np.zeros(7, bool))})
    assert _fit([("Ann", empty), ("Ann", unseen)]) == {}
    images = np.random.default_rng(0).integers(0, 255, (4, 3, 8, 8), dtype=np.uint8)
    item = _item(0).with_steps(_face(images).streams)
    shifts = {"voice": PersonShift(np.ones(2, np.float32), 1.0)}
    assert set(clip_means([("Ann", item)])["Ann"]) == {"voice"}
    assert shift_item(item, shifts).streams["face"].values is images
    assert len(shift_item(empty, shifts).streams["voice"].values) == 0
    assert fit_shifts(clip_means([("Ann", _item(0))]), {"voice": POPULATION["voice"]})["Ann"].keys() == {
        "voice"
    }


def test_step_statistics_are_those_of_all_steps_together() -> None:
    items = [_item(seed, shift=1e4, frames=3 + seed) for seed in range(9)]
    stats, steps = fit_step_stats(items)["face"], _seen(items).astype(np.float64)
    np.testing.assert_allclose(stats.mean, steps.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(stats.std, steps.std(axis=0), rtol=1e-4)
    assert fit_step_stats([_item(0, frames=0, steps=0)]) == {}


def test_a_typical_person_has_the_same_spread_whether_or_not_each_person_shows_all_reactions() -> None:
    """Looks (standard deviation 3), reactions (2) and noise (1): the spread within a person is the root of 5.

    If each person shows one reaction, only the labels reveal that the spread within people is too small.
    """
    rng = np.random.default_rng(0)
    looks, reactions = ((draw - draw.mean()) / draw.std() for draw in rng.normal(size=(2, 40)))

    def spread(reaction_of: Callable[[int, int], int]) -> float:
        rows = []
        for person, clip in product(range(40), range(40)):
            reaction = reactions[reaction_of(person, clip)]
            value = np.full((1, 3), 3.0 * looks[person] + 2.0 * reaction + rng.normal(), np.float32)
            item = _face(value)
            rows.append(
                (PreparedRow(Clip(f"{person} {clip}", Path(), labels=(reaction,), person=str(person))), item)
            )
        return float(fit_population(rows)["face"].std[0])

    assert spread(lambda person, clip: clip) == pytest.approx(5**0.5, rel=0.05)
    assert spread(lambda person, clip: person) == pytest.approx(
        14**0.5, rel=0.2
    )  # the spread between all clips


def _table(path: Path, n_people: int, n_clips: int) -> Path:
    """One feature: the person's level, which is large, plus a small reaction, which is the label."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for person in range(n_people):
        level = generator.normal(size=2) * 2.0
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
            path=data, features={"face": "AU*"}, labels=("Joy",), cache=run.with_name(f"{run.name}-cache")
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
    data = _table(tmp_path / "table.csv", n_people=20, n_clips=24)
    reached = {}
    for person_norm in (True, False):
        folder = train(config=_config(data, tmp_path / f"{person_norm}", person_norm), progress=False)
        evaluation = evaluate(folder, data, progress=False)
        reached[person_norm] = evaluation.metrics.pearson[0] or 0.0
        note = "96 clips normalised per person (4 people)"
        assert evaluation.person_norm == (note if person_norm else None)
    assert reached[True] > 0.6
    assert reached[False] < 0.4


def test_a_person_is_normalised_by_the_clips_of_one_split(tmp_path: Path) -> None:
    """Other splits of the table have no influence on a split's scores."""
    data = _table(tmp_path / "table.csv", n_people=10, n_clips=6)
    folder = train(config=_config(data, tmp_path / "run", person_norm=True, epochs=1), progress=False)
    whole = evaluate(folder, data, split="test", progress=False).predictions
    table = pd.read_csv(data)
    table[table.split == "test"].to_csv(tmp_path / "alone.csv", index=False)
    alone = evaluate(folder, tmp_path / "alone.csv", split="test", progress=False).predictions
    pd.testing.assert_frame_equal(whole, alone)
