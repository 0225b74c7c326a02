"""Commands on a terminal of their own: its width, its kind, Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from bundle_writer import write_bundle
from http_server import serving
from repository import DATA, ROOT

# Takes the terminal for its own. Ctrl-C there interrupts it, also where a shell runs
# the tests in the background.
RUN = """
import fcntl, runpy, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("tf2flax", run_name="__main__")
"""
BERT = str(DATA / "bert" / "model.ckpt")


@contextlib.contextmanager
def started(
    *arguments: str, columns: int = 80, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command on a terminal; the process, and where its output is read."""
    parent, child = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(child, termios.TIOCSWINSZ, size)
    left_out = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE")
    inherited = {k: v for k, v in os.environ.items() if k not in left_out}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        stdin=child, stdout=child, stderr=child, cwd=ROOT, start_new_session=True,
        env={**inherited, "TERM": "xterm-256color", **environment},
    )  # fmt: skip
    os.close(child)
    try:
        yield process, parent
    finally:
        process.kill()
        process.wait()
        os.close(parent)


def printed_by(process: subprocess.Popen[bytes], terminal: int) -> str:
    """All that a command prints until it ends."""
    printed = bytearray()
    with contextlib.suppress(OSError):  # the terminal is closed
        while chunk := os.read(terminal, 4096):
            printed += chunk
    process.wait()
    return printed.decode().replace("\r\n", "\n")


# Each is a process of its own: some are enough for every run.
slow = pytest.mark.slow


@pytest.mark.parametrize("columns", [40, pytest.param(120, marks=slow)])
def test_tables_fit_the_terminal(columns: int) -> None:
    with started("ls", BERT, "bert/pooler/", columns=columns) as (process, terminal):
        lines = printed_by(process, terminal).splitlines()
    assert process.returncode == 0
    names = {"bert/pooler/dense/kernel/adam_m", "bert/pooler/dense/kernel/adam_v"}
    assert all(len(line) <= columns or line in names for line in lines)
    assert (max(map(len, lines)) > 40) == (columns > 40)


@pytest.mark.parametrize(
    ("environment", "steers", "colours"),
    [
        pytest.param({}, True, True, marks=slow),
        pytest.param({"NO_COLOR": "1"}, True, False, marks=slow),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_kinds_of_terminals(
    environment: dict[str, str], steers: bool, colours: bool
) -> None:
    """A bar moves the cursor and has colours, unless the terminal cannot."""
    with started("verify", BERT, **environment) as (process, terminal):
        printed = printed_by(process, terminal)
    assert process.returncode == 0
    assert printed.endswith("139 tensors, 282320 bytes checked: all well\n")
    assert ("\x1b[" in printed) == steers
    assert ("\x1b[38;" in printed) == colours


class Waiting(dict[str, bytes]):
    """Files of a server of which those with a word in their names never come."""

    def __init__(self, files: dict[str, bytes], word: str) -> None:
        super().__init__(files)
        self.word = word
        self.is_asked, self.ends = threading.Event(), threading.Event()

    def get(self, key: str, default: bytes | None = None) -> bytes | None:  # type: ignore[override]
        if self.word in key:
            self.is_asked.set()
            self.ends.wait(600)
        return super().get(key, default)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        pytest.param("ls", ".index", marks=slow),
        pytest.param("verify", ".data", marks=slow),
        ("convert", ".data"),
    ],
)
def test_ctrl_c(command: str, word: str, tmp_path: pathlib.Path) -> None:
    """Ends at once, with the code of shells, no traceback, and nothing half-written."""
    write_bundle(tmp_path / "m", {"a": np.ones(2)})
    files = Waiting({f"/{f.name}": f.read_bytes() for f in tmp_path.glob("m.*")}, word)
    out = [str(tmp_path / "out.npz")] if command == "convert" else []
    with serving(files) as served:
        with started(command, f"{served.url}/m", *out) as (process, terminal):
            assert files.is_asked.wait(60)
            os.write(terminal, b"\x03")
            printed = printed_by(process, terminal)
        files.ends.set()
    assert process.returncode == 130
    assert "Traceback" not in printed
    assert not [*tmp_path.glob("out*")]
