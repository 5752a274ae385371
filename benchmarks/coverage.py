"""How many labels the conformal intervals hold: over many ways to halve held-out clips, and from val to test.

    python benchmarks/coverage.py MODEL DATA [--splits val,test] [--halves 200] [--coverage 0.9]

MODEL must not have learned from the clips of these splits. They are halved at random, nobody in both halves where
people are known; intervals are fitted on one half and counted on the other, with everything shown and with either
modality hidden.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from reactometer import load_model
from reactometer.evaluation.evaluate import open_for
from reactometer.models.scoring import score_split
from reactometer.models.uncertainty import conformal_half_widths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", default="val,test")
    parser.add_argument("--halves", type=int, default=200)
    parser.add_argument("--coverage", type=float, default=0.9)
    asked = parser.parse_args()
    model = replace(load_model(asked.model), uncertainty=None)
    prepared = open_for(model, asked.data)
    splits = asked.splits.split(",")
    prepared = replace(
        prepared, rows=tuple(row for row in prepared.rows if row.clip.split in splits and row.clip.labels)
    )
    targets = np.array([row.clip.labels for row in prepared.rows])  # (clips, L)
    people = np.array([row.clip.person or row.clip.clip_id for row in prepared.rows])
    where = np.array([row.clip.split for row in prepared.rows])
    shown = {"all": model.sampling}
    if model.sampling.looks and model.sampling.listens:
        shown |= {"face": replace(model.sampling, listens=False), "voice": replace(model.sampling, looks=False)}
    print(f"{len(targets)} clips, {len(set(people))} people or clips that go together")
    print("| shown | halves: held, mean | middle 90 % of halves | width | val to test |")
    print("| --- | --- | --- | --- | --- |")
    for name, sampling in shown.items():
        scores, _ = score_split(model, prepared, "all", sampling)
        known = np.array([score.has_evidence for score in scores])
        guess = np.array([score.intensities for score in scores], dtype=np.float64)
        residuals, own = (targets - guess)[known], people[known]
        halves = [_half(residuals, own, asked.coverage, seed) for seed in range(asked.halves)]
        held, widths = np.array(halves).T
        low, high = np.quantile(held, [0.05, 0.95])
        plain = ""
        if {"val", "test"} <= set(where):
            split = where[known]
            val = split == "val"
            plain = f"{_held(residuals[val], own[val], residuals[split == 'test'], asked.coverage)[0]:.1%}"
        print(f"| {name} | {held.mean():.1%} | {low:.1%} to {high:.1%} | {widths.mean():.2f} | {plain} |")


def _half(residuals: np.ndarray, people: np.ndarray, coverage: float, seed: int) -> tuple[float, float]:
    names = np.random.default_rng(seed).permutation(np.unique(people))
    fit = np.isin(people, names[: len(names) // 2])
    return _held(residuals[fit], people[fit], residuals[~fit], coverage)


def _held(fit: np.ndarray, people: np.ndarray, asked: np.ndarray, coverage: float) -> tuple[float, float]:
    """Share of labels held, over labels and clips, and the intervals' mean width before they are cut to [0, 1]."""
    half = np.array(conformal_half_widths(fit, coverage, people.tolist()))  # (L,)
    return float((np.abs(asked) <= half).mean()), float(2 * half.mean())


if __name__ == "__main__":
    main()
