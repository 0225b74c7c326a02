"""Which leaves processes share in reading, and how: each byte read by one process.

Works for meshes that do not exist here; reads nothing.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Final

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.manifest import Manifest
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._restoring.clusters import describe_kind
from tf2flax._restoring.plan_reads import plan_reads

from .box_classes import LeafPlace, ReadSharding, classify_processes
from .meshes import ProcessLayout, device_processes, names_of, with_auto_axes
from .options import Strategy

# Smaller leaves are read by every process under "auto": a collective operation takes
# longer than reading them (bytes).
READ_ONCE_NBYTES: Final = 1 << 20


def read_shardings(
    sharding: Sharding, shape: tuple[int, ...], split: ProcessLayout | None = None
) -> Iterator[ReadSharding]:
    """Lists candidates to split what several processes would read alike between them.

    First, shards are cut further along the mesh axes that replicate them over
    processes: an all-gather along those axes is all the way to the final sharding.
    Then, each axis of the leaf is cut along all axes of the mesh, so that what is read
    is in one run.

    Args:
        sharding: Where the leaf will live.
        shape: Its shape.
        split: As for `device_processes`.

    Yields:
        Candidates; none where the sharding is not over a mesh of several processes.
    """
    if not isinstance(sharding, NamedSharding):
        return
    owners = np.array(device_processes(sharding, split))
    if (owners == owners[0]).all():
        return
    owners = owners.reshape(tuple(sharding.mesh.shape.values()))
    padded_shape = shape or (1,)  # a scalar is read by the first of the devices
    entries = [names_of(entry) for entry in sharding.spec]
    entries += [()] * (len(padded_shape) - len(entries))
    used = [name for names in entries for name in names]
    free = [name for name in sharding.mesh.axis_names if name not in used]
    crossing = [
        name
        for axis, name in enumerate(sharding.mesh.axis_names)
        if name in free and (owners != np.take(owners, [0], axis)).any()
    ]
    if crossing:
        candidates = [
            _cut(sharding, padded_shape, entries, i, crossing)
            for i in range(len(padded_shape))
        ]
        # The first axis, if it can be: its shards are runs of bytes.
        even = [c for c in candidates if c.shape == padded_shape]
        yield (even or sorted(candidates, key=lambda c: math.prod(c.shape)))[0]
    for i in range(len(padded_shape)):
        others = [name for name in (*used, *free) if name not in entries[i]]
        alone = [names if axis == i else () for axis, names in enumerate(entries)]
        yield _cut(sharding, padded_shape, alone, i, others)


def _cut(
    sharding: NamedSharding,
    shape: tuple[int, ...],
    entries: Sequence[tuple[str, ...]],
    axis: int,
    names: Sequence[str],
) -> ReadSharding:
    """Cuts an axis of a leaf further, along some axes of the mesh."""
    names = (*entries[axis], *names)
    count = math.prod(sharding.mesh.shape[name] for name in names)
    padded = -(-shape[axis] // count) * count
    spec = PartitionSpec(*entries[:axis], names, *entries[axis + 1 :])
    return ReadSharding(
        (*shape[:axis], padded, *shape[axis + 1 :]),
        with_auto_axes(NamedSharding(sharding.mesh, spec)),
    )


def choose_read_shardings(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    manifest: Manifest,
    strategy: Strategy,
    split: ProcessLayout | None = None,
    tuning: Tuning = DEFAULT_TUNING,
) -> dict[str, ReadSharding]:
    """Decides which leaves processes share in reading.

    Args:
        assignments: The leaves.
        shardings: Where they will live.
        manifest: Where the tensors lie.
        strategy: "local", none; "read-once", all of which processes would read any byte
            twice; "auto", those of 1 MiB and more of which they would read each byte
            twice or more.
        split: How devices are split over processes; None takes those they belong to.
        tuning: How much is read at once.

    Returns:
        How each of them is read.
    """
    if strategy == "local" or (split.processes if split else jax.process_count()) == 1:
        return {}
    entry_of = functools.cache(manifest.entry)
    by_leaf: dict[str, ReadSharding] = {}
    by_kind: dict[Hashable, ReadSharding | None] = {}  # leaves of layers are alike
    for assignment in assignments:
        sharding = shardings.get(assignment.leaf)
        if sharding is None or (split is None and sharding.is_fully_addressable):
            continue
        if strategy == "auto" and assignment.nbytes < READ_ONCE_NBYTES:
            continue
        kind = sharding, describe_kind([assignment], entry_of)
        if kind not in by_kind:
            by_kind[kind] = _choose_read_sharding(
                assignment, sharding, manifest, strategy, split, tuning
            )
        read_sharding = by_kind[kind]
        if read_sharding is not None:
            by_leaf[assignment.leaf] = read_sharding
    return by_leaf


def _choose_read_sharding(
    assignment: Assignment,
    sharding: Sharding,
    manifest: Manifest,
    strategy: Strategy,
    split: ProcessLayout | None,
    tuning: Tuning,
) -> ReadSharding | None:
    """Finds the way of sharing that reads least, if sharing is worth it."""

    def count(read_sharding: ReadSharding | None = None) -> int:
        leaf = LeafPlace(assignment.shape, sharding, read_sharding)
        return _read_nbytes(assignment, leaf, manifest, split, tuning)

    chosen, least = None, count()
    # Under "read-once", a thousandth is left for padding.
    if least < (2 if strategy == "auto" else 1.001) * assignment.nbytes:
        return None
    for read_sharding in read_shardings(sharding, assignment.shape, split):
        nbytes = count(read_sharding)
        if nbytes < 0.99 * least:
            chosen, least = read_sharding, nbytes
        if least <= assignment.nbytes:
            break
    return chosen


def _read_nbytes(
    assignment: Assignment,
    leaf: LeafPlace,
    manifest: Manifest,
    split: ProcessLayout | None,
    tuning: Tuning,
) -> int:
    """Bytes that all processes read of one leaf, taking boxes of one shape as alike."""
    by_shapes: dict[tuple[tuple[int, ...], ...], int] = {}
    total = 0
    for (boxes,), processes in classify_processes([leaf], split, is_placeless=True):
        shapes = tuple(box.shape for box in boxes)
        if shapes not in by_shapes:
            needed = {assignment.leaf: boxes}
            reads = plan_reads([assignment], needed, manifest, tuning=tuning)
            by_shapes[shapes] = reads.nbytes
        total += by_shapes[shapes] * len(processes)
    return total
