"""Messages of a V2 index: its header and the entry of each tensor, as frozen values.

Parses and formats; checks nothing that a message says.

Source: tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Final, NamedTuple

from tf2flax._base.errors import MalformedError

from .messages import MESSAGE_CLASSES, parse_message, read_extents
from .varint import read_varint64

_ENTRY: Final[Any] = MESSAGE_CLASSES["BundleEntryProto"]
_SHAPE: Final[Any] = MESSAGE_CLASSES["TensorShapeProto"]
_HEADER: Final[Any] = MESSAGE_CLASSES["BundleHeaderProto"]
_BIG_ENDIAN: Final = 1
_INT32_MAX: Final = 2**31 - 1
_INT64_MAX: Final = 2**63 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class BundleHeader:
    """The header of an index.

    Attributes:
        num_data_files: Number of data files (`num_shards`).
        is_big_endian: Byte order of the machine that wrote it.
        producer: Version of the format that wrote it.
        min_consumer: Oldest version that may read it.
        bad_consumers: Versions that must not read it.
    """

    num_data_files: int
    is_big_endian: bool
    producer: int
    min_consumer: int
    bad_consumers: tuple[int, ...]


class BundleEntry(NamedTuple):
    """The entry of one tensor, or of one stored slice; nothing is checked.

    Attributes:
        dtype_code: TensorFlow's number of the dtype.
        dims: The shape.
        is_unknown_rank: True if it has none.
        data_file_index: Number of the data file (`shard_id`).
        offset: First byte.
        size: Number of bytes.
        crc32c: Masked CRC-32C of the bytes.
        slices: For a tensor saved as slices, start and length of each along every
            axis; length -1 for a whole axis.
    """

    dtype_code: int
    dims: tuple[int, ...]
    is_unknown_rank: bool
    data_file_index: int
    offset: int
    size: int
    crc32c: int
    slices: tuple[tuple[tuple[int, int], ...], ...]


def parse_bundle_header(data: bytes | memoryview) -> BundleHeader:
    """Parses the header of an index.

    Args:
        data: A `BundleHeaderProto`.

    Returns:
        The header.

    Raises:
        MalformedError: It does not parse.
    """
    header = parse_message(_HEADER, data)
    if header.endianness not in (0, _BIG_ENDIAN):
        raise MalformedError(f"the header names byte order {header.endianness}")
    return BundleHeader(
        num_data_files=header.num_shards,
        is_big_endian=header.endianness == _BIG_ENDIAN,
        producer=header.version.producer,
        min_consumer=header.version.min_consumer,
        bad_consumers=tuple(header.version.bad_consumers),
    )


def parse_bundle_entry(data: bytes | memoryview) -> BundleEntry:
    """Parses the entry of one tensor.

    Args:
        data: A `BundleEntryProto`.

    Returns:
        The entry.

    Raises:
        MalformedError: It does not parse.
    """
    data = bytes(data)
    plain = _plain_entry(data)
    if plain is not None:
        return plain
    entry = parse_message(_ENTRY, data)
    shape = entry.shape
    slices = entry.slices
    # In the order of the fields: names would take a fifth of the time.
    return BundleEntry(
        entry.dtype,
        tuple([dim.size for dim in shape.dim]),
        shape.unknown_rank,
        entry.shard_id,
        entry.offset,
        entry.size,
        entry.crc32c,
        tuple(map(read_extents, slices)) if slices else (),
    )


def format_bundle_header(header: BundleHeader) -> bytes:
    """Formats the header of an index; the inverse of `parse_bundle_header`.

    Args:
        header: The header.

    Returns:
        A `BundleHeaderProto`.
    """
    message = _HEADER(num_shards=header.num_data_files)
    message.endianness = _BIG_ENDIAN if header.is_big_endian else 0
    message.version.producer = header.producer
    message.version.min_consumer = header.min_consumer
    message.version.bad_consumers.extend(header.bad_consumers)
    return message.SerializeToString(deterministic=True)


def format_bundle_entry(entry: BundleEntry) -> bytes:
    """Formats the entry of one tensor; the inverse of `parse_bundle_entry`.

    Args:
        entry: The entry.

    Returns:
        A `BundleEntryProto`.
    """
    message = _ENTRY(
        dtype=entry.dtype_code,
        shard_id=entry.data_file_index,
        offset=entry.offset,
        size=entry.size,
        crc32c=entry.crc32c,
    )
    message.shape.SetInParent()  # also where there are no axes
    for dim in entry.dims:
        message.shape.dim.add(size=dim)
    for extents in entry.slices:
        stored_slice = message.slices.add()
        for start, length in extents:
            extent = stored_slice.extent.add(start=start)
            if length != -1:
                extent.length = length
    return message.SerializeToString(deterministic=True)


def _plain_entry(data: bytes) -> BundleEntry | None:
    """An entry as TensorFlow writes those of whole tensors; None for any other.

    An index has one for each tensor, and protobuf takes three times as long: fields
    follow each other by number, zeros are left out, the checksum is the last.
    """
    stop = len(data) - 5  # where the checksum's tag is
    if stop < 4 or data[0] != 0x08 or data[2] != 0x12 or data[stop] != 0x35:
        return None
    dtype_code, pos = data[1], 4 + data[3]
    if dtype_code > 0x7F or data[3] > 0x7F or pos > stop:
        return None
    dims, is_unknown_rank = _short_shape(data[4:pos])
    data_file_index = offset = size = 0
    try:
        if data[pos] == 0x18:
            data_file_index, pos = read_varint64(data, pos + 1, stop)
        if data[pos] == 0x20:
            offset, pos = read_varint64(data, pos + 1, stop)
        if data[pos] == 0x28:
            size, pos = read_varint64(data, pos + 1, stop)
    except MalformedError:
        return None
    if pos != stop or data_file_index > _INT32_MAX or (offset | size) > _INT64_MAX:
        return None
    crc32c = int.from_bytes(data[stop + 1 :], "little")
    return BundleEntry(
        dtype_code, dims, is_unknown_rank, data_file_index, offset, size, crc32c, ()
    )


@functools.lru_cache(maxsize=1024)  # many tensors are alike
def _short_shape(data: bytes) -> tuple[tuple[int, ...], bool]:
    """Dimensions, and whether the rank is said to be unknown; of 127 bytes at most."""
    shape = parse_message(_SHAPE, data)
    return tuple([dim.size for dim in shape.dim]), shape.unknown_rank
