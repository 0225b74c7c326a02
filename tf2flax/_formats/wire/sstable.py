"""SSTable: sorted keys and values in checked, perhaps compressed blocks.

Blocks are read and decoded when they are needed. Nothing is trusted: handles, lengths,
restarts and the order of keys are checked, and no allocation exceeds a stated multiple
of the file.

Source: tensorflow/core/lib/io/format.cc, block.cc, table.cc.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from typing import Final, Protocol

import cramjam

from tf2flax._base.errors import MalformedError

from .coding import crc32c, mask, read_varint64

TABLE_MAGIC: Final = bytes.fromhex("57fb808b247547db")
# Two handles of two varints each, padded, then the magic (bytes).
FOOTER_NBYTES: Final = 48
# After each block: one byte of compression type, four of masked CRC (bytes).
_TRAILER_NBYTES: Final = 5
# A block of small values, of which the next is likely to be asked for next (bytes).
_MAX_KEPT_NBYTES: Final = 1 << 20
_UNCOMPRESSED: Final = 0
_SNAPPY: Final = 1
# Keys repeat what they share with the one before. TensorFlow writes every 16th in full,
# so that keys take at most 16 times the bytes of their block; without a bound, a block
# of n bytes could hold keys of n² bytes.
_MAX_KEY_RATIO: Final = 16
# No element of snappy gives more for its bytes than a copy of 64 in 3 bytes; what
# announces more than that is not snappy data.
MAX_SNAPPY_RATIO: Final = 22


class TableSource(Protocol):
    """The bytes of a table, wherever they are."""

    @property
    def nbytes(self) -> int | None:
        """Length of the table; None if it is not known."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """Reads bytes, all of them.

        Raises:
            MalformedError: There are not so many.
        """
        ...

    def tail(self, nbytes: int) -> bytes:
        """Reads the last bytes, at most all."""
        ...


class Bytes:
    """A table held in memory."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        """Holds the bytes of a table."""
        self._data = data

    @property
    def nbytes(self) -> int:
        """Length of the table."""
        return len(self._data)

    def read(self, start: int, stop: int) -> bytes:
        """Cuts bytes out."""
        return self._data[start:stop]

    def tail(self, nbytes: int) -> bytes:
        """Cuts the last bytes off."""
        return self._data[-nbytes:]

    def __reduce__(self) -> tuple[type[Bytes], tuple[bytes]]:
        """Pickles the bytes."""
        return Bytes, (self._data,)


class TableBlock:
    """The entries of one block: its keys, and where their values lie."""

    __slots__ = ("_contents", "_starts", "_stops", "keys")

    def __init__(self, contents: bytes) -> None:
        """Decodes a block.

        Args:
            contents: Its bytes, uncompressed and without trailer.

        Raises:
            MalformedError: A length or restart is impossible, or keys do not ascend.
        """
        self.keys: list[bytes] = []
        self._contents = contents
        self._starts: list[int] = []
        self._stops: list[int] = []
        keys, starts, stops = self.keys, self._starts, self._stops
        end, restarts = _restarts(contents)
        pos, last = 0, b""
        room = _MAX_KEY_RATIO * len(contents)
        count, restart = 0, restarts[0] if restarts else -1
        while pos < end:
            # Nearly all lengths fit one byte each; the general case follows. After the
            # entries come four bytes at least, so that these are there.
            shared, non_shared, length = contents[pos : pos + 3]
            if pos == restart and not shared:
                count += 1
                restart = restarts[count] if count < len(restarts) else -1
            if (shared | non_shared | length) < 0x80:
                pos += 3
            else:
                shared, pos = read_varint64(contents, pos, end)
                non_shared, pos = read_varint64(contents, pos, end)
                length, pos = read_varint64(contents, pos, end)
            split = pos + non_shared
            after = split + length
            if shared > len(last) or after > end:
                raise MalformedError(
                    f"an entry of lengths {shared}, {non_shared}, {length} leaves its "
                    f"block of {end} bytes"
                )
            key = last[:shared] + contents[pos:split]
            room -= len(key)
            if room < 0:
                raise MalformedError(
                    f"the keys of a block of {len(contents)} bytes take more than "
                    f"{_MAX_KEY_RATIO} times as many"
                )
            if key <= last and keys:
                raise MalformedError(f"key {key[:80]!r} follows {last[:80]!r}")
            keys.append(key)
            starts.append(split)
            stops.append(after)
            last, pos = key, after
        if end:
            _check_restarts(restarts, count)

    def value(self, number: int) -> memoryview:
        """One value, not copied.

        Args:
            number: That of its key.

        Returns:
            Its bytes.
        """
        return memoryview(self._contents)[self._starts[number] : self._stops[number]]

    def values(self) -> Iterator[bytes]:
        """Iterates over the values, in the order of the keys."""
        contents = self._contents
        spans = zip(self._starts, self._stops, strict=True)
        return (contents[start:stop] for start, stop in spans)

    def find(self, key: bytes) -> int | None:
        """Finds one key.

        Args:
            key: The key.

        Returns:
            Its number; None where the block lacks it.
        """
        number = bisect.bisect_left(self.keys, key)
        is_there = number < len(self.keys) and self.keys[number] == key
        return number if is_there else None


class SSTable:
    """An immutable table; each block is decoded once, when needed."""

    def __init__(self, source: TableSource, *, keeps_blocks: bool = True) -> None:
        """Parses footer and block index.

        Args:
            source: Its bytes.
            keeps_blocks: True keeps decoded blocks in memory; else only the last one
                stays, if it is small.

        Raises:
            MalformedError: It is not a table, its block index is malformed, or blocks
                overlap.
        """
        self._source = source
        self._keeps_blocks = keeps_blocks
        tail = source.tail(FOOTER_NBYTES)
        if len(tail) < FOOTER_NBYTES:
            raise MalformedError(
                f"expected a table of at least {FOOTER_NBYTES} bytes, got {len(tail)}"
            )
        if tail[-len(TABLE_MAGIC) :] != TABLE_MAGIC:
            raise MalformedError("the magic number of a table is missing at its end")
        footer = tail[: -len(TABLE_MAGIC)]
        _, pos = _read_handle(footer, 0)  # of the meta index, which nothing uses
        (offset, size), _ = _read_handle(footer, pos)
        # Writers put the block index right before the footer.
        last = offset + size + _TRAILER_NBYTES
        nbytes = source.nbytes
        self._stop = last if nbytes is None else nbytes - FOOTER_NBYTES
        index = TableBlock(self._contents(offset, size))
        self._separators = index.keys
        self._handles = [_read_handle(value, 0)[0] for value in index.values()]
        _check_disjoint(self._handles)
        self._blocks: dict[int, TableBlock] = {}
        self._last = _nowhere()

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the blocks, which are decoded again."""
        return {**self.__dict__, "_blocks": {}, "_last": _nowhere()}

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, as far as is known."""
        return self._stop

    def get(self, key: bytes) -> memoryview | None:
        """Looks up one key; decodes one block.

        Args:
            key: The key.

        Returns:
            Its value, not copied; None where the table lacks it.

        Raises:
            MalformedError: The block that would hold it is malformed.
        """
        # Who asks for all keys asks in their order, mostly.
        last, place = self._last
        place += 1
        if place < len(last.keys) and last.keys[place] == key:
            self._last = last, place
            return last.value(place)
        number = bisect.bisect_left(self._separators, key)
        if number == len(self._handles):
            return None
        block = self._block(number)
        place = block.find(key)
        if place is None:
            return None
        if number in self._blocks:
            self._last = block, place
        return block.value(place)

    def keys(self) -> list[bytes]:
        """Lists all keys, ascending; decodes every block.

        Returns:
            The keys.

        Raises:
            MalformedError: A block is malformed.
        """
        return [k for n in range(len(self._handles)) for k in self._block(n).keys]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterates over all keys, ascending, with their values.

        Yields:
            Key and value.

        Raises:
            MalformedError: A block is malformed.
        """
        for number in range(len(self._handles)):
            block = self._block(number)
            yield from zip(block.keys, block.values(), strict=True)

    def check_blocks(self) -> Iterator[MalformedError]:
        """Reads and checks every block, one after the other.

        Yields:
            What is wrong with each that is malformed.
        """
        for number, handle in enumerate(self._handles):
            try:
                self._check_order(number, TableBlock(self._contents(*handle)))
            except MalformedError as error:
                yield error

    def _block(self, number: int) -> TableBlock:
        block = self._blocks.get(number)
        if block is None:
            block = TableBlock(self._contents(*self._handles[number]))
            self._check_order(number, block)
            if self._keeps_blocks:
                self._blocks[number] = block
            elif self._handles[number][1] <= _MAX_KEPT_NBYTES:
                self._blocks = {number: block}
        return block

    def _check_order(self, number: int, block: TableBlock) -> None:
        """Checks a block's keys against the separators, by which they are found."""
        if not block.keys:
            return
        if block.keys[-1] > self._separators[number]:
            raise MalformedError(
                f"key {block.keys[-1][:80]!r} lies beyond its block's separator"
            )
        if number and block.keys[0] <= self._separators[number - 1]:
            raise MalformedError(
                f"key {block.keys[0][:80]!r} lies before its block's separator"
            )

    def _contents(self, offset: int, size: int) -> bytes:
        """The bytes of one block, checked and uncompressed."""
        stop = offset + size
        if stop + _TRAILER_NBYTES > self._stop:
            raise MalformedError(
                f"a block at [{offset}:{stop}] leaves the {self._stop} bytes of the "
                "table before its footer"
            )
        block = self._source.read(offset, stop + _TRAILER_NBYTES)
        trailer = block[size:]
        stored = int.from_bytes(trailer[1:], "little")
        computed = mask(crc32c(memoryview(block)[: size + 1]))
        if stored != computed:
            raise MalformedError(
                f"the block at [{offset}:{stop}] has stored crc32c {stored:08x}, "
                f"computed {computed:08x}"
            )
        contents = block[:size]
        if trailer[0] == _UNCOMPRESSED:
            return contents
        if trailer[0] == _SNAPPY:
            return _uncompress(contents)
        raise MalformedError(
            f"the block at [{offset}:{stop}] has unknown compression {trailer[0]}"
        )


