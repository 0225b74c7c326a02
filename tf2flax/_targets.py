"""Targets of every kind <-> leaves with '/'-joined names.

A target is taken apart once into slots, each with its names, its shape and dtype and
a way to put a new array back; nothing of the caller's changes before `rebuild`.
The first file upwards that may import JAX and Flax.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import copy
import dataclasses
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.core import meta
from jax.core import Tracer

from ._assignment.dtypes import kind_of
from ._assignment.values import Leaf
from ._errors import AssignmentError

Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Partitioning:
    """Flax's partitioning metadata of a leaf.

    Attributes:
        names: Of every axis, a mesh axis or a logical name, several, or None.
        mesh: The mesh that the leaf names itself, if any.
        rules: What logical names mean, if the leaf says so itself.
    """

    names: tuple[Any, ...]
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None
    rules: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """One leaf of a target.

    Attributes:
        leaf: What the engine sees of it.
        value: The array, scalar or ShapeDtypeStruct that stands there.
        owners: Objects of the user that identify it: the value, its box or Variable.
        sharding: Where the target says the array should live; None for no opinion.
        partitioning: What Flax's metadata says about that, if anything.
    """

    leaf: Leaf
    value: Any
    owners: tuple[Any, ...]
    sharding: jax.sharding.Sharding | None
    partitioning: Partitioning | None = None

    @property
    def is_abstract(self) -> bool:
        """Whether no array stands there yet."""
        return isinstance(self.value, jax.ShapeDtypeStruct)


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A target taken apart.

    Attributes:
        slots: Its leaves, in the target's own order.
        rebuild: Gives the target with new values in place of some leaves, by name.
        abstract_states: Names of abstract Variables that no map reaches (RngState).
    """

    slots: tuple[Slot, ...]
    rebuild: Callable[[Mapping[str, Any]], Any]
    abstract_states: tuple[str, ...] = ()

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The leaves, as the engine sees them."""
        return tuple(slot.leaf for slot in self.slots)

    def identify(self, value: object) -> tuple[str, ...]:
        """Finds the leaves that an object identifies.

        Args:
            value: A leaf of the target, its box, its Variable or their inner array.

        Returns:
            Names of the leaves at which it stands.
        """
        return tuple(
            slot.leaf.name
            for slot in self.slots
            if any(owner is value for owner in slot.owners)
        )


def take_apart(target: Any) -> Target:
    """Takes a target apart into named leaves.

    Args:
        target: A pytree of arrays, scalars and `jax.ShapeDtypeStruct`, boxes of linen
            included; an `nnx.State`; an `nnx.Module`; or pytrees of these.

    Returns:
        Its leaves, and how to put new values back.

    Raises:
        AssignmentError: Two leaves have the same joined name, or there is no leaf.
    """
    parts = _take_apart(target, ())
    seen: dict[str, str] = {}
    for slot in parts.slots:
        for name in slot.leaf.names:
            if name in seen:
                raise AssignmentError(
                    f"Two leaves of the target are called `{name}`: a key that holds "
                    "`/` and nested keys join to the same name. Rename one of them."
                )
            seen[name] = name
    return parts


def join_path(path: Iterable[Any]) -> str:
    """Joins the keys and attributes on the way to a leaf.

    Args:
        path: Keys, indices and attribute names; tuples of them count as several.

    Returns:
        The leaf's name.

    Examples:
        >>> join_path(("params", "layers", 0, "kernel"))
        'params/layers/0/kernel'
    """
    parts: list[str] = []
    for key in path:
        parts += [join_path(key)] if isinstance(key, tuple) else [str(key)]
    return "/".join(parts)


def _take_apart(target: Any, path: Path) -> Target:
    if isinstance(target, nnx.State):
        return _take_state(target, path)
    if isinstance(target, nnx.Pytree):
        return _take_module(target, path)
    if _is_plain_dataclass(target):
        return _take_dataclass(target, path)
    return _take_pytree(target, path)


def _is_node(value: Any) -> bool:
    """Whether a pytree ends here: a leaf of ours, or a target of another kind."""
    if type(value) is dict or _is_array(value):  # as most are
        return False
    return isinstance(
        value, (nnx.State, nnx.Pytree, nnx.Variable, meta.AxisMetadata)
    ) or _is_plain_dataclass(value)


def _is_array(value: Any) -> bool:
    """Whether a value is an array, or the description of one, and nothing else."""
    return type(value) in (jax.ShapeDtypeStruct, np.ndarray) or isinstance(
        value, jax.Array
    )


def _is_plain_dataclass(value: Any) -> bool:
    """Whether a value is a dataclass that JAX takes for a leaf."""
    return (
        dataclasses.is_dataclass(value)
        and not isinstance(
            value, (type, linen.Module, nnx.Variable, jax.ShapeDtypeStruct)
        )
        and jax.tree_util.all_leaves([value])
    )


def _take_pytree(tree: Any, path: Path) -> Target:
    try:
        flat, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_node)
    except ValueError as error:  # keys of a dict that do not compare, say
        raise AssignmentError(
            f"JAX cannot take the target apart: {error} "
            "Give a tree that jax.tree.leaves takes."
        ) from error
    if len(flat) == 1 and flat[0][1] is tree:
        return _take_leaf(tree, path)
    parts = [
        (_take_leaf if _is_array(value) else _take_apart)(
            value, (*path, *map(_key_of, keys))
        )
        for keys, value in flat
    ]

    def rebuild(values: Mapping[str, Any]) -> Any:
        return treedef.unflatten([part.rebuild(values) for part in parts])

    return _joined(parts, rebuild)


def _take_leaf(value: Any, path: Path) -> Target:
    """One leaf of a pytree: an array, a box, a Variable, or something kept."""
    name = join_path(path)
    if isinstance(value, nnx.RngState):
        abstract = isinstance(value.get_raw_value(), jax.ShapeDtypeStruct)
        return Target((), lambda _: value, (name,) if abstract else ())
    slot = _slot((name,), value)

    def rebuild(values: Mapping[str, Any]) -> Any:
        return _with_value(value, values[name]) if name in values else value

    return Target((slot,), rebuild)


def _take_state(state: Any, path: Path) -> Target:
    """An nnx.State; the new one has new Variables and leaves the old as they are."""
    flat = [(key, value) for key, value in nnx.to_flat_state(state)]
    parts = [_take_leaf(value, (*path, *key)) for key, value in flat]

    def rebuild(values: Mapping[str, Any]) -> Any:
        return nnx.from_flat_state(
            [
                (key, _copied(value, part.rebuild(values)))
                for (key, value), part in zip(flat, parts, strict=True)
            ]
        )

    return _joined(parts, rebuild)


def _take_module(module: nnx.Pytree, path: Path) -> Target:
    """An nnx.Module, whose Variables are updated in place."""
    other_names: dict[int, list[str]] = {}
    for key, variable in _walk(module, path, ()):
        other_names.setdefault(id(variable), []).append(join_path(key))
    slots: list[Slot] = []
    variables: dict[str, nnx.Variable[Any]] = {}
    abstract_states: list[str] = []
    for key, variable in nnx.to_flat_state(nnx.state(module)):
        name = join_path((*path, *key))
        if isinstance(variable, nnx.RngState):
            if isinstance(variable.get_raw_value(), jax.ShapeDtypeStruct):
                abstract_states.append(name)
            continue
        names = dict.fromkeys([name, *other_names.get(id(variable), ())])
        slots.append(_slot(tuple(names), variable))
        variables[name] = variable

    def rebuild(values: Mapping[str, Any]) -> Any:
        new = {name: one for name, one in variables.items() if name in values}
        old = {name: one.get_raw_value() for name, one in new.items()}
        try:
            for name, variable in new.items():
                variable.set_raw_value(values[name])
        except BaseException:  # an interrupt, say: all or nothing
            for name, variable in new.items():
                variable.set_raw_value(old[name])
            raise
        return module

    return Target(tuple(slots), rebuild, tuple(abstract_states))


def _walk(
    node: Any, path: Path, ancestors: tuple[int, ...]
) -> Iterator[tuple[Path, Any]]:
    """Every path to every Variable of a module, also the second one of a tied one."""
    if isinstance(node, nnx.Variable):
        yield path, node
        return
    if id(node) in ancestors:
        return

    # One level at a time, since modules may hold themselves.
    def is_below(value: Any) -> bool:
        return value is not node

    flat, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=is_below)
    for keys, child in flat:
        if child is not node:
            below = (*ancestors, id(node))
            yield from _walk(child, (*path, *map(_key_of, keys)), below)


def _take_dataclass(value: Any, path: Path) -> Target:
    """A dataclass that JAX does not know: its fields, and a copy with new ones."""
    names = [field.name for field in dataclasses.fields(value)]
    parts = {name: _take_apart(getattr(value, name), (*path, name)) for name in names}

    def rebuild(values: Mapping[str, Any]) -> Any:
        fields = {name: part.rebuild(values) for name, part in parts.items()}
        if all(getattr(value, name) is new for name, new in fields.items()):
            return value
        result = copy.copy(value)
        for name, new in fields.items():
            object.__setattr__(result, name, new)  # also where it is frozen
        return result

    return _joined(list(parts.values()), rebuild)


def _joined(parts: list[Target], rebuild: Callable[[Mapping[str, Any]], Any]) -> Target:
    return Target(
        slots=tuple(slot for part in parts for slot in part.slots),
        rebuild=rebuild,
        abstract_states=tuple(n for part in parts for n in part.abstract_states),
    )


def _key_of(key: Any) -> Any:
    """The bare key of one step of a JAX key path."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return str(key)


