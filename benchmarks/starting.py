"""How long it takes until there is something: the help, and the first prediction, each a whole process.

    python benchmarks/starting.py [VIDEO]

Default: 3 s of the embedded data set, by the starter model. Medians, after one run not counted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from measuring import bar, timed, write_video

RUNS = 7


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        show_starts(sys.argv[1] if len(sys.argv) > 1 else str(write_video(Path(folder) / "rendered.mp4", 3)))


def show_starts(video: str) -> None:
    """A table, and the bars."""
    print("| command | s, median | least | most |\n| --- | --- | --- | --- |")
    measured = {}
    for name, arguments in {"--help": ["--help"], "first prediction": ["predict", video]}.items():
        seconds = [run(arguments) for _ in range(RUNS + 1)][1:]
        measured[name] = median(seconds)
        print(
            f"| reactometer {' '.join(arguments)} | {median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} |"
        )
    bar("--help, s", measured["--help"], 0.3, at_most=True)
    bar("first prediction, s", measured["first prediction"], 3.0, at_most=True)


def run(arguments: list[str]) -> float:
    """Seconds that a process takes."""
    command = [sys.executable, "-m", "reactometer", *arguments]
    return timed(lambda: subprocess.run(command, check=True, capture_output=True))


if __name__ == "__main__":
    main()
