"""Values of the caller's in messages, and switches that must be true or false.

Whatever a caller gives may fail when it is asked for its text or its truth; a message
about it must not.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

import numpy as np

from .errors import AssignmentError

T = TypeVar("T")

# Longer texts are cut (characters), and so are collections (members).
_MAX_LENGTH: Final = 200
_MAX_MEMBERS: Final = 12
_REPR: Final = reprlib.Repr()
_REPR.maxlevel = 4
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = _MAX_MEMBERS
_REPR.maxfrozenset = _REPR.maxdeque = _REPR.maxarray = _MAX_MEMBERS
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = _MAX_LENGTH


def show_value(value: object) -> str:
    """Shows a value of the caller's.

    Args:
        value: Anything.

    Returns:
        Its `repr`, cut where it is long; its type where it has none.

    Examples:
        >>> show_value([1, "a"])
        "[1, 'a']"
        >>> len(show_value(range(10**9))), len(show_value("x" * 1000))
        (20, 200)
    """
    try:
        text = _REPR.repr(value)
    except Exception:  # of the value's own code; integers of very many digits, too
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."


def check_switch(option: str, value: object) -> bool:
    """Checks an option that is on or off.

    Args:
        option: Its name.
        value: What was given: True or False, also as 1 or 0 or of NumPy.

    Returns:
        Whether it is on.

    Raises:
        AssignmentError: It is something else.

    Examples:
        >>> check_switch("verify", True)
        True
        >>> check_switch("verify", "no")
        Traceback (most recent call last):
        tf2flax.AssignmentError: Option verify: expected True or False, got 'no'.
    """
    given: Any = value
    is_number = isinstance(value, int) and value in (0, 1)
    if is_number or isinstance(value, (bool, np.bool_)):
        return bool(given)
    raise AssignmentError(
        f"Option {option}: expected True or False, got {show_value(value)}."
    )


def is_one_of(value: object, choices: tuple[str, ...] | frozenset[str]) -> bool:
    """Tells whether a value is one of some words; an array, say, is none of them.

    Args:
        value: Anything.
        choices: The words.

    Returns:
        Whether it is one of them.
    """
    return isinstance(value, str) and value in choices


def members(what: str, values: Iterable[T]) -> Iterator[T]:
    """Iterates over what a caller gives.

    Args:
        what: What it is for, for messages.
        values: The collection.

    Returns:
        Its members.

    Raises:
        AssignmentError: It has none: Python cannot iterate over it.
    """
    try:
        return iter(values)
    except TypeError as error:
        raise AssignmentError(
            f"{what}: expected several values, got {show_value(values)}."
        ) from error


def attribute_of(value: object, name: str) -> Any:
    """Looks an attribute up, in objects that raise anything when they are asked.

    Args:
        value: The object.
        name: Name of the attribute.

    Returns:
        The attribute; None where there is none.
    """
    try:
        return getattr(value, name, None)
    except Exception:  # of the object's own code
        return None
