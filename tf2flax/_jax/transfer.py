"""Host arrays -> devices: which boxes of leaves are needed here, and the way there.

Reads no bytes; decides nothing about names or shardings.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.memory import ALIGNMENT, collection_paused, view_at
from tf2flax._base.values import Box

from .box_classes import ReadSharding
from .isolation import isolated, put_shards
from .meshes import Device, box_of, clipped, devices_of, is_abstract, with_auto_axes
from .portioned_leaf import PortionedLeaf

# Leaves up to this size are cut into shards by JAX, many in one call (bytes).
WHOLE_NBYTES: Final = 1 << 20
# Leaves that are redistributed in one computation (bytes).
REDISTRIBUTED_NBYTES: Final = 256 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Transfer:
    """The way of a leaf onto devices.

    Attributes:
        shape: Its shape there, padded where it is redistributed afterwards.
        dtype: Its dtype.
        sharding: Where it is put first; None lets JAX decide.
        boxes: The boxes of the leaf that this process needs, each once.
        is_cut: True if it goes to its devices shard by shard.
        target: Where it is redistributed to afterwards; None where it stays.
        target_shape: Shape of the leaf without padding.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    sharding: Sharding | None
    boxes: tuple[Box, ...]
    is_cut: bool
    target: NamedSharding | None
    target_shape: tuple[int, ...]


def plan_transfer(
    assignment: Assignment,
    sharding: Sharding | None,
    read_sharding: ReadSharding | None,
) -> Transfer:
    """Decides how a leaf comes onto devices.

    Args:
        assignment: The leaf.
        sharding: Where it will live.
        read_sharding: How processes share in reading it, if they do.

    Returns:
        The transfer.
    """
    shape, dtype = assignment.shape, assignment.dtype
    if read_sharding is not None:
        assert isinstance(sharding, NamedSharding)
        padded = _boxes_here(read_sharding.sharding, read_sharding.shape)
        boxes = (clipped(box, shape) for box in padded)
        return Transfer(
            shape=read_sharding.shape,
            dtype=dtype,
            sharding=read_sharding.sharding,
            boxes=tuple(dict.fromkeys(box for box in boxes if box is not None)),
            is_cut=True,
            target=sharding,
            target_shape=shape,
        )
    return _plan_alone(shape, dtype, sharding)


@functools.lru_cache(maxsize=1024)  # many leaves are alike
def _plan_alone(
    shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding | None
) -> Transfer:
    """The transfer of a leaf that this process reads for itself."""
    shards = () if sharding is None else _boxes_here(sharding, shape)
    is_cut = sharding is not None and _is_cut(sharding, shape, dtype, shards)
    return Transfer(
        shape=shape,
        dtype=dtype,
        sharding=sharding,
        boxes=shards if is_cut else (Box.whole(shape),),
        is_cut=is_cut,
        target=None,
        target_shape=shape,
    )


def is_on_host(sharding: Sharding | None) -> bool:
    """True if leaves that live there live in memory of the host.

    They do on CPU, and in a memory kind of the host. Devices of an AbstractMesh are
    taken for accelerators.

    Args:
        sharding: Where; None where JAX puts them by default.
    """
    if sharding is None:
        default: Any = getattr(jax.config, "jax_default_device", None)
        device = default or jax.local_devices()[0]
        return getattr(device, "platform", device) == "cpu"  # it may be a platform
    if is_abstract(sharding):
        return (sharding.memory_kind or "").endswith("host")
    is_cpu = all(device.platform == "cpu" for device in sharding.device_set)
    return is_cpu or (sharding.memory_kind or "").endswith("host")


def large_leaves(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    max_in_flight_bytes: int,
) -> frozenset[str]:
    """Finds the leaves that are too large to be on the host at once.

    Args:
        assignments: The leaves.
        shardings: Where they will live; those that live on the host are there anyway.
        max_in_flight_bytes: Host memory that reading takes at once.

    Returns:
        Names of those that come in portions where a process needs so much of them.
    """
    return frozenset(
        assignment.leaf
        for assignment in assignments
        if math.prod(assignment.shape) * assignment.dtype.itemsize > max_in_flight_bytes
        and not is_on_host(shardings.get(assignment.leaf))
    )


