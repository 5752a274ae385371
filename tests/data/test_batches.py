"""Batches: which frames are drawn, how padding is masked, and what follows from the seed."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from reactometer.data.batches import (
    MediaReader,
    PartDataset,
    Sampling,
    TrainingDataset,
    collate,
    pick_frames,
    safe_workers,
    to_item,
)
from reactometer.data.cache import PreparedRow, PreparedSet, load_clip
from reactometer.media.faces import encode_crop
from reactometer.types import FaceSample, FrameState, PreparedClip

SAMPLING = Sampling(n_frames=4, size_px=32, listens=True)


def test_frames_are_evenly_spaced_in_time() -> None:
    times_s = list(np.arange(66) / 6.0)
    picked = pick_frames(times_s, 0.0, 11.0, 32)
    assert len(picked) == 32
    gaps = np.diff([times_s[index] for index in picked])
    assert gaps.max() - gaps.min() < 0.2
    assert times_s[picked[0]] < 0.34
    assert times_s[picked[-1]] > 10.6


def test_uneven_times_are_drawn_by_time_and_not_by_number() -> None:
    times_s = [0.0, 0.01, 0.02, 0.03, 5.0, 10.0]
    assert pick_frames(times_s, 0.0, 10.0, 2) == [3, 4]


def test_few_frames_are_each_drawn_once() -> None:
    assert pick_frames([0.0, 0.5, 1.0], 0.0, 1.5, 32) == [0, 1, 2]
    assert pick_frames([0.3], 0.0, 1.0, 8) == [0]
    assert pick_frames([], 0.0, 1.0, 8) == []
    assert pick_frames([0.0], 0.0, 0.0, 8) == []


def test_jitter_moves_frames_within_their_own_part() -> None:
    times_s = list(np.arange(1000) / 100.0)
    draws = [pick_frames(times_s, 0.0, 10.0, 10, np.random.default_rng(seed)) for seed in range(20)]
    assert len({tuple(draw) for draw in draws}) == 20
    for draw in draws:
        assert [int(times_s[index]) for index in draw] == list(range(10))


@pytest.mark.parametrize("seed", range(4))
def test_the_frames_drawn_are_those_nearest_to_the_middles_of_equal_parts(seed: int) -> None:
    """Or, in training, to a moment drawn from each part."""
    generator = np.random.default_rng(seed)
    for _ in range(50):
        n_samples, n_frames = generator.integers(1, 12, 2)
        start_s, end_s = 2.0, 2.0 + float(generator.uniform(0.5, 4.0))
        times_s = np.sort(generator.uniform(start_s - 0.5, end_s + 0.5, n_samples))
        for rng in (None, np.random.default_rng(seed)):
            shifts = [0.0] * n_frames if rng is None else np.random.default_rng(seed).uniform(-0.5, 0.5, n_frames)
            length_s = (end_s - start_s) / n_frames
            moments_s = [start_s + (part + 0.5 + shift) * length_s for part, shift in enumerate(shifts)]
            nearest = {
                min(range(n_samples), key=lambda place: (abs(times_s[place] - at_s), place)) for at_s in moments_s
            }
            drawn = pick_frames(times_s.tolist(), start_s, end_s, int(n_frames), rng)
            assert drawn == sorted(nearest)


def test_of_two_frames_as_near_the_earlier_one_is_drawn() -> None:
    assert pick_frames([0.0, 1.0], 0.0, 1.0, 1) == [0]


def test_padding_is_masked_and_zero(prepared: PreparedSet) -> None:
    voiced = next(row for row in prepared.rows if row.has_sound)
    mute = next(row for row in prepared.rows if not row.has_sound)
    short = PreparedClip(0.0, 0.1, load_clip(voiced).samples[:1], None)
    items = [to_item(load_clip(voiced), SAMPLING), to_item(load_clip(mute), SAMPLING), to_item(short, SAMPLING)]
    batch = collate(items, n_labels=2)
    assert batch.frames.shape == (3, 4, 3, 32, 32)
    assert batch.voice.shape[0::2] == (3, 64)
    assert batch.frame_mask.sum(1).tolist()[2] == 1
    assert batch.voice_mask.any(1).tolist() == [True, False, False]
    assert not batch.frames[2, 1:].any()
    assert not batch.voice[1:].any()
    assert batch.target_mask.tolist() == [False, False, False]


def test_a_frame_without_a_face_is_kept_and_masked(prepared: PreparedSet) -> None:
    samples = load_clip(prepared.rows[0]).samples
    gone = FaceSample(samples[1].time_s, FrameState.NO_FACE)
    item = to_item(PreparedClip(0.0, 1.5, (samples[0], gone, *samples[2:]), None), Sampling(32, 32, listens=False))
    assert len(item.seen) == len(samples)
    assert not item.seen[1]
    assert not item.frames[1].any()


def test_a_file_without_anything_makes_an_empty_item() -> None:
    batch = collate([to_item(PreparedClip(0.0, 0.0, (), None), SAMPLING)], n_labels=1)
    assert not batch.frame_mask.any()
    assert not batch.voice_mask.any()


def test_training_items_follow_from_seed_epoch_and_clip_alone(prepared: PreparedSet) -> None:
    rows = prepared.split("train")
    read = MediaReader(Sampling(3, 32, listens=False))
    first, again = TrainingDataset(rows, read, 0, 3), TrainingDataset(rows, read, 0, 3)
    later = TrainingDataset(rows, read, 0, 4)
    times = [first[index].times_s.tolist() for index in range(6)]
    assert times == [again[index].times_s.tolist() for index in range(6)]
    assert times != [later[index].times_s.tolist() for index in range(6)]


def test_a_long_clip_is_scored_in_parts(prepared: PreparedSet) -> None:
    row = prepared.rows[0]
    long = PreparedRow(row.clip, row.file, duration_s=130.0)
    parts = PartDataset([row, long], MediaReader(SAMPLING)).parts
    assert [(part.index, part.start_s) for part in parts] == [(0, 0.0), (1, 0.0), (1, 60.0), (1, 120.0)]
    assert parts[-1].length_s == pytest.approx(10.0)


def test_sound_comes_as_blocks_of_samples_where_a_model_hears_the_waveform(prepared: PreparedSet) -> None:
    clip = load_clip(next(row for row in prepared.rows if row.has_sound))
    assert clip.waveform is not None
    item = to_item(clip, Sampling(1, 32, looks=False, hears="samples"))
    assert item.voice.shape == (-(-len(clip.waveform) // 320), 320)
    assert item.voice.ravel()[: len(clip.waveform)].tolist() == clip.waveform.tolist()
    assert np.diff(item.voice_times_s) == pytest.approx(0.02, abs=1e-6)
    assert not item.seen.any()


def test_the_middle_of_a_crop_can_be_shown_alone() -> None:
    crop = np.zeros((80, 80, 3), dtype=np.uint8)
    crop[10:70, 10:70] = 200
    sample = FaceSample(0.0, FrameState.FACE, crop_jpeg=encode_crop(crop))
    clip = PreparedClip(0.0, 0.5, (sample,), None)
    whole, middle = (to_item(clip, Sampling(1, 40, listens=False, crop_share=share)).frames for share in (1.0, 0.75))
    assert middle.shape == whole.shape == (1, 3, 40, 40)
    assert middle.min() > 150
    assert whole[..., 0].max() < 50


def test_no_garbage_is_left_to_forked_processes() -> None:
    """A decoder in a cycle, collected in a forked process, would wait forever for threads that are not there."""

    class Cycle:
        def __init__(self) -> None:
            self.own = self

    gc.disable()
    try:
        lost = weakref.ref(Cycle())
        assert (safe_workers(0), lost() is None) == (0, False)
        assert (safe_workers(2), lost() is None) == (2, True)
    finally:
        gc.enable()
