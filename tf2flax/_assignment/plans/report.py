"""A restore plan for people: which sections its report has, as text or as HTML.

Decides nothing: everything that is shown is a value of `RestorePlan`.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Source
from tf2flax._assignment.language.writing import COLLAPSED, write_expression
from tf2flax._assignment.resolution.assignments import Assignment, Gap, Override
from tf2flax._assignment.resolution.entry_labels import label_of
from tf2flax._assignment.resolution.half_norms import HalfNorm
from tf2flax._assignment.resolution.policies import DtypeChoice
from tf2flax._assignment.resolution.problem_report import SUGGEST, fails_mostly
from tf2flax._assignment.resolution.unfilled import source_of_gap
from tf2flax._base.collapsing import collapse
from tf2flax._base.html import report_html
from tf2flax._base.text import and_more, counted, format_nbytes, printable

from .feeding import casts_section, shared_section
from .plan import Replicated, RestorePlan, TrainingTensor
from .sections import BLUE, GREEN, GREY, RED, YELLOW, Section, format_sections, html_of

# Lines of a list of names; attributes of the plan have all names.
_MAX_LISTED: Final = 60
# Marks leaves of which a shard cannot be read from its own bytes alone.
_MARK: Final = " *"


@dataclasses.dataclass(frozen=True, slots=True)
class ReadSummary:
    """What a restore reads, and where to, as the report of its plan shows it.

    Attributes:
        by_process: What it costs each process; None where that is no news.
        unverified: Tensors that this process reads in part.
        shardings: Shardings of leaves, as text; {} where that is no news.
        dtypes: The option that says which dtypes leaves get.
    """

    by_process: Section | None = None
    unverified: tuple[str, ...] = ()
    shardings: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    dtypes: DtypeChoice = dataclasses.field(default_factory=DtypeChoice)


_NOTHING_READ: Final = ReadSummary()


def sections(plan: RestorePlan, reads: ReadSummary = _NOTHING_READ) -> list[Section]:
    """Sections of a plan's report, the most important first; no empty ones.

    Args:
        plan: The plan.
        reads: Summary of its reads.
    """
    resolution = plan.resolution
    of_training = {tensor.name for tensor in (*plan.slots, *plan.averages)}
    unused = [name for name in plan.unused if name not in of_training]
    candidates = [
        _loaded(plan.assignments, reads.shardings),
        _entries(plan.assignments),
        casts_section(plan.assignments, reads.dtypes),
        shared_section(plan.assignments),
        _gaps("Missing in the checkpoint, kept as they are", resolution.missing),
        _gaps("Mismatched, kept as they are", resolution.mismatched),
        _names("Kept as they are", BLUE, resolution.unreached),
        _names("Unused in the checkpoint", GREY, unused),
        _counted("Unused moving averages", plan.averages),
        _counted("Unused optimizer slots", plan.slots),
        _names("Entries that matched nothing", YELLOW, plan.unused_rules),
        _overrides(resolution.overridden),
        _misplaced(plan.misplaced),
        _half_norms(plan.half_norms),
        _replicated(plan.placement.replicated),
        _names(
            "Replicated because no partition rule matches",
            YELLOW,
            plan.placement.unmatched,
        ),
        _names(
            "Partition rules that matched no leaf",
            YELLOW,
            plan.placement.unused_rules,
        ),
        *([reads.by_process] if reads.by_process else []),
        _names("Read in part and therefore not verified", YELLOW, reads.unverified),
    ]
    return [section for section in candidates if section.rows]


def summary(plan: RestorePlan) -> str:
    """The numbers of a plan in one line."""
    resolution = plan.resolution
    counts = [
        f"{counted(len(plan.assignments), 'leaf', 'leaves')} loaded "
        f"({format_nbytes(plan.nbytes)})",
        f"{len(resolution.unreached)} kept",
    ]
    if resolution.missing:
        counts.append(f"{len(resolution.missing)} missing")
    if resolution.mismatched:
        counts.append(f"{len(resolution.mismatched)} mismatched")
    text = ", ".join([*counts, f"{counted(len(plan.unused), 'tensor')} unused"])
    gaps = len(resolution.missing) + len(resolution.mismatched)
    if fails_mostly(gaps, len(plan.assignments)):
        return f"{text}. Most of the map fails: {SUGGEST}"
    return text


def render(
    plan: RestorePlan, reads: ReadSummary = _NOTHING_READ, *, is_coloured: bool = False
) -> str:
    """Writes a plan as text: a summary, then its sections.

    Args:
        plan: The plan.
        reads: Summary of its reads.
        is_coloured: True to colour headings for a terminal.
    """
    lines = [f"Restore plan for {printable(plan.prefix)}", summary(plan)]
    lines += format_sections(sections(plan, reads), is_coloured=is_coloured)
    return "\n".join(lines)


def render_html(plan: RestorePlan, reads: ReadSummary = _NOTHING_READ) -> str:
    """Writes a plan as HTML for notebooks; names in it are escaped.

    Args:
        plan: The plan.
        reads: Summary of its reads.
    """
    return report_html(
        "Restore plan",
        plan.prefix,
        summary(plan),
        [
            # What may be wrong is seen without a click.
            html_of(section, is_open=i == 0 or section.colour in (RED, YELLOW))
            for i, section in enumerate(sections(plan, reads))
        ],
    )


def _loaded(assignments: Sequence[Assignment], shardings: Mapping[str, str]) -> Section:
    """All assignments; those that differ by running numbers share a row."""
    cast_text = functools.cache(_cast_text)
    cells = [
        (
            assignment.leaf,
            f"{_source_text(assignment)}{_box_text(assignment)}",
            str(list(assignment.shape)),
            cast_text(assignment.casts),
            str(assignment.entry.number),
            "" if assignment.is_exact else _MARK,
            shardings.get(assignment.leaf, ""),
        )
        for assignment in assignments
    ]
    # Bytes are summed up afterwards, since rows with different cells do not collapse.
    rows = [
        (
            f"{leaf}{mark}",
            source,
            shape,
            dtype,
            format_nbytes(sum(assignments[i].nbytes for i in row.members)),
            entry,
            *([sharding] if shardings else []),
        )
        for row in collapse(cells)
        for leaf, source, shape, dtype, entry, mark, sharding in [row.cells]
    ]
    columns = ("leaf", "source", "shape", "dtype", "bytes", "entry")
    is_marked = not all(assignment.is_exact for assignment in assignments)
    return Section(
        title=f"Loaded ({len(assignments)})",
        colour=GREEN,
        columns=(*columns, "sharding") if shardings else columns,
        rows=tuple(rows),
        note="* any shard of it takes reading whole tensors" if is_marked else "",
    )


def _entries(assignments: Sequence[Assignment]) -> Section:
    """The entries of the map to which numbers in the table of assignments refer."""
    counts: dict[int, int] = {}
    entries: dict[int, MapEntry] = {}
    for entry in (assignment.entry for assignment in assignments):
        entries[entry.number] = entry
        counts[entry.number] = counts.get(entry.number, 0) + 1
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


def _source_text(assignment: Assignment) -> str:
    """A source in the table, short where it is long."""
    if isinstance(assignment.expression, Source):
        return assignment.source
    return write_expression(assignment.expression, COLLAPSED)


def _cast_text(casts: Sequence[np.dtype]) -> str:
    """Dtypes in the table; NumPy takes its time to name one."""
    return " -> ".join(dtype.name for dtype in casts)


def _gaps(title: str, gaps: Sequence[Gap]) -> Section:
    cells = [
        (gap.leaf, source_of_gap(gap), gap.fact, label_of(gap.entry)) for gap in gaps
    ]
    return Section(
        title=f"{title} ({len(gaps)})",
        colour=RED,
        columns=("leaf", "source", "reason", "entry of the map"),
        rows=tuple(row.cells for row in collapse(cells)),
    )


def _overrides(overridden: Sequence[Override]) -> Section:
    """Entries that lost a leaf to another entry."""
    cells = [
        (override.leaf, label_of(override.entry), f"entry {override.by.number}")
        for override in overridden
    ]
    return Section(
        title=f"Overridden entries ({len(overridden)})",
        colour=YELLOW,
        columns=("leaf", "entry of the map", "overridden by"),
        rows=tuple(row.cells for row in collapse(cells)),
    )


def _half_norms(norms: Sequence[HalfNorm]) -> Section:
    """Normalisations whose statistics are kept although the checkpoint has them."""
    cells = [
        (norm.name, leaf, tensor)
        for norm in norms
        for leaf, tensor in zip(norm.kept, norm.tensors, strict=True)
    ]
    return Section(
        title=f"Half-loaded normalisations ({len(norms)})",
        colour=YELLOW,
        columns=("scale or bias of", "kept as it is", "in the checkpoint"),
        rows=tuple(row.cells for row in collapse(cells)),
    )


def _misplaced(assignments: Sequence[Assignment]) -> Section:
    """Leaves of an optimizer's state that weights fill."""
    cells = [(a.leaf, a.source, label_of(a.entry)) for a in assignments]
    return Section(
        title=f"Weights in place of optimizer slots ({len(assignments)})",
        colour=RED,
        columns=("leaf", "source", "entry of the map"),
        rows=tuple(row.cells for row in collapse(cells)),
    )


