"""TensorBundle (V2 checkpoints): the bytes of an index file -> names and entries.

Keeps the index as the table it is and decodes an entry when it is asked for, so that
opening a checkpoint of 100,000 tensors parses no more than its header. Never opens a
file and never touches tensor bytes.

Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc and naming.cc.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from tf2flax._errors import (
    DamagedError,
    MalformedError,
    TensorNotFoundError,
    UnsupportedError,
)
from tf2flax._manifest import Entry, Piece
from tf2flax._specs import (
    MAX_ELEMENTS,
    STORED_DTYPES,
    ByteRange,
    StoredDtype,
    TensorSlice,
    TensorSpec,
)
from tf2flax._wire.ordered_code import decode_slice_key, encode_slice_key
from tf2flax._wire.protos import (
    BundleEntry,
    BundleHeader,
    parse_bundle_entry,
    parse_bundle_header,
)
from tf2flax._wire.sstable import SSTable

# The header is the value of the empty key, which sorts before every name.
HEADER_KEY: Final = b""
# Source: `kTensorBundleVersion`, tensor_bundle.h.
BUNDLE_VERSION: Final = 1
# TensorFlow refuses shapes of more axes (`TensorShapeRep::MaxDimensions`).
MAX_RANK: Final = 254
# Pairs of slices that may be compared; a grid of 100 x 100 takes 1,500,000. Without a
# bound, 100,000 slices could take hours.
MAX_COMPARISONS: Final = 5_000_000


class BundleManifest:
    """Names and entries of one V2 checkpoint; entries are decoded when asked for."""

    def __init__(self, prefix: str, index: bytes) -> None:
        """Parses the footer, the block index and the header of an index file.

        Args:
            prefix: Absolute path of the checkpoint, for data-file names and messages.
            index: All bytes of `<prefix>.index`.

        Raises:
            DamagedError: The file is not a table, or its header is malformed.
            UnsupportedError: A newer version of the format wrote it.
        """
        self._prefix: str = prefix
        # Filled when first asked for; both hold what the table says, and no more.
        self._names: tuple[str, ...] | None = None
        self._listed: dict[bytes, frozenset[tuple[tuple[int, int], ...]]] = {}
        try:
            self._table: SSTable = SSTable(index)
            header = self._table.get(HEADER_KEY)
            if header is None:
                raise MalformedError("expected a header under the empty key, got none")
            self._header: BundleHeader = parse_bundle_header(header)
        except MalformedError as error:
            raise self._damaged("Index", error) from error
        self._check_header()

    @property
    def prefix(self) -> str:
        """Absolute path of the checkpoint, without suffix."""
        return self._prefix

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted by code point; slices are not listed."""
        if self._names is None:
            try:
                keys = self._table.keys()
            except MalformedError as error:
                raise self._damaged("Index", error) from error
            keys = [key for key in keys if key and not self._is_slice_key(key)]
            self._names = tuple(sorted(map(_decode_name, keys)))
        return self._names

    def __contains__(self, name: object) -> bool:
        """Whether a tensor has this name."""
        return isinstance(name, str) and self._value(_encode_name(name)) is not None

    def entry(self, name: str) -> Entry:
        """Decodes and checks the entry of one tensor.

        Args:
            name: The tensor's key.

        Returns:
            The entry, with one piece, or as many as it was saved in slices.

        Raises:
            TensorNotFoundError: No tensor has this name.
            DamagedError: The entry is malformed or says something impossible.
        """
        key = _encode_name(name)
        value = self._value(key)
        if value is None:
            raise TensorNotFoundError(name, self._prefix)
        try:
            parsed = parse_bundle_entry(value)
            spec = _spec(parsed)
            whole = TensorSlice.whole(spec.shape)
            if parsed.slices:
                pieces = self._stored_slices(key, parsed, spec)
                _check_tiling(pieces, whole)
            else:
                pieces = (self._piece(parsed, spec, whole),)
        except MalformedError as error:
            raise self._damaged(f"Tensor `{name}`", error) from error
        return Entry(
            name=name,
            spec=spec,
            pieces=pieces,
            is_sliced=bool(parsed.slices),
            is_big_endian=self._header.is_big_endian,
        )

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

    def _value(self, key: bytes) -> bytes | None:
        """The stored value of a tensor's key; None for slices and for the header."""
        if not key or self._is_slice_key(key):
            return None
        try:
            return self._table.get(key)
        except MalformedError as error:
            raise self._damaged("Index", error) from error

    def _is_slice_key(self, key: bytes) -> bool:
        """Whether a key holds one slice of a tensor that lists that slice.

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
            region = _region(extents, spec.shape)
            value = self._table.get(encode_slice_key(key, extents))
            if value is None:
                raise MalformedError(f"expected a stored slice {region}, got none")
            parsed = parse_bundle_entry(value)
            stored = _spec(parsed)
            if parsed.slices or stored != TensorSpec(region.shape, spec.dtype):
                raise MalformedError(
                    f"expected a stored slice of shape {list(region.shape)} and dtype "
                    f"{spec.dtype.name}, got {list(stored.shape)} {stored.dtype.name}"
                )
            pieces.append(self._piece(parsed, stored, region))
        return tuple(pieces)

    def _piece(
        self, parsed: BundleEntry, spec: TensorSpec, region: TensorSlice
    ) -> Piece:
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
        _check_size(parsed.size, spec)
        return Piece(
            region=region,
            data_file=data_file_path(self._prefix, parsed.data_file_index, count),
            span=ByteRange(parsed.offset, parsed.offset + parsed.size),
            crc32c=parsed.crc32c,
        )

    def _damaged(self, subject: str, fact: object) -> DamagedError:
        return DamagedError(
            f"{subject} is damaged: {fact} - in `{self._prefix}.index`. "
            "Copy the checkpoint again."
        )


def data_file_path(prefix: str, index: int, count: int) -> str:
    """Names one data file of a checkpoint.

    Args:
        prefix: Path of the checkpoint, without suffix.
        index: Number of the data file, `0 <= index < count`.
        count: Number of data files.

    Returns:
        Its path.

    Source: `DataFilename`, tensorflow/core/util/tensor_bundle/naming.cc.
    """
    return f"{prefix}.data-{index:05d}-of-{count:05d}"


def _encode_name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decode_name(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def _spec(entry: BundleEntry) -> TensorSpec:
    """Checks an entry's shape and dtype."""
    if entry.is_unknown_rank:
        raise MalformedError("expected a shape, got one of unknown rank")
    if len(entry.dims) > MAX_RANK:
        raise MalformedError(f"expected at most {MAX_RANK} axes, got {len(entry.dims)}")
    if any(dim < 0 for dim in entry.dims):
        raise MalformedError(f"expected dimensions >= 0, got {list(entry.dims)}")
    dtype = STORED_DTYPES.get(entry.dtype_code)
    if dtype is None:
        if entry.dtype_code <= 0:
            raise MalformedError(f"expected a dtype, got number {entry.dtype_code}")
        name = f"number {entry.dtype_code}"
        dtype = StoredDtype(name, np.dtype(object), is_readable=False)
    # Zero dimensions do not excuse the others: numpy cannot hold such shapes either.
    elements = math.prod(dim for dim in entry.dims if dim)
    if elements * dtype.numpy.itemsize > MAX_ELEMENTS:
        raise MalformedError(f"the size of shape {list(entry.dims)} overflows")
    return TensorSpec(entry.dims, dtype)


