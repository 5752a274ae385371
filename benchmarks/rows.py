"""Tables of a million rows: how long each reader takes, and how much memory; ten times the rows, ten times both?

    python benchmarks/rows.py [--rows 1000000]

A manifest with names that hold commas, quotes and letters of several scripts; each step in a process of its own, with a
tenth of the rows and with all. Processor time, and the largest resident memory less that of the imports.
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measuring import bar

MOST_GROWTH = 20.0
LABELS = ("Joy", "Fear", "Anger")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--step", choices=sorted(STEPS), help="one step on one file, as this program asks of itself")
    parser.add_argument("--file", type=Path)
    asked = parser.parse_args()
    if asked.step:
        print(*_measure(STEPS[asked.step], asked.file))
        return
    with tempfile.TemporaryDirectory() as name:
        files = {rows: _write(Path(name) / f"{rows}.csv", rows) for rows in (asked.rows // 10, asked.rows)}
        print(f"{files[asked.rows].stat().st_size / 2**20:.0f} MiB of CSV")
        for step in STEPS:
            took = {}
            for rows, file in files.items():
                command = [sys.executable, __file__, "--step", step, "--file", str(file)]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                took[rows] = float(said[0])
                print(f"{step}, {rows:,} rows: {took[rows]:.1f} s, {float(said[1]):.0f} MiB", flush=True)
            bar(
                f"{step}: time for ten times the rows",
                took[asked.rows] / took[asked.rows // 10],
                MOST_GROWTH,
                at_most=True,
            )


def _write(file: Path, rows: int) -> Path:
    with file.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["path", "person", "stimulus", "age, years", *LABELS])
        for row in range(rows):
            path, person = f'folder/Müller, "Zoë" 笑 {row}.mp4', f"person {row // 10}"
            writer.writerow(
                [path, person, f"film {row % 100}", row % 90, *(round(row % k / k, 3) for k in (7, 11, 13))]
            )
    return file


def _manifest(file: Path) -> object:
    from reactometer.data.layouts import read_data_set

    return read_data_set(file, LABELS)


def _splits(file: Path) -> object:
    from reactometer.data.layouts import read_data_set
    from reactometer.data.splits import with_splits

    return with_splits(read_data_set(file, LABELS).clips)


def _people(file: Path) -> object:
    from reactometer.data.people import read_people

    return read_people(file)


def _prepared(file: Path) -> object:
    """A prepared set's table, written and read again."""
    from reactometer.config import PrepareConfig
    from reactometer.data.cache import PreparedRow, PreparedSet, open_prepared, write_index
    from reactometer.data.layouts import read_data_set

    rows = tuple(PreparedRow(clip) for clip in read_data_set(file, LABELS).clips)
    with tempfile.TemporaryDirectory() as name:
        write_index(PreparedSet(Path(name), LABELS, PrepareConfig(), rows))
        return open_prepared(Path(name))


STEPS: dict[str, Callable[[Path], object]] = {
    "manifest": _manifest,
    "manifest and splits": _splits,
    "people": _people,
    "prepared table": _prepared,
}


def _measure(step: Callable[[Path], object], file: Path) -> tuple[float, float]:
    import pandas  # noqa: F401

    import reactometer.data.prepare  # noqa: F401

    began_s, before_kb = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(file)
    took_s = time.process_time() - began_s
    return took_s, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024


if __name__ == "__main__":
    main()
