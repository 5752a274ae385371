"""Draw face boxes, bars and the timeline into a video."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from reactometer.errors import OutputError
from reactometer.inference.prediction import Prediction
from reactometer.io import atomic_file
from reactometer.labels import colours_of
from reactometer.media.audio import read_sound
from reactometer.media.video import probe, read_frames
from reactometer.types import SOUND_RATE_HZ, ByteArray, Frame, FrameState, SoundBlock

MIN_WIDTH_PX = 640
ROW_PX, LABEL_PX, BAR_PX, MARGIN_PX = 26, 120, 110, 8
CURVE_PX = LABEL_PX + BAR_PX + MARGIN_PX
"""The panel below the video has one row per emotion with its name, a bar and the timeline."""

WHITE = (255, 255, 255)

CLOCK = Fraction(1, 90_000)
"""Time base, seconds; fine enough for variable frame rates."""


def write_overlay(predictions: Sequence[Prediction], path: Path) -> Path:
    """Write a copy of the video with boxes and predictions; frames keep their times, and the sound is
    included.

    Args:
        predictions: of one video, or of each face in it, with windows and samples.
        path: the MP4 file to write (H.264, AAC).

    Raises:
        OutputError: the file has no video or no timeline, or the overlay cannot be written.
        MediaError: the video cannot be read.
    """
    source = Path(predictions[0].path)
    info = probe(source)
    if not info.has_video or any(prediction.failed or not prediction.windows for prediction in predictions):
        raise OutputError(
            f"{source}: an overlay needs a video and a timeline", fix="Leave overlay out of --save"
        )
    canvas = _Canvas(predictions, info.width_px, info.height_px)
    with atomic_file(path) as partial, av.open(str(partial), "w", "mp4") as container:
        _encode(container, source, canvas, info.has_audio)
    return path


class _Canvas:
    """A frame with its boxes, and below it the panel of each person."""

    def __init__(self, predictions: Sequence[Prediction], width_px: int, height_px: int) -> None:
        self.scale = max(1.0, MIN_WIDTH_PX / width_px)
        self.frame_size = _even(width_px * self.scale), _even(height_px * self.scale)
        self.people = [_Person(prediction, self.frame_size[0]) for prediction in predictions]
        self.size = self.frame_size[0], self.frame_size[1] + sum(len(person.panel) for person in self.people)

    def draw(self, rgb: ByteArray, time_s: float) -> ByteArray:
        """Draw boxes and panels at a time; take and return (height, width, 3) uint8 RGB."""
        frame = cv2.resize(rgb, self.frame_size, interpolation=cv2.INTER_LINEAR)
        boxes = [(person.face, person.box(time_s)) for person in self.people]
        for face, box in boxes:
            if box is not None:
                x, y, width, height = (round(value * self.scale) for value in box)
                cv2.rectangle(frame, (x, y), (x + width, y + height), WHITE, 2, cv2.LINE_AA)
                if face is not None:
                    _write(frame, str(face), (max(x, 0), y - 8 if y > 30 else y + height + 24))
        if all(box is None for _, box in boxes):
            _write(frame, "no face", (10, 26))
        return np.asarray(
            np.concatenate([frame, *(person.draw(time_s) for person in self.people)]), dtype=np.uint8
        )


class _Person:
    """The box of one prediction's face, and its panel."""

    def __init__(self, prediction: Prediction, width_px: int) -> None:
        self.face = prediction.face
        self.duration_s = prediction.duration_s or 1.0
        self.samples = [sample for sample in prediction.samples if sample.state is not FrameState.UNREADABLE]
        self.times_s = np.array([sample.time_s for sample in self.samples])
        self.middles_s = prediction.timeline.times_s
        self.values = prediction.timeline.values  # (K,), (K, L)
        self.colours = colours_of(prediction.labels)
        self.head_px = 0 if self.face is None else ROW_PX  # of the row with the face's number
        self.panel = self._draw_panel(prediction.labels, width_px)

    def draw(self, time_s: float) -> ByteArray:
        """Return the panel with bars and cursor, (rows, width, 3) uint8 RGB."""
        panel = self.panel.copy()
        now = self.values[int(np.abs(self.middles_s - time_s).argmin())]  # (L,)
        for index, value in enumerate(now):
            top = self.head_px + index * ROW_PX
            if not np.isnan(value):
                end = LABEL_PX + round(float(value) * BAR_PX)
                colour = [int(self.colours[index][digit : digit + 2], 16) for digit in (1, 3, 5)]
                cv2.rectangle(panel, (LABEL_PX, top + 5), (end, top + ROW_PX - 5), colour, cv2.FILLED)
        cursor = CURVE_PX + round(
            min(time_s / self.duration_s, 1.0) * (panel.shape[1] - CURVE_PX - MARGIN_PX)
        )
        cv2.line(panel, (cursor, self.head_px + 2), (cursor, len(panel) - 3), (30, 30, 30), 1)
        return panel

    def box(self, time_s: float) -> tuple[float, float, float, float] | None:
        """Return the face's x, y, width and height in the nearest sampled frame, pixels of the source
        video."""
        return self.samples[int(np.abs(self.times_s - time_s).argmin())].box if self.samples else None

    def _draw_panel(self, labels: Sequence[str], width_px: int) -> ByteArray:
        """Draw the names and timelines of all emotions: (rows, width, 3) uint8 RGB."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        height_px = _even(self.head_px + ROW_PX * len(labels))
        curve_px = width_px - CURVE_PX - MARGIN_PX
        figure = Figure(figsize=(width_px / 100, height_px / 100), dpi=100)
        canvas: Any = FigureCanvasAgg(figure)
        if self.face is not None:
            middle = 1.0 - self.head_px / height_px / 2
            figure.text(
                MARGIN_PX / width_px, middle, f"face {self.face}", va="center", fontsize=9, weight="bold"
            )
        for index, label in enumerate(labels):
            bottom_px = height_px - self.head_px - (index + 1) * ROW_PX + 3
            box = CURVE_PX / width_px, bottom_px / height_px, curve_px / width_px, (ROW_PX - 6) / height_px
            axes = figure.add_axes(box)
            x = (LABEL_PX - 8 - CURVE_PX) / curve_px
            axes.text(x, 0.5, label, transform=axes.transAxes, ha="right", va="center", fontsize=8)
            values = self.values[:, index]
            colour = self.colours[index]
            axes.fill_between(self.middles_s, values, color=colour, alpha=0.5, linewidth=0)
            axes.plot(self.middles_s, values, color=colour, linewidth=1)
            axes.set(xlim=(0, self.duration_s), ylim=(0, 1))
            axes.axis("off")
        canvas.draw()
        return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _write(frame: np.ndarray, text: str, origin: tuple[int, int]) -> None:
    cv2.putText(frame, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.7, WHITE, 2, cv2.LINE_AA)


def _encode(container: Any, source: Path, canvas: _Canvas, has_sound: bool) -> None:
    video = container.add_stream("libx264", options={"crf": "20", "preset": "veryfast"})
    video.width, video.height = canvas.size
    video.pix_fmt, video.time_base = "yuv420p", CLOCK
    video.codec_context.time_base = CLOCK
    sound: Any = container.add_stream("aac", rate=SOUND_RATE_HZ, layout="mono") if has_sound else None
    blocks = read_sound(source) if has_sound else ()
    items: Iterator[Frame | SoundBlock] = heapq.merge(read_frames(source), blocks, key=_start_s)
    for item in items:
        if isinstance(item, SoundBlock):
            container.mux(sound.encode(_sound_frame(item)))
        elif item.rgb is not None:
            frame = av.VideoFrame.from_ndarray(canvas.draw(item.rgb(), item.time_s), format="rgb24")
            frame.pts = round(item.time_s / CLOCK)
            frame.time_base = CLOCK
            container.mux(video.encode(frame))
    container.mux(video.encode())
    if sound is not None:
        container.mux(sound.encode())


def _sound_frame(block: SoundBlock) -> Any:
    samples = np.round(block.samples * 32767).clip(-32768, 32767).astype(np.int16)[None]  # (1, S)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = SOUND_RATE_HZ
    frame.pts = round(block.start_s * SOUND_RATE_HZ)
    frame.time_base = Fraction(1, SOUND_RATE_HZ)
    return frame


def _start_s(item: Frame | SoundBlock) -> float:
    return item.start_s if isinstance(item, SoundBlock) else item.time_s


def _even(pixels: float) -> int:
    return 2 * max(1, round(pixels / 2))
