"""Look into an ONNX file before a session is made, because checkpoints come from strangers.

The file is read as protobuf's wire format, without the package ``onnx``. Field numbers are those of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); the encoding is described at
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reactometer.errors import ModelError
from reactometer.io import decoding

MAX_FILE_BYTES = 2 << 30
"""Largest graph file; protobuf allows no larger message."""

MAX_DEPTH, MAX_FIELDS = 32, 2_000_000
"""Limits of nested graphs, and of protobuf fields in one file. A ResNet-50 has 3650 fields."""

DOMAINS = ("", "ai.onnx")
"""Names of the standard domain. Graphs in 8 bits (QDQ) use no other domain either."""

UNBOUNDED = {
    **dict.fromkeys(("Loop", "Scan", "SequenceMap"), "may run without end"),
    **dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
        "takes memory that no limit covers",
    ),
}
"""Operators that are refused, and why. Exported encoders contain none of them."""

SAME_SIZE = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose output has as many elements as their first input."""

MAX_FOLDED_BYTES = 64 << 20
"""Memory for constants that are computed when a graph is opened, beside four times the size of the file."""

TYPES = "? float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64 ? ? bfloat16"
ELEMENT_TYPES = dict(enumerate(TYPES.split()))
"""Number of an element type -> NumPy's name."""

TEXT = 8

COPY_AGAIN = "Copy or download the checkpoint again"
USE_ANOTHER = "Use a checkpoint that reactometer wrote"

Fields = Mapping[int, Sequence[int | memoryview]]
TensorType = tuple[str, tuple[int | None, ...] | None]
"""Element type, as NumPy names it, and shape: None for a free dimension or an unknown shape."""


@dataclass(frozen=True)
class GraphSummary:
    """Contents of an ONNX file, including all nested graphs and functions."""

    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    domains: frozenset[str]
    operators: frozenset[str]
    functions: frozenset[str]
    producer: str
    opset: int  # of the standard domain; 0 if the file has none
    metadata_props: Mapping[str, str]
    external: tuple[str, ...]  # locations of tensors that lie outside the file
    has_sparse: bool
    has_text: bool
    is_foldable: bool  # constants that can be computed when the graph is opened need a bounded amount of memory


def read_graph(file: Path) -> GraphSummary:
    """Read the inputs, outputs, operators and metadata of an ONNX file.

    Weights are skipped: the file is mapped, and no tensor is copied.

    Raises:
        ModelError: the file is missing, damaged, larger than 2 GiB, or has more than 32 nested graphs.
    """
    if not file.is_file():
        raise ModelError(f"{file}: no such file", fix=COPY_AGAIN)
    if (size := file.stat().st_size) > MAX_FILE_BYTES:
        raise ModelError(f"{file}: graph too large", got=f"{size} bytes", expected="at most 2 GiB", fix=USE_ANOTHER)
    with decoding(file, ModelError, COPY_AGAIN), file.open("rb") as stream:
        return _Reader().read_model(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))


def check_graph(file: Path, inputs: Mapping[str, str], outputs: Sequence[str]) -> GraphSummary:
    """Check that a graph fits its checkpoint, reads no other file, and runs standard operators only.

    Args:
        file: the ONNX file.
        inputs: expected inputs: name -> element type, such as "float32" or "uint8".
        outputs: expected names of the outputs, in order. Their element type is float32.

    Raises:
        ModelError: the graph is damaged, has other inputs or outputs, or contains something that is refused.
    """
    graph = read_graph(file)
    given = {name: element for name, (element, _) in graph.inputs.items()}
    float_outputs = [f"{name}: float32" for name in outputs]
    for kind, got, expected in (
        ("inputs", _listed(given.items()), _listed(inputs.items())),
        ("outputs", [f"{name}: {element}" for name, (element, _) in graph.outputs.items()], float_outputs),
    ):
        if got != expected:
            raise ModelError(
                f"{file}: {kind} do not fit model.json", got=_short(got), expected=_short(expected), fix=COPY_AGAIN
            )
    unbounded = [f"{name}, which {UNBOUNDED[name]}" for name in graph.operators if name in UNBOUNDED]
    for problem, found, wanted in (
        ("tensors outside the file", graph.external, "all tensors inside the file"),
        ("operators of a foreign domain", graph.domains.difference(DOMAINS), "standard ONNX operators"),
        ("functions", graph.functions, "standard ONNX operators"),
        ("operators that are not allowed", unbounded, "operators with bounded time and memory"),
        ("sparse tensors", ["a sparse tensor"] * graph.has_sparse, "dense tensors"),
        ("tensors of text", ["a tensor of text"] * graph.has_text, "tensors of numbers"),
    ):
        if found:
            raise ModelError(f"{file}: graph with {problem}", got=_short(found), expected=wanted, fix=USE_ANOTHER)
    return graph


