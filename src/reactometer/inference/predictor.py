"""Files never seen before -> intensities, per file and over time, streamed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from reactometer.config import PrepareConfig, parse_config
from reactometer.console import progress_bar
from reactometer.data.batches import to_item
from reactometer.data.prepare import settled
from reactometer.errors import ConfigError, MediaError
from reactometer.media.audio import is_audible
from reactometer.media.faces import load_detector
from reactometer.media.stream import PART, WindowShape, stream_windows
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.scoring import Score, join_parts, score_items
from reactometer.records import Prediction, PreparedClip, Window

DEFAULT_WINDOW_S, DEFAULT_HOP_S = 2.0, 1.0
"""Length of the timeline's windows and the time from one to the next, seconds; our choice."""


def predict(
    videos: Sequence[Path | str],
    model: LoadedModel | Path | str,
    *,
    window_s: float = DEFAULT_WINDOW_S,
    hop_s: float = DEFAULT_HOP_S,
    rate_hz: float | None = None,
    timeline: bool = True,
    progress: bool = True,
) -> list[Prediction]:
    """Estimate intensities of video (or sound) files, each as a whole and in windows over time.

    A file that cannot be read gets its reason as its status; the others go on. Memory does not grow with the length
    of a file: one longer than a minute is scored in parts of a minute, and its intensities are their mean by length.

    Args:
        videos: paths.
        model: a model folder, or one loaded already.
        window_s: length of the timeline's windows, seconds.
        hop_s: time from one window's start to the next one's, seconds.
        rate_hz: frames looked at per second; default: as in the model's training.
        timeline: score the windows too, not the files alone.
        progress: show a bar on standard error.

    Returns:
        One prediction a file, in the order given.

    Raises:
        ConfigError: a window, hop or rate that is not positive, or too large.
        ModelError: no such model, or a damaged one.
    """
    if not 0 < hop_s <= window_s <= PART.length_s:
        raise ConfigError(
            "window and hop do not fit",
            got=f"window {window_s} s, hop {hop_s} s",
            expected=f"0 < hop <= window <= {PART.length_s:.0f} s",
        )
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    own = {} if rate_hz is None else {"rate_hz": rate_hz}
    settings = settled(parse_config({"prepare": {**loaded.prepare.model_dump(), **own}}, "predict").prepare)
    shapes = [PART, WindowShape(window_s, hop_s)] if timeline else [PART]
    predictions = []
    with progress_bar("predicting", len(videos), progress) as advance:
        for video in videos:
            predictions.append(_predict_file(loaded, str(video), settings, shapes))
            advance()
    return predictions


def _predict_file(model: LoadedModel, path: str, settings: PrepareConfig, shapes: Sequence[WindowShape]) -> Prediction:
    try:
        return _score_file(model, path, settings, shapes)
    except (MediaError, cv2.error, MemoryError) as error:
        return Prediction(path, f"failed: {' '.join(str(error).split()) or type(error).__name__}", model.labels)


def _score_file(model: LoadedModel, path: str, settings: PrepareConfig, shapes: Sequence[WindowShape]) -> Prediction:
    """Read once, cut parts and windows on the way, and score them as they come."""
    cut: list[tuple[WindowShape, PreparedClip]] = []  # without crops and sound, so that it stays small
    has_sound = False

    def items() -> Iterable[PreparedClip]:
        nonlocal has_sound
        for kind, clip in stream_windows(Path(path), settings, load_detector(settings.detector), shapes):
            has_sound = has_sound or (kind == PART and is_audible(clip.waveform))
            cut.append((kind, _without_media(clip)))
            yield clip

    shown = (to_item(clip, model.sampling, number=place) for place, clip in enumerate(items()))
    scores = sorted(score_items(model.network, shown), key=lambda score: score.number)
    parts = [(clip, score) for (kind, clip), score in zip(cut, scores, strict=True) if kind == PART]
    windows = [(clip, score) for (kind, clip), score in zip(cut, scores, strict=True) if kind in shapes[1:]]
    whole = join_parts(0, [(clip.duration_s, score) for clip, score in parts])
    samples = tuple(sample for clip, _ in parts for sample in clip.samples)
    return Prediction(
        path=path,
        status=_status(whole, has_sound, model.network.listens),
        labels=model.labels,
        duration_s=parts[-1][0].end_s,
        face_share=replace(parts[0][0], samples=samples).face_share,
        has_sound=has_sound,
        intensities=_known(whole),
        windows=tuple(Window(clip.start_s, clip.end_s, clip.face_share, _known(score)) for clip, score in windows),
        samples=samples,
        frames_read=parts[-1][0].frames_read,
    )


def _without_media(clip: PreparedClip) -> PreparedClip:
    return replace(clip, samples=tuple(replace(sample, crop_jpeg=None) for sample in clip.samples), waveform=None)


def _known(score: Score) -> tuple[float, ...] | None:
    return tuple(float(value) for value in score.intensities) if score.has_evidence else None


def _status(whole: Score, has_sound: bool, listens: bool) -> str:
    if whole.has_evidence:
        return "ok"
    return "no face or sound" if listens and not has_sound else "no face"
