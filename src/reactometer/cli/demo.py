"""The whole job in minutes on the synthetic demo dataset, by the same path as real data."""

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
from reactometer.inference.predictor import predict
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
    beside: Mapping[str, float | None]  # mean Pearson of the baselines
    files: Mapping[str, Path]
    seconds: float


def demo(out: Path | str = "demo", *, n_clips: int = 480, seed: int = 0, progress: bool = True) -> DemoResult:
    """Make a synthetic dataset, train a small model of face and voice, score it on people never seen, predict a clip.

    The data are rendered faces and synthesised voices with known intensities: the score shows that the path works,
    and says nothing of people. A second call uses the prepared data and trains anew.

    Args:
        out: the folder to work in: data, prepared clips, run, evaluation and ``timeline.png``.
        n_clips: number of clips.
        seed: random seed of the dataset and the training.
        progress: show bars on standard error.
    """

    def say(text: str) -> None:
        if progress:
            messages.print(text, style="bold")

    started_s, out = time.monotonic(), Path(out)
    say("1 of 5: rendering faces and synthesising voices with known intensities")
    folder = out / f"data-{n_clips}-{seed}"
    data = simulate(folder, n_clips=n_clips, seed=seed, duration_s=DURATION_S, progress=progress)
    say("2 of 5: decoding each clip once, following the face, cutting crops")
    settings = demo_config(data, out).prepare
    prepared = prepare(data, out / f"prepared-{n_clips}-{seed}", settings=settings, progress=progress)
    say("3 of 5: training on face and voice")
    model = train(demo_config(prepared.folder, out, seed), overwrite=True, progress=progress)
    say("4 of 5: scoring on people and stimuli never seen")
    evaluation = evaluate(model, prepared.folder, split="test", out=out / "evaluation", progress=progress)
    beside = {}
    for name, other in (("face", "voice"), ("voice", "face")):
        alone = evaluate(model, prepared.folder, split="test", without=other, n_resamples=0, progress=False)
        beside[f"the same model, {name} alone"] = alone.metrics.mean_pearson
    shuffled = shuffled_scores(evaluation.truth, evaluation.guess, prepared.labels, SHUFFLES, seed)
    beside[f"shuffled labels (mean of {SHUFFLES} shuffles)"] = float(np.mean(shuffled))
    say("5 of 5: predicting one clip over time")
    rows = [row for row in prepared.split("test") if row.has_sound and row.clip.labels]
    strongest = max(rows, key=lambda row: sum(row.clip.labels or ())).clip
    (prediction,) = predict([strongest.path], model, window_s=1.0, hop_s=0.25, progress=False)
    picture = draw_timeline(prediction, out / "timeline.png", strongest.labels)
    files = {"model": model, "scores": out / "evaluation" / "metrics.json", "picture": picture}
    return DemoResult(evaluation, beside, files, time.monotonic() - started_s)


def demo_config(data: Path, out: Path, seed: int = 0) -> Config:
    """Return the configuration ``configs/demo.toml`` for this dataset, output folder and seed."""
    config = load_config(FOLDER / "demo.toml")
    training = config.training.model_copy(update={"out": out / "run", "seed": seed})
    return config.model_copy(update={"data": config.data.model_copy(update={"path": data}), "training": training})
