"""A model's score where clips are harder to read: the face hidden, noise in the sound, few pixels, few frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reactometer.data.batches import Change
from reactometer.data.cache import PreparedSet
from reactometer.evaluation.bootstrap import (
    N_RESAMPLES,
    Interval,
    Intervals,
    bootstrap_mean_pearson,
    bootstrap_metrics,
    choose_units,
)
from reactometer.evaluation.corruptions import add_noise, hide_face, mute, shrink_faces, thin_frames
from reactometer.evaluation.metrics import Array, Metrics, measure
from reactometer.evaluation.plots import as_float, make_panels
from reactometer.io import format_json, write_picture, write_whole
from reactometer.models.folder import DEGRADATION_FILES, LoadedModel
from reactometer.models.scoring import join_members, score_shown
from reactometer.models.showing import changed, show
from reactometer.terminal import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN_SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)
SNR_DB = (20, 10, 5, 0, -5)
SIDES_PX = (112, 56, 28, 14, 8)
RATE_STEPS = (2, 5, 10, 25)
"""What is tried; our choice. Of the sides, those smaller than the crops; of the rates, the prepared one over these."""


@dataclass(frozen=True)
class Nuisance:
    """One thing that makes clips harder to read, from harmless to severe."""

    name: str  # with its unit
    stream: str  # "face" or "voice": what it touches
    untouched: str  # what the clips as they are have of it, in words
    levels: tuple[tuple[str, Change], ...]  # in words; what is done to a clip


@dataclass(frozen=True)
class Point:
    """A model's scores at one level of a nuisance."""

    level: str
    metrics: Metrics
    intervals: Intervals
    loss: Interval  # of mean Pearson against the clips as they are, paired; a constant prediction counts as 0


