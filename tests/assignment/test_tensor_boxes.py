"""A box of a leaf is that box of a tensor which has the same elements."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf2flax import concat, src, stack
from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.operations import (
    _steps_within,  # pyright: ignore[reportPrivateUsage]
)
from tf2flax._assignment.layouts.tensor_boxes import (
    NoBoxError,
    boxes_in_tensors,
    coverage,
)
from tf2flax._base.values import STORED_DTYPES, Box, TensorSpec

SHAPES = {"a": (4, 6), "b": (2, 6), "c": (2, 3, 4), "s": (), "v": (6,)}
FLOAT = next(d for d in STORED_DTYPES.values() if d.name == "float32")
ARRAYS = {
    name: 1000 * i + np.arange(int(np.prod(shape)), dtype="<f4").reshape(shape)
    for i, (name, shape) in enumerate(SHAPES.items())
}
EXPRESSIONS: dict[str, tuple[Expression, np.ndarray]] = {
    "itself": (src("a"), ARRAYS["a"]),
    "transposed": (src("a").transpose(), ARRAYS["a"].T),
    "cube": (src("c").transpose(2, 0, 1), ARRAYS["c"].transpose(2, 0, 1)),
    "split": (src("a").reshape(4, 2, 3), ARRAYS["a"].reshape(4, 2, 3)),
    "merged": (src("c").reshape(6, 4), ARRAYS["c"].reshape(6, 4)),
    "flat": (src("c").reshape(-1), ARRAYS["c"].reshape(-1)),
    "heads": (
        src("a").rearrange("d (h k) -> h d k", h=2),
        ARRAYS["a"].reshape(4, 2, 3).transpose(1, 0, 2),
    ),
    "some": (src("a")[1:3, 2:], ARRAYS["a"][1:3, 2:]),
    "row": (src("a")[2], ARRAYS["a"][2]),
    "every second": (src("a")[::2], ARRAYS["a"][::2]),
    "backwards": (src("v")[::-1], ARRAYS["v"][::-1]),
    "joined": (concat("a", "b", axis=0), np.concatenate([ARRAYS["a"], ARRAYS["b"]])),
    "stacked": (
        stack("v", src("a")[1], axis=1),
        np.stack([ARRAYS["v"], ARRAYS["a"][1]], axis=1),
    ),
    "scalar": (src("s"), ARRAYS["s"]),
}


def spec_of(name: str) -> TensorSpec:
    return TensorSpec(SHAPES[name], FLOAT)


@pytest.mark.parametrize("case", EXPRESSIONS)
def test_every_box(case: str) -> None:
    expression, value = EXPRESSIONS[case]
    layout = lower(expression, spec_of)
    ranges = [itertools.combinations(range(dim + 1), 2) for dim in value.shape]
    count = refused = 0
    for bounds in itertools.product(*map(list, ranges)):
        box = Box(tuple(b[0] for b in bounds), tuple(b[1] for b in bounds))
        count += 1
        whole = Box.whole(value.shape)
        try:
            pieces = list(boxes_in_tensors(layout, box))
        except NoBoxError:
            refused += 1
            assert not is_a_box(value[box.within(whole)]), box
            continue
        assert sum(piece.box.size for piece in pieces) == box.size
        for piece in pieces:
            want = ARRAYS[piece.source][
                piece.box.within(Box.whole(SHAPES[piece.source]))
            ]
            leaf = value[piece.leaf_box.within(whole)]
            assert np.array_equal(piece.from_leaf(leaf), want), box
    assert refused < count


def is_a_box(elements: np.ndarray) -> bool:
    """True if elements, all of them different, are a box of one tensor."""
    for array in ARRAYS.values():
        places = np.argwhere(np.isin(array, elements))
        if len(places) == elements.size and elements.size:
            low, high = places.min(0, initial=99), places.max(0, initial=-1)
            if np.prod(high - low + 1, initial=1) == elements.size:
                back = elements.ravel()
                return bool((np.diff(back) > 0).all()) or elements.ndim > 1
    return False


@given(
    shape=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    data=st.data(),
)
def test_coverage(shape: tuple[int, ...], data: st.DataObject) -> None:
    counts = np.zeros(shape, int)
    boxes: list[Box] = []
    for _ in range(data.draw(st.integers(0, 4))):
        ends = [
            sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
            for n in shape
        ]
        box = Box(tuple(e[0] for e in ends), tuple(e[1] for e in ends))
        boxes.append(box)
        counts[box.within(Box.whole(shape))] += 1
    assert coverage(boxes, shape) == (counts.min(), counts.max())


@given(
    st.integers(0, 9), st.sampled_from((-3, -2, -1, 1, 2, 3)), st.integers(1, 6),
    st.integers(0, 9), st.integers(1, 9),
)  # fmt: skip
def test_steps_within_a_part(
    start: int, step: int, count: int, low: int, size: int
) -> None:
    first, last = _steps_within((start, step, count), low, low + size)
    within = [i for i in range(count) if low <= start + i * step < low + size]
    assert [*range(first, last)] == within
