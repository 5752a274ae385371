"""Heads on features that are kept on disk: how long an epoch of 16,000 clips takes, and in how much memory.

    python benchmarks/heads.py [--clips 16000] [--folder FOLDER]

Writes a store of random features, 32 frames of 2048 a clip (4.2 GB of float32), as ``train`` keeps those of a frozen
ResNet50, trains each head on it for an epoch, in a process of its own, and deletes it. The headline head is that of
configs/resnet50.toml with ``model.frozen=true``; the bars are its. ``scales`` is the pass over the train clips before
training, for the mean and spread of each feature; ``bare loop`` the time that as many steps of the same head take on
one batch in memory. Prints a Markdown table; memory is the peak of the process (resident, as the kernel counts it).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from measuring import bar

from reactometer import load_config
from reactometer.config import PrepareConfig
from reactometer.data.batches import Item, Part, collate, parts_of
from reactometer.data.cache import FEATURES, PreparedRow, PreparedSet
from reactometer.data.features import write_store
from reactometer.labels import HUME_REACTION
from reactometer.records import Clip
from reactometer.training.engine import run
from reactometer.training.setup import set_up
from reactometer.training.task import ReactionTask

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
HEADS = {"mean (resnet50)": "resnet50", "GRU (resnet50-gru)": "resnet50-gru", "transformer": "vit-transformer"}
FRAMES, SIZE, VAL = 32, 2048, 64
BAR_S = 60.0
BARE_STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16_000)
    parser.add_argument("--folder", type=Path, help="where the store is made; default: the system's for passing files")
    parser.add_argument("--heads", nargs="+", choices=list(HEADS.values()), default=list(HEADS.values()))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(_train(asked.folder, asked.clips, asked.child)))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rows = _rows(Path(folder), asked.clips)
        write_store(Path(folder) / FEATURES, rows, parts_of(rows), _random_items, {"face": SIZE, "voice": 0})
        print(f"{asked.clips} clips of {FRAMES} frames with {SIZE} features, {torch.get_num_threads()} threads\n")
        print("| head | an epoch | peak memory | bare loop | scales |\n" + "| --- " * 5 + "|")
        measured = {}
        for name, config in HEADS.items():
            if config in asked.heads:
                command = [sys.executable, __file__, f"--child={config}", f"--folder={folder}"]
                command.append(f"--clips={asked.clips}")
                lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
                own = measured[config] = json.loads(lines[-1])
                cells = [f"{own['epoch_s']:.1f} s", f"{own['peak_mb']:.0f} MB", f"{own['bare_s']:.1f} s"]
                print("| " + " | ".join([name, *cells, f"{own['scales_s']:.1f} s"]) + " |", flush=True)
    if headline := measured.get("resnet50"):
        bar(f"an epoch of {asked.clips} clips, s", headline["epoch_s"], BAR_S * asked.clips / 16_000, at_most=True)
        bar("its peak memory, GB", headline["peak_mb"] / 1000, 2.0, at_most=True)


def _rows(folder: Path, clips: int) -> list[PreparedRow]:
    """Clips with random labels, and files that the features could be of."""
    file = folder / "clip"
    file.touch()
    labels = np.random.default_rng(0).uniform(size=(clips + VAL, len(HUME_REACTION))).tolist()
    splits = ["train"] * clips + ["val"] * VAL
    return [
        PreparedRow(Clip(f"{place}", file, split=split, labels=tuple(own)), file, duration_s=11.0, n_faces=FRAMES)
        for place, (own, split) in enumerate(zip(labels, splits, strict=True))
    ]


def _random_items(parts: Sequence[Part]) -> Iterator[Item]:
    generator = np.random.default_rng(parts[0].index)
    for _ in parts:
        features = generator.random((FRAMES, SIZE), dtype=np.float32)
        times_s = np.linspace(0.0, 11.0, FRAMES, dtype=np.float32)
        yield Item(features, np.ones(FRAMES, bool), times_s, np.zeros((0, 0), np.float32), times_s[:0])


def _train(folder: Path, clips: int, name: str) -> dict[str, float]:
    """Train a head for an epoch, and take the times."""
    own = ["training.epochs=1", f'training.out="{folder / "runs" / name}"']
    config = load_config(CONFIGS / f"{name}.toml", own)
    rows = tuple(_rows(folder, clips))
    prepared = PreparedSet(folder, HUME_REACTION, PrepareConfig(), rows, {"face": SIZE, "voice": 0})
    seed_everything(config.training.seed, workers=True, verbose=False)
    began_s = time.perf_counter()
    setup = set_up(config, prepared, progress=False)
    scales_s = time.perf_counter() - began_s
    task = ReactionTask(setup.trained, config.training, setup.data)
    clock = _Clock()
    task.configure_callbacks = lambda: [clock]  # type: ignore[method-assign]
    run(task, setup.data, config.training, folder / "runs" / name, resume=False, progress=False)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    bare_s = _bare_s(task, config.training.batch_size) * clips / config.training.batch_size
    return {"epoch_s": clock.ended_s - clock.began_s, "peak_mb": peak_mb, "bare_s": bare_s, "scales_s": scales_s}


@dataclass(eq=False)
class _Clock(Callback):
    """From the beginning of the epoch to the end of its last step."""

    began_s: float = 0.0
    ended_s: float = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.began_s = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.ended_s = time.perf_counter()


def _bare_s(task: ReactionTask, batch_size: int) -> float:
    """Seconds a step of forward, backward and AdamW on one batch in memory."""
    batch = collate(list(_random_items([Part(0, 0.0, 11.0)] * batch_size)), len(HUME_REACTION))
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=1e-4)
    for step in range(2 * BARE_STEPS):
        if step == BARE_STEPS:
            began_s = time.perf_counter()
        torch.autograd.backward((task.model(batch) - batch.targets).square().mean())
        optimiser.step()
        optimiser.zero_grad()
    return (time.perf_counter() - began_s) / BARE_STEPS


if __name__ == "__main__":
    main()
