"""Writes V2 bundles for tests: right ones, and wrong ones under valid checksums.

An encoder of its own, straight from the format's description, so that a mistake in
`tf2flax._formats.wire` does not meet itself here. Only snappy and CRC-32C come
from packages.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import cramjam
import crc32c
import numpy as np

CODES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6,
    "object": 7, "complex64": 8, "int64": 9, "bool": 10, "bfloat16": 14, "uint16": 17,
    "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23, "float8_e5m2": 24,
    "float8_e4m3fn": 25, "float8_e4m3fnuz": 26, "float8_e4m3b11fnuz": 27,
    "float8_e5m2fnuz": 28, "int4": 29, "uint4": 30, "int2": 31, "uint2": 32,
    "float4_e2m1fn": 33,
}  # fmt: skip
MAGIC = 0xDB4775248B80FB57


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor to write.

    `slices`: boxes, as numpy slices, to save it in; None saves it whole. `code`: dtype
    number, where the array's own is not meant. `data_file`: number of the data file;
    for slices, one for each.
    """

    array: np.ndarray
    slices: Sequence[tuple[slice, ...]] | None = None
    code: int | None = None
    data_file: int | Sequence[int] = 0


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    """One protobuf field: a varint, or length-delimited bytes."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def masked(data: bytes) -> int:
    crc = crc32c.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header_bytes(
    num_shards: int = 1, endianness: int = 0, version: bytes | None = None
) -> bytes:
    version = field(1, 1) if version is None else version
    return field(1, num_shards) + field(2, endianness) + field(3, version)


def shape_bytes(dims: Sequence[int], *, unknown_rank: bool = False) -> bytes:
    out = b"".join(field(2, field(1, dim)) for dim in dims)
    return out + (field(3, 1) if unknown_rank else b"")


def slice_bytes(extents: Sequence[tuple[int, int]]) -> bytes:
    """A TensorSliceProto; a length of -1 is left out: the whole axis."""
    return b"".join(
        field(1, field(1, start) + (b"" if length == -1 else field(2, length)))
        for start, length in extents
    )


def entry_bytes(
    code: int,
    dims: Sequence[int],
    *,
    shard_id: int = 0,
    offset: int = 0,
    size: int = 0,
    crc: int = 0,
    slices: Sequence[Sequence[tuple[int, int]]] = (),
    unknown_rank: bool = False,
) -> bytes:
    return (
        field(1, code)
        + field(2, shape_bytes(dims, unknown_rank=unknown_rank))
        + field(3, shard_id)
        + field(4, offset)
        + field(5, size)
        + varint(6 << 3 | 5)
        + struct.pack("<I", crc)
        + b"".join(field(7, slice_bytes(one)) for one in slices)
    )


def block_bytes(items: Sequence[tuple[bytes, bytes]], restart_interval: int) -> bytes:
    out, restarts, last = bytearray(), [], b""
    for i, (key, value) in enumerate(items):
        shared = 0
        if i % restart_interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        last = key
    restarts = restarts or [0]
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def with_trailer(
    contents: bytes, *, snappy: bool = False, kind: int | None = None
) -> bytes:
    if snappy:
        contents = bytes(cramjam.snappy.compress_raw(contents))
    tail = contents + bytes([int(snappy) if kind is None else kind])
    return tail + struct.pack("<I", masked(tail))


def table_bytes(
    items: Sequence[tuple[bytes, bytes]],
    *,
    block_size: int = 4096,
    restart_interval: int = 16,
    snappy: bool = False,
) -> bytes:
    """A table of these items, in this order, whatever they are."""
    blocks: list[list[tuple[bytes, bytes]]] = [[]]
    filled = 0
    for key, value in items:
        if filled > block_size:
            blocks.append([])
            filled = 0
        blocks[-1].append((key, value))
        filled += len(key) + len(value) + 3
    return raw_table_bytes(
        [
            (block[-1][0] if block else b"", block_bytes(block, restart_interval))
            for block in blocks
        ],
        snappy=snappy,
    )


def raw_table_bytes(
    blocks: Sequence[tuple[bytes, bytes]], *, snappy: bool = False
) -> bytes:
    """A table of ready-made blocks under their separators."""
    out = bytearray()
    handles: list[tuple[bytes, bytes]] = []
    for separator, contents in blocks:
        stored = with_trailer(contents, snappy=snappy)
        handles.append((separator, varint(len(out)) + varint(len(stored) - 5)))
        out += stored
    meta = (len(out), block_bytes([], 1))
    out += with_trailer(meta[1])
    index = (len(out), block_bytes(handles, 1))
    out += with_trailer(index[1])
    footer = b"".join(varint(o) + varint(len(c)) for o, c in (meta, index))
    return bytes(out) + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def ordered_unsigned(value: int) -> bytes:
    digits = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def ordered_signed(value: int) -> bytes:
    """Only -1 and small numbers, which are all that slices of tests need."""
    if value == -1:
        return b"\x7f"
    if value < 2**6:
        return bytes([0x80 | value])
    assert value < 2**13
    return bytes([0xC0 | value >> 8, value & 0xFF])


def slice_key(name: bytes, extents: Sequence[tuple[int, int]]) -> bytes:
    # One pass: an escape holds the bytes that are escaped.
    escapes = {0x00: b"\0\xff", 0xFF: b"\xff\0"}
    escaped = b"".join(escapes.get(byte, bytes([byte])) for byte in name)
    out = ordered_unsigned(0) + escaped + b"\0\x01" + ordered_unsigned(len(extents))
    return out + b"".join(
        ordered_signed(start) + ordered_signed(length) for start, length in extents
    )


def string_bytes(
    elements: Sequence[bytes], *, big_endian: bool = False
) -> tuple[bytes, int]:
    """Stored bytes of a string tensor, and the masked crc of its entry."""
    order = ">" if big_endian else "<"
    lengths = b"".join(
        struct.pack(order + ("I" if len(e) < 2**32 else "Q"), len(e)) for e in elements
    )
    checksum = struct.pack(order + "I", masked(lengths))
    stored = b"".join(varint(len(e)) for e in elements) + checksum
    crc = crc32c.crc32c(checksum + b"".join(elements), crc32c.crc32c(lengths))
    crc = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return stored + b"".join(elements), crc


def element_bytes(array: np.ndarray, *, big_endian: bool) -> bytes:
    array = np.ascontiguousarray(array)
    if not big_endian:
        return array.tobytes()
    width = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    raw = np.frombuffer(array.tobytes(), f"V{width}")
    return b"".join(bytes(item)[::-1] for item in raw)


def write_bundle(
    prefix: pathlib.Path,
    tensors: Mapping[str, np.ndarray | Tensor],
    *,
    num_data_files: int = 1,
    big_endian: bool = False,
    header: bytes | None = None,
    extra: Mapping[bytes, bytes] | None = None,
    **table: Any,
) -> None:
    """Writes index and data files; `extra` adds or replaces raw entries."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    files = [bytearray() for _ in range(num_data_files)]
    entries: dict[bytes, bytes] = {
        b"": header_bytes(num_data_files, int(big_endian)) if header is None else header
    }

    def store(array: np.ndarray, code: int, number: int) -> bytes:
        if array.dtype == object:
            stored, crc = string_bytes(list(array.ravel()), big_endian=big_endian)
        else:
            stored = element_bytes(array, big_endian=big_endian)
            crc = masked(stored)
        offset = len(files[number])
        files[number] += stored
        return entry_bytes(
            code, array.shape, shard_id=number, offset=offset, size=len(stored), crc=crc
        )

    for name, value in tensors.items():
        tensor = value if isinstance(value, Tensor) else Tensor(value)
        key = name.encode("utf-8", "surrogateescape")
        code = tensor.code or CODES[tensor.array.dtype.name]
        if tensor.slices is None:
            assert isinstance(tensor.data_file, int)
            entries[key] = store(tensor.array, code, tensor.data_file)
            continue
        extents = [extents_of(one, tensor.array.shape) for one in tensor.slices]
        entries[key] = entry_bytes(code, tensor.array.shape, slices=extents)
        for i, (one, extent) in enumerate(zip(tensor.slices, extents, strict=True)):
            number = tensor.data_file
            number = number if isinstance(number, int) else number[i]
            entries[slice_key(key, extent)] = store(
                tensor.array[(*one, ...)], code, number
            )
    entries |= extra or {}
    index = table_bytes(sorted(entries.items()), **table)
    pathlib.Path(f"{prefix}.index").write_bytes(index)
    for i, contents in enumerate(files):
        path = pathlib.Path(f"{prefix}.data-{i:05d}-of-{num_data_files:05d}")
        path.write_bytes(bytes(contents))


def extents_of(one: tuple[slice, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Start and length of a box; (0, -1) for a whole axis, as TF's Saver writes it."""
    spans = [piece.indices(dim)[:2] for piece, dim in zip(one, shape, strict=True)]
    return [
        (0, -1) if span == (0, dim) else (span[0], span[1] - span[0])
        for span, dim in zip(spans, shape, strict=True)
    ]


def rows_in(array: np.ndarray, count: int, axis: int = 0) -> list[tuple[slice, ...]]:
    """Slices of an array in `count` nearly even parts along one axis."""
    edges = [round(i * array.shape[axis] / count) for i in range(count + 1)]
    whole = [slice(None)] * array.ndim
    boxes = []
    for start, stop in itertools.pairwise(edges):
        box = list(whole)
        box[axis] = slice(start, stop)
        boxes.append(tuple(box))
    return boxes
