"""SSTables: what is written is read; what is broken is MalformedError and no other."""

from __future__ import annotations

import pickle
import struct

import bundle_writer as w
import cramjam
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from tf2flax._base.errors import MalformedError
from tf2flax._formats.wire import sstable
from tf2flax._formats.wire.sstable import Bytes, SSTable


@given(
    items=strategies.tables,
    block_size=st.sampled_from([1, 64, 4096]),
    restart_interval=st.integers(1, 20),
    snappy=st.booleans(),
)
def test_round_trip(
    items: dict[bytes, bytes], block_size: int, restart_interval: int, snappy: bool
) -> None:
    ordered = sorted(items.items())
    data = w.table_bytes(
        ordered,
        block_size=block_size,
        restart_interval=restart_interval,
        snappy=snappy,
    )
    table = SSTable(Bytes(data))
    assert list(table.items()) == ordered
    assert table.keys() == [key for key, _ in ordered]
    for key, value in ordered:
        assert table.get(key) == value
        assert table.get(key + b"\0") == items.get(key + b"\0")
    assert list(pickle.loads(pickle.dumps(table)).items()) == ordered


def test_literal_bytes() -> None:
    block = b"\0\1\2k12" + b"\1\1\1l3" + struct.pack("<II", 0, 1)
    table = SSTable(Bytes(w.raw_table_bytes([(b"kl", block)])))
    assert list(table.items()) == [(b"k", b"12"), (b"kl", b"3")]


def test_one_lookup_decodes_one_block() -> None:
    items = [(b"%03d" % i, bytes(50)) for i in range(100)]
    table = SSTable(Bytes(w.table_bytes(items, block_size=100)))
    assert table.get(b"050") == bytes(50)
    assert len(table._blocks) == 1


VALID = w.table_bytes(
    [(b"key%02d" % i, bytes([i]) * 9) for i in range(40)], block_size=128
)


def read_all(data: bytes) -> list[tuple[bytes, bytes]]:
    return list(SSTable(Bytes(data)).items())


def test_cut_at_every_byte() -> None:
    for stop in range(len(VALID)):
        with pytest.raises(MalformedError):
            read_all(VALID[:stop])


def test_any_flipped_bit_is_found_or_changes_nothing() -> None:
    expected = read_all(VALID)
    unnoticed: set[int] = set()
    for i in range(len(VALID)):
        for bit in range(8):
            data = bytearray(VALID)
            data[i] ^= 1 << bit
            try:
                assert read_all(bytes(data)) == expected
            except MalformedError:
                continue
            unnoticed.add(i)
    # The meta index, its handle and the padding of the footer, which nothing uses; and
    # the last byte of the handles, which with the padding can spell the same number.
    meta = w.with_trailer(w.block_bytes([], 1))
    start, footer = VALID.index(meta), len(VALID) - 48
    handles = VALID[footer : footer + 40].rstrip(b"\0")
    assert unnoticed >= set(range(start, start + len(meta)))
    assert unnoticed <= {
        *range(start, start + len(meta)),
        *range(footer, footer + 3),
        *range(footer + len(handles) - 1, footer + 40),
    }


@given(damage=strategies.damage, snappy=st.booleans())
def test_several_bytes_overwritten(damage: list[tuple[int, int]], snappy: bool) -> None:
    items = [(b"key%02d" % i, bytes([i]) * 9) for i in range(40)]
    data = bytearray(w.table_bytes(items, block_size=128, snappy=snappy))
    for position, value in damage:
        data[position % len(data)] = value
    try:
        assert read_all(bytes(data)) == items
    except MalformedError:
        return


@given(data=st.binary(max_size=300), has_magic=st.booleans())
def test_random_bytes(data: bytes, has_magic: bool) -> None:
    if has_magic:
        data = data + struct.pack("<Q", w.MAGIC)
    with pytest.raises(MalformedError):
        read_all(data)


@given(contents=st.binary(max_size=120), snappy=st.booleans())
def test_random_blocks_under_valid_checksums(contents: bytes, snappy: bool) -> None:
    data = w.raw_table_bytes([(b"\xff" * 200, contents)], snappy=snappy)
    try:
        found = [key for key, _ in read_all(data)]
    except MalformedError:
        return
    assert found == sorted(set(found))


