"""Pre-trained encoders from the network, from the local cache and from nowhere, with a real HTTP server as the hub."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from reactometer.models.encoders import load_frame_encoder

LOAD = """
import sys, torch
from reactometer.errors import WeightsError
from reactometer.models.encoders import load_frame_encoder
try:
    encoder = load_frame_encoder(sys.argv[1], 64).eval()
except WeightsError as error:
    sys.exit(f"refused: {error}")
print(round(float(encoder(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)).detach().sum()), 4))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub serves as somebody/tiny: a small network with a normalisation of its own."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(3)
    net = load_frame_encoder("random:resnet-tiny", 64).net
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}')
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that speaks the hub's protocol for files, and the paths it was asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, with_body: bool) -> None:
            asked.append(self.path)
            prefix, _, name = self.path.partition("/resolve/main/")
            file = repository / name.partition("?")[0]
            if prefix != "/somebody/tiny" or not name or not file.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if prefix == "/somebody/tiny" else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = file.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def _load(name: str, home: Path, endpoint: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "REACTOMETER_"))}
    variables |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), **environment}
    return subprocess.run(
        [sys.executable, "-c", LOAD, name], env=variables, capture_output=True, text=True, check=False
    )


def test_an_encoder_comes_from_the_network_and_then_from_the_cache(
    hub: tuple[str, list[str]], repository: Path, tmp_path: Path
) -> None:
    address, asked = hub
    encoder = load_frame_encoder(str(repository), 64).eval()
    expected = f"{float(encoder(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)).detach().sum()):.3f}"
    fetched = _load("somebody/tiny", tmp_path, address)
    assert fetched.returncode == 0, fetched.stderr
    assert f"{float(fetched.stdout):.3f}" == expected
    assert any(path.endswith("model.safetensors") for path in asked)
    asked.clear()
    cached = _load("somebody/tiny", tmp_path, address, HF_HUB_OFFLINE="1")
    assert cached.stdout == fetched.stdout
    assert asked == []


def test_an_encoder_comes_from_the_offline_folder_without_a_word_to_the_network(
    hub: tuple[str, list[str]], repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "somebody--tiny").symlink_to(repository)
    done = _load("somebody/tiny", tmp_path, hub[0], REACTOMETER_WEIGHTS=str(tmp_path / "weights"))
    assert done.returncode == 0, done.stderr
    assert hub[1] == []


@pytest.mark.parametrize("name", ["somebody/else", "somebody/tiny"])
def test_an_encoder_that_cannot_be_had_is_named_with_the_ways_out(name: str, tmp_path: Path) -> None:
    done = _load(name, tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert f"refused: encoder '{name}' cannot be loaded" in done.stderr
    assert f"$REACTOMETER_WEIGHTS/{name.replace('/', '--')}" in done.stderr
    assert "random:resnet-50" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
