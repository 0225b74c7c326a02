"""Checkpoints, tensors and reports of verifications as HTML, for notebooks.

Reads no tensor. An entry that is damaged is a row that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tf2flax._base.collapsing import collapse
from tf2flax._base.errors import CheckpointError
from tf2flax._base.html import report_html, table_html
from tf2flax._base.text import and_more, counted, format_nbytes
from tf2flax._base.values import Box

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .stored_tensor import StoredTensor
    from .verifying import VerificationReport

# Rows of a table, and tensors whose entries are looked at for one: 0.1 s.
_MAX_ROWS: Final = 60
_MAX_TENSORS: Final = 5_000
_NUMBERS: Final = frozenset({"size"})


def checkpoint_html(checkpoint: Checkpoint) -> str:
    """Writes a checkpoint as a table of its tensors; running numbers share a row."""
    names = list(checkpoint)
    cells: list[tuple[str, str, str]] = []
    sizes: list[int] = []
    for name in names[:_MAX_TENSORS]:
        try:
            tensor = checkpoint[name]
        except CheckpointError:  # malformed, or a name that several tensors share
            cells.append((name, "cannot be read", ""))
            sizes.append(0)
            continue
        dtype = tensor.entry.spec.dtype.name
        cells.append((name, dtype, str(list(tensor.shape))))
        sizes.append(tensor.nbytes)
    rows = [
        (*row.cells, format_nbytes(sum(sizes[i] for i in row.members)))
        for row in collapse(cells)
    ]
    is_whole = len(names) <= _MAX_TENSORS
    nbytes = f"{'' if is_whole else 'more than '}{format_nbytes(sum(sizes))}"
    table = table_html(
        f"Tensors ({len(names)})",
        ("name", "dtype", "shape", "size"),
        rows[:_MAX_ROWS],
        note=_note(len(rows), "rows") if is_whole else f"of the first {len(cells)}",
        numbers=_NUMBERS,
    )
    summary = f"{counted(len(names), 'tensor')}, {nbytes}"
    return report_html("Checkpoint", checkpoint.prefix, summary, [table])


def tensor_html(tensor: StoredTensor) -> str:
    """Writes a tensor with the places of its bytes."""
    spec = tensor.entry.spec
    pieces = tensor.entry.pieces
    rows = [
        (
            _show_box(piece.box),
            piece.place.replace("`", ""),
            format_nbytes(piece.nbytes),
        )
        for piece in pieces[:_MAX_ROWS]
    ]
    table = table_html(
        f"Pieces ({len(pieces)})",
        ("elements", "in", "size"),
        rows,
        note=_note(len(pieces), "pieces"),
        is_open=len(pieces) <= 8,
        numbers=_NUMBERS,
    )
    summary = f"{spec.dtype.name} {list(spec.shape)}, {format_nbytes(tensor.nbytes)}"
    return report_html("Stored tensor", tensor.name, summary, [table])


def verification_html(report: VerificationReport) -> str:
    """Writes the result of a verification, with all that is wrong."""
    result = f"{len(report.damaged)} damaged" if report.damaged else "all well"
    sections: list[Sequence[str]] = []
    if report.damaged:
        rows = [(damage.name, damage.message) for damage in report.damaged[:_MAX_ROWS]]
        title = f"Damaged ({len(report.damaged)})"
        note = _note(len(report.damaged), "damages")
        sections.append(table_html(title, ("name", "fact"), rows, note=note))
    if report.unchecked:
        rows = [(name,) for name in report.unchecked[:_MAX_ROWS]]
        title = f"Not checked ({len(report.unchecked)})"
        note = _note(len(report.unchecked), "names")
        sections.append(table_html(title, (), rows, note=note, is_open=False))
    summary = (
        f"{counted(report.num_tensors, 'tensor')}, {format_nbytes(report.nbytes)} "
        f"checked: {result}"
    )
    return report_html("Verification", report.prefix, summary, sections)


def _note(count: int, things: str) -> str:
    hidden = count - _MAX_ROWS
    return and_more(f"{_MAX_ROWS} {things}", hidden) if hidden > 0 else ""


def _show_box(box: Box) -> str:
    ranges = zip(box.starts, box.stops, strict=True)
    return f"[{', '.join(f'{start}:{stop}' for start, stop in ranges)}]"
