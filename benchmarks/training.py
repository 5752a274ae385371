"""Does training keep the processor, or the GPU, as busy as a bare loop does? ResNet50 on the embedded data
set.

    python benchmarks/training.py [--blocks 3] [--steps 5] [--batch 2] [--frames 16] [--set training.workers=4
    ...] python benchmarks/training.py --prepared FOLDER

Renders and prepares clips, then runs the training of ``reactometer train configs/resnet50.toml`` (crops
decoded, augmented and batched, Lightning, clipped gradients, averaged weights, logs), an epoch a block, and
after each a block of a bare loop of the same network: forward, backward and AdamW on normalised,
channels-last pictures that stay in memory. Speeds are in pictures that show a face a second, the first step
of a block left out. On a GPU, by default, a step has 8 clips of 32 frames in bf16 and a block 100 steps (an
epoch's beginning costs the time of two, and comes once in Hume-Reaction's 2,000), and the GPU's utilisation
is sampled (or profiled, without pynvml).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from measuring import bar
from torch import Tensor, nn

from reactometer import load_config, prepare
from reactometer.config import Config
from reactometer.data.cache import PreparedSet, open_prepared
from reactometer.models.backbones import load_backbone
from reactometer.synthetic.dataset import simulate
from reactometer.training.module import ReactionModule
from reactometer.training.setup import build_training
from reactometer.training.trainer import fit

BAR, GPU_BAR = 0.90, 0.85
ENCODER, FEATURES, LABELS = "random:resnet-50", 2048, 7
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "resnet50.toml"
HAS_GPU = torch.cuda.is_available()
CLIPS = 48


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100 if HAS_GPU else 5, help="of a block")
    parser.add_argument("--batch", type=int, default=8 if HAS_GPU else 2, help="clips of a step")
    parser.add_argument("--frames", type=int, default=32 if HAS_GPU else 16, help="of a clip")
    parser.add_argument("--prepared", type=Path, help="clips prepared before, where they cannot be rendered")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the configuration")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config, prepared = _set_up(options, Path(folder))
        clock = _train(config, prepared, options)
    ratio = median(real / bare for real, bare in zip(clock.real, clock.bare, strict=True))
    where = torch.cuda.get_device_name() if HAS_GPU else f"{torch.get_num_threads()} threads"
    print(f"{where}, {config.training.precision}, {options.batch} clips of {options.frames} frames a step.")
    print(f"Training {median(clock.real):.2f} pictures/s, bare loop {median(clock.bare):.2f};", end=" ")
    print(f"an epoch's first step after {median(clock.first_s):.2f} s.\n")
    bar("training / bare loop", ratio, BAR)
    if HAS_GPU:
        bar("share of the time that the GPU works", median(clock.busy), GPU_BAR)


def _set_up(options: argparse.Namespace, folder: Path) -> tuple[Config, PreparedSet]:
    """Return the default configuration, and prepared clips, repeated so that one epoch is one block.

    As in Hume-Reaction, about two looks of a clip for each frame that is drawn; where the head is never
    turned away.
    """
    prepared = open_prepared(options.prepared) if options.prepared else _rendered(options.frames, folder)
    count = options.steps * options.batch
    train = [row for row in prepared.split("train") if row.n_faces == row.n_samples] * count
    overrides = [
        f"training.batch_size={options.batch}",
        f"training.epochs={options.blocks + 1}",
        "training.patience=999",
    ]
    overrides += [
        f'training.out="{folder / "run"}"',
        f"model.n_frames={options.frames}",
        f'model.encoder="{ENCODER}"',
    ]
    overrides += ['training.precision="bf16-mixed"'] if HAS_GPU else []
    return load_config(CONFIG, [*overrides, *options.set]), replace(
        prepared, rows=(*train[:count], *prepared.split("val"))
    )


def _rendered(frames: int, folder: Path) -> PreparedSet:
    settings = load_config(CONFIG).prepare.model_copy(update={"detector": "haar"})
    data = simulate(folder / "data", n_clips=CLIPS, duration_s=2 * frames / settings.rate_hz)
    return prepare(data, folder / "prepared", settings=settings, progress=False)


def _train(config: Config, prepared: PreparedSet, options: argparse.Namespace) -> Clock:
    """Run what :func:`reactometer.training.train.train` runs, with a clock among its callbacks."""
    seed_everything(config.training.seed, workers=True, verbose=False)
    setup = build_training(config, prepared, progress=False)
    task = ReactionModule(setup.trainable, config.training, setup.data)
    clock = Clock(BareLoop(options.batch, options.frames, config.training.accumulate), options.steps)
    task.configure_callbacks = lambda: [clock]  # type: ignore[method-assign]
    fit(task, setup.data, config.training, config.training.out or Path(), resume=False, progress=False)
    return clock


class BareLoop:
    """ResNet50, the mean over the frames, a linear layer, the squared error, AdamW; on tensors that stay in
    memory."""

    def __init__(self, batch: int, frames: int, accumulate: int) -> None:
        self.device = torch.device("cuda" if HAS_GPU else "cpu")
        self.net: Any = load_backbone(ENCODER, "images").module
        self.net.to(self.device, memory_format=torch.channels_last)
        self.output = nn.Linear(FEATURES, LABELS).to(self.device)
        self.optimiser = torch.optim.AdamW([*self.net.parameters(), *self.output.parameters()], lr=1e-4)
        pictures = torch.randn(batch * frames, 3, 224, 224, device=self.device)
        self.pictures = pictures.contiguous(memory_format=torch.channels_last)
        self.targets = torch.rand(batch, LABELS, device=self.device)
        self.accumulate, self.done = accumulate, 0

    def __call__(self) -> None:
        """One step; the optimiser's as often as in the training."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=HAS_GPU):
            features: Tensor = self.net(pixel_values=self.pictures).pooler_output.flatten(1)  # (B * T, D)
            means = features.view(len(self.targets), -1, FEATURES).mean(1)  # (B, D)
            loss = (self.output(means).sigmoid() - self.targets).square().mean() / self.accumulate
        torch.autograd.backward(loss)
        self.done += 1
        if self.done % self.accumulate == 0:
            self.optimiser.step()
            self.optimiser.zero_grad()

    def speed(self, steps: int) -> float:
        """Pictures a second, the first step left out."""
        self()
        start_s = _now()
        for _ in range(steps - 1):
            self()
        return (steps - 1) * len(self.pictures) / (_now() - start_s)


