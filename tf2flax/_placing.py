"""Where restored arrays live: checks of shardings, and the way onto devices.

Reads no bytes; decides nothing about names.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import jax
import numpy as np

from ._assignment.collapsing import screenful
from ._assignment.values import Assignment
from ._errors import AssignmentError
from ._files import ALIGNMENT
from ._specs import TensorSlice
from ._targets import Slot

# Leaves up to this size are cut into shards by JAX, many in one call (bytes).
WHOLE_NBYTES: Final = 1 << 20


def choose_shardings(
    assignments: Iterable[Assignment],
    slots: Iterable[Slot],
    option: jax.sharding.Sharding | None,
) -> dict[str, jax.sharding.Sharding]:
    """Chooses where each loaded leaf lives: what is asked for, else what it carries.

    Args:
        assignments: The leaves that are loaded.
        slots: All leaves of the target.
        option: One sharding for all of them; None for what the target carries.

    Returns:
        Shardings by leaf; leaves about which nobody has an opinion are left out.

    Raises:
        AssignmentError: A shape does not fit its sharding; every such leaf is named.
    """
    if not (option is None or isinstance(option, jax.sharding.Sharding)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AssignmentError(
            f"Option sharding: expected a jax.sharding.Sharding, got {option!r}."
        )
    carried = {slot.leaf.name: slot.sharding for slot in slots}
    shardings: dict[str, jax.sharding.Sharding] = {}
    problems: list[str] = []
    for assignment in assignments:
        sharding = option or carried[assignment.leaf]
        if sharding is None:
            continue
        if problem := sharding_problem(sharding, assignment.shape):
            problems.append(f"Leaf `{assignment.leaf}`: {problem}")
        shardings[assignment.leaf] = sharding
    if problems:
        raise AssignmentError(screenful(problems))
    return shardings


def sharding_problem(
    sharding: jax.sharding.Sharding, shape: tuple[int, ...]
) -> str | None:
    """Says why an array of some shape cannot live on a sharding.

    Args:
        sharding: Where it should live.
        shape: Its shape.

    Returns:
        The reason, with a way out; None where it can.
    """
    mesh = getattr(sharding, "mesh", None)
    if isinstance(mesh, jax.sharding.AbstractMesh):
        return (
            "its sharding is over an AbstractMesh, which has no devices. "
            "Give option sharding one over a Mesh."
        )
    try:
        sharding.shard_shape(shape)
    except IndexError:
        reason = "it names more axes than there are."
    except ValueError as error:
        reason = str(error).splitlines()[0]
    else:
        return None
    return f"shape {list(shape)} does not fit {sharding}: {reason}"


def box_of(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> TensorSlice:
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
    return TensorSlice(tuple(b[0] for b in bounds), tuple(b[1] for b in bounds))


class Placer:
    """Puts leaves on devices, group by group.

    Attributes:
        arrays: The leaves that are on devices.
    """

    def __init__(
        self,
        assignments: Iterable[Assignment],
        shardings: Mapping[str, jax.sharding.Sharding],
    ) -> None:
        """Decides what of each leaf this process needs.

        Args:
            assignments: The leaves.
            shardings: Where they live; an array without one is uncommitted, so that JAX
                may move it.
        """
        self.arrays: dict[str, jax.Array] = {}
        self._shardings = shardings
        self._shapes = {one.leaf: one.shape for one in assignments}
        self._dtypes = {one.leaf: one.dtype for one in assignments}
        # Leaves that are put on their devices shard by shard.
        self._shards: dict[str, tuple[TensorSlice, ...]] = {}
        for one in assignments:
            if one.leaf in shardings:
                boxes = boxes_of(shardings[one.leaf], one.shape)
                if _is_cut(shardings[one.leaf], one, boxes):
                    self._shards[one.leaf] = boxes

    def boxes(self) -> dict[str, tuple[TensorSlice, ...]]:
        """The boxes of each leaf that this process needs, each once."""
        return {
            leaf: self._shards.get(leaf) or (TensorSlice.whole(shape),)
            for leaf, shape in self._shapes.items()
        }

    def deliver(
        self, leaves: Mapping[str, Mapping[TensorSlice, np.ndarray]]
    ) -> Callable[[], object]:
        """Puts host arrays on devices, in one call for those that say where.

        Args:
            leaves: Arrays by box, of each leaf.

        Returns:
            A function that waits until the host arrays are free again.
        """
        committed = [
            leaf
            for leaf in leaves
            if leaf in self._shardings and leaf not in self._shards
        ]
        free = [leaf for leaf in leaves if leaf not in self._shardings]
        if committed:
            hosts = [_only(leaves[leaf]) for leaf in committed]
            places = [self._shardings[leaf] for leaf in committed]
            put = jax.device_put(hosts, places)
            self.arrays.update(zip(committed, put, strict=True))
        if free:
            put = jax.device_put([_only(leaves[leaf]) for leaf in free])
            self.arrays.update(zip(free, put, strict=True))
        for leaf in leaves:
            if leaf in self._shards:
                self.arrays[leaf] = self._join(leaf, leaves[leaf])
        return functools.partial(
            jax.block_until_ready, [self.arrays[leaf] for leaf in leaves]
        )

    def _join(self, leaf: str, arrays: Mapping[TensorSlice, np.ndarray]) -> jax.Array:
        """Puts each shard on its device; no value is compared between processes."""
        shape = self._shapes[leaf]
        return jax.make_array_from_callback(
            shape,
            self._shardings[leaf],
            lambda index: arrays[box_of(index, shape)],
            dtype=self._dtypes[leaf],
        )


def _only(arrays: Mapping[TensorSlice, np.ndarray]) -> np.ndarray:
    (array,) = arrays.values()
    return array


def boxes_of(
    sharding: jax.sharding.Sharding, shape: tuple[int, ...]
) -> tuple[TensorSlice, ...]:
    """Finds what of a leaf the devices of this process hold.

    Args:
        sharding: Where the leaf lives.
        shape: Its shape.

    Returns:
        Boxes, each once.
    """
    indices = sharding.addressable_devices_indices_map(shape)
    return tuple(dict.fromkeys(box_of(index, shape) for index in indices.values()))


def _is_cut(
    sharding: jax.sharding.Sharding,
    assignment: Assignment,
    boxes: Sequence[TensorSlice],
) -> bool:
    """Whether a leaf goes to its devices shard by shard.

    One whole host array is less work, where it is small or shards are runs of it; but
    never where the sharding spans processes: JAX would compare the values.
    """
    if not sharding.is_fully_addressable:
        return True
    itemsize = assignment.dtype.itemsize
    if math.prod(assignment.shape) * itemsize <= WHOLE_NBYTES:
        return False
    return any(
        box.shape[1:] != assignment.shape[1:] or box.size * itemsize % ALIGNMENT
        for box in boxes
    )
