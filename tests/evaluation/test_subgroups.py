"""Different groups are significant, equal ones are not, and small ones are marked: by simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.errors import DataError, ScoreError
from reactometer.evaluation.bootstrap import Resampling, bootstrap_metrics
from reactometer.evaluation.evaluate import evaluate
from reactometer.evaluation.metrics import Array, measure
from reactometer.evaluation.subgroups import UNKNOWN, Group, as_table, compare_groups, split_column
from reactometer.types import Clip

LABELS = ("Joy", "Fear", "Calm")


def _rows(values: list[str], people: list[str] | None = None) -> list[PreparedRow]:
    """A clip a value; every third has no face, every fifth no sound."""
    people = people or [""] * len(values)
    return [
        PreparedRow(
            Clip(f"{index}", Path("clip"), person=people[index] or None, attributes={"Country": value}),
            n_samples=10,
            n_faces=0 if index % 3 == 0 else 5,
            has_sound=index % 5 != 0,
        )
        for index, value in enumerate(values)
    ]


def _draw(seed: int, clips: int, r: float = 0.8) -> tuple[Array, Array]:
    targets, noise = np.random.default_rng(seed).normal(size=(2, clips, len(LABELS)))
    return 0.5 + 0.1 * targets, 0.5 + 0.1 * (r * targets + np.sqrt(1 - r**2) * noise)


def _claims(groups: Sequence[Group]) -> set[tuple[str, str, str | None]]:
    return {
        (group.name, metric.metric, metric.label)
        for group in groups
        for metric in group.metrics
        if metric.is_significant
    }


def test_a_bias_and_a_lower_correlation_are_significant_and_a_group_of_four_is_small() -> None:
    """Of 304 clips, 100 are predicted .1 too high, 100 have r = .2 instead of .8, and 4 say nothing."""
    values = ["high"] * 100 + ["noisy"] * 100 + ["plain"] * 100 + ["tiny"] * 4
    targets, predictions = _draw(0, 304)
    predictions[:100] += 0.1
    predictions[100:200] = _draw(0, 304, r=0.2)[1][100:200]
    predictions[300:] += 0.2
    compared = compare_groups(_rows(values), targets, predictions, LABELS, ["country"])
    groups = {group.name: group for group in compared}
    assert [group.n_clips for group in compared] == [100, 100, 100, 4]
    assert [name for name, group in groups.items() if group.is_small] == ["tiny"]
    bias = groups["high"].metric("bias").value
    assert bias is not None
    assert bias.value == pytest.approx(0.1, abs=0.02)
    assert bias.low < 0.1 < bias.high
    assert {("high", "bias", None), ("noisy", "pearson", None)} <= _claims(compared)
    assert {("high", "bias", label) for label in LABELS} <= _claims(compared)
    assert not any(name == "tiny" for name, _, _ in _claims(compared))
    tiny = groups["tiny"].metric("bias")
    assert not tiny.is_significant
    assert tiny.value is not None
    assert tiny.value.value > 0.1


@pytest.mark.slow
def test_equal_groups_differ_significantly_at_the_nominal_rate() -> None:
    """100 simulated evaluations of three random groups: no significant difference in 95% of them."""
    claimed = []
    for seed in range(100):
        targets, predictions = _draw(seed, 120)
        rows = _rows(np.random.default_rng(seed).permutation(["a"] * 35 + ["b"] * 40 + ["c"] * 45).tolist())
        compared = compare_groups(
            rows, targets, predictions, LABELS, ["country"], resampling=Resampling(n_resamples=200, seed=seed)
        )
        claimed.append(bool(_claims(compared)))
    assert np.mean(claimed) <= 0.05


def test_numbers_are_those_of_the_group_alone() -> None:
    """Scores as :func:`measure` has them; the rest counted by hand; the mean's interval that of the
    bootstrap."""
    values = ["a", "b", "b"] * 40
    targets, predictions = _draw(1, 120)
    compared = compare_groups(
        _rows(values), targets, predictions, LABELS, ["Country"], resampling=Resampling(n_resamples=4000)
    )
    for group in compared:
        inside = np.array([value == group.name for value in values])
        expected = measure(targets[inside], predictions[inside], LABELS)
        rest = measure(targets[~inside], predictions[~inside], LABELS)
        values_of = {(number.metric, number.label): number.value for number in group.metrics}
        group_values = {key: value.value for key, value in values_of.items() if value}
        assert group_values["pearson", None] == pytest.approx(expected.mean_pearson)
        assert group_values["mae", None] == pytest.approx(expected.means["mae"])
        for index, label in enumerate(LABELS):
            assert group_values["pearson", label] == pytest.approx(expected.pearson[index])
            assert group_values["bias", label] == pytest.approx((predictions - targets)[inside, index].mean())
        difference = group.metric("pearson").difference
        assert difference is not None
        assert difference.value == pytest.approx((expected.mean_pearson or 0) - (rest.mean_pearson or 0))
        indices = np.flatnonzero(inside)
        assert group.without_face == pytest.approx(np.mean(indices % 3 == 0))
        assert group.without_sound == pytest.approx(np.mean(indices % 5 == 0))
        theirs = bootstrap_metrics(
            targets[inside], predictions[inside], LABELS, resampling=Resampling(n_resamples=4000)
        ).mean["pearson"]
        ours = group.metric("pearson").value
        assert theirs is not None
        assert ours is not None
        assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.01)


def test_people_are_drawn_whole_and_counted() -> None:
    """Ten clips of one person, all alike, are one person's; 30 people are few, though they have 300 clips."""
    targets, predictions = (np.repeat(values, 10, axis=0) for values in _draw(2, 70))
    people = [f"p{index // 10}" for index in range(700)]
    rows = _rows(["a" if index < 300 else "b" for index in range(700)], people)
    by_person = compare_groups(
        rows, targets, predictions, LABELS, ["country"], resampling=Resampling(unit="person", groups=people)
    )
    by_clip = compare_groups(rows, targets, predictions, LABELS, ["country"])
    assert [group.n_units for group in by_person] == [30, 40]
    assert all(group.is_small for group in by_person)
    wide, narrow = (groups[0].metric("bias").value for groups in (by_person, by_clip))
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low == pytest.approx(np.sqrt(10) * (narrow.high - narrow.low), rel=0.1)


