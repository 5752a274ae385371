"""Search over keys of a configuration: trials scored on people that none of them was trained on, by Optuna."""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from reactometer.config import Config, load_config
from reactometer.console import messages, progress_bar
from reactometer.data.cache import PreparedSet
from reactometer.data.leaks import check_leaks
from reactometer.data.sources import open_data
from reactometer.errors import ConfigError, OutputError, ReactometerError, ScoreError
from reactometer.io import make_folder, write_whole
from reactometer.training.engine import CHECKPOINTS, run
from reactometer.training.processes import count_processes
from reactometer.training.search_report import SearchResult, describe_validation, tried_trials, write_result
from reactometer.training.setup import deal_folds, set_up
from reactometer.training.space import Choice, Range, parse_space
from reactometer.training.task import ReactionTask

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import BaseTrial, Trial

STUDY, ABOUT, TRIALS = "search.db", "search.json", "trials"


@dataclass(frozen=True)
class _Job:
    """What all trials have in common."""

    file: Path
    overrides: tuple[str, ...]
    space: tuple[Range | Choice, ...]
    prepared: PreparedSet
    folds: int
    out: Path

    def config(self, trial: BaseTrial) -> Config:
        """The configuration of one trial."""
        return load_config(self.file, [*self.overrides, *(one.draw(trial) for one in self.space)])


def search(
    config: Path | str,
    space: Sequence[str],
    out: Path | str,
    overrides: Sequence[str] = (),
    *,
    trials: int = 20,
    folds: int = 0,
    timeout_s: float | None = None,
    progress: bool = True,
) -> SearchResult:
    """Train with other values of some keys, trial by trial, and keep those with the best score on val.

    The first trial has the configuration's own values, where they are in the space; others are drawn by a
    tree-structured Parzen estimator, seeded by ``training.seed``; a trial whose score is below the median of the
    others' at the same epoch is broken off. The test split is never looked at. A second call goes on with what the
    first one has done; a trial that was killed is done again.

    Args:
        config: a TOML file.
        space: what to try, a text a key, as :func:`parse_space` reads it.
        out: a folder for ``trials.csv``, ``best.toml``, ``search.png``, and each trial's logs.
        overrides: ``section.key=value`` on top of the file.
        trials: how many in all, with those that are there.
        folds: the score is the mean over so many person-disjoint folds of train and val; 0: the val split as it is.
        timeout_s: no trial begins later than so many seconds from now.
        progress: show a bar and a line a trial on standard error.

    Raises:
        ConfigError: Optuna is not installed, or a key or value that there is not.
        DataError: the data cannot be trained on, or train and val share people.
        OutputError: ``out`` holds another search, or one that is running.
        ScoreError: no trial has come to a score.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("Optuna is not installed", fix="pip install 'reactometer[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file, out, parsed = Path(config), Path(out), parse_space(space)
    base = _checked(file, overrides, parsed)
    try:
        with FileLock(make_folder(out) / "search.lock", timeout=0):
            prepared = open_data(base.data, base.prepare, progress=progress)
            own = [row.clip for row in deal_folds(_on_fold(base, folds, 0), prepared).rows]
            clips = [row.clip for row in prepared.rows]
            check_leaks(clips, own if folds else clips, origin=str(prepared.folder), allowed=base.data.allow_leak)
            job = _Job(file, tuple(overrides), parsed, prepared, folds, out)
            study = _open_study(job, base)
            _try_all(job, study, trials, math.inf if timeout_s is None else time.monotonic() + timeout_s, progress)
            return _result(job, study)
    except Timeout as error:
        raise OutputError(f"{out}: a search is running in it", fix="Wait for it, or name another folder") from error


def _checked(file: Path, overrides: Sequence[str], space: Sequence[Range | Choice]) -> Config:
    """The configuration itself; every end of a range and every value of a list must be possible in it."""
    base = load_config(file, overrides)
    for sample in (sample for one in space for sample in one.samples):
        load_config(file, [*overrides, sample])
    if math.prod(count_processes(base.training)) > 1 and base.training.devices != "auto":
        raise ConfigError(
            "a search trains in one process",
            got=f"training.devices={base.training.devices}",
            fix="Leave it out, and train the best configuration with it",
        )
    return base


def _on_fold(config: Config, folds: int, fold: int) -> Config:
    """The configuration to validate on one fold, in one process."""
    data = config.data.model_copy(update={"folds": folds, "fold": fold} if folds else {})
    training = config.training.model_copy(update={"devices": 1, "num_nodes": 1})
    return config.model_copy(update={"data": data, "training": training})


def _open_study(job: _Job, base: Config) -> Study:
    """The study of the folder, begun or gone on with; a trial that was killed waits to be done again."""
    import optuna
    from optuna.trial import TrialState

    about = {
        "configuration": base.model_dump(mode="json", exclude={"prepare": True, "training": {"out"}}),
        "space": [str(one) for one in job.space],
        "folds": job.folds,
        "data": job.prepared.manifest_sha256,
    }
    file = job.out / ABOUT
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else about
    if others := [name for name in about if known.get(name) != about[name]]:
        raise OutputError(
            f"{job.out}: a search of another kind was begun there",
            got=f"another {' and '.join(others)}",
            fix="Name another folder with --out, or delete this one",
        )
    write_whole(file, json.dumps(about, indent=2) + "\n")
    storage = f"sqlite:///{job.out / STUDY}"
    pruner = optuna.pruners.MedianPruner(n_warmup_steps=base.training.epochs // 4)
    study = optuna.create_study(
        study_name="search", storage=storage, load_if_exists=True, direction="maximize", pruner=pruner
    )
    study.sampler = optuna.samplers.TPESampler(seed=base.training.seed + len(study.trials))
    own = {one.key: value for one in job.space if (value := one.own(base)) is not None}
    if not study.trials and len(own) == len(job.space):
        study.enqueue_trial(own)  # what is to be bettered
    for stale in study.get_trials(states=(TrialState.RUNNING,)):
        shutil.rmtree(job.out / TRIALS / f"{stale.number:04d}", ignore_errors=True)
        study.enqueue_trial(stale.params)
        study.tell(stale.number, state=TrialState.FAIL)
    return study


def _try_all(job: _Job, study: Study, trials: int, deadline: float, progress: bool) -> None:
    done = len(tried_trials(study))
    with progress_bar("searching", trials, progress, done=min(done, trials)) as advance:
        while done < trials and time.monotonic() < deadline:
            _try_one(job, study)
            done += 1
            last, best = tried_trials(study)[-1], write_result(job.out, study, job.config)
            if progress:
                values = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in last.values.items())
                said = f"{last.score:.4f}" if last.score is not None else last.reason
                known = f" (best {best.score:.4f})" if best and best.score is not None else ""
                messages.print(f"trial {last.number}: {said}{known}: {values}", markup=False)
            advance()


def _try_one(job: _Job, study: Study) -> None:
    """Run one trial; one that fails is kept with its reason."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    trial = study.ask()
    folder = job.out / TRIALS / f"{trial.number:04d}"
    scores: list[float] = []
    try:
        config = job.config(trial)
        for fold in range(job.folds or 1):
            place = folder / f"fold{fold}" if job.folds else folder
            scores.append(_score(_on_fold(config, job.folds, fold), job.prepared, place, trial, scores))
        study.tell(trial, sum(scores) / len(scores))
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except (ReactometerError, ArithmeticError, RuntimeError, ValueError) as error:
        trial.set_user_attr("reason", " ".join(str(error).split()) or type(error).__name__)
        study.tell(trial, state=TrialState.FAIL)
    finally:
        for weights in folder.rglob(CHECKPOINTS):
            shutil.rmtree(weights, ignore_errors=True)


