"""Runs a model, on copies, with any values in its leaves.

Traced once, where JAX can trace it: then the order of computation is there, and every
further run takes the compiled program. What cannot be traced is run as it is.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final

import jax
import jax.extend.core
import numpy as np
from flax import nnx

from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError
from tf2flax._jax.outputs import is_nnx, is_traceable
from tf2flax._jax.restore import take_target

from .capturing import capturing, sown
from .naming import NamedArrays, name_arrays, name_intermediates
from .tracing import Program

# Values of some leaves by name, and names of arrays of the model -> these arrays.
Run = Callable[[Mapping[str, Any], Sequence[str]], dict[str, np.ndarray]]
# Half the time to compile; a program runs some 64 times at most.
_QUICK: Final = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True, slots=True)
class RunModel:
    """A model that can be run.

    Attributes:
        names: Names of the arrays that it gives: outputs, then intermediates.
        outputs: How many of them are outputs.
        run: Runs it, with other values in some leaves, and gives some arrays.
        values: Values of its leaves, by their first names.
        aliases: All names of leaves -> the first names.
        places: Names of arrays -> their numbers in the order of computation; {} where
            JAX cannot trace the model.
        feeding: Gives the leaves that feed an array, by its number, but for what comes
            through arrays of some numbers; None where there are no numbers.
    """

    names: tuple[str, ...]
    outputs: int
    run: Run
    values: dict[str, Any]
    aliases: dict[str, str]
    places: dict[str, int]
    feeding: Callable[[int, Sequence[int]], tuple[str, ...]] | None


def prepare_model(fn: Callable[..., Any], variables: Any, inputs: Any) -> RunModel:
    """Traces a model, or runs it once where JAX cannot trace it.

    Args:
        fn: Called as `fn(variables, *inputs)`.
        variables: A tree of arrays, or an `nnx.Module`.
        inputs: Positional arguments; by name where it is a mapping.

    Raises:
        AssignmentError: `fn` cannot be called, or the inputs are not arguments.
    """
    if not callable(fn):
        raise AssignmentError(
            f"fn: expected a function of variables and inputs, got {show_value(fn)}. "
            "Write model.apply, or lambda model, x: model(x) for an nnx.Module."
        )
    args, kwargs = _arguments(inputs)
    call = _Call(variables, args, kwargs)
    with _highest_precision():
        for function in (capturing(fn, variables), fn):
            model = _traced(call, function)
            if model is not None:
                return model
        return _eager(call, fn)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if is_traceable(inputs):  # of which nobody means the rows
        return (inputs,), {}
    if not isinstance(inputs, (tuple, list)):
        raise AssignmentError(
            "inputs: expected a tuple of the arguments that follow the variables, got "
            f"{show_value(inputs)}. Write (x,) for one."
        )
    return tuple(inputs), {}


class _Call:
    """A call whose arrays are apart: those of leaves first, then those of inputs."""

    def __init__(
        self, variables: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._graph: Any = None
        state = variables
        if isinstance(variables, nnx.Module):
            self._graph, state = nnx.split(variables)
        leaves, self._variables = jax.tree.flatten(state)
        names = _names_of(take_target(variables, "variables"), leaves)
        # Scalars of NumPy are leaves too; among inputs they may be switches.
        leaves = [np.asarray(x) if isinstance(x, np.generic) else x for x in leaves]
        self.names = [n for n, x in zip(names, leaves, strict=True) if _is_traced(x)]
        flat, self._arguments = jax.tree.flatten((args, kwargs), is_leaf=is_nnx)
        self._flat = [*leaves, *flat]
        self._count = len(leaves)
        self.arrays = [x for x in self._flat if _is_traced(x)]
        self.first_names = [names[0] if names else "" for names in self.names]

    def run(self, fn: Callable[..., Any], arrays: Sequence[Any]) -> NamedArrays:
        """Calls a function with other arrays in their places."""
        remaining = iter(arrays)
        filled = [next(remaining) if _is_traced(x) else x for x in self._flat]
        variables = self._variables.unflatten(filled[: self._count])
        args, kwargs = self._arguments.unflatten(filled[self._count :])
        if self._graph is None:
            return name_arrays(fn(variables, *args, **kwargs))
        module = nnx.merge(self._graph, variables)
        named = name_arrays(fn(module, *args, **kwargs))
        if named.intermediates:
            return named
        return dataclasses.replace(
            named, intermediates=name_intermediates(sown(module))
        )

    def filled_with(self, values: Mapping[str, Any]) -> list[Any]:
        """All arrays, with other values in the leaves of these first names."""
        return [
            values.get(name, array)
            for name, array in zip(
                [*self.first_names, *[""] * (len(self.arrays) - len(self.names))],
                self.arrays,
                strict=True,
            )
        ]


def _is_traced(value: Any) -> bool:
    return is_traceable(value)


def _names_of(target: Any, leaves: Sequence[Any]) -> list[tuple[str, ...]]:
    """Names of flat leaves; () for states of random numbers."""
    names: dict[int, list[tuple[str, ...]]] = {}
    for slot in target.slots:
        names.setdefault(id(slot.value), []).append(slot.leaf.names)
    named: list[tuple[str, ...]] = []
    for leaf in leaves:
        # An array that stands at several leaves has a name for each.
        waiting = names.get(id(leaf), [])
        named.append(waiting.pop(0) if waiting else ())
    return named


def _traced(call: _Call, fn: Callable[..., Any]) -> RunModel | None:
    """A model as one program; None where JAX cannot trace it."""
    named: NamedArrays | None = None

    def flat(*arrays: Any) -> list[Any]:
        nonlocal named
        named = call.run(fn, arrays)
        return list(named.all().values())

    try:
        closed = jax.make_jaxpr(flat)(*call.arrays)
    except Exception:  # of the user's code; run as it is, it says what is wrong
        return None
    assert named is not None
    names = tuple(named.all())
    function = jax.extend.core.jaxpr_as_fun(closed)

    @functools.cache
    def compiled(wanted: tuple[str, ...]) -> Any:
        # XLA leaves out what only arrays need that nobody has recorded.
        places = [names.index(name) for name in wanted]

        def some(*arrays: Any) -> list[Any]:
            given = function(*arrays)
            return [given[place] for place in places]

        options = _QUICK if jax.default_backend() == "cpu" else None
        return jax.jit(some, compiler_options=options)

    def run(values: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        with _highest_precision():
            outputs = compiled(tuple(wanted))(*call.filled_with(values))
        return dict(zip(wanted, map(np.asarray, outputs), strict=True))

    program = Program(closed)
    leaf_of = dict(zip(program.inputs, call.first_names, strict=False))

    def feeding(number: int, settled: Sequence[int]) -> tuple[str, ...]:
        inputs = program.feeding(number, frozenset(settled))
        leaves = (leaf_of.get(number) for number in sorted(inputs))
        return tuple(leaf for leaf in leaves if leaf)

    places = dict(zip(names, program.outputs, strict=True))
    return _model(call, run, names, len(named.outputs), places, feeding)


def _eager(call: _Call, fn: Callable[..., Any]) -> RunModel:
    """A model that is run as it is; the first time for what it gives."""
    with _highest_precision():
        first = call.run(fn, call.arrays)

    def run(values: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        with _highest_precision():
            named = call.run(fn, call.filled_with(values)) if values else first
        arrays = named.all()
        return {name: np.asarray(arrays[name]) for name in wanted}

    return _model(call, run, tuple(first.all()), len(first.outputs), {}, None)


def _model(
    call: _Call,
    run: Run,
    names: tuple[str, ...],
    outputs: int,
    places: dict[str, int],
    feeding: Callable[[int, Sequence[int]], tuple[str, ...]] | None,
) -> RunModel:
    return RunModel(
        names=names,
        outputs=outputs,
        run=run,
        values={
            name: array
            for name, array in zip(call.first_names, call.arrays, strict=False)
            if name
        },
        aliases={name: names[0] for names in call.names for name in names},
        places=places,
        feeding=feeding,
    )


@contextlib.contextmanager
def _highest_precision() -> Generator[None]:
    """Lets accelerators multiply float32 as such, unless the caller has a say in it."""
    config: Any = jax.config
    if config.jax_default_matmul_precision is not None:
        yield
        return
    with jax.default_matmul_precision("highest"):
        yield
