"""Pure pieces against slower statements of the same: runs, tiles, casts, names."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tf2flax
from tf2flax._assignment.resolution.partitions import (
    boxes_of_parts,
    family_of,
    parts_of,
)
from tf2flax._base.dtypes import cast_checked, kind_of
from tf2flax._base.names import nearest
from tf2flax._base.tuning import Tuning
from tf2flax._base.values import Box, ByteRange
from tf2flax._reading import runs
from tf2flax._reading.strides import (
    along_axes,
    ascending,
    rows_around,
    strided,
    strides_of,
)
from tf2flax._storage.lazy import view_chunk_shape

shapes = st.lists(st.integers(1, 6), min_size=0, max_size=4).map(tuple)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], Box]:
    shape = draw(shapes)
    spans = [sorted(draw(st.tuples(*[st.integers(0, dim)] * 2))) for dim in shape]
    spans = [
        (a, b) if a < b else (0, dim) for (a, b), dim in zip(spans, shape, strict=True)
    ]
    return shape, Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))


@given(drawn=boxes(), itemsize=st.sampled_from([1, 4]), cost=st.integers(1, 200))
def test_batches_hold_the_elements_of_a_box(
    drawn: tuple[tuple[int, ...], Box], itemsize: int, cost: int
) -> None:
    shape, box = drawn
    array = np.arange(math.prod(shape), dtype=f"u{itemsize}").reshape(shape)
    wanted = array[box.within(Box.whole(shape))]
    if not wanted.size:
        return
    strides = strides_of(shape)
    offset = sum(a * s for a, s in zip(box.starts, strides, strict=True))
    check_batches(array, offset, strides, wanted, cost, Tuning())


@st.composite
def views(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """An array, and a view of it: steps, both ways, permuted, reshaped."""
    shape = draw(st.lists(st.integers(1, 5), max_size=4).map(tuple))
    array = np.arange(math.prod(shape), dtype="i4").reshape(shape)
    view = array
    for _ in range(draw(st.integers(0, 3))):
        steps = draw(
            st.lists(
                st.sampled_from([1, 2, -1, -2]),
                min_size=view.ndim,
                max_size=view.ndim,
            )
        )
        view = view[(*(slice(None, None, step) for step in steps), ...)]
        view = view.transpose(draw(st.permutations(range(view.ndim))))
        count = draw(st.integers(1, 4))
        if view.size % count == 0:
            other = view.reshape(count, -1)
            view = other if np.shares_memory(other, array) else view
    return array, view


@given(drawn=views(), cost=st.integers(1, 200), room=st.sampled_from([4, 40, 1 << 20]))
def test_batches_hold_the_elements_of_any_view(
    drawn: tuple[np.ndarray, np.ndarray], cost: int, room: int
) -> None:
    array, view = drawn
    offset = (view.ctypes.data - array.ctypes.data) // 4
    strides = tuple(step // 4 for step in view.strides)
    tuning = Tuning(chunk_nbytes=room)
    for batch in check_batches(array, offset, strides, view, cost, tuning):
        assert batch.size * 4 <= room or batch.is_exact
    whole = Box.whole(array.shape)
    found = along_axes(array.shape, offset, view.shape, strides)
    if found is not None:
        held = np.ascontiguousarray(array[found.box.within(whole)])
        first, inner = found.within(found.box)
        shown = strided(held.reshape(found.box.shape), first, view.shape, inner)
        assert np.array_equal(shown, view)
    elif array.ndim:
        rows = rows_around(array.shape, offset, view.shape, strides)
        held = np.ascontiguousarray(array[rows.starts[0] : rows.stops[0]])
        first = offset - rows.starts[0] * math.prod(array.shape[1:])
        assert np.array_equal(strided(held, first, view.shape, strides), view)


def check_batches(
    array: np.ndarray,
    offset: int,
    strides: tuple[int, ...],
    wanted: np.ndarray,
    cost: int,
    tuning: Tuning,
) -> list[runs.RunBatch]:
    out = np.empty(wanted.shape, array.dtype)
    start, steps, turned = ascending(offset, strides, out)
    found = list(
        runs.batch_runs(start, turned.shape, steps, array.itemsize, cost, tuning)
    )
    flat = array.reshape(-1)
    for batch in found:
        buffer = np.concatenate([flat[n : n + batch.length] for n in batch.starts])
        turned[batch.index] = strided(buffer, 0, batch.shape, batch.strides)
    assert np.array_equal(out, wanted)
    return found


def test_far_rows_are_read_one_by_one_and_near_ones_together() -> None:
    # 10 rows of 16 KiB, each 1 MiB after the other.
    (far,) = runs.batch_runs(0, (10, 4096), (1 << 18, 1), 4, 4 << 10)
    assert len(far.starts) == 10
    assert far.length == 4096
    # 1000 times 8 bytes of every 256.
    (near,) = runs.batch_runs(0, (1000, 2), (64, 1), 4, 4 << 10)
    assert len(near.starts) == 1


@given(shape=st.lists(st.integers(0, 10**6), max_size=5).map(tuple))
def test_chunks_of_views_are_bounded(shape: tuple[int, ...]) -> None:
    chunk = view_chunk_shape(shape, itemsize=4)
    assert len(chunk) == len(shape)
    assert math.prod(chunk) * 4 <= 4 << 20
    assert all(1 <= c <= max(dim, 1) for c, dim in zip(chunk, shape, strict=True))


@given(
    shape=st.lists(st.integers(1, 8), min_size=1, max_size=3).map(tuple),
    data=st.data(),
)
def test_tiles_put_together_are_the_tensor(
    shape: tuple[int, ...], data: st.DataObject
) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    inner = data.draw(st.lists(st.integers(0, shape[axis]), max_size=4))
    edges = [0, *sorted(inner), shape[axis]]
    parts = [
        (*shape[:axis], stop - start, *shape[axis + 1 :])
        for start, stop in itertools.pairwise(edges)
    ]
    placed = boxes_of_parts(parts, shape)
    assert placed is not None
    assert [box.shape for box in placed] == parts
    covered = np.zeros(shape, int)
    for box in placed:
        covered[box.within(Box.whole(shape))] += 1
    assert (covered == 1).all()


def test_tiles_that_do_not_fit() -> None:
    assert boxes_of_parts([(2, 3), (2, 3)], (5, 3)) is None
    assert boxes_of_parts([(2, 3), (3, 2)], (5, 3)) is None
    assert boxes_of_parts([(5,)], (5, 3)) is None
    assert boxes_of_parts([(4, 3)], (5, 3)) is None
    # A grid has no one axis.
    assert boxes_of_parts([(2, 4), (2, 2), (4, 4), (4, 2)], (6, 6)) is None


def test_families() -> None:
    assert family_of("a/part_0") == ("a", 0)
    for name in ("a/part_01", "a/part_", "a/part_x", "part_0", "a/part_1/b"):
        assert family_of(name) is None
    names = {"a/part_0", "a/part_1", "a/part_3"}
    assert parts_of("a", names) == ("a/part_0", "a/part_1")
    assert parts_of("b", names) == ()


DTYPES = [
    "bool", "int4", "uint4", "int8", "uint8", "int16", "int32", "uint32", "int64",
    "uint64", "float16", "bfloat16", "float32", "float64", "float8_e4m3fn",
    "float8_e5m2", "complex64", "complex128",
]  # fmt: skip


@given(
    source=st.sampled_from(DTYPES),
    target=st.sampled_from(DTYPES),
    numbers=st.lists(
        st.one_of(
            st.integers(-(2**63), 2**64 - 1),
            st.sampled_from([0, 1, -1, 7, 8, 127, 128, 2**31 - 1, 2**31, 2**53 + 1]),
        ),
        max_size=5,
    ),
)
def test_safe_casts_keep_integers_and_finiteness(
    source: str, target: str, numbers: list[int]
) -> None:
    from_dtype = np.dtype(getattr(ml_dtypes, source, source))
    to_dtype = np.dtype(getattr(ml_dtypes, target, target))
    if kind_of(from_dtype) != kind_of(to_dtype):
        return
    array = as_array(numbers, from_dtype)
    try:
        result = cast_checked(array, to_dtype, is_forced=False)
    except tf2flax.AssignmentError:
        if kind_of(to_dtype) == "int":
            limits = ml_dtypes.iinfo(to_dtype)
            assert any(not limits.min <= int(x) <= limits.max for x in array)
        else:
            with np.errstate(all="ignore"):
                assert not np.isfinite(array.astype(to_dtype)).all()
        return
    assert result.dtype == to_dtype
    if kind_of(to_dtype) in ("int", "bool"):
        assert [int(x) for x in result] == [int(x) for x in array]
    else:
        assert np.isfinite(result).tolist() == np.isfinite(array).tolist()


def as_array(numbers: list[int], dtype: np.dtype[Any]) -> np.ndarray:
    """Numbers as an array, those that a dtype of integers lacks left out."""
    if kind_of(dtype) == "int":
        limits = ml_dtypes.iinfo(dtype)
        numbers = [n for n in numbers if limits.min <= n <= limits.max]
        exact = np.array(numbers, np.uint64 if dtype == np.uint64 else np.int64)
        return exact.astype(dtype)
    with np.errstate(all="ignore"):
        return np.array([float(n) for n in numbers]).astype(dtype)


def test_byte_ranges_and_boxes_are_checked_when_made() -> None:
    for start, stop in ((-1, 0), (2, 1)):
        with pytest.raises(ValueError, match="start <= stop"):
            ByteRange(start, stop)
        with pytest.raises(ValueError, match="start <= stop"):
            Box((start,), (stop,))
    with pytest.raises(ValueError, match="as many"):
        Box((0,), (1, 2))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder/layer_0/kernal", ("encoder/layer_0/kernel",)),
        ("encoder/layer_0/kernel:0", ("encoder/layer_0/kernel",)),
        ("ENCODER/layer_0/kernel", ("encoder/layer_0/kernel",)),
        ("/encoder/layer_0/kernel", ("encoder/layer_0/kernel",)),
        ("layer_0/kernel", ("encoder/layer_0/kernel",)),
        ("nothing alike", ()),
        ("", ()),
    ],
)
def test_nearest_names(name: str, expected: tuple[str, ...]) -> None:
    names = ["encoder/layer_0/kernel", "encoder/layer_0/bias", "head/w"]
    assert nearest(name, names)[: max(len(expected), 1)] == expected


def test_nearest_among_100_000_names_is_quick() -> None:
    names = [f"scope/sub_{i // 100}/variable_{i:06d}" for i in range(100_000)]
    start = time.process_time()
    assert nearest("scope/sub_500/variabel_050000", names)
    assert time.process_time() - start < 5
