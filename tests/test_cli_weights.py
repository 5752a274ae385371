"""The commands on weights as a person types them, without a network: what they print, and how they end."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from reactometer import paths
from reactometer.cli import main
from reactometer.models.pretrained import PRETRAINED
from reactometer.paths import STARTER, WEIGHT_FILES, WeightFile

Run = Callable[..., tuple[int, str, str]]

CONTENT = b"a detector, say" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run 'reactometer weights ...' on a machine that has nothing; exit status, standard output, standard error."""
    described = WeightFile(
        "tiny", "tiny.onnx", "http://127.0.0.1:9/tiny.onnx", DIGEST, len(CONTENT), licence="MIT", source="this test"
    )
    monkeypatch.setattr(paths, "_failures", {})
    monkeypatch.delitem(WEIGHT_FILES, "yunet")
    monkeypatch.setitem(WEIGHT_FILES, "tiny", described)
    monkeypatch.delenv("REACTOMETER_WEIGHTS", raising=False)
    monkeypatch.setenv("REACTOMETER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reactometer", "weights", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that has the file."""
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny.onnx").write_bytes(CONTENT)
    handler = partial(Quiet, directory=str(tmp_path / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("REACTOMETER_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def test_from_the_list_to_a_bundle_on_another_machine(
    run: Run, mirror: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, printed, _ = run("list")
    assert status == 0
    assert f"tiny  15.0 kB, SHA-256 {DIGEST[:12]}, licence: MIT\n    this test\n    not here\n" in printed
    assert all(f"{name}  licence: {about.licence}\n" in printed for name, about in PRETRAINED.items())
    assert run("verify") == (0, f"ok: {STARTER}\n1 of 1 are right\n", "")
    status, printed, errors = run("fetch", "tiny")
    file = tmp_path / "cache" / "weights" / "tiny.onnx"
    assert (status, printed) == (0, f"tiny  cache: {file}\n")
    assert "tiny" in errors  # its bar
    assert f"    cache: {file}\n" in run("list")[1]
    status, printed, _ = run("bundle", tmp_path / "out")
    assert status == 0
    assert f"there: set REACTOMETER_WEIGHTS to {tmp_path / 'out'}\n" in printed
    file.unlink()
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path / "out"))
    assert run("fetch", "tiny")[:2] == (0, f"tiny  offline folder: {tmp_path / 'out' / 'tiny.onnx'}\n")
    assert run("verify", tmp_path / "out") == (0, f"ok: {tmp_path / 'out' / 'tiny.onnx'}\n1 of 1 are right\n", "")


def test_a_wrong_file_is_named_and_the_status_is_1(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path))
    (tmp_path / "tiny.onnx").write_bytes(CONTENT + b"?")
    status, printed, errors = run("verify")
    assert (status, printed) == (1, f"ok: {STARTER}\n1 of 2 are right\n")
    assert f"wrong: {tmp_path / 'tiny.onnx'}: its SHA-256 is" in errors
    assert f"not {DIGEST}" in errors
    status, _, errors = run("fetch", "tiny")
    assert status == 1
    assert "failed: " in errors
    assert "is not tiny's weight file" in errors


def test_what_cannot_be_had_is_listed_and_the_status_is_1(run: Run, mirror: None) -> None:
    status, printed, errors = run("fetch", "--all")
    assert status == 1
    assert printed.startswith("tiny  cache: ")
    assert errors.count("failed: ") == len(PRETRAINED)
    assert "cannot fetch 'microsoft/resnet-50' from http://127.0.0.1:9" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch"], "error: no weights are named (expected names, or --all). Known names: tiny, microsoft/resnet-50,"),
        (["fetch", "tinny"], "error: unknown weights (got 'tinny'). Did you mean 'tiny'?"),
        (["verify", "nowhere"], "error: nowhere: no such file or folder."),
        (["bundle", "out"], "error: no weights are on this machine. Name what to fetch"),
        (["bundle", "out", "tiny"], "error: cannot download tiny's weight file"),
        (["bundle"], "Missing argument"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    run: Run, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, printed, errors = run(*arguments)
    assert (status, printed) == (2, "")
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["list", "fetch", "verify", "bundle"])
def test_every_command_explains_itself(run: Run, command: str) -> None:
    status, printed, _ = run(command, "--help")
    assert status == 0
    assert f"reactometer weights {command}" in printed
