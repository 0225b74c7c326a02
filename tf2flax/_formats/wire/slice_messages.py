"""Messages of a V1 checkpoint: the tensors of which a file holds slices.

Source: tensorflow/core/util/saved_tensor_slice.proto.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from tf2flax._base.errors import MalformedError

from .messages import MESSAGE_CLASSES, parse_message, read_extents

_SLICE: Final[Any] = MESSAGE_CLASSES["TensorSliceProto"]
_SAVED_SLICES: Final[Any] = MESSAGE_CLASSES["SavedTensorSlices"]


@dataclasses.dataclass(frozen=True, slots=True)
class SavedTensor:
    """One tensor as a V1 checkpoint lists it; nothing is checked.

    Attributes:
        name: Its key.
        dtype_code: TensorFlow's number of the dtype.
        dims: The shape.
        is_unknown_rank: True if it has none.
        slices: Start and length along every axis of each slice that the file holds;
            length -1 for a whole axis.
    """

    name: bytes
    dtype_code: int
    dims: tuple[int, ...]
    is_unknown_rank: bool
    slices: tuple[tuple[tuple[int, int], ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SavedTensors:
    """The first message of a V1 checkpoint.

    Attributes:
        tensors: The tensors of which the file holds slices.
        min_consumer: Oldest version of the format that may read it.
        bad_consumers: Versions that must not read it.
    """

    tensors: tuple[SavedTensor, ...]
    min_consumer: int
    bad_consumers: tuple[int, ...]


def parse_saved_tensors(data: bytes | memoryview) -> SavedTensors:
    """Parses the first message of a V1 checkpoint, which lists what it holds.

    Args:
        data: A `SavedTensorSlices`.

    Returns:
        The list.

    Raises:
        MalformedError: It does not parse, or holds no list.
    """
    saved = parse_message(_SAVED_SLICES, data)
    if not saved.HasField("meta"):
        raise MalformedError("expected a list of tensors, got a message without")
    return SavedTensors(
        tensors=tuple(
            [
                SavedTensor(
                    name=tensor.name,
                    dtype_code=tensor.type,
                    dims=tuple([dim.size for dim in tensor.shape.dim]),
                    is_unknown_rank=tensor.shape.unknown_rank,
                    slices=tuple(map(read_extents, tensor.slice)),
                )
                for tensor in saved.meta.tensor
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
    return read_extents(parse_message(_SLICE, data))
