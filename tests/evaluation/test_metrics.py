"""The metrics, against SciPy, torchmetrics and worked examples."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchmetrics.regression import ConcordanceCorrCoef, MeanAbsoluteError, PearsonCorrCoef

from reactometer.config import Config
from reactometer.data.cache import PreparedSet
from reactometer.data.inputs import Item
from reactometer.errors import ScoreError
from reactometer.evaluation.evaluate import evaluate
from reactometer.evaluation.metrics import MIN_STD, Array, measure, pearson
from reactometer.inference import scoring
from reactometer.inference.runtime import Networks
from reactometer.models.batches import Batch
from reactometer.models.model import ReactionModel
from reactometer.training.train import train
from reactometer.types import FloatArray

LABELS = ("a", "b", "c")


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scipy_and_torchmetrics(seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = generator.uniform(size=(50, 3))
    predictions = (0.5 * targets + 0.5 * generator.uniform(size=(50, 3))).clip(0, 1)
    metrics = measure(targets, predictions, LABELS)
    assert metrics.n_clips == 50
    for index in range(3):
        truth, guess = targets[:, index], predictions[:, index]
        assert metrics.pearson[index] == pytest.approx(stats.pearsonr(truth, guess).statistic, abs=1e-12)
        theirs, ours = torch.from_numpy(truth), torch.from_numpy(guess)
        assert metrics.pearson[index] == pytest.approx(float(PearsonCorrCoef()(ours, theirs)), abs=1e-5)
        assert metrics.mae[index] == pytest.approx(float(MeanAbsoluteError()(ours, theirs)), abs=1e-6)
        # torchmetrics divides the variances by n - 1 and Lin by n; over 50 clips that moves the bias term a
        # little
        assert metrics.ccc[index] == pytest.approx(float(ConcordanceCorrCoef()(ours, theirs)), abs=5e-3)
    assert metrics.mean_pearson == pytest.approx(np.mean([r for r in metrics.pearson if r is not None]))


def test_ccc_of_a_worked_example() -> None:
    """Lin's formula by hand: means 2 and 3, variances 2/3 each, covariance 2/3: 2 (2/3) / (2/3 + 2/3 + 1) =
    4/7."""
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
    assert metrics.means["ccc"] is None
    assert metrics.as_json()["pearson"]["b"] is None


def test_a_constant_target_is_undefined() -> None:
    predictions = np.random.default_rng(0).uniform(size=(20, 3))
    assert measure(np.full((20, 3), 0.5), predictions, LABELS).pearson == (None, None, None)
    targets = predictions.copy()
    targets[:, 1] = 0.5
    metrics = measure(targets, predictions, LABELS)
    assert [r is None for r in metrics.pearson] == [r is None for r in metrics.ccc] == [False, True, False]


def test_single_precision_is_scored_in_double() -> None:
    truth, guess = np.random.default_rng(0).uniform(size=(2, 20, 3)).astype(np.float32)
    exact = measure(truth.astype(np.float64), guess.astype(np.float64), LABELS)
    assert measure(truth, guess, LABELS) == exact
    assert (
        measure(truth, guess.astype(np.float64), LABELS)
        == measure(truth.astype(np.float64), guess, LABELS)
        == exact
    )


def test_the_score_is_over_all_clips_and_not_a_mean_over_batches() -> None:
    """Two batches, each perfectly anti-correlated within, are positively correlated together."""
    targets = np.array([[0.1], [0.2], [0.8], [0.9]])
    predictions = np.array([[0.2], [0.1], [0.9], [0.8]])
    assert measure(targets, predictions, ("a",)).pearson[0] == pytest.approx(
        stats.pearsonr(targets[:, 0], predictions[:, 0])[0]
    )
    assert (measure(targets, predictions, ("a",)).mean_pearson or -1) > 0.9


@pytest.mark.parametrize(
    ("targets", "predictions", "message"),
    [
        (
            np.zeros((2, 3)),
            np.zeros((2, 3)),
            "too few clips with labels for a correlation (got 2; expected at least 3). hint: "
            "Evaluate a larger split, or --split all.",
        ),
        *(
            (
                np.zeros(truth),
                np.zeros(guess),
                f"targets and predictions do not match (got {truth} and {guess}; expected (clips, 3) both).",
            )
            for truth, guess in (((5, 3), (4, 3)), ((5, 2), (5, 2)), ((5,), (5,)), ((5, 3, 1), (5, 3, 1)))
        ),
        *(
            (*pair, "a target or a prediction is not finite. hint: Fix empty or infinite values.")
            for number in (np.nan, np.inf)
            for pair in (
                (np.full((5, 3), number), np.zeros((5, 3))),
                (np.zeros((5, 3)), np.full((5, 3), number)),
            )
        ),
    ],
)
def test_invalid_arrays_are_refused(targets: Array, predictions: Array, message: str) -> None:
    with pytest.raises(ScoreError) as caught:
        measure(targets, predictions, LABELS)
    assert str(caught.value) == message


def test_all_of_it_as_json() -> None:
    truth, guess = np.random.default_rng(0).uniform(size=(2, 20, 2))
    metrics = measure(truth, guess, ("a", "b"))
    assert metrics.as_json() == {
        "mean_pearson": metrics.mean_pearson,
        "pearson": {"a": metrics.pearson[0], "b": metrics.pearson[1]},
        "mean_ccc": metrics.means["ccc"],
        "ccc": {"a": metrics.ccc[0], "b": metrics.ccc[1]},
        "mean_mae": metrics.means["mae"],
        "mae": {"a": metrics.mae[0], "b": metrics.mae[1]},
        "n_clips": 20,
    }


@pytest.mark.parametrize("short", ["pearson", "ccc", "mae"])
def test_a_label_without_its_score_is_an_error(short: str) -> None:
    truth, guess = np.random.default_rng(0).uniform(size=(2, 20, 2))
    metrics = measure(truth, guess, ("a", "b"))
    with pytest.raises(ValueError, match="zip"):
        replace(metrics, **{short: getattr(metrics, short)[:1]}).as_json()


@pytest.mark.filterwarnings("error")
def test_undefined_scores_raise_no_warning() -> None:
    """Nor do values so small that their squares are 0: a product with such a deviation is none."""
    constant, varied, tiny = np.array([[0.5, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 1.0, 1e-200]]).T[:, :, None]
    for truth, guess in ((constant, constant), (tiny, varied), (varied, tiny), (constant, tiny)):
        metrics = measure(truth, guess, ("a",))
        assert (metrics.pearson, metrics.ccc) == ((None,), (None,))


def test_a_spread_of_a_millionth_is_a_constant_and_more_is_none() -> None:
    varied = np.arange(3.0)[:, None]
    for spread, defined in ((MIN_STD, False), (1.01 * MIN_STD, True)):
        for truth, guess in ((varied, spread * varied / 2), (spread * varied / 2, varied)):
            assert (measure(truth, guess, ("a",)).pearson[0] is not None) is defined


def _torchmetrics(
    metric: PearsonCorrCoef | ConcordanceCorrCoef, truth: npt.ArrayLike, guess: npt.ArrayLike
) -> float:
    """Compute in double precision instead of torchmetrics' default, float32."""
    metric.set_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of constants, and returns NaN
        value = metric(torch.tensor(guess, dtype=torch.float64), torch.tensor(truth, dtype=torch.float64))
    return float(cast(Tensor, value))


