"""Arrays of leaves, and the parts that views of tensors fill while chunks come in.

Scattering itself is `_reading.destinations`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tf2flax._assignment.layouts.filling import constants_within
from tf2flax._assignment.layouts.nodes import Layout
from tf2flax._base.dtypes import MisfitCounter, cast_into, forced_cast
from tf2flax._base.memory import view_at
from tf2flax._base.values import Box
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


class LeafBox:
    """A box of a leaf, and the array that holds it.

    Attributes:
        leaf: Name of the leaf.
        box: The box.
        array: Array of its shape and the leaf's dtype.
    """

    __slots__ = ("_is_forced", "_misfits", "array", "box", "leaf")

    def __init__(
        self,
        leaf: str,
        box: Box,
        array: np.ndarray,
        misfits: MisfitCounter,
        *,
        is_forced: bool,
    ) -> None:
        """Takes an array.

        Args:
            leaf: Name of the leaf.
            box: The box.
            array: Array of its shape.
            misfits: Takes values that do not fit.
            is_forced: True if the last cast may change values.
        """
        self.leaf = leaf
        self.box = box
        self.array = array
        self._misfits = misfits
        self._is_forced = is_forced

    def part(self, box: Box) -> np.ndarray:
        """Views the part of the array that holds a box of the leaf, within this one."""
        if box == self.box:  # as for most leaves; an index takes longer
            return self.array
        return view_at(self.array, box.within(self.box))

    def put(
        self,
        elements: np.ndarray,
        part: np.ndarray,
        *,
        casts: tuple[np.dtype, ...],
        origin: tuple[int, ...],
    ) -> None:
        """Casts elements into a part of the array.

        Args:
            elements: What was read.
            part: A view of the array, of the same shape.
            casts: Dtypes that the elements go through before the leaf's own.
            origin: Position of the part's first element in the leaf.
        """
        # The casts that a map asks for change values by intention; only the last one,
        # to the leaf's dtype, is checked.
        for dtype in casts:
            elements = forced_cast(elements, dtype)
        misfits = cast_into(elements, part, is_forced=self._is_forced, origin=origin)
        if misfits:
            self._misfits.add(self.leaf, misfits)


def fill_constants(layout: Layout, leaf_box: LeafBox) -> None:
    """Fills what no tensor fills while it is read."""
    for constant, box in constants_within(layout, leaf_box.box):
        elements = np.broadcast_to(constant.value, box.shape)
        leaf_box.put(elements, leaf_box.part(box), casts=(), origin=box.starts)
