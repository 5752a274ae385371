"""Explain a prediction by occlusion: hide a modality, some seconds or a square of the face, and predict
again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from reactometer.data.cache import MEDIA
from reactometer.data.inputs import Item, Steps, to_item
from reactometer.errors import ConfigError, MediaError
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.elan_vtt import MIN_VISIBLE
from reactometer.inference.postprocess import parse_span
from reactometer.inference.prediction import Prediction
from reactometer.inference.predictor import DEFAULT_WINDOW_S, PredictOptions, Predictor
from reactometer.inference.runtime import spread_indices
from reactometer.inference.scores import average_scores
from reactometer.inference.scoring import score_items
from reactometer.media.faces import face_region
from reactometer.media.segments import MAX_SEGMENT, MIN_NEW_CONTENT_S, WindowSpec, slice_clip
from reactometer.paths import STARTER
from reactometer.terminal import progress_bar
from reactometer.types import ByteArray, FloatArray, PreparedClip

HIDDEN_RATIO, MIN_HIDDEN_S, MAX_HIDDEN_S = 0.1, 0.5, 1.0
"""Hide a tenth of the clip at a time, between half a second and one second, overlapping by half."""

WINDOW_RATIO, MIN_WINDOW_S = 0.2, 0.5
"""Length of the timeline's windows: a fifth of the clip, between half a second and the default of predict."""

MIN_CHANGE = 0.005
"""Smaller changes are reported as no change."""

MAX_STRONGEST = 3
"""Maximum number of reported emotions; all but the first need the minimum intensity of subtitles."""

N_CELLS, SQUARE_CELLS = 8, 2
"""Side of the face map, and side of the square that slides over it, in cells."""

N_SQUARES = (N_CELLS - SQUARE_CELLS + 1) ** 2

MAX_MAP_FRAMES = 16
"""Maximum number of evenly spaced frames for the face map, which correlates by 0.99 with the map of all
frames."""

Span = tuple[float, float]


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """Changes of each emotion of a clip when a part of the input is hidden.

    Each change is the intensity of the whole clip minus the intensity without the part. A positive change
    means that the part raised the emotion. NaN means that there is nothing to hide: no face, or no sound that
    the model uses. Times are seconds from the beginning of the file.
    """

    prediction: Prediction  # of the clip, with a timeline
    start_s: float
    end_s: float
    modalities: Mapping[
        str, FloatArray
    ]  # "face", "voice" -> (L,) changes; empty if the model uses only one of them
    spans: tuple[Span, ...]  # start and end of the K hidden spans, seconds
    windows: Mapping[str, FloatArray]  # "face", "voice" -> (K, L) changes
    frame_times_s: FloatArray  # (T,) of the model's input frames that show the face
    faces: ByteArray  # (T, 3, H, W) uint8 RGB, the same frames
    face_map: FloatArray | None  # (L, N_CELLS, N_CELLS) changes, rows from the top of the model's input
    crop_share: float = 1.0  # share of the prepared crop's side that the model uses, in its middle

    def __repr__(self) -> str:
        labels = ", ".join(self.prediction.labels[index] for index in self.strongest())
        return f"Attribution({self.prediction.path!r}, {self.start_s:.1f} to {self.end_s:.1f} s: {labels})"

    def strongest(self) -> list[int]:
        """Return the indices of at most ``MAX_STRONGEST`` labels to report, the strongest first."""
        values = np.array(self.prediction.intensities)  # (L,)
        first, *others = np.argsort(-values, kind="stable")[:MAX_STRONGEST].tolist()
        return [first, *(label for label in others if values[label] >= MIN_VISIBLE)]

    def peak(self, label: int) -> tuple[str, float] | None:
        """Return the part of the face with the largest change of an emotion, and the change; ``None`` without
        a map."""
        if self.face_map is None:
            return None
        row, column = np.unravel_index(np.abs(self.face_map[label]).argmax(), self.face_map[label].shape)
        x, y = (0.5 + ((float(cell) + 0.5) / N_CELLS - 0.5) * self.crop_share for cell in (column, row))
        change = float(self.face_map[label, row, column])
        return face_region(x, y) if abs(change) >= MIN_CHANGE else "no single part", change


