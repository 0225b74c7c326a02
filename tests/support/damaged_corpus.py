"""Makes `tests/data/damaged`: checkpoints that are broken in one way each.

    python tests/support/damaged_corpus.py

Checksums are right around what is broken, so that nothing but the check in question
stands between it and the reader. Every checkpoint that can hold one has a tensor `ok`,
0 to 3, that must read as that or be refused. `CASES` says what each folder is.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import struct
from collections.abc import Callable, Sequence

import numpy as np
import v1_writer as v1
from bundle_writer import (
    MAGIC,
    Tensor,
    block_bytes,
    entry_bytes,
    field,
    header_bytes,
    masked,
    raw_table_bytes,
    slice_key,
    string_bytes,
    table_bytes,
    varint,
    with_trailer,
    write_bundle,
)
from repository import DATA

ROOT = DATA / "damaged"
OK = np.arange(4, dtype="<f4")
MAX = 2**63 - 1
Extents = Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One broken checkpoint.

    `write` writes it into a folder. `path`: what to open there. `is_harmless`: it may
    be read after all, and must then give the right values.
    """

    write: Callable[[pathlib.Path], None]
    path: str = "m"
    is_harmless: bool = False


CASES: dict[str, Case] = {}


def index_of(items: Sequence[tuple[bytes, bytes]], **table: object) -> bytes:
    return table_bytes(sorted(items), **table)  # pyright: ignore


def ok_items(header: bytes | None = None) -> list[tuple[bytes, bytes]]:
    data = OK.tobytes()
    entry = entry_bytes(1, [4], size=len(data), crc=masked(data))
    return [(b"", header_bytes() if header is None else header), (b"ok", entry)]


def write(folder: pathlib.Path, index: bytes, data: bytes = OK.tobytes()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "m.index").write_bytes(index)
    (folder / "m.data-00000-of-00001").write_bytes(data)


def raw_index(name: str, index: bytes, **options: bool) -> None:
    CASES[name] = Case(lambda folder: write(folder, index), **options)


def entry(name: str, value: bytes, data: bytes = OK.tobytes()) -> None:
    """The tensor `x` has this entry."""
    index = index_of([*ok_items(), (b"x", value)])
    CASES[name] = Case(lambda folder: write(folder, index, data))


def block(name: str, contents: bytes) -> None:
    """The table has this block; the separator lies behind all keys."""
    raw_index(name, raw_table_bytes([(b"\xff", contents)]))


def footer(name: str, handle: tuple[int, int]) -> None:
    """The footer says that the block index lies there."""
    whole = index_of(ok_items())
    meta = varint(0) + varint(8)
    handles = (meta + varint(handle[0]) + varint(handle[1])).ljust(40, b"\0")[:40]
    raw_index(name, whole[:-48] + handles + struct.pack("<Q", MAGIC))


def data_handle(name: str, handle: tuple[int, int]) -> None:
    """The block index says that the first block lies there."""
    first = with_trailer(block_bytes(sorted(ok_items()), 16))
    meta = with_trailer(block_bytes([], 1))
    value = varint(handle[0]) + varint(handle[1])
    index = with_trailer(block_bytes([(b"ok", value)], 1))
    places = [(len(first), len(meta) - 5), (len(first + meta), len(index) - 5)]
    handles = b"".join(varint(start) + varint(size) for start, size in places)
    tail = handles.ljust(40, b"\0") + struct.pack("<Q", MAGIC)
    raw_index(name, first + meta + index + tail)


def snappy(name: str, compressed: bytes) -> None:
    """The first block holds these bytes as snappy data."""
    stored = compressed + b"\x01"
    first = stored + struct.pack("<I", masked(stored))
    meta = with_trailer(block_bytes([], 1))
    value = varint(0) + varint(len(compressed))
    index = with_trailer(block_bytes([(b"ok", value)], 1))
    places = [(len(first), len(meta) - 5), (len(first + meta), len(index) - 5)]
    handles = b"".join(varint(start) + varint(size) for start, size in places)
    tail = handles.ljust(40, b"\0") + struct.pack("<Q", MAGIC)
    raw_index(name, first + meta + index + tail)


