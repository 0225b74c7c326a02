"""Arrays that span processes -> tensors in slices, one for each distinct shard.

Every process makes the same slices of all shards, of which it fetches its own:

    mesh       process 0: | rows 0-1 | rows 2-3 |    process 1: | rows 0-1 | rows 2-3 |
    slices     [0:2] and [2:4], both of process 0, the lowest that has them
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from tf2flax._base.errors import CheckpointError
from tf2flax._base.memory import empty
from tf2flax._base.values import Box, TensorSpec
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._jax.meshes import Device, box_of, device_boxes, device_processes

from .arrays import is_flat_mapping
from .device_arrays import fetch_part, is_jax_array
from .new_tensors import NewPiece, NewTensor, stored_key, whole_tensor
from .slicing import extents_of_box
from .trees import leaves_of

# Nodes of a tree among which an array is looked for, before it is taken apart.
_MAX_NODES: Final = 1000


def saving_processes(trees: Iterable[Any]) -> Mapping[int, Device]:
    """Finds the processes that save together: they hold arrays that span processes.

    Args:
        trees: What is saved.

    Returns:
        A device of each process; none where nothing spans processes.
    """
    jax = sys.modules["jax"]
    trees = tuple(trees)
    # Taking a large tree apart takes seconds. JAX is asked only where there are arrays
    # of its own: it looks for devices when it is asked first.
    if any(map(_has_array, trees)) and jax.process_count() == 1:
        return {}
    spanning = [
        leaf.sharding
        for tree in trees
        for leaf in _leaves_of(tree)
        if is_jax_array(leaf)
        and not isinstance(leaf, jax.core.Tracer)
        and not leaf.is_fully_addressable
    ]
    devices = {device for sharding in {*spanning} for device in sharding.device_set}
    # The last one of a process that is put in is its first one.
    ordered = sorted(devices, key=lambda device: device.id, reverse=True)
    first = {device.process_index: device for device in ordered}
    return dict(sorted(first.items()))


def _has_array(tree: object) -> bool:
    """True if an array of JAX shows in a short look at a tree."""
    nodes = [tree]
    for _ in range(_MAX_NODES):
        if not nodes:
            break
        node = nodes.pop()
        if is_jax_array(node):
            return True
        if isinstance(node, Mapping):
            nodes += cast("Mapping[Any, Any]", node).values()
        elif isinstance(node, (list, tuple)):
            nodes += cast("Sequence[Any]", node)
        else:
            nodes += getattr(node, "__dict__", {}).values()
    return False


def _leaves_of(tree: Any) -> Iterable[Any]:
    if isinstance(tree, Checkpoint):
        return ()
    if is_flat_mapping(tree):
        return tree.values()
    try:
        return leaves_of(tree).values()
    except CheckpointError:  # raised again where it is prepared
        return ()


def sharded_tensor(name: str, spec: TensorSpec, value: Any) -> NewTensor:
    """The tensor of an array that spans processes.

    Args:
        name: Its name.
        spec: Its shape and dtype.
        value: The array of JAX.
    """
    sharding, shape = value.sharding, spec.shape
    if not spec.size:  # TensorFlow 1 reads no tensor of which a slice is empty
        return whole_tensor(name, spec, lambda: empty(shape, spec.dtype.numpy))
    process_of: dict[Box, int] = {}
    boxes = device_boxes(sharding, shape)
    for box, process in zip(boxes, device_processes(sharding, None), strict=True):
        process_of[box] = min(process, process_of.get(box, process))
    shards = {box_of(shard.index, shape): shard for shard in value.addressable_shards}
    pieces = tuple(
        NewPiece(
            TensorSpec(box.shape, spec.dtype),
            None if len(process_of) == 1 else extents_of_box(box, shape),
            functools.partial(fetch_part, shards.get(box), Box.whole(box.shape)),
            process_of[box],
            functools.partial(fetch_part, shards.get(box)),
        )
        for box in sorted(process_of, key=_starts_of)
    )
    return NewTensor(stored_key(name), spec, pieces)


def _starts_of(box: Box) -> tuple[int, ...]:
    return box.starts
