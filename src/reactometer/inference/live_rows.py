"""Live scores -> a CSV or JSONL file that has each row as soon as it is there."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, Self

from reactometer.errors import OutputError
from reactometer.inference.formats import intensities_as_json
from reactometer.io import make_folder, unwritable
from reactometer.live.scorer import LiveScore
from reactometer.records import ENDS

ENDINGS = (".csv", ".jsonl")


class LiveRows:
    """A file with a row a score, flushed at once; a context manager.

    Args:
        path: ``.csv``, with columns ``LABEL``, ``LABEL_low`` …; or ``.jsonl``, with the objects of the protocol.
        labels: L names.

    Raises:
        OutputError: another ending, or a place that cannot be written.
    """

    def __init__(self, path: Path, labels: tuple[str, ...]) -> None:
        self.path, self.labels = path, labels
        if path.suffix not in ENDINGS:
            raise OutputError(f"{path}: cannot be written live", expected=" or ".join(ENDINGS))
        make_folder(path.parent)
        try:
            self.file = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise unwritable(path, error) from error
        self.writer: csv.DictWriter[str] | None = None

    def add(self, score: LiveScore, latency_s: float | None, dropped: int) -> None:
        """Write a score, the time it took (None: no new frame in it), and the number of frames dropped so far."""
        latency_ms = None if latency_s is None else round(1000 * latency_s, 1)
        if self.path.suffix == ".jsonl":
            row = {**score_as_json(score, self.labels), "latency_ms": latency_ms, "dropped": dropped}
            self.file.write(json.dumps(row) + "\n")
        else:
            row = {**_flat(score, self.labels), "latency_ms": latency_ms, "dropped": dropped}
            if self.writer is None:
                self.writer = csv.DictWriter(self.file, list(row))
                self.writer.writeheader()
            self.writer.writerow(row)
        self.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def score_as_json(score: LiveScore, labels: tuple[str, ...]) -> dict[str, Any]:
    """What the protocol says of a score (docs/live.md), without its type and ``dropped``."""
    return {
        "time_s": score.time_s,
        "start_s": round(score.start_s, 3),
        "end_s": round(score.end_s, 3),
        "intensities": intensities_as_json(labels, score.intensities, score.intervals),
        "frame_s": score.frame_s,
        "face": None if score.face is None else [round(value, 1) for value in score.face],
        "face_share": round(score.face_share, 3),
        "level_db": None if score.level_db is None else round(score.level_db, 1),
        "abstain": score.abstain,
    }


def _flat(score: LiveScore, labels: tuple[str, ...]) -> dict[str, object]:
    said = score_as_json(score, labels)
    own = said.pop("intensities") or {}
    said["face"] = "" if score.face is None else " ".join(str(round(value)) for value in score.face)
    columns = {label: own.get(label, {}).get("value") for label in labels}
    columns |= {f"{label}_{end}": own.get(label, {}).get(end) for label in labels for end in ENDS}
    return {**said, **columns}