def slices(
    name: str,
    shape: Sequence[int],
    listed: Sequence[Extents],
    stored: Sequence[tuple[Extents, Sequence[int]]] | None = None,
    *,
    code: int = 1,
) -> None:
    """The tensor `x` lists these slices; stored: extents, and shape as it is stored."""
    data = bytearray(OK.tobytes())
    items = [*ok_items(), (b"x", entry_bytes(1, shape, slices=listed))]
    if stored is None:
        stored = [
            (one, [min(max(size, 0), 4) for _, size in one])
            for one in dict.fromkeys(tuple(map(tuple, one)) for one in listed)
        ]
    for extents, dims in stored:
        part = np.full(dims, 7, "<f4").tobytes()
        value = entry_bytes(
            code, dims, offset=len(data), size=len(part), crc=masked(part)
        )
        items.append((slice_key_of(extents), value))
        data += part
    index = index_of(items)
    CASES[name] = Case(lambda folder: write(folder, index, bytes(data)))


def slice_key_of(extents: Extents) -> bytes:
    """The key, also of numbers that no test of the right kind needs."""
    out = b"\0" + b"x" + b"\0\x01" + bytes([1, len(extents)] if extents else [0])
    return out + b"".join(signed(start) + signed(length) for start, length in extents)


def signed(value: int) -> bytes:
    magnitude = ~value if value < 0 else value
    nbytes = magnitude.bit_length() // 7 + 1
    header = ((1 << nbytes) - 1) << (7 * nbytes)
    encoded = (header | magnitude).to_bytes(nbytes, "big")
    return bytes(byte ^ 0xFF for byte in encoded) if value < 0 else encoded


def first_version(
    name: str, *, meta: bytes | None = None, value: bytes | None = None
) -> None:
    """A V1 checkpoint whose list, or whose values of `x`, are these."""
    extra: dict[bytes, bytes] = {}
    if meta is not None:
        ok = v1.slice_meta(b"ok", 1, [4], [[(0, -1)]])
        extra[b""] = v1.saved_list([ok, meta])
    if value is not None:
        extra[slice_key(b"x", [(0, -1)])] = value

    def make(folder: pathlib.Path) -> None:
        v1.write_v1(folder / "m", {"ok": OK, "x": OK}, extra=extra)

    CASES[name] = Case(make)


def v1_meta(**changes: object) -> bytes:
    given = {"code": 1, "dims": [4], "slices": [[(0, -1)]], **changes}
    return v1.slice_meta(b"x", **given)  # pyright: ignore


