"""A mapping of names to arrays as a checkpoint: weights from anywhere.

Arrays are taken as they are: nothing is copied until it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from tf2flax._base.caller import attribute_of, show_value
from tf2flax._base.errors import AssignmentError, TensorNotFoundError, UnsupportedError
from tf2flax._base.manifest import EncodedPiece, Manifest, TensorEntry
from tf2flax._base.memory import empty, view_at
from tf2flax._base.values import (
    DTYPES_BY_NUMPY,
    STRING,
    STRING_KINDS,
    Box,
    TensorSpec,
    encode_name,
)

from .stored_tensor import StoredTensor

# What messages call a checkpoint that no file is.
_PLACE = "a mapping"


@dataclasses.dataclass(frozen=True, slots=True)
class ArrayPiece(EncodedPiece):
    """An array in memory, or on devices, as a piece of a tensor.

    Attributes:
        array: What `numpy.asarray` takes.
    """

    array: Any = None

    @property
    def is_local(self) -> bool:
        """True: it is here already."""
        return True

    def check(self, *, subject: str) -> None:
        """Refuses nothing: it is there."""

    def read(self, box: Box) -> np.ndarray:
        """Copies a box of the array."""
        array = np.asarray(self.array)
        native = array.dtype.newbyteorder("=")
        return np.array(
            view_at(array, box.within(Box.whole(array.shape))),
            native,
            order="C",
            copy=True,
        )


class MappingManifest(Manifest):
    """Names and entries of a mapping."""

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        """Takes entries.

        Args:
            entries: Entries by name.
        """
        self._entries = entries
        self._names = tuple(sorted(entries))

    @property
    def prefix(self) -> str:
        """What stands for it in messages."""
        return _PLACE

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return self._names

    def __contains__(self, name: object) -> bool:
        """Tells whether a tensor has this name."""
        return name in self._entries

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Nothing: there is no index."""
        return ()

    def entry(self, name: str) -> TensorEntry:
        """The entry of one tensor."""
        if name not in self._entries:
            raise TensorNotFoundError(name, _PLACE)
        return self._entries[name]


def manifest_of_mapping(mapping: Mapping[Any, Any]) -> Manifest:
    """Makes a manifest of a mapping of names to arrays.

    Args:
        mapping: Names -> arrays, scalars, bytes, text, or `StoredTensor`s.

    Returns:
        The manifest.

    Raises:
        AssignmentError: A member is neither.
        UnsupportedError: TensorFlow has no such dtype.
    """
    return MappingManifest(
        {name: _entry_of(name, value) for name, value in mapping.items()}
    )


def _entry_of(name: object, value: Any) -> TensorEntry:
    if not isinstance(name, str) or not name:
        raise AssignmentError(
            f"A mapping in place of a checkpoint has names, got {show_value(name)}."
        )
    if isinstance(value, StoredTensor):
        return value.entry._replace(name=name)
    if isinstance(value, Mapping):
        raise AssignmentError(
            f"A mapping in place of a checkpoint is flat; `{name}` holds a mapping. "
            "Join names by '/': flax.traverse_util.flatten_dict(tree, sep='/')."
        )
    refuse_masked(f"`{name}`", value)
    if isinstance(value, (bool, int, float, complex, bytes, str)):
        value = np.asarray(value, object if isinstance(value, bytes) else None)
    shape, dtype = attribute_of(value, "shape"), attribute_of(value, "dtype")
    if not isinstance(shape, tuple) or not isinstance(dtype, np.dtype):
        raise AssignmentError(
            f"`{name}` is {show_value(value)}, and not an array. Give arrays or "
            "StoredTensors, or the path of a checkpoint."
        )
    if attribute_of(value, "__array__") is None:
        raise AssignmentError(
            f"`{name}` is {show_value(value)}, which has no values. Give arrays."
        )
    if dtype.kind in STRING_KINDS:
        value, stored = strings_as_bytes(f"`{name}`", np.asarray(value)), STRING
    elif dtype.newbyteorder("=") in DTYPES_BY_NUMPY:
        stored = DTYPES_BY_NUMPY[dtype.newbyteorder("=")]
    else:
        raise UnsupportedError(
            f"`{name}` is of dtype {dtype}, which no TensorFlow checkpoint holds. Cast "
            "it, or leave it out."
        )
    spec = TensorSpec(cast("tuple[int, ...]", shape), stored)
    nbytes = spec.size * dtype.itemsize
    piece = ArrayPiece(Box.whole(spec.shape), _PLACE, nbytes, value)
    return TensorEntry(name, spec, (piece,), is_sliced=False, is_big_endian=False)


def strings_as_bytes(subject: str, array: np.ndarray) -> np.ndarray:
    """The same array with elements of `bytes`; text becomes UTF-8."""
    out = empty(array.size, object)
    for i, element in enumerate(array.reshape(-1).tolist()):
        if isinstance(element, str):
            try:
                out[i] = encode_name(element)
            except UnicodeEncodeError as error:
                raise AssignmentError(
                    f"{subject} holds {show_value(element)}, which is not valid "
                    f"text: {error.reason}. Give bytes."
                ) from error
        elif isinstance(element, bytes):
            out[i] = element
        else:
            raise AssignmentError(
                f"{subject} is an array of objects, one of which is a "
                f"{type(element).__name__}. Only bytes and text can be saved."
            )
    return out.reshape(array.shape)


def refuse_masked(subject: str, value: object) -> None:
    """Refuses masked arrays.

    Args:
        subject: What has the value, for the message.
        value: The value.

    Raises:
        AssignmentError: It is one.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise AssignmentError(
            f"{subject} is a masked array, and no checkpoint holds masks. Fill it "
            "first, with `filled()`."
        )
