"""Voice encoders: a log-mel spectrogram or the waveform becomes a sequence of features."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from reactometer.data.inputs import BLOCK_SIZE
from reactometer.errors import WeightsError
from reactometer.media.audio_features import MEL_BANDS, N_CONTOURS
from reactometer.models.backbones import Backbone
from reactometer.models.batches import Stream

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
"""Convolutions of HuBERT, wav2vec 2.0 and WavLM: one step per block of samples, with a receptive field of
400."""
OVERLAP = 400 - BLOCK_SIZE

TYPICAL_S = 2.0
"""Middle of a typical utterance, seconds: the unit in which the convolution receives the time of each step.
"""


def every_nth(steps: Tensor, n: int, count: int) -> Tensor:
    """Return ``count`` of the steps (B, N): every nth, from the first.

    Unlike for a slice, the exporter need not prove that its length equals a convolution's, which takes
    seconds.
    """
    return steps.index_select(1, n * torch.arange(count, device=steps.device))


class LogMelEncoder(nn.Module):
    """A small convolutional network over the log-mel spectrogram, trained from random weights."""

    pretrained = False
    input_kind: Final = "log-mel"
    stride = 16
    input_size = MEL_BANDS
    feature_size = 64 * MEL_BANDS // stride

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()
            )
            for n_in, n_out in pairwise((1, 16, 32, 48, 64))
        )

    def forward(self, voice: Stream) -> Stream:
        """Encode a standardised spectrogram (B, N, M) to (B, N / 16, D), rounded up; step n is at the time of
        16 n."""
        maps = voice.values.unsqueeze(1)
        mask = voice.mask  # (B, 1, N, M), (B, N)
        for block in self.blocks:
            maps = block(maps * mask[:, None, :, None])  # (B, channels, N / 2, M / 2) each time
            mask = every_nth(mask, 2, maps.shape[2])
        steps = maps.transpose(1, 2).flatten(2)  # (B, N / 16, channels * M / 16)
        return Stream(steps * mask.unsqueeze(2), mask, every_nth(voice.times_s, self.stride, steps.shape[1]))


class StepConvolution(nn.Module):
    """A small convolutional network over precomputed features per step (a contour of pitch or loudness,
    MFCCs).

    Its input includes the time of each step. It is trained from random weights.
    """

    pretrained = False
    input_kind: Final = "features"
    stride = 8
    feature_size = 64

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(n_in, n_out, 15, stride=2, padding=7), nn.BatchNorm1d(n_out), nn.GELU())
            for n_in, n_out in pairwise((input_size + 2, 32, 64, 64))
        )

    def forward(self, voice: Stream) -> Stream:
        """Encode standardised steps (B, N, M) to (B, N / 8, D), rounded up; step n is at the time of 8 n."""
        times, mask = voice.times_s / TYPICAL_S - 1.0, voice.mask  # (B, N) each
        maps = torch.cat(
            (voice.values, torch.stack((times, torch.ones_like(times)), dim=2)), dim=2
        )  # (B, N, M + 2)
        maps = maps.transpose(1, 2)  # (B, M + 2, N)
        for block in self.blocks:
            maps = block(maps * mask.unsqueeze(1))  # (B, channels, N / 2) each time
            mask = every_nth(mask, 2, maps.shape[2])
        steps = maps.transpose(1, 2) * mask.unsqueeze(2)  # (B, N / 8, channels)
        return Stream(steps, mask, every_nth(voice.times_s, self.stride, steps.shape[1]))


class ContourEncoder(nn.Module):
    """Timbre, pitch and loudness, for few clips. Features are computed before training, and nothing is
    learned.

    See :func:`~reactometer.media.audio_features.contours`.
    """

    pretrained = False
    input_kind: Final = "contours"
    feature_size = N_CONTOURS


class SpeechEncoder(nn.Module):
    """HuBERT, wav2vec 2.0 or WavLM over the waveform.

    Raises:
        WeightsError: the network's steps are not 20 ms apart.
    """

    input_kind: Final = "waveform"
    checkpointing = False  # recompute activations in the backward pass

    def __init__(self, net: Backbone) -> None:
        super().__init__()
        config: Any = net.module.config
        kernels = getattr(config, "conv_kernel", ())
        strides = getattr(config, "conv_stride", ())
        if (tuple(kernels), tuple(strides)) != (KERNELS, STRIDES):
            raise WeightsError(
                f"a speech encoder of type '{config.model_type}' is not like HuBERT",
                got=f"convolutions over {list(kernels)} in strides of {list(strides)}"
                if kernels
                else "no waveform",
                expected=f"convolutions over {list(KERNELS)} in strides of {list(STRIDES)}",
            )
        self.net = net.module
        self.settings, self.pretrained = net.settings, net.pretrained
        self.feature_size = int(config.hidden_size)

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode waveforms of equal length.

        Args:
            waveform: (K, N * 320) float32 in [-1, 1], 16 kHz.

        Returns:
            (K, N, D) float32, one step per 20 ms; its receptive field before the transformer is the next 25
            ms.
        """
        if self.settings.get("do_normalize", True):
            variance, mean = torch.var_mean(waveform, dim=1, correction=0, keepdim=True)  # (K, 1) each
            waveform = (waveform - mean) / (variance + 1e-7).sqrt()
        padded = functional.pad(waveform, (0, OVERLAP))  # so that the last block has its step
        hidden: Tensor = self.net(input_values=padded).last_hidden_state
        return hidden.float()
