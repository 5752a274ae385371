"""Can a model read the length of a clip? Each architecture on features of pure noise, whose label is the
clip's length.

    python benchmarks/length.py [--out length] [--heads resnet50,resnet50-gru] [--times none,seconds]

A table of features: 8 numbers per frame without any meaning. Clips of 6 to 14 s have 32 frames each, evenly
spaced, as ``model.n_frames`` samples them; clips of 2 to 5 s have 6 frames per second, so that their number
differs. The score is Pearson's correlation with the length on 600 new clips; by chance it is between -0.08
and 0.08 in 95 of 100 trainings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer import evaluate, train

ARCHITECTURES = ("resnet50", "resnet50-gru", "vit-transformer", "multimodal")
CASES = {"equal": (6.0, 14.0), "fewer": (2.0, 5.0)}
N_FRAMES, RATE_HZ, N_FEATURES = 32, 6.0, 8
N_CLIPS = {"train": 400, "val": 150, "test": 600}
TRAINING = "epochs=15 patience=15 batch_size=16 accumulate=1 learning_rate=3e-3 ema_decay=0.9 accelerator=cpu"


def noise_table(low_s: float, high_s: float) -> pd.DataFrame:
    """Return one row per frame: clip, split, label, time and features of noise."""
    rng, parts = np.random.default_rng(0), []
    for split, count in N_CLIPS.items():
        for index, length_s in enumerate(rng.uniform(low_s, high_s, count)):
            n_frames = min(N_FRAMES, int(length_s * RATE_HZ))
            part = pd.DataFrame(rng.standard_normal((n_frames, N_FEATURES))).add_prefix("noise_")
            part.insert(0, "time_s", (np.arange(n_frames) + 0.5) / n_frames * length_s)
            parts.append(
                part.assign(clip=f"{split}{index}", split=split, Length=(length_s - low_s) / (high_s - low_s))
            )
    return pd.concat(parts)


def main() -> None:
    """Print one line per case, architecture and kind of times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("length"))
    parser.add_argument("--heads", default=",".join(ARCHITECTURES))
    parser.add_argument("--times", default="none,seconds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    training = [f"training.{setting}" for setting in TRAINING.split()]
    for case, bounds_s in CASES.items():
        table = options.out / f"{case}.csv"
        noise_table(*bounds_s).to_csv(table, index=False)
        for name in options.heads.split(","):
            for times in options.times.split(","):
                model = [f"model.name={name}", f"model.times={times}", "model.hidden=32"]
                model += ['model.modalities=["face"]'] if name == "multimodal" else []
                data = [f"data.path={table}", "data.features.face=noise_*", 'data.labels=["Length"]']
                out = options.out / f"{case}-{name}-{times}"
                overrides = [*training, *model, *data, f"training.out={out}"]
                folder = train(config="small/resnet50", overrides=overrides, fresh=True, progress=False)
                r = evaluate(folder, table, n_resamples=0, progress=False).metrics.mean_pearson
                print(f"{case:6} {name:16} {times:8} r = {r:.3f}", flush=True)


if __name__ == "__main__":
    main()