class Placer:
    """Puts leaves on devices, group by group.

    Attributes:
        arrays: The leaves that are on devices; all of them after `finish`.
    """

    def __init__(
        self, transfers: Mapping[str, Transfer], portioned: Iterable[str] = ()
    ) -> None:
        """Prepares to take leaves over.

        Args:
            transfers: How each leaf comes onto devices.
            portioned: Names of those that come in portions.
        """
        self.arrays: dict[str, jax.Array] = {}
        self._transfers = transfers
        self._portioned: dict[str, PortionedLeaf | None] = dict.fromkeys(portioned)
        # Those that live on the host, until all are there; and which shardings do.
        self._later: dict[str, np.ndarray] = {}
        self._staying: dict[Sharding | None, bool] = {}

    @collection_paused()
    def put(
        self, leaves: Mapping[str, Mapping[Box, np.ndarray]]
    ) -> Callable[[], object]:
        """Puts host arrays on devices, in one call for those that say where.

        Args:
            leaves: Arrays by box, of each leaf.

        Returns:
            A function that waits until the host arrays are free again.
        """
        with isolated():
            placed = self._put(leaves)
        return functools.partial(jax.block_until_ready, placed)

    def _put(self, leaves: Mapping[str, Mapping[Box, np.ndarray]]) -> list[jax.Array]:
        """Puts leaves on devices; gives what is on its way there."""
        placed: list[jax.Array] = []
        now: dict[str, np.ndarray] = {}
        for leaf, arrays in leaves.items():
            transfer = self._transfers[leaf]
            if leaf in self._portioned:
                placed += self._take_portion(leaf, arrays)
            elif transfer.is_cut:
                placed.append(_join(transfer, arrays))
                self.arrays[leaf] = placed[-1]
            else:
                is_later = self._stays(transfer.sharding)
                (self._later if is_later else now)[leaf] = _only(arrays)
        return placed + self._place(now)

    @collection_paused()
    def finish(self) -> None:
        """Hands over the leaves that stay where they are, in memory of the host.

        In one call at the end: nothing is copied, and no memory becomes free, but each
        call keeps the readers from running.
        """
        with isolated():
            self._place(self._later)
        self._later.clear()

    def _stays(self, sharding: Sharding | None) -> bool:
        """True if a leaf lives where it is read: on one device, which is the host."""
        if sharding not in self._staying:
            self._staying[sharding] = is_on_host(sharding) and (
                sharding is None or _takes_arrays_over(sharding)
            )
        return self._staying[sharding]

    def _place(self, hosts: Mapping[str, np.ndarray]) -> list[jax.Array]:
        """Puts whole leaves on devices."""
        # One call of `jax.device_put` for many leaves takes a fraction of many calls;
        # those without a sharding stay uncommitted, and so need a call without places.
        free = [n for n in hosts if self._transfers[n].sharding is None]
        committed = [n for n in hosts if self._transfers[n].sharding is not None]
        placed: list[jax.Array] = []
        if committed:
            places = [self._transfers[leaf].sharding for leaf in committed]
            placed += jax.device_put([hosts[leaf] for leaf in committed], places)
        if free:
            placed += jax.device_put([hosts[leaf] for leaf in free])
        self.arrays.update(zip(committed + free, placed, strict=True))
        return placed

    def _take_portion(
        self, leaf: str, arrays: Mapping[Box, np.ndarray]
    ) -> list[jax.Array]:
        """Puts a portion of a leaf on devices; gives what is on its way there."""
        transfer = self._transfers[leaf]
        portioned = self._portioned[leaf]
        if portioned is None:
            portioned = PortionedLeaf(
                transfer.shape, _carrier(transfer), transfer.sharding, transfer.boxes
            )
            self._portioned[leaf] = portioned
        moving = portioned.take(arrays)
        if portioned.is_whole:
            self.arrays[leaf] = portioned.array()
        return moving

    @property
    def redistribution(self) -> Mapping[str, str]:
        """Description of what `redistribute` does, by leaf; alike in all processes."""
        return {
            leaf: (
                f"{transfer.shape} {transfer.dtype} "
                f"{_describe(transfer.sharding)} {_describe(transfer.target)}"
            )
            for leaf, transfer in self._transfers.items()
            if transfer.target is not None
        }

    def redistribute(self) -> None:
        """Gives every device what it needs of the leaves that processes share in.

        All processes of the mesh must call it, with the same leaves.
        """
        for batch in self._batches():
            with isolated():
                self._redistribute(batch)

    def _redistribute(self, batch: Sequence[str]) -> None:
        """Gives every device what it needs of some leaves."""
        transfers = [self._transfers[leaf] for leaf in batch]
        targets = [t.target for t in transfers if t.target is not None]
        plain = [with_auto_axes(target) for target in targets]
        kinds = tuple((t.target_shape, t.dtype) for t in transfers)
        crop = jax.jit(functools.partial(_cropped, kinds=kinds), out_shardings=plain)
        # Apart, so that XLA moves bits and not floats, whose NaNs it changes.
        as_floats = jax.jit(
            functools.partial(_bitcast, kinds=kinds), out_shardings=plain
        )
        arrays = as_floats(crop([self.arrays[leaf] for leaf in batch]))
        for leaf, array, target in zip(batch, arrays, targets, strict=True):
            self.arrays[leaf] = _over(target, array)

    def _batches(self) -> Iterator[list[str]]:
        """Leaves that one computation redistributes: on the same devices, not many."""
        leaves: dict[tuple[Device, ...], list[str]] = {}
        for leaf, transfer in self._transfers.items():
            if transfer.target is not None:
                devices = tuple(devices_of(transfer.target))
                leaves.setdefault(devices, []).append(leaf)
        for alike in leaves.values():
            batch: list[str] = []
            nbytes = 0
            for leaf in alike:
                transfer = self._transfers[leaf]
                leaf_nbytes = math.prod(transfer.shape) * transfer.dtype.itemsize
                if batch and nbytes + leaf_nbytes > REDISTRIBUTED_NBYTES:
                    yield batch
                    batch, nbytes = [], 0
                batch.append(leaf)
                nbytes += leaf_nbytes
            yield batch


