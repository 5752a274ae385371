"""The figures of the starter model's card: scores with intervals by modality and detector, and calibration.

    python benchmarks/starter.py starter DATA --out runs/starter-scores [--split val]

Prints Markdown. Intervals are the bootstrap's over clips, 95 %. Calibration: the line of least squares from
predictions to labels (slope 1 and intercept 0 where predictions mean what they say), and the mean label of
each fifth of the predictions, pooled over the labels. DATA is a dataset, not a prepared one: it is prepared
with each detector.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from reactometer import evaluate, load_model, prepare
from reactometer.data.cache import PreparedSet
from reactometer.evaluation.bootstrap import bootstrap_mean_pearson
from reactometer.evaluation.evaluate import Evaluation

FIFTHS = 5
MODALITIES = {"face and voice": None, "face alone": "voice", "voice alone": "face"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/starter-scores"))
    parser.add_argument("--split", default="test", help="choose on val; touch test once")
    options = parser.parse_args()
    model = load_model(options.model)
    print("| | detector | mean Pearson | 95 % interval | CCC | MAE |\n| --- | --- | --- | --- | --- | --- |")
    scored = {}
    for detector in ("yunet", "haar"):
        settings = model.config.prepare.model_copy(update={"detector": detector})
        prepared = prepare(options.data, options.out / detector, settings=settings, labels="basic")
        targets = _targets(prepared, options.split)
        for name, without in MODALITIES.items():
            evaluation = evaluate(
                model, prepared.folder, split=options.split, without=without, progress=False
            )
            interval = bootstrap_mean_pearson(targets, _intensities(evaluation))
            span = f"{_short(interval.low)} to {_short(interval.high)}"
            figures = f"**{_short(interval.value)}** | {span} | {_short(evaluation.metrics.means['ccc'])}"
            print(f"| {name} | {detector} | {figures} | {_short(evaluation.metrics.means['mae'])} |")
            scored[detector, name] = evaluation, targets
    _print_labels(*scored["yunet", "face and voice"])


def _print_labels(evaluation: Evaluation, targets: np.ndarray) -> None:
    predictions = _intensities(evaluation)
    metrics = evaluation.metrics
    print("\n| | Pearson | CCC | MAE | slope | intercept | mean label | mean prediction |")
    print("| --- " * 8 + "|")
    for i, label in enumerate(metrics.labels):
        slope, intercept = np.polyfit(predictions[:, i], targets[:, i], 1)
        means = targets[:, i].mean(), predictions[:, i].mean()
        figures = [metrics.pearson[i], metrics.ccc[i], metrics.mae[i], slope, intercept, *means]
        print(f"| {label} | " + " | ".join(map(_short, figures)) + " |")
    order = np.argsort(predictions.ravel())
    print("\n| fifth of the predictions | mean prediction | mean label |\n| --- | --- | --- |")
    for number, part in enumerate(np.array_split(order, FIFTHS), start=1):
        print(
            f"| {number} | {_short(predictions.ravel()[part].mean())} | "
            f"{_short(targets.ravel()[part].mean())} |"
        )


def _targets(prepared: PreparedSet, split: str) -> np.ndarray:
    return np.array([row.clip.labels for row in prepared.split(split)])  # (clips, L)


def _intensities(evaluation: Evaluation) -> np.ndarray:
    return evaluation.predictions[list(evaluation.metrics.labels)].to_numpy()  # (clips, L)


def _short(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}".replace("0.", ".", 1)


if __name__ == "__main__":
    main()
