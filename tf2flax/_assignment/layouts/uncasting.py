"""Casts backwards: what leaves say about a tensor -> elements that load as they are.

The rule: an element that every leaf has as loading gives it keeps its stored bits. Any
other gets the nearest value that loads as the leaves have it; there may be none.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np

from tf2flax._base.dtypes import forced_cast, kind_of

# Elements that are compared at once: temporary arrays stay within a few MiB.
_CHUNK: Final = 1 << 18
# Integers that take a byte each, of which only the low bits count.
_NARROW: Final = frozenset(
    map(np.dtype, (ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.int4, ml_dtypes.uint4))
)
_FLOAT4: Final = np.dtype(ml_dtypes.float4_e2m1fn)


@dataclasses.dataclass(frozen=True, slots=True)
class LeafValue:
    """What one leaf says about a tensor.

    Attributes:
        leaf: Name of the leaf.
        value: Array of the tensor's shape, in the leaf's dtype.
        mask: Where it says anything; None for everywhere.
        casts: Dtypes that elements go through when they are loaded, from the stored
            one to the value's.
        is_widened: Whether the leaf has been given a wider dtype since it was loaded:
            values may then have digits that loading would not give.
    """

    leaf: str
    value: np.ndarray
    mask: np.ndarray | None
    casts: tuple[np.dtype, ...]
    is_widened: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether loading changes no bit."""
        return len(self.casts) == 1

    @property
    def is_reversible(self) -> bool:
        """Whether every element can have been loaded from one stored value only."""
        if self.is_plain:
            return True
        if not all(itertools.starmap(is_one_to_one, itertools.pairwise(self.casts))):
            return False
        value = self.value if self.mask is None else self.value[self.mask]
        # Loading, or the way back, may change the payload of a NaN.
        return not (_has_nan(value.dtype) and bool(_is_nan(value).any()))

    def at(self, index: slice | np.ndarray) -> LeafValue:
        """The same about some elements of flat arrays."""
        mask = None if self.mask is None else self.mask[index]
        return dataclasses.replace(self, value=self.value[index], mask=mask)

    def flat(self) -> LeafValue:
        """The same with one axis."""
        mask = None if self.mask is None else self.mask.reshape(-1)
        return dataclasses.replace(self, value=self.value.reshape(-1), mask=mask)

    def is_silent(self) -> np.ndarray | bool:
        """Where it says nothing."""
        return False if self.mask is None else ~self.mask

    def is_as_loaded(self, stored: np.ndarray) -> np.ndarray:
        """Where the leaf has what loading makes of stored elements."""
        loaded = stored
        for step in self.casts[1:]:
            loaded = forced_cast(loaded, step)
        return equal_elements(loaded, self.value)

    def fits(self, stored: np.ndarray) -> np.ndarray:
        """Where stored elements are what the leaf says."""
        result = self.is_as_loaded(stored)
        if self.is_widened and not result.all():
            result |= equal_elements(forced_cast(stored, self.value.dtype), self.value)
        return result

    def candidates(self, stored: np.ndarray) -> Iterator[np.ndarray]:
        """Elements that may load as the leaf has them, the nearest first."""
        dtype = self.casts[0]
        for candidate in self._tried():
            if kind_of(dtype) == "complex" and any(
                kind_of(step) != "complex" for step in self.casts
            ):  # the imaginary part was never loaded
                whole = stored.copy()
                whole.real = np.real(candidate)
                yield whole
            yield candidate
        if dtype.itemsize <= 2 and self.value.dtype.kind != "c":
            yield _looked_up(self.value, self.casts)
        elif kind_of(dtype) == "int":  # what became infinite on its way
            info = ml_dtypes.iinfo(dtype)
            yield np.full(stored.shape, info.max, dtype)
            yield np.full(stored.shape, info.min, dtype)

    def _tried(self) -> Iterator[np.ndarray]:
        dtype, value = self.casts[0], self.value
        yield forced_cast(value, dtype)
        if len(self.casts) > 2:
            for step in reversed(self.casts[:-1]):
                value = forced_cast(value, step)
            yield value
        is_float = kind_of(self.value.dtype) in ("float", "complex")
        if kind_of(dtype) == "int" and is_float:
            yield _nearest_integers(self.value, dtype)
        if self.value.dtype.kind == "u" and any(
            kind_of(step) in ("float", "complex") for step in self.casts
        ):  # negative numbers wrap around, and have fewer digits
            signed = self.value.view(f"i{self.value.dtype.itemsize}")
            yield forced_cast(signed, dtype)


