"""Write the report: one page with all of a model's scores."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from reactometer.data.cache import PreparedRow, load_clip
from reactometer.evaluation.audit import audit
from reactometer.evaluation.baselines import labelled_train_rows, predict_from_length, shuffled_scores
from reactometer.evaluation.bootstrap import Interval
from reactometer.evaluation.evaluate import OUT_OF_FOLD, Evaluation, evaluate, open_for_model
from reactometer.evaluation.metrics import Metrics, measure
from reactometer.evaluation.plots import as_svg, mark, plot_calibration, plot_coverage, plot_scores
from reactometer.evaluation.robustness import measure_robustness, plot_robustness
from reactometer.inference.checkpoint import load_model
from reactometer.io import make_folder, write_atomic
from reactometer.terminal import format_score
from reactometer.types import FrameState

PAGE_FILE = "report.html"

N_WORST = 8
"""Number of worst clips on the page."""


def report(  # noqa: PLR0913 - options by keyword
    model: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    split: str | None = None,
    by: str | None = None,
    groups: Sequence[str] = (),
    in_sample: bool = False,
    robustness: bool = True,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Write ``report.html``, which opens without a network, and return its path.

    Args:
        model: a checkpoint.
        data, split, by, groups, in_sample, progress: as of :func:`~reactometer.evaluation.evaluate.evaluate`.
        out: the folder for the page and all files that ``evaluate`` and
            :func:`~reactometer.evaluation.robustness.measure_robustness` write.
        robustness: also score degraded clips; about twenty times slower.
        device: as of :func:`~reactometer.inference.checkpoint.load_model`.

    Raises:
        DataError, ModelError, ScoreError, OutputError: as of ``evaluate``.
    """
    loaded, out = load_model(model, device), make_folder(Path(out))
    prepared = open_for_model(loaded, data, progress=progress)
    folder = prepared.folder
    options: dict[str, Any] = {"in_sample": in_sample, "progress": progress}
    evaluation = evaluate(loaded, folder, split=split, by=by, groups=groups, out=out, **options)
    robustness_curves = None
    if robustness and not loaded.networks.feature_sizes and evaluation.split != OUT_OF_FOLD:
        robustness_curves = measure_robustness(loaded, prepared, evaluation.split, out, by=by, **options)
    streams = sorted(loaded.streams, reverse=True)
    ablations = {
        f"without {modality}": evaluate(
            loaded, folder, split=evaluation.split, without=modality, n_resamples=0, **options
        ).metrics
        for modality in (streams if len(streams) > 1 else ())
    }
    labels = evaluation.metrics.labels
    baselines = dict[str, Metrics]()
    if labelled_train_rows(prepared):
        by_length = predict_from_length(prepared, evaluation.rows)
        baselines["clip length only"] = measure(evaluation.targets, by_length, labels)
    shuffled = shuffled_scores(evaluation.targets, evaluation.intensities, labels)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "score": partial(format_score, decimals=3),
        "bounds": _bounds,
        "estimate": _estimate,
        "percent": "{:.1%}".format,
    }
    plots = (plot_scores, plot_calibration, plot_coverage, plot_robustness)
    environment.globals |= {"svg": as_svg, "mark": mark, **{plot.__name__: plot for plot in plots}}
    template = files("reactometer.evaluation").joinpath(PAGE_FILE).read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        model=Path(model).resolve().name,
        data=Path(data).resolve().name,
        description=loaded.description,
        evaluation=evaluation,
        ablations=ablations,
        baselines=baselines,
        shuffled=(np.mean(shuffled), *np.quantile(shuffled, [0.025, 0.975])) if shuffled else None,
        robustness_curves=robustness_curves,
        audit=audit(folder, progress=progress),
        worst=_worst_clips(evaluation, of_media=prepared.has_media),
        of_media=prepared.has_media,
        configuration=json.dumps(
            [member.config.model_dump(mode="json") for member in loaded.members], indent=2
        ),
    )
    return write_atomic(out / PAGE_FILE, page)


def _worst_clips(evaluation: Evaluation, *, of_media: bool) -> list[dict[str, Any]]:
    """Return the clips with the largest mean absolute error: id, error, the worst labels and a frame in
    base64."""
    rows, labels = evaluation.rows, evaluation.metrics.labels
    targets, intensities = evaluation.targets, evaluation.intensities
    errors = np.abs(targets - intensities)  # (clips, L)
    return [
        {
            "clip_id": rows[index].clip.clip_id,
            "error": errors[index].mean(),
            "labels": [
                (labels[label], targets[index, label], intensities[index, label])
                for label in np.argsort(-errors[index], kind="stable")[:3]
            ],
            "frame": _middle_frame(rows[index]) if of_media else None,
        }
        for index in np.argsort(-errors.mean(axis=1), kind="stable")[:N_WORST]
    ]


def _middle_frame(row: PreparedRow) -> str | None:
    """Return the middle face crop of a clip as JPEG in base64, or ``None`` if there is none."""
    samples = load_clip(row).samples if row.file else ()
    crops = [sample.crop_jpeg for sample in samples if sample.state is FrameState.FACE]
    middle = crops[len(crops) // 2] if crops else None
    return b64encode(middle).decode("ascii") if middle else None


def _bounds(interval: Interval | None) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}" if interval else ""


def _estimate(interval: Interval | None) -> str:
    return f"{interval.value:.3f} ({_bounds(interval)})" if interval else "undefined"