HUGE = w.varint(2**32 - 1)
BROKEN_BLOCKS = {
    "shared wraps 32 bits": HUGE + b"\1\1kv",
    "non_shared wraps 32 bits": b"\0" + HUGE + b"\1kv",
    "value length wraps 32 bits": b"\0\1" + HUGE + b"kv",
    "lengths that sum to a wrapped one": b"\0" + w.varint(2**64 - 1) + b"\2kv",
    "shared beyond the last key": b"\2\1\1kv",
    "an entry without its value": b"\0\1\5kv",
    "keys twice": b"\0\1\1kv\0\1\1kv",
    "keys out of order": b"\0\1\1kv\0\1\1jv",
    "a varint that does not end": b"\xff" * 11,
}


@pytest.mark.parametrize("what", list(BROKEN_BLOCKS))
def test_broken_entries(what: str) -> None:
    block = BROKEN_BLOCKS[what] + struct.pack("<II", 0, 1)
    with pytest.raises(MalformedError):
        read_all(w.raw_table_bytes([(b"\xff", block)]))


@pytest.mark.parametrize("count", [2, 3, 2**30, 2**32 - 1])
def test_restart_counts_beyond_the_block(count: int) -> None:
    block = b"\0\1\1kv" + struct.pack("<II", 0, count)
    with pytest.raises(MalformedError):
        read_all(w.raw_table_bytes([(b"\xff", block)]))


def test_restarts_in_mid_entry() -> None:
    block = b"\0\1\1kv" + struct.pack("<II", 2, 1)
    with pytest.raises(MalformedError, match="mid-entry"):
        read_all(w.raw_table_bytes([(b"\xff", block)]))


def test_restarts_at_an_entry_that_shares() -> None:
    block = b"\0\1\1av" + b"\1\1\1bv" + struct.pack("<III", 0, 5, 2)
    with pytest.raises(MalformedError, match="byte 5, in mid-entry"):
        read_all(w.raw_table_bytes([(b"\xff", block)]))


@pytest.mark.parametrize(
    ("restarts", "message"),
    [
        ([], "first entry"),
        ([5], "first entry"),
        ([0, 0], "restarts at byte 0 after 0"),
        ([5, 0], "restarts at byte 0 after 5"),
    ],
)
def test_restarts_that_miss_entries(restarts: list[int], message: str) -> None:
    count = len(restarts)
    block = b"\0\1\1av" + b"\0\1\1bv"
    block += struct.pack(f"<{count + 1}I", *restarts, count)
    with pytest.raises(MalformedError, match=message):
        read_all(w.raw_table_bytes([(b"\xff", block)]))


def table_of_shared_blocks(handles: list[tuple[int, int]], stored: bytes) -> bytes:
    """A table whose index names these spans of some stored blocks."""
    index = w.block_bytes(
        [(b"%06d" % i, w.varint(o) + w.varint(n)) for i, (o, n) in enumerate(handles)],
        1,
    )
    footer = w.varint(0) + w.varint(0) + w.varint(len(stored)) + w.varint(len(index))
    footer = footer.ljust(40, b"\0") + struct.pack("<Q", w.MAGIC)
    return stored + w.with_trailer(index) + footer


def test_one_block_without_entries_named_many_times() -> None:
    # Read as it stands this takes handles times restarts: minutes for a small file.
    contents = struct.pack("<100001I", *[0] * 100_000, 100_000)
    stored = w.with_trailer(contents, snappy=True)
    once = table_of_shared_blocks([(0, len(stored) - 5)], stored)
    assert read_all(once) == []
    many = table_of_shared_blocks([(0, len(stored) - 5)] * 20_000, stored)
    with pytest.raises(MalformedError, match="overlaps or precedes"):
        SSTable(Bytes(many))


def test_blocks_in_another_order_than_their_keys() -> None:
    first = w.with_trailer(w.block_bytes([(b"000001", b"b")], 1))
    second = w.with_trailer(w.block_bytes([(b"000000", b"a")], 1))
    stored = first + second
    spans = [(0, len(first) - 5), (len(first), len(second) - 5)]
    with pytest.raises(MalformedError, match="overlaps or precedes"):
        SSTable(Bytes(table_of_shared_blocks(spans[::-1], stored)))
    swapped = table_of_shared_blocks(spans, second + first)
    assert read_all(swapped) == [(b"000000", b"a"), (b"000001", b"b")]


