"""Folders that the package looks into, and the face detector's file: given, cached or downloaded, always
verified."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fixtures_of_faults import Fill
from reactometer import paths
from reactometer.errors import WeightsError
from reactometer.paths import YUNET_FILE, cache_folder, find_yunet, offline_encoder

CONTENT = bytes(range(256)) * 1200  # 300 KB


class Server(ThreadingHTTPServer):
    """Serves ``content`` at any address, counts the requests, and can cut its answers short."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.status, self.cut, self.requests = CONTENT, 200, False, 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[:1000] if self.server.cut else self.server.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that YuNet is downloaded into, on a machine that has no file and may use the network."""
    monkeypatch.setattr(paths, "YUNET_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.delenv("REACTOMETER_WEIGHTS", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("REACTOMETER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        monkeypatch.setattr(paths, "YUNET_URL", f"http://127.0.0.1:{running.server_port}/{YUNET_FILE}")
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def test_a_download_is_cached(server: Server, folder: Path) -> None:
    assert find_yunet() == folder / YUNET_FILE
    assert find_yunet().read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == [YUNET_FILE]
    assert server.requests == 1


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", b"<html>Please log in</html>"])
def test_a_file_with_a_wrong_digest_is_deleted(server: Server, folder: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(WeightsError, match="hash"):
        find_yunet()
    assert list(folder.iterdir()) == []
    server.content = CONTENT
    assert find_yunet().read_bytes() == CONTENT


def test_a_cut_connection_leaves_no_file(server: Server, folder: Path) -> None:
    server.cut = True
    with pytest.raises(WeightsError, match="cannot download YuNet"):
        find_yunet()
    assert list(folder.iterdir()) == []


def test_a_missing_file_is_reported_with_its_status(server: Server) -> None:
    server.status = 404
    with pytest.raises(WeightsError, match="404"):
        find_yunet()


def test_an_unreachable_address_is_one_line_with_a_fix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "YUNET_URL", f"http://127.0.0.1:9/{YUNET_FILE}")
    with pytest.raises(WeightsError, match=r"refused.*REACTOMETER_WEIGHTS") as caught:
        find_yunet()
    assert "\n" not in str(caught.value)


def test_huggingface_s_switch_stops_the_download_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        find_yunet()
    assert server.requests == 0


def test_a_damaged_cached_file_is_replaced(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / YUNET_FILE).write_bytes(CONTENT[:-5])
    assert find_yunet().read_bytes() == CONTENT


def test_the_users_folder_comes_first(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path))
    (tmp_path / YUNET_FILE).write_bytes(CONTENT)
    assert find_yunet() == tmp_path / YUNET_FILE
    assert server.requests == 0
    (tmp_path / YUNET_FILE).write_bytes(b"another file")
    assert find_yunet() == folder / YUNET_FILE


def test_a_folder_in_an_unknown_home_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REACTOMETER_WEIGHTS", "~nobody_here/weights")
    with pytest.raises(WeightsError, match="nobody_here"):
        find_yunet()


def test_an_encoder_is_found_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path))
    (tmp_path / "anna--net").mkdir()
    assert offline_encoder("anna/net") is None
    (tmp_path / "anna--net" / "config.json").write_text("{}")
    assert offline_encoder("anna/net") == tmp_path / "anna--net"


def test_a_full_disk_leaves_no_file(
    server: Server, small_disk: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REACTOMETER_CACHE", str(small_disk / "cache"))
    fill(small_disk, 100_000)
    with pytest.raises(WeightsError, match="No space left"):
        find_yunet()
    assert not list(small_disk.rglob("*.onnx"))


def test_the_cache_folder_follows_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REACTOMETER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "reactometer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "reactometer"
    monkeypatch.setenv("REACTOMETER_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


@pytest.mark.shared
def test_the_real_file_has_the_known_hash() -> None:
    assert find_yunet().name == YUNET_FILE