def _score(config: Config, prepared: PreparedSet, out: Path, trial: Trial, before: Sequence[float]) -> float:
    """Train once and say what the best epoch scores on validation."""
    seed_everything(config.training.seed, workers=True, verbose=False)
    with warnings.catch_warnings():
        if trial.number:  # the first one has said it
            warnings.simplefilter("ignore")
        setup = set_up(config, prepared, progress=False)
    watch = _Watch(trial, before, config.training.epochs)
    task = ReactionTask(setup.trained, config.training, setup.data)
    run(task, setup.data, config.training, out, resume=False, progress=False, watch=[watch])
    if not math.isfinite(watch.best):
        raise ScoreError("the score is not a number", fix="Lower training.learning_rate")
    return watch.best


class _Watch(Callback):
    """Tells the study each epoch's score, averaged with those of the folds before, and breaks off a poor trial."""

    def __init__(self, trial: Trial, before: Sequence[float], epochs: int) -> None:
        self.trial, self.before, self.epochs = trial, list(before), epochs
        self.best = -math.inf

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        from optuna import TrialPruned

        score = float(trainer.callback_metrics[pl_module.score])
        self.best = max(self.best, score)
        known = [*self.before, score]
        self.trial.report(sum(known) / len(known), len(self.before) * self.epochs + trainer.current_epoch)
        if self.trial.should_prune():
            raise TrialPruned


def _result(job: _Job, study: Study) -> SearchResult:
    tried = tried_trials(study)
    best = write_result(job.out, study, job.config)
    if best is None:
        reasons = [one.reason for one in tried if one.reason]
        raise ScoreError(
            f"none of {len(tried)} trials has come to a score",
            got=reasons[0] if reasons else "no time for one",
            fix="Mend the configuration or the space; all reasons are in trials.csv",
        )
    return SearchResult(job.out, tried, best, describe_validation(job.prepared, job.folds))
