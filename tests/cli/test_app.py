"""The commands as a person types them: what they print, write and return."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

from reactometer.cli.app import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process; gives its exit status, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reactometer", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_the_main_job_from_a_data_set_to_predictions(
    run: Run, toml: Path, excerpt: Callable[..., Path], tmp_path: Path
) -> None:
    cache, out, data = tmp_path / "cache", tmp_path / "run", excerpt(train=10, val=4, test=10)
    prepare = ["prepare", data, "-o", cache, "--detector", "haar", "--fps", 2, "--crop-size", 48]
    status, printed, _ = run(*prepare)
    assert status == 0
    assert "24 of 24 clips ready" in printed
    assert "of the sampled frames" in printed
    status, printed, errors = run("train", toml, "-d", cache, "-o", out)
    assert status == 0
    assert f"model: {out / 'model'}" in printed
    assert "epoch   1 of 1: train loss" in errors
    status, printed, _ = run("evaluate", cache, "-m", out / "model", "-o", tmp_path / "scores")
    assert status == 0
    assert "Empathic-Pain" in printed
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert f"test: {metrics['n_clips']} clips" in printed
    assert "(95% interval): 2000 resamples by person" in printed
    assert "slope: of target on prediction" in printed
    everything = ["evaluate", cache, "-m", out / "model", "--split", "all", "--groups", "country, age"]
    status, _, errors = run(*everything)
    assert status == 2
    assert "the model was trained on these clips (got 10 of 24 clips" in errors
    status, printed, _ = run(*everything, "--in-sample")
    assert status == 0
    assert "all: 24 clips, in-sample" in printed
    assert "South Africa" in printed
    assert re.search(r"age \d+-\d+ ", printed)
    assert "0 differences tested, 0 significant" in printed
    status, _, messages = run(
        "report", cache, "-m", out / "model", "--no-robustness", "-o", tmp_path / "report"
    )
    assert status == 0
    assert str(tmp_path / "report" / "report.html") in messages
    assert f"{metrics['mean_mae']:.4f}" in (tmp_path / "report" / "model-card.md").read_text()
    predictions = tmp_path / "scores" / "predictions.csv"
    status, printed, _ = run(
        "compare-predictions", predictions, predictions, "-d", cache, "--by", "clip", "--resamples", 200
    )
    assert status == 0
    assert "200 resamples and permutations by clip (10 of them)" in printed
    assert "no significant difference in mean Pearson" in printed
    status, _, errors = run("compare-predictions", predictions, tmp_path / "no.csv", "-d", data)
    assert (status, "no.csv: no such file" in errors) == (2, True)
    video = min((data / "test" / "mp4").iterdir())
    refined = ["--window", 1, "--hop", 0.5, "--smooth", 1, "--baseline", "0-1s"]
    saved = ["--save", "timeline, events,frames,elan,vtt,plot,overlay", "--threshold", 0.05]
    results = tmp_path / "results"
    status, printed, errors = run(
        "predict", video, "-m", out / "model", "--out-dir", results, *refined, *saved
    )
    assert status == 0
    assert "smoothed: Hann-weighted mean over 1 s" in errors
    assert "baseline: mean of 0 to 1 s (windows: 1), subtracted" in errors
    assert "1 of 1 files have a result" in printed
    assert set(pd.read_csv(results / "events.csv")) >= {"onset_s", "peak_s", "offset_s"}
    for kind, ending in (("elan", "eaf"), ("vtt", "vtt"), ("plot", "png"), ("overlay", "mp4")):
        assert (results / kind / f"{video.stem}.{ending}").stat().st_size
    assert pd.read_csv(results / "timeline.csv").start_s.tolist()[0] == 0.0
    assert set(pd.read_csv(results / "frames.csv").state) <= {"face", "no_face"}
    status, printed, _ = run("predict", video, "-m", out / "model", "-o", tmp_path / "clips.csv", "--json")
    (row,) = json.loads(printed)
    assert (status, row["status"]) == (0, "ok")
    assert pd.read_csv(tmp_path / "clips.csv").status.tolist() == ["ok"]
    assert "face" not in pd.read_csv(tmp_path / "clips.csv")
    everybody = ["--faces", "all", "-o", tmp_path / "faces.csv"]
    status, printed, _ = run("predict", video, "-m", out / "model", *everybody)
    assert status == 0
    assert f"{video.name}, face 1: " in printed
    table = pd.read_csv(tmp_path / "faces.csv")
    assert (list(table)[:3], table.face.tolist()) == (["path", "face", "status"], [1])


@pytest.mark.slow
def test_an_audit_ends_with_1_at_a_leak_and_a_clean_split_mends_it(
    run: Run, toml: Path, simulated: Path, tmp_path: Path
) -> None:
    """People of train in val: audited, refused by train unless allowed, split anew by stimulus and person."""
    data = Path(shutil.copytree(simulated, tmp_path / "data"))
    table = pd.read_csv(data / "data_info.csv", dtype=str)
    table.loc[table.Split == "Val", "Person"] = table.Person[0]
    table.to_csv(data / "data_info.csv", index=False)
    cache = tmp_path / "cache"
    settings = ["--detector", "haar", "--fps", 1, "--crop-size", 48]
    assert run("prepare", data, "-o", cache, *settings)[0] == 0
    status, printed, _ = run("data", "audit", cache, "-o", tmp_path / "audit.json")
    assert status == 1
    assert re.search(r"leak: person: 1 in train and val \(\d+ clips, 100\.0% of val, such as P\d+\)", printed)
    assert json.loads((tmp_path / "audit.json").read_text())["leaks"][0]["type"] == "person"
    status, _, errors = run("train", toml, f"data.path={cache}", f"training.out={tmp_path / 'run'}")
    assert (status, (tmp_path / "run").exists()) == (2, False)
    assert "splits share people or stimuli" in errors
    allowed = ["--allow-leak", f"data.path={cache}", f"training.out={tmp_path / 'run'}"]
    status, _, errors = run("train", toml, *allowed)
    assert status == 0
    assert "warning" in errors
    assert "splits share person: 1 in train and val" in errors
    clean = tmp_path / "clean.csv"
    status, printed, _ = run(
        "data", "split", data, "-o", clean, "--disjoint", "stimulus", "--val", 0.2, "--test", 0.2
    )
    assert status == 0
    assert f"manifest: {clean}" in printed
    assert run("prepare", clean, "-o", tmp_path / "again", *settings)[0] == 0
    status, printed, _ = run("data", "audit", tmp_path / "again")
    assert "stimulus: " not in printed


@pytest.mark.slow
def test_clips_that_fail_are_listed_and_the_status_is_1(
    run: Run, excerpt: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    data = excerpt(train=5, test=1)
    broken = sorted((data / "train" / "mp4").iterdir())[3]
    broken.write_bytes(b"")
    status, printed, errors = run(
        "prepare", data, "-o", tmp_path / "cache", "--detector", "haar", "--crop-size", 48
    )
    assert status == 1
    assert "5 of 6 clips ready" in printed
    assert "1 failed:" in errors
    assert broken.name in errors
    good = min((data / "test" / "mp4").iterdir())
    out = tmp_path / "clips.csv"
    (tmp_path / "list.txt").write_text("no.mp4\n")
    inputs = good, broken, tmp_path / "list.txt"
    status, printed, errors = run("predict", *inputs, "-m", model_folder, "-o", out)
    assert status == 1
    assert good.name in printed
    assert "2 failed:" in errors
    assert "no.mp4" in errors
    assert [text.startswith("failed: ") for text in pd.read_csv(out).status] == [False, True, True]
    status, printed, errors = run("predict", good, broken, "-m", model_folder, "--out-dir", tmp_path / "run")
    assert status == 1
    assert "1 of 2 files have a result (2 computed now, 0 earlier)" in printed
    assert "1 failed:" in errors
    assert "failed.csv" in errors
    status, printed, errors = run("predict", good, "-m", model_folder, "--out-dir", tmp_path / "run")
    assert (status, "1 of 1 files have a result (0 computed now, 1 earlier)" in printed) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "nowhere", "-o", "x"], "error: nowhere: no such file"),
        (["train", "nowhere.toml"], "error: nowhere.toml: no such configuration file"),
        (["evaluate", "-m", "nowhere", "data"], "error: nowhere: no such checkpoint"),
        (["predict", "-m", "nowhere", "a.mp4"], "error: nowhere: no such checkpoint"),
        (["predict", "-m", "nowhere", "a.mp4", "-o", "a.xls"], "error: a.xls: unknown table format"),
        (["predict", "a.mp4", "--save", "plot"], "--save needs --out-dir. hint: Add --out-dir results"),
        (
            ["predict", "a.mp4", "--out-dir", "results", "-o", "a.csv"],
            "--out cannot be used with --out-dir. hint: files.csv in the folder",
        ),
        (
            ["predict", "a.mp4", "--out-dir", "r", "--save", "elam"],
            "unknown output (got 'elam'). hint: Did you",
        ),
        (
            ["predict", "a.mp4", "--retry-failed"],
            "--retry-failed needs --out-dir. hint: Add --out-dir results",
        ),
        (
            ["predict", "a.mp4", "--ray", "local", "-o", "a.csv"],
            "--ray needs --out-dir. hint: Add --out-dir results",
        ),
        (["predict", "nowhere/*.mp4"], "error: nowhere/*.mp4: no file matches the pattern"),
        (["predict", "a.mp4", "aa.mp4"], "error: aa.mp4: no such file. hint: Did you mean 'a.mp4'?"),
        (
            ["predict", "a.mp4", "c.mp4", "--out-dir", "results", "--ray", "local"],
            "error: c.mp4: no such file",
        ),
        (
            ["prepare", "nowhere", "-o", "x", "--detector", "dlib"],
            "invalid value for prepare.detector (got 'dlib'",
        ),
        (["prepare", "nowhere", "-o", "x", "--fps", "-1"], "invalid value for prepare.rate_hz (got -1.0"),
        (
            ["data", "split", "nowhere", "-o", "a.txt"],
            "error: a.txt: cannot be written (got .txt; expected a new",
        ),
        (["data", "audit", "nowhere"], "error: nowhere: no such file"),
        (["calibrate", "nowhere", "-m", "starter", "-o", "a.mp4"], "error: a.mp4: exists already"),
        (
            ["calibrate", "nowhere", "-m", "starter", "-o", "x", "--coverage", "2"],
            "error: coverage is out of range (got 2.0",
        ),
        (["crossval", "-d", "nowhere", "model.name=resnet5"], "error: no model 'resnet5'"),
        (
            ["crossval", "-d", "nowhere", "-o", "."],
            "error: .: contains files of no cross-validation",
        ),
        (
            ["crossval", "-d", "nowhere", "-o", "a.mp4"],
            "error: a.mp4: cannot be written: File exists. hint: Move the file that is in place of a folder",
        ),
        (["evaluate", "nowhere", "-m", "a.mp4"], "error: a.mp4: not a checkpoint: it is a file"),
        (["explain", "a.mp4", "-m", "nowhere"], "error: nowhere: no such checkpoint"),
        (
            ["explain", "a.mp4", "--span", "10"],
            "error: invalid span to explain (got '10'; expected seconds such as",
        ),
        (["explain", "c.mp4"], "error: cannot open c.mp4 (got no such file"),
        (["predict", "https://x.org/a.mp4"], "hint: Web addresses are not read: download the file first"),
        (["predict", "no/a.mp4"], "error: no/a.mp4: no such file. hint: The folder no does not exist"),
        (["explain", "."], "got a folder; expected a video or sound file). hint: Name one file in it"),
        (["train", "videos.csv"], "error: videos.csv: not a configuration. hint: Name the dataset with -d"),
        (["predict", "-m", "starter"], "Missing argument"),
        (["predikt"], "No such command 'predikt'"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    run: Run, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        Path(name).touch()
    status, printed, errors = run(*arguments)
    assert status == 2
    assert message in errors
    assert printed == ""
    assert "Traceback" not in errors
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_ctrl_c_prints_a_message_and_leaves_finished_results(
    run: Run, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reactometer.data import prepare

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "run_jobs", interrupted)
    status, _, errors = run("prepare", simulated, "-o", tmp_path / "cache")
    assert status == 130
    assert "stopped. hint: run the same command again" in errors


@pytest.mark.parametrize(
    "command",
    ["prepare", "train", "evaluate", "compare-predictions", "data", "data audit", "model", "predict", "demo"],
)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    status, printed, _ = run(*command.split(), "-h")
    assert status == 0
    assert f"reactometer {command}" in printed.replace("Usage: ", "")


def test_the_module_runs_as_a_program_and_prints_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reactometer", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"reactometer {version('reactometer')}\n"
