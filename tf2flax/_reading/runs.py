"""Strided views of row-major arrays -> the runs of bytes worth reading; pure functions.

What lies close together is read together, gaps and all; what lies far apart is read run
by run. The model: reads take as long as their bytes, gaps included, and a price for
each read, which is bytes too (`Tuning.read_cost_of`). A view is an offset, a shape and
strides, counted in elements, as in `strides`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

from tf2flax._base.boxes import distance
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning


@dataclasses.dataclass(frozen=True, slots=True)
class RunBatch:
    """Runs of equal length that are read one after the other, into one buffer.

    Attributes:
        starts: First element of each run, in the array.
        length: Elements of each.
        index: The part of the view that they hold.
        shape: Shape of that part.
        strides: Steps between its elements in the buffer.
    """

    starts: range
    length: int
    index: tuple[slice, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements that are read."""
        return len(self.starts) * self.length

    @property
    def is_exact(self) -> bool:
        """True if every element read is needed, in the order in which it is read."""
        return self.size == math.prod(self.shape)


def batch_runs(
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    itemsize: int,
    read_cost_nbytes: int,
    tuning: Tuning = DEFAULT_TUNING,
    *,
    is_local: bool = True,
) -> Iterator[RunBatch]:
    """Cuts a view into batches of runs, so that reading them takes the least time.

    Rows 1, 4 and 7 of an array of 6 columns, columns 1, 3 and 5 of each::

        . . . . . .      level 2: 9 runs of 1 element, no gap is read
        . x . x . x      level 1: 3 runs of 5 elements, x . x . x
        . . . . . .      level 0: 1 run of 41 elements, all from the first x to the last
        . . . . . .
        . x . x . x      The level is the number of axes that runs are counted along;
        ...              the axes below it are read with their gaps.

    Args:
        offset: First element.
        shape: Shape of the view; without a 0.
        strides: Its steps, positive, in descending order.
        itemsize: Bytes per element.
        read_cost_nbytes: The price of one more read, as bytes.
        tuning: Sizes of buffers, and how many bytes may be read for nothing.
        is_local: False of another machine, where time alone counts.

    Yields:
        Batches of at most a chunk, or single runs without gaps of any length.

    Examples:
        >>> [(b.starts, b.length) for b in batch_runs(1, (2, 2), (5, 1), 1, 1)]
        [(range(1, 11, 5), 2)]
        >>> [(b.starts, b.length) for b in batch_runs(1, (2, 2), (5, 1), 1, 4)]
        [(range(1, 2), 7)]
    """
    level = _best_level(
        shape, strides, itemsize, read_cost_nbytes, tuning if is_local else None
    )
    batch_nbytes = tuning.batch_nbytes_of(is_local=is_local)
    length = _length_with_gaps(shape[level:], strides[level:])
    # Runs of one batch differ along the axis above the level: so many of them fit.
    count_fitting = batch_nbytes // (length * itemsize) if level else 0
    if count_fitting < 2:
        for outer in itertools.product(*map(range, shape[:level])):
            yield from _cut_to_chunks(
                offset + distance(outer, strides),
                tuple(slice(i, i + 1) for i in outer),
                (1,) * level + shape[level:],
                strides,
                max(1, batch_nbytes // itemsize),
            )
        return
    step = strides[level - 1]
    for outer in itertools.product(*map(range, shape[: level - 1])):
        start = offset + distance(outer, strides)
        for first in range(0, shape[level - 1], count_fitting):
            count = min(count_fitting, shape[level - 1] - first)
            first_start = start + first * step
            yield RunBatch(
                starts=range(first_start, first_start + count * step, step),
                length=length,
                index=(
                    *(slice(i, i + 1) for i in outer),
                    slice(first, first + count),
                    *(slice(0, n) for n in shape[level:]),
                ),
                shape=(*(1 for _ in outer), count, *shape[level:]),
                # In the buffer runs stand without the gaps between them.
                strides=(*(0 for _ in outer), length, *strides[level:]),
            )


@functools.lru_cache(maxsize=1024)  # many tensors are alike
def count_elements(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    itemsize: int,
    read_cost_nbytes: int,
    tuning: Tuning = DEFAULT_TUNING,
    *,
    is_local: bool = True,
) -> int:
    """Counts the elements that the batches of a view read, wherever it begins.

    Args:
        shape: As `batch_runs`.
        strides: As `batch_runs`.
        itemsize: As `batch_runs`.
        read_cost_nbytes: As `batch_runs`.
        tuning: As `batch_runs`.
        is_local: As `batch_runs`.

    Examples:
        >>> count_elements((2, 2), (5, 1), 1, 1), count_elements((2, 2), (5, 1), 1, 4)
        (4, 7)
    """
    batches = batch_runs(
        0, shape, strides, itemsize, read_cost_nbytes, tuning, is_local=is_local
    )
    return sum(batch.size for batch in batches)


def _best_level(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    itemsize: int,
    read_cost_nbytes: int,
    limits: Tuning | None,
) -> int:
    """The axis from which on a view is read in one, gaps included.

    Args:
        shape: As `batch_runs`.
        strides: As `batch_runs`.
        itemsize: As `batch_runs`.
        read_cost_nbytes: As `batch_runs`.
        limits: How many bytes may be read for nothing; None as many as save time.
    """

    def count_reads(level: int) -> int:
        return math.prod(shape[:level])

    def is_sparing(level: int, limits: Tuning) -> bool:
        if count_reads(level) > limits.max_runs:
            return False
        needed = math.prod(shape[level:])
        length = _length_with_gaps(shape[level:], strides[level:])
        excess_nbytes = count_reads(level) * (length - needed) * itemsize
        if excess_nbytes <= limits.min_excess_nbytes:
            return True
        return length <= limits.max_over_read * needed

    def cost_nbytes(level: int) -> int:
        length = _length_with_gaps(shape[level:], strides[level:])
        return count_reads(level) * (read_cost_nbytes + length * itemsize)

    levels = range(len(shape) + 1)
    if limits is None:
        return min(levels, key=cost_nbytes)
    # Where sparing bytes takes too many reads, only the time counts.
    sparing = [level for level in levels if is_sparing(level, limits)]
    return min(sparing or levels, key=cost_nbytes)


def _cut_to_chunks(
    start: int,
    index: tuple[slice, ...],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    max_size: int,
) -> Iterator[RunBatch]:
    """Cuts a view that is read in one until it has no gaps, or fits into a chunk."""
    length = _length_with_gaps(shape, strides)
    axis = next((a for a, n in enumerate(shape) if n > 1), None)
    # Without gaps it is read into its place, so that its length does not matter.
    if axis is None or length == math.prod(shape) or length <= max_size:
        tail = tuple(slice(0, n) for n in shape[len(index) :])
        yield RunBatch(range(start, start + 1), length, (*index, *tail), shape, strides)
        return
    # The longest steps first: what remains is as compact as it can be. Of `step` rows
    # the last one ends (step - 1) * stride + inner elements after the start.
    inner = _length_with_gaps(shape[axis + 1 :], strides[axis + 1 :])
    step = max(1, (max_size - inner) // strides[axis] + 1)
    head = (*index, *(slice(0, 1) for _ in range(axis - len(index))))[:axis]
    for first in range(0, shape[axis], step):
        count = min(step, shape[axis] - first)
        yield from _cut_to_chunks(
            start + first * strides[axis],
            (*head, slice(first, first + count)),
            (*shape[:axis], count, *shape[axis + 1 :]),
            strides,
            max_size,
        )


def _length_with_gaps(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a view, both included."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