@dataclasses.dataclass(slots=True)
class Conflict:
    """Elements for which there is no value that all leaves have.

    Attributes:
        leaf: The leaf that no value fits; None where leaves differ from each other.
        count: How many elements there are.
        place: The first, counted in row-major order.
        value: What the leaf has there, as text.
    """

    leaf: str | None
    count: int
    place: int
    value: str


def settle_values(stored: np.ndarray, values: Sequence[LeafValue]) -> Conflict | None:
    """Makes a tensor of the checkpoint what leaves say it is, element by element.

    Args:
        stored: The tensor as the checkpoint has it, row-major; changed in place.
        values: What the leaves say.

    Returns:
        What cannot be; the array is useless then. None where everything fits.
    """
    flat = stored.reshape(-1)
    # What loses least comes first, so that it decides.
    ordered = sorted(
        values, key=lambda value: (len(value.casts), -value.casts[-1].itemsize)
    )
    shares = [value.flat() for value in ordered]
    conflict: Conflict | None = None
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        new = _settle_part(flat[part], [value.at(part) for value in shares], start)
        if new is not None and conflict is not None:
            conflict.count += new.count
        conflict = conflict or new
    return conflict


def _settle_part(
    stored: np.ndarray, values: Sequence[LeafValue], start: int
) -> Conflict | None:
    is_changed = np.zeros(stored.shape, bool)
    for value in values:
        is_changed |= ~(value.is_as_loaded(stored) | value.is_silent())
    places = np.flatnonzero(is_changed)
    if not places.size:
        return None
    # All of them, as after a training: without copies of everything.
    index = slice(None) if places.size == stored.size else places
    shares = [value.at(index) for value in values]
    old = stored[index]
    new, is_open = old.copy(), np.ones(places.shape, bool)
    for share in shares:
        for candidate in share.candidates(old):
            is_right = is_open & ~np.asarray(share.is_silent())
            for peer in shares:
                is_right &= peer.fits(candidate) | peer.is_silent()
            np.copyto(new, candidate, where=is_right)
            is_open &= ~is_right
            if not is_open.any():
                stored[index] = new
                return None
    left = np.flatnonzero(is_open)
    return _conflict_at(
        [value.at(left) for value in shares], old[left], places[left], start
    )


def _conflict_at(
    values: Sequence[LeafValue], stored: np.ndarray, places: np.ndarray, start: int
) -> Conflict:
    for value in values:
        is_bad = np.ones(stored.shape, bool) & ~np.asarray(value.is_silent())
        for candidate in value.candidates(stored):
            is_bad &= ~value.fits(candidate)
        if is_bad.any():
            first = int(np.flatnonzero(is_bad)[0])
            return Conflict(
                value.leaf,
                int(is_bad.sum()),
                start + int(places[first]),
                str(value.value[first]),
            )
    return Conflict(None, len(places), start + int(places[0]), "")


def uncast_value(value: LeafValue) -> np.ndarray | None:
    """Casts back what can have been loaded from one value only; reads nothing.

    Args:
        value: What a leaf says; `is_reversible`.

    Returns:
        Array of the stored dtype; None where no stored value loads as some element.
    """
    if value.is_plain:
        return value.value
    result = forced_cast(value.value, value.casts[0])
    is_right = value.fits(result) | value.is_silent()
    return result if bool(np.all(is_right)) else None


@functools.cache
def is_one_to_one(before: np.dtype, after: np.dtype) -> bool:
    """Tells whether a forced cast gives every value but NaN one of its own.

    Args:
        before: A dtype of numbers.
        after: Another one.

    Returns:
        Whether it does.

    Examples:
        >>> is_one_to_one(np.dtype("int32"), np.dtype("float64"))
        True
        >>> is_one_to_one(np.dtype("int32"), np.dtype("float32"))
        False
    """
    if before == after:
        return True
    is_integer = kind_of(before) == "int"
    if before.itemsize == 1 or (before.itemsize == 2 and not is_integer):
        return _is_tried_one_to_one(before, after)
    if is_integer:
        return _holds_integers(before, after)
    wider = {"float32": ("float64", "complex64", "complex128")}
    wider |= {"float64": ("complex128",), "complex64": ("complex128",)}
    return after.name in wider.get(before.name, ())


def _holds_integers(before: np.dtype, after: np.dtype) -> bool:
    stored_info = ml_dtypes.iinfo(before)
    low, high = int(stored_info.min), int(stored_info.max)
    if kind_of(after) == "int":
        loaded_info = ml_dtypes.iinfo(after)
        return int(loaded_info.min) <= low and high <= int(loaded_info.max)
    digits = {"float64": 53, "complex128": 53, "float32": 24, "complex64": 24}
    # All integers up to this power of two are values of the dtype.
    return max(-low, high) <= 1 << digits.get(after.name, 0)


