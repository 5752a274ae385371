"""Model inputs of a clip: sampled frames, crops, and sound."""

from __future__ import annotations

import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

from reactometer.data.cache import PreparedSet, load_clip
from reactometer.data.inputs import (
    ClipPart,
    InputSpec,
    MediaReader,
    decode_frame,
    sample_frame_indices,
    to_item,
)
from reactometer.media.faces import decode_crop, encode_crop
from reactometer.types import FaceSample, FrameState, PreparedClip


def test_frames_are_evenly_spaced_in_time() -> None:
    times_s = list(np.arange(66) / 6.0)
    picked = sample_frame_indices(times_s, 0.0, 11.0, 32)
    assert len(picked) == 32
    gaps = np.diff([times_s[index] for index in picked])
    assert gaps.max() - gaps.min() < 0.2
    assert times_s[picked[0]] < 0.34
    assert times_s[picked[-1]] > 10.6


def test_frames_are_sampled_by_time_and_not_by_index() -> None:
    times_s = [0.0, 0.01, 0.02, 0.03, 5.0, 10.0]
    assert sample_frame_indices(times_s, 0.0, 10.0, 2) == [3, 4]


def test_few_frames_are_each_sampled_once() -> None:
    assert sample_frame_indices([0.0, 0.5, 1.0], 0.0, 1.5, 32) == [0, 1, 2]
    assert sample_frame_indices([0.3], 0.0, 1.0, 8) == [0]
    assert sample_frame_indices([], 0.0, 1.0, 8) == []
    assert sample_frame_indices([0.0], 0.0, 0.0, 8) == []


def test_jitter_moves_frames_within_their_bin() -> None:
    times_s = list(np.arange(1000) / 100.0)
    draws = [sample_frame_indices(times_s, 0.0, 10.0, 10, np.random.default_rng(seed)) for seed in range(20)]
    assert len({tuple(draw) for draw in draws}) == 20
    for draw in draws:
        assert [int(times_s[index]) for index in draw] == list(range(10))


@pytest.mark.parametrize("seed", range(4))
def test_sampled_frames_are_nearest_to_the_centres_of_equal_bins(seed: int) -> None:
    """Or, in training, to a moment drawn from each part."""
    generator = np.random.default_rng(seed)
    for _ in range(50):
        n_samples, n_frames = generator.integers(1, 12, 2)
        start_s, end_s = 2.0, 2.0 + float(generator.uniform(0.5, 4.0))
        times_s = np.sort(generator.uniform(start_s - 0.5, end_s + 0.5, n_samples))
        for rng in (None, np.random.default_rng(seed)):
            shifts = (
                [0.0] * n_frames if rng is None else np.random.default_rng(seed).uniform(-0.5, 0.5, n_frames)
            )
            length_s = (end_s - start_s) / n_frames
            moments_s = [start_s + (part + 0.5 + shift) * length_s for part, shift in enumerate(shifts)]
            nearest = {
                min(range(n_samples), key=lambda index: (abs(times_s[index] - at_s), index))
                for at_s in moments_s
            }
            drawn = sample_frame_indices(times_s.tolist(), start_s, end_s, int(n_frames), rng)
            assert drawn == sorted(nearest)


def test_the_earlier_of_two_equally_near_frames_is_sampled() -> None:
    assert sample_frame_indices([0.0, 1.0], 0.0, 1.0, 1) == [0]


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


def test_an_item_has_the_models_inputs_on_the_clips_clock() -> None:
    item = to_item(_clip(0.5), InputSpec(8, 40))
    assert item.streams["face"].values.shape == (3, 3, 40, 40)
    assert item.streams["face"].values.dtype == np.uint8
    assert [round(float(frame.mean())) for frame in item.streams["face"].values] == [90, 0, 160]
    assert (item.streams["face"].mask.tolist(), item.streams["face"].mask.dtype) == (
        [True, False, True],
        np.dtype(bool),
    )
    assert (item.streams["face"].times_s.tolist(), item.streams["face"].times_s.dtype) == (
        [0.0, 0.25, 0.75],
        np.dtype(np.float32),
    )
    assert item.streams["voice"].values.shape == (50, 64)
    assert item.streams["voice"].times_s.dtype == np.float32
    assert item.streams["voice"].times_s == pytest.approx(np.arange(50) / 100)
    assert (item.targets, item.clip_index) == (None, 0)


