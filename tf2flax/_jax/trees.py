"""Trees: names of places in them, one level of them, and how deep they may be.

Trees that hold themselves or are nested too deeply are refused before JAX sees them.
Where JAX runs out of stack while it flattens a tree, the thread does not get all of its
stack back (jax 0.10): every later call may fail.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import jax
import numpy as np

from tf2flax._base.errors import AssignmentError

# The keys, indices and attribute names on the way to a place in a tree.
Path = tuple[Any, ...]

# Calls that are left over for JAX, Flax and this package, once the tree is entered.
_MARGIN: Final = 100
# What holds nothing, and is most of every tree.
_ATOMS: Final[frozenset[type]] = frozenset(
    [
        np.ndarray,
        jax.ShapeDtypeStruct,
        *(bool, int, float, complex, str, bytes, type, type(None)),
    ]
)
# How many nodes are looked at to say where a tree holds itself.
_MAX_VISITED: Final = 10_000


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


def step_of(key: Any) -> Any:
    """Takes the bare key out of one step of a JAX key path.

    Args:
        key: The step.

    Returns:
        The key, index or attribute name.
    """
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return str(key)


def one_level(node: Any) -> list[tuple[Path, Any]]:
    """Takes a node of a tree apart, and nothing within it.

    Args:
        node: The node; a leaf has nothing below it.

    Returns:
        What stands directly below, with its keys; that may be the node itself.
    """
    is_first = True

    def is_below(_: Any) -> bool:
        nonlocal is_first
        is_root, is_first = is_first, False
        return not is_root

    flat, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=is_below)
    return [(tuple(map(step_of, keys)), child) for keys, child in flat if keys]


def check_depth(
    tree: Any,
    what: str = "the target",
    is_leaf: Callable[[Any], bool] = lambda _: False,
) -> None:
    """Refuses a tree that JAX cannot flatten within the stack.

    Args:
        tree: The tree.
        what: What it is, for the message.
        is_leaf: Where JAX is told to stop.

    Raises:
        AssignmentError: It holds itself, or is nested too deeply.
    """
    atoms: set[type] = set(_ATOMS)
    limit = _remaining_calls() - _MARGIN
    if limit <= 0:
        raise _error(what, None)
    stack: list[tuple[Any, int]] = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        if type(node) in atoms:
            continue
        if depth > limit:
            raise _error(what, _first_cycle(tree, is_leaf))
        if isinstance(node, jax.Array):
            atoms.add(type(node))  # asking JAX for each takes longer than all else here
            continue
        if not is_leaf(node):
            stack += [
                (child, depth + 1)
                for _, child in _items(node)
                if type(child) not in atoms
            ]


def _error(what: str, cycle: Path | None) -> AssignmentError:
    if cycle is None:
        fact = f"{what} is nested too deeply for Python's stack"
    else:
        fact = f"{what} holds itself, at `{join_path(cycle)}`"
    return AssignmentError(
        f"JAX cannot take {what} apart: {fact}. Give a tree that jax.tree.leaves takes."
    )


def _remaining_calls() -> int:
    """Number of calls that Python lets this thread go deeper."""
    count = 0
    frame = inspect.currentframe()
    while frame is not None:
        count += 1
        frame = frame.f_back
    return sys.getrecursionlimit() - count


def _items(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, dict):
        if type(node) is dict and len(set(map(type, node))) > 1:
            sorted(node)  # as JAX does: what is raised there costs it stack as well
        return list(node.items())
    if isinstance(node, (list, tuple)):
        return list(enumerate(node))
    return [(join_path(keys), child) for keys, child in one_level(node)]


def _first_cycle(tree: Any, is_leaf: Callable[[Any], bool]) -> Path | None:
    """The keys on the way to where a tree stands within itself."""
    stack: list[tuple[Path, Any, frozenset[int]]] = [((), tree, frozenset())]
    for _ in range(_MAX_VISITED):
        if not stack:
            break
        path, node, ancestors = stack.pop()
        if id(node) in ancestors:
            return path
        if is_leaf(node):
            continue
        below = ancestors | {id(node)}
        stack += [
            ((*path, key), child, below)
            for key, child in _items(node)
            if type(child) not in _ATOMS
        ]
    return None
