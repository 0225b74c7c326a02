"""Classes of all protobuf messages that are read or written, made from a table.

Descriptors live in a pool of this package's: those that TensorFlow registers in the
same process, before or after, do not meet them. Those of a V2 index, its header and the
entry of each tensor, become frozen values here; what others say is the business of
`slice_messages`, `graph_messages` and `state_messages`. Checks nothing that a message
says.

Source: tensorflow/core/framework/{tensor_shape,tensor_slice,versions}.proto,
tensorflow/core/protobuf/tensor_bundle.proto, and those of these files.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from tf2flax._base.errors import MalformedError

from .coding import decode_varint

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE: Final = "tf2flax"

# Message -> field -> (number, type, is repeated). Enums are read as the int32 they are
# on the wire, so that unknown values stay what they are.
_MESSAGES: Final[Mapping[str, Mapping[str, tuple[int, Any, bool]]]] = {
    "VersionDef": {
        "producer": (1, _Field.TYPE_INT32, False),
        "min_consumer": (2, _Field.TYPE_INT32, False),
        "bad_consumers": (3, _Field.TYPE_INT32, True),
    },
    "BundleHeaderProto": {
        "num_shards": (1, _Field.TYPE_INT32, False),
        "endianness": (2, _Field.TYPE_INT32, False),
        "version": (3, "VersionDef", False),
    },
    "Dim": {"size": (1, _Field.TYPE_INT64, False)},
    "TensorShapeProto": {
        "dim": (2, "Dim", True),
        "unknown_rank": (3, _Field.TYPE_BOOL, False),
    },
    "Extent": {
        "start": (1, _Field.TYPE_INT64, False),
        "length": (2, _Field.TYPE_INT64, False),
    },
    "TensorSliceProto": {"extent": (1, "Extent", True)},
    "BundleEntryProto": {
        "dtype": (1, _Field.TYPE_INT32, False),
        "shape": (2, "TensorShapeProto", False),
        "shard_id": (3, _Field.TYPE_INT32, False),
        "offset": (4, _Field.TYPE_INT64, False),
        "size": (5, _Field.TYPE_INT64, False),
        "crc32c": (6, _Field.TYPE_FIXED32, False),
        "slices": (7, "TensorSliceProto", True),
    },
    "SavedSliceMeta": {
        "name": (1, _Field.TYPE_BYTES, False),
        "shape": (2, "TensorShapeProto", False),
        "type": (3, _Field.TYPE_INT32, False),
        "slice": (4, "TensorSliceProto", True),
    },
    "SavedTensorSliceMeta": {
        "tensor": (1, "SavedSliceMeta", True),
        "versions": (2, "VersionDef", False),
    },
    "SavedTensorSlices": {"meta": (1, "SavedTensorSliceMeta", False)},
    "ObjectReference": {
        "node_id": (1, _Field.TYPE_INT32, False),
        "local_name": (2, _Field.TYPE_BYTES, False),
    },
    "SerializedTensor": {
        "name": (1, _Field.TYPE_BYTES, False),
        "full_name": (2, _Field.TYPE_BYTES, False),
        "checkpoint_key": (3, _Field.TYPE_BYTES, False),
    },
    "SlotVariableReference": {
        "original_variable_node_id": (1, _Field.TYPE_INT32, False),
        "slot_name": (2, _Field.TYPE_BYTES, False),
        "slot_variable_node_id": (3, _Field.TYPE_INT32, False),
    },
    "TrackableObject": {
        "children": (1, "ObjectReference", True),
        "attributes": (2, "SerializedTensor", True),
        "slot_variables": (3, "SlotVariableReference", True),
    },
    "TrackableObjectGraph": {"nodes": (1, "TrackableObject", True)},
    "CheckpointState": {
        "model_checkpoint_path": (1, _Field.TYPE_STRING, False),
        "all_model_checkpoint_paths": (2, _Field.TYPE_STRING, True),
        "all_model_checkpoint_timestamps": (3, _Field.TYPE_DOUBLE, True),
        "last_preserved_timestamp": (4, _Field.TYPE_DOUBLE, False),
    },
}


def _message_classes() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="tf2flax/checkpoint.proto", package=_PACKAGE, syntax="proto3"
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, (number, kind, is_repeated) in fields.items():
            field = message.field.add(name=field_name, number=number)
            field.label = (
                _Field.LABEL_REPEATED if is_repeated else _Field.LABEL_OPTIONAL
            )
            if isinstance(kind, str):
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
            else:
                field.type = kind
    # A slice without a length is a whole axis; a length of 0 is an empty slice.
    extent = next(m for m in file.message_type if m.name == "Extent")
    extent.oneof_decl.add(name="has_length")
    extent.field[1].oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")
        )
        for name in _MESSAGES
    }


MESSAGE_CLASSES: Final = _message_classes()


def read_extents(message: Any) -> tuple[tuple[int, int], ...]:
    """The extents in a `TensorSliceProto`; length -1 for a whole axis."""
    return tuple([(extent.start, _length(extent)) for extent in message.extent])


def _length(extent: Any) -> int:
    return extent.length if extent.HasField("length") else -1


def parse_message(message_class: Any, data: bytes | memoryview) -> Any:
    """Parses a message.

    Raises:
        MalformedError: It does not parse.
    """
    message = message_class()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MalformedError(f"a message does not parse: {error}") from error
    return message


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


# What follows the shape in an entry as TensorFlow writes it: number of the data file,
# offset and size, each left out where it is zero, and the checksum.
_match_places: Final = re.compile(
    rb"(?:\x18([\x80-\xff]{0,4}[\x00-\x7f]))?"
    rb"(?:\x20([\x80-\xff]{0,8}[\x00-\x7f]))?"
    rb"(?:\x28([\x80-\xff]{0,8}[\x00-\x7f]))?"
    rb"\x35(.{4})",
    re.DOTALL,
).fullmatch


def _plain_entry(data: bytes) -> BundleEntry | None:
    """An entry as TensorFlow writes those of whole tensors; None for any other.

    An index has one for each tensor, and protobuf takes four times as long: fields
    follow each other by number, zeros are left out, the checksum is the last.
    """
    if len(data) < 9 or data[0] != 0x08 or data[2] != 0x12:
        return None
    dtype_code, pos = data[1], 4 + data[3]
    places = _match_places(data, pos)
    if places is None or (dtype_code | data[3]) > 0x7F:
        return None
    dims, is_unknown_rank = _short_shape(data[4:pos])
    index, offset, size, crc32c = places.groups(b"\0")
    data_file_index = _decode_short(index)
    if data_file_index > _INT32_MAX:
        return None
    return BundleEntry(
        dtype_code,
        dims,
        is_unknown_rank,
        data_file_index,
        decode_varint(offset),
        _decode_short(size),
        int.from_bytes(crc32c, "little"),
        (),
    )


# Sizes and numbers of data files are few.
_decode_short: Final = functools.lru_cache(maxsize=1024)(decode_varint)


@functools.lru_cache(maxsize=1024)  # many tensors are alike
def _short_shape(data: bytes) -> tuple[tuple[int, ...], bool]:
    """Dimensions, and whether the rank is said to be unknown; of 127 bytes at most."""
    shape = parse_message(_SHAPE, data)
    return tuple([dim.size for dim in shape.dim]), shape.unknown_rank
