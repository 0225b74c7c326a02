"""Numbers of the command line, checked: `argparse` takes any that Python reads."""

from __future__ import annotations

import argparse
import math

# No depth, and no number of files, has more digits.
_MAX_DIGITS = 9
# How much of a wrong value a message shows (characters).
_MAX_TEXT = 40


def whole_number(text: str) -> int:
    """Reads a whole number, 0 or more.

    Raises:
        ArgumentTypeError: It is something else.
    """
    number = _digits(text)
    if number is None:
        raise argparse.ArgumentTypeError(
            f"expected a whole number, 0 or more, got {text[:_MAX_TEXT]!r}"
        )
    return number


def positive_number(text: str) -> int:
    """Reads a whole number, 1 or more.

    Raises:
        ArgumentTypeError: It is something else.
    """
    number = _digits(text)
    if not number:
        raise argparse.ArgumentTypeError(
            f"expected a whole number, 1 or more, got {text[:_MAX_TEXT]!r}"
        )
    return number


def _digits(text: str) -> int | None:
    """The number that digits are; None for other text."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS
    return int(text) if is_number else None


def tolerance(text: str) -> float:
    """Reads a difference that is accepted: a finite number, 0 or more.

    Raises:
        ArgumentTypeError: It is something else.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(
            f"expected a finite number, 0 or more, got {text[:_MAX_TEXT]!r}"
        )
    return number
