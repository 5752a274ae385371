"""Reliability and coverage against SciPy, and by simulation with known targets."""

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
    """Simulate targets = 0.2 + 0.5 prediction + noise; with people, half of the noise's variance is per
    person."""
    rng = np.random.default_rng(seed)
    predictions, noise = rng.random((clips, 2)), rng.normal(size=(clips, 2))
    who = rng.integers(people, size=clips).tolist() if people else None
    if who:
        noise = np.sqrt(0.5) * (noise + rng.normal(size=(people, 2))[who])
    return 0.2 + 0.5 * predictions + 0.1 * noise, predictions, who


def test_slope_and_intercept_are_least_squares_and_the_interval_is_near_the_normal_one() -> None:
    """With normal errors of equal variance, ``scipy.stats.linregress`` gives the expected interval."""
    targets, predictions, _ = _draw(0, clips=600)
    for index, label in enumerate(measure_reliability(targets, predictions, "ab")):
        theirs = stats.linregress(predictions[:, index], targets[:, index])
        assert label.slope is not None
        assert label.intercept is not None
        assert label.slope.value == pytest.approx(theirs.slope, abs=1e-12)
        assert label.intercept.value == pytest.approx(theirs.intercept, abs=1e-12)
        for ours, expected, error in (
            (label.slope, theirs.slope, theirs.stderr),
            (label.intercept, theirs.intercept, theirs.intercept_stderr),
        ):
            assert [ours.low, ours.high] == pytest.approx(
                [expected - 1.96 * error, expected + 1.96 * error], abs=0.25 * error
            )
        assert label.bias.value == pytest.approx((predictions - targets)[:, index].mean(), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("people", [0, 60])
def test_the_interval_contains_the_true_slope_at_its_nominal_rate(people: int) -> None:
    """150 simulated datasets with two labels: about 95% of 300; by person if a person's errors are
    correlated."""
    is_inside = []
    for seed in range(150):
        targets, predictions, who = _draw(seed, people=people)
        for label in measure_reliability(
            targets, predictions, "ab", resampling=Resampling(groups=who, n_resamples=400, seed=seed)
        ):
            assert label.slope is not None
            is_inside.append(label.slope.low <= 0.5 <= label.slope.high)
    assert 0.91 <= np.mean(is_inside) <= 0.98


def test_bins_are_equally_filled_and_their_means_are_those_of_their_clips() -> None:
    """pandas cuts the same bins; the interval of a mean is the normal one of its clips."""
    targets, predictions, _ = _draw(1, clips=400)
    (label, _) = measure_reliability(targets, predictions, "ab")
    bins = pd.DataFrame({"guess": predictions[:, 0], "truth": targets[:, 0]}).groupby(
        pd.Series(pd.qcut(predictions[:, 0], 10, labels=False))
    )
    assert [group.n_clips for group in label.bins] == [40] * 10
    assert [group.prediction for group in label.bins] == pytest.approx(bins.guess.mean().tolist())
    assert [group.target.value for group in label.bins] == pytest.approx(bins.truth.mean().tolist())
    for group, error in zip(label.bins, bins.truth.sem(), strict=True):
        assert group.target.high - group.target.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_people_are_resampled_with_all_their_clips() -> None:
    """A person's clips repeated ten times over are ten times the clips and no more people."""
    targets, predictions, _ = _draw(2, clips=50)
    once = measure_reliability(targets, predictions, "ab")[0].slope
    often = measure_reliability(
        np.repeat(targets, 10, axis=0),
        np.repeat(predictions, 10, axis=0),
        "ab",
        resampling=Resampling(groups=np.repeat(np.arange(50), 10).tolist()),
    )
    again = often[0].slope
    assert once is not None
    assert again is not None
    assert [again.value, again.low, again.high] == pytest.approx([once.value, once.low, once.high])


def test_a_constant_prediction_has_no_slope_and_a_bias() -> None:
    targets, predictions, _ = _draw(3)
    predictions[:, 0] = 0.25
    constant, other = measure_reliability(targets, predictions, "ab")
    assert constant.slope is constant.intercept is None
    assert constant.bias.value == pytest.approx(0.25 - targets[:, 0].mean())
    assert other.slope is not None


def test_evaluate_writes_it(frozen_folder: Path, prepared: PreparedSet, tmp_path: Path) -> None:
    evaluate(frozen_folder, prepared.folder, split="all", out=tmp_path, progress=False)
    content = json.loads((tmp_path / "metrics.json").read_text())["reliability"]
    assert [item["label"] for item in content] == list(prepared.labels)
    table = pd.read_csv(tmp_path / "predictions.csv")
    for index, label in enumerate(prepared.labels):
        targets = [row.clip.labels[index] for row in prepared.rows if row.clip.labels]
        assert content[index]["slope"]["value"] == pytest.approx(
            stats.linregress(table[label], targets).slope, rel=1e-3
        )
        assert sum(item["n_clips"] for item in content[index]["bins"]) == 40
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
