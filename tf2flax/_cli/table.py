"""Text for terminals: aligned columns, sizes for people, names made harmless."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def printable(name: str) -> str:
    r"""Escapes what would not print, or would break a line or a terminal.

    Args:
        name: Any text.

    Returns:
        The text with backslash escapes for such characters.

    Examples:
        >>> printable("a\tb\x1b[31m")
        'a\\tb\\x1b[31m'
    """
    if name.isprintable():
        return name
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in name
    )


def human(nbytes: int) -> str:
    """Shows a number of bytes in the unit that suits it.

    Args:
        nbytes: The number.

    Returns:
        The number with a unit.

    Examples:
        >>> human(123), human(1 << 20)
        ('123 B', '1.0 MiB')
    """
    value = float(nbytes)
    unit = 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{nbytes} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def aligned(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int]
) -> list[str]:
    """Aligns rows under a header.

    Args:
        header: Titles of the columns.
        rows: Cells, as many in each row as there are titles.
        right: Numbers of the columns that are aligned to the right.

    Returns:
        Lines.

    Examples:
        >>> aligned(["name", "size"], [["a", "5"], ["bcdef", "100"]], right={1})
        ['name   size', 'a         5', 'bcdef   100']
    """
    table = [header, *rows]
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    lines: list[str] = []
    for row in table:
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
