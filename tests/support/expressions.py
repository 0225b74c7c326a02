"""Random source expressions together with what NumPy makes of them."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

import tf2flax
from tf2flax import Expression

SHAPES = st.sampled_from(
    [
        (),
        (),
        (1,),
        (24,),
        (4, 6),
        (2, 3, 4),
        (1, 4, 6),
        (6, 4, 1),
        (36,),
        (6, 6),
        (2, 2, 9),
        (0, 3),
        (0,),
        (2, 0, 3),
    ]
)
# Larger results take long and show nothing more.
MAX_SIZE = 4000


@dataclasses.dataclass(frozen=True)
class Case:
    """An expression, and its value."""

    expression: Expression
    value: np.ndarray


def tensors(
    count: int = 3, dtype: str = "i4"
) -> st.SearchStrategy[dict[str, np.ndarray]]:
    """Tensors whose elements are all different."""

    def make(shapes: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
        return {
            f"t{i}": (np.arange(np.prod(shape, dtype=int)) + 100 * i)
            .astype(dtype)
            .reshape(shape)
            for i, shape in enumerate(shapes)
        }

    return st.lists(SHAPES, min_size=count, max_size=count).map(make)


@st.composite
def cases(
    draw: st.DrawFn,
    arrays: Mapping[str, np.ndarray],
    *,
    steps: int = 6,
    is_bijective: bool = False,
    is_arithmetic: bool = False,
) -> Case:
    """An expression of a few steps; bijective ones lose and repeat no element."""
    name = draw(st.sampled_from(sorted(arrays)))
    case = Case(tf2flax.src(name), arrays[name])
    unused = [other for other in sorted(arrays) if other != name]
    for _ in range(draw(st.integers(0, steps))):
        verbs = ["transpose", "reverse", "reshape", "merge", "rearrange", "join"]
        if not is_bijective:
            verbs += ["index", "take", "cast", "repeat"]
        if is_arithmetic:
            verbs += ["number", "negate", "combine", "pad", "fill"]
        verb = draw(st.sampled_from(verbs))
        if verb in ("number", "negate", "combine"):
            case = draw(_computed(case, verb, arrays))
        elif verb in ("pad", "fill"):
            case = draw(_filled(case, verb))
        elif verb == "join":
            case = draw(_joined(case, arrays, unused))
        elif verb == "repeat":
            case = draw(_repeated(case))
        else:
            case = draw(_changed(case, verb))
        if case.value.size > MAX_SIZE:
            break
    return case


def _shapes(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    shape: list[int] = []
    while size > 1 and len(shape) < 4:
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        shape.append(draw(st.sampled_from(divisors)))
        size //= shape[-1]
    return tuple(draw(st.permutations([*shape, size])))


@st.composite
def _changed(draw: st.DrawFn, case: Case, verb: str) -> Case:
    e, a = case.expression, case.value
    if verb == "transpose" and a.ndim:
        axes = draw(st.permutations(range(a.ndim)))
        signed = [axis - a.ndim if draw(st.booleans()) else axis for axis in axes]
        return Case(e.transpose(*signed), a.transpose(axes))
    if verb == "reverse":
        return Case(e.transpose(), a.transpose())
    if verb == "reshape" and not a.size:
        shape = draw(st.sampled_from([(0,), (0, 2), (3, 0), (2, 0, 2)]))
        return Case(e.reshape(*shape), a.reshape(shape))
    if verb == "reshape" and a.size == 1 and draw(st.booleans()):
        return Case(e.reshape(()), a.reshape(()))
    if verb == "reshape":
        shape = list(_shapes(draw, a.size))
        if draw(st.booleans()):
            shape[draw(st.integers(0, len(shape) - 1))] = -1
        return Case(e.reshape(*shape), a.reshape(shape))
    if verb == "merge" and a.ndim >= 2:
        i = draw(st.integers(0, a.ndim - 2))
        shape = (*a.shape[:i], a.shape[i] * a.shape[i + 1], *a.shape[i + 2 :])
        return Case(e.reshape(shape), a.reshape(shape))
    if verb == "rearrange" and a.ndim and a.shape[-1] % 2 == 0:
        pattern, half = "... (p q) -> q ... p", a.shape[-1] // 2
        split = a.reshape(*a.shape[:-1], 2, half)
        return Case(e.rearrange(pattern, p=2), np.moveaxis(split, -1, 0))
    if verb == "index":
        index = draw(_indices(a.shape))
        return Case(e[index], a[index])
    if verb == "take" and a.ndim and a.shape[0]:
        rows = draw(st.lists(st.integers(0, a.shape[0] - 1), max_size=6))
        return Case(e.take(rows), a[np.array(rows, int)])
    if verb == "cast":
        dtype = draw(st.sampled_from(["int64", "float32"]))
        return Case(e.cast(dtype), a.astype(dtype))
    return case


@st.composite
def _indices(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    items: list[Any] = []
    for dim in shape[: draw(st.integers(0, len(shape)))]:
        bounds = st.none() | st.integers(-dim - 1, dim + 1)
        step = st.sampled_from([None, 1, 2, -1, -2, 3])
        kinds = [st.builds(slice, bounds, bounds, step), st.none()]
        if dim:
            kinds.append(st.integers(-dim, dim - 1))
        item = draw(st.one_of(kinds))
        items += [None, slice(None)] if item is None else [item]
    if draw(st.booleans()):
        items.append(...)
    return tuple(items)


@st.composite
def _joined(
    draw: st.DrawFn, case: Case, arrays: Mapping[str, np.ndarray], unused: list[str]
) -> Case:
    """Joined with another tensor of the same elements' count, if there is one."""
    e, a = case.expression, case.value
    same = [name for name in unused if arrays[name].size == a.size]
    if not same or a.ndim > 4:
        return case
    name = draw(st.sampled_from(same))
    unused.remove(name)
    other = tf2flax.src(name).reshape(a.shape).cast(a.dtype)
    value = arrays[name].reshape(a.shape).astype(a.dtype)
    return draw(_pair(Case(e, a), Case(other, value)))


