"""Several configurations, several seeds, one table: train each, score each, say how sure the differences are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reactometer.config import Config, load_config
from reactometer.data.batches import MediaReader
from reactometer.data.cache import FEATURES, PreparedSet
from reactometer.data.feature_store import open_store
from reactometer.errors import ConfigError
from reactometer.evaluation.baselines import length_answers
from reactometer.evaluation.bootstrap import bootstrap_mean_pearson, choose_units
from reactometer.evaluation.evaluate import Evaluation, evaluate, open_for
from reactometer.evaluation.metrics import Array, Metrics, measure
from reactometer.io import Paths, each_path
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.registry import goes_by
from reactometer.models.scoring import score_rows
from reactometer.tables import Comparison, Row, write_comparison
from reactometer.training.train import train_once

TIMED_CLIPS = 8


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
