"""A search on the disk: a table of its trials, the best configuration, a picture."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reactometer.config import Config
from reactometer.data.cache import PreparedSet
from reactometer.io import write_picture, write_whole
from reactometer.records import Clip

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FixedTrial

TABLE, BEST, PICTURE = "trials.csv", "best.toml", "search.png"

LEAST_TRIALS = 40
"""With a score; of fewer nothing is said of how much a key matters: of ten, it was said of the one key that all of the
best had in common that it did not. Our choice."""

PRUNED = "broken off: below the median"


@dataclass(frozen=True)
class Tried:
    """One trial that was brought to an end."""

    number: int
    values: dict[str, str]  # by key
    score: float | None  # mean Pearson on val of the best epoch; None: none
    epochs: int
    seconds: float
    reason: str  # why there is no score


@dataclass(frozen=True)
class SearchResult:
    """Where the search lies, and what it came to."""

    folder: Path
    trials: tuple[Tried, ...]
    best: Tried
    validation: str  # on whom it was scored


def tried_trials(study: Study) -> tuple[Tried, ...]:
    """The trials that came to an end; one that was killed has no reason and does not count."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        score = trial.value if trial.state.name == "COMPLETE" else None
        reason = PRUNED if trial.state.name == "PRUNED" else str(trial.user_attrs.get("reason", ""))
        if score is not None or reason:
            values = {key: _short(value) for key, value in trial.params.items()}
            seconds = trial.duration.total_seconds() if trial.duration else 0.0
            found.append(Tried(trial.number, values, score, len(trial.intermediate_values), seconds, reason))
    return tuple(found)


def describe_validation(prepared: PreparedSet, folds: int) -> str:
    """On whom trials are scored, in words."""

    def of(*splits: str) -> list[Clip]:
        return [row.clip for row in prepared.rows if row.clip.split in splits and row.clip.labels]

    clips = of("train", "val") if folds else of("val")
    people = {clip.person for clip in clips} - {None}
    known = set() if folds else people & {clip.person for clip in of("train")}
    where = f"{folds} folds of train and val" if folds else "val"
    met = f"{len(known)} of whom were trained on" if known else "none of whom was trained on"
    who = f"of {len(people)} people, {met}" if people else "of people who are not known"
    return f"mean Pearson on {where}: {len(clips)} clips {who}"


def write_result(out: Path, study: Study, config: Callable[[FixedTrial], Config]) -> Tried | None:
    """Write the table, and, once a trial has a score, its configuration and the picture; returns the best trial."""
    import pandas as pd
    from optuna.trial import FixedTrial

    tried = tried_trials(study)
    rows = [
        {"trial": one.number, "score": one.score, "epochs": one.epochs, "seconds": round(one.seconds, 1)}
        | one.values
        | {"reason": one.reason}
        for one in tried
    ]
    write_whole(out / TABLE, pd.DataFrame(rows).to_csv(index=False))
    scored = [one for one in tried if one.score is not None]
    if not scored:
        return None
    best = max(scored, key=lambda one: one.score or 0.0)
    chosen = config(FixedTrial(study.trials[best.number].params))
    chosen = chosen.model_copy(update={"training": chosen.training.model_copy(update={"out": out / "best"})})
    head = f"# Trial {best.number} of a search: {best.score:.4f} on val, the best of {len(scored)} with a score.\n"
    write_whole(out / BEST, head + to_toml(chosen))
    _draw(scored, _importances(study, len(scored)), out / PICTURE)
    return best


def to_toml(config: Config) -> str:
    """The configuration as ``load_config`` reads it."""
    sections = config.model_dump(mode="json", exclude_none=True)
    return "".join(
        f"\n[{name}]\n" + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
        for name, table in sections.items()
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _importances(study: Study, n_scored: int) -> dict[str, float]:
    """How much each key matters (PED-ANOVA, Watanabe et al., arXiv 2304.10255), in all 1; empty for few trials."""
    import optuna

    if n_scored < LEAST_TRIALS or len(study.best_params) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls it experimental
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _draw(scored: Sequence[Tried], importances: dict[str, float], path: Path) -> None:
    """Draw every score and the best so far, and how much each key matters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2 if importances else 4.6, 3.2), layout="constrained")
    panels: Any = figure.subplots(1, 2 if importances else 1, squeeze=False)[0]
    numbers, scores = [one.number for one in scored], [one.score or 0.0 for one in scored]
    best = [max(scores[: place + 1]) for place in range(len(scores))]
    panels[0].plot(numbers, scores, "o", color="#30638e", markersize=4)
    panels[0].step(numbers, best, where="post", color="#d1495b", linewidth=1)
    panels[0].set_xlabel("trial")
    panels[0].set_ylabel("mean Pearson on val; line: best so far")
    if importances:
        names = list(importances)[::-1]
        panels[1].barh(names, [importances[name] for name in names], color="#30638e")
        panels[1].set_xlabel("share of what the keys matter (PED-ANOVA)")
    write_picture(figure, path)
