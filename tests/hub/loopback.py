"""A server on 127.0.0.1 that stands in for the hub's endpoint, and for a plain HTTPS host.

/api/models/OWNER/NAME/...          what a repository holds
/OWNER/NAME/resolve/COMMIT/FILE     a file of it
/files/FILE                         a file of no repository
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    range: str | None


class Loopback(ThreadingHTTPServer):
    """Files by repository and name, and how the server misbehaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None  # of the next file, after so many bytes
        self.statuses: dict[str, tuple[int, str]] = {}  # of a path: an HTTP status, and the hub's word for the error
        self.listed: dict[str, int] = {}  # of a name: another size than it has
        self.promised: dict[str, int] = {}  # of a name: what HEAD says of its size, and GET does not keep
        self.hashes: dict[str, str] = {}  # of a name: another sha256 than it has
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def got(self, name: str) -> list[str | None]:
        """The ranges that were asked of a file, in order."""
        return [asked.range for asked in self.asked if asked.method == "GET" and asked.path.endswith(f"/{name}")]


@contextmanager
def serving() -> Iterator[Loopback]:
    with Loopback() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Loopback

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(Asked(self.command, path, self.headers.get("Range")))
        if path in self.server.statuses:
            self.fail(*self.server.statuses[path])
        elif path.startswith("/api/models/"):
            self.describe(*path.removeprefix("/api/models/").split("/", 2))
        elif path.startswith("/files/"):
            self.send_file(path.removeprefix("/files/"), self.server.files)
        else:
            owner, name, _, _, file = path.lstrip("/").split("/", 4)
            self.send_file(file, self.server.repos.get(f"{owner}/{name}", {}), of_repo=True)

    def fail(self, status: int, word: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", word)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def describe(self, owner: str, name: str, rest: str) -> None:
        files = self.server.repos.get(f"{owner}/{name}")
        if files is None:
            return self.fail(404, "RepoNotFound")
        if rest.startswith("tree/"):
            return self.send_json([self.entry(path, data) for path, data in files.items()])
        return self.send_json({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []})

    def entry(self, path: str, data: bytes) -> dict:
        size = self.server.listed.get(path, len(data))
        lfs = {"oid": self.sha256(path, data), "size": size, "pointerSize": 100}
        return {"type": "file", "path": path, "size": size, "oid": "0" * 40, "lfs": lfs}

    def sha256(self, path: str, data: bytes) -> str:
        return self.server.hashes.get(path, hashlib.sha256(data).hexdigest())

    def send_json(self, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def send_file(self, name: str, files: dict[str, bytes], *, of_repo: bool = False) -> None:
        if name not in files:
            return self.fail(404, "EntryNotFound")
        data = files[name]
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        size = len(data) - first
        if self.command == "HEAD":
            size = self.server.promised.get(name, size)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(size))
        self.send_header("ETag", f'"{self.sha256(name, data)}"')
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if of_repo:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{self.sha256(name, data)}"')
            self.send_header("X-Linked-Size", str(self.server.listed.get(name, len(data))))
        self.end_headers()
        if self.command == "GET":
            self.send_body(data[first:])

    def send_body(self, data: bytes) -> None:
        cut, self.server.cut = self.server.cut, None
        self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass
