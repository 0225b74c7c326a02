"""Classes of all protobuf messages that are read or written, made from a table.

Descriptors live in a pool of this package's: those that TensorFlow registers in the
same process, before or after, do not meet them. What the messages say is the business
of `bundle_messages`, `slice_messages`, `graph_messages` and `state_messages`.

Source: tensorflow/core/framework/{tensor_shape,tensor_slice,versions}.proto, and those
of these files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from tf2flax._base.errors import MalformedError

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
