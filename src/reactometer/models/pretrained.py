"""The well-known pre-trained encoders of the Hugging Face Hub: licence and training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Weights:
    """Pre-trained weights of the Hugging Face Hub."""

    licence: str  # SPDX identifier, as the model card gives it
    pretrained_on: str


IMAGENET = "ImageNet-1k, classification"
LIBRISPEECH = "LibriSpeech, 960 h of read English, self-supervised"

PRETRAINED: Mapping[str, Weights] = {
    "microsoft/resnet-50": Weights("Apache-2.0", IMAGENET),
    "facebook/convnext-tiny-224": Weights("Apache-2.0", IMAGENET),
    "google/vit-base-patch16-224-in21k": Weights("Apache-2.0", "ImageNet-21k, classification"),
    "facebook/dinov2-base": Weights("Apache-2.0", "LVD-142M, self-supervised"),
    "google/siglip-base-patch16-224": Weights("Apache-2.0", "WebLI, pictures with their captions"),
    "MCG-NJU/videomae-base-finetuned-kinetics": Weights(
        "CC-BY-NC-4.0", "Kinetics-400, self-supervised, then classification of actions"
    ),
    "facebook/hubert-base-ls960": Weights("Apache-2.0", LIBRISPEECH),
    "facebook/wav2vec2-base": Weights("Apache-2.0", LIBRISPEECH),
    "microsoft/wavlm-base": Weights("see its model card", LIBRISPEECH),
}
"""The well-known encoders by name; any other of transformers can be named just as well."""
