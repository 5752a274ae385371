"""Exported graphs equal PyTorch, for every kind of network and on real clips; what differs or is damaged is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reactometer.config import ModelConfig
from reactometer.data.batches import MediaReader, parts_of
from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError, DataError, ModelError, OutputError, ReactometerError
from reactometer.evaluation.evaluate import evaluate
from reactometer.inference.predictor import predict
from reactometer.io import sha256_of
from reactometer.models import engines
from reactometer.models.engines import engine_folder, open_graph
from reactometer.models.folder import join_models, load_model
from reactometer.models.registry import SYSTEMS, build_model, load_encoders
from reactometer.training import export as export_module
from reactometer.training.export import JOINT, Graph, differences, export, graphs_of, quantise_graph, write_graph
from small_networks import CLIPS, PICTURES, SOUND, saved


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


@pytest.fixture
def same_graphs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the graphs of ``exported`` instead of writing each anew."""

    def write(graph: Graph, file: Path) -> None:
        shutil.copy(engine_folder(exported, "onnx") / file.name, file)

    monkeypatch.setattr(export_module, "write_graph", write)


@pytest.mark.slow
def test_the_engines_scores_are_pytorchs(exported: Path, prepared: PreparedSet) -> None:
    about = json.loads((engine_folder(exported, "onnx") / "engine.json").read_text())
    assert set(about["graphs"]) == {"face.onnx", "voice.onnx", "joint.onnx"}
    assert max(about["proof"]["differences"].values()) < 1e-5
    for without in (None, "face", "voice"):
        slow, fast = (
            evaluate(load_model(exported, engine=engine), prepared.folder, without=without, progress=False)
            for engine in ("torch", "onnx")
        )
        columns = slow.predictions.columns[1:]
        np.testing.assert_allclose(fast.predictions[columns], slow.predictions[columns], atol=1e-5)
        assert slow.predictions[columns].std().min() > 1e-3 or without  # it says something


