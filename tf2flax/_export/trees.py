"""A checkpoint and a Flax target -> the target's tree, in a format of other libraries.

Leaves that the map fills are streamed from the checkpoint; leaves that it keeps come
from the target. The names of leaves are written, joined by "/". Imports JAX.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tf2flax._assignment.language.grammar import FrozenMap, freeze_map
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.progress import Advance, ProgressFunction
from tf2flax._base.text import list_names
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.opening import open_checkpoint
from tf2flax._checkpoint.state import PathLike
from tf2flax._writing.new_tensors import NewTensor
from tf2flax._writing.trees import leaves_of

from .convert import ConversionReport, Output, metadata_of, prepare_output
from .exporter import ExportedTensor, TakeBox, TensorSource
from .selection import Selection, select_by_map
from .source import CheckpointSource

if TYPE_CHECKING:
    from tf2flax._jax.restore import Job


def convert_tree(
    checkpoint: Checkpoint,
    out: PathLike,
    assignment_map: Any,
    target: Any,
    *,
    format: str | None = None,
    dtype: Any = None,
    options: tuple[int, bool, bool | str] = (1, False, False),
    overwrite: bool = False,
    verify: bool = True,
    progress: bool | ProgressFunction = False,
) -> ConversionReport:
    """Writes what a restore into a target would give, without placing it anywhere.

    Memory holds what `convert` holds, besides the leaves of the target that are kept.
    Warns of what `Plan.restore` warns of.

    Args:
        checkpoint: The checkpoint.
        out: As `convert`.
        assignment_map: As `tf2flax.plan`.
        target: As `tf2flax.plan`.
        format: As `convert`.
        dtype: As `tf2flax.plan`.
        options: `data_files`, `flat` and `by_reference` of `convert`.
        overwrite: As `convert`.
        verify: As `convert`.
        progress: As `convert`.

    Returns:
        What was written; tensors that fill no leaf are dropped, and leaves that the map
        does not fill are in `kept`.

    Raises:
        CheckpointError: As `tf2flax.plan` and `convert`.
    """
    from tf2flax._jax.restore import warn_of_leftovers

    output = prepare_output(
        out,
        format=format,
        options=options,
        overwrite=overwrite,
        verify=verify,
        progress=progress,
    )
    frozen = freeze_map(assignment_map)
    job = _plan_target(checkpoint, frozen, target, dtype)
    plan = job.plan
    loaded = [ExportedTensor(a.leaf, a.shape, a.dtype, a) for a in plan.assignments]
    held, prefix = _hold(target, plan.resolution.kept, checkpoint)
    kept = _kept_tensors(held, prefix, output)
    kept_names = {tensor.name for tensor in kept}

    def make_source(tensors: list[ExportedTensor], advance: Advance) -> TensorSource:
        metadata = metadata_of(checkpoint, frozen)

        def part(opened: Checkpoint, *, is_kept: bool) -> CheckpointSource:
            members = [t for t in tensors if (t.name in kept_names) is is_kept]
            return CheckpointSource(
                opened, members, metadata, verify=output.is_verified, advance=advance
            )

        loaded_part = part(checkpoint, is_kept=False)
        kept_part = part(held, is_kept=True)
        return _JoinedSource(tensors, (loaded_part, kept_part), prefix)

    tensors = sorted([*loaded, *kept], key=_name_of)
    selection = Selection(tuple(tensors), plan.unused)
    report = output.write(checkpoint, selection, make_source)
    warn_of_leftovers(job)
    return dataclasses.replace(report, kept=tuple(sorted(kept_names)))


def _plan_target(
    checkpoint: Checkpoint, entries: FrozenMap, target: Any, dtype: object
) -> Job:
    """Plans as `tf2flax.plan` does."""
    from tf2flax._jax.options import check_options
    from tf2flax._jax.restore import check_filled, check_kept, make_job, take_target

    checked = check_options("plan", {"dtype": dtype})
    job = make_job(checkpoint, entries, take_target(target), checked)
    check_kept(job)
    check_filled(job)
    return job


class _JoinedSource:
    """The tensors of two sources: loaded leaves, and those that are kept."""

    def __init__(
        self,
        tensors: Sequence[ExportedTensor],
        parts: Sequence[CheckpointSource],
        prefix: str,
    ) -> None:
        """Joins sources.

        Args:
            tensors: All tensors, sorted by name.
            parts: The checkpoint, and the leaves that are kept.
            prefix: What the names of the second begin with, and no others.
        """
        self.tensors = tensors
        self._checkpoint, self._held = parts
        self._prefix = prefix

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text about the conversion."""
        return self._checkpoint.metadata

    @property
    def index_paths(self) -> Sequence[str]:
        """The index files of TensorFlow that name the tensors."""
        return self._checkpoint.index_paths

    def read_into(self, take: TakeBox, *, in_boxes: bool = False) -> None:
        """Reads all tensors; see `TensorSource`."""
        for part in (self._checkpoint, self._held):
            if part.tensors:
                part.read_into(take, in_boxes=in_boxes)

    def read_each(
        self, tensors: Sequence[ExportedTensor]
    ) -> Iterator[tuple[ExportedTensor, np.ndarray]]:
        """Reads some of the tensors whole, one after the other."""
        for part, run in self._runs(tensors):
            yield from part.read_each(run)

    def read_in_order(self, tensors: Sequence[ExportedTensor], take: TakeBox) -> None:
        """Reads some of the tensors, one after the other."""
        for part, run in self._runs(tensors):
            part.read_in_order(run, take)

    def _runs(
        self, tensors: Sequence[ExportedTensor]
    ) -> Iterator[tuple[CheckpointSource, list[ExportedTensor]]]:
        """Neighbours of one source."""
        held = {tensor.name for tensor in self._held.tensors}
        runs = itertools.groupby(tensors, lambda tensor: tensor.name in held)
        for is_held, run in runs:
            yield self._held if is_held else self._checkpoint, list(run)

    def stored(self, name: str) -> TensorEntry:
        """A tensor of the checkpoint, or a leaf that is kept."""
        return self._part_with(name).stored(name)

    def copy_of(self, tensor: ExportedTensor) -> NewTensor:
        """A large tensor that is written as it is stored."""
        return self._part_with(tensor.assignment.source).copy_of(tensor)

    def _part_with(self, name: str) -> CheckpointSource:
        return self._held if name.startswith(self._prefix) else self._checkpoint


