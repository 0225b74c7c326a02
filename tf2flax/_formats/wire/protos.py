"""Protobuf messages of a checkpoint, as frozen values.

Descriptors live in a pool of their own: those that TensorFlow registers in the same
process, before or after, do not meet them.

Source: tensorflow/core/protobuf/tensor_bundle.proto,
tensorflow/core/framework/{tensor_shape,tensor_slice,versions}.proto,
tensorflow/core/util/saved_tensor_slice.proto,
tensorflow/core/protobuf/trackable_object_graph.proto,
tensorflow/python/training/checkpoint_state.proto.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)
from google.protobuf.message import DecodeError, Message

from tf2flax._base.errors import MalformedError

from .varint import read_varint64

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


_CLASSES: Final = _message_classes()
_ENTRY: Final[Any] = _CLASSES["BundleEntryProto"]
_SHAPE: Final[Any] = _CLASSES["TensorShapeProto"]
_HEADER: Final[Any] = _CLASSES["BundleHeaderProto"]
_SLICE: Final[Any] = _CLASSES["TensorSliceProto"]
_SAVED_SLICES: Final[Any] = _CLASSES["SavedTensorSlices"]
_GRAPH: Final[Any] = _CLASSES["TrackableObjectGraph"]
_STATE: Final[Any] = _CLASSES["CheckpointState"]
_BIG_ENDIAN: Final = 1
_INT32_MAX: Final = 2**31 - 1
_INT64_MAX: Final = 2**63 - 1


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


class BundleEntry(NamedTuple):
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


@dataclasses.dataclass(frozen=True, slots=True)
class SavedTensor:
    """What a V1 checkpoint says of one tensor; nothing is checked.

    Attributes:
        name: Its key.
        dtype_code: TensorFlow's number of the dtype.
        dims: The shape.
        is_unknown_rank: Whether it has none.
        slices: Start and length along every axis of each part that the file holds;
            length -1 for a whole axis.
    """

    name: bytes
    dtype_code: int
    dims: tuple[int, ...]
    is_unknown_rank: bool
    slices: tuple[tuple[tuple[int, int], ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SavedTensors:
    """What the first message of a V1 checkpoint says.

    Attributes:
        tensors: The tensors of which the file holds parts.
        min_consumer: Oldest version of the format that may read it.
        bad_consumers: Versions that must not read it.
    """

    tensors: tuple[SavedTensor, ...]
    min_consumer: int
    bad_consumers: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectReference:
    """An attribute of an object that is another object.

    Attributes:
        node_id: Number of the other object.
        local_name: Name of the attribute.
    """

    node_id: int
    local_name: str


@dataclasses.dataclass(frozen=True, slots=True)
class SerializedTensor:
    """What an object has stored.

    Attributes:
        name: What it is: `VARIABLE_VALUE`, ...
        full_name: The variable's own name; "" where it has none.
        checkpoint_key: The key under which it is stored.
    """

    name: str
    full_name: str
    checkpoint_key: str


@dataclasses.dataclass(frozen=True, slots=True)
class TrackableObject:
    """One object of an object graph.

    Attributes:
        children: The objects it refers to.
        attributes: What it has stored.
    """

    children: tuple[ObjectReference, ...]
    attributes: tuple[SerializedTensor, ...]


def parse_bundle_header(data: bytes | memoryview) -> BundleHeader:
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
    entry = _parse(_ENTRY, data)
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
        tuple(map(_extents, slices)) if slices else (),
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
        one = message.slices.add()
        for start, length in extents:
            extent = one.extent.add(start=start)
            if length != -1:
                extent.length = length
    return message.SerializeToString(deterministic=True)


def parse_saved_tensors(data: bytes | memoryview) -> SavedTensors:
    """Parses the first message of a V1 checkpoint, which lists what it holds.

    Args:
        data: A `SavedTensorSlices`.

    Returns:
        The list.

    Raises:
        MalformedError: It does not parse, or holds no list.
    """
    saved = _parse(_SAVED_SLICES, data)
    if not saved.HasField("meta"):
        raise MalformedError("expected a list of tensors, got a message without")
    return SavedTensors(
        tensors=tuple(
            [
                SavedTensor(
                    name=one.name,
                    dtype_code=one.type,
                    dims=tuple([dim.size for dim in one.shape.dim]),
                    is_unknown_rank=one.shape.unknown_rank,
                    slices=tuple(map(_extents, one.slice)),
                )
                for one in saved.meta.tensor
            ]
        ),
        min_consumer=saved.meta.versions.min_consumer,
        bad_consumers=tuple(saved.meta.versions.bad_consumers),
    )


def parse_extents(data: bytes) -> tuple[tuple[int, int], ...]:
    """Parses a slice.

    Args:
        data: A `TensorSliceProto`.

    Returns:
        Start and length along every axis; length -1 for a whole axis.

    Raises:
        MalformedError: It does not parse.
    """
    return _extents(_parse(_SLICE, data))


def parse_checkpoint_paths(text: str) -> tuple[str, ...]:
    """Parses the paths of all checkpoints that a state file names, oldest first.

    Args:
        text: A `CheckpointState` in text format.

    Returns:
        The paths as they are written; () where the text does not parse.
    """
    state = _STATE()
    try:
        text_format.Merge(text, state)
    except (text_format.ParseError, UnicodeError):
        return ()
    return tuple(state.all_model_checkpoint_paths)


def format_checkpoint_state(latest: str, paths: Sequence[str]) -> str:
    """Formats a state file.

    Args:
        latest: Path of the latest checkpoint.
        paths: Paths of all, oldest first.

    Returns:
        A `CheckpointState` in text format.

    Examples:
        >>> format_checkpoint_state("m-2", ["m-1", "m-2"]).splitlines()[0]
        'model_checkpoint_path: "m-2"'
    """
    state = _STATE(model_checkpoint_path=latest, all_model_checkpoint_paths=paths)
    return text_format.MessageToString(state)


def parse_object_graph(data: bytes) -> tuple[TrackableObject, ...]:
    """Parses the object graph of a TF2 checkpoint.

    Args:
        data: A `TrackableObjectGraph`.

    Returns:
        Its objects; the first is the root.

    Raises:
        MalformedError: It does not parse, or refers to an object that is not there.
    """
    graph = _parse(_GRAPH, data)
    count = len(graph.nodes)
    nodes: list[TrackableObject] = []
    for node in graph.nodes:
        for child in node.children:
            if not 0 <= child.node_id < count:
                raise MalformedError(
                    f"expected objects within [0, {count}), got {child.node_id}"
                )
        children = [
            ObjectReference(child.node_id, _text(child.local_name))
            for child in node.children
        ]
        attributes = [
            SerializedTensor(
                name=_text(one.name),
                full_name=_text(one.full_name),
                checkpoint_key=_text(one.checkpoint_key),
            )
            for one in node.attributes
        ]
        nodes.append(TrackableObject(tuple(children), tuple(attributes)))
    return tuple(nodes)


def prune_object_graph(data: bytes, is_dropped: Callable[[str], bool]) -> bytes:
    """Leaves stored values out of an object graph.

    Args:
        data: A `TrackableObjectGraph`.
        is_dropped: Whether the value under a key is left out.

    Returns:
        The graph without them, and without references to slots whose value is left
        out; fields that are not known here are kept. The same bytes where nothing is.

    Raises:
        MalformedError: It does not parse.
    """
    graph = _parse(_GRAPH, data)
    removed = 0
    emptied: set[int] = set()
    for number, node in enumerate(graph.nodes):
        count = _remove(
            node.attributes, lambda value: is_dropped(_text(value.checkpoint_key))
        )
        removed += count
        if count and not node.attributes:
            emptied.add(number)
    for node in graph.nodes:
        _remove(node.slot_variables, lambda slot: slot.slot_variable_node_id in emptied)
    return graph.SerializeToString(deterministic=True) if removed else data


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
    shape = _parse(_SHAPE, data)
    return tuple([dim.size for dim in shape.dim]), shape.unknown_rank


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _remove(messages: Any, is_removed: Callable[[Any], bool]) -> int:
    """Removes messages from a repeated field; returns how many."""
    numbers = [number for number, one in enumerate(messages) if is_removed(one)]
    for number in reversed(numbers):
        del messages[number]
    return len(numbers)


def _extents(one: Any) -> tuple[tuple[int, int], ...]:
    return tuple([(extent.start, _length(extent)) for extent in one.extent])


def _length(extent: Any) -> int:
    return extent.length if extent.HasField("length") else -1


def _parse(message_class: Any, data: bytes | memoryview) -> Any:
    message = message_class()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MalformedError(f"a message does not parse: {error}") from error
    return message
