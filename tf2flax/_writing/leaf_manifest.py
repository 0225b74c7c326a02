"""Leaves of a tree as the tensors of a checkpoint, so that expressions may name them.

Nothing is fetched before it is read, and nothing is kept after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from tf2flax._base.errors import TensorNotFoundError
from tf2flax._base.manifest import EncodedPiece, Manifest, TensorEntry
from tf2flax._base.memory import view_at
from tf2flax._base.values import Box

from .arrays import prepare_tensor
from .new_tensors import Extents, NewTensor
from .slicing import find_partitions, join_parts

# What messages call it.
_PLACE = "the tree"


@dataclasses.dataclass(frozen=True, slots=True)
class _LeafPiece(EncodedPiece):
    """A leaf, or a part of a partitioned one, as a piece of a tensor.

    Attributes:
        fetch: Gives the array, on the host.
        dtype: Its dtype, in the byte order of this machine.
    """

    fetch: Callable[[], np.ndarray]
    dtype: np.dtype
    data_file: ClassVar[None] = None

    @property
    def is_local(self) -> bool:
        """True: it is here already."""
        return True

    def check(self, *, subject: str) -> None:
        """Refuses nothing: it is there."""

    def read(self, box: Box) -> np.ndarray:
        """Copies a box of the leaf."""
        array = self.fetch()
        index = box.within(Box.whole(array.shape))
        return np.array(view_at(array, index), self.dtype, order="C", copy=True)


class LeafManifest(Manifest):
    """Names of leaves, and of partitioned variables; each is checked when asked for."""

    def __init__(self, leaves: Mapping[str, Any]) -> None:
        """Takes the leaves of a tree.

        Args:
            leaves: Arrays, scalars and anything else, by name.
        """
        self._leaves = leaves
        self._families = find_partitions(leaves)
        self._names = tuple(sorted({*leaves, *self._families}))
        self._tensors: dict[str, NewTensor] = {}

    @property
    def prefix(self) -> str:
        """What stands for it in messages."""
        return _PLACE

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return self._names

    def __contains__(self, name: object) -> bool:
        """Tells whether a leaf, or a partitioned variable, has this name."""
        return name in self._leaves or name in self._families

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Nothing: there is no index."""
        return ()

    def leaves_of(self, name: str) -> tuple[str, ...]:
        """The leaves that a name stands for: one, or the parts of a variable."""
        return (name,) if name in self._leaves else tuple(self._families[name])

    def tensor(self, name: str) -> NewTensor:
        """A leaf as a tensor to write; a partitioned variable in its slices.

        Raises:
            AssignmentError: It cannot be saved.
            UnsupportedError: No checkpoint holds the dtype, or the leaf spans
                processes.
        """
        if name not in self._tensors:
            names = self.leaves_of(name)
            parts = [prepare_tensor(part, self._leaves[part]) for part in names]
            is_leaf = name in self._leaves
            self._tensors[name] = parts[0] if is_leaf else join_parts(name, parts)
        return self._tensors[name]

    def entry(self, name: str) -> TensorEntry:
        """A leaf as a tensor that is there; as `tensor`."""
        if name not in self:
            raise TensorNotFoundError(name, _PLACE)
        tensor = self.tensor(name)
        shape, dtype = tensor.spec.shape, tensor.spec.dtype.numpy
        pieces = tuple(
            _LeafPiece(
                _box_of(piece.extents, shape),
                _PLACE,
                piece.spec.size * dtype.itemsize,
                piece.array,
                dtype,
            )
            for piece in tensor.pieces
        )
        is_sliced = tensor.pieces[0].extents is not None
        return TensorEntry(name, tensor.spec, pieces, is_sliced, is_big_endian=False)


def _box_of(extents: Extents | None, shape: tuple[int, ...]) -> Box:
    """The box of a piece; a whole axis has the length -1."""
    if extents is None:
        return Box.whole(shape)
    lengths = [
        dim if length < 0 else length
        for (_, length), dim in zip(extents, shape, strict=True)
    ]
    starts = tuple(start for start, _ in extents)
    stops = tuple(map(sum, zip(starts, lengths, strict=True)))
    return Box(starts, stops)
