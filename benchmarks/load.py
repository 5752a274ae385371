"""Fifty clients at once at a service of this machine: is every request answered, how fast, and does memory stay flat?

    python benchmarks/load.py [--clients 50] [--clips 200] [--seconds 10] [--rounds 3] [--requests 2000]

A clip is rendered; each request sends it with other bytes in a part that no decoder reads. The service runs as
``reactometer serve`` with its defaults (64 clips wait) but for the bound of clips a client, since all of these have
one address. A client that is refused with 429 comes again after the seconds of ``Retry-After``. The service's speed is
that of the clips of its middle 80 %; the batch command's likewise, with as many processes. Rounds
take turns; the ratio is their median. Memory is what all its processes hold by themselves (Pss), after a tenth of
the requests and at their end, with clips of 2 s.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
from measuring import bar, cost_of_one, processes, write_video

LEAST_SPEED, MOST_GROWTH = 1.0, 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=10, help="of a clip")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2000, help="of the memory's part; 0: leave it out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ratios = [_round(folder / str(number), asked) for number in range(asked.rounds)]
        bar("speed of the service / the batch command's", median(ratios), LEAST_SPEED)
        if asked.requests:
            _memory(folder, asked.clients, asked.requests)


def _round(folder: Path, asked: argparse.Namespace) -> float:
    folder.mkdir()
    clip = write_video(folder / "clip.mp4", asked.seconds).read_bytes()
    counts = asked.clips // 4, asked.clips
    few, many = (_write_clips(folder / f"{count} clips", count, clip) for count in counts)
    each_s, _ = cost_of_one(lambda clips: _predict(clips, folder / f"run of {clips.name}"), few, many, counts)
    with service(folder / "service", asked.clients) as (address, _):
        told, finished_s = _load(address, asked.clients, asked.clips, clip)
    cut = len(finished_s) // 10
    middle_s = sorted(finished_s)[cut:-cut]
    service_s = (middle_s[-1] - middle_s[0]) / (len(middle_s) - 1)
    print(f"{dict(told)}; service {service_s:.3f} s a clip, batch {each_s:.3f} s a clip", flush=True)
    bar("requests that are neither answered nor told to come again", told["lost"], 0, at_most=True)
    return each_s / service_s


def _memory(folder: Path, clients: int, requests: int) -> None:
    clip = write_video(folder / "short.mp4", 3).read_bytes()
    with service(folder / "service", clients) as (address, process):
        _load(address, clients, requests // 10, clip)
        before = pss_mb(process.pid)
        told, _ = _load(address, clients, requests - requests // 10, clip)
        after = pss_mb(process.pid)
    print(f"{dict(told)}; {before:.0f} MiB after {requests // 10} requests, {after:.0f} MiB after {requests}")
    bar("memory at the end / after a tenth of the requests", after / before, MOST_GROWTH, at_most=True)


@contextmanager
def service(folder: Path, clients: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A service on a free port: its address, and its process."""
    command = [sys.executable, "-m", "reactometer", "serve", "--port", "0", "--data", str(folder)]
    process = subprocess.Popen([*command, "--per-client", str(2 * clients)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        address = next(line for line in process.stderr if line.startswith("http")).split()[0]
        yield address, process
    finally:
        process.terminate()
        process.wait()


def _load(address: str, clients: int, total: int, clip: bytes) -> tuple[Counter[str], list[float]]:
    """Send so many clips; what came of the requests, and when each clip was answered."""
    told, finished_s, numbers, lock = Counter[str](), list[float](), iter(range(total)), threading.Lock()

    def client() -> None:
        with httpx.Client(base_url=address, timeout=600) as session:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                _send(session, _unlike(clip, number), told, lock, finished_s)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told, finished_s


def _send(
    session: httpx.Client, clip: bytes, told: Counter[str], lock: threading.Lock, finished_s: list[float]
) -> None:
    """One clip until it is answered, or lost."""
    outcome, wait_s = "", 0.0
    while outcome not in ("answered", "lost"):
        time.sleep(wait_s)
        outcome, wait_s = _ask(session, clip)
        with lock:
            told[outcome] += 1
            if outcome == "answered":
                finished_s.append(time.perf_counter())


def _ask(session: httpx.Client, clip: bytes) -> tuple[str, float]:
    """What came of a request, and after how long it may be tried again."""
    try:
        answer = session.post("/v1/predictions", files={"file": ("clip.mp4", clip)})
        if answer.status_code == 429:
            return "told to come again", float(answer.headers["Retry-After"])
        while answer.status_code in (200, 202) and answer.json()["status"] in ("queued", "running"):
            time.sleep(0.5)
            answer = session.get(f"/v1/predictions/{answer.json()['id']}")
        return ("answered" if answer.status_code == 200 and answer.json()["predictions"] else "lost"), 0.0
    except httpx.HTTPError as error:
        print(f"lost: {error!r}", flush=True)
        return "lost", 0.0


def _predict(clips: Path, out: Path) -> None:
    command = [sys.executable, "-m", "reactometer", "predict", str(clips), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)


def _write_clips(folder: Path, count: int, clip: bytes) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.mp4").write_bytes(_unlike(clip, number))
    return folder


def _unlike(clip: bytes, number: int) -> bytes:
    return clip + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")


def pss_mb(pid: int, kind: str = "Pss") -> float:
    """Memory of a process and its children, what is shared counted once, MiB; of one kind, as the kernel calls it."""
    rollups = [Path(f"/proc/{own}/smaps_rollup").read_text() for own in processes(pid)]
    return (
        sum(int(line.split()[1]) for text in rollups for line in text.splitlines() if line.startswith(f"{kind}:"))
        / 1024
    )


if __name__ == "__main__":
    main()
