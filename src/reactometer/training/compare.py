"""Train several configurations with several seeds, and compare their scores in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer.config import load_config
from reactometer.errors import ConfigError, DataError
from reactometer.evaluation.baselines import predict_from_length
from reactometer.evaluation.bootstrap import Interval, bootstrap_mean_pearson, choose_units
from reactometer.evaluation.evaluate import evaluate, open_for_model
from reactometer.evaluation.metrics import Metrics, measure
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.scores import join_names
from reactometer.io import Paths, as_path_list, write_atomic
from reactometer.terminal import format_score
from reactometer.training.train import check_config, train_in


@dataclass(frozen=True)
class ComparisonRow:
    """The scores of one configuration, or of one without a modality, by seed."""

    name: str
    reads: str  # "face and voice", "face" or "voice"
    metrics: tuple[Metrics, ...]  # on the split, by seed
    interval: Interval  # of the median seed's mean Pearson
    over_length: Interval  # of the median seed's mean Pearson minus the clip-length baseline's


@dataclass(frozen=True, repr=False)
class Comparison:
    """The table of all configurations, the baseline, and the folder of the files."""

    split: str
    rows: tuple[ComparisonRow, ...]
    length_baseline: Metrics
    folder: Path

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of ``comparison.csv``, see :func:`as_table`."""
        return as_table(self)

    def __repr__(self) -> str:
        return f"Comparison({self.split}: {', '.join(row.name for row in self.rows)})"

    def _repr_html_(self) -> str:
        table: str = summarise(self).to_html(index=False)
        return table


def compare(
    configs: Paths,
    data: Path | str,
    out: Path | str,
    *,
    seeds: int = 3,
    overrides: Sequence[str] = (),
    split: str = "test",
    fresh: bool = False,
    progress: bool = True,
) -> Comparison:
    """Train each configuration with several seeds, score all on one split, and write one table.

    A second call resumes the first and skips finished runs. A model of face and voice has three rows: with
    both, and the same models with the face or the voice only.

    Args:
        configs: TOML files.
        data: the dataset, the same for all.
        out: a folder for ``comparison.md``, ``comparison.csv`` (one row per configuration and seed) and the
            runs.
        seeds: trainings per configuration, with ``training.seed`` = 0, 1, 2 …
        overrides: ``section.key=value`` on top of every configuration.
        split: the split to score; training and the choice of the epoch use only train and val.
        fresh: delete earlier runs of these configurations.
        progress: show bars and lines on standard error.

    Raises:
        ConfigError, DataError, WeightsError: the configurations or the data cannot be used.
        OutputError: ``out`` contains runs of other configurations.
    """
    if split not in ("val", "test"):
        raise DataError(
            "models are compared on held-out clips",
            got=f"split '{split}'",
            expected="test, or val to select one",
        )
    out, configs = Path(out), as_path_list(configs)
    configurations = {
        Path(path).stem: load_config(Path(path), [*overrides, f'data.path="{data}"']) for path in configs
    }
    if len(configurations) < len(configs):
        raise ConfigError(
            "two configurations have the same name", got=", ".join(Path(path).stem for path in configs)
        )
    for config in configurations.values():
        check_config(config)
    rows: list[ComparisonRow] = []
    for name, config in configurations.items():
        runs = [out / "runs" / f"{name}-seed{seed}" for seed in range(seeds)]
        models = [
            load_model(train_in(config, run, seed=seed, fresh=fresh, progress=progress))
            for seed, run in enumerate(runs)
        ]
        new_rows, length = _build_rows(name, models, data, split, progress)
        rows += new_rows
    comparison = Comparison(split, tuple(rows), length, out)
    write_atomic(out / "comparison.md", markdown(comparison))
    write_atomic(out / "comparison.csv", as_table(comparison).to_csv(index=False))
    return comparison