def _check_size(size: int, spec: TensorSpec) -> None:
    """Checks the stored size against shape and dtype, before anything is allocated."""
    dtype = spec.dtype
    if dtype.is_string:
        # One byte of length at least for each element, then the lengths' checksum;
        # no elements may also be no bytes.
        if size < spec.size + 4 and (size or spec.size):
            raise MalformedError(
                f"expected at least {spec.size + 4} bytes for {spec.size} strings, "
                f"got {size}"
            )
    elif dtype.is_readable and size != spec.size * dtype.numpy.itemsize:
        raise MalformedError(
            f"expected {spec.size * dtype.numpy.itemsize} bytes for shape "
            f"{list(spec.shape)} of {dtype.name}, got {size}"
        )


def _region(
    extents: tuple[tuple[int, int], ...], shape: tuple[int, ...]
) -> TensorSlice:
    """The box that a slice of an entry means; a length of -1 is the whole axis."""
    if len(extents) != len(shape):
        raise MalformedError(
            f"expected slices of rank {len(shape)}, got one of rank {len(extents)}"
        )
    starts: list[int] = []
    stops: list[int] = []
    for (start, length), dim in zip(extents, shape, strict=True):
        if length == -1:
            start, length = 0, dim
        if start < 0 or length < 0 or start + length > dim:
            raise MalformedError(
                f"expected a slice within [0, {dim}), got [{start}, {start + length})"
            )
        starts.append(start)
        stops.append(start + length)
    return TensorSlice(tuple(starts), tuple(stops))


def _check_tiling(pieces: tuple[Piece, ...], whole: TensorSlice) -> None:
    """Checks that the slices cover a tensor exactly once.

    Boxes that share no element and have as many elements as the whole tile it.
    """
    regions = sorted(piece.region for piece in pieces)
    stored = sum(region.size for region in regions)
    if stored != whole.size:
        raise MalformedError(
            f"expected slices that cover {whole.size} elements, got {stored}"
        )
    for number, (first, second) in enumerate(_maybe_overlapping(regions)):
        if first == second or first.intersection(second):
            raise MalformedError(f"slices {first} and {second} overlap")
        if number > MAX_COMPARISONS:
            raise MalformedError(
                f"its {len(regions)} slices lie so that checking them takes too long"
            )


def _maybe_overlapping(
    regions: list[TensorSlice],
) -> Iterator[tuple[TensorSlice, TensorSlice]]:
    """Pairs that may share elements: a sweep along the axis most of them differ on."""
    rank = len(regions[0].starts)
    if not rank:
        yield from itertools.combinations(regions, 2)
        return
    axis = max(range(rank), key=lambda a: len({r.starts[a] for r in regions}))
    active: list[TensorSlice] = []
    for region in sorted(regions, key=lambda r: (r.starts[axis], r.stops[axis])):
        start = region.starts[axis]
        active = [a for a in active if a.stops[axis] > start or a == region]
        yield from ((a, region) for a in active)
        active.append(region)
