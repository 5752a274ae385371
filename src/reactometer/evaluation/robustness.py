"""Score a model on clips made harder to read: a hidden face, noise in the sound, small crops, few frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from reactometer.data.cache import PreparedSet
from reactometer.data.inputs import ClipTransform, ItemLoader, MediaReader
from reactometer.evaluation.bootstrap import (
    N_RESAMPLES,
    Interval,
    Intervals,
    bootstrap_mean_pearson,
    bootstrap_metrics,
    choose_units,
)
from reactometer.evaluation.metrics import Array, Metrics, measure
from reactometer.evaluation.plots import make_panels
from reactometer.inference.checkpoint import DEGRADATION_FILES, LoadedModel
from reactometer.inference.inputs import EncodingReader, open_reader
from reactometer.inference.scoring import join_members, score_encoded
from reactometer.io import format_json, write_atomic, write_plot
from reactometer.media.audio import LEVEL_INTERVAL_S, is_audible
from reactometer.media.faces import decode_crop, encode_crop
from reactometer.terminal import progress_bar
from reactometer.types import SOUND_RATE_HZ, FaceSample, FloatArray, FrameState, PreparedClip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN_SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)
SNR_DB = (20, 10, 5, 0, -5)
SIDES_PX = (112, 56, 28, 14, 8)
RATE_STEPS = (2, 5, 10, 25)
"""Levels that are scored; our choice. Only sides below the crops' are tried; rates are divided by the steps."""

UNCHANGED = "unchanged"

HIDDEN_S = 1.0
"""Length of a stretch in which the face is hidden, about as by a hand or a turned head. Frames hidden one by one cost
less, because their neighbours show nearly the same."""

PAUSE_DB = 22.0
"""A stretch so far below the loudest one is no speech; as in :mod:`reactometer.media.audio_features`."""


@dataclass(frozen=True)
class Point:
    """A model's scores at one level of a nuisance."""

    level: str
    metrics: Metrics
    intervals: Intervals
    loss: Interval  # of mean Pearson against the clips as they are, paired; a constant prediction counts as 0


@dataclass(frozen=True)
class Degradation:
    """All curves of a model on one split: the content of ``degradation.json``."""

    data: str
    split: str
    curves: dict[str, tuple[Point, ...]]  # by nuisance; the unchanged clips are the first point


