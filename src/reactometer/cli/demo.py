"""The demo: all steps on the synthetic demo dataset, with the same code as for real data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reactometer.config import FOLDER, Config, load_config
from reactometer.data.prepare import prepare
from reactometer.evaluation.baselines import shuffled_scores
from reactometer.evaluation.evaluate import Evaluation, evaluate
from reactometer.inference.plot import draw_timeline
from reactometer.inference.predictor import predict_files
from reactometer.synthetic.dataset import simulate
from reactometer.terminal import messages
from reactometer.training.train import train

SHUFFLES = 200
DURATION_S = 2.0
"""Length of each clip, seconds."""


@dataclass(frozen=True)
class DemoResult:
    """The demo's scores and files."""

    evaluation: Evaluation
    baselines: Mapping[str, float | None]  # mean Pearson
    files: Mapping[str, Path]
    seconds: float


def demo(out: Path | str = "demo", *, n_clips: int = 480, seed: int = 0, progress: bool = True) -> DemoResult:
    """Make a synthetic dataset, train a small model of face and voice, score it on new people, predict a
    clip.

    The data are rendered faces and synthesised voices with known intensities. The score shows that all steps
    work, and is no evidence about people. A second call reuses the prepared data and trains again.

    Args:
        out: folder for data, prepared clips, run, evaluation and ``timeline.png``.
        n_clips: number of clips.
        seed: random seed of the dataset and the training.
        progress: show bars on standard error.
    """

    def announce(text: str) -> None:
        if progress:
            messages.print(text, style="bold")

    started_s, out = time.monotonic(), Path(out)
    announce("1 of 5: rendering faces and synthesising voices with known intensities")
    folder = out / f"data-{n_clips}-{seed}"
    data = simulate(folder, n_clips=n_clips, seed=seed, duration_s=DURATION_S, progress=progress)
    announce("2 of 5: decoding each clip once, tracking and cropping the face")
    settings = demo_config(data, out).prepare
    prepared = prepare(data, out / f"prepared-{n_clips}-{seed}", settings=settings, progress=progress)
    announce("3 of 5: training on face and voice")
    model = train(config=demo_config(prepared.folder, out, seed), fresh=True, progress=progress)
    announce("4 of 5: scoring on new people and stimuli")
    evaluation = evaluate(model, prepared.folder, split="test", out=out / "evaluation", progress=progress)
    baselines = {}
    for name, other in (("face", "voice"), ("voice", "face")):
        ablation = evaluate(
            model, prepared.folder, split="test", without=other, n_resamples=0, progress=False
        )
        baselines[f"the same model, {name} only"] = ablation.metrics.mean_pearson
    shuffled = shuffled_scores(evaluation.targets, evaluation.intensities, prepared.labels, SHUFFLES, seed)
    baselines[f"shuffled labels (mean of {SHUFFLES} shuffles)"] = float(np.mean(shuffled))
    announce("5 of 5: predicting one clip over time")
    rows = [row for row in prepared.split("test") if row.has_sound and row.clip.labels]
    strongest = max(rows, key=lambda row: sum(row.clip.labels or ())).clip
    (prediction,) = predict_files([strongest.path], model, window_s=1.0, hop_s=0.25, progress=False)
    plot = draw_timeline(prediction, out / "timeline.png", strongest.labels)
    files = {"model": model, "scores": out / "evaluation" / "metrics.json", "plot": plot}
    return DemoResult(evaluation, baselines, files, time.monotonic() - started_s)


def demo_config(data: Path, out: Path, seed: int = 0) -> Config:
    """Return the configuration ``configs/demo.toml`` for this dataset, output folder and seed."""
    config = load_config(FOLDER / "demo.toml")
    training = config.training.model_copy(update={"out": out / "run", "seed": seed})
    return config.model_copy(
        update={"data": config.data.model_copy(update={"path": data}), "training": training}
    )
