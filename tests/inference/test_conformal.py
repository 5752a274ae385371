"""Intervals hold what they say, distances are Mahalanobis', curves keep the ranking, and files are checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from reactometer.errors import ModelError
from reactometer.inference.conformal import (
    REFERENCES_FILE,
    UNCERTAINTY_FILE,
    IsotonicMap,
    ModalityIntervals,
    Uncertainty,
    conformal_half_widths,
    fit_isotonic_map,
    fit_training_density,
    load_uncertainty,
    save_uncertainty,
)
from reactometer.inference.scores import Score

SCORE = Score(
    np.array([0.2, 0.7], np.float32),
    has_face=True,
    has_voice=False,
    features=({"face": np.zeros(3, np.float32)},),
)


def _sure() -> Uncertainty:
    rng = np.random.default_rng(0)
    return Uncertainty(
        coverage=0.9,
        by_modalities={"face": ModalityIntervals(50, (0.1, 0.4)), "voice": ModalityIntervals(5, (1.0, 1.0))},
        fitted_on={"name": "fv", "split": "val", "n_clips": 50},
        shortest_s=4.0,
        recalibration=(IsotonicMap((0.1, 0.3), (0.0, 0.4)), IsotonicMap((0.5, 0.6), (0.5, 0.6))),
        references={"face": (fit_training_density(rng.normal(size=(200, 3))),)},
        ood_threshold={"face": 2.0},
    )


def test_half_widths_are_an_order_statistic_and_infinite_below_nine_clips() -> None:
    residuals = np.array([[0.1, -0.5]] * 9 + [[-0.3, 0.2]] * 1)
    assert conformal_half_widths(residuals, 0.9) == (0.3, 0.5)  # the tenth of ten
    assert conformal_half_widths(residuals[:8], 0.9) == (1.0, 1.0)
    assert conformal_half_widths(residuals[:9], 0.9) == (0.1, 0.5)


def test_intervals_cover_as_the_theory_says() -> None:
    """Over draws of 60 clips and one more, coverage is ⌈61 · .9⌉ / 61 for continuous residuals (Vovk et al. 2005)."""
    rng = np.random.default_rng(1)
    residuals = rng.standard_t(3, size=(61, 20_000)) * 0.05  # (clips, repeats)
    held = np.abs(residuals[60]) <= conformal_half_widths(residuals[:60], 0.9)
    assert held.mean() == pytest.approx(55 / 61, abs=4 * np.sqrt(0.09 / 20_000))


def test_intervals_cover_clips_of_new_people() -> None:
    """Half of the variance is each person's own: by person, a clip of a new one is held as asked; by clip, less often.

    The theory (Lee, Barber & Willett): between .9 and .9 + 1 / (people + 1), here over 12 people of 10 clips each.
    """
    rng = np.random.default_rng(4)
    scale = rng.lognormal(0.0, 0.7, size=(13, 1, 4000))  # (people, 1, repeats): how far off the model is on each
    residuals = rng.normal(size=(13, 10, 4000)) * scale
    fit, new = residuals[:12].reshape(120, -1), residuals[12, 0]
    people = [str(place // 10) for place in range(120)]
    by_person = (np.abs(new) <= np.minimum(np.array(conformal_half_widths(fit, 0.9, people)), np.inf)).mean()
    by_clip = (np.abs(new) <= conformal_half_widths(fit, 0.9)).mean()
    error = 4 * np.sqrt(0.09 / 4000)
    assert 0.9 - error <= by_person <= 0.9 + 1 / 13 + error
    assert by_clip < by_person
    assert conformal_half_widths(fit[:80, :1], 0.9, people[:80]) == (1.0,)  # eight people cannot tell


def test_distance_is_mahalanobis_by_the_covariance_of_the_model() -> None:
    """Against SciPy, with the covariance that probabilistic principal components give."""
    rng = np.random.default_rng(2)
    features = rng.normal(size=(40, 6)) * [3.0, 2.0, 1.0, 0.5, 0.4, 0.3] + 5.0
    own = fit_training_density(features)
    assert own.axes.shape == (4, 6)  # a tenth of the clips
    axes = own.axes.astype(float)
    covariance = axes.T @ np.diag(own.stds.astype(float) ** 2) @ axes + own.rest**2 * (np.eye(6) - axes.T @ axes)
    asked = rng.normal(size=6).astype(np.float32)
    expected = mahalanobis(asked, own.mean, np.linalg.inv(covariance)) / np.sqrt(6)
    assert own.distance(asked) == pytest.approx(expected, rel=1e-4)
    assert np.mean([own.distance(row.astype(np.float32)) ** 2 for row in features]) == pytest.approx(1.0, abs=0.1)


def test_a_curve_never_turns_a_ranking_round_and_mends_the_scale() -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform(size=400)
    guess = np.clip(0.5 + 0.2 * (truth - 0.5) + rng.normal(0, 0.03, 400), 0, 1)
    curve = fit_isotonic_map(guess, truth)
    mapped = np.interp(guess, curve.x, curve.y)
    order = np.argsort(guess)
    assert (np.diff(mapped[order]) >= 0).all()
    assert np.abs(mapped - truth).mean() < 0.5 * np.abs(guess - truth).mean()
    assert np.polyfit(mapped, truth, 1)[0] == pytest.approx(1.0, abs=0.05)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    sure = _sure()
    save_uncertainty(tmp_path, sure)
    read = load_uncertainty(tmp_path)
    assert read is not None
    assert replace(read, references={}) == replace(sure, references={})
    assert read.distances(SCORE) == pytest.approx(sure.distances(SCORE), rel=1e-6)
    assert load_uncertainty(tmp_path / "nothing") is None


@pytest.mark.parametrize("damage", ["tensors", "json", "format", "field"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    save_uncertainty(tmp_path, _sure())
    file = tmp_path / UNCERTAINTY_FILE
    about = json.loads(file.read_text())
    if damage == "tensors":
        (tmp_path / REFERENCES_FILE).write_bytes(b"no tensors")
    elif damage == "json":
        file.write_text("{")
    else:
        file.write_text(json.dumps({**about, "format": 99} if damage == "format" else {**about, "by_modalities": 3}))
    with pytest.raises(ModelError, match=r"uncertainty\.json: damaged.*reactometer calibrate"):
        load_uncertainty(tmp_path)


def test_what_it_says_of_a_score() -> None:
    sure = _sure()
    values = sure.recalibrate(SCORE)
    assert values == pytest.approx([0.2, 0.6])
    assert np.array(sure.intervals(SCORE, values)) == pytest.approx(np.array([(0.1, 0.3), (0.2, 1.0)]))
    unknown = replace(SCORE, has_voice=True)
    assert sure.intervals(unknown, values) == ((0.0, 1.0),) * 2  # no clip of face and voice was ever seen
    nothing = replace(SCORE, has_face=False)
    assert sure.intervals(nothing, values) is None
    assert sure.recalibrate(nothing) == pytest.approx(SCORE.intensities)
    assert sure.warnings(SCORE, 5.0) == ()
    far = replace(SCORE, features=({"face": np.full(3, 9.0, np.float32)},))
    assert [reason[:13] for reason in sure.warnings(far, 1.5)] == ["too short: 1.", "face unlike t"]
