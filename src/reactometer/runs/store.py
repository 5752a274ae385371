"""A run's folder: what it is of, what is to be done, what is done, and what failed; whole at every moment.

A finished file's result is one JSON file, named by the hash of the file's content, that appears at once. Many of them
become a shard, two Parquet tables: ``timeline/NNNNN.parquet``, then ``clips/NNNNN.parquet``, with which the shard
counts; then the JSON files go. What a process that is killed between two of these steps leaves, the next one sees for
what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from reactometer.errors import OutputError
from reactometer.files import PART, make_folder, replacing
from reactometer.inference import formats
from reactometer.records import Prediction
from reactometer.runs.sources import Source

if TYPE_CHECKING:
    import pyarrow as pa

STAMP_FILE, MANIFEST_FILE, INDEX_FILE, FAILED_FILE = "run.json", "manifest.parquet", "index.parquet", "failed.csv"
CLIPS, TIMELINE, DONE, FAILED = "clips", "timeline", "done", "failed"
SHARD_FILES = 1000
"""Results of one shard; our choice."""

TEXT = ("path", "sha256", "status", "state", "abstain", "problem")


@cache
def _predictions() -> TypeAdapter[list[Prediction]]:
    return TypeAdapter(list[Prediction])


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run that has been claimed."""

    path: Path
    everyone: bool  # a file has a row for each face

    def known(self) -> dict[str, Source]:
        """What an earlier start found, by path."""
        file = self.path / MANIFEST_FILE
        return {row["path"]: Source(**row) for row in _read(file).to_pylist()} if file.is_file() else {}

    def keep_manifest(self, sources: Sequence[Source]) -> None:
        """Write down what is to be done."""
        rows = [vars(source) for source in sources]
        _write(_to_table(rows, list(Source.__dataclass_fields__)), self.path / MANIFEST_FILE)

    def done(self) -> set[str]:
        """Hashes of the contents whose results are here."""
        return {file.stem for file in (self.path / DONE).glob("*.json")} | self._in_shards()

    def failures(self) -> dict[str, str]:
        """Reason by hash of the contents that failed."""
        files = (self.path / FAILED).glob("*.json")
        return {file.stem: load_result(file)[0].status.removeprefix("failed: ") for file in files}

    def forget_failures(self) -> None:
        """Let what failed be tried again."""
        for file in (self.path / FAILED).glob("*.json"):
            file.unlink()

    def tidy(self) -> None:
        """Delete what a killed process left: half-written files, shards that do not count, results that are in one."""
        for place in (".", DONE, FAILED, CLIPS, TIMELINE):
            for leftover in (self.path / place).glob(f"*{PART}"):
                leftover.unlink()
        for shard in (self.path / TIMELINE).glob("*.parquet"):
            if not (self.path / CLIPS / shard.name).is_file():
                shard.unlink()
        for sha256 in self._in_shards():
            (self.path / DONE / f"{sha256}.json").unlink(missing_ok=True)

    def make_shards(self, least: int) -> None:
        """Turn finished results into shards, as long as there are so many."""
        files = sorted((self.path / DONE).glob("*.json"))
        while files and len(files) >= least:
            some, files = files[:SHARD_FILES], files[SHARD_FILES:]
            self._make_shard(some)

    def _make_shard(self, files: Sequence[Path]) -> None:
        numbers = [int(shard.stem) for shard in (self.path / CLIPS).glob("*.parquet")]
        name = f"{max(numbers, default=-1) + 1:05d}.parquet"
        results = {file.stem: load_result(file) for file in files}
        first = next(iter(results.values()))[0]
        for place, rows_of, columns in (
            (TIMELINE, formats.timeline_rows, formats.timeline_columns(first)),
            (CLIPS, formats.clip_rows, formats.clip_columns(first)),
        ):
            rows = [{"sha256": sha256, **row} for sha256, own in results.items() for row in rows_of(own)]
            table = _to_table(rows, ["sha256", *(formats.with_face(columns) if self.everyone else columns)])
            _write(table, self.path / place / name)
        for file in files:
            file.unlink()

    def finish(self, sources: Sequence[Source]) -> dict[str, str]:
        """Write the index, a row a file (and face), and the table of failures; returns the latter, reason by path."""
        import pandas as pd
        import pyarrow as pa

        failures = self.failures()
        reasons = {one.path: one.problem or failures.get(one.sha256, "") for one in sources}
        reasons = {path: reason for path, reason in reasons.items() if reason}
        if shards := self._shards():
            clips = pa.concat_tables([_read(shard) for shard in shards])
            rows: dict[str, list[int]] = {}
            for row, sha256 in enumerate(clips["sha256"].to_pylist()):
                rows.setdefault(sha256, []).append(row)
            first = {one.sha256: one.path for one in reversed(sources)}
            listed = [(row, one.path, first[one.sha256]) for one in sources for row in rows.get(one.sha256, ())]
            taken = clips.take(pa.array([row for row, *_ in listed], pa.int64()))
            table = taken.drop_columns(["path", "sha256"])
            table = table.add_column(0, "path", pa.array([path for _, path, _ in listed], pa.string()))
            same_as = [None if path == original else original for _, path, original in listed]
            table = table.append_column("same_as", pa.array(same_as, pa.string()))
            _write(table.append_column("sha256", taken["sha256"]), self.path / INDEX_FILE)
        with replacing(self.path / FAILED_FILE) as partial:
            pd.DataFrame(list(reasons.items()), columns=["path", "reason"]).to_csv(partial, index=False)
        return reasons

    def _shards(self) -> list[Path]:
        return sorted((self.path / CLIPS).glob("*.parquet"))

    def _in_shards(self) -> set[str]:
        return {sha256 for shard in self._shards() for sha256 in _read(shard, ["sha256"])["sha256"].to_pylist()}


