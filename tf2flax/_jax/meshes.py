"""Shardings as numbers: which box of a leaf each device holds, in which process.

Works for meshes that do not exist here too.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """Whether a sharding is over devices that do not exist here."""
    return isinstance(sharding, NamedSharding) and isinstance(
        sharding.mesh, AbstractMesh
    )


def is_on_host(sharding: Sharding | None) -> bool:
    """Tells whether leaves that live there live in memory of the host.

    Args:
        sharding: Where; None where JAX puts them by default. Devices of an
            AbstractMesh are taken for accelerators.

    Returns:
        Whether they do: on CPU, or in a memory kind of the host.
    """
    if sharding is None:
        default: Any = getattr(jax.config, "jax_default_device", None)
        device = default or jax.local_devices()[0]
        return getattr(device, "platform", device) == "cpu"  # it may be a platform
    if is_abstract(sharding):
        return (sharding.memory_kind or "").endswith("host")
    is_cpu = all(device.platform == "cpu" for device in sharding.device_set)
    return is_cpu or (sharding.memory_kind or "").endswith("host")


@functools.lru_cache(maxsize=4096)
def device_boxes(sharding: Sharding, shape: tuple[int, ...]) -> tuple[Box, ...]:
    """Finds what of a leaf each device holds, in the order of the mesh.

    Args:
        sharding: Where the leaf lives; its mesh may be abstract.
        shape: Shape of the leaf, which fits.

    Returns:
        One box for each device.
    """
    if not isinstance(sharding, NamedSharding):
        indices = sharding.devices_indices_map(shape)
        return tuple(box_of(index, shape) for index in indices.values())
    sizes = dict(sharding.mesh.shape)
    numbers = np.indices(tuple(sizes.values())).reshape(len(sizes), -1)
    positions = dict(zip(sizes, numbers, strict=True))
    starts = np.zeros((math.prod(sizes.values()), len(shape)), np.int64)
    extents = list(shape)
    for axis, entry in enumerate(sharding.spec):
        count = math.prod(sizes[name] for name in names_of(entry))
        extents[axis] = shape[axis] // count
        shard = np.zeros(len(starts), np.int64)
        for name in names_of(entry):
            shard = shard * sizes[name] + positions[name]
        starts[:, axis] = shard * extents[axis]
    stops = starts + np.array(extents, np.int64)
    return tuple(
        Box(tuple(low), tuple(high))
        for low, high in zip(starts.tolist(), stops.tolist(), strict=True)
    )


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
            found = {number: place for place, number in enumerate(order)}
            places = tuple(found[device.id] for device in devices_of(sharding))
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
    concrete = [one for one in shardings if not is_abstract(one)]
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


@dataclasses.dataclass(frozen=True, slots=True)
class ReadSharding:
    """A leaf as it is read when every process reads another part of it.

    Attributes:
        shape: Its shape, padded so that every device has an equal part.
        sharding: Where the parts live until XLA redistributes them.
    """

    shape: tuple[int, ...]
    sharding: NamedSharding


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
        Ways, none of them where the sharding is not over a mesh of several processes.
    """
    if not isinstance(sharding, NamedSharding):
        return
    owners = np.array(device_processes(sharding, split))
    if (owners == owners[0]).all():
        return
    owners = owners.reshape(tuple(sharding.mesh.shape.values()))
    own_shape = shape or (1,)  # a scalar is read by the first of the devices
    entries = [names_of(entry) for entry in sharding.spec]
    entries += [()] * (len(own_shape) - len(entries))
    used = [name for names in entries for name in names]
    free = [name for name in sharding.mesh.axis_names if name not in used]
    crossing = [
        name
        for axis, name in enumerate(sharding.mesh.axis_names)
        if name in free and (owners != np.take(owners, [0], axis)).any()
    ]
    if crossing:
        candidates = [
            _cut(sharding, own_shape, entries, i, crossing)
            for i in range(len(own_shape))
        ]
        # The first axis, if it can be: its parts are runs of bytes.
        even = [candidate for candidate in candidates if candidate.shape == own_shape]
        yield (
            even or sorted(candidates, key=lambda candidate: math.prod(candidate.shape))
        )[0]
    for i in range(len(own_shape)):
        others = [name for name in (*used, *free) if name not in entries[i]]
        alone = [names if axis == i else () for axis, names in enumerate(entries)]
        yield _cut(sharding, own_shape, alone, i, others)


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
    """The part of a padded leaf's box that lies in the leaf.

    Args:
        box: A box of the padded leaf; of one axis where the leaf has none.
        shape: The leaf's own shape.

    Returns:
        The part; None where nothing of it does.
    """
    if not shape:
        return None if any(box.starts) else Box((), ())
    if not box.size:
        return box
    return box.intersection(Box.whole(shape))


@functools.lru_cache(maxsize=1024)
def boxes_by_process(
    sharding: Sharding,
    shape: tuple[int, ...],
    split: ProcessLayout | None,
    read_sharding: ReadSharding | None = None,
) -> Mapping[int, tuple[Box, ...]]:
    """Finds what of a leaf each process reads.

    Args:
        sharding: Where the leaf will live.
        shape: Its shape.
        split: As for `device_processes`.
        read_sharding: How processes share in reading it, if they do.

    Returns:
        Boxes by process, each box once.
    """
    owners = device_processes(sharding, split)
    boxes: Iterable[Box | None] = device_boxes(sharding, shape)
    if read_sharding is not None:
        parts = device_boxes(read_sharding.sharding, read_sharding.shape)
        boxes = (clipped(part, shape) for part in parts)
    found: dict[int, dict[Box, None]] = {owner: {} for owner in owners}
    for owner, box in zip(owners, boxes, strict=True):
        if box is not None:
            found[owner][box] = None
    return {owner: tuple(own) for owner, own in found.items()}


def participants(shardings: Iterable[Sharding]) -> Mapping[int, Device]:
    """Finds the processes that hold parts of leaves.

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
            known = first.get(device.process_index)
            if known is None or device.id < known.id:
                first[device.process_index] = device
    return dict(sorted(first.items())) if len(first) > 1 else {}
