"""The command that scores a camera, a microphone, a stream or a file as it plays: parse, call, print."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated

import typer

from reactometer import printing
from reactometer.cli_evaluate import DeviceOption, EngineOption, StarterOption
from reactometer.console import OK, SOME_FAILED, wait_patiently
from reactometer.errors import ConfigError
from reactometer.paths import STARTER


def live(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="Camera (0, /dev/video0), stream (rtsp://, http://) or file, played."),
    ],
    model: StarterOption = None,
    sound: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="Microphone, such as default or hw:1; else the source's."),
    ] = None,
    window: Annotated[float, typer.Option(help="Length in seconds of the window that each score covers.")] = 2.0,
    rate: Annotated[float | None, typer.Option(help="Frames scored per second. Default: at least 10.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write one row per score to this .csv or .jsonl file.")] = None,
    seconds: Annotated[float | None, typer.Option("--for", min=0.0, help="Stop after this many seconds.")] = None,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
) -> None:
    """Estimate intensities of the last seconds, several times a second, until Ctrl-C. Nothing is recorded."""
    wait_patiently()
    from reactometer import printing_live
    from reactometer.live.capture import LiveSource
    from reactometer.live.scorer import LiveScorer
    from reactometer.live.session import Inbox, LiveRows, LiveStats, score_here
    from reactometer.models.folder import load_model

    if rate is not None and not 0.0 < rate <= 120.0:
        raise ConfigError("the rate of frames is out of range", got=f"{rate} Hz", expected="above 0, up to 120 Hz")
    scorer = LiveScorer(load_model(model or STARTER, device, engine), window, rate)
    scorer.warm_up()
    labels, inbox, stats = scorer.model.labels, Inbox(scorer.rate_hz), LiveStats()
    opened = LiveSource(source, sound)
    with ExitStack() as stack:
        stack.callback(opened.stop)
        rows = stack.enter_context(LiveRows(out, labels)) if out else None
        screen = stack.enter_context(printing_live.LiveScreen(labels, opened.name))
        opened.start(inbox.put, inbox.close)
        if seconds is not None:
            timer = threading.Timer(seconds, inbox.close)
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        with suppress(KeyboardInterrupt):
            for timed in score_here(scorer, inbox):
                stats.add(timed)
                if rows is not None:
                    rows.add(timed)
                screen.show(timed, stats)
    printing_live.print_summary(stats, opened.problem)
    if model is None:
        printing.print_starter()
    raise typer.Exit(SOME_FAILED if opened.problem else OK)
