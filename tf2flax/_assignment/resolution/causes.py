"""Causes of problems: which problems of a map are one mistake, and what it is.

A pure function of problems and names. A scope that is written wrong makes a problem of
each leaf under it; what is said is one line about the scope.

    found no tensor `MobilenetV2/Conv/weights`
    found no tensor `MobilenetV2/Conv/biases`       nothing lies under `MobilenetV2/`;
    159 more                                    ->  161 tensors lie under ...

`missing_tensors` explains tensors that the checkpoint lacks, `missing_leaves` values
that the target lacks; `mismatches` has the reasons for shapes.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Expression, sources_of
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._base.collapsing import collapse
from tf2flax._base.errors import AssignmentError
from tf2flax._base.text import and_more

from .counted_sources import is_counted, write_counted
from .entry_labels import fills_scope, label_of
from .fused import find_slice, part_of
from .gates import find_gate
from .layer_families import left_out_of_stack
from .mismatches import ANOTHER_CONFIGURATION, Reason, find_reason
from .missing_leaves import explain_missing_leaves, explain_wrong_key
from .missing_tensors import explain_missing_tensors
from .new_entries import propose_entry
from .problems import (
    Cause,
    KeyIsNotScope,
    Mismatch,
    Problem,
    SourceNotFound,
    TargetNotFound,
    group_by_key,
    label_of_problems,
)
from .sources import find_source
from .stacked_layers import find_stack
from .suggestions import Surroundings, source_of_entry, write_key
from .swapped_values import SwappedValues
from .ways_out import keep_new_head

# Mismatches that differ in the same sizes are one cause from so many on.
_MIN_OF_ONE_SIZE: Final = 4
# Mismatches of different shapes of which reasons are sought, the first ones.
_MAX_REASONS: Final = 200
# Leaves of a scope whose counted sources are written, since each takes a search.
_MAX_COUNTED: Final = 10
# Lines that say more about one cause.
_MAX_DETAILS: Final = 8


def find_causes(problems: Sequence[Problem], around: Surroundings) -> list[Cause]:
    """Finds the causes of the problems of a map.

    Args:
        problems: All problems.
        around: Names of the checkpoint and the target.

    Returns:
        Causes, the likely causes of others first: the form of the map itself, then
        what is not there, then shapes and dtypes.
    """
    targets = [p for p in problems if isinstance(p, TargetNotFound)]
    sources = [p for p in problems if isinstance(p, SourceNotFound)]
    misfits = [p for p in problems if isinstance(p, Mismatch)]
    kinds = (TargetNotFound, SourceNotFound, Mismatch)
    forms = [p for p in problems if not isinstance(p, kinds)]
    causes = [_explain_form(problem, around) for problem in forms]
    causes += explain_missing_leaves(targets, around)
    causes.sort(key=lambda cause: cause.entry.number)
    return [
        *causes,
        *explain_missing_tensors(sources, around),
        *_explain_mismatches(misfits, around),
    ]


def _explain_form(problem: Problem, around: Surroundings) -> Cause:
    if isinstance(problem, KeyIsNotScope):
        return explain_wrong_key(problem, around)
    return Cause(label_of(problem.entry), problem.fact, (problem,))


def _explain_mismatches(
    problems: Sequence[Mismatch], around: Surroundings
) -> list[Cause]:
    """One cause for each entry and pair of shapes; sizes that are wrong everywhere."""
    groups = [
        [problems[number] for number in group]
        for group in group_by_key(
            problems,
            [
                (p.entry.number, p.shape, p.source_shape, part_of(p))
                if p.source_shape
                else (p.entry.number, p.reason)
                for p in problems
            ],
        )
    ]
    explained = _join_groups(groups[:_MAX_REASONS], around)
    swapped = SwappedValues(problems)
    causes = [
        _explain_group(group, _with_doubt(group, reason, swapped, around), around)
        for group, reason in explained
    ]
    groups = [group for group, _ in explained] + groups[_MAX_REASONS:]
    causes += [
        _explain_group(group, None, around) for group in groups[len(explained) :]
    ]
    pairs = [_differing_sizes(group[0]) for group in groups]
    # Sizes that differ everywhere alike are one cause, whatever the shapes are.
    counts = collections.Counter(pair for group in pairs for pair in group)
    if not counts:
        return causes
    (size, source_size), count = counts.most_common(1)[0]
    if count < _MIN_OF_ONE_SIZE:
        return causes
    alike = [
        cause
        for cause, group in zip(causes, pairs, strict=True)
        if (size, source_size) in group
    ]
    members = tuple(problem for cause in alike for problem in cause.problems)
    whole = Cause(
        label_of_problems(members),
        f"{len(members)} leaves have {size} where the checkpoint has {source_size}: "
        "was the model built with another configuration?",
        members,
        details=tuple(cause.fact for cause in alike[:_MAX_DETAILS]),
    )
    others = zip(causes, pairs, strict=True)
    return [whole, *(c for c, group in others if (size, source_size) not in group)]


def _join_groups(
    groups: Sequence[list[Mismatch]], around: Surroundings
) -> list[tuple[list[Mismatch], Reason | None]]:
    """Joins mismatches of other shapes that one change of the key mends.

    Returns:
        Groups, each with the likely reason.
    """
    joined: dict[object, tuple[list[Mismatch], Reason | None]] = {}
    for number, group in enumerate(groups):
        reason, entry = _reason_of(group[0], around), group[0].entry
        key: object = number
        if reason and reason.change and reason.is_of_key:
            key = entry.number, reason.change(source_of_entry(entry))
        joined.setdefault(key, ([], reason))[0].extend(group)
    return list(joined.values())


def _reason_of(problem: Mismatch, around: Surroundings) -> Reason | None:
    if problem.expression is None:
        return None
    if stack := find_stack(problem, around):
        return stack
    spec_of = around.manifest.spec
    return find_reason(problem.shape, problem.source_shape, problem.expression, spec_of)


def _with_doubt(
    group: Sequence[Mismatch],
    reason: Reason | None,
    swapped: SwappedValues,
    around: Surroundings,
) -> Reason | None:
    """The reason; or a question, where values may be swapped instead."""
    if reason and reason.is_of_key:  # numbers in the key, which say more
        return reason
    first = group[0]
    doubt = swapped.doubt(group) or find_slice(first) or find_gate(first)
    return doubt or _reason_for_first_layer(first, around) or reason


def _reason_for_first_layer(problem: Mismatch, around: Surroundings) -> Reason | None:
    """The reason, where a stack lacks the one layer that has no number."""
    source = problem.expression
    if source is None or not is_counted(source_of_entry(problem.entry)):
        return None
    tensors = [tensor.pattern for tensor in sources_of(source)]
    sizes = _differing_sizes(problem)
    if len(sizes) != 1 or any(s != len(tensors) or n < s for n, s in sizes):
        return None
    first = left_out_of_stack(tensors, around.tensors)
    if not first:
        return None
    return Reason(
        f"{len(tensors)} are stacked, and `{first}` is not among them: TensorFlow "
        "numbers layers from the second one on. Name each in the key."
    )


def _differing_sizes(problem: Mismatch) -> set[tuple[int, int]]:
    """The sizes of leaf and source that differ, in shapes of as many axes."""
    source_shape = problem.source_shape
    if source_shape is None or len(source_shape) != len(problem.shape):
        return set()
    if sorted(source_shape) == sorted(problem.shape):
        return set()
    pairs = zip(problem.shape, source_shape, strict=True)
    return {pair for pair in pairs if pair[0] != pair[1]}


def _explain_group(
    group: Sequence[Mismatch], reason: Reason | None, around: Surroundings
) -> Cause:
    """Mismatches of one entry that have the same shapes."""
    first = group[0]
    rows = collapse([(p.leaf, p.source) for p in group])
    leaf, source = rows[0].cells
    more = len(group) - len(rows[0].members)
    listed = and_more(f"`{leaf}`", more)
    fact = f"leaf {listed} cannot take tensor `{source}`: {first.reason}"
    advice = f"{reason.text}{_way_out(reason, group, around)}" if reason else ""
    if reason and reason.text == ANOTHER_CONFIGURATION:
        advice = f"{advice} {keep_new_head((p.leaf for p in group), around)}"
    return Cause(label_of(first.entry), fact, tuple(group), advice)


def _way_out(reason: Reason, group: Sequence[Mismatch], around: Surroundings) -> str:
    """The key to use instead, or the entry to add."""
    change, entry = reason.change, group[0].entry
    if change is None:
        return ""
    if _is_for_all(reason, group, around) and _fits_all(change, entry, around):
        key = write_key(entry, change(source_of_entry(entry)))
        return f": use the key `{key}`."
    sources = [(p.expression, p.leaf) for p in group if p.expression is not None]
    # The entry's own captures say as much of other leaves.
    is_by_leaf = fills_scope(entry) or reason.is_of_part
    limit = _MAX_COUNTED if is_counted(source_of_entry(entry)) else len(sources)
    sources = [
        (write_counted(entry, expression, leaf, around.manifest), leaf)
        for expression, leaf in sources[: limit if is_by_leaf else 1]
    ]
    new = propose_entry(
        [(change(expression), leaf) for expression, leaf in sources], around.leaves
    )
    if len(sources) < len(group):
        new = dataclasses.replace(new, is_example=True)
    return f", a{str(new)[1:]}" if reason.is_of_part else f". {new}"


def _is_for_all(
    reason: Reason, group: Sequence[Mismatch], around: Surroundings
) -> bool:
    """True if a change is meant for all leaves of the entry, and not for some."""
    if reason.is_of_key:
        return True
    entry = group[0].entry
    claimed = around.claimed.get(entry.number, ())
    if fills_scope(entry) or (reason.is_of_part and len(group) < len(claimed)):
        return False
    # A square leaf would still fit after a transpose, and have other values.
    return not any(_has_shape(source, shape, around) for source, shape in claimed)


def _has_shape(
    source: Expression, shape: tuple[int, ...], around: Surroundings
) -> bool:
    try:
        if is_counted(source):
            source = find_source(source, around.manifest).expression
        if is_counted(source):  # the checkpoint has nothing to count
            return False
        return lower(source, around.manifest.spec).shape == shape
    except AssignmentError:
        return False


def _fits_all(
    change: Callable[[Expression], Expression], entry: MapEntry, around: Surroundings
) -> bool:
    """True if a change of a key fits all leaves that the entry gets."""
    claimed = around.claimed.get(entry.number, ())
    return all(_has_shape(change(source), shape, around) for source, shape in claimed)
