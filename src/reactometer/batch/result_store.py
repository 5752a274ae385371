"""A run's folder, on a disk or in an object store: what is to be done, is done, and failed; whole at every moment.

A finished file's result is one JSON file, named by the hash of the file's content, that appears at once. Many of them
become a shard, two Parquet tables: ``timeline/NNNNN.parquet``, then ``clips/NNNNN.parquet``, with which the shard
counts; then the JSON files go. What a process that is killed between two of these steps leaves, the next one sees for
what it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from reactometer.batch.inputs import Source
from reactometer.batch.lease import LOCK, alone
from reactometer.batch.places import Place
from reactometer.errors import OutputError
from reactometer.inference import tables
from reactometer.io import PART, decoding
from reactometer.types import Prediction

if TYPE_CHECKING:
    import pyarrow as pa

STAMP_FILE, MANIFEST_FILE, INDEX_FILE, FAILED_FILE = "run.json", "manifest.parquet", "index.parquet", "failed.csv"
FOLDERS = CLIPS, TIMELINE, DONE, FAILED = "clips", "timeline", "done", "failed"
SHARD_FILES = 1000
"""Results of one shard; our choice."""

THREADS = 16
"""Results that are read or deleted at a time: an object store takes long to answer, but many at once. Our choice."""

AGAIN = "Delete it; what it held is done again"

TEXT = ("path", "sha256", "status", "state", "abstain", "problem")


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run that has been claimed."""

    place: Place
    everyone: bool  # a file has a row for each face
    in_shards: set[str]  # hashes of the contents whose results are in a shard that counts

    def known(self) -> dict[str, Source]:
        """What an earlier start found, by path."""
        file = self.place.beside(MANIFEST_FILE)
        if not file.is_file():
            return {}
        rows = _read(file).to_pylist()
        with decoding(file.name, OutputError, AGAIN):
            return {str(row["path"]): Source(**row) for row in rows}

    def keep_manifest(self, sources: Sequence[Source]) -> None:
        """Write down what is to be done."""
        rows = [vars(source) for source in sources]
        _write(_to_table(rows, list(Source.__dataclass_fields__)), self.place.beside(MANIFEST_FILE))

    def done(self) -> set[str]:
        """Hashes of the contents whose results are here."""
        return self._alone_in(DONE) | self.in_shards

    def failures(self) -> dict[str, str]:
        """Reason by hash of the contents that failed."""
        results = self._results(FAILED, sorted(self._alone_in(FAILED)))
        return {sha256: own[0].status.removeprefix("failed: ") for sha256, own in results.items()}

    def forget_failures(self) -> None:
        """Let what failed be tried again."""
        self._delete(FAILED, self._alone_in(FAILED))

    def tidy(self) -> None:
        """Delete what a killed process left: half-written files, shards that do not count, results that are in one."""
        for folder in (self.place, *map(self.place.beside, FOLDERS)):
            for leftover in folder.names(PART):
                folder.beside(leftover).delete()
        count = set(self._shards())
        for shard in set(self.place.beside(TIMELINE).names(".parquet")) - count:
            self.place.beside(TIMELINE).beside(shard).delete()
        self._delete(DONE, self.in_shards & self._alone_in(DONE))

    def make_shards(self, least: int) -> None:
        """Turn finished results into shards, as long as there are so many."""
        self._delete(DONE, self.in_shards & self._alone_in(DONE))  # a machine that was lost, and did it all the same
        hashes = sorted(self._alone_in(DONE))
        while hashes and len(hashes) >= least:
            some, hashes = hashes[:SHARD_FILES], hashes[SHARD_FILES:]
            self._make_shard(some)

    def _make_shard(self, hashes: Sequence[str]) -> None:
        numbers = [int(PurePosixPath(shard).stem) for shard in self._shards()]
        name = f"{max(numbers, default=-1) + 1:05d}.parquet"
        results = self._results(DONE, hashes)
        first = next(iter(results.values()))[0]
        for folder, rows_of, columns in (
            (TIMELINE, tables.timeline_rows, tables.timeline_columns(first)),
            (CLIPS, tables.clip_rows, tables.clip_columns(first)),
        ):
            rows = [{"sha256": sha256, **row} for sha256, own in results.items() for row in rows_of(own)]
            table = _to_table(rows, ["sha256", *(tables.with_face(columns) if self.everyone else columns)])
            _write(table, self.place.beside(folder).beside(name))
        self.in_shards.update(hashes)
        self._delete(DONE, hashes)

    def finish(self, sources: Sequence[Source]) -> dict[str, str]:
        """Write the index, a row a file (and face), and the table of failures; returns the latter, reason by path."""
        import pandas as pd
        import pyarrow as pa

        failures = self.failures()
        reasons = {one.path: one.problem or failures.get(one.sha256, "") for one in sources}
        reasons = {path: reason for path, reason in reasons.items() if reason}
        if shards := self._shards():
            tables = [_read(self.place.beside(CLIPS).beside(shard)) for shard in shards]
            with decoding(self.place.beside(CLIPS).name, OutputError, AGAIN):
                clips = pa.concat_tables(tables)
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
            _write(table.append_column("sha256", taken["sha256"]), self.place.beside(INDEX_FILE))
        failed = pd.DataFrame(list(reasons.items()), columns=["path", "reason"])
        self.place.beside(FAILED_FILE).write(failed.to_csv(index=False).encode())
        return reasons

    def _alone_in(self, folder: str) -> set[str]:
        return {name.removesuffix(".json") for name in self.place.beside(folder).names(".json")}

    def _results(self, folder: str, hashes: Sequence[str]) -> dict[str, list[Prediction]]:
        with ThreadPoolExecutor(THREADS) as threads:
            files = [self.place.beside(folder).beside(f"{sha256}.json") for sha256 in hashes]
            return dict(zip(hashes, threads.map(_load_result, files), strict=True))

    def _delete(self, folder: str, hashes: Iterable[str]) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(Place.delete, [self.place.beside(folder).beside(f"{sha256}.json") for sha256 in hashes]))

    def _shards(self) -> list[str]:
        return self.place.beside(CLIPS).names(".parquet")


