"""Does ``prepare`` reach what decoder and detector alone reach, with all cores busy?

    python benchmarks/preparing.py [--clips 8] [--seconds 20] [--rounds 3]

Copies of a rendered video are prepared by ``reactometer.prepare``; and decoded and searched for faces, and nothing
else, by as many processes of the same pool. Either way so many clips, and three times as many, and the speed is taken
from the difference: what starting processes costs is shown apart. Rounds take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import median

from measuring import bar, cost_of_one, search, write_video

from reactometer import prepare
from reactometer.config import PrepareConfig
from reactometer.workers.pool import default_workers, run_jobs

BAR, LABEL = 0.90, "Amusement"
TIMES_MORE = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=20, help="of a clip")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    ours, alone, starts = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = asked.clips, TIMES_MORE * asked.clips
        few, many = (_data_set(folder / str(count), count, asked.seconds) for count in counts)
        for _ in range(asked.rounds):
            each_s, start_s = cost_of_one(_prepare, few, many, counts)
            ours.append(each_s)
            starts.append(start_s)
            alone.append(cost_of_one(_decode_and_detect, few, many, counts)[0])
    print(f"{default_workers()} processes; clips of {asked.seconds} s, {PrepareConfig().rate_hz:g} frames/s looked at.")
    print(f"A clip takes prepare {median(ours):.3f} s, decoder and detector alone {median(alone):.3f} s;", end=" ")
    print(f"starting and ending takes prepare {median(starts):.1f} s.\n")
    ratio = median(own / other for own, other in zip(alone, ours, strict=True))
    bar("prepare / decoder and detector alone, all cores busy", ratio, BAR)


def _data_set(folder: Path, count: int, seconds: int) -> Path:
    """A table of so many copies of a video."""
    folder.mkdir()
    first = write_video(folder / "0.mp4", seconds)
    for number in range(1, count):
        shutil.copy(first, folder / f"{number}.mp4")
    rows = [f"{number}.mp4,0.5,train" for number in range(count)]
    table = folder / "clips.csv"
    table.write_text("\n".join([f"path,{LABEL},split", *rows, ""]), encoding="utf-8")
    return table


def _prepare(data: Path) -> None:
    out = data.parent / "prepared"
    prepared = prepare(data, out, progress=False)
    assert not any(row.clip.problem for row in prepared.rows)
    shutil.rmtree(out)


def _decode_and_detect(data: Path) -> None:
    videos = sorted(data.parent.glob("*.mp4"))
    assert len(list(run_jobs(search, videos, default_workers(), _died))) == len(videos)


def _died(video: Path) -> int:
    raise SystemExit(f"the process that read {video} died")


if __name__ == "__main__":
    main()
