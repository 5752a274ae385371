"""How many clips does a model of one's own take? The val score of configs/your-own.toml by the number of train clips.

    python benchmarks/how_many.py PREPARED --out how-many [--seeds 3]

For each number of clips and each seed, so many are drawn from the train split and the others' labels withheld; the
epoch is chosen on all of val. ``--configs small/multimodal.toml`` sets a network from random weights beside it, which
takes minutes a run. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from reactometer import load_config, load_model, train
from reactometer.data.cache import FEATURES, PreparedSet, open_prepared, write_index

NUMBERS = (20, 40, 80, 160, 320)
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ROWS = {"your-own.toml": CONFIGS / "your-own.toml", "small/multimodal.toml": CONFIGS / "small" / "multimodal.toml"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--out", type=Path, default=Path("how-many"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--configs", nargs="+", choices=list(ROWS), default=["your-own.toml"])
    asked = parser.parse_args()
    whole = open_prepared(asked.prepared)
    print("| train clips | " + " | ".join(asked.configs) + " |\n| --- " + "| --- " * len(asked.configs) + "|")
    for number in NUMBERS:
        cells = []
        for name in asked.configs:
            scores = [_score(ROWS[name], whole, number, seed, asked.out) for seed in range(asked.seeds)]
            cells.append(f"{np.median(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})")
        print(f"| {number} | " + " | ".join(cells) + " |", flush=True)


def _score(config: Path, whole: PreparedSet, number: int, seed: int, out: Path) -> float:
    """Val mean Pearson of a model trained on so many clips."""
    folder = out / f"{number}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    kept = set(np.random.default_rng(seed).permutation([row.clip.clip_id for row in whole.split("train")])[:number])
    rows = [
        row
        if row.clip.split == "val" or row.clip.clip_id in kept
        else replace(row, clip=replace(row.clip, labels=None))
        for row in whole.rows
        if row.clip.split in ("train", "val")
    ]
    (whole.folder / FEATURES).mkdir(exist_ok=True)
    for name in ("clips", FEATURES):  # decoded and encoded once for all
        if not (folder / name).exists():
            (folder / name).symlink_to((whole.folder / name).resolve())
    write_index(replace(whole, folder=folder, rows=tuple(rows)))
    run = out / f"{config.stem}-{number}-{seed}"
    more = [f'data.path="{folder}"', f"training.seed={seed}", f'training.out="{run}"']
    if not (run / "model").exists():
        train(load_config(config, more), overwrite=True, progress=False)
    return float(load_model(run / "model", "cpu").description["metrics"]["mean_pearson"])


if __name__ == "__main__":
    main()
