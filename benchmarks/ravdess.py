"""Features of RAVDESS -> a table that ``reactometer train`` reads, and six scores: face, voice, both; plain,
by person.

    python benchmarks/ravdess.py ravdess_features.parquet --out ravdess [--split val]

The input has a row a trial: ``clip, actor, emotion, level`` (1 normal, 2 strong), means of 35 OpenFace action
units (``AU01_r`` …), and ``voice_000`` … ``voice_258``, which we read as a contour: 259 steps of 512 samples
at 44.1 kHz, 0 where a trial is over before (neighbouring columns correlate .97). Targets: 1 for a strong, .5
for a normal portrayal of each of the six basic emotions, 0 otherwise. Actors 1 to 16 are train, 17 to 20 val,
21 to 24 test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer import compare
from reactometer.labels import BASIC

STEP_S = 512 / 44_100
STRONG = 2
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "ravdess"


def long_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Return one row per step: the voice in every row, the face in the first row of each trial."""
    voice = trials[[name for name in trials if str(name).startswith("voice_")]].to_numpy()  # (trials, 259)
    n_steps = voice.shape[1]
    last = np.maximum.accumulate((voice != 0)[:, ::-1], axis=1)[
        :, ::-1
    ]  # (trials, 259): the trial is not over
    rows = trials.index.repeat(n_steps)
    table = pd.DataFrame({"clip": trials["clip"].loc[rows].astype(str).to_numpy()})
    table["time_s"] = np.tile(np.arange(n_steps) * STEP_S, len(trials))
    actor = trials["actor"].loc[rows].to_numpy()
    table["person"] = pd.Series(actor).astype(str)
    table["split"] = np.select([actor <= 16, actor <= 20], ["train", "val"], "test")
    for label in BASIC:
        target = (trials["emotion"] == label.lower()) * trials["level"] / STRONG
        table[label] = target.loc[rows].to_numpy()
    table["voice"] = np.where(last, voice, np.nan).ravel()
    first = table["time_s"].to_numpy() == 0.0
    for name in [name for name in trials if str(name).startswith("AU")]:
        table[str(name)] = np.where(first, trials[name].loc[rows].to_numpy(), np.nan)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=Path("ravdess"))
    parser.add_argument("--split", default="test", help="choose on val; touch test once")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="key=value on top of the configurations")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    features = options.out / "features.parquet"
    if not features.exists():
        long_table(pd.read_parquet(options.table).reset_index(drop=True)).to_parquet(features)
    configs = [CONFIGS / f"{name}.toml" for name in ("face", "voice", "both")]
    for name, settings in (("plain", []), ("per-person", ["model.person_norm=true"])):
        overrides = [*options.set, *settings]
        made = compare(
            configs,
            features,
            options.out / name,
            seeds=options.seeds,
            overrides=overrides,
            split=options.split,
        )
        print(f"## {name}\n\n{(made.folder / 'comparison.md').read_text(encoding='utf-8')}")


if __name__ == "__main__":
    main()
