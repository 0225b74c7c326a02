"""Numbers in expressions: `x * 2.0`, `.pad(..., fill=0.0)`."""

from __future__ import annotations

import cmath
import dataclasses
from typing import Any, Final, cast

import numpy as np

from tf2flax._base.caller import attribute_of, show_value
from tf2flax._base.errors import AssignmentError

# Of integers: no dtype holds longer ones.
_MAX_BITS: Final = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    """A finite number, as it is written.

    Attributes:
        text: The number as Python reads it. Only the text is compared: 2 and 2.0 are
            equal for Python, and do not mean the same for a tensor of integers.
        value: The number.
    """

    text: str
    value: int | float | complex = dataclasses.field(compare=False)


def check_number(verb: str, value: object) -> Number:
    """Checks a number of an expression.

    Args:
        verb: What takes it, for messages: "+", ".pad".
        value: The number as it was given; a scalar of NumPy is a number as well.

    Returns:
        The number.

    Raises:
        AssignmentError: It is something else, an array for example, or not finite.
    """
    if isinstance(value, np.number):
        # Those of ml_dtypes are no `np.number`, and are refused below.
        value = cast("object", value.item())
    is_number = isinstance(value, (int, float, complex)) and type(value) is not bool
    if not is_number:
        raise AssignmentError(
            f"{verb}: expected a number, got {show_value(value)}.{_suggest(value)}"
        )
    number = _plain(cast("int | float | complex", value))
    if isinstance(number, int):
        if number.bit_length() > _MAX_BITS:
            raise AssignmentError(
                f"{verb}: expected a number that a dtype holds, got an integer of "
                f"{number.bit_length()} bits."
            )
    elif not cmath.isfinite(number):
        raise AssignmentError(f"{verb}: expected a finite number, got {number}.")
    return Number(repr(number), number)


def _plain(value: int | float | complex) -> int | float | complex:
    """The number without its subclass: `np.float64(2)` prints with its type."""
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, float) else complex(value)


def _suggest(value: Any) -> str:
    """What to write instead; begins with a space."""
    if isinstance(value, str):
        return f" A tensor is tf2flax.src({value!r})."
    if isinstance(value, (list, tuple)) or attribute_of(value, "shape") is not None:
        return " Arrays cannot stand in an expression: save them in a checkpoint."
    return ""
