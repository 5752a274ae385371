"""Score a model on clips made harder to read: a hidden face, noise in the sound, small crops, few frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from reactometer.data.cache import PreparedSet
from reactometer.data.inputs import Change, MediaReader, Reader
from reactometer.evaluation.bootstrap import (
    N_RESAMPLES,
    Interval,
    Intervals,
    bootstrap_mean_pearson,
    bootstrap_metrics,
    choose_units,
)
from reactometer.evaluation.metrics import Array, Metrics, measure
from reactometer.evaluation.plots import as_float, make_panels
from reactometer.inference.checkpoint import DEGRADATION_FILES, LoadedModel
from reactometer.inference.inputs import EncodingReader, open_reader
from reactometer.inference.scoring import join_members, score_read
from reactometer.io import format_json, write_picture, write_whole
from reactometer.media.audio import STRETCH_S, is_audible
from reactometer.media.faces import decode_crop, encode_crop
from reactometer.terminal import progress_bar
from reactometer.types import SOUND_RATE_HZ, FaceSample, FloatArray, FrameState, PreparedClip

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
        whole = open_reader(member, prepared, split, sampling, progress=progress)
        encode = member.networks.encode
        readers: list[Reader] = [whole, *(EncodingReader(encode, MediaReader(sampling, change)) for change in changes)]
        with progress_bar("degrading", len(readers) * len(rows), progress) as advance:
            by_member.append([score_read(member, read, rows, advance=advance)[0] for read in readers])
    joined = [join_members(loaded, own) for own in zip(*by_member, strict=True)]
    return [np.array([score.intensities for score in own]) for own in joined]


HIDDEN_S = 1.0
"""Length of a stretch in which the face is hidden. What hides a face (a hand, a turned head, somebody in front) stays
for about so long; frames hidden one by one cost less, since their neighbours show nearly the same."""

PAUSE_DB = 22.0
"""A stretch so far below the loudest one is no speech; as in :mod:`reactometer.media.audio_features`."""


def hide_face(clip: PreparedClip, rng: np.random.Generator, share: float) -> PreparedClip:
    """Hide the face in ``share`` (in [0, 1], rounded to whole frames) of the sampled frames, by stretches of a second.

    Stretches lie side by side from a drawn moment on and are hidden in a drawn order; with the same generator, what a
    smaller share hides a larger one hides too. Frames without a face count as any other.
    """
    times_s = np.array([sample.time_s for sample in clip.samples])  # (T,)
    stretch = np.floor((times_s - clip.start_s) / HIDDEN_S + rng.random()).astype(int)  # (T,) the frame's stretch
    rank = rng.permutation(int(stretch.max(initial=0)) + 1)[stretch]  # (T,)
    hidden = set(np.argsort(rank, kind="stable")[: round(share * len(times_s))].tolist())
    return replace(
        clip,
        samples=tuple(
            FaceSample(sample.time_s, FrameState.NO_FACE) if place in hidden else sample
            for place, sample in enumerate(clip.samples)
        ),
    )


def add_noise(clip: PreparedClip, rng: np.random.Generator, snr_db: float) -> PreparedClip:
    """Add white noise ``snr_db`` below the clip's speech; what would exceed full scale is turned down as a whole.

    A clip without audible sound has no speech to compare with, and stays as it is.
    """
    if clip.waveform is None or not is_audible(clip.waveform):
        return clip
    noise = rng.standard_normal(len(clip.waveform))  # (S,)
    noise *= np.sqrt(speech_power(clip.waveform) / 10 ** (snr_db / 10) / np.mean(noise**2))
    mixed = clip.waveform + noise
    return replace(clip, waveform=(mixed / max(1.0, np.abs(mixed).max())).astype(np.float32))


def speech_power(waveform: FloatArray) -> float:
    """Mean square of a (S,) waveform over its speech: the 100 ms no more than 22 dB below the loudest."""
    size = int(STRETCH_S * SOUND_RATE_HZ)
    starts = np.arange(0, len(waveform), size)
    power = np.add.reduceat(np.square(waveform, dtype=np.float64), starts) / size
    return float(power[power >= power.max() / 10 ** (PAUSE_DB / 10)].mean())


def mute(clip: PreparedClip, rng: np.random.Generator) -> PreparedClip:
    """Take the sound away; ``rng`` is not used."""
    return replace(clip, waveform=None)


def shrink_faces(clip: PreparedClip, rng: np.random.Generator, side_px: int) -> PreparedClip:
    """Face crops of their size with the detail of ``side_px`` pixels a side: shrunk, enlarged, a JPEG again.

    A crop that is not larger stays as it is; ``rng`` is not used.
    """
    return replace(clip, samples=tuple(_shrunk(sample, side_px) for sample in clip.samples))


def thin_frames(clip: PreparedClip, rng: np.random.Generator, step: int) -> PreparedClip:
    """Every ``step``-th sampled frame, the first one among them, as a slower camera has it; ``rng`` is not used."""
    return replace(clip, samples=clip.samples[::step])


def _shrunk(sample: FaceSample, side_px: int) -> FaceSample:
    if sample.crop_jpeg is None:
        return sample
    crop = decode_crop(sample.crop_jpeg)
    if len(crop) <= side_px:
        return sample
    small = cv2.resize(crop, (side_px, side_px), interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, (len(crop), len(crop)), interpolation=cv2.INTER_LINEAR)
    return replace(sample, crop_jpeg=encode_crop(np.asarray(large, dtype=np.uint8)))
