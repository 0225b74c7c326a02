"""Several processes save one checkpoint: each writes the shards that it has.

Nothing is gathered but checksums. All go through each step, or none:

    1. every process plans all parts; the first one chooses temporary names
    2. every process looks for what the first one left there: do they share the place?
    3. each writes its data files, and all exchange the checksums of their pieces
    4. the first one writes the index, which makes the files a checkpoint
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from tf2flax._base.errors import ReadError
from tf2flax._checkpoint.state import PathLike
from tf2flax._jax.agreement import (
    Agreement,
    JointWork,
    all_or_none,
    exchange_rows,
    this_process,
)
from tf2flax._jax.meshes import Device
from tf2flax._storage.faults import complete_error
from tf2flax._storage.save_destinations import SaveDestination

from .bundle import create_empty, suffixes_of
from .new_tensors import NewTensor
from .parts import Part, WrittenPiece, format_index, plan_parts, write_part
from .prefixes import open_destination, refuse_present, writing_to
from .slicing import cut_slices
from .state_file import publish

_SAVING: Final = JointWork(
    "save",
    "Processes are about to save different tensors, or in different ways. Give all of "
    "them the same prefix, tree, plan, shardings (devices in the same order) and "
    "options.",
)


@dataclasses.dataclass(frozen=True, slots=True)
class SharedSave:
    """A save of several processes, of which this is one.

    Attributes:
        prefix: Where to, as the caller gives it.
        processes: A device of each process that holds a shard.
        num_data_files: Number of data files of each process, at least.
        is_replacing: Whether files that are there are replaced.
    """

    prefix: PathLike
    processes: Mapping[int, Device]
    num_data_files: int
    is_replacing: bool

    def run(self, prepare: Callable[[], list[NewTensor]]) -> tuple[str, str]:
        """Saves, together with the other processes.

        Args:
            prepare: Gives the tensors, in ascending order of keys; what it raises is
                heard of by the other processes.

        Returns:
            The prefix, for users; and what went wrong once the checkpoint was there.

        Raises:
            CheckpointError: This process could not save.
            ReadError: Another process could not; it says which, and why.
        """
        if this_process() not in self.processes:
            return open_destination(self.prefix).path, ""  # it holds nothing
        with contextlib.ExitStack() as cleaning:
            work = self._agree(prepare, cleaning)
            written = self._write(work)
            problem = self._publish_together(work, written)
        return work.destination.path, problem

    @property
    def _is_first(self) -> bool:
        """True in the process that writes the index."""
        return this_process() == min(self.processes)

    def _together(self) -> contextlib.AbstractContextManager[Agreement]:
        return all_or_none(self.processes, _SAVING)

    def _agree(
        self, prepare: Callable[[], list[NewTensor]], cleaning: contextlib.ExitStack
    ) -> _Work:
        """Plans the parts, and finds out whether all processes share the place."""
        replaced: Sequence[str] = ()
        with all_or_none(self.processes, _SAVING) as agreement:
            destination = open_destination(self.prefix)
            tensors = prepare()
            if destination.max_file_nbytes is not None:
                tensors = [cut_slices(t, destination.max_file_nbytes) for t in tensors]
            parts = plan_parts(
                tensors,
                sorted(self.processes),
                num_data_files=self.num_data_files,
                max_nbytes=destination.max_file_nbytes,
            )
            agreement.require_same(self._describe(destination, tensors))
            count = sum(len(part.files) for part in parts.values())
            if self._is_first:
                with writing_to(destination):
                    cleaning.enter_context(destination.folders())
                    replaced = refuse_present(
                        destination, is_replacing=self.is_replacing
                    )
                    cleaning.callback(destination.unmark)
                    destination.mark()
                    count = destination.free_count(count)
            agreement.note = f"{destination.token} {count}"
        token, _, number = agreement.notes[min(self.processes)].partition(" ")
        if not self._is_first:
            destination = open_destination(self.prefix, token)
        work = _Work(destination, tensors, parts, suffixes_of(int(number)), replaced)
        with self._together():
            if not destination.is_marked():
                raise ReadError(
                    f"Cannot write `{destination.path}`: process "
                    f"{this_process()} does not see what process "
                    f"{min(self.processes)} wrote there. Give a place that all "
                    "processes share: a network file system, or gs:// or s3://."
                )
        return work

    def _describe(
        self, destination: SaveDestination, tensors: Sequence[NewTensor]
    ) -> str:
        """A digest of what all processes must be about to do alike."""
        digest = hashlib.sha256()
        for tensor in tensors:
            pieces = [(piece.extents, piece.process) for piece in tensor.pieces]
            line = (tensor.key, tensor.spec.shape, tensor.spec.dtype.name, pieces)
            digest.update(repr(line).encode())
        options = (destination.path, self.num_data_files, self.is_replacing)
        return f"{options} {digest.hexdigest()}"

    def _write(self, work: _Work) -> dict[int, list[WrittenPiece]]:
        """Writes the part of this process; returns what is known of all pieces."""
        me = this_process()
        mine = work.suffixes_of(me)
        destination = work.destination
        written: list[WrittenPiece] = []
        try:
            with self._together(), writing_to(destination):
                written = write_part(
                    work.parts[me], lambda i: destination.create(work.suffixes[i])
                )
                for suffix in mine[len(work.parts[me].files) :]:
                    create_empty(destination, suffix)
                destination.settle()
            length = max(len(part.pieces) for part in work.parts.values())
            row = np.zeros(max(length, 1), np.uint32)
            row[: len(written)] = [piece.crc32c for piece in written]
            rows = exchange_rows(self.processes, row)
        except BaseException:
            # All have come to the end of the block. So the first one may remove all
            # files, and then the folder.
            destination.discard(work.suffixes if self._is_first else mine)
            raise
        # The sizes of others are those of their arrays: the first process alone writes
        # strings.
        return {
            process: written
            if process == me
            else [
                WrittenPiece(placed.piece.nbytes, int(crc))
                for placed, crc in zip(part.pieces, rows[process], strict=False)
            ]
            for process, part in work.parts.items()
        }

    def _publish_together(
        self, work: _Work, written: Mapping[int, Sequence[WrittenPiece]]
    ) -> str:
        """Publishes, in the first process; all return what went wrong after that."""
        problem: str | None = None
        try:
            with self._together() as agreement, writing_to(work.destination):
                if self._is_first:
                    problem = agreement.note = self._publish(work, written)
        except ReadError as error:
            if problem is None:
                raise
            raise complete_error(
                work.destination.path, f"{problem} {error}".strip()
            ) from error
        # A note is cut where it is long.
        return problem or agreement.notes[min(self.processes)]

    def _publish(
        self, work: _Work, written: Mapping[int, Sequence[WrittenPiece]]
    ) -> str:
        """Writes the index and the state file; see `publish`."""
        destination, count = work.destination, len(work.suffixes)
        try:
            sizes = [0] * count
            for process, part in work.parts.items():
                for placed, piece in zip(part.pieces, written[process], strict=True):
                    sizes[placed.number] += piece.nbytes
            for suffix, nbytes in zip(work.suffixes, sizes, strict=True):
                destination.check(suffix, nbytes)
            index = format_index(
                work.tensors, work.parts, written, num_data_files=count
            )
        except BaseException:
            destination.discard(work.suffixes)
            raise
        return publish(destination, index, work.suffixes, work.replaced)


@dataclasses.dataclass(frozen=True, slots=True)
class _Work:
    """What all processes are about to write.

    Attributes:
        destination: Where to.
        tensors: All tensors.
        parts: The part of each process.
        suffixes: Suffixes of all data files.
        replaced: Those of other files that go then, in the first process.
    """

    destination: SaveDestination
    tensors: Sequence[NewTensor]
    parts: Mapping[int, Part]
    suffixes: Sequence[str]
    replaced: Sequence[str]

    def suffixes_of(self, process: int) -> list[str]:
        """Suffixes of the data files of a process; the last one has empty ones too."""
        files = self.parts[process].files
        is_last = process == max(self.parts)
        stop = len(self.suffixes) if is_last else files.stop
        return [*self.suffixes[files.start : stop]]
