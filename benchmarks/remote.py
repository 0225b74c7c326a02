"""One shard of a matrix from a store that speaks HTTP."""

from __future__ import annotations

import http.server
import json
import pathlib
import subprocess
import sys
import threading
import time
from typing import Any, ClassVar

from . import checkpoints
from .processes import ROOT, environment
from .report import Goal, Section, Table

SHARDS = 64


def column_shard(folder: pathlib.Path, rows: int, columns: int) -> Section:
    """Benchmark 3: a sixty-fourth of the columns, and bytes served."""
    prefix = checkpoints.bundle(folder / "matrix.ckpt", {"matrix": (rows, columns)})
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.remote", str(pathlib.Path(prefix).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    found: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    needed = rows * columns * 4 // SHARDS
    try:
        url = server.stdout.readline().strip()
        for what in ("one column shard", "one row shard", "the whole matrix"):
            import tf2flax

            checkpoint = tf2flax.open_checkpoint(f"{url}/matrix.ckpt")
            tensor = checkpoint["matrix"]
            tensor[:1, :1]  # the connection is there
            _served(server)
            begun = time.perf_counter()
            if what == "one column shard":
                got = tensor[:, : columns // SHARDS]
            elif what == "one row shard":
                got = tensor[: rows // SHARDS]
            else:
                got = tensor.read()
            seconds = time.perf_counter() - begun
            served = _served(server)
            assert got.size * 4 == (needed if "shard" in what else needed * SHARDS)
            over = served["nbytes"] / got.nbytes
            found.append(
                (
                    what,
                    f"{got.nbytes / 1e6:.2f}",
                    f"{served['nbytes'] / 1e6:.2f}",
                    f"{over:.4f}",
                    str(served["requests"]),
                    f"{seconds:.2f}",
                )
            )
            goals.append(
                Goal(f"{what}: bytes served / needed", over, 1.05, is_most=True)
            )
    finally:
        server.stdin.close()
        server.wait()
    return Section(
        "3. A shard of a matrix over HTTP",
        f"A float32 matrix of {rows} × {columns} on a loopback server (Python's own, "
        "in another process); bodies that it sent are counted. A column shard is a run "
        f"of {columns * 4 // SHARDS:,} bytes from each row.",
        [
            Table(
                ("", "MB needed", "MB served", "served / needed", "requests", "s"),
                found,
            )
        ],
        goals,
    )


def _served(server: subprocess.Popen[str]) -> dict[str, Any]:
    """What was served since the last time."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write("\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves ranges of files, and counts."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: ClassVar = ""
    counts: ClassVar = {"nbytes": 0, "requests": 0}
    lock: ClassVar = threading.Lock()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        path = pathlib.Path(self.folder, pathlib.PurePosixPath(self.path).name)
        if not path.is_file():
            self._answer(404, b"")
            return
        size = path.stat().st_size
        wanted = self.headers.get("Range")
        if wanted is None:
            self._answer(200, path.read_bytes())
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, size - int(last))
        stop = min(int(last) + 1, size) if first and last else size
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        self._answer(206, body, f"bytes {start}-{stop - 1}/{size}")

    def _answer(self, status: int, body: bytes, span: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        with self.lock:
            self.counts["nbytes"] += len(body)
            self.counts["requests"] += 1
        self.wfile.write(body)


def main(folder: str) -> None:
    """Serves a folder; says what it served whenever a line comes in."""
    _Handler.folder = folder
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    for _ in sys.stdin:
        with _Handler.lock:
            print(json.dumps(_Handler.counts), flush=True)
            _Handler.counts.update(nbytes=0, requests=0)


if __name__ == "__main__":
    main(sys.argv[1])
