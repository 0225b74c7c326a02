"""Varints, checksums, ordered codes, strings and messages, each as bytes and back."""

from __future__ import annotations

import struct

import bundle_writer as w
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from tf2flax._base.errors import MalformedError
from tf2flax._formats.wire import messages, state_messages
from tf2flax._formats.wire.coding import crc32c, mask, read_varint64, unmask
from tf2flax._formats.wire.ordered_code import decode_slice_key, encode_slice_key
from tf2flax._formats.wire.strings import decode_strings


@given(value=st.integers(0, 2**64 - 1), tail=st.binary(max_size=3))
def test_varints(value: int, tail: bytes) -> None:
    data = w.varint(value) + tail
    assert read_varint64(data, 0, len(data)) == (value, len(data) - len(tail))
    for stop in range(len(w.varint(value))):
        with pytest.raises(MalformedError):
            read_varint64(data, 0, stop)


@pytest.mark.parametrize("data", [b"\xff" * 10, b"\xff" * 9 + b"\x02", b"\x80" * 11])
def test_varints_beyond_64_bits(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read_varint64(data, 0, len(data))


def test_known_checksums() -> None:
    # From RFC 3720, B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"56789", crc32c(b"1234")) == crc32c(b"123456789") == 0xE3069283


@given(crc=st.integers(0, 2**32 - 1))
def test_masks(crc: int) -> None:
    assert unmask(mask(crc)) == crc
    assert 0 <= mask(crc) < 2**32


@given(name=strategies.names, extents=strategies.extents)
def test_slice_keys(name: bytes, extents: list[tuple[int, int]]) -> None:
    key = encode_slice_key(name, extents)
    assert decode_slice_key(key) == (name, tuple(extents))
    for stop in range(len(key)):
        assert decode_slice_key(key[:stop]) is None
    assert decode_slice_key(key + b"\0") is None


@given(values=st.lists(strategies.int64s, min_size=2, max_size=2))
def test_slice_keys_sort_like_their_numbers(values: list[int]) -> None:
    low, high = sorted(values)
    keys = [encode_slice_key(b"n", [(value, -1)]) for value in (low, high)]
    assert keys == sorted(keys)
    assert (keys[0] == keys[1]) == (low == high)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        (b"w", "77"),
        (b"\0\0\0", "00ff00ff00ff"),
        (b"\xff\0\xff", "ff0000ffff00"),
        (b"\0\xff\0\xff", "00ffff0000ffff00"),
        (b"a\0\0\0b\xff\xff", "6100ff00ff00ff62ff00ff00"),
    ],
)
def test_slice_keys_as_tensorflow_writes_them(name: bytes, escaped: str) -> None:
    # TensorFlow 1.15: SaveV2 of these names with shape_and_slices "200 10 70,50:-".
    key = bytes.fromhex(f"00{escaped}00010102c046b2807f")
    assert encode_slice_key(name, [(70, 50), (0, -1)]) == key
    assert decode_slice_key(key) == (name, ((70, 50), (0, -1)))


@given(name=strategies.names, extents=strategies.small_extents)
def test_two_encoders_agree(name: bytes, extents: list[tuple[int, int]]) -> None:
    assert w.slice_key(name, extents) == encode_slice_key(name, extents)


def test_slice_keys_with_numbers_that_tensorflow_never_writes() -> None:
    shortest = bytes.fromhex("00 770001 0101 81 80")
    assert decode_slice_key(shortest) == (b"w", ((1, 0),))
    longer = bytes.fromhex("00 770001 0101 c001 80")  # 1 in two bytes
    assert decode_slice_key(longer) is None
    assert decode_slice_key(encode_slice_key(b"w", [(2**63 - 1, -(2**63))])) is not None
    assert decode_slice_key(encode_slice_key(b"w", [(2**63, 0)])) is None
    assert decode_slice_key(encode_slice_key(b"w", [(0, -(2**63) - 1)])) is None


@given(data=st.binary(max_size=40))
def test_random_slice_keys(data: bytes) -> None:
    decoded = decode_slice_key(b"\0" + data)
    if decoded is not None:
        assert encode_slice_key(*decoded) == b"\0" + data


@given(elements=strategies.strings, big_endian=st.booleans())
def test_strings(elements: list[bytes], big_endian: bool) -> None:
    data, crc = w.string_bytes(elements, big_endian=big_endian)
    decoded = decode_strings(memoryview(data), len(elements), is_big_endian=big_endian)
    assert decoded[0] == elements
    assert mask(decoded[1]) == crc
    for stop in range(0 if elements else 1, len(data), 7):
        with pytest.raises(MalformedError):
            decode_strings(
                memoryview(data[:stop]), len(elements), is_big_endian=big_endian
            )


def test_lengths_have_a_checksum_of_their_own() -> None:
    data, _ = w.string_bytes([b"a", b"bcd"])
    assert data[:2] == b"\x01\x03"
    swapped = b"\x03\x01" + data[2:]
    with pytest.raises(MalformedError, match="lengths of its strings"):
        decode_strings(memoryview(swapped), 2, is_big_endian=False)


def test_no_strings_in_no_bytes() -> None:
    assert decode_strings(memoryview(b""), 0, is_big_endian=False) == ([], 0)


@pytest.mark.parametrize("count", [5, 2**30, 2**62])
def test_more_strings_than_bytes(count: int) -> None:
    data, _ = w.string_bytes([b"a", b"b"])
    with pytest.raises(MalformedError, match="cannot hold"):
        decode_strings(memoryview(data), count, is_big_endian=False)


