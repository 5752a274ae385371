"""The metrics, against SciPy, torchmetrics and worked examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.regression import ConcordanceCorrCoef, MeanAbsoluteError, PearsonCorrCoef

from reactometer.errors import ScoreError
from reactometer.evaluation.metrics import measure

LABELS = ("a", "b", "c")


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scipy_and_torchmetrics(seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = generator.uniform(size=(50, 3))
    predictions = (0.5 * targets + 0.5 * generator.uniform(size=(50, 3))).clip(0, 1)
    metrics = measure(targets, predictions, LABELS)
    assert metrics.n_clips == 50
    for place in range(3):
        truth, guess = targets[:, place], predictions[:, place]
        assert metrics.pearson[place] == pytest.approx(stats.pearsonr(truth, guess).statistic, abs=1e-12)
        theirs, ours = torch.from_numpy(truth), torch.from_numpy(guess)
        assert metrics.pearson[place] == pytest.approx(float(PearsonCorrCoef()(ours, theirs)), abs=1e-5)
        assert metrics.mae[place] == pytest.approx(float(MeanAbsoluteError()(ours, theirs)), abs=1e-6)
        # torchmetrics divides the variances by n - 1 and Lin by n; over 50 clips that moves the bias term a little
        assert metrics.ccc[place] == pytest.approx(float(ConcordanceCorrCoef()(ours, theirs)), abs=5e-3)
    assert metrics.mean_pearson == pytest.approx(np.mean([r for r in metrics.pearson if r is not None]))


def test_ccc_of_a_worked_example() -> None:
    """Lin's formula by hand: means 2 and 3, variances 2/3 each, covariance 2/3: 2 (2/3) / (2/3 + 2/3 + 1) = 4/7."""
    metrics = measure([[1.0], [2.0], [3.0]], [[2.0], [3.0], [4.0]], ("a",))
    assert metrics.ccc[0] == pytest.approx(4 / 7)
    assert metrics.pearson[0] == pytest.approx(1.0)
    assert metrics.mae[0] == pytest.approx(1.0)


def test_a_constant_prediction_is_undefined_and_so_is_the_mean() -> None:
    targets = np.random.default_rng(0).uniform(size=(20, 3))
    predictions = targets.copy()
    predictions[:, 1] = 0.3 + np.float32(1e-8) * np.arange(20)  # constant but for rounding
    metrics = measure(targets, predictions, LABELS)
    assert metrics.pearson[0] == pytest.approx(1.0)
    assert metrics.pearson[1] is None
    assert metrics.ccc[1] is None
    assert metrics.mean_pearson is None
    assert metrics.mean_ccc is None
    assert metrics.as_json()["pearson"]["b"] is None


def test_a_constant_target_is_undefined() -> None:
    predictions = np.random.default_rng(0).uniform(size=(20, 3))
    assert measure(np.full((20, 3), 0.5), predictions, LABELS).pearson == (None, None, None)


def test_the_score_is_over_all_clips_and_not_a_mean_over_batches() -> None:
    """Two batches, each perfectly anti-correlated within, are positively correlated together."""
    targets = np.array([[0.1], [0.2], [0.8], [0.9]])
    predictions = np.array([[0.2], [0.1], [0.9], [0.8]])
    assert measure(targets, predictions, ("a",)).pearson[0] == pytest.approx(
        stats.pearsonr(targets[:, 0], predictions[:, 0])[0]
    )
    assert (measure(targets, predictions, ("a",)).mean_pearson or -1) > 0.9


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ScoreError, match=r"too few clips with labels.*got 1; expected at least 3"):
        measure([[0.5, 0.5, 0.5]], [[0.5, 0.5, 0.5]], LABELS)
    with pytest.raises(ScoreError, match="do not match"):
        measure(np.zeros((5, 3)), np.zeros((4, 3)), LABELS)
    with pytest.raises(ScoreError, match="not a number"):
        measure(np.full((5, 3), np.nan), np.zeros((5, 3)), LABELS)
