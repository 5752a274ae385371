"""Runs over many files: their results, resuming, and kills at any moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from reactometer.batch import result_store, run
from reactometer.batch.result_store import (
    FAILED_FILE,
    JOURNAL,
    SETTINGS_FILE,
    ResultStore,
    open_results,
)
from reactometer.batch.run import RunResult, predict_folder, read_run
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.inference.prediction import Prediction
from reactometer.inference.predictor import PredictOptions
from reactometer.io import PART
from reactometer.paths import STARTER, find_checkpoint


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    out = tmp_path_factory.mktemp("runs") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result_store, "JOURNAL_LINES", 2)
        return predict_folder([videos], out, device="cpu", workers=2, progress=False)


@pytest.fixture
def copy(finished: RunResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder, tmp_path / "copy"))


def test_a_run_equals_predict(finished: RunResult, videos: Path, check_run: Callable[..., None]) -> None:
    folder = Path(finished.folder)
    assert (finished.n_files, finished.n_computed, finished.n_before) == (7, 6, 0)  # 7 files of 6 contents
    check_run(folder, videos)
    index = pd.read_csv(folder / "files.csv").set_index("path")
    assert index["same_as"].dropna().to_dict() == {
        str(videos / "b" / "again.mp4"): str(videos / "a" / "0.mp4")
    }
    failed = pd.read_csv(folder / FAILED_FILE)
    assert failed["path"].tolist() == [str(videos / "b" / "broken.mp4")]
    assert "cannot read" in failed["reason"][0]
    stamp = json.loads((folder / SETTINGS_FILE).read_text())
    assert {"reactometer", "model", "detector", "window_s"} <= set(stamp)


def test_a_run_is_read_as_tables(finished: RunResult, tmp_path: Path) -> None:
    tables = read_run(finished.folder)
    assert len(tables.files) == finished.n_files - len(finished.failures)
    assert tables.timeline is not None
    assert set(tables.timeline["path"]) <= set(tables.files["path"])
    assert tables.failed["path"].tolist() == list(finished.failures)
    assert f"{len(tables.files)} files, 1 failed" in repr(tables)
    with pytest.raises(DataError, match="no tables"):
        read_run(tmp_path)


def test_existing_results_are_reused(copy: Path, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run, "run_jobs", lambda function, jobs, workers, died: (one for one in jobs and pytest.fail("worked"))
    )
    again = predict_folder([videos], copy, device="cpu", progress=False)
    assert (again.n_computed, again.n_before, len(again.failures)) == (0, 6, 1)
    fewer = predict_folder([videos / "a"], copy, device="cpu", progress=False)
    assert (fewer.n_files, fewer.failures, len(pd.read_csv(copy / "files.csv"))) == (3, {}, 3)


@pytest.mark.slow
def test_changed_and_failed_files_are_predicted_again(copy: Path, videos: Path, tmp_path: Path) -> None:
    """A changed file counts as new; a failed file is predicted again only with ``retry_failed``."""
    folder = Path(shutil.copytree(videos, tmp_path / "videos"))
    (folder / "b" / "silent.mp4").write_bytes(b"")
    first = predict_folder([folder], copy, device="cpu", workers=1, progress=False)
    assert (first.n_computed, len(first.failures)) == (1, 2)
    shutil.copy(folder / "a" / "1.mp4", folder / "b" / "silent.mp4")
    second = predict_folder([folder], copy, device="cpu", workers=1, retry_failed=True, progress=False)
    assert (second.n_computed, list(second.failures)) == (1, [str(folder / "b" / "broken.mp4")])
    index = pd.read_csv(copy / "files.csv").set_index("path")
    assert index.loc[str(folder / "b" / "silent.mp4"), "same_as"] == str(folder / "a" / "1.mp4")


def test_ctrl_c_during_a_write_ends_the_processes(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    def run_jobs(*_: object) -> Iterator[tuple[int, list[Prediction]]]:
        try:
            yield 0, [Prediction("a.mp4", "failed: no film", ())]
        finally:
            ended.append(True)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_jobs", run_jobs)
    monkeypatch.setattr(ResultStore, "append", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:  # which keeps the frames alive
        predict_folder([videos], tmp_path / "out", device="cpu", progress=False)
    assert ended and caught


def test_a_missing_listed_file_is_a_failure(copy: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{videos / 'gone.mp4'}\n")
    result = predict_folder([videos / "a", tmp_path / "list.txt"], copy, device="cpu", progress=False)
    assert result.failures == {str(videos / "gone.mp4"): "No such file or directory"}


@pytest.mark.slow
def test_leftovers_of_a_killed_process_are_removed(
    copy: Path, videos: Path, check_run: Callable[..., None]
) -> None:
    """A half-written file, and an incomplete last line of the journal."""
    (copy / f"half{PART}").write_bytes(b"{")
    last = copy / JOURNAL / "00002.jsonl"
    last.write_bytes(last.read_bytes()[:-100])
    again = predict_folder([videos], copy, device="cpu", workers=1, progress=False)
    assert (again.n_computed, again.n_before) == (1, 5)
    check_run(copy, videos)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PredictOptions(window_s=1.0), "got window_s 1.0; expected window_s 2.0"),
        (PredictOptions(faces="all"), r"got faces all; expected faces one"),
    ],
)
def test_other_settings_are_refused(options: PredictOptions, words: str, copy: Path, videos: Path) -> None:
    with pytest.raises(OutputError, match=words):
        predict_folder([videos], copy, options=options, device="cpu", progress=False)


def test_another_model_is_refused(copy: Path, videos: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(find_checkpoint(STARTER), tmp_path / "other"))
    about = json.loads((other / "uncertainty.json").read_text())
    (other / "uncertainty.json").write_text(json.dumps(about))  # other bytes are another model
    with pytest.raises(OutputError, match="model"):
        predict_folder([videos], copy, other, device="cpu", progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["journal/00001.jsonl", "run.json"])
def test_a_damaged_file_of_a_run_is_named(
    name: str, copy: Path, videos: Path, check_run: Callable[..., None]
) -> None:
    (copy / name).write_bytes(b"PAR1 and no more\n")
    with pytest.raises(OutputError, match=rf"{name}: damaged"):
        predict_folder([videos], copy, device="cpu", progress=False)
    if name.startswith("journal"):  # delete it, as the message says, and its contents are computed again
        (copy / name).unlink()
        assert predict_folder([videos], copy, device="cpu", workers=1, progress=False).n_computed == 2
        check_run(copy, videos)


def test_invalid_runs_are_refused_before_writing(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file matches"):
        predict_folder([tmp_path / "none*"], tmp_path / "out", progress=False)
    with pytest.raises(DataError, match=r"gone\.mp4"):
        predict_folder([videos, tmp_path / "gone.mp4"], tmp_path / "out", progress=False)
    with pytest.raises(ConfigError, match="window and hop"):
        predict_folder([videos], tmp_path / "out", options=PredictOptions(hop_s=3.0), progress=False)
    with pytest.raises(ConfigError, match="choice of faces"):
        predict_folder([videos], tmp_path / "out", options=PredictOptions(faces="both"), progress=False)
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="files of no run"):
        predict_folder([videos], tmp_path, progress=False)


def test_two_processes_do_not_share_a_run(copy: Path) -> None:
    settings = json.loads((copy / SETTINGS_FILE).read_text())
    with (
        open_results(copy, settings, all_faces=False),
        pytest.raises(OutputError, match="another process"),
        open_results(copy, settings, all_faces=False),
    ):
        pass


@pytest.mark.slow
def test_faces_are_numbered_in_a_runs_tables(videos: Path, tmp_path: Path) -> None:
    options = PredictOptions(faces="all")
    predict_folder(
        [videos / "a" / "0.mp4"], tmp_path / "out", options=options, device="cpu", workers=1, progress=False
    )
    index = pd.read_csv(tmp_path / "out" / "files.csv")
    assert index["face"].tolist() == [1]


@pytest.mark.slow
def test_outputs_are_written_once_from_the_results(videos: Path, tmp_path: Path) -> None:
    """A second call with more outputs predicts nothing, and writes only what is missing."""
    out = tmp_path / "out"
    predict = partial(predict_folder, [videos / "a"], out, device="cpu", workers=1, progress=False)
    predict(save=["events", "elan"], threshold=0.01)
    assert len(pd.read_csv(out / "events.csv"))
    first = {file.name: file.stat().st_mtime_ns for file in (out / "elan").iterdir()}
    assert set(first) == {"0.eaf", "1.eaf", "2.eaf"}
    again = predict(save=["frames", "elan", "vtt", "overlay", "plot"], threshold=0.01, ending="parquet")
    assert (again.n_computed, again.n_before) == (0, 3)
    assert {file.name: file.stat().st_mtime_ns for file in (out / "elan").iterdir()} == first
    assert sorted(file.name for file in (out / "overlay").iterdir()) == ["0.mp4", "1.mp4", "2.mp4"]
    assert set(pd.read_parquet(out / "frames.parquet").state) <= {"face", "no_face"}
    fresh = predict(save=[], fresh=True)
    assert (fresh.n_computed, (out / "elan").exists(), (out / "frames.parquet").exists()) == (3, False, False)


def test_invalid_outputs_are_refused_before_writing(videos: Path, tmp_path: Path) -> None:
    for settings, words in (
        ({"save": ["plott"]}, "unknown output.*'plot'"),
        ({"threshold": 2.0}, "threshold"),
        ({"ending": "xls"}, "csv or parquet"),
    ):
        with pytest.raises(ConfigError, match=words):
            predict_folder([videos], tmp_path / "out", progress=False, **settings)
    assert not (tmp_path / "out").exists()
