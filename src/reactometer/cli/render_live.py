"""Live scores on the terminal: bars that are redrawn, or one line per second if the output is no terminal."""

from __future__ import annotations

import time
from typing import Self

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reactometer.cli.render import results
from reactometer.live.session import LiveStats, Told
from reactometer.terminal import messages

BAR = 30
"""Characters of a bar from 0 to 1."""

LINE_S = 1.0


class LiveScreen:
    """Shows each score; a context manager."""

    def __init__(self, labels: tuple[str, ...], title: str) -> None:
        self.labels, self.title = labels, title
        self._live = Live(console=results, auto_refresh=False, transient=True) if results.is_terminal else None
        self._last_s = 0.0

    def show(self, told: Told, stats: LiveStats) -> None:
        """Show a score, and the rate and latency of all."""
        if self._live is not None:
            self._live.update(self._picture(told, stats), refresh=True)
        elif (now_s := time.monotonic()) - self._last_s >= LINE_S:
            self._last_s = now_s
            results.print(self._line(told, stats))
            results.file.flush()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _picture(self, told: Told, stats: LiveStats) -> Group:
        score = told.score
        table = Table.grid(padding=(0, 1))
        for place, label in enumerate(self.labels):
            value = score.intensities[place] if score.intensities else None
            ends = score.intervals[place] if score.intervals else None
            numbers = "–" if value is None else f"{value:.2f}" + (f"  {ends[0]:.2f}–{ends[1]:.2f}" if ends else "")
            table.add_row(escape(label), _bar(value), numbers)
        face = "not seen" if score.face is None else "seen"
        table.add_row("face", f"{face}, in {score.face_share:.0%} of the window's frames")
        table.add_row("voice", "–" if score.level_db is None else f"{score.level_db:.0f} dB")
        title = Text(f"{self.title}  {score.end_s:.1f} s", style="bold")
        doubts = Text(f"do not use: {score.abstain}" if score.abstain else "", style="yellow")
        return Group(title, table, Text(_speed(stats)), doubts)

    def _line(self, told: Told, stats: LiveStats) -> str:
        score = told.score
        values = zip(self.labels, score.intensities or (), strict=False)
        named = " ".join(f"{escape(label)} {value:.2f}" for label, value in values) or escape(score.abstain or "")
        level = "–" if score.level_db is None else f"{score.level_db:.0f}"
        return f"{score.end_s:.1f} s: {named}; face {score.face_share:.0%}, voice {level} dB; {_speed(stats)}"


def print_summary(stats: LiveStats, problem: str) -> None:
    """Print number, rate and latency of the scores, and the problem that ended the source, if any."""
    if stats.scores:
        median, high = 1000 * np.percentile(stats.latencies_s, (50, 95))
        latency = f"latency {median:.0f} ms (95%: {high:.0f} ms)"
        results.print(f"{stats.scores} scores, {stats.rate_hz:.1f} per second; {latency}; dropped {stats.dropped}")
    else:
        messages.print("no score: no frame and no sound came")
    if problem:
        messages.print(f"the source ended early: {escape(problem)}", style="yellow")


def _speed(stats: LiveStats) -> str:
    return f"{stats.rate_hz:.1f} Hz, {1000 * stats.latencies_s[-1]:.0f} ms, dropped {stats.dropped}"


def _bar(value: float | None) -> Text:
    bar = Text("█" * round(BAR * (value or 0.0)), style="cyan")
    bar.append("·" * (BAR - len(bar)), style="dim")
    return bar
