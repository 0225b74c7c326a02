"""Writes V2 bundles: tensors one by one into data files, then the index.

At no moment does the destination hold a checkpoint that can be opened and is wrong.

Source: `BundleWriter`, tensorflow/core/util/tensor_bundle/tensor_bundle.cc.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tf2flax._formats.bundle import data_file_suffix
from tf2flax._storage.save_destinations import SaveDestination

from .new_tensors import NewTensor
from .parts import format_index, plan_parts, write_part
from .slicing import cut_slices


@dataclasses.dataclass(frozen=True, slots=True)
class WrittenBundle:
    """Data files that become a checkpoint once they are published.

    Attributes:
        index: All bytes of the index.
        suffixes: Those of the data files.
    """

    index: bytes
    suffixes: Sequence[str]


def write_bundle(
    destination: SaveDestination, tensors: Sequence[NewTensor], *, num_data_files: int
) -> WrittenBundle:
    """Writes the data files of a checkpoint, which `destination.publish` makes one.

    Args:
        destination: Where; its folder exists.
        tensors: What to write, in ascending order of keys.
        num_data_files: Number of data files, between which bytes are balanced; at
            least, where the destination limits their size.

    Returns:
        What is to be published.

    Raises:
        OSError: The system refuses; what was written so far is removed, and what was
            there is still there.
        ReadError: The store refuses; likewise.
    """
    if destination.max_file_nbytes is not None:
        tensors = [cut_slices(t, destination.max_file_nbytes) for t in tensors]
    parts = plan_parts(
        tensors,
        (0,),
        num_data_files=num_data_files,
        max_nbytes=destination.max_file_nbytes,
    )
    part = parts[0]
    suffixes = suffixes_of(destination.free_count(len(part.files)))
    try:
        written = write_part(part, lambda i: destination.create(suffixes[i]))
        # Files that are there only because names of fewer files are taken.
        for suffix in suffixes[len(part.files) :]:
            create_empty(destination, suffix)
        destination.settle()
        index = format_index(tensors, parts, {0: written}, num_data_files=len(suffixes))
    except BaseException:
        destination.discard(suffixes)
        raise
    return WrittenBundle(index, suffixes)


def suffixes_of(count: int) -> list[str]:
    """The suffixes of so many data files.

    Examples:
        >>> suffixes_of(2)
        ['.data-00000-of-00002', '.data-00001-of-00002']
    """
    return [data_file_suffix(i, count) for i in range(count)]


def create_empty(destination: SaveDestination, suffix: str) -> None:
    """Writes a data file in which nothing lies."""
    sink = destination.create(suffix)
    try:
        sink.finish()
    finally:
        sink.close()