def declare() -> None:
    """Fills `CASES`."""
    # The table.
    for name, handle in {
        "footer_offset_near_2_63": (MAX, 8),
        "footer_offset_near_2_64": (2**64 - 1, 8),
        "footer_size_near_2_63": (0, MAX),
        "footer_size_near_2_64": (0, 2**64 - 1),
        "footer_sum_wraps_64_bits": (2**64 - 16, 32),
        "footer_beyond_the_file": (10_000, 8),
    }.items():
        footer(name, handle)
    for name, handle in {
        "block_offset_near_2_63": (MAX, 8),
        "block_offset_near_2_64": (2**64 - 1, 8),
        "block_size_near_2_63": (0, MAX),
        "block_size_near_2_64": (0, 2**64 - 1),
        "block_sum_wraps_64_bits": (2**64 - 16, 32),
    }.items():
        data_handle(name, handle)
    restart = struct.pack("<II", 0, 1)
    key = b"\x00\x00" + varint(len(header_bytes())) + header_bytes()
    for name, three in {
        "shared_wraps_32_bits": (2**32 - 1, 1, 0),
        "non_shared_wraps_32_bits": (0, 2**32 - 1, 0),
        "value_wraps_32_bits": (0, 1, 2**32 - 1),
        "lengths_wrap_32_bits_together": (0, 2**31, 2**31),
        "lengths_wrap_64_bits_together": (0, 2**63, 2**63),
        "shared_beyond_the_key_before": (5, 1, 0),
    }.items():
        block(name, key + b"".join(map(varint, three)) + b"a" + restart)
    block("restart_count_beyond_the_block", key + struct.pack("<II", 0, 2**32 - 1))
    block("restart_count_wraps", key + struct.pack("<II", 0, 2**30))
    block("restart_in_mid_entry", key + struct.pack("<II", 1, 1))
    block("no_restart_count", b"\0")
    header, ok = ok_items()
    raw_index("keys_out_of_order", table_bytes([header, (b"z", ok[1]), ok]))
    raw_index("keys_twice", table_bytes([header, ok, ok]))
    raw_index("blocks_out_of_order", table_bytes([ok, header], block_size=1))
    raw_index("header_missing", table_bytes([ok]))
    raw_index("header_late", table_bytes([ok, header]))
    raw_index("header_empty_table", table_bytes([]))
    whole = index_of(ok_items())
    raw_index("magic_wrong", whole[:-1] + b"\0")
    raw_index("table_empty", b"")
    raw_index("block_type_unknown", raw_kind(7))
    # Snappy.
    literal = block_bytes(sorted(ok_items()), 16)
    snappy("snappy_announces_4_gib", varint(2**32 - 1) + b"\0a" * 40)
    snappy("snappy_announces_2_60", varint(2**60) + b"\0a" * 40)
    snappy("snappy_copies_from_before_the_start", varint(64) + b"\0a\xfe\xff\x00")
    snappy("snappy_literal_beyond_the_end", varint(64) + b"\xf0\xffabc")
    snappy("snappy_writes_more_than_announced", varint(4) + b"\x10abcde\x10fghij")
    snappy("snappy_writes_less_than_announced", varint(9) + b"\x10abcde")
    snappy("snappy_is_none", literal)
    snappy("snappy_header_cut", b"\xff\xff")
    # The header.
    version = field(1, 1)
    for name, value in {
        "header_malformed": b"\x0a\x7fabc",
        "header_bad_consumers": header_bytes(version=version + field(3, 1)),
        "header_min_consumer": header_bytes(version=version + field(2, 9)),
        "header_endianness_unknown": header_bytes(endianness=2),
        "num_shards_0": header_bytes(0),
        "num_shards_negative": header_bytes(-1),
        "num_shards_2_31": header_bytes(2**31 - 1),
        "header_deeply_nested": field(3, b"\x1b" * 5000 + b"\x1c" * 5000),
    }.items():
        raw_index(name, index_of(ok_items(value)))
    # Entries.
    right = {"size": 16, "crc": masked(OK.tobytes())}
    for name, value in {
        "entry_malformed": b"\x08\x01\x12\x7f",
        "entry_empty": b"",
        "entry_deeply_nested": b"\x12\x02" * 300,
        "shard_id_negative": entry_bytes(1, [4], shard_id=-1, **right),
        "shard_id_too_large": entry_bytes(1, [4], shard_id=1, **right),
        "shard_id_2_31": entry_bytes(1, [4], shard_id=2**31 - 1, **right),
        "offset_negative": entry_bytes(1, [4], offset=-16, **right),
        "offset_near_2_63": entry_bytes(1, [4], offset=MAX - 8, **right),
        "offset_beyond_the_file": entry_bytes(1, [4], offset=4096, **right),
        "offset_a_byte_beyond": entry_bytes(1, [4], offset=1, **right),
        "offset_and_size_overflow": entry_bytes(5, [2**62], offset=MAX, size=MAX),
        "size_negative": entry_bytes(1, [4], size=-16),
        "size_too_small": entry_bytes(1, [4], size=12, crc=masked(OK[:3].tobytes())),
        "size_too_large": entry_bytes(1, [3], **right),
        "dim_negative": entry_bytes(1, [-4], **right),
        "dim_min": entry_bytes(1, [-(2**63)], **right),
        "dims_two_negative": entry_bytes(1, [-2, -2], **right),
        "dims_overflow": entry_bytes(1, [2**32, 2**32], size=0),
        "dims_overflow_behind_0": entry_bytes(1, [0, 2**32, 2**32], size=0),
        "dims_overflow_before_0": entry_bytes(1, [2**32, 2**32, 0], size=0),
        "dims_overflow_to_4": entry_bytes(1, [2**62 + 1, 4], **right),
        "dims_huge": entry_bytes(1, [2**40], size=2**42),
        "rank_300": entry_bytes(1, [1] * 299 + [4], **right),
        "rank_unknown": entry_bytes(1, [], unknown_rank=True, **right),
        "dtype_0": entry_bytes(0, [4], **right),
        "dtype_127": entry_bytes(127, [4], **right),
        "dtype_negative": entry_bytes(-1, [4], **right),
        "dtype_float_ref": entry_bytes(101, [4], **right),
        "dtype_string_ref": entry_bytes(107, [4], **right),
        "dtype_resource": entry_bytes(20, [4], **right),
        "dtype_variant": entry_bytes(21, [4], **right),
        "checksum_wrong": entry_bytes(1, [4], size=16, crc=1),
    }.items():
        entry(name, value)
    # Strings.
    for exponent in (30, 31, 32, 40, 61, 62):
        data = OK.tobytes() + bytes(40)
        value = entry_bytes(7, [2**exponent], offset=16, size=40)
        entry(f"strings_2_{exponent}", value, data)
    stored, crc = string_bytes([b"ab", b"c"])
    strings(
        "string_lengths_beyond_the_data", packed_lengths([2**20, 1]) + b"abc", [2], crc
    )
    strings("string_lengths_2_62", packed_lengths([2**62, 2**62]) + b"abc", [2], crc)
    strings("string_lengths_checksum_wrong", b"\x02\x01\0\0\0\0abc", [2], crc)
    strings("string_bytes_left_over", stored + b"d", [2], crc)
    strings("string_checksum_cut", stored[:4], [2], crc)
    strings("string_count_wrong", stored, [3], crc)
    strings("string_checksum_wrong", stored, [2], crc ^ 1)
    strings("string_length_malformed", b"\xff" * 12, [2], crc)
    # Slices.
    slices("slices_hole", [4], [[(0, 1)], [(2, 2)]])
    slices("slices_overlap", [4], [[(0, 3)], [(1, 3)]])
    slices("slices_overlap_and_hole", [6], [[(0, 4)], [(2, 2)]])
    slices("slices_duplicate", [4], [[(0, 2)], [(0, 2)]])
    slices("slices_duplicate_whole", [4], [[(0, -1)], [(0, -1)]])
    slices("slices_negative_start", [4], [[(-1, 3)], [(2, 2)]])
    slices("slices_negative_length", [4], [[(0, -2)], [(2, 2)]])
    slices("slices_overflow", [4], [[(MAX, MAX)], [(0, 4)]])
    slices("slices_beyond_the_tensor", [4], [[(2, 4)], [(0, 2)]])
    slices("slices_on_a_scalar", [], [[(0, 1)]], [([(0, 1)], [1])])
    slices("slices_of_another_rank", [4], [[(0, 2), (0, 2)], [(2, 2), (0, 2)]])
    halves = [[(0, 2)], [(2, 2)]]
    slices(
        "slice_shorter_than_listed", [4], halves, [(halves[0], [2]), (halves[1], [1])]
    )
    slices(
        "slice_longer_than_listed", [4], halves, [(halves[0], [2]), (halves[1], [3])]
    )
    slices(
        "slice_of_another_shape", [4], halves, [(halves[0], [2]), (halves[1], [1, 2])]
    )
    slices("slice_of_another_dtype", [4], halves, code=3)
    slices("slice_missing", [4], halves, [(halves[0], [2])])
    CASES["slices_share_bytes"] = Case(sharing_bytes)
    slices("slices_of_slices", [4], [[(0, -1)]], [])
    # Files.
    files("index_is_a_git_lfs_pointer", index=LFS)
    files("data_is_a_git_lfs_pointer", data=LFS)
    files("index_is_a_web_page", index=HTML)
    files("data_is_a_web_page", data=HTML)
    files("data_missing", data=None)
    files("data_empty", data=b"")
    files("data_truncated", data=OK.tobytes()[:-1])
    files("data_of_another_checkpoint", data=OK[::-1].tobytes())
    files("index_truncated", index=index_of(ok_items())[:-9])
    CASES["index_missing"] = Case(without_index, "m.data-00000-of-00001")
    CASES["index_is_a_v1_checkpoint"] = Case(v1_as_index)
    CASES["v1_is_an_index"] = Case(index_as_v1)
    # V1.
    full = [[(0, -1)]]
    packed = v1.tensor_proto(OK)

    def value(
        tensor: bytes, name: bytes = b"x", extents: Extents = ((0, -1),)
    ) -> bytes:
        return v1.saved_slice(name, extents, tensor)

    for name, meta in {
        "v1_dtype_missing": v1_meta(code=0),
        "v1_dtype_127": v1_meta(code=127),
        "v1_dtype_ref": v1_meta(code=101),
        "v1_dim_negative": v1_meta(dims=[-4]),
        "v1_dims_overflow": v1_meta(dims=[0, 2**32, 2**32], slices=[]),
        "v1_dims_overflow_before_0": v1_meta(dims=[2**32, 2**32, 0], slices=[]),
        "v1_dims_huge": v1_meta(dims=[2**40]),
        "v1_dims_huge_in_slices": v1_meta(
            dims=[2**40], slices=[[(0, 2**39)], [(2**39, 2**39)]]
        ),
        "v1_rank_300": v1_meta(dims=[1] * 300, slices=[]),
        "v1_slice_length_missing_and_start": v1_meta(slices=[[(2, -1)]]),
        "v1_slice_negative": v1_meta(slices=[[(-2, 4)]]),
        "v1_slice_overflow": v1_meta(slices=[[(MAX, MAX)]]),
        "v1_slice_of_another_rank": v1_meta(slices=[[(0, 2), (0, 2)]]),
        "v1_slice_on_a_scalar": v1_meta(dims=[], slices=full),
        "v1_slices_duplicate": v1_meta(slices=[*full, *full]),
        "v1_slices_hole": v1_meta(slices=[[(0, 2)]]),
        "v1_slices_none": v1_meta(slices=[]),
        "v1_slice_not_stored": v1_meta(slices=[[(0, 4)]]),
        "v1_strings_2_62": v1_meta(code=7, dims=[2**59]),
        "v1_meta_malformed": b"\x0a\x7f",
    }.items():
        first_version(name, meta=meta)
    for name, stored_value in {
        "v1_too_little_data": value(packed[:2] + packed[2:-4][:0]),
        "v1_three_of_four_values": value(v1.tensor_proto(OK[:3])),
        "v1_five_of_four_values": value(v1.tensor_proto(np.arange(5, dtype="<f4"))),
        "v1_no_values": value(b""),
        "v1_content_too_short": value(field(4, OK.tobytes()[:-1])),
        "v1_values_of_another_field": value(v1.tensor_proto(OK.astype("<i4"))),
        "v1_values_of_another_dtype": value(field(1, 3) + packed),
        "v1_values_of_another_shape": value(
            field(2, field(2, field(1, 2))) + v1.tensor_proto(OK[:2])
        ),
        "v1_values_of_another_tensor": value(packed, name=b"ok"),
        "v1_values_of_another_slice": value(packed, extents=[(0, 4)]),
        "v1_value_malformed": b"\x12\x7f",
        "v1_value_empty": b"",
        "v1_value_is_a_list": v1.saved_list([v1_meta()]),
        "v1_deeply_nested": field(2, b"\x1b" * 5000 + b"\x1c" * 5000),
        "v1_length_near_2_64": b"\x12" + varint(2**64 - 1),
    }.items():
        first_version(name, value=stored_value)
    first_version("v1_bad_consumers")
    CASES["v1_bad_consumers"] = Case(v1_bad_consumers)


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    + b"0" * 64
    + b"\nsize 9\n"
)
HTML = b"<!DOCTYPE html><html><title>Sign in</title></html>"


