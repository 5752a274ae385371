"""A clip of which something is hidden -> what a model says of the rest: encoded once, its head run anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from reactometer.data.batches import Item, draw_of, to_item
from reactometer.data.ranks import rank_item
from reactometer.models.encoders import ClipEncoder, FrameEncoder
from reactometer.models.folder import LoadedModel
from reactometer.models.network import ReactionModel
from reactometer.models.scores import average_scores, join_parts
from reactometer.models.scoring import score_items
from reactometer.models.showing import encode_item, population
from reactometer.models.visual import MeanHead
from reactometer.records import FloatArray, PreparedClip

CELLS, COVER = 8, 2
"""Of the map of the face: cells along its side, and how many of them the sliding square hides; our choice."""

N_SQUARES = (CELLS - COVER + 1) ** 2 + 1
"""Times that :func:`map_face` scores each view: each place of the square, and nothing hidden."""

MAP_FRAMES = 16
"""The map is of so many of the frames at most, evenly spaced, the others hidden; our choice, for the time it takes."""


@dataclass(frozen=True)
class View:
    """One draw of a clip, as one network is shown it."""

    network: ReactionModel
    head: ReactionModel  # the same behind features
    media: Item  # pictures, and log-mel or samples
    features: Item  # the same, encoded

    def show(self, media: Item) -> Item:
        """Features of other pictures, beside the voice's as they are."""
        mute = replace(media, voice=media.voice[:0], voice_times_s=media.voice_times_s[:0])
        features = self.features
        return replace(_encode(self.network, mute), voice=features.voice, voice_times_s=features.voice_times_s)


Views = Sequence[Sequence[View]]
"""Each draw of a clip, by member of an ensemble."""

Change = Callable[[View], Item]
"""What is left of a clip, as features."""


@dataclass(frozen=True)
class Hidden:
    """The frames or the sound of a stretch [start_s, end_s) of a clip, seconds from its beginning."""

    modality: str  # "face" or "voice"
    start_s: float = -math.inf
    end_s: float = math.inf

    def __call__(self, view: View) -> Item:
        """The view without it: steps of features taken away; a clip encoder is shown the rest of the frames again."""
        if self.modality == "voice":
            kept = ~self._within(view.features.voice_times_s)
            voice, voice_times_s = view.features.voice[kept], view.features.voice_times_s[kept]
            return replace(view.features, voice=voice, voice_times_s=voice_times_s)
        if isinstance(view.network.face_encoder, ClipEncoder):
            return view.show(replace(view.media, seen=view.media.seen & ~self._within(view.media.times_s)))
        return replace(view.features, seen=view.features.seen & ~self._within(view.features.times_s))

    def found_in(self, views: Views) -> bool:
        """There is something to hide: a face that is seen, or sound that the model goes by."""
        own = [view for member in views for view in member]
        if self.modality == "voice":
            return any(bool(self._within(view.features.voice_times_s).any()) for view in own)
        return any(bool((view.media.seen & self._within(view.media.times_s)).any()) for view in own)

    def _within(self, times_s: FloatArray) -> np.ndarray:
        return (times_s >= self.start_s) & (times_s < self.end_s)


def look(model: LoadedModel, clip: PreparedClip) -> list[list[View]]:
    """The clip as the model is shown it, encoded once."""
    return [
        [_view(member.network, to_item(clip, member.sampling, draw_of(draw))) for draw in range(member.sampling.draws)]
        for member in model.each
    ]


def score_changes(
    model: LoadedModel, views: Views, changes: Sequence[Change], advance: Callable[[], None]
) -> FloatArray:
    """(K, L) intensities after each of K changes: the mean over draws and members, as a prediction is.

    ``advance`` is called after each change of each view. Nothing left to go by: the training mean.
    """
    n_draws = len(views[0])

    def items(own: Sequence[View]) -> Iterator[Item]:
        for place, change in enumerate(changes):
            for draw, view in enumerate(own):
                yield replace(change(view), number=place * n_draws + draw)
                advance()

    scores = average_scores([list(score_items(own[0].head, items(own))) for own in views])
    of_each = [scores[start : start + n_draws] for start in range(0, len(scores), n_draws)]
    joined = [join_parts(0, [(1.0, score) for score in drawn]) for drawn in of_each]
    return np.array([model.intensities_of(score) for score in joined])