def _pair(kind: str, generator: np.random.Generator) -> tuple[Array, Array]:
    """Targets and predictions of 3 to 80 clips that are hard in one way."""
    clips = int(generator.integers(3, 80))
    truth, noise = generator.uniform(size=(2, clips))
    guess = 0.4 * truth + 0.5 * noise
    weight = generator.uniform(0.1, 3)
    pairs = {
        "random": (truth, guess),
        "near constants": (0.5 + 1e-4 * truth, 0.3 + 1e-4 * guess),
        "great offsets": (1e6 + truth, 1e6 + 0.01 * guess),
        "one great offset": (truth, 1e6 + guess),
        "duplicates": (
            (truth * 3).round() / 3 + (np.arange(clips) == 0),
            (guess * 4).round() / 4 + (truth > 0.5),
        ),
        "one clip apart": ((np.arange(clips) == 1).astype(float), guess),
        "float32": (truth.astype(np.float32), guess.astype(np.float32)),
        "correlated": (truth, weight * truth + 0.2),
        "anticorrelated": (truth, 0.9 - weight * truth),
    }
    return pairs[kind]


METRIC_NAMES = (
    "random,near constants,great offsets,one great offset,duplicates,one clip apart,float32,correlated,"
    "anticorrelated"
)


@pytest.mark.parametrize("kind", METRIC_NAMES.split(","))
def test_hard_inputs_score_as_elsewhere(kind: str) -> None:
    """40 random draws of each kind; torchmetrics has Lin's moments, 1/n, of the clips 1,000 times over."""
    generator = np.random.default_rng(0)
    for _ in range(40):
        truth, guess = _pair(kind, generator)
        metrics = measure(truth[:, None], guess[:, None], ("a",))
        exact = truth.astype(np.float64), guess.astype(np.float64)
        expected = stats.pearsonr(*exact).statistic
        assert metrics.pearson[0] == pytest.approx(expected, abs=1e-8)
        assert metrics.pearson[0] == pytest.approx(_torchmetrics(PearsonCorrCoef(), *exact), abs=1e-8)
        often = [np.tile(column, 1000) for column in exact]
        concordance = _torchmetrics(ConcordanceCorrCoef(), *often)
        assert metrics.ccc[0] == pytest.approx(concordance, rel=1e-3, abs=1e-8)
        if kind.endswith("correlated"):
            assert metrics.pearson[0] == pytest.approx(-1.0 if kind.startswith("anti") else 1.0, abs=1e-12)


