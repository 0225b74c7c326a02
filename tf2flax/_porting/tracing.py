"""A trace of a model -> in which order it computes arrays, and what feeds each of them.

Every array of the trace gets a number, in the order of computation, with calls inlined:

    0 kernel   1 bias   2 x         leaves and inputs
    3 = dot 2 0     4 = add 3 1     5 = tanh 4

A lower number is computed earlier. What feeds 5 are 4, 1, 3, 0 and 2.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import jax.extend.core as jex

# Primitives whose jaxprs are not run once from beginning to end.
_OPAQUE: Final = frozenset({"while", "cond", "scan"})


class Program:
    """What feeds what in a trace.

    Attributes:
        inputs: Numbers of the inputs.
        outputs: Numbers of the outputs; -1 for one that is a constant.
    """

    def __init__(self, closed: Any) -> None:
        """Numbers the arrays of a `ClosedJaxpr`."""
        self._numbers = itertools.count()
        self._parents: dict[int, tuple[int, ...]] = {}
        self.inputs: tuple[int, ...] = tuple(self._new() for _ in closed.jaxpr.invars)
        constants = [self._new() for _ in closed.jaxpr.constvars]
        outputs = self._inline(closed.jaxpr, constants, self.inputs)
        self.outputs: tuple[int, ...] = tuple(outputs)

    def feeding(self, number: int, settled: Collection[int]) -> frozenset[int]:
        """Numbers of the inputs that feed an array.

        Args:
            number: The array.
            settled: Arrays that are right, so that nothing before them matters.
        """
        inputs = frozenset(self.inputs)
        seen: set[int] = set()
        stack = [number]
        while stack:
            array = stack.pop()
            for parent in self._parents.get(array, ()):
                if parent not in seen and parent not in settled:
                    seen.add(parent)
                    stack.append(parent)
        return frozenset(seen & inputs)

    def _new(self, *parents: int) -> int:
        number = next(self._numbers)
        if parents:
            self._parents[number] = parents
        return number

    def _inline(
        self, jaxpr: Any, constants: Sequence[int], inputs: Sequence[int]
    ) -> list[int]:
        """Numbers what a jaxpr computes; gives the numbers of its outputs."""
        numbers: dict[Any, int] = dict(zip(jaxpr.constvars, constants, strict=True))
        numbers.update(zip(jaxpr.invars, inputs, strict=True))
        for eqn in jaxpr.eqns:
            given = [_number_of(atom, numbers) for atom in eqn.invars]
            numbers.update(zip(eqn.outvars, self._outputs_of(eqn, given), strict=True))
        return [_number_of(atom, numbers) for atom in jaxpr.outvars]

    def _outputs_of(self, eqn: Any, given: Sequence[int]) -> list[int]:
        """Numbers the outputs of one equation."""
        if eqn.primitive.name == "scan":
            return self._scanned(eqn, given)
        inner = _called(eqn)
        if inner is not None:
            jaxpr, count = inner
            constants = [self._new() for _ in range(count)]
            return self._inline(jaxpr, constants, given)
        parents = [number for number in given if number >= 0]
        return [self._new(*parents) for _ in eqn.outvars]

    def _scanned(self, eqn: Any, given: Sequence[int]) -> list[int]:
        """Numbers a loop once, so that what a layer computes is in order.

        What is carried comes from before the loop and from the layer before.
        """
        closed = eqn.params["jaxpr"]
        first, count = eqn.params["num_consts"], eqn.params["num_carry"]
        inside = [self._new(*(n for n in (number,) if n >= 0)) for number in given]
        constants = [self._new() for _ in closed.jaxpr.constvars]
        outputs = self._inline(closed.jaxpr, constants, inside)
        for carried, last in zip(inside[first : first + count], outputs, strict=False):
            before = self._parents.get(carried, ())
            self._parents[carried] = (*before, *(n for n in (last,) if n >= 0))
        # Stacked outputs are numbered where the layer computes them.
        return outputs


def _called(eqn: Any) -> tuple[Any, int] | None:
    """The jaxpr that an equation calls once, and how many constants it has."""
    if eqn.primitive.name in _OPAQUE:
        return None
    for value in _jaxprs_in(eqn.params):
        jaxpr = value.jaxpr if isinstance(value, jex.ClosedJaxpr) else value
        fits_inputs = len(jaxpr.invars) == len(eqn.invars)
        if fits_inputs and len(jaxpr.outvars) == len(eqn.outvars):
            return jaxpr, len(jaxpr.constvars)
    return None


def _jaxprs_in(params: Mapping[str, Any]) -> Iterator[Any]:
    for value in params.values():
        if isinstance(value, (jex.ClosedJaxpr, jex.Jaxpr)):
            yield value


def _number_of(atom: Any, numbers: Mapping[Any, int]) -> int:
    return -1 if isinstance(atom, jex.Literal) else numbers[atom]
