"""What a model is shown of a clip, and how it comes: items, batches of them, and the data sets that draw them."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from reactometer.data.batches import (
    Item,
    MediaReader,
    Part,
    PartDataset,
    Sampling,
    Shuffled,
    TrainingDataset,
    collate,
    picture_of,
    to_item,
)
from reactometer.data.cache import PreparedRow, PreparedSet, load_clip
from reactometer.media.faces import decode_crop, encode_crop
from reactometer.types import Clip, FaceSample, FrameState, PreparedClip


def _item(n_frames: int, n_steps: int, number: int, targets: tuple[float, ...] | None = None) -> Item:
    """Features of frames, and of a voice, that are told apart by their numbers; the first frame is not seen."""
    frames = np.arange(1, 1 + 3 * n_frames, dtype=np.float32).reshape(n_frames, 3) * (np.arange(n_frames) > 0)[:, None]
    voice = -np.arange(1, 1 + 2 * n_steps, dtype=np.float32).reshape(n_steps, 2)
    times_s = [np.arange(1, 1 + count, dtype=np.float32) / np.float32(4) for count in (n_frames, n_steps)]
    return Item(frames, np.arange(n_frames) > 0, times_s[0], voice, times_s[1], targets, number)


def test_a_batch_holds_every_item_and_zeros_beyond_it() -> None:
    items = [_item(2, 3, 7, (0.1, 0.9)), _item(4, 0, 5), _item(0, 1, 6, (0.0, 1.0))]
    batch = collate(items, n_labels=2)
    assert (batch.frames.shape, batch.voice.shape) == ((3, 4, 3), (3, 3, 2))
    for place, item in enumerate(items):
        seen, heard = len(item.seen), len(item.voice)
        for own, padded in (
            (item.frames, batch.frames[place]),
            (item.seen, batch.frame_mask[place]),
            (item.times_s, batch.frame_times_s[place]),
            (item.voice, batch.voice[place]),
            (np.ones(heard, bool), batch.voice_mask[place]),
            (item.voice_times_s, batch.voice_times_s[place]),
        ):
            count = seen if len(own) == seen and padded.shape[0] == 4 else heard
            assert padded[:count].tolist() == own.tolist()
            assert not padded[count:].any()
    assert batch.targets.tolist() == [pytest.approx([0.1, 0.9]), [0.0, 0.0], [0.0, 1.0]]
    assert batch.target_mask.tolist() == [True, False, True]
    assert batch.number.tolist() == [7, 5, 6]
    kinds = [tensor.dtype for tensor in (batch.frames, batch.frame_mask, batch.frame_times_s, batch.targets)]
    assert kinds == [torch.float32, torch.bool, torch.float32, torch.float32]
    nothing = collate([_item(0, 0, 0)], n_labels=3)
    assert [len(tensor[0]) for tensor in nothing[:6]] == [1] * 6  # one step, masked: networks take no empty sequence
    assert not any(tensor.any() for tensor in nothing[:6])
    assert nothing.targets.tolist() == [[0.0, 0.0, 0.0]]


def _clip(loudness: float) -> PreparedClip:
    """From second 2 to 3: a face, none, another face; sound of half a second."""
    crops = [np.full((40, 40, 3), value, np.uint8) for value in (90, 160)]
    samples = (
        FaceSample(2.0, FrameState.FACE, crop_jpeg=encode_crop(crops[0])),
        FaceSample(2.25, FrameState.NO_FACE),
        FaceSample(2.75, FrameState.FACE, crop_jpeg=encode_crop(crops[1])),
    )
    waveform = np.float32(loudness) * np.sin(np.arange(8000, dtype=np.float32))
    return PreparedClip(2.0, 3.0, samples, waveform)


def test_an_item_is_what_the_model_goes_by_on_the_clips_own_clock() -> None:
    item = to_item(_clip(0.5), Sampling(8, 40))
    assert item.frames.shape == (3, 3, 40, 40)
    assert item.frames.dtype == np.uint8
    assert [round(float(frame.mean())) for frame in item.frames] == [90, 0, 160]
    assert (item.seen.tolist(), item.seen.dtype) == ([True, False, True], np.dtype(bool))
    assert (item.times_s.tolist(), item.times_s.dtype) == ([0.0, 0.25, 0.75], np.dtype(np.float32))
    assert item.voice.shape == (50, 64)
    assert item.voice_times_s.dtype == np.float32
    assert item.voice_times_s == pytest.approx(np.arange(50) / 100)
    assert (item.targets, item.number) == (None, 0)


@pytest.mark.parametrize(("sampling", "loudness"), [(Sampling(8, 40, listens=False), 0.5), (Sampling(8, 40), 1e-6)])
def test_silence_and_a_voice_that_is_not_asked_for_are_no_steps(sampling: Sampling, loudness: float) -> None:
    item = to_item(_clip(loudness), sampling)
    assert (len(item.voice), len(item.voice_times_s)) == (0, 0)
    assert item.seen.any()


def test_a_face_that_is_not_asked_for_is_not_shown() -> None:
    item = to_item(_clip(0.5), Sampling(8, 40, looks=False))
    assert not item.seen.any()
    assert not item.frames.any()
    assert len(item.voice) == 50


@pytest.mark.parametrize(("side_px", "way"), [(40, None), (15, cv2.INTER_AREA), (64, cv2.INTER_LINEAR)])
def test_crops_are_shrunk_by_area_and_grown_by_lines(side_px: int, way: int | None) -> None:
    crop = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    jpeg = encode_crop(crop)
    expected = (
        decode_crop(jpeg) if way is None else cv2.resize(decode_crop(jpeg), (side_px, side_px), interpolation=way)
    )
    assert (picture_of(jpeg, Sampling(1, side_px)) == expected.transpose(2, 0, 1)).all()
    middle = picture_of(jpeg, Sampling(1, 30, crop_share=0.75))  # a border of five pixels is cut off
    assert (middle == decode_crop(jpeg)[5:35, 5:35].transpose(2, 0, 1)).all()


def test_a_reader_cuts_its_part_and_changes_the_clip_by_what_its_name_draws(prepared: PreparedSet) -> None:
    row = next(row for row in prepared.rows if row.has_sound)
    drawn: list[float] = []

    def silence(clip: PreparedClip, rng: np.random.Generator) -> PreparedClip:
        drawn.append(rng.uniform())
        return replace(clip, waveform=None)

    sampling = Sampling(64, 32)
    part = Part(0, 0.5, 1.0)
    item = MediaReader(sampling)(row, part)
    cut = [sample.time_s for sample in load_clip(row).samples if 0.5 <= sample.time_s < 1.0]
    assert item.times_s == pytest.approx(np.array(cut) - 0.5)
    assert len(item.voice) == 50
    assert len(MediaReader(sampling, silence)(row, part).voice) == 0
    MediaReader(sampling, silence)(row, part, np.random.default_rng(5))
    assert drawn == [np.random.default_rng(zlib.crc32(row.clip.clip_id.encode())).uniform()] * 2
    few = MediaReader(Sampling(1, 32))
    jittered = {few(row, part, np.random.default_rng(seed)).times_s[0] for seed in range(20)}
    assert len(jittered) > 1


def _rows(count: int) -> list[PreparedRow]:
    return [PreparedRow(Clip(str(n), Path("x"), labels=(n / 10,)), duration_s=100.0 * (n % 2)) for n in range(count)]


def _told(row: PreparedRow, part: Part, rng: np.random.Generator | None) -> Item:
    """A reader whose item tells which clip, part and random number it is of."""
    drawn = -1.0 if rng is None else rng.uniform()
    times_s = np.array([float(row.clip.clip_id), part.start_s, drawn], np.float32)
    return replace(_item(4, 0, 99), times_s=times_s)


def test_scores_are_of_every_part_in_order_and_with_the_clips_labels() -> None:
    dataset = PartDataset(_rows(2), _told)
    told = [tuple(item.times_s.tolist()) for item in map(dataset.__getitem__, range(len(dataset)))]
    assert told == [(0, 0, -1), (1, 0, -1), (1, 60, -1)]
    assert [(dataset[place].number, dataset[place].targets) for place in (0, 2)] == [(0, (0.0,)), (2, (0.1,))]


def test_training_draws_one_part_of_a_clip_by_seed_epoch_and_clip() -> None:
    for seed in range(20):
        dataset = TrainingDataset(_rows(2), _told, seed, epoch=4)
        rng = np.random.default_rng((seed, 4, 1))
        place = int(rng.integers(2))
        item = dataset[1]
        assert item.times_s.tolist() == pytest.approx([1, 60 * place, rng.uniform()])
        assert (item.number, item.targets, len(dataset)) == (1, (0.1,), 2)


def test_an_epoch_is_shuffled_and_filled_up_with_clips_that_do_not_teach() -> None:
    clips = TrainingDataset(_rows(7), _told, seed=1, epoch=2)
    order = np.random.default_rng((1, 2)).permutation(7).tolist()
    alone, dealt = Shuffled(clips), Shuffled(clips, n_processes=3)
    assert (len(alone), len(dealt)) == (7, 9)
    assert [alone[place].number for place in range(7)] == order
    assert [dealt[place].number for place in range(9)] == order + order[:2]
    assert [dealt[place].targets is None for place in range(9)] == [False] * 7 + [True] * 2
    assert dealt[3].targets == (order[3] / 10,)