@pytest.mark.parametrize("offset", [2**62, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("size", [0, 16, 2**63, 2**64 - 1])
def test_handles_near_the_limits(offset: int, size: int) -> None:
    for target in ("index", "data"):
        out = bytearray(w.with_trailer(w.block_bytes([], 1)))
        if target == "index":
            handle = w.varint(offset) + w.varint(size)
        else:
            value = w.varint(offset) + w.varint(size)
            start = len(out)
            block = w.block_bytes([(b"z", value)], 1)
            out += w.with_trailer(block)
            handle = w.varint(start) + w.varint(len(block))
        footer = (w.varint(0) + w.varint(8) + handle).ljust(40, b"\0")
        with pytest.raises(MalformedError):
            read_all(bytes(out) + footer + struct.pack("<Q", w.MAGIC))


def test_blocks_whose_keys_lie_outside_their_separators() -> None:
    first = w.block_bytes([(b"m", b"1")], 1)
    second = w.block_bytes([(b"a", b"2")], 1)
    with pytest.raises(MalformedError, match="separator"):
        read_all(w.raw_table_bytes([(b"n", first), (b"z", second)]))
    with pytest.raises(MalformedError, match="separator"):
        read_all(w.raw_table_bytes([(b"c", first)]))
    # A key equal to the separator before it would be looked up in the other block.
    last = w.block_bytes([(b"n", b"2")], 1)
    with pytest.raises(MalformedError, match="separator"):
        read_all(w.raw_table_bytes([(b"n", first), (b"z", last)]))


def test_snappy_that_announces_4_gib() -> None:
    contents = w.varint(2**32 - 1) + bytes(86)
    tail = contents + b"\1"
    stored = tail + struct.pack("<I", w.masked(tail))
    index = w.block_bytes([(b"z", w.varint(0) + w.varint(len(contents)))], 1)
    start = len(stored)
    out = stored + w.with_trailer(index)
    footer = w.varint(0) + w.varint(0) + w.varint(start) + w.varint(len(index))
    data = out + footer.ljust(40, b"\0") + struct.pack("<Q", w.MAGIC)
    with pytest.raises(MalformedError, match="announces"):
        read_all(data)


def test_snappy_that_gives_another_length(monkeypatch: pytest.MonkeyPatch) -> None:
    # cramjam compares the lengths itself; a version that does not must not pass.
    data = w.raw_table_bytes([(b"z", w.block_bytes([(b"k", b"v")], 1))], snappy=True)
    assert read_all(data) == [(b"k", b"v")]

    decompress = cramjam.snappy.decompress_raw

    class Shorter:
        @staticmethod
        def decompress_raw(contents: bytes) -> bytes:
            return bytes(decompress(contents))[:-1]

    monkeypatch.setattr(sstable.cramjam, "snappy", Shorter)
    with pytest.raises(MalformedError, match=r"announces \d+ bytes and holds"):
        read_all(data)


@given(damage=strategies.damage)
def test_crafted_snappy(damage: list[tuple[int, int]]) -> None:
    block = w.block_bytes([(b"k%02d" % i, b"value" * 3) for i in range(30)], 16)
    contents = bytearray(cramjam.snappy.compress_raw(block))
    for position, value in damage:
        contents[position % len(contents)] = value
    tail = bytes(contents) + b"\1"
    stored = tail + struct.pack("<I", w.masked(tail))
    index = w.block_bytes([(b"z", w.varint(0) + w.varint(len(contents)))], 1)
    out = stored + w.with_trailer(index)
    footer = w.varint(0) + w.varint(0) + w.varint(len(stored)) + w.varint(len(index))
    data = out + footer.ljust(40, b"\0") + struct.pack("<Q", w.MAGIC)
    try:
        found = [key for key, _ in read_all(data)]
    except MalformedError:
        return
    assert found == sorted(set(found))


def test_keys_that_grow_without_bound() -> None:
    # Each entry repeats the key before and adds a byte: n²/2 bytes of keys.
    count = 4000
    block = b"".join(
        w.varint(i) + w.varint(1) + w.varint(0) + b"k" for i in range(count)
    )
    block += struct.pack("<II", 0, 1)
    with pytest.raises(MalformedError, match="16 times"):
        read_all(w.raw_table_bytes([(b"\xff", block)]))


def test_unknown_compression() -> None:
    good = w.raw_table_bytes([(b"z", w.block_bytes([(b"k", b"v")], 1))])
    kind = good.index(w.block_bytes([(b"k", b"v")], 1)) + len(
        w.block_bytes([(b"k", b"v")], 1)
    )
    block = w.with_trailer(w.block_bytes([(b"k", b"v")], 1), kind=7)
    with pytest.raises(MalformedError, match="unknown compression 7"):
        read_all(block + good[kind + 5 :])