def _takes_arrays_over(sharding: Sharding) -> bool:
    """True if it is one CPU, and its own memory: pinned memory of the host is not."""
    device, *others = sharding.device_set
    kinds = (None, device.default_memory().kind)
    return not others and device.platform == "cpu" and sharding.memory_kind in kinds


def _cropped(
    arrays: Sequence[jax.Array], kinds: Sequence[tuple[tuple[int, ...], np.dtype]]
) -> list[jax.Array]:
    """Takes off the padding."""
    return [
        array[tuple(map(slice, shape))] if shape else array[0]
        for array, (shape, _) in zip(arrays, kinds, strict=True)
    ]


def _bitcast(
    arrays: Sequence[jax.Array], kinds: Sequence[tuple[tuple[int, ...], np.dtype]]
) -> list[jax.Array]:
    """Gives bits their dtype back."""
    return [
        array if array.dtype == dtype else jax.lax.bitcast_convert_type(array, dtype)
        for array, (_, dtype) in zip(arrays, kinds, strict=True)
    ]


def _describe(sharding: Sharding | None) -> str:
    """A sharding as text, its devices in their order."""
    devices = devices_of(sharding) if sharding is not None else ()
    return f"{sharding} {[device.id for device in devices]}"


def _carrier(transfer: Transfer) -> np.dtype:
    """The dtype in which a leaf travels: XLA on CPU changes NaNs of small floats."""
    dtype = transfer.dtype
    if transfer.target is None or not jnp.issubdtype(dtype, jnp.floating):
        return dtype
    width = jnp.finfo(dtype).bits
    return np.dtype(f"u{width // 8}") if width in (8, 16) else dtype


def _over(target: NamedSharding, array: jax.Array) -> jax.Array:
    """The same shards under a sharding whose mesh has Explicit axes, say."""
    if array.sharding == target:
        return array
    shards = [shard.data for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(
        array.shape, target, shards, dtype=array.dtype
    )


def _join(transfer: Transfer, arrays: Mapping[Box, np.ndarray]) -> jax.Array:
    """Puts each shard on its device; no value is compared between processes."""
    assert transfer.sharding is not None
    carrier = _carrier(transfer)
    boxes = _boxes_by_bounds(transfer.sharding, transfer.shape)

    def shard(index: Any) -> np.ndarray:
        box = boxes[_bounds(index)]
        inner = clipped(box, transfer.target_shape)
        if inner == box:
            return arrays[box].view(carrier)
        # The shard reaches beyond the leaf (#), where it is padded with zeros.
        #
        #     leaf   |-----------|
        #     shard         |----###|
        out = np.zeros(box.shape, carrier)
        if inner is not None:
            place = inner.within(box) if transfer.target_shape else (0,)
            view_at(out, place)[...] = arrays[inner].view(carrier)
        return out

    return put_shards(transfer.shape, transfer.sharding, shard, carrier)


def _only(arrays: Mapping[Box, np.ndarray]) -> np.ndarray:
    (array,) = arrays.values()
    return array


def _boxes_here(sharding: Sharding, shape: tuple[int, ...]) -> tuple[Box, ...]:
    """Boxes of a leaf that the devices of this process hold, each once."""
    return tuple(dict.fromkeys(_boxes_by_bounds(sharding, shape).values()))


@functools.lru_cache(maxsize=1024)  # many leaves are alike
def _boxes_by_bounds(
    sharding: Sharding, shape: tuple[int, ...]
) -> Mapping[tuple[tuple[Any, Any], ...], Box]:
    """Boxes that the devices of this process hold, by how JAX indexes the leaf."""
    indices: Iterable[Any] = sharding.addressable_devices_indices_map(shape).values()
    return {_bounds(index): box_of(index, shape) for index in indices}


def _bounds(index: tuple[slice, ...] | None) -> tuple[tuple[Any, Any], ...]:
    """An index as a key; slices cannot be keys before Python 3.12."""
    return tuple([(indices.start, indices.stop) for indices in index or ()])


def _is_cut(
    sharding: Sharding, shape: tuple[int, ...], dtype: np.dtype, boxes: Sequence[Box]
) -> bool:
    """True if a leaf goes to its devices shard by shard.

    One whole host array is less work, where it is small or shards are runs of it; but
    never where the sharding spans processes: JAX would compare the values.
    """
    if not sharding.is_fully_addressable:
        return True
    itemsize = dtype.itemsize
    if math.prod(shape) * itemsize <= WHOLE_NBYTES:
        return False
    return any(
        box.shape[1:] != shape[1:] or box.size * itemsize % ALIGNMENT for box in boxes
    )
