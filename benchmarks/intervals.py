"""Intervals: the processor time they take, how often they hold the truth; how often chance passes for a difference.

    OMP_NUM_THREADS=1 python benchmarks/intervals.py [--runs 1000]

The truth is known: normal targets and predictions of seven labels, r = .4 between them, half of their variance each
person's own, predictions of a larger spread and off by a constant, 20 clips a person.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

from reactometer.evaluation.paired import compare_paired
from reactometer.evaluation.reliability import measure_reliability
from reactometer.evaluation.resample import KINDS, bootstrap_metrics
from reactometer.labels import HUME_REACTION

CLIPS_A_PERSON = 20
R, SPREADS, BIAS = 0.4, (0.1, 0.12), 0.05


def simulated(rng: np.random.Generator, n_people: int, n_models: int = 1) -> list[np.ndarray]:
    """Targets, and each model's predictions, (clips, 7) each; models of the same r and independent errors."""
    shape = (1 + n_models, n_people, 1, len(HUME_REACTION))
    own, each = rng.normal(size=shape), rng.normal(size=(*shape[:2], CLIPS_A_PERSON, shape[3]))
    parts = ((own + each) / math.sqrt(2.0)).reshape(1 + n_models, -1, shape[3])  # (1 + models, clips, 7)
    guesses = [R * parts[0] + math.sqrt(1.0 - R**2) * noise for noise in parts[1:]]
    return [0.5 + SPREADS[0] * parts[0], *(0.5 + BIAS + SPREADS[1] * guess for guess in guesses)]


def truth() -> dict[str, float]:
    """Pearson, CCC and MAE of infinitely many clips (the error is normal: its absolute value is a folded normal)."""
    covariance = R * SPREADS[0] * SPREADS[1]
    squares = SPREADS[0] ** 2 + SPREADS[1] ** 2
    spread = math.sqrt(squares - 2.0 * covariance)
    mae = spread * math.sqrt(2.0 / math.pi) * math.exp(-(BIAS**2) / (2.0 * spread**2))
    mae += BIAS * math.erf(BIAS / (spread * math.sqrt(2.0)))
    return {"pearson": R, "ccc": 2.0 * covariance / (squares + BIAS**2), "mae": mae}


def slopes(n_people: int, runs: int) -> float:
    """Share of the runs and labels in which the slope of truth on prediction is in its interval."""
    rng, known, groups = (
        np.random.default_rng(1),
        R * SPREADS[0] / SPREADS[1],
        np.arange(n_people).repeat(CLIPS_A_PERSON),
    )
    held = []
    for run in range(runs):
        targets, guess = simulated(rng, n_people)
        found = measure_reliability(targets, guess, HUME_REACTION, groups=list(groups), n_resamples=1000, seed=run)
        held += [own.slope.low <= known <= own.slope.high for own in found.by_label if own.slope]
    return float(np.mean(held))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="of which the shares are taken; 0: only the times")
    runs = parser.parse_args().runs
    rng = np.random.default_rng(0)
    targets, noise = rng.normal(size=(2, 4657, len(HUME_REACTION)))
    for name, groups in (("clip", None), ("person", list(np.arange(4657) % 400))):
        started = time.process_time()
        bootstrap_metrics(targets, R * targets + noise, HUME_REACTION, groups=groups)
        print(f"4,657 clips, 7 labels, 2,000 resamples by {name}: {time.process_time() - started:.2f} s of one core")
    started = time.process_time()
    compare_paired(targets, R * targets + noise, R * targets - noise, HUME_REACTION)
    print(f"the same, two models compared: {time.process_time() - started:.2f} s of one core")
    if not runs:
        return
    known = truth()
    for n_people in (10, 20, 50, 100):
        groups = list(np.repeat(np.arange(n_people), CLIPS_A_PERSON))
        held: dict[str, list[bool]] = {f"{by} {kind}": [] for by in ("person", "clip") for kind in KINDS}
        for run in range(runs):
            targets, guess = simulated(rng, n_people)
            for by, unit in (("person", groups), ("clip", None)):
                if by == "clip" and n_people != 50:
                    continue
                made = bootstrap_metrics(targets, guess, HUME_REACTION, groups=unit, n_resamples=1000, seed=run)
                for kind in KINDS:
                    own = made.mean[kind]
                    assert own is not None
                    held[f"{by} {kind}"].append(own.low <= known[kind] <= own.high)
        shares = ", ".join(f"{name} {np.mean(each):.1%}" for name, each in held.items() if each)
        print(f"{n_people} people: the 95 % interval of the mean holds the truth by {shares}")
    for n_people in (20, 50):
        print(
            f"{n_people} people: the 95 % interval of a label's slope holds it by person {slopes(n_people, runs):.1%}"
        )
    for n_people, scale in ((10, 1.0), (50, 1.0), (50, 0.2)):
        groups = list(np.repeat(np.arange(n_people), CLIPS_A_PERSON))
        found = []
        for run in range(runs):
            targets, first, second = simulated(rng, n_people, n_models=2)
            made = compare_paired(
                targets, first, scale * second, HUME_REACTION, groups=groups, n_resamples=1000, seed=run
            )
            pearson = made.differences[0]
            found.append((pearson.p < 0.05, pearson.better is not None))
        p, better = np.mean(found, axis=0)
        print(
            f"{n_people} people, equal models, one scaled by {scale}: p < .05 in {p:.1%}, called better in {better:.1%}"
        )


if __name__ == "__main__":
    main()
