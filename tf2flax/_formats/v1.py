"""V1 checkpoints: tables of `SavedTensorSlices` -> names and entries.

One file, or several that a pattern matches, each a table: the value of its empty key
lists the tensors of which it holds slices, every other value is one slice. Files are
read through `_storage`; the values of a tensor only when they are asked for.

Source: tensorflow/core/util/tensor_slice_reader.cc, tensor_slice_writer.cc,
saved_tensor_slice.proto.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from tf2flax._base.data_files import DataFile
from tf2flax._base.errors import (
    DamagedError,
    MalformedError,
    TensorNotFoundError,
    UnsupportedError,
)
from tf2flax._base.manifest import EncodedPiece, Manifest, TensorEntry
from tf2flax._base.memory import view_at
from tf2flax._base.text import printable
from tf2flax._base.values import (
    Box,
    ByteRange,
    TensorSpec,
    checked_spec,
    decode_name,
    encode_name,
)

from .checks import box_of_slice, check_tiling, damaged_blocks
from .format import Candidate, Format, Location
from .wire.ordered_code import encode_slice_key
from .wire.slice_messages import SavedTensor, parse_extents, parse_saved_tensors
from .wire.sstable import MAX_SNAPPY_RATIO, TABLE_MAGIC, SSTable
from .wire.tensor_proto import decode_tensor, parse_saved_slice

# The list of tensors is the value of the empty key, which sorts before every other.
LIST_KEY: Final = b""
# Source: `TF_CHECKPOINT_VERSION`, tensorflow/core/public/version.h.
CHECKPOINT_VERSION: Final = 1
# First byte of a V2 header (`num_shards`), where a V1 file has its list.
_BUNDLE_HEADER_START: Final = 0x08

# One of several files, as a Saver names them.
_PART: Final = re.compile(r"(.*)-\d{5}-of-(\d{5})", re.S)

_Extents = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class FileBytes:
    """The bytes of a table in a file.

    Attributes:
        file: The file.
        nbytes: Its length; None where the store does not tell.
    """

    file: DataFile
    nbytes: int | None

    def read(self, start: int, stop: int) -> bytes:
        """Reads a block."""
        self.file.check_span(ByteRange(start, stop), subject="The checkpoint")
        block = bytearray(stop - start)
        self.file.read_into(start, memoryview(block), subject="The checkpoint")
        return bytes(block)

    def tail(self, nbytes: int) -> bytes:
        """Reads the last bytes."""
        return self.file.tail(nbytes)


@dataclasses.dataclass(frozen=True, slots=True)
class _StoredSlice:
    """One stored slice: which file holds it, and under which extents."""

    file_number: int
    extents: _Extents


@dataclasses.dataclass(frozen=True, slots=True)
class _ListedTensor:
    """One tensor, as all files together list it."""

    dtype_code: int
    spec: TensorSpec
    slices: list[_StoredSlice]  # grows file by file while they are opened


@dataclasses.dataclass(frozen=True, slots=True)
class TablePiece(EncodedPiece):
    """One box of a tensor: a value of a table, decoded when it is asked for.

    Attributes:
        name: The tensor's key.
        spec: Shape of the box, and dtype.
        dtype_code: TensorFlow's number of the dtype.
        extents: The slice as the file names it.
        table: The table of the file.
        file: The file.
    """

    name: str
    spec: TensorSpec
    dtype_code: int
    extents: _Extents
    table: SSTable
    file: DataFile

    @property
    def has_checksum(self) -> bool:
        """True: every block of a table has one."""
        return True

    def check(self, *, subject: str) -> None:
        """Checks that the file is what it was: the block may be in memory still.

        Its size was checked against the file's.
        """
        self.file.size()

    def read(self, box: Box) -> np.ndarray:
        """Reads the whole value and cuts; see `EncodedPiece`."""
        subject = f"Tensor `{printable(self.name)}`"
        self.check(subject=subject)
        key = encode_name(self.name)
        try:
            value = self.table.get(encode_slice_key(key, self.extents))
            if value is None:
                raise MalformedError(f"its slice {self.box} is listed, but not stored")
            saved = parse_saved_slice(value)
            if saved.name != key or parse_extents(saved.extents) != self.extents:
                raise MalformedError("another tensor's values lie in its place")
            array = decode_tensor(
                saved.tensor, self.spec.dtype, self.dtype_code, self.spec.shape
            )
        except MalformedError as error:
            raise _damaged(subject, error, self.path) from error
        if box.shape == self.spec.shape:
            return array
        whole = Box.whole(self.spec.shape)
        return view_at(array, box.within(whole)).copy()


@dataclasses.dataclass(frozen=True, slots=True)
class UntiledPiece(EncodedPiece):
    """Stands for a tensor whose slices do not make it up: every read is refused.

    Attributes:
        message: Why it cannot be read.
    """

    message: str

    def check(self, *, subject: str) -> None:
        """Raises a `DamagedError`."""
        raise DamagedError(self.message)

    def read(self, box: Box) -> np.ndarray:
        """Raises a `DamagedError`."""
        raise DamagedError(self.message)


class V1Format(Format):
    """V1 checkpoints: one table, or several that a pattern matches."""

    name = "V1 checkpoint"
    takes_patterns = True

    def recognise(self, candidate: Candidate) -> bool:
        """True for every table; that it is one of another format shows when opened."""
        return candidate.tail == TABLE_MAGIC

    def open(self, location: Location) -> Manifest:
        """Reads the list of tensors of every file; see `Format`."""
        storage = location.storage
        files = [storage.whole_file(path) for path in location.files]
        return V1Manifest(storage.show(location.path), files)


class V1Manifest(Manifest):
    """Names and entries of one V1 checkpoint."""

    def __init__(self, path: str, files: Sequence[DataFile]) -> None:
        """Reads the list of tensors of every file.

        Args:
            path: Absolute path, URL or pattern, for messages.
            files: Its files, at least one.

        Raises:
            DamagedError: A file is not a table, or its list is malformed.
            UnsupportedError: A newer version of the format wrote it.
            ReadError: The system or the store refuses.
        """
        self._path: str = path
        self._files: tuple[DataFile, ...] = tuple(files)
        tables: list[SSTable] = []
        self._listed: dict[str, _ListedTensor] = {}
        for number, file in enumerate(files):
            try:
                table = SSTable(FileBytes(file, file.size()), keeps_blocks=False)
                self._add(number, _listed_in(table, file.path))
            except MalformedError as error:
                raise _damaged("The checkpoint", error, file.path) from error
            tables.append(table)
        self._tables: tuple[SSTable, ...] = tuple(tables)
        self._names: tuple[str, ...] = tuple(sorted(self._listed))

    @property
    def prefix(self) -> str:
        """Path of the file, or the pattern."""
        return self._path

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted by code point."""
        return self._names

    def __contains__(self, name: object) -> bool:
        """Tells whether a tensor has this name."""
        return name in self._listed

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks every block of every file; see `Manifest`."""
        tables = zip(self._tables, self._files, strict=True)
        return tuple(
            damage
            for table, file in tables
            for damage in damaged_blocks(table, file.path)
        )

    def entry(self, name: str) -> TensorEntry:
        """Finds the slices of one tensor.

        Args:
            name: The tensor's key.

        Returns:
            The entry. Where the files at hand do not hold all of the tensor (one of
            several was given), reading it is what fails.

        Raises:
            TensorNotFoundError: No tensor has this name.
            DamagedError: A slice lies outside of the tensor.
        """
        listed = self._listed.get(name)
        if listed is None:
            raise TensorNotFoundError(name, self._path)
        spec = listed.spec
        whole = Box.whole(spec.shape)
        try:
            boxes = [
                box_of_slice(stored.extents, spec.shape) for stored in listed.slices
            ]
        except MalformedError as error:
            raise _damaged(f"Tensor `{printable(name)}`", error, self._path) from error
        pieces = tuple(
            self._piece(name, listed, stored, box)
            for stored, box in zip(listed.slices, boxes, strict=True)
        )
        try:
            check_tiling(boxes, whole)
            # Every element takes a byte at least, of which snappy may make less.
            most = MAX_SNAPPY_RATIO * sum(table.nbytes for table in self._tables)
            if spec.size > most:
                raise MalformedError(f"no file of its size holds {spec.size} elements")
        except MalformedError as error:
            message = self._untiled(name, error)
            nbytes = spec.size * spec.dtype.numpy.itemsize
            pieces = (UntiledPiece(whole, self._path, nbytes, message),)
        return TensorEntry(
            name=name,
            spec=spec,
            pieces=pieces,
            is_sliced=len(boxes) != 1 or boxes[0] != whole,
            is_big_endian=False,
        )

    def _piece(
        self, name: str, listed: _ListedTensor, stored: _StoredSlice, box: Box
    ) -> TablePiece:
        dtype, file = listed.spec.dtype, self._files[stored.file_number]
        return TablePiece(
            box=box,
            path=file.path,
            # Of strings, that of their pointers.
            nbytes=box.size * dtype.numpy.itemsize,
            name=name,
            spec=TensorSpec(box.shape, dtype),
            dtype_code=listed.dtype_code,
            extents=stored.extents,
            table=self._tables[stored.file_number],
            file=file,
        )

    def _untiled(self, name: str, fact: MalformedError) -> str:
        part = _PART.fullmatch(self._path)
        if part is None:
            return str(_damaged(f"Tensor `{printable(name)}`", fact, self._path))
        return (
            f"Tensor `{printable(name)}` is not whole: {fact} - in `{self._path}`, "
            "which is one of several files. Give all of them: "
            f"`{part[1]}-?????-of-{part[2]}`."
        )

    def _add(self, number: int, tensors: Sequence[SavedTensor]) -> None:
        """Adds what one file lists to what the files before it do."""
        for tensor in tensors:
            name = decode_name(tensor.name)
            spec = checked_spec(
                tensor.dtype_code, tensor.dims, is_unknown_rank=tensor.is_unknown_rank
            )
            listed = self._listed.get(name)
            if listed is not None and listed.spec != spec:
                raise MalformedError(
                    f"tensor `{printable(name)}` is listed with shape "
                    f"{list(spec.shape)} and dtype {spec.dtype.name}, elsewhere with "
                    f"{list(listed.spec.shape)} and {listed.spec.dtype.name}"
                )
            if listed is None:
                listed = _ListedTensor(tensor.dtype_code, spec, [])
                self._listed[name] = listed
            listed.slices.extend(
                _StoredSlice(number, extents) for extents in tensor.slices
            )


def _listed_in(table: SSTable, path: str) -> tuple[SavedTensor, ...]:
    value = table.get(LIST_KEY)
    if value is None:
        raise MalformedError("expected a list of tensors under the empty key, got none")
    if len(value) and value[0] == _BUNDLE_HEADER_START:
        raise MalformedError(
            "it is the index of a V2 checkpoint, and not named `<prefix>.index`"
        )
    listed = parse_saved_tensors(value)
    if listed.min_consumer > CHECKPOINT_VERSION or (
        CHECKPOINT_VERSION in listed.bad_consumers
    ):
        raise UnsupportedError(
            f"The checkpoint asks for a reader of version {listed.min_consumer} or "
            f"newer (bad_consumers: {list(listed.bad_consumers)}), this one reads "
            f"version {CHECKPOINT_VERSION} - in `{path}`. "
            "Save it again with the standard Saver."
        )
    return listed.tensors


def _damaged(subject: str, fact: object, path: str) -> DamagedError:
    return DamagedError(
        f"{subject} is damaged: {fact} - in `{path}`. Copy the checkpoint again."
    )
