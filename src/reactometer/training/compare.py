"""Several configurations, several seeds, one table: train each, score each, say how sure the differences are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer.config import Config, load_config
from reactometer.data.batches import MediaReader
from reactometer.data.cache import FEATURES, PreparedSet
from reactometer.data.feature_store import open_store
from reactometer.errors import ConfigError
from reactometer.evaluation.baselines import length_answers
from reactometer.evaluation.bootstrap import Interval, bootstrap_mean_pearson, choose_units
from reactometer.evaluation.evaluate import Evaluation, evaluate, open_for
from reactometer.evaluation.metrics import Array, Metrics, measure
from reactometer.io import Paths, each_path, write_picture, write_whole
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.registry import goes_by
from reactometer.models.scoring import score_rows
from reactometer.training.train import train_once

TIMED_CLIPS = 8
COLORS = {"face and voice": "#3b4cc0", "face": "#2a9d5c", "voice": "#d1701f"}


@dataclass(frozen=True)
class Row:
    """One system (or one way to show it clips): its scores by seed, and what it costs."""

    name: str
    reads: str  # "face and voice", "face" or "voice"
    val: tuple[float | None, ...]  # mean Pearson on val of the kept epoch, by seed; empty: not scored there
    metrics: tuple[Metrics, ...]  # on the split, by seed
    averaged: float | None  # mean Pearson of the seeds' mean prediction
    interval: Interval  # of the median seed's mean Pearson
    over_length: Interval  # of the same less that of the clip-length baseline
    parameters: int
    seconds_per_clip: float | None  # one clip at a time, decoding of its crops included; None: not timed

    @property
    def median(self) -> float | None:
        """Median over the seeds of the mean Pearson; undefined where a seed's is."""
        return median([metrics.mean_pearson for metrics in self.metrics])

    @property
    def val_median(self) -> float | None:
        """The same on val."""
        return median(self.val)


@dataclass(frozen=True)
class Comparison:
    """All rows, what they are to be compared with, and where the table was written."""

    split: str
    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    length_baseline: Metrics
    n_seeds: int
    folder: Path


def compare(
    configs: Paths,
    data: Path | str,
    out: Path | str,
    *,
    seeds: int = 3,
    overrides: Sequence[str] = (),
    split: str = "test",
    progress: bool = True,
) -> Comparison:
    """Train each configuration with several seeds, score all on one split, and write one table.

    A second call takes up where the first one stopped, and trains nothing that is there. Rows of models of face and
    voice come thrice: with both, and the same models with either alone.

    Args:
        configs: TOML files.
        data: the data set, the same for all.
        out: a folder for ``comparison.md``, ``comparison.csv`` (a row a seed), ``comparison.png`` and the runs.
        seeds: trainings a configuration, with ``training.seed`` = 0, 1, 2 …
        overrides: ``section.key=value`` on top of every configuration.
        split: what to score on; fit and choice of the epoch only ever see train and val.
        progress: show bars and lines on standard error.

    Raises:
        ConfigError, DataError, WeightsError: what is given cannot be trained on.
        OutputError: ``out`` holds runs of other configurations.
    """
    out, configs = Path(out), each_path(configs)
    if len({Path(path).stem for path in configs}) < len(configs):
        raise ConfigError("two configurations have the same name", got=", ".join(Path(path).stem for path in configs))
    jobs = [(Path(path).stem, load_config(Path(path), [*overrides, f'data.path="{data}"'])) for path in configs]
    for _, config in jobs:
        goes_by(config.model)
    rows: list[Row] = []
    for name, config in jobs:
        models = [_trained(name, config, seed, out, progress) for seed in range(seeds)]
        own, length = _rows(name, models, data, split, progress)
        rows += own
    comparison = Comparison(split, models[0].labels, tuple(rows), length, seeds, out)
    write_comparison(comparison)
    return comparison