@pytest.mark.parametrize(
    ("sampling", "loudness"), [(InputSpec(8, 40, media=("face",)), 0.5), (InputSpec(8, 40), 1e-6)]
)
def test_silence_and_an_unused_voice_give_no_steps(sampling: InputSpec, loudness: float) -> None:
    item = to_item(_clip(loudness), sampling)
    assert not item.has("voice")
    assert item.streams["face"].mask.any()


def test_an_unused_face_is_masked() -> None:
    item = to_item(_clip(0.5), InputSpec(8, 40, media=("voice",)))
    assert not item.has("face")
    assert len(item.streams["voice"].values) == 50


@pytest.mark.parametrize(("side_px", "way"), [(40, None), (15, cv2.INTER_AREA), (64, cv2.INTER_LINEAR)])
def test_crops_are_shrunk_by_area_and_enlarged_linearly(side_px: int, way: int | None) -> None:
    crop = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    jpeg = encode_crop(crop)
    expected = (
        decode_crop(jpeg)
        if way is None
        else cv2.resize(decode_crop(jpeg), (side_px, side_px), interpolation=way)
    )
    assert (decode_frame(jpeg, InputSpec(1, side_px)) == expected.transpose(2, 0, 1)).all()
    middle = decode_frame(jpeg, InputSpec(1, 30, crop_share=0.75))  # a border of five pixels is cut off
    assert (middle == decode_crop(jpeg)[5:35, 5:35].transpose(2, 0, 1)).all()


def test_a_reader_slices_its_part_and_seeds_transforms_by_clip_id(prepared: PreparedSet) -> None:
    row = next(row for row in prepared.rows if row.has_sound)
    drawn: list[float] = []

    def silence(clip: PreparedClip, rng: np.random.Generator) -> PreparedClip:
        drawn.append(rng.uniform())
        return replace(clip, waveform=None)

    sampling = InputSpec(64, 32)
    part = ClipPart(0, 0.5, 1.0)
    item = MediaReader(sampling)(row, part)
    cut = [sample.time_s for sample in load_clip(row).samples if 0.5 <= sample.time_s < 1.0]
    assert item.streams["face"].times_s == pytest.approx(np.array(cut) - 0.5)
    assert len(item.streams["voice"].values) == 50
    assert len(MediaReader(sampling, silence)(row, part).streams["voice"].values) == 0
    MediaReader(sampling, silence)(row, part, np.random.default_rng(5))
    assert drawn == [np.random.default_rng(zlib.crc32(row.clip.clip_id.encode())).uniform()] * 2
    few = MediaReader(InputSpec(1, 32))
    jittered = {few(row, part, np.random.default_rng(seed)).streams["face"].times_s[0] for seed in range(20)}
    assert len(jittered) > 1


def test_waveform_models_get_blocks_of_samples(prepared: PreparedSet) -> None:
    clip = load_clip(next(row for row in prepared.rows if row.has_sound))
    assert clip.waveform is not None
    item = to_item(clip, InputSpec(1, 32, media=("voice",), audio_input="samples"))
    assert item.streams["voice"].values.shape == (-(-len(clip.waveform) // 320), 320)
    assert item.streams["voice"].values.ravel()[: len(clip.waveform)].tolist() == clip.waveform.tolist()
    assert np.diff(item.streams["voice"].times_s) == pytest.approx(0.02, abs=1e-6)
    assert not item.has("face")


def test_a_frame_without_a_face_is_masked(prepared: PreparedSet) -> None:
    samples = load_clip(prepared.rows[0]).samples
    gone = FaceSample(samples[1].time_s, FrameState.NO_FACE)
    item = to_item(
        PreparedClip(0.0, 1.5, (samples[0], gone, *samples[2:]), None), InputSpec(32, 32, media=("face",))
    )
    assert len(item.streams["face"].mask) == len(samples)
    assert not item.streams["face"].mask[1]
    assert not item.streams["face"].values[1].any()


def test_an_empty_file_gives_an_empty_item() -> None:
    item = to_item(PreparedClip(0.0, 0.0, (), None), InputSpec(4, 32))
    assert (len(item.streams["face"].mask), len(item.streams["voice"].values)) == (0, 0)
