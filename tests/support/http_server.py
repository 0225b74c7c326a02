"""An HTTP server on loopback that serves files, and fails in the ways servers do."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass
class Served:
    """What a server serves, what it was asked, and how it misbehaves.

    `failures`: how many requests are answered 503, or have their connection reset,
    before it behaves (-1: for ever). `etags`: whether answers name what they are of.
    `waits_for`: an answer of more than a byte waits until so many requests have been
    there at once. `delay_s`: how long each answer takes to begin. `redirects`: status
    and Location by path, or by the beginning of one and `*`, for which the end of the
    path is added.
    """

    files: dict[str, bytes]
    url: str = ""
    requests: list[tuple[str, str, str | None]] = dataclasses.field(
        default_factory=list[tuple[str, str, "str | None"]]
    )
    nbytes: int = 0
    unavailable: int = 0
    resets: int = 0
    stalls: bool = False
    ignores_range: bool = False
    truncates: bool = False
    shifts: bool = False
    etags: bool = False
    waits_for: int = 0
    delay_s: float = 0
    redirects: dict[str, tuple[int, str]] = dataclasses.field(
        default_factory=dict[str, "tuple[int, str]"]
    )
    most_at_once: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    is_busy: threading.Event = dataclasses.field(default_factory=threading.Event)
    now: int = 0


def etag(contents: bytes) -> str:
    return f'"{zlib.crc32(contents):08x}"'


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        served = self.server.served
        wanted = self.headers.get("Range")
        with served.lock:
            served.requests.append((self.command, self.path, wanted))
            served.now += 1
            served.most_at_once = max(served.most_at_once, served.now)
            if served.now >= served.waits_for:
                served.is_busy.set()
            is_unavailable, is_reset = served.unavailable != 0, served.resets != 0
            if is_unavailable and served.unavailable > 0:
                served.unavailable -= 1
            elif is_reset and served.resets > 0:
                served.resets -= 1
        try:
            time.sleep(served.delay_s)
            if is_unavailable:
                self._answer(503, b"")
            elif is_reset:
                self.close_connection = True
                self.connection.close()
            else:
                self._serve(served, wanted)
        finally:
            with served.lock:
                served.now -= 1

    def _serve(self, served: Served, wanted: str | None) -> None:
        for start, (status, location) in served.redirects.items():
            if self.path.startswith(start.removesuffix("*")):
                tail = self.path.removeprefix(start.removesuffix("*"))
                self._answer(status, b"", location=location + tail)
                return
        contents = served.files.get(self.path)
        if contents is None:
            self._answer(404, b"")
            return
        if served.etags and self.headers.get("If-None-Match") == etag(contents):
            self._answer(304, b"", tag=etag(contents))
            return
        if wanted is None or served.ignores_range:
            self._answer(200, contents, tag=etag(contents))
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        size = len(contents)
        start = int(first) if first else max(0, size - int(last))
        stop = min(int(last) + 1, size) if first and last else size
        if served.shifts:
            start, stop = start + 4, min(stop + 4, size)
        if start >= size:
            self._answer(416, b"", f"bytes */{size}")
        else:
            span = f"bytes {start}-{stop - 1}/{size}"
            self._answer(206, contents[start:stop], span, tag=etag(contents))

    def _answer(
        self,
        status: int,
        body: bytes,
        span: str = "",
        *,
        tag: str = "",
        location: str = "",
    ) -> None:
        served = self.server.served
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if span:
            self.send_header("Content-Range", span)
        if location:
            self.send_header("Location", location)
        if tag and served.etags:
            self.send_header("ETag", tag)
        self.end_headers()
        if served.waits_for and len(body) > 1:
            served.is_busy.wait(600)
        if (served.stalls or served.truncates) and len(body) > 1:
            body = body[: len(body) // 2]
            self.close_connection = True
        with served.lock:
            served.nbytes += len(body)
        self.wfile.write(body)
        if served.stalls:
            self.wfile.flush()
            served.stop.wait()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a connection that finds no room is tried after 1 s
    served: Served

    def handle_error(self, *_: Any) -> None:
        """Clients that give up are no news."""


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Served]:
    """Serves files, by their paths, until the block ends."""
    served = Served(files)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.served = served
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.stop.set()
        server.shutdown()
        server.server_close()
