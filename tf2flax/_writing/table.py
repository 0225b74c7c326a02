"""Writes SSTables as TensorFlow does: uncompressed blocks, every 16th key in full.

Source: tensorflow/core/lib/io/table_builder.cc, block_builder.cc, format.cc.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from tf2flax._formats.wire.coding import crc32c, encode_varint64, mask
from tf2flax._formats.wire.sstable import FOOTER_NBYTES, TABLE_MAGIC

# A block is closed when it has grown to this (bytes).
# Source: `Options::block_size`, tensorflow/core/lib/io/table_options.h.
_BLOCK_NBYTES: Final = 262_144
_RESTART_INTERVAL: Final = 16
_UNCOMPRESSED: Final = b"\0"


def build_table(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Builds a table.

    Args:
        items: Keys, strictly ascending, with their values.

    Returns:
        All bytes of the file.

    Raises:
        ValueError: Keys do not ascend.
    """
    out = bytearray()
    handles = _BlockBuilder(restart_interval=1)
    block = _BlockBuilder(_RESTART_INTERVAL)
    last: bytes | None = None
    for key, value in items:
        if last is not None and key <= last:
            raise ValueError(f"Expected ascending keys, got {key!r} after {last!r}.")
        block.add(key, value)
        last = key
        if block.nbytes >= _BLOCK_NBYTES:
            handles.add(key, _append(out, block.finish()))
            block = _BlockBuilder(_RESTART_INTERVAL)
    if last is not None and block.nbytes:
        handles.add(last, _append(out, block.finish()))
    meta = _append(out, _BlockBuilder(1).finish())  # nothing uses it
    index = _append(out, handles.finish())
    padding = FOOTER_NBYTES - len(TABLE_MAGIC)
    return bytes(out) + (meta + index).ljust(padding, b"\0") + TABLE_MAGIC


class _BlockBuilder:
    """One block: entries that share what they can with the key before them."""

    def __init__(self, restart_interval: int) -> None:
        self._interval = restart_interval
        self._out = bytearray()
        self._restarts = [0]
        self._count = 0
        self._last = b""

    @property
    def nbytes(self) -> int:
        return len(self._out)

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._count % self._interval == 0:
            if self._count:
                self._restarts.append(len(self._out))
        else:
            most = min(len(key), len(self._last))
            while shared < most and key[shared] == self._last[shared]:
                shared += 1
        for length in (shared, len(key) - shared, len(value)):
            self._out += encode_varint64(length)
        self._out += key[shared:] + value
        self._last = key
        self._count += 1

    def finish(self) -> bytes:
        count = len(self._restarts)
        return bytes(self._out) + struct.pack(f"<{count + 1}I", *self._restarts, count)


def _append(out: bytearray, contents: bytes) -> bytes:
    """Appends a block with its trailer; returns its handle."""
    handle = encode_varint64(len(out)) + encode_varint64(len(contents))
    checksum = mask(crc32c(_UNCOMPRESSED, crc32c(contents)))
    out += contents + _UNCOMPRESSED + struct.pack("<I", checksum)
    return handle
