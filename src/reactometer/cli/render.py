"""Print results on the terminal, and redraw live scores."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reactometer.paths import STARTER
from reactometer.terminal import is_first_process, messages

if TYPE_CHECKING:
    from reactometer.batch.run import RunResult
    from reactometer.cli.demo import DemoResult
    from reactometer.data.cache import PreparedSet
    from reactometer.evaluation.bootstrap import Interval
    from reactometer.evaluation.coverage import Coverage
    from reactometer.evaluation.evaluate import Evaluation
    from reactometer.inference.checkpoint import LoadedModel
    from reactometer.live.protocol import LiveScore
    from reactometer.live.session import LiveStats
    from reactometer.serving.routes import Service
    from reactometer.training.compare import Comparison
    from reactometer.types import Prediction

results = Console(highlight=False, soft_wrap=True)
"""Standard output: results; everything else goes to standard error."""

FEW_UNITS = 20
"""So few people, stimuli or clips give an interval that is too narrow (by simulation: docs/results.md)."""

MOST_NAMES = 20
"""Names listed per kind of trouble before the rest is counted; the manifest has them all."""


def print_prepared(prepared: PreparedSet) -> None:
    """Say how many clips are ready and, by name, which have no face, no sound, or could not be read."""
    from reactometer.data.splits import SPLITS

    ready = [row for row in prepared.rows if row.file]
    counts = ", ".join(f"{name} {len(prepared.split(name))}" for name in SPLITS if prepared.split(name))
    results.print(f"{len(ready)} of {len(prepared.rows)} clips ready in {escape(str(prepared.folder))} ({counts})")
    if prepared.labels:
        results.print(f"labels: {escape(', '.join(prepared.labels))}")
    share = sum(row.n_faces for row in ready) / max(1, sum(row.n_samples for row in ready))
    results.print(f"detector: {prepared.settings.detector}; face in {share:.1%} of the sampled frames")
    unreadable = [row for row in ready if row.n_unreadable]
    print_names("without a face", [row.clip.clip_id for row in prepared.rows if row.file and not row.n_faces])
    print_names("without sound", [row.clip.clip_id for row in prepared.rows if row.file and not row.has_sound])
    print_names("with unreadable frames", [f"{row.clip.clip_id} ({row.n_unreadable})" for row in unreadable])
    _print_failed([f"{row.clip.clip_id}: {row.clip.problem}" for row in prepared.failed])


def print_trained(folder: Path) -> None:
    """Say where the model is and what to do with it."""
    if not is_first_process():
        return
    results.print(f"model: {escape(str(folder))}")
    results.print(f"next: reactometer evaluate --model {escape(str(folder))} DATA")


def print_comparison(comparison: Comparison) -> None:
    """Print the short form of the table, and where the long one is."""
    table = Table("system", comparison.split, "95% interval", "over clip length")
    table.columns[0].no_wrap = True
    for row in comparison.rows:
        table.add_row(
            row.name,
            shown(row.median),
            f"{row.interval.low:.3f} to {row.interval.high:.3f}",
            f"{row.over_length.low:+.3f} to {row.over_length.high:+.3f}",
        )
    table.add_section()
    table.add_row("clip length alone", shown(comparison.length_baseline.mean_pearson), "", "")
    results.print(table)
    results.print(f"mean Pearson, median of {comparison.n_seeds} seeds")
    for ending in ("md", "csv"):
        results.print(escape(str(comparison.folder / f"comparison.{ending}")))


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the table of scores and how the clips were counted."""
    from reactometer.evaluation.metrics import KINDS

    metrics, intervals, reliability = evaluation.metrics, evaluation.intervals, evaluation.reliability
    names = ["emotion", *KINDS.values(), *(["slope"] if reliability else [])]
    table = Table(*names, title=f"{evaluation.split}: {metrics.n_clips} clips", title_justify="left")
    for place, label in enumerate(metrics.labels):
        ends = [intervals.by_label[kind][place] if intervals else None for kind in KINDS]
        own = [values[place] for values in metrics.by_kind.values()]
        slope = reliability.by_label[place].slope if reliability else None
        last = [f"{slope.value:.2f}" if slope else "undefined"] if reliability else []
        table.add_row(label, *map(with_interval, own, ends, repeat(3)), *last)
    table.add_section()
    ends = [intervals.mean[kind] if intervals else None for kind in KINDS]
    table.add_row("mean", *map(with_interval, metrics.means.values(), ends, repeat(3)), style="bold")
    results.print(table)
    if intervals:
        units = f"{intervals.n_resamples} resamples by {intervals.unit} ({intervals.n_units} of them)"
        few = ": so few make it too narrow" if intervals.n_units <= FEW_UNITS else ""
        results.print(escape(f"[95 % interval]: {units}{few}; slope: of truth on prediction, 1 where calibrated"))
    if evaluation.coverage:
        _print_coverage(evaluation.coverage)
    if evaluation.person_norm:
        results.print(f"per person: {evaluation.person_norm}")
    if evaluation.n_without_labels:
        results.print(f"{evaluation.n_without_labels} clips without labels: predicted, not scored")
    print_names("answered with the training mean (nothing seen or heard)", evaluation.without_evidence)
    _print_failed(evaluation.failed)


