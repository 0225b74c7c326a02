"""TensorBundle: TensorFlow's own V2 checkpoints, with names moved or elements cast."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np

from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import TensorSpec
from tf2flax._storage.exchanging import existing_files
from tf2flax._storage.faults import complete_error
from tf2flax._storage.local_destination import LocalDestination
from tf2flax._writing.bridging import name_data_files_anew
from tf2flax._writing.bundle import write_bundle
from tf2flax._writing.new_tensors import (
    NewTensor,
    TakeArray,
    stored_dtype,
    whole_tensor,
)
from tf2flax._writing.parts import MAX_DATA_FILES
from tf2flax._writing.prefixes import v1_shards
from tf2flax._writing.slicing import rewrite_tensor

from .exporter import ExportedTensor, Exporter, ExportOptions, TensorSource
from .source import is_large


class TensorBundle(Exporter):
    """A V2 checkpoint, which `tf.train.Saver` restores."""

    name = "tensorbundle"
    option_names = frozenset({"data_files"})
    takes_strings = True

    def __init__(self, options: ExportOptions) -> None:
        """Checks the number of data files."""
        super().__init__(options)
        count = options.data_files
        if isinstance(count, bool) or not 1 <= count <= MAX_DATA_FILES:
            raise AssignmentError(
                f"Option data_files: expected 1 to {MAX_DATA_FILES}, got {count!r}."
            )

    @property
    def writes_in_place(self) -> bool:
        """True: a prefix is several files."""
        return True

    def find_present(self, path: str) -> str | None:
        """Finds files of the prefix."""
        files = existing_files(path)
        shards = v1_shards(LocalDestination(path))
        return next(iter((*files, *(f"{path}{suffix}" for suffix in shards))), None)

    def check(self, tensors: Sequence[ExportedTensor]) -> None:
        """Refuses dtypes that TensorFlow lacks."""
        for tensor in tensors:
            if not tensor.is_string:
                stored_dtype(tensor.name, tensor.dtype)

    def write(self, path: str, source: TensorSource) -> None:
        """Writes data files and index; `path` is the prefix."""
        reads = _Reads(source)
        tensors = [_new_tensor(tensor, source, reads) for tensor in source.tensors]
        tensors.sort(key=lambda tensor: tensor.key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        destination = LocalDestination(path, find_names=name_data_files_anew)
        count = self.options.data_files
        bundle = write_bundle(destination, tensors, num_data_files=count)
        problem = destination.publish(
            bundle.index, bundle.suffixes, v1_shards(destination)
        )
        if problem:
            raise complete_error(destination.path, problem)


def _new_tensor(
    tensor: ExportedTensor, source: TensorSource, reads: _Reads
) -> NewTensor:
    """A tensor to write; in the slices that it has, if it is written as it is."""
    read = functools.partial(reads.array, tensor.name)
    assignment = tensor.assignment
    if assignment.is_whole and len(assignment.casts) == 1:
        entry = source.stored(assignment.sources[0])
        if entry.spec.shape == tensor.shape:
            if is_large(tensor):
                return source.copy_of(tensor)
            return rewrite_tensor(entry._replace(name=tensor.name), read)
    spec = TensorSpec(tensor.shape, stored_dtype(tensor.name, tensor.dtype))
    stream = functools.partial(_stream, tensor, source) if is_large(tensor) else None
    return whole_tensor(tensor.name, spec, read, stream=stream)


def _stream(tensor: ExportedTensor, source: TensorSource, take: TakeArray) -> None:
    """Hands on the elements of a tensor in their order, some at a time."""
    source.read_in_order([tensor], lambda _tensor, _box, array: take(array))


class _Reads:
    """Arrays by name, read in batches, in the order of the names."""

    def __init__(self, source: TensorSource) -> None:
        tensors = [tensor for tensor in source.tensors if not is_large(tensor)]
        self._arrays = source.read_each(tensors)
        # Those that were read before their turn: keys may be ordered otherwise.
        self._early: dict[str, np.ndarray] = {}

    def array(self, name: str) -> np.ndarray:
        """The array of a tensor; asked for once."""
        while name not in self._early:
            tensor, array = next(self._arrays)
            self._early[tensor.name] = array
        return self._early.pop(name)
