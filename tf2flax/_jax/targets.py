"""Targets of every kind <-> leaves with '/'-joined names.

A target is taken apart once into slots, each with its names, its shape and dtype and
a way to put a new array back; nothing of the caller's changes before `rebuild`, and
then all of it or nothing.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import jax
from flax import linen, nnx
from flax.core import meta

from tf2flax._assignment.resolution.assignments import Leaf
from tf2flax._base.errors import AssignmentError, CheckpointError

from .modules import contents_of, holds_shape
from .trees import Path, Slot, check_depth, is_array, join_path, make_slot, step_of
from .variables import Change, inner_value, set_all, with_value


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A target taken apart.

    Attributes:
        slots: Its leaves, in the target's own order.
        rebuild: Gives the target with new values in place of some leaves, by name.
        abstract_states: Names of abstract arrays that no map reaches.
        rng_states: Names of the states of random numbers (`nnx.RngState`), which are no
            leaves; True for the first name of one that is abstract.
    """

    slots: tuple[Slot, ...]
    rebuild: Callable[[Mapping[str, Any]], Any]
    abstract_states: tuple[str, ...] = ()
    rng_states: Mapping[str, bool] = dataclasses.field(default_factory=dict[str, bool])

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


@dataclasses.dataclass(frozen=True, slots=True)
class _Subtree:
    """A target, or something within it, taken apart.

    Attributes:
        slots: Its leaves, in order.
        build: Gives it with new values in place of some leaves, by name. It makes new
            containers, and only lists what has to be changed in place: whatever it
            runs of the user's may raise while nothing has changed.
        in_place: Names of leaves that are Variables of modules, with the Variables.
        abstract_states: As of `Target`.
        rng_states: As of `Target`.
    """

    slots: tuple[Slot, ...]
    build: Callable[[Mapping[str, Any], list[Change]], Any]
    in_place: tuple[tuple[str, nnx.Variable[Any]], ...] = ()
    abstract_states: tuple[str, ...] = ()
    rng_states: Mapping[str, bool] = dataclasses.field(default_factory=dict[str, bool])


def take_apart(target: Any) -> Target:
    """Takes a target apart into named leaves.

    Args:
        target: A pytree of arrays, scalars and `jax.ShapeDtypeStruct`, boxes of linen
            included; an `nnx.State`; an `nnx.Module`; or pytrees of these.

    Returns:
        Its leaves, and how to put new values back.

    Raises:
        AssignmentError: Two leaves have the same joined name, there is no leaf, or
            something of the target cannot be looked at.
    """
    subtree = _take_apart(target, (), ())
    seen: set[str] = set()
    for name in (name for slot in subtree.slots for name in slot.leaf.names):
        if name in seen:
            raise AssignmentError(
                f"Two leaves of the target are called `{name}`: a key that holds "
                "`/` and nested keys join to the same name. Rename one of them."
            )
        seen.add(name)

    def rebuild(values: Mapping[str, Any]) -> Any:
        changes: list[Change] = []
        try:
            result = subtree.build(values, changes)  # raises, or nothing will below
            return set_all(changes, result) if changes else result
        except CheckpointError:
            raise
        except Exception as error:
            raise AssignmentError(
                "The target cannot take its new values: "
                f"{_text_of(error)} Nothing of it has changed."
            ) from error

    return Target(
        _without_doubles(subtree.slots, dict(subtree.in_place)),
        rebuild,
        subtree.abstract_states,
        subtree.rng_states,
    )


def _without_doubles(
    slots: tuple[Slot, ...], in_place: Mapping[str, nnx.Variable[Any]]
) -> tuple[Slot, ...]:
    """Makes a Variable that several modules share one leaf with all of its names."""
    if not in_place:
        return slots
    names: dict[int, list[str]] = {}
    for slot in slots:
        if (variable := in_place.get(slot.leaf.name)) is not None:
            names.setdefault(id(variable), []).extend(slot.leaf.names)
    if not any(
        slot.leaf.name in in_place
        and len(names[id(in_place[slot.leaf.name])]) > len(slot.leaf.names)
        for slot in slots
    ):
        return slots  # as nearly always
    result: list[Slot] = []
    for slot in slots:
        variable = in_place.get(slot.leaf.name)
        if variable is None:
            result.append(slot)
        elif all_names := names.pop(id(variable), ()):
            leaf = dataclasses.replace(slot.leaf, names=tuple(all_names))
            result.append(dataclasses.replace(slot, leaf=leaf))
    return tuple(result)


