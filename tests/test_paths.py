from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reactometer import paths
from reactometer.errors import ConfigError, WeightsError
from reactometer.paths import WEIGHT_FILES, WeightFile, cache_folder, find_weights

CONTENT = bytes(range(256)) * 1200  # 300 KB
FILE = WeightFile(
    name="tiny",
    file_name="tiny.onnx",
    url="http://127.0.0.1:9/tiny.onnx",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
    licence="Apache-2.0",
    source="this test",
)


class Server(ThreadingHTTPServer):
    """Serves ``content``; answers ranges, and cuts the first ``cuts`` answers off half-way."""

    def __init__(self, content: bytes, cuts: int = 0, answers_ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.answers_ranges = content, cuts, answers_ranges
        self.status: int | None = None
        self.cut_bytes: int | None = None  # so much is sent before a cut; None: the half
        self.length_off: int | None = 0  # added to the length that is declared; None: none is
        self.later = content  # what is served from the second answer on
        self.asked: list[str | None] = []  # the Range header of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        content, self.server.content = self.server.content, self.server.later
        if self.server.status is not None:
            self.send_error(self.server.status)
            return
        ranged = asked is not None and self.server.answers_ranges
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if ranged else 0
        if start >= len(content):
            self.send_error(416)
            return
        body = content[start:]
        self.send_response(206 if ranged else 200)
        if self.server.length_off is not None:
            self.send_header("Content-Length", str(len(body) + self.server.length_off))
        self.end_headers()
        if self.server.cuts > 0:
            self.server.cuts -= 1
            body = body[: len(body) // 2 if self.server.cut_bytes is None else self.server.cut_bytes]
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass

    def log_error(self, *args: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that downloads go to; nothing is in it, and no failure of another test is remembered."""
    monkeypatch.setattr(paths, "_failures", {})
    monkeypatch.setitem(WEIGHT_FILES, "tiny", FILE)
    monkeypatch.delenv("REACTOMETER_WEIGHTS", raising=False)
    monkeypatch.setenv("REACTOMETER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(CONTENT) as running:
        monkeypatch.setenv("REACTOMETER_WEIGHTS_URL", running.url)
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_download_is_kept_and_not_repeated(server: Server, folder: Path) -> None:
    assert find_weights("tiny") == folder / "tiny.onnx"
    assert find_weights("tiny").read_bytes() == CONTENT
    assert leftovers(folder) == ["tiny.onnx"]
    assert server.asked == [None]


@pytest.mark.parametrize("answers_ranges", [True, False])
def test_a_cut_connection_is_resumed(server: Server, folder: Path, answers_ranges: bool) -> None:
    server.cuts, server.answers_ranges = 1, answers_ranges
    assert find_weights("tiny").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT) // 2}-"]
    assert leftovers(folder) == ["tiny.onnx"]


@pytest.mark.parametrize("length_off", [0, None])
@pytest.mark.parametrize("answers_ranges", [True, False])
def test_a_cut_at_any_tenth_is_mended(
    server: Server, folder: Path, answers_ranges: bool, length_off: int | None
) -> None:
    """Whether the server says how long the file is, and sends the rest alone, or not."""
    server.answers_ranges, server.length_off = answers_ranges, length_off
    for tenth in range(10):
        server.cuts, server.cut_bytes, server.asked = 1, tenth * len(CONTENT) // 10, []
        assert find_weights("tiny").read_bytes() == CONTENT
        assert server.asked == [None, f"bytes={server.cut_bytes}-" if tenth else None]
        assert leftovers(folder) == ["tiny.onnx"]
        (folder / "tiny.onnx").unlink()


def test_ten_cuts_in_a_row_are_mended(server: Server, folder: Path) -> None:
    server.cuts, server.cut_bytes = 10, len(CONTENT) // 10
    assert find_weights("tiny").read_bytes() == CONTENT
    assert server.asked == [None, *(f"bytes={tenth * len(CONTENT) // 10}-" for tenth in range(1, 10))]


@pytest.mark.parametrize("length_off", [1000, -1000])
def test_a_length_that_is_a_lie_gives_no_file(server: Server, folder: Path, length_off: int) -> None:
    server.length_off = length_off
    with pytest.raises(WeightsError, match="cannot download tiny"):
        find_weights("tiny")
    assert not (folder / "tiny.onnx").exists()
    server.length_off = 0
    paths._failures.clear()
    assert find_weights("tiny").read_bytes() == CONTENT


def test_a_file_that_changes_between_two_parts_of_it_is_refused(server: Server, folder: Path) -> None:
    server.cuts, server.later = 1, CONTENT[:-1] + b"x"
    with pytest.raises(WeightsError, match=f"{FILE.sha256}"):
        find_weights("tiny")
    assert server.asked == [None, f"bytes={len(CONTENT) // 2}-", None]  # joined, then whole
    assert leftovers(folder) == []
    paths._failures.clear()
    server.content, server.later, server.cuts = b"x" * len(CONTENT), CONTENT, 1
    assert find_weights("tiny").read_bytes() == CONTENT


def test_a_part_of_an_earlier_run_is_resumed(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.onnx.part").write_bytes(CONTENT[:1000])
    assert find_weights("tiny").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


@pytest.mark.parametrize("part", [b"of another file", CONTENT[:-1] + b"x", CONTENT * 2])
def test_a_part_of_another_file_is_given_up(server: Server, folder: Path, part: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.onnx.part").write_bytes(part)
    assert find_weights("tiny").read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(part)}-", None]
    assert leftovers(folder) == ["tiny.onnx"]


def test_a_connection_that_is_always_cut_leaves_no_file(server: Server, folder: Path) -> None:
    server.cuts = 99
    with pytest.raises(WeightsError, match="cannot download tiny") as caught:
        find_weights("tiny")
    assert all(text in str(caught.value) for text in (server.url, str(folder), "REACTOMETER_WEIGHTS"))
    assert not (folder / "tiny.onnx").exists()
    server.cuts = 0
    paths._failures.clear()  # as a new process would
    assert find_weights("tiny").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT * 2, b"<html>Please log in</html>"])
def test_wrong_bytes_never_get_the_name(server: Server, folder: Path, content: bytes) -> None:
    server.content = server.later = content
    with pytest.raises(WeightsError, match=f"{FILE.sha256}.*{len(CONTENT)} bytes"):
        find_weights("tiny")
    assert leftovers(folder) == []


def test_a_missing_file_is_reported_with_its_status(server: Server, folder: Path) -> None:
    server.status = 404
    with pytest.raises(WeightsError, match="404") as caught:
        find_weights("tiny")
    assert f"{server.url}/tiny.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failure_is_remembered_and_a_file_put_there_mends_it(server: Server, folder: Path) -> None:
    server.status = 404
    messages = []
    for _ in range(3):
        with pytest.raises(WeightsError) as caught:
            find_weights("tiny")
        messages.append(str(caught.value))
    assert len(server.asked) == 1
    assert len(set(messages)) == 1
    (folder / "tiny.onnx").write_bytes(CONTENT)
    assert find_weights("tiny") == folder / "tiny.onnx"


def test_an_unreachable_address_is_a_weights_error(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"http://127\.0\.0\.1:9/tiny\.onnx"):
        find_weights("tiny")


def test_how_far_a_download_is_can_be_told(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.onnx.part").write_bytes(CONTENT[:1000])
    told: list[int] = []
    find_weights("tiny", told.append)
    assert told == sorted(told)
    assert told[0] > 1000
    assert told[-1] == len(CONTENT)
    find_weights("tiny", told.append)
    assert told[-1] == len(CONTENT)


def test_many_that_ask_at_once_download_once(server: Server, folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: find_weights("tiny").read_bytes(), range(8)))
    assert found == [CONTENT] * 8
    assert server.asked == [None]


def test_a_damaged_cached_file_is_replaced(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.onnx").write_bytes(CONTENT[:-5])
    assert find_weights("tiny").read_bytes() == CONTENT


def test_the_offline_folder_comes_first(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path))
    assert find_weights("tiny") == folder / "tiny.onnx"  # not there: downloaded
    (tmp_path / "tiny.onnx").write_bytes(CONTENT)
    assert find_weights("tiny") == tmp_path / "tiny.onnx"


def test_a_wrong_file_in_the_offline_folder_is_an_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path))
    (tmp_path / "tiny.onnx").write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"tiny\.onnx.*SHA-256"):
        find_weights("tiny")
    assert server.asked == []


def test_an_offline_folder_in_nobodys_home_is_told_of(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REACTOMETER_WEIGHTS", "~nobody_here/weights")
    with pytest.raises(WeightsError, match=r"REACTOMETER_WEIGHTS=~nobody_here/weights"):
        find_weights("tiny")


def test_an_unknown_name_is_answered_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'yunet'"):
        find_weights("yunett")


def test_the_cache_folder_follows_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REACTOMETER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "reactometer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "reactometer"
    monkeypatch.setenv("REACTOMETER_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


@pytest.mark.shared
def test_the_real_files_are_those_that_are_described() -> None:
    for name in WEIGHT_FILES:
        assert find_weights(name).stat().st_size == WEIGHT_FILES[name].size_bytes
