"""The commands serve and live."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from reactometer.cli import render
from reactometer.cli.options import DeviceOption, StarterOption, WorkersOption, out_option
from reactometer.errors import ConfigError
from reactometer.paths import STARTER, cache_folder
from reactometer.terminal import OK, SOME_FAILED

LIMITS = "Limits"
"""Panel of the options of serve that bound clips and clients."""

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


def serve(
    model: StarterOption = STARTER,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: all addresses of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free port.")] = 8000,
    jobs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of jobs and uploads; default: in the cache.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys, one line NAME KEY per client; default: no keys.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Allowed host name, behind a proxy; repeatable.")
    ] = None,
    workers: WorkersOption = None,
    queue: Annotated[
        int,
        typer.Option(
            min=1, help="Maximum number of queued clips; more are refused with 429.", rich_help_panel=LIMITS
        ),
    ] = 64,
    per_client: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of unfinished clips per client.", rich_help_panel=LIMITS),
    ] = 8,
    max_mb: Annotated[
        float, typer.Option(min=0.01, help="Maximum size of an upload, megabytes.", rich_help_panel=LIMITS)
    ] = 512,
    max_seconds: Annotated[
        float, typer.Option(min=1, help="Maximum length of a clip, seconds.", rich_help_panel=LIMITS)
    ] = 3600,
    upload_seconds: Annotated[
        float, typer.Option(min=1, help="Maximum time of an upload, seconds.", rich_help_panel=LIMITS)
    ] = 600,
    keep_hours: Annotated[
        float, typer.Option(min=0, help="Time until results are deleted, hours.", rich_help_panel=LIMITS)
    ] = 24,
    device: DeviceOption = "auto",
) -> None:
    """Serve a web page and an HTTP interface for predictions.

    The page is at http://127.0.0.1:8000; Ctrl-C stops the service. For TLS, put a proxy in front of it.
    """
    from reactometer.inference.checkpoint import load_model
    from reactometer.inference.predictor import Predictor
    from reactometer.serving.auth import read_keys
    from reactometer.serving.queue import MAX_PIXELS, Settings
    from reactometer.serving.server import run
    from reactometer.workers.media_worker import ResourceLimits

    settings = Settings(
        folder=jobs or cache_folder() / "serve",
        keys=read_keys(keys) if keys else {},
        hosts=_names(host, allow_host or []),
        readers=workers,
        body_bytes=round(max_mb * 1e6),
        upload_s=upload_seconds,
        bounds=ResourceLimits(duration_s=max_seconds, pixels=MAX_PIXELS),
        max_queued=queue,
        max_per_client=per_client,
        keep_s=3600 * keep_hours,
    )
    loaded = load_model(model, device)
    detector = Predictor(loaded).decode_spec.detector  # for all readers
    prepare = loaded.config.prepare.model_copy(update={"detector": detector})
    loaded = replace(loaded, config=loaded.config.model_copy(update={"prepare": prepare}))
    run(loaded, model, settings, host, port, render.print_serving)


def _names(host: str, names: list[str]) -> tuple[str, ...]:
    """Return the allowed host names; a service on a loopback address refuses all others.

    Raises:
        ConfigError: a name contains a ``*`` that is not a leading ``*.``.
    """
    for name in names:
        if name != "*" and "*" in name.removeprefix("*."):
            expected = "reactions.example.org, *.example.org or *"
            raise ConfigError("--allow-host is not a host name", got=name, expected=expected)
    loopback = LOOPBACK if host in LOOPBACK else ()
    return (*loopback, *names) if loopback or names else ("*",)


def live(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Camera (0, /dev/video0), rtsp:// stream, or file.")
    ],
    model: StarterOption = STARTER,
    sound: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Microphone, such as default or hw:1.")
    ] = None,
    window: Annotated[float, typer.Option(help="Length of the window of each score, seconds.")] = 2.0,
    fps: Annotated[
        float | None, typer.Option(min=0.1, max=120.0, help="Frames scored per second; default: at least 10.")
    ] = None,
    out: Annotated[Path | None, out_option("FILE", "CSV file with one row per score.")] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", min=0.0, help="Stop after this time, seconds.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Score a camera or stream in real time.

    Nothing is recorded. Ctrl-C stops it.
    """
    from reactometer.inference.checkpoint import load_model
    from reactometer.live.capture import LiveSource
    from reactometer.live.scorer import LiveScorer
    from reactometer.live.session import FrameQueue, live_rows, run_session

    scorer = LiveScorer(load_model(model, device), window, fps)
    scorer.warm_up()
    labels, queue = scorer.model.labels, FrameQueue(scorer.rate_hz)
    latencies_s, rate_hz, dropped = list[float](), 0.0, 0
    opened = LiveSource(source, sound)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        stack.callback(opened.stop)
        write_row = stack.enter_context(live_rows(out, labels)) if out else None
        screen = stack.enter_context(Live(console=render.results, auto_refresh=False))
        opened.start(queue.put, queue.close)
        begin_s = time.monotonic()
        if seconds is not None:
            timer = threading.Timer(seconds, queue.close)
            timer.start()
            stack.callback(timer.cancel)
        for score in run_session(scorer, queue):
            latencies_s.append(score.latency_s)
            rate_hz = len(latencies_s) / (time.monotonic() - begin_s)
            dropped = score.dropped
            if write_row is not None:
                write_row(score)
            screen.update(render.format_live(labels, opened.name, score, rate_hz), refresh=True)
    render.print_summary(latencies_s, rate_hz, dropped, opened.problem)
    render.print_starter(model)
    raise typer.Exit(SOME_FAILED if opened.problem else OK)
