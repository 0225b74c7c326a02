"""What an init function gives under a trace <-> flat arrays and a structure.

Modules, Variables and States may stand anywhere in it, beside arrays and other values.
No array of the trace may stay behind in the structure.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from .trees import Path, check_depth, join_path
from .variables import is_reference, new_reference

# The attribute in which NNX notes which attributes of an object are data.
_DATA_NOTE: Final = "_pytree__nodes"
# How many objects are looked at to find arrays that a trace leaves behind.
_MAX_VISITED: Final = 10_000
# dtype kinds that JAX has no arrays of: objects, texts, dates.
_FOREIGN_KINDS: Final = "OSUMmT"
# What leads to no array.
_LEAVES: Final = (str, bytes, int, float, complex, np.ndarray, np.generic, type(None))


@dataclasses.dataclass(frozen=True, slots=True)
class Structure:
    """All of an output but its arrays.

    Attributes:
        treedef: Of the output, in which NNX objects are leaves.
        is_node: True for each leaf that is an NNX object.
        graphdef: Of all NNX objects together, where modules are among them.
        inner: Of the state of NNX objects and the other leaves.
        constants: Leaves that are not arrays, by place; they stay as they are.
        references: Places of mutable arrays.
        foreign: The constants that stand beside NNX objects, not in them.
    """

    treedef: Any
    is_node: tuple[bool, ...]
    graphdef: nnx.GraphDef[Any] | None
    inner: Any
    constants: Mapping[int, Any]
    references: frozenset[int]
    foreign: tuple[Any, ...]

    def assemble(self, arrays: Sequence[Any]) -> Any:
        """Puts an output together.

        Args:
            arrays: One value for each array, in order.

        Returns:
            The output.
        """
        remaining = iter(arrays)
        leaves: list[Any] = []
        for place in range(self.inner.num_leaves):
            if place in self.constants:
                leaves.append(self.constants[place])
                continue
            value = next(remaining)
            is_new = place in self.references and isinstance(value, jax.Array)
            leaves.append(new_reference(value) if is_new else value)
        state, others = self.inner.unflatten(leaves)
        if self.graphdef is not None:
            state = nnx.merge(self.graphdef, state)
        nodes, plain = iter(state), iter(others)
        return self.treedef.unflatten(
            [next(nodes) if is_node else next(plain) for is_node in self.is_node]
        )


def flatten_output(output: Any) -> tuple[list[Any], Structure]:
    """Separates the arrays of an output from its structure.

    Args:
        output: What the init function gives, while its trace runs.

    Returns:
        The arrays, and the structure that they go back into.
    """
    check_depth(output, "the output of the init function", is_nnx)
    _mark_plain_arrays(output)
    tops, treedef = jax.tree.flatten(output, is_leaf=is_nnx)
    nodes = tuple(filter(is_nnx, tops))
    # All NNX objects are split together, so that what they share stays shared.
    graphdef: nnx.GraphDef[Any] | None = None
    state: Any = nodes
    if any(isinstance(node, nnx.Pytree) for node in nodes):
        graphdef, state = nnx.split(nodes)
    others = [top for top in tops if not is_nnx(top)]
    flat, inner = jax.tree.flatten((state, others))
    references = {i for i, leaf in enumerate(flat) if is_reference(leaf)}
    constants = {
        i: leaf
        for i, leaf in enumerate(flat)
        if i not in references and not _is_array(leaf)
    }
    first = len(flat) - len(others)  # the state of NNX objects comes before
    foreign = tuple(leaf for i, leaf in constants.items() if i >= first)
    arrays = [
        leaf[...] if i in references else leaf
        for i, leaf in enumerate(flat)
        if i not in constants
    ]
    is_node = tuple(map(is_nnx, tops))
    structure = Structure(
        treedef, is_node, graphdef, inner, constants, frozenset(references), foreign
    )
    return arrays, structure


def is_nnx(value: object) -> bool:
    """True for modules and the like, Variables and States, where our trees end."""
    return isinstance(value, (nnx.Pytree, nnx.Variable, nnx.State))


def left_behind(output: Any) -> str | None:
    """Finds an array of a finished trace in what should hold none any more.

    Args:
        output: An output with shapes in place of its arrays.

    Returns:
        Where it is, as attributes and keys joined by `/`; None if there is none.
    """
    stack: list[tuple[Path, Any]] = [((), output)]
    seen: set[int] = set()
    keep: list[Any] = []  # ids stay unique only while the objects live
    while stack and len(seen) < _MAX_VISITED:
        path, item = stack.pop()
        if isinstance(item, Tracer):
            return join_path(path) or "the result"
        if id(item) in seen or isinstance(item, _LEAVES):
            continue
        seen.add(id(item))
        keep.append(item)
        stack += [((*path, *keys), value) for keys, value in _inside(item)]
    return None


def _inside(item: Any) -> Iterator[tuple[Path, Any]]:
    """Lists what an object of the user holds, with the last keys of the way there."""
    if isinstance(item, (type, types.ModuleType)):
        return
    if isinstance(item, nnx.GraphDef):
        for key, attribute in getattr(item, "attributes", ()):
            yield (key,), getattr(attribute, "value", None)
    elif isinstance(item, nnx.Variable):
        yield (), item.get_raw_value()
    elif isinstance(item, Mapping):
        yield from (((key,), value) for key, value in item.items())
    elif isinstance(item, (list, tuple, set, frozenset)):
        yield from (((number,), value) for number, value in enumerate(item))
    elif isinstance(item, functools.partial):
        yield from [((), item.func), ((), item.args), ((), item.keywords)]
    elif isinstance(item, types.MethodType):
        yield from [((), item.__func__), ((), item.__self__)]
    elif isinstance(item, types.FunctionType):
        yield (), item.__defaults__
        for name, cell in zip(
            item.__code__.co_freevars, item.__closure__ or (), strict=True
        ):
            try:
                yield (name,), cell.cell_contents
            except ValueError:  # not yet assigned
                continue
    else:
        attributes = getattr(item, "__dict__", None)
        if isinstance(attributes, dict):
            yield from (((name,), value) for name, value in attributes.items())


def _mark_plain_arrays(output: Any) -> None:
    """Marks plain arrays in modules as data, as NNX does where nothing is traced.

    Below Python 3.14 NNX takes a traced array, assigned to an attribute, for static:
    `nnx.split` would leave it in the graph definition, and not list it in the state.
    """
    for module in _modules_in(output):
        marks: Any = vars(module).get(_DATA_NOTE)
        if marks is None:
            continue
        hidden = [
            name
            for name, value in vars(module).items()
            if name != _DATA_NOTE and not marks.get(name) and _holds_tracer(value)
        ]
        if hidden:
            marked = marks.update(dict.fromkeys(hidden, True))
            object.__setattr__(module, _DATA_NOTE, marked)


def _modules_in(output: Any) -> list[nnx.Pytree]:
    """Every object of NNX with attributes in an output, each once."""
    queue = [output]
    modules: dict[int, nnx.Pytree] = {}
    while queue:
        for node in _leaves(queue.pop()):
            if isinstance(node, nnx.Pytree) and id(node) not in modules:
                modules[id(node)] = node
                queue += vars(node).values()
    return list(modules.values())


def _holds_tracer(value: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in _leaves(value))


def _leaves(value: Any) -> list[Any]:
    try:
        check_depth(value, is_leaf=is_nnx)
        return jax.tree.leaves(value, is_leaf=is_nnx)
    except Exception:  # a static attribute that is no tree of JAX's, say
        return []


def is_traceable(value: object) -> bool:
    """True for arrays that JAX takes into a traced function, unlike those of text."""
    return isinstance(value, (jax.Array, np.ndarray)) and _is_array(value)


def _is_array(value: Any) -> bool:
    """True if JAX returns a value from a traced function."""
    if isinstance(value, int):
        limits = np.iinfo(jnp.result_type(int))
        return limits.min <= value <= limits.max
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind not in _FOREIGN_KINDS and value.dtype.names is None
    return isinstance(value, (jax.Array, float, complex))
