"""The `nnx.Rngs` that a function reaches: found, kept from other threads, lent.

Runs no function and reads no checkpoint.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import contextlib
import functools
import threading
import types
import weakref
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Final

import jax
import numpy as np
from flax import nnx

from .variables import is_reference, to_the_end

# How many objects are looked at to find the `nnx.Rngs` that a function closes over.
_MAX_VISITED: Final = 10_000
# What leads nowhere, and does not count.
_LEAVES: Final = (str, bytes, int, float, complex, np.ndarray, jax.Array, type(None))
# The attribute in which NNX keeps the trace that an object belongs to.
_TRACE_NOTE: Final = "_pytree__state"
# Objects below these packages hold no user's Rngs, and many other things.
_FOREIGN: Final = ("jax", "jaxlib", "flax", "numpy", "optax", "builtins", "functools")
# One lock for each object that has been lent; they go with the objects.
_LOCKS: Final[
    weakref.WeakKeyDictionary[
        nnx.Rngs | nnx.RngStream, contextlib.AbstractContextManager[Any]
    ]
] = weakref.WeakKeyDictionary()
_LOCKS_LOCK: Final = threading.Lock()


def find_rngs(roots: object) -> list[nnx.Rngs | nnx.RngStream]:
    """Finds the `nnx.Rngs` and the streams in them that a function can reach.

    Looks into arguments, closures, defaults, bound objects, `functools.partial` and the
    globals that the function's code names.

    Args:
        roots: The function and its arguments.

    Returns:
        Each object once.
    """
    rngs: list[nnx.Rngs | nnx.RngStream] = []
    seen: set[int] = set()
    queue: list[Any] = [roots]
    keep: list[Any] = []  # ids stay unique only while the objects live
    while queue and len(seen) < _MAX_VISITED:
        item = queue.pop()
        if id(item) in seen or isinstance(item, _LEAVES):
            continue
        seen.add(id(item))
        keep.append(item)
        if isinstance(item, (nnx.Rngs, nnx.RngStream)):
            rngs.append(item)
        queue.extend(_reachable(item))
    return rngs


def _reachable(item: Any) -> list[Any]:
    """Objects that an object leads to."""
    if isinstance(item, types.FunctionType):
        return _reachable_from_function(item)
    if isinstance(item, types.MethodType):
        return [item.__func__, item.__self__]
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, Mapping):
        return list(item.values())
    if isinstance(item, (list, tuple, set, frozenset)):
        return list(item)
    is_foreign = type(item).__module__.partition(".")[0] in _FOREIGN
    if isinstance(item, (type, types.ModuleType, nnx.Variable)) or (
        is_foreign and not isinstance(item, nnx.Pytree)
    ):
        return []
    attributes = list(getattr(item, "__dict__", {}).values())
    return [*attributes, type(item).__call__] if callable(item) else attributes


def _reachable_from_function(function: types.FunctionType) -> list[Any]:
    contents = map(_contents, function.__closure__ or ())
    closure = [value for value in contents if value is not None]
    # A wrapper of JAX or Flax closes over the user's function; its globals are theirs.
    if function.__module__.partition(".")[0] in _FOREIGN:
        return closure
    defaults = [*(function.__defaults__ or ())]
    defaults += (function.__kwdefaults__ or {}).values()
    return [*closure, *defaults, *_named_globals(function)]


def _named_globals(function: types.FunctionType) -> Iterator[Any]:
    """Globals that the code of a function names, and of those defined within it."""
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        for name in code.co_names:
            if name in function.__globals__:
                yield function.__globals__[name]
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


@contextlib.contextmanager
def lent_to_trace(
    rngs: Sequence[nnx.Rngs | nnx.RngStream],
) -> Generator[Callable[[], list[tuple[nnx.Variable[Any], Any]]]]:
    """Lends objects from outside to the running trace.

    NNX refuses to change an object of another trace. The user's objects stay the same;
    the Variables in them, and NNX's own note of the trace they belong to, are swapped
    for new ones, and swapped back.

    Args:
        rngs: The objects; held by this thread.

    Yields:
        A function giving each outside Variable whose state changed, with its new value.
    """
    saved = [dict(vars(item)) for item in rngs]
    outside = [
        (item, name, variable, variable.get_raw_value())
        for item, attributes in zip(rngs, saved, strict=True)
        for name, variable in attributes.items()
        if isinstance(variable, nnx.Variable)
    ]

    def changed() -> list[tuple[nnx.Variable[Any], Any]]:
        new = [vars(item)[name].get_raw_value() for item, name, _, _ in outside]
        return [
            (variable, value[...] if is_reference(value) else value)
            for (_, _, variable, old), value in zip(outside, new, strict=True)
            if value is not old
        ]

    def give_back() -> None:
        # Set name by name: other threads that look for streams always see all of them.
        for item, attributes in zip(rngs, saved, strict=True):
            vars(item).update(attributes)
            for name in vars(item).keys() - attributes.keys():
                del vars(item)[name]

    try:
        for item, name, variable, value in outside:
            vars(item)[name] = variable.replace(value)
        for item in rngs:
            vars(item)[_TRACE_NOTE] = vars(nnx.Rngs())[_TRACE_NOTE]
        yield changed
    finally:
        to_the_end(give_back)


@contextlib.contextmanager
def held(rngs: Iterable[nnx.Rngs | nnx.RngStream]) -> Generator[None]:
    """Keeps other threads from lending the same objects.

    What a call gives depends on the state that the call before has left, so that those
    which share an `nnx.Rngs` go one after the other, from tracing to advancing it.

    Args:
        rngs: The objects.

    Yields:
        None.
    """
    with contextlib.ExitStack() as stack:
        # In one order in all threads, lest two wait for each other.
        for item in sorted(rngs, key=id):
            with _LOCKS_LOCK:
                lock = _LOCKS.setdefault(item, threading.RLock())
            stack.enter_context(lock)
        yield