def _print_coverage(coverage: Coverage) -> None:
    own, by_label, by_width = coverage.mean, coverage.by_label.values(), coverage.widths.values()
    widths = f"{min(by_width):.2f} to {max(by_width):.2f} wide"
    results.print(
        f"{coverage.asked:.0%} intervals of the predictions ({widths}) hold {own.value:.1%} of the labels "
        f"({own.low:.1%} to {own.high:.1%}; by label {min(by_label):.0%} to {max(by_label):.0%})"
        f"{', but were fitted to these very clips' if coverage.fitted_here else ''}"
    )
    if coverage.abstained:
        kept = f"mean Pearson {shown(coverage.mean_pearson_kept)} over the other clips"
        results.print(f"better not used: {len(coverage.abstained)} clips; {kept}")


def print_device(model: LoadedModel) -> None:
    """Say what runs the model, unless it is the CPU in single precision."""
    if (model.device, model.precision) != ("cpu", "float32"):
        messages.print(f"device: {model.device}, {model.precision}")


def print_written(paths: Iterable[Path]) -> None:
    """Name each file when it is written."""
    for path in paths:
        messages.print(f"wrote {escape(str(path))}")


def print_predictions(predictions: Sequence[Prediction]) -> None:
    """Print every emotion of a single file, or of each file the strongest ones; trouble goes to standard error."""
    read = [prediction for prediction in predictions if not prediction.failed]
    if len(predictions) == 1 and read:
        _print_bars(read[0])
    elif read:
        table = Table("file", "what was read", "strongest")
        for prediction in read:
            table.add_row(escape(_named(prediction)), _what_was_read(prediction), _strongest(prediction))
        results.print(table)
    for line in dict.fromkeys(line for prediction in read for line in _notes(prediction)):
        messages.print(f"note: {escape(line)}", style="yellow")
    _print_failed([prediction.status.removeprefix("failed: ") for prediction in predictions if prediction.failed])


def print_run(result: RunResult) -> None:
    """Print what a run came to: how many results there are, where they lie, and what failed."""
    from reactometer.batch.result_store import FAILED_FILE

    n_done = result.n_files - len(result.failures)
    computed = f"{result.n_computed} computed now, {result.n_before} there before"
    results.print(f"{n_done} of {result.n_files} files have a result ({computed}) in {escape(result.folder)}:")
    if n_done:
        results.print("  index.parquet: one row per file; timeline/: one row per window (for pandas.read_parquet)")
    _print_failed([f"{path}: {reason}" for path, reason in result.failures.items()])
    if result.failures:
        messages.print(f"{FAILED_FILE} there lists the failed files; --retry-failed predicts them again")


def print_starter() -> None:
    """Say which model predicted where none was named, and where it says what it can and cannot do."""
    messages.print(
        f"note: by the starter model, made on composites of faces and voices, not on people's reactions; "
        f"read {escape(str(STARTER / 'README.md'))} before you use its numbers, or name your own with --model",
        style="yellow",
    )


def print_demo(result: DemoResult) -> None:
    """Print the demo's story: the score, the baselines beside it, and where everything is."""
    print_evaluation(result.evaluation)
    table = Table("mean Pearson on people never seen", "", title_justify="left")
    table.add_row("face and voice", shown(result.evaluation.metrics.mean_pearson), style="bold")
    for name, mean_pearson in result.beside.items():
        table.add_row(name, shown(mean_pearson))
    results.print(table)
    for name, path in result.files.items():
        results.print(f"{name}: {escape(str(path))}")
    results.print(f"done in {result.seconds:.0f} s")


def shown(value: float | None, decimals: int = 4) -> str:
    """So many decimals, or "undefined"."""
    return "undefined" if value is None else f"{value:.{decimals}f}"


def with_interval(value: float | None, interval: Interval | None, decimals: int = 4) -> str:
    """ "0.8930 [.852 .921]"; an end has a decimal less, but at least two."""
    if interval is None:
        return shown(value, decimals)
    ends = [f"{end:.{max(2, decimals - 1)}f}" for end in (interval.low, interval.high)]
    low, high = (re.sub("^(-?)0", r"\1", end) for end in ends)
    return escape(f"{shown(value, decimals)} [{low} {high}]")


