"""`compare_outputs`: runs a model, compares, and finds where and why it differs.

Step by step: `recorded` names what was recorded; `running` runs the model; `rows`
compares; the first array that differs, in the order of computation, leads to the leaves
that feed it, and these to entries of the map; `candidates` tries to permute them.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._assignment.resolution.entry_labels import label_of
from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError
from tf2flax._base.text import counted, list_names
from tf2flax._jax.plan import Plan
from tf2flax._jax.restore import refuse_tracing

from .candidates import Trials, find_changes
from .comparison import Comparison, FirstDifference, MapChange
from .recorded import names_in_model, read_recorded
from .rows import ComparisonRow, Tolerance, compare_arrays
from .running import RunModel, prepare_model


def compare_outputs(
    fn: Callable[..., Any],
    variables: Any,
    inputs: Any,
    recorded: Any,
    *,
    plan: Plan | None = None,
    intermediates: Any = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Comparison:
    """Compares what a model computes with what was recorded, and finds what differs.

    `fn(variables, *inputs)` is called, on copies. Where it is linen's `apply` or takes
    an `nnx.Module`, the outputs of all layers are captured, and can be compared too.

    Args:
        fn: The model: `model.apply`, or `lambda model, x: model(x)`; jitted or not.
        variables: Its first argument: a tree, or an `nnx.Module`.
        inputs: Its other arguments, in a tuple; by name where it is a mapping.
        recorded: Recorded arrays: a tree as the model gives it, with intermediates or
            without; or names -> arrays; or the path of a `.npz` file. A name is that of
            an output, or of a layer (`encoder/layer_0`), or its end. Arrays that are
            inputs of the model are left out.
        plan: The plan that loaded the variables. Then the entries of the map that feed
            the first difference are named, and permuted: at most 64 runs.
        intermediates: Recorded names -> names in the model, where these differ
            (`{"layer_0": "layers_0/mlp_norm"}`); or further recorded arrays, of layers.
        rtol: Relative difference that is accepted, as `numpy.allclose`.
        atol: Absolute difference that is accepted.

    Returns:
        The comparison: print it. `.ok`, `.rows`, `.first`, `.candidates`. NaN, shapes
        that differ and names that the model lacks are told there, not raised.

    Raises:
        AssignmentError: An argument is of the wrong kind.
        NotFoundError: There is no file of recorded arrays.
        DamagedError: The file is not sound.

    Examples:
        >>> import numpy as np, tf2flax
        >>> x = np.ones((2, 3), np.float32)
        >>> comparison = tf2flax.compare_outputs(
        ...     lambda variables, x: x @ variables["kernel"],
        ...     {"kernel": np.eye(3, dtype=np.float32)},
        ...     (x,),
        ...     {"output": x},
        ... )
        >>> comparison.ok
        True
        >>> print(comparison)
        1 array: 1 agree, 0 differ (rtol 1e-05, atol 1e-05)
           array    max abs   max rel    cosine
           output  0.00e+00  0.00e+00  1.000000
    """
    refuse_tracing()
    tolerance = Tolerance(_checked("rtol", rtol), _checked("atol", atol))
    if plan is not None and not isinstance(plan, Plan):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AssignmentError(
            f"plan: expected what tf2flax.plan gives, got {show_value(plan)}."
        )
    wanted, given = _take_recorded(recorded, intermediates)
    model = prepare_model(fn, variables, inputs)
    fed = [name for name, array in wanted.items() if _is_input(array, inputs)]
    pairs, facts = names_in_model(list(wanted), given, model.names, model.outputs, fed)
    are_inputs = [name for name in facts if name in fed]
    rows = _rows(model, wanted, pairs, facts, are_inputs, tolerance)
    comparison = Comparison(
        rows, None, (), *tolerance, _notes(model, pairs, are_inputs)
    )
    first = next((row for row in rows if not row.ok), None)
    if first is None:
        return comparison
    trials = Trials(model, wanted, pairs, first.name, tolerance)
    return _explain(comparison, first, trials, plan)


def _explain(
    comparison: Comparison, first: ComparisonRow, trials: Trials, plan: Plan | None
) -> Comparison:
    """Adds the first difference to a comparison, and what makes it go away."""
    model, notes = trials.model, comparison.notes
    leaves = _leaves_of(model, first, comparison.rows)
    by_leaf = {} if plan is None else _by_leaf(model, plan)
    if plan is not None and not by_leaf:
        notes = (*notes, _unrelated(plan, model))
    fed = [by_leaf[leaf] for leaf in leaves if leaf in by_leaf]
    entries = dict.fromkeys(label_of(assignment.entry) for assignment in fed)
    changes: tuple[MapChange, ...] = ()
    if plan is not None and fed and first.path:
        changes = find_changes(plan, by_leaf, fed, trials)
        notes = (*notes, trials.describe(len(changes)))
    return dataclasses.replace(
        comparison,
        first=FirstDifference(first.name, first.path, leaves, tuple(entries)),
        candidates=changes,
        notes=notes,
    )


def _checked(option: str, value: Any) -> float:
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    if not is_number or not 0 <= value < np.inf:
        raise AssignmentError(
            f"Option {option}: expected a finite number, 0 or more, got "
            f"{show_value(value)}."
        )
    return float(value)


def _take_recorded(
    recorded: Any, intermediates: Any
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All recorded arrays by name, and names in the model that the caller says."""
    wanted = read_recorded(recorded)
    if intermediates is None:
        return wanted, {}
    is_names = isinstance(intermediates, Mapping) and all(
        isinstance(value, str) for value in intermediates.values()
    )
    if not is_names:
        further = read_recorded(intermediates, "intermediates")
        if twice := sorted(further.keys() & wanted.keys()):
            raise AssignmentError(
                f"intermediates: {list_names(twice)} in recorded as well. Give each "
                "recorded array once."
            )
        return {**further, **wanted}, {}
    if unknown := [name for name in intermediates if name not in wanted]:
        raise AssignmentError(
            f"intermediates: {list_names(unknown)} not recorded. Recorded are "
            f"{list_names(list(wanted))}."
        )
    return wanted, dict(intermediates)


