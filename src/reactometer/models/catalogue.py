"""The systems with their own encoders: what each costs, and whose weights it takes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from reactometer.config import ModelConfig
from reactometer.media.voice import MEL_BANDS, STEP_RATE_HZ
from reactometer.models.backbones import RANDOM
from reactometer.models.encoders import ClipEncoder, FrameEncoder
from reactometer.models.network import ReactionModel
from reactometer.models.pretrained import PRETRAINED, Weights
from reactometer.models.streams import Stream
from reactometer.models.voice_encoders import VoiceEncoder
from reactometer.models.zoo import SYSTEMS, build_model, load_encoders

CLIP_S = 11.0
"""Length of the clip that costs are counted for: about the mean of Hume-Reaction's."""


def count_multiply_adds(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of one call in matrix products and convolutions, attention's included; nothing is computed.

    Args:
        module: in evaluation mode, and one that does not choose by value (a mask) what it computes: of an encoder,
            the network inside, ``encoder.net``.
        inputs: what it is called with; only shapes and dtypes matter.
    """
    state = {name: tensor.to("meta") for name, tensor in chain(module.named_parameters(), module.named_buffers())}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(module, state, tuple(tensor.to("meta") for tensor in inputs))
    return int(counter.get_total_flops()) // 2


@dataclass(frozen=True)
class Entry:
    """One system with its own encoder: what it is, what it costs, where its weights come from."""

    name: str
    summary: str
    encoder: str
    weights: Weights
    parameters: int
    multiply_adds: int  # of a clip of CLIP_S seconds at the default settings


def list_systems(n_labels: int = 7) -> list[Entry]:
    """Every system at its default settings; the networks are built with random weights, nothing is fetched."""
    return [_entry(name, n_labels) for name in SYSTEMS]


def _entry(name: str, n_labels: int) -> Entry:
    system = SYSTEMS[name]
    weights = PRETRAINED[system.encoder]
    config = ModelConfig(name=name, encoder=RANDOM + weights.architecture)
    with torch.device("meta"):  # sizes and costs follow from shapes alone
        encoders = load_encoders(config)
    model = build_model(config, encoders, [0.5] * n_labels).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Entry(name, system.summary, system.encoder, weights, parameters, _cost(model, config))


@torch.no_grad()
def _cost(model: ReactionModel, config: ModelConfig) -> int:
    """Multiply-adds of a whole clip: of its encoders, of its head, of the output layer."""
    size, cost, streams = config.size_px, 0, []
    steps = {"face": 0, "voice": 0}
    if isinstance(model.face_encoder, FrameEncoder):
        steps["face"] = config.n_frames
        cost += config.n_frames * count_multiply_adds(model.face_encoder.net, torch.zeros(1, 3, size, size))
    elif isinstance(model.face_encoder, ClipEncoder):
        steps["face"] = 1
        cost += count_multiply_adds(model.face_encoder.net, torch.zeros(1, model.face_encoder.n_frames, 3, size, size))
    if isinstance(model.voice_encoder, VoiceEncoder):
        n_steps = int(CLIP_S * STEP_RATE_HZ)
        steps["voice"] = n_steps // model.voice_encoder.stride
        mask = torch.ones(1, n_steps, dtype=torch.bool)
        cost += count_multiply_adds(model.voice_encoder, torch.zeros(1, n_steps, MEL_BANDS), mask)
    for encoder, count in ((model.face_encoder, steps["face"]), (model.voice_encoder, steps["voice"])):
        values = None if encoder is None else torch.zeros(1, count, encoder.feature_size)
        stream = values if values is None else Stream(values, torch.ones(1, count, dtype=torch.bool), values[:, :, 0])
        streams.append(stream)
    with FlopCounterMode(display=False) as counter:
        model.output(model.head(*streams))
    return cost + int(counter.get_total_flops()) // 2
