"""Live without pictures and sound: features are made where the camera is, and scored somewhere else."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reactometer.data.batches import Item, pick_frames, to_item
from reactometer.data.ranks import rank_item
from reactometer.errors import ConfigError, ModelError
from reactometer.inference.live import EDGE_S, LIVE_RATE_HZ, LiveScore, Senses, check_window, level_of, say
from reactometer.inference.predictor import DEFAULT_WINDOW_S, refuse_features
from reactometer.models.encoders import FrameEncoder
from reactometer.models.folder import LoadedModel
from reactometer.models.multimodal import CrossModalHead
from reactometer.models.scoring import score_items
from reactometer.models.showing import FaceMemory, encode_item
from reactometer.records import FaceSample, FloatArray, Kind, Piece, PreparedClip


def feature_sizes(model: LoadedModel) -> tuple[int, int]:
    """Features of a frame's face and of a step of the voice, 0 where the model does not go by it.

    Raises:
        ModelError: an ensemble, a model that encodes whole clips or averages several draws, or one made for features.
    """
    refuse_features(model)
    face, voice = model.network.face_encoder, model.network.voice_encoder
    fits = len(model.each) == 1 and model.sampling.draws == 1 and (face is None or isinstance(face, FrameEncoder))
    if not fits:
        raise ModelError(
            "this model cannot be shown features of single frames",
            expected="one model, not an ensemble, whose encoder looks at one frame at a time",
            fix="Use mode 'media'",
        )
    return face.feature_size if face else 0, voice.feature_size if voice else 0


class FeatureMaker:
    """Where the camera is: pieces in, the pieces of mode "features" out. Arguments as of :class:`live.LiveScorer`."""

    def __init__(self, model: LoadedModel, window_s: float = DEFAULT_WINDOW_S, rate_hz: float | None = None) -> None:
        feature_sizes(model)
        self.model, self.senses = model, Senses(model, window_s, rate_hz)
        self._memory: FaceMemory | None = None
        if isinstance(encoder := model.network.face_encoder, FrameEncoder):
            self._memory = FaceMemory(encoder, model.sampling, model.network.label_mean.device, most=1)

    @property
    def newest(self) -> FaceSample | None:
        """What was seen last; stays here."""
        return self.senses.samples[-1] if self.senses.samples else None

    @property
    def level_db(self) -> float | None:
        """Of the last tenth of a second of sound, see :func:`live.level_of`."""
        return level_of(self.senses.sound.samples)

    def make(self, pieces: Sequence[Piece]) -> list[Piece]:
        """What to send of frames and sound: features of the voice in the last window, and of the face in each frame."""
        made = [
            Piece(Kind.FACE_FEATURES, sample.time_s, self._face(sample), piece.arrived_s)
            for piece in pieces
            if (sample := self.senses.take(piece))
        ]
        if self.model.network.listens and (clip := self.senses.clip()) is not None:
            heard = Piece(Kind.VOICE_FEATURES, clip.end_s - EDGE_S, self._voice(clip), pieces[-1].arrived_s)
            made.insert(0, heard)
        return made

    def _face(self, sample: FaceSample) -> FloatArray | None:
        if self._memory is None or sample.crop_jpeg is None:
            return None
        self._memory.learn([sample])
        return self._memory.known[sample.crop_jpeg]

    def _voice(self, clip: PreparedClip) -> FloatArray:
        """(K, 1 + D) float32; two steps, where the model's head goes by mean and spread over time alone."""
        network = self.model.network
        item = to_item(replace(clip, samples=()), replace(self.model.sampling, looks=False))
        if not len(item.voice):
            return np.zeros((0, 1 + feature_sizes(self.model)[1]), np.float32)
        item = encode_item(network, replace(item, frames=np.zeros((0, 0), np.float32)), every=True)
        steps = np.column_stack((item.voice_times_s, item.voice)).astype(np.float32)
        by_moments = isinstance(network.head, CrossModalHead) and not network.head.attends and not network.quantiles
        return condense(steps) if by_moments and len(steps) else steps


def condense(steps: FloatArray) -> FloatArray:
    """Two steps with the mean and the standard deviation of (K, D) steps."""
    mean, std = steps.mean(axis=0, dtype=np.float64), steps.std(axis=0, dtype=np.float64)
    return np.stack((mean - std, mean + std)).astype(np.float32)


