"""Text for people: sizes, lists of names, columns, and names made harmless.

One of each, for messages, reports and the command line. Knows no checkpoint.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def format_nbytes(nbytes: int) -> str:
    """Writes a number of bytes in decimal units, with three digits at least.

    Examples:
        >>> format_nbytes(512), format_nbytes(1_340_000_000)
        ('512 B', '1.34 GB')
    """
    value, unit = float(nbytes), 0
    # 999.5 would be rounded to 1000, or in three digits to 1e+03.
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{nbytes} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def list_names(names: Sequence[str], count: int = 5) -> str:
    """Lists names for a message: of many, the first ones.

    Examples:
        >>> list_names(["a", "b", "c"], count=2)
        '`a`, `b` and 1 more'
    """
    return and_more(
        ", ".join(f"`{printable(name)}`" for name in names[:count]),
        len(names) - count,
    )


def counted(number: int, noun: str, plural: str = "") -> str:
    """Writes a number and what it counts.

    Args:
        number: The number.
        noun: What one of them is called.
        plural: What several are called; the noun with an `s` unless given.

    Examples:
        >>> counted(1, "leaf", "leaves"), counted(1200, "tensor")
        ('1 leaf', '1,200 tensors')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def and_more(text: str, num_hidden: int, *, separator: str = " ") -> str:
    """Adds to a list how many of its members are not shown.

    Args:
        text: The members that are shown.
        num_hidden: How many are not; nothing is added unless it is positive.
        separator: What stands between both.

    Examples:
        >>> and_more("a, b", 3), and_more("a, b", 0)
        ('a, b and 3 more', 'a, b')
    """
    return f"{text}{separator}and {num_hidden} more" if num_hidden > 0 else text


def printable(name: str) -> str:
    r"""Escapes what would not print, or would break a line or a terminal.

    Examples:
        >>> printable("a\tb\x1b[31m")
        'a\\tb\\x1b[31m'
    """
    if name.isprintable():
        return name
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in name
    )


def align_columns(
    rows: Sequence[Sequence[str]], *, right: Collection[int] = ()
) -> list[str]:
    """Writes the rows of a table as lines whose columns are aligned.

    Args:
        rows: Cells, escaped here; all rows have as many. A header is a row as well.
        right: Numbers of the columns that are aligned to the right.

    Returns:
        Lines, without spaces at their ends.

    Examples:
        >>> align_columns([["name", "size"], ["a", "5"], ["bcdef", "100"]], right={1})
        ['name   size', 'a         5', 'bcdef   100']
    """
    escaped = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(_width, column)) for column in zip(*escaped, strict=True)]
    lines: list[str] = []
    for row in escaped:
        cells: list[str] = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            padding = " " * (width - _width(cell))
            cells.append(padding + cell if number in right else cell + padding)
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))
