"""Keep the results of a run in one folder: each result as soon as it is computed, and tables of all of them.

``results/NNNNN.jsonl`` is a journal with one line per content, appended and synced to the disk. A process that is
killed leaves at most one incomplete last line, which the next run removes. All other files are written whole or not at
all, the tables from the journal.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from reactometer.batch.inputs import Source, open_path
from reactometer.errors import OutputError
from reactometer.inference import tables
from reactometer.io import (
    PART,
    decoding,
    format_csv,
    make_folder,
    parse_json_object,
    unwritable,
    write_whole,
    writing,
)
from reactometer.types import Prediction

if TYPE_CHECKING:
    import pyarrow as pa

SETTINGS_FILE, MANIFEST_FILE, INDEX_FILE, FAILED_FILE = "run.json", "manifest.parquet", "index.parquet", "failed.csv"
JOURNAL, TIMELINE, LOCK = "results", "timeline", ".lock"
FAILED = "failed: "

JOURNAL_LINES = 1000
"""Results per file of the journal, and contents per file of the timeline."""

UPLOAD_INTERVAL_S = 300.0
"""A run into an object store that is killed loses at most the results of this time."""

DAMAGED = "Delete it and start the same command again, which computes its contents again"


class ResultStore:
    """The folder of a run; see :func:`open_results`."""

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
            results = _read_journal(file)
            self._n_lines = len(results)
            for sha256, predictions in results:
                self._note(sha256, predictions[0]["status"])

    def append(self, sha256: str, predictions: Sequence[Prediction]) -> None:
        """Keep one content's predictions or its failure. They are on the disk when this returns.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        journal = self._journal()
        if journal and self._n_lines < JOURNAL_LINES:
            file = journal[-1]
        else:
            number = int(journal[-1].stem) + 1 if journal else 0
            file, self._n_lines = self.folder / JOURNAL / f"{number:05d}.jsonl", 0
        line = b'{"sha256": "%s", "predictions": %s}\n' % (sha256.encode(), tables.dump_predictions(predictions))
        with writing(file), file.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        self._n_lines += 1
        self._note(sha256, predictions[0].status)

    def known_files(self) -> dict[str, Source]:
        """Return the files that an earlier run found, by path."""
        import pyarrow.parquet as pq

        file = self.folder / MANIFEST_FILE
        if not file.is_file():
            return {}
        with decoding(file, OutputError, DAMAGED):
            return {str(row["path"]): Source(**row) for row in pq.read_table(file).to_pylist()}

    def keep_files(self, sources: Sequence[Source]) -> None:
        """Write the manifest, which saves the next run from hashing unchanged files."""
        rows = [vars(source) for source in sources]
        tables.write_parquet(tables.to_arrow(rows, list(Source.__dataclass_fields__)), self.folder / MANIFEST_FILE)

    def write_tables(self, sources: Sequence[Source]) -> dict[str, str]:
        """Write the index, the timeline and the table of failures; return the failures, reason by path.

        Args:
            sources: the files of this run. The timeline has all contents of the journal, the others only these files.
        """
        clips: list[pa.Table] = []
        outdated = set((self.folder / TIMELINE).glob("*.parquet"))
        for file in self._journal():
            with decoding(file, OutputError, DAMAGED):
                if not (results := _load_results(file)):
                    continue
                first = next(iter(results.values()))[0]
                clips.append(self._tabulate(results, tables.clip_rows, tables.clip_columns(first)))
                timeline = self._tabulate(results, tables.timeline_rows, tables.timeline_columns(first))
            target = self.folder / TIMELINE / f"{file.stem}.parquet"
            tables.write_parquet(timeline, target)
            outdated.discard(target)
        for target in outdated:
            target.unlink()
        if clips:
            tables.write_parquet(_make_index(clips, sources), self.folder / INDEX_FILE)
        reasons = {one.path: one.problem or self.failures.get(one.sha256, "") for one in sources}
        reasons = {path: reason for path, reason in reasons.items() if reason}
        write_whole(self.folder / FAILED_FILE, format_csv([("path", "reason"), *reasons.items()]))
        return reasons

    def _journal(self) -> list[Path]:
        return sorted((self.folder / JOURNAL).glob("*.jsonl"))

    def _note(self, sha256: str, status: str) -> None:
        if status.startswith(FAILED):
            self.failures[sha256] = status.removeprefix(FAILED)
        else:
            self.failures.pop(sha256, None)
            self.computed.add(sha256)

    def _tabulate(
        self,
        results: Mapping[str, Sequence[Prediction]],
        rows_of: Callable[[Sequence[Prediction]], list[dict[str, Any]]],
        columns: Sequence[str],
    ) -> pa.Table:
        rows = [{"sha256": sha256, **row} for sha256, predictions in results.items() for row in rows_of(predictions)]
        return tables.to_arrow(rows, ["sha256", *(tables.with_face(columns) if self.all_faces else columns)])


