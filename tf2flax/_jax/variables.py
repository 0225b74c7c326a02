"""Variables of NNX: looked into, replaced, and set in place, all of several or none.

Reads no checkpoint, and knows neither names nor leaves.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import jax
import numpy as np
from flax import nnx
from flax.core import meta

from .isolation import isolated

T = TypeVar("T")
# A Variable that is updated in place, and the array that it gets.
Change = tuple[nnx.Variable[Any], Any]

# Two threads that update one module leave all values of one of them, not a mixture.
# Reentrant, since `set_raw_value` may be a user's method.
_SETTING: Final = threading.RLock()
# Ctrl-C is pressed more than once; whoever presses it this often gets through.
_MAX_INTERRUPTS: Final = 100
# JAX's mutable arrays, where the version has them.
_REFS: Final[Any] = getattr(jax, "Ref", ())


def is_reference(value: object) -> bool:
    """Tells whether a value is a mutable array of JAX.

    Args:
        value: The value.

    Returns:
        True if it is a `jax.Ref`.
    """
    return isinstance(value, _REFS)


def new_reference(value: jax.Array) -> Any:
    """Makes a mutable array of JAX, as if the caller had set nothing.

    Args:
        value: Its contents.

    Returns:
        The `jax.Ref`.
    """
    with isolated():
        return jax.new_ref(value)


def _contents(reference: Any) -> Any:
    with isolated():
        return reference[...]


def _fill(reference: Any, value: Any) -> None:
    with isolated():
        reference[...] = value


def inner_value(holder: Any) -> Any:
    """Looks into Variables and boxes, also a box in a Variable.

    Args:
        holder: A Variable, a box of linen, or anything else.

    Returns:
        The array in it, None where a box holds none; else the value itself.
    """
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


def with_value(holder: Any, value: Any) -> Any:
    """Makes the same kind of Variable or box around another array.

    Args:
        holder: A Variable, a box of linen, or anything else; stays as it is.
        value: The array.

    Returns:
        The array in a new Variable or box with the same metadata.
    """
    if type(holder) is np.ndarray or isinstance(holder, jax.Array):
        return value  # as most are: NNX takes its time to say so
    if isinstance(holder, nnx.Variable):
        return holder.replace(with_value(holder.get_raw_value(), value))
    if isinstance(holder, meta.AxisMetadata):
        return holder.replace_boxed(value)
    return value


def set_all(changes: Sequence[Change], result: T) -> T:
    """Sets Variables in place: all of them, or none where anything is raised.

    Args:
        changes: The Variables and their new arrays.
        result: What to return, so that nothing stands between this and the caller.

    Returns:
        The result.
    """
    with _SETTING:
        saved = [_Saved(variable) for variable, _ in changes]
        try:
            for before, (_, value) in zip(saved, changes, strict=True):
                before.replace(value)
            return result
        except BaseException:  # an interrupt, say
            try:
                to_the_end(functools.partial(_put_back, saved))
            finally:
                for before in saved:
                    before.force_back()
            raise


def to_the_end(action: Callable[[], None]) -> None:
    """Runs an action that may be repeated until no interrupt hits it.

    Args:
        action: What must be done, whatever happens; running it twice does no harm.

    Raises:
        KeyboardInterrupt: The last that came, once the action has been done.
    """
    interrupt: KeyboardInterrupt | None = None
    for _ in range(_MAX_INTERRUPTS):
        try:
            action()
        except KeyboardInterrupt as error:
            interrupt = error
        else:
            break
    if interrupt is not None:
        raise interrupt


class _Saved:
    """The contents of a Variable before it is changed."""

    __slots__ = ("contents", "raw", "variable")

    def __init__(self, variable: nnx.Variable[Any]) -> None:
        self.variable = variable
        self.raw: Any = variable.get_raw_value()
        # A mutable array stays the same object while its contents change.
        self.contents: Any = _contents(self.raw) if is_reference(self.raw) else None

    def replace(self, value: jax.Array) -> None:
        """Sets the Variable to another array."""
        if self.contents is None:
            self.variable.set_raw_value(with_value(self.raw, value))
        elif _fits(self.raw, value):
            _fill(self.raw, value)  # whoever shares the mutable array sees it change
        else:
            self.variable.set_raw_value(new_reference(value))

    def put_back(self) -> None:
        """Puts back what was there; done twice, it does no harm."""
        if self.variable.get_raw_value() is not self.raw:
            with contextlib.suppress(Exception):  # a user's method: see below
                self.variable.set_raw_value(self.raw)
        if self.contents is not None:
            _fill(self.raw, self.contents)

    def force_back(self) -> None:
        """Puts back what no user's `set_raw_value` would put back as it was."""
        if self.variable.get_raw_value() is not self.raw:
            object.__setattr__(self.variable, "_raw_value", self.raw)


def _put_back(saved: Sequence[_Saved]) -> None:
    for before in saved:
        before.put_back()


def _fits(reference: Any, value: Any) -> bool:
    """True if a mutable array takes a value without moving to other devices."""
    return (reference.shape, reference.dtype) == (value.shape, value.dtype) and (
        not value.committed or value.sharding == reference.sharding
    )
