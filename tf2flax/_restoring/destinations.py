"""Where elements of tensors go: parts of host arrays, filled chunk by chunk.

Casts and scatters; reads nothing.
"""

from __future__ import annotations

import numpy as np

from tf2flax._base.boxes import boxes_in_run, distance
from tf2flax._base.dtypes import Misfits, cast_into, forced_cast
from tf2flax._base.memory import view_at
from tf2flax._base.values import Box
from tf2flax._reading.runs import strided, strides_of


class Destination:
    """A part of a host array that a view of a tensor fills.

    Attributes:
        leaf: Name of the leaf; "" where the array is no leaf's.
        low: The view's lowest element, in the tensor's row-major order.
        high: The element behind its highest one.
    """

    __slots__ = (
        "_casts", "_flat", "_offset", "_origin", "_out", "_row_span", "_strides",
        "high", "leaf", "low",
    )  # fmt: skip

    def __init__(
        self,
        leaf: str,
        out: np.ndarray,
        stored: np.dtype,
        *,
        offset: int,
        strides: tuple[int, ...],
        casts: tuple[np.dtype, ...] = (),
        origin: tuple[int, ...] = (),
    ) -> None:
        """Says where a view goes.

        Args:
            leaf: Name of the leaf.
            out: Array of the view's shape, not empty.
            stored: Dtype of the tensor.
            offset: The view's first element, in the tensor's row-major order.
            strides: Its steps, in elements.
            casts: Dtypes that the elements go through before the array's own.
            origin: Where the array's first element lies in the leaf.
        """
        moves = [(n - 1) * s for n, s in zip(out.shape, strides, strict=True)]
        self.leaf = leaf
        self.low = offset + sum(move for move in moves if move < 0)
        self.high = offset + sum(move for move in moves if move > 0) + 1
        self._out = out
        self._offset = offset
        self._strides = strides
        self._casts = casts
        self._origin = origin or (0,) * out.ndim
        is_run = self.high - self.low == out.size and out.flags.c_contiguous
        is_plain = not casts and out.dtype == stored
        # A view of one element may have any strides.
        is_in_order = out.size == 1 or all(
            n == 1 or s == own
            for n, s, own in zip(out.shape, strides, strides_of(out.shape), strict=True)
        )
        self._flat = out.reshape(-1) if is_run and is_plain and is_in_order else None
        # Elements that a row spans, where rows lie behind each other; else 0.
        self._row_span = 0
        if out.ndim and min(strides) > 0:
            span = 1 + sum(moves[1:])
            self._row_span = span if span <= strides[0] else 0

    def direct(self, start: int, stop: int) -> np.ndarray | None:
        """The array's own memory for a run of elements, to be read into.

        Args:
            start: First element.
            stop: The element behind the last.

        Returns:
            A contiguous array of one axis; None where they are not stored here as they
            are.
        """
        if self._flat is None or start < self.low or stop > self.high:
            return None
        return self._flat[start - self.low : stop - self.low]

    def take(
        self, start: int, elements: np.ndarray, *, is_forced: bool
    ) -> Misfits | None:
        """Takes what belongs here out of a run of elements.

        Args:
            start: The run's first element.
            elements: The run, an array of one axis.
            is_forced: Whether casts may change values.

        Returns:
            Values that do not fit the array's dtype; None where all do.
        """
        stop = start + elements.size
        if self._flat is not None:
            low, high = max(start, self.low), min(stop, self.high)
            self._flat[low - self.low : high - self.low] = elements[
                low - start : high - start
            ]
            return None
        rows = self._whole_rows(start, stop)
        if rows is not None:
            first = self._offset + rows.start * self._strides[0] - start
            shape = (len(rows), *self._out.shape[1:])
            return put(
                strided(elements, first, shape, self._strides),
                self._out[rows.start : rows.stop],
                casts=self._casts,
                origin=(self._origin[0] + rows.start, *self._origin[1:]),
                is_forced=is_forced,
            )
        whole = Box.whole(self._out.shape)
        misfits: Misfits | None = None
        for box in boxes_in_run(self._offset, whole.stops, self._strides, start, stop):
            first = self._offset + distance(box.starts, self._strides) - start
            found = put(
                strided(elements, first, box.shape, self._strides),
                view_at(self._out, box.within(whole)),
                casts=self._casts,
                origin=box.moved(self._origin).starts,
                is_forced=is_forced,
            )
            misfits = joined(misfits, found)
        return misfits

    def _whole_rows(self, start: int, stop: int) -> range | None:
        """The rows that lie in a run of elements; None where it cuts one of them."""
        if not self._row_span:
            return None
        step, count = self._strides[0], self._out.shape[0]
        begun = (start - self._offset - self._row_span) // step + 1
        first = -((self._offset - start) // step)
        ended = (stop - self._offset - self._row_span) // step + 1
        last = -((self._offset - stop) // step)
        first, begun = max(first, 0), max(begun, 0)
        last, ended = min(last, count), min(ended, count)
        is_cut = begun != first or ended != last
        return None if is_cut or first >= last else range(first, last)


def put(
    array: np.ndarray,
    out: np.ndarray,
    *,
    casts: tuple[np.dtype, ...],
    origin: tuple[int, ...],
    is_forced: bool,
) -> Misfits | None:
    """Casts an array into a part of a leaf.

    Args:
        array: What was read.
        out: The part.
        casts: Dtypes that the elements go through before the leaf's own.
        origin: Where the part's first element lies in the leaf.
        is_forced: Whether the last cast may change values.

    Returns:
        Values that do not fit; None where all do.
    """
    for dtype in casts:
        array = forced_cast(array, dtype)
    return cast_into(array, out, is_forced=is_forced, origin=origin)


def joined(first: Misfits | None, second: Misfits | None) -> Misfits | None:
    """Joins what two parts of a leaf found, if anything."""
    if first is None or second is None:
        return first or second
    return first.joined(second)