@st.composite
def _repeated(draw: st.DrawFn, case: Case) -> Case:
    """Joined with a part of itself."""
    e, a = case.expression, case.value
    if not a.ndim or a.ndim > 4:
        return case
    return draw(_pair(case, Case(e[::-1], a[::-1])))


@st.composite
def _pair(draw: st.DrawFn, first: Case, second: Case) -> Case:
    ndim = first.value.ndim
    values = (first.value, second.value)
    if ndim and draw(st.booleans()):
        axis = draw(st.integers(-ndim, ndim - 1))
        joined = tf2flax.concat(first.expression, second.expression, axis=axis)
        return Case(joined, np.concatenate(values, axis))
    axis = draw(st.integers(-ndim - 1, ndim))
    joined = tf2flax.stack(first.expression, second.expression, axis=axis)
    return Case(joined, np.stack(values, axis))


@st.composite
def _computed(
    draw: st.DrawFn, case: Case, verb: str, arrays: Mapping[str, np.ndarray]
) -> Case:
    """Together with a number or with another tensor; values stay small."""
    e, a = case.expression, case.value
    if verb == "negate":
        return Case(-e, -a)
    sign = draw(st.sampled_from(["+", "-", "*"]))
    function: Any = {"+": operator.add, "-": operator.sub, "*": operator.mul}[sign]
    if verb == "number":
        number: Any = draw(st.integers(-3, 3))
        if a.dtype.kind == "f" and draw(st.booleans()):
            number = number + 0.1
        with np.errstate(all="ignore"):
            if draw(st.booleans()):
                return Case(function(e, number), function(a, a.dtype.type(number)))
            return Case(function(number, e), function(a.dtype.type(number), a))
    name = draw(st.sampled_from(sorted(arrays)))
    if arrays[name].size != a.size or sign == "*":
        return Case(e - e, a - a)
    other = tf2flax.src(name).reshape(a.shape).cast(a.dtype)
    return Case(
        function(e, other), function(a, arrays[name].reshape(a.shape).astype(a.dtype))
    )


@st.composite
def _filled(draw: st.DrawFn, case: Case, verb: str) -> Case:
    """With elements that the tensor does not have."""
    e, a = case.expression, case.value
    number = draw(st.integers(-3, 3))
    if verb == "pad" and a.ndim <= 4:
        pair = st.tuples(st.integers(0, 2), st.integers(0, 2))
        widths = tuple(draw(pair) for _ in a.shape)
        value = np.pad(a, widths, constant_values=number) if a.ndim else a
        return Case(e.pad(widths, fill=number), value)
    if verb == "fill" and a.ndim:
        axis = draw(st.integers(-a.ndim, a.ndim - 1))
        rows = draw(st.lists(st.integers(-1, a.shape[axis] - 1), max_size=6))
        # A row more, which -1 means for NumPy.
        widths = [(0, int(i == axis % a.ndim)) for i in range(a.ndim)]
        more = np.pad(a, widths, constant_values=number)
        taken = np.take(more, np.array(rows, int), axis)
        return Case(e.take(rows, axis=axis, fill=number), taken)
    return case
