"""The bootstrap, against brute force, SciPy and theory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reactometer.errors import DataError, ScoreError
from reactometer.evaluation.bootstrap import (
    Resampling,
    bootstrap_mean_pearson,
    bootstrap_metrics,
    choose_units,
)
from reactometer.evaluation.metrics import Array, measure
from reactometer.types import Clip


def _set(seed: int, clips: int, labels: int = 3, r: float = 0.4) -> tuple[Array, Array]:
    """Targets and predictions of correlation ``r``, about 0.5."""
    targets, noise = np.random.default_rng(seed).normal(size=(2, clips, labels))
    return 0.5 + 0.1 * targets, 0.5 + 0.1 * (r * targets + np.sqrt(1 - r**2) * noise)


def _brute_force(targets: Array, predictions: Array) -> float:
    """Mean over the labels that vary, a constant prediction counting as 0; clip by clip with SciPy."""
    pairs = [pair for pair in zip(targets.T, predictions.T, strict=True) if np.ptp(pair[0]) > 0]
    return float(np.mean([stats.pearsonr(*pair).statistic if np.ptp(pair[1]) > 0 else 0.0 for pair in pairs]))


def test_a_statistic_of_all_units_then_of_each_resample() -> None:
    """The mean of one number per unit, against the same draws taken by hand."""
    units = np.column_stack([np.ones(7), np.arange(7.0)])
    means = Resampling(n_resamples=20, seed=3).resample(units, lambda sums: sums[:, 1] / sums[:, 0])
    resamples = np.random.default_rng(3).integers(7, size=(20, 7))
    np.testing.assert_allclose(means, [3.0, *resamples.mean(axis=1)])


def test_the_value_is_the_score_of_the_clips_as_they_are() -> None:
    targets, predictions = _set(0, clips=200)
    interval = bootstrap_mean_pearson(
        targets, predictions, resampling=Resampling(groups=[str(clip % 9) for clip in range(200)])
    )
    assert interval.value == pytest.approx(measure(targets, predictions, "abc").mean_pearson, abs=1e-12)
    assert interval.low < interval.value < interval.high


def test_every_resample_is_the_score_of_the_clips_drawn() -> None:
    """The same draws, scored one by one. A label of one clip and a prediction of two are constant in many of
    them."""
    targets, predictions = _set(1, clips=12, labels=4)
    targets[:, 1], predictions[:, 2] = np.arange(12) == 5, np.arange(12) < 2
    resamples = np.random.default_rng(7).integers(12, size=(50, 12))
    scores = [_brute_force(targets[clips], predictions[clips]) for clips in resamples]
    assert sum(bool(np.ptp(targets[clips, 1]) == 0) for clips in resamples) > 5
    interval = bootstrap_mean_pearson(targets, predictions, resampling=Resampling(n_resamples=50, seed=7))
    assert (interval.low, interval.high) == pytest.approx(
        tuple(np.quantile(scores, [0.025, 0.975])), abs=1e-10
    )


def test_groups_are_resampled_with_all_their_clips() -> None:
    """The same, with people of one to four clips each, their clips put together for each resample."""
    targets, predictions = _set(2, clips=30)
    people = [f"person {person}" for person in (0, 1, 1, 2, 2, 2, 3, 3, 3, 3) * 3]
    members = [np.flatnonzero(np.array(people) == person) for person in dict.fromkeys(people)]
    resamples = np.random.default_rng(8).integers(4, size=(60, 4))
    clips = [np.concatenate([members[person] for person in row]) for row in resamples]
    scores = [_brute_force(targets[rows], predictions[rows]) for rows in clips]
    interval = bootstrap_mean_pearson(
        targets, predictions, resampling=Resampling(groups=people, n_resamples=60, seed=8)
    )
    assert (interval.low, interval.high) == pytest.approx(
        tuple(np.quantile(scores, [0.025, 0.975])), abs=1e-10
    )


def test_of_one_label_it_is_scipys_percentile_bootstrap() -> None:
    targets, predictions = _set(3, clips=150, labels=1)

    def r(targets: Array, predictions: Array, axis: int) -> Array:
        return np.asarray(stats.pearsonr(targets, predictions, axis=axis).statistic)

    ours = bootstrap_mean_pearson(targets, predictions, resampling=Resampling(n_resamples=8000))
    theirs = stats.bootstrap(
        (targets[:, 0], predictions[:, 0]),
        r,
        paired=True,
        vectorized=True,
        n_resamples=8000,
        method="percentile",
        rng=0,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_its_width_is_the_sampling_error() -> None:
    """Of normal clips, r has a standard error of (1 − r²) / √n, and a mean of 7 independent ones of that /
    √7."""
    targets, predictions = _set(4, clips=2000, labels=7)
    interval = bootstrap_mean_pearson(targets, predictions)
    expected = (1 - 0.4**2) / np.sqrt(2000 * 7)
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(expected, rel=0.1)


def test_the_interval_contains_the_true_score_at_its_nominal_rate() -> None:
    intervals = [
        bootstrap_mean_pearson(*_set(seed, clips=120, labels=2), resampling=Resampling(n_resamples=300))
        for seed in range(100)
    ]
    covered = np.mean([interval.low <= 0.4 <= interval.high for interval in intervals])
    assert 0.9 <= covered <= 0.99


def test_clips_of_one_person_are_not_independent() -> None:
    """Every clip four times over: by person, the interval is that of the clips once; by clip, half as
    wide."""
    targets, predictions = _set(5, clips=300)
    once = bootstrap_mean_pearson(targets, predictions)
    often = np.repeat(targets, 4, axis=0), np.repeat(predictions, 4, axis=0)
    by_person = bootstrap_mean_pearson(
        *often, resampling=Resampling(groups=list(np.repeat(np.arange(300), 4)))
    )
    by_clip = bootstrap_mean_pearson(*often)
    assert (by_person.low, by_person.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert (by_clip.high - by_clip.low) / (once.high - once.low) == pytest.approx(0.5, abs=0.05)


def test_a_difference_is_paired() -> None:
    targets, baseline = _set(6, clips=400)
    predictions = 0.95 * baseline + 0.05 * targets  # a little better on the same clips
    difference = bootstrap_mean_pearson(targets, predictions, baseline)
    ours, theirs = bootstrap_mean_pearson(targets, predictions), bootstrap_mean_pearson(targets, baseline)
    assert difference.value == pytest.approx(ours.value - theirs.value)
    assert theirs.high > ours.low  # the two intervals overlap, and yet
    assert difference.low > 0.0
    assert bootstrap_mean_pearson(targets, baseline, predictions).high == pytest.approx(-difference.low)
    same = bootstrap_mean_pearson(
        targets, baseline, baseline, resampling=Resampling(groups=np.arange(400).tolist())
    )
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_a_constant_counts_as_no_correlation() -> None:
    targets, predictions = _set(7, clips=100)
    constant = np.tile(targets.mean(axis=0), (100, 1)) + np.float32(1e-8) * np.arange(100)[:, None]
    interval = bootstrap_mean_pearson(targets, constant)
    assert (interval.value, interval.low, interval.high) == (0.0, 0.0, 0.0)
    assert bootstrap_mean_pearson(targets, predictions, constant) == bootstrap_mean_pearson(
        targets, predictions
    )


def test_a_label_that_never_varies_has_no_say() -> None:
    targets, predictions = _set(8, clips=60)
    with_constant = (
        np.column_stack([targets, np.full(60, 0.7)]),
        np.column_stack([predictions, predictions[:, 0]]),
    )
    ours, theirs = bootstrap_mean_pearson(*with_constant), bootstrap_mean_pearson(targets, predictions)
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high))


def test_offset_and_scale_of_predictions_have_no_say() -> None:
    targets, predictions = _set(9, clips=80)
    ours, theirs = (
        bootstrap_mean_pearson(targets, values) for values in (1e4 + 0.3 * predictions, predictions)
    )
    assert (ours.value, ours.low, ours.high) == pytest.approx(
        (theirs.value, theirs.low, theirs.high), abs=1e-7
    )


def test_the_seed_alone_decides() -> None:
    targets, predictions = _set(10, clips=40)
    first = bootstrap_mean_pearson(targets, predictions)
    assert bootstrap_mean_pearson(targets, predictions) == first
    assert bootstrap_mean_pearson(targets, predictions, resampling=Resampling(seed=1)) != first


def test_invalid_resampling_units_are_refused() -> None:
    targets, predictions = _set(11, clips=6)
    with pytest.raises(ScoreError, match=r"too few clips.*2.*3"):
        bootstrap_mean_pearson(targets[:2], predictions[:2])
    with pytest.raises(ScoreError, match="do not match"):
        bootstrap_mean_pearson(targets, predictions, predictions[:5])
    with pytest.raises(ScoreError, match="no label varies"):
        bootstrap_mean_pearson(np.full((6, 3), 0.5), predictions)


def test_every_interval_is_that_of_the_scores_of_the_clips_drawn() -> None:
    """All three scores, each label's and the mean, by people: measured anew for each of the same draws."""
    targets, predictions = _set(12, clips=40)
    predictions += 0.03  # CCC and MAE know of it
    people = list(np.arange(40) % 8)
    resamples = np.random.default_rng(5).integers(8, size=(30, 8))
    clips = [
        np.concatenate([np.flatnonzero(np.array(people) == person) for person in row]) for row in resamples
    ]
    scores = [measure(targets[rows], predictions[rows], "abc") for rows in clips]
    made = bootstrap_metrics(
        targets,
        predictions,
        "abc",
        resampling=Resampling(unit="person", groups=people, n_resamples=30, seed=5),
    )
    assert (made.unit, made.n_units, made.n_resamples) == ("person", 8, 30)
    whole = measure(targets, predictions, "abc")
    for kind in ("pearson", "ccc", "mae"):
        mean = made.mean[kind]
        assert mean is not None
        expected = np.quantile([score.means[kind] or 0.0 for score in scores], [0.025, 0.975])
        assert (mean.low, mean.high) == pytest.approx(tuple(expected), abs=1e-10)
        assert mean.value == pytest.approx(whole.means[kind], abs=1e-12)
        for index, label in enumerate(made.by_label[kind]):
            assert label is not None
            expected = np.quantile([getattr(score, kind)[index] for score in scores], [0.025, 0.975])
            assert (label.low, label.high) == pytest.approx(tuple(expected), abs=1e-10)


