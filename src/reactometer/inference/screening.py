"""Find unusable faces and voices in a model's input, mask them, and name the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from reactometer.data.inputs import Item
from reactometer.errors import ModelError
from reactometer.io import wrap_decode_errors, write_atomic
from reactometer.types import FloatArray

SCREENING_FILE = "screening.safetensors"

MIN_FACE_PX = 20.0
"""Minimum median height of a usable face's box, pixels: smaller ones are worse than none."""

DEFECTS = ("noise", "covered", "blurred", "sketched", "rendered")
"""Reasons why an image shows no clear face, in the order of the columns of :class:`Screening`."""


@dataclass(frozen=True)
class Screening:
    """Limits of usable input of one model; see :mod:`reactometer.evaluation.screening_fit`."""

    min_speech: float  # share of the sound, in [0, 1]; less is no voice
    weights: FloatArray  # (D, K) log-odds of each defect against a clear face; D = 0: images are not checked
    bias: FloatArray  # (K,), less the log-odds above which the defect makes a face unusable

    def excess(self, features: FloatArray) -> FloatArray:
        """Return (T, K) log-odds of each defect against a clear face above its limit, for (T, D) features."""
        return np.asarray(features @ self.weights + self.bias, np.float32)

    def face_reason(self, item: Item) -> str | None:
        """Return why the face of an encoded item is unusable in at least half of its frames, or ``None``."""
        if item.face_px < MIN_FACE_PX:
            return f"smaller than {MIN_FACE_PX:.0f} pixels"
        features = item.streams["face"].visible
        if not len(features) or not len(self.weights):
            return None
        excess = np.median(self.excess(features), axis=0)
        return DEFECTS[int(excess.argmax())] if excess.max() > 0.0 else None

    def __call__(self, item: Item) -> Item:
        """Mask the face or voice of an encoded item if it is unusable; its ``warnings`` name the reasons."""
        warnings = list[str]()
        if item.has("face") and (reason := self.face_reason(item)):
            item = hide(item, "face")
            warnings.append(f"face not used: {reason}")
        if item.has("voice") and item.speech_share < self.min_speech:
            item = hide(item, "voice")
            warnings.append("voice not used: no speech")
        return replace(item, warnings=tuple(warnings))


def hide(item: Item, *names: str) -> Item:
    """Remove all steps of some streams of an item."""
    hidden = {name: item.streams[name].select(slice(0)) for name in names if name in item.streams}
    return item.with_steps(hidden)


def save_screening(folder: Path, screening: Screening) -> None:
    """Write ``screening.safetensors`` into a checkpoint; replace an existing one."""
    arrays = {name: np.asarray(value, np.float32) for name, value in vars(screening).items()}
    write_atomic(folder / SCREENING_FILE, save(arrays, {"sha256": _digest(arrays)}))


def load_screening(folder: Path, feature_size: int) -> Screening | None:
    """Read the screening of a checkpoint, whose face encoder has this feature size; ``None`` if it has none.

    Raises:
        ModelError: the file is damaged.
    """
    file = folder / SCREENING_FILE
    if not file.is_file():
        return None
    with wrap_decode_errors(
        file, ModelError, "Delete the file, and calibrate again with 'reactometer calibrate'"
    ):
        with safe_open(file, "numpy") as opened:
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            is_changed = opened.metadata() != {"sha256": _digest(arrays)}
        n_defects = len(DEFECTS)
        sizes = arrays["weights"].shape, arrays["bias"].shape
        if sizes not in [((n_features, n_defects), (n_defects,)) for n_features in (0, feature_size)]:
            raise ValueError(f"arrays of sizes {sizes}")
        if is_changed:
            raise ValueError("another SHA-256")
        return Screening(float(arrays["min_speech"]), arrays["weights"], arrays["bias"])


def _digest(arrays: Mapping[str, FloatArray]) -> str:
    return sha256(b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))).hexdigest()
