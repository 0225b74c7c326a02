"""A tree and the plan that loaded it -> the tensors that its leaves came from.

The map is applied backwards. Tensors that no leaf came from are copied; slots and
averages of tensors that get another shape are dropped.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from tf2flax._assignment.plans.inverse import InversePlan
from tf2flax._base.caller import attribute_of, warn_caller
from tf2flax._base.errors import AssignmentError, CheckpointError
from tf2flax._base.text import list_names
from tf2flax._base.values import TensorSpec
from tf2flax._checkpoint.object_based import ObjectBasedManifest
from tf2flax._checkpoint.stored_tensor import StoredTensor
from tf2flax._formats.object_graph import GRAPH_KEY

from .arrays import prepare_tensor
from .averages import refuse_outgrown, write_both
from .backwards import TensorWriter
from .growing import grown_tensors
from .new_names import NewNames, prepare_new, refuse_written
from .new_tensors import NewTensor, spans_processes, whole_tensor
from .optimizer import join_state
from .slicing import ReadOnce, copy_tensor, join_parts, rewrite_tensor
from .stale import StaleCopies
from .trees import leaves_of


class Invertible(Protocol):
    """A plan that can be inverted: `tf2flax.Plan`."""

    def inverse(self) -> InversePlan:
        """What each tensor is, in terms of leaves.

        Raises:
            DamagedError: The entry of a tensor is malformed.
        """
        ...


def prepare_by_plan(
    tree: Any,
    plan: Invertible,
    *,
    is_copying: bool,
    has_averages: bool = False,
    opt_state: Any = None,
    new: NewNames | None = None,
) -> tuple[list[NewTensor], StaleCopies]:
    """Names and checks the tensors that a plan's leaves came from.

    Args:
        tree: The tree.
        plan: The plan that loaded it.
        is_copying: Whether other tensors of the checkpoint are copied.
        has_averages: Whether averages are written with their variables, and variables
            with their averages.
        opt_state: The state of an optimizer with its plan, to be written as well.
        new: What else is written, under names that the checkpoint lacks.

    Returns:
        The tensors, and what watches the copies while they are written.

    Raises:
        AssignmentError: A leaf cannot be written as what it came from; or it is not a
            plan.
        ExistsError: The checkpoint has a tensor of a new name.
    """
    inverse, leaves = _inverse_of(plan), leaves_of(tree)
    counters: Mapping[str, NewTensor] = {}
    if opt_state is not None:
        state = join_state(inverse, opt_state, leaves)
        inverse, counters = state.inverse, state.counters
        leaves = {**leaves, **state.leaves}
    added = prepare_new(new, leaves, inverse)
    refuse_written(added, inverse)
    if has_averages:
        inverse = write_both(inverse)
    arrays = _prepare_leaves(inverse, leaves, added.leaves, is_copying=is_copying)
    manifest = inverse.manifest
    renewed = _renewed_tensors(inverse, arrays)
    # Leaves that did not fit when they were loaded: written as they are now.
    kept = {place for renewal in inverse.renewals for place in renewal.places}
    covered = [
        assignment.name
        for assignment in inverse.assignments
        if assignment.name not in kept
    ]
    copied = [n for n in inverse.copied if n not in counters] if is_copying else ()
    refuse_outgrown(inverse, frozenset(copied))
    stale = _watch_copies(inverse, covered, copied, renewed)
    tensors = _loaded_tensors(inverse, arrays, covered, stale)
    tensors += [*renewed.values(), *added.tensors, *counters.values()]
    graph = _changed_graph(inverse, stale, counters, is_copying=is_copying)
    left_out_of_copies = {*stale.dropped, *renewed}
    if graph is not None:
        left_out_of_copies.add(GRAPH_KEY)
        tensors.append(prepare_tensor(GRAPH_KEY, graph))
    tensors += [
        copy_tensor(name, StoredTensor(manifest.entry(name)))
        for name in copied
        if name not in left_out_of_copies
    ]
    return tensors, stale


def _loaded_tensors(
    inverse: InversePlan,
    arrays: Mapping[str, NewTensor],
    names: Iterable[str],
    stale: StaleCopies,
) -> list[NewTensor]:
    """The tensors that leaves were loaded from, in their shapes, dtypes and slices."""
    tensors: list[NewTensor] = []
    sharded = frozenset[str]()
    if any(map(spans_processes, arrays.values())):
        # Here, since only jobs of several processes have such leaves.
        from .sharded_backwards import sharded_names, sharded_tensors

        sharded = sharded_names(inverse, arrays)
        tensors += sharded_tensors(inverse, arrays, sharded, stale)
    writer = TensorWriter(inverse, arrays)
    tensors += [
        rewrite_tensor(
            inverse.manifest.entry(name),
            stale.watched(name, functools.partial(writer.tensor, name)),
        )
        for name in names
        if name not in sharded
    ]
    return tensors


def _prepare_leaves(
    inverse: InversePlan,
    leaves: Mapping[str, Any],
    elsewhere: Collection[str],
    *,
    is_copying: bool,
) -> dict[str, NewTensor]:
    """Checks the leaves that a plan writes; warns about those that nothing writes."""
    planned = set(inverse.leaves)
    arrays = {
        name: prepare_tensor(name, leaves[name]) for name in planned & leaves.keys()
    }
    specs = {name: array.spec for name, array in arrays.items()}
    others = [name for name in leaves if name not in elsewhere]
    inverse.check(specs, is_copying=is_copying, present=others)
    if left_out := [name for name in others if name not in planned]:
        warn_caller(
            f"{len(left_out)} leaves that the plan did not load are not written: "
            f"{list_names(left_out, 20)}. Name them, new={{name of a tensor: leaf}}, "
            "or save them in a separate checkpoint."
        )
    return arrays


def _changed_graph(
    inverse: InversePlan,
    stale: StaleCopies,
    counters: Collection[str],
    *,
    is_copying: bool,
) -> Any:
    """The object graph without what is not written; None where nothing is missing."""
    manifest = inverse.manifest
    if not isinstance(manifest, ObjectBasedManifest):
        return None
    if not is_copying:
        return manifest.graph_of([n for n in inverse.copied if n not in counters])
    return manifest.graph_of(stale.dropped) if stale.dropped else None


def _inverse_of(plan: Any) -> InversePlan:
    """Inverts a plan, if it is one of ours."""
    # Classes have the method as well, and other libraries have one of that name.
    if not isinstance(plan, type) and callable(attribute_of(plan, "inverse")):
        module = type(plan).__module__.partition(".")[0]
        inverse = plan.inverse() if module == "tf2flax" else None
        if isinstance(inverse, InversePlan):
            return inverse
    kind = "the class " if isinstance(plan, type) else ""
    name = plan.__name__ if isinstance(plan, type) else type(plan).__name__
    raise AssignmentError(
        f"Expected a plan of tf2flax.plan, got {kind}{name}. Give what "
        "tf2flax.plan(checkpoint, assignment_map, target) returns."
    )


def _renewed_tensors(
    inverse: InversePlan, arrays: Mapping[str, NewTensor]
) -> dict[str, NewTensor]:
    """Tensors in the shape and dtype of leaves that did not fit them, by name."""
    tensors: dict[str, NewTensor] = {}
    for renewal in inverse.renewals:
        if not all(leaf in arrays for leaf in renewal.leaves):
            continue
        if renewal.is_grown:
            tensors |= grown_tensors(inverse, renewal, arrays)
            continue
        if any(spans_processes(arrays[leaf]) for leaf in renewal.leaves):
            # Here, since only jobs of several processes have such leaves.
            from .sharded_backwards import renewed_in_slices

            tensors |= renewed_in_slices(inverse, renewal, arrays)
            continue
        if renewal.parts:
            parts = [arrays[part] for part in renewal.parts]
            tensors |= {name: join_parts(name, parts) for name in renewal.places}
            continue
        leaf = arrays[renewal.leaf]
        resized = inverse.resized(renewal, leaf.spec.shape)
        whole = ReadOnce(leaf.pieces[0].array, uses=len(resized))
        for name, (expression, shape) in resized.items():
            spec = TensorSpec(shape, leaf.spec.dtype)
            array = functools.partial(whole.evaluate, expression)
            tensors[name] = whole_tensor(name, spec, array)
    return tensors


def _watch_copies(
    inverse: InversePlan,
    written: Sequence[str],
    copied: Sequence[str],
    renewed: Collection[str],
) -> StaleCopies:
    """Begins to watch what is copied, by names and by what the object graph knows."""
    manifest = inverse.manifest
    # What the checkpoint lacked makes no copy stale.
    renewed = [name for name in renewed if name in manifest]
    copies: Mapping[str, Sequence[str]] = {}
    if copied and isinstance(manifest, ObjectBasedManifest):
        # A damaged graph is copied as it is.
        with contextlib.suppress(CheckpointError):
            copies = manifest.unwritten_copies({*written, *renewed})
    averages = inverse.stored.averages
    return StaleCopies(
        manifest, written, copied, renewed, copies, averages, inverse.alternatives()
    )
