"""The restore plan: what fills each leaf, what stays, what is left over.

Reads no tensor, places nothing, imports no JAX.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Source
from tf2flax._assignment.resolution.assignments import (
    Assignment,
    Gap,
    Resolution,
    count_nbytes,
)
from tf2flax._assignment.resolution.half_norms import Aliases, HalfNorm, find_half_norms
from tf2flax._assignment.resolution.problems import key_of, target_of
from tf2flax._base.errors import CheckpointError
from tf2flax._base.manifest import EncodedPiece, Manifest, Piece
from tf2flax._base.optimizer_names import is_average, is_slot


@dataclasses.dataclass(frozen=True, slots=True)
class Replicated:
    """A dimension that is replicated because its mesh axes do not divide it.

    Attributes:
        leaf: Name of the leaf.
        dimension: Number of the dimension.
        size: Its extent.
        axes: The mesh axes that it was to be sharded on.
        count: Into how many shards that would be.
    """

    leaf: str
    dimension: int
    size: int
    axes: tuple[str, ...]
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class PlacementReport:
    """What is worth knowing about where leaves live.

    Attributes:
        replicated: Dimensions that are replicated because of `on_uneven`.
        unmatched: Leaves that no rule of `partition_rules` matches.
        unused_rules: Rules of `partition_rules` that match no leaf, as they read.
    """

    replicated: tuple[Replicated, ...] = ()
    unmatched: tuple[str, ...] = ()
    unused_rules: tuple[str, ...] = ()


_NOTHING_TO_REPORT: Final = PlacementReport()


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
        placement: What is worth knowing about where leaves live.
        half_norms: Normalisations of which statistics stay as they are.
    """

    prefix: str
    resolution: Resolution
    unused: tuple[str, ...]
    slots: tuple[str, ...]
    averages: tuple[str, ...]
    nbytes: int
    placement: PlacementReport = _NOTHING_TO_REPORT
    half_norms: tuple[HalfNorm, ...] = ()

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """One for each leaf that is filled."""
        return self.resolution.assignments

    @property
    def unused_rules(self) -> tuple[str, ...]:
        """Entries of the map that reach no leaf, as they read."""
        return tuple(str(entry) for entry in self.resolution.unused_entries)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, ready for `json.dumps`."""
        others = set(self.slots) | set(self.averages)
        return {
            "checkpoint": self.prefix,
            "nbytes": self.nbytes,
            "assignments": [_row(assignment) for assignment in self.assignments],
            "kept": list(self.resolution.unreached),
            "missing": [_gap(gap) for gap in self.resolution.missing],
            "mismatched": [_gap(gap) for gap in self.resolution.mismatched],
            "unused": {
                "variables": [name for name in self.unused if name not in others],
                "averages": list(self.averages),
                "optimizer_slots": list(self.slots),
            },
            "unused_rules": list(self.unused_rules),
            "half_normalised": [dataclasses.asdict(norm) for norm in self.half_norms],
            "placement": {
                "replicated": [
                    dataclasses.asdict(one) for one in self.placement.replicated
                ],
                "unmatched": list(self.placement.unmatched),
                "unused_rules": list(self.placement.unused_rules),
            },
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


def make_plan(
    resolution: Resolution,
    manifest: Manifest,
    placement: PlacementReport = _NOTHING_TO_REPORT,
    aliases: Aliases | None = None,
) -> RestorePlan:
    """Adds to a resolution what it leaves unused and how much it reads.

    Args:
        resolution: What the map means.
        manifest: The checkpoint.
        placement: What is worth knowing about where leaves live.
        aliases: Leaf name -> tensor names, of the option.

    Returns:
        The plan.
    """
    views = [view for one in resolution.assignments for view in one.views]
    unused = _unused({view.source for view in views}, manifest)
    slots = tuple(name for name in unused if is_slot(name, manifest))
    averages = tuple(name for name in unused if is_average(name, manifest))
    return RestorePlan(
        prefix=manifest.prefix,
        resolution=resolution,
        unused=unused,
        slots=slots,
        averages=averages,
        nbytes=count_nbytes(views),
        placement=placement,
        half_norms=find_half_norms(resolution, manifest, aliases),
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


def _row(assignment: Assignment) -> dict[str, Any]:
    region = assignment.region
    is_plain = isinstance(assignment.expression, Source)
    return {
        "leaf": assignment.leaf,
        "source": assignment.source,
        "sources": list(assignment.sources),
        "expression": None if is_plain else repr(assignment.expression),
        "region": None
        if assignment.is_whole or region is None
        else [list(pair) for pair in zip(region.starts, region.stops, strict=True)],
        "shape": list(assignment.shape),
        "stored_dtype": assignment.stored.name,
        "dtype": assignment.dtype.name,
        "casts": [dtype.name for dtype in assignment.casts],
        "nbytes": assignment.nbytes,
        "reads": "shards" if assignment.is_exact else "whole",
        "entry": str(assignment.entry),
        "rule": _rule(assignment.entry),
        "alias": assignment.alias,
    }


def _rule(entry: MapEntry) -> dict[str, Any]:
    return {
        "number": entry.number,
        "key": key_of(entry),
        "target": target_of(entry) or None,
        "place": entry.place or None,
    }


def _gap(gap: Gap) -> dict[str, Any]:
    return {
        "leaf": gap.leaf,
        "source": gap.source,
        "reason": gap.fact,
        "entry": str(gap.entry),
        "rule": _rule(gap.entry),
    }