def _take_apart(target: Any, path: Path, around: tuple[int, ...]) -> _Subtree:
    """Takes something apart; `around` are ids of the dataclasses that it lies in."""
    try:
        if isinstance(target, nnx.State):
            return _take_state(target, path)
        if isinstance(target, nnx.Pytree):
            return _take_module(target, path)
        if _is_plain_dataclass(target):
            return _take_dataclass(target, path, around)
        return _take_pytree(target, path, around)
    except CheckpointError:
        raise
    except Exception as error:  # of a user's class, say
        where = f"`{join_path(path)}` of the target" if path else "the target"
        raise AssignmentError(
            f"JAX cannot take {where} apart: {_text_of(error)} "
            "Give a tree that jax.tree.leaves takes."
        ) from error


def _text_of(error: Exception) -> str:
    """The message of an exception as a sentence, with its type where that helps."""
    text = str(error).rstrip()
    if not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}"
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _is_node(value: Any) -> bool:
    """True if a pytree ends here: a leaf of ours, or a target of another kind."""
    if type(value) is dict or is_array(value):  # as most are
        return False
    return isinstance(
        value, (nnx.State, nnx.Pytree, nnx.Variable, meta.AxisMetadata)
    ) or _is_plain_dataclass(value)


def _is_plain_dataclass(value: Any) -> bool:
    """True for a dataclass that JAX takes for a leaf."""
    return (
        dataclasses.is_dataclass(value)
        and not isinstance(
            value, (type, linen.Module, nnx.Variable, jax.ShapeDtypeStruct)
        )
        and jax.tree_util.all_leaves([value])
    )


def _take_pytree(tree: Any, path: Path, around: tuple[int, ...]) -> _Subtree:
    check_depth(tree, is_leaf=_is_node)  # nodes of other kinds may hold themselves
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_node)
    if len(flat) == 1 and flat[0][1] is tree:
        return _take_leaf(tree, path)
    subtrees: list[_Subtree] = []
    for keys, value in flat:
        place = (*path, *map(step_of, keys))
        subtrees.append(
            _take_leaf(value, place)
            if is_array(value)
            else _take_apart(value, place, around)
        )

    def build(values: Mapping[str, Any], changes: list[Change]) -> Any:
        leaves = [subtree.build(values, changes) for subtree in subtrees]
        try:
            return treedef.unflatten(leaves)
        except Exception as error:
            where = f" `{join_path(path)}`" if path else ""
            raise AssignmentError(
                f"The target{where} cannot be put together with its new values: "
                f"{_culprit(treedef, leaves)}: {_text_of(error)} Nothing has changed. "
                "Its `tree_unflatten` must take what its `tree_flatten` gives, as "
                "jax.Array."
            ) from error

    return _join_subtrees(subtrees, build)


def _culprit(treedef: Any, leaves: list[Any]) -> str:
    """Names the class of the first node of a tree that cannot be put together."""
    remaining = iter(leaves)
    for child in treedef.children():
        below = [next(remaining) for _ in range(child.num_leaves)]
        try:
            child.unflatten(below)
        except Exception:
            return _culprit(child, below)
    node = treedef.node_data()
    return "a node" if node is None else node[0].__name__


def _take_leaf(value: Any, path: Path) -> _Subtree:
    """One leaf of a pytree: an array, a box, a Variable, or something kept."""
    name = join_path(path)
    if not is_array(value) and isinstance(value, nnx.RngState):
        states = {name: holds_shape(value)}
        return _Subtree((), lambda _, __: value, rng_states=states)
    slot = make_slot((name,), value)
    is_bare = is_array(value)  # neither a Variable nor a box

    def build(values: Mapping[str, Any], changes: list[Change]) -> Any:
        if name not in values:
            return value
        return values[name] if is_bare else with_value(value, values[name])

    return _Subtree((slot,), build)


