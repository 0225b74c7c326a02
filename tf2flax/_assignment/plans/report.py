"""A restore plan for people: as text, coloured on a terminal, or as HTML.

Decides nothing: `_assignment.plans.plan` has what is shown here.
"""

from __future__ import annotations

import collections
import dataclasses
import html
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

from tf2flax._assignment.language.arguments import quoted
from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Expression, Joined, Source
from tf2flax._assignment.resolution.assignments import Assignment, Gap, Override
from tf2flax._assignment.resolution.half_norms import HalfNorm
from tf2flax._assignment.resolution.problem_report import header
from tf2flax._base.collapsing import collapse, in_sequence
from tf2flax._base.text import align_columns, format_nbytes

from .plan import Replicated, RestorePlan

GREEN, _BLUE, _YELLOW, _RED, _GREY = "32", "34", "33", "31", "90"
# Columns of a table that are numbers, and stand to the right.
_RIGHT: Final = frozenset(
    {"bytes", "entry", "leaves", "needed", "read", "ratio", "host memory", "on devices"}
)
# Lines of a list of names; the plan's attributes have all of them.
_MAX_LISTED: Final = 60
# What marks leaves of which any shard takes more than its own bytes.
_MARK: Final = " *"


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """One group of the report.

    Attributes:
        title: Its heading, with what is counted.
        colour: Of the heading, as terminals number it.
        columns: Headings of a table; () for a list.
        rows: Cells of each row.
        note: What is said below; "" for nothing.
    """

    title: str
    colour: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Reads:
    """What a restore reads, as the report shows it.

    Attributes:
        by_process: What it costs each process; None where that is no news.
        unverified: Tensors that this process reads in part.
    """

    by_process: Section | None = None
    unverified: tuple[str, ...] = ()


_NO_READS: Final = Reads()


def sections(plan: RestorePlan, reads: Reads = _NO_READS) -> list[Section]:
    """Sorts a plan into groups; those that are empty are left out.

    Args:
        plan: The plan.
        reads: What it reads.

    Returns:
        The groups, the most important first.
    """
    resolution = plan.resolution
    others = {*plan.slots, *plan.averages}
    unused = [name for name in plan.unused if name not in others]
    groups = [
        _loaded(plan.assignments),
        _entries(plan.assignments),
        _gaps("Missing in the checkpoint, kept as they are", resolution.missing),
        _gaps("Mismatched, kept as they are", resolution.mismatched),
        _names("Kept as they are", _BLUE, resolution.unreached),
        _names("Unused in the checkpoint", _GREY, unused),
        _counted("Unused moving averages", plan.averages),
        _counted("Unused optimizer slots", plan.slots),
        _names("Entries that matched nothing", _YELLOW, plan.unused_rules),
        _overrides(resolution.overridden),
        _half_norms(plan.half_norms),
        _replicated(plan.placement.replicated),
        _names(
            "Replicated, since no partition rule matches",
            _YELLOW,
            plan.placement.unmatched,
        ),
        _names(
            "Partition rules that matched no leaf",
            _YELLOW,
            plan.placement.unused_rules,
        ),
        *([reads.by_process] if reads.by_process else []),
        _names("Read in part, and so not verified", _YELLOW, reads.unverified),
    ]
    return [group for group in groups if group.rows]


def summary(plan: RestorePlan) -> str:
    """Counts the groups of a plan.

    Args:
        plan: The plan.

    Returns:
        One line.
    """
    resolution = plan.resolution
    counts = [
        f"{len(plan.assignments)} leaves loaded ({format_nbytes(plan.nbytes)})",
        f"{len(resolution.unreached)} kept",
    ]
    if resolution.missing:
        counts.append(f"{len(resolution.missing)} missing")
    if resolution.mismatched:
        counts.append(f"{len(resolution.mismatched)} mismatched")
    return ", ".join([*counts, f"{len(plan.unused)} tensors unused"])


def render(
    plan: RestorePlan, reads: Reads = _NO_READS, *, is_coloured: bool = False
) -> str:
    """Writes a plan for people: a summary, then group by group.

    Args:
        plan: The plan.
        reads: What it reads.
        is_coloured: Whether headings are coloured, as terminals show it.

    Returns:
        Lines of text, columns aligned.
    """
    lines = [f"Restore plan for {plan.prefix}", summary(plan)]
    groups = sections(plan, reads)
    return "\n".join([*lines, *lines_of(groups, is_coloured=is_coloured)])


