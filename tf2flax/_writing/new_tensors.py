"""Values: the tensors that are to be written, checked, and not fetched yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.memory import view_at
from tf2flax._base.values import (
    DTYPES_BY_NUMPY,
    STORED_DTYPES,
    Box,
    StoredDtype,
    TensorSpec,
    encode_name,
)

_CODES: Final = {dtype.name: code for code, dtype in STORED_DTYPES.items()}

# Takes elements, in memory that may be used again afterwards.
TakeArray = Callable[[np.ndarray], None]

# Start and length along every axis; a whole axis is (0, -1).
Extents = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class NewPiece:
    """What is written as one run of bytes: a tensor, or one slice of it.

    Attributes:
        spec: Shape of the piece, and dtype.
        extents: Start and length along every axis; None unless it is a slice.
        array: Gives its elements, when they are written.
        process: Number of the process that has the elements and writes them, where
            several save together; None where all of them have them.
        part: Gives the elements of a box of the piece, where that takes less than all
            of them; None where they are had together.
        stream: Hands on its elements in their order, so that it is never whole on the
            host; None where it is fetched by the two before.
    """

    spec: TensorSpec
    extents: Extents | None
    array: Callable[[], np.ndarray]
    process: int | None = None
    part: Callable[[Box], np.ndarray] | None = None
    stream: Callable[[TakeArray], None] | None = None

    @property
    def nbytes(self) -> int:
        """Its bytes in the file; of strings, a guess that only balances data files."""
        return self.spec.size * self.spec.dtype.numpy.itemsize

    def elements(self, box: Box) -> np.ndarray:
        """The elements of a box, fetched alone where they can be."""
        whole = Box.whole(self.spec.shape)
        if self.part is not None and box != whole:
            return self.part(box)
        return view_at(self.array(), box.within(whole))


@dataclasses.dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to write.

    Attributes:
        key: Its name, as it is stored.
        spec: Shape and dtype of the whole.
        pieces: One, or its slices.
    """

    key: bytes
    spec: TensorSpec
    pieces: tuple[NewPiece, ...]

    @property
    def dtype_code(self) -> int:
        """TensorFlow's number of the dtype."""
        return _CODES[self.spec.dtype.name]


def whole_tensor(
    name: str,
    spec: TensorSpec,
    array: Callable[[], np.ndarray],
    part: Callable[[Box], np.ndarray] | None = None,
    stream: Callable[[TakeArray], None] | None = None,
) -> NewTensor:
    """A tensor that is written in one piece; see `NewPiece`."""
    piece = NewPiece(spec, None, array, part=part, stream=stream)
    return NewTensor(stored_key(name), spec, (piece,))


def spans_processes(tensor: NewTensor) -> bool:
    """True if processes have different pieces of a tensor."""
    return any(piece.process is not None for piece in tensor.pieces)


def stored_key(name: str) -> bytes:
    """The key of a name.

    Raises:
        AssignmentError: A tensor cannot have this name.
    """
    if not name:
        raise AssignmentError(
            "A tensor needs a name, and this one has none. Give a mapping of names to "
            'arrays: {"name": array}.'
        )
    try:
        return encode_name(name)
    except UnicodeEncodeError as error:
        raise AssignmentError(
            f"Name {name!r} is not valid text: {error.reason}."
        ) from error


def stored_dtype(name: str, dtype: np.dtype[Any]) -> StoredDtype:
    """TensorFlow's dtype for an array.

    Args:
        name: Name of the leaf, for the message.
        dtype: The array's dtype, in any byte order.

    Raises:
        UnsupportedError: TensorFlow has no such dtype.
    """
    stored = DTYPES_BY_NUMPY.get(dtype.newbyteorder("="))
    if stored is None:
        raise UnsupportedError(
            f"Leaf `{name}` is of dtype {dtype}, which no TensorFlow checkpoint holds. "
            "Cast it, or leave it out."
        )
    return stored
