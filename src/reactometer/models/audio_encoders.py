"""Voice encoders: a log-mel spectrogram or the waveform -> a sequence of features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reactometer.data.inputs import BLOCK_SIZE
from reactometer.errors import WeightsError
from reactometer.media.audio_features import MEL_BANDS, N_CONTOURS, contours
from reactometer.models.backbones import Net, describe_net, load_net

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
"""Of the convolutions of HuBERT, wav2vec 2.0 and WavLM: each step is one block further and hears 400 samples."""
OVERLAP = 400 - BLOCK_SIZE

TYPICAL_S = 2.0
"""Time of the middle of a typical utterance, on whose scale steps carry their time; our choice."""


def every_nth(steps: Tensor, n: int, count: int) -> Tensor:
    """Return ``count`` of the steps (B, N): every nth, from the first.

    The exporter proves the length of a slice equal to a convolution's, which takes it seconds; this has none to prove.
    """
    return steps.index_select(1, n * torch.arange(count, device=steps.device))


class VoiceEncoder(nn.Module):
    """A small convolutional network over the log-mel spectrogram; our choice, trained from random weights."""

    mean: Tensor
    std: Tensor
    pretrained = False

    def __init__(self, channels: Sequence[int] = (16, 32, 48, 64)) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((MEL_BANDS,), -8.0))
        self.register_buffer("std", torch.full((MEL_BANDS,), 3.0))
        sizes = [1, *channels]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
            )
            for before, after in pairwise(sizes)
        )
        self.stride = 2 ** len(channels)
        self.feature_size = channels[-1] * MEL_BANDS // self.stride

    def forward(self, voice: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode sound.

        Args:
            voice: (B, N, M) float32 log-mel.
            mask: (B, N) bool; what lies outside it has no effect.

        Returns:
            (B, N / 16, D) float32, rounded up, zeros outside the mask, and that mask (B, N / 16); step n stands for
            the time of step 16 n of the spectrogram.
        """
        steps = self.encode(voice, mask)
        return steps, every_nth(mask, self.stride, steps.shape[1])

    def encode(self, voice: Tensor, mask: Tensor) -> Tensor:
        """The features alone."""
        maps = ((voice - self.mean) / self.std).unsqueeze(1)  # (B, 1, N, M)
        for block in self.blocks:
            maps = block(maps * mask[:, None, :, None])  # (B, channels, N / 2, M / 2) each time
            mask = every_nth(mask, 2, maps.shape[2])
        steps = maps.transpose(1, 2).flatten(2)  # (B, N / 16, channels * M / 16)
        return steps * mask.unsqueeze(2)


class StepConvolution(nn.Module):
    """A small convolutional network over the steps of given features (a contour of pitch or loudness, MFCCs).

    Beside the features it sees when each step is. Our choice, trained from random weights.
    """

    mean: Tensor
    std: Tensor
    pretrained = False

    def __init__(self, input_size: int, channels: Sequence[int] = (32, 64, 64), kernel: int = 15) -> None:
        super().__init__()
        self.input_size = input_size
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("std", torch.ones(input_size))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(before, after, kernel, stride=2, padding=kernel // 2), nn.BatchNorm1d(after), nn.GELU()
            )
            for before, after in pairwise([input_size + 2, *channels])
        )
        self.stride = 2 ** len(channels)
        self.feature_size = channels[-1]

    def forward(self, voice: Tensor, mask: Tensor, times_s: Tensor) -> tuple[Tensor, Tensor]:
        """Encode steps.

        Args:
            voice: (B, N, M) float32 features.
            mask: (B, N) bool; what lies outside it has no effect.
            times_s: (B, N) float32, seconds from the beginning of the clip.

        Returns:
            (B, N / 8, D) float32, rounded up, zeros outside the mask, and that mask (B, N / 8).
        """
        steps = self.encode(voice, mask, times_s)
        return steps, every_nth(mask, self.stride, steps.shape[1])

    def encode(self, voice: Tensor, mask: Tensor, times_s: Tensor) -> Tensor:
        """The features alone."""
        when = times_s / TYPICAL_S - 1.0  # (B, N)
        beside = torch.stack((when, torch.ones_like(when)), dim=2)  # (B, N, 2)
        maps = torch.cat(((voice - self.mean) / self.std, beside), dim=2).transpose(1, 2)  # (B, M + 2, N)
        for block in self.blocks:
            maps = block(maps * mask.unsqueeze(1))  # (B, channels, N / 2) each time
            mask = every_nth(mask, 2, maps.shape[2])
        return maps.transpose(1, 2) * mask.unsqueeze(2)

    def describe(self) -> dict[str, int]:
        """What is needed to make it again, as JSON can hold it."""
        return {"convolution": self.input_size}


