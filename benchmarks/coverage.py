"""Do 90% intervals hold for predictions of every size? Many random divisions of a model's held-out clips.

    python benchmarks/coverage.py DATA --model MODEL [--people 12]

The clips of val and test, which the model was not trained on, are divided by person: intervals are fitted to
the clips of ``--people`` people and measured on the others. Val chose the model's epoch, so its clips are a
little easier. Prints the mean over 300 divisions, and what 90 of 100 divisions give.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

from reactometer import evaluate
from reactometer.evaluation.calibration import SIZE_EDGES
from reactometer.inference.conformal import fit_intervals

N_DIVISIONS, COVERAGE = 300, 0.9


def main() -> None:
    """Print one row per size of prediction, one for the strongest of each clip, and the mean width."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--people", type=int, default=12)
    options = parser.parse_args()
    parts = [
        evaluate(options.model, options.data, split=split, in_sample=True, n_resamples=0)
        for split in ("val", "test")
    ]
    predictions = np.concatenate([part.intensities for part in parts])  # (clips, L)
    targets = np.concatenate([part.targets for part in parts])
    person = np.array([row.clip.person or row.clip.clip_id for part in parts for row in part.rows])
    people, rng = np.unique(person), np.random.default_rng(0)
    edges = [0.0, *SIZE_EDGES, 1.001]
    names = [*(f"{low:g} to {high:.3g}" for low, high in pairwise(edges)), "strongest"]
    shares, widths = [], []
    for _ in range(N_DIVISIONS):
        is_fitted = np.isin(person, rng.choice(people, options.people, replace=False))
        fitted = fit_intervals(
            predictions[is_fitted], targets[is_fitted], COVERAGE, person[is_fitted].tolist()
        )
        values = predictions[~is_fitted]
        bounds = fitted.bounds(values)
        inside = (targets[~is_fitted] >= bounds[..., 0]) & (targets[~is_fitted] <= bounds[..., 1])
        strongest = values == values.max(axis=1, keepdims=True)
        bins = [(values >= low) & (values < high) for low, high in pairwise(edges)]
        shares.append([inside[chosen].mean() for chosen in (*bins, strongest)])
        widths.append(np.diff(bounds).mean())
    print(f"{len(people)} people, {options.people} of them for the fit; mean width {np.mean(widths):.2f}")
    print("| prediction | inside | in 90 of 100 divisions |\n| --- | --- | --- |")
    for name, share in zip(names, np.transpose(shares), strict=True):
        low, high = np.quantile(share, [0.05, 0.95])
        print(f"| {name} | {share.mean():.1%} | {low:.0%} to {high:.0%} |")


if __name__ == "__main__":
    main()
