"""Tune a configuration with Optuna: train with different values of some keys and keep the best.

    pip install optuna
    python examples/tune.py configs/ravdess/both.toml data.path=features.parquet --trials 12 --out tuned

Each trial trains on the train split. Its score is mean Pearson on the val split, whose people no trial was
trained on. The test split is not used. The score of the best of many trials is optimistic: score the best
model on the test split, once. Run the same command again to continue after a stop.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import optuna

from reactometer import train
from reactometer.errors import ReactometerError


def sample_values(trial: optuna.Trial) -> dict[str, object]:
    """Sample the values of one trial. Edit this function: it is the search space."""
    return {
        "training.learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "training.weight_decay": trial.suggest_float("weight_decay", 0.03, 1.0, log=True),
        "model.dropout": trial.suggest_float("dropout", 0.2, 0.7),
        "model.hidden": trial.suggest_categorical("hidden", [64, 128, 256]),
    }


def tune(config: Path, overrides: list[str], out: Path, n_trials: int) -> optuna.Study:
    """Run trials until ``n_trials`` have ended, and write a table of all trials to ``out/trials.csv``."""

    def run_trial(trial: optuna.Trial) -> float:
        values = [f"{key}={value}" for key, value in sample_values(trial).items()]
        folder = out / f"trial{trial.number:03d}"
        values.append(f"training.out={json.dumps(str(folder))}")
        model = train(config=config, overrides=[*overrides, *values], progress=False)
        metrics = json.loads((model / "model.json").read_text(encoding="utf-8"))["metrics"]
        return metrics["mean_pearson"] or 0.0  # undefined for a constant prediction

    out.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{out / 'study.db'}"
    study = optuna.create_study(study_name="tune", storage=storage, direction="maximize", load_if_exists=True)
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # a continued study samples new values
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    study.optimize(
        run_trial, n_trials=max(0, n_trials - len(ended)), catch=(ReactometerError, ArithmeticError)
    )
    study.trials_dataframe().to_csv(out / "trials.csv", index=False)
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="a TOML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides for every trial")
    parser.add_argument(
        "--out", type=Path, default=Path("tuned"), help="folder for the trials (default: tuned)"
    )
    parser.add_argument("--trials", type=int, default=20, help="number of trials in total (default: 20)")
    options = parser.parse_args()
    best = tune(options.config, options.overrides, options.out, options.trials).best_trial
    print(f"best: trial {best.number}, mean Pearson on val {best.value:.4f}: {best.params}")
