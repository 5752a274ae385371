"""Has something become slow? A few ratios, measured in turns in one run, against generous limits; run by CI.

    python benchmarks/guard.py

Each ratio sets the package's own path beside the least that the same job takes on the same machine at the same moment.
Processor time is counted, on one thread: on a busy machine threads wait for each other, and wall time says little.
Limits are about twice what was measured. Exit status 1, with a line that names it, where a ratio is over its limit
twice: what is over is measured once more before it counts. All that is read is rendered or drawn, and no seconds are
asserted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from measuring import bar, processor_s, write_video

from reactometer.config import PrepareConfig
from reactometer.data.batches import Batch
from reactometer.inference.predictor import predict
from reactometer.media.faces import crop_face, load_detector
from reactometer.media.stream import prepare_clip
from reactometer.media.video import read_frames, sample_frames
from reactometer.models.folder import LoadedModel, load_model
from reactometer.paths import STARTER
from reactometer.training.losses import reaction_loss

LIMITS = {
    "help / imports": 4.5,
    "predict / decoder, detector and encoder": 3.0,
    "four times the length / the length": 5.5,
    "prepare / decoder and detector": 2.0,
    "training step / bare step": 2.5,
}
SHORT_S, TIMES_LONGER = 12, 4
CROP_PX = 112
BATCH, STEPS, TURNS = 32, 20, 30
"""Of the training step: clips, steps of face and voice, and how many steps are timed together."""

Job = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """Two jobs whose ratio is watched, and how often each is done."""

    ours: Job
    least: Job
    rounds: int = 3


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        pairs = build_pairs(Path(name))
        slow = [name for name, pair in pairs.items() if not _holds(name, pair)]
        again = [name for name in slow if not _holds(name, pairs[name])]
    if again:
        print(
            f"slower than it was, twice: {'; '.join(again)}. If a change is worth it, say so and raise the limit here"
        )
    sys.exit(bool(again))


def build_pairs(folder: Path) -> dict[str, Pair]:
    """What is compared with what; files that it needs are written to ``folder``."""
    model = load_model(STARTER, "cpu")
    short, long = folder / "short.mp4", folder / "long.mp4"
    write_video(short, SHORT_S)
    write_video(long, SHORT_S * TIMES_LONGER)
    settings = PrepareConfig(size_px=CROP_PX)
    ours, bare = training_steps(model)
    return {
        "help / imports": Pair(
            lambda: _python("-m", "reactometer", "--help"), lambda: _python("-c", "import numpy, pydantic, typer"), 5
        ),
        "predict / decoder, detector and encoder": Pair(
            lambda: predict([short], model, progress=False), lambda: decode_detect_encode(short, model)
        ),
        "four times the length / the length": Pair(
            lambda: predict([long], model, progress=False), lambda: predict([short], model, progress=False)
        ),
        "prepare / decoder and detector": Pair(
            lambda: prepare_clip(short, settings, load_detector("auto")),
            lambda: decode_detect(short, settings.rate_hz),
        ),
        "training step / bare step": Pair(ours, bare, 5),
    }


def decode_detect(path: Path, rate_hz: float | None) -> list[np.ndarray]:
    """Every sampled frame decoded and searched for faces, and the best one's crop; nothing else."""
    detector = load_detector("auto")
    crops = []
    for frame in sample_frames(read_frames(path), rate_hz):
        if frame.rgb is not None:
            rgb = frame.rgb()
            crops += [crop_face(rgb, face, CROP_PX) for face in detector(rgb)[:1]]
    return crops


@torch.no_grad()
def decode_detect_encode(path: Path, model: LoadedModel) -> torch.Tensor:
    """The same, and the model's own face encoder once over each crop, all in one batch."""
    crops = decode_detect(path, model.config.prepare.rate_hz)
    pictures = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    side_px = model.sampling.size_px
    pictures = torch.nn.functional.interpolate(pictures, (side_px, side_px))
    encoder = model.network.face_encoder
    assert encoder is not None
    encoded: torch.Tensor = encoder(pictures)
    return encoded


def training_steps(model: LoadedModel) -> tuple[Job, Job]:
    """A step of the starter's head on features with our loss and masks, and of a bare one with the same layers."""
    network = model.network.on_features(every=True).train()
    sizes = [int(part.feature_size) for part in (network.face_encoder, network.voice_encoder) if part is not None]
    face, voice = (torch.randn(BATCH, STEPS, size) for size in sizes)
    seen, times_s = torch.ones(BATCH, STEPS, dtype=torch.bool), torch.arange(STEPS).expand(BATCH, STEPS) / 5.0
    targets, has_label = torch.rand(BATCH, len(model.labels)), torch.ones(BATCH, dtype=torch.bool)
    places = torch.arange(BATCH * STEPS)
    batch = Batch(face, seen, times_s, voice, seen, times_s, targets, has_label, torch.arange(BATCH), places)
    optimiser = torch.optim.AdamW([one for one in network.parameters() if one.requires_grad], 1e-4)
    hidden = model.config.model.hidden
    layers = [torch.nn.Linear(size, hidden) for size in sizes]
    last = torch.nn.Linear(2 * hidden, len(model.labels))
    bare_optimiser = torch.optim.AdamW([one for layer in (*layers, last) for one in layer.parameters()], 1e-4)

    def ours() -> None:
        for _ in range(TURNS):
            optimiser.zero_grad()
            loss = reaction_loss(network(batch), targets, network.has_evidence(batch), kind="mse", dominant_weight=0.0)
            loss.backward()
            optimiser.step()

    def bare() -> None:
        for _ in range(TURNS):
            bare_optimiser.zero_grad()
            pooled = [torch.relu(layer(steps)).mean(1) for layer, steps in zip(layers, (face, voice), strict=True)]
            torch.nn.functional.mse_loss(torch.sigmoid(last(torch.cat(pooled, 1))), targets).backward()
            bare_optimiser.step()

    return ours, bare


def _holds(name: str, pair: Pair) -> bool:
    """Measure in turns and say so; the first of each, which may load something, does not count."""
    pair.ours(), pair.least()
    ours, least = [], []
    for _ in range(pair.rounds):
        for job, seconds in ((pair.ours, ours), (pair.least, least)):
            started_s = processor_s()
            job()
            seconds.append(processor_s() - started_s)
    ratio, limit = median(ours) / median(least), LIMITS[name]
    return bar(f"guard, {name}", ratio, limit, at_most=True)


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
