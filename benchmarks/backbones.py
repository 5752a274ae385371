"""Compare frozen image encoders on FER2013: features, and a logistic regression on them.

    python benchmarks/backbones.py FER2013 --encoder faceres.onnx --encoder lite0.onnx --out backbones

FER2013 is a folder with its three splits as Parquet (columns ``image``: encoded bytes, ``label``). 2,000
random faces of train are used, 500 of val and 1,000 of test. The weight decay is chosen on val.
Features are kept in the folder ``--out``, so that a second run continues.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reactometer.config import ModelConfig
from reactometer.models.registry import load_encoders

N_FACES = {"train": 2_000, "val": 500, "test": 1_000}
"""Maximum number of faces of each split."""

WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
BATCH_SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", action="append", required=True, help="as model.encoder")
    parser.add_argument("--size", type=int, default=224, help="side of the encoders' input, pixels")
    parser.add_argument("--out", type=Path, default=Path("backbones"))
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    print("| encoder | features | val | test |\n| --- | --- | --- | --- |")
    for name in options.encoder:
        splits = {split: encode(name, options, split) for split in N_FACES}
        val, test = score(splits)
        print(f"| {Path(name).stem} | {splits['test'][0].shape[1]} | {val:.3f} | {test:.3f} |", flush=True)


def encode(name: str, options: argparse.Namespace, split: str) -> tuple[Tensor, Tensor]:
    """Return features (K, D) float32 and labels (K,) int64 of a split's faces."""
    (file,) = options.data.glob(f"*{split}*.parquet")
    table = pd.read_parquet(file).sample(frac=1.0, random_state=0)[: N_FACES[split]]
    labels = torch.from_numpy(pd.Categorical(table["label"]).codes.astype(np.int64))
    key = hashlib.sha256(f"{name} {options.size} {len(table)}".encode()).hexdigest()[:12]
    cached = options.out / f"{split}-{key}.npy"
    if not cached.is_file():
        torch.manual_seed(0)
        face, _ = load_encoders(ModelConfig(encoder=name, frozen=True, size_px=options.size))
        assert face is not None
        face.eval()
        features = []
        for start in range(0, len(table), BATCH_SIZE):
            images = [decode(image, options.size) for image in table["image"][start : start + BATCH_SIZE]]
            with torch.inference_mode():
                features.append(face(torch.from_numpy(np.stack(images))).numpy())
        np.save(cached, np.concatenate(features))
    return torch.from_numpy(np.load(cached)), labels


def decode(image: bytes, size_px: int) -> np.ndarray:
    """Decode a face to (3, size_px, size_px) uint8 RGB."""
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
    return cv2.resize(pixels, (size_px, size_px), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)


def score(splits: dict[str, tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Return the accuracy on val and test of the regression whose weight decay is best on val."""
    mean, std = splits["train"][0].mean(0), splits["train"][0].std(0)
    scaled = {split: ((x - mean) / (std + 1e-3 * std.mean()), y) for split, (x, y) in splits.items()}
    weights = [fit(*scaled["train"], decay) for decay in WEIGHT_DECAYS]
    best = max(weights, key=lambda pair: accuracy(*scaled["val"], *pair))
    return accuracy(*scaled["val"], *best), accuracy(*scaled["test"], *best)


def fit(features: Tensor, labels: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Fit a multinomial logistic regression; return its matrix (D, L) and bias (L,)."""
    n_labels = int(labels.max()) + 1
    matrix = torch.zeros((features.shape[1], n_labels), requires_grad=True)
    bias = torch.zeros(n_labels, requires_grad=True)
    optimiser = torch.optim.LBFGS([matrix, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = cross_entropy(features @ matrix + bias, labels) + decay * matrix.square().sum() / 2
        value.backward()
        return value

    optimiser.step(loss)
    return matrix.detach(), bias.detach()


def accuracy(features: Tensor, labels: Tensor, matrix: Tensor, bias: Tensor) -> float:
    return float(((features @ matrix + bias).argmax(1) == labels).float().mean())


if __name__ == "__main__":
    main()
