"""All benchmarks one after the other -> one Markdown file, with the machine, the date and what a core can do at most.

    python benchmarks/bench.py [--out bench.md] [--only NAME]...

Each runs as a process of its own, and what it prints is kept as it is. A line ``bar: NAME: VALUE (asked: LIMIT): met``
(or ``NOT MET``) is a bar; they are listed together at the end. A benchmark that is not there, or whose data are not, is
said to be skipped. The exit status is 0 whether bars are met or not: it is a record, and ``guard.py`` is the check.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from statistics import median

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("predicting", "preparing", "engines", "training", "heads", "starting", "memory", "installing", "peers")
PACKAGES = ("reactometer", "numpy", "torch", "opencv-python-headless", "av", "onnxruntime", "openvino", "lightning")
BAR = re.compile(r"^bar: (?P<name>[^:]+): (?P<value>.+) \(asked: (?P<limit>.+)\): (?P<result>met|NOT MET)\s*$", re.M)
SIDE, REPEATS = 2048, 7
"""Of the square matrices that the peak is measured on, and how often each is multiplied."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench.md"))
    parser.add_argument("--only", action="append", help="one of the benchmarks; repeatable")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which one is stopped")
    asked = parser.parse_args()
    text = "\n".join(
        ["# Benchmarks", "", *describe_machine(), "", "## What a matrix product reaches", "", *peaks(), ""]
    )
    asked.out.write_text(text, encoding="utf-8")  # and what follows is added as it comes
    bars = []
    for name in asked.only or BENCHMARKS:
        said = run(name, asked.limit)
        bars += BAR.findall(said)
        _append(asked.out, f"\n## {name}\n\n{said.rstrip()}\n")
    counted = [result for *_, result in bars]
    rows = [f"| {bar} | {value} | {limit} | {result} |" for bar, value, limit, result in bars]
    table = ["| bar | measured | asked | |", "| --- | --- | --- | --- |", *rows]
    summary = f"{counted.count('met')} of {len(counted)} bars met"
    _append(asked.out, "\n".join(["", "## Bars", "", *table, "", summary, ""]))
    print("\n".join(["", *table, "", f"{summary}; all of it in {asked.out}"]))


def describe_machine() -> Iterator[str]:
    """Lines of Markdown: processor, memory, system, versions, date and commit."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    yield f"* machine: {_processor()}, {len(os.sched_getaffinity(0))} cores, {pages:.0f} GiB, {platform.platform()}"
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    yield f"* Python {platform.python_version()}, {', '.join(versions)}; torch uses {torch.get_num_threads()} threads"
    commit = _output("git", "describe", "--always", "--dirty", "--abbrev=12") or "unknown"
    yield f"* {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, commit {commit}"


def peaks() -> Iterator[str]:
    """Lines of Markdown: what a product of large matrices reaches here, in single precision and in 8-bit integers."""
    yield "| | through | GFLOP/s |\n| --- | --- | --- |"
    single = torch.randn(SIDE, SIDE)
    yield f"| fp32 | torch | {_rate(lambda: single @ single):.0f} |"
    for what, name, measure in (
        ("fp32", "ONNX Runtime", lambda: _onnx("MatMul", np.float32, np.float32)),
        ("int8", "torch", _torch_int8),
        ("int8", "ONNX Runtime", lambda: _onnx("MatMulInteger", np.uint8, np.int8)),
    ):
        rate = measure()
        yield f"| {what} | {name} | {'not to be had here' if rate is None else f'{rate:.0f}'} |"


def run(name: str, limit_s: float) -> str:
    """What one benchmark prints, which is shown as it comes, too; or why it said nothing."""
    script = HERE / f"{name}.py"
    if not script.is_file():
        return f"skipped: there is no {script.name}\n"
    print(f"\n== {name}", flush=True)
    started_s = time.monotonic()
    command = [sys.executable, "-W", "ignore", str(script)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s\n"
    said = done.stdout
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no word"]
        said += f"\nskipped: {script.name} ended with status {done.returncode}: {words[-1]}\n"
    print(said, flush=True)
    return f"{said.rstrip()}\n\n(`python benchmarks/{script.name}`, {time.monotonic() - started_s:.0f} s)\n"


def _rate(multiply: Callable[[], object]) -> float:
    """GFLOP/s of a product of square matrices, the median after a first one that is not counted."""
    multiply()
    seconds = []
    for _ in range(REPEATS):
        started_s = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - started_s)
    return 2 * SIDE**3 / median(seconds) / 1e9


def _torch_int8() -> float | None:
    integers = torch.randint(-127, 127, (SIDE, SIDE), dtype=torch.int8)
    try:
        return _rate(lambda: torch._int_mm(integers, integers))
    except (RuntimeError, AttributeError):
        return None


def _onnx(kind: str, left: type[np.generic], right: type[np.generic]) -> float | None:
    """A product by ONNX Runtime: single precision (MatMul), or integers with sums of 32 bits (MatMulInteger)."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return None
    helper, rng = onnx.helper, np.random.default_rng(0)
    kinds = [
        helper.np_dtype_to_tensor_dtype(np.dtype(one)) for one in (left, np.float32 if right is left else np.int32)
    ]
    a, b = (rng.integers(0, 127, (SIDE, SIDE)).astype(one) for one in (left, right))
    graph = helper.make_graph(
        [helper.make_node(kind, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kinds[0], a.shape)],
        [helper.make_tensor_value_info("c", kinds[1], a.shape)],
        [onnx.numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return _rate(lambda: session.run(None, {"a": a}))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    model = [named[key] for key in ("cpu family", "model") if key in named]
    where = f" (family {model[0]}, model {model[1]})" if len(model) == 2 else ""
    return named.get("model name", platform.machine()) + where


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False).stdout.strip()
    except OSError:
        return ""


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
