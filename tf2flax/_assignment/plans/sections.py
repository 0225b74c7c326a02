"""Sections of a report, each a table or a list under a heading: as text and as HTML.

Knows nothing of plans: `report` fills the sections.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable
from typing import Any, Final, TextIO

from tf2flax._base.html import table_html
from tf2flax._base.text import align_columns

# Numbers of colours in the escape sequences of terminals.
GREEN: Final = "32"
BLUE: Final = "34"
YELLOW: Final = "33"
RED: Final = "31"
GREY: Final = "90"
# Headings of columns that hold numbers, which are aligned to the right.
_NUMERIC: Final = frozenset(
    {"bytes", "entry", "leaves", "needed", "read", "ratio", "host memory", "on devices"}
)
# Headings of columns whose cells hold spaces and are read as one word.
_UNBROKEN: Final = frozenset({"shape", "dtype"})


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """One section of a report.

    Attributes:
        title: Heading, with the number of what it lists.
        colour: Colour of the heading on terminals.
        columns: Headings of a table; () for a list.
        rows: Cells of each row.
        note: A line below; "" for none.
    """

    title: str
    colour: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def format_sections(
    sections: Iterable[Section], *, is_coloured: bool = False
) -> list[str]:
    """Writes sections as text with aligned columns.

    Args:
        sections: The sections.
        is_coloured: True to colour headings for a terminal.

    Returns:
        Lines of text, an empty one before each section.
    """
    lines: list[str] = []
    for section in sections:
        title = f"{section.title}:"
        if is_coloured:
            title = f"\x1b[{section.colour}m{title}\x1b[0m"
        lines += ["", title, *_table_lines(section)]
        if section.note:
            lines.append(f"  {section.note}")
    return lines


def html_of(section: Section, *, is_open: bool) -> list[str]:
    """Writes a section as HTML that a click opens; all text in it is escaped.

    Args:
        section: The section.
        is_open: True to show it open at first.

    Returns:
        Lines of HTML.
    """
    return table_html(
        section.title,
        section.columns,
        section.rows,
        note=section.note,
        is_open=is_open,
        numbers=_NUMERIC,
        unbroken=_UNBROKEN,
    )


def is_terminal(stream: TextIO | None = None) -> bool:
    """Tells whether printed text is seen on a terminal that shows colours.

    Args:
        stream: Stream that it is printed to; None for standard output.

    Returns:
        True if it is; False also if `NO_COLOR` or `TERM=dumb` is set.
    """
    output: Any = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    # Standard output may be closed, or None (under pythonw).
    try:
        return bool(output.isatty())
    except (AttributeError, ValueError):
        return False


def _table_lines(section: Section) -> list[str]:
    rows = [section.columns, *section.rows] if section.columns else section.rows
    right = {i for i, name in enumerate(section.columns) if name in _NUMERIC}
    return [f"  {line}" for line in align_columns(rows, right=right)]
