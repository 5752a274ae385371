"""Intervals hold what they say, curves keep the ranking, and files are checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reactometer.errors import ModelError
from reactometer.inference.conformal import (
    NO_BINS,
    UNCERTAINTY_FILE,
    Bins,
    IsotonicMap,
    ModalityIntervals,
    Uncertainty,
    conformal_half_width,
    fit_intervals,
    fit_isotonic_map,
    load_uncertainty,
    save_uncertainty,
)
from reactometer.inference.scores import Score

SCORE = Score(np.array([0.2, 0.7], np.float32), ("face",))


def _sure() -> Uncertainty:
    return Uncertainty(
        coverage=0.9,
        by_modalities={
            "face": ModalityIntervals(50, 20, Bins((), (0.4,)), Bins((0.5,), (0.1, 0.3)), 0.3),
            "voice": ModalityIntervals(5, 5, NO_BINS, NO_BINS, 1.0),
        },
        fitted_on={"name": "fv", "split": "val", "n_clips": 50},
        shortest_s=4.0,
        recalibration=(IsotonicMap((0.1, 0.3), (0.0, 0.4)), IsotonicMap((0.5, 0.6), (0.5, 0.6))),
    )


def test_half_width_is_an_order_statistic_and_one_below_nine_clips() -> None:
    residuals, clips = np.array([0.1] * 9 + [0.3]), np.arange(10)
    assert conformal_half_width(residuals, clips, 0.9) == 0.3  # the tenth of ten
    assert conformal_half_width(residuals[:9], clips[:9], 0.9) == 0.1
    assert conformal_half_width(residuals[:8], clips[:8], 0.9) == 1.0


def test_intervals_have_the_nominal_coverage() -> None:
    """Over samples of 60 clips and one more, coverage is ⌈61 · .9⌉ / 61 for continuous residuals (Vovk et al.
    2005)."""
    rng, clips = np.random.default_rng(1), np.arange(60)
    residuals = np.abs(rng.standard_t(3, size=(4000, 61))) * 0.05  # (repeats, clips)
    is_inside = [row[60] <= conformal_half_width(row[:60], clips, 0.9) for row in residuals]
    assert np.mean(is_inside) == pytest.approx(55 / 61, abs=4 * np.sqrt(0.09 / 4000))


def test_bins_have_clips_and_widths_follow_the_size_of_predictions() -> None:
    """Errors grow with the prediction; 20 clips of 4 labels fill fewer bins than 100, nine clips have one
    each."""
    rng = np.random.default_rng(0)
    predictions = rng.uniform(0.1, 0.7, size=(100, 4))
    targets = predictions + 0.3 * predictions * rng.uniform(-1.0, 1.0, size=(100, 4))
    fitted = fit_intervals(predictions, targets, 0.9)
    assert (len(fitted.others.half_widths), fitted.n_bins, fitted.n_clips) == (8, 10, 100)
    assert fitted.n_units >= 20
    assert (np.diff(fitted.others.half_widths) > 0).all()
    assert (np.diff(fitted.strongest.half_widths) > 0).all()
    bounds = fitted.bounds(predictions)
    assert fitted.width == pytest.approx((bounds[..., 1] - bounds[..., 0]).mean())
    few = fit_intervals(predictions[:20], targets[:20], 0.9)
    assert few.n_bins < 8
    least = fit_intervals(predictions[:9], targets[:9], 0.9)
    assert (least.n_units, least.n_bins) == (9, 2)
    single = fit_intervals(predictions[:, :1], targets[:, :1], 0.9)
    assert single.n_bins > 2
    assert single.bounds([0.3]).shape == (1, 2)


def test_the_strongest_prediction_of_a_clip_has_a_width_of_its_own() -> None:
    """Errors of the strongest are constant here, and those of the others are zero."""
    predictions = np.random.default_rng(0).uniform(0.2, 0.4, size=(40, 3))
    targets = np.where(predictions == predictions.max(axis=1, keepdims=True), predictions - 0.1, predictions)
    bounds = fit_intervals(predictions, targets, 0.9).bounds([0.3, 0.39, 0.2])
    assert bounds == pytest.approx(np.array([[0.3, 0.3], [0.29, 0.49], [0.2, 0.2]]))
    assert fit_intervals(predictions[:8], targets[:8], 0.9).strongest == NO_BINS


def test_constant_predictions_have_intervals() -> None:
    constant = fit_intervals(np.full((30, 2), 0.5), np.full((30, 2), 0.4), 0.9)  # no edge divides one value
    assert constant.bounds([0.0, 0.5]) == pytest.approx(np.array([[0.0, 0.1], [0.4, 0.6]]))
    with pytest.raises(ValueError, match="1 edges and 1 half widths"):
        Bins((0.5,), (0.1,))


@pytest.mark.slow
@pytest.mark.parametrize("n_people", [24, 60])
def test_intervals_by_size_cover_clips_of_new_people(n_people: int) -> None:
    """Simulate 2,000 calibrations on five clips of each person, each with a new person.

    Coverage holds by size of prediction, also of the strongest emotion. Errors grow with the prediction, and
    differ by person: the standard deviation of the logarithm of their scale is 0.7.
    """
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(n_people + 1), 5).astype(str)  # the last one is new
    covered: list[list[float]] = []
    for _ in range(2000):
        predictions = rng.uniform(0.2, 0.8, size=(len(people), 4))
        scale = np.repeat(rng.lognormal(0.0, 0.7, n_people + 1), 5)[:, None]
        targets = predictions + 0.03 * predictions**2 * scale * rng.normal(size=predictions.shape)
        fitted = fit_intervals(predictions[:-5], targets[:-5], 0.9, people[:-5].tolist())
        bounds, new = fitted.bounds(predictions[-5:]), targets[-5:]
        is_inside = (bounds[..., 0] <= new) & (new <= bounds[..., 1])
        bin_of = np.digitize(predictions[-5:], [0.35, 0.5, 0.65])
        strongest = np.arange(5), predictions[-5:].argmax(axis=1)
        bin_of[strongest] = np.where(predictions[-5:][strongest] < 0.7, 4, 5)
        bins = [is_inside[bin_of == number] for number in range(6)]
        covered.append([inside.mean() if inside.size else np.nan for inside in bins])
    shares = np.nanmean(covered, axis=0)
    assert (shares > 0.88).all() and (shares < 0.93).all(), shares


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
    assert load_uncertainty(tmp_path) == sure
    assert load_uncertainty(tmp_path / "nothing") is None


@pytest.mark.parametrize("damage", ["json", "format", "field"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    save_uncertainty(tmp_path, _sure())
    file = tmp_path / UNCERTAINTY_FILE
    about = json.loads(file.read_text())
    if damage == "json":
        file.write_text("{")
    else:
        file.write_text(
            json.dumps({**about, "format": 99} if damage == "format" else {**about, "by_modalities": 3})
        )
    with pytest.raises(ModelError, match=r"uncertainty\.json: damaged.*reactometer calibrate"):
        load_uncertainty(tmp_path)


def test_warnings_of_a_score() -> None:
    sure = _sure()
    values = sure.recalibrate(SCORE)
    assert values == pytest.approx([0.2, 0.6])
    assert np.array(sure.intervals(SCORE, values)) == pytest.approx(np.array([(0.1, 0.3), (0.2, 1.0)]))
    unknown = replace(SCORE, streams=("face", "voice"))
    assert sure.intervals(unknown, values) == ((0.0, 1.0),) * 2  # no clip of face and voice was ever seen
    nothing = replace(SCORE, streams=())
    assert sure.intervals(nothing, values) is None
    assert sure.recalibrate(nothing) == pytest.approx(SCORE.intensities)
    assert sure.warnings(SCORE, 5.0) == ()
    mute = replace(SCORE, warnings=("voice not used: no speech",))
    assert [reason[:13] for reason in sure.warnings(mute, 1.5)] == ["voice not use", "too short: 1."]
