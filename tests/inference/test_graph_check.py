"""Untrusted graphs: damaged or dangerous ones are refused before a session is made."""

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
from reactometer.inference.graph_check import check_graph
from reactometer.paths import STARTER, find_checkpoint

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


def in_branch(node: NodeProto) -> NodeProto:
    branch = helper.make_graph(
        [node], "branch", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    )
    return helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[onnx.ModelProto | bytes], Path]:
    def write_file(content: onnx.ModelProto | bytes) -> Path:
        file = tmp_path / "face.onnx"
        file.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return file

    return write_file


Write = Callable[[onnx.ModelProto | bytes], Path]


@pytest.mark.shared
def test_real_graphs_are_accepted(shared_data: Path) -> None:
    files = sorted((shared_data.parent / "weights").glob("*.onnx"))
    assert len(files) > 1
    for file in [*files, *find_checkpoint(STARTER).glob("*.onnx")]:
        check_graph(file)


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
SPARSE_WEIGHTS = model_of()
SPARSE_WEIGHTS.graph.sparse_initializer.append(sparse())
WORDS = [
    (model_of(tensors=[outside("../../secret")]), r"a tensor in another file: '../../secret'"),
    (model_of([IN_ATTRIBUTE]), r"'/etc/passwd'"),
    (
        model_of(tensors=[TensorProto(name="w", data_location=TensorProto.EXTERNAL)]),
        "a tensor in another file",
    ),
    (model_of([FOREIGN]), r"operator of domain 'com.evil'"),
    (model_of([helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")]), r"'com.microsoft'"),
    (model_of(functions=[FUNCTION]), "functions"),
    (model_of([ENDLESS]), "graphs inside of an operator; operator Loop, which contains a graph"),
    (model_of([in_branch(ADD)]), "graphs inside of an operator; operator If"),
    (model_of([helper.make_node("StringConcat", ["x", "x"], ["y"])]), r"StringConcat.*without a limit"),
    (model_of([helper.make_node("Constant", [], ["y"], sparse_value=sparse())]), "sparse tensors"),
    (SPARSE_WEIGHTS, "sparse tensors"),
    (model_of([helper.make_node("Constant", [], ["y"], value=text())]), "tensors of text"),
    (model_of([helper.make_node("Constant", [], ["y"], value_string="long")]), "tensors of text"),
    (model_of(tensors=[text()]), "tensors of text"),
]


@pytest.mark.parametrize(("model", "words"), WORDS)
def test_dangerous_graphs_are_refused(model: onnx.ModelProto, words: str, write: Write) -> None:
    with pytest.raises(
        ModelError, match=rf"face.onnx: the graph contains parts that are not allowed .*{words}.*expected"
    ):
        check_graph(write(model))


def test_a_second_graph_in_one_file_is_refused(write: Write) -> None:
    """Protobuf merges both graphs, and so does ONNX Runtime."""
    both = (
        model_of().SerializeToString()
        + onnx.ModelProto(graph=onnx.GraphProto(node=[FOREIGN])).SerializeToString()
    )
    assert {node.domain for node in onnx.ModelProto.FromString(both).graph.node} == {"", "com.evil"}
    with pytest.raises(ModelError, match="damaged"):
        check_graph(write(both))


CAST = helper.make_node("Cast", ["w"], ["cast"], to=TensorProto.DOUBLE)
GROW = helper.make_node("Expand", ["cast", "size"], ["y"])
SIZE = numpy_helper.from_array(np.array([10**12]), "size")


def test_casts_of_weights_may_be_computed_when_a_graph_is_opened(write: Write) -> None:
    two = helper.make_node("Constant", [], ["two"], value_float=2.0)
    assert check_graph(write(model_of([two, CAST, helper.make_node("Add", ["x", "cast"], ["y"])])))


@pytest.mark.parametrize(
    "nodes",
    [
        [CAST, GROW],
        [GROW, CAST],  # ONNX Runtime sorts nodes
        [CAST, helper.make_node("Cast", ["w"], ["again"], to=TensorProto.DOUBLE)],
        [CAST, helper.make_node("Cast", ["cast"], ["again"], to=TensorProto.DOUBLE)],
        [helper.make_node("RandomNormal", [], ["y"], shape=[10**9])],
    ],
)
def test_constants_that_may_need_any_memory_are_not_computed_when_a_graph_is_opened(
    nodes: list[NodeProto], write: Write
) -> None:
    assert not check_graph(write(model_of(nodes, [WEIGHTS, SIZE])))


@pytest.mark.parametrize(
    ("limits", "is_foldable"),
    [({"end": 1}, True), ({}, True), ({"start": 0}, True), ({"start": 1}, False), ({"end": 0}, False)],
)
def test_a_constant_from_the_size_of_an_input_may_need_any_memory_if_the_size_is_fixed(
    limits: dict[str, Any], is_foldable: bool, write: Write
) -> None:
    """Of an input (clips, 3), ONNX Runtime knows the second size when it opens a graph, and the first only in
    a run."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], **limits),
        helper.make_node("ConstantOfShape", ["s"], ["y"]),
    ]
    assert check_graph(write(model_of(nodes))) is is_foldable
    fixed = numpy_helper.from_array(np.zeros((1, 3), np.float32), "x")  # then x is no input of a run
    assert not check_graph(write(model_of(nodes, [fixed])))


def test_a_dimension_that_is_free_and_fixed_counts_as_fixed(write: Write) -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("ConstantOfShape", ["s"], ["y"])]
    content = model_of(nodes).SerializeToString().replace(b"\x12\x05clips", b"\x12\x03cli\x08\x09")
    assert (
        onnx.load_from_string(content).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 9
    )  # the last wins
    assert not check_graph(write(content))


def test_a_file_cannot_write_to_the_terminal(write: Write) -> None:
    with pytest.raises(ModelError) as caught:
        check_graph(write(model_of([helper.make_node("A", [], ["y"], domain="\x1b[2J" + "x" * 500)])))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400


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
        (b"\x3a\x05\x0a\x03\x22\x01\xff", "utf-8"),
        (b"\x12\x01x", "0 graphs"),
        (b"\x08\x01" * 2000, "more than 1000 fields"),
    ],
)
def test_damaged_files_are_named(
    content: bytes, words: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_check, "MAX_FIELDS", 1000)
    with pytest.raises(ModelError, match=rf"face.onnx: damaged.*{words}"):
        check_graph(write(content))


GRAPH = model_of(
    [ADD, CAST, in_branch(IN_ATTRIBUTE)], [WEIGHTS, text()], functions=[FUNCTION]
).SerializeToString()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_bytes_raise_only_model_errors(data: st.DataObject, write: Write) -> None:
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
            check_graph(write(candidate))
        except ModelError as error:
            assert "face.onnx" in str(error)
