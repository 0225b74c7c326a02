"""Parts of leaves that views of tensors fill: casts on the way, and what does not fit.

Reads nothing; scattering itself is `_reading.destinations`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from tf2flax._base.dtypes import Misfits, cast_into, forced_cast
from tf2flax._base.memory import view_at
from tf2flax._base.values import Box
from tf2flax._reading.destinations import Destination


class MisfitCounter:
    """Values that do not fit the dtypes of leaves, counted from several threads."""

    def __init__(self) -> None:
        self._misfits: dict[str, Misfits] = {}
        self._lock = threading.Lock()

    @property
    def by_leaf(self) -> Mapping[str, Misfits]:
        """What does not fit, by name of the leaf."""
        return self._misfits

    def add(self, leaf: str, misfits: Misfits) -> None:
        """Adds those of a part of a leaf."""
        with self._lock:
            before = self._misfits.get(leaf)
            self._misfits[leaf] = misfits.joined(before) if before else misfits


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


class LeafDestination(Destination):
    """A part of a leaf that a view of a tensor fills, cast on the way."""

    __slots__ = ("_casts", "_leaf_box", "_origin")

    def __init__(
        self,
        leaf_box: LeafBox,
        shared: Box,
        stored: np.dtype,
        *,
        offset: int,
        strides: tuple[int, ...],
        casts: tuple[np.dtype, ...],
    ) -> None:
        """Takes a part of an array.

        Args:
            leaf_box: The array.
            shared: The box of the leaf that the view fills, within that of the array.
            stored: Dtype of the tensor.
            offset: The view's first element, in the order in which elements come in.
            strides: Its steps, in elements.
            casts: Dtypes that the elements go through before the leaf's own.
        """
        super().__init__(
            leaf_box.part(shared),
            offset=offset,
            strides=strides,
            # Then chunks of the file are read into the array itself.
            is_plain=not casts and leaf_box.array.dtype == stored,
        )
        self._leaf_box = leaf_box
        self._origin = shared.starts
        self._casts = casts

    def put(
        self, elements: np.ndarray, part: np.ndarray, origin: tuple[int, ...]
    ) -> None:
        """Casts elements into a part of the array."""
        # Messages name the place in the leaf, not in this array.
        in_leaf = tuple(a + b for a, b in zip(self._origin, origin, strict=True))
        self._leaf_box.put(elements, part, casts=self._casts, origin=in_leaf)