class FeatureScorer:
    """The other end: takes the pieces that :class:`FeatureMaker` makes; sees no picture and hears no sound."""

    def __init__(self, model: LoadedModel, window_s: float = DEFAULT_WINDOW_S, rate_hz: float | None = None) -> None:
        self.face_size, self.voice_size = feature_sizes(model)
        self.model, self.window_s = model, check_window(window_s)
        self.rate_hz = rate_hz or max(model.config.prepare.rate_hz, LIVE_RATE_HZ)
        self._head = model.network.on_features(every=True)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._faces: deque[tuple[float, FloatArray | None]] = deque()
        self._voice = -math.inf, np.zeros((0, 1 + self.voice_size), np.float32)
        self._first_s: float | None = None

    @property
    def newest_s(self) -> float | None:
        """Time of the newest frame, or of the end of the voice's window; None where nothing has come."""
        known = [*([self._faces[-1][0]] if self._faces else []), self._voice[0]]
        return None if max(known) == -math.inf else max(known)

    def check(self, piece: Piece) -> None:
        """Raise ConfigError for a frame or sound, and for features of another size or that are no numbers."""
        if piece.kind in (Kind.FRAME, Kind.SOUND) or callable(piece.content):
            raise ConfigError("a frame or sound came in mode 'features'", fix="Start with mode 'media', or send none")
        if piece.content is None:
            return
        expected = self.face_size if piece.kind is Kind.FACE_FEATURES else 1 + self.voice_size
        if (got := piece.content.shape[-1]) != expected:
            raise ConfigError("features of another model", got=f"{got} numbers a step", expected=expected)
        if not np.isfinite(piece.content).all():
            raise ConfigError("features that are no numbers", got="NaN or infinity")

    def take(self, piece: Piece) -> None:
        """Keep checked features: of one frame's face, or of the voice in the window that ends with the piece's time."""
        content = piece.content
        if callable(content):
            return
        if self.newest_s is not None and piece.time_s < self.newest_s - self.window_s:
            self.reset()
        self._first_s = piece.time_s if self._first_s is None else min(self._first_s, piece.time_s)
        if piece.kind is Kind.VOICE_FEATURES and content is not None:
            self._voice = piece.time_s, content
        elif piece.kind is Kind.FACE_FEATURES and not (self._faces and piece.time_s <= self._faces[-1][0]):
            self._faces.append((piece.time_s, content))
            while self._faces[0][0] <= piece.time_s - self.window_s - 1.0:
                self._faces.popleft()

    def score(self) -> LiveScore | None:
        """The window that ends with the newest piece; None where nothing has come."""
        if self.newest_s is None:
            return None
        end_s = self.newest_s + EDGE_S
        start_s = max(end_s - self.window_s, -math.inf if self._first_s is None else self._first_s)
        inside = [(at_s, features) for at_s, features in self._faces if start_s <= at_s < end_s]
        item = rank_item(self._item(inside, start_s, end_s), self.model.network.quantiles)
        drawn = [(end_s - start_s, score) for score in score_items(self._head, [item])]
        intensities, intervals, abstain = say(self.model, drawn, end_s - start_s, self.window_s)
        seen = sum(features is not None for _, features in inside)
        return LiveScore(
            time_s=self.newest_s,
            start_s=start_s,
            end_s=end_s,
            intensities=intensities,
            intervals=intervals,
            frame_s=inside[-1][0] if inside else None,
            face_share=seen / len(inside) if inside else 0.0,
            abstain=abstain,
        )

    def _item(self, inside: Sequence[tuple[float, FloatArray | None]], start_s: float, end_s: float) -> Item:
        times_s = [at_s for at_s, _ in inside]
        picked = [inside[place] for place in pick_frames(times_s, start_s, end_s, self.model.sampling.n_frames)]
        frames = np.zeros((len(picked), self.face_size), np.float32)  # (T, D)
        for place, (_, features) in enumerate(picked):
            if features is not None:
                frames[place] = features
        voice = self._voice[1] if self._voice[0] > start_s else self._voice[1][:0]
        return Item(
            frames=frames,
            seen=np.array([features is not None for _, features in picked], dtype=bool),
            times_s=np.array([at_s - start_s for at_s, _ in picked], dtype=np.float32),
            voice=voice[:, 1:],
            voice_times_s=voice[:, 0],
        )
