"""What a model folder is refused for before its network is made: code, and sizes beyond those of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import get_ident
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from reactometer.errors import ModelError, ReactometerError

Made = TypeVar("Made")

LONGEST_LABEL = 100
MOST_NUMBER, MOST_PLACES = 2**20, 2**16
"""Of an encoder's settings: the largest whole number, and the most patches of all its frames; our choice."""

SIDES, FRAMES = ("image_size", "crop_size"), ("num_frames", "frames_per_clip")
USUAL_SIDE_PX, USUAL_PATCH_PX = 224, 16  # where the settings leave it to the network


FIELDS = frozenset(("format", "reactometer", "labels", "config", "encoders", "data", "metrics", "sha256", "members"))
ENCODER_FIELDS = frozenset(
    ("config", "has_pooler", "settings", "pretrained", "pooling", "given", "convolution", "contours")
)
"""All that a description holds, and all that it holds of an encoder."""


def check_fields(description: Mapping[str, Any]) -> None:
    """Raise ValueError where a model's description holds what this version does not know."""
    encoders = description.get("encoders") or {}
    if not isinstance(encoders, Mapping):
        raise ValueError("encoders that are none")
    unknown = [*(set(description) - FIELDS), *(set(encoders) - {"face", "voice"})]
    unknown += [name for about in encoders.values() for name in set(about or ()) - ENCODER_FIELDS]
    if unknown:
        raise ValueError(f"an unknown field: {str(min(unknown))[:40]!r}")


def checked_labels(labels: object) -> tuple[str, ...]:
    """Names as they become columns of tables, and text on pages; raises ValueError for others."""
    if not isinstance(labels, list) or not labels or len(set(map(str, labels))) < len(labels):
        raise ValueError("labels are a list of names, each once")
    if odd := [label for label in labels if not (isinstance(label, str) and _is_name(label))]:
        raise ValueError(f"a label that is no name: {str(odd[0])[:40]!r}")
    return tuple(labels)


def _is_name(label: str) -> bool:
    """Nothing that a terminal would do something at, nor a spreadsheet."""
    return label.isprintable() and 0 < len(label) <= LONGEST_LABEL and label[0] not in "=+-@"


def check_settings(settings: object) -> None:
    """Raise ModelError where an encoder's settings name code of the Hub, which would be fetched, or are beyond reason.

    The latter is what networks reckon with in lists and loops of Python while they are made: numbers of layers and of
    places. What they allocate as tensors is :func:`check_shapes`'s.
    """
    for key, value in _settings_in(settings):
        is_kernel = "implementation" in key and value not in (None, True, False, "eager", "sdpa")
        if is_kernel or (key == "architecture" and ":" in str(value)):
            raise ModelError("its encoder asks for code or a network from elsewhere", got=f"{key} = {value!r}")
        if any(abs(number) > MOST_NUMBER for number in _numbers([value])):
            raise ModelError("its encoder's settings are beyond reason", got=f"{key} = {value!r}"[:80])
    for own in _mappings_in(settings):
        side_px = max(_numbers([own.get(name) for name in SIDES]), default=USUAL_SIDE_PX)
        frames = max(_numbers([own.get(name) for name in FRAMES]), default=1)
        patch_px = max(1, min(_numbers([own.get("patch_size")]), default=USUAL_PATCH_PX))
        if (side_px / patch_px) ** 2 * frames > MOST_PLACES:
            raise ModelError(
                "its encoder's settings are beyond reason",
                got=f"{frames} frames of {side_px} px in patches of {patch_px} px",
                expected=f"{MOST_PLACES} patches at most",
            )


def _mappings_in(settings: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(settings, Mapping):
        yield settings
    inner = settings.values() if isinstance(settings, Mapping) else settings if isinstance(settings, list) else ()
    for value in inner:
        yield from _mappings_in(value)


def _settings_in(settings: object) -> Iterator[tuple[str, Any]]:
    for own in _mappings_in(settings):
        yield from ((str(key), value) for key, value in own.items())


def _numbers(values: Sequence[object]) -> list[float]:
    """The numbers among values, and in the lists among them."""
    found: list[float] = []
    for value in values:
        if isinstance(value, list):
            found += _numbers(value)
        elif isinstance(value, int | float):
            found.append(value)
    return found


def make(build: Callable[[], Made]) -> Made:
    """What is built of settings; ValueError where nothing can be."""
    try:
        return build()
    except (ReactometerError, ValueError):
        raise
    except Exception as error:  # of settings that make no sense, networks raise whatever they stumble over
        raise ValueError(f"no network can be made of its settings: {type(error).__name__}: {error}") from error


def check_shapes(weights: Path, build: Callable[[], nn.Module], *, whole: bool = True) -> None:
    """Raise ValueError where a network would not have the tensors that a file of weights holds; allocates neither.

    It is made on PyTorch's device without memory, and no further than the file has tensors for. Nothing may be computed
    there: for that, PyTorch imports its compiler, which takes a second.

    Args:
        weights: a file of safetensors.
        build: makes the network.
        whole: the file holds this network and nothing else.
    """
    with safe_open(weights, framework="pt") as file:
        shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    thread, left = get_ident(), [2 * len(shapes) + 100]  # some parameters are replaced, or left out again

    def count(module: nn.Module, name: str, parameter: object) -> None:
        if get_ident() == thread:
            left[0] -= 1
            if left[0] < 0:
                raise ValueError("its settings name more layers than there are weights")

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            network = make(build)
    finally:
        counting.remove()
    own = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in [*own, *(shapes if whole else ())]:
        if own.get(name) != shapes.get(name):
            raise ValueError(f"weights of another shape than its settings name: {name}, {shapes.get(name, 'none')}")
