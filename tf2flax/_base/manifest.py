"""Manifest: the contents of one checkpoint, name by name, of any format.

A piece is a byte range of a data file together with the box of the tensor that lies
there, or an encoded piece, which only its format can read. Nothing here opens a file;
entries may be decoded only when they are asked for.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from .data_files import DataFile
from .errors import CheckpointError, UnsupportedError
from .roles import NamedRoles, Roles
from .values import Box, ByteRange, TensorSpec

if TYPE_CHECKING:
    import numpy as np


class Piece(NamedTuple):
    """A box of a tensor whose bytes lie in a data file as they lie in memory.

    In row-major order; those of strings as TensorFlow packs them. A tuple, since there
    are as many as tensors, and it is made in half the time.

    Attributes:
        box: The box of the whole tensor that lies here.
        data_file: The file. It is None for an `EncodedPiece`, and tells the two apart.
        span: The bytes within that file.
        crc32c: Masked CRC-32C of those bytes, as stored.
    """

    box: Box
    data_file: DataFile
    span: ByteRange
    crc32c: int

    @property
    def path(self) -> str:
        """The file, for messages."""
        return self.data_file.path

    @property
    def nbytes(self) -> int:
        """Bytes that it takes on disk."""
        return self.span.nbytes

    @property
    def place(self) -> str:
        """The file and the bytes of it, for messages."""
        return f"`{self.path}`[{self.span.start}:{self.span.stop}]"

    @property
    def has_checksum(self) -> bool:
        """True: its CRC-32C is stored beside it."""
        return True

    @property
    def is_local(self) -> bool:
        """True if reading it asks no other machine."""
        return self.data_file.is_local

    def check(self, *, subject: str) -> None:
        """Checks that the file is long enough, before memory is allocated.

        Args:
            subject: What is read, for messages.

        Raises:
            DamagedError: The file is not there or too short.
            ReadError: The system or the store refuses.
        """
        self.data_file.check_span(self.span, subject=subject)


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedPiece(abc.ABC):
    """A box of a tensor that only its format can read; picklable.

    Attributes:
        box: The box of the whole tensor that is stored here.
        path: The file that holds it, for messages.
        nbytes: Bytes that it takes on disk, or that its elements take.
    """

    box: Box
    path: str
    nbytes: int
    # What a `Piece` has and this lacks. Readers ask for `data_file` to tell the two
    # apart, so that no format is named outside of `_formats`.
    data_file: ClassVar[None] = None
    crc32c: ClassVar[None] = None

    @property
    def place(self) -> str:
        """The file, for messages."""
        return f"`{self.path}`"

    @property
    def has_checksum(self) -> bool:
        """True if `read` compares a checksum that covers it."""
        return False

    @property
    def is_local(self) -> bool:
        """True if reading it is known to ask no other machine."""
        return False

    @abc.abstractmethod
    def check(self, *, subject: str) -> None:
        """Refuses what cannot be there, before memory for it is allocated.

        Args:
            subject: What is read, for messages.

        Raises:
            DamagedError: It cannot be what it should be.
            ReadError: The system or the store refuses.
        """

    @abc.abstractmethod
    def read(self, box: Box) -> np.ndarray:
        """Reads a box of it.

        Args:
            box: Box in the piece's own coordinates, within `self.box.shape`.

        Returns:
            Array of the box's shape and the tensor's dtype, row-major, in native byte
            order, that nobody else holds.

        Raises:
            DamagedError: The bytes are not what they should be.
            ReadError: The system or the store refuses.
        """


class TensorEntry(NamedTuple):
    """One tensor of a checkpoint; a tuple for the reason that `Piece` is.

    Attributes:
        name: The tensor's key.
        spec: Shape and dtype of the whole tensor.
        pieces: The pieces that tile it; one piece unless it was saved as slices.
        is_sliced: True if it was saved as slices of a partitioned variable.
        is_big_endian: True if elements (and string lengths) are stored big-endian.
    """

    name: str
    spec: TensorSpec
    pieces: tuple[Piece | EncodedPiece, ...]
    is_sliced: bool
    is_big_endian: bool

    @property
    def nbytes(self) -> int:
        """Bytes that all pieces take on disk."""
        if len(self.pieces) == 1:
            return self.pieces[0].nbytes
        return sum(piece.nbytes for piece in self.pieces)


def have_equal_checksums(first: TensorEntry, second: TensorEntry) -> bool | None:
    """Compares two tensors by what the index says of their bytes.

    Args:
        first: A tensor.
        second: Another one of the same shape and dtype.

    Returns:
        Whether their bytes are equal; None where checksums do not tell: they are cut
        differently, or their format has none.
    """
    if first.is_big_endian != second.is_big_endian:
        return None
    if len(first.pieces) != len(second.pieces):
        return None
    is_equal = True
    for piece, other_piece in zip(first.pieces, second.pieces, strict=True):
        if piece.crc32c is None or other_piece.crc32c is None:
            return None
        if piece.box != other_piece.box:
            return None
        is_equal = is_equal and piece.crc32c == other_piece.crc32c
    return is_equal


class Manifest(abc.ABC):
    """Names and entries of one checkpoint; immutable and picklable.

    Formats and views inherit from it; `spec` and `specs` go by way of `entry`.
    """

    @property
    @abc.abstractmethod
    def prefix(self) -> str:
        """Absolute path or URL of the checkpoint, without suffix."""

    @property
    def index_path(self) -> str:
        """The file that lists the tensors, for messages."""
        return self.prefix

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """All names that a tensor answers to by itself, sorted."""

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Names that several tensors share, sorted; only views have such.

        They are not listed, but contained: `entry` says which tensors share them.
        """
        return ()

    @abc.abstractmethod
    def __contains__(self, name: object, /) -> bool:
        """Tells whether one tensor or several have this name; decodes no entry."""

    def is_shared(self, name: str) -> bool:
        """Tells whether several tensors have this name, so that `entry` refuses it."""
        return False

    def hint(self, name: str) -> str:
        """Says what to do about a missing name, or a scope that ends in `/`.

        Returns:
            Sentences; "" if near names are all that can be said.
        """
        return ""

    @abc.abstractmethod
    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Reads and checks every block of the index, and the sizes of whole files.

        Returns:
            For each that is damaged, its file and the message.
        """

    def spec(self, name: str) -> TensorSpec:
        """Decodes and checks shape and dtype of one tensor; no more work than `entry`.

        Raises:
            TensorNotFoundError: No tensor has this name.
            DamagedError: Its entry is malformed or impossible.
        """
        return self.entry(name).spec

    def specs(self) -> Iterable[tuple[str, TensorSpec]]:
        """All names with shape and dtype, in any order, perhaps sooner than one by one.

        Raises:
            DamagedError: As `spec`.
        """
        return ((name, self.spec(name)) for name in self.names)

    @abc.abstractmethod
    def entry(self, name: str) -> TensorEntry:
        """Decodes and checks the entry of one tensor.

        Raises:
            TensorNotFoundError: No tensor has this name, or (`SharedNameError`)
                several have it.
            DamagedError: Its entry is malformed or impossible.
        """

    def roles(self, *, may_read: bool = True) -> Roles:
        """What its tensors are to a training: variables, slots, averages, counters.

        Args:
            may_read: False takes what names tell, and reads no object graph and no
                config: kinds are the same, but for averages that only a graph names.
        """
        return NamedRoles(frozenset(self.names), self.shape_of)

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor; None if its entry is damaged or its name is shared."""
        try:
            return self.spec(name).shape
        except CheckpointError:
            return None

    @property
    def averaged(self) -> tuple[str, ...]:
        """Names that stand for moving averages, sorted; only views have such."""
        return ()

    @property
    def has_object_graph(self) -> bool:
        """True if an object graph names its tensors, and nothing else may."""
        return False

    def by_variable_name(self) -> Manifest:
        """The view under the variables' own names.

        Raises:
            UnsupportedError: These names are the variables' own already.
        """
        raise self._no_object_graph()

    def by_object_path(self) -> Manifest:
        """The view under paths of attributes.

        Raises:
            UnsupportedError: No object graph has such paths.
        """
        raise self._no_object_graph()

    def _no_object_graph(self) -> UnsupportedError:
        return UnsupportedError(
            f"`{self.index_path}` holds no object graph, or this is a view of it: "
            "names are the variables' own already. Use the checkpoint as it is."
        )

    def stored(self) -> StoredNames:
        """The checkpoint below all views, for what is written in its place.

        Raises:
            AssignmentError: It is not a single checkpoint.
        """
        return StoredNames(
            self, lambda name: (name,), is_view=False, takes_new_names=True
        )