def raw_kind(kind: int) -> bytes:
    first = with_trailer(block_bytes(sorted(ok_items()), 16), kind=kind)
    meta = with_trailer(block_bytes([], 1))
    value = varint(0) + varint(len(first) - 5)
    index = with_trailer(block_bytes([(b"ok", value)], 1))
    places = [(len(first), len(meta) - 5), (len(first + meta), len(index) - 5)]
    handles = b"".join(varint(start) + varint(size) for start, size in places)
    tail = handles.ljust(40, b"\0") + struct.pack("<Q", MAGIC)
    return first + meta + index + tail


def packed_lengths(values: Sequence[int]) -> bytes:
    """Lengths of strings, with their right checksum."""
    packed = b"".join(struct.pack("<I" if one < 2**32 else "<Q", one) for one in values)
    return b"".join(map(varint, values)) + struct.pack("<I", masked(packed))


def strings(name: str, stored: bytes, dims: Sequence[int], crc: int) -> None:
    value = entry_bytes(7, dims, offset=16, size=len(stored), crc=crc)
    entry(name, value, OK.tobytes() + stored)


def files(
    name: str, index: bytes | None = None, data: bytes | None = OK.tobytes()
) -> None:
    right = index_of(ok_items())

    def make(folder: pathlib.Path) -> None:
        write(folder, right if index is None else index, data or b"")
        if data is None:
            (folder / "m.data-00000-of-00001").unlink()

    CASES[name] = Case(make)


