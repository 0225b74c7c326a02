"""Two arrays -> the numbers of a row: how far one is from the other.

Knows arrays alone, of NumPy; imports no JAX. NaN, infinities and shapes that differ are
facts of the row, never errors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from tf2flax._base.dtypes import kind_of

# How many elements are compared at once: each takes some 100 bytes meanwhile.
_CHUNK: Final = 1 << 18


class Tolerance(NamedTuple):
    """What is near: `abs(got - want) <= atol + rtol * abs(want)`, as `numpy.allclose`.

    Attributes:
        rtol: Relative difference that is accepted.
        atol: Absolute difference that is accepted.
    """

    rtol: float
    atol: float


@dataclasses.dataclass(frozen=True, slots=True)
class ComparisonRow:
    """How far an array is from the recorded one.

    Attributes:
        name: Name of the recorded array.
        path: What the model calls its array; "" where it gives none.
        shape: Shape of the recorded array.
        ok: True if the arrays are near.
        fact: What keeps numbers from telling all, in words: another shape, NaN, an
            array that is missing; "" for none.
        max_abs: Largest absolute difference; NaN where one array alone holds NaN; None
            where there are no numbers to compare.
        max_rel: Largest difference relative to the larger of both elements.
        cosine: Cosine of the angle between the arrays: 1 for the same direction.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    ok: bool
    fact: str = ""
    max_abs: float | None = None
    max_rel: float | None = None
    cosine: float | None = None


def compare_arrays(
    name: str, path: str, got: np.ndarray, want: np.ndarray, tolerance: Tolerance
) -> ComparisonRow:
    """Compares two arrays.

    Args:
        name: Name of the recorded array.
        path: What the model calls its array.
        got: The array of the model.
        want: The recorded array.
        tolerance: What is near.

    Examples:
        >>> row = compare_arrays(
        ...     "x", "x", np.ones(2), np.array([1.0, 3.0]), Tolerance(0.0, 0.1)
        ... )
        >>> row.ok, row.max_abs, round(row.cosine, 3)
        (False, 2.0, 0.894)
    """
    if got.shape != want.shape:
        fact = f"shape {list(got.shape)}, recorded is {list(want.shape)}"
        return ComparisonRow(name, path, want.shape, False, fact)
    for array, what in ((got, ""), (want, "recorded as ")):
        if kind_of(array.dtype) is None and array.dtype.kind not in "OSU":
            fact = f"{what}{array.dtype}, which holds no numbers"
            return ComparisonRow(name, path, want.shape, False, fact)
    if got.dtype.kind in "OSU" or want.dtype.kind in "OSU":
        is_equal = np.array_equal(got, want)
        fact = "" if is_equal else "strings or objects, not equal"
        return ComparisonRow(name, path, want.shape, is_equal, fact)
    return _compare_numbers(name, path, got, want, tolerance)


class _Sums(NamedTuple):
    """What chunks add up to; `nans` are in the first alone, the second alone, both."""

    max_abs: float
    max_rel: float
    is_near: bool
    dot: float
    squares: tuple[float, float]
    nans: tuple[int, int, int]


def _compare_numbers(
    name: str, path: str, got: np.ndarray, want: np.ndarray, tolerance: Tolerance
) -> ComparisonRow:
    first, second = got.reshape(-1), want.reshape(-1)
    sums = _add_up(
        [
            _compare_chunk(first[i : i + _CHUNK], second[i : i + _CHUNK], tolerance)
            for i in range(0, first.size, _CHUNK)
        ]
    )
    # NaN in the same places is equal, and said all the same.
    facts = [
        f"NaN in {count:,} of {got.size:,} elements{where}"
        for count, where in zip(sums.nans, ("", ", recorded", " of both"), strict=True)
        if count
    ]
    has_lone_nan = bool(sums.nans[0] or sums.nans[1])
    return ComparisonRow(
        name,
        path,
        want.shape,
        ok=sums.is_near and not has_lone_nan,
        fact="; ".join(facts),
        max_abs=math.nan if has_lone_nan else sums.max_abs,
        max_rel=math.nan if has_lone_nan else sums.max_rel,
        cosine=math.nan if has_lone_nan else _cosine(sums.dot, *sums.squares),
    )


def _add_up(chunks: Sequence[_Sums]) -> _Sums:
    squares = (sum(c.squares[0] for c in chunks), sum(c.squares[1] for c in chunks))
    first, second, both = (sum(c.nans[i] for c in chunks) for i in range(3))
    return _Sums(
        max_abs=max((chunk.max_abs for chunk in chunks), default=0.0),
        max_rel=max((chunk.max_rel for chunk in chunks), default=0.0),
        is_near=all(chunk.is_near for chunk in chunks),
        dot=sum(chunk.dot for chunk in chunks),
        squares=squares,
        nans=(first, second, both),
    )


def _compare_chunk(got: np.ndarray, want: np.ndarray, tolerance: Tolerance) -> _Sums:
    kinds = (kind_of(got.dtype), kind_of(want.dtype))
    wide = np.complex128 if "complex" in kinds else np.float64
    with np.errstate(all="ignore"):
        x, y = got.astype(wide), want.astype(wide)
        nan_x, nan_y = np.isnan(x), np.isnan(y)
        is_equal = (x == y) | (nan_x & nan_y)
        gap = np.where(is_equal, 0.0, np.abs(x - y))
        if kinds == ("int", "int"):
            # float64 does not hold all integers of 64 bits.
            is_equal = got == want
            gap = np.where(is_equal, 0.0, np.maximum(gap, 1.0))
        # An infinity beside another one; NaN is counted apart.
        gap = np.where(np.isnan(gap) & ~nan_x & ~nan_y, np.inf, gap)
        scale = np.maximum(np.abs(x), np.abs(y))
        relative = np.where(gap > 0, gap / np.where(scale > 0, scale, 1.0), 0.0)
        relative = np.where(np.isnan(relative) & ~nan_x & ~nan_y, np.inf, relative)
        accepted = tolerance.atol + tolerance.rtol * np.abs(y)
        # Only what is equal is near to an infinity.
        is_near = is_equal | ((gap <= accepted) & np.isfinite(gap))
        is_number = ~(nan_x | nan_y)
        x, y = x[is_number], y[is_number]
        return _Sums(
            max_abs=float(gap[is_number].max(initial=0.0)),
            max_rel=float(relative[is_number].max(initial=0.0)),
            is_near=bool(is_near[is_number].all()),
            dot=float(np.vdot(x, y).real),
            squares=(float(np.vdot(x, x).real), float(np.vdot(y, y).real)),
            nans=(
                int((nan_x & ~nan_y).sum()),
                int((nan_y & ~nan_x).sum()),
                int((nan_x & nan_y).sum()),
            ),
        )


def _cosine(dot: float, square: float, other_square: float) -> float:
    """Cosine from a dot product and squares of lengths; 1 for two zero arrays."""
    if not square and not other_square:
        return 1.0
    length = math.sqrt(square) * math.sqrt(other_square)
    if not math.isfinite(length) or not math.isfinite(dot):
        return math.nan
    # Rounding may lead a little beyond 1.
    return max(-1.0, min(1.0, dot / length)) if length else 0.0