def _print_bars(prediction: Prediction, width: int = 40) -> None:
    results.print(f"{escape(_named(prediction))}: {_what_was_read(prediction)}")
    longest = max(len(label) for label in prediction.labels)
    for place, value in enumerate(prediction.intensities or ()):
        ends = "  {:.2f} to {:.2f}".format(*prediction.intervals[place]) if prediction.intervals else ""
        bar = "█" * round(value * width)
        results.print(escape(f"  {prediction.labels[place]:{longest}} {bar:{width}} {value:.2f}{ends}"))
    if prediction.intervals and prediction.coverage:
        results.print(f"  (to the right: {prediction.coverage:.0%} intervals)")


def _named(prediction: Prediction) -> str:
    name = Path(prediction.path).name
    return name if prediction.face is None else f"{name}, face {prediction.face}"


def _notes(prediction: Prediction) -> list[str]:
    """What there is to know of it; of a file's faces, a note on all of them is told once."""
    whose = "" if prediction.face is None else f"face {prediction.face}: "
    nothing = [f"{whose}{prediction.status}: no intensities"] if prediction.status != "ok" else []
    doubts = [f"{whose}better not used: {'; '.join(prediction.doubts)}"] if prediction.doubts else []
    return [f"{prediction.path}: {note}" for note in (*prediction.notes, *nothing, *doubts)]


def _what_was_read(prediction: Prediction) -> str:
    share = f"face in {prediction.face_share or 0.0:.0%} of {len(prediction.samples)} looked at"
    sound = "sound" if prediction.has_sound else "no sound"
    return f"{prediction.duration_s or 0.0:.2f} s, {prediction.frames_read} frames, {share}, {sound}"


def _strongest(prediction: Prediction, most: int = 3) -> str:
    pairs = zip(prediction.intensities or (), prediction.labels, strict=False)
    return escape(", ".join(f"{label} {value:.2f}" for value, label in sorted(pairs, reverse=True)[:most])) or "–"


def print_names(what: str, names: Sequence[str]) -> None:
    """So many, the first of them by name; nothing where there are none."""
    if names:
        rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        results.print(f"{len(names)} {what}: {escape(', '.join(names[:MOST_NAMES]))}{rest}")


def _print_failed(lines: Sequence[str]) -> None:
    """Name the first of what failed."""
    if lines:
        messages.print(f"{len(lines)} failed:", style="red")
    for line in lines[:MOST_NAMES]:
        messages.print(f"  {escape(line)}", style="red")
    if len(lines) > MOST_NAMES:
        messages.print(f"  and {len(lines) - MOST_NAMES} more", style="red")


def print_serving(service: Service, address: str) -> None:
    """Print the address, the model and who may use the service, on standard error."""
    model, settings = service.desk.model, service.desk.settings
    which = "the starter model" if service.folder == STARTER else str(service.folder)
    prepare = model.config.prepare
    messages.print(f"[bold]{address}[/bold]  the page; Ctrl-C ends the service", highlight=False)
    told = f"{which}: {', '.join(model.labels)}; {model.device}, faces by {prepare.detector}"
    messages.print(escape(told), highlight=False)
    if settings.keys:
        messages.print(f"let in: {len(settings.keys)} clients by key", highlight=False)
    elif not any(own in address for own in ("//127.", "//localhost", "//[::1]")):
        messages.print("[yellow]Everybody who reaches this address is let in: name --keys FILE.[/yellow]")


BAR = 30
"""Characters of a bar from 0 to 1."""

LINE_S = 1.0


class LiveScreen:
    """Shows each score; a context manager."""

    def __init__(self, labels: tuple[str, ...], title: str) -> None:
        self.labels, self.title = labels, title
        self._live = Live(console=results, auto_refresh=False, transient=True) if results.is_terminal else None
        self._last_s = 0.0

    def show(self, score: LiveScore, stats: LiveStats) -> None:
        """Show a score, and the rate and latency of all."""
        if self._live is not None:
            self._live.update(self._picture(score, stats), refresh=True)
        elif (now_s := time.monotonic()) - self._last_s >= LINE_S:
            self._last_s = now_s
            results.print(self._line(score, stats))
            results.file.flush()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _picture(self, score: LiveScore, stats: LiveStats) -> Group:
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

    def _line(self, score: LiveScore, stats: LiveStats) -> str:
        values = zip(self.labels, score.intensities or (), strict=False)
        named = " ".join(f"{escape(label)} {value:.2f}" for label, value in values) or escape(score.abstain or "")
        level = "–" if score.level_db is None else f"{score.level_db:.0f}"
        return f"{score.end_s:.1f} s: {named}; face {score.face_share:.0%}, voice {level} dB; {_speed(stats)}"


def print_summary(stats: LiveStats, problem: str) -> None:
    """Print number, rate and latency of the scores, and the problem that ended the source, if any."""
    if stats.scores:
        import numpy as np

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
