"""Two hours or 20,000 requests at a service, whichever comes first: do memory, handles and latency stay flat?

    python benchmarks/soak.py [--requests 20000] [--hours 2] [--clients 4] [--data FOLDER]

The service runs as ``reactometer serve`` with its defaults. Each client sends, over and over: six clips of 2 s that
no one sent before, the first of them to be polled; a file that is cut off; a question for a result as a table, one
that deletes it, and one for the page, the model, health or the counts, in turn. After every 500 requests a client
holds a live session of 20 frames. After each tenth: memory of all the service's processes (their own, that of no
file: pages of libraries are shared with whatever else runs and come and go with it), their open files and threads,
their processor time a request, and the time a clip takes. Memory and handles of the last tenth are compared with
those of the second: in the first, things warm up. Speed is compared side by side, since a machine's drifts: at the
end, a service that has just started and this one take clips in turns.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median, quantiles

import av
import cv2
import httpx
from load import _unlike, pss_mb, service
from measuring import bar, processes, write_video
from websockets.sync.client import connect

MOST_MEMORY, MOST_HANDLES, MOST_LATENCY = 1.05, 4, 1.10
PAGES = ("/", "/v1/model", "/healthz", "/metrics")


class Soak:
    """What the clients share: the number of the next request, and what they saw in this tenth."""

    def __init__(self, address: str, clip: bytes, total: int, end_s: float) -> None:
        self.address, self.clip, self.total, self.end_s = address, clip, total, end_s
        self.lock, self.sent, self.told = threading.Lock(), 0, Counter[str]()
        self.latencies_s = list[float]()

    def next(self, many: int) -> int | None:
        """Numbers of so many requests: the first of them."""
        with self.lock:
            if self.sent >= self.total or time.monotonic() > self.end_s:
                return None
            self.sent += many
            return self.sent - many

    def tell(self, what: str, good: bool) -> None:
        with self.lock:
            self.told[what if good else f"{what}: WRONG"] += 1


def client(soak: Soak) -> None:
    jpegs = _pictures(soak.clip)
    with httpx.Client(base_url=soak.address, timeout=600) as session:
        while (number := soak.next(10)) is not None:
            try:
                _visit(soak, session, number)
                if number % 500 == 0:
                    soak.tell("live", _live(soak.address, jpegs))
            except (httpx.HTTPError, OSError) as error:
                print(f"lost: {error!r}", flush=True)
                soak.tell("lost", False)


def _visit(soak: Soak, session: httpx.Client, number: int) -> None:
    clip_id = ""
    for turn in range(6):
        began_s = time.perf_counter()
        document = _score(session, _unlike(soak.clip, number + turn), wait=turn > 0)
        soak.tell("clip", bool(document["predictions"]))
        if turn:
            with soak.lock:
                soak.latencies_s.append(time.perf_counter() - began_s)
        clip_id = document["id"]
    cut = _score(session, soak.clip[: 200 + number % 2000], wait=True)
    soak.tell("cut file", cut["status"] == "failed" and bool(cut["error"]))
    soak.tell("table", "Anger" in session.get(f"/v1/predictions/{clip_id}", params={"format": "csv"}).text)
    soak.tell("deleted", session.delete(f"/v1/predictions/{clip_id}").status_code == 204)
    soak.tell("page", session.get(PAGES[number // 10 % len(PAGES)]).status_code == 200)


def _score(session: httpx.Client, clip: bytes, *, wait: bool) -> dict[str, str]:
    headers = {} if wait else {"Prefer": "respond-async"}
    answer = session.post("/v1/predictions", files={"file": ("clip.mp4", clip)}, headers=headers)
    while answer.status_code == 429:
        time.sleep(float(answer.headers["Retry-After"]))
        answer = session.post("/v1/predictions", files={"file": ("clip.mp4", clip)}, headers=headers)
    document = answer.json()
    while document.get("status") in ("queued", "running"):
        time.sleep(0.1)
        document = session.get(f"/v1/predictions/{document['id']}").json()
    return {"status": "failed", "predictions": "", "id": "", **document}


def _pictures(clip: bytes) -> list[bytes]:
    with av.open(io.BytesIO(clip)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    return [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames[:20]]


def _live(address: str, jpegs: list[bytes]) -> bool:
    with connect(f"{address.replace('http', 'ws')}/v1/live") as socket:
        socket.send(json.dumps({"type": "start", "window_s": 2.0, "mode": "media"}))
        kinds = [json.loads(socket.recv())["type"]]
        for number, jpeg in enumerate(jpegs):
            socket.send(struct.pack("<Bd", 1, number / 10) + jpeg)
            time.sleep(0.1)
        while kinds[-1] not in ("intensities", "error"):
            kinds.append(json.loads(socket.recv(timeout=30))["type"])
        socket.send(json.dumps({"type": "stop"}))
    return kinds[0] == "ready" and kinds[-1] == "intensities"


def handles(pid: int) -> tuple[int, int]:
    """Open files, and threads, of a service's processes."""
    folders = [Path(f"/proc/{own}") for own in processes(pid)]
    return tuple(sum(len(list((folder / kind).iterdir())) for folder in folders) for kind in ("fd", "task"))  # type: ignore[return-value]