def _take_state(state: Any, path: Path) -> _Subtree:
    """An nnx.State; the new one has new Variables and leaves the old as they are."""
    flat = [(key, value) for key, value in nnx.to_flat_state(state)]
    subtrees = [_take_leaf(value, (*path, *key)) for key, value in flat]

    def build(values: Mapping[str, Any], changes: list[Change]) -> Any:
        return nnx.from_flat_state(
            [
                (key, _copied(value, subtree.build(values, changes)))
                for (key, value), subtree in zip(flat, subtrees, strict=True)
            ]
        )

    return _join_subtrees(subtrees, build)


# Why no tensor fills an attribute such as a RoPE table: it is no state of the module,
# and assigning it anew could clash with what the class thinks of it.
_PLAIN: Final = (
    "the leaf is a plain array in an nnx.Module, not an nnx.Variable. Make it an "
    "nnx.Variable (nnx.Param, say), or leave it out of the map."
)


def _take_module(module: nnx.Pytree, path: Path) -> _Subtree:
    """An nnx.Module, whose Variables are updated in place."""
    contents = contents_of(module, path)
    variables = {h.names[0]: h.holder for h in contents.held if h.is_variable}
    slots = [
        make_slot(h.names, h.holder, refusal="" if h.is_variable else _PLAIN)
        for h in contents.held
    ]

    def build(values: Mapping[str, Any], changes: list[Change]) -> Any:
        changes += [
            (variable, values[name])
            for name, variable in variables.items()
            if name in values
        ]
        return module

    return _Subtree(
        tuple(slots),
        build,
        tuple(variables.items()),
        contents.abstract,
        contents.rng_states,
    )


def _take_dataclass(value: Any, path: Path, around: tuple[int, ...]) -> _Subtree:
    """A dataclass that JAX does not know: its fields, and a copy with new ones."""
    if id(value) in around:
        raise AssignmentError(
            f"The {type(value).__name__} at `{join_path(path)}` of the target holds "
            "itself. Give a tree that ends."
        )
    names = [
        field.name
        for field in dataclasses.fields(value)
        if hasattr(value, field.name)  # else it was never set, and stays so
    ]
    check_depth(())  # each level takes some calls
    below = (*around, id(value))
    subtrees = {
        name: _take_apart(getattr(value, name), (*path, name), below) for name in names
    }

    def build(values: Mapping[str, Any], changes: list[Change]) -> Any:
        fields = {
            name: subtree.build(values, changes) for name, subtree in subtrees.items()
        }
        if all(getattr(value, name) is new for name, new in fields.items()):
            return value
        return _with_fields(value, fields, path)

    return _join_subtrees(list(subtrees.values()), build)


def _with_fields(value: Any, fields: Mapping[str, Any], path: Path) -> Any:
    """A copy of a dataclass with other fields; the caller's stays as it is."""
    try:
        result = copy.copy(value)
        if result is value:
            raise TypeError("copy.copy() gives the object itself")
        for name, new in fields.items():
            object.__setattr__(result, name, new)  # also where it is frozen
    except Exception as error:
        where = f" at `{join_path(path)}` of the target" if path else " that is given"
        raise AssignmentError(
            f"The {type(value).__name__}{where} cannot be copied with its new values: "
            f"{_text_of(error)} Nothing has changed. "
            "Register it with jax.tree_util.register_dataclass."
        ) from error
    return result


def _join_subtrees(
    subtrees: list[_Subtree], build: Callable[[Mapping[str, Any], list[Change]], Any]
) -> _Subtree:
    return _Subtree(
        slots=tuple(slot for subtree in subtrees for slot in subtree.slots),
        build=build,
        in_place=tuple(pair for subtree in subtrees for pair in subtree.in_place),
        abstract_states=tuple(
            n for subtree in subtrees for n in subtree.abstract_states
        ),
        rng_states={
            name: is_shape
            for subtree in subtrees
            for name, is_shape in subtree.rng_states.items()
        },
    )


def _copied(old: Any, new: Any) -> Any:
    """A Variable of its own for a new State, which must not share the old one's."""
    return old.copy() if new is old and isinstance(old, nnx.Variable) else new


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

    check_depth(tree, "the tree of option sharding")
    try:
        flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    except ValueError as error:  # keys of a dict that do not compare, say
        raise AssignmentError(
            f"Option sharding: JAX cannot take the tree apart: {error} "
            "Give a tree that jax.tree.leaves takes."
        ) from error
    return [(join_path(map(step_of, path)), inner_value(value)) for path, value in flat]
