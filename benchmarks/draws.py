"""Several stochastic passes at test time: what averaging the scores of several draws of a clip's frames gains.

python benchmarks/draws.py MODEL... --data DATA [--split val]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from reactometer import evaluate, load_model

DRAWS = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val", help="choose on val; touch test once")
    asked = parser.parse_args()
    print("| model | " + " | ".join(f"{draws} draws" for draws in DRAWS) + " |\n" + "| --- " * (1 + len(DRAWS)) + "|")
    for path in asked.models:
        model, cells = load_model(path), []
        for draws in DRAWS:
            several = replace(model, sampling=replace(model.sampling, draws=draws))
            score = evaluate(several, asked.data, split=asked.split, n_resamples=0, progress=False).metrics.mean_pearson
            cells.append("undefined" if score is None else f"{score:.3f}")
        print(f"| {path.parent.name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
