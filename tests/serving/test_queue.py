"""Clips scored together have the numbers that each has alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from reactometer.errors import MediaError
from reactometer.inference.predictor import make_scorer, reading_of
from reactometer.media.segments import PART, WindowShape
from reactometer.models.folder import load_model
from reactometer.models.scores import Score
from reactometer.serving.queue import SharedScorer
from reactometer.types import FaceSample, FrameState, PreparedClip
from reactometer.workers.media_worker import Reading


@pytest.fixture(scope="module")
def clips(model_folder: Path, simulated: Path) -> list[list[PreparedClip]]:
    """Parts and windows of six files."""
    settings = reading_of(load_model(model_folder), "one", None)
    reading = Reading(settings, (PART, WindowShape(1.0, 0.5)))
    return [[clip for _, clip in reading.windows(file)] for file in sorted(simulated.rglob("*.mp4"))[:6]]


def _values(scores: Sequence[Score]) -> np.ndarray:
    return np.array([score.intensities for score in scores])


def test_batches_are_shared_and_change_no_number(model_folder: Path, clips: list[list[PreparedClip]]) -> None:
    model = load_model(model_folder)
    alone, shared, sizes = make_scorer(model, [{}]), SharedScorer(model), list[int]()
    together = shared._score
    shared._score = lambda some: (sizes.append(len(some)), together(some))[1]  # type: ignore[func-returns-value]
    with ThreadPoolExecutor(len(clips)) as pool:
        answers = list(pool.map(shared, clips * 5))
    shared.close()
    for own, scores in zip(clips * 5, answers, strict=True):
        np.testing.assert_allclose(_values(scores), _values(alone(own)), atol=1e-6)
    assert sum(sizes) == 5 * sum(map(len, clips)) and max(sizes) > max(map(len, clips))


def test_a_clip_that_cannot_be_scored_fails_alone(model_folder: Path, clips: list[list[PreparedClip]]) -> None:
    shared = SharedScorer(load_model(model_folder))
    broken = PreparedClip(0.0, 1.0, (FaceSample(0.0, FrameState.FACE, crop_jpeg=b"no picture"),), None)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(shared, own) for own in [*clips, [broken], *clips]]
    shared.close()
    for place, future in enumerate(futures):
        if place == len(clips):
            with pytest.raises(MediaError, match="face crop"):
                future.result()
        else:
            assert future.result()
