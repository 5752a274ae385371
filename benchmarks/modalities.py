"""What is lost when a modality goes: one model of both, against models trained on either alone.

    python benchmarks/modalities.py DATA --out modalities [--seeds 3] [--split test] [--config FILE.toml]

Trains the configuration three times over (both, ``modalities = "face"``, ``modalities = "voice"``) and compares.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reactometer import compare

NAME = 'name = "multimodal"'
SMALL = Path(__file__).resolve().parents[1] / "configs" / "small" / "multimodal.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--config", type=Path, default=SMALL)
    parser.add_argument("--out", type=Path, default=Path("modalities"))
    parser.add_argument("--split", default="test", help="choose on val; touch test once")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="key=value on top of the configuration")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    text = asked.config.read_text(encoding="utf-8")
    configs = []
    for modalities in ("both", "face", "voice"):
        configs.append(asked.out / f"{modalities}.toml")
        configs[-1].write_text(text.replace(NAME, f'{NAME}\nmodalities = "{modalities}"'), encoding="utf-8")
    made = compare(configs, asked.data, asked.out, seeds=asked.seeds, overrides=asked.set, split=asked.split)
    print((made.folder / "comparison.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
