"""Exported engines: they say what PyTorch says, on the tiniest and the real; and what cannot be trusted is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reactometer import exporting
from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError, DataError, ModelError, OutputError, ReactometerError
from reactometer.evaluation.evaluate import evaluate
from reactometer.exporting import export
from reactometer.inference.predictor import predict
from reactometer.io import sha256_of
from reactometer.models import engines
from reactometer.models.engines import engine_folder
from reactometer.models.folder import join_models, load_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(
    model_folder: Path, prepared: PreparedSet, lively: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model of face and log-mel whose answers vary, exported once for ONNX Runtime."""
    folder = lively(model_folder, tmp_path_factory.mktemp("exported") / "model")
    export(folder, [prepared.folder], engine="onnx", progress=False)
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def test_the_engines_scores_are_pytorchs(exported: Path, prepared: PreparedSet) -> None:
    about = json.loads((engine_folder(exported, "onnx") / "engine.json").read_text())
    assert set(about["graphs"]) == {"face.onnx", "voice.onnx", "joint.onnx"}
    assert about["takes"]["face"] == {"frames": {"dtype": "uint8", "shape": ["frames", 3, 48, 48]}}
    assert max(about["proof"]["differences"].values()) < 1e-5
    for without in (None, "face", "voice"):
        slow, fast = (
            evaluate(load_model(exported, engine=engine), prepared.folder, without=without, progress=False)
            for engine in ("torch", "onnx")
        )
        columns = slow.predictions.columns[1:]
        np.testing.assert_allclose(fast.predictions[columns], slow.predictions[columns], atol=1e-5)
        assert slow.predictions[columns].std().min() > 1e-3 or without  # it says something


def test_openvino_runs_the_same_graphs(copy: Path, prepared: PreparedSet) -> None:
    """The graphs of one runtime are read by the other: only the name differs."""
    shutil.copytree(engine_folder(copy, "onnx"), engine_folder(copy, "openvino"))
    slow = evaluate(load_model(copy), prepared.folder, n_resamples=0, progress=False).predictions
    fast = evaluate(load_model(copy, engine="openvino"), prepared.folder, n_resamples=0, progress=False).predictions
    np.testing.assert_allclose(fast[slow.columns[1:]], slow[slow.columns[1:]], atol=1e-5)


