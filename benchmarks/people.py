"""Score models on an actor's takes: Pearson, right emotion, strong above normal, intervals and warnings.

    python benchmarks/people.py REAL_PEOPLE/labels.csv starter [MODEL ...] [--out people]

Prints Markdown, one row per model and modality. ``labels.csv`` has the columns path, person, emotion, level,
statement, repetition and the labels (0.5 for normal, 1 for strong). "Right" is the share of takes of an
emotion whose strongest prediction it is. "Strong" counts the pairs of takes of one emotion, statement and
repetition of which the strong one has more of the emotion. If a take exists in two folders, only the copy in
the first is scored. The last column is the mean difference to the other copy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer import load_model, prepare
from reactometer.data.cache import PreparedRow
from reactometer.evaluation.calibration import interval_table
from reactometer.evaluation.evaluate import hide_stream
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.scoring import score_split

MODALITIES = {"face and voice": None, "face": "voice", "voice": "face"}
TAKE = ["emotion", "statement", "repetition"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labels", type=Path)
    parser.add_argument("models", nargs="+", help="checkpoints, or starter")
    parser.add_argument("--out", type=Path, default=Path("people"))
    options = parser.parse_args()
    print("| model | uses | person | mean Pearson | right | strong | inside 90% | warnings | other copy |")
    print("| --- " * 9 + "|")
    for name in options.models:
        model = load_model(name)
        data = prepare(options.labels, options.out, settings=model.config.prepare, labels="basic")
        rows = [row for row in data.split("all") if row.file]
        for modality, without in MODALITIES.items():
            scores, _ = score_split(model, data, "all", hide_stream(model, without), progress=False)
            table = tabulate(model, rows, scores)
            for person, takes in table.groupby("person"):
                print(f"| {name} | {modality} | {person} | {describe(takes, model.labels)} |", flush=True)


def tabulate(model: LoadedModel, rows: list[PreparedRow], scores: list) -> pd.DataFrame:
    """Return one row per clip: attributes, targets (``_y``), predictions, coverage and warnings."""
    table = pd.DataFrame([{**row.clip.attributes, "person": row.clip.person} for row in rows])
    table["folder"], table["name"] = zip(*(Path(row.clip.clip_id).parts[-2:] for row in rows), strict=True)
    targets = np.array([row.clip.labels for row in rows])
    table[[f"{label}_y" for label in model.labels]] = targets
    table[list(model.labels)] = np.array([score.intensities for score in scores])
    if model.uncertainty:
        bounds = interval_table(scores, rows, model.labels, model.uncertainty)
        low, high = (
            bounds[[f"{label}_{end}" for label in model.labels]].to_numpy() for end in ("low", "high")
        )
        table["inside"] = ((targets >= low) & (targets <= high)).mean(axis=1)
    table["warns"] = [bool(score.warnings) for score in scores]
    return table


def describe(takes: pd.DataFrame, labels: tuple[str, ...]) -> str:
    """Return the cells of one person."""
    is_first = takes["folder"] == takes["folder"].iloc[0]
    both = takes[is_first].merge(takes[~is_first], on="name", suffixes=("", "_other"))
    other = np.mean([np.abs(both[label] - both[f"{label}_other"]).mean() for label in labels])
    takes = takes[is_first]
    targets, predictions = (
        takes[[f"{label}_y" for label in labels]].to_numpy(),
        takes[list(labels)].to_numpy(),
    )
    pearson = np.mean([np.corrcoef(predictions[:, i], targets[:, i])[0, 1] for i in range(len(labels))])
    shows = targets.max(axis=1) > 0
    right = np.mean(predictions[shows].argmax(axis=1) == targets[shows].argmax(axis=1))
    acted = takes[shows].assign(own=predictions[shows, targets[shows].argmax(axis=1)])
    levels = acted.pivot_table("own", TAKE, "level").dropna()
    strong = f"{(levels['strong'] > levels['normal']).sum()} of {len(levels)}"
    inside = f"{takes['inside'].mean():.0%}" if "inside" in takes else ""
    return f"{pearson:.3f} | {right:.0%} | {strong} | {inside} | {takes['warns'].mean():.0%} | {other:.3f}"


if __name__ == "__main__":
    main()
