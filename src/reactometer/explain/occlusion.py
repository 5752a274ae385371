"""Explain a prediction by occlusion: hide a modality, some seconds or a square of the face, and predict again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from reactometer.data.inputs import Item, to_item
from reactometer.errors import ConfigError, MediaError
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.elan_vtt import MIN_VISIBLE
from reactometer.inference.postprocess import parse_span
from reactometer.inference.predictor import DEFAULT_WINDOW_S, PredictOptions, Predictor
from reactometer.inference.runtime import Networks
from reactometer.inference.scores import MODALITIES, average_scores
from reactometer.inference.scoring import score_items
from reactometer.media.faces import face_region
from reactometer.media.segments import MAX_SEGMENT, MIN_NEW_CONTENT_S, WindowSpec, slice_clip
from reactometer.paths import STARTER
from reactometer.terminal import progress_bar
from reactometer.types import ByteArray, FloatArray, Prediction, PreparedClip

STRETCH_SHARE, MIN_STRETCH_S, MAX_STRETCH_S = 0.1, 0.5, 1.0
"""Hide a tenth of the clip at a time, between half a second and one second, overlapping by half; chosen by eye."""

WINDOW_SHARE, MIN_WINDOW_S = 0.2, 0.5
"""Length of the timeline's windows: a fifth of the clip, between half a second and the default of predict."""

MIN_CHANGE = 0.005
"""Smaller changes are reported as no change."""

MAX_STRONGEST = 3
"""Number of reported emotions; the second and third must be as strong as those in subtitles."""

N_CELLS, SQUARE_CELLS = 8, 2
"""Side of the face map, and side of the square that slides over it, in cells; chosen by eye."""

N_SQUARES = (N_CELLS - SQUARE_CELLS + 1) ** 2

MAX_MAP_FRAMES = 16
"""Frames that the face map is computed on, evenly spaced; it correlates by 0.99 with the map of all frames."""

Span = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Attribution:
    """How each emotion of a clip changes when a part of the input is hidden.

    Each change is the intensity of the whole clip minus the intensity without the part. A positive change means that
    the part raised the emotion. NaN means that there was nothing to hide: no face, or no sound that the model uses.
    Times are seconds from the beginning of the file.
    """

    prediction: Prediction  # of the clip, with a timeline
    start_s: float
    end_s: float
    modalities: Mapping[str, FloatArray]  # "face", "voice" -> (L,) changes; empty if the model uses only one of them
    spans: tuple[Span, ...]  # K hidden stretches of time
    stretches: Mapping[str, FloatArray]  # "face", "voice" -> (K, L) changes
    frame_times_s: FloatArray  # (T,) of the model's input frames that show the face
    pictures: ByteArray  # (T, 3, H, W) uint8 RGB, the same frames
    face_map: FloatArray | None  # (L, N_CELLS, N_CELLS) changes, rows from the top of the model's input
    crop_share: float = 1.0  # share of the prepared crop's side that the model uses, in its middle

    def strongest(self) -> list[int]:
        """Return the indices of at most ``MAX_STRONGEST`` labels to report, strongest first."""
        values = np.array(self.prediction.intensities)  # (L,)
        first, *others = np.argsort(-values, kind="stable")[:MAX_STRONGEST].tolist()
        return [first, *(label for label in others if values[label] >= MIN_VISIBLE)]

    def peak(self, label: int) -> tuple[str, float] | None:
        """Return the part of the face with the largest change of an emotion, and the change; ``None`` without a map."""
        if self.face_map is None:
            return None
        row, column = np.unravel_index(np.abs(self.face_map[label]).argmax(), self.face_map[label].shape)
        x, y = (0.5 + ((float(cell) + 0.5) / N_CELLS - 0.5) * self.crop_share for cell in (column, row))
        change = float(self.face_map[label, row, column])
        return face_region(x, y) if abs(change) >= MIN_CHANGE else "no part by itself", change


