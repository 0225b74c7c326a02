"""TensorBundle (V2 checkpoints): the bytes of an index file -> names and entries.

Keeps the index as the table it is and decodes an entry when it is asked for, so that
opening a checkpoint of 100,000 tensors parses no more than its header. The index is
read once, to see whether it is there. While somebody replaces the checkpoint it is read
again, until index and data files belong together. Never touches tensor bytes.

Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc and naming.cc.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Final

from tf2flax._base.data_files import DataFile
from tf2flax._base.errors import (
    CheckpointError,
    DamagedError,
    MalformedError,
    TensorNotFoundError,
    UnsupportedError,
)
from tf2flax._base.manifest import Manifest, Piece, TensorEntry
from tf2flax._base.text import printable
from tf2flax._base.values import (
    MAX_ELEMENTS,
    Box,
    ByteRange,
    TensorSpec,
    decode_name,
    encode_name,
    spec_and_fault,
)
from tf2flax._storage.base import Index, Storage
from tf2flax._storage.foreign import recognise_wrong_file
from tf2flax._storage.snapshots import replaced

from .checks import (
    box_of_slice,
    check_bytes_apart,
    check_tiling,
    damaged_blocks,
)
from .format import Candidate, Format, Location
from .object_graph import GRAPH_KEY
from .wire.messages import (
    BundleEntry,
    BundleHeader,
    parse_bundle_entry,
    parse_bundle_header,
)
from .wire.ordered_code import decode_slice_key, encode_slice_key
from .wire.sstable import Bytes, SSTable

# The header is the value of the empty key, which sorts before every name.
HEADER_KEY: Final = b""
# First byte of the list of tensors that a V1 checkpoint has in the header's place.
_V1_LIST_START: Final = b"\x0a"
# Source: `kTensorBundleVersion`, tensor_bundle.h.
BUNDLE_VERSION: Final = 1


class BundleManifest(Manifest):
    """Names and entries of one V2 checkpoint; entries are decoded when asked for."""

    def __init__(
        self, prefix: str, index: bytes, data_file: Callable[[str], DataFile]
    ) -> None:
        """Parses the footer, the block index and the header of an index file.

        Args:
            prefix: Absolute path or URL of the checkpoint, for messages.
            index: All bytes of `<prefix>.index`.
            data_file: Gives the file of a suffix: `.data-00000-of-00001`.

        Raises:
            DamagedError: The file is not a table, or its header is malformed.
            UnsupportedError: A newer version of the format wrote it.
        """
        self._prefix: str = prefix
        self._data_file: Callable[[str], DataFile] = data_file
        self._files: dict[int, DataFile] = {}
        # Filled when first asked for; they hold what the table says, and no more.
        self._names: tuple[str, ...] | None = None
        self._entries: dict[str, TensorEntry] = {}
        self._listed: dict[bytes, frozenset[tuple[tuple[int, int], ...]]] = {}
        try:
            self._table: SSTable = SSTable(Bytes(index))
            header = self._table.get(HEADER_KEY)
            if header is None:
                raise MalformedError("expected a header under the empty key, got none")
            if bytes(header[:1]) == _V1_LIST_START:
                raise MalformedError(
                    "it is a V1 checkpoint, whose name does not end in `.index`"
                )
            self._header: BundleHeader = parse_bundle_header(header)
        except MalformedError as error:
            raise self._damaged("Index", error) from error
        self._check_header()

    def __getstate__(self) -> dict[str, object]:
        """Leaves out entries, which are decoded again."""
        return {**self.__dict__, "_entries": {}}

    @property
    def prefix(self) -> str:
        """Absolute path or URL of the checkpoint, without suffix."""
        return self._prefix

    @property
    def index_path(self) -> str:
        """The index file, for messages."""
        return f"{self._prefix}.index"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted by code point; slices are not listed."""
        if self._names is None:
            try:
                keys = self._table.keys()
            except MalformedError as error:
                raise self._damaged("Index", error) from error
            keys = [k for k in keys if k and (k[0] or not self._is_slice_key(k))]
            self._names = tuple(sorted(map(decode_name, keys)))
        return self._names

    @property
    def has_object_graph(self) -> bool:
        """True if the tensor is there that TF2 keeps the object graph in."""
        return GRAPH_KEY in self

    def data_paths(self) -> Iterator[str]:
        """Paths of the data files, one by one: damaged headers count millions."""
        count = self._header.num_data_files
        suffixes = (data_file_suffix(number, count) for number in range(count))
        return (self._data_file(suffix).path for suffix in suffixes)

    def __contains__(self, name: object) -> bool:
        """Tells whether a tensor has this name."""
        return isinstance(name, str) and self._value(_key_of(name)) is not None

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks every block of the index, and how long data files are; see `Manifest`.

        A data file that goes on after the last tensor is another checkpoint's.
        """
        damages = damaged_blocks(self._table, self.index_path)
        return damages or tuple(self._files_that_go_on())

    def specs(self) -> Iterator[tuple[str, TensorSpec]]:
        """All names with shape and dtype; see `Manifest`."""
        try:
            for key, value in self._table.items():
                if key and (key[0] or not self._is_slice_key(key)):
                    name = decode_name(key)
                    yield name, self._spec(name, value)
        except MalformedError as error:
            raise self._damaged("Index", error) from error

    def _spec(self, name: str, value: bytes | memoryview) -> TensorSpec:
        """Shape and dtype as an entry says them, checked."""
        try:
            parsed = parse_bundle_entry(value)
            dtype_code, dims, is_unknown_rank = parsed[:3]
            spec, wrong_size = spec_and_fault(
                dtype_code, dims, is_unknown_rank, parsed.size
            )
            if not parsed.slices:
                self._check_place(parsed, wrong_size)
        except MalformedError as error:
            raise self._damaged(f"Tensor `{printable(name)}`", error) from error
        return self.entry(name).spec if parsed.slices else spec

    def entry(self, name: str) -> TensorEntry:
        """Decodes and checks the entry of one tensor, when it is first asked for.

        Args:
            name: The tensor's key.

        Returns:
            The entry, with one piece, or as many as it was saved in slices.

        Raises:
            TensorNotFoundError: No tensor has this name.
            DamagedError: The entry is malformed or says something impossible.
        """
        entry = self._entries.get(name)
        if entry is None:  # a restore asks for shapes first, then for places
            entry = self._entries[name] = self._decode(name)
        return entry

    def _decode(self, name: str) -> TensorEntry:
        """Decodes and checks an entry; see `entry`."""
        try:
            parsed = parse_bundle_entry(self._stored(name))
            spec, wrong_size = spec_and_fault(*parsed[:3], parsed.size)
            whole = Box.whole(spec.shape)
            if parsed.slices and not spec.shape:
                # TensorFlow takes it for a tensor of no bytes, and refuses it too.
                raise MalformedError("expected a scalar to be stored whole, got slices")
            if parsed.slices:
                pieces = self._stored_slices(_key_of(name), parsed, spec)
                check_tiling([piece.box for piece in pieces], whole)
            else:
                pieces = (self._piece(parsed, whole, wrong_size),)
        except MalformedError as error:
            raise self._damaged(f"Tensor `{printable(name)}`", error) from error
        return TensorEntry(
            name=name,
            spec=spec,
            pieces=pieces,
            is_sliced=bool(parsed.slices),
            is_big_endian=self._header.is_big_endian,
        )

    def _stored(self, name: str) -> memoryview:
        """The stored value of a tensor."""
        value = self._value(_key_of(name))
        if value is None:
            raise TensorNotFoundError(name, self.index_path)
        return value

    def _check_header(self) -> None:
        header = self._header
        if header.num_data_files < 0:
            raise self._damaged(
                "Index", f"expected num_shards >= 0, got {header.num_data_files}"
            )
        if header.min_consumer > BUNDLE_VERSION or (
            BUNDLE_VERSION in header.bad_consumers
        ):
            raise UnsupportedError(
                f"Index asks for a reader of format version {header.min_consumer} or "
                f"newer (bad_consumers: {list(header.bad_consumers)}), this one reads "
                f"version {BUNDLE_VERSION} - in `{self._prefix}.index`. "
                "Save the checkpoint again with the standard Saver."
            )

    def _value(self, key: bytes) -> memoryview | None:
        """The stored value of a tensor's key; None for slices and for the header."""
        if not key or (key[0] == 0 and self._is_slice_key(key)):
            return None
        try:
            return self._table.get(key)
        except MalformedError as error:
            raise self._damaged("Index", error) from error

    def _is_slice_key(self, key: bytes) -> bool:
        """Tells whether a key holds one slice of a tensor that lists that slice.

        A tensor's own name may begin with the same byte, so the tensor decides.
        """
        if not key.startswith(b"\0"):
            return False
        decoded = decode_slice_key(key)
        return decoded is not None and decoded[1] in self._listed_slices(decoded[0])

    def _listed_slices(self, key: bytes) -> frozenset[tuple[tuple[int, int], ...]]:
        if key not in self._listed:
            try:
                value = self._table.get(key)
                slices = () if value is None else parse_bundle_entry(value).slices
            except MalformedError as error:
                raise self._damaged("Index", error) from error
            self._listed[key] = frozenset(slices)
        return self._listed[key]

    def _stored_slices(
        self, key: bytes, parent: BundleEntry, spec: TensorSpec
    ) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        for extents in parent.slices:
            box = box_of_slice(extents, spec.shape)
            value = self._table.get(encode_slice_key(key, extents))
            if value is None:
                raise MalformedError(f"expected a stored slice {box}, got none")
            parsed = parse_bundle_entry(value)
            stored, wrong_size = spec_and_fault(*parsed[:3], parsed.size)
            if parsed.slices or stored != TensorSpec(box.shape, spec.dtype):
                raise MalformedError(
                    f"expected a stored slice of shape {list(box.shape)} and dtype "
                    f"{spec.dtype.name}, got {list(stored.shape)} {stored.dtype.name}"
                )
            pieces.append(self._piece(parsed, box, wrong_size))
        check_bytes_apart(pieces)
        return tuple(pieces)

    def _piece(self, parsed: BundleEntry, box: Box, wrong_size: str) -> Piece:
        self._check_place(parsed, wrong_size)
        return Piece(
            box=box,
            data_file=self._file(parsed.data_file_index),
            span=ByteRange(parsed.offset, parsed.offset + parsed.size),
            crc32c=parsed.crc32c,
        )

    def _check_place(self, parsed: BundleEntry, wrong_size: str) -> None:
        """Checks the place of bytes; `wrong_size` is a fact about their number."""
        count = self._header.num_data_files
        if not 0 <= parsed.data_file_index < count:
            raise MalformedError(
                f"expected shard_id within [0, {count}), got {parsed.data_file_index}"
            )
        if parsed.offset < 0 or parsed.size < 0:
            raise MalformedError(
                "expected offset and size >= 0, got "
                f"offset {parsed.offset} and size {parsed.size}"
            )
        if parsed.offset + parsed.size > MAX_ELEMENTS:
            raise MalformedError(
                f"offset {parsed.offset} plus size {parsed.size} overflows"
            )
        if wrong_size:
            raise MalformedError(wrong_size)

    def _files_that_go_on(self) -> Iterator[tuple[str, str]]:
        stops: dict[DataFile, int] = {}
        for name in self.names:
            try:
                pieces = self.entry(name).pieces
            except DamagedError:  # its bytes may be those that nobody else has
                return
            for piece in pieces:
                if piece.data_file is not None:
                    stop = max(piece.span.stop, stops.get(piece.data_file, 0))
                    stops[piece.data_file] = stop
        for file, stop in stops.items():
            try:
                size = file.size()
            except DamagedError:  # it is missing, as every tensor will say
                continue
            if size is not None and size > stop:
                yield (
                    file.path,
                    f"The file has {size} bytes, {size - stop} more than its index "
                    f"lists - at `{file.path}`. Copy it again, from where the index "
                    "came from.",
                )

    def _file(self, index: int) -> DataFile:
        if index not in self._files:
            suffix = data_file_suffix(index, self._header.num_data_files)
            self._files[index] = self._data_file(suffix)
        return self._files[index]

    def _damaged(self, subject: str, fact: object) -> DamagedError:
        return DamagedError(
            f"{subject} is damaged: {fact} - in `{self._prefix}.index`. "
            "Copy the checkpoint again."
        )