@dataclass(frozen=True)
class Degradation:
    """All curves of a model on one split."""

    data: str
    split: str
    labels: tuple[str, ...]
    curves: dict[str, tuple[Point, ...]]  # by nuisance; the unchanged clips are the first point

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``degradation.json``."""
        curves = {
            nuisance: [
                {
                    "level": point.level,
                    **point.metrics.as_json(),
                    "intervals": point.intervals.as_json(),
                    "loss": {"value": point.loss.value, "interval": [point.loss.low, point.loss.high]},
                }
                for point in points
            ]
            for nuisance, points in self.curves.items()
        }
        return {"data": self.data, "split": self.split, "labels": list(self.labels), "curves": curves}


def degrade(
    loaded: LoadedModel,
    prepared: PreparedSet,
    split: str,
    out: Path,
    *,
    by: str | None = None,
    n_resamples: int = N_RESAMPLES,
    progress: bool = True,
) -> Degradation:
    """Score a model on clips made harder to read, level by level; write ``degradation.json`` and ``degradation.png``.

    Nuisances of a modality that the model does not use are left out. Random choices are made once per clip: the same
    stretches stay hidden at a higher share, and the same noise only grows.

    Args:
        loaded: a model that takes media; features of a file cannot be made harder to read.
        prepared: clips, prepared as the model's training data were.
        split: "train", "val", "test" or "all".
        out: an existing folder.
        by: resampling unit, as of :func:`~reactometer.evaluation.evaluate.evaluate`.
        n_resamples: number of resamples for the intervals, at least 1.
        progress: show a bar on standard error.

    Raises:
        ScoreError: the split has too few clips with labels, or no label varies.
        OutputError: the folder cannot be written into.
    """
    rows, nuisances = prepared.split(split), nuisances_of(loaded)
    known = [place for place, row in enumerate(rows) if row.clip.labels]
    targets = np.array([rows[place].clip.labels for place in known]).reshape(len(known), len(loaded.labels))
    measure(targets, targets, loaded.labels)  # raises, before the work, where there is no score
    unit, groups = choose_units([rows[place].clip for place in known], by)
    whole, *answers = [answer[known] for answer in _answers(loaded, prepared, split, nuisances, progress)]

    def point(level: str, answer: Array) -> Point:
        metrics = measure(targets, answer, loaded.labels)
        ends = bootstrap_metrics(targets, answer, loaded.labels, unit=unit, groups=groups, n_resamples=n_resamples)
        loss = bootstrap_mean_pearson(targets, whole, answer, groups=groups, n_resamples=n_resamples)
        return Point(level, metrics, ends, loss)

    first, rest, curves = point("", whole), iter(answers), {}
    for nuisance in nuisances:
        others = [point(level, next(rest)) for level, _ in nuisance.levels]
        curves[nuisance.name] = (replace(first, level=nuisance.untouched), *others)
    degradation = Degradation(prepared.folder.name, split, loaded.labels, curves)
    table, picture = (out / name for name in DEGRADATION_FILES)
    write_whole(table, format_json(degradation.as_json()))
    write_picture(plot_degradation(degradation), picture)
    return degradation


def nuisances_of(loaded: LoadedModel) -> tuple[Nuisance, ...]:
    """What can be done to the clips that a model is shown, less what touches a modality that it does not go by."""
    size_px, rate_hz = loaded.config.prepare.size_px, loaded.config.prepare.rate_hz
    sides_px = [side_px for side_px in SIDES_PX if side_px < size_px]
    hidden = [(f"{share:.0%}", partial(hide_face, share=share)) for share in HIDDEN_SHARES]
    noisy: list[tuple[str, Change]] = [(f"{snr_db} dB", partial(add_noise, snr_db=snr_db)) for snr_db in SNR_DB]
    shrunk = [(f"{side_px}", partial(shrink_faces, side_px=side_px)) for side_px in sides_px]
    thinned = [(f"{rate_hz / step:g}", partial(thin_frames, step=step)) for step in RATE_STEPS]
    every = (
        Nuisance("face hidden, share of the frames", "face", "0%", tuple(hidden)),
        Nuisance("white noise, signal-to-noise ratio", "voice", "none", (*noisy, ("no sound", mute))),
        Nuisance("face crop, pixels a side", "face", f"{size_px}", tuple(shrunk)),
        Nuisance("frames a second", "face", f"{rate_hz:g}", tuple(thinned)),
    )
    used = {"face": loaded.sampling.looks, "voice": loaded.sampling.listens}
    return tuple(nuisance for nuisance in every if used[nuisance.stream] and nuisance.levels)


def plot_degradation(degradation: Degradation) -> Figure:
    """Plot one panel per nuisance: mean Pearson with its interval, and each emotion; a gap where it is undefined."""
    figure, panels = make_panels(len(degradation.curves), columns=2, size=(4.6, 3.2))
    for (nuisance, points), panel in zip(degradation.curves.items(), panels, strict=True):
        _plot_curve(panel, points)
        panel.set_title(nuisance, fontsize=10)
    figure.supylabel("Pearson", fontsize=10)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    n_clips = next(iter(degradation.curves.values()))[0].metrics.n_clips
    figure.suptitle(f"{degradation.data}, {degradation.split}: {n_clips} clips; bars: 95 % interval of the mean")
    return figure


def _plot_curve(panel: Any, points: Sequence[Point]) -> None:
    places = range(len(points))
    for label, name in enumerate(points[0].metrics.labels):
        own = [as_float(point.metrics.pearson[label]) for point in points]
        panel.plot(places, own, linewidth=1, alpha=0.7, label=name)
    means = np.array([as_float(point.metrics.mean_pearson) for point in points])
    bounds = [point.intervals.mean["pearson"] for point in points]
    bars = np.array([[np.nan, np.nan] if own is None else [own.low, own.high] for own in bounds]).T  # (2, levels)
    panel.errorbar(places, means, np.abs(bars - means), color="black", linewidth=2, marker="o", capsize=3, label="mean")
    panel.axhline(0.0, color="0.6", linewidth=0.8)
    panel.set_xticks(places, [point.level for point in points], fontsize=8)
    panel.set_ylim(top=1.0)


def _answers(
    loaded: LoadedModel, prepared: PreparedSet, split: str, nuisances: Sequence[Nuisance], progress: bool
) -> list[Array]:
    """(clips, L) intensities of the clips as they are, then of every level of every nuisance."""
    rows, sampling, by_member = prepared.split(split), loaded.sampling, []
    changes = [change for nuisance in nuisances for _, change in nuisance.levels]
    for member in loaded.each:
        whole = show(member.network, prepared, (split,), sampling, progress=progress)
        shown = [whole, *(changed(whole, member.network, sampling, change) for change in changes)]
        with progress_bar("degrading", len(shown) * len(rows), progress) as advance:
            by_member.append([score_shown(member, own, rows, sampling, advance=advance)[0] for own in shown])
    joined = [join_members(loaded, own) for own in zip(*by_member, strict=True)]
    return [np.array([score.intensities for score in own]) for own in joined]
