"""What happens to elements one by one: casts, and arithmetic with numbers.

    src("b").cast("float32") * 2.0 + 1.0      steps: float32, `* 2.0`, `+ 1.0`

Every step gives what NumPy gives for the stored dtype, rounded after each step.
Integers never wrap around: those that leave their range are found, and refused by
whoever reads them.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np

from tf2flax._assignment.language.numbers import Number
from tf2flax._base.dtypes import cast_into, forced_cast, kind_of
from tf2flax._base.errors import AssignmentError
from tf2flax._base.memory import empty

_FUNCTIONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
# What takes an operation with a number back, where the number stands on the right.
_OPPOSITES: Final = {"+": "-", "-": "+"}


@dataclasses.dataclass(frozen=True, slots=True)
class NumberStep:
    """Arithmetic with one number.

    Attributes:
        operator: "+", "-" or "*"; "neg" changes the sign.
        number: The number as it is written; "" for "neg".
        is_number_first: True if it stands on the left.
        dtype: Dtype of the elements, before and after.
        stored: The number in this dtype, as bytes; b"" for "neg".
    """

    operator: str
    number: str
    is_number_first: bool
    dtype: np.dtype
    stored: bytes

    def __str__(self) -> str:
        """The step as a message shows it."""
        if self.operator == "neg":
            return "-x"
        texts = (self.number, "x") if self.is_number_first else ("x", self.number)
        return f"{texts[0]} {self.operator} {texts[1]}"

    @property
    def value(self) -> np.ndarray:
        """The number, as an array without axes."""
        return np.frombuffer(self.stored, self.dtype).reshape(())


# A cast to a dtype, or arithmetic.
Step = np.dtype | NumberStep


class ValueRangeError(AssignmentError):
    """Integers leave the range of their dtype; the message says which."""


def number_step(
    sign: str, number: Number | None, dtype: np.dtype, *, is_number_first: bool = False
) -> NumberStep:
    """Makes the step of an operation with a number, which the dtype must hold.

    Args:
        sign: As `NumberStep.operator`.
        number: The number; None for "neg".
        dtype: Dtype of the elements.
        is_number_first: True if the number stands on the left.

    Raises:
        AssignmentError: The dtype does not hold the number, or has no such operation.
    """
    verb = "-x" if sign == "neg" else sign
    check_arithmetic(verb, dtype)
    if number is None:
        return NumberStep(sign, "", False, dtype, b"")
    stored = element_of(number, dtype, sign).tobytes()
    return NumberStep(sign, number.text, is_number_first, dtype, stored)


def check_arithmetic(verb: str, dtype: np.dtype) -> None:
    """Refuses arithmetic that NumPy does not have for a dtype.

    Raises:
        AssignmentError: The dtype is one of strings, or of truths that are subtracted.
    """
    kind = kind_of(dtype)
    if kind is None:  # strings
        raise AssignmentError(f"{verb}: the operand holds no numbers.")
    if kind == "bool" and verb in ("-", "-x"):
        raise AssignmentError(
            f"{verb}: the operand is of dtype bool, which cannot be subtracted. Cast "
            "it first with .cast(dtype)."
        )


def element_of(number: Number, dtype: np.dtype, verb: str) -> np.ndarray:
    """A number as an element of a dtype.

    Args:
        number: The number.
        dtype: The dtype, which decides: a tensor never changes its dtype for a number.
        verb: The operation, for messages.

    Returns:
        Array without axes.

    Raises:
        AssignmentError: A float for integers or bools, a complex number for anything
            else than complex ones, or a number out of range. Rounding is allowed.
    """
    # As a number without a type does in NumPy and in JAX: the tensor's dtype decides.
    value, kind = number.value, kind_of(dtype)
    problem = AssignmentError(
        f"{verb}: {dtype} does not hold {number.text}, and an operation keeps the "
        "dtype of its tensor. Give another number, or cast the tensor first with "
        ".cast(dtype)."
    )
    if kind in ("bool", "int"):
        info = None if kind == "bool" else ml_dtypes.iinfo(dtype)
        low, high = (0, 1) if info is None else (int(info.min), int(info.max))
        # Integers are never rounded, so that a float is a mistake even if it is whole.
        if not isinstance(value, int) or not low <= value <= high:
            raise problem
        return forced_cast(np.array(value, np.int64 if low else np.uint64), dtype)
    try:
        wide = np.array(value, np.complex128 if kind == "complex" else np.float64)
    except (TypeError, OverflowError) as error:  # complex, or an integer too large
        raise problem from error
    # Too large is refused here as it is where leaves are cast; rounding is not.
    out = empty((), dtype)
    if cast_into(wide, out, is_forced=False, origin=()):
        raise problem
    return out


def dtype_after(steps: Iterable[Step], before: np.dtype) -> np.dtype:
    """Dtype of elements after steps."""
    result = before
    for step in steps:
        result = step.dtype if isinstance(step, NumberStep) else step
    return result


def cast_chain(before: np.dtype, steps: Iterable[Step]) -> tuple[Step, ...]:
    """Steps from a dtype on, which comes first; casts that change nothing left out."""
    chain: list[Step] = [before]
    current = before
    for step in steps:
        is_cast = not isinstance(step, NumberStep)
        if is_cast and step == current:
            continue
        chain.append(step)
        current = dtype_after((step,), current)
    return tuple(chain)


def apply_steps(array: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """Does steps to elements.

    Args:
        array: The elements.
        steps: The steps, in order.

    Returns:
        A new array; the same one if there are no steps.

    Raises:
        ValueRangeError: Integers leave the range of their dtype.
    """
    for step in steps:
        if isinstance(step, NumberStep):
            before = array
            array, outside = take_step(array, step)
            _refuse_outside(outside, before, step)
        else:
            array = forced_cast(array, step)
    return array


def follow_steps(
    array: np.ndarray, steps: Sequence[Step]
) -> tuple[np.ndarray, np.ndarray]:
    """As `apply_steps`, but finds integers that leave their range instead.

    Returns:
        The elements; and True for those that have wrapped around.
    """
    outside = _NEVER
    for step in steps:
        if isinstance(step, NumberStep):
            array, wrapped = take_step(array, step)
            outside = outside | wrapped
        else:
            array = forced_cast(array, step)
    return array, outside


def has_numbers(steps: Iterable[Step]) -> bool:
    """True if some step is arithmetic."""
    return any(isinstance(step, NumberStep) for step in steps)


def take_step(array: np.ndarray, step: NumberStep) -> tuple[np.ndarray, np.ndarray]:
    """Does arithmetic with a number.

    Returns:
        The new elements; and True for integers that leave the range of their dtype,
        which have wrapped around.
    """
    if step.operator == "neg":
        if kind_of(step.dtype) == "int":
            # The minimum has no opposite, and without signs nothing but 0 has one.
            zero = np.zeros((), step.dtype)
            return _combine_integers("-", zero, array, step.dtype)
        with np.errstate(all="ignore"):
            return np.negative(array).astype(step.dtype, copy=False), _NEVER
    pair = (step.value, array) if step.is_number_first else (array, step.value)
    return combine_elements(step.operator, *pair)


# Of floats, none leaves the range: they become infinite as in NumPy.
_NEVER: Final = np.zeros((), np.bool_)


def combine_elements(
    sign: str, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Does arithmetic with two arrays of one dtype.

    Returns:
        As `take_step`.
    """
    dtype = left.dtype
    if kind_of(dtype) == "int":
        return _combine_integers(sign, left, right, dtype)
    with np.errstate(all="ignore"):
        result = np.asarray(_FUNCTIONS[sign](left, right))
    assert result.dtype == dtype
    return result, _NEVER


