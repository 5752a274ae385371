"""Do the numbers mean what they say? Against SciPy, and by simulation with known truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reactometer.data.cache import PreparedSet
from reactometer.evaluation.bootstrap import Resampling
from reactometer.evaluation.calibration import measure_reliability
from reactometer.evaluation.evaluate import evaluate
from reactometer.evaluation.metrics import Array


def _draw(seed: int, clips: int = 200, people: int = 0) -> tuple[Array, Array, list[int] | None]:
    """Truth = .2 + .5 prediction + noise, two labels; with people, half of the noise's variance is each one's own."""
    rng = np.random.default_rng(seed)
    guess, noise = rng.random((clips, 2)), rng.normal(size=(clips, 2))
    who = rng.integers(people, size=clips).tolist() if people else None
    if who:
        noise = np.sqrt(0.5) * (noise + rng.normal(size=(people, 2))[who])
    return 0.2 + 0.5 * guess + 0.1 * noise, guess, who


def test_slope_and_intercept_are_least_squares_and_the_interval_is_near_the_normal_one() -> None:
    """``scipy.stats.linregress``; with normal errors of one size, its own interval is the one to expect."""
    truth, guess, _ = _draw(0, clips=600)
    for place, own in enumerate(measure_reliability(truth, guess, "ab")):
        theirs = stats.linregress(guess[:, place], truth[:, place])
        assert own.slope is not None
        assert own.intercept is not None
        assert own.slope.value == pytest.approx(theirs.slope, abs=1e-12)
        assert own.intercept.value == pytest.approx(theirs.intercept, abs=1e-12)
        for ours, expected, error in (
            (own.slope, theirs.slope, theirs.stderr),
            (own.intercept, theirs.intercept, theirs.intercept_stderr),
        ):
            assert [ours.low, ours.high] == pytest.approx(
                [expected - 1.96 * error, expected + 1.96 * error], abs=0.25 * error
            )
        assert own.bias.value == pytest.approx((guess - truth)[:, place].mean(), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("people", [0, 60])
def test_the_interval_holds_the_truth_as_often_as_it_says(people: int) -> None:
    """150 drawn data sets, two labels each: 95 % of 300, give or take; by person where people have errors in common."""
    held = []
    for seed in range(150):
        truth, guess, who = _draw(seed, people=people)
        for own in measure_reliability(
            truth, guess, "ab", resampling=Resampling(groups=who, n_resamples=400, seed=seed)
        ):
            assert own.slope is not None
            held.append(own.slope.low <= 0.5 <= own.slope.high)
    assert 0.91 <= np.mean(held) <= 0.98


def test_bins_are_equally_filled_and_their_means_are_those_of_their_clips() -> None:
    """pandas cuts the same bins; the interval of a mean is the normal one of its clips."""
    truth, guess, _ = _draw(1, clips=400)
    (own, _) = measure_reliability(truth, guess, "ab")
    bins = pd.DataFrame({"guess": guess[:, 0], "truth": truth[:, 0]}).groupby(
        pd.Series(pd.qcut(guess[:, 0], 10, labels=False))
    )
    assert [each.n_clips for each in own.bins] == [40] * 10
    assert [each.prediction for each in own.bins] == pytest.approx(bins.guess.mean().tolist())
    assert [each.target.value for each in own.bins] == pytest.approx(bins.truth.mean().tolist())
    for each, error in zip(own.bins, bins.truth.sem(), strict=True):
        assert each.target.high - each.target.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_people_are_drawn_whole() -> None:
    """A person's clips repeated ten times over are ten times the clips and no more people."""
    truth, guess, _ = _draw(2, clips=50)
    once = measure_reliability(truth, guess, "ab")[0].slope
    often = measure_reliability(
        np.repeat(truth, 10, axis=0),
        np.repeat(guess, 10, axis=0),
        "ab",
        resampling=Resampling(groups=np.repeat(np.arange(50), 10).tolist()),
    )
    again = often[0].slope
    assert once is not None
    assert again is not None
    assert [again.value, again.low, again.high] == pytest.approx([once.value, once.low, once.high])


def test_a_constant_prediction_has_no_slope_and_a_bias() -> None:
    truth, guess, _ = _draw(3)
    guess[:, 0] = 0.25
    own, other = measure_reliability(truth, guess, "ab")
    assert own.slope is own.intercept is None
    assert own.bias.value == pytest.approx(0.25 - truth[:, 0].mean())
    assert other.slope is not None


def test_evaluate_writes_it(frozen_folder: Path, prepared: PreparedSet, tmp_path: Path) -> None:
    evaluate(frozen_folder, prepared.folder, split="all", out=tmp_path, progress=False)
    said = json.loads((tmp_path / "metrics.json").read_text())["reliability"]
    assert [own["label"] for own in said] == list(prepared.labels)
    table = pd.read_csv(tmp_path / "predictions.csv")
    for place, label in enumerate(prepared.labels):
        truth = [row.clip.labels[place] for row in prepared.rows if row.clip.labels]
        assert said[place]["slope"]["value"] == pytest.approx(stats.linregress(table[label], truth).slope, rel=1e-3)
        assert sum(own["n_clips"] for own in said[place]["bins"]) == 40
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
