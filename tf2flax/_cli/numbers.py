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
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise argparse.ArgumentTypeError(
            f"expected a whole number, 0 or more, got {text[:_MAX_TEXT]!r}"
        )
    return int(text)


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
