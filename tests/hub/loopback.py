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
from threading import Event, Thread
from typing import NamedTuple

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER = "89abcdef0123456789abcdef0123456789abcdef"
PATIENCE = 60  # seconds; only a test that fails waits so long


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    range: str | None
    condition: str | None = None  # If-Range


class Held:
    """An answer that waits: `reached` once it is asked for, and sent once `released`."""

    def __init__(self) -> None:
        self.reached, self.released = Event(), Event()


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
        self.later: dict[str, dict[str, bytes]] = {}  # of a repository: what main holds once COMMIT was listed
        self.versions: dict[str, dict[str, str]] = {}  # of a name: headers that tell it, not an ETag
        self.swapped: dict[str, bytes] = {}  # of a name: what it becomes after the next HEAD
        self.careless = False  # about If-Range
        self.unnamed = ""  # "HEAD" or "part": which answers tell no version
        self.main = COMMIT
        self.held: dict[str, Held] = {}  # answers that wait, by their path
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
        self.server.asked.append(Asked(self.command, path, self.headers.get("Range"), self.headers.get("If-Range")))
        if self.command == "GET" and (held := self.server.held.get(path)):
            held.reached.set()
            held.released.wait(PATIENCE)
        if path in self.server.statuses:
            self.fail(*self.server.statuses[path])
        elif path.startswith("/api/models/"):
            self.describe(*path.removeprefix("/api/models/").split("/", 2))
        elif path.startswith("/files/"):
            self.send_file(path.removeprefix("/files/"), self.server.files)
        else:
            owner, name, _, revision, file = path.lstrip("/").split("/", 4)
            self.send_file(file, self.holding(f"{owner}/{name}", revision), commit=self.commit_of(revision))

    def fail(self, status: int, word: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", word)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def describe(self, owner: str, name: str, rest: str) -> None:
        files = self.server.repos.get(f"{owner}/{name}")
        if files is None:
            return self.fail(404, "RepoNotFound")
        kind, revision = rest.split("/")[:2]
        if kind == "tree":
            if f"{owner}/{name}" in self.server.later:
                self.server.main = LATER
            held = self.holding(f"{owner}/{name}", revision)
            return self.send_json([self.entry(path, data) for path, data in held.items()])
        return self.send_json({"id": f"{owner}/{name}", "sha": self.commit_of(revision), "siblings": []})

    def commit_of(self, revision: str) -> str:
        return self.server.main if revision == "main" else revision

    def holding(self, repo: str, revision: str) -> dict[str, bytes]:
        """The files of a repository at a revision."""
        held = self.server.later if self.commit_of(revision) == LATER else self.server.repos
        return held.get(repo, {})

    def entry(self, path: str, data: bytes) -> dict:
        size = self.server.listed.get(path, len(data))
        lfs = {"oid": self.sha256(path, data), "size": size, "pointerSize": 100}  # of large files alone, as the hub
        large = {} if path.endswith(".json") else {"lfs": lfs}
        return {"type": "file", "path": path, "size": size, "oid": "0" * 40, **large}

    def sha256(self, path: str, data: bytes) -> str:
        return self.server.hashes.get(path, hashlib.sha256(data).hexdigest())

    def send_json(self, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def send_file(self, name: str, files: dict[str, bytes], *, commit: str | None = None) -> None:
        if name not in files:
            return self.fail(404, "EntryNotFound")
        data = files[name]
        version = self.server.versions.get(name, {"ETag": f'"{self.sha256(name, data)}"'})
        first = self.first_byte(version)
        size = len(data) - first
        if self.command == "HEAD":
            size = self.server.promised.get(name, size)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(size))
        if self.server.unnamed not in (self.command, "part" if first else "whole"):
            for header, value in version.items():
                self.send_header(header, value)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if commit is not None:
            self.send_header("X-Repo-Commit", commit)
            self.send_header("X-Linked-Etag", f'"{self.sha256(name, data)}"')
            self.send_header("X-Linked-Size", str(self.server.listed.get(name, len(data))))
        if self.command == "HEAD" and name in self.server.swapped:
            files[name] = self.server.swapped.pop(name)
        self.end_headers()
        if self.command == "GET":
            self.send_body(data[first:])

    def first_byte(self, version: dict[str, str]) -> int:
        """Where the answer begins: at 0 where the file is of another version than the one asked for."""
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        changed = condition is not None and condition not in version.values() and not self.server.careless
        return 0 if asked is None or changed else int(asked.removeprefix("bytes=").rstrip("-"))

    def send_body(self, data: bytes) -> None:
        cut, self.server.cut = self.server.cut, None
        self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass
