"""Score a model on degraded clips: hidden faces, noise, small crops, few frames."""

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
from reactometer.evaluation.overlap import check_held_out, find_overlap
from reactometer.evaluation.plots import make_panels, mark
from reactometer.inference.checkpoint import ROBUSTNESS_FILES, LoadedModel
from reactometer.inference.inputs import open_reader
from reactometer.inference.scoring import join_members, score_encoded
from reactometer.io import format_json, write_atomic, write_plot
from reactometer.media.audio import LEVEL_INTERVAL_S, is_audible
from reactometer.media.faces import Detector, crop_face, decode_crop, encode_crop, load_detector
from reactometer.terminal import progress_bar
from reactometer.types import SOUND_RATE_HZ, FaceSample, FloatArray, FrameState, PreparedClip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN_SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)
SNR_DB = (20, 10, 5, 0, -5)
SIDES_PX = (112, 56, 28, 14, 8)
RATE_STEPS = (2, 5, 10, 25)
"""Levels of each corruption. Only sides below the prepared crops' are used; each step divides the frame rate.
"""

UNCHANGED = "unchanged"

NOISES = {"white noise": 0.0, "room noise": 5.0}
"""Falloff in dB per octave; that of rooms is Hoth's mean over real rooms (J. Acoust. Soc. Am. 12, 1941)."""

ROOM_HZ = 100.0
"""Lowest frequency of Hoth's measurements, Hz."""

HIDDEN_S = 1.0
"""Length of a hidden segment, seconds: about as long as a hand covers the face or the head is turned away."""

PAUSE_DB = 22.0
"""Segments this far below the loudest one, dB, are pauses, as in :mod:`reactometer.media.audio_features`."""


@dataclass(frozen=True)
class Point:
    """A model's scores at one level of a corruption."""

    level: str
    metrics: Metrics
    intervals: Intervals
    loss: (
        Interval  # paired decrease of mean Pearson from the unchanged clips; constant predictions count as 0
    )


Curves = dict[str, tuple[Point, ...]]
"""Points by corruption; the unchanged clips are the first point of each curve."""


def measure_robustness(
    loaded: LoadedModel,
    prepared: PreparedSet,
    split: str,
    out: Path,
    *,
    by: str | None = None,
    n_resamples: int = N_RESAMPLES,
    in_sample: bool = False,
    progress: bool = True,
) -> Curves:
    """Score a model on degraded clips, level by level; write ``robustness.json`` and ``robustness.png``.

    Corruptions of a modality that the model does not use are left out. The random numbers of a clip are the
    same at all levels: a higher share hides the same segments and more, and only the noise's amplitude
    changes.

    Args:
        loaded: a model of videos; feature tables cannot be degraded.
        prepared: clips, prepared as the model's training data were.
        split, by, n_resamples, in_sample: as in :func:`~reactometer.evaluation.evaluate.evaluate`.
        out: an existing folder.
        progress: show a bar on standard error.

    Raises:
        DataError: the model was trained on some of the clips.
        ScoreError: the split has too few clips with labels, or no label varies.
    """
    rows, corruptions = prepared.split(split), corruptions_for(loaded)
    labelled = [index for index, row in enumerate(rows) if row.clip.labels]
    find = find_overlap if in_sample else check_held_out
    overlap = find(loaded, [rows[index] for index in labelled])
    targets = np.array([rows[index].clip.labels for index in labelled]).reshape(
        len(labelled), len(loaded.labels)
    )
    measure(targets, targets, loaded.labels)  # raise early if no metric is defined
    resampling = choose_units([rows[index].clip for index in labelled], by, n_resamples)
    transforms = {(name, level): levels[level] for name, levels in corruptions.items() for level in levels}
    predictions = _predict_corrupted(loaded, prepared, split, [*transforms.values()], progress)
    unchanged, *degraded = [array[labelled] for array in predictions]
    by_corruption = dict(zip(transforms, degraded, strict=True))

    def make_point(level: str, predictions: Array) -> Point:
        metrics = measure(targets, predictions, loaded.labels)
        intervals = bootstrap_metrics(targets, predictions, loaded.labels, resampling)
        return Point(
            level, metrics, intervals, bootstrap_mean_pearson(targets, unchanged, predictions, resampling)
        )

    curves = {
        name: (
            make_point(UNCHANGED, unchanged),
            *(make_point(level, by_corruption[name, level]) for level in levels),
        )
        for name, levels in corruptions.items()
    }
    table, plot = (out / name for name in ROBUSTNESS_FILES)
    origin = {"data": prepared.folder.name, "split": split, "training_overlap": overlap.as_json()}
    points = {name: [asdict(point) for point in curve] for name, curve in curves.items()}
    write_atomic(table, format_json({**origin, "curves": points}))
    write_plot(mark(plot_robustness(curves), overlap.label), plot)
    return curves