def explain(
    video: Path | str,
    model: LoadedModel | Path | str = STARTER,
    *,
    span: str | None = None,
    face_map: bool = True,
    progress: bool = True,
) -> Attribution:
    """Measure how each emotion changes when a modality, some seconds, or a part of the face is hidden.

    The result describes what the model used, not what the person felt. Changes do not add up to the intensity: if two
    moments, or face and voice, show the same, hiding one of them changes little.

    Args:
        video: a video or sound file.
        model: a checkpoint, or a loaded model; default: the starter model inside the package.
        span: the seconds to explain, such as "10-20s"; default: the whole file, of at most a minute.
        face_map: hide parts of the face too.
        progress: show a progress bar on standard error.

    Raises:
        ConfigError: the span is invalid, or the file is longer than a minute and no span is given.
        MediaError: the file cannot be read, or contains neither a face nor a voice that the model uses.
        ModelError: the model does not exist, is damaged, or takes features instead of media.
    """
    asked = _parse_span(span)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    clip = _read(str(video), loaded, asked)
    prediction = _predict(str(video), loaded, clip)
    if prediction.status != "ok":
        raise MediaError(f"{video}: nothing to explain: {prediction.status}", fix="Choose another file or span")
    inputs = [_Input(member.networks, to_item(clip, member.sampling)) for member in loaded.members]
    found = [name for name in MODALITIES if _Hidden(name).found_in(inputs[0])]
    length_s = min(max(STRETCH_SHARE * clip.duration_s, MIN_STRETCH_S), MAX_STRETCH_S)
    spans = _spans(0.0, clip.duration_s, WindowSpec(length_s, length_s / 2))
    hidden = [*(_Hidden(name) for name in found), *(_Hidden(name, *own) for name in found for own in spans)]
    maps = face_map and "face" in found
    n_scores = 1 + len(hidden) + maps * (1 + N_SQUARES)
    with progress_bar("explaining", n_scores * len(inputs), progress) as advance:
        changes = _changes(loaded, inputs, lambda own: own.features, hidden, advance)
        squares = map_face(loaded, inputs, advance) if maps else None
    has_content = np.array([part.found_in(inputs[0]) for part in hidden])
    whole, of_spans = np.split(np.where(has_content[:, None], changes, np.float32(np.nan)), [len(found)])
    seen = inputs[0].media.face_mask
    return Attribution(
        prediction=prediction,
        start_s=clip.start_s,
        end_s=clip.end_s,
        modalities=dict(zip(found, whole, strict=True)) if len(found) > 1 else {},
        spans=tuple((clip.start_s + begin_s, clip.start_s + end_s) for begin_s, end_s in spans),
        stretches=dict(zip(found, of_spans.reshape(len(found), len(spans), -1), strict=True)),
        frame_times_s=clip.start_s + inputs[0].media.times_s[seen],
        pictures=inputs[0].media.frames[seen],
        face_map=squares,
        crop_share=loaded.sampling.crop_share,
    )


def _parse_span(text: str | None) -> Span | None:
    if text is None:
        return None
    span = parse_span(text)
    if span is None or not 0.0 < span[1] - span[0] <= MAX_SEGMENT.length_s:
        longest = f"seconds such as 10-20s, at most {MAX_SEGMENT.length_s:.0f} s long"
        raise ConfigError("invalid span to explain", got=f"'{text}'", expected=longest)
    return span


def _read(path: str, model: LoadedModel, span: Span | None) -> PreparedClip:
    """Read a span of a file, or the whole file, exactly as predict decodes it."""
    start_s, end_s = span or (0.0, math.inf)
    parts: list[PreparedClip] = []
    known_s = 0.0
    for _, part in Predictor(model, PredictOptions(timeline=False)).read(Path(path), isolated=False):
        if span is None and parts:
            problem = f"{path}: longer than the {MAX_SEGMENT.length_s:.0f} s that can be explained at once"
            raise ConfigError(problem, fix="Name a part of it with --span, such as --span 10-20s")
        known_s = part.end_s
        parts += [part] if start_s < known_s else []
        if end_s <= known_s:
            break
    if not parts:
        within = f"within 0 to {known_s:.2f} s"
        raise ConfigError(f"{path}: the span is not in the file", got=f"{start_s:g} to {end_s:g} s", expected=within)
    samples = tuple(sample for part in parts for sample in part.samples)
    sounds = [part.waveform for part in parts if part.waveform is not None]
    waveform = np.concatenate(sounds) if sounds else None
    clip = replace(parts[-1], start_s=parts[0].start_s, samples=samples, waveform=waveform)
    return slice_clip(clip, start_s, min(end_s, known_s)) if span else clip


def _predict(path: str, model: LoadedModel, clip: PreparedClip) -> Prediction:
    """Predict the clip, and windows of it, as predict does."""
    window_s = min(max(WINDOW_SHARE * clip.duration_s, MIN_WINDOW_S), DEFAULT_WINDOW_S)
    shape = WindowSpec(window_s, window_s / 2)
    windows = [
        (MAX_SEGMENT, clip),
        *((shape, slice_clip(clip, *own)) for own in _spans(clip.start_s, clip.end_s, shape)),
    ]
    options = PredictOptions(shape.length_s, shape.hop_s)
    (prediction,) = Predictor(model, options).predict_segments(path, windows)
    return prediction


def _spans(start_s: float, end_s: float, shape: WindowSpec) -> tuple[Span, ...]:
    """Return overlapping windows that cover a span."""
    count = 1 + max(0, math.ceil((end_s - start_s - MIN_NEW_CONTENT_S - shape.length_s) / shape.hop_s))
    starts = [start_s + number * shape.hop_s for number in range(count)]
    return tuple((begin_s, min(begin_s + shape.length_s, end_s)) for begin_s in starts)