def test_signals_are_still_handled_after_openvino(exported: Path) -> None:
    """With a core a graph, the stack that Python's handlers run on was freed, and the first signal a crash."""
    code = f"""
import faulthandler, os, shutil, signal
from pathlib import Path
from reactometer.models.engines import open_graph
faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
folder = Path({str(engine_folder(exported, "onnx"))!r})
first, second = (open_graph(folder / name, "openvino") for name in ("face.onnx", "voice.onnx"))
del first
del second
os.kill(os.getpid(), signal.SIGCHLD)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_auto_is_the_fastest_that_is_there_and_runs(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**speeds: float) -> str:
        for name, speed in speeds.items():
            folder = engine_folder(copy, name.replace("_", "-"))
            if not folder.exists():
                shutil.copytree(engine_folder(copy, "onnx"), folder)
            about = json.loads((folder / "engine.json").read_text())
            (folder / "engine.json").write_text(json.dumps({**about, "times_torch": speed}))
        return load_model(copy, "cpu", "auto").engine

    assert chosen(onnx=0.9) == "torch"
    assert chosen(onnx=1.5) == "onnx"
    assert chosen(onnx=1.5, openvino=1.6) == "openvino"
    assert chosen(openvino_int8=3.0) == "openvino-int8"
    assert load_model(copy, "cpu").engine == "torch"
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "openvino" else name)
    assert load_model(copy, "cpu", "auto").engine == "onnx"


def test_bfloat16_is_near(exported: Path, prepared: PreparedSet) -> None:
    slow = evaluate(load_model(exported), prepared.folder, n_resamples=0, progress=False).predictions
    half = evaluate(load_model(exported, engine="torch-bf16"), prepared.folder, n_resamples=0, progress=False)
    columns = slow.columns[1:]
    difference = np.abs(half.predictions[columns].to_numpy() - slow[columns].to_numpy())
    assert 0 < difference.max() < 0.02  # bfloat16 has 8 bits of mantissa


def test_eight_bits_are_kept_or_refused_by_their_score(
    copy: Path, prepared: PreparedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TOLERATED_LOSS", 2.0)  # a network trained for two epochs may lose anything
    (one,) = export(copy, [prepared.folder], engine="onnx-int8", progress=False)
    assert one.pearson is not None
    assert 1e-5 < one.differences["whole clips"] < 0.2
    assert load_model(copy, engine="onnx-int8").engine == "onnx-int8"
    monkeypatch.undo()
    exporting.check(replace(one, pearson=(0.5, 0.4951)))
    for less in (0.4949, float("nan")):
        with pytest.raises(ModelError, match=r"score.*onnx-int8"):
            exporting.check(replace(one, pearson=(0.5, less)))


def test_a_difference_from_pytorch_is_refused(tmp_path: Path) -> None:
    one = exporting.Exported(tmp_path, "onnx", 3, {"whole clips": 1e-7, "one frame": 1e-4}, 2.0)
    exporting.check(one)
    for difference in (1.1e-4, float("nan")):
        differences = {**one.differences, "one frame": difference}
        with pytest.raises(ModelError, match=r"than PyTorch, so that it is not kept \(got a difference of .* \(one fr"):
            exporting.check(replace(one, differences=differences))


def test_an_engine_is_not_overwritten(exported: Path, prepared: PreparedSet) -> None:
    with pytest.raises(OutputError, match="exists already"):
        export(exported, [prepared.folder], engine="onnx", progress=False)
    with pytest.raises(OutputError, match=r"starter model.*copy"):
        export("starter", [prepared.folder], engine="onnx", progress=False)


@pytest.mark.parametrize(
    ("engine", "data", "error", "words"),
    [
        ("tensorrt", "prepared", ConfigError, "no engine 'tensorrt' to export for"),
        ("onnx-int8", "video", DataError, "8 bits need a data set"),
        ("openvino", "nothing", DataError, "give one data set, or video files"),
        ("openvino", "missing", ReactometerError, "no such"),
    ],
)
def test_what_cannot_be_exported_says_why(
    engine: str, data: str, error: type[Exception], words: str, exported: Path, prepared: PreparedSet, simulated: Path
) -> None:
    given = {
        "prepared": [prepared.folder],
        "video": sorted(simulated.glob("val/mp4/*.mp4"))[:1],
        "nothing": [],
        "missing": [Path("nowhere")],
    }
    with pytest.raises(error, match=words):
        export(exported, given[data], engine=engine, progress=False)
    assert not engine_folder(exported, engine).exists()


def test_a_missing_package_is_named(exported: Path, prepared: PreparedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'reactometer\[onnx\]'"):
        load_model(exported, engine="onnx")
    with pytest.raises(ModelError, match=r"pip install 'reactometer\[onnx,openvino\]'"):
        export(exported, [prepared.folder], engine="openvino", progress=False)


def test_an_engine_that_is_not_what_it_says_is_refused(copy: Path) -> None:
    folder = engine_folder(copy, "onnx")
    about = json.loads((folder / "engine.json").read_text())
    with pytest.raises(ModelError, match=r"'openvino'.*reactometer export"):
        load_model(copy, engine="openvino")
    with pytest.raises(ModelError, match=r"'onxx'.*'onnx'"):
        load_model(copy, engine="onxx")
    (folder / "engine.json").write_text(json.dumps({**about, "weights_sha256": "0" * 64}))
    with pytest.raises(ModelError, match="made of other weights"):
        load_model(copy, engine="onnx")
    (folder / "engine.json").write_text(json.dumps(about))
    (folder / "face.onnx").write_bytes((folder / "face.onnx").read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"face.onnx.*engine.json"):
        load_model(copy, engine="onnx")
    about["graphs"]["face.onnx"] = sha256_of(folder / "face.onnx")  # as if it had been exported so
    (folder / "engine.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match=r"face.onnx cannot be run"):
        load_model(copy, engine="onnx")
    (folder / "engine.json").write_text("{}")
    with pytest.raises(ModelError, match=r"engine.json: damaged"):
        load_model(copy, engine="auto")


@pytest.mark.shared
def test_the_starters_engine_on_real_videos(shared_data: Path, tmp_path: Path) -> None:
    videos = [shared_data / "clips" / name for name in ("single_face.mp4", "no_face.mp4")]
    (one,) = export("starter", videos, engine="openvino", out=tmp_path / "model", progress=False)
    assert max(one.differences.values()) < 1e-5
    slow, fast = (
        predict(videos, load_model(tmp_path / "model", engine=engine), progress=False)
        for engine in ("torch", "openvino")
    )
    for before, after in zip(slow, fast, strict=True):
        assert (before.status, before.doubts) == (after.status, after.doubts)
        assert len(before.windows) == len(after.windows)
        np.testing.assert_allclose(after.intensities or [], before.intensities or [], atol=1e-5)


def test_of_an_ensemble_all_members_have_the_engine_or_none(
    model_folder: Path,
    prepared: PreparedSet,
    lively: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = [lively(model_folder, tmp_path / f"{seed}", seed) for seed in (0, 1)]
    both = join_models(members, tmp_path / "both")
    export_one, done = exporting._export_one, list[Any]()

    def refused(*given: Any) -> Any:
        if done:
            raise ModelError("the second is refused")
        done.append(export_one(*given))
        return done[0]

    monkeypatch.setattr(exporting, "_export_one", refused)
    with pytest.raises(ModelError, match="the second is refused"):
        export(both, [prepared.folder], engine="onnx", progress=False)
    assert done
    assert not list(both.rglob("onnx*"))
