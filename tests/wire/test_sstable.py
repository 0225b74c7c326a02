"""SSTables: what is written is read; what is broken is MalformedError and no other."""

from __future__ import annotations

import pickle
import struct

import bundle_writer as w
import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf2flax._errors import MalformedError
from tf2flax._wire.sstable import SSTable

keys = st.binary(max_size=12)
tables = st.dictionaries(keys, st.binary(max_size=200), max_size=60)


@given(
    items=tables,
    block_size=st.sampled_from([1, 64, 4096]),
    restart_interval=st.integers(1, 20),
    snappy=st.booleans(),
)
def test_round_trip(
    items: dict[bytes, bytes], block_size: int, restart_interval: int, snappy: bool
) -> None:
    ordered = sorted(items.items())
    table = SSTable(
        w.table_bytes(
            ordered,
            block_size=block_size,
            restart_interval=restart_interval,
            snappy=snappy,
        )
    )
    assert list(table.items()) == ordered
    assert table.keys() == [key for key, _ in ordered]
    for key, value in ordered:
        assert table.get(key) == value
        assert table.get(key + b"\0") == items.get(key + b"\0")
    assert list(pickle.loads(pickle.dumps(table)).items()) == ordered


def test_literal_bytes() -> None:
    block = b"\0\1\2k12" + b"\1\1\1l3" + struct.pack("<II", 0, 1)
    table = SSTable(w.raw_table_bytes([(b"kl", block)]))
    assert list(table.items()) == [(b"k", b"12"), (b"kl", b"3")]


def test_one_lookup_decodes_one_block() -> None:
    items = [(b"%03d" % i, bytes(50)) for i in range(100)]
    table = SSTable(w.table_bytes(items, block_size=100))
    assert table.get(b"050") == bytes(50)
    assert len(table._blocks) == 1


VALID = w.table_bytes(
    [(b"key%02d" % i, bytes([i]) * 9) for i in range(40)], block_size=128
)


def read_all(data: bytes) -> list[tuple[bytes, bytes]]:
    return list(SSTable(data).items())


def test_cut_at_every_byte() -> None:
    for stop in range(len(VALID)):
        with pytest.raises(MalformedError):
            read_all(VALID[:stop])


def test_any_flipped_bit_in_a_block_is_found() -> None:
    expected = read_all(VALID)
    for i in range(len(VALID) - 48):
        for bit in (1, 128):
            data = bytearray(VALID)
            data[i] ^= bit
            try:
                assert read_all(bytes(data)) == expected  # the unused meta index
            except MalformedError:
                continue


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


@given(damage=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1))
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