def measure_robustness(
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
        split, by, n_resamples: as of :func:`~reactometer.evaluation.evaluate.evaluate`.
        out: an existing folder.
        progress: show a bar on standard error.

    Raises:
        ScoreError: the split has too few clips with labels, or no label varies.
    """
    rows, nuisances = prepared.split(split), corruptions_for(loaded)
    known = [place for place, row in enumerate(rows) if row.clip.labels]
    targets = np.array([rows[place].clip.labels for place in known]).reshape(len(known), len(loaded.labels))
    measure(targets, targets, loaded.labels)  # raises, before the work, where there is no score
    how = choose_units([rows[place].clip for place in known], by, n_resamples)
    changes = {(name, level): change for name, levels in nuisances.items() for level, change in levels.items()}
    whole, *harder = [own[known] for own in _answers(loaded, prepared, split, [*changes.values()], progress)]
    answers = dict(zip(changes, harder, strict=True))

    def point(level: str, answer: Array) -> Point:
        metrics = measure(targets, answer, loaded.labels)
        intervals = bootstrap_metrics(targets, answer, loaded.labels, how)
        return Point(level, metrics, intervals, bootstrap_mean_pearson(targets, whole, answer, how))

    curves = {
        name: (point(UNCHANGED, whole), *(point(level, answers[name, level]) for level in levels))
        for name, levels in nuisances.items()
    }
    degradation = Degradation(prepared.folder.name, split, curves)
    table, picture = (out / name for name in DEGRADATION_FILES)
    write_atomic(table, format_json(asdict(degradation)))
    write_plot(plot_degradation(degradation), picture)
    return degradation


def corruptions_for(loaded: LoadedModel) -> dict[str, dict[str, ClipTransform]]:
    """Return what is done to clips, by nuisance (with its unit) and level; only to modalities that the model uses."""
    rate_hz = loaded.config.prepare.rate_hz
    sides_px = [side_px for side_px in SIDES_PX if side_px < loaded.config.prepare.size_px]
    nuisances: dict[str, dict[str, ClipTransform]] = {}
    if loaded.sampling.uses_face:
        nuisances |= {
            "face hidden, share of the frames": {f"{own:.0%}": partial(hide_face, share=own) for own in HIDDEN_SHARES},
            "face crop, pixels a side": {f"{own}": partial(shrink_faces, side_px=own) for own in sides_px},
            "frames a second": {f"{rate_hz / own:g}": partial(thin_frames, step=own) for own in RATE_STEPS},
        }
    if loaded.sampling.uses_voice:
        noisy = {f"{own} dB": partial(add_noise, snr_db=own) for own in SNR_DB}
        nuisances["white noise, signal-to-noise ratio"] = {**noisy, "no sound": mute}
    return nuisances


def plot_degradation(degradation: Degradation) -> Figure:
    """Plot one panel per nuisance: mean Pearson with its interval, and each emotion; a gap where it is undefined."""
    figure, panels = make_panels(len(degradation.curves), columns=2, size=(4.6, 3.2))
    for (nuisance, points), panel in zip(degradation.curves.items(), panels, strict=True):
        levels, labels = [point.level for point in points], points[0].metrics.labels
        panel.plot(levels, np.array([point.metrics.pearson for point in points], float), alpha=0.7, label=labels)
        means = np.array([point.metrics.mean_pearson for point in points], float)
        ends = [point.intervals.mean["pearson"] for point in points]
        bars = np.array([(own.low, own.high) if own else (np.nan, np.nan) for own in ends]).T  # (2, levels)
        panel.errorbar(levels, means, np.abs(bars - means), color="black", marker="o", capsize=3, label="mean")
        panel.axhline(0.0, color="0.6", linewidth=0.8)
        panel.set_ylim(top=1.0)
        panel.set_title(nuisance, fontsize=10)
    figure.supylabel("Pearson", fontsize=10)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    figure.suptitle(f"{degradation.data}, {degradation.split}; bars: 95% interval of the mean")
    return figure


def _answers(
    loaded: LoadedModel, prepared: PreparedSet, split: str, changes: Sequence[ClipTransform], progress: bool
) -> list[Array]:
    """(clips, L) intensities of the clips as they are, then after each change."""
    rows, sampling, by_member = prepared.split(split), loaded.sampling, []
    for member in loaded.members:
        whole = open_reader(member, prepared, split, sampling, progress=progress)
        encode = member.networks.encode
        readers: list[ItemLoader] = [
            whole,
            *(EncodingReader(encode, MediaReader(sampling, change)) for change in changes),
        ]
        with progress_bar("degrading", len(readers) * len(rows), progress) as advance:
            by_member.append([score_encoded(member, read, rows, advance=advance)[0] for read in readers])
    joined = [join_members(loaded, own) for own in zip(*by_member, strict=True)]
    return [np.array([score.intensities for score in own]) for own in joined]


def hide_face(clip: PreparedClip, rng: np.random.Generator, share: float) -> PreparedClip:
    """Hide the face in ``share`` (in [0, 1], rounded to whole frames) of the sampled frames, by stretches of a second.

    With the same generator, a larger share hides what a smaller one hides. Frames without a face count as any other.
    """
    times_s = np.array([sample.time_s for sample in clip.samples])  # (T,)
    stretch = np.floor((times_s - clip.start_s) / HIDDEN_S + rng.random()).astype(int)  # (T,) the frame's stretch
    rank = rng.permutation(int(stretch.max(initial=0)) + 1)[stretch]  # (T,)
    hidden = set(np.argsort(rank, kind="stable")[: round(share * len(times_s))].tolist())
    samples = [
        FaceSample(sample.time_s, FrameState.NO_FACE) if place in hidden else sample
        for place, sample in enumerate(clip.samples)
    ]
    return replace(clip, samples=tuple(samples))


def add_noise(clip: PreparedClip, rng: np.random.Generator, snr_db: float) -> PreparedClip:
    """Add white noise ``snr_db`` below the clip's speech, scaled to full scale; a clip without sound is unchanged."""
    if clip.waveform is None or not is_audible(clip.waveform):
        return clip
    noise = rng.standard_normal(len(clip.waveform))  # (S,)
    noise *= np.sqrt(speech_power(clip.waveform) / 10 ** (snr_db / 10) / np.mean(noise**2))
    mixed = clip.waveform + noise
    return replace(clip, waveform=(mixed / max(1.0, np.abs(mixed).max())).astype(np.float32))


def speech_power(waveform: FloatArray) -> float:
    """Mean square of a (S,) waveform over its speech: the 100 ms no more than 22 dB below the loudest."""
    size = int(LEVEL_INTERVAL_S * SOUND_RATE_HZ)
    starts = np.arange(0, len(waveform), size)
    power = np.add.reduceat(np.square(waveform, dtype=np.float64), starts) / size
    return float(power[power >= power.max() / 10 ** (PAUSE_DB / 10)].mean())


def mute(clip: PreparedClip, rng: np.random.Generator) -> PreparedClip:
    """Remove the sound."""
    return replace(clip, waveform=None)


def shrink_faces(clip: PreparedClip, rng: np.random.Generator, side_px: int) -> PreparedClip:
    """Shrink face crops to ``side_px`` pixels per side and enlarge them again; smaller crops are unchanged."""

    def shrink(jpeg: bytes) -> bytes:
        crop = decode_crop(jpeg)
        if len(crop) <= side_px:
            return jpeg
        small = cv2.resize(crop, (side_px, side_px), interpolation=cv2.INTER_AREA)
        large = cv2.resize(small, (len(crop), len(crop)), interpolation=cv2.INTER_LINEAR)
        return encode_crop(np.asarray(large, dtype=np.uint8))

    samples = (replace(own, crop_jpeg=shrink(own.crop_jpeg)) if own.crop_jpeg else own for own in clip.samples)
    return replace(clip, samples=tuple(samples))


def thin_frames(clip: PreparedClip, rng: np.random.Generator, step: int) -> PreparedClip:
    """Keep every ``step``-th sampled frame, from the first one on."""
    return replace(clip, samples=clip.samples[::step])