@pytest.mark.slow
def test_auto_is_an_exported_engine_that_can_run_here(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_model(copy, "cpu", "auto").engine == "onnx"
    assert load_model(copy, "cpu").engine == "torch"
    shutil.copytree(engine_folder(copy, "onnx"), engine_folder(copy, "onnx-int8"))
    assert load_model(copy, "cpu", "auto").engine == "onnx-int8"
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert load_model(copy, "cpu", "auto").engine == "torch"


@pytest.mark.slow
@pytest.mark.usefixtures("same_graphs")
def test_eight_bits_are_kept_or_refused_by_their_score(
    copy: Path, prepared: PreparedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "TOLERATED_LOSS", 2.0)  # a network trained for two epochs may lose anything
    (one,) = export(copy, [prepared.folder], engine="onnx-int8", progress=False)
    assert one.pearson is not None
    assert 1e-5 < one.differences["whole clips"] < 0.2
    assert load_model(copy, engine="onnx-int8").engine == "onnx-int8"
    monkeypatch.undo()
    export_module.check(replace(one, pearson=(0.5, 0.4951)))
    for less in (0.4949, float("nan")):
        with pytest.raises(ModelError, match=r"score.*onnx-int8"):
            export_module.check(replace(one, pearson=(0.5, less)))


@pytest.mark.slow
def test_a_difference_from_pytorch_is_refused(tmp_path: Path) -> None:
    one = export_module.Exported(tmp_path, "onnx", 3, {"whole clips": 1e-7, "one frame": 1e-4})
    export_module.check(one)
    for difference in (1.1e-4, float("nan")):
        differences = {**one.differences, "one frame": difference}
        with pytest.raises(ModelError, match="one frame"):
            export_module.check(replace(one, differences=differences))


@pytest.mark.slow
def test_an_engine_is_not_overwritten(exported: Path, prepared: PreparedSet) -> None:
    with pytest.raises(OutputError, match="exists already"):
        export(exported, [prepared.folder], engine="onnx", progress=False)
    with pytest.raises(OutputError, match=r"starter model.*copy"):
        export("starter", [prepared.folder], engine="onnx", progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "data", "error", "words"),
    [
        ("tensorrt", "prepared", ConfigError, "no engine 'tensorrt' to export for"),
        ("onnx-int8", "video", DataError, "8 bits need a dataset"),
        ("onnx-int8", "nothing", DataError, "give one dataset"),
        ("onnx-int8", "missing", ReactometerError, "no such"),
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


@pytest.mark.slow
def test_a_missing_package_is_named(exported: Path, prepared: PreparedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'reactometer\[onnx\]'"):
        load_model(exported, engine="onnx")
    with pytest.raises(ModelError, match="onnxscript"):
        export(exported, [prepared.folder], engine="onnx-int8", progress=False)


@pytest.mark.slow
def test_an_engine_that_is_not_what_it_says_is_refused(copy: Path) -> None:
    folder = engine_folder(copy, "onnx")
    about = json.loads((folder / "engine.json").read_text())
    with pytest.raises(ModelError, match=r"'onnx-int8'.*reactometer export"):
        load_model(copy, engine="onnx-int8")
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


@pytest.mark.slow
@pytest.mark.shared
def test_the_starters_engine_on_real_videos(shared_data: Path, tmp_path: Path) -> None:
    videos = [shared_data / "clips" / name for name in ("single_face.mp4", "no_face.mp4")]
    (one,) = export("starter", videos, engine="onnx", out=tmp_path / "model", progress=False)
    assert max(one.differences.values()) < 1e-5
    slow, fast = (
        predict(videos, load_model(tmp_path / "model", engine=engine), progress=False) for engine in ("torch", "onnx")
    )
    for before, after in zip(slow, fast, strict=True):
        assert (before.status, before.doubts) == (after.status, after.doubts)
        assert len(before.windows) == len(after.windows)
        np.testing.assert_allclose(after.intensities or [], before.intensities or [], atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("same_graphs")
def test_of_an_ensemble_all_members_have_the_engine_or_none(
    model_folder: Path,
    prepared: PreparedSet,
    lively: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = [lively(model_folder, tmp_path / f"{seed}", seed) for seed in (0, 1)]
    both = join_models(members, tmp_path / "both")
    checked: list[export_module.Exported] = []

    def refuse_second(exported: export_module.Exported) -> None:
        checked.append(exported)
        if len(checked) == 2:
            raise ModelError("the second is refused")

    monkeypatch.setattr(export_module, "check", refuse_second)
    with pytest.raises(ModelError, match="the second is refused"):
        export(both, [prepared.folder], engine="onnx", progress=False)
    assert len(checked) == 2
    assert not list(both.rglob("onnx*"))


TINY = {"videomae": "random:videomae-tiny", "vit-transformer": "random:vit-tiny"}
NETWORKS: dict[str, dict[str, Any]] = {
    **{name: {"name": name, "encoder": TINY.get(name, "random:resnet-tiny")} for name in SYSTEMS},
    "contours": {"name": "multimodal", "encoder": "random:resnet-tiny", "voice_encoder": "contours", "frozen": True},
    "pictures-siglip": {"name": "resnet50", "encoder": PICTURES["siglip"]},
    "clips-vjepa2": {"name": "videomae", "encoder": CLIPS["vjepa2"]},
    "sound-wavlm": {"name": "multimodal", "modalities": "voice", "voice_encoder": SOUND["wavlm"]},
}
"""Every system, and of each kind of encoder from the hub the one with the most unusual operators."""
SIZE_PX = 64


def _graphs(name: str, folder: Path) -> dict[str, Graph]:
    torch.manual_seed(0)
    settings = {"size_px": SIZE_PX, "hidden": 8, "attention_heads": 2, "layers": 1, **NETWORKS[name]}
    for key in ("encoder", "voice_encoder"):
        if isinstance(settings.get(key), dict):  # a network to be made
            settings[key] = str(saved(folder / key, name.split("-")[1], settings[key]))
    config = ModelConfig.model_validate(settings)
    return graphs_of(build_model(config, load_encoders(config), [0.2, 0.5]).eval(), SIZE_PX)


def _inputs(graph: Graph, clips: int, steps: int) -> list[Tensor]:
    generator, sizes = torch.Generator().manual_seed(steps), {"clips": clips, "samples": 320 * steps}
    drawn = []
    for example, frees in graph.inputs.values():
        shape = [sizes.get(free, steps) if free else size for free, size in zip(frees, example.shape, strict=True)]
        if example.dtype == torch.uint8:
            drawn.append(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
        elif example.dtype == torch.bool:
            drawn.append(torch.rand(shape, generator=generator) > 0.3)
        else:
            drawn.append(torch.randn(shape, generator=generator))
    return drawn


def _compare_eight_bits(graph: Graph, file: Path) -> None:
    """Compare features in 8 bits with those of PyTorch: no operator is quantised wrongly."""
    examples = [_inputs(graph, 4, steps) for steps in range(30, 38)]
    quantise_graph(graph, file, [[tensor.numpy() for tensor in own] for own in examples])
    with torch.inference_mode():
        expected = graph.module(*examples[0]).numpy()
    got = open_graph(file)(*(tensor.numpy() for tensor in examples[0]))
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_graphs_are_the_networks(name: str, tmp_path: Path) -> None:
    for kind, graph in _graphs(name, tmp_path).items():
        file = tmp_path / f"{kind}.onnx"
        write_graph(graph, file)
        run = open_graph(file)
        for clips, steps in ((1, 1), (3, 17), (2, 40)):
            inputs = _inputs(graph, clips, steps)
            with torch.inference_mode():
                expected = graph.module(*inputs).numpy()
            got = run(*(tensor.numpy() for tensor in inputs))
            bound = 1e-5 * max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(got, expected, atol=bound, rtol=0, err_msg=f"{name} {kind}")
        if kind != JOINT:
            _compare_eight_bits(graph, file)


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_an_answer_that_is_no_number_is_a_difference_whenever_it_comes(
    wrong: int, model_folder: Path, prepared: PreparedSet
) -> None:
    """Two clips, one by one and then both: the graph fails at one of the three."""
    member, rows = load_model(model_folder, "cpu"), prepared.split("val")[:2]
    items = [MediaReader(member.sampling)(row, parts_of([row])[0]) for row in rows]
    asked: list[int] = []

    def joint(*inputs: np.ndarray) -> np.ndarray:
        asked.append(len(inputs[0]))
        return np.full((len(inputs[0]), len(member.labels)), np.nan if len(asked) == wrong + 1 else 0.5)

    found = differences(member, member, joint, items)
    assert asked[:3] == [1, 1, 2]
    assert np.isnan(found.pop("whole clips"))
    assert all(0.0 < difference < 1.0 for difference in found.values())
