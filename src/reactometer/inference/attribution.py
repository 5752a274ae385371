"""Which frames, which modality and which part of the face moved each emotion of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from reactometer.console import progress_bar
from reactometer.data.prepare import settled
from reactometer.errors import ConfigError, MediaError
from reactometer.inference.annotations import LEAST_SHOWN
from reactometer.inference.cuts import Cut, join_cuts, without_media
from reactometer.inference.occlusion import (
    CELLS,
    N_SQUARES,
    Hidden,
    Views,
    logit_shares,
    look,
    map_face,
    score_changes,
)
from reactometer.inference.predictor import DEFAULT_WINDOW_S, make_scorer, refuse_features
from reactometer.inference.refine import parse_stretch
from reactometer.media.audio import is_audible
from reactometer.media.faces import load_detector, part_of_face
from reactometer.media.stream import LEAST_NEW_S, PART, WindowShape, cut_clip, part_spans, stream_windows
from reactometer.media.video import probe
from reactometer.models.folder import LoadedModel, load_model
from reactometer.paths import STARTER
from reactometer.records import ByteArray, FloatArray, Prediction, PreparedClip

STRETCH_SHARE, SHORTEST_S, LONGEST_S = 0.1, 0.5, 1.0
"""What is hidden at a time: a tenth of what is explained, but neither less nor more seconds than this, and a new one
begins at every half of it. Our choice, made by looking: one frame alone moves little where its neighbours say the same,
and what is longer blurs when it was."""

WINDOW_SHARE, LEAST_WINDOW_S = 0.2, 0.5
"""Windows of the timeline: a fifth of what is explained, between half a second and predict's two seconds."""

LEAST_SAID = 0.005
"""A smaller change is told of as none."""

MOST = 3
"""Emotions told of where not all are asked for; of them, only the first may be as faint as subtitles leave out."""

MOMENT_S = 1e-4
"""No two frames are so near to each other."""

NO_CAPTUM = "no map of the face: it needs Captum, which is not installed; pip install 'reactometer[explain]'"

Span = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Attribution:
    """What moved each emotion of a stretch of a file: its intensity with something, less the one without it.

    Positive: seeing or hearing it raised the emotion. Not a number where there was nothing to hide: no face, or no
    sound that the model goes by. All times are on the file's clock.
    """

    prediction: Prediction  # of the stretch, as predict gives it; its windows, each by itself
    start_s: float
    end_s: float
    modalities: Mapping[str, FloatArray]  # "face", "voice" -> (L,); empty where the model goes by one of them only
    spans: tuple[Span, ...]  # K stretches, each hidden in turn
    stretches: Mapping[str, FloatArray]  # "face", "voice" -> (K, L)
    frame_times_s: tuple[float, ...]  # T frames that the model looked at
    frames: FloatArray  # (T, L): each frame hidden by itself
    pictures: ByteArray  # (T, 3, H, W) RGB as the model sees them; black where no face is seen
    logit_shares: FloatArray | None  # (T, L) of a mean-pooled model: they sum to the logit less the bias
    face_map: FloatArray | None  # (L, rows, columns) of the crop as the model sees it
    crop_share: float = 1.0  # of the prepared crop's side that the model sees, its middle
    notes: tuple[str, ...] = ()

    def strongest(self, everything: bool = False) -> list[int]:
        """Places among the labels of the emotions to tell of, the strongest first; of few and faint ones, or all."""
        values = np.array(self.prediction.intensities)  # (L,)
        order = [int(place) for place in np.argsort(-values, kind="stable")]
        return order if everything else [order[0], *(place for place in order[1:MOST] if values[place] >= LEAST_SHOWN)]

    def peak(self, label: int) -> tuple[str, float] | None:
        """The part of the face where the map is furthest from 0, and the map there; ``None`` without a map."""
        if self.face_map is None:
            return None
        row, column = np.unravel_index(np.abs(self.face_map[label]).argmax(), self.face_map[label].shape)
        x, y = (0.5 + ((float(place) + 0.5) / CELLS - 0.5) * self.crop_share for place in (column, row))
        change = float(self.face_map[label, row, column])
        return part_of_face(x, y) if abs(change) >= LEAST_SAID else "no part by itself", change