def _is_input(array: np.ndarray, inputs: Any) -> bool:
    """True if a recorded array is what the model was given."""
    return any(
        np.shape(value) == array.shape and np.array_equal(value, array)
        for value in jax.tree.leaves(inputs)
        if isinstance(value, (np.ndarray, jax.Array))
        and not jax.numpy.issubdtype(value.dtype, jax.dtypes.extended)
    )


def _rows(
    model: RunModel,
    wanted: Mapping[str, np.ndarray],
    pairs: Mapping[str, str],
    facts: Mapping[str, str],
    skipped: list[str],
    tolerance: Tolerance,
) -> tuple[ComparisonRow, ...]:
    """Rows in the order of computation; arrays that the model lacks come last."""
    names = model.names
    arrays = model.run({}, tuple(dict.fromkeys(pairs.values())))

    def place(name: str) -> tuple[int, int, int]:
        path = pairs[name]
        # What a layer gives is often what the last layer in it gives: inner ones come
        # first, the outputs of the model last. The last number is a place in a tuple.
        depth = path.rstrip("/0123456789").count("/") + 1
        is_output = names.index(path) < model.outputs
        return model.places.get(path, 0), 0 if is_output else -depth, names.index(path)

    rows = [
        compare_arrays(name, path, arrays[path], wanted[name], tolerance)
        for name in sorted(pairs, key=place)
        for path in [pairs[name]]
    ]
    rows += [
        ComparisonRow(name, "", wanted[name].shape, False, fact)
        for name, fact in facts.items()
        if name not in skipped
    ]
    return tuple(rows)


def _notes(
    model: RunModel, pairs: Mapping[str, str], are_inputs: list[str]
) -> tuple[str, ...]:
    notes: list[str] = []
    outputs = model.names[: model.outputs]
    if left := [name for name in outputs if name not in pairs.values()]:
        notes.append(f"Outputs of the model that are not recorded: {list_names(left)}.")
    if are_inputs:
        notes.append(f"Recorded inputs, not compared: {list_names(are_inputs)}.")
    if not model.places:
        notes.append(
            "JAX cannot trace the model: arrays come in the order in which it gives "
            "them, and nothing tells which leaves feed them."
        )
    return tuple(notes)


def _leaves_of(
    model: RunModel, first: ComparisonRow, rows: tuple[ComparisonRow, ...]
) -> tuple[str, ...]:
    """The leaves that feed the first difference, but through arrays that agree."""
    place = model.places.get(first.path)
    if model.feeding is None or place is None:
        # All that may: where nothing tells, none is left out.
        return tuple(model.values) if first.path else ()
    settled = [model.places[row.path] for row in rows if row.ok and row.path]
    return model.feeding(place, [number for number in settled if number != place])


def _by_leaf(model: RunModel, plan: Plan) -> dict[str, Assignment]:
    """The assignments of a plan, by the first names of leaves of the variables."""
    return {
        model.aliases[assignment.leaf]: assignment
        for assignment in plan.assignments
        if assignment.leaf in model.aliases
    }


def _unrelated(plan: Plan, model: RunModel) -> str:
    planned = [assignment.leaf for assignment in plan.assignments]
    return (
        f"The plan fills {list_names(planned, 2)}; the variables have "
        f"{counted(len(model.values), 'leaf', 'leaves')}, "
        f"{list_names(list(model.values), 2)}. Give the variables that it restored."
    )
