"""A server on loopback that speaks as much of the JSON API of GCS as tensorstore asks.

Objects with generations: reads with ranges and conditions, uploads, listings, removals.
It fails in the ways servers do.

Source: https://cloud.google.com/storage/docs/json_api/v1/objects
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

_ROOT = re.compile(
    r"(?P<upload>/upload)?/storage/v1/b/(?P<bucket>[^/]+)/o/?(?P<name>.*)"
)


@dataclasses.dataclass
class Bucket:
    """What a server holds, what it was asked, and how it misbehaves.

    `fails(method, key)`: what is wrong with a request: "" for nothing, "503",
    "stall" (nothing is answered), "cut" (the connection is reset in the middle of an
    upload), "lost" (what is asked for is done, and the connection is reset), "late"
    (it is done once `release` is set, whoever still waits for it).
    """

    url: str = ""
    objects: dict[str, tuple[bytes, int]] = dataclasses.field(
        default_factory=dict[str, "tuple[bytes, int]"]
    )
    requests: list[tuple[str, str]] = dataclasses.field(
        default_factory=list[tuple[str, str]]
    )
    fails: Callable[[str, str], str] = lambda _method, _key: ""
    generation: int = 1_700_000_000_000_000
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    release: threading.Event = dataclasses.field(default_factory=threading.Event)

    def names(self) -> list[str]:
        """The keys of all objects, sorted."""
        return sorted(self.objects)

    def uploads(self) -> list[str]:
        """Keys in the order in which they were uploaded."""
        return [key for method, key in self.requests if method == "POST"]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_GET

    def _handle(self) -> None:
        bucket = self.server.bucket
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        root = _ROOT.fullmatch(parts.path)
        assert root is not None, self.path
        key = urllib.parse.unquote(root["name"]) or query.get("name", "")
        with bucket.lock:
            bucket.requests.append((self.command, key))
            fault = bucket.fails(self.command, key)
        size = int(self.headers.get("Content-Length", 0))
        if fault == "stall":
            bucket.stop.wait()
            self.close_connection = True
            return
        if fault == "cut":
            self.rfile.read(size // 2)
            self._reset()
            return
        body = self.rfile.read(size)
        if len(body) < size:  # the client has given up
            self.close_connection = True
            return
        if fault == "503":
            self._answer(503, b"try again")
            return
        if fault == "late":
            bucket.release.wait()
        with bucket.lock:
            status, contents, headers = self._perform(bucket, key, query, body)
        if fault == "lost":
            self._reset()
            return
        self._answer(status, contents, headers)

    def _perform(
        self, bucket: Bucket, key: str, query: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if self.command == "POST":
            _, generation = bucket.objects.get(key, (b"", 0))
            if query.get("ifGenerationMatch", str(generation)) != str(generation):
                return 412, b"", {}
            bucket.generation += 1
            bucket.objects[key] = body, bucket.generation
            return 200, _metadata(key, *bucket.objects[key]), {}
        if self.command == "DELETE":
            return (204 if bucket.objects.pop(key, None) else 404), b"", {}
        if not key:
            return 200, _listing(bucket, query), {}
        if key not in bucket.objects:
            return 404, b"", {}
        contents, generation = bucket.objects[key]
        if query.get("ifGenerationNotMatch") == str(generation):
            return 304, b"", {}
        if query.get("alt") == "json":
            return 200, _metadata(key, contents, generation), {}
        headers = {"x-goog-generation": str(generation)}
        wanted = self.headers.get("Range")
        if wanted is None:
            return 200, contents, headers
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        size = len(contents)
        start = int(first) if first else max(0, size - int(last))
        stop = min(int(last) + 1, size) if first and last else size
        if start >= size:
            return 416, b"", headers | {"Content-Range": f"bytes */{size}"}
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return 206, contents[start:stop], headers

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if status != 304:
            self.wfile.write(body)


def _metadata(key: str, contents: bytes, generation: int) -> bytes:
    return json.dumps(
        {
            "kind": "storage#object",
            "name": key,
            "size": str(len(contents)),
            "generation": str(generation),
            "metageneration": "1",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }
    ).encode()


def _listing(bucket: Bucket, query: dict[str, str]) -> bytes:
    start, end = query.get("startOffset", ""), query.get("endOffset", "")
    prefix = query.get("prefix", "")
    items = [
        {"name": key, "size": str(len(contents)), "generation": str(generation)}
        for key, (contents, generation) in sorted(bucket.objects.items())
        if key.startswith(prefix) and key >= start and (not end or key < end)
    ]
    return json.dumps({"kind": "storage#objects", "items": items}).encode()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    bucket: Bucket

    def handle_error(self, *_: Any) -> None:
        """Clients that give up are no news."""


@contextlib.contextmanager
def serving_bucket() -> Iterator[Bucket]:
    """Serves one bucket, whatever it is called, until the block ends."""
    bucket = Bucket()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.bucket = bucket
    bucket.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        bucket.stop.set()
        bucket.release.set()
        server.shutdown()
        server.server_close()
