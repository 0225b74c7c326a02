"""Casts and arithmetic backwards: values of leaves -> stored elements that load so.

A cast loses digits, so several stored values may load as the same one:

    stored float32   0.1000  0.1001  0.1002  0.1003        one bfloat16 holds them all
    leaf bfloat16   [        0.1001                ]

The rule: an element that every leaf has as loading gives it keeps its stored bits. Any
other element gets the nearest value that loads as the leaves have it, if there is one.
So what nobody changed is written back bit by bit, and what was changed reads back as it
was saved.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import ml_dtypes
import numpy as np

from tf2flax._base.dtypes import forced_cast, kind_of

from .comparing import (
    FLOAT4,
    NARROW,
    comparable,
    equal_elements,
    has_nan,
    is_nan,
)
from .steps import (
    Distance,
    NumberStep,
    Step,
    dtype_after,
    follow_steps,
    has_numbers,
    moved_by,
    nearest_integers,
    neighbours,
    step_back,
)

# Elements that are compared at once: temporary arrays stay within a few MiB.
_CHUNK_SIZE: Final = 1 << 18
# After so many candidates, elements that have a value by then are left alone.
_FIRST_TRIES: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class LeafValue:
    """Elements of a tensor, as one leaf has them.

    Attributes:
        leaf: Name of the leaf.
        value: Array of the tensor's shape, in the leaf's dtype.
        mask: True for the elements that the leaf covers; None if it covers all.
        casts: What elements go through when they are loaded, from the stored dtype to
            the value's: dtypes, and arithmetic with numbers.
        is_widened: True if the leaf has been given a wider dtype since it was loaded:
            values may then have digits that loading would not give.
    """

    leaf: str
    value: np.ndarray
    mask: np.ndarray | None
    casts: tuple[Step, ...]
    is_widened: bool = False

    @property
    def stored(self) -> np.dtype:
        """The stored dtype."""
        return dtype_after(self.casts[:1], self.value.dtype)

    @property
    def is_plain(self) -> bool:
        """True if loading changes no bit."""
        return len(self.casts) == 1

    @property
    def is_reversible(self) -> bool:
        """True if every element can come from one stored value only."""
        if self.is_plain:
            return True
        dtypes = [step for step in self.casts if isinstance(step, np.dtype)]
        # Arithmetic is taken back element by element, and has to be tried.
        if has_numbers(self.casts) or not all(
            itertools.starmap(is_one_to_one, itertools.pairwise(dtypes))
        ):
            return False
        value = self.value if self.mask is None else self.value[self.mask]
        # Loading, or the way back, may change the payload of a NaN.
        return not (has_nan(value.dtype) and bool(is_nan(value).any()))

    def at(self, index: slice | np.ndarray) -> LeafValue:
        """Some elements of flat arrays."""
        mask = None if self.mask is None else self.mask[index]
        return dataclasses.replace(self, value=self.value[index], mask=mask)

    def flat(self) -> LeafValue:
        """The same elements along one axis."""
        mask = None if self.mask is None else self.mask.reshape(-1)
        return dataclasses.replace(self, value=self.value.reshape(-1), mask=mask)

    def is_uncovered(self) -> np.ndarray | bool:
        """True for the elements that the leaf does not cover."""
        return False if self.mask is None else ~self.mask

    def is_as_loaded(self, stored: np.ndarray) -> np.ndarray:
        """True for the elements that the leaf has as loading gives them."""
        loaded, outside = follow_steps(stored, self.casts[1:])
        return equal_elements(loaded, self.value) & ~outside

    def fits(self, stored: np.ndarray) -> np.ndarray:
        """True for the stored elements that the leaf accepts."""
        result = self.is_as_loaded(stored)
        if self.is_widened and not result.all() and not has_numbers(self.casts):
            # Digits that loading would cut off: the stored value may have them too.
            result |= equal_elements(forced_cast(stored, self.value.dtype), self.value)
        return result

    def candidates(self, stored: np.ndarray) -> Iterator[np.ndarray]:
        """Yields stored elements that may load as the leaf has them, nearest first.

        The caller checks them with `fits`, element by element.
        """
        dtype = self.stored
        has_real = any(
            isinstance(step, np.dtype) and kind_of(step) != "complex"
            for step in self.casts
        )
        for candidate in self._casts_back():
            if kind_of(dtype) == "complex" and has_real:
                # The imaginary part was never loaded, so it stays as it is stored.
                combined = stored.copy()
                combined.real = np.real(candidate)
                yield combined
            yield candidate
        if dtype.itemsize <= 2 and self.value.dtype.kind != "c":
            # Of 65,536 values at most, a table says which one loads as the element.
            yield _look_up(self.value, self.casts)
        elif kind_of(dtype) == "int":
            # Integers that became infinite on their way through a narrow float.
            info = ml_dtypes.iinfo(dtype)
            yield np.full(stored.shape, info.max, dtype)
            yield np.full(stored.shape, info.min, dtype)

    def _casts_back(self) -> Iterator[np.ndarray]:
        """Yields the value cast to the stored dtype, in several ways."""
        dtype, value = self.stored, self.value
        if has_numbers(self.casts):
            yield self._steps_back()
            # The opposite of a rounded operation may miss by a little: of the stored
            # value, or of what some later step is done to.
            for i, step in enumerate(self.casts):
                if isinstance(step, NumberStep):
                    for count in neighbours(step.dtype):
                        yield self._steps_back(i, count)
            return
        yield forced_cast(value, dtype)
        if len(self.casts) > 2:
            # Step by step, which wraps and rounds where one cast would not.
            yield self._steps_back()
        is_float = kind_of(self.value.dtype) in ("float", "complex")
        if kind_of(dtype) == "int" and is_float:
            yield nearest_integers(self.value, dtype)
        if self.value.dtype.kind == "u" and any(
            kind_of(step) in ("float", "complex") for step in self.casts
        ):
            # A negative float wraps around to a large unsigned number, whose many
            # digits a float lacks; as a signed number it has few.
            signed = self.value.view(f"i{self.value.dtype.itemsize}")
            yield forced_cast(signed, dtype)

    def _steps_back(self, moved: int = 0, count: Distance = 0) -> np.ndarray:
        """The value with every step taken back, from last to first.

        Args:
            moved: Number of a step; what it is done to is moved ...
            count: ... by so many values.
        """
        value = self.value
        for i in range(len(self.casts) - 1, 0, -1):
            step = self.casts[i]
            before = dtype_after(self.casts[:i], value.dtype)
            if isinstance(step, NumberStep):
                value = step_back(value, step)
                value = moved_by(value, count) if i == moved else value
            elif has_numbers(self.casts) and kind_of(before) == "int" != kind_of(step):
                value = nearest_integers(value, before)
            else:
                value = forced_cast(value, before)
        return value


@dataclasses.dataclass(slots=True)
class Conflict:
    """Elements for which no stored value loads as all leaves have them.

    Attributes:
        leaf: The leaf that no value fits; None if leaves differ from each other.
        count: Number of these elements.
        place: Number of the first one, in row-major order.
        value: Value of the leaf there, as text.
    """

    leaf: str | None
    count: int
    place: int
    value: str


def settle_values(stored: np.ndarray, values: Sequence[LeafValue]) -> Conflict | None:
    """Changes a tensor of the checkpoint to what leaves have, element by element.

    Args:
        stored: The tensor as the checkpoint has it, row-major; changed in place.
        values: Its elements, as the leaves have them.

    Returns:
        The elements that have no value; the array is useless then. None if all fit.
    """
    flat = stored.reshape(-1)
    # The leaf whose casts lose least comes first: its digits decide.
    ordered = sorted(
        values, key=lambda value: (len(value.casts), -value.value.dtype.itemsize)
    )
    flat_values = [value.flat() for value in ordered]
    conflict: Conflict | None = None
    for start in range(0, flat.size, _CHUNK_SIZE):
        chunk = slice(start, start + _CHUNK_SIZE)
        new = _settle_chunk(flat[chunk], [value.at(chunk) for value in flat_values])
        if new is not None and conflict is not None:
            conflict.count += new.count
        elif new is not None:
            conflict = dataclasses.replace(new, place=start + new.place)
    return conflict


def _settle_chunk(stored: np.ndarray, values: Sequence[LeafValue]) -> Conflict | None:
    """Settles a few elements: tries candidates until every element has a value.

        stored (float32)    3.0    7.0    7.0    1.0
        leaf a (float32)    3.0    8.0    7.5     .     the last one is not covered
        leaf b (int32)      3      8      7       .
        changed                     x      x            only these are looked at
        candidates of a            8.0    7.5           b has them as 8 and 7

    Returns:
        The elements without a value, in places of the chunk; None if all fit.
    """
    is_changed = np.zeros(stored.shape, bool)
    for value in values:
        is_changed |= ~(value.is_as_loaded(stored) | value.is_uncovered())
    places = np.flatnonzero(is_changed)
    if not places.size:
        return None
    # After a training all elements have changed: then a slice, which copies nothing.
    index = slice(None) if places.size == stored.size else places
    changed = [value.at(index) for value in values]
    old = stored[index]
    new, is_open = _find_values(old, changed)
    left = np.flatnonzero(is_open)
    if not left.size:
        stored[index] = new
        return None
    return _conflict_at([value.at(left) for value in changed], old[left], places[left])


def _find_values(
    stored: np.ndarray, values: Sequence[LeafValue]
) -> tuple[np.ndarray, np.ndarray]:
    """Finds stored elements that load as leaves have them.

    Returns:
        The elements; and True for those that have none.
    """
    new, is_open = stored.copy(), np.ones(stored.shape, bool)
    for value in values:
        for number, candidate in enumerate(value.candidates(stored)):
            is_right = is_open & ~np.asarray(value.is_uncovered())
            for judge in values:
                is_right &= judge.fits(candidate) | judge.is_uncovered()
            np.copyto(new, candidate, where=is_right)
            is_open &= ~is_right
            left = np.flatnonzero(is_open)
            if not left.size:
                return new, is_open
            if number >= _FIRST_TRIES and left.size * 2 < stored.size:
                # There may be many more candidates: for these elements alone.
                narrowed = [judge.at(left) for judge in values]
                new[left], is_open[left] = _find_values(stored[left], narrowed)
                return new, is_open
    return new, is_open


def _conflict_at(
    values: Sequence[LeafValue], stored: np.ndarray, places: np.ndarray
) -> Conflict:
    """Finds out whether one leaf alone has values that nothing loads as."""
    for value in values:
        is_bad = np.ones(stored.shape, bool) & ~np.asarray(value.is_uncovered())
        for candidate in value.candidates(stored):
            is_bad &= ~value.fits(candidate)
        if is_bad.any():
            first = int(np.flatnonzero(is_bad)[0])
            count, place = int(is_bad.sum()), int(places[first])
            return Conflict(value.leaf, count, place, str(value.value[first]))
    # Each leaf alone could be had, so they contradict each other.
    return Conflict(None, len(places), int(places[0]), "")


def uncast_value(value: LeafValue) -> np.ndarray | None:
    """Casts back elements that come from one stored value only; reads nothing.

    Args:
        value: Elements of a leaf; `is_reversible`.

    Returns:
        Array of the stored dtype; None if no stored value loads as some element.
    """
    if value.is_plain:
        return value.value
    result = forced_cast(value.value, value.stored)
    is_right = value.fits(result) | value.is_uncovered()
    return result if bool(np.all(is_right)) else None


@functools.cache
def is_one_to_one(before: np.dtype, after: np.dtype) -> bool:
    """Tells whether a forced cast keeps different values different, NaN apart.

    Args:
        before: Dtype of numbers to cast from.
        after: Dtype to cast to.

    Returns:
        True if no two values become the same.

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
        # Few enough to try them all; narrow floats differ in too much for a rule.
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
    # All integers up to this power of two are values of the dtype.
    digits = {"float64": 53, "complex128": 53, "float32": 24, "complex64": 24}
    return max(-low, high) <= 1 << digits.get(after.name, 0)


