"""The whole job in minutes on the embedded data set, by the same path as real data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reactometer.config import Config, DataConfig, ModelConfig, PrepareConfig, TrainingConfig
from reactometer.data.cache import PreparedSet
from reactometer.data.prepare import prepare
from reactometer.evaluation.baselines import constant_baseline, shuffled_scores
from reactometer.evaluation.evaluate import Evaluation, evaluate
from reactometer.evaluation.metrics import measure
from reactometer.inference.plot import draw_timeline
from reactometer.inference.predictor import predict
from reactometer.synthetic.dataset import simulate
from reactometer.terminal import messages, progress_bar
from reactometer.training.train import train

SIZE_PX = 64
"""Side of the demo's crops, pixels: small, so that a laptop trains in a minute."""

SHUFFLES = 200


@dataclass(frozen=True)
class DemoResult:
    """What the demo found and made."""

    evaluation: Evaluation
    beside: Mapping[str, float | None]  # mean Pearson of what the score is to be compared with
    files: Mapping[str, Path]
    seconds: float


def demo(out: Path | str = "demo", *, n_clips: int = 480, seed: int = 0, progress: bool = True) -> DemoResult:
    """Make the embedded data set, train a small model of face and voice, score it on people never seen, predict a clip.

    The data are rendered faces and synthesised voices with known intensities: the score shows that the path works,
    and says nothing of people. A second call uses what is there and trains anew.

    Args:
        out: the folder to work in: data, prepared clips, run, evaluation and ``timeline.png``.
        n_clips: clips of the data set.
        seed: of the data set and of the training.
        progress: show bars on standard error.
    """
    started_s = time.monotonic()
    out = Path(out)
    _say(progress, "1 of 5: rendering faces and synthesising voices with known intensities")
    data = _simulate(out / f"data-{n_clips}-{seed}", n_clips, seed, progress)
    _say(progress, "2 of 5: decoding each clip once, following the face, cutting crops")
    prepared = prepare(
        data, out / f"prepared-{n_clips}-{seed}", settings=demo_config(data, out).prepare, progress=progress
    )
    _say(progress, "3 of 5: training on face and voice")
    model = train(demo_config(prepared.folder, out, seed), overwrite=True, progress=progress)
    _say(progress, "4 of 5: scoring on people and stimuli never seen")
    evaluation = evaluate(model, prepared.folder, split="test", out=out / "evaluation", progress=progress)
    _say(progress, "5 of 5: predicting one clip over time")
    alone = {
        name: evaluate(model, prepared.folder, split="test", without=other, n_resamples=0, progress=False).metrics
        for name, other in (("face", "voice"), ("voice", "face"))
    }
    picture = _draw_strongest(prepared, model, out / "timeline.png")
    files = {"model": model, "scores": out / "evaluation" / "metrics.json", "picture": picture}
    beside = {f"the same model, {name} alone": metrics.mean_pearson for name, metrics in alone.items()}
    beside |= _baselines(prepared, evaluation, seed)
    return DemoResult(evaluation, beside, files, time.monotonic() - started_s)


def demo_config(data: Path, out: Path, seed: int = 0) -> Config:
    """The demo's configuration: a tiny network from random weights, and the detector that every installation has."""
    return Config(
        data=DataConfig(path=data),
        prepare=PrepareConfig(detector="haar", rate_hz=4.0, size_px=SIZE_PX),
        model=ModelConfig(
            name="multimodal",
            encoder="random:resnet-tiny",
            pooling="grid",
            n_frames=12,
            size_px=SIZE_PX,
            hidden=96,
            dropout=0.1,
            modality_dropout=0.1,
        ),
        training=TrainingConfig(
            out=out / "run",
            epochs=20,
            batch_size=16,
            accumulate=1,
            learning_rate=2e-3,
            ema_decay=0.99,
            patience=20,
            augment=False,
            seed=seed,
            accelerator="cpu",
        ),
    )


def _simulate(folder: Path, n_clips: int, seed: int, progress: bool) -> Path:
    with progress_bar("rendering", n_clips, progress) as advance:
        return simulate(folder, n_clips=n_clips, seed=seed, on_progress=lambda done, total: advance())


def _baselines(prepared: PreparedSet, evaluation: Evaluation, seed: int) -> dict[str, float | None]:
    """What a constant scores on the same clips, and what the model's predictions score against shuffled labels."""
    labels, truth = prepared.labels, evaluation.truth
    train_targets = np.array([row.clip.labels for row in prepared.split("train") if row.clip.labels])
    constant = constant_baseline(train_targets, len(truth))  # (clips, L)
    shuffled = shuffled_scores(truth, evaluation.guess, labels, SHUFFLES, seed)
    return {
        "constant prediction (the training mean)": measure(truth, constant, labels).mean_pearson,
        f"shuffled labels (mean of {SHUFFLES} shuffles)": float(np.mean(shuffled)),
    }


def _draw_strongest(prepared: PreparedSet, model: Path, picture: Path) -> Path:
    """Predict the test clip whose labels are strongest in sum, with sound, and draw it."""
    rows = [row for row in prepared.split("test") if row.has_sound and row.clip.labels]
    strongest = max(rows, key=lambda row: sum(row.clip.labels or ()))
    (prediction,) = predict([strongest.clip.path], model, window_s=1.0, hop_s=0.25, progress=False)
    return draw_timeline(prediction, picture, strongest.clip.labels)


def _say(progress: bool, text: str) -> None:
    if progress:
        messages.print(text, style="bold")
