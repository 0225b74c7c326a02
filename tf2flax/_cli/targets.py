"""`--target module:attribute`: imports a module, and gets what is to be filled from it.

Imports JAX and Flax, but only when a target is loaded.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import pathlib
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import tf2flax
from tf2flax._base.names import nearest

_FORM: Final = "Write `model:make_params` for `make_params` in model.py, say."
# Lines of an error of the user's code that are shown.
_MAX_LINES: Final = 8
_HELP: Final = (
    "what is filled, as module:attribute: a tree, a Module, or a function without "
    "arguments that gives one; the current directory can be imported from"
)


def add_target(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the option.

    Args:
        parser: Parser of a command.
        required: True if the command cannot do without it.
    """
    parser.add_argument(
        "--target", metavar="MODULE:ATTRIBUTE", required=required, help=_HELP
    )


def load_target(text: str) -> Any:
    """Loads a target.

    Args:
        text: `module:attribute`.

    Returns:
        A tree or a Module. A function is called; what makes an NNX module is called
        under `nnx.eval_shape`, so that its weights take no memory.

    Raises:
        NotFoundError: There is no such module, or it has no such attribute.
        UnsupportedError: The text has another form, the module or the function raises
            an error, or what they give has no shapes.
    """
    name, _, attribute = text.partition(":")
    is_name = all(map(str.isidentifier, name.split("."))) and not name.endswith(".py")
    if not attribute or not is_name:
        raise tf2flax.UnsupportedError(
            f"--target: expected module:attribute, got `{text}`. {_advice(name, text)}"
        )
    return _target_of(_attribute(_import(name), attribute, text), text)


def _advice(name: str, text: str) -> str:
    """What to write instead; the path of a file becomes the name of its module."""
    if not name.endswith(".py"):
        return _FORM
    module = ".".join(pathlib.Path(name).with_suffix("").parts).strip("./")
    attribute = text.partition(":")[2] or "make_params"
    return f"Write the name of the module: `{module}:{attribute}`."


def _import(name: str) -> ModuleType:
    here = str(pathlib.Path.cwd())
    if here not in sys.path:  # `python -m` has put it there, the script has not
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _raised(f"importing `{name}`", error) from error
        raise tf2flax.NotFoundError(
            f"--target: there is no module `{error.name}` - in `{here}` and on "
            "PYTHONPATH. Run the command in the folder of the module, or add the "
            "folder to PYTHONPATH."
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # `sys.exit`, too
        raise _raised(f"importing `{name}`", error) from error


def _attribute(module: ModuleType, attribute: str, text: str) -> Any:
    value: Any = module
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            public = [name for name in dir(value) if not name.startswith("_")]
            close = nearest(part, public)
            fix = f"Did you mean `{close[0]}`?" if close else _FORM
            raise tf2flax.NotFoundError(
                f"--target: `{text}` has no attribute `{part}` - in "
                f"`{module.__file__}`. {fix}"
            ) from error
    return value


def _target_of(value: Any, text: str) -> Any:
    """A tree or a Module as it is; what a function gives."""
    import jax
    from flax import nnx

    _refuse_linen(value, text)
    is_function = callable(value) and jax.tree_util.all_leaves([value])
    if isinstance(value, nnx.Module) or not is_function:
        return value
    try:
        inspect.signature(value).bind()
    except TypeError as error:
        raise tf2flax.UnsupportedError(
            f"--target: `{text}` takes arguments ({error}). Write a function without "
            "them: `def make_target(): return Model(..., rngs=nnx.Rngs(0))`."
        ) from error
    except ValueError:  # some callables of C have no signature
        pass
    try:
        result = _call(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # `sys.exit`, too
        raise _raised(f"`{text}`", error) from error
    _refuse_linen(result, text)
    return result


def _call(function: Callable[[], Any]) -> Any:
    """Calls a function; under `nnx.eval_shape` if it gives an NNX module.

    Only a call tells what it gives. Others are called again as they are: they may give
    `jax.ShapeDtypeStruct`, which no traced function may.
    """
    from flax import nnx

    is_module = False

    @functools.wraps(function)
    def probe() -> Any:
        nonlocal is_module
        result = function()
        is_module = isinstance(result, nnx.Module)
        return result if is_module else None

    try:
        result = nnx.eval_shape(probe)
    except (Exception, SystemExit):  # the second call says it, or needs no tracing
        is_module, result = False, None
    if not is_module:
        return function()
    _start_random_numbers(result)
    return result


def _start_random_numbers(module: Any) -> None:
    """Gives states of random numbers, which no map reaches, a value."""
    import jax
    from flax import nnx

    for _, node in nnx.iter_graph(module):
        if not isinstance(node, nnx.RngState):
            continue
        spec: Any = node.get_raw_value()
        if jax.numpy.issubdtype(spec.dtype, jax.dtypes.prng_key):
            node.set_value(jax.numpy.broadcast_to(jax.random.key(0), spec.shape))
        else:
            node.set_value(jax.numpy.zeros(spec.shape, spec.dtype))


def _refuse_linen(value: Any, text: str) -> None:
    from flax import linen

    is_class = isinstance(value, type) and issubclass(value, linen.Module)
    if is_class or isinstance(value, linen.Module):
        raise tf2flax.UnsupportedError(
            f"--target: `{text}` is a linen Module, which has no shapes by itself. "
            "Write a function that gives its variables: `def make_params(): return "
            "jax.eval_shape(model.init, jax.random.key(0), inputs)`."
        )


def _raised(what: str, error: BaseException) -> tf2flax.CheckpointError:
    """An error of the user's code, with its place."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" - at `{frames[-1].filename}`:{frames[-1].lineno}" if frames else ""
    reason = str(error).rstrip(".") or "no message"
    lines = reason.split("\n")
    if len(lines) > _MAX_LINES:
        reason = "\n".join([*lines[:_MAX_LINES], "…"])
    return tf2flax.UnsupportedError(
        f"--target: {what} raised {type(error).__name__}: {reason}{place}. Run it in "
        "Python to see all of the error."
    )