@contextmanager
def open_results(
    folder: Path, settings: Mapping[str, Any], *, all_faces: bool, name: str | None = None
) -> Iterator[ResultStore]:
    """Open the folder of a new run, or of one with the same model, settings and version, and lock it.

    Args:
        folder: is made if it is missing.
        settings: everything that the numbers depend on, as JSON can hold it.
        all_faces: tables have one row per face instead of one per file.
        name: of the folder, in messages.

    Raises:
        OutputError: the folder has other contents or other settings, another process uses it, or it cannot be written.
    """
    name, file = name or str(folder), folder / SETTINGS_FILE
    make_folder(folder)
    if not file.is_file() and any(own.name != LOCK and not own.name.endswith(PART) for own in folder.iterdir()):
        raise OutputError(f"{name}: holds files that are not of a run", fix="Name a new folder")
    try:
        with FileLock(folder / LOCK, timeout=0):
            if not file.is_file():
                write_whole(file, json.dumps(settings, indent=2) + "\n")
            _check_settings(file, settings, name)
            for part in (JOURNAL, TIMELINE):
                make_folder(folder / part)
            yield ResultStore(folder, all_faces=all_faces)
    except Timeout as error:
        raise OutputError(f"{name}: another process uses this folder", fix="Wait for it, or name another") from error


@contextmanager
def mirror(uri: str) -> Iterator[tuple[Path, Callable[..., None]]]:
    """Work on a local copy of a results folder in an object store.

    Yields the copy and a function ``upload(at_once=False)``, which uploads the folder if the last upload was
    ``UPLOAD_INTERVAL_S`` ago. After a first upload, the folder is uploaded at the end, too. Nothing keeps two runs from
    writing to the same URI.

    Raises:
        OutputError: the object store cannot be read or written.
    """
    from pyarrow import fs

    try:
        filesystem, path = open_path(uri)
        names = {info.base_name for info in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))}
    except OSError as error:
        raise unwritable(uri, error) from error
    if names - {LOCK} and SETTINGS_FILE not in names:
        raise OutputError(f"{uri}: holds files that are not of a run", fix="Name a new folder")
    last_s = 0.0

    def upload(at_once: bool = False) -> None:
        nonlocal last_s
        if not at_once and time.monotonic() - last_s < UPLOAD_INTERVAL_S:
            return
        try:
            fs.copy_files(str(folder), path, destination_filesystem=filesystem)
            kept = {file.name for file in (folder / TIMELINE).glob("*.parquet")}
            for info in filesystem.get_file_info(fs.FileSelector(f"{path}/{TIMELINE}", allow_not_found=True)):
                if info.is_file and info.base_name not in kept:
                    filesystem.delete_file(info.path)
        except OSError as error:
            raise unwritable(uri, error) from error
        last_s = time.monotonic()

    with TemporaryDirectory(prefix="reactometer-") as name:
        folder = Path(name) / "results"
        folder.mkdir()
        try:
            with suppress(FileNotFoundError):
                fs.copy_files(path, str(folder), source_filesystem=filesystem)
        except OSError as error:
            raise unwritable(uri, error) from error
        try:
            yield folder, upload
        finally:
            if last_s:  # a run that was refused has uploaded nothing, and its copy may be older than the store
                upload(at_once=True)


def _check_settings(file: Path, settings: Mapping[str, Any], name: str) -> None:
    with decoding(file, OutputError, "Name another folder"):
        earlier = parse_json_object(file.read_bytes())
    other = [key for key in {**earlier, **settings} if earlier.get(key) != settings.get(key)]
    if other:
        raise OutputError(
            f"{name}: this results folder was created with a different model or different settings",
            got=", ".join(f"{key} {settings.get(key)}" for key in other),
            expected=", ".join(f"{key} {earlier.get(key)}" for key in other),
            fix="Use the same model and settings, or name another folder",
        )


def _drop_incomplete_line(file: Path) -> None:
    """Cut what a killed process, or a full disk, left of the last line."""
    content = file.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with file.open("r+b") as stream:
            stream.truncate(complete)


def _read_journal(file: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the SHA-256 and the predictions, at least one, of each line."""
    with decoding(file, OutputError, DAMAGED):
        lines = [json.loads(line) for line in file.read_bytes().splitlines()]
        return [(line["sha256"], line["predictions"]) for line in lines if line["predictions"][0]["status"]]


def _load_results(file: Path) -> dict[str, list[Prediction]]:
    """Return the predictions of the contents that did not fail, by SHA-256."""
    return {
        sha256: tables.load_predictions(json.dumps(predictions).encode())
        for sha256, predictions in _read_journal(file)
        if not predictions[0]["status"].startswith(FAILED)
    }


def _make_index(clips: Sequence[pa.Table], sources: Sequence[Source]) -> pa.Table:
    """Return one row per file (and face): its path, its content's result, and the first file of the same content."""
    import pyarrow as pa

    results = pa.concat_tables(clips)
    rows: dict[str, list[int]] = {}
    for row, sha256 in enumerate(results["sha256"].to_pylist()):
        rows.setdefault(sha256, []).append(row)
    first = {one.sha256: one.path for one in reversed(sources)}
    listed = [(row, one.path, first[one.sha256]) for one in sources for row in rows.get(one.sha256, ())]
    taken = results.take(pa.array([row for row, *_ in listed], pa.int64()))
    same_as = [None if path == original else original for _, path, original in listed]
    table = taken.drop_columns(["path", "sha256"])
    table = table.add_column(0, "path", pa.array([path for _, path, _ in listed], pa.string()))
    table = table.append_column("same_as", pa.array(same_as, pa.string()))
    return table.append_column("sha256", taken["sha256"])
