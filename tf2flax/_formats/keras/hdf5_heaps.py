"""Heaps of an HDF5 file, where it keeps values of varying length: strings.

Read without h5py, since HDF5 can hang on damaged heaps.

Source: the HDF5 File Format Specification, version 3.0, III.E (global heaps).
"""

from __future__ import annotations

import struct
from typing import Final

from tf2flax._base.errors import MalformedError

from .file import FileSlice

# Stored for a value of varying length: its length, the address of a heap, its number.
REFERENCE: Final = struct.Struct("<IQI")
# A heap, and before each of its values: its number and length.
_HEAP: Final = struct.Struct("<4sB3xQ")
_HEAP_OBJECT: Final = struct.Struct("<HH4xQ")


class Heaps:
    """The values of varying length in a file."""

    def __init__(self, stream: FileSlice) -> None:
        """Reads nothing yet."""
        self._stream = stream
        self._left = stream.nbytes
        self._objects: dict[int, dict[int, bytes]] = {}

    def get(self, reference: bytes) -> bytes:
        """Looks a value up.

        Args:
            reference: What is stored in its place, 16 bytes.

        Returns:
            The value.

        Raises:
            MalformedError: There is none.
        """
        nbytes, address, number = REFERENCE.unpack(reference)
        if not nbytes:
            return b""
        if address not in self._objects:
            self._objects[address] = self._parse(address)
        value = self._objects[address].get(number, b"")
        if len(value) < nbytes:
            raise MalformedError(f"no {nbytes} bytes lie at {address}, number {number}")
        return value[:nbytes]

    def _parse(self, address: int) -> dict[int, bytes]:
        header = bytearray(_HEAP.size)
        self._stream.fill(address, memoryview(header))
        magic, version, nbytes = _HEAP.unpack(header)
        # Heaps do not overlap, so all together are no larger than the file.
        self._left -= nbytes
        if magic != b"GCOL" or version != 1 or nbytes < _HEAP.size or self._left < 0:
            raise MalformedError(f"no heap of strings lies at {address}")
        heap = bytearray(nbytes)
        self._stream.fill(address, memoryview(heap))
        values: dict[int, bytes] = {}
        position = _HEAP.size
        while position + _HEAP_OBJECT.size <= nbytes:
            number, _, size = _HEAP_OBJECT.unpack_from(heap, position)
            position += _HEAP_OBJECT.size
            if number == 0:  # the rest is free
                break
            if position + size > nbytes:
                raise MalformedError(f"the heap of strings at {address} is cut")
            values[number] = bytes(heap[position : position + size])
            position += -(-size // 8) * 8
        return values
