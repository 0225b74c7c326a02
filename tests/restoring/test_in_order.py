"""Leaves handed on in the order of their elements."""

from __future__ import annotations

import numpy as np

from tf2flax._base.values import Box
from tf2flax._restoring import in_order


def test_boxes_that_come_early_wait() -> None:
    array = np.arange(10).reshape(5, 2)
    taken: list[np.ndarray] = []
    boxes = in_order._InOrder((5, 2), lambda _box, a: taken.append(a))
    for start, stop in ((2, 3), (4, 5), (0, 2), (3, 4)):
        rows = array[start:stop].copy()
        boxes.take(Box((start, 0), (stop, 2)), rows)
        if len(rows) == 1 and not taken:
            rows[...] = -1  # its memory is used again
    assert np.array_equal(np.concatenate(taken), array)
