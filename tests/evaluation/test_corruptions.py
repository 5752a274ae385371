"""Each corruption changes a clip by exactly its level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reactometer.evaluation.robustness import (
    add_noise,
    hide_face,
    mute,
    shrink_faces,
    speech_power,
    thin_frames,
)
from reactometer.media.faces import decode_crop, encode_crop
from reactometer.types import (
    SOUND_RATE_HZ,
    ByteArray,
    Detection,
    FaceSample,
    FloatArray,
    FrameState,
    PreparedClip,
)

BOX = (1.0, 2.0, 3.0, 4.0)


def select_face(
    crops: list[ByteArray], waveform: FloatArray | None = None, rate_hz: float = 5.0
) -> PreparedClip:
    samples = tuple(
        FaceSample(index / rate_hz, FrameState.FACE, BOX, 0.9, encode_crop(crop))
        for index, crop in enumerate(crops)
    )
    return PreparedClip(0.0, len(crops) / rate_hz, samples, waveform)


def find_crop(frame: ByteArray) -> list[Detection]:
    """Detect a shrunk crop, a third of the frame, with the eyes where crops have them."""
    side = len(frame) / 3
    eyes = (side * 1.335, side * 1.39, side * 1.665, side * 1.39)
    return [Detection((side, side, side, side), 0.9, eyes)]


def plain(count: int) -> PreparedClip:
    return select_face([np.full((32, 32, 3), 90, np.uint8)] * count)


def hidden(clip: PreparedClip, share: float, seed: int = 0) -> list[bool]:
    changed = hide_face(clip, np.random.default_rng(seed), share)
    assert [sample.time_s for sample in changed.samples] == [sample.time_s for sample in clip.samples]
    for sample in changed.samples:
        assert (sample.crop_jpeg is None) == (sample.box is None) == (sample.state is FrameState.NO_FACE)
    return [sample.crop_jpeg is None for sample in changed.samples]


def test_the_requested_share_of_frames_is_hidden_and_a_larger_share_hides_a_superset() -> None:
    clip = plain(60)
    before = [False] * 60
    for share in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0):
        now = hidden(clip, share)
        assert sum(now) == round(share * 60)
        assert all(later or not earlier for earlier, later in zip(before, now, strict=True))
        before = now
    assert hidden(clip, 0.5) != hidden(clip, 0.5, seed=1)
    assert hidden(plain(0), 0.5) == []


def test_faces_are_hidden_for_a_second_at_a_time() -> None:
    """Hidden singly at random, 60 of 240 frames would make about 45 runs; of 5 frames each, at most 12 and
    two ends."""
    now = np.array(hidden(plain(240), 0.25), dtype=int)
    assert (np.diff(np.append(0, now)) == 1).sum() <= 14


def speech(loudness: float) -> FloatArray:
    """Two seconds of a tone, a second of silence between them: the power of the speech is known."""
    tone = loudness * np.sin(2 * np.pi * 200.0 * np.arange(SOUND_RATE_HZ) / SOUND_RATE_HZ)
    return np.concatenate([tone, np.zeros(SOUND_RATE_HZ), tone]).astype(np.float32)


@pytest.mark.parametrize("snr_db", [20, 10, 5, 0, -5])
@pytest.mark.parametrize("loudness", [0.05, 0.9])
def test_the_noise_has_the_requested_signal_to_noise_ratio(snr_db: int, loudness: float) -> None:
    """Measured in what comes out: the part that is the speech by least squares, and the rest; the pause has
    no say."""
    waveform = speech(loudness)
    noisy = add_noise(select_face([], waveform), np.random.default_rng(3), snr_db).waveform
    assert noisy is not None
    assert noisy.dtype == np.float32
    assert np.abs(noisy).max() <= 1.0
    gain = float(noisy @ waveform / (waveform @ waveform))
    noise = noisy - gain * waveform
    measured_db = 10 * np.log10((gain * loudness) ** 2 / 2 / np.mean(np.square(noise, dtype=np.float64)))
    assert measured_db == pytest.approx(snr_db, abs=0.1)
    assert speech_power(waveform) == pytest.approx(loudness**2 / 2, rel=1e-3)


def test_noise_is_white_and_only_grows_and_silence_stays_silence() -> None:
    clip = select_face([], speech(0.05))
    noisy = [np.asarray(add_noise(clip, np.random.default_rng(3), snr_db).waveform) for snr_db in (20, 10)]
    noises = [waveform - speech(0.05) for waveform in noisy]
    np.testing.assert_allclose(noises[1], noises[0] * np.sqrt(10), atol=1e-6)
    power = np.abs(np.fft.rfft(noises[0])) ** 2
    halves = power[: len(power) // 2].mean(), power[len(power) // 2 :].mean()
    assert halves[0] == pytest.approx(halves[1], rel=0.05)
    for silent in (replace(clip, waveform=None), replace(clip, waveform=np.zeros(1000, np.float32))):
        assert add_noise(silent, np.random.default_rng(0), 0) is silent
    assert mute(clip, np.random.default_rng(0)).waveform is None


def test_a_shrunk_crop_loses_only_fine_detail() -> None:
    """Images that differ only in single pixels become equal; images that differ in quarters stay
    different."""
    rng, size = np.random.default_rng(0), 64
    coarse = np.kron(
        rng.integers(40, 200, (4, 4, 3), dtype=np.uint8), np.ones((size // 4, size // 4, 1), np.uint8)
    )
    checks = 25 * ((np.indices((size, size)).sum(axis=0) % 2) * 2 - 1)[:, :, None]
    fine = (coarse + checks).astype(np.uint8)
    clip = select_face([coarse, fine])
    before = [decode_crop(sample.crop_jpeg or b"").astype(float) for sample in clip.samples]
    changed = shrink_faces(clip, np.random.default_rng(0), 16, find_crop)
    after = [decode_crop(sample.crop_jpeg or b"").astype(float) for sample in changed.samples]
    assert np.abs(before[0] - before[1]).mean() > 10
    assert np.abs(after[0] - after[1]).mean() < 1
    assert after[0].shape == (size, size, 3)
    assert np.corrcoef(after[0].ravel(), coarse.ravel())[0, 1] > 0.95
    assert shrink_faces(clip, np.random.default_rng(0), size, find_crop).samples == clip.samples
    faceless = hide_face(clip, np.random.default_rng(0), 1.0)
    assert shrink_faces(faceless, np.random.default_rng(0), 16, find_crop) == faceless


def test_the_spectrum_of_a_shrunk_crop_ends_where_its_pixels_do() -> None:
    """Of noise, which has all frequencies alike, less than a twentieth is left beyond twice the new limit."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    clip = select_face([noise])
    fine = []
    for shrunk in (clip, shrink_faces(clip, np.random.default_rng(0), 16, find_crop)):
        grey = decode_crop(shrunk.samples[0].crop_jpeg or b"").mean(axis=2)
        spectrum = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
        frequency = np.abs(np.fft.fftfreq(64))  # cycles a pixel; 16 pixels a side hold 1/8
        fine.append(spectrum[np.maximum.outer(frequency, frequency) > 2 / 8].sum())
    assert fine[1] < fine[0] / 20


def test_frames_are_thinned_and_never_all_of_them() -> None:
    clip = plain(7)
    thinned = {step: thin_frames(clip, np.random.default_rng(0), step).samples for step in (1, 2, 5, 25)}
    assert thinned[1] == clip.samples
    assert [sample.time_s for sample in thinned[2]] == pytest.approx([0.0, 0.4, 0.8, 1.2])
    assert len(thinned[5]) == 2
    assert thinned[25] == clip.samples[:1]