def _replicated(replicated: Sequence[Replicated]) -> Section:
    """Dimensions that the mesh does not divide."""
    cells = [
        (
            dimension.leaf,
            str(dimension.dimension),
            str(dimension.size),
            ", ".join(dimension.axes),
            str(dimension.count),
        )
        for dimension in replicated
    ]
    return Section(
        title=f"Replicated because the mesh does not divide them ({len(replicated)})",
        colour=YELLOW,
        columns=("leaf", "dimension", "size", "mesh axis", "of size"),
        rows=tuple(row.cells for row in collapse(cells)),
    )


def _names(title: str, colour: str, names: Sequence[str]) -> Section:
    rows = [row.cells for row in collapse([(name,) for name in names])]
    note = and_more("...", len(rows) - _MAX_LISTED) if len(rows) > _MAX_LISTED else ""
    return Section(
        f"{title} ({len(names)})", colour, (), tuple(rows[:_MAX_LISTED]), note
    )


def _counted(title: str, tensors: Sequence[TrainingTensor]) -> Section:
    """Slots or averages, counted by what they are for their variables."""
    counts = collections.Counter(tensor.kind for tensor in tensors)
    rows = tuple((kind, counted(count, "tensor")) for kind, count in counts.items())
    return Section(f"{title} ({len(tensors)})", GREY, (), rows)


def _box_text(assignment: Assignment) -> str:
    """The box of a tensor that fills a part of a family; "" for other leaves."""
    if assignment.is_whole:  # as most are
        return ""
    region = assignment.region
    if region is None or not _is_plain(assignment):
        return ""
    ranges = zip(region.starts, region.stops, strict=True)
    return f"[{', '.join(f'{start}:{stop}' for start, stop in ranges)}]"


def _is_plain(assignment: Assignment) -> bool:
    """True if the source is a name; the box of an expression is in its text."""
    return assignment.source == assignment.sources[0]