def explain(
    video: Path | str,
    model: LoadedModel | Path | str = STARTER,
    *,
    span: str | None = None,
    face_map: bool = True,
    progress: bool = True,
) -> Attribution:
    """Measure how each emotion changes when a modality, some seconds, or a part of the face is hidden.

    The result describes what the model used, not what the person felt. Changes do not add up to the
    intensity: if two moments, or face and voice, express the same emotion, hiding one of them changes little.

    Args:
        video: a video or sound file.
        model: a checkpoint, or a loaded model; default: the starter model.
        span: the seconds to explain, such as "10-20s"; default: the whole file, of at most a minute.
        face_map: hide parts of the face too.
        progress: show a progress bar on standard error.

    Raises:
        ConfigError: the span is invalid, or the file is longer than a minute and no span is given.
        MediaError: the file cannot be read, or contains neither a face nor a voice that the model uses.
        ModelError: the model does not exist, is damaged, or takes features instead of media.
    """
    bounds = _parse_bounds(span)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    clip = _read(str(video), loaded, bounds)
    prediction = _predict(str(video), loaded, clip)
    if prediction.status != "ok":
        raise MediaError(
            f"{video}: nothing to explain: {prediction.status}", fix="Choose another file or span"
        )
    inputs = [_EncodedInput(member, to_item(clip, member.sampling)) for member in loaded.members]
    available = [name for name in MEDIA if any(_Mask(name).applies_to(encoded) for encoded in inputs)]
    length_s = min(max(HIDDEN_RATIO * clip.duration_s, MIN_HIDDEN_S), MAX_HIDDEN_S)
    spans = _sliding_windows(0.0, clip.duration_s, WindowSpec(length_s, length_s / 2))
    masks = [_Mask(name) for name in available]
    masks += [_Mask(name, *hidden) for name in available for hidden in spans]
    has_map = face_map and "face" in available
    n_scores = 1 + len(masks) + has_map * (1 + N_SQUARES)
    with progress_bar("explaining", n_scores * len(inputs), progress) as advance:
        changes = _intensity_changes(loaded, inputs, [_Mask("voice", 0.0, 0.0), *masks], advance)
        face_changes = map_face(loaded, inputs, advance) if has_map else None
    has_content = np.array([any(map(mask.applies_to, inputs)) for mask in masks])
    changes = np.where(has_content[:, None], changes, np.float32(np.nan))
    by_modality, by_window = np.split(changes, [len(available)])
    no_face = Steps(np.zeros((0, 3, 0, 0), np.uint8), np.zeros(0, bool), np.zeros(0, np.float32))
    face = next((encoded.face for encoded in inputs if encoded.face), no_face)
    return Attribution(
        prediction=prediction,
        start_s=clip.start_s,
        end_s=clip.end_s,
        modalities=dict(zip(available, by_modality, strict=True)) if len(available) > 1 else {},
        spans=tuple((clip.start_s + begin_s, clip.start_s + end_s) for begin_s, end_s in spans),
        windows=dict(zip(available, by_window.reshape(len(available), len(spans), -1), strict=True)),
        frame_times_s=clip.start_s + face.times_s[face.mask],
        faces=face.visible,
        face_map=face_changes,
        crop_share=loaded.sampling.crop_share,
    )


def _parse_bounds(text: str | None) -> Span | None:
    if text is None:
        return None
    span = parse_span(text)
    if span is None or not 0.0 < span[1] - span[0] <= MAX_SEGMENT.length_s:
        expected = f"seconds such as 10-20s, at most {MAX_SEGMENT.length_s:.0f} s long"
        raise ConfigError("invalid span to explain", got=f"'{text}'", expected=expected)
    return span


def _read(path: str, model: LoadedModel, span: Span | None) -> PreparedClip:
    """Read a span of a file, or the whole file, exactly as predict decodes it."""
    start_s, end_s = span or (0.0, math.inf)
    parts: list[PreparedClip] = []
    read_s = 0.0
    for _, part in Predictor(model, PredictOptions(timeline=False)).read(Path(path), isolated=False):
        if span is None and parts:
            problem = f"{path}: longer than the {MAX_SEGMENT.length_s:.0f} s that can be explained in one run"
            raise ConfigError(problem, fix="Select a part with --span, such as --span 10-20s")
        read_s = part.end_s
        if start_s < read_s:
            parts.append(part)
        if end_s <= read_s:
            break
    if not parts:
        within = f"0 to {read_s:.2f} s"
        raise ConfigError(
            f"{path}: the span is not in the file", got=f"{start_s:g} to {end_s:g} s", expected=within
        )
    samples = tuple(sample for part in parts for sample in part.samples)
    sounds = [part.waveform for part in parts if part.waveform is not None]
    waveform = np.concatenate(sounds) if sounds else None
    clip = replace(parts[-1], start_s=parts[0].start_s, samples=samples, waveform=waveform)
    return slice_clip(clip, start_s, min(end_s, read_s)) if span else clip


def _predict(path: str, model: LoadedModel, clip: PreparedClip) -> Prediction:
    """Predict the clip and its windows with the settings of ``predict``."""
    window_s = min(max(WINDOW_RATIO * clip.duration_s, MIN_WINDOW_S), DEFAULT_WINDOW_S)
    spec = WindowSpec(window_s, window_s / 2)
    segments = [
        (MAX_SEGMENT, clip),
        *((spec, slice_clip(clip, *window)) for window in _sliding_windows(clip.start_s, clip.end_s, spec)),
    ]
    options = PredictOptions(spec.length_s, spec.hop_s)
    (prediction,) = Predictor(model, options).predict_segments(path, segments)
    return prediction