def sharing_bytes(folder: pathlib.Path) -> None:
    halves = [[(0, 2)], [(2, 2)]]
    half = OK[:2].tobytes()
    value = entry_bytes(1, [2], size=len(half), crc=masked(half))
    items = [(slice_key_of(one), value) for one in halves]
    items += [*ok_items(), (b"x", entry_bytes(1, [4], slices=halves))]
    write(folder, index_of(items))


def without_index(folder: pathlib.Path) -> None:
    write_bundle(folder / "m", {"ok": OK})
    (folder / "m.index").unlink()


def v1_as_index(folder: pathlib.Path) -> None:
    v1.write_v1(folder / "m.index", {"ok": OK})


def index_as_v1(folder: pathlib.Path) -> None:
    write_bundle(folder / "m", {"ok": OK, "t": Tensor(OK)})
    (folder / "m.index").rename(folder / "m")


def v1_bad_consumers(folder: pathlib.Path) -> None:
    extra = {b"": v1.saved_list([v1_meta()], field(1, 1) + field(3, 1))}
    v1.write_v1(folder / "m", {"ok": OK, "x": OK}, extra=extra)


declare()


def main() -> None:
    """Makes the corpus anew."""
    shutil.rmtree(ROOT, ignore_errors=True)
    for name, case in CASES.items():
        case.write(ROOT / name)


if __name__ == "__main__":
    main()
