"""What callers give and see: their values in messages, options, warnings.

A value of the caller's may raise anything when it is asked for its text, its truth or
an attribute. A message about it must not fail for that reason.
"""

from __future__ import annotations

import inspect
import json
import os
import pathlib
import reprlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar, cast

import numpy as np

from .errors import AssignmentError, escape_lines

T = TypeVar("T")

_PACKAGE: Final = str(pathlib.Path(__file__).parents[1].absolute()) + os.sep
# Longer texts are cut (characters), and so are collections (members).
_MAX_LENGTH: Final = 200
_MAX_MEMBERS: Final = 12
_REPR: Final = reprlib.Repr()
_REPR.maxlevel = 4
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = _MAX_MEMBERS
_REPR.maxfrozenset = _REPR.maxdeque = _REPR.maxarray = _MAX_MEMBERS
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = _MAX_LENGTH


def warn_caller(message: str) -> None:
    """Warns, at the line outside of this package that led here.

    A fixed number of frames would be wrong as soon as a function in between is added.

    Args:
        message: The text of the UserWarning.
    """
    message = escape_lines(message)
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def show_value(value: object) -> str:
    """Shows a value in a message.

    Returns:
        Its `repr`, cut to 200 characters; its type where `repr` fails.

    Examples:
        >>> show_value([1, "a"])
        "[1, 'a']"
        >>> len(show_value(range(10**9))), len(show_value("x" * 1000))
        (20, 200)
    """
    try:
        text = _REPR.repr(value)
    except Exception:  # of the value's own code; or an integer of too many digits
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."


def wrong_value(fact: str, example: object, use: str = "") -> AssignmentError:
    """An error about a value that a caller gives, with a right one.

    Args:
        fact: What is wrong, up to the right value.
        example: That value: lists, tuples, dicts and strings.
        use: What follows it.

    Returns:
        The error. It has its parts as well, since files write values otherwise: see
        `reworded`.

    Examples:
        >>> str(wrong_value("Write", [("a$", "keep")], " for some leaves."))
        'Write [("a$", "keep")] for some leaves.'
    """
    return AssignmentError(f"{fact} {_as_python(example)}{use}", fact, example, use)


def reworded(error: AssignmentError, write: Callable[[object], str]) -> str:
    """The text of an error, where values are written in another language.

    Args:
        error: The error, perhaps one of `wrong_value`.
        write: Writes a value.
    """
    if len(error.args) == 1:
        return str(error)
    _, fact, example, use = error.args
    return f"{fact} {write(example)}{use}"


def _as_python(value: Any) -> str:
    """Writes a value as Python has it, strings in double quotes."""
    match value:
        case tuple():
            texts = list(map(_as_python, cast("tuple[object, ...]", value)))
            return f"({', '.join(texts)}{',' * (len(texts) == 1)})"
        case list():
            return f"[{', '.join(map(_as_python, cast('list[object]', value)))}]"
        case dict():
            pairs = cast("dict[object, object]", value).items()
            texts = [
                f"{_as_python(key)}: {_as_python(member)}" for key, member in pairs
            ]
            return f"{{{', '.join(texts)}}}"
        case _:
            return json.dumps(value)


def check_switch(option: str, value: object) -> bool:
    """Checks an option that is on or off.

    Args:
        option: Name of the option, for the message.
        value: What was given: True or False, also as 1 or 0, or as NumPy's bool.

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


def is_whole_number(value: Any) -> bool:
    """True for whole numbers, also NumPy's, but no bools."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_one_of(value: object, choices: tuple[str, ...] | frozenset[str]) -> bool:
    """True if a value is one of some words; safe for arrays and what has no hash."""
    return isinstance(value, str) and value in choices


def members(what: str, values: Iterable[T]) -> Iterator[T]:
    """Iterates over a collection that a caller gives.

    Args:
        what: What it is for: the beginning of the message.
        values: The collection.

    Raises:
        AssignmentError: Python cannot iterate over it.
    """
    try:
        return iter(values)
    except TypeError as error:
        raise AssignmentError(
            f"{what}: expected several values, got {show_value(values)}."
        ) from error


def attribute_of(value: object, name: str) -> Any:
    """Looks up an attribute; None where it is missing, or where looking it up fails."""
    try:
        return getattr(value, name, None)
    except Exception:  # of the object's own code
        return None