def lines_of(sections: Iterable[Section], *, is_coloured: bool = False) -> list[str]:
    """Writes groups for people, columns aligned.

    Args:
        sections: The groups.
        is_coloured: Whether headings are coloured, as terminals show it.

    Returns:
        Lines of text, an empty one before each group.
    """
    lines: list[str] = []
    for section in sections:
        title = f"{section.title}:"
        shown = f"\x1b[{section.colour}m{title}\x1b[0m" if is_coloured else title
        lines += ["", shown, *_aligned(section)]
        if section.note:
            lines.append(f"  {section.note}")
    return lines


def render_html(plan: RestorePlan, reads: Reads = _NO_READS) -> str:
    """Writes a plan for notebooks.

    Args:
        plan: The plan.
        reads: What it reads.

    Returns:
        A block of HTML; names of tensors and leaves are escaped.
    """
    parts = [
        "<div>",
        f"<p><b>Restore plan</b> for <code>{html.escape(plan.prefix)}</code><br>",
        f"{html.escape(summary(plan))}</p>",
    ]
    for i, section in enumerate(sections(plan, reads)):
        is_open = " open" if i == 0 else ""
        parts.append(
            f"<details{is_open}><summary>{html.escape(section.title)}</summary><table>"
        )
        if section.columns:
            cells = "".join(f"<th>{html.escape(name)}</th>" for name in section.columns)
            parts.append(f"<tr>{cells}</tr>")
        for row in section.rows:
            cells = "".join(
                f'<td style="text-align:left"><code>{html.escape(cell)}</code></td>'
                for cell in row
            )
            parts.append(f"<tr>{cells}</tr>")
        parts.append(f"</table>{html.escape(section.note)}</details>")
    return "\n".join([*parts, "</div>"])


def is_terminal(stream: TextIO | None = None) -> bool:
    """Tells whether what is printed is seen on a terminal that shows colours.

    Args:
        stream: Where it is printed; None for standard output.

    Returns:
        Whether it is; `NO_COLOR` and `TERM=dumb` say that it is not.
    """
    shown: Any = sys.stdout if stream is None else stream  # None under pythonw
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return bool(shown.isatty())
    except (AttributeError, ValueError):  # closed, or no stream at all
        return False


def _loaded(assignments: Sequence[Assignment]) -> Section:
    cells = [
        (
            one.leaf,
            f"{_source(one)}{_box(one)}",
            str(list(one.shape)),
            " -> ".join(dtype.name for dtype in one.casts),
            str(one.entry.number),
            "" if one.is_exact else _MARK,
        )
        for one in assignments
    ]
    rows = [
        (
            f"{leaf}{mark}",
            source,
            shape,
            dtype,
            format_nbytes(sum(assignments[i].nbytes for i in row.members)),
            entry,
        )
        for row in collapse(cells)
        for leaf, source, shape, dtype, entry, mark in [row.cells]
    ]
    is_marked = any(not one.is_exact for one in assignments)
    return Section(
        title=f"Loaded ({len(assignments)})",
        colour=GREEN,
        columns=("leaf", "source", "shape", "dtype", "bytes", "entry"),
        rows=tuple(rows),
        note="* any shard of it takes whole tensors to read" if is_marked else "",
    )


def _entries(assignments: Sequence[Assignment]) -> Section:
    """The entries of the map that the numbers in the table stand for."""
    counts: dict[int, int] = {}
    entries: dict[int, MapEntry] = {}
    for one in assignments:
        entries[one.entry.number] = one.entry
        counts[one.entry.number] = counts.get(one.entry.number, 0) + 1
    cells = [
        (str(number), str(entries[number]), entries[number].place)
        for number in sorted(entries)
    ]
    rows = [
        (number, entry, str(sum(counts[int(cells[i][0])] for i in row.members)), place)
        for row in collapse(cells)
        for number, entry, place in [row.cells]
    ]
    return Section(
        title=f"Entries that fill them ({len(entries)})",
        colour=GREEN,
        columns=("entry", "of the map", "leaves", "in"),
        rows=tuple(rows),
    )