def _slot(names: tuple[str, ...], holder: Any) -> Slot:
    value = _inner(holder)
    shape, dtype = _shape_and_dtype(value)
    owners = (holder,) if value is holder else (holder, value)
    sharding, partitioning = _sharding_of(value), _partitioning_of(holder)
    if isinstance(partitioning, jax.sharding.Sharding):
        sharding, partitioning = sharding or partitioning, None
    return Slot(Leaf(names, shape, dtype), value, owners, sharding, partitioning)


def _inner(holder: Any) -> Any:
    """The array in a Variable or a box, or a box in a Variable; else the value."""
    while True:
        if isinstance(holder, nnx.Variable):
            holder = holder.get_raw_value()
        elif isinstance(holder, meta.AxisMetadata):
            leaves = jax.tree_util.tree_leaves(holder, is_leaf=lambda x: x is None)
            if len(leaves) != 1:
                return None
            holder = leaves[0]
        else:
            return holder


def _with_value(holder: Any, value: Any) -> Any:
    """The same kind of Variable or box, with its metadata, around another array."""
    if isinstance(holder, nnx.Variable):
        return holder.replace(value)
    if isinstance(holder, meta.AxisMetadata):
        return holder.replace_boxed(value)
    return value


def _copied(old: Any, new: Any) -> Any:
    """A Variable of its own for a new State, which must not share the old one's."""
    return old.copy() if new is old and isinstance(old, nnx.Variable) else new


