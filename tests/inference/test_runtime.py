"""A graph that needs too much memory ends with an error, and other graphs give the same numbers as without
limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from reactometer.errors import ModelError
from reactometer.inference import runtime
from reactometer.inference.runtime import OUT_OF_MEMORY, Tensors, open_graph, run_options, session_options

HUGE = [10**12, 15 * 10**8]
"""Sizes in elements; float32 takes 4 TB and 6 GB."""


@pytest.fixture(autouse=True)
def small_arena(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let all sessions together take 100 MB, so that no test needs much memory."""
    monkeypatch.setattr(runtime, "MAX_RUN_BYTES", 100_000_000)
    runtime._register_arena.cache_clear()
    yield
    runtime._register_arena.cache_clear()


def write(file: Path, nodes: list[Any], tensors: dict[str, Any]) -> Path:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    file.write_bytes(model.SerializeToString())
    return file


def open_session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        file, session_options(1, is_foldable=False), providers=["CPUExecutionProvider"]
    )


def run(session: onnxruntime.InferenceSession, value: float = 1.0) -> np.ndarray:
    outputs: list[np.ndarray] = session.run(None, {"x": np.full(1, value, np.float32)}, run_options())
    return outputs[0]


SUM = [helper.make_node("ReduceSum", ["c"], ["r"], keepdims=1), helper.make_node("Add", ["r", "x"], ["y"])]
SIZE = [  # the size is known when the graph runs only
    helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
    helper.make_node("Mul", ["i", "size"], ["n"]),
]
MAKERS = {
    "ConstantOfShape": [*SIZE, helper.make_node("ConstantOfShape", ["n"], ["c"])],
    "Expand": [*SIZE, helper.make_node("Expand", ["x", "n"], ["c"])],
    "Tile": [*SIZE, helper.make_node("Tile", ["x", "n"], ["c"])],
    "Range": [
        *SIZE,
        helper.make_node("Squeeze", ["n"], ["end"]),
        helper.make_node("Range", ["zero", "end", "one"], ["range"]),
        helper.make_node("Cast", ["range"], ["c"], to=TensorProto.FLOAT),
    ],
    "constant": [helper.make_node("ConstantOfShape", ["size"], ["c"])],
    "folded": [helper.make_node("Expand", ["one32", "size"], ["c"])],
}


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("maker", MAKERS)
def test_a_graph_that_needs_too_much_memory_raises(maker: str, size: int, tmp_path: Path) -> None:
    tensors = {"size": np.array([size]), "zero": 0, "one": 1, "one32": np.float32(1)}
    session = open_session(write(tmp_path / "graph.onnx", MAKERS[maker] + SUM, tensors))
    with pytest.raises(Exception, match="bytes") as caught:
        run(session)
    assert any(words in str(caught.value) for words in OUT_OF_MEMORY)


def test_external_weights_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "graph.onnx", SUM, {"c": np.float32(1)})
    model = onnx.load(file)
    model.graph.initializer[0].dims[:] = [10**12]
    onnx.save(model, file)
    with pytest.raises(Exception, match="declares a size of 4000000000000 bytes"):
        open_session(file)


def test_constants_are_not_computed_when_the_session_is_made(tmp_path: Path) -> None:
    """Their memory would be taken outside of the arena, where no limit applies."""
    nodes = [helper.make_node("Expand", ["one", "size"], ["c"]), helper.make_node("Mul", ["c", "x"], ["y"])]
    file = write(tmp_path / "graph.onnx", nodes, {"size": np.array([1000]), "one": np.float32(1)})
    options = session_options(1, is_foldable=False)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    assert "Expand" in {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}


def test_a_session_works_after_an_error_and_with_growing_inputs(tmp_path: Path) -> None:
    nodes = [*SIZE, helper.make_node("Expand", ["x", "n"], ["y"])]
    session = open_session(write(tmp_path / "graph.onnx", nodes, {"size": np.array([1_000_000])}))
    for value in (2, 4, 6, 8, 12, 20):  # results of 8 to 80 MB
        assert len(run(session, value)) == value * 1_000_000
        with pytest.raises(Exception, match="bytes"):
            run(session, 1e6)


def test_memory_limits_do_not_change_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {"w": rng.normal(size=(64, 32)).astype(np.float32), "b": np.arange(32, dtype=np.float32)}
    nodes = [
        helper.make_node("Constant", [], ["two"], value_floats=[2.0]),
        helper.make_node("Mul", ["b", "two"], ["b2"]),
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b2"], ["y"]),
    ]
    file = write(tmp_path / "graph.onnx", nodes, tensors)
    plain = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = {"x": rng.normal(size=64).astype(np.float32)}
    bounded = open_session(file).run(None, x, run_options())
    np.testing.assert_array_equal(bounded[0], plain.run(None, x)[0])


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ({"x": ("uint8", ())}, {"y": ("float", ())}, "inputs do not fit"),
        ({"x": ("float", (3,))}, {"y": ("float", ())}, "inputs do not fit"),
        ({"x": ("float", ()), "mask": ("bool", ())}, {"y": ("float", ())}, "inputs do not fit"),
        ({"x": ("float", ())}, {"features": ("float", ())}, "outputs do not fit"),
        ({"x": ("float", ())}, {"y": ("float", (2,))}, "outputs do not fit"),
    ],
)
def test_other_inputs_and_outputs_are_refused(
    inputs: Tensors, outputs: Tensors, words: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "graph.onnx", [helper.make_node("Add", ["x", "c"], ["y"])], {"c": np.float32(1)})
    assert (
        open_graph(file, {"x": ("float", ())}, {"y": ("float", ())}, "cpu")(np.ones(3, np.float32))[0].sum()
        == 6
    )
    with pytest.raises(ModelError, match=words):
        open_graph(file, inputs, outputs, "cpu").session  # noqa: B018
