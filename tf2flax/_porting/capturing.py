"""Functions that run a model -> functions that give the outputs of its layers as well.

linen's `apply` is asked for `capture_intermediates`; a function of an NNX module runs
under `nnx.capture`. Others give what they give.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from flax import linen, nnx

_COLLECTION: Final = "intermediates"
# New in some version of Flax that is newer than the oldest we run on.
_CAPTURE: Final[Any] = getattr(nnx, "capture", None)


def capturing(fn: Callable[..., Any], variables: Any) -> Callable[..., Any]:
    """Wraps a function, so that it gives the outputs of all layers too.

    Args:
        fn: The function, perhaps jitted.
        variables: Its first argument.

    Returns:
        A function that gives outputs and intermediates; the same function where it is
        not known how it runs the model.
    """
    if isinstance(variables, nnx.Module):
        return _capturing_nnx(_unjitted(fn))
    return _capturing_linen(fn)


def sown(module: nnx.Module) -> nnx.State[Any, Any]:
    """The intermediates that a module holds, where `sow` put them."""
    return nnx.state(module, nnx.Intermediate)


def _capturing_nnx(fn: Callable[..., Any]) -> Callable[..., Any]:
    if _CAPTURE is None:
        return fn
    return _CAPTURE(fn, nnx.Intermediate, method_outputs=nnx.Intermediate)


def _capturing_linen(fn: Callable[..., Any]) -> Callable[..., Any]:
    given: Mapping[str, Any] = {}
    inner = _unjitted(fn)
    args: tuple[Any, ...] = ()
    if isinstance(inner, functools.partial):
        inner, args, given = _unjitted(inner.func), inner.args, inner.keywords
    is_apply = inspect.ismethod(inner) and inner.__func__ is linen.Module.apply
    # Whoever says what is mutable gets that, and says what is captured.
    if not is_apply or args or "mutable" in given or "capture_intermediates" in given:
        return fn

    def apply(variables: Any, *inputs: Any, **options: Any) -> Any:
        if isinstance(variables, Mapping):
            # Those of `init`, to which linen would add.
            variables = {k: v for k, v in variables.items() if k != _COLLECTION}
        return inner(
            variables,
            *inputs,
            **given,
            **options,
            capture_intermediates=True,
            mutable=[_COLLECTION],
        )

    return apply


def _unjitted(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function in place of its jitted form, whose trace cannot be captured."""
    inner: Any = fn
    while hasattr(inner, "__wrapped__"):
        # A decorator of the user's is no jit.
        if inspect.isfunction(inner) or inspect.ismethod(inner):
            break
        inner = inner.__wrapped__
    return inner
