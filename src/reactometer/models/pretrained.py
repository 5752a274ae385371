"""The well-known pre-trained encoders of the Hugging Face Hub: licence, what they have learned, which files of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Weights:
    """Pre-trained weights of the Hugging Face Hub."""

    licence: str  # SPDX identifier, as the model card gives it
    pretrained_on: str
    architecture: str  # what has its shape with random weights, see RANDOM_ENCODERS


IMAGENET = "ImageNet-1k, classification"
LIBRISPEECH = "LibriSpeech, 960 h of read English, self-supervised"

PRETRAINED: Mapping[str, Weights] = {
    "microsoft/resnet-50": Weights("Apache-2.0", IMAGENET, "resnet-50"),
    "facebook/convnext-tiny-224": Weights("Apache-2.0", IMAGENET, "convnext-tiny"),
    "google/vit-base-patch16-224-in21k": Weights("Apache-2.0", "ImageNet-21k, classification", "vit-base"),
    "facebook/dinov2-base": Weights("Apache-2.0", "LVD-142M, self-supervised", "dinov2-base"),
    "google/siglip-base-patch16-224": Weights("Apache-2.0", "WebLI, pictures with their captions", "siglip-base"),
    "MCG-NJU/videomae-base-finetuned-kinetics": Weights(
        "CC-BY-NC-4.0", "Kinetics-400, self-supervised, then classification of actions", "videomae-base"
    ),
    "facebook/hubert-base-ls960": Weights("Apache-2.0", LIBRISPEECH, "hubert-base"),
    "facebook/wav2vec2-base": Weights("Apache-2.0", LIBRISPEECH, "wav2vec2-base"),
    "microsoft/wavlm-base": Weights("see its model card", LIBRISPEECH, "wavlm-base"),
}
"""The well-known encoders by name; any other of transformers can be named just as well."""

ENCODER_CONFIG, ENCODER_WEIGHTS = "config.json", "model.safetensors"
ENCODER_FILES = (ENCODER_CONFIG, "*processor*_config.json", "processor_config.json", ENCODER_WEIGHTS)
"""What an encoder needs of its repository, as patterns: its shape, how its input is prepared, its weights."""