def _is_tried_one_to_one(before: np.dtype, after: np.dtype) -> bool:
    """The same of a dtype of few values: all of them are cast."""
    every = _every_value(before)
    result = forced_cast(every, after)
    if _has_nan(after) and _is_nan(result).any():
        return False
    if after.kind == "c":
        result = np.real(result)
    return len(np.unique(_comparable(result))) == len(np.unique(_comparable(every)))


def _every_value(dtype: np.dtype) -> np.ndarray:
    if kind_of(dtype) == "bool":
        return np.array([False, True])
    if dtype in _NARROW:
        info = ml_dtypes.iinfo(dtype)
        every = np.arange(int(info.min), int(info.max) + 1)
        return every.astype(np.int8).astype(dtype)
    if dtype == _FLOAT4:
        return np.arange(16, dtype=np.uint8).view(dtype)
    count = 1 << (8 * dtype.itemsize)
    every = np.arange(count, dtype=f"u{dtype.itemsize}").view(dtype)
    return every[~_is_nan(every)] if _has_nan(dtype) else every


def _is_nan(array: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # of NaNs that signal
        return np.asarray(np.isnan(array))


def _has_nan(dtype: np.dtype) -> bool:
    return kind_of(dtype) in ("float", "complex")


def equal_elements(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compares element by element: the same bits, or both NaN.

    Args:
        first: An array.
        second: Another one of the same shape and dtype.

    Returns:
        Where they are equal.
    """
    if first.dtype.kind == "c":
        first, second = _parts(first), _parts(second)
        return np.asarray(equal_elements(first, second).all(axis=-1))
    result = np.asarray(_comparable(first) == _comparable(second))
    if _has_nan(first.dtype) and not result.all():
        result |= _is_nan(first) & _is_nan(second)
    return result


def _parts(array: np.ndarray) -> np.ndarray:
    """Real and imaginary parts, along a new last axis."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    parts = array.reshape(*array.shape, 1).view(f"f{array.dtype.itemsize // 2}")
    return typing.cast("np.ndarray[Any, np.dtype[Any]]", parts)


def _comparable(array: np.ndarray) -> np.ndarray:
    """Elements as integers that are equal where all bits are that count."""
    if array.dtype in _NARROW:
        return array.astype(np.int8)
    if array.dtype.kind == "c":
        array = _parts(array)
    array = np.ascontiguousarray(array).reshape(array.shape)
    bits = array.view(f"u{array.dtype.itemsize}")
    return bits & 15 if array.dtype == _FLOAT4 else bits


def _nearest_integers(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Integers near floats; the greatest and the smallest for what lies outside.

    The greatest also for NaN, which floats without infinities make of large numbers.
    """
    info = ml_dtypes.iinfo(dtype)
    low, high = int(info.min), int(info.max)
    wide = forced_cast(value, np.dtype(np.float64))
    inside = (wide > low) & (wide < high)  # false for NaN
    wanted = np.where(inside, wide, 0.0).astype(np.int64 if low else np.uint64)
    wanted[(wide >= high) | np.isnan(wide)] = high
    wanted[wide <= low] = low
    return forced_cast(wanted, dtype)


def _looked_up(value: np.ndarray, casts: tuple[np.dtype, ...]) -> np.ndarray:
    """Stored values that load as elements do, from a list of all that there are.

    Where there is none, it is any value.
    """
    every, keys = _every_loaded(casts)
    wanted = _comparable(_with_one_nan(value))
    return every[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)]


@functools.lru_cache(maxsize=64)
def _every_loaded(casts: tuple[np.dtype, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All values of a narrow dtype, in the order of what they load as."""
    every = _every_value(casts[0])
    if _has_nan(casts[0]):
        every = np.concatenate([every, forced_cast(np.array([np.nan]), casts[0])])
    result = every
    for step in casts[1:]:
        result = forced_cast(result, step)
    keys = _comparable(_with_one_nan(result))
    order = np.argsort(keys, kind="stable")
    return every[order], keys[order]


def _with_one_nan(array: np.ndarray) -> np.ndarray:
    """The array with one kind of NaN."""
    if not _has_nan(array.dtype):
        return array
    nan = forced_cast(np.array(np.nan), array.dtype)
    return np.where(_is_nan(array), nan, array)
