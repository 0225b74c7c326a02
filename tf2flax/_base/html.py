"""HTML for notebooks and pages: one style, and tables that a click opens.

All text is escaped. Needs no network and no script; knows no checkpoint.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from .text import printable

# In `rem` and `currentColor`, so that notebooks in any theme are readable.
STYLE: Final = """<style>
.tf2flax { font-size: .9rem; line-height: 1.4 }
.tf2flax summary { cursor: pointer; font-weight: 600; margin: .4rem 0 }
.tf2flax table { border-collapse: collapse; margin: 0 0 .4rem 1rem }
.tf2flax th, .tf2flax td { text-align: left; padding: .1rem .8rem .1rem 0;
  border: 0; vertical-align: top }
.tf2flax th { font-weight: 400; opacity: .7 }
.tf2flax .number { text-align: right }
.tf2flax .number code, .tf2flax .unbroken code { white-space: nowrap }
.tf2flax code { background: none; padding: 0; font-size: .85rem;
  white-space: pre-wrap; overflow-wrap: anywhere }
.tf2flax .note { margin-left: 1rem; opacity: .7 }
</style>"""


def report_html(
    kind: str, name: str, summary: str, sections: Iterable[Sequence[str]]
) -> str:
    """Writes a report for a notebook.

    Args:
        kind: What it is, for the heading.
        name: What it is of.
        summary: The numbers, in a line.
        sections: Lines of HTML, as of `table_html`.

    Returns:
        HTML that stands by itself.
    """
    lines = [
        '<div class="tf2flax">',
        STYLE,
        f"<p><b>{html.escape(kind)}</b> <code>{_text(name)}</code><br>",
        f"{html.escape(summary)}</p>",
        *(line for section in sections for line in section),
        "</div>",
    ]
    return "\n".join(lines)


def table_html(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    note: str = "",
    is_open: bool = True,
    numbers: Collection[str] = (),
    unbroken: Collection[str] = (),
) -> list[str]:
    """Writes a table that a click opens and closes.

    Args:
        title: What the click is on.
        columns: Headings; () for a list.
        rows: Cells of each row.
        note: A line below; "" for none.
        is_open: True to show it open at first.
        numbers: Headings of the columns that are aligned to the right.
        unbroken: Headings of the columns whose cells stay on one line.

    Returns:
        Lines of HTML.
    """
    attribute = " open" if is_open else ""
    classes = [
        ' class="number"'
        if name in numbers
        else ' class="unbroken"'
        if name in unbroken
        else ""
        for name in columns
    ]
    lines = [f"<details{attribute}><summary>{html.escape(title)}</summary><table>"]
    if columns:
        heads = zip(columns, classes, strict=True)
        cells = "".join(f"<th{kind}>{html.escape(name)}</th>" for name, kind in heads)
        lines.append(f"<tr>{cells}</tr>")
    for row in rows:
        kinds = classes or [""] * len(row)
        cells = "".join(
            f"<td{kind}><code>{_text(cell)}</code></td>"
            for cell, kind in zip(row, kinds, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</table>")
    if note:
        lines.append(f'<div class="note">{html.escape(note)}</div>')
    return [*lines, "</details>"]


def _text(text: str) -> str:
    """A text in which nothing is markup, and nothing hides or turns round letters."""
    return html.escape(printable(text))
