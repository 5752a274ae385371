"""The command that scores a camera, a microphone, a stream or a file as it plays: parse, call, print."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reactometer import printing
from reactometer.cli_evaluate import DeviceOption, EngineOption, StarterOption
from reactometer.console import OK, SOME_FAILED, wait_patiently
from reactometer.errors import ConfigError
from reactometer.paths import STARTER

if TYPE_CHECKING:
    from reactometer.inference.inbox import Inbox
    from reactometer.inference.live_session import Told
    from reactometer.media.live_source import LiveSource
    from reactometer.models.folder import LoadedModel
    from reactometer.serving.live_client import RemoteScorer


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
    window: Annotated[float, typer.Option(help="Seconds that each score is of, up to now.")] = 2.0,
    rate: Annotated[float | None, typer.Option(help="Frames looked at per second; default: 10 or more.")] = None,
    out: Annotated[Path | None, typer.Option(help="Rows as they come: .csv or .jsonl.")] = None,
    seconds: Annotated[float | None, typer.Option("--for", min=0.0, help="End after so many seconds.")] = None,
    server: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Let a server score: ws://HOST:PORT of 'reactometer serve'.")
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="REACTOMETER_KEY", help="Key of that server.")] = None,
    privacy: Annotated[
        bool, typer.Option("--privacy", help="Send it features alone, made here; no picture and no sound.")
    ] = False,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
) -> None:
    """Estimate intensities of the last seconds, several times a second, until Ctrl-C. Nothing is recorded."""
    wait_patiently()
    from reactometer.inference.inbox import Inbox
    from reactometer.inference.live import LiveScorer, check_window
    from reactometer.inference.live_session import score_here
    from reactometer.media.live_source import LiveSource
    from reactometer.models.folder import load_model

    if privacy and not server:
        raise ConfigError("--privacy goes only with --server", fix="Without a server, nothing leaves this machine")
    if rate is not None and not 0.0 < rate <= 120.0:
        raise ConfigError("frames cannot be looked at so often", got=f"{rate} Hz", expected="up to 120")
    check_window(window)
    with ExitStack() as stack:
        if server:
            own = load_model(model or STARTER, device, engine) if privacy else None
            remote = _connect(server, key, window, own)
            stack.callback(remote.close)
            labels, inbox = remote.labels, Inbox(rate or remote.rate_hz)
            scores = remote.scores(inbox)
        else:
            scorer = LiveScorer(load_model(model or STARTER, device, engine), window, rate)
            labels, inbox = scorer.model.labels, Inbox(scorer.rate_hz)
            scorer.warm_up()
            scores = score_here(scorer, inbox)
        opened = LiveSource(source, sound)
        stack.callback(opened.stop)
        _run(opened, inbox, scores, labels, out, seconds)
    if model is None and (privacy or not server):
        printing.print_starter()
    raise typer.Exit(SOME_FAILED if opened.problem else OK)


def _run(
    source: LiveSource,
    inbox: Inbox,
    scores: Iterator[Told],
    labels: tuple[str, ...],
    out: Path | None,
    seconds: float | None,
) -> None:
    from reactometer import printing_live
    from reactometer.inference.live_rows import LiveRows
    from reactometer.inference.live_session import LiveStats

    stats = LiveStats()
    with ExitStack() as stack:
        rows = stack.enter_context(LiveRows(out, labels)) if out else None
        screen = stack.enter_context(printing_live.LiveScreen(labels, source.name))
        source.start(inbox.put, inbox.close)
        if seconds is not None:
            timer = threading.Timer(seconds, inbox.close)
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        try:
            for told in scores:
                stats.add(told)
                if rows is not None:
                    rows.add(told.score, told.latency_s, told.dropped)
                screen.show(told, stats)
        except KeyboardInterrupt:
            pass
    printing_live.print_summary(stats)
    if source.problem:
        printing_live.print_broken_off(source.problem)


def _connect(server: str, key: str | None, window_s: float, model: LoadedModel | None) -> RemoteScorer:
    from reactometer.inference.live_features import FeatureMaker

    try:
        from reactometer.serving.live_client import RemoteScorer
    except ImportError as error:
        raise ConfigError("--server needs a package", got=error.name, fix="pip install 'reactometer[serve]'") from error
    maker = FeatureMaker(model, window_s) if model is not None else None
    return RemoteScorer(server, key, window_s, maker)