class ContourEncoder(nn.Module):
    """Timbre, pitch and loudness over time, with nothing learned; for few clips, whose head then learns their means.

    Every clip is heard alone and at its own length, and its pauses are left out.
    """

    stride = 1
    pretrained = False
    feature_size = N_CONTOURS

    def forward(self, voice: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode sound.

        Args:
            voice: (B, N, 320) float32 in [-1, 1]: 16 kHz in blocks of 20 ms.
            mask: (B, N) bool: the block is sound.

        Returns:
            (B, N, 43) float32, see :func:`~reactometer.media.audio_features.contours`, zeros outside the mask; and the
            mask (B, N) of the blocks in which somebody speaks.
        """
        features = torch.zeros((*mask.shape, self.feature_size))
        speech = torch.zeros(mask.shape, dtype=torch.bool)
        for row, heard in enumerate(mask.cpu()):
            if heard.any():
                values, speaks = contours(voice[row].cpu()[heard].flatten().numpy())  # (K, D), (K,)
                features[row, heard] = torch.from_numpy(values)
                speech[row, heard] = torch.from_numpy(speaks)
        features = features * speech.unsqueeze(2)
        return features.to(voice.device), speech.to(voice.device)

    def describe(self) -> dict[str, int]:
        """What is needed to make it again, as JSON can hold it."""
        return {"contours": self.feature_size}


class SpeechEncoder(nn.Module):
    """HuBERT, wav2vec 2.0 or WavLM over the waveform.

    Every clip is heard at its own length: the group norm of these networks takes its mean over time, so that padding
    would change every number.
    """

    stride = 1

    def __init__(self, net: Net) -> None:
        super().__init__()
        config: Any = net.module.config
        self.net = net.module
        self.settings, self.pretrained = net.settings, net.pretrained
        self.feature_size = int(config.hidden_size)

    def forward(self, voice: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode sound.

        Args:
            voice: (B, N, 320) float32 in [-1, 1]: 16 kHz in blocks of 20 ms.
            mask: (B, N) bool: the block is sound; what lies outside it has no effect.

        Returns:
            (B, N, D) float32, zeros outside the mask, and the mask as it came; step n stands for
            block n (before the transformer it hears the 25 ms from its beginning).
        """
        features = torch.zeros((*mask.shape, self.feature_size), device=voice.device)
        lengths = mask.sum(1)  # (B,)
        for length in sorted(set(lengths.tolist())):
            if length > 0:
                same = (lengths == length).unsqueeze(1) & mask  # (B, N)
                waveform = voice[same].view(-1, length * BLOCK_SIZE)  # (K, length * 320)
                features[same] = self.encode(waveform).flatten(0, 1)  # (K * length, D)
        return features, mask

    def describe(self) -> dict[str, Any]:
        """Describe the encoder for :func:`~reactometer.models.registry.rebuild_encoders`, as JSON can hold it."""
        return describe_net(Net(self.net, self.settings, self.pretrained))

    def encode(self, waveform: Tensor) -> Tensor:
        """(K, length * 320) float32 -> (K, length, D) float32: what is exported."""
        if self.settings.get("do_normalize", True):
            variance, mean = torch.var_mean(waveform, dim=1, correction=0, keepdim=True)  # (K, 1) each
            waveform = (waveform - mean) / (variance + 1e-7).sqrt()
        padded = functional.pad(waveform, (0, OVERLAP))  # so that the last block has its step
        hidden: Tensor = self.net(input_values=padded).last_hidden_state
        return hidden.float()


def load_speech_encoder(name: str) -> SpeechEncoder:
    """Get a speech encoder by name, see :func:`~reactometer.models.backbones.load_net`.

    Raises:
        WeightsError: it cannot be had, does not take sound, or does not step by 20 ms.
    """
    net = load_net(name, "sound")
    config: Any = net.module.config
    kernels, strides = getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ())
    if (tuple(kernels), tuple(strides)) != (KERNELS, STRIDES):
        raise WeightsError(
            f"encoder '{name}' does not hear as HuBERT does",
            got=f"convolutions over {list(kernels)} in strides of {list(strides)}" if kernels else "no waveform",
            expected=f"convolutions over {list(KERNELS)} in strides of {list(STRIDES)}",
        )
    return SpeechEncoder(net)