@dataclass(eq=False)
class Clock(Callback):
    """Times each epoch of a training, and a block of the bare loop after it; the first of both warms up."""

    bare_loop: BareLoop
    steps: int
    real: list[float] = field(default_factory=list)  # pictures a second
    bare: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)  # share of the time
    first_s: list[float] = field(
        default_factory=list
    )  # from an epoch's beginning to the end of its first step
    _began_s: float = 0.0
    _pictures: Any = 0
    _watch: Any = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._began_s, self._pictures = _now(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        warm = trainer.current_epoch > 0
        if batch_idx > 0:
            self._pictures = self._pictures + batch.streams["face"].mask.sum()
        elif warm:
            self.first_s.append(_now() - self._began_s)
        if batch_idx == 0:
            self._watch = _watched(self.busy if HAS_GPU and warm else [])
            self._watch.__enter__()
            self._began_s = _now()
        if batch_idx == self.steps - 1:
            if warm:
                self.real.append(float(self._pictures) / (_now() - self._began_s))
            self._watch.__exit__(None, None, None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        speed = self.bare_loop.speed(self.steps)
        if trainer.current_epoch > 0:
            self.bare.append(speed)


@contextmanager
def _watched(busy: list[float]) -> Iterator[None]:
    """Add the share of the time inside that the GPU works: as its driver says, or its kernels' time as
    profiled."""
    if not HAS_GPU:
        yield
    elif find_spec("pynvml"):
        samples: list[int] = []
        over = threading.Event()

        def sample() -> None:
            while not over.wait(0.1):
                samples.append(torch.cuda.utilization())

        thread = threading.Thread(target=sample)
        thread.start()
        yield
        over.set()
        thread.join()
        busy.append(sum(samples) / (100 * max(1, len(samples))))
    else:
        start_s = _now()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            yield
            elapsed_s = _now() - start_s
        busy.append(sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / elapsed_s)


def _now() -> float:
    """Return the seconds after the GPU has finished all work."""
    if HAS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
