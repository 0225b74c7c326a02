"""What a caller saves -> tensors to write: checkpoints, flat mappings and trees."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np

from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.text import list_names
from tf2flax._checkpoint.checkpoint import Checkpoint

from .arrays import array_of_scalar, is_flat_mapping, prepare_tensor
from .new_tensors import NewTensor
from .slicing import copy_tensor, find_partitions, join_parts


def prepare_tree(value: Any) -> list[NewTensor]:
    """Names and checks all that is to be saved; reads and fetches nothing.

    Args:
        value: A `Checkpoint`, a flat mapping of names to arrays, or a tree.

    Raises:
        AssignmentError: A name or a value cannot be saved, or two leaves have one name.
        UnsupportedError: No checkpoint holds a dtype; an array spans processes; a view
            hides tensors.
    """
    if isinstance(value, Checkpoint):
        _check_view(value)
        return [copy_tensor(name, tensor) for name, tensor in value.items()]
    if is_flat_mapping(value):
        flat: Mapping[str, Any] = value
        return [prepare_tensor(name, member) for name, member in flat.items()]
    _refuse_bytes(value)
    _refuse_names(value)
    return _prepare_leaves(leaves_of(value))


def _refuse_bytes(value: object) -> None:
    """Refuses names that are bytes, which would be written with their `b`.

    Raises:
        AssignmentError: There is one.
    """
    if isinstance(value, Mapping):
        for key in cast("Mapping[object, object]", value):
            if isinstance(key, bytes):
                raise AssignmentError(
                    f"Expected names of tensors as text, got {key!r}. Write "
                    f"{key.decode('utf-8', 'backslashreplace')!r}."
                )


def _refuse_names(value: object) -> None:
    """Refuses a list of names, of which strings would be written, called 0 and 1.

    Raises:
        AssignmentError: It is one.
    """
    members: list[object] = []
    if isinstance(value, (list, tuple, set, frozenset)):
        members = [*cast("Collection[object]", value)]
    if members and all(isinstance(member, str) for member in members):
        raise AssignmentError(
            f"Expected arrays to save, got names alone, {show_value(members)}. Give a "
            f"mapping of names to arrays: {{{show_value(members[0])}: array, ...}}."
        )


def _prepare_leaves(leaves: Mapping[str, Any]) -> list[NewTensor]:
    """Leaves of a tree by name; parts of partitioned variables become one tensor."""
    tensors: list[NewTensor] = []
    partitions = find_partitions(leaves)
    for name, parts in partitions.items():
        if name in leaves:
            raise AssignmentError(
                f"Leaf `{name}` and its parts `{parts[0]}` … would be one tensor. "
                "Rename one of them."
            )
        members = [prepare_tensor(part, leaves[part]) for part in parts]
        tensors.append(join_parts(name, members))
    joined = {part for parts in partitions.values() for part in parts}
    for name, leaf in leaves.items():
        if name not in joined:
            tensors.append(prepare_tensor(name, leaf))
    return tensors


def leaves_of(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name; Python scalars as the arrays that JAX makes."""
    # Here, and not above, since it imports JAX and Flax.
    from tf2flax._jax import targets

    leaves: dict[str, Any] = {}
    for slot in targets.take_apart(tree).slots:
        value = slot.value
        is_number = isinstance(value, (bool, int, float, complex))
        # `np.float64` is a float, and has a dtype of its own all the same.
        if is_number and not isinstance(value, np.generic):
            assert slot.leaf.dtype is not None  # a number has one
            value = array_of_scalar(slot.leaf.name, value, slot.leaf.dtype)
        leaves[slot.leaf.name] = value
    return leaves


def _check_view(checkpoint: Checkpoint) -> None:
    """Refuses a view that hides tensors, which would be missing in the copy."""
    if shared := checkpoint.manifest.shared_names:
        raise UnsupportedError(
            f"In this view of `{checkpoint.prefix}` several tensors share one name: "
            f"{list_names(shared)}. Save the checkpoint itself, or `view.read()` to "
            "leave them out."
        )