def corruptions_for(loaded: LoadedModel) -> dict[str, dict[str, ClipTransform]]:
    """Return the transforms by corruption (with its unit) and level, for the modalities that the model
    uses."""
    rate_hz = loaded.config.prepare.rate_hz
    sides_px = [side_px for side_px in SIDES_PX if side_px < loaded.config.prepare.size_px]
    corruptions: dict[str, dict[str, ClipTransform]] = {}
    if loaded.uses_face:
        detector = load_detector(loaded.config.prepare.detector)
        corruptions |= {
            "face hidden, share of the frames": {
                f"{share:.0%}": partial(hide_face, share=share) for share in HIDDEN_SHARES
            },
            "face crop, pixels per side": {
                f"{side_px}": partial(shrink_faces, side_px=side_px, detector=detector)
                for side_px in sides_px
            },
            "frames per second": {
                f"{rate_hz / step:g}": partial(thin_frames, step=step) for step in RATE_STEPS
            },
        }
    if loaded.uses_voice:
        for name, falloff_db in NOISES.items():
            noise = {
                f"{snr_db} dB": partial(add_noise, snr_db=snr_db, falloff_db=falloff_db) for snr_db in SNR_DB
            }
            corruptions[f"{name}, signal-to-noise ratio"] = {**noise, "no sound": mute}
    return corruptions


def plot_robustness(curves: Curves) -> Figure:
    """Plot one panel per corruption: Pearson of each emotion, and their mean with its interval; gaps if
    undefined."""
    figure, panels = make_panels(len(curves), columns=2, size=(4.6, 3.2))
    for (corruption, points), panel in zip(curves.items(), panels, strict=True):
        levels, labels = [point.level for point in points], points[0].metrics.labels
        panel.plot(
            levels, np.array([point.metrics.pearson for point in points], float), alpha=0.7, label=labels
        )
        means = np.array([point.metrics.mean_pearson for point in points], float)
        intervals = [point.intervals.mean["pearson"] for point in points]
        bounds = np.array(
            [(ci.low, ci.high) if ci else (np.nan, np.nan) for ci in intervals]
        ).T  # (2, levels)
        panel.errorbar(
            levels, means, np.abs(bounds - means), color="black", marker="o", capsize=3, label="mean"
        )
        panel.axhline(0.0, color="0.6", linewidth=0.8)
        panel.set_ylim(top=1.0)
        panel.set_title(corruption, fontsize=10)
        panel.tick_params(axis="x", labelsize=8)
    figure.supylabel("Pearson", fontsize=10)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    figure.suptitle("bars: 95% interval of the mean")
    return figure


def _predict_corrupted(
    loaded: LoadedModel,
    prepared: PreparedSet,
    split: str,
    transforms: Sequence[ClipTransform],
    progress: bool,
) -> list[Array]:
    """Return (clips, L) predicted intensities of the unchanged clips, then of the clips after each
    transform."""
    rows = prepared.split(split)
    by_member = []
    for member in loaded.members:
        unchanged = open_reader(member, prepared, split, progress=progress)
        changed = [MediaReader(member.sampling, transform, member.encode) for transform in transforms]
        readers: list[ItemLoader] = [unchanged, *changed]
        with progress_bar("degrading", len(readers) * len(rows), progress) as advance:
            by_member.append([score_encoded(member, read, rows, advance=advance)[0] for read in readers])
    joined = [join_members(loaded, members) for members in zip(*by_member, strict=True)]
    return [np.array([score.intensities for score in scores]) for scores in joined]


