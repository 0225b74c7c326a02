"""`new=`: leaves, and expressions over leaves, under names that the checkpoint lacks.

    new={"cls/kernel": src("params/head/kernel").transpose()}

    params/head/kernel [3, 7]  -->  tensor cls/kernel [7, 3], in the leaf's dtype

Everything is checked here; leaves are fetched when the tensor is written.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import numpy as np

from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.entries import Rule
from tf2flax._assignment.language.expressions import Expression, Source, sources_of
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.plans.inverse import InversePlan
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._assignment.resolution.sources import find_source
from tf2flax._assignment.resolution.suggestions import did_you_mean
from tf2flax._base.caller import show_value
from tf2flax._base.collapsing import summarise
from tf2flax._base.dtypes import check_holds_numbers
from tf2flax._base.errors import AssignmentError, ExistsError
from tf2flax._base.names import nearest
from tf2flax._base.text import list_names
from tf2flax._base.values import Box, TensorSpec
from tf2flax._formats.object_graph import GRAPH_KEY
from tf2flax._reading.scheduling import Wait, wait_for_nothing
from tf2flax._restoring.plan_reads import plan_reads
from tf2flax._restoring.run_reads import HostLeaves, run_reads

from .leaf_manifest import LeafManifest
from .new_tensors import (
    NewTensor,
    spans_processes,
    stored_dtype,
    stored_key,
    whole_tensor,
)

# What `save_checkpoint` takes: names of tensors -> names of leaves, or expressions.
NewNames = Mapping[str, str | Expression]
# Host memory of the reads of one expression, if it has parts that pass one by one.
_IN_FLIGHT_NBYTES: Final = 256 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class NewLeaves:
    """What `new=` adds to a checkpoint.

    Attributes:
        tensors: The tensors to write.
        leaves: Names of the leaves that they are made of.
    """

    tensors: tuple[NewTensor, ...] = ()
    leaves: frozenset[str] = frozenset()


def prepare_new(
    new: object, leaves: Mapping[str, Any], inverse: InversePlan
) -> NewLeaves:
    """Names and checks what is written under new names.

    Args:
        new: The option; None for nothing.
        leaves: The leaves of the tree, by name.
        inverse: The plan backwards, whose checkpoint has other names.

    Raises:
        AssignmentError: The option is not such a mapping, names no leaf, or has an
            expression that does not fit the leaves. All problems are listed.
        ExistsError: The checkpoint has a tensor of that name already.
        UnsupportedError: No checkpoint holds the dtype of a leaf.
    """
    if new is None:
        return NewLeaves()
    expressions = _check_option(new)
    _refuse_present(list(expressions), inverse)
    manifest = LeafManifest(leaves)
    tensors: list[NewTensor] = []
    used: set[str] = set()
    problems: list[str] = []
    for name, expression in expressions.items():
        try:
            filled = _find_leaves(expression, manifest)
            tensors.append(_prepare(name, filled, manifest))
        except AssignmentError as error:
            problems.append(f"Option new, `{name}`: {error}")
        else:
            for source in sources_of(filled):
                used.update(manifest.leaves_of(parse_name(source.pattern).literal))
    if problems:
        raise AssignmentError(summarise(problems))
    return NewLeaves(tuple(tensors), frozenset(used))


def refuse_without_plan(new: object) -> None:
    """Refuses the option where no plan says what else is written.

    Raises:
        AssignmentError: The option is given.
    """
    if new is not None:
        raise AssignmentError(
            "Option new adds to what a plan writes, and there is no plan. Give plan=, "
            "or a flat mapping of names to arrays, which is written as it stands."
        )


def refuse_written(added: NewLeaves, inverse: InversePlan) -> None:
    """Refuses names that the map has for other leaves, which it writes there.

    Raises:
        AssignmentError: There are such names; all are listed.
    """
    keys = {tensor.key for tensor in added.tensors}
    problems = [
        f"Option new, `{assignment.name}`: by the map it is written from "
        f"{list_names(assignment.leaves)} already. Leave it out, or give another name."
        for assignment in (inverse.assignments if keys else ())
        if stored_key(assignment.name) in keys
    ]
    if problems:
        raise AssignmentError(summarise(problems))


def _check_option(new: object) -> dict[str, Expression]:
    """The option with expressions in place of names of leaves."""
    if not isinstance(new, Mapping):
        raise AssignmentError(
            "Option new: expected a mapping of names of tensors to names of leaves, or "
            f"to expressions over leaves, got {show_value(new)}."
        )
    expressions: dict[str, Expression] = {}
    problems: list[str] = []
    for name, value in cast("Mapping[object, object]", new).items():
        try:
            if not isinstance(name, str):
                raise AssignmentError("expected the name of a tensor as the key.")
            stored_key(name)
            expressions[name] = _check_value(value)
        except AssignmentError as error:
            problems.append(f"Option new, {_show_key(name)}: {error}")
    if problems:
        raise AssignmentError(summarise(problems))
    return expressions


def _show_key(name: object) -> str:
    return f"`{name}`" if isinstance(name, str) else show_value(name)


def _check_value(value: object) -> Expression:
    """A name of a leaf, or an expression, as an expression without open captures."""
    expression = Source(value) if isinstance(value, str) else value
    if not isinstance(expression, Expression):
        raise AssignmentError(
            "expected the name of a leaf, or an expression over leaves (tf2flax.src), "
            f"got {show_value(value)}."
        )
    if expression.keeps_leaf:
        raise AssignmentError(
            'fill="keep" keeps elements of a leaf, and a new tensor has none of its '
            "own. Give fill= a number."
        )
    if isinstance(expression, Source):
        pattern = parse_name(expression.pattern)
        if pattern.captures:
            raise AssignmentError(
                f"`{pattern.text}` has captures, which stand for several leaves. Name "
                "each tensor and its leaf."
            )
        if not pattern.literal or pattern.literal.endswith("/"):
            raise AssignmentError(
                f'"{pattern.text}" is a scope. Name each tensor and its leaf.'
            )
    return expression


def _refuse_present(names: Sequence[str], inverse: InversePlan) -> None:
    """Refuses names that the checkpoint has, stored or in the view of the plan."""
    present = [n for n in names if n in inverse.manifest or n in inverse.view]
    if present:
        verb = "is" if len(present) == 1 else "are"
        raise ExistsError(
            f"Option new: {list_names(present)} {verb} in the checkpoint already - at "
            f"`{inverse.manifest.index_path}`. Choose other names, or load them by the "
            "map of the plan, which writes them back."
        )
    if GRAPH_KEY in names:
        raise AssignmentError(
            f"Option new: `{GRAPH_KEY}` is the name of the object graph of TensorFlow "
            "2, which then could not open the checkpoint. Choose another name."
        )


def _find_leaves(expression: Expression, manifest: LeafManifest) -> Expression:
    """The expression with names of leaves in place of all captures."""
    source = find_source(expression, manifest)
    if not source.missing:
        return source.expression
    missing = source.missing[0]
    if any(name.startswith(f"{missing}/") for name in manifest.names):
        hint = "It is a scope: name each tensor and its leaf."
    else:
        hint = did_you_mean(nearest(missing, manifest.names))
        hint = hint or f"It has {list_names(manifest.names)}."
    raise AssignmentError(f"the tree has no leaf `{missing}`. {hint}")


def _prepare(name: str, expression: Expression, manifest: LeafManifest) -> NewTensor:
    """The tensor that an expression over leaves makes."""
    if isinstance(expression, Source):
        tensor = manifest.tensor(parse_name(expression.pattern).literal)
        return dataclasses.replace(tensor, key=stored_key(name))
    layout = lower(expression, manifest.spec)
    for source in sources_of(expression):
        leaf = parse_name(source.pattern).literal
        check_holds_numbers(manifest.spec(leaf).dtype)
        if spans_processes(manifest.tensor(leaf)):
            raise AssignmentError(
                f"leaf `{leaf}` spans processes, and no process has all that the "
                "expression needs. Name the leaf alone, or replicate it."
            )
    assignment = Assignment(
        leaf=name,
        expression=expression,
        layout=layout,
        shape=layout.shape,
        dtype=layout.dtype,
        entry=Rule(1, expression, (name,), repr(expression)),
    )
    spec = TensorSpec(layout.shape, stored_dtype(name, layout.dtype))
    return whole_tensor(name, spec, functools.partial(_read, assignment, manifest))


def _read(assignment: Assignment, manifest: LeafManifest) -> np.ndarray:
    """Fetches the leaves of an expression, and puts the tensor together."""
    arrays: list[np.ndarray] = []

    def put(leaves: HostLeaves) -> Wait:
        arrays.extend(leaves[assignment.leaf].values())
        return wait_for_nothing

    boxes = {assignment.leaf: (Box.whole(assignment.shape),)}
    run_reads(
        plan_reads([assignment], boxes, manifest),
        put,
        verify=False,
        max_in_flight_bytes=_IN_FLIGHT_NBYTES,
        advance=lambda _nbytes, _name: None,
    )
    (array,) = arrays
    return array
