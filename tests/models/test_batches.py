"""Batches of a training: how padding is masked, and what follows from the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from item_of import item_of
from reactometer.data.cache import PreparedRow, PreparedSet, load_clip
from reactometer.data.inputs import ClipPart, InputSpec, Item, all_steps, to_item
from reactometer.models.batches import PartDataset, TrainingDataset, collate
from reactometer.models.heads import masked_moments
from reactometer.types import Clip, PreparedClip

settings.register_profile("here", deadline=None, max_examples=50, database=None, derandomize=True)
settings.load_profile("here")

SAMPLING = InputSpec(n_frames=4, size_px=32)


def _item(n_frames: int, n_steps: int, number: int, targets: tuple[float, ...] | None = None) -> Item:
    """Features of frames, and of a voice, that are told apart by their numbers; the first frame is not
    seen."""
    frames = (
        np.arange(1, 1 + 3 * n_frames, dtype=np.float32).reshape(n_frames, 3)
        * (np.arange(n_frames) > 0)[:, None]
    )
    voice = -np.arange(1, 1 + 2 * n_steps, dtype=np.float32).reshape(n_steps, 2)
    times_s = [np.arange(1, 1 + count, dtype=np.float32) / np.float32(4) for count in (n_frames, n_steps)]
    return item_of(frames, np.arange(n_frames) > 0, times_s[0], voice, times_s[1], targets, clip_index=number)


def test_a_batch_holds_every_item_and_zeros_beyond_it() -> None:
    items = [_item(2, 3, 7, (0.1, 0.9)), _item(4, 0, 5), _item(0, 1, 6, (0.0, 1.0))]
    batch = collate(items, n_labels=2)
    assert (batch.streams["face"].values.shape, batch.streams["voice"].values.shape) == ((3, 4, 3), (3, 3, 2))
    for i, item in enumerate(items):
        seen, heard = len(item.streams["face"].mask), len(item.streams["voice"].values)
        for array, padded in (
            (item.streams["face"].values, batch.streams["face"].values[i]),
            (item.streams["face"].mask, batch.streams["face"].mask[i]),
            (item.streams["face"].times_s, batch.streams["face"].times_s[i]),
            (item.streams["voice"].values, batch.streams["voice"].values[i]),
            (np.ones(heard, bool), batch.streams["voice"].mask[i]),
            (item.streams["voice"].times_s, batch.streams["voice"].times_s[i]),
        ):
            count = seen if len(array) == seen and padded.shape[0] == 4 else heard
            assert padded[:count].tolist() == array.tolist()
            assert not padded[count:].any()
    assert batch.targets.tolist() == [pytest.approx([0.1, 0.9]), [0.0, 0.0], [0.0, 1.0]]
    assert batch.target_mask.tolist() == [True, False, True]
    assert batch.clip_index.tolist() == [7, 5, 6]
    kinds = [tensor.dtype for tensor in (*batch.streams["face"], batch.targets)]
    assert kinds == [torch.float32, torch.bool, torch.float32, torch.float32]
    nothing = collate([_item(0, 0, 0)], n_labels=3)
    for stream in nothing.streams.values():  # one step, masked: networks take no empty sequence
        assert [tensor.shape[1] for tensor in stream] == [1] * 3
        assert not any(tensor.any() for tensor in stream)
    assert nothing.targets.tolist() == [[0.0, 0.0, 0.0]]


def test_padding_is_masked_and_zero(prepared: PreparedSet) -> None:
    voiced = next(row for row in prepared.rows if row.has_sound)
    mute = next(row for row in prepared.rows if not row.has_sound)
    short = PreparedClip(0.0, 0.1, load_clip(voiced).samples[:1], None)
    items = [
        to_item(load_clip(voiced), SAMPLING),
        to_item(load_clip(mute), SAMPLING),
        to_item(short, SAMPLING),
    ]
    batch = collate(items, n_labels=2)
    assert batch.streams["face"].values.shape == (3, 4, 3, 32, 32)
    assert batch.streams["voice"].values.shape[0::2] == (3, 64)
    assert batch.streams["face"].mask.sum(1).tolist()[2] == 1
    assert batch.streams["voice"].mask.any(1).tolist() == [True, False, False]
    assert not batch.streams["face"].values[2, 1:].any()
    assert not batch.streams["voice"].values[1:].any()
    assert batch.target_mask.tolist() == [False, False, False]


def _rows(count: int) -> list[PreparedRow]:
    return [
        PreparedRow(Clip(str(n), Path("x"), labels=(n / 10,)), duration_s=100.0 * (n % 2))
        for n in range(count)
    ]


def _told(row: PreparedRow, part: ClipPart, rng: np.random.Generator | None) -> Item:
    """A reader whose item tells which clip, part and random number it is of."""
    drawn = -1.0 if rng is None else rng.uniform()
    times_s = np.array([float(row.clip.clip_id), part.start_s, drawn], np.float32)
    return Item({"face": all_steps(np.zeros((3, 1), np.float32), times_s)})


def test_scores_are_of_every_part_in_order_and_with_the_clips_labels() -> None:
    dataset = PartDataset(_rows(2), _told)
    times_s = [
        tuple(item.streams["face"].times_s.tolist()) for item in map(dataset.__getitem__, range(len(dataset)))
    ]
    assert times_s == [(0, 0, -1), (1, 0, -1), (1, 60, -1)]
    assert [(dataset[i].clip_index, dataset[i].targets) for i in (0, 2)] == [(0, (0.0,)), (2, (0.1,))]


def test_training_draws_one_part_of_a_clip_by_seed_epoch_and_clip() -> None:
    for seed in range(20):
        dataset = TrainingDataset(_rows(2), _told, seed, epoch=4)
        rng = np.random.default_rng((seed, 4, 1))
        i = int(rng.integers(2))
        item = dataset[dataset.order.index(1)]
        assert item.streams["face"].times_s.tolist() == pytest.approx([1, 60 * i, rng.uniform()])
        assert (item.clip_index, item.targets, len(dataset)) == (1, (0.1,), 2)


def test_an_epoch_is_shuffled_and_filled_up_with_clips_that_do_not_teach() -> None:
    order = np.random.default_rng((1, 2)).permutation(7).tolist()
    single, dealt = (TrainingDataset(_rows(7), _told, seed=1, epoch=2, n_processes=count) for count in (1, 3))
    assert (len(single), len(dealt)) == (7, 9)
    assert [single[i].clip_index for i in range(7)] == order
    assert [dealt[i].clip_index for i in range(9)] == order + order[:2]
    assert [dealt[i].targets is None for i in range(9)] == [False] * 7 + [True] * 2
    assert dealt[3].targets == (order[3] / 10,)


@st.composite
def items(draw: st.DrawFn) -> Item:
    """Given features: three per frame, two per step of the voice."""
    n_frames, n_steps, seed = draw(st.integers(0, 6)), draw(st.integers(0, 9)), draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    seen = np.array(draw(st.lists(st.booleans(), min_size=n_frames, max_size=n_frames)), dtype=bool)
    frames, voice = rng.normal(size=(n_frames, 3)), rng.normal(size=(n_steps, 2))
    times_s = np.arange(n_frames, dtype=np.float32), np.arange(n_steps, dtype=np.float32)
    return item_of(frames.astype(np.float32), seen, times_s[0], voice.astype(np.float32), times_s[1])


@given(st.lists(items(), min_size=1, max_size=5))
def test_a_mask_is_true_for_seen_frames_and_audible_steps_only(clips: list[Item]) -> None:
    batch = collate(clips, 1)
    for row, item in enumerate(clips):
        assert (
            batch.streams["face"].mask[row].tolist()[: len(item.streams["face"].mask)]
            == item.streams["face"].mask.tolist()
        )
        assert int(batch.streams["face"].mask[row].sum()) == int(item.streams["face"].mask.sum())
        assert batch.streams["voice"].mask[row].tolist() == [
            step < len(item.streams["voice"].values) for step in range(batch.streams["voice"].values.shape[1])
        ]
        assert np.array_equal(
            batch.streams["face"]
            .values[row, : len(item.streams["face"].values)]
            .numpy()[item.streams["face"].mask],
            item.streams["face"].visible,
        )
        assert np.array_equal(
            batch.streams["voice"].values[row, : len(item.streams["voice"].values)].numpy(),
            item.streams["voice"].values,
        )


@given(st.lists(items(), min_size=1, max_size=5), st.floats(-1e6, 1e6, width=32))
def test_values_outside_a_mask_change_no_moment(clips: list[Item], rubbish: float) -> None:
    batch = collate(clips, 1)
    changed = torch.where(
        batch.streams["face"].mask.unsqueeze(2), batch.streams["face"].values, torch.tensor(rubbish)
    )
    for before, after in zip(
        masked_moments(batch.streams["face"].values, batch.streams["face"].mask),
        masked_moments(changed, batch.streams["face"].mask),
        strict=True,
    ):
        assert torch.equal(before, after)
