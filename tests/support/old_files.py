"""Files that look as if they had been written long ago."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any


def write_as_if_old(path: pathlib.Path, contents: Any) -> None:
    """Writes a file; who opens what was just written waits 4 ms until it is older."""
    path.write_bytes(contents)
    os.utime(path, ns=(0, 0))


@contextlib.contextmanager
def flipped_bit(path: pathlib.Path, place: int) -> Iterator[None]:
    """Flips a bit of one byte until the block ends; the file looks as it did before."""
    whole = path.read_bytes()
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    damaged = bytearray(whole)
    damaged[place] ^= 1
    try:
        path.write_bytes(damaged)
        os.utime(path, ns=times)  # so that it is no other file, but a damaged one
        yield
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=times)
