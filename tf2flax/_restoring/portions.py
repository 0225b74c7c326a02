"""Large leaves, read and placed in portions: boxes of them, and runs of their bytes.

Devices with memory of their own take a leaf portion by portion, so that the host never
holds all of it. Pure functions.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from tf2flax._assignment.layouts.nodes import StridedView
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import Box


@dataclasses.dataclass(frozen=True, slots=True)
class Portions:
    """How a leaf is cut.

    Attributes:
        boxes: The boxes of each portion, in the order of the file.
        cuts: Where portions begin and end, in the tensor's row-major order; ascending.
    """

    boxes: tuple[tuple[Box, ...], ...]
    cuts: tuple[int, ...]


def limits_of_sole(
    assignments: Iterable[Assignment], limits: Mapping[str, int]
) -> Mapping[str, int]:
    """The limits of leaves of which one tensor, that fills nothing else, is all."""
    uses = collections.Counter(
        name for assignment in assignments for name in assignment.sources
    )
    return {
        assignment.leaf: limits[assignment.leaf]
        for assignment in assignments
        if assignment.leaf in limits
        and isinstance(assignment.layout, StridedView)
        and uses[assignment.layout.source] == 1
    }


def cut_in_portions(
    view: StridedView,
    boxes: Sequence[Box],
    itemsize: int,
    max_in_flight_bytes: int,
    tuning: Tuning = DEFAULT_TUNING,
) -> Portions | None:
    """Cuts what is needed of a leaf along the axis with the longest strides.

    A portion is then one run of the file. Here the boxes are four shards of a leaf of
    8 rows, of which a portion may take 2 rows of both columns::

        rows   0 .  1 .  2 .  3 .  4 .  5 .  6 .  7 .      edges: 0, 4 and 8
               +---------+---------+---------+---------+
        boxes  |         A         |         C         |   between two edges, the same
               |         B         |         D         |   boxes share all rows
               +---------+---------+---------+---------+
        portions  0: A, B | 1: A, B | 2: C, D | 3: C, D    cuts: 0, 2, 4, 6, 8 rows

    Args:
        view: The tensor's elements that fill the leaf.
        boxes: The boxes of the leaf that are needed, each once.
        itemsize: Bytes of an element of the leaf.
        max_in_flight_bytes: Bytes that may be on the host at once: of several portions,
            unless one index takes more.
        tuning: Number of portions that are in flight side by side.

    Returns:
        The portions; None where one is enough, or where the view is not all of a
        tensor, so that portions would not be runs of the file.

    Examples:
        >>> from tf2flax._assignment.layouts.nodes import whole_view
        >>> from tf2flax._base.values import STORED_DTYPES, TensorSpec
        >>> view = whole_view("t", TensorSpec((8, 2), STORED_DTYPES[1]))
        >>> halves = [Box((0, 0), (4, 2)), Box((4, 0), (8, 2))]
        >>> cut_in_portions(view, halves, itemsize=4, max_in_flight_bytes=63).cuts
        (0, 2, 4, 6, 8, 10, 12, 14, 16)
    """
    axis = _slowest_axis(view)
    nbytes = sum(box.size for box in boxes) * itemsize
    if axis is None or nbytes <= max_in_flight_bytes:
        return None
    edges = sorted({edge for b in boxes for edge in (b.starts[axis], b.stops[axis])})
    # Some are read while others are copied to devices: each gets its share.
    portion_nbytes = max_in_flight_bytes // tuning.portions_in_flight
    portions: list[tuple[Box, ...]] = []
    cuts: set[int] = set()
    for low, high in itertools.pairwise(edges):
        # No box begins or ends between two edges.
        sharing = [box for box in boxes if box.starts[axis] <= low < box.stops[axis]]
        # Elements of one index of the axis, in all of these boxes.
        size = sum(box.size // box.shape[axis] for box in sharing)
        if not size:
            continue
        step = max(1, portion_nbytes // (size * itemsize))
        for start in range(low, high, step):
            stop = min(start + step, high)
            portions.append(tuple(_between(box, axis, start, stop) for box in sharing))
            # The view is of all elements in some order, so that indices of its slowest
            # axis are runs of the tensor.
            cuts |= {start * view.strides[axis], stop * view.strides[axis]}
    return Portions(tuple(portions), tuple(sorted(cuts)))


def _slowest_axis(view: StridedView) -> int | None:
    """The axis with the longest strides; None unless the view is of all elements.

    It may be transposed. Of a tensor of shape (6, 4), transposed::

        shape (4, 6), strides (1, 4)      axis 0 steps over 1 element,
                                          axis 1 over the 4 * 1 of axis 0: it is axis 1
    """
    if view.offset or math.prod(view.shape) != view.base.size:
        return None
    axes = [axis for axis, extent in enumerate(view.shape) if extent > 1]
    axes.sort(key=lambda axis: view.strides[axis])
    # Every axis must step over all elements of the faster ones, and over no others.
    step = 1
    for axis in axes:
        if view.strides[axis] != step:
            return None
        step *= view.shape[axis]
    return axes[-1] if axes else None


def _between(box: Box, axis: int, start: int, stop: int) -> Box:
    """The part of a box between two indices of an axis."""
    return Box(
        (*box.starts[:axis], start, *box.starts[axis + 1 :]),
        (*box.stops[:axis], stop, *box.stops[axis + 1 :]),
    )
