"""Store the results of a run in one folder: each result at once, and tables at the end.

``results/NNNNN.jsonl`` is a journal with one line per content, appended and synced to the disk. A process
that is killed leaves at most one incomplete last line, which the next run removes. All other files are
written atomically, the tables from the journal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import Field, TypeAdapter

from reactometer.data.files import InputFile
from reactometer.errors import OutputError
from reactometer.inference import tables
from reactometer.inference.prediction import Prediction
from reactometer.io import (
    PART,
    format_csv,
    format_json,
    make_folder,
    parse_json_object,
    wrap_decode_errors,
    wrap_write_errors,
    write_atomic,
)

SETTINGS_FILE = "run.json"
INDEX_FILE = "index.parquet"
FAILED_FILE = "failed.csv"
JOURNAL, TIMELINE, LOCK = "results", "timeline", ".lock"

JOURNAL_LINES = 1000
"""Results per file of the journal, and contents per file of the timeline."""

DAMAGED = "Delete the file and run the same command again to recompute its results"


@dataclass(frozen=True)
class JournalEntry:
    """One line of the journal: the predictions of one content, or one failed prediction."""

    sha256: str
    predictions: Annotated[Sequence[Prediction], Field(min_length=1)]


_LINE = TypeAdapter(JournalEntry)


class ResultStore:
    """Results folder of a run; see :func:`open_results`."""

    def __init__(self, folder: Path, *, all_faces: bool) -> None:
        self.folder = folder
        self.all_faces = all_faces  # tables have one row per face instead of one per file
        self.computed: set[str] = set()  # SHA-256 of contents that have a result
        self.failures: dict[str, str] = {}  # reason by SHA-256 of contents that failed
        self._n_lines = 0  # of the last file of the journal
        for leftover in folder.rglob(f"*{PART}"):
            leftover.unlink()
        for file in self._journal():
            _drop_incomplete_line(file)
            self._n_lines = 0
            for line in _read_journal(file):
                self._note(line)

    def append(self, sha256: str, predictions: Sequence[Prediction]) -> None:
        """Append one content's predictions or its failure, and sync them to the disk.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        journal = self._journal()
        if journal and self._n_lines < JOURNAL_LINES:
            file = journal[-1]
        else:
            number = int(journal[-1].stem) + 1 if journal else 0
            file = self.folder / JOURNAL / f"{number:05d}.jsonl"
            self._n_lines = 0
        line = JournalEntry(sha256, predictions)
        with wrap_write_errors(file), file.open("ab") as stream:
            stream.write(_LINE.dump_json(line) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._note(line)

    def write_tables(self, sources: Sequence[InputFile]) -> dict[str, str]:
        """Write the index, the timeline and the table of failures; return the failures, reason by path.

        Args:
            sources: files of this run. The timeline has all contents of the journal; the other tables only
                these files.
        """
        clips: dict[str, list[dict[str, Any]]] = {}  # rows of the index by SHA-256
        columns: list[str] = []
        for timeline in (self.folder / TIMELINE).glob("*.parquet"):
            timeline.unlink()
        for file in self._journal():
            lines = [line for line in _read_journal(file) if not line.predictions[0].failed]
            if not lines:
                continue
            first = lines[0].predictions[0]
            windows = [
                {"sha256": line.sha256, **row}
                for line in lines
                for row in tables.timeline_rows(line.predictions)
            ]
            timeline = self.folder / TIMELINE / f"{file.stem}.parquet"
            self._write(windows, [*tables.timeline_columns(first), "sha256"], timeline)
            columns = tables.clip_columns(first)
            clips |= {line.sha256: tables.clip_rows(line.predictions) for line in lines}
        if clips:
            first_paths = {source.sha256: source.path for source in reversed(sources)}
            rows: list[dict[str, Any]] = []
            for source in sources:
                original = first_paths[source.sha256]
                same_as = None if original == source.path else original
                identity = {"path": source.path, "same_as": same_as, "sha256": source.sha256}
                rows += [row | identity for row in clips.get(source.sha256, ())]
            self._write(rows, [*columns, "same_as", "sha256"], self.folder / INDEX_FILE)
        reasons = {source.path: source.problem or self.failures.get(source.sha256, "") for source in sources}
        reasons = {path: reason for path, reason in reasons.items() if reason}
        write_atomic(self.folder / FAILED_FILE, format_csv([("path", "reason"), *reasons.items()]))
        return reasons

    def _journal(self) -> list[Path]:
        return sorted((self.folder / JOURNAL).glob("*.jsonl"))

    def _note(self, line: JournalEntry) -> None:
        self._n_lines += 1
        first = line.predictions[0]
        if first.failed:
            self.failures[line.sha256] = first.status.removeprefix("failed: ")
        else:
            self.failures.pop(line.sha256, None)
            self.computed.add(line.sha256)

    def _write(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], file: Path) -> None:
        columns = tables.with_face(columns) if self.all_faces else columns
        tables.write_parquet(tables.to_arrow(rows, columns), file)


@contextmanager
def open_results(folder: Path, settings: Mapping[str, Any], *, all_faces: bool) -> Iterator[ResultStore]:
    """Open and lock the folder of a new run, or of a run with the same model, settings and version.

    Args:
        folder: created if missing.
        settings: everything that the results depend on, as JSON.
        all_faces: tables have one row per face instead of one per file.

    Raises:
        OutputError: the folder has other contents or other settings, another process uses it, or it cannot be
            written.
    """
    file = make_folder(folder) / SETTINGS_FILE
    if not file.is_file() and any(
        entry.name != LOCK and not entry.name.endswith(PART) for entry in folder.iterdir()
    ):
        raise OutputError(f"{folder}: contains files of no run", fix="Choose a new folder")
    try:
        with FileLock(folder / LOCK, timeout=0):
            if not file.is_file():
                write_atomic(file, format_json(settings))
            _check_settings(file, settings)
            for subfolder in (JOURNAL, TIMELINE):
                make_folder(folder / subfolder)
            yield ResultStore(folder, all_faces=all_faces)
    except Timeout as error:
        raise OutputError(
            f"{folder}: another process uses this folder", fix="Choose another folder"
        ) from error


def _check_settings(file: Path, settings: Mapping[str, Any]) -> None:
    with wrap_decode_errors(file, OutputError, "Choose another folder"):
        previous = parse_json_object(file.read_bytes())
    changed = [key for key in {**previous, **settings} if previous.get(key) != settings.get(key)]
    if changed:
        raise OutputError(
            f"{file.parent}: this results folder was created with a different model or different settings",
            got=", ".join(f"{key} {settings.get(key)}" for key in changed),
            expected=", ".join(f"{key} {previous.get(key)}" for key in changed),
            fix="Use the same model and settings, or choose another folder",
        )


def _drop_incomplete_line(file: Path) -> None:
    """Remove an incomplete last line, which a killed process or a full disk leaves."""
    content = file.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with file.open("r+b") as stream:
            stream.truncate(complete)


def _read_journal(file: Path) -> list[JournalEntry]:
    with wrap_decode_errors(file, OutputError, DAMAGED):
        return [_LINE.validate_json(line) for line in file.read_bytes().splitlines()]
