"""The restore plan: what fills each leaf, which leaves stay, which tensors are unused.

Values alone: reads no tensor and places nothing. `to_dict` gives them as plain values,
`report` as text.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final, NamedTuple

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Source
from tf2flax._assignment.resolution.assignments import (
    Assignment,
    Gap,
    Resolution,
    count_nbytes,
)
from tf2flax._assignment.resolution.entry_labels import key_of, target_of
from tf2flax._assignment.resolution.half_norms import Aliases, HalfNorm, find_half_norms
from tf2flax._base.errors import CheckpointError
from tf2flax._base.manifest import EncodedPiece, Manifest, Piece
from tf2flax._base.roles import Role

from .misplaced import find_misplaced


@dataclasses.dataclass(frozen=True, slots=True)
class Replicated:
    """A dimension that is replicated because its mesh axes do not divide it.

    Attributes:
        leaf: Name of the leaf.
        dimension: Number of the dimension, from 0.
        size: Size of the dimension.
        axes: Names of the mesh axes that it should have been sharded on.
        count: Number of shards that these axes would make of it.

    Examples:
        >>> Replicated("kernel", dimension=0, size=6, axes=("model",), count=4).leaf
        'kernel'
    """

    leaf: str
    dimension: int
    size: int
    axes: tuple[str, ...]
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class PlacementReport:
    """Unexpected facts about the shardings of leaves.

    Made by `tf2flax.plan`; see `Plan.placement`.

    Attributes:
        replicated: Dimensions that `on_uneven="replicate"` replicates.
        unmatched: Names of the leaves that no rule of `partition_rules` matches; they
            are replicated.
        unused_rules: Text of the rules of `partition_rules` that match no leaf.

    Examples:
        >>> import jax, tf2flax
        >>> plan = tf2flax.plan(
        ...     {"global_step": 7},  # or a path
        ...     {"global_step": "step"},
        ...     {"step": jax.ShapeDtypeStruct((), "int32")},
        ...     sharding=tf2flax.partition_rules([]),
        ...     mesh=jax.sharding.AbstractMesh((8,), ("model",)),
        ... )
        >>> plan.placement.unmatched
        ('step',)
    """

    replicated: tuple[Replicated, ...] = ()
    unmatched: tuple[str, ...] = ()
    unused_rules: tuple[str, ...] = ()


_STATE: Final = re.compile(
    r"(^|/)(opt_state|mu|nu|trace|sum_of_squares|e_g|e_x|v_row|v_col)/"
)
_NOTHING_TO_REPORT: Final = PlacementReport()


class TrainingTensor(NamedTuple):
    """A tensor that an optimizer, or a moving average, keeps.

    Attributes:
        name: Its name.
        kind: What it is called for its variable: `Adam_1`, `velocity`.
    """

    name: str
    kind: str


@dataclasses.dataclass(frozen=True, slots=True)
class RestorePlan:
    """A resolution together with the tensors and bytes of the checkpoint.

    Attributes:
        prefix: Absolute path of the checkpoint.
        resolution: Assignments, leaves that stay, and entries of the map that reach no
            leaf.
        unused: Names of the tensors that fill no leaf, sorted.
        slots: Those of them that are state of an optimizer.
        averages: Those of them that are moving averages of variables.
        nbytes: Bytes of the checkpoint that a restore needs.
        placement: Unexpected facts about the shardings of leaves.
        half_norms: Normalisations of which only scale or bias are loaded.
        leftovers: Weights among the unused that nobody answers for; () where
            `on_unused` ignores all.
        misplaced: Leaves of an optimizer's state that weights fill.
    """

    prefix: str
    resolution: Resolution
    unused: tuple[str, ...]
    slots: tuple[TrainingTensor, ...]
    averages: tuple[TrainingTensor, ...]
    nbytes: int
    placement: PlacementReport = _NOTHING_TO_REPORT
    half_norms: tuple[HalfNorm, ...] = ()
    leftovers: tuple[str, ...] = ()
    misplaced: tuple[Assignment, ...] = ()

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """One for each leaf that is filled."""
        return self.resolution.assignments

    @property
    def unused_rules(self) -> tuple[str, ...]:
        """Text of the entries of the map that reach no leaf."""
        return tuple(str(entry) for entry in self.resolution.unused_entries)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, ready for `json.dumps`."""
        of_training = {tensor.name for tensor in (*self.slots, *self.averages)}
        return {
            "checkpoint": self.prefix,
            "nbytes": self.nbytes,
            "assignments": list(map(_assignment_dict, self.assignments)),
            "kept": list(self.resolution.unreached),
            "missing": list(map(_gap_dict, self.resolution.missing)),
            "mismatched": list(map(_gap_dict, self.resolution.mismatched)),
            "unused": {
                "variables": [name for name in self.unused if name not in of_training],
                "averages": [tensor.name for tensor in self.averages],
                "optimizer_slots": [tensor.name for tensor in self.slots],
            },
            "unused_rules": list(self.unused_rules),
            "misplaced": [assignment.leaf for assignment in self.misplaced],
            "half_normalised": [dataclasses.asdict(norm) for norm in self.half_norms],
            "placement": {
                "replicated": list(map(dataclasses.asdict, self.placement.replicated)),
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
    """Adds to a resolution which tensors are unused and how many bytes are needed.

    Args:
        resolution: Meaning of the map.
        manifest: The checkpoint.
        placement: Unexpected facts about the shardings of leaves.
        aliases: Option `aliases`: last components of leaves -> those of tensors.
    """
    in_states = [a for a in resolution.assignments if _is_of_state(a.leaf)]
    views = [view for assignment in resolution.assignments for view in assignment.views]
    unused = _find_unused({view.source for view in views}, manifest)
    slots, averages = _of_training(unused, manifest)
    return RestorePlan(
        prefix=manifest.prefix,
        resolution=resolution,
        unused=unused,
        slots=slots,
        averages=averages,
        nbytes=count_nbytes(views),
        placement=placement,
        half_norms=find_half_norms(resolution, manifest, aliases)
        if resolution.kept
        else (),
        misplaced=find_misplaced(in_states, manifest) if in_states else (),
    )


def _is_of_state(leaf: str) -> bool:
    """True for leaves of an optimizer's state that have the shapes of parameters.

    They lie in the `opt_state` of a TrainState or an nnx.Optimizer, or in a state of
    optax.
    """
    return _STATE.search(leaf) is not None


def _of_training(
    names: tuple[str, ...], manifest: Manifest
) -> tuple[tuple[TrainingTensor, ...], tuple[TrainingTensor, ...]]:
    """Those of names that optimizers keep, and those of moving averages."""
    if not names:
        return (), ()
    manifest_roles = manifest.roles(may_read=False)  # a plan reads no tensors
    slots: list[TrainingTensor] = []
    averages: list[TrainingTensor] = []
    for name in names:
        role = manifest_roles.of(name)
        if role.kind == "average":
            averages.append(TrainingTensor(name, role.name))
        elif role.kind in ("slot", "optimizer"):
            slots.append(TrainingTensor(name, _kind_of(role)))
        elif manifest_roles.stands_for_slot(name):
            slots.append(TrainingTensor(name, "under the name of its variable"))
    return tuple(slots), tuple(averages)


def _kind_of(role: Role) -> str:
    """What a tensor of an optimizer is called; Keras numbers some."""
    return "numbered" if role.name.isdecimal() else role.name


def _find_unused(used: set[str], manifest: Manifest) -> tuple[str, ...]:
    """Names of the tensors that fill no leaf under any of their names."""
    unused = tuple(name for name in manifest.names if name not in used)
    unlisted = used.difference(manifest.names)
    if not unlisted:
        return unused
    # Views have names that they do not list, of tensors that they list under others.
    # Both have the same pieces.
    places = {manifest.entry(name).pieces for name in unlisted}
    return tuple(name for name in unused if not _lies_in(places, name, manifest))


def _lies_in(
    places: set[tuple[Piece | EncodedPiece, ...]], name: str, manifest: Manifest
) -> bool:
    try:
        return manifest.entry(name).pieces in places
    except CheckpointError:  # a name that several tensors share
        return False


def _assignment_dict(assignment: Assignment) -> dict[str, Any]:
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
        "rule": _entry_dict(assignment.entry),
        "alias": assignment.alias,
    }


def _entry_dict(entry: MapEntry) -> dict[str, Any]:
    return {
        "number": entry.number,
        "key": key_of(entry),
        "target": target_of(entry) or None,
        "place": entry.place or None,
    }


def _gap_dict(gap: Gap) -> dict[str, Any]:
    return {
        "leaf": gap.leaf,
        "source": gap.source,
        "reason": gap.fact,
        "entry": str(gap.entry),
        "rule": _entry_dict(gap.entry),
    }
