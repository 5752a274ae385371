"""Print results on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from reactometer.paths import find_starter
from reactometer.terminal import is_first_process, messages

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from reactometer.batch.run import RunResult
    from reactometer.data.cache import PreparedSet
    from reactometer.inference.checkpoint import LoadedModel
    from reactometer.inference.prediction import Prediction
    from reactometer.live.protocol import LiveScore
    from reactometer.serving.routes import Service
    from reactometer.training.compare import Comparison


results = Console(markup=False, highlight=False, soft_wrap=True)
"""Standard output: results; everything else goes to standard error."""

MAX_NAMES = 20
"""Maximum number of names per list; the manifest has all."""

MAX_NOTE_NAMES = 3
"""Maximum number of files named beside a note."""

MIN_SECOND = 0.1
"""Minimum intensity of the second emotion in a list of files."""

SPARKS, SPARK_WIDTH = "▁▂▃▄▅▆▇█", 20
"""Characters of a timeline by intensity, and its maximum width."""

BAR_WIDTH = 40
"""Width of a bar for intensity 1, characters."""


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print rows of text below a header."""
    table = Table(*header, title=title, title_justify="left", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    results.print(table)


def print_json(content: object) -> None:
    """Print a result as JSON, with ``--json``; it replaces what the other functions print."""
    if results.quiet:
        from pydantic_core import to_json

        typer.echo(to_json(content, indent=2, inf_nan_mode="null", fallback=lambda value: value.tolist()))


def print_prepared(prepared: PreparedSet) -> None:
    """Print how many clips are ready and, by name, which have no face, no sound, or could not be read."""
    from reactometer.data.splits import SPLITS

    ready = [row for row in prepared.rows if row.file]
    sizes = {name: len(prepared.split(name)) for name in SPLITS if prepared.split(name)}
    share = sum(row.n_faces for row in ready) / max(1, sum(row.n_samples for row in ready))
    without_face = [row.clip.clip_id for row in ready if not row.n_faces]
    without_sound = [row.clip.clip_id for row in ready if not row.has_sound]
    failed = {row.clip.clip_id: row.clip.problem for row in prepared.failed}
    print_json(
        {
            "folder": prepared.folder,
            "n_clips": len(prepared.rows),
            "n_ready": len(ready),
            "splits": sizes,
            "labels": prepared.labels,
            "detector": prepared.settings.detector,
            "face_share": share,
            "without_face": without_face,
            "without_sound": without_sound,
            "failed": failed,
        }
    )
    counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
    results.print(f"{len(ready)} of {len(prepared.rows)} clips ready in {prepared.folder} ({counts})")
    if prepared.labels:
        results.print(f"labels: {', '.join(prepared.labels)}")
    results.print(f"detector: {prepared.settings.detector}; face in {share:.1%} of the sampled frames")
    print_names("without a face", without_face)
    print_names("without sound", without_sound)
    unreadable = [f"{row.clip.clip_id} ({row.n_unreadable})" for row in ready if row.n_unreadable]
    print_names("with unreadable frames", unreadable)
    print_failed([f"{clip_id}: {problem}" for clip_id, problem in failed.items()])


def print_trained(folder: Path, data: Path | str | None = None) -> None:
    """Print the path of the model and the next command; ``data`` is the dataset of the training."""
    if is_first_process():
        print_json({"model": folder})
        results.print(f"model: {folder}")
        results.print(f"next: reactometer evaluate {data or 'DATA'} -m {folder}")


def print_comparison(comparison: Comparison) -> None:
    """Print a short table, and the paths of the full one."""
    from reactometer.training.compare import summarise

    table = summarise(comparison)[["configuration", "r", "95% interval", "over clip length"]]
    print_table(list(table.columns), table.to_numpy())
    n_seeds = len(comparison.rows[0].metrics)
    results.print(f"r: mean Pearson on {comparison.split}, median of {n_seeds} seeds")
    for suffix in ("md", "csv"):
        results.print(f"{comparison.folder / 'comparison'}.{suffix}")


def print_device(model: LoadedModel) -> None:
    """Print the device that runs the model, unless it is the CPU in single precision."""
    if (model.device, model.precision) != ("cpu", "float32"):
        messages.print(f"device: {model.device}, {model.precision}")


def print_written(paths: Iterable[Path]) -> None:
    """Print the path of each written file."""
    for path in paths:
        messages.print(f"wrote {path}")


def print_predictions(predictions: Sequence[Prediction], out: Path | None = None) -> None:
    """Print all emotions of a single prediction, or the strongest of each; ``out`` is the table with all of
    them. Notes and failures go to standard error."""
    read = [prediction for prediction in predictions if not prediction.failed]
    if len(predictions) == 1 and read:
        _print_prediction(read[0])
    elif read:
        rows = [
            (_name(one), f"{one.duration_s or 0.0:.1f} s", f"{one.face_share or 0.0:.0%}", _strongest(one))
            for one in read[:MAX_NAMES]
        ]
        print_table(("file", "length", "face", "strongest moments"), rows)
        if len(read) > MAX_NAMES:
            rest = f"in {out}" if out else "with -o table.csv"
            results.print(f"and {len(read) - MAX_NAMES} more {rest}")
    _print_notes(read)
    print_failed(
        [prediction.status.removeprefix("failed: ") for prediction in predictions if prediction.failed]
    )


def _print_prediction(prediction: Prediction) -> None:
    """Print one row per emotion: value, interval, timeline, and peak, which sorts the rows."""
    results.print(f"{_name(prediction)}: {_input_summary(prediction)}")
    if not prediction.intensities:
        return
    timeline = prediction.timeline.values.T  # (L, K)
    header, rows = ["emotion", "value"], []
    if prediction.intervals:
        header.append(f"{prediction.coverage:.0%} interval")
    if prediction.peaks:
        header += ["timeline", "peak"]
    for index in prediction.strongest:
        row = [prediction.labels[index], f"{prediction.intensities[index]:.2f}"]
        if prediction.intervals:
            row.append("{:.2f} to {:.2f}".format(*prediction.intervals[index]))
        if prediction.peaks:
            value, time_s = prediction.peaks[index]
            row += [sparkline(timeline[index]), f"{value:.2f} at {time_s:.1f} s"]
        rows.append(row)
    print_table(header, rows)


def sparkline(values: npt.NDArray[np.float64]) -> str:
    """Draw values (K,) in [0, 1] as at most ``SPARK_WIDTH`` characters, the maximum of each bin; NaN is a
    space."""
    import numpy as np

    bins = np.array_split(values, min(SPARK_WIDTH, len(values)))
    maxima = [max(part[~np.isnan(part)].tolist(), default=None) for part in bins]
    last = len(SPARKS) - 1
    return "".join(" " if value is None else SPARKS[min(last, int(value * len(SPARKS)))] for value in maxima)


def _print_notes(predictions: Sequence[Prediction]) -> None:
    """Print each note once, with the files that it is about."""
    files_by_note: dict[str, list[str]] = {}
    for prediction in predictions:
        reasons = [] if prediction.status == "ok" else [f"no intensities: {prediction.status}"]
        for note in (*prediction.notes, *reasons, *prediction.warnings):
            files_by_note.setdefault(note, []).append(_name(prediction))
    for note, names in files_by_note.items():
        rest = f" and {len(names) - MAX_NOTE_NAMES} more" if len(names) > MAX_NOTE_NAMES else ""
        files = f" ({', '.join(names[:MAX_NOTE_NAMES])}{rest})" if len(predictions) > 1 else ""
        messages.print(f"note: {note}{files}", style="yellow")


def print_run(result: RunResult) -> None:
    """Print the number of results, the files in their folder, and the failures."""
    from reactometer.batch.result_store import FAILED_FILE, JOURNAL, SAVED_FILE, SETTINGS_FILE

    print_json(result)
    if result.predictions:
        print_predictions(result.predictions)
    n_done = result.n_files - len(result.failures)
    computed = f"{result.n_computed} computed now, {result.n_before} earlier"
    results.print(f"{n_done} of {result.n_files} files have a result ({computed}) in {result.folder}:")
    hidden = [JOURNAL, SAVED_FILE, SETTINGS_FILE, *([] if result.failures else [FAILED_FILE])]
    entries = [entry for entry in sorted(Path(result.folder).iterdir()) if not entry.name.startswith(".")]
    names = [
        f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries if entry.name not in hidden
    ]
    results.print(f"  {', '.join(names)}")
    print_failed([f"{path}: {reason}" for path, reason in result.failures.items()])
    if result.failures:
        messages.print(f"{FAILED_FILE} there lists unreadable files; --retry-failed predicts them again")


def print_starter(folder: Path) -> None:
    """Print a warning if the model is the starter."""
    if folder == find_starter():
        messages.print(
            "note: the starter model was trained on composites of faces and voices, not on people's "
            "reactions; "
            f"read {folder / 'README.md'} before you use its scores, or choose another model with -m",
            style="yellow",
        )


def print_names(description: str, names: Sequence[str]) -> None:
    """Print the number of clips and the first names; nothing if there are none."""
    if names:
        rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        results.print(f"{len(names)} {description}: {', '.join(names[:MAX_NAMES])}{rest}")


def print_failed(lines: Sequence[str]) -> None:
    """Print the number of failures, and the first ones, on standard error."""
    if lines:
        rest = [f"and {len(lines) - MAX_NAMES} more"] if len(lines) > MAX_NAMES else []
        quiet, messages.quiet = messages.quiet, False
        messages.print("\n  ".join([f"{len(lines)} failed:", *lines[:MAX_NAMES], *rest]), style="red")
        messages.quiet = quiet


def print_serving(service: Service, address: str) -> None:
    """Print the address, the model and the access rule on standard error."""
    model, settings = service.queue.model, service.queue.settings
    name = "the starter model" if service.folder == find_starter() else str(service.folder)
    messages.print(f"{address}  web page and API; Ctrl-C stops the service", style="bold")
    detector = model.config.prepare.detector
    messages.print(f"{name}: {', '.join(model.labels)}; {model.device}, faces by {detector}")
    if settings.keys:
        messages.print(f"{len(settings.keys)} clients have a key")
    elif not any(prefix in address for prefix in ("//127.", "//localhost", "//[::1]")):
        messages.print(
            "warning: anyone who can reach this address has access. hint: add --keys FILE", style="yellow"
        )


def format_live(labels: Sequence[str], title: str, score: LiveScore, rate_hz: float) -> str:
    """Format a live score: bars, face, voice, rate and warnings."""
    face = "not seen" if score.face is None else "seen"
    voice = "–" if score.level_db is None else f"{score.level_db:.0f} dB"
    return "\n".join(
        [
            f"{title}  {score.end_s:.1f} s",
            *format_bars(labels, score.intensities),
            f"face {face}, in {score.face_share:.0%} of the window's frames; voice {voice}",
            f"{rate_hz:.1f} Hz, {1000 * score.latency_s:.0f} ms, dropped {score.dropped}",
            *([f"warning: {score.warnings}"] if score.warnings else []),
        ]
    )


def print_summary(latencies_s: Sequence[float], rate_hz: float, dropped: int, problem: str) -> None:
    """Print number, rate and latency of the scores, and the problem that ended the source, if any."""
    if latencies_s:
        import numpy as np

        median, high = 1000 * np.percentile(latencies_s, (50, 95))
        latency = f"latency {median:.0f} ms (95%: {high:.0f} ms)"
        results.print(f"{len(latencies_s)} scores, {rate_hz:.1f} per second; {latency}; dropped {dropped}")
    else:
        messages.print("no score: the source had no frame and no sound")
    if problem:
        messages.print(f"the source ended early: {problem}", style="yellow")


def format_bars(labels: Sequence[str], intensities: Sequence[float] | None) -> list[str]:
    """Format one line per emotion: name, bar, intensity."""
    label_width, lines = max(len(label) for label in labels), []
    for index, label in enumerate(labels):
        value = intensities[index] if intensities else None
        number = "–" if value is None else f"{value:.2f}"
        lines.append(
            f"  {label:{label_width}} {'█' * round(BAR_WIDTH * (value or 0.0)):{BAR_WIDTH}} {number}"
        )
    return lines


def _name(prediction: Prediction) -> str:
    name = Path(prediction.path).name
    return name if prediction.face is None else f"{name}, face {prediction.face}"


def _input_summary(prediction: Prediction) -> str:
    share = f"face in {prediction.face_share or 0.0:.0%} of {len(prediction.samples)} sampled frames"
    sound = "sound" if prediction.has_sound else "no sound"
    return f"{prediction.duration_s or 0.0:.2f} s, {prediction.frames_read} frames, {share}, {sound}"


def _strongest(prediction: Prediction) -> str:
    labels, peaks = prediction.labels, prediction.peaks
    moments = [(labels[index], *peaks[index]) for index in prediction.strongest[:2]] if peaks else []
    moments = [moment for rank, moment in enumerate(moments) if not rank or moment[1] >= MIN_SECOND]
    return ", ".join(f"{label} {value:.2f} ({time_s:.1f} s)" for label, value, time_s in moments) or "–"
