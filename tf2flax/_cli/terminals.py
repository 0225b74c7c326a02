"""What a terminal gets: tables, and a bar where reading takes more than a moment.

Where a terminal is too narrow for a table, long names have a line for themselves::

    name                                    dtype    shape     size
    bert/encoder/layer_0/attention/self/query/kernel
                                            float32  [32, 32]  4.1 kB

They stay whole, since they are copied.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from tf2flax._base.text import align_columns, printable

_INDENT: Final = "    "
_GAP: Final = "  "
# With less room for names, nothing is aligned (columns).
_MIN_NAME: Final = 12
# Less is read before a bar could be seen (bytes).
_LONG_NBYTES: Final = 16 << 20


def wants_bar(nbytes: int) -> bool:
    """True if somebody watches, and so many bytes take more than a moment."""
    return nbytes > _LONG_NBYTES and sys.stderr.isatty()


def print_table(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """Prints a table.

    Args:
        rows: Cells; the first row is the header, the first column are names.
        right: Numbers of the columns that are aligned to the right, from 1.
    """
    width = shutil.get_terminal_size().columns
    lines = align_columns(rows, right=right)
    if max(map(len, lines)) > width:
        cells = align_columns([row[1:] for row in rows], right={i - 1 for i in right})
        room = width - max(map(len, cells)) - len(_GAP)
        lines = _hang(rows, cells, room) if room >= _MIN_NAME else _stack(rows)
    print(*lines, sep="\n")


def _hang(
    rows: Sequence[Sequence[str]], cells: Sequence[str], room: int
) -> Iterator[str]:
    """Yields rows of which long names have a line for themselves.

    Args:
        rows: As `print_table`.
        cells: What follows the name, aligned.
        room: Columns for the name.
    """
    for row, text in zip(rows, cells, strict=True):
        name = printable(row[0])
        if len(name) > room:
            yield name
            name = ""
        yield f"{name:{room}}{_GAP}{text}"


def _stack(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields names, and below each its other cells with their headings."""
    for row in rows[1:]:
        name, *cells = map(printable, row)
        pairs = zip(rows[0][1:], cells, strict=True)
        yield name
        yield _INDENT + ", ".join(f"{head} {cell}" for head, cell in pairs if cell)
