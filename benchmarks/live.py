"""Measure rate and latency of live scores, in this process and through the WebSocket, at 640 x 360 and 25 Hz.

    python benchmarks/live.py [--video VIDEO] [--seconds 10] [--rate 10] [--busy 2]

Print a table for docs/benchmarks/live.md. A clip of 640 x 360 px at 25 frames per second with sound is played
in real time; without ``--video`` it is rendered, with a synthetic face. The server and each client have their
own process. Four clients at once decode and encode the video on the CPUs that the server uses, too.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from measuring import bar

from reactometer.synthetic.clip import clip_plan, render_clip

SIZE, RATE_HZ, SOUND_HZ = (640, 360), 25, 16_000
Play = Callable[[Path, argparse.Namespace, Path], None]


def write_clip(path: Path, seconds: float) -> Path:
    """Write a video (H.264, AAC) of a speaking synthetic face in a large frame."""
    frames, waveform = render_clip(clip_plan(3))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(RATE_HZ), options={"preset": "ultrafast"})
        video.width, video.height = SIZE
        sound = container.add_stream("aac", SOUND_HZ, layout="mono")
        for number in range(round(seconds * RATE_HZ)):
            face = frames[int(number * 10 / RATE_HZ) % len(frames)]
            picture = np.full((SIZE[1], SIZE[0], 3), 96, np.uint8)
            picture[40:320, 180:460] = cv2.resize(face, (280, 280))
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        repeated = np.resize(waveform, round(seconds * SOUND_HZ))
        audio = av.AudioFrame.from_ndarray(repeated[None].astype(np.float32), format="fltp", layout="mono")
        audio.sample_rate, audio.pts = SOUND_HZ, 0
        container.mux(sound.encode(audio))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def serve(port: int) -> None:
    import uvicorn
    from fastapi import FastAPI

    from reactometer.inference.checkpoint import load_model
    from reactometer.paths import STARTER
    from reactometer.serving.queue import ServiceMetrics
    from reactometer.serving.websocket import live_routes

    app = FastAPI()
    app.include_router(live_routes(load_model(STARTER, "cpu"), {}, ServiceMetrics().live))
    uvicorn.run(app, port=port, log_level="warning", ws_max_size=4 * 2**20)


def spin() -> None:
    while True:
        pass


def play_here(video: Path, options: argparse.Namespace, out: Path) -> None:
    """Run the command, with its scores in ``out``."""
    common = [str(video), "--fps", f"{options.rate:g}", "--for", str(options.seconds), "-o", str(out)]
    subprocess.run(
        [sys.executable, "-m", "reactometer", "live", *common], stdout=subprocess.DEVNULL, check=True
    )


def play_to_server(video: Path, options: argparse.Namespace, out: Path) -> None:
    """Send JPEG frames and sound through the WebSocket, and write when their scores arrive."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    from reactometer.live.capture import LiveSource
    from reactometer.live.protocol import HEAD, PacketKind
    from reactometer.live.session import FrameQueue

    inbox, arrived_s = FrameQueue(options.rate), dict[float, float]()

    def send() -> None:
        until_s = time.monotonic() + options.seconds
        while time.monotonic() < until_s and not inbox.closed:
            for packet in inbox.get_all(0.1):
                head = HEAD.pack(packet.kind, packet.time_s)
                if packet.kind is PacketKind.FRAME:
                    arrived_s[packet.time_s] = packet.arrived_s
                    bgr = cv2.cvtColor(packet.content(), cv2.COLOR_RGB2BGR)
                    client.send(head + cv2.imencode(".jpg", bgr)[1].tobytes())
                else:
                    client.send(head + np.round(packet.content * 32767).astype("<i2").tobytes())
        client.send('{"type": "stop"}')

    with connect(f"ws://127.0.0.1:{options.port}/v1/live", compression=None) as client, out.open("w") as file:
        client.send('{"type": "start"}')
        client.recv()
        source = LiveSource(str(video))
        sender = threading.Thread(target=send)
        source.start(inbox.put, inbox.close)
        sender.start()
        rows = csv.DictWriter(file, ["time_s", "latency_ms", "dropped"])
        rows.writeheader()
        with suppress(ConnectionClosed):
            while True:
                score = json.loads(client.recv())
                came_s = arrived_s.pop(score["frame_s"], None)
                latency_ms = None if came_s is None else 1000 * (time.monotonic() - came_s)
                dropped = score["dropped"] + inbox.dropped
                rows.writerow({"time_s": score["time_s"], "latency_ms": latency_ms, "dropped": dropped})
        sender.join()
        source.stop()


def measure(
    name: str, video: Path, options: argparse.Namespace, play: Play, sessions: int = 1
) -> list[float]:
    """Run sessions at once; print a row for all of them; return scores per second and median latency."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / f"{number}.csv" for number in range(sessions)]
        players = [spawn.Process(target=play, args=(video, options, out)) for out in outs]
        for player in players:
            player.start()
        for player in players:
            player.join()
        tables = [list(csv.DictReader(out.open(encoding="utf-8"))) for out in outs]
    latencies_ms = np.array(
        [float(row["latency_ms"]) for rows in tables for row in rows if row["latency_ms"]]
    )
    spans_s = [float(rows[-1]["time_s"]) - float(rows[0]["time_s"]) for rows in tables]
    often_hz = min((len(rows) - 1) / span_s for rows, span_s in zip(tables, spans_s, strict=True))
    middle, high = np.percentile(latencies_ms, [50, 95])
    dropped = sum(int(rows[-1]["dropped"]) for rows in tables)
    print(
        f"| {name} | {often_hz:.1f} | {middle:.0f} | {high:.0f} | {latencies_ms.max():.0f} | {dropped} |",
        flush=True,
    )
    return [often_hz, float(middle)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--busy", type=int, default=0, help="number of other processes that only compute")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    beside = [spawn.Process(target=spin, daemon=True) for _ in range(options.busy)]
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or write_clip(Path(folder) / "clip.mp4", options.seconds)
        server = spawn.Process(target=serve, args=(options.port,), daemon=True)
        for process in (server, *beside):
            process.start()
        time.sleep(8.0)
        print(
            "| | Hz | median, ms | 95 %, ms | largest, ms | dropped |\n| --- | --- | --- | --- | --- | --- |"
        )
        measured = {
            "here": measure("here", video, options, play_here),
            "WebSocket": measure("WebSocket", video, options, play_to_server),
        }
        measure("WebSocket, four clients at once", video, options, play_to_server, sessions=4)
        for process in (server, *beside):
            process.terminate()
    met = [bar(f"{name}, scores a second", often_hz, 5.0) for name, (often_hz, _) in measured.items()]
    met += [
        bar(f"{name}, median latency, ms", middle, 400.0, at_most=True)
        for name, (_, middle) in measured.items()
    ]
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
