"""Tensors that are written in slices: partitioned variables, and copies of stored ones.

Parts of a tree, `table/part_0` and `table/part_1`, become slices of one tensor:

    part_0 [3, 2]     part_1 [1, 2]       table [4, 2]
    +------+                              +------+  slice 0:3,-
    |      |          +------+            |      |
    |      |          +------+     ->     |      |
    +------+                              +------+  slice 3:4,-
                                          +------+
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.layouts.resizing import evaluate
from tf2flax._assignment.resolution.assignments import whole_assignment
from tf2flax._assignment.resolution.partitions import family_of
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import EncodedPiece, Piece, TensorEntry
from tf2flax._base.memory import view_at
from tf2flax._base.progress import Advance
from tf2flax._base.tuning import Tuning
from tf2flax._base.values import Box, TensorSpec
from tf2flax._checkpoint.mapping import MappingManifest
from tf2flax._checkpoint.stored_tensor import StoredTensor
from tf2flax._reading.checks import check_readable
from tf2flax._reading.scheduling import report_nothing
from tf2flax._reading.whole import read_many
from tf2flax._restoring.in_order import read_in_order

from .new_tensors import (
    Extents,
    NewPiece,
    NewTensor,
    TakeArray,
    stored_key,
    whole_tensor,
)
from .parts import BLOCK_NBYTES, split_box

# Shapes that a message shows.
_MAX_SHAPES: Final = 6


def find_partitions(names: Iterable[str]) -> dict[str, list[str]]:
    """Finds the parts of partitioned variables: all from 0 to n - 1, two at least.

    Returns:
        Names of the parts, in order, by the name of the variable.
    """
    numbered: dict[str, dict[int, str]] = {}
    for name in names:
        part = family_of(name)
        if part is not None and part[0]:
            variable, number = part
            numbered.setdefault(variable, {})[number] = name
    return {
        variable: [parts[i] for i in range(len(parts))]
        for variable, parts in numbered.items()
        if len(parts) >= 2 and max(parts) == len(parts) - 1
    }


def join_parts(name: str, parts: Sequence[NewTensor]) -> NewTensor:
    """Makes one tensor in slices of the parts of a partitioned variable.

    Args:
        name: Name of the variable.
        parts: Its parts.

    Raises:
        AssignmentError: They are not slices of one tensor.
    """
    axis = _partitioned_axis(name, parts)
    shape = list(parts[0].spec.shape)
    shape[axis] = sum(part.spec.shape[axis] for part in parts)
    start = 0
    slices: list[NewPiece] = []
    for part in parts:
        starts = [0] * len(shape)
        starts[axis], start = start, start + part.spec.shape[axis]
        for piece in part.pieces:  # several where the part spans processes
            box = box_of_piece(piece, part.spec.shape).moved(tuple(starts))
            extents = extents_of_box(box, tuple(shape))
            slices.append(dataclasses.replace(piece, extents=extents))
    spec = TensorSpec(tuple(shape), parts[0].spec.dtype)
    return _sliced_tensor(stored_key(name), spec, slices)


def _partitioned_axis(name: str, parts: Sequence[NewTensor]) -> int:
    """The only axis along which the shapes of parts differ; 0 where they are equal."""
    shapes = [part.spec.shape for part in parts]
    way_out = "Save a flat mapping of names to arrays to write them as they stand."
    dtypes = sorted({part.spec.dtype.name for part in parts})
    if len(dtypes) > 1:
        raise AssignmentError(
            f"The parts of `{name}` differ in dtype: {', '.join(dtypes)}. {way_out}"
        )
    if len(set(map(len, shapes))) > 1 or not shapes[0]:
        raise AssignmentError(
            f"The parts of `{name}` are not slices of one tensor: their shapes are "
            f"{_list_shapes(shapes)}. {way_out}"
        )
    axes = [
        axis for axis, dims in enumerate(zip(*shapes, strict=True)) if len({*dims}) > 1
    ]
    if len(axes) > 1:
        raise AssignmentError(
            f"The parts of `{name}` differ along several axes: their shapes are "
            f"{_list_shapes(shapes)}. {way_out}"
        )
    return axes[0] if axes else 0


def _list_shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    text = ", ".join(str(list(shape)) for shape in shapes[:_MAX_SHAPES])
    return f"{text} …" if len(shapes) > _MAX_SHAPES else text


def copy_tensor(
    name: str,
    tensor: StoredTensor,
    *,
    verify: bool = True,
    advance: Advance = report_nothing,
) -> NewTensor:
    """A tensor of a checkpoint, as it is, under some name.

    Args:
        name: The name.
        tensor: The tensor. A large one is never whole on the host.
        verify: True compares CRC-32C checksums.
        advance: Called with bytes that were read and the tensor's name.

    Raises:
        UnsupportedError: The stored tensor cannot be read.
    """
    entry = tensor.entry
    if tensor.nbytes <= BLOCK_NBYTES or entry.spec.dtype.is_string:
        read = tensor.read if verify else functools.partial(tensor.read, verify=False)
        return rewrite_tensor(entry._replace(name=name), read)
    check_readable(entry)
    reads = _PieceReads(entry, tensor.tuning, advance, verify=verify)
    if not entry.is_sliced:
        array, stream = reads.of(0)
        return whole_tensor(name, entry.spec, array, stream=stream)
    pieces: list[NewPiece] = []
    for number, piece in enumerate(entry.pieces):
        array, stream = reads.of(number)
        spec = TensorSpec(piece.box.shape, entry.spec.dtype)
        extents = extents_of_box(piece.box, entry.spec.shape)
        pieces.append(NewPiece(spec, extents, array, stream=stream))
    return _sliced_tensor(stored_key(name), entry.spec, pieces)


def _at_origin(piece: Piece | EncodedPiece) -> Piece | EncodedPiece:
    """A piece as all of a tensor."""
    box = Box.whole(piece.box.shape)
    if isinstance(piece, Piece):
        return piece._replace(box=box)
    return dataclasses.replace(piece, box=box)


class _PieceReads:
    """Pieces of a large tensor, each a tensor of its own: small ones read together.

    For one thread, as data files are written.
    """

    def __init__(
        self, entry: TensorEntry, tuning: Tuning, advance: Advance, *, verify: bool
    ) -> None:
        """Reads nothing yet."""
        self._entries = [
            entry._replace(
                spec=TensorSpec(piece.box.shape, entry.spec.dtype),
                pieces=(_at_origin(piece),),
                is_sliced=False,
            )
            for piece in entry.pieces
        ]
        self._read_many = functools.partial(
            read_many, verify=verify, advance=advance, tuning=tuning
        )
        self._read_in_order = functools.partial(
            read_in_order, verify=verify, advance=advance, tuning=tuning
        )
        # Those that were read with the one before them.
        self._arrays: dict[int, np.ndarray] = {}

    def of(
        self, number: int
    ) -> tuple[Callable[[], np.ndarray], Callable[[TakeArray], None] | None]:
        """What gives the elements of a piece; where it is large, in runs as well."""
        is_large = self._entries[number].nbytes > BLOCK_NBYTES
        stream = functools.partial(self._stream, number) if is_large else None
        return functools.partial(self._array, number), stream

    def _array(self, number: int) -> np.ndarray:
        """Reads a piece, and the next ones with it; asked for once."""
        if number not in self._arrays:
            stop, nbytes = number + 1, self._entries[number].nbytes
            while stop < len(self._entries):
                nbytes += self._entries[stop].nbytes
                if nbytes > BLOCK_NBYTES:
                    break
                stop += 1
            arrays = self._read_many(self._entries[number:stop])
            self._arrays = dict(zip(range(number, stop), arrays, strict=True))
        return self._arrays.pop(number)

    def _stream(self, number: int, take: TakeArray) -> None:
        """Hands on a piece, a run of its elements at a time."""
        entry = self._entries[number]
        assignment = whole_assignment(entry.name, entry.spec)
        manifest = MappingManifest({entry.name: entry})
        self._read_in_order(assignment, manifest, lambda _box, array: take(array))


def rewrite_tensor(entry: TensorEntry, read: Callable[[], np.ndarray]) -> NewTensor:
    """A tensor with the dtype and the slices of a stored one, and other values.

    Args:
        entry: The stored tensor; the new one has its name.
        read: Gives the values of the whole tensor.

    Raises:
        UnsupportedError: The stored tensor cannot be read.
    """
    check_readable(entry)
    spec = entry.spec
    if not entry.is_sliced:
        return whole_tensor(entry.name, spec, read)
    # Only slices that hold something are written, and fetch the array.
    num_filled = sum(piece.box.size > 0 for piece in entry.pieces)
    whole = ReadOnce(read, uses=max(num_filled, 1))
    slices = [
        NewPiece(
            TensorSpec(piece.box.shape, spec.dtype),
            extents_of_box(piece.box, spec.shape),
            whole.view(piece.box.within(Box.whole(spec.shape))),
        )
        for piece in entry.pieces
    ]
    return _sliced_tensor(stored_key(entry.name), spec, slices)


def _sliced_tensor(
    key: bytes, spec: TensorSpec, slices: Sequence[NewPiece]
) -> NewTensor:
    """A tensor in slices, all of which TensorFlow 1 can read.

    To it an empty slice overlaps its neighbours, two of them divide by zero, and a
    scalar has no slices. So empty slices are not written, and where fewer than two are
    left, the tensor is no longer sliced.

    Args:
        key: The tensor's key.
        spec: Shape and dtype of the whole.
        slices: Its slices, at least one, which tile it.
    """
    filled = [piece for piece in slices if piece.spec.size]
    is_kept = spec.shape and len(filled) == len(slices)
    if is_kept or len(filled) > 1:
        return NewTensor(key, spec, tuple(filled))
    # One holds all elements; or none does, and any of them is as empty as the whole.
    only = filled[0] if filled else slices[0]

    def array() -> np.ndarray:
        return only.array().reshape(spec.shape)

    piece = dataclasses.replace(only, spec=spec, extents=None, array=array, part=None)
    return NewTensor(key, spec, (piece,))


def extents_of_box(box: Box, shape: tuple[int, ...]) -> Extents:
    """A box as files name it: a whole axis starts at 0 and has length -1.

    Examples:
        >>> extents_of_box(Box((3, 0), (4, 2)), shape=(4, 2))
        ((3, 1), (0, -1))
    """
    return tuple(
        (0, -1) if (start, stop) == (0, dim) else (start, stop - start)
        for start, stop, dim in zip(box.starts, box.stops, shape, strict=True)
    )


def box_of_piece(piece: NewPiece, shape: tuple[int, ...]) -> Box:
    """The box of a piece in a tensor of a shape."""
    if piece.extents is None:
        return Box.whole(shape)
    bounds = [
        (start, dim if length < 0 else start + length)
        for (start, length), dim in zip(piece.extents, shape, strict=True)
    ]
    return Box(tuple(b[0] for b in bounds), tuple(b[1] for b in bounds))


def cut_slices(tensor: NewTensor, max_nbytes: int) -> NewTensor:
    """Cuts pieces that are larger than a size; strings have no slices.

    Args:
        tensor: The tensor.
        max_nbytes: The size.

    Returns:
        The tensor in more slices, or itself.
    """
    pieces: list[NewPiece] = []
    for piece in tensor.pieces:
        if piece.spec.dtype.is_string or piece.nbytes <= max_nbytes:
            pieces.append(piece)
            continue
        origin = box_of_piece(piece, tensor.spec.shape).starts
        max_size = max_nbytes // piece.spec.dtype.numpy.itemsize
        boxes = [*split_box(Box.whole(piece.spec.shape), max_size)]
        whole = ReadOnce(piece.array, uses=len(boxes))
        for box in boxes:
            array = whole.view(box.within(Box.whole(piece.spec.shape)))
            part = None
            if piece.part is not None:
                array = functools.partial(piece.part, box)
                part = functools.partial(_part_of_box, piece.part, box)
            extents = extents_of_box(box.moved(origin), tensor.spec.shape)
            spec = TensorSpec(box.shape, piece.spec.dtype)
            pieces.append(NewPiece(spec, extents, array, piece.process, part))
    return dataclasses.replace(tensor, pieces=tuple(pieces))


def _part_of_box(
    part: Callable[[Box], np.ndarray], origin: Box, box: Box
) -> np.ndarray:
    """A box of what is itself a box of a piece."""
    return part(box.moved(origin.starts))


class ReadOnce:
    """An array that is read for its first use, and dropped after its last."""

    def __init__(self, read: Callable[[], np.ndarray], *, uses: int) -> None:
        self._read = read
        self._uses = uses
        self._array: np.ndarray | None = None

    def view(self, index: tuple[slice, ...]) -> Callable[[], np.ndarray]:
        """What gives the part of the array that an index names, for one use."""
        return lambda: view_at(self.get(), index)

    def evaluate(self, expression: Expression) -> np.ndarray:
        """What an expression makes of the array, for one use."""
        return evaluate(expression, self.get())

    def get(self) -> np.ndarray:
        """The array, for one use."""
        array = self._read() if self._array is None else self._array
        self._uses -= 1
        self._array = array if self._uses else None
        return array
