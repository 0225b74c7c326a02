"""Arrays of Orbax that are byte ranges of TensorFlow's own files: no copies.

The index may lead to files below its directory alone, so data files are linked there::

    out/manifest.ocdbt -> out/variables/variables.data-00000-of-00001, a link

Orbax checks no bytes. So the index of TensorFlow is linked beside its data, where it
lies in a SavedModel: `tf2flax verify out` compares the checksums that TensorFlow wrote.
(Not by a state file: Orbax takes a file called `checkpoint` for one of its own.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Final

import numpy as np

from tf2flax._assignment.layouts.nodes import StridedView
from tf2flax._base.collapsing import summarise
from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.manifest import Piece, TensorEntry
from tf2flax._base.values import row_major
from tf2flax._checkpoint.state import STATE_FILE
from tf2flax._storage.exchanging import existing_files

from .chunks import Chunks, cut_in_chunks
from .exporter import ExportedTensor, TensorSource
from .ocdbt import Reference

WAYS: Final = ("hardlink", "symlink", "beside")
# Where data files are linked, below the directory of the index: those of one checkpoint
# as a SavedModel has them, others under their own names.
_PREFIX: Final = "variables/variables"
_FOLDER: Final = "d"


class DataFiles:
    """The data files that an index leads to, each under a path below its directory."""

    def __init__(self, folder: str, way: bool | str, prefix: str | None) -> None:
        """Links nothing yet.

        Args:
            folder: The directory of the index.
            way: How data files get there; see `tf2flax.convert`.
            prefix: Prefix of the checkpoint, if all tensors are of one.
        """
        self._folder = folder
        self._way = way
        self._prefix = prefix
        self._paths: dict[str, str] = {}

    def path_of(self, data_file: str) -> str:
        """The path of a data file, relative to the index; linked when first asked for.

        Raises:
            AssignmentError: It does not lie below the directory, and may not be linked.
            OSError: The system refuses.
        """
        if data_file not in self._paths:
            self._paths[data_file] = (
                self._path_below(data_file)
                if self._way == "beside"
                else self._linked(data_file)
            )
        return self._paths[data_file]

    def _path_below(self, data_file: str) -> str:
        folder = os.path.realpath(self._folder)
        path = os.path.relpath(os.path.realpath(data_file), folder)
        if path.startswith(".."):
            raise AssignmentError(
                f"With by_reference='beside', data files lie below the output; "
                f"`{data_file}` does not lie below `{folder}`. Give the directory of "
                "the checkpoint as the output, or by_reference=True."
            )
        return path

    def _linked(self, data_file: str) -> str:
        name = os.path.basename(data_file)
        if self._prefix is not None and data_file.startswith(f"{self._prefix}."):
            path = _PREFIX + data_file[len(self._prefix) :]
        else:  # files of several checkpoints may have one name
            path = f"{_FOLDER}/{len(self._paths)}/{name}"
        link = os.path.join(self._folder, path)
        os.makedirs(os.path.dirname(link), exist_ok=True)
        link_file(data_file, link, self._way)
        return path


def link_file(path: str, link: str, way: bool | str) -> None:
    """Links a file; `True` prefers a hard link, which outlives a save over the file.

    Raises:
        OSError: The system refuses.
    """
    source = os.path.realpath(path)
    if way != "symlink":
        try:
            os.link(source, link)
        except OSError:  # another file system, or one without hard links
            if way == "hardlink":
                raise
        else:
            return
    os.symlink(source, link)


def refer_to_data_files(
    folder: str, source: TensorSource, way: bool | str
) -> dict[str, Chunks]:
    """Finds where the elements of all tensors lie in the data files, and links these.

    Args:
        folder: The directory of the index.
        source: The tensors.
        way: How data files get there.

    Returns:
        The chunks of each tensor.

    Raises:
        UnsupportedError: Tensors are not byte ranges of local files; all are listed.
        OSError: The system refuses.
    """
    # Everything is looked at before the first file is linked.
    problems: list[str] = []
    placed: list[tuple[ExportedTensor, StridedView, list[Piece], TensorEntry]] = []
    for tensor in source.tensors:
        layout = tensor.assignment.layout
        fact = "more is done to it than to move, reshape or transpose it"
        if isinstance(layout, StridedView) and _is_free(tensor, layout):
            entry = source.stored(layout.source)
            pieces, fact = _raw_pieces(tensor, entry, layout)
            if pieces:
                placed.append((tensor, layout, pieces, entry))
                continue
        problems.append(f"Tensor `{tensor.name}`: {fact}.")
    if problems:
        raise UnsupportedError(
            "by_reference: some tensors are not byte ranges of data files. Leave "
            f"by_reference out to copy them.\n{summarise(problems)}"
        )
    if way == "beside":
        _refuse_state_file(folder)
    prefix = _prefix_of(source.index_paths)
    files = DataFiles(folder, way, prefix)
    if prefix is not None and way != "beside":
        # All of them, so that TensorFlow and `verify` find a whole checkpoint.
        for path in existing_files(prefix):
            files.path_of(path)
    return {
        tensor.name: _chunks_of(tensor, layout, pieces, entry, files)
        for tensor, layout, pieces, entry in placed
    }


def _refuse_state_file(folder: str) -> None:
    path = os.path.join(folder, STATE_FILE)
    if os.path.lexists(path):
        raise AssignmentError(
            f"Orbax would read the state file as one of its own - at `{path}`. Give "
            "the folder above as the output, or by_reference=True."
        )


def _prefix_of(index_paths: Sequence[str]) -> str | None:
    """The prefix of the only checkpoint; None for several, or another format."""
    if len(index_paths) != 1:
        return None
    return index_paths[0].removesuffix(".index")


def _is_free(tensor: ExportedTensor, layout: StridedView) -> bool:
    """True if a tensor is all of a stored one, its axes in order or in reverse."""
    if layout.dtype != tensor.dtype or layout.casts:
        return False
    return layout.is_whole or _is_reversed(layout)


def _is_reversed(layout: StridedView) -> bool:
    """True if a view is all of a tensor with its axes in reverse."""
    reversed_strides = tuple(reversed(row_major(tuple(reversed(layout.shape)))))
    is_all = math.prod(layout.shape) == layout.base.size
    return layout.offset == 0 and is_all and layout.strides == reversed_strides


def _raw_pieces(
    tensor: ExportedTensor, entry: TensorEntry, layout: StridedView
) -> tuple[list[Piece], str]:
    """The pieces of a tensor, in order; () and why if they are no chunks of it."""
    pieces = [piece for piece in entry.pieces if piece.data_file is not None]
    if len(pieces) < len(entry.pieces):
        return [], "its bytes are encoded"
    if not all(piece.is_local for piece in pieces):
        return [], "its data file is not a local file"
    if not entry.is_sliced:
        return pieces, ""
    # A transpose of a square has the same shape.
    if tensor.shape != entry.spec.shape or not layout.is_whole:
        return [], "it is stored in slices, and is reshaped or transposed"
    # Chunks of one shape: rows of equal number, one slice after the other.
    pieces.sort(key=lambda piece: piece.box)
    rows = {piece.box.shape[0] for piece in pieces[:-1] or pieces}
    is_rows = all(piece.box.shape[1:] == entry.spec.shape[1:] for piece in pieces)
    if not is_rows or len(rows) > 1 or pieces[-1].box.shape[0] not in rows:
        return [], "it is stored in slices that are not rows of equal number"
    return pieces, ""


def _chunks_of(
    tensor: ExportedTensor,
    layout: StridedView,
    pieces: Sequence[Piece],
    entry: TensorEntry,
    files: DataFiles,
) -> Chunks:
    # zarr swaps bytes where its dtype says so.
    dtype = ""
    if entry.is_big_endian and tensor.dtype.itemsize > 1:
        dtype = _big_endian(tensor)
    if not tensor.nbytes:
        return cut_in_chunks(tensor.shape, tensor.dtype, "", 0)
    places = [(files.path_of(p.data_file.path), p.span.start) for p in pieces]
    if len(pieces) > 1:
        zeros = ".0" * (len(tensor.shape) - 1)
        references = tuple(
            (f"{number}{zeros}", Reference(path, start, piece.nbytes))
            for number, ((path, start), piece) in enumerate(
                zip(places, pieces, strict=True)
            )
        )
        return Chunks(pieces[0].box.shape, references, dtype=dtype)
    ((path, start),) = places
    if layout.is_whole:
        chunks = cut_in_chunks(tensor.shape, tensor.dtype, path, start)
        return chunks._replace(dtype=dtype)
    # Rows of what is stored are columns of the array.
    stored = cut_in_chunks(tensor.shape[::-1], tensor.dtype, path, start)
    return Chunks(
        stored.shape[::-1],
        tuple(
            (".".join(reversed(index.split("."))), reference)
            for index, reference in stored.references
        ),
        order="F",
        dtype=dtype,
    )


def _big_endian(tensor: ExportedTensor) -> str:
    """The dtype of a big-endian tensor, as zarr writes it.

    Raises:
        UnsupportedError: zarr knows it in little-endian order alone.
    """
    try:
        dtype = np.dtype(tensor.dtype.str)
    except TypeError:
        dtype = None
    if dtype != tensor.dtype:  # NumPy has no code for it
        raise UnsupportedError(
            f"by_reference: tensor `{tensor.name}` is big-endian {tensor.dtype}, which "
            "zarr does not hold. Leave by_reference out to copy it."
        )
    return tensor.dtype.newbyteorder(">").str