def test_numbers_are_cut_into_bands_and_words_are_not() -> None:
    ages = [*range(18, 58), "", " "]
    clips = [
        replace(row.clip, attributes={"Age": str(age)})
        for row, age in zip(_rows(["x"] * 42), ages, strict=True)
    ]
    masks = split_column(clips, "age")
    assert list(masks) == ["age 18-27", "age 28-37", "age 38-47", "age 48-57", UNKNOWN]
    assert [int(inside.sum()) for inside in masks.values()] == [10, 10, 10, 10, 2]
    few = [row.clip for row in _rows(["10", "2", "", "10", "2"])]
    assert [(name, int(inside.sum())) for name, inside in split_column(few, "COUNTRY").items()] == [
        ("2", 2),
        ("10", 2),
        (UNKNOWN, 1),
    ]
    with pytest.raises(DataError, match="Did you mean 'country'"):
        split_column(few, "contry")


def test_undefined_scores_and_single_groups_have_no_value() -> None:
    """Two clips have no Pearson, a constant prediction has none; without other clips there is no
    difference."""
    targets, predictions = _draw(3, 60)
    predictions[2:, 1] = 0.5
    compared = compare_groups(
        _rows(["a"] * 2 + ["b"] * 58),
        targets,
        predictions,
        LABELS,
        ["country"],
        resampling=Resampling(n_resamples=100),
    )
    assert all(compared[0].metric("pearson", label).value is None for label in (None, *LABELS))
    large = compared[1]
    assert large.metric("pearson", "Fear").value is large.metric("pearson").value is None
    assert large.metric("pearson", "Joy").value is not None
    without_others = compare_groups(
        _rows(["a"] * 60), targets, predictions, LABELS, ["country"], resampling=Resampling(n_resamples=100)
    )
    assert without_others[0].is_small
    assert without_others[0].metric("bias").difference is None
    table = as_table([*compared, *without_others])
    assert len(table) == 3 * 3 * 4
    assert table[(table.group == "a") & (table.metric == "pearson")].value.isna().sum() == 4


@pytest.mark.slow
def test_evaluate_tells_groups_of_columns_that_outlive_prepare(
    frozen_folder: Path, simulated: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    """Ages and countries are those of the dataset's table."""
    table = pd.read_csv(simulated / "data_info.csv", dtype=str)
    evaluation = evaluate(
        frozen_folder,
        prepared.folder,
        split="all",
        groups=["AGE", "country", "person"],
        out=tmp_path,
        progress=False,
    )
    countries = {group.name: group.n_clips for group in evaluation.groups if group.column == "country"}
    assert countries == table.Country.value_counts().to_dict()
    people = [group for group in evaluation.groups if group.column == "person"]
    assert [group.n_units for group in people] == [1] * table.Person.nunique()
    written = pd.read_csv(tmp_path / "groups.csv").drop_duplicates(["column", "group"]).set_index("column")
    assert set(written.index) == {"AGE", "country", "person"}
    assert written.loc["country"].set_index("group").clips.to_dict() == countries
    assert written.loc["AGE"].small.all()
    assert written.loc["AGE"].clips.sum() == 40
    with pytest.raises(DataError, match="no column 'nation'"):
        evaluate(frozen_folder, prepared.folder, groups=["nation"], progress=False)
    with pytest.raises(ScoreError, match="comparing groups needs resamples"):
        evaluate(frozen_folder, prepared.folder, groups=["country"], n_resamples=0, progress=False)
