"""Trees: their depth, names of places in them, what the engine sees of a leaf.

Trees that hold themselves or are nested too deeply are refused before JAX sees them.
Where JAX runs out of stack while it flattens a tree, the thread does not get all of its
stack back (jax 0.10): every later call may fail.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import functools
import inspect
import numbers
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.core import meta
from jax.core import Tracer

from tf2flax._assignment.resolution.assignments import Leaf
from tf2flax._base.dtypes import kind_of
from tf2flax._base.errors import AssignmentError

from .variables import inner_value, is_reference

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
    # What is shared is entered again only where it lies deeper than before: modules
    # that hold another one twice, 30 of them, have a thousand million paths.
    depths: dict[int, tuple[int, Any]] = {}  # the node too: else its id is used again
    stack: list[tuple[Any, int]] = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        if type(node) in atoms or depths.get(id(node), (0,))[0] >= depth:
            continue
        if depth > limit:
            raise _error(what, _first_cycle(tree, is_leaf))
        if isinstance(node, jax.Array):
            atoms.add(type(node))  # asking JAX for each takes longer than all else here
            continue
        depths[id(node)] = depth, node
        if not is_leaf(node):
            stack += [
                (child, depth + 1)
                for _, child in _items(node)
                if type(child) not in atoms
            ]


def leaves_once(tree: Any) -> Iterator[Any]:
    """Yields the leaves of a tree, those of a module once however often it is there.

    Args:
        tree: The tree, whose depth has been checked.

    Yields:
        Its leaves, those below NNX objects as well.
    """
    modules: dict[int, nnx.Pytree] = {}
    queue: list[Any] = [tree]

    def is_below(node: Any, top: Any) -> bool:
        return isinstance(node, nnx.Pytree) and node is not top

    while queue:
        top = queue.pop()
        for leaf in jax.tree.leaves(top, is_leaf=functools.partial(is_below, top=top)):
            if not isinstance(leaf, nnx.Pytree):
                yield leaf
            elif id(leaf) not in modules:
                modules[id(leaf)] = leaf
                queue.append(leaf)


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


# Python scalars become what JAX makes of them.
_SCALARS: Final = (bool, int, float, complex)


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
        sharding: Sharding that the target gives the array; None for no opinion.
        partitioning: Flax's metadata about that, if there is any.
    """

    leaf: Leaf
    value: Any
    owners: tuple[Any, ...]
    sharding: jax.sharding.Sharding | None
    partitioning: Partitioning | None = None

    @property
    def holds_numbers(self) -> bool:
        """True if a tensor could fill it."""
        # A Module may have fields called `shape` and `dtype`, but it is not an array.
        return self.leaf.dtype is not None and not isinstance(self.value, linen.Module)

    @property
    def has_place(self) -> bool:
        """True if the target says where the array should live."""
        return self.sharding is not None or self.partitioning is not None

    @property
    def is_abstract(self) -> bool:
        """True if no array stands there yet."""
        return self.leaf.is_abstract


def is_array(value: Any) -> bool:
    """Tells whether a value is an array, or the description of one, and nothing else.

    Args:
        value: The value.

    Returns:
        True if it is.
    """
    return type(value) in (jax.ShapeDtypeStruct, np.ndarray) or isinstance(
        value, jax.Array
    )


def make_slot(names: tuple[str, ...], holder: Any, *, refusal: str = "") -> Slot:
    """Looks at what stands at a leaf.

    Args:
        names: Its names.
        holder: The array, scalar or ShapeDtypeStruct, its Variable or its box.
        refusal: Why no tensor may fill it; "" where that depends on its dtype alone.

    Returns:
        The leaf.
    """
    is_bare = is_array(holder)  # as most are: NNX takes its time to say so
    value = holder if is_bare else inner_value(holder)
    shape, dtype = _shape_and_dtype(value)
    if refusal:
        if isinstance(value, _SCALARS):
            value = np.asarray(value, dtype)  # as it is saved
        dtype = None
    owners = (holder,) if value is holder else (holder, value)
    sharding = _sharding_of(value)
    partitioning = None if is_bare else _partitioning_of(holder)
    if isinstance(partitioning, jax.sharding.Sharding):
        sharding, partitioning = sharding or partitioning, None
    is_abstract = isinstance(value, jax.ShapeDtypeStruct)
    leaf = Leaf(names, shape, dtype, refusal, is_abstract)
    return Slot(leaf, value, owners, sharding, partitioning)


def _shape_and_dtype(value: Any) -> tuple[tuple[int, ...], np.dtype | None]:
    if isinstance(value, _SCALARS) and isinstance(value, numbers.Number):
        return (), np.dtype(jnp.result_type(value))
    shape, dtype = _attribute(value, "shape"), _attribute(value, "dtype")
    if not isinstance(shape, tuple) or dtype is None:
        return (), None
    # That of a PRNG key is no dtype of NumPy's.
    return shape, _native(dtype) if isinstance(dtype, np.dtype) else None


@functools.cache
def _native(dtype: np.dtype) -> np.dtype | None:
    """A dtype of numbers, in the byte order of the machine; None for other dtypes."""
    return None if kind_of(dtype) is None else dtype.newbyteorder("=")


def _attribute(value: Any, name: str) -> Any:
    """An attribute of whatever stands in a tree; None where looking at it raises."""
    try:
        return getattr(value, name, None)
    except Exception:  # of a user's `__getattr__`
        return None


def _sharding_of(value: Any) -> jax.sharding.Sharding | None:
    """The sharding that a target gives a leaf; an uncommitted array gives none."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return value.sharding
    if isinstance(value, jax.Array) and not isinstance(value, Tracer):
        return value.sharding if value.committed else None
    if is_reference(value) and value.sharding.num_devices > 1:
        return value.sharding
    return None


def _partitioning_of(holder: Any) -> Partitioning | jax.sharding.Sharding | None:
    """Reads the metadata of a Variable, or of a box, about its sharding."""
    while isinstance(holder, nnx.Variable):
        metadata = holder.get_metadata()
        # Flax has called it by all of these names.
        keys = ("out_sharding", "sharding_names", "sharding")
        values = (metadata.get(key) for key in keys)
        names = next((value for value in values if value is not None), None)
        if isinstance(names, jax.sharding.Sharding):
            return names
        if isinstance(names, (tuple, list, jax.sharding.PartitionSpec)):
            rules = tuple(metadata.get("sharding_rules") or ())
            return Partitioning(tuple(names), metadata.get("mesh"), rules)
        holder = holder.get_raw_value()
    if isinstance(holder, meta.Partitioned):
        rules = tuple(getattr(holder, "rules", None) or ())
        return Partitioning(tuple(holder.names), holder.mesh, rules)
    return None
