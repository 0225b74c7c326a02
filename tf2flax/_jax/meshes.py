"""Shardings as numbers: which box of a leaf each device holds, in which process.

Works for meshes that do not exist here too.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
)

from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import Box

# A device of JAX, whose own name for it is no type.
Device = Any


def show_spec(spec: PartitionSpec) -> str:
    """Writes a PartitionSpec as users do: versions of JAX write it in several ways.

    Args:
        spec: The spec.

    Returns:
        Its text.

    Examples:
        >>> show_spec(PartitionSpec("data", None, ("a", "b")))
        "P('data', None, ('a', 'b'))"
    """
    return f"P({', '.join(map(repr, spec))})"


def box_of(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Box:
    """Finds a device's shard in a leaf.

    Args:
        index: The shard, as JAX indexes the leaf.
        shape: Shape of the leaf.

    Returns:
        The box.
    """
    bounds = [
        piece.indices(dim)
        for piece, dim in zip(index or (slice(None),) * len(shape), shape, strict=True)
    ]
    return Box(tuple(b[0] for b in bounds), tuple(b[1] for b in bounds))


def names_of(entry: Any) -> tuple[str, ...]:
    """The mesh axes that an entry of a PartitionSpec names."""
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def is_abstract(sharding: Sharding) -> bool:
    """True if a sharding is over devices that do not exist here."""
    return isinstance(sharding, NamedSharding) and isinstance(
        sharding.mesh, AbstractMesh
    )


def describe_manual_axes(mesh: Mesh | AbstractMesh | None) -> str:
    """Says that a mesh has axes along which no array can be placed; "" where not."""
    if mesh is None or AxisType.Manual not in mesh.axis_types:
        return ""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    names = ", ".join(f"`{name}`" for name, kind in kinds if kind == AxisType.Manual)
    return (
        f"the mesh has Manual axes ({names}), along which arrays live only inside of "
        "jax.shard_map. Give a mesh whose axes are Auto or Explicit."
    )


@functools.lru_cache(maxsize=4096)
def device_boxes(sharding: Sharding, shape: tuple[int, ...]) -> tuple[Box, ...]:
    """Finds the box of a leaf that each device holds, in the order of the mesh.

    Args:
        sharding: Where the leaf lives; its mesh may be abstract.
        shape: Shape of the leaf, which fits.

    Returns:
        One box for each device.
    """
    return boxes_of(device_bounds(sharding, shape))


def boxes_of(bounds: np.ndarray) -> tuple[Box, ...]:
    """Boxes whose starts and stops stand in an array `[boxes, 2, axes]`."""
    return tuple(Box(tuple(low), tuple(high)) for low, high in bounds.tolist())


# Arrays, since a box of its own for each of thousands of devices takes long to make.
@functools.lru_cache(maxsize=128)  # of 64 kB each, for 2,048 devices and two axes
def device_bounds(sharding: Sharding, shape: tuple[int, ...]) -> np.ndarray:
    """Finds where the box that each device holds starts and stops.

    Args:
        sharding: Where the leaf lives; its mesh may be abstract.
        shape: Shape of the leaf, which fits.

    Returns:
        Array `[devices, 2, axes]` in the order of the mesh, not to be changed.
    """
    if not isinstance(sharding, NamedSharding):
        indices = sharding.devices_indices_map(shape).values()
        boxes = [box_of(index, shape) for index in indices]
        pairs = [(box.starts, box.stops) for box in boxes]
        return np.array(pairs, np.int64).reshape(len(boxes), 2, len(shape))
    sizes = dict(sharding.mesh.shape)
    numbers = np.indices(tuple(sizes.values())).reshape(len(sizes), -1)
    positions = dict(zip(sizes, numbers, strict=True))
    bounds = np.zeros((math.prod(sizes.values()), 2, len(shape)), np.int64)
    shard_shape = list(shape)
    # Mesh 2 x 4 with axes a, b, and P(("a", "b")) over 16 rows: 8 shards of 2 rows.
    #
    #     position on a   0  0  0  0  1  1  1  1
    #     position on b   0  1  2  3  0  1  2  3
    #     shard 4 a + b   0  1  2  3  4  5  6  7
    #     first row       0  2  4  6  8 10 12 14
    for axis, entry in enumerate(sharding.spec):
        count = math.prod(sizes[name] for name in names_of(entry))
        shard_shape[axis] = shape[axis] // count
        shard = np.zeros(len(bounds), np.int64)
        for name in names_of(entry):
            shard = shard * sizes[name] + positions[name]
        bounds[:, 0, axis] = shard * shard_shape[axis]
    bounds[:, 1] = bounds[:, 0] + np.array(shard_shape, np.int64)
    return bounds


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessLayout:
    """Devices split over processes that need not exist, in their order.

    Attributes:
        processes: Over how many.
        devices: Numbers of all devices, in order; none where they are those of an
            AbstractMesh, each of which is split alone.
    """

    processes: int
    devices: tuple[int, ...] = ()

    def owners(self, sharding: Sharding) -> tuple[int, ...]:
        """The process of each device of a sharding, in the order of its mesh.

        Raises:
            AssignmentError: The devices cannot be split so.
        """
        if is_abstract(sharding) or not self.devices:
            order = places = tuple(range(sharding.num_devices))
        else:
            order = self.devices
            place_of = {number: place for place, number in enumerate(order)}
            places = tuple(place_of[device.id] for device in devices_of(sharding))
        if len(order) % self.processes:
            raise AssignmentError(
                f"{len(order)} devices cannot be split over {self.processes} "
                "processes. Give a number that divides them."
            )
        return tuple(place // (len(order) // self.processes) for place in places)


def split_devices(shardings: Iterable[Sharding], processes: int) -> ProcessLayout:
    """Splits all devices that leaves live on over processes, in their order.

    Args:
        shardings: Where the leaves live.
        processes: Over how many processes.

    Returns:
        The split: devices in the order of the largest mesh, then the others by number.

    Raises:
        AssignmentError: Some devices exist here, and others do not.
    """
    shardings = dict.fromkeys(shardings)
    concrete = [sharding for sharding in shardings if not is_abstract(sharding)]
    if concrete and len(concrete) < len(shardings):
        raise AssignmentError(
            "Some leaves are planned over an AbstractMesh, others on devices that are "
            f"here ({concrete[0]}): which process has which is not known. Plan all of "
            "them over the one or the other."
        )
    orders = {tuple(d.id for d in devices_of(sharding)) for sharding in concrete}
    if not orders:
        return ProcessLayout(processes)
    largest = max(orders, key=lambda order: (len(order), order))
    others = {number for order in orders for number in order} - set(largest)
    if others:  # no mesh holds all of them: as JAX numbers them
        return ProcessLayout(processes, tuple(sorted({*largest, *others})))
    return ProcessLayout(processes, largest)


@functools.lru_cache(maxsize=256)
def device_processes(
    sharding: Sharding, split: ProcessLayout | None
) -> tuple[int, ...]:
    """Finds the process of each device, in the order of the mesh.

    Args:
        sharding: Over which devices.
        split: How devices are split over processes; None takes the processes that they
            belong to.

    Returns:
        Numbers of processes.

    Raises:
        AssignmentError: The devices cannot be split so, or do not exist here.
    """
    if split is not None:
        return split.owners(sharding)
    if is_abstract(sharding):
        raise AssignmentError(
            "The plan is over an AbstractMesh, whose devices belong to no process yet. "
            "Say how many processes they are split over: plan.cost(processes=...)."
        )
    return tuple(device.process_index for device in devices_of(sharding))


def _id_of(device: Device) -> int:
    return device.id


def devices_of(sharding: Sharding) -> Sequence[Device]:
    """Lists the devices of a sharding in its own order.

    Args:
        sharding: The sharding; not over an AbstractMesh.

    Returns:
        The devices.
    """
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        return list(sharding.mesh.devices.flat)
    return sorted(sharding.device_set, key=_id_of)


def with_auto_axes(sharding: NamedSharding) -> NamedSharding:
    """The same sharding over a mesh whose axes leave everything to XLA.

    Args:
        sharding: Any; computations on Explicit axes refuse uneven slices.

    Returns:
        The sharding, itself where its axes are such already.
    """
    mesh = sharding.mesh
    types = (AxisType.Auto,) * len(mesh.axis_names)
    if mesh.axis_types == types:
        return sharding
    return NamedSharding(
        mesh.update(axis_types=types), sharding.spec, memory_kind=sharding.memory_kind
    )


def clipped(box: Box, shape: tuple[int, ...]) -> Box | None:
    """Clips a box of a padded leaf to the leaf.

    Args:
        box: A box of the padded leaf; of one axis where the leaf has none.
        shape: Shape of the leaf without padding.

    Returns:
        The box that lies in the leaf; None where all of it is padding.
    """
    if not shape:
        return None if any(box.starts) else Box((), ())
    if not box.size:
        return box
    return box.intersection(Box.whole(shape))


def participants(shardings: Iterable[Sharding]) -> Mapping[int, Device]:
    """Finds the processes that hold shards of leaves.

    Args:
        shardings: Where the leaves live; abstract ones do not count.

    Returns:
        The first device of each process, if there are several; else nothing.
    """
    if jax.process_count() == 1:
        return {}
    first: dict[int, Device] = {}
    concrete = [sharding for sharding in shardings if not is_abstract(sharding)]
    by_mesh = {getattr(sharding, "mesh", sharding): sharding for sharding in concrete}
    for sharding in by_mesh.values():
        for device in sharding.device_set:
            earlier = first.get(device.process_index)
            if earlier is None or device.id < earlier.id:
                first[device.process_index] = device
    return dict(sorted(first.items())) if len(first) > 1 else {}


def show_sharding(sharding: Sharding) -> str:
    """A sharding in one cell of a table.

    Examples:
        >>> from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
        >>> mesh = AbstractMesh((2,), ("data",))
        >>> show_sharding(NamedSharding(mesh, PartitionSpec("data", None)))
        "P('data', None)"
    """
    if isinstance(sharding, NamedSharding):
        return show_spec(sharding.spec)
    return type(sharding).__name__