def test_rounding_makes_no_correlation_of_more_than_one() -> None:
    """Of 40 perfect ones a quarter would be ±1.0000000000000002."""
    generator = np.random.default_rng(0)
    for _ in range(40):
        truth = generator.uniform(size=(int(generator.integers(3, 80)), 1))
        weight = generator.uniform(0.1, 3)
        (rises,), (falls,) = pearson(truth, weight * truth + 0.2), pearson(truth, 0.9 - weight * truth)
        assert rises == pytest.approx(1.0, abs=1e-12)
        assert falls == pytest.approx(-1.0, abs=1e-12)
        assert max(abs(rises or 0.0), abs(falls or 0.0)) <= 1.0


@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, 0.7, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_is_undefined_as_in_scipy(level: float, dtype: type[np.floating]) -> None:
    """The mean of equal values may differ from them in the last digit, which must not become a
    correlation."""
    varied = np.random.default_rng(1).uniform(size=101).astype(dtype)
    constant = np.full(101, level, dtype)
    for truth, guess in ((varied, constant), (constant, varied), (constant, constant)):
        metrics = measure(truth[:, None], guess[:, None], ("a",))
        assert metrics.pearson == metrics.ccc == (None,)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            assert np.isnan(stats.pearsonr(truth, guess).statistic)


def _reversed(targets: Array) -> Array:
    """Answer a batch's mean labels (B, L) with its clips the wrong way round: within the batch, r is −1."""
    mean = targets.mean(axis=0)
    return cast(Array, 0.1 + 0.5 * mean - 0.1 * (targets - mean))


def _pearson(truth: Array, guess: Array) -> list[float | None]:
    """r of each label, by SciPy; None where the clips' labels do not vary."""
    pairs = zip(truth.T, guess.T, strict=True)
    return [float(stats.pearsonr(*pair).statistic) if np.ptp(pair[0]) > 0 else None for pair in pairs]


def test_an_evaluation_scores_all_clips_at_once(
    model_folder: Path, prepared: PreparedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 clips, one is left for a last batch: within each batch r = −1, and over all clips far from it."""
    batch_size = 13
    targets = np.array([row.clip.labels for row in prepared.rows])
    sizes = list[int]()

    def answer(networks: Networks, items: Sequence[Item]) -> FloatArray:
        first = sum(sizes)
        sizes.append(len(items))
        return _reversed(targets[first : first + len(items)]).astype(np.float32)

    monkeypatch.setattr(Networks, "score", answer)
    monkeypatch.setattr(scoring, "BATCH_SIZE", batch_size)
    evaluation = evaluate(model_folder, prepared.folder, split="all", in_sample=True, progress=False)
    assert sizes == [batch_size] * (40 // batch_size) + [40 % batch_size]
    predictions = evaluation.predictions[list(prepared.labels)].to_numpy()
    assert max(r for r in _pearson(targets[:batch_size], predictions[:batch_size]) if r is not None) < -0.99
    r = _pearson(targets, predictions)
    assert evaluation.metrics.n_clips == len(predictions) == 40
    assert list(evaluation.metrics.pearson) == pytest.approx(r, abs=1e-5)
    assert min(value for value in r if value is not None) > -0.8


@pytest.mark.slow
def test_a_validation_scores_all_clips_at_once(
    small_config: Config, prepared: PreparedSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The validation score of training, over two batches of different size, is the score over all clips."""
    batches, forward = list[tuple[Array, Array]](), ReactionModel.forward

    def answer(network: ReactionModel, batch: Batch) -> Tensor:
        if network.training or not batch.target_mask.any():  # or the export's proof
            return forward(network, batch)
        truth = batch.targets.numpy()
        batches.append((truth, _reversed(truth)))
        return torch.from_numpy(batches[-1][1])

    monkeypatch.setattr(ReactionModel, "forward", answer)
    training = small_config.training.model_copy(
        update={"out": tmp_path / "run", "epochs": 1, "batch_size": 4}
    )
    folder = train(config=small_config.model_copy(update={"training": training}), progress=False)
    said = json.loads((folder / "model.json").read_text())["metrics"]
    own = batches[-2:]
    assert [len(truth) for truth, _ in own] == [4, 2]
    assert max(r for batch in own for r in _pearson(*batch) if r is not None) < -0.99
    truth, guess = (np.concatenate(column) for column in zip(*own, strict=True))
    r = _pearson(truth, guess)
    assert said["n_clips"] == len(prepared.split("val")) == 6
    assert list(said["pearson"].values()) == pytest.approx(r, abs=1e-5)
    assert min(value for value in r if value is not None) > -0.8
