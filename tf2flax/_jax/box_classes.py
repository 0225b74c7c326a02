"""Which processes read boxes of the same kind, so that each kind is counted once.

On a mesh of thousands of devices there are few kinds: replicas hold the same boxes, and
shards of a matrix differ in their place alone. Reads nothing.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import NamedSharding, Sharding

from tf2flax._base.values import Box

from .meshes import ProcessLayout, boxes_of, device_bounds, device_processes


@dataclasses.dataclass(frozen=True, slots=True)
class ReadSharding:
    """A leaf as it is read when every process reads other elements of it.

    Attributes:
        shape: Its shape, padded so that shards are equal.
        sharding: Where the shards live until XLA redistributes them.
    """

    shape: tuple[int, ...]
    sharding: NamedSharding


class LeafPlace(NamedTuple):
    """Where a leaf is read and where it lives; leaves of layers are alike.

    Attributes:
        shape: Its shape.
        sharding: Where it will live; None where every process needs all of it.
        read_sharding: How processes share in reading it, if they do.
    """

    shape: tuple[int, ...]
    sharding: Sharding | None
    read_sharding: ReadSharding | None = None


class BoxClass(NamedTuple):
    """Processes that read boxes of the same kind.

    Attributes:
        boxes: The boxes of each leaf that the first of the processes reads, each once.
        processes: Numbers of the processes.
    """

    boxes: tuple[tuple[Box, ...], ...]
    processes: list[int]


def classify_processes(
    leaves: Sequence[LeafPlace],
    split: ProcessLayout | None,
    processes: Sequence[int] | None = None,
    *,
    is_placeless: bool,
) -> list[BoxClass]:
    """Sorts processes by what they read of some leaves.

    The rows of a matrix that four processes read, two of them the same ones::

        process     0          1          2          3
        rows        0 .. 3     0 .. 3     4 .. 7     8 .. 9
        classes     (0, 1), (2,), (3,); where the place does not count (0, 1, 2), (3,)

    Args:
        leaves: The leaves.
        split: How devices are split over processes; None takes those they belong to.
        processes: Numbers of the processes; None takes those that hold a device of
            the first leaf.
        is_placeless: True if boxes that are the same but for their place count as one
            kind; for one leaf.

    Returns:
        Classes in the order of their first processes.
    """
    bounds_of_leaves = [
        None if leaf.sharding is None else read_bounds(leaf, split) for leaf in leaves
    ]
    if processes is None:
        processes = list(bounds_of_leaves[0] or ())
    classes: dict[tuple[tuple[int, bytes], ...], list[int]] = {}
    for number in processes:
        key: list[tuple[int, bytes]] = []
        for bounds_by_process in bounds_of_leaves:
            # Every process needs all of a leaf without a sharding.
            bounds = (bounds_by_process or {}).get(number)
            if bounds is None or not len(bounds):
                key.append((0, b""))
                continue
            if is_placeless:
                bounds = bounds - bounds[:, 0].min(axis=0)
            # A scalar has no bounds, but is there.
            key.append((len(bounds), bounds.tobytes()))
        classes.setdefault(tuple(key), []).append(number)
    return [
        BoxClass(
            tuple(
                (Box.whole(leaf.shape),)
                if bounds is None
                else tuple(dict.fromkeys(boxes_of(bounds.get(alike[0], _NO_BOXES))))
                for leaf, bounds in zip(leaves, bounds_of_leaves, strict=True)
            ),
            alike,
        )
        for alike in classes.values()
    ]


_NO_BOXES = np.zeros((0, 2, 0), np.int64)


@functools.lru_cache(maxsize=128)
def read_bounds(
    leaf: LeafPlace, split: ProcessLayout | None
) -> Mapping[int, np.ndarray]:
    """Finds what of a leaf each process reads, as starts and stops of boxes.

    Args:
        leaf: The leaf, which has a sharding.
        split: As for `device_processes`.

    Returns:
        Arrays `[boxes, 2, axes]` by process, one row for each of its devices that reads
        anything: replicas have the same.
    """
    assert leaf.sharding is not None
    owners = np.array(device_processes(leaf.sharding, split))
    if leaf.read_sharding is None:
        bounds, is_read = device_bounds(leaf.sharding, leaf.shape), owners >= 0
    else:
        padded = device_bounds(leaf.read_sharding.sharding, leaf.read_sharding.shape)
        bounds, is_read = _clip(padded, leaf.shape)
    # Sorted by process, each process's devices in the order of the mesh.
    order = np.argsort(owners, kind="stable")
    numbers, firsts = np.unique(owners[order], return_index=True)
    by_process = dict(zip(numbers.tolist(), np.split(order, firsts[1:]), strict=True))
    return {
        # In the order of the mesh too.
        number: bounds[by_process[number]][is_read[by_process[number]]]
        for number in dict.fromkeys(owners.tolist())
    }


def _clip(bounds: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Clips boxes of a padded leaf to the leaf, as `meshes.clipped` does.

    Returns:
        The boxes, and which of them are not padding alone.
    """
    if not shape:  # padded to one element, which the first devices read
        return bounds[:, :, :0], bounds[:, 0, 0] == 0
    clipped = np.minimum(bounds, np.array(shape, np.int64))
    is_read = (clipped[:, 0] < clipped[:, 1]).all(axis=1)
    # Boxes of a leaf without elements are kept, whatever their place.
    is_empty = (bounds[:, 0] == bounds[:, 1]).any(axis=1)
    return np.where(is_empty[:, None, None], bounds, clipped), is_read | is_empty
