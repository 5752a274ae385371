"""The curves in the README: a video, predicted by the starter model.

python benchmarks/readme_picture.py VIDEO docs/curves.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import reactometer as rm


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    axes = rm.load_model("starter").predict(options.video).plot()
    axes.set_title("", loc="left")
    figure = axes.figure
    figure.savefig(options.picture, dpi=120)


if __name__ == "__main__":
    main()