def test_lengths_whose_checksum_is_cut_off() -> None:
    data, _ = w.string_bytes([bytes(300)])
    with pytest.raises(MalformedError, match="is cut off"):
        decode_strings(memoryview(data[:5]), 1, is_big_endian=False)


@pytest.mark.parametrize("is_big_endian", [False, True])
@pytest.mark.parametrize("length", [1, 2**32 - 1, 2**32, 2**32 + 5, 2**64 - 1])
def test_lengths_up_to_32_bits_enter_the_checksum_as_32_and_others_as_64(
    length: int, is_big_endian: bool
) -> None:
    # No data for 4 GiB: the checksum of the lengths is compared before the bytes are
    # counted, so the message tells which of the two was found wrong.
    order = ">" if is_big_endian else "<"
    as_32 = w.masked(struct.pack(order + "I", length & 0xFFFFFFFF))
    as_64 = w.masked(struct.pack(order + "Q", length))
    right, wrong = (as_32, as_64) if length < 2**32 else (as_64, as_32)
    found = [(right, "do not fill"), (wrong, "lengths of its strings")]
    if length == 2**32 - 1 and not is_big_endian:
        # Four bytes of 0xff cancel the CRC's start: zeros after them change nothing.
        assert right == wrong
        found.pop()
    for checksum, message in found:
        data = w.varint(length) + struct.pack(order + "I", checksum)
        with pytest.raises(MalformedError, match=message):
            decode_strings(memoryview(data), 1, is_big_endian=is_big_endian)


def test_no_strings_as_tensorflow_writes_them() -> None:
    # TensorFlow 1.15: a string tensor of shape (0, 3), entry crc32c 1678557686.
    data, crc = w.string_bytes([])
    assert (data.hex(), crc) == ("d8ea82a2", 1678557686)
    elements, computed = decode_strings(memoryview(data), 0, is_big_endian=False)
    assert (elements, mask(computed)) == ([], crc)


@given(data=st.binary(max_size=60))
def test_random_messages(data: bytes) -> None:
    for parse in (
        messages.parse_bundle_entry,
        messages.parse_bundle_header,
    ):
        try:
            parse(data)
        except MalformedError:
            continue


def test_entries() -> None:
    data = w.entry_bytes(
        14,
        [2, 0, 5],
        shard_id=3,
        offset=2**40,
        size=7,
        crc=9,
        slices=[[(0, -1), (2, 0)]],
    )
    assert messages.parse_bundle_entry(data) == messages.BundleEntry(
        dtype_code=14,
        dims=(2, 0, 5),
        is_unknown_rank=False,
        data_file_index=3,
        offset=2**40,
        size=7,
        crc32c=9,
        slices=(((0, -1), (2, 0)),),
    )
    for stop in range(1, len(data)):
        try:
            messages.parse_bundle_entry(data[:stop])
        except MalformedError:
            continue


VARINTS = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))


@given(
    dtype=st.integers(0, 200),
    dims=st.lists(VARINTS, max_size=12),
    place=st.tuples(st.integers(-(2**31), 2**31 - 1) | st.just(0), VARINTS, VARINTS),
    crc=st.integers(0, 2**32 - 1),
    change=st.tuples(st.integers(0, 2**16), st.binary(max_size=3)),
)
def test_entries_parse_as_protobuf_parses_them(
    dtype: int,
    dims: list[int],
    place: tuple[int, int, int],
    crc: int,
    change: tuple[int, bytes],
) -> None:
    """The short way for plain entries says the same, or nothing."""
    entry = messages.BundleEntry(dtype, tuple(dims), False, *place, crc, ())
    data = messages.format_bundle_entry(entry)
    assert messages.parse_bundle_entry(data) == entry
    at = change[0] % (len(data) + 1)
    data = data[:at] + change[1] + data[at + len(change[1]) :]
    try:
        found = messages._plain_entry(data)
    except MalformedError:
        return
    if found is None:
        return
    message = messages._ENTRY.FromString(data)
    fields = (message.dtype, message.shard_id, message.offset, message.size)
    assert fields == (found[0], *found[3:6])
    assert (message.crc32c, len(message.slices)) == (found.crc32c, 0)
    assert tuple(dim.size for dim in message.shape.dim) == found.dims
    assert message.shape.unknown_rank == found.is_unknown_rank


def test_two_shapes_in_one_entry_are_merged() -> None:
    twice = bytes.fromhex("0801 120412020802 120412020803 3500000000")
    assert messages.parse_bundle_entry(twice).dims == (2, 3)


def test_headers() -> None:
    header = messages.parse_bundle_header(w.header_bytes(7, 1))
    assert (header.num_data_files, header.is_big_endian, header.producer) == (
        7,
        True,
        1,
    )
    with pytest.raises(MalformedError, match="byte order 2"):
        messages.parse_bundle_header(w.header_bytes(7, 2))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('model_checkpoint_path: "a"\nmodel_checkpoint_path: "b"', "b"),
        ("# note\nmodel_checkpoint_path: '../\\155'\r\n", "../m"),
        ('all_model_checkpoint_paths: "a"', ""),
        ("", ""),
        ("no such field: 3", None),
        ("model_checkpoint_path: 3", None),
        ("model_checkpoint_path: {", None),
    ],
)
def test_state_files(text: str, path: str | None) -> None:
    assert state_messages.parse_checkpoint_state(text) == path


@given(text=st.text(max_size=60))
def test_random_state_files(text: str) -> None:
    parsed = state_messages.parse_checkpoint_state(f'model_checkpoint_path: "p" {text}')
    assert parsed is None or isinstance(parsed, str)
