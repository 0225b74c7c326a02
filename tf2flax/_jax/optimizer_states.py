"""A state of optax -> what of it has the structure of the parameters, and what counts.

Goes by the types of optax's states, which are named tuples, wherever they lie: in
chains, masks, `multi_transform`, `MultiSteps`, a TrainState or an `nnx.Optimizer`.
Optax itself is not imported.

    (EmptyState(), ScaleByAdamState(count, mu, nu), EmptyState())
                   "1/count" counts; "1/mu" first, "1/nu" second moments

Source: optax/_src/transform.py, factorized.py; optax/transforms/_accumulation.py.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from flax import nnx

from tf2flax._base import moments
from tf2flax._base.moments import Moment

from .trees import Path, is_array, join_path, one_level

# Fields of optax's states that have the structure of the parameters; None for those
# that TensorFlow does not have, which keep what they hold.
_ADAM: Final = {"mu": moments.FIRST_MOMENT, "nu": moments.SECOND_MOMENT}
_CENTRED: Final = {"mu": moments.MEAN_GRADIENT, "nu": moments.MEAN_SQUARE}
_RMS: Final = {"nu": moments.MEAN_SQUARE}
_FACTORED: Final = {
    "v_row": moments.ROWS,
    "v_col": moments.COLUMNS,
    "v": moments.UNFACTORED,
}
_FIELDS: Final[Mapping[str, Mapping[str, Moment | None]]] = {
    "ScaleByAdamState": _ADAM,
    "ScaleByRmsState": _RMS,
    "ScaleByRmsWithCountState": _RMS,
    "ScaleByRStdDevState": _CENTRED,
    "ScaleByRStdDevWithCountState": _CENTRED,
    "ScaleByRssState": {"sum_of_squares": moments.SUM_OF_SQUARES},
    "ScaleByAdaDeltaState": {
        "e_g": moments.DELTA_GRADIENT,
        "e_x": moments.DELTA_UPDATE,
    },
    "TraceState": {"trace": moments.MOMENTUM},
    "FactoredState": _FACTORED,
    "ScaleByFtrlState": {
        "accumulator": moments.FTRL_ACCUMULATOR,
        "linear": moments.FTRL_LINEAR,
    },
    # Only behind a FactoredState: else it averages what TensorFlow does not.
    "EmaState": {"ema": moments.FACTORED_MOMENTUM},
    "MultiStepsState": {"acc_grads": None},
}
# States without their types, as in an `nnx.State` of an optimizer, by their fields.
_BY_FIELDS: Final = {
    frozenset({"count", "mu", "nu"}): "ScaleByAdamState",
    frozenset({"mu", "nu"}): "ScaleByRStdDevState",
    frozenset({"nu"}): "ScaleByRmsState",
    frozenset({"sum_of_squares"}): "ScaleByRssState",
    frozenset({"e_g", "e_x"}): "ScaleByAdaDeltaState",
    frozenset({"trace"}): "TraceState",
    frozenset({"count", "v_row", "v_col", "v"}): "FactoredState",
}
# What stands behind one of these in a chain means something else than alone.
_SCALING: Final = frozenset(
    ("FactoredState", *(name for name in _FIELDS if name.startswith("ScaleByR")))
)
# What counts steps: of transformations, and of a TrainState or `nnx.Optimizer`.
_COUNTS: Final = frozenset({"count", "gradient_step"})
_STEP: Final = ("step",)
_OPT_STATE: Final = ("opt_state",)


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A part of a state that has the structure of the parameters, or may have it.

    Attributes:
        path: Its place, as names of leaves begin: `0/mu`.
        name: Name of the field: `mu`.
        state: Type of the state.
        moment: What it is; None where TensorFlow has no such thing.
        is_known: True if the type of the state is known.
    """

    path: str
    name: str
    state: str
    moment: Moment | None
    is_known: bool


