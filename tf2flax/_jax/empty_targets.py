"""Targets without a leaf, and what is not an init function: what to give instead.

Each is refused before anything is opened or called: what is given back as it was given
looks like success.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

import jax
from flax import linen, nnx

from tf2flax._base.errors import AssignmentError
from tf2flax._checkpoint.checkpoint import Checkpoint

from .targets import Target

# Leaves without numbers that a message names.
_MAX_NAMED: Final = 3


def empty_target_error(target: Any, parts: Target, subject: str) -> AssignmentError:
    """Says what to give instead of a target without a leaf that could be filled.

    Args:
        target: The target, as the caller gave it.
        parts: The same, taken apart.
        subject: What it is, for the message.

    Returns:
        The error.
    """
    values = [target, *(slot.value for slot in parts.slots)]
    return AssignmentError(
        f"{subject} has no leaf that a tensor could fill: "
        f"{_described(target, parts)} holds no numbers. {_way_out(values)}"
        f"{_order_of(values)}"
    )


def _order_of(values: Iterable[object]) -> str:
    """Says in which order the arguments come where a path or a map may be given."""
    kinds = (str, bytes, os.PathLike, Checkpoint)
    if not any(isinstance(value, kinds) for value in values):
        return ""
    return (
        " Arguments come in this order: checkpoint, assignment map, target "
        "(tf2flax.warm_start: init function, checkpoint, assignment map)."
    )


def check_init_function(init_fn: object) -> None:
    """Refuses what `warm_start` could never call to initialise a model.

    Args:
        init_fn: What the caller gave.

    Raises:
        AssignmentError: It is a module, the class of a linen module, or not callable.
    """
    if isinstance(init_fn, linen.Module):
        way_out = (
            "A linen Module is not called to initialise it: give its method, "
            "`model.init`."
        )
    elif inspect.isclass(init_fn) and issubclass(init_fn, linen.Module):
        way_out = (
            "A linen Module is made first: give the method of an instance, "
            f"`{init_fn.__name__}(...).init`."
        )
    elif isinstance(init_fn, nnx.Module):
        way_out = (
            "It is initialised already: tf2flax.init_from_checkpoint fills it. To warm "
            "start, give its class, or a function that builds it."
        )
    elif callable(init_fn):
        return
    elif _is_optimizer(init_fn):
        way_out = "Give its function `init`."
    else:
        way_out = (
            "Give `model.init` of a linen Module, or a function that builds an "
            "nnx.Module. A tree or module that is there already is filled by "
            "tf2flax.init_from_checkpoint."
        )
    raise AssignmentError(
        f"warm_start: expected an init function, got {_kind_of(init_fn)}. {way_out}"
        f"{_order_of([init_fn])}"
    )


def check_init_result(leaves: Iterable[object]) -> None:
    """Refuses what an init function gives beside arrays.

    Args:
        leaves: The leaves of its result, while it is traced.

    Raises:
        AssignmentError: One of them is no array.
    """
    for leaf in leaves:
        try:
            jax.typeof(leaf)
        except OverflowError as error:
            raise AssignmentError(
                "warm_start: expected an init function that gives arrays, got one that "
                "gives an int which no JAX dtype holds. Leave it out, make it a float, "
                "or set jax_enable_x64 where 64 bits hold it."
            ) from error
        except Exception as error:  # `jax.jit` would say the same of a line of ours
            raise AssignmentError(
                "warm_start: expected an init function that gives arrays, got one that "
                f"gives {_kind_of(leaf)}. {_way_out([leaf])}"
            ) from error


def _described(target: Any, parts: Target) -> str:
    if not parts.slots and isinstance(target, (Mapping, list, tuple)) and target:
        return f"a {type(target).__name__} without leaves"
    if not parts.slots or parts.slots[0].value is target:
        return _kind_of(target)
    kinds = [f"`{slot.leaf.name}`: {_kind_of(slot.value)}" for slot in parts.slots]
    more = ", ..." if len(kinds) > _MAX_NAMED else ""
    return f"{_kind_of(target)} ({', '.join(kinds[:_MAX_NAMED])}{more})"


def _kind_of(value: object) -> str:
    """Describes a value in a few words."""
    # From the most telling description to the least: a linen Module is also an object,
    # an optimizer also a tuple.
    if value is None:
        return "None"
    name = type(value).__name__
    if inspect.isclass(value):
        return f"the class `{value.__name__}`"
    if isinstance(value, linen.Module):
        return f"the linen Module `{name}`"
    if isinstance(value, nnx.Module):
        return f"the nnx.Module `{name}`"
    if _is_optimizer(value):
        return f"an optimizer (`{name}`)"
    if _is_function(value):
        name = getattr(value, "__qualname__", None) or name
        return f"the function `{name}`"
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return f"a {name}" if value else f"an empty {name}"
    if isinstance(value, jax.Array):
        return f"a jax.Array of {value.dtype}"
    return f"an object of type `{name}`"


def _way_out(values: Iterable[object]) -> str:
    """Says what to give instead; the first value that shows what was meant decides."""
    for value in values:
        if isinstance(value, linen.Module):
            return _LINEN.format("model")
        if inspect.isclass(value):
            if issubclass(value, linen.Module):
                return _LINEN.format(f"{value.__name__}(...)")
            return _class_way_out(value)
        if _is_optimizer(value):
            return "Give its state: `optimizer.init(params)`."
        if _is_function(value):
            return (
                "Give what it returns, or `jax.eval_shape` of it for shapes alone; "
                "tf2flax.warm_start takes the function itself."
            )
        if isinstance(value, (nnx.Module, nnx.State)):
            return "Give one that holds Variables other than nnx.RngState."
    return (
        "Give arrays, or jax.ShapeDtypeStruct in their place: a pytree, the variables "
        "of a linen Module (`model.init(...)`), an nnx.State or an nnx.Module."
    )


def _class_way_out(value: type) -> str:
    made = f"{value.__name__}(...)"
    if not issubclass(value, nnx.Module):
        return f"Give an instance: `{made}`."
    return (
        f"Give an instance: `{made}`, or for shapes alone "
        f"`nnx.eval_shape(lambda: {made})`."
    )


_LINEN: Final = (
    "Give its variables: `{0}.init(...)`, or for shapes alone "
    "`jax.eval_shape({0}.init, ...)`."
)


def _is_optimizer(value: object) -> bool:
    """True for an optax transformation: a pair of functions."""
    return (
        isinstance(value, tuple) and hasattr(value, "init") and hasattr(value, "update")
    )


def _is_function(value: object) -> bool:
    is_routine = inspect.isroutine(value) or isinstance(value, functools.partial)
    # What jax.jit gives is neither, but names what it wraps.
    return is_routine or (callable(value) and hasattr(value, "__wrapped__"))
