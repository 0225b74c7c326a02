"""The tensors of a conversion, read when an exporter asks for them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from tf2flax._base.manifest import TensorEntry
from tf2flax._base.progress import Advance
from tf2flax._base.values import Box
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.stored_tensor import StoredTensor
from tf2flax._reading.scheduling import Wait, wait_for_nothing
from tf2flax._restoring import in_order
from tf2flax._restoring.plan_reads import plan_reads
from tf2flax._restoring.run_reads import HostLeaves, run_reads
from tf2flax._writing.new_tensors import NewTensor
from tf2flax._writing.slicing import copy_tensor

from .exporter import ExportedTensor, TakeBox

# Tensors that are read together where they are wanted one after the other; larger ones
# come in boxes (bytes).
BATCH_NBYTES: Final = 64 << 20


def is_large(tensor: ExportedTensor) -> bool:
    """True if it may come in boxes: it is large, and moved or cast, but no more."""
    if tensor.is_string:
        return False
    return tensor.nbytes > BATCH_NBYTES and tensor.assignment.is_whole


class CheckpointSource:
    """Tensors of a checkpoint; see `TensorSource`.

    Attributes:
        tensors: The tensors, sorted by name.
        metadata: Text about the conversion.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tensors: Sequence[ExportedTensor],
        metadata: Mapping[str, str],
        *,
        verify: bool,
        advance: Advance,
    ) -> None:
        """Reads nothing yet.

        Args:
            checkpoint: The checkpoint.
            tensors: The tensors, sorted by name.
            metadata: Text about the conversion.
            verify: True compares CRC-32C checksums.
            advance: Called with bytes that were read and the tensor's name.
        """
        self.tensors = tensors
        self.metadata = metadata
        self._manifest = checkpoint.manifest
        self._tuning = checkpoint.tuning
        self._verify = verify
        self._advance = advance

    def read_into(self, take: TakeBox, *, in_boxes: bool = False) -> None:
        """Reads all tensors, in the order that suits the files; see `TensorSource`."""
        self._read(self.tensors, take, in_boxes=in_boxes)

    def read_each(
        self, tensors: Sequence[ExportedTensor]
    ) -> Iterator[tuple[ExportedTensor, np.ndarray]]:
        """Reads some of the tensors whole, in the order in which they are given."""
        batch: list[ExportedTensor] = []
        nbytes = 0
        for tensor in tensors:
            if tensor.is_string:
                yield from self._read_batch(batch)
                batch, nbytes = [], 0
                yield tensor, self._read_strings(tensor)
                continue
            if batch and nbytes + tensor.nbytes > BATCH_NBYTES:
                yield from self._read_batch(batch)
                batch, nbytes = [], 0
            batch.append(tensor)
            nbytes += tensor.nbytes
        yield from self._read_batch(batch)

    def read_in_order(self, tensors: Sequence[ExportedTensor], take: TakeBox) -> None:
        """Reads some of the tensors, in the order in which they are given."""
        batch: list[ExportedTensor] = []
        for tensor in tensors:
            if tensor.is_string or tensor.nbytes <= BATCH_NBYTES:
                batch.append(tensor)
                continue
            self._take_each(batch, take)
            batch = []
            in_order.read_in_order(
                tensor.assignment,
                self._manifest,
                functools.partial(take, tensor),
                tuning=self._tuning,
                verify=self._verify,
                advance=self._advance,
            )
        self._take_each(batch, take)

    def _take_each(self, tensors: Sequence[ExportedTensor], take: TakeBox) -> None:
        for tensor, array in self.read_each(tensors):
            take(tensor, Box.whole(tensor.shape), array)

    def stored(self, name: str) -> TensorEntry:
        """A tensor of the checkpoint."""
        return self._manifest.entry(name)

    def copy_of(self, tensor: ExportedTensor) -> NewTensor:
        """A large tensor that is written as it is stored; see `TensorSource`."""
        stored = StoredTensor(self.stored(tensor.assignment.source), self._tuning)
        return copy_tensor(
            tensor.name, stored, verify=self._verify, advance=self._advance
        )

    @property
    def index_paths(self) -> Sequence[str]:
        """The index files of TensorFlow that name the tensors."""
        path = self._manifest.index_path
        return (path,) if path.endswith(".index") else ()

    def _read_batch(
        self, tensors: Sequence[ExportedTensor]
    ) -> Iterator[tuple[ExportedTensor, np.ndarray]]:
        arrays: dict[str, np.ndarray] = {}

        def take(tensor: ExportedTensor, _box: Box, array: np.ndarray) -> None:
            arrays[tensor.name] = array

        self._read(tensors, take, in_boxes=False)
        for tensor in tensors:
            yield tensor, arrays.pop(tensor.name)

    def _read_strings(self, tensor: ExportedTensor) -> np.ndarray:
        entry = self._manifest.entry(tensor.assignment.source)
        array = StoredTensor(entry, self._tuning).read(verify=self._verify)
        self._advance(entry.nbytes, entry.name)
        return array

    def _read(
        self, tensors: Sequence[ExportedTensor], take: TakeBox, *, in_boxes: bool
    ) -> None:
        by_name = {tensor.name: tensor for tensor in tensors}

        def put(leaves: HostLeaves) -> Wait:
            for name, arrays in leaves.items():
                for box, array in arrays.items():
                    take(by_name[name], box, array)
            return wait_for_nothing

        # Boxes of other layouts would not be whole rows.
        limits = {
            tensor.name: in_order.IN_FLIGHT_NBYTES
            for tensor in tensors
            if in_boxes and tensor.assignment.is_whole
        }
        plan = plan_reads(
            [tensor.assignment for tensor in tensors],
            {tensor.name: (Box.whole(tensor.shape),) for tensor in tensors},
            self._manifest,
            limits,
            self._tuning,
        )
        run_reads(
            plan,
            put,
            verify=self._verify,
            max_in_flight_bytes=in_order.IN_FLIGHT_NBYTES,
            advance=self._advance,
        )