@dataclasses.dataclass(frozen=True, slots=True)
class StoredNames:
    """A checkpoint under stored names, and the way there from those of a view.

    A view is read under its names and written under the stored ones, so that a program
    that read the checkpoint reads what is written in its place: TensorFlow finds the
    variables of an object-based checkpoint by the object graph, which knows only
    stored names.

    Attributes:
        manifest: The tensors as they are stored; the view hides some of them.
        places: Name in the view -> all stored names of that variable, one at least.
            Several where an export of Keras 3 holds it twice. `SharedNameError` and
            `TensorNotFoundError` as `Manifest.entry`.
        is_view: True if names may differ.
        averages: Stored names of moving averages that a view shows under the names of
            their variables -> those of the variables.
        partners: Stored names that get what is written under other ones -> the latter.
        takes_new_names: True if a name that the view lacks is also the stored one.
    """

    manifest: Manifest
    places: Callable[[str], tuple[str, ...]]
    is_view: bool = True
    averages: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    partners: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    takes_new_names: bool = False

    def prefixed_averages(self, added: str) -> Iterable[tuple[str, str]]:
        """Stored names of averages and of their variables, with a prefix before both.

        Args:
            added: The prefix.
        """
        for average, variable in self.averages.items():
            yield added + average, added + variable
