"""Protobuf messages of a checkpoint, as frozen values.

Descriptors live in a pool of their own: those that TensorFlow registers in the same
process, before or after, do not meet them.

Source: tensorflow/core/protobuf/tensor_bundle.proto,
tensorflow/core/framework/{tensor_shape,tensor_slice,versions}.proto,
tensorflow/python/training/checkpoint_state.proto.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)
from google.protobuf.message import DecodeError, Message

from tf2flax._errors import MalformedError

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


_CLASSES: Final = _message_classes()
_ENTRY: Final[Any] = _CLASSES["BundleEntryProto"]
_HEADER: Final[Any] = _CLASSES["BundleHeaderProto"]
_STATE: Final[Any] = _CLASSES["CheckpointState"]
_BIG_ENDIAN: Final = 1


@dataclasses.dataclass(frozen=True, slots=True)
class BundleHeader:
    """What the header of an index says.

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


@dataclasses.dataclass(frozen=True, slots=True)
class BundleEntry:
    """What an index says of one tensor, or of one stored slice; nothing is checked.

    Attributes:
        dtype_code: TensorFlow's number of the dtype.
        dims: The shape.
        is_unknown_rank: Whether it has none.
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


def parse_bundle_header(data: bytes) -> BundleHeader:
    """Parses the header of an index.

    Args:
        data: A `BundleHeaderProto`.

    Returns:
        The header.

    Raises:
        MalformedError: It does not parse.
    """
    header = _parse(_HEADER, data)
    if header.endianness not in (0, _BIG_ENDIAN):
        raise MalformedError(f"the header names byte order {header.endianness}")
    return BundleHeader(
        num_data_files=header.num_shards,
        is_big_endian=header.endianness == _BIG_ENDIAN,
        producer=header.version.producer,
        min_consumer=header.version.min_consumer,
        bad_consumers=tuple(header.version.bad_consumers),
    )


def parse_bundle_entry(data: bytes) -> BundleEntry:
    """Parses the entry of one tensor.

    Args:
        data: A `BundleEntryProto`.

    Returns:
        The entry.

    Raises:
        MalformedError: It does not parse.
    """
    entry = _parse(_ENTRY, data)
    shape = entry.shape
    return BundleEntry(
        dtype_code=entry.dtype,
        dims=tuple([dim.size for dim in shape.dim]),
        is_unknown_rank=shape.unknown_rank,
        data_file_index=entry.shard_id,
        offset=entry.offset,
        size=entry.size,
        crc32c=entry.crc32c,
        slices=tuple(
            [tuple([(e.start, _length(e)) for e in one.extent]) for one in entry.slices]
        ),
    )


def parse_checkpoint_state(text: str) -> str | None:
    """Parses the state file that names the latest checkpoint of a directory.

    Args:
        text: A `CheckpointState` in text format.

    Returns:
        The path it names, "" where it names none; None where it does not parse.

    Examples:
        >>> parse_checkpoint_state('model_checkpoint_path: "model.ckpt-5"')
        'model.ckpt-5'
    """
    state = _STATE()
    try:
        # Merge lets the last of several values win, as TensorFlow does.
        text_format.Merge(text, state)
    except (text_format.ParseError, UnicodeError):
        return None
    return state.model_checkpoint_path


def _length(extent: Any) -> int:
    return extent.length if extent.HasField("length") else -1


def _parse(message_class: Any, data: bytes) -> Any:
    message = message_class()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MalformedError(f"a message does not parse: {error}") from error
    return message
