"""Store the results of a run in one folder: each result at once, and tables at the end.

``journal/NNNNN.jsonl`` is a journal with one line per content, appended and synced to the disk. A process
that is killed leaves at most one incomplete last line, which the next run removes. All other files are
written atomically, the tables from the journal.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import Field, TypeAdapter

from reactometer.data.files import InputFile
from reactometer.errors import OutputError
from reactometer.inference import tables
from reactometer.inference.outputs import PER_VIDEO, TABLES
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
FAILED_FILE = "failed.csv"
SAVED_FILE = "saved.txt"
FILES_TABLE = "files"
JOURNAL, LOCK = "journal", ".lock"
FORMATS = ("csv", "parquet")

JOURNAL_LINES = 1000
"""Results per file of the journal, and contents per batch of a table."""

DAMAGED = "Delete the file and run the same command again to recompute its results"


@dataclass(frozen=True)
class JournalEntry:
    """One line of the journal: the predictions of one content, or one failed prediction."""

    sha256: str
    predictions: Annotated[Sequence[Prediction], Field(min_length=1)]


_ENTRY = TypeAdapter(JournalEntry)


class ResultStore:
    """Results folder of a run; see :func:`open_results`."""

    def __init__(self, folder: Path, *, all_faces: bool) -> None:
        self.folder = folder
        self.all_faces = all_faces  # tables have one row per face instead of one per file
        self.computed: dict[str, tuple[Path, int]] = {}  # file and offset of the result by SHA-256
        self.failures: dict[str, str] = {}  # reason by SHA-256 of contents that failed
        self._n_lines = 0  # of the last file of the journal
        for leftover in folder.rglob(f"*{PART}"):
            leftover.unlink()
        for file in self._journal():
            _drop_incomplete_line(file)
            self._n_lines = 0
            for offset, entry in _read_journal(file):
                self._note(entry, file, offset)

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
        entry = JournalEntry(sha256, predictions)
        with wrap_write_errors(file), file.open("ab") as stream:
            offset = stream.tell()
            stream.write(_ENTRY.dump_json(entry, exclude_defaults=True) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._note(entry, file, offset)

    def write_tables(
        self, sources: Sequence[InputFile], kinds: Sequence[str], threshold: float, ending: str
    ) -> dict[str, str]:
        """Write the tables; return the failures, reason by path.

        Args:
            sources: files of this run. The tables of windows, events and frames have all contents of the
                journal; the other tables only these files.
            kinds: names from :data:`~reactometer.inference.outputs.TABLES`.
            threshold: minimum intensity of an event.
            ending: "csv" or "parquet".
        """
        rows_of: dict[str, Callable[[Sequence[Prediction]], list[dict[str, Any]]]] = {
            "timeline": tables.timeline_rows,
            "events": lambda predictions: tables.event_rows(predictions, threshold),
            "frames": tables.frame_rows,
        }
        first = next((entry.predictions[0] for _, entry in self._entries()), None)
        if first is not None:
            columns_of = {
                "timeline": tables.timeline_columns(first),
                "events": tables.EVENT_COLUMNS,
                "frames": tables.FRAME_COLUMNS,
            }
            for kind in (kind for kind in rows_of if kind in kinds):
                batches = self._batches(rows_of[kind])
                self._write(batches, [*columns_of[kind], "sha256"], f"{kind}.{ending}")
            clips = {entry.sha256: tables.clip_rows(entry.predictions) for _, entry in self._entries()}
            first_paths = {source.sha256: source.path for source in reversed(sources)}
            rows: list[dict[str, Any]] = []
            for source in sources:
                original = first_paths[source.sha256]
                same_as = None if original == source.path else original
                identity = {"path": source.path, "same_as": same_as, "sha256": source.sha256}
                rows += [row | identity for row in clips.get(source.sha256, ())]
            columns = [*tables.clip_columns(first), "same_as", "sha256"]
            self._write([rows], columns, f"{FILES_TABLE}.{ending}")
        reasons = {source.path: source.problem or self.failures.get(source.sha256, "") for source in sources}
        reasons = {path: reason for path, reason in reasons.items() if reason}
        write_atomic(self.folder / FAILED_FILE, format_csv([("path", "reason"), *reasons.items()]))
        return reasons

    def _entries(self) -> Iterator[tuple[Path, JournalEntry]]:
        """Yield the results, without failures, and their file of the journal."""
        for file in self._journal():
            for _, entry in _read_journal(file):
                if not entry.predictions[0].failed:
                    yield file, entry

    def _batches(
        self, rows_of: Callable[[Sequence[Prediction]], list[dict[str, Any]]]
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of each file of the journal."""
        for _, entries in groupby(self._entries(), lambda pair: pair[0]):
            yield [
                {**row, "sha256": entry.sha256} for _, entry in entries for row in rows_of(entry.predictions)
            ]

    def _journal(self) -> list[Path]:
        return sorted((self.folder / JOURNAL).glob("*.jsonl"))

    def _note(self, entry: JournalEntry, file: Path, offset: int) -> None:
        self._n_lines += 1
        first = entry.predictions[0]
        if first.failed:
            self.failures[entry.sha256] = first.status.removeprefix("failed: ")
        else:
            self.failures.pop(entry.sha256, None)
            self.computed[entry.sha256] = file, offset

    def _write(self, batches: Iterable[list[dict[str, Any]]], columns: Sequence[str], name: str) -> None:
        columns = tables.with_face(columns) if self.all_faces else columns
        tables.write_batches(batches, columns, self.folder / name)


@contextmanager
def open_results(
    folder: Path, settings: Mapping[str, Any], *, all_faces: bool, fresh: bool = False
) -> Iterator[ResultStore]:
    """Open and lock the folder of a new run, or of a run with the same model, settings and version.

    Args:
        folder: created if missing.
        settings: everything that the results depend on, as JSON.
        all_faces: tables have one row per face instead of one per file.
        fresh: delete an earlier run in the folder, but no other files.

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
            if fresh:
                _delete_run(folder)
            if not file.is_file():
                write_atomic(file, format_json(settings))
            _check_settings(file, settings)
            make_folder(folder / JOURNAL)
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
            fix="Use the same settings, choose another folder, or delete these results with --fresh",
        )


def _delete_run(folder: Path) -> None:
    tables_of_run = [f"{name}.{ending}" for name in (FILES_TABLE, *TABLES) for ending in FORMATS]
    for name in (FAILED_FILE, SAVED_FILE, *tables_of_run):
        (folder / name).unlink(missing_ok=True)
    for name in (JOURNAL, *PER_VIDEO):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / SETTINGS_FILE).unlink(missing_ok=True)  # last, because it marks the folder as a run's


def _drop_incomplete_line(file: Path) -> None:
    """Remove an incomplete last line, which a killed process or a full disk leaves."""
    content = file.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with file.open("r+b") as stream:
            stream.truncate(complete)


def _read_journal(file: Path) -> Iterator[tuple[int, JournalEntry]]:
    """Yield each line of a file of the journal with its offset in bytes."""
    offset = 0
    with wrap_decode_errors(file, OutputError, DAMAGED), file.open("rb") as stream:
        for line in stream:
            yield offset, _ENTRY.validate_json(line)
            offset += len(line)


def read_predictions(file: Path, offset: int) -> Sequence[Prediction]:
    """Return the predictions of one line of the journal."""
    with wrap_decode_errors(file, OutputError, DAMAGED), file.open("rb") as stream:
        stream.seek(offset)
        return _ENTRY.validate_json(stream.readline()).predictions