@contextmanager
def claim_run(path: Path, stamp: Mapping[str, Any], *, everyone: bool) -> Iterator[RunFolder]:
    """A run's folder for this process alone: a new one, or one begun with the same model, settings and version.

    Raises:
        OutputError: the folder holds something else, was begun otherwise, or another process is at work in it.
    """
    make_folder(path)
    file = path / STAMP_FILE
    if not file.is_file() and any(one.suffix != PART and one.name != ".lock" for one in path.iterdir()):
        raise OutputError(f"{path}: holds something that is no run", fix="Name a new folder")
    try:
        with FileLock(path / ".lock", timeout=0):
            _check_stamp(file, stamp)
            for place in (CLIPS, TIMELINE, DONE, FAILED):
                make_folder(path / place)
            folder = RunFolder(path, everyone)
            folder.tidy()
            yield folder
    except Timeout as error:
        raise OutputError(f"{path}: another process is at work in it", fix="Wait for it, or name another") from error
    except OSError as error:
        fix = "Make room, or see to the permissions; the same command goes on"
        raise OutputError(f"{path}: cannot be written: {error}", fix=fix) from error


def keep_result(path: Path, sha256: str, predictions: Sequence[Prediction]) -> None:
    """Write one content's result, whole or not at all; a failure apart from the others."""
    place = FAILED if predictions[0].failed else DONE
    with replacing(path / place / f"{sha256}.json") as partial:
        partial.write_bytes(_predictions().dump_json(list(predictions)))


def load_result(file: Path) -> list[Prediction]:
    """What :func:`keep_result` wrote."""
    try:
        return _predictions().validate_json(file.read_bytes())
    except ValueError as error:
        raise _damaged(file) from error


def _check_stamp(file: Path, stamp: Mapping[str, Any]) -> None:
    if not file.is_file():
        with replacing(file) as partial:
            partial.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
        return
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
        other = [name for name in {**begun, **stamp} if begun.get(name) != stamp.get(name)]
    except (ValueError, AttributeError) as error:
        raise OutputError(f"{file}: damaged: {error}", fix="Name another folder") from error
    if other:
        raise OutputError(
            f"{file.parent}: this run was begun otherwise",
            got=", ".join(f"{name} {stamp.get(name)}" for name in other),
            expected=", ".join(f"{name} {begun.get(name)}" for name in other),
            fix="Go on as it was begun, or name another folder",
        )


def _read(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file, columns=columns)
    except pa.ArrowInvalid as error:
        raise _damaged(file) from error


def _write(table: pa.Table, file: Path) -> None:
    import pyarrow.parquet as pq

    with replacing(file) as partial:
        pq.write_table(table, partial)


def _to_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """A table whose columns have the same types whatever they hold, so that shards fit each other."""
    import pyarrow as pa

    kinds = {"face": pa.int64(), "sound": pa.bool_(), "size_bytes": pa.int64(), "modified_ns": pa.int64()}
    kinds |= dict.fromkeys(TEXT, pa.string())
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in columns])
    return pa.Table.from_pylist([dict(row) for row in rows], schema)


def _damaged(file: Path) -> OutputError:
    return OutputError(f"{file}: damaged", fix="Delete it; what it held is done again")
