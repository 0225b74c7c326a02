"""Parts of leaves that views of tensors fill while chunks of them come in.

Scattering itself is `_reading.destinations`; casts are made by whoever has the array.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tf2flax._reading.destinations import Destination
from tf2flax._reading.strides import along_axes
from tf2flax._reading.units import ReadUnit


class PutElements(Protocol):
    """Casts elements into a part of a leaf's array."""

    def __call__(
        self,
        elements: np.ndarray,
        part: np.ndarray,
        *,
        casts: tuple[np.dtype, ...],
        origin: tuple[int, ...],
    ) -> None:
        """See `LeafBox.put`."""
        ...


class LeafDestination(Destination):
    """A part of a leaf that a view of a tensor fills, cast on the way."""

    __slots__ = ("_casts", "_origin", "_put")

    def __init__(
        self,
        part: np.ndarray,
        put: PutElements,
        *,
        in_leaf: tuple[int, ...],
        is_stored: bool,
        offset: int,
        strides: tuple[int, ...],
        casts: tuple[np.dtype, ...],
    ) -> None:
        """Takes a part of an array.

        Args:
            part: The part: a view of the array.
            put: Casts elements into a part of the array.
            in_leaf: Position of the part's first element in the leaf.
            is_stored: True if the array has the dtype of the tensor.
            offset: The view's first element, in the order in which elements come in.
            strides: Its steps, in elements.
            casts: Dtypes that the elements go through before the leaf's own.
        """
        super().__init__(
            part,
            offset=offset,
            strides=strides,
            # Then chunks of the file are read into the array itself.
            is_plain=is_stored and not casts,
        )
        self._put = put
        self._origin = in_leaf
        self._casts = casts

    def put(
        self, elements: np.ndarray, part: np.ndarray, origin: tuple[int, ...]
    ) -> None:
        """Casts elements into a part of the array."""
        # Messages name the place in the leaf, not in this array.
        in_leaf = tuple(a + b for a, b in zip(self._origin, origin, strict=True))
        self._put(elements, part, casts=self._casts, origin=in_leaf)


def within_piece(
    unit: ReadUnit, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[int, tuple[int, ...]]:
    """Turns a view of a tensor into a view of the piece that holds it."""
    axes = along_axes(unit.entry.spec.shape, offset, shape, strides)
    assert axes is not None
    assert unit.piece is not None
    return axes.within(unit.piece.box)
