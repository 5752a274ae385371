"""Measure the peak memory of reading tables of features, as a multiple of the features as float32.

    python benchmarks/tables.py [--clips 2000] [--steps 100] [--features 200]

Each table is read in a process of its own; the memory of the interpreter and of the imports is subtracted.
The status is 1 if a table needs more than :data:`MAX_RATIO`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

MAX_RATIO = 1.5


def memory_bytes(name: str) -> int:
    """Return the memory of this process in bytes: "VmRSS" now, or "VmHWM" at its peak (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def read(table: Path) -> None:
    """Read a table into a store; print the memory that it needed in bytes."""
    from reactometer.data.feature_tables import prepare_features

    features = {"face": "face_*"}
    with tempfile.TemporaryDirectory() as out:
        small = Path(out) / f"small{table.suffix}"
        write(small, chunks(2, 2, 2), 10)
        prepare_features(small, Path(out) / "small", features, labels=["Joy"], progress=False)  # imports
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = memory_bytes("VmRSS")
        prepare_features(table, Path(out) / "large", features, labels=["Joy"], progress=False)
    print(memory_bytes("VmHWM") - before)


def chunks(n_clips: int, n_steps: int, n_features: int) -> Iterator[pd.DataFrame]:
    """Yield the rows of one clip at a time."""
    rng = np.random.default_rng(0)
    for number in range(n_clips):
        values = rng.standard_normal((n_steps, n_features), np.float32)
        chunk = pd.DataFrame(values).add_prefix("face_")
        chunk.insert(0, "clip", f"clip{number:05d}")
        chunk.insert(1, "time_s", np.arange(n_steps) / 25.0)
        yield chunk.assign(Joy=0.5)


def write(file: Path, parts: Iterator[pd.DataFrame], row_group: int) -> None:
    """Write a CSV, or a Parquet table with row groups of this size."""
    if file.suffix == ".csv":
        for number, part in enumerate(parts):
            part.to_csv(file, mode="a", header=not number, index=False, float_format="%.5g")
    else:
        whole = pa.concat_tables(map(pa.Table.from_pandas, parts))
        parquet.write_table(whole, file, row_group_size=row_group)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.read)
        return 0
    shape = options.clips, options.steps, options.features
    raw_bytes = 4 * np.prod(shape)
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        for file, row_group in (("groups.parquet", 10_000), ("one-group.parquet", 2**40), ("table.csv", 0)):
            table = Path(name) / file
            write(table, chunks(*shape), row_group)
            command = [sys.executable, __file__, "--read", str(table)]
            needed = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            worst = max(worst, needed / raw_bytes)
            print(f"{file}: {needed / raw_bytes:.2f} x {raw_bytes / 2**20:.0f} MiB", flush=True)
            table.unlink()
    return int(worst > MAX_RATIO)


if __name__ == "__main__":
    sys.exit(main())