def _build_rows(
    name: str, models: Sequence[LoadedModel], data: Path | str, split: str, progress: bool
) -> tuple[list[ComparisonRow], Metrics]:
    """Score one configuration; return its rows and the score of the clip-length baseline."""
    first = models[0]
    streams = sorted(first.streams)
    prepared = open_for_model(first, data, progress=progress)
    rows = []
    for hidden in (None, *reversed(streams)) if len(streams) > 1 else (None,):
        scored = [
            evaluate(model, data, split=split, without=hidden, n_resamples=0, progress=progress)
            for model in models
        ]
        targets, clips = scored[0].targets, scored[0].rows
        length = predict_from_length(prepared, clips)
        resampling = choose_units([row.clip for row in clips])
        order = np.argsort([evaluation.metrics.mean_pearson or 0.0 for evaluation in scored], kind="stable")
        median_predictions = scored[
            int(order[(len(scored) - 1) // 2])
        ].intensities  # (clips, L) of the median seed
        row = ComparisonRow(
            name=f"{name}, without {hidden}" if hidden else name,
            reads=join_names(name for name in streams if name != hidden),
            metrics=tuple(evaluation.metrics for evaluation in scored),
            interval=bootstrap_mean_pearson(targets, median_predictions, resampling=resampling),
            over_length=bootstrap_mean_pearson(targets, median_predictions, length, resampling),
        )
        rows.append(row)
    return rows, measure(targets, length, first.labels)


def as_table(comparison: Comparison) -> pd.DataFrame:
    """Return the table of ``comparison.csv``: one row per configuration and seed, with the score of every
    label."""
    table = pd.DataFrame(
        {
            "configuration": row.name,
            "reads": row.reads,
            "seed": seed,
            "split": comparison.split,
            "clips": metrics.n_clips,
            "mean_pearson": metrics.mean_pearson,
            **{f"pearson {label}": r for label, r in zip(metrics.labels, metrics.pearson, strict=True)},
            "mean_ccc": metrics.means["ccc"],
            "mean_mae": metrics.means["mae"],
        }
        for row in comparison.rows
        for seed, metrics in enumerate(row.metrics)
    )
    scores = [name for name in table.columns if name not in ("configuration", "reads", "split")]
    return table.astype(dict.fromkeys(scores, float))  # NaN if undefined


def median(values: Sequence[float | None]) -> float | None:
    """Return the median; undefined if a value is undefined, or if there is none."""
    if not values or None in values:
        return None
    return float(np.median([value for value in values if value is not None]))


def summarise(comparison: Comparison) -> pd.DataFrame:
    """Return a table of text: one row per configuration, and the clip-length baseline; r is the mean
    Pearson."""
    rows = []
    for row in comparison.rows:
        seeds = [metrics.mean_pearson for metrics in row.metrics if metrics.mean_pearson is not None]
        by_label = zip(*(metrics.pearson for metrics in row.metrics), strict=True)  # of each label, by seed
        cells = {
            "configuration": row.name,
            "reads": row.reads,
            "r": format_score(median([metrics.mean_pearson for metrics in row.metrics]), 3),
            "over seeds": f"{min(seeds):.3f} to {max(seeds):.3f}" if len(seeds) > 1 else "",
            "95% interval": f"{row.interval.low:.3f} to {row.interval.high:.3f}",
            "over clip length": f"{row.over_length.low:+.3f} to {row.over_length.high:+.3f}",
        }
        medians = [format_score(median(values), 3) for values in by_label]
        rows.append(cells | dict(zip(row.metrics[0].labels, medians, strict=True)))
    baseline = comparison.length_baseline
    by_label = zip(baseline.labels, (format_score(r, 3) for r in baseline.pearson), strict=True)
    rows.append(
        {"configuration": "clip length", "r": format_score(baseline.mean_pearson, 3), **dict(by_label)}
    )
    return pd.DataFrame(rows).fillna("")


def markdown(comparison: Comparison) -> str:
    """Return the summary as Markdown: one line per configuration."""
    table = summarise(comparison)
    lines = [
        f"| {' | '.join(cells)} |" for cells in (table.columns, ["---"] * table.shape[1], *table.to_numpy())
    ]
    metrics = comparison.rows[0].metrics
    notes = (
        f"{comparison.split}: {metrics[0].n_clips} clips; r is the median over {len(metrics)} seeds of the "
        "mean "
        "Pearson, emotions are medians too. Intervals: bootstrap over clips (over people if known) of the "
        "median "
        "seed; an undefined score, such as a constant's, counts as 0 in the differences."
    )
    if comparison.split == "val":
        notes += " val chose the epochs, so the scores are slightly too high."
    return "\n".join([*lines, "", notes, ""])