def _kept_tensors(
    held: Checkpoint, prefix: str, output: Output
) -> tuple[ExportedTensor, ...]:
    """The leaves that are kept, under their names; refused where nothing is copied."""
    if not len(held):
        return ()
    kept = select_by_map(held.manifest, freeze_map({prefix: "/"}), None).tensors
    if output.exporter.options.by_reference:
        names = list_names([tensor.name for tensor in kept])
        raise AssignmentError(
            f"Option by_reference: these leaves are not in the checkpoint: {names}. "
            "Leave it out, so that everything is copied."
        )
    return kept


def _name_of(tensor: ExportedTensor) -> str:
    return tensor.name


def _hold(
    target: Any, kept: Sequence[str], checkpoint: Checkpoint
) -> tuple[Checkpoint, str]:
    """Leaves of a target as a checkpoint in memory, in a scope that is not in use."""
    prefix = "kept/"
    while any(name.startswith(prefix) for name in checkpoint):
        prefix = f"_{prefix}"
    leaves = leaves_of(target) if kept else {}
    arrays: dict[str, np.ndarray] = {}
    for name in kept:
        array = np.asarray(leaves[name]) if _holds_numbers(leaves[name]) else None
        if array is None:
            raise AssignmentError(
                f"Leaf `{name}` holds no numbers that a file could hold. Leave it out "
                "of the target."
            )
        arrays[f"{prefix}{name}"] = array
    return open_checkpoint(arrays), prefix


def _holds_numbers(leaf: Any) -> bool:
    """True for arrays of numbers; False for keys of random numbers, and objects."""
    return isinstance(getattr(leaf, "dtype", None), np.dtype)