def explain(
    video: Path | str,
    model: LoadedModel | Path | str = STARTER,
    *,
    span: str | None = None,
    stretch_s: float | None = None,
    face_map: bool = True,
    progress: bool = True,
) -> Attribution:
    """Say which frames, which modality and which part of the face moved each emotion, by hiding them.

    It says what the model used, not what the person felt. What two frames, or face and voice, both say is not missed
    when one of them is hidden: changes do not add up to the intensity (the shares of a mean-pooled model's logit do).
    Sound is hidden as steps of what the voice's encoder made of all of it.

    Args:
        video: one video (or sound) file.
        model: a model folder, or one loaded already; default: the starter model inside the package.
        span: the stretch of the file to explain, seconds, such as "10-20s"; default: the file, if it is no longer than
            a minute.
        stretch_s: length of the stretches of frames and sound that are hidden, seconds; default: a tenth of what is
            explained, but at least half a second and at most one.
        face_map: hide parts of the face too; needs Captum, and the notes say so where it is not installed.
        progress: show a bar on standard error.

    Raises:
        ConfigError: no such stretch, or a file longer than a minute and no stretch.
        MediaError: the file cannot be read, or shows and says nothing that the model goes by.
        ModelError: no such model, or a damaged one, or one that takes features.
    """
    asked = _check(span, stretch_s)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    refuse_features(loaded)
    with progress_bar("reading", 1, progress) as advance:
        clip = _read(str(video), loaded, asked)
        advance()
    prediction = _predict(str(video), loaded, clip)
    if prediction.status != "ok":
        raise MediaError(f"{video}: nothing to explain: {prediction.status}", fix="Choose another file or stretch")
    views = look(loaded, clip)
    maps = face_map and Hidden("face").found_in(views)
    has_captum = find_spec("captum") is not None
    hidden_s = stretch_s or min(max(STRETCH_SHARE * clip.duration_s, SHORTEST_S), LONGEST_S)
    attribution = _attribute(loaded, prediction, clip, views, hidden_s, maps=maps and has_captum, progress=progress)
    notes = prediction.notes if has_captum or not maps else (*prediction.notes, NO_CAPTUM)
    return replace(attribution, crop_share=loaded.sampling.crop_share, notes=notes)


def _check(span: str | None, stretch_s: float | None) -> Span | None:
    if stretch_s is not None and not 0.0 < stretch_s < math.inf:
        raise ConfigError("what is hidden is a length of time", got=f"{stretch_s:g} s", expected="more than 0 s")
    asked = None if span is None else parse_stretch(span)
    if span is not None and (asked is None or not 0.0 < asked[1] - asked[0] <= PART.length_s):
        longest = f"seconds such as 10-20s, at most {PART.length_s:.0f} of them"
        raise ConfigError("not a stretch to explain", got=f"'{span}'", expected=longest)
    return asked


def _read(path: str, model: LoadedModel, asked: Span | None) -> PreparedClip:
    """The stretch asked for, or the file; the same as if it had been cut while the file was read."""
    settings = settled(model.config.prepare)
    duration_s = probe(Path(path)).duration_s
    if asked is None and duration_s is not None and len(part_spans(duration_s)) > 1:
        raise _too_long(path)
    start_s, end_s = asked or (0.0, math.inf)
    parts: list[PreparedClip] = []
    known_s = 0.0
    for _, part in stream_windows(Path(path), settings, load_detector(settings.detector), [PART]):
        known_s = part.end_s
        parts += [part] if start_s < known_s else []
        if asked is None and len(parts) > 1:
            raise _too_long(path)
        if end_s <= known_s:
            break
    if not parts:
        within = f"within 0 to {known_s:.2f} s"
        raise ConfigError(f"{path}: the stretch is not in the file", got=f"{start_s:g} to {end_s:g} s", expected=within)
    samples = tuple(sample for part in parts for sample in part.samples)
    sounds = [part.waveform for part in parts if part.waveform is not None]
    joint = replace(
        parts[-1], start_s=parts[0].start_s, samples=samples, waveform=np.concatenate(sounds) if sounds else None
    )
    return cut_clip(joint, start_s, min(end_s, known_s)) if asked else parts[0]


