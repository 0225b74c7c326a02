"""Arrays that views of a tensor fill while its elements come in, run by run.

Scatters elements; reads nothing.
"""

from __future__ import annotations

import numpy as np

from tf2flax._base.boxes import boxes_in_run, distance
from tf2flax._base.memory import view_at
from tf2flax._base.values import Box, is_row_major

from .strides import strided


class Destination:
    """An array that a view of a tensor fills.

    Attributes:
        low: The view's lowest element, in the order in which elements come in.
        high: The element behind its highest one.
    """

    __slots__ = ("_flat", "_offset", "_row_length", "_strides", "array", "high", "low")

    def __init__(
        self,
        array: np.ndarray,
        *,
        offset: int,
        strides: tuple[int, ...],
        is_plain: bool = True,
    ) -> None:
        """Takes an array to be filled.

        Args:
            array: Array of the view's shape, not empty.
            offset: The view's first element.
            strides: Its steps, in elements.
            is_plain: False where elements are not copied as they are.
        """
        moves = [(n - 1) * s for n, s in zip(array.shape, strides, strict=True)]
        self.low = offset + sum(move for move in moves if move < 0)
        self.high = offset + sum(move for move in moves if move > 0) + 1
        self.array = array
        self._offset = offset
        self._strides = strides
        # Without gaps, in the same order and plain: the array is the run of elements.
        self._flat: np.ndarray | None = None
        if (
            self.high - self.low == array.size
            and is_plain
            and array.flags.c_contiguous
            and is_row_major(array.shape, strides)
        ):
            self._flat = array.reshape(-1)
        # Elements from the first to the last of a row, where each row ends before the
        # next one begins; else 0.
        self._row_length = 0
        if array.ndim and min(strides) > 0:
            length = 1 + sum(moves[1:])
            self._row_length = length if length <= strides[0] else 0

    def room_for(self, start: int, stop: int) -> np.ndarray | None:
        """The array's own memory for a run of elements, to be read into.

        Args:
            start: First element.
            stop: The element behind the last.

        Returns:
            A contiguous array of one axis; None where they do not stay here as they
            are.
        """
        if self._flat is None or start < self.low or stop > self.high:
            return None
        return self._flat[start - self.low : stop - self.low]

    def take(self, start: int, elements: np.ndarray) -> None:
        """Copies what belongs here out of a run of elements.

        Args:
            start: The run's first element.
            elements: The run, an array of one axis.
        """
        stop = start + elements.size
        if self._flat is not None:
            low, high = max(start, self.low), min(stop, self.high)
            self._flat[low - self.low : high - self.low] = elements[
                low - start : high - start
            ]
            return
        # Chunks are whole rows where that is possible: one copy then.
        rows = self._whole_rows(start, stop)
        if rows is not None:
            first = self._offset + rows.start * self._strides[0] - start
            shape = (len(rows), *self.array.shape[1:])
            origin = (rows.start, *(0 for _ in shape[1:]))
            self.put(
                strided(elements, first, shape, self._strides),
                self.array[rows.start : rows.stop],
                origin,
            )
            return
        whole = Box.whole(self.array.shape)
        for box in boxes_in_run(self._offset, whole.stops, self._strides, start, stop):
            first = self._offset + distance(box.starts, self._strides) - start
            self.put(
                strided(elements, first, box.shape, self._strides),
                view_at(self.array, box.within(whole)),
                box.starts,
            )

    def put(
        self, elements: np.ndarray, part: np.ndarray, origin: tuple[int, ...]
    ) -> None:
        """Puts elements into a part of the array.

        Args:
            elements: Some of the elements that come in.
            part: A view of the array, of the same shape.
            origin: Position of the part's first element in the array.
        """
        part[...] = elements

    def _whole_rows(self, start: int, stop: int) -> range | None:
        """The rows that lie in a run of elements; None where it cuts one of them.

        ::

            row             0        1        2        3
            elements   .....xxx......xxx......xxx......xxx......
                            |-|------|
                   `_row_length`, `strides[0]`
            run                  [.................)
            begun                1                 3
            ended                1                 3

        An edge of the run cuts no row if as many rows have begun before it as have
        ended: here 1 at its start and 3 at its stop, so that rows 1 and 2 lie in it.
        """
        if not self._row_length:
            return None
        step, count = self._strides[0], self.array.shape[0]
        ended_at_start = (start - self._offset - self._row_length) // step + 1
        begun_at_start = -((self._offset - start) // step)
        ended_at_stop = (stop - self._offset - self._row_length) // step + 1
        begun_at_stop = -((self._offset - stop) // step)
        # There is no row before the first and none behind the last.
        first, ended_at_start = max(begun_at_start, 0), max(ended_at_start, 0)
        last, ended_at_stop = min(begun_at_stop, count), min(ended_at_stop, count)
        is_cut = ended_at_start != first or ended_at_stop != last
        return None if is_cut or first >= last else range(first, last)