class _Input:
    """The input that one network gets of the clip, encoded once."""

    def __init__(self, networks: Networks, media: Item) -> None:
        self.networks, self.media = networks, media
        self.features = networks.encode(media)

    def encode_face(self, media: Item) -> Item:
        """Encode other pictures; the features of the voice stay."""
        voice, voice_times_s = self.features.voice, self.features.voice_times_s
        return replace(self.networks.encode_face(media), voice=voice, voice_times_s=voice_times_s)


_Change = Callable[[_Input], Item]
"""Return the features of a changed input."""


@dataclass(frozen=True)
class _Hidden:
    """Hide the frames or the sound of [start_s, end_s), seconds from the clip's beginning."""

    modality: str  # "face" or "voice"
    start_s: float = -math.inf
    end_s: float = math.inf

    def __call__(self, own: _Input) -> Item:
        """Remove the hidden steps from the features; a clip encoder encodes the remaining frames again."""
        if self.modality == "voice":
            kept = ~self._within(own.features.voice_times_s)
            voice, times_s = own.features.voice[kept], own.features.voice_times_s[kept]
            return replace(own.features, voice=voice, voice_times_s=times_s)
        if own.networks.face and own.networks.face.kind == "clips":
            return own.encode_face(replace(own.media, face_mask=own.media.face_mask & ~self._within(own.media.times_s)))
        return replace(own.features, face_mask=own.features.face_mask & ~self._within(own.features.times_s))

    def found_in(self, own: _Input) -> bool:
        """Return whether there is something to hide: a visible face, or sound that the model uses."""
        if self.modality == "voice":
            return bool(self._within(own.features.voice_times_s).any())
        return bool((own.media.face_mask & self._within(own.media.times_s)).any())

    def _within(self, times_s: FloatArray) -> np.ndarray:
        return (times_s >= self.start_s) & (times_s < self.end_s)


def _changes(
    model: LoadedModel,
    inputs: Sequence[_Input],
    whole: _Change,
    hidden: Sequence[_Change],
    advance: Callable[[], None],
) -> FloatArray:
    """Return (K, L): the intensities of the whole clip, minus those with each of K parts hidden."""

    def items(own: _Input) -> Iterator[Item]:
        for number, change in enumerate([whole, *hidden]):
            yield replace(change(own), clip_index=number)
            advance()

    scores = average_scores([list(score_items(own.networks, items(own))) for own in inputs])
    values = np.array([model.intensities_of(score) for score in scores])  # (1 + K, L)
    return np.asarray(values[0] - values[1:], np.float32)


def map_face(model: LoadedModel, inputs: Sequence[_Input], advance: Callable[[], None]) -> FloatArray:
    """Return (L, N_CELLS, N_CELLS): the change of each emotion when a part of the face is hidden in all frames.

    A square in each frame's mean colour slides over the model's input, cell by cell; a cell gets the mean change of the
    squares that cover it. Source: Zeiler & Fergus, arXiv 1311.2901. Integrated gradients and Grad-CAM were worse.
    """
    covers = np.zeros((N_SQUARES, N_CELLS, N_CELLS), dtype=bool)  # True: hidden
    for cover, (row, column) in zip(covers, np.ndindex((N_CELLS - SQUARE_CELLS + 1,) * 2), strict=True):
        cover[row : row + SQUARE_CELLS, column : column + SQUARE_CELLS] = True
    hide = [partial(_hide_cells, hidden=cover) for cover in covers]
    changes = _changes(model, inputs, partial(_hide_cells, hidden=np.zeros_like(covers[0])), hide, advance)
    sums = np.einsum("sl,sij->lij", changes, covers)
    return np.asarray(sums / covers.sum(axis=0), np.float32)


def _hide_cells(own: _Input, hidden: np.ndarray) -> Item:
    """Encode at most ``MAX_MAP_FRAMES`` frames, the hidden cells (N_CELLS, N_CELLS) in each frame's mean colour."""
    media = own.media
    visible = np.flatnonzero(media.face_mask)
    if len(visible) > MAX_MAP_FRAMES:
        middles = (np.arange(MAX_MAP_FRAMES) + 0.5) * len(visible) / MAX_MAP_FRAMES
        visible = visible[middles.astype(int)]
    seen = np.zeros_like(media.face_mask)
    seen[visible] = True
    cells = np.arange(media.frames.shape[-1]) * N_CELLS // media.frames.shape[-1]  # (H,): the cell of each pixel
    mean = media.frames.mean(axis=(2, 3), keepdims=True).astype(np.uint8)  # (T, 3, 1, 1)
    frames = np.where(hidden[np.ix_(cells, cells)], mean, media.frames)
    return own.encode_face(replace(media, face_mask=seen, frames=frames))
