"""A model run by PyTorch and by another engine: do they say the same, and which is faster?"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from reactometer.data.batches import Item, collate
from reactometer.models.engines import Run, attach_engine
from reactometer.models.folder import WEIGHTS_FILE, LoadedModel
from reactometer.models.graphs import FACE_INPUTS, VOICE_INPUTS
from reactometer.models.network import ReactionModel
from reactometer.models.showing import encode_item

TIMED_CLIPS = 4
"""Clips that are timed; our choice."""


def with_engine(member: LoadedModel, folder: Path, engine: str) -> LoadedModel:
    """A copy of a model whose encoders are run by the engine that was exported into ``folder``."""
    network = copy.deepcopy(member.network)
    attach_engine(network, engine, folder, member.description["sha256"][WEIGHTS_FILE])
    return replace(member, network=network, engine=engine)


def differences(member: LoadedModel, fast: LoadedModel, joint: Run, items: Sequence[Item]) -> dict[str, float]:
    """What is shown of clips -> the largest difference of an intensity between PyTorch and an engine.

    Args:
        member: the model, run by PyTorch.
        fast: the same, run by the engine.
        joint: the engine's graph from features to intensities.
        items: the clips. They are shown as they are, one by one and in one batch, and less of them.
    """
    unseen = [replace(item, seen=np.zeros_like(item.seen)) for item in items]
    shown = {
        "whole clips": list(items),
        "without face": unseen,
        "without voice": [_silent(item) for item in items],
        "without both": [_silent(item) for item in unseen],
        "first third": [_beginning(item, 1 / 3) for item in items],
        "one frame": [_beginning(item, 0.0) for item in items],
    }
    head = member.network.on_features(every=True)
    found = {}
    for name, own in shown.items():
        pairs = [(_encoded(member, item), _encoded(fast, item)) for item in own]
        groups = [[pair] for pair in pairs] + ([pairs] if name == "whole clips" else [])  # then all in one batch
        found[name] = float(np.max([_difference(head, joint, group) for group in groups]))  # NaN, where one is NaN
    return found


def _silent(item: Item) -> Item:
    return replace(item, voice=item.voice[:0], voice_times_s=item.voice_times_s[:0])


def _beginning(item: Item, share: float) -> Item:
    """The first frames and steps of sound, at least one of each that there is."""
    frames, steps = max(1, round(len(item.times_s) * share)), max(1, round(len(item.voice) * share))
    return replace(
        item,
        frames=item.frames[:frames],
        seen=item.seen[:frames],
        times_s=item.times_s[:frames],
        voice=item.voice[:steps],
        voice_times_s=item.voice_times_s[:steps],
    )


def _encoded(member: LoadedModel, item: Item) -> Item:
    return encode_item(member.network, item, every=True)


@torch.inference_mode()
def _difference(head: ReactionModel, joint: Run, pairs: Sequence[tuple[Item, Item]]) -> float:
    """Between the intensities of PyTorch and of the graphs for a batch of clips, each encoded by both."""
    n_labels = len(head.label_mean)
    expected = head(collate([slow for slow, _ in pairs], n_labels))  # (B, L)
    batch = collate([fast for _, fast in pairs], n_labels)
    names = (*(FACE_INPUTS if head.looks else ()), *(VOICE_INPUTS if head.listens else ()))
    got = joint(*(getattr(batch, name).numpy() for name in names))  # (B, L)
    return float(np.abs(got - expected.numpy()).max())


def times_torch(member: LoadedModel, fast: LoadedModel, items: Sequence[Item]) -> float:
    """How many times as fast as PyTorch the engine encodes a few clips: the median of three turns, after one unused."""
    ratios = []
    for _ in range(4):
        seconds = []
        for one in (member, fast):
            began_s = time.perf_counter()
            for item in items[:TIMED_CLIPS]:
                encode_item(one.network, item, every=True)
            seconds.append(time.perf_counter() - began_s)
        ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios[1:]))