@dataclasses.dataclass(frozen=True, slots=True)
class StateParts:
    """Parts of a state.

    Attributes:
        fields: What has the structure of the parameters, or may have it.
        counts: Names of leaves that count steps; those of known states first.
    """

    fields: tuple[Field, ...]
    counts: tuple[str, ...]


def find_parts(opt_state: Any) -> StateParts:
    """Finds the parts of a state.

    Args:
        opt_state: A state of optax, or what holds it.
    """
    walk = _Walk()
    walk.enter(opt_state, (), "")
    return StateParts(tuple(walk.fields), (*walk.counts, *walk.steps))


class _Walk:
    """Collects parts on the way through a state."""

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.counts: list[str] = []
        self.steps: list[str] = []

    def enter(self, node: Any, path: Path, before: str) -> None:
        """Looks at a node, and at what is in it.

        Args:
            node: The node.
            path: Where it is.
            before: Type of the scaling state that stands before it in a chain; "" where
                there is none.
        """
        if is_array(node) or isinstance(node, nnx.Variable):
            return
        if (kind := _type_of(node)) is not None:
            self._take_state(kind, node, path, before)
            return
        children = list(_children(node))
        if any(key == _OPT_STATE for key, _ in children):
            # A TrainState or `nnx.Optimizer`, whose parameters are no state.
            children = [pair for pair in children if pair[0] in (_OPT_STATE, _STEP)]
            steps = [key for key, child in children if key == _STEP and _is_leaf(child)]
            self.steps += [join_path((*path, *key)) for key in steps]
        is_chain = type(node) in (tuple, list) or _is_numbered(node)
        for key, child in children:
            self.enter(child, (*path, *key), before)
            if is_chain and _type_of(child) in _SCALING:
                before = _type_of(child) or ""

    def _take_state(self, kind: str, node: Any, path: Path, before: str) -> None:
        named = _FIELDS.get(kind)
        if kind == "EmaState" and before != "FactoredState":
            named = None
        for key, child in _fields_of(node):
            place = (*path, key)
            if key in _COUNTS and _is_leaf(child):
                self.counts.append(join_path(place))
            elif named is not None and key in named:
                moment = named[key]
                if kind == "TraceState" and before in _SCALING - {"FactoredState"}:
                    moment = moments.RMS_MOMENTUM
                self.fields.append(Field(join_path(place), key, kind, moment, True))
            elif named is None and not _is_leaf(child):
                # What may be a state, or have the structure of the parameters.
                self.fields.append(Field(join_path(place), key, kind, None, False))
                self.enter(child, place, before)
            else:
                self.enter(child, place, before)


def _type_of(node: Any) -> str | None:
    """The type of a state of optax; None for what is none."""
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node).__name__
    if isinstance(node, (Mapping, nnx.State)):
        keys = frozenset(map(str, node.keys()))
        return _BY_FIELDS.get(keys)
    return None


def _fields_of(node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, tuple):
        fields: Sequence[str] = getattr(node, "_fields")  # noqa: B009
        return list(zip(fields, node, strict=True))
    return [(str(key), child) for key, child in node.items()]


def _children(node: Any) -> Iterator[tuple[Path, Any]]:
    """What lies directly in a node that is not a state, with its keys."""
    if isinstance(node, (Mapping, nnx.State)):
        yield from (((key,), child) for key, child in node.items())
    elif isinstance(node, nnx.Pytree):
        yield from (((name,), child) for name, child in vars(node).items())
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        for field in dataclasses.fields(node):
            if hasattr(node, field.name):
                yield (field.name,), getattr(node, field.name)
    else:
        yield from one_level(node)


def _is_numbered(node: Any) -> bool:
    """True for a chain of which only the numbers are left, as in an `nnx.State`."""
    return isinstance(node, (Mapping, nnx.State)) and all(
        isinstance(key, int) for key in node
    )


def _is_leaf(value: Any) -> bool:
    if is_array(value) or isinstance(value, (nnx.Variable, bool, int, float)):
        return True
    return getattr(value, "shape", None) == ()  # a scalar of NumPy