def combine_checked(sign: str, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """As `combine_elements`.

    Raises:
        ValueRangeError: Integers leave the range of their dtype.
    """
    result, outside = combine_elements(sign, left, right)
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        first = f"{left[place]} {sign} {right[place]}"
        raise _range_error(int(outside.sum()), first, left.dtype)
    return result


def _combine_integers(
    sign: str, left: np.ndarray, right: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Combines integers by way of a dtype that holds every result, if there is one."""
    function = _FUNCTIONS[sign]
    info = ml_dtypes.iinfo(dtype)
    if dtype.itemsize == 8:
        return _combine_wide(sign, left, right, dtype)
    # 32 bits without a sign, squared, have 64 bits; nothing else has more than 63.
    is_long = dtype == np.uint32 and sign == "*"
    wide = np.dtype(np.uint64 if is_long else np.int64)
    result = np.asarray(function(_widened(left, wide), _widened(right, wide)))
    outside = (result < int(info.min)) | (result > int(info.max))
    return forced_cast(result, dtype), np.asarray(outside)


def _widened(array: np.ndarray, wide: np.dtype) -> np.ndarray:
    # Those of ml_dtypes have no direct cast to all dtypes.
    return forced_cast(array, wide)


def _combine_wide(
    sign: str, left: np.ndarray, right: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Combines integers of 64 bits, and finds out afterwards which wrapped around."""
    with np.errstate(all="ignore"):
        result = np.asarray(_FUNCTIONS[sign](left, right))
        if sign == "*":
            # What was multiplied comes back by a division, unless it wrapped around.
            # The only quotient that wraps around itself is that of the minimum by -1.
            divisor = np.where(left == 0, np.ones((), dtype), left)
            outside = (result // divisor != right) & (left != 0)
            if dtype == np.int64:
                lowest = np.iinfo(np.int64).min
                outside |= (left == -1) & (right == lowest)
                outside |= (right == -1) & (left == lowest)
        elif dtype == np.uint64:
            outside = result < left if sign == "+" else result > left
        elif sign == "+":
            # The result has another sign than both, which then have the same.
            outside = ((left ^ result) & (right ^ result)) < 0
        else:
            outside = ((left ^ right) & (left ^ result)) < 0
    return result, np.asarray(outside)


def _refuse_outside(outside: np.ndarray, before: np.ndarray, step: NumberStep) -> None:
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        value = str(before[place])
        first = str(step).replace("x", f"({value})" if value[0] == "-" else value)
        raise _range_error(int(outside.sum()), first, step.dtype)


def _range_error(count: int, first: str, dtype: np.dtype) -> ValueRangeError:
    values = "1 value does" if count == 1 else f"{count} values do"
    return ValueRangeError(
        f"{values} not fit {dtype}, the first is {first}. Cast the tensor to a wider "
        "dtype first, with .cast(dtype)."
    )


def step_back(array: np.ndarray, step: NumberStep) -> np.ndarray:
    """Does the opposite of arithmetic with a number, as near as the dtype comes.

    Args:
        array: Elements after the step.
        step: The step.

    Returns:
        Elements that may give these; whether they do has to be tried.
    """
    sign = step.operator
    if sign == "neg":
        return take_step(array, step)[0]
    number = step.value
    if kind_of(step.dtype) == "bool":
        return array  # times or plus 0 or 1; what gives it is the same, or nothing
    if sign in _OPPOSITES:
        if step.is_number_first and sign == "-":
            # y = c - x, so that x = c - y.
            return combine_elements("-", np.asarray(number), array)[0]
        return combine_elements(_OPPOSITES[sign], array, number)[0]
    with np.errstate(all="ignore"):
        if kind_of(step.dtype) == "int":
            wide = step.dtype if step.dtype.itemsize == 8 else np.dtype(np.int64)
            divisor = forced_cast(number, wide)
            if not divisor:
                # Everything becomes 0, which 0 does as well.
                return np.zeros_like(array)
            return forced_cast(forced_cast(array, wide) // divisor, step.dtype)
        if not number:
            # Zeros alone come from zeros, each from that of its sign.
            return np.asarray(array * number)
        result = np.asarray(array / number).astype(step.dtype)
        # Of complex numbers, the small part has lost digits to the large one: what is
        # still missing is divided as well.
        for _ in range(2 if step.dtype.kind == "c" else 0):
            error = np.asarray(array - result * number)
            better = np.asarray(result + error / number).astype(step.dtype)
            result = np.where(np.isfinite(better), better, result)
        return result


# How many values further a number is: of a complex one, both of its parts.
Distance = int | tuple[int, int]
_FARTHEST: Final = 4


@functools.cache
def neighbours(dtype: np.dtype) -> tuple[Distance, ...]:
    """How many values away a stored one is looked for, nearest first.

    Narrower dtypes are searched whole, and integers are exact.
    """
    counts = range(-_FARTHEST, _FARTHEST + 1)
    if dtype.kind == "c":
        pairs = [(real, imaginary) for real in counts for imaginary in counts]
        return tuple(sorted(pairs, key=lambda pair: abs(pair[0]) + abs(pair[1])))[1:]
    is_wide = dtype.kind == "f" and dtype.itemsize > 2
    return tuple(sorted(counts, key=abs))[1:] if is_wide else ()


def moved_by(array: np.ndarray, count: Distance) -> np.ndarray:
    """The numbers that lie some values further, up or down."""
    if isinstance(count, tuple):
        moved = array.copy()
        moved.real = moved_by(np.asarray(np.real(array)), count[0])
        moved.imag = moved_by(np.asarray(np.imag(array)), count[1])
        return moved
    direction = np.array(np.inf if count > 0 else -np.inf, array.dtype)
    with np.errstate(all="ignore"):
        for _ in range(abs(count)):
            array = np.nextafter(array, direction)
    return array


def nearest_integers(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Integers near floats; the greatest or the smallest one outside their range.

    For NaN it is the greatest one: floats without infinities make NaN of large numbers.
    """
    info = ml_dtypes.iinfo(dtype)
    low, high = int(info.min), int(info.max)
    wide = forced_cast(value, np.dtype(np.float64))
    inside = (wide > low) & (wide < high)  # false for NaN
    wanted = np.where(inside, wide, 0.0).astype(np.int64 if low else np.uint64)
    wanted[(wide >= high) | np.isnan(wide)] = high
    wanted[wide <= low] = low
    return forced_cast(wanted, dtype)
