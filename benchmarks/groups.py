"""Groups that do not differ: in how many evaluations is a difference claimed? And what is found where they do?

    OMP_NUM_THREADS=1 python benchmarks/groups.py [--runs 400]

Seven emotions, one clip a person. "normal": normal truth and errors; "many zeros": three quarters of the truths are 0,
as in data of reactions; "skewed": Beta(1, 3), predictions pulled to the middle; "growing": Beta(1/2, 2), errors in
proportion to the truth. The last two lines: the first group's predictions are .1 higher, or noisier.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from reactometer.data.cache import PreparedRow
from reactometer.evaluation.groups import Grouping, compare_groups
from reactometer.evaluation.metrics import Array
from reactometer.labels import HUME_REACTION
from reactometer.records import Clip

KINDS = ("normal", "many zeros", "skewed", "growing")
SIZES = ((31, 31, 31), (31, 150, 150), (60, 60, 60))


def draw(kind: str, n_clips: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Truth and predictions, (clips, 7) each."""
    shape = (n_clips, len(HUME_REACTION))
    noise = rng.normal(size=shape)
    if kind == "normal":
        truth = 0.5 + 0.2 * rng.normal(size=shape)
        return truth, 0.5 * truth + 0.15 * noise
    if kind == "many zeros":
        truth = np.where(rng.random(shape) < 0.25, rng.random(shape), 0.0)
        return truth, (0.05 + 0.7 * truth + 0.1 * noise).clip(0.0, 1.0)
    if kind == "skewed":
        truth = rng.beta(1.0, 3.0, shape)
        return truth, (0.1 + 0.5 * truth + 0.12 * noise).clip(0.0, 1.0)
    truth = rng.beta(0.5, 2.0, shape)
    return truth, 0.5 * truth + 0.5 * truth * noise


def compare(kind: str, sizes: tuple[int, ...], seed: int, bias: float = 0.0, noise: float = 0.0) -> Grouping:
    """One evaluation; the first group's predictions are off by ``bias`` and have ``noise`` in them."""
    rng = np.random.default_rng(seed)
    truth, guess = draw(kind, sum(sizes), rng)
    guess[: sizes[0]] += bias + noise * rng.normal(size=(sizes[0], guess.shape[1]))
    names = np.repeat([f"group {number}" for number in range(len(sizes))], sizes)
    rows = [
        PreparedRow(Clip(str(place), Path("clip"), attributes={"of": name}), n_samples=1, n_faces=1, has_sound=True)
        for place, name in enumerate(names)
    ]
    return compare_groups(rows, truth, guess, HUME_REACTION, ["of"], n_resamples=1000, seed=seed)[0]


def main() -> None:
    """Print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    for kind in KINDS:
        for sizes in SIZES:
            shown, uncorrected = [], []
            for seed in range(runs):
                numbers = [own for group in compare(kind, sizes, seed).groups for own in group.numbers]
                apart = [own.difference for own in numbers if own.difference]
                shown.append(any(own.is_shown for own in numbers))
                uncorrected.append(any(not own.low <= 0.0 <= own.high for own in apart))
            claims = (
                f"a false claim in {np.mean(shown):.1%} of {runs} evaluations, {np.mean(uncorrected):.1%} uncorrected"
            )
            print(f"{kind}, groups of {sizes}: {claims}")
    for what, measure in (({"bias": 0.1}, "bias"), ({"noise": 0.15}, "pearson")):
        found = [
            compare("many zeros", SIZES[1], seed, **what).groups[0].number(measure).is_shown for seed in range(runs)
        ]
        print(f"many zeros, groups of {SIZES[1]}, {what} in the first: mean {measure} shown in {np.mean(found):.1%}")


if __name__ == "__main__":
    main()
