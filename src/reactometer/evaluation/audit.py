"""A data set -> what a score on it is worth: leaks between its splits, what gives labels away, what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from reactometer.config import DataConfig, PrepareConfig
from reactometer.data.cache import PreparedRow, PreparedSet, load_clip
from reactometer.data.leakage import LabelVectors, Leak, find_label_vectors, find_same_files, find_shared
from reactometer.data.prepare import open_data
from reactometer.data.splits import SPLITS
from reactometer.evaluation.baselines import cue_baseline
from reactometer.evaluation.bootstrap import Interval, bootstrap_mean_pearson, choose_units
from reactometer.evaluation.metrics import LEAST_CLIPS, LEAST_SPREAD, Array
from reactometer.io import write_whole
from reactometer.media.audio import is_audible
from reactometer.media.faces import decode_crop
from reactometer.terminal import progress_bar

N_CROPS, SIDE_PX = 8, 12
"""Crops per clip that brightness is measured on, evenly spread, and the side they are shrunk to."""


@dataclass(frozen=True)
class SplitFacts:
    """What one split holds, and its labels, (L,) each."""

    n_clips: int
    n_labelled: int
    n_failed: int
    n_without_face: int
    n_without_sound: int
    face_share: float  # of the sampled frames
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    drift: tuple[float, ...]  # mean less that of train, in standard deviations of train


@dataclass(frozen=True)
class Audit:
    """All that was found; ``leaks`` make a score untrustworthy."""

    labels: tuple[str, ...]
    splits: dict[str, SplitFacts]
    leaks: tuple[Leak, ...]
    n_equal_files_within: int  # pairs of clips of one split whose files are equal
    vectors: LabelVectors
    cues: dict[str, Interval]  # mean Pearson of what one number a clip tells, fitted on train
    cue_split: str  # what the cues were scored on
    cue_unit: str  # what their intervals resample
    correlations: tuple[tuple[str, str, float], ...]  # of labels over all clips, strongest first
    unseen: tuple[str, ...]  # what could not be looked at, in words


def audit(
    data: Path | str,
    *,
    cache: Path | str | None = None,
    labels: str | Sequence[str] | None = None,
    face_features: str | None = None,
    voice_features: str | None = None,
    out: Path | str | None = None,
    progress: bool = True,
) -> Audit:
    """Look for leaks between splits, for what gives labels away without a face or voice, and for what is missing.

    Args:
        data: a data set, prepared here if need be, or a folder prepared before.
        cache: where prepared clips are kept; default: the user's cache folder.
        labels: a label set's name or label columns; ``None`` finds them.
        face_features, voice_features: of a data set of features, as ``data.face_features`` of a configuration.
        out: a JSON file to write.
        progress: show bars on standard error.

    Raises:
        DataError: the data set cannot be used.
    """
    config = DataConfig.model_validate(
        {
            "path": data,
            "cache": cache,
            "labels": labels,
            "face_features": face_features,
            "voice_features": voice_features,
        }
    )
    prepared = open_data(config, PrepareConfig(), progress=progress)
    rows, of_media = prepared.rows, prepared.feature_sizes is None
    clips = [row.clip for row in rows]
    vectors, leaks = find_label_vectors(clips)
    leaks = [leak for kind in ("person", "stimulus") for leak in find_shared(clips, kind)] + leaks
    equal_files, n_equal_within = find_same_files(clips) if of_media else ([], 0)
    cues, cue_split, unit = _cues(prepared, _measure_media(rows, progress) if of_media else {})
    found = Audit(
        labels=prepared.labels,
        splits={split: _facts(prepared, split) for split in SPLITS if prepared.split(split)},
        leaks=(*leaks, *equal_files),
        n_equal_files_within=n_equal_within,
        vectors=vectors,
        cues=cues,
        cue_split=cue_split,
        cue_unit=unit,
        correlations=_correlations(prepared),
        unseen=_unseen(prepared),
    )
    if out is not None:
        write_whole(Path(out), json.dumps(asdict(found), indent=2) + "\n")
    return found


def _measure_media(rows: Sequence[PreparedRow], progress: bool) -> dict[str, list[float]]:
    """Return each clip's sound level in dB relative to full scale, and mean grey level of its crops in [0, 1].

    NaN if the clip has no sound or no face.
    """
    levels_db, brightness = [], []
    with progress_bar("looking", len(rows), progress) as advance:
        for row in rows:
            clip = load_clip(row) if row.file else None
            sound = clip.waveform if clip and is_audible(clip.waveform) else None
            power = np.nan if sound is None else np.mean(np.square(sound, dtype=np.float64))
            levels_db.append(float(20.0 * np.log10(np.sqrt(power))))
            crops = [sample.crop_jpeg for sample in clip.samples if sample.crop_jpeg] if clip else []
            brightness.append(_brightness(crops))
            advance()
    return {"sound level": levels_db, "brightness": brightness}


def _brightness(crops: Sequence[bytes]) -> float:
    if not crops:
        return float("nan")
    chosen = [decode_crop(crops[round(place)]) for place in np.linspace(0, len(crops) - 1, N_CROPS)]
    grey = [cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in chosen]
    small = [cv2.resize(image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) for image in grey]
    return float(np.asarray(small, dtype=np.float32).mean()) / 255.0


def _cues(prepared: PreparedSet, of_media: Mapping[str, list[float]]) -> tuple[dict[str, Interval], str, str]:
    """What length, loudness and brightness alone score; on val, or on test where val has no labels."""
    nan = float("nan")
    numbers = {"clip length": [row.duration_s if row.duration_s > 0 else nan for row in prepared.rows], **of_media}
    places = {
        split: [place for place, row in enumerate(prepared.rows) if row.clip.split == split and row.clip.labels]
        for split in SPLITS
    }
    split = "val" if len(places["val"]) >= LEAST_CLIPS else "test"
    train, scored = places["train"], places[split]
    targets = {
        name: np.array([prepared.rows[place].clip.labels for place in places[name]]) for name in ("train", split)
    }
    unit, groups = choose_units([prepared.rows[place].clip for place in scored])
    if (
        len(train) < LEAST_CLIPS
        or len(scored) < LEAST_CLIPS
        or not (np.ptp(targets[split], axis=0) > LEAST_SPREAD).any()
    ):
        return {}, split, unit
    cues = {}
    for name, values in numbers.items():
        known = np.array(values)
        if np.isfinite(known[train]).any():
            guess = cue_baseline(known[train], targets["train"], known[scored])
            cues[name] = bootstrap_mean_pearson(targets[split], guess, groups=groups)
    return cues, split, unit


def _facts(prepared: PreparedSet, split: str) -> SplitFacts:
    rows, values = prepared.split(split), _values(prepared, split)  # (clips, L)
    train, sampled = _values(prepared, "train"), sum(row.n_samples for row in rows)
    drift: tuple[float, ...] = ()
    if len(values) and len(train):
        spread = train.std(axis=0)
        drift = tuple(
            ((values.mean(axis=0) - train.mean(axis=0)) / np.where(spread > LEAST_SPREAD, spread, 1.0)).tolist()
        )
    return SplitFacts(
        n_clips=len(rows),
        n_labelled=len(values),
        n_failed=sum(row.file is None for row in rows),
        n_without_face=sum(row.file is not None and row.n_faces == 0 for row in rows),
        n_without_sound=sum(row.file is not None and not row.has_sound for row in rows),
        face_share=sum(row.n_faces for row in rows) / sampled if sampled else 0.0,
        mean=_by_label(values, "mean"),
        std=_by_label(values, "std"),
        low=_by_label(values, "min"),
        high=_by_label(values, "max"),
        drift=drift,
    )


def _values(prepared: PreparedSet, split: str) -> Array:
    values = [row.clip.labels for row in prepared.split(split) if row.clip.labels]
    return np.array(values, dtype=np.float64).reshape(len(values), len(prepared.labels))


def _by_label(values: Array, what: str) -> tuple[float, ...]:
    return tuple(getattr(values, what)(axis=0).tolist()) if len(values) else ()


def _correlations(prepared: PreparedSet) -> tuple[tuple[str, str, float], ...]:
    values = _values(prepared, "all")
    varied = [place for place in range(values.shape[1]) if len(values) and np.ptp(values[:, place]) > LEAST_SPREAD]
    if len(varied) < 2:
        return ()
    r = np.atleast_2d(np.corrcoef(values[:, varied].T))  # (varied, varied)
    names = [prepared.labels[place] for place in varied]
    pairs = [(names[one], names[other], float(r[one, other])) for one, other in combinations(range(len(names)), 2)]
    return tuple(sorted(pairs, key=lambda pair: -abs(pair[2])))


def _unseen(prepared: PreparedSet) -> tuple[str, ...]:
    """What an auditor would want to know and the data do not say."""
    told, n_clips = [], len(prepared.rows)
    for kind in ("person", "stimulus"):
        n_unknown = sum(getattr(row.clip, kind) is None for row in prepared.rows)
        if n_unknown:
            told.append(f"{kind} unknown for {n_unknown} of {n_clips} clips: whether splits share one cannot be seen")
    if prepared.feature_sizes is not None:
        told.append("features instead of media: no files, pictures or sound to compare; no loudness, no brightness")
    n_failed = sum(row.file is None for row in prepared.rows)
    if n_failed:
        told.append(f"{n_failed} clips could not be read")
    n_withheld = sum(row.clip.labels is None for row in prepared.rows)
    if n_withheld:
        told.append(f"{n_withheld} clips have no labels")
    return tuple(told)
