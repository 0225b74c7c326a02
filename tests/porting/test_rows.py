"""Numbers of two arrays: NumPy's, in chunks, for every kind of number."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf2flax._porting import rows
from tf2flax._porting.rows import ComparisonRow, Tolerance, compare_arrays

NEAR = Tolerance(1e-5, 1e-5)


def compare(got: object, want: object, tolerance: Tolerance = NEAR) -> ComparisonRow:
    return compare_arrays("x", "x", np.asarray(got), np.asarray(want), tolerance)


@settings(max_examples=25)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20),
    st.sampled_from([0.0, 1e-7, 1e-4, 1.0]),
    st.integers(1, 7),
)
def test_numbers_are_those_of_numpy(
    values: list[float], change: float, chunk: int
) -> None:
    want = np.array(values)
    got = want + change * np.cos(np.arange(want.size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_CHUNK", chunk)
        row = compare(got, want)
    assert row.ok == np.allclose(got, want, rtol=1e-5, atol=1e-5)
    assert row.max_abs == np.abs(got - want).max()
    lengths = np.linalg.norm(got) * np.linalg.norm(want)
    if lengths > 1e-100:
        assert row.cosine == pytest.approx(np.dot(got, want) / lengths)


def test_nan_and_infinity() -> None:
    nan, inf = math.nan, math.inf
    assert compare([1, nan], [1, nan]).ok
    assert compare([1, nan], [1, nan]).fact == "NaN in 1 of 2 elements of both"
    row = compare([1, nan], [1, 2])
    assert (row.ok, row.fact) == (False, "NaN in 1 of 2 elements")
    assert math.isnan(row.max_abs or 0)
    assert compare([1, inf], [1, inf]).ok
    assert compare([inf, 1], [-inf, 1]).max_abs == inf
    assert not compare([1, inf], [1, 2]).ok
    assert not compare([1, 2], [1, inf], Tolerance(1.0, 1.0)).ok


@pytest.mark.parametrize(
    ("got", "want", "is_near"),
    [
        (np.array([2**63 - 1]), np.array([2**63 - 2]), False),
        (np.array([True, False]), np.array([True, True]), False),
        (np.array([1 + 2j]), np.array([1 + 2j]), True),
        (np.array([1 + 2j]), np.array([1 - 2j]), False),
        (np.ones(2, ml_dtypes.bfloat16), np.ones(2, np.float32), True),
        (np.array([b"a"], object), np.array([b"a"], object), True),
        (np.array(["a"]), np.array(["b"]), False),
        (np.zeros(0), np.zeros(0), True),
        (np.float32(3), np.float32(3), True),
        (np.zeros(2, "V2"), np.zeros(2), False),
    ],
)
def test_every_kind(got: np.ndarray, want: np.ndarray, is_near: bool) -> None:
    assert compare(got, want, Tolerance(0.0, 0.0)).ok == is_near


def test_cosines() -> None:
    assert compare([0, 0], [0, 0]).cosine == 1
    assert compare([0, 0], [0, 1]).cosine == 0
    assert compare([0, -2], [0, 1]).cosine == -1
