"""Train on features of RAVDESS and print six scores: face, voice, both; plain and per person.

    python benchmarks/ravdess.py ravdess_features.parquet --out ravdess [--split val]
    python benchmarks/ravdess.py ravdess_features.parquet --out ravdess --designs both

The second command scores normalisation per person in four designs of a study: every person shows all emotions
equally often, 8 random clips, two emotions, or one. Five person-disjoint folds without the actors 01, 05 and
19, who are the test of other models; each fold is test once, the next one val. All clips are scored in each
design, in groups that count as people.

The input has one row per trial: ``clip, actor, emotion, level`` (1 normal, 2 strong), means of 35 OpenFace
action units (``AU01_r`` …), and ``voice_000`` … ``voice_258``, which we read as a contour: 259 steps of 512
samples at 44.1 kHz, 0 where a trial is over before (neighbouring columns correlate 0.97). Targets: 1 for a
strong, 0.5 for a normal portrayal of each of the six basic emotions, 0 otherwise. Actors 1 to 16 are train,
17 to 20 val, 21 to 24 test.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer import compare, train
from reactometer.data.cache import PreparedRow
from reactometer.evaluation.evaluate import open_for_model
from reactometer.evaluation.metrics import measure
from reactometer.inference.checkpoint import load_model
from reactometer.inference.scoring import score_split
from reactometer.labels import BASIC

STEP_S = 512 / 44_100
STRONG = 2
HELD_OUT = (1, 5, 19)
N_FOLDS = 5
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


DESIGNS = ("all emotions equally often", "8 random clips", "two emotions", "one emotion")


def design_groups(trials: pd.DataFrame, rng: np.random.Generator) -> dict[str, dict[str, str]]:
    """By design, the group of each clip; the clips of an actor in one group count as one person's."""
    groups: dict[str, dict[str, str]] = {design: {} for design in DESIGNS}
    for actor, clips in trials.groupby("actor"):
        emotion = pd.factorize(clips["emotion"])[0]  # (clips,)
        parts = rng.permutation(len(clips)) // 8
        pairs = rng.permutation(emotion.max() + 1) // 2
        numbers = (0 * parts, parts.clip(max=len(clips) // 8 - 1), pairs[emotion], emotion)
        for design, number in zip(DESIGNS, numbers, strict=True):
            groups[design] |= {
                clip: f"{actor}-{group}" for clip, group in zip(clips["clip"], number, strict=True)
            }
    return groups


def score_designs(trials: pd.DataFrame, config: Path, out: Path, overrides: Sequence[str]) -> pd.DataFrame:
    """Out-of-fold mean Pearson of each design, with and without normalisation per person."""
    trials = trials[~trials["actor"].isin(HELD_OUT)].reset_index(drop=True)
    rng, table = np.random.default_rng(0), long_table(trials)
    actors = rng.permutation(trials["actor"].unique())
    fold = table["person"].map({str(actor): index % N_FOLDS for index, actor in enumerate(actors)})
    groups = design_groups(trials, rng)
    scored: dict[tuple[str, bool], list[tuple[np.ndarray, np.ndarray]]] = {}
    for test in range(N_FOLDS):
        table["split"] = np.select([fold == test, fold == (test + 1) % N_FOLDS], ["test", "val"], "train")
        features = out / f"fold{test}.parquet"
        table.to_parquet(features)
        for person_norm in (False, True):
            run = out / f"{config.stem}-fold{test}-{'per-person' if person_norm else 'plain'}"
            own = [
                f'data.path="{features}"',
                f'training.out="{run}"',
                f"model.person_norm={str(person_norm).lower()}",
            ]
            done = (run / "model").exists()
            loaded = load_model(
                run / "model" if done else train(config=config, overrides=[*overrides, *own], progress=False)
            )
            prepared = open_for_model(loaded, features, progress=False)
            for design in DESIGNS:
                rows = [_in_group(row, groups[design]) for row in prepared.split("test")]
                scores, _ = score_split(loaded, replace(prepared, rows=tuple(rows)), "test", progress=False)
                pair = (
                    np.array([row.clip.labels for row in rows]),
                    np.array([score.intensities for score in scores]),
                )
                scored.setdefault((design, person_norm), []).append(pair)
    lines = []
    for design in DESIGNS:
        plain, own_r = (
            measure(*map(np.concatenate, zip(*scored[design, person_norm], strict=True)), BASIC).mean_pearson
            or 0.0
            for person_norm in (False, True)
        )
        lines.append(
            {"each person shows": design, "plain": plain, "per person": own_r, "gain": own_r - plain}
        )
    return pd.DataFrame(lines)


def _in_group(row: PreparedRow, group_of: dict[str, str]) -> PreparedRow:
    return replace(row, clip=replace(row.clip, person=group_of[row.clip.clip_id]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=Path("ravdess"))
    parser.add_argument("--split", default="test", help="choose on val; touch test once")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="key=value on top of the configurations")
    parser.add_argument(
        "--designs", choices=("face", "voice", "both"), help="score four designs of a study instead"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.designs:
        trials, config = pd.read_parquet(options.table), CONFIGS / f"{options.designs}.toml"
        scores = score_designs(trials, config, options.out, options.set)
        print(scores.to_string(index=False, float_format="{:.3f}".format))
        return
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