def _is_tried_one_to_one(before: np.dtype, after: np.dtype) -> bool:
    """The same for a dtype of few values: all of them are cast."""
    every = _every_value(before)
    result = forced_cast(every, after)
    if has_nan(after) and is_nan(result).any():
        return False  # a number has become NaN
    if after.kind == "c":
        result = np.real(result)
    return len(np.unique(comparable(result))) == len(np.unique(comparable(every)))


def _every_value(dtype: np.dtype) -> np.ndarray:
    """All values of a dtype of at most two bytes, NaN apart, by their bits."""
    if kind_of(dtype) == "bool":
        return np.array([False, True])
    if dtype in NARROW:
        info = ml_dtypes.iinfo(dtype)
        every = np.arange(int(info.min), int(info.max) + 1)
        return every.astype(np.int8).astype(dtype)
    if dtype == FLOAT4:
        return np.arange(16, dtype=np.uint8).view(dtype)
    count = 1 << (8 * dtype.itemsize)
    every = np.arange(count, dtype=f"u{dtype.itemsize}").view(dtype)
    return every[~is_nan(every)] if has_nan(dtype) else every


def _look_up(value: np.ndarray, casts: tuple[Step, ...]) -> np.ndarray:
    """Finds stored values that load as elements, in a table of all values.

    Where there is none, the result is any value; `fits` then refuses it.
    """
    every, keys = _every_loaded(casts)
    wanted = comparable(_with_one_nan(value))
    if not keys.size:
        return np.zeros(value.shape, every.dtype)
    return every[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)]


@functools.lru_cache(maxsize=64)
def _every_loaded(casts: tuple[Step, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All values of a narrow dtype and what they load as, sorted by the latter.

    Returns:
        The values, and the bits of what each loads as, as `comparable` gives them.
    """
    stored = casts[0]
    assert isinstance(stored, np.dtype)
    every = _every_value(stored)
    if has_nan(stored):
        every = np.concatenate([every, forced_cast(np.array([np.nan]), stored)])
    result, outside = follow_steps(every, casts[1:])
    if outside.any():  # what loading refuses is no candidate
        every, result = every[~outside], result[~outside]
    keys = comparable(_with_one_nan(result))
    order = np.argsort(keys, kind="stable")
    return every[order], keys[order]


def _with_one_nan(array: np.ndarray) -> np.ndarray:
    """Gives every NaN the same bits, so that a table has one entry for them."""
    if not has_nan(array.dtype):
        return array
    nan = forced_cast(np.array(np.nan), array.dtype)
    return np.where(is_nan(array), nan, array)
