"""Files and messages with a full disk, a read-only folder, or no home folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from fixtures_of_faults import Fill
from reactometer.batch.run import predict_folder
from reactometer.data.cache import write_clip
from reactometer.data.prepare import prepare
from reactometer.errors import OutputError
from reactometer.inference.checkpoint import load_model
from reactometer.inference.conformal import save_uncertainty
from reactometer.inference.elan_vtt import write_elan, write_subtitles
from reactometer.inference.overlay import write_overlay
from reactometer.inference.plot import draw_timeline
from reactometer.inference.prediction import Prediction, Window
from reactometer.inference.tables import clip_columns, clip_rows, write_table
from reactometer.io import PART, atomic_file, atomic_folder, check_writable, make_folder, write_atomic
from reactometer.paths import STARTER, find_checkpoint
from reactometer.training.train import train
from reactometer.training.trainer import LAST, _AtomicCheckpointIO
from reactometer.types import FaceSample, FrameState, PreparedClip

FULL = "cannot be written: No space left on device"
WINDOWS = tuple(Window(float(start), start + 2.0, 1.0, (0.25,)) for start in range(2))
SEEN = Prediction("a.mp4", "ok", ("Joy",), 3.0, 1.0, True, (0.25,), WINDOWS)


def _save_weights(path: Path) -> None:
    with atomic_folder(path.with_suffix("")) as partial:
        save_file({"weights": torch.zeros(10_000)}, partial / "weights.safetensors")


def _save_graph(path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.zeros(10_000, np.float32), "weights")
    with atomic_folder(path.with_suffix("")) as partial:
        onnx.save(
            onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], [weights])),
            partial / "head.onnx",
        )


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.csv": lambda file: write_table(clip_rows([SEEN]), clip_columns(SEEN), file),
    "a.parquet": lambda file: write_table(clip_rows([SEEN]), clip_columns(SEEN), file),
    "a.json": lambda file: write_table(clip_rows([SEEN]), clip_columns(SEEN), file),
    "a.eaf": lambda file: write_elan([SEEN], 0.5, file),
    "a.vtt": lambda file: write_subtitles(SEEN, file),
    "a.png": lambda file: draw_timeline(SEEN, file),
    "a.pdf": lambda file: draw_timeline(SEEN, file),
    "a.npz": lambda file: write_clip(file, PreparedClip(0.0, 1.0, (), np.zeros(16000, np.float32))),
    "a.ckpt": lambda file: _AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(9, 9)}, file),
    "weights.d": _save_weights,
    "graph.d": _save_graph,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_reported_and_the_older_file_is_unchanged(
    name: str, small_disk: Path, fill: Fill
) -> None:
    file = small_disk / name
    file.write_text("what was there before")
    fill(small_disk)
    with pytest.raises(OutputError, match=f"{file.stem}.*{FULL}"):
        WRITERS[name](file)
    assert file.read_text() == "what was there before"
    assert sorted(file.name for file in small_disk.iterdir()) == sorted([name, "filler"])


def test_an_overlay_on_a_full_disk_leaves_no_file(simulated: Path, small_disk: Path, fill: Fill) -> None:
    """With room for some of it: the disk fills while it is encoded."""
    video = min((simulated / "train" / "mp4").iterdir())
    samples = (FaceSample(0.0, FrameState.NO_FACE, None, 0.0, None),)
    fill(small_disk, 8192)
    with pytest.raises(OutputError, match=FULL):
        write_overlay([replace(SEEN, path=str(video), samples=samples)], small_disk / "a.mp4")
    assert [file.name for file in small_disk.iterdir()] == ["filler"]


def test_calibration_on_a_full_disk_leaves_the_model_unchanged(small_disk: Path, fill: Fill) -> None:
    folder = Path(
        shutil.copytree(
            find_checkpoint(STARTER), small_disk / "model", ignore=shutil.ignore_patterns("weights.*")
        )
    )
    before = load_model(folder, "cpu").uncertainty
    assert before is not None
    fill(small_disk)
    with pytest.raises(OutputError, match=FULL):
        save_uncertainty(folder, replace(before, coverage=0.5))
    after = load_model(folder, "cpu").uncertainty
    assert after is not None and after.coverage == before.coverage


def test_unwritable_paths_are_reported_before_any_work(read_only: Path, tmp_path: Path) -> None:
    for refused in (partial(make_folder, read_only), partial(check_writable, read_only / "a" / "b.csv")):
        with pytest.raises(OutputError, match="Read-only file system"):
            refused()
    check_writable(tmp_path / "in" / "a.csv")
    assert not (tmp_path / "in").exists()


def test_a_read_only_file_is_unchanged_and_a_link_is_followed(tmp_path: Path) -> None:
    mine, link = tmp_path / "mine.csv", tmp_path / "link.csv"
    mine.write_text("mine")
    link.symlink_to(mine)
    write_atomic(link, "new")
    assert link.is_symlink() and mine.read_text() == "new"
    with pytest.raises(ValueError, match="of another kind"), atomic_file(mine) as partial:
        partial.write_text("half")
        raise ValueError("of another kind")
    assert mine.read_text() == "new" and not list(tmp_path.glob(f"*{PART}"))


@pytest.mark.slow
def test_a_run_resumes_once_there_is_disk_space(
    videos: Path, small_disk: Path, fill: Fill, check_run: Callable[..., None]
) -> None:
    out = small_disk / "run"
    filler = fill(small_disk, 24_000)  # for some of it
    with pytest.raises(OutputError, match=FULL):
        predict_folder([videos], out, device="cpu", workers=1, progress=False)
    assert not [file for file in out.rglob("*") if PART in file.name]
    filler.unlink()
    result = predict_folder([videos], out, device="cpu", workers=1, progress=False)
    assert result.n_before > 0
    check_run(out, videos)


@pytest.mark.slow
def test_prepare_resumes_once_there_is_disk_space(
    excerpt: Callable[..., Path], small_disk: Path, fill: Fill
) -> None:
    data, out = excerpt(train=4), small_disk / "prepared"
    filler = fill(small_disk, 300_000)
    with pytest.raises(OutputError, match=rf"\.npz: {FULL}"):  # from another process
        prepare(data, out, workers=1, progress=False)
    filler.unlink()
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.npz")}
    rows = prepare(data, out, workers=1, progress=False).rows
    assert [bool(row.file) for row in rows] == [True] * 4
    assert before and all(file.stat().st_mtime_ns == time_ns for file, time_ns in before.items())


@pytest.mark.slow
def test_training_resumes_once_there_is_disk_space(
    toml: Path, simulated: Path, small_disk: Path, fill: Fill, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """The disk fills while the first epoch's checkpoints are there."""
    out = small_disk / "run"
    overrides = [f"data.path={simulated}", f"training.out={out}", "training.epochs=3"]
    last = out / "checkpoints" / LAST

    def fill_when_there() -> None:
        wait_for(last.is_file)
        fill(small_disk, 65_536)

    full = Thread(target=fill_when_there)
    full.start()
    with pytest.raises(OutputError, match=rf"\.ckpt: {FULL}"):
        train(config=toml, overrides=overrides, progress=False)
    full.join()
    checkpoint = torch.load(last, weights_only=False)
    assert checkpoint["epoch"] < 2 and not list(out.rglob(f"*{PART}"))
    (small_disk / "filler").unlink()
    assert load_model(train(config=toml, overrides=overrides, progress=False), "cpu")


