"""The option `sharding`, whatever its form -> a function of leaves.

Knows no mesh: whether a leaf fits what is asked for it is decided in `shardings`.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, PartitionSpec, Sharding

from tf2flax._assignment.layouts.nodes import (
    CombinedLayout,
    ConstantLayout,
    JoinedLayout,
    Layout,
    StepsLayout,
    StridedView,
)
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest
from tf2flax._base.progress import accepts_arguments
from tf2flax._base.text import list_names
from tf2flax._checkpoint.stored_tensor import StoredTensor
from tf2flax._reading.strides import along_axes

from .options import ShardingOption
from .targets import named_leaves
from .trees import Slot

# What is asked for a leaf; None leaves that to the target.
Opinion = Sharding | PartitionSpec | None

# Places of a tree that a message names.
_MAX_NAMED: Final = 20


@dataclasses.dataclass(frozen=True, slots=True)
class ShardedLeaf:
    """A leaf, as functions that choose shardings see it.

    Attributes:
        name: Its name in the target.
        shape: Its shape.
        dtype: Its dtype.
        sources: The tensors that fill it; none for a leaf that is initialised.
        partitioned_axis: The axis along which its tensors are saved as slices of a
            partitioned variable; None where they are not.
        other_names: Further names of it: of a Variable that is tied to another.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sources: tuple[StoredTensor, ...] = ()
    partitioned_axis: int | None = None
    other_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of its names."""
        return (self.name, *self.other_names)


def parse_sharding(
    option: ShardingOption, names: Sequence[str]
) -> Callable[[ShardedLeaf], Opinion]:
    """Turns the option `sharding` into a function of leaves.

    Args:
        option: A Sharding or PartitionSpec for all leaves, a tree of them, a function
            of leaves, or None.
        names: Every name of the target's leaves.

    Returns:
        What is asked for a leaf; None where the option leaves that to the target.

    Raises:
        AssignmentError: It is nothing of the kind.
    """
    if option is None or isinstance(option, (Sharding, PartitionSpec)):
        return lambda _: option
    if is_function(option):
        return _parse_function(option)
    if (
        isinstance(option, (str, bytes, Mesh, AbstractMesh, jax.Device, jax.Array))
        or np.isscalar(option)
        or isinstance(option, np.ndarray)
    ):
        raise AssignmentError(
            "Option sharding: expected a jax.sharding.Sharding, a PartitionSpec, a "
            f"tree of them, or a function of leaves, got "
            f"{show_value(option)}.{_hint(option)}"
        )
    return _parse_tree(option, names)


def _parse_function(option: Any) -> Callable[[ShardedLeaf], Opinion]:
    if isinstance(option, type) or not accepts_arguments(option, 1):
        raise AssignmentError(
            "Option sharding: expected a function of one argument, a leaf, that "
            f"gives a Sharding, a PartitionSpec or None, got {show_value(option)}."
        )

    def choose(leaf: ShardedLeaf) -> Opinion:
        return _checked(option(leaf), f"gave for leaf `{leaf.name}`")

    return choose


def _parse_tree(option: Any, names: Sequence[str]) -> Callable[[ShardedLeaf], Opinion]:
    tree = {
        name: _checked(value, f"has at `{name}`")
        for name, value in named_leaves(option)
    }
    useless = [
        name
        for name in tree
        if name and not any(f"{leaf}/".startswith(f"{name}/") for leaf in names)
    ]
    if useless:
        raise AssignmentError(
            f"Option sharding: the tree has {list_names(useless, _MAX_NAMED)}, where "
            "the target has no leaf. Give a tree of the target's structure, or of its "
            "upper levels; rules by regex are tf2flax.partition_rules([(regex, spec), "
            "...])."
        )

    def choose(leaf: ShardedLeaf) -> Opinion:
        # What stands nearest to the leaf counts: a tree may end above it.
        scopes = (scope for name in leaf.names for scope in _scopes(name))
        return next((tree[scope] for scope in scopes if scope in tree), None)

    return choose


def is_function(option: ShardingOption) -> bool:
    """True if an option is a function of leaves; an NNX module may be called too."""
    return callable(option) and not isinstance(option, (nnx.Pytree, Mesh))


def _hint(value: Any) -> str:
    """Proposes what was probably meant."""
    if isinstance(value, (Mesh, AbstractMesh)):
        return " Give it as mesh=, and a PartitionSpec here."
    if isinstance(value, str):
        return (
            f" Write PartitionSpec({value!r}) for a mesh axis; rules by regex are "
            "tf2flax.partition_rules([(regex, spec), ...])."
        )
    if isinstance(value, jax.Device):
        return " Give jax.sharding.SingleDeviceSharding(device)."
    return ""


def _scopes(name: str) -> Iterator[str]:
    """A name and the scopes around it, the nearest first, the root last."""
    while name:
        yield name
        name = name.rpartition("/")[0]
    yield ""


def _checked(value: Any, what: str) -> Opinion:
    if value is None or isinstance(value, (Sharding, PartitionSpec)):
        return value
    raise AssignmentError(
        "Option sharding: expected a jax.sharding.Sharding, a PartitionSpec or None, "
        f"but it {what} {show_value(value)}.{_hint(value)}"
    )


def bare_leaf(slot: Slot) -> ShardedLeaf:
    """A leaf as functions see it that no tensor fills, or whose tensors are unknown."""
    leaf = slot.leaf
    dtype: Any = getattr(slot.value, "dtype", object) if leaf.dtype is None else None
    return ShardedLeaf(
        leaf.name, leaf.shape, leaf.dtype or dtype, other_names=leaf.names[1:]
    )


def loaded_leaf(
    assignment: Assignment, slot: Slot, manifest: Manifest | None
) -> ShardedLeaf:
    """A leaf as functions see it; None for a manifest leaves its tensors out."""
    sources: tuple[StoredTensor, ...] = ()
    axis: int | None = None
    if manifest is not None:
        entries = [manifest.entry(name) for name in assignment.sources]
        sources = tuple(map(StoredTensor, entries))
        cut_axes = {tensor.name: _cut_axis(tensor) for tensor in sources}
        axis = _partitioned_axis(assignment.layout, cut_axes)
    return ShardedLeaf(
        assignment.leaf,
        assignment.shape,
        assignment.dtype,
        sources,
        axis,
        slot.leaf.names[1:],
    )


def _cut_axis(tensor: StoredTensor) -> int | None:
    """The axis along which a tensor is saved as slices."""
    for axis, dim in enumerate(tensor.shape):
        if any(indices[axis] != slice(0, dim) for indices in tensor.slices):
            return axis
    return None


def _partitioned_axis(layout: Layout, cut_axes: Mapping[str, int | None]) -> int | None:
    """The axis of a layout that runs along the partitioned axis of its tensors."""
    if isinstance(layout, StepsLayout):
        return _partitioned_axis(layout.operand, cut_axes)
    operands: list[Layout] | None = None
    if isinstance(layout, JoinedLayout):
        operands = [operand for _, operand in layout.operands]
    elif isinstance(layout, CombinedLayout):
        operands = [layout.left, layout.right]
    if operands is not None:
        # What is filled has no partitions, and lies beside what has.
        axes = {
            _partitioned_axis(operand, cut_axes)
            for operand in operands
            if not isinstance(operand, ConstantLayout)
        }
        return axes.pop() if len(axes) == 1 else None
    if not isinstance(layout, StridedView) or cut_axes[layout.source] is None:
        return None
    if 0 in layout.shape:
        return None
    # A view may run along the partitioned axis with several of its own, as where that
    # is reshaped into two; shards follow the one with the largest steps.
    view = along_axes(layout.base.shape, layout.offset, layout.shape, layout.strides)
    if view is None:
        return None
    steps = {
        axis: abs(step)
        for axis, (base_axis, step) in enumerate(view.along)
        if base_axis == cut_axes[layout.source]
    }
    return max(steps, key=lambda axis: steps[axis]) if steps else None
