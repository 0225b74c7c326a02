"""The restore plan: what fills each leaf, what stays, what is left over; as a report.

Reads no tensor, places nothing, imports no JAX.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ._assignment.values import Assignment, Override, Resolution
from ._errors import CheckpointError
from ._manifest import EncodedPiece, Manifest, Piece

# Names that optimizers of TensorFlow give to the slots of a variable, as its children;
# an optimizer's own name may stand before them (`dqn_adam_1`).
_SLOT: Final = re.compile(
    r"(?i:(.*_)?(nadam|adam|adamax|lamb|lars|momentum|rmsprop|adagrad|adadelta"
    r"|ftrl|proximaladagrad)\w*)"
    r"|(vr|vc|v|m|accumulator|linear|rms|gradient_squared_accumulator"
    r"|gradient_accumulator)(_\d+)?"
)
# The slots that Mesh TensorFlow's Adafactor appends to a variable's name.
_SLOT_SUFFIX: Final = re.compile(r"(?P<base>.+)_slot_(vr|vc|v|m)")
_AVERAGE: Final = re.compile(r"ExponentialMovingAverage(_\d+)?|EMA|local_step|biased")
_POWER: Final = re.compile(r"(.*/)?beta[12]_power(_\d+)?")
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


@dataclasses.dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a map means for one target and one checkpoint.

    Attributes:
        prefix: Absolute path of the checkpoint.
        resolution: What fills each leaf, what stays, and what entries did nothing.
        unused: Tensors that fill no leaf, sorted.
        slots: Those of them that are an optimizer's state.
        averages: Those of them that are moving averages of variables.
        nbytes: Bytes of the checkpoint that a restore reads.
    """

    prefix: str
    resolution: Resolution
    unused: tuple[str, ...]
    slots: tuple[str, ...]
    averages: tuple[str, ...]
    nbytes: int

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """One for each leaf that is filled."""
        return self.resolution.assignments

    @property
    def unused_rules(self) -> tuple[str, ...]:
        """Entries of the map that fill no leaf, as they read."""
        return tuple(str(entry) for entry in self.resolution.unused_entries)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, ready for `json.dumps`."""
        others = set(self.slots) | set(self.averages)
        return {
            "checkpoint": self.prefix,
            "nbytes": self.nbytes,
            "assignments": [_row(assignment) for assignment in self.assignments],
            "kept": list(self.resolution.kept),
            "unused": {
                "variables": [name for name in self.unused if name not in others],
                "averages": list(self.averages),
                "optimizer_slots": list(self.slots),
            },
            "unused_rules": list(self.unused_rules),
            "overridden": [
                {
                    "leaf": override.leaf,
                    "source": override.source,
                    "entry": str(override.entry),
                    "by": str(override.by),
                }
                for override in self.resolution.overridden
            ],
        }


def make_plan(resolution: Resolution, manifest: Manifest) -> RestorePlan:
    """Adds to a resolution what it leaves unused and how much it reads.

    Args:
        resolution: What the map means.
        manifest: The checkpoint.

    Returns:
        The plan.
    """
    unused = _unused({one.source for one in resolution.assignments}, manifest)
    slots = tuple(name for name in unused if is_slot(name, manifest))
    averages = tuple(name for name in unused if is_average(name, manifest))
    regions = {(a.source, a.region): a.nbytes for a in resolution.assignments}
    return RestorePlan(
        prefix=manifest.prefix,
        resolution=resolution,
        unused=unused,
        slots=slots,
        averages=averages,
        nbytes=sum(regions.values()),
    )


def _unused(used: set[str], manifest: Manifest) -> tuple[str, ...]:
    """Names of the tensors that fill no leaf, under whatever name they would."""
    unused = tuple(name for name in manifest.names if name not in used)
    unlisted = used.difference(manifest.names)
    if not unlisted:
        return unused
    # Views answer to names that they do not list, of tensors that they list as others.
    places = {manifest.entry(name).pieces for name in unlisted}
    return tuple(name for name in unused if not _lies_in(places, name, manifest))


def _lies_in(
    places: set[tuple[Piece | EncodedPiece, ...]], name: str, manifest: Manifest
) -> bool:
    try:
        return manifest.entry(name).pieces in places
    except CheckpointError:  # a name that several tensors share
        return False


def is_slot(name: str, manifest: Manifest) -> bool:
    """Tells whether a tensor is an optimizer's state: a slot of another tensor.

    Args:
        name: Name of the tensor.
        manifest: All names; a slot's variable must be among them.

    Returns:
        Whether it is.
    """
    if _POWER.fullmatch(name) or "/.OPTIMIZER_SLOT/" in name:
        return True
    suffixed = _SLOT_SUFFIX.fullmatch(name)
    if suffixed and suffixed["base"] in manifest:
        return True
    base, _, last = name.rpartition("/")
    if not _SLOT.fullmatch(last):
        return False
    # Optimizers under a scope of their own repeat the variable's name below it.
    return any(tail in manifest for tail in _tails(base))


def is_average(name: str, manifest: Manifest) -> bool:
    """Tells whether a tensor is a moving average of another one.

    Args:
        name: Name of the tensor.
        manifest: All names; the variable must be among them.

    Returns:
        Whether it is.
    """
    base, _, last = name.rpartition("/")
    return bool(_AVERAGE.fullmatch(last)) and any(
        tail in manifest for tail in _tails(base)
    )


def _tails(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))] if name else []


def render(plan: RestorePlan) -> str:
    """Writes a plan for people: a summary, then a row for each leaf, then the rest.

    Args:
        plan: The plan.

    Returns:
        Lines of text, columns aligned.
    """
    resolution = plan.resolution
    lines = [
        f"Restore plan for {plan.prefix}",
        f"{len(plan.assignments)} leaves loaded ({format_nbytes(plan.nbytes)}), "
        f"{len(resolution.kept)} kept, {len(plan.unused)} tensors unused",
    ]
    if plan.assignments:
        lines += ["", "Loaded:", *_table(plan.assignments)]
    lines += _section(f"Kept as they are ({len(resolution.kept)})", resolution.kept)
    others = set(plan.slots) | set(plan.averages)
    rest = [name for name in plan.unused if name not in others]
    averages, slots = _counted(plan.averages), _counted(plan.slots)
    overrides = map_overrides(resolution.overridden)
    lines += _section(f"Unused in the checkpoint ({len(rest)})", rest)
    lines += _section(f"Unused moving averages ({len(plan.averages)})", averages)
    lines += _section(f"Unused optimizer slots ({len(plan.slots)})", slots)
    lines += _section(
        f"Entries that matched nothing ({len(plan.unused_rules)})", plan.unused_rules
    )
    lines += _section(f"Overridden entries ({len(overrides)})", overrides)
    return "\n".join(lines)


def map_overrides(overridden: Sequence[Override]) -> list[str]:
    """Says which entries lost a leaf to a later one.

    Args:
        overridden: The assignments that were replaced.

    Returns:
        One line each.
    """
    return [
        f"{o.leaf}: {o.entry} ({o.source}) is overridden by {o.by}" for o in overridden
    ]


def format_nbytes(nbytes: int) -> str:
    """Writes a number of bytes for people, in decimal units.

    Args:
        nbytes: The number.

    Returns:
        Up to four digits and a unit.

    Examples:
        >>> format_nbytes(1_340_000_000)
        '1.34 GB'
        >>> format_nbytes(512)
        '512 B'
    """
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{nbytes} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def _table(assignments: Sequence[Assignment]) -> list[str]:
    header = ("leaf", "source", "shape", "dtype", "bytes")
    rows = [
        (
            a.leaf,
            f"{a.source}{'' if a.is_whole else _box(a)}",
            str(list(a.shape)),
            a.dtype.name if not a.is_cast else f"{a.stored.name} -> {a.dtype.name}",
            format_nbytes(a.nbytes),
        )
        for a in assignments
    ]
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if i == len(widths) - 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]


def _box(assignment: Assignment) -> str:
    region = assignment.region
    spans = (f"{a}:{b}" for a, b in zip(region.starts, region.stops, strict=True))
    return f"[{', '.join(spans)}]"


def _counted(names: Sequence[str]) -> list[str]:
    """Slots or averages by their own name: nobody reads them one by one."""
    counts = collections.Counter(
        name.rpartition("/")[2] if "/" in name else name for name in names
    )
    width = max(map(len, counts), default=0)
    return [f"{last:<{width}}  {count} tensors" for last, count in counts.items()]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    return ["", f"{title}:", *(f"  {line}" for line in lines)]


def _row(assignment: Assignment) -> Mapping[str, Any]:
    region = assignment.region
    return {
        "leaf": assignment.leaf,
        "source": assignment.source,
        "region": None
        if assignment.is_whole
        else [list(pair) for pair in zip(region.starts, region.stops, strict=True)],
        "shape": list(assignment.shape),
        "stored_dtype": assignment.stored.name,
        "dtype": assignment.dtype.name,
        "nbytes": assignment.nbytes,
        "entry": str(assignment.entry),
        "alias": assignment.alias,
    }
