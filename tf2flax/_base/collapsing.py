"""Rows that differ only by running numbers, shown as one: `layer_{0..23}`.

a_0/w  [2]         cells are split at numbers:  (a_, 0, /w  [2])
a_1/w  [2]         rows of one template are sorted by their numbers,
a_2/w  [2]         and runs of them, in steps of 1, are joined:
-> a_{0..2}/w  [2]
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from .names import MAX_DIGITS
from .text import and_more, printable

# Runs of digits, of which `_is_number` says which count; a pattern that did would take
# four times as long. Ranges that were made in an earlier pass stay as they are.
_DIGITS: Final = re.compile(r"(\{\d+\.\.\d+\}|\d+)")
# Nested numbers, each of which takes a pass: block, unit, convolution.
_MAX_PASSES: Final = 4
# Lines of a message that people read: a screen, less a heading and a last line.
MAX_LINES: Final = 58
# Names that are joined by their words, and components of one.
_MAX_BY_WORDS: Final = 5000
_MAX_DEPTH: Final = 32


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
    if len(result) == 1:  # as thousands of causes are, each by itself
        return result
    for _ in range(_MAX_PASSES):
        shorter = _collapse_once(result)
        if len(shorter) == len(result):
            break
        result = shorter
    return result


def summarise(lines: Sequence[str], count: int = MAX_LINES) -> str:
    """Joins the lines of a message, collapsed, and at most a screen of them.

    Args:
        lines: The lines.
        count: How many are shown.

    Returns:
        At most so many lines, and one that counts the others.

    Examples:
        >>> print(summarise(["Leaf `a_0` is odd.", "Leaf `a_1` is odd.", "Odd."]))
        Leaf `a_{0..1}` is odd.
        Odd.
    """
    rows = collapse([(line,) for line in lines])
    text = "\n".join(printable(row.cells[0]) for row in rows[:count])
    num_hidden = sum(len(row.members) for row in rows[count:])
    if not num_hidden:
        return text
    return and_more(text, num_hidden, separator="\n") + "."


def list_collapsed(names: Collection[str], count: int) -> str:
    """Lists names for a message, collapsed, and at most so many.

    Examples:
        >>> list_collapsed(["a_0", "a_1", "b", "c_0", "c_1"], count=2)
        '`a_{0..1}`, `b` and 2 more'
    """
    rows = collapse([(name,) for name in names])
    text = ", ".join(f"`{printable(row.cells[0])}`" for row in rows[:count])
    return and_more(text, sum(len(row.members) for row in rows[count:]))


def list_by_words(names: Collection[str], count: int) -> str:
    """Lists names for a message, also those that differ by words, and at most so many.

    Where there are too many, components in which most of them differ are left out.

    Examples:
        >>> list_by_words(["a/x/w", "a/y/w", "a/z/w", "b"], count=2)
        '`a/…/w` (3), `b`'
    """
    rows = collapse([(name,) for name in names])
    if not count < len(rows) <= _MAX_BY_WORDS:
        return list_collapsed(names, count)
    # One component at a time: that which makes the fewest kinds of names.
    counts = {tuple(row.cells[0].split("/")): len(row.members) for row in rows}
    depth = max(map(len, counts))
    while len(counts) > count and depth <= _MAX_DEPTH:
        shorter = [_without_place(counts, place) for place in range(depth)]
        fewest = min(shorter, key=len)
        if len(fewest) == len(counts):
            break
        counts = fewest
    texts = ["/".join(components) for components in counts]
    listed = ", ".join(
        f"`{printable(text)}`" + (f" ({number})" if "…" in text else "")
        for text, number in zip(texts[:count], counts.values(), strict=False)
    )
    return and_more(listed, sum([*counts.values()][count:]))


def _without_place(
    counts: Mapping[tuple[str, ...], int], place: int
) -> dict[tuple[str, ...], int]:
    """Joins names that differ in one component; how many leaves each stands for."""
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name in counts:
        joined = (*name[:place], "…", *name[place + 1 :])
        # Of names that have nothing in common, nothing would be left.
        joined = joined if {*joined} - {"…"} else name
        groups.setdefault(joined, []).append(name)
    return {
        joined if len(names) > 1 else names[0]: sum(counts[name] for name in names)
        for joined, names in groups.items()
    }


def in_sequence(texts: Sequence[str]) -> list[str]:
    """Joins neighbours that count up, and keeps the order.

    Examples:
        >>> in_sequence(["w_0", "w_1", "w_2", "b", "w_1", "w_0"])
        ['w_{0..2}', 'b', 'w_1', 'w_0']
    """
    members = [(*_parsed(text), Row((text,), (i,))) for i, text in enumerate(texts)]
    result: list[str] = []
    start = 0
    while start < len(members):
        template = members[start][0]
        stop = start + 1
        while stop < len(members) and members[stop][0] == template:
            stop += 1
        alike = [(numbers, row) for _, numbers, row in members[start:stop]]
        count = _end_of_run(alike, 0)
        result.append(_join(template, alike[:count]).cells[0])
        start += count
    return result


def _collapse_once(rows: list[Row]) -> list[Row]:
    # Most cells stand in many rows: shapes, dtypes, and names that both sides share.
    parsed = functools.cache(_parsed)
    groups: dict[str, list[tuple[tuple[int, ...], Row]]] = {}
    for row in rows:
        template = ""
        numbers: tuple[int, ...] = ()
        for cell in row.cells:
            cell_template, cell_numbers = parsed(cell)
            template += cell_template
            numbers += cell_numbers
        groups.setdefault(template, []).append((numbers, row))
    joined: list[Row] = []
    for template, members in groups.items():
        members.sort(key=operator.itemgetter(0))
        start = 0
        while start < len(members):
            stop = _end_of_run(members, start)
            joined.append(_join(template, members[start:stop]))
            start = stop
    return sorted(joined, key=lambda row: row.members[0])


def _parsed(cell: str) -> tuple[str, tuple[int, ...]]:
    r"""Text with places for numbers (`\1`), which ends in `\0`; and the numbers."""
    tokens = _split(cell)
    numbers: list[int] = []
    # Every second token is a run of digits, or a range of an earlier pass.
    for place in range(1, len(tokens), 2):
        if _is_number(tokens[place]):
            numbers.append(int(tokens[place]))
            tokens[place] = "\1"
    return "".join(tokens) + "\0", tuple(numbers)


def _is_number(token: str) -> bool:
    """False for ranges, for digits of other scripts and with leading zeros.

    And for more digits than Python turns into a number.
    """
    is_short = len(token) <= MAX_DIGITS and token.isascii()
    return is_short and (token[0] not in "{0" or token == "0")


def _end_of_run(members: list[tuple[tuple[int, ...], Row]], start: int) -> int:
    """Where the rows stop that count up in the same steps, each number by 0 or 1."""
    steps: tuple[int, ...] | None = None
    stop = start + 1
    while stop < len(members):
        before, after = members[stop - 1][0], members[stop][0]
        step = tuple(map(operator.sub, after, before))
        if step != steps:
            if steps is not None or not any(step) or not {0, 1}.issuperset(step):
                break
            steps = step
        stop += 1
    return stop


def _join(template: str, members: list[tuple[tuple[int, ...], Row]]) -> Row:
    if len(members) == 1:
        return members[0][1]
    first, last = members[0][0], members[-1][0]
    head, *tails = template.split("\1")
    ranges = map(_range, first, last)
    text = head + "".join(map(operator.add, ranges, tails))
    indices = sorted(i for _, row in members for i in row.members)
    return Row(tuple(text.split("\0")[:-1]), tuple(indices))


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{{{first}..{last}}}"


def _split(cell: str) -> list[str]:
    """Splits at digits; what marks places and ends is replaced by its picture."""
    return _DIGITS.split(cell.replace("\0", "\u2400").replace("\1", "\u2401"))