def test_of_many_clips_it_is_fishers_interval() -> None:
    """SciPy's interval of r by Fisher's transformation, for normal clips."""
    targets, predictions = _set(13, clips=1500, labels=2)
    made = bootstrap_metrics(targets, predictions, "ab", resampling=Resampling(n_resamples=4000))
    for index, label_interval in enumerate(made.by_label["pearson"]):
        assert label_interval is not None
        theirs = stats.pearsonr(targets[:, index], predictions[:, index]).confidence_interval()
        assert (label_interval.low, label_interval.high) == pytest.approx(
            (theirs.low, theirs.high), abs=0.006
        )


def test_an_undefined_score_has_no_interval() -> None:
    targets, predictions = _set(14, clips=50)
    predictions[:, 1] = 0.4
    made = bootstrap_metrics(targets, predictions, "abc", resampling=Resampling(n_resamples=100))
    assert made.mean["pearson"] is None
    assert made.by_label["pearson"][1] is None
    assert made.by_label["pearson"][0] is not None
    assert made.by_label["mae"][1] is not None


@pytest.mark.slow
def test_intervals_by_person_contain_the_true_score_if_few_people_have_many_clips() -> None:
    """60 people with 5 correlated clips each: resampling by clip gives intervals that are too narrow."""
    is_covered: dict[str, list[bool]] = {"person": [], "clip": []}
    people = list(np.repeat(np.arange(60), 5))
    for seed in range(150):
        generator = np.random.default_rng(seed)
        values = generator.normal(size=(2, 60, 1, 2)) + generator.normal(size=(2, 60, 5, 2))
        targets, noise = values.reshape(2, 300, 2)
        predictions = 0.4 * targets + np.sqrt(1 - 0.4**2) * noise
        for unit, groups in (("person", people), ("clip", None)):
            made = bootstrap_metrics(
                targets, predictions, "ab", resampling=Resampling(groups=groups, n_resamples=300, seed=seed)
            )
            mean = made.mean["pearson"]
            assert mean is not None
            is_covered[unit].append(mean.low <= 0.4 <= mean.high)
    assert 0.9 <= np.mean(is_covered["person"]) <= 0.985
    assert np.mean(is_covered["clip"]) < 0.87


def test_the_default_unit_is_the_person_if_known() -> None:
    clips = [Clip(f"{row}", Path("a"), person=f"p{row % 4}", stimulus=f"s{row % 3}") for row in range(12)]
    assert choose_units(clips) == Resampling("person", [f"p{row % 4}" for row in range(12)])
    assert choose_units(clips, "stimulus") == Resampling("stimulus", [f"s{row % 3}" for row in range(12)])
    assert choose_units(clips, "clip", 50) == Resampling(n_resamples=50)
    assert choose_units([*clips, Clip("x", Path("a"))]) == Resampling()
    assert choose_units(clips[:2]) == Resampling()  # of two people
    with pytest.raises(DataError, match=r"person.*1 of 13 clips"):
        choose_units([*clips, Clip("x", Path("a"))], "person")
    with pytest.raises(DataError, match=r"stimuli.*'stimulus'"):
        choose_units(clips, "stimuli")
