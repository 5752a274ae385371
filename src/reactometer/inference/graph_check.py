"""Check an ONNX file before it is loaded, because checkpoints may come from untrusted sources.

The file is read as protobuf's wire format, without the package ``onnx``. Field numbers are those of
onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); the encoding is described at
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from reactometer.errors import ModelError
from reactometer.io import wrap_decode_errors

MAX_FIELDS = 2_000_000
"""Maximum number of protobuf fields in one file. A ResNet-50 has 3650 fields."""

DOMAINS = ("", "ai.onnx")
"""Names of the standard domain. Graphs in 8 bits (QDQ) use no other domain either."""

REFUSED = {
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), "contains a graph"),
    **dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
        "uses memory without a limit",
    ),
}
"""Refused operators, and the reason. Exported graphs contain none of them."""

STRING_TYPE = 8
"""Number of the element type of strings."""

FIXED_SIZES = {1: 8, 5: 4}
"""Bytes of protobuf's wire types of fixed size."""

Fields = Mapping[int, Sequence[int | memoryview]]


def check_graph(file: Path) -> bool:
    """Check that a graph reads no other file and consists of standard operators on tensors of numbers.

    Weights are skipped: the file is mapped, and no tensor is copied.

    Returns:
        True if ONNX Runtime may fold constants when it opens the graph: only weights are cast, each at most
        once, so that the size of the file bounds the memory.

    Raises:
        ModelError: the file is damaged or contains refused parts.
    """
    reader = _Reader()
    with (
        wrap_decode_errors(file, ModelError, "Copy or download the checkpoint again"),
        file.open("rb") as stream,
    ):
        is_foldable = reader.read_model(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
    if reader.refused:
        raise ModelError(
            f"{file}: the graph contains parts that are not allowed",
            got="; ".join(sorted(reader.refused)[:5]),
            expected="standard ONNX operators on tensors of numbers inside the file",
            fix="Use a checkpoint that reactometer exported",
        )
    return is_foldable


class _Reader:
    """Reader of an ONNX model that collects refused parts."""

    def __init__(self) -> None:
        self.refused = set[str]()
        self.n_fields = 0

    def read_model(self, data: memoryview) -> bool:
        model = self.parse(data)
        if model.get(25):
            self.refused.add("functions")
        graphs = self.parse_all(model, 7)
        if len(graphs) != 1:  # protobuf would merge several
            raise ValueError(f"{len(graphs)} graphs")
        (graph,) = graphs
        nodes = self.parse_all(graph, 1)
        tensors = self.parse_all(graph, 5)
        for node in nodes:
            self.check_node(node)
        self.check_tensors(tensors)
        if graph.get(15):
            self.refused.add("sparse tensors")
        return self.casts_weights_only(graph, nodes, {_text(tensor, 8) for tensor in tensors})

    def check_node(self, node: Fields) -> None:
        for operator in _texts(node, 4):
            if operator in REFUSED:
                self.refused.add(f"operator {operator}, which {REFUSED[operator]}")
        self.refused.update(
            f"operator of domain {_short(name)}" for name in _texts(node, 7) if name not in DOMAINS
        )
        for attribute in self.parse_all(node, 5):
            if attribute.get(6) or attribute.get(11):
                self.refused.add("graphs inside of an operator")
            if attribute.get(22) or attribute.get(23):
                self.refused.add("sparse tensors")
            if not {"value_string", "value_strings"}.isdisjoint(_texts(attribute, 1)):
                self.refused.add("tensors of text")
            self.check_tensors([*self.parse_all(attribute, 5), *self.parse_all(attribute, 10)])

    def check_tensors(self, tensors: Sequence[Fields]) -> None:
        for tensor in tensors:
            if tensor.get(6) or any(number & 0xFFFFFFFF == STRING_TYPE for number in _numbers(tensor, 2)):
                self.refused.add("tensors of text")
            if tensor.get(13) or any(_numbers(tensor, 14)):
                texts = [_text(entry, 2) for entry in self.parse_all(tensor, 13)]
                self.refused.add(f"a tensor in another file: {_short(' '.join(texts))}")

    def casts_weights_only(self, graph: Fields, nodes: Sequence[Fields], weights: set[str]) -> bool:
        """Return True if only casts of weights, each at most once, can be computed without an input."""
        inputs = {_text(value, 1): self.parse_first_size(value) for value in self.parse_all(graph, 11)}
        is_constant = {**dict.fromkeys(inputs, False), **dict.fromkeys(weights, True)}
        for node in nodes:
            operator = _text(node, 4)
            names = [name for name in _texts(node, 1) if name]
            if not all(name in is_constant for name in names):
                return False  # a node whose input is computed later
            computed = all(is_constant[name] for name in names)
            if operator in ("Shape", "Size") and not computed:
                computed = not (
                    names[0] in inputs and 1 not in inputs[names[0]] and self.reads_first_size(node)
                )
            elif operator == "Cast" and computed and names[0] in weights:
                weights.remove(names[0])
            elif operator != "Constant" and computed:
                return False
            is_constant |= dict.fromkeys(_texts(node, 2), computed)
        return True

    def parse_first_size(self, value: Fields) -> Fields:
        """Return the first dimension of an input; field 1 is its size, if the size is fixed or unknown."""
        for number in (2, 1, 2):  # type, tensor, shape
            value = self.parse(
                memoryview(b"".join(_messages(value, number)))
            )  # protobuf merges repeated ones
        return next(iter(self.parse_all(value, 1)), {1: []})

    def reads_first_size(self, node: Fields) -> bool:
        limits = {_text(entry, 1): (_numbers(entry, 3) or [0])[-1] for entry in self.parse_all(node, 5)}
        return limits.get("start", 0) == 0 and limits.get("end", 1) > 0

    def parse_all(self, parent: Fields, number: int) -> list[Fields]:
        return [self.parse(message) for message in _messages(parent, number)]

    def parse(self, data: memoryview) -> Fields:
        """Return the fields of a message by number: varints as integers, contents with a length as views.

        Raises:
            ValueError: the bytes are no message, or the file has too many fields.
        """
        fields: dict[int, list[int | memoryview]] = {}
        position = 0
        while position < len(data):
            self.n_fields += 1
            if self.n_fields > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            tag, position = _varint(data, position)
            number, wire_type = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:  # a parser that cuts the tag to 32 bits would read another field
                raise ValueError(f"field number {number}")
            value: int | memoryview
            if wire_type == 0:
                value, position = _varint(data, position)
            else:
                if wire_type == 2:
                    size, position = _varint(data, position)
                elif wire_type in FIXED_SIZES:
                    size = FIXED_SIZES[wire_type]
                else:
                    raise ValueError(f"wire type {wire_type}")
                value = data[position : position + size]
                position = position + size
            if position > len(data):
                raise ValueError("truncated")
            fields.setdefault(number, []).append(value)
        return fields


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read an unsigned integer of at most 64 bits. Return it with the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, position
    raise ValueError("a varint of more than 10 bytes")


def _short(text: str) -> str:
    """Format a text from an untrusted file for one line of a terminal."""
    return ascii(text[:80])


def _messages(fields: Fields, number: int) -> Iterator[memoryview]:
    return (value for value in fields.get(number, ()) if isinstance(value, memoryview))


def _texts(fields: Fields, number: int) -> list[str]:
    return [str(message, "utf-8") for message in _messages(fields, number)]


def _text(fields: Fields, number: int) -> str:
    return (_texts(fields, number) or [""])[-1]


def _numbers(fields: Fields, number: int) -> list[int]:
    """Return a field's integers, as signed 64 bits."""
    return [value - (value >> 63 << 64) for value in fields.get(number, ()) if isinstance(value, int)]