def logit_shares(views: Views) -> FloatArray | None:
    """(T, L): each frame's share of the logit, of a mean-pooled network in closed form; they sum to it less the bias.

    ``None`` for other networks, for ensembles, and where scores of several draws are averaged.
    """
    (view, *others), *members = views
    if others or members or not isinstance(view.network.head, MeanHead):
        return None
    if not isinstance(view.network.face_encoder, FrameEncoder):
        return None
    scale = population(view.network)["face"]
    weight = next(weight for weight in view.network.output.parameters() if weight.ndim == 2)  # (L, D)
    steps = (view.features.frames - scale.mean) / scale.std * view.features.seen[:, None]  # (T, D)
    shares: FloatArray = steps @ weight.detach().cpu().numpy().T / max(int(view.features.seen.sum()), 1)
    return shares


def map_face(model: LoadedModel, views: Views, advance: Callable[[], None]) -> FloatArray:
    """What each part of the face does, hidden in all frames at once: (L, CELLS, CELLS), rows from the top.

    A square of ``COVER`` x ``COVER`` cells in each frame's mean colour slides over the crop as the model sees it, cell
    by cell (Zeiler & Fergus, arXiv 1311.2901; Captum's ``Occlusion``); a cell has the mean of the squares that hide it.
    Positive: seeing it raised the emotion. Chosen by looking at real clips, where integrated gradients gave specks, and
    Grad-CAM, from the few places of a last layer, blots beside the mouth that smiled.

    Raises:
        ImportError: Captum is not installed.
    """
    from captum.attr import Occlusion

    few = [[replace(view, media=_few_frames(view.media)) for view in own] for own in views]

    def score(cover: Tensor) -> Tensor:
        """(1, CELLS, CELLS), 0 where hidden -> (1, L)."""
        shown = cover[0].bool().numpy()
        cover_up: Change = lambda view: view.show(_covered(view.media, shown))  # noqa: E731
        return torch.from_numpy(score_changes(model, few, [cover_up], advance))

    whole, side = torch.ones((1, CELLS, CELLS)), (COVER, COVER)
    changes: Tensor = Occlusion(score).attribute(whole, sliding_window_shapes=side, strides=(1, 1), baselines=0)
    return changes.numpy()


def _view(network: ReactionModel, media: Item) -> View:
    return View(network, network.on_features(every=True), media, _encode(network, media))


def _encode(network: ReactionModel, media: Item) -> Item:
    return rank_item(encode_item(network, media, every=True), network.quantiles)


def _few_frames(media: Item) -> Item:
    """The same with at most ``MAP_FRAMES`` of its frames seen, evenly spaced."""
    places = np.flatnonzero(media.seen)
    middles = (np.arange(MAP_FRAMES) + 0.5) * len(places) / MAP_FRAMES
    kept = np.zeros_like(media.seen)
    kept[places[middles.astype(int)] if len(places) > MAP_FRAMES else places] = True
    return replace(media, seen=kept)


def _covered(media: Item, shown: np.ndarray) -> Item:
    """The pictures with the cells that are not ``shown`` (CELLS, CELLS) in each one's mean colour."""
    places = np.arange(media.frames.shape[-1]) * CELLS // media.frames.shape[-1]  # (H,): the cell of each pixel
    mean = media.frames.mean(axis=(2, 3), keepdims=True).astype(np.uint8)  # (T, 3, 1, 1)
    return replace(media, frames=np.where(shown[np.ix_(places, places)], media.frames, mean))
