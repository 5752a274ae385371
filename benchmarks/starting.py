"""How long it takes until there is something: the help, and the first prediction, each a whole process.

    python benchmarks/starting.py [VIDEO]

Default: ../shared/data/clips/single_face.mp4, 2.4 s, by the starter model. Medians, after one run not counted.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

VIDEO = Path("../shared/data/clips/single_face.mp4")
RUNS = 7


def main() -> None:
    video = sys.argv[1] if len(sys.argv) > 1 else str(VIDEO)
    print("| command | s, median | least | most |\n| --- | --- | --- | --- |")
    measured = {}
    for name, arguments in {"--help": ["--help"], "first prediction": ["predict", video]}.items():
        seconds = [run(arguments) for _ in range(RUNS + 1)][1:]
        measured[name] = median(seconds)
        print(
            f"| reactometer {' '.join(arguments)} | {median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} |"
        )
    for name, most_s in (("--help", 0.3), ("first prediction", 3.0)):
        met = "met" if measured[name] <= most_s else "NOT MET"
        print(f"bar: {name}, s: {measured[name]:.2f} (asked: <= {most_s}): {met}")


def run(arguments: list[str]) -> float:
    """Seconds that a process takes."""
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "reactometer", *arguments], check=True, capture_output=True)
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