def _too_long(path: str) -> ConfigError:
    longest = f"longer than the {PART.length_s:.0f} s that are explained at once"
    return ConfigError(f"{path}: {longest}", fix="Name a stretch with --span, such as --span 10-20s")


def _predict(path: str, model: LoadedModel, clip: PreparedClip) -> Prediction:
    """What predict says of the stretch, and of windows of it."""
    window_s = min(max(WINDOW_SHARE * clip.duration_s, LEAST_WINDOW_S), DEFAULT_WINDOW_S)
    shape = WindowShape(window_s, window_s / 2)
    spans = _spans(clip.start_s, clip.end_s, shape)
    windows = [(PART, clip), *((shape, cut_clip(clip, *span)) for span in spans)]
    score = make_scorer(model, [{}] * len(model.each))
    drawn = score([cut for _, cut in windows])
    whole, *parts = [
        Cut(kind, without_media(cut), is_audible(cut.waveform), own)
        for (kind, cut), own in zip(windows, drawn, strict=True)
    ]
    return join_cuts(path, model, [whole], [part.as_window(model) for part in parts])


def _spans(start_s: float, end_s: float, shape: WindowShape) -> tuple[Span, ...]:
    """Where windows of a stretch begin and end, each with something that its predecessor does not show."""
    count = 1 + max(0, math.ceil((end_s - start_s - LEAST_NEW_S - shape.length_s) / shape.hop_s))
    starts = [start_s + place * shape.hop_s for place in range(count)]
    return tuple((begin_s, min(begin_s + shape.length_s, end_s)) for begin_s in starts)


def _attribute(
    model: LoadedModel,
    prediction: Prediction,
    clip: PreparedClip,
    views: Views,
    stretch_s: float,
    *,
    maps: bool,
    progress: bool,
) -> Attribution:
    found = [name for name in ("face", "voice") if Hidden(name).found_in(views)]
    spans = _spans(0.0, clip.duration_s, WindowShape(stretch_s, stretch_s / 2))
    frames = _frames(views)
    hidden = [Hidden(name) for name in found]
    hidden += [Hidden(name, *span) for name in found for span in spans]
    hidden += [Hidden("face", time_s, time_s + MOMENT_S) for time_s in frames]
    n_views = sum(map(len, views))
    with progress_bar("explaining", n_views * (1 + len(hidden) + maps * N_SQUARES), progress) as advance:
        values = score_changes(model, views, [lambda view: view.features, *hidden], advance)  # (1 + all of it, L)
        face_map = map_face(model, views, advance) if maps else None
    something = np.array([change.found_in(views) for change in hidden])
    changes = np.where(something[:, None], values[0] - values[1:], np.nan).astype(np.float32)
    whole, of_stretches, of_frames = np.split(changes, [len(found), len(found) * (1 + len(spans))])
    by_stretch = of_stretches.reshape(len(found), len(spans), -1)  # (modalities, K, L)
    return Attribution(
        prediction=prediction,
        start_s=clip.start_s,
        end_s=clip.end_s,
        modalities=dict(zip(found, whole, strict=True)) if len(found) > 1 else {},
        spans=tuple((clip.start_s + begin_s, clip.start_s + end_s) for begin_s, end_s in spans),
        stretches=dict(zip(found, by_stretch, strict=True)),
        frame_times_s=tuple(clip.start_s + time_s for time_s in frames),
        frames=of_frames,
        pictures=np.stack(list(frames.values())) if frames else np.zeros((0, 3, 0, 0), np.uint8),
        logit_shares=logit_shares(views),
        face_map=face_map,
    )


def _frames(views: Views) -> dict[float, ByteArray]:
    """Every frame that the model looked at in any draw, by its time from the clip's beginning, in order."""
    looked = [(view.media.times_s, view.media.frames) for view in views[0]]
    pictures = {float(at_s): frames[place] for times_s, frames in looked for place, at_s in enumerate(times_s)}
    return dict(sorted(pictures.items()))
