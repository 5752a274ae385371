"""Pre-trained encoders from the network, from the local cache and from nowhere, with a real HTTP server as
the hub."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from small_networks import frame_encoder

LOAD = """
import sys, torch
from reactometer.errors import WeightsError
from reactometer.models.backbones import load_backbone
from reactometer.models.vision_encoders import FrameEncoder
for name in sys.argv[1:]:
    try:
        encoder = FrameEncoder(load_backbone(name, "images"), 64).eval()
        print(round(float(encoder(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)).detach().sum()), 4))
    except WeightsError as error:
        print(f"refused: {error}", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub serves as somebody/tiny: a small network with a normalisation of its own."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(3)
    net = frame_encoder("random:resnet-tiny", 64).net
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}'
    )
    return folder


@pytest.fixture(scope="module")
def hub(repository: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that speaks the hub's protocol for files, and the paths it was asked for."""
    requests: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, with_body: bool) -> None:
            requests.append(self.path)
            prefix, _, name = self.path.partition("/resolve/main/")
            file = repository / name.partition("?")[0]
            if prefix != "/somebody/tiny" or not name or not file.is_file():
                self.send_response(404)
                self.send_header(
                    "X-Error-Code", "EntryNotFound" if prefix == "/somebody/tiny" else "RepoNotFound"
                )
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
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


@dataclass(frozen=True)
class Loaded:
    """What a process that loaded encoders said, and what it asked the hub for."""

    numbers: list[float]
    errors: list[str]
    requests: list[str]


def _load(names: list[str], home: Path, hub: tuple[str, list[str]], **environment: str) -> Loaded:
    variables = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "REACTOMETER_"))
    }
    variables |= {"HF_ENDPOINT": hub[0], "HF_HOME": str(home), **environment}
    command = [sys.executable, "-c", LOAD, *names]
    hub[1].clear()
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return Loaded(
        [float(said) for said in done.stdout.split()], done.stderr.strip().splitlines(), hub[1].copy()
    )


@pytest.fixture(scope="module")
def loaded(
    hub: tuple[str, list[str]], repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Loaded, Loaded]:
    """One process with a network and an offline folder, and a later one without both that has the cache of
    the first.

    Each loads two encoders, as Python and its imports take longer than anything else here.
    """
    home, weights = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("weights")
    (weights / "somebody--offline").symlink_to(repository)
    online = _load(["somebody/offline", "somebody/tiny"], home, hub, REACTOMETER_WEIGHTS=str(weights))
    return online, _load(["somebody/else", "somebody/tiny"], home, hub, HF_HUB_OFFLINE="1")


@pytest.fixture(scope="module")
def expected(repository: Path) -> float:
    encoder = frame_encoder(str(repository), 64).eval()
    return round(float(encoder(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)).detach().sum()), 4)


def test_an_encoder_comes_from_the_network_and_then_from_the_cache(
    loaded: tuple[Loaded, Loaded], expected: float
) -> None:
    online, offline = loaded
    assert online.numbers[1] == pytest.approx(expected, abs=1e-3)
    assert "/somebody/tiny/resolve/main/model.safetensors" in online.requests
    assert offline.numbers == online.numbers[1:]
    assert offline.requests == []


def test_an_encoder_comes_from_the_offline_folder_without_a_word_to_the_network(
    loaded: tuple[Loaded, Loaded], expected: float
) -> None:
    online, _ = loaded
    assert online.numbers[0] == pytest.approx(expected, abs=1e-3)
    assert not any("offline" in path for path in online.requests)


def test_an_encoder_that_cannot_be_had_is_named_with_the_ways_out(loaded: tuple[Loaded, Loaded]) -> None:
    refusal, *others = loaded[1].errors
    assert refusal.startswith("refused: encoder 'somebody/else' cannot be loaded")
    assert "$REACTOMETER_WEIGHTS/OWNER--NAME" in refusal
    assert "random:resnet-50" in refusal
    assert all(line.startswith("Loading weights:") for line in others if line)  # the other encoder's progress