def _listed(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return sorted(f"{name}: {element}" for name, element in pairs)


def _short(values: Iterable[str]) -> str:
    """Format at most five values of a stranger's file for one line of a terminal."""
    names = sorted(values)
    return (", ".join(ascii(name[:80]) for name in names[:5]) or "nothing") + " and more" * (len(names) > 5)


@dataclass
class _Reader:
    """Collect what a model contains, message by message."""

    operators: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    external: list[str] = field(default_factory=list)
    has_sparse: bool = False
    has_text: bool = False
    has_subgraphs: bool = False
    folded_bytes: float = 0.0
    n_fields: int = 0

    def read_model(self, data: memoryview) -> GraphSummary:
        model = self.parse(data)
        inputs, outputs = dict[str, TensorType](), dict[str, TensorType]()
        for graph in _messages(model, 7):
            self.read_graph(graph, 0, inputs, outputs)
        for message in _messages(model, 25):
            function = self.parse(message)
            self.functions.add(f"{_text(function, 10)}.{_text(function, 1)}")
            self.read_nodes(function, 7, 0)
        opsets = [self.parse(message) for message in _messages(model, 8)]
        versions = [_number(opset, 2) for opset in opsets if _text(opset, 1) in DOMAINS]
        entries = [self.parse(message) for message in _messages(model, 14)]
        return GraphSummary(
            inputs,
            outputs,
            frozenset(self.domains),
            frozenset(self.operators),
            frozenset(self.functions),
            producer=_text(model, 2),
            opset=max(versions, default=0),
            metadata_props={_text(entry, 1): _text(entry, 2) for entry in entries},
            external=tuple(self.external),
            has_sparse=self.has_sparse,
            has_text=self.has_text,
            is_foldable=not self.has_subgraphs and self.folded_bytes <= MAX_FOLDED_BYTES + 4 * len(data),
        )

    def read_graph(
        self, data: memoryview, depth: int, inputs: dict[str, TensorType], outputs: dict[str, TensorType]
    ) -> None:
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} nested graphs")
        graph = self.parse(data)
        for number, values in ((11, inputs), (12, outputs)):
            for message in _messages(graph, number):
                value = self.parse(message)
                name = _text(value, 1)
                if name in values:
                    raise ValueError(f"two values named {name[:80]!r}")
                values[name] = self.read_type(value)
        self.has_subgraphs |= depth > 0
        self.read_nodes(graph, 1, depth)
        self.read_tensors(graph, 5)
        self.measure_constants(graph, inputs)
        self.has_sparse |= bool(graph.get(15))

    def read_type(self, value: Fields) -> TensorType:
        tensor = self.merged(self.merged(value, 2), 1)
        shape = None
        if tensor.get(2):
            dimensions = [self.parse(message) for message in _messages(self.merged(tensor, 2), 1)]
            if any(1 in one and 2 in one for one in dimensions):
                raise ValueError("a dimension that is both free and fixed")
            shape = tuple(_number(one, 1) if 1 in one else None for one in dimensions)
        return ELEMENT_TYPES.get(_number(tensor, 1), "?"), shape

    def read_nodes(self, parent: Fields, number: int, depth: int) -> None:
        for message in _messages(parent, number):
            node = self.parse(message)
            self.operators.update(_texts(node, 4))
            self.domains.update(_texts(node, 7) or [""])
            for attribute in map(self.parse, _messages(node, 5)):
                self.has_text |= not {"value_string", "value_strings"}.isdisjoint(_texts(attribute, 1))
                self.has_sparse |= bool(attribute.get(22) or attribute.get(23))
                self.read_tensors(attribute, 5, 10)
                for graph in (*_messages(attribute, 6), *_messages(attribute, 11)):
                    self.read_graph(graph, depth + 1, {}, {})

    def measure_constants(self, graph: Fields, graph_inputs: Mapping[str, TensorType]) -> None:
        """Add up an upper limit of the bytes that folding of constants computes; infinity if it is not known.

        A node that reads the size of an input's free dimension is no constant.
        """
        tensors = map(self.parse, _messages(graph, 5))
        sizes = {_text(tensor, 8): self.count_elements(tensor) for tensor in tensors}  # elements of constants, by name
        for node in map(self.parse, _messages(graph, 1)):
            operator, inputs = _text(node, 4), [name for name in _texts(node, 1) if name]
            if operator == "Constant":
                values = [self.parse(value) for one in _messages(node, 5) for value in _messages(self.parse(one), 5)]
                size = sum(map(self.count_elements, values))
            elif operator in ("Shape", "Size"):
                shape = graph_inputs[inputs[0]][1] if inputs and inputs[0] in graph_inputs.keys() - sizes else None
                if None in (shape or ())[self.read_slice(node)]:
                    continue
                size = 0.0
            elif not all(name in sizes for name in inputs):
                continue
            elif operator in SAME_SIZE and inputs:
                size = sizes[inputs[0]]
            else:
                size = math.inf
            self.folded_bytes += 8 * size
            sizes.update(dict.fromkeys(_texts(node, 2), size))

    def read_slice(self, node: Fields) -> slice:
        """Return the dimensions that a node Shape reads; Size has no such attributes, and reads all."""
        limits = {_text(one, 1): _number(one, 3) for one in map(self.parse, _messages(node, 5))}
        return slice(limits.get("start"), limits.get("end"))

    def count_elements(self, tensor: Fields) -> float:
        packed = memoryview(b"".join(_messages(tensor, 1)))
        dimensions = [value for value in tensor.get(1, ()) if isinstance(value, int)]
        at = 0
        while at < len(packed):
            value, at = _varint(packed, at)
            dimensions.append(value)
        return math.prod(map(float, dimensions))

    def read_tensors(self, parent: Fields, *numbers: int) -> None:
        for message in (message for number in numbers for message in _messages(parent, number)):
            tensor = self.parse(message)
            self.has_text |= bool(tensor.get(6)) or any(number & 0xFFFFFFFF == TEXT for number in _numbers(tensor, 2))
            if tensor.get(13) or any(_numbers(tensor, 14)):
                entries = [self.parse(entry) for entry in _messages(tensor, 13)]
                places = [_text(entry, 2) for entry in entries if _text(entry, 1) == "location"]
                self.external += places or ["a file without a name"]

    def merged(self, parent: Fields, number: int) -> Fields:
        """Parse a field that occurs at most once. Protobuf merges repeated occurrences as if they were joined."""
        return self.parse(memoryview(b"".join(_messages(parent, number))))

    def parse(self, data: memoryview) -> Fields:
        """Return the fields of a message by number: varints as integers, contents with a length as views.

        Raises:
            ValueError: the bytes are no message, or the file has too many fields.
        """
        fields: dict[int, list[int | memoryview]] = {}
        at = 0
        while at < len(data):
            self.n_fields += 1
            if self.n_fields > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            tag, at = _varint(data, at)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:  # a parser that cuts the tag to 32 bits would read another field
                raise ValueError(f"field number {number}")
            value: int | memoryview
            if kind == 0:
                value, at = _varint(data, at)
            else:
                if kind not in (1, 2, 5):
                    raise ValueError(f"wire type {kind}")
                size, at = _varint(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
                value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("truncated")
            fields.setdefault(number, []).append(value)
        return fields


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read an unsigned integer of at most 64 bits. Return it with the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
    raise ValueError("a varint of more than 10 bytes")


def _messages(fields: Fields, number: int) -> Iterator[memoryview]:
    return (value for value in fields.get(number, ()) if isinstance(value, memoryview))


def _texts(fields: Fields, number: int) -> list[str]:
    return [str(message, "utf-8") for message in _messages(fields, number)]


def _text(fields: Fields, number: int) -> str:
    return (_texts(fields, number) or [""])[-1]


def _numbers(fields: Fields, number: int) -> list[int]:
    """Return a field's integers, as signed 64 bits."""
    return [value - (value >> 63 << 64) for value in fields.get(number, ()) if isinstance(value, int)]


def _number(fields: Fields, number: int) -> int:
    return (_numbers(fields, number) or [0])[-1]