def _source(one: Assignment) -> str:
    """A source as the table shows it: what is joined in sequence, as one."""
    is_plain = isinstance(one.expression, Source)
    return one.source if is_plain else _abbreviated(one.expression)


def _abbreviated(expression: Expression) -> str:
    text = repr(expression)
    if isinstance(expression, Joined):
        parts = [
            quoted(part.pattern) if isinstance(part, Source) else _abbreviated(part)
            for part in expression.operands
        ]
        rows = in_sequence(parts)
        axis = expression.axis
        return f"{expression.verb}({', '.join(rows)}, axis={axis})"
    if not expression.children:
        return text
    (operand,) = expression.children
    return _abbreviated(operand) + text.removeprefix(repr(operand))


def _gaps(title: str, gaps: Sequence[Gap]) -> Section:
    cells = [(gap.leaf, gap.source, gap.fact, header(gap.entry)) for gap in gaps]
    return Section(
        title=f"{title} ({len(gaps)})",
        colour=_RED,
        columns=("leaf", "source", "reason", "entry of the map"),
        rows=tuple(row.cells for row in collapse(cells)),
    )


def _overrides(overridden: Sequence[Override]) -> Section:
    """Entries that lost a leaf to another one."""
    cells = [
        (one.leaf, header(one.entry), f"entry {one.by.number}") for one in overridden
    ]
    return Section(
        title=f"Overridden entries ({len(overridden)})",
        colour=_YELLOW,
        columns=("leaf", "entry of the map", "overridden by"),
        rows=tuple(row.cells for row in collapse(cells)),
    )


def _half_norms(norms: Sequence[HalfNorm]) -> Section:
    """Normalisations whose statistics stay, though the checkpoint has them."""
    cells = [
        (norm.name, leaf, tensor)
        for norm in norms
        for leaf, tensor in zip(norm.kept, norm.tensors, strict=True)
    ]
    return Section(
        title=f"Normalisations loaded by half ({len(norms)})",
        colour=_YELLOW,
        columns=("scale or bias of", "kept as it is", "in the checkpoint"),
        rows=tuple(row.cells for row in collapse(cells)),
    )


def _replicated(replicated: Sequence[Replicated]) -> Section:
    """Dimensions that the mesh does not divide."""
    cells = [
        (
            one.leaf,
            str(one.dimension),
            str(one.size),
            ", ".join(one.axes),
            str(one.count),
        )
        for one in replicated
    ]
    return Section(
        title=f"Replicated, since the mesh does not divide them ({len(replicated)})",
        colour=_YELLOW,
        columns=("leaf", "dimension", "size", "mesh axis", "of size"),
        rows=tuple(row.cells for row in collapse(cells)),
    )


def _names(title: str, colour: str, names: Sequence[str]) -> Section:
    rows = [row.cells for row in collapse([(name,) for name in names])]
    hidden = len(rows) - _MAX_LISTED
    note = f"... and {hidden} lines more" if hidden > 0 else ""
    return Section(
        f"{title} ({len(names)})", colour, (), tuple(rows[:_MAX_LISTED]), note
    )


def _counted(title: str, names: Sequence[str]) -> Section:
    """Slots or averages by their own name: nobody reads them one by one."""
    counts = collections.Counter(name.rpartition("/")[2] for name in names)
    rows = tuple((last, f"{count} tensors") for last, count in counts.items())
    return Section(f"{title} ({len(names)})", _GREY, (), rows)


def _aligned(section: Section) -> list[str]:
    rows = [section.columns, *section.rows] if section.columns else section.rows
    right = {i for i, name in enumerate(section.columns) if name in _RIGHT}
    return [f"  {line}" for line in align_columns(rows, right=right)]


def _box(assignment: Assignment) -> str:
    """The part of one tensor that fills a leaf of a family."""
    region = assignment.region
    if assignment.is_whole or region is None or not _is_plain(assignment):
        return ""
    spans = (f"{a}:{b}" for a, b in zip(region.starts, region.stops, strict=True))
    return f"[{', '.join(spans)}]"


def _is_plain(assignment: Assignment) -> bool:
    return assignment.source == assignment.sources[0]
