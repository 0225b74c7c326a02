"""An nnx.Module -> what it holds, each with every name it answers to.

Every module in it is looked at once, however many paths lead there.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.tree_util import GetAttrKey

from .trees import Path, join_path, one_level, step_of

# Paths to a module that shared modules multiply: 30 modules, each twice in the next,
# have a thousand million. Beyond so many to any module its Variables answer to no more.
_MAX_PATHS: Final = 256
# Modules within modules; deeper ones are left to NNX, which says where Python ends.
_MAX_DEPTH: Final = 100
_SCALARS: Final = frozenset([bool, int, float, complex])
_REGISTRY: Final[Any] = jax.tree_util.default_registry


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """Something that a module holds.

    Attributes:
        names: Every name it answers to; the first is that of `nnx.to_flat_state`.
        holder: The Variable, or whatever else stands there.
    """

    names: tuple[str, ...]
    holder: Any

    @property
    def is_variable(self) -> bool:
        """True if it can be updated in place."""
        return isinstance(self.holder, nnx.Variable)


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """Contents of a module.

    Attributes:
        held: Variables other than `nnx.RngState`, and plain arrays.
        abstract: Names of arrays that `nnx.eval_shape` leaves, traced or as shapes, in
            attributes that are no Variables, where the state does not list them.
        rng_states: Names of the states of random numbers (`nnx.RngState`); True for
            the first name of one that is abstract.
    """

    held: tuple[Held, ...]
    abstract: tuple[str, ...]
    rng_states: Mapping[str, bool]


def contents_of(module: nnx.Pytree, path: Path) -> Contents:
    """Looks into a module.

    Args:
        module: The module.
        path: The keys on the way to it.

    Returns:
        What it holds.
    """
    contents = _contents_of_tree(module, path)
    return _contents_of_graph(module, path) if contents is None else contents


def _contents_of_graph(module: nnx.Pytree, path: Path) -> Contents:
    """As `contents_of`, of any module: NNX says which of several names is the first."""
    other_names: dict[int, list[str]] = {}
    abstract: list[str] = []
    variables: list[nnx.Variable[Any]] = []
    for place, item in _walk(module, path):
        if isinstance(item, nnx.Variable):
            variables.append(item)
            other_names.setdefault(id(item), []).append(join_path(place))
        else:
            abstract.append(join_path(place))
    held: list[Held] = []
    rng_states: dict[str, bool] = {}
    for key, holder in _flat_state(module, variables):
        name = join_path((*path, *key))
        if isinstance(holder, nnx.RngState):
            rng_states |= dict.fromkeys(other_names.get(id(holder), ()), False)
            rng_states[name] = holds_shape(holder)
            continue
        names = dict.fromkeys([name, *other_names.get(id(holder), ())])
        held.append(Held(tuple(names), holder))
    listed = {name for entry in held for name in entry.names}
    hidden = dict.fromkeys(name for name in abstract if name not in listed)
    return Contents(tuple(held), tuple(hidden), rng_states)


def _flat_state(
    module: nnx.Pytree, variables: list[nnx.Variable[Any]]
) -> list[tuple[Any, Any]]:
    """`nnx.to_flat_state` of a module, of which everything stays as it is.

    Of Variables that share a mutable array, NNX puts a mark into all but the first.
    """
    before = [(variable, variable.get_raw_value()) for variable in variables]
    try:
        return list(nnx.to_flat_state(nnx.state(module)))
    finally:
        for variable, raw in before:
            if variable.get_raw_value() is not raw:
                object.__setattr__(variable, "_raw_value", raw)


def _contents_of_tree(module: nnx.Pytree, path: Path) -> Contents | None:
    """As `contents_of`, where one path leads to each module and Variable.

    Then that is its name, and NNX, which takes most of the time, need not be asked.

    Returns:
        What it holds; None where something is shared, traced, or of another kind.
    """
    holders: dict[Path, Any] = {}
    seen: set[int] = {id(module)}  # unique: the module keeps all that is in it
    stack: list[tuple[Path, Any]] = [((), module)]
    while stack:
        place, node = stack.pop()
        children = _REGISTRY.flatten_one_level_with_keys(node)
        # A module that is no pytree is known to NNX alone.
        if children is None or len(place) > _MAX_DEPTH or _holds_tracer(node):
            return None
        for key, child in children[0]:
            below = (*place, key.name if type(key) is GetAttrKey else step_of(key))
            kind = type(child)
            if issubclass(kind, nnx.Pytree):
                stack.append((below, child))
            elif issubclass(kind, nnx.Variable):
                # Of Variables that share a mutable array, NNX lists the first alone.
                raw: Any = child.get_raw_value()
                if not _is_plain(raw) and type(raw) not in _SCALARS:
                    return None
                holders[below] = child
            elif _is_plain(child) and kind is not jax.ShapeDtypeStruct:
                holders[below] = child
                continue  # arrays are listed wherever they stand
            elif (inner := _REGISTRY.flatten_one_level(child)) is None or inner[0]:
                return None
            else:
                continue  # nothing is in it, as in what NNX notes for each module
            if id(child) in seen:
                return None
            seen.add(id(child))
    try:
        places = sorted(holders)  # as `nnx.to_flat_state`
    except TypeError:  # numbers beside names, of which it complains
        return None
    held: list[Held] = []
    rng_states: dict[str, bool] = {}
    for place in places:
        name, holder = join_path((*path, *place)), holders[place]
        if issubclass(type(holder), nnx.RngState):  # which NNX is not asked for
            rng_states[name] = holds_shape(holder)
        else:
            held.append(Held((name,), holder))
    return Contents(tuple(held), (), rng_states)


def _holds_tracer(node: nnx.Pytree) -> bool:
    return any(isinstance(value, Tracer) for value in vars(node).values())


def _is_plain(value: Any) -> bool:
    """True for arrays and shapes; a mutable array is none of these unless traced."""
    return type(value) in (np.ndarray, jax.ShapeDtypeStruct) or (
        isinstance(value, jax.Array) and not isinstance(value, Tracer)
    )


def holds_shape(variable: nnx.Variable[Any]) -> bool:
    """True if a Variable holds a shape instead of an array."""
    return isinstance(variable.get_raw_value(), jax.ShapeDtypeStruct)


def _walk(module: nnx.Pytree, path: Path) -> Iterator[tuple[Path, Any]]:
    """Paths to every Variable, also the second of a tied one, and to what is abstract.

    Shapes in static attributes are none of these: a module may well note some.
    """
    children: dict[int, list[tuple[Path, Any]]] = {}
    visits: collections.Counter[int] = collections.Counter()
    stack: list[tuple[Path, Any, frozenset[int]]] = [(path, module, frozenset())]
    while stack:
        place, node, ancestors = stack.pop()
        if isinstance(node, (nnx.Variable, Tracer, jax.ShapeDtypeStruct)):
            yield place, node
            continue
        number = id(node)  # unique: the module, or `children`, keeps the node
        if number in ancestors or visits[number] == _MAX_PATHS:
            continue  # modules may hold themselves
        visits[number] += 1
        if number not in children:
            children[number] = _children(node)
        below = ancestors | {number}
        stack += [
            ((*place, *keys), child, below) for keys, child in children[number][::-1]
        ]


def _children(node: Any) -> list[tuple[Path, Any]]:
    """Lists what stands below a node, and traced arrays in static attributes."""
    children = one_level(node)
    if isinstance(node, nnx.Pytree):
        seen = {id(child) for _, child in children}
        children += [
            ((name,), value)
            for name, value in vars(node).items()
            if isinstance(value, Tracer) and id(value) not in seen
        ]
    return children
