"""A search over keys of a configuration: what it takes, keeps, refuses, and goes on with."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest

from reactometer.config import load_config
from reactometer.data.cache import PreparedSet
from reactometer.data.splits import assign_folds
from reactometer.errors import ConfigError, OutputError, ScoreError
from reactometer.training import search as module
from reactometer.training.fit import train
from reactometer.training.search import search
from reactometer.training.search_report import describe_validation
from reactometer.training.space import Choice, Range, parse_space

SPACE = ["training.learning_rate=1e-4..1e-2:log", "model.hidden=16,32"]


def test_a_space_is_a_range_or_a_list_for_each_key() -> None:
    space = parse_space([*SPACE, "model.layers=1..3", "model.dropout = 0..0.5"])
    assert space == (
        Range("training.learning_rate", 1e-4, 1e-2, log=True),
        Choice("model.hidden", ("16", "32")),
        Range("model.layers", 1, 3, log=False),
        Range("model.dropout", 0, 0.5, log=False),
    )
    trial = optuna.trial.FixedTrial(
        {"training.learning_rate": 2e-3, "model.hidden": "32", "model.layers": 2, "model.dropout": 0.25}
    )
    drawn = [one.draw(trial) for one in space]
    assert drawn == ["training.learning_rate=0.002", "model.hidden=32", "model.layers=2", "model.dropout=0.25"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], r"nothing to search over.*--space"),
        (["model.hidden"], r"not a space.*'model.hidden'.*expected KEY=LOW..HIGH"),
        (["hidden=1..2"], "not a space"),
        (["model.hidden=64"], "two or more values"),
        (["model.hidden=64..sixty"], r"'sixty' in .*expected a number"),
        (["model.hidden=64..32"], "an empty range"),
        (["model.dropout=0..0.5:log"], "a low end above 0"),
        (["model.dropout=0.1..0.5:sqrt"], "no such scale.*'sqrt'"),
        (["data.folds=2,3"], "the same for all trials.*--set"),
        (["training.out=a,b"], "the same for all trials"),
        (["model.layers=1,2", "model.layers=1..3"], "searched over twice"),
    ],
)
def test_what_is_no_space_is_named(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_space(texts)


def test_keys_and_values_that_there_are_not_are_named_before_any_work(toml: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'model.hiden'. Did you mean 'hidden'"):
        search(toml, ["model.hiden=1..2"], tmp_path / "out", progress=False)
    with pytest.raises(ConfigError, match=r"model.dropout cannot be used .got 1.5"):
        search(toml, ["model.dropout=0.1..1.5"], tmp_path / "out", progress=False)
    with pytest.raises(ConfigError, match=r"a search trains in one process .got training.devices=2"):
        search(toml, SPACE, tmp_path / "out", ["training.accelerator=cpu", "training.devices=2"], progress=False)
    assert not (tmp_path / "out").exists()


def test_without_optuna_it_says_what_to_install(toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"Optuna is not installed. pip install 'reactometer\[search\]'"):
        search(toml, SPACE, tmp_path / "out", progress=False)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[float], float]], None]:
    """Puts a function of the learning rate in the place of a training."""

    def scored(function: Callable[[float], float]) -> None:
        monkeypatch.setattr("reactometer.training.search_report.LEAST_TRIALS", 8)  # the picture has both its panels
        monkeypatch.setattr(module, "_score", lambda config, *_: function(config.training.learning_rate))

    return scored


@pytest.mark.slow
def test_a_search_keeps_its_trials_failed_ones_too_and_goes_on(
    toml: Path, prepared: PreparedSet, tmp_path: Path, scored: Callable[[Callable[[float], float]], None]
) -> None:
    out, given = tmp_path / "out", [f"data.path={prepared.folder}"]
    calls: list[float] = []

    def score(rate: float) -> float:
        calls.append(rate)
        if len(calls) == 2:
            raise RuntimeError("out of\nmemory")
        return rate

    scored(score)
    first = search(toml, SPACE, out, given, trials=10, progress=False)
    table = pd.read_csv(out / "trials.csv", keep_default_na=False)
    assert table["reason"].tolist() == ["", "out of memory", *[""] * 8]
    assert first.best.score == pytest.approx(max(calls[:1] + calls[2:]))
    best = load_config(out / "best.toml")
    assert best.training.learning_rate == first.best.score
    assert str(best.model.hidden) == first.best.values["model.hidden"]
    assert best.training.out == out / "best"
    assert best.data.path == prepared.folder
    assert (out / "search.png").stat().st_size > 10_000
    assert len(search(toml, SPACE, out, given, trials=12, progress=False).trials) == len(calls) == 12
    assert len(set(calls)) == 12  # what goes on draws anew, not the first values once more
    with pytest.raises(OutputError, match=r"a search of another kind.*got another space.*--out"):
        search(toml, SPACE[:1], out, given, trials=12, progress=False)
    with pytest.raises(OutputError, match="got another folds"):
        search(toml, SPACE, out, given, trials=12, folds=2, progress=False)
    with pytest.raises(OutputError, match="got another configuration"):
        search(toml, SPACE, out, [*given, "training.epochs=3"], trials=12, progress=False)


@pytest.mark.parametrize(("hidden", "first"), [("16,48", True), ("16,32", False)])
def test_the_first_trial_is_the_configuration_itself_where_it_is_in_the_space(
    hidden: str,
    first: bool,
    toml: Path,
    prepared: PreparedSet,
    tmp_path: Path,
    scored: Callable[[Callable[[float], float]], None],
) -> None:
    scored(lambda rate: rate)
    space = ["training.learning_rate=1e-4..1e-2:log", f"model.hidden={hidden}"]
    given = [f"data.path={prepared.folder}", "training.learning_rate=3e-3", "model.hidden=48"]
    found = search(toml, space, tmp_path / "out", given, trials=1, progress=False)
    assert (found.best.score == 3e-3) is first


def test_a_killed_trial_is_done_again_and_finished_ones_count(
    toml: Path, prepared: PreparedSet, tmp_path: Path, scored: Callable[[Callable[[float], float]], None]
) -> None:
    out, given = tmp_path / "out", [f"data.path={prepared.folder}"]
    (out / "trials" / "0002" / "checkpoints").mkdir(parents=True)
    rates: list[float] = []

    def score(rate: float) -> float:
        rates.append(rate)
        if len(rates) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.5

    scored(score)
    child = os.fork()
    if child == 0:
        search(toml, SPACE, out, given, trials=4, progress=False)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    killed = "SELECT param_value FROM trial_params WHERE trial_id = 3 AND param_name = 'training.learning_rate'"
    with sqlite3.connect(out / "search.db") as database:
        killed_rate = database.execute(killed).fetchone()[0]
    again: list[float] = []
    scored(lambda rate: again.append(rate) or 0.1)  # type: ignore[func-returns-value]
    result = search(toml, SPACE, out, given, trials=4, progress=False)
    assert again[0] == killed_rate
    assert [trial.number for trial in result.trials] == [0, 1, 3, 4]
    assert not (out / "trials" / "0002").exists()


def test_no_trial_with_a_score_is_an_error(
    toml: Path, prepared: PreparedSet, tmp_path: Path, scored: Callable[[Callable[[float], float]], None]
) -> None:
    def fails(rate: float) -> float:
        raise ValueError("as always")

    scored(fails)
    with pytest.raises(ScoreError, match=r"none of 2 trials has come to a score .got as always.*trials.csv"):
        search(toml, SPACE, tmp_path, [f"data.path={prepared.folder}"], trials=2, progress=False)
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 2
    with pytest.raises(ScoreError, match=r"none of 0 trials.*got no time for one"):
        search(toml, SPACE, tmp_path / "late", [f"data.path={prepared.folder}"], timeout_s=0.0, progress=False)


def test_it_says_on_whom_trials_are_scored(prepared: PreparedSet) -> None:
    def numbered(person: Callable[[int], str | None]) -> PreparedSet:
        rows = [replace(row, clip=replace(row.clip, person=person(place))) for place, row in enumerate(prepared.rows)]
        return replace(prepared, rows=tuple(rows))

    assert "people who are not known" in describe_validation(numbered(lambda _: None), 0)
    assert "1 people, 1 of whom were trained on" in describe_validation(numbered(lambda _: "anna"), 0)
    own = numbered(lambda place: f"person {place // 2}")
    assert "none of whom was trained on" in describe_validation(own, 3)
    clips = assign_folds([row.clip for row in own.rows], 3, 0)
    people = [{clip.person for clip in clips if clip.split == split} for split in ("train", "val")]
    assert not people[0] & people[1]


@pytest.mark.slow
def test_a_real_search_breaks_off_poor_trials_and_its_best_trains(
    toml: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    given = [f"data.path={prepared.folder}", "training.epochs=6", "training.accelerator=cpu", "training.patience=6"]
    out = tmp_path / "out"
    result = search(toml, ["training.learning_rate=1e-5..1e-1:log"], out, given, trials=14, progress=False)
    assert any(trial.reason.startswith("broken off") and trial.epochs < 6 for trial in result.trials)
    assert not list(out.rglob("*.ckpt"))
    log = pd.read_csv(out / "trials" / f"{result.best.number:04d}" / "logs" / "metrics.csv")
    assert log["val_mean_pearson"].max() == pytest.approx(result.best.score)
    train(out / "best.toml", progress=False)
    again = pd.read_csv(out / "best" / "logs" / "metrics.csv")
    assert again["val_mean_pearson"].max() == pytest.approx(result.best.score)
    folds = search(
        toml, SPACE[:1], tmp_path / "folds", [*given, "training.epochs=1"], trials=1, folds=2, progress=False
    )
    scores = [
        pd.read_csv(tmp_path / "folds" / "trials" / "0000" / f"fold{fold}" / "logs" / "metrics.csv")["val_mean_pearson"]
        for fold in range(2)
    ]
    assert folds.best.score == pytest.approx(sum(column.max() for column in scores) / 2)