def hide_face(clip: PreparedClip, rng: np.random.Generator, share: float) -> PreparedClip:
    """Hide the face in ``share`` (in [0, 1], rounded to whole frames) of the sampled frames, in segments of 1
    s.

    With the same generator, a larger share hides all frames that a smaller one hides. Frames without a face
    count too.
    """
    times_s = np.array([sample.time_s for sample in clip.samples])  # (T,)
    segment = np.floor((times_s - clip.start_s) / HIDDEN_S + rng.random()).astype(
        int
    )  # (T,) index of the segment
    rank = rng.permutation(int(segment.max(initial=0)) + 1)[segment]  # (T,)
    hidden = set(np.argsort(rank, kind="stable")[: round(share * len(times_s))].tolist())
    samples = [
        FaceSample(sample.time_s, FrameState.NO_FACE) if index in hidden else sample
        for index, sample in enumerate(clip.samples)
    ]
    return replace(clip, samples=tuple(samples))


def add_noise(
    clip: PreparedClip, rng: np.random.Generator, snr_db: float, falloff_db: float = 0.0
) -> PreparedClip:
    """Add noise ``snr_db`` below the clip's speech, scaled down to avoid clipping; silent clips are
    unchanged.

    The noise's power per Hz falls by ``falloff_db`` per octave above :data:`ROOM_HZ`; 0: white noise.
    """
    if clip.waveform is None or not is_audible(clip.waveform):
        return clip
    noise = rng.standard_normal(len(clip.waveform))  # (S,)
    if falloff_db:
        octaves = np.log2(np.maximum(np.fft.rfftfreq(len(noise), 1 / SOUND_RATE_HZ), ROOM_HZ) / ROOM_HZ)
        noise = np.fft.irfft(np.fft.rfft(noise) * 10 ** (-falloff_db * octaves / 20), len(noise))
    noise *= np.sqrt(speech_power(clip.waveform) / 10 ** (snr_db / 10) / np.mean(noise**2))
    mixed = clip.waveform + noise
    return replace(clip, waveform=(mixed / max(1.0, np.abs(mixed).max())).astype(np.float32))


def speech_power(waveform: FloatArray) -> float:
    """Return the mean square of a (S,) waveform over its speech: 100 ms segments at most 22 dB below the
    loudest."""
    size = int(LEVEL_INTERVAL_S * SOUND_RATE_HZ)
    starts = np.arange(0, len(waveform), size)
    power = np.add.reduceat(np.square(waveform, dtype=np.float64), starts) / size
    return float(power[power >= power.max() / 10 ** (PAUSE_DB / 10)].mean())


def mute(clip: PreparedClip, rng: np.random.Generator) -> PreparedClip:
    """Remove the sound."""
    return replace(clip, waveform=None)


def shrink_faces(
    clip: PreparedClip, rng: np.random.Generator, side_px: int, detector: Detector
) -> PreparedClip:
    """Shrink face crops to ``side_px`` pixels per side, then detect and crop the face again; skip smaller
    crops.

    Shrunk crops are detected with their edges continued. A face that is not found any more is a frame without
    a face.
    """

    def shrink(sample: FaceSample) -> FaceSample:
        crop = decode_crop(sample.crop_jpeg or b"")
        if len(crop) <= side_px:
            return sample
        small = cv2.resize(crop, (side_px, side_px), interpolation=cv2.INTER_AREA)
        frame = np.asarray(
            cv2.copyMakeBorder(small, side_px, side_px, side_px, side_px, cv2.BORDER_REPLICATE), np.uint8
        )
        if not (faces := detector(frame)):
            return FaceSample(sample.time_s, FrameState.NO_FACE)
        crop_jpeg = encode_crop(crop_face(frame, faces[0], len(crop)))
        return replace(sample, box=faces[0].box, score=faces[0].score, crop_jpeg=crop_jpeg)

    samples = [shrink(sample) if sample.crop_jpeg else sample for sample in clip.samples]
    return replace(clip, samples=tuple(samples))


def thin_frames(clip: PreparedClip, rng: np.random.Generator, step: int) -> PreparedClip:
    """Keep every ``step``-th sampled frame, from the first one on."""
    return replace(clip, samples=clip.samples[::step])