def processor_s(pid: int) -> float:
    """Processor time of a service's processes, those included that have ended and been waited for, seconds."""
    fields = [Path(f"/proc/{own}/stat").read_text().rsplit(")", 1)[1].split()[11:15] for own in processes(pid)]
    return sum(int(ticks) for four in fields for ticks in four) / 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--data", type=Path, help="of the service; default: a folder that is removed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, service(asked.data or Path(name) / "data", asked.clients) as (at, run):
        clip = write_video(Path(name) / "clip.mp4", 3).read_bytes()
        soak = Soak(at, clip, asked.requests, time.monotonic() + asked.hours * 3600)
        rows = _watch(soak, run.pid, asked.clients)
        print(dict(soak.told), flush=True)
        with service(Path(name) / "fresh", asked.clients) as (fresh, _):
            slower = _side_by_side(fresh, at, clip)
    second, last = rows[min(1, len(rows) - 1)], rows[-1]
    met = [
        bar("requests that went wrong", sum(n for what, n in soak.told.items() if "WRONG" in what), 0, at_most=True),
        bar("memory, last tenth / second", last["MiB"] / second["MiB"], MOST_MEMORY, at_most=True),
        bar("open files more than in the second tenth", last["files"] - second["files"], MOST_HANDLES, at_most=True),
        bar("time of a clip / that of a fresh service", slower, MOST_LATENCY, at_most=True),
    ]
    sys.exit(0 if all(met) else 1)


def _side_by_side(fresh: str, used: str, clip: bytes, rounds: int = 300, warm: int = 30) -> float:
    """Median time of a clip at the used service / that at the fresh one, sent to each in turn by one client."""
    taken_s: dict[str, list[float]] = {fresh: [], used: []}
    with httpx.Client(timeout=600) as session:
        for number in range(rounds):
            for address in (fresh, used) if number % 2 else (used, fresh):
                session.base_url = httpx.URL(address)
                began_s = time.perf_counter()
                _score(session, _unlike(clip, 2**31 + number), wait=True)
                taken_s[address].append(time.perf_counter() - began_s)
    middles_s = [median(taken_s[address][warm:]) for address in (used, fresh)]
    print(f"side by side: used {middles_s[0] * 1000:.0f} ms, fresh {middles_s[1] * 1000:.0f} ms a clip", flush=True)
    return middles_s[0] / middles_s[1]


def _watch(soak: Soak, pid: int, clients: int) -> list[dict[str, float]]:
    threads = [threading.Thread(target=client, args=(soak,), daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    began_s, rows, spent_s, sent = time.monotonic(), list[dict[str, float]](), processor_s(pid), 0
    print(
        "| requests | minutes | memory, MiB | open files | threads | processor, ms a request | clip, ms | 95 % |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    alive = True
    while alive:
        time.sleep(1.0)
        alive = any(thread.is_alive() for thread in threads)
        if len(soak.latencies_s) >= 20 and (soak.sent - sent >= soak.total / (10 if alive else 20)):
            with soak.lock:
                latencies_s, soak.latencies_s = soak.latencies_s, []
            now_s, (files, tasks), middle_s = processor_s(pid), handles(pid), median(latencies_s)
            row = {"MiB": pss_mb(pid, "Pss_Anon"), "files": files, "work": (now_s - spent_s) / (soak.sent - sent)}
            print(
                f"| {soak.sent} | {(time.monotonic() - began_s) / 60:.1f} | {row['MiB']:.0f} | {files} | {tasks} "
                f"| {row['work'] * 1000:.0f} | {middle_s * 1000:.0f} | {quantiles(latencies_s, n=20)[-1] * 1000:.0f} |",
                flush=True,
            )
            rows, spent_s, sent = [*rows, row], now_s, soak.sent
    return rows


if __name__ == "__main__":
    main()
