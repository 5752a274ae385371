"""Load the service of this machine with fifty clients: check answers, speed and memory.

    python benchmarks/load.py [--clients 50] [--clips 200] [--seconds 10] [--rounds 3] [--requests 2000]

Each request sends a rendered clip with other bytes in a part that no decoder reads. The service runs as
``reactometer serve`` with its defaults (64 queued clips), except for the limit per client, because all
clients have one address. A client that gets 429 retries after the seconds of ``Retry-After``. The service's
speed is that of the middle 80% of its clips; the batch command uses as many processes. The ratio is the
median over the rounds. Memory is the sum of Pss over all processes, after a tenth of the requests and after
all, with clips of 2 s.
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

MIN_SPEED, MAX_GROWTH = 1.0, 1.05


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=10, help="length of a clip")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--requests", type=int, default=2000, help="requests for the memory measurement; 0: skip it"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ratios = [_round(folder / str(number), options) for number in range(options.rounds)]
        bar("speed of the service / the batch command's", median(ratios), MIN_SPEED)
        if options.requests:
            _memory(folder, options.clients, options.requests)


def _round(folder: Path, options: argparse.Namespace) -> float:
    folder.mkdir()
    clip = write_video(folder / "clip.mp4", options.seconds).read_bytes()
    counts = options.clips // 4, options.clips
    few, many = (_write_clips(folder / f"{count} clips", count, clip) for count in counts)
    batch_s, _ = cost_of_one(
        lambda clips: _predict(clips, folder / f"run of {clips.name}"), few, many, counts
    )
    with service(folder / "service", options.clients) as (address, _):
        outcomes, finished_s = _load(address, options.clients, options.clips, clip)
    n_trimmed = len(finished_s) // 10
    middle_s = sorted(finished_s)[n_trimmed:-n_trimmed]
    service_s = (middle_s[-1] - middle_s[0]) / (len(middle_s) - 1)
    print(f"{dict(outcomes)}; service {service_s:.3f} s a clip, batch {batch_s:.3f} s a clip", flush=True)
    bar("lost requests", outcomes["lost"], 0, at_most=True)
    return batch_s / service_s


def _memory(folder: Path, clients: int, requests: int) -> None:
    clip = write_video(folder / "short.mp4", 3).read_bytes()
    with service(folder / "service", clients) as (address, process):
        _load(address, clients, requests // 10, clip)
        before = pss_mb(process.pid)
        outcomes, _ = _load(address, clients, requests - requests // 10, clip)
        after = pss_mb(process.pid)
    print(
        f"{dict(outcomes)}; {before:.0f} MiB after {requests // 10} requests, {after:.0f} MiB after "
        f"{requests}"
    )
    bar("memory at the end / after a tenth of the requests", after / before, MAX_GROWTH, at_most=True)


@contextmanager
def service(folder: Path, clients: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a service on a free port; yield its address and its process."""
    command = [sys.executable, "-m", "reactometer", "serve", "--port", "0", "--jobs", str(folder)]
    process = subprocess.Popen(
        [*command, "--per-client", str(2 * clients)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        address = next(line for line in process.stderr if line.startswith("http")).split()[0]
        yield address, process
    finally:
        process.terminate()
        process.wait()


def _load(address: str, clients: int, total: int, clip: bytes) -> tuple[Counter[str], list[float]]:
    """Send ``total`` clips; return the number of each outcome, and when each clip was answered."""
    outcomes = Counter[str]()
    finished_s = list[float]()
    numbers = iter(range(total))
    lock = threading.Lock()

    def client() -> None:
        with httpx.Client(base_url=address, timeout=600) as session:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                _send(session, _make_unique(clip, number), outcomes, lock, finished_s)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes, finished_s


def _send(
    session: httpx.Client, clip: bytes, outcomes: Counter[str], lock: threading.Lock, finished_s: list[float]
) -> None:
    """Send one clip until it is answered or lost."""
    outcome, wait_s = "", 0.0
    while outcome not in ("answered", "lost"):
        time.sleep(wait_s)
        outcome, wait_s = _request(session, clip)
        with lock:
            outcomes[outcome] += 1
            if outcome == "answered":
                finished_s.append(time.perf_counter())


def _request(session: httpx.Client, clip: bytes) -> tuple[str, float]:
    """Send a request; return its outcome, and the seconds before a retry."""
    try:
        answer = session.post("/v1/predictions", files={"file": ("clip.mp4", clip)})
        if answer.status_code == 429:
            return "refused", float(answer.headers["Retry-After"])
        while answer.status_code in (200, 202) and answer.json()["status"] in ("queued", "running"):
            time.sleep(0.5)
            answer = session.get(f"/v1/predictions/{answer.json()['id']}")
        return ("answered" if answer.status_code == 200 and answer.json()["predictions"] else "lost"), 0.0
    except httpx.HTTPError as error:
        print(f"lost: {error!r}", flush=True)
        return "lost", 0.0


def _predict(clips: Path, out: Path) -> None:
    command = [sys.executable, "-m", "reactometer", "predict", str(clips), "--out-dir", str(out)]
    subprocess.run(command, check=True, capture_output=True)


def _write_clips(folder: Path, count: int, clip: bytes) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.mp4").write_bytes(_make_unique(clip, number))
    return folder


def _make_unique(clip: bytes, number: int) -> bytes:
    return clip + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")


def pss_mb(pid: int, kind: str = "Pss") -> float:
    """Return the memory of a process and its children, MiB; ``kind`` is a row of ``smaps_rollup``."""
    rollups = [Path(f"/proc/{child}/smaps_rollup").read_text() for child in processes(pid)]
    return (
        sum(
            int(line.split()[1])
            for text in rollups
            for line in text.splitlines()
            if line.startswith(f"{kind}:")
        )
        / 1024
    )


if __name__ == "__main__":
    main()