@contextmanager
def claim_run(place: Place, stamp: Mapping[str, Any], *, everyone: bool) -> Iterator[RunFolder]:
    """A run's folder for this process alone: a new one, or one begun with the same model, settings and version.

    Raises:
        OutputError: the folder holds something else, was begun otherwise, or another process is at work in it.
    """
    try:
        place.make()
        file = place.beside(STAMP_FILE)
        if not file.is_file() and any(not one.endswith((PART, LOCK)) for one in place.names()):
            raise OutputError(f"{place.name}: holds something that is no run", fix="Name a new folder")
        with alone(place):
            if not file.is_file():
                file.write((json.dumps(stamp, indent=2) + "\n").encode())
            check_stamp(place, stamp)
            for name in FOLDERS:
                place.beside(name).make()
            folder = RunFolder(place, everyone, _in_shards(place.beside(CLIPS)))
            folder.tidy()
            yield folder
    except OSError as error:
        fix = "Make room, or see to the permissions; the same command goes on"
        raise OutputError(f"{place.name}: cannot be written: {error}", fix=fix) from error


def keep_result(place: Place, sha256: str, predictions: Sequence[Prediction]) -> None:
    """Write one content's result, whole or not at all; a failure apart from the others."""
    folder = place.beside(FAILED if predictions[0].failed else DONE)
    text = tables.dump_predictions(predictions)
    folder.beside(f"{sha256}.json").write(text + b"\n" + _check_of(text))


def is_kept(place: Place, sha256: str) -> bool:
    """Whether a content's result, or failure, has been kept since the last shard was made."""
    return any(place.beside(folder).beside(f"{sha256}.json").is_file() for folder in (DONE, FAILED))


def check_stamp(place: Place, stamp: Mapping[str, Any]) -> None:
    """Refuse a run that was begun with another model, other settings or another version."""
    file = place.beside(STAMP_FILE)
    text = file.read()
    with decoding(file.name, OutputError, "Name another folder"):
        begun = json.loads(text)
        other = [name for name in {**begun, **stamp} if begun.get(name) != stamp.get(name)]
    if other:
        raise OutputError(
            f"{place.name}: this run was begun otherwise",
            got=", ".join(f"{name} {stamp.get(name)}" for name in other),
            expected=", ".join(f"{name} {begun.get(name)}" for name in other),
            fix="Go on as it was begun, or name another folder",
        )


def _in_shards(clips: Place) -> set[str]:
    tables = {shard: _read(clips.beside(shard)) for shard in clips.names(".parquet")}
    hashes: set[str] = set()
    for shard, table in tables.items():
        with decoding(clips.beside(shard).name, OutputError, AGAIN):
            hashes.update(map(str, table["sha256"].to_pylist()))
    return hashes


def _load_result(file: Place) -> list[Prediction]:
    text = file.read()
    with decoding(file.name, OutputError, AGAIN):
        content, _, check = text.partition(b"\n")
        if check not in (b"", _check_of(content)):  # empty: of an older version
            raise ValueError("other content than was written")
        first, *others = tables.load_predictions(content)
        return [first, *others]


def _check_of(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _read(file: Place, columns: Sequence[str] | None = None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = file.read()  # what fails here is the disk or the store, and nothing is damaged
    with decoding(file.name, OutputError, AGAIN):
        return pq.read_table(pa.BufferReader(content), columns=columns, page_checksum_verification=True)


def _write(table: pa.Table, file: Place) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, write_page_checksum=True)
    file.write(stream.getvalue().to_pybytes())


def _to_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """A table whose columns have the same types whatever they hold, so that shards fit each other."""
    import pyarrow as pa

    kinds = {"face": pa.int64(), "sound": pa.bool_(), "size_bytes": pa.int64(), "modified_ns": pa.int64()}
    kinds |= dict.fromkeys(TEXT, pa.string())
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in columns])
    return pa.Table.from_pylist([dict(row) for row in rows], schema)
