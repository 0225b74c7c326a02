"""Rows that differ by a running number alone, shown as one: `layer_{0..23}`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Final

from .names import MAX_DIGITS

# Ranges made before stay as they are; a number with leading zeros is text.
# What has more digits than Python turns into numbers is text like any other.
_RUNNING: Final = rf"(?:0|[1-9][0-9]{{,{MAX_DIGITS - 1}}})"
_NUMBER: Final = re.compile(rf"(\{{\d+\.\.\d+\}}|(?<!\d){_RUNNING}(?!\d))")
_IS_NUMBER: Final = re.compile(_RUNNING)
# Numbers within numbers within numbers: block, unit, convolution.
_MAX_PASSES: Final = 4
# Lines of a message that are read: a screen, with room for a heading and a last line.
MAX_LINES: Final = 58


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """Cells of a table, or of several rows of it.

    Attributes:
        cells: The text of each.
        members: Numbers of the rows that it stands for.
    """

    cells: tuple[str, ...]
    members: tuple[int, ...]


def collapse(rows: Sequence[tuple[str, ...]]) -> list[Row]:
    """Joins rows that differ by running numbers alone.

    Args:
        rows: Cells of each.

    Returns:
        Fewer rows, each in the place of the first that it stands for.

    Examples:
        >>> rows = [("a_0/w", "x1"), ("b", "b"), ("a_1/w", "x2"), ("a_2/w", "x3")]
        >>> [row.cells for row in collapse(rows)]
        [('a_{0..2}/w', 'x{1..3}'), ('b', 'b')]
    """
    result = [Row(cells, (i,)) for i, cells in enumerate(rows)]
    for _ in range(_MAX_PASSES):
        shorter = _collapse_once(result)
        if len(shorter) == len(result):
            break
        result = shorter
    return result


def summarise(lines: Sequence[str]) -> str:
    """Joins the lines of a message: running numbers as one, and no more than a screen.

    Args:
        lines: The lines.

    Returns:
        At most 60 lines.

    Examples:
        >>> print(summarise(["Leaf `a_0` is odd.", "Leaf `a_1` is odd.", "Odd."]))
        Leaf `a_{0..1}` is odd.
        Odd.
    """
    rows = collapse([(line,) for line in lines])
    shown = [row.cells[0] for row in rows[:MAX_LINES]]
    hidden = sum(len(row.members) for row in rows[MAX_LINES:])
    return "\n".join([*shown, f"and {hidden} more."] if hidden else shown)


def in_sequence(texts: Sequence[str]) -> list[str]:
    """Joins neighbours that count up, and keeps the order of all.

    Args:
        texts: Texts, in order.

    Returns:
        Fewer texts.

    Examples:
        >>> in_sequence(["w_0", "w_1", "w_2", "b", "w_1", "w_0"])
        ['w_{0..2}', 'b', 'w_1', 'w_0']
    """
    members = [(*_parsed((text,)), Row((text,), (i,))) for i, text in enumerate(texts)]
    result: list[str] = []
    start = 0
    while start < len(members):
        template = members[start][0]
        same = start + 1
        while same < len(members) and members[same][0] == template:
            same += 1
        run = [(numbers, row) for _, numbers, row in members[start:same]]
        count = _end_of_run(run, 0)
        result.append(_join(template, run[:count]).cells[0])
        start += count
    return result


def _collapse_once(rows: list[Row]) -> list[Row]:
    groups: dict[tuple[str, ...], list[tuple[tuple[int, ...], Row]]] = {}
    for row in rows:
        template, numbers = _parsed(row.cells)
        groups.setdefault(template, []).append((numbers, row))
    joined: list[Row] = []
    for template, members in groups.items():
        members.sort(key=lambda one: one[0])
        start = 0
        while start < len(members):
            stop = _end_of_run(members, start)
            joined.append(_join(template, members[start:stop]))
            start = stop
    return sorted(joined, key=lambda row: row.members[0])


def _parsed(cells: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Cells as text with places for numbers, and the numbers."""
    pieces = [piece for cell in cells for piece in (*_split(cell), "\0")]
    template = tuple("\1" if _is_number(p) else p for p in pieces)
    return template, tuple(int(p) for p in pieces if _is_number(p))


def _end_of_run(members: list[tuple[tuple[int, ...], Row]], start: int) -> int:
    """Past the last row that goes on in the same steps of 0 and 1."""
    steps: tuple[int, ...] | None = None
    stop = start + 1
    while stop < len(members):
        before, after = members[stop - 1][0], members[stop][0]
        step = tuple(b - a for a, b in zip(before, after, strict=True))
        if not any(step) or any(s not in (0, 1) for s in step):
            break
        if steps is not None and step != steps:
            break
        steps, stop = step, stop + 1
    return stop


def _join(template: tuple[str, ...], members: list[tuple[tuple[int, ...], Row]]) -> Row:
    if len(members) == 1:
        return members[0][1]
    first, last = members[0][0], members[-1][0]
    numbers = iter(zip(first, last, strict=True))
    text = "".join(_span(*next(numbers)) if p == "\1" else p for p in template)
    indices = sorted(i for _, row in members for i in row.members)
    return Row(tuple(text.split("\0")[:-1]), tuple(indices))


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{{{first}..{last}}}"


def _split(cell: str) -> list[str]:
    return _NUMBER.split(cell.replace("\0", "\u2400").replace("\1", "\u2401"))


def _is_number(piece: str) -> bool:
    return _IS_NUMBER.fullmatch(piece) is not None