def _sliding_windows(start_s: float, end_s: float, spec: WindowSpec) -> tuple[Span, ...]:
    """Return the bounds of overlapping windows that cover [start_s, end_s]."""
    count = 1 + max(0, math.ceil((end_s - start_s - MIN_NEW_CONTENT_S - spec.length_s) / spec.hop_s))
    starts = [start_s + number * spec.hop_s for number in range(count)]
    return tuple((begin_s, min(begin_s + spec.length_s, end_s)) for begin_s in starts)


class _EncodedInput:
    """Input of one network, encoded once."""

    def __init__(self, model: LoadedModel, media: Item) -> None:
        self.networks, self.features = model.networks, model.encode(media)
        self.face = media.streams["face"] if self.features.has("face") else None  # images, if they are used

    def encode_face(self, face: Steps) -> Item:
        """Encode other images; the features of other streams do not change."""
        return self.features.with_steps({"face": self.networks.encode(Item({"face": face})).streams["face"]})


@dataclass(frozen=True)
class _Mask:
    """Mask of the steps of a stream in [start_s, end_s), seconds from the clip's beginning."""

    name: str  # of the stream
    start_s: float = -math.inf
    end_s: float = math.inf

    def __call__(self, encoded: _EncodedInput) -> Item:
        """Remove the hidden steps from the features; a clip encoder encodes the remaining frames again."""
        features, face = encoded.features, encoded.face
        if self.name not in features.streams:
            return features
        if face and self.name == "face" and encoded.networks.inputs["face"].kind == "clips":
            return encoded.encode_face(face._replace(mask=face.mask & ~self._within(face)))
        steps = features.streams[self.name]
        return features.with_steps({self.name: steps.select(~self._within(steps))})

    def applies_to(self, encoded: _EncodedInput) -> bool:
        """Return True if there is something to hide: a visible face, or sound that the model uses."""
        steps = encoded.face if self.name == "face" else encoded.features.streams.get(self.name)
        return steps is not None and bool((steps.mask & self._within(steps)).any())

    def _within(self, steps: Steps) -> np.ndarray:
        return (steps.times_s >= self.start_s) & (steps.times_s < self.end_s)


def _intensity_changes(
    model: LoadedModel,
    inputs: Sequence[_EncodedInput],
    occlusions: Sequence[Callable[[_EncodedInput], Item]],
    advance: Callable[[], None],
) -> FloatArray:
    """Return (K, L): the intensities with the first occlusion minus those with each of the K others."""

    def items(encoded: _EncodedInput) -> Iterator[Item]:
        for occlude in occlusions:
            yield occlude(encoded)
            advance()

    scores = average_scores([score_items(encoded.networks, items(encoded)) for encoded in inputs])
    values = np.array([model.intensities_of(score) for score in scores])  # (1 + K, L)
    return np.asarray(values[0] - values[1:], np.float32)


def map_face(model: LoadedModel, inputs: Sequence[_EncodedInput], advance: Callable[[], None]) -> FloatArray:
    """Return (L, N_CELLS, N_CELLS): the change of each emotion when a part of the face is hidden in all
    frames.

    A square in each frame's mean colour slides over the model's input, cell by cell; a cell gets the mean
    change of the squares that cover it. Source: Zeiler & Fergus, arXiv 1311.2901. Integrated gradients and
    Grad-CAM were worse.
    """
    covers = np.zeros((1 + N_SQUARES, N_CELLS, N_CELLS), dtype=bool)  # True: hidden; the first hides nothing
    for cover, (row, column) in zip(covers[1:], np.ndindex((N_CELLS - SQUARE_CELLS + 1,) * 2), strict=True):
        cover[row : row + SQUARE_CELLS, column : column + SQUARE_CELLS] = True
    changes = _intensity_changes(
        model, inputs, [partial(_hide_cells, hidden=cover) for cover in covers], advance
    )
    return np.asarray(np.einsum("sl,sij->lij", changes, covers[1:]) / covers.sum(axis=0), np.float32)


def _hide_cells(encoded: _EncodedInput, hidden: np.ndarray) -> Item:
    """Encode at most ``MAX_MAP_FRAMES`` frames; fill ``hidden`` cells, (N_CELLS, N_CELLS), with the frame's
    mean."""
    face = encoded.face
    if face is None:
        return encoded.features
    visible = np.flatnonzero(face.mask)
    mask = np.zeros_like(face.mask)
    mask[visible[spread_indices(len(visible), MAX_MAP_FRAMES)]] = True
    images = face.values
    cells = np.arange(images.shape[-1]) * N_CELLS // images.shape[-1]  # (H,): the cell of each pixel
    mean = images.mean(axis=(2, 3), keepdims=True).astype(np.uint8)  # (T, 3, 1, 1)
    values = np.where(hidden[np.ix_(cells, cells)], mean, images)
    return encoded.encode_face(Steps(values, mask, face.times_s))