def _trained(name: str, config: Config, seed: int, out: Path, progress: bool) -> LoadedModel:
    """The model of one seed."""
    training = {"out": out / "runs" / f"{name}-seed{seed}", "seed": seed}
    config = config.model_copy(update={"training": config.training.model_copy(update=training)})
    return load_model(train_once(config, f"{name}, seed {seed}", progress=progress))


def _rows(
    name: str, models: Sequence[LoadedModel], data: Path | str, split: str, progress: bool
) -> tuple[list[Row], Metrics]:
    """The rows of one configuration, and the score of the clip-length baseline."""
    first = models[0]
    prepared = open_for(first, data, progress=progress)
    takes_both = first.sampling.looks and first.sampling.listens
    hides: list[str | None] = [None, "voice", "face"] if takes_both else [None]
    rows = []
    for hidden in hides:
        scored = [
            evaluate(model, data, split=split, without=hidden, n_resamples=0, progress=progress) for model in models
        ]
        length = length_answers(prepared, scored[0].rows)
        rows.append(_row(name, hidden, models, scored, length))
    rows[0] = replace(rows[0], seconds_per_clip=_seconds_per_clip(first, prepared))
    return rows, measure(scored[0].truth, length, first.labels)


def _row(
    name: str, hidden: str | None, models: Sequence[LoadedModel], scored: Sequence[Evaluation], length: Array
) -> Row:
    labels, truth = models[0].labels, scored[0].truth
    people = choose_units([row.clip for row in scored[0].rows])[1]
    predictions = [evaluation.guess for evaluation in scored]  # (clips, L) each
    scores = [evaluation.metrics.mean_pearson or 0.0 for evaluation in scored]
    middle = predictions[int(np.argsort(scores, kind="stable")[(len(scores) - 1) // 2])]
    sampling = models[0].sampling
    reads = [word for word, has in (("face", sampling.looks), ("voice", sampling.listens)) if has and word != hidden]
    network = models[0].network
    return Row(
        name=name if hidden is None else f"{name}, without {hidden}",
        reads=" and ".join(reads),
        val=tuple(model.description["metrics"].get("mean_pearson") for model in models) if hidden is None else (),
        metrics=tuple(evaluation.metrics for evaluation in scored),
        averaged=measure(truth, np.mean(predictions, axis=0), labels).mean_pearson,
        interval=bootstrap_mean_pearson(truth, middle, groups=people),
        over_length=bootstrap_mean_pearson(truth, middle, length, groups=people),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        seconds_per_clip=None,
    )


def _seconds_per_clip(model: LoadedModel, prepared: PreparedSet) -> float:
    """Median time to score a clip alone, from its prepared crops and sound (or features) on."""
    rows = [row for row in prepared.rows if row.file][:TIMED_CLIPS]
    of_media = prepared.feature_sizes is None
    read = MediaReader(model.sampling) if of_media else open_store(prepared.folder / FEATURES)
    times = []
    for row in rows:
        started = time.perf_counter()
        list(score_rows(model.network, [row], read))
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def write_comparison(comparison: Comparison) -> None:
    """Write ``comparison.md``, ``comparison.csv`` and ``comparison.png`` into the comparison's folder."""
    write_whole(comparison.folder / "comparison.md", markdown(comparison))
    write_whole(comparison.folder / "comparison.csv", as_table(comparison).to_csv(index=False))
    _draw(comparison, comparison.folder / "comparison.png")


def as_table(comparison: Comparison) -> pd.DataFrame:
    """A row a system and seed, with every emotion: what ``comparison.csv`` holds."""
    table = pd.DataFrame(
        {
            "system": row.name,
            "reads": row.reads,
            "seed": seed,
            "split": comparison.split,
            "clips": metrics.n_clips,
            "mean_pearson": metrics.mean_pearson,
            **{f"pearson {label}": r for label, r in zip(metrics.labels, metrics.pearson, strict=True)},
            "mean_ccc": metrics.mean_ccc,
            "mean_mae": metrics.mean_mae,
            "val_mean_pearson": row.val[seed] if row.val else None,
            "parameters": row.parameters,
            "seconds_per_clip": row.seconds_per_clip,
        }
        for row in comparison.rows
        for seed, metrics in enumerate(row.metrics)
    )
    scores = [name for name in table.columns if name not in ("system", "reads", "split")]
    return table.astype(dict.fromkeys(scores, float))  # undefined: not a number


def median(values: Sequence[float | None]) -> float | None:
    """The median; undefined where a value is, or there is none."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known and len(known) == len(values) else None


def markdown(comparison: Comparison) -> str:
    """The table as Markdown: a line a system; r is the mean Pearson over the labels."""
    n_clips, level = comparison.rows[0].metrics[0].n_clips, comparison.rows[0].interval.level
    head = ["system", "reads", "val", f"{comparison.split}: r", "over seeds", f"{level:.0%} interval"]
    head += ["over clip length", "seeds averaged", *comparison.labels, "parameters", "ms a clip"]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(row)) for row in comparison.rows]
    baseline = comparison.length_baseline
    own = [_short(r) for r in baseline.pearson]
    lines.append(_line(["clip length", "", "", _short(baseline.mean_pearson), *[""] * 4, *own, "", ""]))
    lines.append(_line(["constant", "", "", "undefined", *[""] * 4, *["undefined"] * len(own), "", ""]))
    notes = (
        f"{comparison.split}: {n_clips} clips; r is the median over {comparison.n_seeds} seeds of the mean Pearson, "
        "emotions are medians too. Intervals: bootstrap over clips (over people where they are known) of the median "
        "seed; a constant or undefined score counts as 0 in the differences. val chose the epoch."
    )
    return "\n".join([*lines, "", notes, ""])


def _cells(row: Row) -> list[str]:
    scores = [metrics.mean_pearson for metrics in row.metrics]
    known = [score for score in scores if score is not None]
    spread = f"{_short(min(known))} to {_short(max(known))}" if len(known) > 1 else ""
    by_label = [
        median([metrics.pearson[place] for metrics in row.metrics]) for place in range(len(row.metrics[0].labels))
    ]
    milliseconds = "" if row.seconds_per_clip is None else f"{row.seconds_per_clip * 1000:.0f}"
    return [
        row.name,
        row.reads,
        _short(row.val_median) if row.val else "",
        f"**{_short(row.median)}**",
        spread,
        _interval(row.interval),
        _interval(row.over_length),
        _short(row.averaged),
        *[_short(r) for r in by_label],
        _count(row.parameters) if row.val else "",
        milliseconds,
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _short(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _interval(interval: Interval) -> str:
    return f"{_short(interval.low)} to {_short(interval.high)}"


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


def _draw(comparison: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure

    rows = comparison.rows[::-1]
    figure = Figure(figsize=(8.0, 1.2 + 0.42 * len(rows)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        color = COLORS[row.reads]
        axes.plot([row.interval.low, row.interval.high], [place, place], color=color, linewidth=5, alpha=0.25)
        scores = [metrics.mean_pearson for metrics in row.metrics if metrics.mean_pearson is not None]
        axes.plot(scores, [place] * len(scores), "o", color=color, markersize=5, alpha=0.7)
        if row.median is not None:
            axes.plot([row.median], [place], "|", color=color, markersize=16, markeredgewidth=2)
            axes.annotate(
                _short(row.median), (row.median, place), (0, 9), textcoords="offset points", ha="center", size=8
            )
    axes.axvline(0.0, color="#666666", linewidth=0.8)
    if comparison.length_baseline.mean_pearson is not None:
        axes.axvline(comparison.length_baseline.mean_pearson, color="#999999", linewidth=0.8, linestyle="--")
        axes.text(comparison.length_baseline.mean_pearson, len(rows) - 0.45, " clip length", size=7, color="#777777")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.2)
    axes.set_xlabel(f"mean Pearson on {comparison.split}: a dot a seed, | their median, band the interval of its clips")
    axes.spines[["top", "right"]].set_visible(False)
    write_picture(figure, path)
