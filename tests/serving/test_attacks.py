"""Hostile requests are refused, and the service stays up."""

from __future__ import annotations

import gzip
import io
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np
import pytest

from fixtures_of_serving import LONGEST_S, Server, Serving

Talking = Callable[[int], Path]
pytestmark = pytest.mark.slow
HEAD = (
    b"POST /v1/predictions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
)
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'


@pytest.fixture(scope="module")
def server(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("attacked") / "data"
    with serving(folder, "--max-mb", "2", "--upload-seconds", "2", "--queue", "3") as server:
        yield server


def _raw(server: Server, *chunks: bytes, pause_s: float = 0.0) -> bytes:
    """Send bytes in chunks, and return the response until it is complete or the service closes."""
    address = urlsplit(server.address)
    with socket.create_connection((address.hostname, address.port), 30) as connection:
        for chunk in chunks:
            connection.sendall(chunk)
            time.sleep(pause_s)
        answer = b""
        while b"\r\n\r\n" not in answer or (
            b"content-length" in answer and not answer.rstrip().endswith(b"}")
        ):
            if not (more := connection.recv(65536)):
                break
            answer += more
    return answer


@pytest.fixture(autouse=True)
def _service_stays_up(server: Server) -> Iterator[None]:
    yield
    assert server.client.get("/readyz").status_code == 200
    server.wait_for_no_uploads()


def test_a_huge_declared_body_is_refused(server: Server) -> None:
    answer = _raw(server, HEAD + b"Content-Length: 10737418240\r\n\r\n")
    assert b" 413 " in answer and b"10,737,418,240 bytes" in answer


@pytest.mark.parametrize("rest", [b"", PART, PART + b"x" * 1000])
def test_an_endless_upload_times_out(server: Server, rest: bytes) -> None:
    start = time.monotonic()
    answer = _raw(server, HEAD + b"Content-Length: 100000\r\n\r\n" + rest)
    assert b" 408 " in answer and b"took too long" in answer
    assert time.monotonic() - start > 1.9


def test_slow_uploads_count_for_the_queue_limit(serving: Serving, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--queue", "3") as server:
        address = urlsplit(server.address)
        slow = [socket.create_connection((address.hostname, address.port), 30) for _ in range(3)]
        for connection in slow:
            connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        deadline = time.monotonic() + LONGEST_S
        while server.post(b"no film").status_code != 429:  # the three have not all been received
            assert time.monotonic() < deadline
        for connection in slow:
            connection.close()
        while server.post(b"no film").status_code == 429:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: many\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(20_000)) + b"\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /page/..%2f..%2fapp.py HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /page/%2e%2e/app.py HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"nonsense\r\n\r\n",
    ],
)
def test_malformed_requests_are_refused(server: Server, request_: bytes) -> None:
    answer = _raw(server, request_)
    assert answer == b"" or answer.split()[1] in (b"400", b"403", b"404", b"413", b"431")
    assert b"FastAPI" not in answer and b"root:" not in answer


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", PART),
        ("multipart/form-data; boundary=b", b"no part at all"),
        ("multipart/form-data; boundary=b", b"--b\r\n" * 100_000),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' * 2000 + b"--b--",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="path"\r\n\r\n' + b"x" * 1_500_000,
        ),
        ("application/json", b"[" * 100_000),
        ("application/x-www-form-urlencoded", b"file=%00&window_s=nan"),
        ("multipart/form-data; boundary=" + "b" * 5000, b""),
    ],
)
def test_malformed_bodies_are_refused(server: Server, content_type: str, body: bytes) -> None:
    answer = server.client.post("/v1/predictions", content=body, headers={"Content-Type": content_type})
    assert answer.status_code in (400, 422) and answer.json()["error"]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e300", "0x10", "", "1" * 5000])
@pytest.mark.parametrize("name", ["window_s", "hop_s", "rate_hz", "smooth_s", "threshold"])
def test_invalid_numbers_are_refused(server: Server, talking: Talking, name: str, value: str) -> None:
    answer = server.post(talking(1), data={name: value})
    accepted = not value or (name, value) == ("smooth_s", "1e300")  # the default; the mean of all
    assert answer.status_code == (200 if accepted else 400), answer.text
    assert accepted or "\n" not in answer.json()["error"]


def _silence(seekable: bool) -> bytes:
    """Encode 66 minutes of FLAC in Matroska; without seeking, its header has no length."""
    out, options = io.BytesIO(), {"live": "0" if seekable else "1"}
    with av.open(out, "w", format="matroska", options=options) as container:
        stream = container.add_stream("flac", 8000, layout="mono")
        for number in range(66 * 6):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 80_000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, number * 80_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def _huge_frame() -> bytes:
    """Encode a frame of 8,000 x 8,000 px of one colour."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", 10)
        stream.width = stream.height = 8000
        stream.pix_fmt = "yuv420p"
        plain = av.VideoFrame.from_ndarray(np.full((12_000, 8000), 128, np.uint8), format="yuv420p")
        container.mux(stream.encode(plain))
        container.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("bomb", "words"),
    [
        (lambda: _silence(True), "too long (got 3960 s; expected 3600 s at most)"),
        (lambda: _silence(False), "s; expected 3600 s at most)"),
        (_huge_frame, "frames are too large (got 8000 x 8000 pixels"),
        (lambda: gzip.compress(bytes(10**9), 1)[:1_900_000], "cannot read clip.mp4"),
    ],
)
def test_decompression_bombs_are_refused(server: Server, bomb: Callable[[], bytes], words: str) -> None:
    answer = server.post(bomb())
    assert answer.status_code == 422 and words in answer.json()["error"], answer.text


def test_a_compressed_body_is_refused(server: Server) -> None:
    packed = gzip.compress(PART + bytes(10**8) + b"\r\n--b--\r\n", 1)
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Encoding": "gzip"}
    assert server.client.post("/v1/predictions", content=packed, headers=headers).status_code in (400, 415)


def test_ids_cannot_be_guessed(server: Server) -> None:
    ids = {server.post(b"no film").json()["id"] for _ in range(5)}
    assert len(ids) == 5 and all(re.fullmatch("[A-Za-z0-9_-]{24}", job_id) for job_id in ids)  # 144 bits
    assert len({job_id[:4] for job_id in ids}) == 5


def test_logs_have_no_names_keys_or_ids(server: Server, talking: Talking) -> None:
    job_id = server.post(
        talking(1), "anna-is-sad.mp4", headers={"Authorization": "Bearer a-secret-of-anna"}
    ).json()["id"]
    assert server.client.get(f"/v1/predictions/{job_id}").status_code == 200
    server.post(b"no film", "anna-was-there.mp4")
    log = (server.folder.parent / f"{server.folder.name}.log").read_text()
    assert "anna" not in log and job_id not in log and "Traceback" not in log, log
