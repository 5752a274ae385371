"""Augmentation: all frames of a clip change alike."""

from __future__ import annotations

import torch

from reactometer.training.augmentation import CLIP_LIMITS, augment


def test_all_frames_of_a_clip_change_alike_and_clips_differently() -> None:
    torch.manual_seed(0)
    picture = torch.randint(0, 255, (1, 1, 3, 24, 24), dtype=torch.uint8)
    changed = augment(picture.expand(6, 4, 3, 24, 24))
    assert changed.shape == (6, 4, 3, 24, 24)
    assert changed.dtype == torch.uint8
    for clip in changed:
        assert all(torch.equal(frame, clip[0]) for frame in clip)
    assert not torch.equal(changed[0], changed[1])


def test_about_half_of_the_clips_are_mirrored() -> None:
    torch.manual_seed(0)
    left_is_bright = torch.zeros((200, 1, 3, 16, 16), dtype=torch.uint8)
    left_is_bright[..., :8] = 255
    changed = augment(left_is_bright).float().mean(dim=(1, 2, 3))  # (200, 16)
    mirrored = int((changed[:, :8].mean(1) < changed[:, 8:].mean(1)).sum())
    assert 70 < mirrored < 130


def test_mixed_precision_moves_no_pixel_elsewhere() -> None:
    picture = torch.randint(0, 255, (2, 1, 3, 224, 224), dtype=torch.uint8)
    torch.manual_seed(0)
    exact = augment(picture)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(picture), exact)


def test_grey_images_are_augmented_within_the_limits() -> None:
    torch.manual_seed(0)
    picture = torch.linspace(40, 200, 24).to(torch.uint8).expand(64, 1, 1, 24, 24)
    spread = []
    for strength in (0.0, 0.3, 1.0):
        changed = augment(picture, {name: strength * 4 * limit for name, limit in CLIP_LIMITS.items()})
        assert changed.shape == picture.shape
        assert changed.dtype == torch.uint8
        rising = torch.where(
            changed[..., -1:] > changed[..., :1], changed, changed.flip(4)
        ).float()  # unmirrored
        spread.append(float((rising - picture).abs().mean()))
    assert spread[0] < 1.0
    assert spread[0] < spread[1] < spread[2]