def _run(*command: str | Path, **options: object) -> tuple[int, str]:
    """Exit status and standard error of a command."""
    completed = subprocess.run(  # type: ignore[call-overload]
        [*map(str, command)], stderr=subprocess.PIPE, text=True, check=False, timeout=300, **options
    )
    assert "Traceback" not in completed.stderr
    return completed.returncode, " ".join(completed.stderr.split())


REACTOMETER = sys.executable, "-m", "reactometer"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_standard_output_is_reported() -> None:
    with Path("/dev/full").open("w") as full:
        status, stderr = _run(*REACTOMETER, "--version", stdout=full)
    assert status == 2 and "error: standard output: cannot be written: No space left on device" in stderr


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "read_only"])
def test_without_a_home_the_starter_model_predicts_quietly(
    home: str | None, request: pytest.FixtureRequest, as_nobody: list[str], simulated: Path, tmp_path: Path
) -> None:
    """A picture and tables, by a user who may write only where they go; of Matplotlib, Lightning no word."""
    home_folder = request.getfixturevalue("read_only") if home == "read_only" else home
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    video = min((simulated / "train" / "mp4").iterdir())
    names = "PATH", "PYTHONPATH", "HF_HUB_OFFLINE"
    environment = {name: os.environ[name] for name in names if name in os.environ} | (
        {"HOME": str(home_folder)} if home_folder else {}
    )
    outputs = "--out-dir", out / "run", "--save", "timeline,plot"
    status, stderr = _run(*as_nobody, *REACTOMETER, "predict", video, *outputs, env=environment, cwd="/")
    assert status == 0, stderr
    assert {"files.csv", "timeline.csv", "plot"} <= {file.name for file in (out / "run").iterdir()}
    assert "atplotlib" not in stderr
    assert stderr.count("YuNet is not available") == 1  # warned once