def data_file_suffix(index: int, count: int) -> str:
    """Names one data file of a checkpoint.

    Args:
        index: Number of the data file, `0 <= index < count`.
        count: Number of data files.

    Returns:
        What follows the prefix in its path.

    Source: `DataFilename`, tensorflow/core/util/tensor_bundle/naming.cc.
    """
    return f".data-{index:05d}-of-{count:05d}"


def _key_of(name: str) -> bytes:
    """The key of a name; that of no tensor where no bytes can be its text."""
    try:
        return encode_name(name)
    except UnicodeEncodeError:  # half of a surrogate pair
        return b""


# How often the index of a checkpoint that is being replaced is read again, and how long
# is waited before (s): exchanging names takes less than a millisecond for each file.
_MAX_OPENINGS: Final = 10
_REPLACING_S: Final = 0.01
# What is needed of an index to recognise something else in its place (bytes).
_HEAD_NBYTES: Final = 64


class BundleFormat(Format):
    """V2 checkpoints: `<prefix>.index` and data files beside it."""

    name = "TensorBundle (V2 checkpoint)"

    def recognise(self, candidate: Candidate) -> bool:
        """False: no file of it is a checkpoint by itself; a prefix finds it.

        An index under another name ends like a V1 file, and is refused there.
        """
        return False

    def find_by_prefix(self, storage: Storage, prefix: str) -> Location | None:
        """Reads the index of a prefix; None where there is none."""
        index = storage.read_index(f"{prefix}.index")
        if index is None:
            return None
        return Location(self, storage, prefix, index=index)

    def open(self, location: Location) -> Manifest:
        """Parses the index; see `Format`.

        Raises:
            DamagedError: It is not a table, malformed, or still being replaced.
        """
        storage, prefix = location.storage, location.path
        index = location.index
        for _ in range(_MAX_OPENINGS):
            if index is None:
                break
            manifest = _parse_index(storage, prefix, index)
            if index.settle(manifest.data_paths()):
                return manifest
            # Somebody is replacing the checkpoint: its index comes last.
            time.sleep(_REPLACING_S)
            index = storage.read_index(f"{prefix}.index")
        raise replaced("The checkpoint", f"{storage.show(prefix)}.index")


def _parse_index(storage: Storage, prefix: str, index: Index) -> BundleManifest:
    full_prefix = storage.show(prefix)
    base = full_prefix if storage.is_local else prefix
    data_file = functools.partial(_data_file, index, base)
    try:
        return BundleManifest(full_prefix, index.contents, data_file)
    except CheckpointError:
        # Perhaps it is another kind of file, which says more than what is malformed.
        wrong_file = recognise_wrong_file(index.contents[:_HEAD_NBYTES])
        if not wrong_file:
            raise
    raise DamagedError(
        f"Expected the index of a checkpoint, got {wrong_file[0]} - at "
        f"`{full_prefix}.index`. {wrong_file[1]}"
    )


def _data_file(index: Index, prefix: str, suffix: str) -> DataFile:
    """The file of a suffix; a function of the module, so that it is picklable."""
    return index.file(prefix + suffix)
