"""Varints, checksums, ordered codes, strings and messages, each as bytes and back."""

from __future__ import annotations

import bundle_writer as w
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf2flax._errors import MalformedError
from tf2flax._wire import protos
from tf2flax._wire.crc32c import crc32c, mask, unmask
from tf2flax._wire.ordered_code import decode_slice_key, encode_slice_key
from tf2flax._wire.strings import decode_strings
from tf2flax._wire.varint import read_varint64


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


extents = st.lists(
    st.tuples(st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1)), max_size=8
)


@given(name=st.binary(max_size=30), extents=extents)
def test_slice_keys(name: bytes, extents: list[tuple[int, int]]) -> None:
    key = encode_slice_key(name, extents)
    assert decode_slice_key(key) == (name, tuple(extents))
    for stop in range(len(key)):
        assert decode_slice_key(key[:stop]) is None
    assert decode_slice_key(key + b"\0") is None


@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2))
def test_slice_keys_sort_like_their_numbers(values: list[int]) -> None:
    low, high = sorted(values)
    keys = [encode_slice_key(b"n", [(value, -1)]) for value in (low, high)]
    assert keys == sorted(keys)
    assert (keys[0] == keys[1]) == (low == high)


@given(data=st.binary(max_size=40))
def test_random_slice_keys(data: bytes) -> None:
    decoded = decode_slice_key(b"\0" + data)
    if decoded is not None:
        assert encode_slice_key(*decoded) == b"\0" + data


elements = st.lists(st.binary(max_size=300), max_size=20)


@given(elements=elements, big_endian=st.booleans())
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


@pytest.mark.parametrize("count", [3, 2**30, 2**62])
def test_more_strings_than_bytes(count: int) -> None:
    data, _ = w.string_bytes([b"a", b"b"])
    with pytest.raises(MalformedError):
        decode_strings(memoryview(data), count, is_big_endian=False)


def test_lengths_beyond_32_bits_enter_the_checksum_as_64() -> None:
    # No data for 4 GiB: the lengths' checksum is compared before the bytes are.
    length = 2**32 + 5
    data = w.varint(length) + b"\0\0\0\0"
    with pytest.raises(MalformedError, match="do not fill"):
        decode_strings(memoryview(data), 1, is_big_endian=False)


@given(data=st.binary(max_size=60))
def test_random_messages(data: bytes) -> None:
    for parse in (protos.parse_bundle_entry, protos.parse_bundle_header):
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
    assert protos.parse_bundle_entry(data) == protos.BundleEntry(
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
            protos.parse_bundle_entry(data[:stop])
        except MalformedError:
            continue


def test_headers() -> None:
    header = protos.parse_bundle_header(w.header_bytes(7, 1))
    assert (header.num_data_files, header.is_big_endian, header.producer) == (
        7,
        True,
        1,
    )
    with pytest.raises(MalformedError, match="byte order 2"):
        protos.parse_bundle_header(w.header_bytes(7, 2))


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
    assert protos.parse_checkpoint_state(text) == path


@given(text=st.text(max_size=60))
def test_random_state_files(text: str) -> None:
    parsed = protos.parse_checkpoint_state(f'model_checkpoint_path: "p" {text}')
    assert parsed is None or isinstance(parsed, str)