# Python scalars become what JAX makes of them.
_SCALARS: Final = (bool, int, float, complex)


def _shape_and_dtype(value: Any) -> tuple[tuple[int, ...], np.dtype | None]:
    if isinstance(value, _SCALARS) and isinstance(value, numbers.Number):
        return (), np.dtype(jnp.result_type(value))
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if not isinstance(shape, tuple) or dtype is None:
        return (), None
    if not isinstance(dtype, np.dtype) or kind_of(dtype) is None:
        return shape, None  # a PRNG key, or an array of objects
    return shape, dtype.newbyteorder("=")


def _sharding_of(value: Any) -> jax.sharding.Sharding | None:
    """Where a target says its array lives; an uncommitted array says nothing."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return value.sharding
    if isinstance(value, jax.Array) and not isinstance(value, Tracer):
        return value.sharding if value.committed else None
    return None


def _partitioning_of(holder: Any) -> Partitioning | jax.sharding.Sharding | None:
    """What the metadata of a Variable, or of a box, says about its sharding."""
    while isinstance(holder, nnx.Variable):
        metadata = holder.get_metadata()
        # Flax has called it by all of these names.
        keys = ("out_sharding", "sharding_names", "sharding")
        said = next((s for key in keys if (s := metadata.get(key)) is not None), None)
        if isinstance(said, jax.sharding.Sharding):
            return said
        if isinstance(said, (tuple, list, jax.sharding.PartitionSpec)):
            rules = tuple(metadata.get("sharding_rules") or ())
            return Partitioning(tuple(said), metadata.get("mesh"), rules)
        holder = holder.get_raw_value()
    if isinstance(holder, meta.Partitioned):
        rules = tuple(getattr(holder, "rules", None) or ())
        return Partitioning(tuple(holder.names), holder.mesh, rules)
    return None


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Names the leaves of a tree of shardings as those of a target are named.

    Args:
        tree: A pytree, of which boxes and Variables hold shardings or specs.

    Returns:
        Names and what stands there, None included.
    """

    def is_leaf(value: Any) -> bool:
        kinds = (jax.sharding.Sharding, jax.sharding.PartitionSpec, nnx.Variable)
        return value is None or isinstance(value, (*kinds, meta.AxisMetadata))

    try:
        flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    except ValueError as error:  # keys of a dict that do not compare, say
        raise AssignmentError(
            f"Option sharding: JAX cannot take the tree apart: {error} "
            "Give a tree that jax.tree.leaves takes."
        ) from error
    return [(join_path(map(_key_of, path)), _inner(value)) for path, value in flat]
