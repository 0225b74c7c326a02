"""Trees of arrays -> arrays by name, for outputs and for intermediates.

One rule names what a model gives and what was recorded, so that equal trees have equal
names. `__call__` says nothing, nor does the place in a tuple of one that `sow` made:

    {"layers_0": {"query": {"__call__": (x,)}}}      layers_0/query

Members come in the order in which they stand, not in JAX's, which sorts keys.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jax
import numpy as np
from flax import nnx

from tf2flax._jax.trees import Path, join_path, one_level
from tf2flax._jax.variables import inner_value

# The name of an output that stands in no tree.
OUTPUT: Final = "output"
_COLLECTION: Final = "intermediates"
_CALL: Final = "__call__"


@dataclasses.dataclass(frozen=True, slots=True)
class NamedArrays:
    """Arrays of a model, or recorded ones.

    Attributes:
        outputs: Those that it gives, by name.
        intermediates: Those that are captured within, by name.
    """

    outputs: dict[str, Any]
    intermediates: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def all(self) -> dict[str, Any]:
        """Both; an output has its name before an intermediate that has the same."""
        named = dict(self.outputs)
        for name, array in self.intermediates.items():
            named[f"{_COLLECTION}/{name}" if name in named else name] = array
        return named


def name_arrays(value: Any) -> NamedArrays:
    """Names the arrays of what a model gives, or of what was recorded.

    Args:
        value: A tree of arrays; or outputs and a collection of intermediates, as linen
            (`{"intermediates": ...}`) or `nnx.capture` (a State) give them.
    """
    outputs, intermediates = _split(value)
    return NamedArrays(
        {normal_name(name): array for name, array in _named(outputs)},
        {} if intermediates is None else name_intermediates(intermediates),
    )


def name_intermediates(collection: Any) -> dict[str, Any]:
    """Names the arrays of a collection of intermediates; the model's own is left out.

    That of the model as a whole, `__call__`, is its output.
    """
    if isinstance(collection, Mapping) and set(collection) == {_COLLECTION}:
        collection = collection[_COLLECTION]
    return {
        join_path(_without_calls(path)): array
        for path, array in _walk(collection, ())
        if path and path[0] != _CALL
    }


def normal_name(name: str) -> str:
    """A name without what says nothing.

    Examples:
        >>> normal_name("intermediates/layers_0/query/__call__/0")
        'layers_0/query'
    """
    head, slash, tail = name.partition("/")
    if head == _COLLECTION and slash:
        name = tail
    parts = name.split("/")
    if _CALL not in parts:
        return name
    if parts[-2:] == [_CALL, "0"]:
        parts = parts[:-1]
    return "/".join(part for part in parts if part != _CALL) or OUTPUT


def _split(value: Any) -> tuple[Any, Any]:
    """Outputs, and the collection of intermediates; None for none."""
    if isinstance(value, tuple) and len(value) == 2:
        outputs, state = value
        if isinstance(state, nnx.State):
            return outputs, state
        if isinstance(state, Mapping) and isinstance(state.get(_COLLECTION), Mapping):
            return outputs, state[_COLLECTION]
    if isinstance(value, Mapping) and isinstance(value.get(_COLLECTION), Mapping):
        outputs = {key: item for key, item in value.items() if key != _COLLECTION}
        return outputs, value[_COLLECTION]
    return value, None


def _named(outputs: Any) -> Iterator[tuple[str, Any]]:
    for path, array in _walk(outputs, ()):
        yield join_path(path) or OUTPUT, array


def _walk(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Yields arrays and numbers with their paths; other values are left out."""
    value = inner_value(node)
    if isinstance(value, (nnx.State, Mapping)):
        for key, child in value.items():
            yield from _walk(child, (*path, key))
    elif _is_array(value):
        yield path, value
    elif isinstance(value, tuple) and len(value) == 1:
        # As `sow` makes them; a layer that is called twice has a tuple of two.
        yield from _walk(value[0], path if _is_captured(path) else (*path, 0))
    else:
        for keys, child in one_level(value):
            if child is not value:
                yield from _walk(child, (*path, *keys))


def _is_captured(path: Path) -> bool:
    # A model's own outputs have no name before the place in their tuple.
    return bool(path) and isinstance(path[-1], str)


def _without_calls(path: Path) -> Path:
    return tuple(key for key in path if key != _CALL)


def _is_array(value: Any) -> bool:
    if isinstance(value, (bool, int, float, complex)):
        return True
    # Not keys of random numbers.
    return isinstance(value, (jax.Array, np.ndarray, np.generic)) and not (
        jax.numpy.issubdtype(value.dtype, jax.dtypes.extended)
    )
