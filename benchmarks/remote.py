"""One shard of a matrix over HTTP, and from a simulated store that takes its time."""

from __future__ import annotations

import collections
import contextlib
import http.server
import json
import math
import pathlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from . import checkpoints
from .processes import ROOT, environment
from .report import Goal, Section, Table

SHARDS = 64


# What the simulated store takes: until it answers (seconds), and for all bytes.
LATENCY_S = 0.03
NBYTES_PER_S = 200e6
# As many requests as tensorstore has under way, and the size of each at most (bytes).
SIDE_BY_SIDE = 32
REQUEST_NBYTES = 2 << 20


@contextlib.contextmanager
def serving(
    folder: pathlib.Path, latency_s: float = 0, nbytes_per_s: float = math.inf
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its URL."""
    arguments = [str(folder), str(latency_s), str(nbytes_per_s)]
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.remote", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield server, server.stdout.readline().strip()
    finally:
        server.stdin.close()
        server.wait()


def side_by_side(url: str, ranges: Iterable[tuple[int, int]]) -> float:
    """Seconds that plain requests for ranges of a file take, some at a time."""
    import tensorstore as ts

    store = ts.KvStore.open(url).result()
    under_way: collections.deque[Any] = collections.deque()
    begun = time.perf_counter()
    for start, stop in ranges:
        if len(under_way) == SIDE_BY_SIDE:
            assert under_way.popleft().result().value  # a copy, as whoever reads takes
        under_way.append(store.read("", byte_range=slice(start, stop)))
    for future in under_way:
        assert future.result().value
    return time.perf_counter() - begun


def simulated_store(
    folder: pathlib.Path, rows: int, columns: int, count: int, rounds: int
) -> Section:
    """Benchmark 12: what is read of a store, and how long that takes."""
    checkpoints.bundle(folder / "matrix.ckpt", {"matrix": (rows, columns)})
    small = {f"small/{i:04d}": (16,) for i in range(count)}
    checkpoints.bundle(folder / "small.ckpt", small)
    table: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    for title, *speed in (
        ("store", LATENCY_S, NBYTES_PER_S), ("loopback", 0, math.inf)
    ):  # fmt: skip
        with serving(folder, *speed) as (server, url):
            seconds = _column_seconds(server, url, rows, columns, rounds)
            best = min(seconds["exact ranges"], seconds["whole rows"])
            ratio = seconds["tf2flax"] / best
            figures = [f"{value:.2f}" for value in seconds.values()]
            table.append((f"{title}: one column shard", *figures, f"{ratio:.2f}"))
            goals.append(
                Goal(f"{title}: column shard / the better", ratio, 1.3, is_most=True)
            )
    with serving(folder, LATENCY_S, NBYTES_PER_S) as (server, url):
        seconds_of_small = _small_seconds(server, url, count, rounds)
    ratio = seconds_of_small / LATENCY_S
    what = f"store: {count:,} small tensors / one latency"
    goals.append(Goal(what, ratio, 3, is_most=True))
    return Section(
        "12. A store that takes its time",
        "A simulated store: the server of section 3, which waits "
        f"{LATENCY_S * 1e3:.0f} ms before each answer and sends "
        f"{NBYTES_PER_S / 1e6:.0f} MB/s, and the plain server besides. A column "
        f"shard, 1/{SHARDS} of a float32 matrix of {rows} × "
        f"{columns}: plain requests of tensorstore, {SIDE_BY_SIDE} at a time, for the "
        "exact ranges or for whole rows, and `tensor[:, :n]`. Then `read()` of "
        f"{count:,} tensors of 64 bytes: {seconds_of_small * 1e3:.0f} ms. Medians of "
        f"{rounds} rounds, in each of which all take their turn.",
        [Table(("s", "exact ranges", "whole rows", "tf2flax", "/ the better"), table)],
        goals,
    )


def _column_seconds(
    server: subprocess.Popen[str], url: str, rows: int, columns: int, rounds: int
) -> dict[str, float]:
    """Seconds of a column shard: by exact ranges, by whole rows, by tf2flax."""
    import tf2flax

    tensor = tf2flax.open_checkpoint(f"{url}/matrix.ckpt")["matrix"]
    expected = tensor.read()[:, : columns // SHARDS]
    file = f"{url}/matrix.ckpt.data-00000-of-00001"
    row_nbytes, total = columns * 4, rows * columns * 4
    exact = [
        (row * row_nbytes, row * row_nbytes + row_nbytes // SHARDS)
        for row in range(rows)
    ]
    whole = [
        (start, min(start + REQUEST_NBYTES, total))
        for start in range(0, total, REQUEST_NBYTES)
    ]
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, ranges in (("exact ranges", exact), ("whole rows", whole)):
            seconds.setdefault(name, []).append(side_by_side(file, ranges))
        begun = time.perf_counter()
        got = tensor[:, : columns // SHARDS]
        seconds.setdefault("tf2flax", []).append(time.perf_counter() - begun)
        assert (got == expected).all()
    _served(server)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _small_seconds(
    server: subprocess.Popen[str], url: str, count: int, rounds: int
) -> float:
    """Seconds of reading many small tensors, of a checkpoint that is open."""
    import tf2flax

    seconds: list[float] = []
    for _ in range(rounds):
        checkpoint = tf2flax.open_checkpoint(f"{url}/small.ckpt")
        begun = time.perf_counter()
        assert len(checkpoint.read()) == count
        seconds.append(time.perf_counter() - begun)
    _served(server)
    return statistics.median(seconds)


def column_shard(folder: pathlib.Path, rows: int, columns: int) -> Section:
    """Benchmark 3: a sixty-fourth of the columns, and bytes served."""
    prefix = checkpoints.bundle(folder / "matrix.ckpt", {"matrix": (rows, columns)})
    found: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    needed = rows * columns * 4 // SHARDS
    with serving(pathlib.Path(prefix).parent) as (server, url):
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
            # Of columns, what is not needed comes sooner than it is left out.
            if what != "one column shard":
                goals.append(
                    Goal(f"{what}: bytes served / needed", over, 1.05, is_most=True)
                )
    return Section(
        "3. A shard of a matrix over HTTP",
        f"A float32 matrix of {rows} × {columns} on a loopback server (Python's own, "
        "in another process); bodies that it sent are counted. A column shard is a run "
        f"of {columns * 4 // SHARDS:,} bytes from each row; whole rows take less time "
        "than that many requests (section 12).",
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
    latency_s: ClassVar = 0.0
    nbytes_per_s: ClassVar = math.inf
    # When the line to the clients is free again, which all answers share.
    free_at: ClassVar = [0.0]

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        time.sleep(self.latency_s)
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
        for start in range(0, len(body), _PACKET_NBYTES):
            packet = body[start : start + _PACKET_NBYTES]
            self._wait_for_line(len(packet))
            self.wfile.write(packet)

    def _wait_for_line(self, nbytes: int) -> None:
        """Waits until some bytes have gone over the line."""
        if self.nbytes_per_s == math.inf:
            return
        with self.lock:
            now = time.perf_counter()
            self.free_at[0] = max(now, self.free_at[0]) + nbytes / self.nbytes_per_s
            wait_s = self.free_at[0] - now
        time.sleep(wait_s)


# What goes over the line at once (bytes).
_PACKET_NBYTES = 256 << 10


class _Server(http.server.ThreadingHTTPServer):
    """Takes connections as they come: one that waits too long is tried after 1 s."""

    daemon_threads = True
    request_queue_size = 128


def main(folder: str, latency_s: str = "0", nbytes_per_s: str = "inf") -> None:
    """Serves a folder; says what it served whenever a line comes in."""
    _Handler.folder = folder
    _Handler.latency_s, _Handler.nbytes_per_s = float(latency_s), float(nbytes_per_s)
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    for _ in sys.stdin:
        with _Handler.lock:
            print(json.dumps(_Handler.counts), flush=True)
            _Handler.counts.update(nbytes=0, requests=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
