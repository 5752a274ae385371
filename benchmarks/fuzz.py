"""Media files that are damaged, lie, or are something else, one after the other through a service of this machine.

    python benchmarks/fuzz.py [--files 2000] [--seed 0]

Thirteen kinds of the same rendered clip (containers, codecs, sound alone, pictures), each file changed at random (see
tests/mutations.py: bits, cuts, splices, repetitions, false headers). Each must end in a result or a reason, within a
minute, with the service's memory bounded; in the end no process and no upload may be left. A file that does not is
kept in the current folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from load import pss_mb, service
from measuring import bar

from reactometer.data.simulated_clip import clip_plan, render_clip

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from mutations import mutate, seeds

LONGEST_S, MOST_MB = 60.0, 4096.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    frames, waveform = render_clip(clip_plan(0))
    clips = list(seeds(frames[:12], waveform[:19_200]).values())
    told, slowest_s, largest_mb, wrong = Counter[str](), 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as name, service(Path(name) / "data", 4) as (address, process):
        with httpx.Client(base_url=address, timeout=300) as client, ThreadPoolExecutor(3) as pool:
            cases = [
                (number, *mutate(clips, np.random.default_rng([asked.seed, number]))) for number in range(asked.files)
            ]
            for (number, change, data), (status, said, seconds) in zip(
                cases, pool.map(lambda case: _send(client, case[2]), cases), strict=True
            ):
                outcome = "result" if status == 200 else "reason" if status == 422 and said else "WRONG"
                told[outcome] += 1
                slowest_s = max(slowest_s, seconds)
                largest_mb = max(largest_mb, pss_mb(process.pid)) if number % 20 == 0 else largest_mb
                if outcome == "WRONG" or seconds > LONGEST_S or "died" in said or "Error: " in said:
                    print(f"{number}, {change}: {status}, {seconds:.1f} s: {said[:200]}", flush=True)
                if outcome == "WRONG":
                    wrong += 1
                    Path(f"fuzz-{asked.seed}-{number}.bin").write_bytes(data)
            left = list((Path(name) / "data" / "uploads").iterdir())
        print(f"{dict(told)}; slowest {slowest_s:.1f} s; at most {largest_mb:.0f} MiB")
    zombies = subprocess.run(["ps", "-eo", "stat,cmd"], capture_output=True, text=True, check=True).stdout
    bar("files without a result or reason", wrong, 0, at_most=True)
    bar("seconds of the slowest", slowest_s, LONGEST_S, at_most=True)
    bar("memory, MiB", largest_mb, MOST_MB, at_most=True)
    bar("uploads left", len(left), 0, at_most=True)
    bar(
        "processes left",
        sum("reactometer" in line and line[0] == "Z" for line in zombies.splitlines()),
        0,
        at_most=True,
    )


def _send(client: httpx.Client, data: bytes) -> tuple[int, str, float]:
    began_s = time.perf_counter()
    answer = client.post("/v1/predictions", files={"file": ("clip.mp4", data)})
    while answer.status_code == 202:
        time.sleep(0.2)
        told = client.get(f"/v1/predictions/{answer.json()['id']}")
        if told.json()["status"] in ("done", "failed"):
            return (
                (200 if told.json()["status"] == "done" else 422),
                told.json()["error"] or "",
                time.perf_counter() - began_s,
            )
    return answer.status_code, answer.json().get("error") or "", time.perf_counter() - began_s


if __name__ == "__main__":
    main()
