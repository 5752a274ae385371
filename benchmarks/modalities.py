"""What is lost when a modality goes: one model of both, against models trained on either alone.

    python benchmarks/modalities.py DATA --out modalities [--seeds 3] [--split test] [--config FILE.toml]

Trains a configuration three times over (both, ``modalities = "face"``, ``modalities = "voice"``) and compares. Without
``--config`` it is the demo's; DATA may be the demo's prepared folder, ``demo/prepared-480-0``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from reactometer import Config, compare, load_config
from reactometer.walkthrough import demo_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--out", type=Path, default=Path("modalities"))
    parser.add_argument("--split", default="test", help="choose on val; touch test once")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="key=value on top of the configuration")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    config = load_config(asked.config) if asked.config else demo_config(asked.data, asked.out)
    configs = []
    for modalities in ("both", "face", "voice"):
        model = config.model.model_copy(update={"modalities": modalities})
        configs.append(asked.out / f"{modalities}.toml")
        configs[-1].write_text(_toml(config.model_copy(update={"model": model})), encoding="utf-8")
    made = compare(configs, asked.data, asked.out, seeds=asked.seeds, overrides=asked.set, split=asked.split)
    print((made.folder / "comparison.md").read_text(encoding="utf-8"))


def _toml(config: Config) -> str:
    sections = config.model_dump(mode="json", exclude_none=True, exclude={"data"})
    return "\n".join(
        "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())])
        for name, section in sections.items()
    )


if __name__ == "__main__":
    main()
