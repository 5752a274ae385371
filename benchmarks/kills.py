"""Commands that are killed at random and started again: is anything lost, done twice, or half?

    python benchmarks/kills.py [--kills 20] [--seed 0] [--only train]

Each of prepare, train, predict (into a folder, into tables) and serve is killed by SIGKILL with all its processes, at
so many moments drawn over its time and a little past it, and at so many of its writes (a file opened, renamed, linked
or deleted, a folder, an fsync), most of them some bytes into the file; see tests/kills.py. The same command is then
started again, and what it comes to is compared with what it comes to undisturbed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import bar

from reactometer.data.simulate import simulate

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import kill_cases
import kills
from kill_service import kill_service

N_CLIPS, N_PREPARED = 72, 24
"""Of the embedded data set: enough val clips to fit intervals on; and those that are prepared anew again and again."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        data = simulate(base / "data", n_clips=N_CLIPS, duration_s=1.5)
        videos = sorted((data / "val" / "mp4").glob("*.mp4"))[:8]
        many = base / "videos"
        many.mkdir()
        for video in videos:
            (many / video.name).symlink_to(video)
        cases: dict[str, Callable[[Path], kills.Case]] = {
            "prepare": lambda own: kill_cases.prepare_case(simulate(own / "data", n_clips=N_PREPARED), own / "before"),
            "train": lambda own: kill_cases.train_case(_prepared(data, own / "prepared")),
            "predict into a folder": lambda own: kill_cases.folder_case(many),
            "predict into tables": lambda own: kill_cases.table_case(videos[:1]),
        }
        wrong = 0
        print("| command | undisturbed, s | writes | killed | of them at a write | wrong |", flush=True)
        print("| --- " * 6 + "|", flush=True)
        for number, (name, make) in enumerate(cases.items()):
            if asked.only in name:
                own = base / f"case-{number}"
                own.mkdir()
                wrong += _kill(make(own), own, asked.kills, np.random.default_rng([asked.seed, number]))
        if asked.only in "serve":
            (base / "serve").mkdir()
            wrong += _kill_service(videos[:6], base / "serve", asked.kills, np.random.default_rng([asked.seed, 9]))
    bar("kills with something wrong", wrong, 0, at_most=True)


def _prepared(data: Path, out: Path) -> Path:
    from reactometer.config import PrepareConfig
    from reactometer.data.prepare import prepare

    prepare(data, out, settings=PrepareConfig(detector="haar", rate_hz=2.0, size_px=48), progress=False)
    return out


def _kill(case: kills.Case, base: Path, count: int, rng: np.random.Generator) -> int:
    whole = base / "whole"
    seconds, writes = kills.undisturbed(case, whole)
    drawn, wrong = kills.draw_kills(count, seconds, writes, rng), 0
    for number, kill in enumerate(drawn):
        found = kills.kill_and_repeat(case, kill, base / f"{number}", whole)
        wrong += _tell(case.name, kill, found)
    _row(case.name, seconds, writes, drawn, wrong)
    return wrong


def _kill_service(clips: list[Path], base: Path, count: int, rng: np.random.Generator) -> int:
    began_s = time.perf_counter()
    told, _ = kill_service(clips, None, base / "whole")
    seconds, writes, wrong = time.perf_counter() - began_s, kills.count_writes(base / "whole"), 0
    expected = [told.done[job]["predictions"] for job in told.accepted]
    drawn = kills.draw_kills(count, seconds, writes, rng)
    for number, kill in enumerate(drawn):
        wrong += _tell("serve", kill, kill_service(clips, kill, base / f"{number}", expected)[1])
    _row("serve", seconds, writes, drawn, wrong)
    return wrong


def _tell(name: str, kill: kills.Kill, found: list[str]) -> int:
    print(f"{name}, killed at {kill}", file=sys.stderr, flush=True)
    for own in found:
        print(f"{name}, killed at {kill}: {own}", flush=True)
    return bool(found)


def _row(name: str, seconds: float, writes: int, drawn: list[kills.Kill], wrong: int) -> None:
    at = sum(kill.after_s is None for kill in drawn)
    print(f"| `{name}` | {seconds:.1f} | {writes} | {len(drawn)} | {at} | {wrong} |", flush=True)


if __name__ == "__main__":
    main()
