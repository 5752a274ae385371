"""A stand-in for the Hugging Face Hub: a real HTTP server that speaks what its client needs to push, list and
fetch."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

Files = dict[str, bytes]
TOKEN = "hf_of_this_test"
LARGE = (".safetensors", ".onnx")


class SmallHub(ThreadingHTTPServer):
    """Repositories by name, each a list of commits, the newest last."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, list[Files]] = {}
        self.private: set[str] = set()
        self.refused: dict[str, int] = {}  # end of a path -> status of every answer
        self.cuts: dict[str, list[int]] = {}  # file -> after how many bytes its next answers break off
        self.damaged: set[str] = set()  # files that come with another last byte
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.tokens: set[str | None] = set()  # what came with requests that write

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, name: str, folder: Path) -> None:
        """A commit with the files of a folder."""
        files = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        self.commits.setdefault(name, []).append(files)

    def revision(self, name: str, index: int = -1) -> str:
        commits = self.commits[name]
        return hashlib.sha1(f"{name} {index % len(commits)}".encode()).hexdigest()

    def files(self, name: str, revision: str) -> Files | None:
        commits = self.commits[name]
        known = {self.revision(name, index): files for index, files in enumerate(commits)}
        return commits[-1] if revision == "main" else known.get(revision)


def digest(path: str, content: bytes) -> str:
    """As the Hub names it: SHA-256 of weights and graphs, git's SHA-1 of small files."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: SmallHub

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self.server.tokens.add(self.headers["Authorization"])
        self._route()

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers["Range"]))
        length = int(self.headers["Content-Length"] or 0)
        body = self.rfile.read(length)
        for end, status in self.server.refused.items():
            if path.endswith(end):
                self._send(status, b"{}")
                return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({})
        elif match := re.fullmatch(
            r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/([^/]+))?", path
        ):
            self._repository(match[1], match[2] or "revision", match[3] or "main", body)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        else:
            self._send(404, b"")

    def _create(self, wanted: dict[str, Any]) -> None:
        name = "/".join(part for part in (wanted["organization"], wanted["name"]) if part)
        if name in self.server.commits:
            self._json(
                {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"},
                status=409,
            )
            return
        self.server.commits[name] = [{".gitattributes": b""}]
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.server.private.add(name)
        self._json({"url": f"{self.server.url}/{name}"})

    def _repository(self, name: str, what: str, revision: str, body: bytes) -> None:
        if name not in self.server.commits:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        files = self.server.files(name, revision)
        if files is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif what == "revision":
            siblings = [{"rfilename": path} for path in files]
            about = {"id": name, "sha": self._commit(name, revision), "private": name in self.server.private}
            self._json({**about, "siblings": siblings})
        elif what == "tree":
            self._json([_entry(path, content) for path, content in files.items()])
        elif what == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            self._json(
                {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
            )
        else:
            self._add_commit(name, body)

    def _add_commit(self, name: str, body: bytes) -> None:
        files = dict(self.server.commits[name][-1])
        for line in body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "deletedFile":
                del files[item["value"]["path"]]
        self.server.commits[name].append(files)
        commit = self.server.revision(name)
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit})

    def _file(self, name: str, revision: str, path: str) -> None:
        files = self.server.files(name, revision) if name in self.server.commits else None
        if not files or path not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound" if files else "RepoNotFound"})
            return
        about = {"ETag": f'"{digest(path, files[path])}"', "X-Repo-Commit": self._commit(name, revision)}
        byte_range = self.headers["Range"]
        start = int(byte_range.removeprefix("bytes=").split("-")[0]) if byte_range else 0
        content = files[path][start:]
        if path in self.server.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        cuts = self.server.cuts.get(path) if self.command == "GET" else None
        self._send(206 if byte_range else 200, content, about, cuts.pop(0) if cuts else None)

    def _commit(self, name: str, revision: str) -> str:
        return self.server.revision(name) if revision == "main" else revision

    def _json(self, answer: Any, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])

    def log_message(self, *_: object) -> None:
        pass


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
    if path.endswith(LARGE):
        return {**entry, "lfs": {"oid": digest(path, content), "size": len(content), "pointerSize": 134}}
    return {**entry, "oid": digest(path, content)}


def look_at(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE=0 in a process that has read them already."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@contextmanager
def running_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """Start an empty Hub, with a cache for its downloads."""
    with SmallHub() as server:
        look_at(server.url, cache, monkeypatch)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