def _nowhere() -> tuple[TableBlock, int]:
    """A place before the first key of a block that has none."""
    return TableBlock(bytes(4)), -1


def _read_handle(data: bytes, pos: int) -> tuple[tuple[int, int], int]:
    offset, pos = read_varint64(data, pos, len(data))
    size, pos = read_varint64(data, pos, len(data))
    return (offset, size), pos


def _check_disjoint(handles: list[tuple[int, int]]) -> None:
    """Checks that every block lies after the one before.

    Writers append blocks one by one. Without this, an index could name one large block
    without entries many times, and a small file would take hours to list.
    """
    free = 0
    for offset, size in handles:
        if offset < free:
            raise MalformedError(
                f"a block at [{offset}:{offset + size}] overlaps or precedes another, "
                f"which ends at byte {free}"
            )
        free = offset + size + _TRAILER_NBYTES


def _restarts(contents: bytes) -> tuple[int, tuple[int, ...]]:
    """The end of the entries of a block, and its restart points."""
    if len(contents) < 4:
        raise MalformedError(f"a block of {len(contents)} bytes has no restart count")
    count = int.from_bytes(contents[-4:], "little")
    stop = len(contents) - 4 - 4 * count
    if stop < 0:
        raise MalformedError(
            f"a block of {len(contents)} bytes cannot hold {count} restarts"
        )
    return stop, struct.unpack_from(f"<{count}I", contents, stop)


def _check_restarts(restarts: tuple[int, ...], count: int) -> None:
    """Checks that restarts are entries that share nothing, ascending from the first.

    Readers that search by them would miss entries otherwise.

    Args:
        restarts: First bytes of entries.
        count: How many of them were met in the order of the entries.
    """
    if count < len(restarts):
        last, restart = restarts[count - 1], restarts[count]
        if count and restart <= last:
            raise MalformedError(f"a block restarts at byte {restart} after {last}")
        raise MalformedError(f"a block restarts at byte {restart}, in mid-entry")
    if not restarts or restarts[0] != 0:
        raise MalformedError("a block does not restart at its first entry")


def _uncompress(contents: bytes) -> bytes:
    size, _ = read_varint64(contents, 0, len(contents))
    if size > MAX_SNAPPY_RATIO * len(contents):
        raise MalformedError(
            f"a snappy block of {len(contents)} bytes announces {size} bytes"
        )
    try:
        result = bytes(cramjam.snappy.decompress_raw(contents))
    except cramjam.DecompressionError as error:
        raise MalformedError(f"a snappy block does not decompress: {error}") from error
    if len(result) != size:
        raise MalformedError(
            f"a snappy block announces {size} bytes and holds {len(result)}"
        )
    return result
