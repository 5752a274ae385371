"""One switch at a time, by person-disjoint folds of train and val: what each gains or costs. Test is not read.

    python benchmarks/ablation.py configs/ravdess/both.toml FEATURES.parquet --out ablation [--folds 5] [--seeds 1]

Prints a Markdown table: the mean over folds and seeds of the val mean Pearson, and the mean difference from the
configuration as it is with its standard error (the same folds and seeds on both sides). A run that is there is not
repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from reactometer import load_config, load_model, train

SWITCHES: dict[str, list[str]] = {
    "as it is": [],
    "loss mse": ["training.loss=mse"],
    "loss mse+pearson": ["training.loss=mse+pearson"],
    "loss ccc": ["training.loss=ccc"],
    "loss on the dominant emotion, weight .1": ["training.dominant_weight=0.1"],
    "no EMA": ["training.ema_decay=0"],
    "labels divided by the clip's largest": ["training.normalise_labels=true"],
    "feature mixup, alpha .2": ["training.mixup=0.2"],
    "no modality dropout": ["model.modality_dropout=0"],
    "cross-modal transformer, 2 layers": ["model.layers=2"],
    "features as they are, not by rank": ["model.rank_features=false"],
    "per-person normalisation": ["model.person_norm=true"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("ablation"))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    scores = {name: _scores(asked, name, own) for name, own in SWITCHES.items()}
    print("| switch | val mean Pearson | against as it is |\n| --- | --- | --- |")
    for name, own in scores.items():
        change = own - scores["as it is"]  # (folds * seeds,)
        error = change.std(ddof=1) / np.sqrt(len(change))
        against = f"{change.mean():+.3f} ± {error:.3f}" if name != "as it is" else ""
        print(f"| {name} | {own.mean():.3f} | {against} |")


def _scores(asked: argparse.Namespace, name: str, own: list[str]) -> np.ndarray:
    """(folds * seeds,) val mean Pearson of the kept epoch."""
    scores = []
    for fold in range(asked.folds):
        for seed in range(asked.seeds):
            out = asked.out / name.replace(" ", "-") / f"{fold}-{seed}"
            more = [f'data.path="{asked.data}"', f"data.folds={asked.folds}", f"data.fold={fold}"]
            config = load_config(asked.config, [*more, *own, f"training.seed={seed}", f'training.out="{out}"'])
            model = out / "model"
            scores.append(load_model(model if model.exists() else train(config, overwrite=True, progress=False)))
    return np.array([model.description["metrics"]["mean_pearson"] for model in scores])


if __name__ == "__main__":
    main()
