"""Leaves that span processes -> slices of the tensors that they came from.

As `backwards`, but shard by shard, each in the process that has it:

    leaf w [4, 6], sharded by rows over two processes, from `kernel` transposed
        process 0: rows 0-1  ->  kernel, columns 0-1
        process 1: rows 2-3  ->  kernel, columns 2-3

A shard must be a box of its tensor, and all boxes together must be all of it: what
other processes have cannot be looked at.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.nodes import Layout
from tf2flax._assignment.layouts.scattering import Contribution
from tf2flax._assignment.layouts.tensor_boxes import (
    NoBoxError,
    TensorBox,
    boxes_in_tensors,
    coverage,
)
from tf2flax._assignment.layouts.uncasting import settle_values, uncast_value
from tf2flax._assignment.plans.inverse import InversePlan, spec_lookup
from tf2flax._assignment.plans.renewals import Renewal
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.collapsing import summarise
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.values import Box, TensorSpec
from tf2flax._checkpoint.stored_tensor import StoredTensor

from .backwards import leaf_value_of, misfit_error
from .growing import refuse_rearranged
from .new_tensors import NewPiece, NewTensor, spans_processes, stored_key
from .slicing import box_of_piece, cut_slices, extents_of_box, join_parts
from .stale import StaleCopies

# Larger shards are cut: several arrays of this size are in use at a time (bytes).
_SHARD_NBYTES: Final = 32 << 20
# By stored name: boxes of the tensor with the pieces of leaves that they are made of.
_Pieces = dict[str, list["_Shard"]]


def sharded_names(
    inverse: InversePlan, arrays: Mapping[str, NewTensor]
) -> frozenset[str]:
    """Stored names of the tensors of which leaves span processes.

    Args:
        inverse: The plan backwards.
        arrays: The leaves, by name.
    """
    return frozenset(
        place
        for assignment in itertools.chain.from_iterable(inverse.groups)
        if spans_processes(arrays[assignment.leaf])
        for source in assignment.sources
        for place in inverse.stored.places(source)
    )


def sharded_tensors(
    inverse: InversePlan,
    arrays: Mapping[str, NewTensor],
    names: frozenset[str],
    stale: StaleCopies,
) -> list[NewTensor]:
    """Tensors in slices, one for each shard that is a part of them.

    Args:
        inverse: The plan backwards.
        arrays: The leaves, by name.
        names: Stored names of the tensors.
        stale: What watches the copies.

    Raises:
        AssignmentError: Shards are not slices of tensors; all problems are listed.
    """
    pieces: _Pieces = {name: [] for name in names}
    problems: list[str] = []
    spec_of = spec_lookup(inverse.view)
    for assignment in itertools.chain.from_iterable(inverse.groups):
        layout = lower(assignment.expression, spec_of)
        try:
            for shard in _shards_of(assignment, layout, arrays[assignment.leaf]):
                for place in inverse.stored.places(shard.part.source):
                    pieces.setdefault(place, []).append(shard)
        except NoBoxError:
            problems += _describe_no_slices(inverse, assignment, names)
    entries = list(map(inverse.manifest.entry, sorted(names)))
    if not problems:
        problems = [_describe_gaps(entry, pieces[entry.name]) for entry in entries]
    if any(problems):
        raise AssignmentError(summarise(list(filter(None, problems))))
    return [_tensor_of(entry, pieces[entry.name], stale) for entry in entries]


def renewed_in_slices(
    inverse: InversePlan, renewal: Renewal, arrays: Mapping[str, NewTensor]
) -> dict[str, NewTensor]:
    """Tensors like a leaf that was kept, or like the parts of a family, by name.

    Args:
        inverse: The plan backwards.
        renewal: The leaf, one of `inverse.renewals`; it, or a part, spans processes.
        arrays: The leaves, by name.

    Raises:
        AssignmentError: A tensor is more than the leaf itself.
    """
    if renewal.parts:
        parts = [arrays[part] for part in renewal.parts]
        return {name: join_parts(name, parts) for name in renewal.places}
    leaf = arrays[renewal.leaf]
    resized = inverse.resized(renewal, leaf.spec.shape)
    for name, (expression, _) in resized.items():
        refuse_rearranged(renewal, name, expression)
    return {name: dataclasses.replace(leaf, key=stored_key(name)) for name in resized}


@dataclasses.dataclass(frozen=True, slots=True)
class _Shard:
    """A box of a tensor, and the piece of a leaf that has its elements.

    Attributes:
        assignment: That of the leaf.
        piece: The piece of the leaf.
        starts: Where the piece begins in the layout of the assignment.
        part: The boxes of tensor and leaf.
    """

    assignment: Assignment
    piece: NewPiece
    starts: tuple[int, ...]
    part: TensorBox

    def fetch(self) -> np.ndarray:
        """The elements, as the tensor has them, in the dtype of the leaf."""
        box = self.part.leaf_box.moved(tuple(-start for start in self.starts))
        return self.part.from_leaf(self.piece.elements(box))


def _shards_of(
    assignment: Assignment, layout: Layout, leaf: NewTensor
) -> Iterator[_Shard]:
    """Boxes of tensors that a leaf has, each in one of its pieces.

    Large pieces are cut: what is undone of loading takes memory for all of a box.

    Raises:
        NoBoxError: A piece is not made of such boxes.
    """
    origin = (0,) * len(leaf.spec.shape)
    if assignment.box is not None:  # a part of a partitioned variable
        origin = assignment.box.starts
    if spans_processes(leaf):
        leaf = cut_slices(leaf, _SHARD_NBYTES)
    for piece in leaf.pieces:
        if piece.spec.size:
            box = box_of_piece(piece, leaf.spec.shape).moved(origin)
            for part in boxes_in_tensors(layout, box):
                yield _Shard(assignment, piece, box.starts, part)


def _tensor_of(
    entry: TensorEntry, shards: Sequence[_Shard], stale: StaleCopies
) -> NewTensor:
    pieces: list[NewPiece] = []
    for shard in sorted(shards, key=_starts_of):
        box = shard.part.box
        spec = TensorSpec(box.shape, entry.spec.dtype)
        write = functools.partial(_stored_values, entry, shard)
        pieces.append(
            NewPiece(
                spec,
                None if len(shards) == 1 else extents_of_box(box, entry.spec.shape),
                stale.watched(entry.name, write, box),
                shard.piece.process,
            )
        )
    return NewTensor(stored_key(entry.name), entry.spec, tuple(pieces))


def _starts_of(shard: _Shard) -> tuple[int, ...]:
    return shard.part.box.starts


def _stored_values(entry: TensorEntry, shard: _Shard) -> np.ndarray:
    """The elements of a box of a tensor, as they are stored."""
    value, part = shard.fetch(), shard.part
    contribution = Contribution(part.source, value, None, part.casts)
    stored_dtype = entry.spec.dtype.numpy
    leaf_value = leaf_value_of(shard.assignment, stored_dtype, contribution)
    if leaf_value.is_reversible:
        stored = uncast_value(leaf_value)
        if stored is not None:
            return stored
    index = part.box.within(Box.whole(entry.spec.shape))
    stored = np.require(StoredTensor(entry)[index], requirements=["C", "W"])
    conflict = settle_values(stored, [leaf_value])
    if conflict is None:
        return stored
    raise misfit_error(conflict, leaf_value, entry.name, entry.spec, part.box)


def _describe_no_slices(
    inverse: InversePlan, assignment: Assignment, names: frozenset[str]
) -> Iterator[str]:
    """Says which tensors a leaf that spans processes cannot be written to."""
    places = [p for s in assignment.sources for p in inverse.stored.places(s)]
    for place in names.intersection(places):
        yield (
            f"Leaf `{assignment.leaf}` spans processes, and its shards are no slices "
            f"of `{place}`, which it came from. Shard it along other axes, or "
            "replicate it, or save it without the plan."
        )


def _describe_gaps(entry: TensorEntry, shards: Sequence[_Shard]) -> str:
    """Says that leaves have not every element of a tensor once; "" if they have."""
    boxes = [shard.part.box for shard in shards]
    least, most = coverage(boxes, entry.spec.shape)
    if least == most == 1:
        return ""
    leaves = dict.fromkeys(f"`{shard.assignment.leaf}`" for shard in shards)
    fact = "several times" if least else "only partly"
    return (
        f"Tensor `{entry.name}` is covered {fact} by leaves that span processes: "
        f"{', '.join(leaves)}. Replicate them, or save them without the plan."
    )
