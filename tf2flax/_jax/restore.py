"""Runs a job: reads what its plan names, checks it, casts it and puts it on devices.

Everything is read and placed before anything of the target changes.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping

import jax

from tf2flax._assignment.resolution.half_norms import describe_half_norms
from tf2flax._assignment.resolution.unfilled import describe_unused
from tf2flax._base.caller import warn_caller
from tf2flax._base.dtypes import WIDE_DTYPES
from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.progress import ProgressFunction, reporting
from tf2flax._restoring.run_reads import run_reads
from tf2flax._restoring.tied import describe_ties, warn_of_ties

from .agreement import all_or_none
from .half_loaded import without_statistics
from .job import Job, is_x64
from .meshes import participants
from .transfer import Placer


def run_job(
    make: Callable[[], Job],
    expected: Callable[[], Iterable[jax.sharding.Sharding]],
    progress: bool | ProgressFunction = False,
) -> tuple[Job, Mapping[str, jax.Array]]:
    """Makes and runs a job; under `jax.distributed`, on all processes or on none.

    Args:
        make: Makes the job. What it raises is heard of by the other processes.
        expected: Lists where leaves may come to live, as far as that is known before.
        progress: As `Plan.restore`; False leaves that to the job's own option.

    Returns:
        The job, and the arrays of the leaves that it loads. Nothing has changed yet.

    Raises:
        CheckpointError: As `Plan.restore`.
    """
    if jax.process_count() == 1:  # nobody to agree with, nothing to redistribute
        job = make()
        placer = _read_leaves(job, progress)
        differing = _describe_ties(job)
    else:
        with all_or_none(participants(expected())) as agreement:
            job = make()
            agreement.set_participants(participants(job.shardings.values()))
            placer = _read_leaves(job, progress)
            differing = _describe_ties(job)
            agreement.require_same(_common_work(job, placer))
        placer.redistribute()
    _warn_of_leftovers(job, differing)
    return job, placer.arrays


def _describe_ties(job: Job) -> str:
    """Names the tied leaves whose tensors differ; reads those where that is unclear."""
    resolution = job.plan.resolution
    return describe_ties(resolution, job.manifest) if resolution.ties else ""


def _read_leaves(job: Job, progress: bool | ProgressFunction) -> Placer:
    """Reads, checks and casts what a plan names, and puts it on devices.

    Returns:
        What has the arrays, once leaves that processes share in are redistributed.
    """
    if job.is_abstract:
        raise UnsupportedError(
            "The plan is over an AbstractMesh, which has no devices. Plan again with "
            "mesh=jax.sharding.Mesh(...) to restore."
        )
    _check_width(job)
    placer = Placer(job.transfers, job.reads.portioned)
    title = f"Restoring {posixpath.basename(job.manifest.prefix)}"
    progress = progress or job.options.progress
    with reporting(progress, job.reads.nbytes, title) as advance:
        run_reads(
            job.reads,
            placer.put,
            verify=job.options.verify,
            max_in_flight_bytes=job.options.max_in_flight_bytes,
            advance=advance,
        )
    return placer


def _check_width(job: Job) -> None:
    """Refuses what JAX would narrow, had x64 been switched off since planning."""
    for assignment in job.plan.assignments:
        if assignment.dtype in WIDE_DTYPES and not is_x64():
            raise AssignmentError(
                f"Leaf `{assignment.leaf}` is planned as {assignment.dtype}, but "
                "jax_enable_x64 is off by now. Restore under the same setting."
            )


def _common_work(job: Job, placer: Placer) -> str:
    """Describes what processes do together: which elements of what go where.

    Returns:
        A text that must be the same in all processes; "" where each works alone.
    """
    redistribution = placer.redistribution
    lines: list[str] = []
    for assignment in job.plan.assignments:
        if assignment.leaf not in redistribution:
            continue
        work = redistribution[assignment.leaf]
        lines.append(f"{assignment.leaf} {work} {assignment.layout}")
        for entry in map(job.manifest.entry, assignment.sources):
            lines += [
                f"{piece.box} {getattr(piece, 'crc32c', piece.nbytes)}"
                for piece in entry.pieces
            ]
    return "\n".join(lines)


def _warn_of_leftovers(job: Job, differing: str) -> None:
    """Warns of what a restore leaves undone without an error, each kind once."""
    if job.plan.resolution.unused_entries:
        unused = describe_unused(job.plan.resolution, job.target.leaves)
        warn_caller(
            f"Entries of the assignment map reach no leaf of the target: {unused}"
        )
    if job.plan.half_norms:
        norms = without_statistics(job.plan.half_norms, job.target.slots, job.manifest)
        if norms:
            warn_caller(describe_half_norms(norms))
    if differing:
        warn_of_ties(differing)
