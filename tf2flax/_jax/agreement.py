"""Several processes agree whether all of them can go on.

A process that fails alone would leave the others waiting for it, in the next
computation on their common mesh, for ever.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Generator, Iterable, Mapping
from typing import Final

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.errors import ReadError
from tf2flax._base.manifest import Manifest

from .isolation import isolated, put_shards
from .meshes import Device

# What each process sends to the others, cut where it is longer (bytes of UTF-8).
_MESSAGE_NBYTES: Final = 2048
# How its message begins: what went wrong follows, or a digest of what it will do next.
_FAILED: Final = "failed "
_READY: Final = "ready "


@dataclasses.dataclass(frozen=True, slots=True)
class JointWork:
    """What processes do together, for messages.

    Attributes:
        verb: A verb: "restore".
        difference: What is wrong where they are about to do different things, and what
            to do.
    """

    verb: str
    difference: str


RESTORING: Final = JointWork(
    "restore",
    "Processes are about to redistribute different leaves, or tensors, or in different "
    "ways. Give all of them the same checkpoint, map, target, shardings (devices in "
    "the same order) and strategy.",
)


class Agreement:
    """An agreement of the processes that work together; made by `all_or_none`.

    Attributes:
        participants: One device of each process; empty while they are unknown.
        common: Digest of what all of them must be about to do alike.
        note: A short text without spaces at its ends that this process lets the others
            know.
        notes: The notes of all processes, once all of them have got through.
    """

    def __init__(self, participants: Mapping[int, Device]) -> None:
        self.participants: dict[int, Device] = dict(participants)
        self.common = ""
        self.note = ""
        self.notes: dict[int, str] = {}

    @property
    def is_shared(self) -> bool:
        """True if this process has others to agree with.

        One that holds nothing of any leaf needs nobody, and nobody waits for it.
        """
        participants = self.participants
        return len(participants) > 1 and jax.process_index() in participants

    def set_participants(self, participants: Mapping[int, Device]) -> None:
        """Names the participants, for when they are known later.

        Args:
            participants: One device of each process; ignored where they are known.
        """
        if not self.participants:
            self.participants.update(participants)

    def require_same(self, common: str) -> None:
        """Declares what this process is about to do, as all others must.

        Args:
            common: A text that must be the same on all of them.
        """
        self.common = hashlib.sha256(common.encode()).hexdigest()


@contextlib.contextmanager
def all_or_none(
    participants: Mapping[int, Device], job: JointWork = RESTORING
) -> Generator[Agreement]:
    """Runs a block on several processes: all get through it, or none.

    Args:
        participants: One device of each process that has a part of some leaf; none
            where they are not yet known.
        job: What they do, for messages.

    Yields:
        What the block may say more about it.

    Raises:
        ReadError: Another process failed; it says which, and why. Or it has ended.
    """
    agreement = Agreement(participants)
    try:
        yield agreement
    except BaseException as error:  # an interrupt leaves the others waiting too
        if agreement.is_shared:
            text = f"{type(error).__name__}: {error}".rstrip(": ")
            _exchange(agreement.participants, _FAILED + text)
        raise
    if agreement.is_shared:
        text = f"{_READY}{agreement.common} {agreement.note}"
        messages = _exchange(agreement.participants, text)
        failures = {
            number: text.removeprefix(_FAILED)
            for number, text in messages.items()
            if text.startswith(_FAILED)
        }
        if failures:
            raise ReadError(_describe_failures(failures, len(messages), job))
        answers = {
            number: text.removeprefix(_READY).partition(" ")
            for number, text in messages.items()
        }
        if len({common for common, _, _ in answers.values()}) > 1:
            raise ReadError(job.difference)
        agreement.notes = {number: note for number, (_, _, note) in answers.items()}


def _describe_failures(failures: Mapping[int, str], count: int, job: JointWork) -> str:
    lines = [f"  process {number}: {text}" for number, text in failures.items()]
    return "\n".join(
        [
            f"{len(failures)} of {count} processes could not {job.verb}, so that all "
            "of them stop:",
            *lines,
            f"Fix this and {job.verb} again on all processes.",
        ]
    )


def _exchange(participants: Mapping[int, Device], message: str) -> dict[int, str]:
    """Sends a message to all participants.

    Returns:
        The message of each of them.
    """
    row = np.zeros(_MESSAGE_NBYTES, np.uint8)
    encoded = message.encode("utf-8", "replace")[:_MESSAGE_NBYTES]
    row[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    return {
        number: bytes(row).rstrip(b"\0").decode("utf-8", "replace")
        for number, row in exchange_rows(participants, row).items()
    }


def this_process() -> int:
    """Number of this process."""
    return jax.process_index()


def exchange_rows(
    participants: Mapping[int, Device], row: np.ndarray
) -> dict[int, np.ndarray]:
    """Sends an array to all participants.

    Args:
        participants: One device of each process; this one is among them.
        row: The array of this process, of one axis; of the same length and dtype on
            all of them.

    Returns:
        The array of each of them.

    Raises:
        ReadError: One of them has ended.
    """
    mesh = Mesh(np.array(list(participants.values())), ("processes",))
    shape = (len(participants), len(row))
    sharding = NamedSharding(mesh, PartitionSpec("processes"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    with isolated():
        # Each process puts its own row of the array; all of them get all rows.
        sent = put_shards(shape, sharding, lambda _: row[None], row.dtype)
        try:
            rows = jax.device_get(jax.jit(_same, out_shardings=everywhere)(sent))
        except (RuntimeError, ValueError) as error:  # JAX raises either
            raise ReadError(
                "Another process of this job has ended, or cannot be reached any more: "
                f"{str(error).rstrip('.')}. Look what happened there, and start all "
                "processes again."
            ) from error
    return dict(zip(participants, rows, strict=True))


def _same(array: jax.Array) -> jax.Array:
    return array


def describe_common_work(
    assignments: Iterable[Assignment],
    redistribution: Mapping[str, object],
    manifest: Manifest,
) -> str:
    """Describes what processes do together: which elements of what go where.

    Args:
        assignments: What fills each leaf.
        redistribution: What becomes of the leaves that processes share in reading.
        manifest: Where the tensors lie.

    Returns:
        A text that must be the same in all processes; "" where each works alone.
    """
    lines: list[str] = []
    for assignment in assignments:
        if assignment.leaf not in redistribution:
            continue
        work = redistribution[assignment.leaf]
        lines.append(f"{assignment.leaf} {work} {assignment.layout}")
        for entry in map(manifest.entry, assignment.sources):
            lines += [
                f"{piece.box} {getattr(piece, 'crc32c', piece.nbytes)}"
                for piece in entry.pieces
            ]
    return "\n".join(lines)
