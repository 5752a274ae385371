"""Graphs of strangers: what fits is accepted, and what is damaged or dangerous is refused before a session is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from reactometer.errors import ModelError
from reactometer.inference import graph_check
from reactometer.inference.graph_check import check_graph, read_graph

FLOATS = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["clips", 3])
OUTPUT = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
WEIGHTS = numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")
ADD = helper.make_node("Add", ["x", "w"], ["y"])


def model_of(
    nodes: Sequence[NodeProto] = (ADD,), tensors: Sequence[TensorProto] = (WEIGHTS,), **fields: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "graph", [FLOATS], [OUTPUT], list(tensors))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="maker", **fields)


def nested(depth: int) -> bytes:
    """Return a model of graphs in attributes of nodes, ``depth`` deep. The package ``onnx`` refuses to write many."""

    def message(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content) & 127 | 128, len(content) >> 7]) + content

    graph = message(1, message(4, b"Identity"))
    for _ in range(depth):
        graph = message(1, message(4, b"If") + message(5, message(6, graph)))
    return message(7, graph)


def in_branch(node: NodeProto) -> NodeProto:
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
    return helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[onnx.ModelProto | bytes], Path]:
    def write_file(content: onnx.ModelProto | bytes) -> Path:
        file = tmp_path / "face.onnx"
        file.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return file

    return write_file


Write = Callable[[onnx.ModelProto | bytes], Path]


def test_the_summary_is_that_of_the_onnx_package(write: Write) -> None:
    model = model_of([ADD, in_branch(helper.make_node("Relu", ["w"], ["z"]))])
    helper.set_model_props(model, {"labels": "anger, joy"})
    graph = check_graph(write(model), {"x": "float32"}, ["y"])
    assert graph.inputs == {"x": ("float32", (None, 3))}
    assert graph.outputs == {"y": ("float32", None)}
    assert (graph.producer, graph.opset, graph.metadata_props) == ("maker", 20, {"labels": "anger, joy"})
    assert graph.operators == {"Add", "If", "Relu"}
    assert graph.domains == {""}
    assert not (graph.external or graph.functions or graph.has_sparse or graph.has_text)


@pytest.mark.parametrize("element", ["uint8", "bool", "int64", "float16", "bfloat16"])
def test_element_types_are_numpys_names(element: str, write: Write) -> None:
    model = model_of()
    number = getattr(TensorProto, element.upper())
    model.graph.input.append(helper.make_tensor_value_info("i", number, [2, -1, "n"]))
    assert read_graph(write(model)).inputs["i"] == (element, (2, -1, None))


@pytest.mark.shared
def test_real_graphs_are_read(shared_data: Path) -> None:
    files = sorted((shared_data.parent / "weights").glob("*.onnx"))
    assert len(files) > 1
    for file in files:
        model, graph = onnx.load(file), read_graph(file)
        assert graph.operators == {node.op_type for node in model.graph.node}
        for ours, theirs in ((graph.inputs, model.graph.input), (graph.outputs, model.graph.output)):
            assert list(ours) == [value.name for value in theirs]
            for value in theirs:
                tensor = value.type.tensor_type
                sizes = tuple(one.dim_value if one.HasField("dim_value") else None for one in tensor.shape.dim)
                assert ours[value.name] == ("float32", sizes if tensor.HasField("shape") else None)


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ({"x": "uint8"}, ["y"], r"inputs do not fit.*got 'x: float32'.*expected 'x: uint8'"),
        ({"x": "float32", "mask": "bool"}, ["y"], r"inputs.*expected 'mask: bool', 'x: float32'"),
        ({}, ["y"], "inputs"),
        ({"x": "float32"}, ["features"], r"outputs do not fit.*expected 'features: float32'"),
        ({"x": "float32"}, ["y", "z"], "outputs"),
    ],
)
def test_other_inputs_and_outputs_are_refused(
    inputs: dict[str, str], outputs: list[str], words: str, write: Write
) -> None:
    with pytest.raises(ModelError, match=words):
        check_graph(write(model_of()), inputs, outputs)


def outside(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def sparse() -> SparseTensorProto:
    return helper.make_sparse_tensor(WEIGHTS, numpy_helper.from_array(np.arange(3), "i"), [10**8])


def text() -> TensorProto:
    return TensorProto(name="t", data_type=TensorProto.STRING, dims=[1], string_data=[b"long"])


FOREIGN = helper.make_node("Add", ["x", "w"], ["y"], domain="com.evil")
FUNCTION = helper.make_function("com.evil", "F", ["x"], ["y"], [ADD], [helper.make_opsetid("", 20)])
ENDLESS = helper.make_node("Loop", ["n", "", "x"], ["y"], body=helper.make_graph([], "body", [], []))
IN_ATTRIBUTE = helper.make_node("Constant", [], ["y"], value=outside("/etc/passwd"))
WORDS = [
    (model_of(tensors=[outside("../../secret")]), r"tensors outside the file.*'../../secret'"),
    (model_of(tensors=[outside("weights.bin")]), r"'weights.bin'"),
    (model_of([IN_ATTRIBUTE]), r"'/etc/passwd'"),
    (model_of([in_branch(IN_ATTRIBUTE)]), r"'/etc/passwd'"),
    (model_of(tensors=[TensorProto(name="w", data_location=TensorProto.EXTERNAL)]), "tensors outside"),
    (model_of([FOREIGN]), r"foreign domain.*'com.evil'"),
    (model_of([in_branch(FOREIGN)]), r"'com.evil'"),
    (model_of([helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")]), r"'com.microsoft'"),
    (model_of(functions=[FUNCTION]), r"functions.*'com.evil.F'"),
    (model_of([ENDLESS]), r"'Loop, which may run without end'"),
    (model_of([in_branch(ENDLESS)]), "'Loop, "),
    (model_of([helper.make_node("StringConcat", ["x", "x"], ["y"])]), r"StringConcat.*no limit covers"),
    (model_of([helper.make_node("Constant", [], ["y"], sparse_value=sparse())]), "sparse tensors"),
    (model_of([helper.make_node("Constant", [], ["y"], value=text())]), "tensors of text"),
    (model_of([helper.make_node("Constant", [], ["y"], value_string="long")]), "tensors of text"),
    (model_of(tensors=[text()]), "tensors of text"),
]


@pytest.mark.parametrize(("model", "words"), WORDS)
def test_dangerous_graphs_are_refused(model: onnx.ModelProto, words: str, write: Write) -> None:
    with pytest.raises(ModelError, match=rf"face.onnx: graph with .*{words}.*expected"):
        check_graph(write(model), {"x": "float32"}, ["y"])


def test_sparse_weights_are_refused(write: Write) -> None:
    model = model_of()
    model.graph.sparse_initializer.append(sparse())
    with pytest.raises(ModelError, match="sparse tensors"):
        check_graph(write(model), {"x": "float32"}, ["y"])


def test_a_second_graph_in_one_file_is_checked_too(write: Write) -> None:
    """Protobuf merges both graphs, and so does ONNX Runtime."""
    both = model_of().SerializeToString() + onnx.ModelProto(graph=onnx.GraphProto(node=[FOREIGN])).SerializeToString()
    assert {node.domain for node in onnx.ModelProto.FromString(both).graph.node} == {"", "com.evil"}
    with pytest.raises(ModelError, match="foreign"):
        check_graph(write(both), {"x": "float32"}, ["y"])


@pytest.mark.parametrize(
    ("limits", "is_foldable"), [({"end": 1}, True), ({}, True), ({"start": -2}, True), ({"start": 1}, False)]
)
def test_a_constant_from_the_size_of_an_input_may_need_any_memory_if_the_size_is_fixed(
    limits: dict[str, Any], is_foldable: bool, write: Write
) -> None:
    """Of an input (clips, 3), ONNX Runtime knows the second size when it opens a graph, and the first only in a run."""
    nodes = [helper.make_node("Shape", ["x"], ["s"], **limits), helper.make_node("ConstantOfShape", ["s"], ["y"])]
    assert read_graph(write(model_of(nodes))).is_foldable is is_foldable
    fixed = numpy_helper.from_array(np.zeros((1, 3), np.float32), "x")  # then x is no input of a run
    assert not read_graph(write(model_of(nodes, [fixed]))).is_foldable


def test_a_dimension_that_is_free_and_fixed_is_refused(write: Write) -> None:
    content = model_of().SerializeToString().replace(b"\x12\x05clips", b"\x12\x03cli\x08\x09")
    assert onnx.load_from_string(content).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 9  # the last wins
    with pytest.raises(ModelError, match="both free and fixed"):
        read_graph(write(content))


def test_a_file_cannot_write_to_the_terminal(write: Write) -> None:
    with pytest.raises(ModelError) as caught:
        check_graph(
            write(model_of([helper.make_node("A", [], ["y"], domain="\x1b[2J" + "x" * 500)])), {"x": "float32"}, ["y"]
        )
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_deep_nesting_is_refused(write: Write) -> None:
    assert read_graph(write(nested(32))).operators == {"If", "Identity"}
    with pytest.raises(ModelError, match=r"face.onnx: damaged.*more than 32 nested graphs"):
        read_graph(write(nested(33)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"\xff" * 30, "varint of more than 10 bytes"),
        (b"\x08", "out of bounds"),
        (b"\x3a\xff\xff\xff\xff\x0f", "truncated"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "truncated"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x00\x00", "field number 0"),
        (b"\xba\x80\x80\x80\x10\x00", "field number 536870919"),  # cut to 32 bits, the graph's tag
        (b"\x12\x01\xff", "utf-8"),
        (b"\x08\x01" * 2000, "more than 1000 fields"),
    ],
)
def test_damaged_files_are_named(content: bytes, words: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_check, "MAX_FIELDS", 1000)
    with pytest.raises(ModelError, match=rf"face.onnx: damaged.*{words}"):
        read_graph(write(content))


def test_missing_and_large_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_graph(tmp_path / "face.onnx")
    large = tmp_path / "large.onnx"
    with large.open("wb") as stream:
        stream.truncate((2 << 30) + 1)  # takes no room on the disk
    with pytest.raises(ModelError, match=r"large.onnx: graph too large.*at most 2 GiB"):
        read_graph(large)


GRAPH = model_of([ADD, in_branch(in_branch(IN_ATTRIBUTE))], [WEIGHTS, text()], functions=[FUNCTION]).SerializeToString()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_raise_another_error(data: st.DataObject, write: Write) -> None:
    content = bytearray(GRAPH)
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 8)))
        content[start:end] = data.draw(st.binary(max_size=12))
    for candidate in (
        bytes(content),
        bytes(content[: data.draw(st.integers(0, len(content)))]),
        data.draw(st.binary()),
    ):
        try:
            check_graph(write(candidate), {"x": "float32"}, ["y"])
        except ModelError as error:
            assert "face.onnx" in str(error)
