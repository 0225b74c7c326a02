"""One dataset of an HDF5 file: what the file says of it, checked.

Asks h5py, and reads no element. Refuses everything that leads out of the file (external
and virtual storage) and filters other than gzip and shuffle.
"""

from __future__ import annotations

import importlib
import math
import types
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from tf2flax._base.errors import MalformedError
from tf2flax._base.values import MAX_ELEMENTS, STORED_DTYPES, StoredDtype, TensorSpec

from .file import MAX_EXPANSION
from .hdf5_elements import FILTERS, Chunk, Description, Grid
from .hdf5_heaps import REFERENCE

# A handle of h5py, which has no types.
Handle = Any
# Classes of datatypes, for messages. Source: `H5T_class_t`, H5Tpublic.h.
_CLASS_NAMES: Final = {
    0: "integer",
    1: "float",
    2: "time",
    4: "bitfield",
    5: "opaque",
    6: "compound",
    7: "reference",
    8: "enum",
    9: "sequence",
    10: "array",
    11: "complex",
}
# Filters that are not undone, for messages. Source: H5Zpublic.h; lzf_filter.h of h5py.
_FILTER_NAMES: Final = {
    3: "fletcher32",
    4: "szip",
    5: "nbit",
    6: "scaleoffset",
    32000: "lzf",
}
_DTYPES: Final = {dtype.name: dtype for dtype in STORED_DTYPES.values()}


class RefusedError(Exception):
    """A short fact and a way out, to which a caller who knows the file adds it."""

    def __init__(
        self, fact: str, fix: str = "Save the weights again, with Keras itself."
    ) -> None:
        super().__init__(fact)
        self.fix: str = fix


def load_h5py() -> types.ModuleType:
    """Imports h5py.

    Raises:
        ImportError: It is not installed.
    """
    return importlib.import_module("h5py")


def describe(dataset: Handle, file_nbytes: int) -> Description:
    """Checks what a file says of a dataset.

    Args:
        dataset: The dataset.
        file_nbytes: Length of the file.

    Returns:
        What it is, and where its elements lie: all within the file.

    Raises:
        MalformedError: Its elements cannot be there.
        RefusedError: They lie in another file, or behind an unknown filter, or were
            never written.
    """
    h5py = load_h5py()
    created = dataset.get_create_plist()
    layout = created.get_layout()
    # Before all else: asked for its shape, a virtual dataset opens other files.
    if layout == h5py.h5d.VIRTUAL or created.get_external_count():
        raise RefusedError("its values lie in other files, which are not opened")
    if layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
        raise RefusedError("its values lie in its header, where Keras puts none")
    space = dataset.get_space()
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        return Description(TensorSpec((), _unreadable("nothing")), np.dtype("V0"), None)
    shape = tuple(int(dim) for dim in space.get_simple_extent_dims())
    dtype, stored = _dtypes(h5py, dataset.get_type())
    nbytes = math.prod(shape) * stored.itemsize
    # Zero dimensions do not excuse the others: numpy cannot hold such shapes either.
    if math.prod(dim for dim in shape if dim) * stored.itemsize > MAX_ELEMENTS:
        raise MalformedError(f"the size of shape {list(shape)} overflows")
    if nbytes and dtype.is_readable and not dataset.get_storage_size():
        fill = _fill_value(created, stored, nbytes, file_nbytes)
        return Description(TensorSpec(shape, dtype), stored, None, fill)
    where = None
    if not nbytes or not dtype.is_readable:
        pass
    elif layout == h5py.h5d.CHUNKED:
        where = _grid(dataset, created, shape, stored.itemsize, file_nbytes)
    else:
        held = dataset.get_storage_size()
        if held != nbytes:
            raise MalformedError(f"expected {nbytes} bytes of elements, got {held}")
        where = dataset.get_offset()
        if where is None or where + nbytes > file_nbytes:
            raise MalformedError(
                f"its {nbytes} bytes from {where} on are not in a file of {file_nbytes}"
            )
    return Description(TensorSpec(shape, dtype), stored, where)


def _fill_value(
    created: Handle, stored: np.dtype, nbytes: int, file_nbytes: int
) -> bytes:
    """The bytes that stand for every element of a dataset that was never written.

    Raises:
        RefusedError: It has none, or is so large that a small file could fill memory.
    """
    h5py = load_h5py()
    fact = "its values were never written"
    if nbytes > MAX_EXPANSION * file_nbytes:
        raise RefusedError(f"{fact}, and would take {nbytes} bytes of memory")
    is_reference = stored.kind == "V"
    if created.fill_value_defined() == h5py.h5d.FILL_VALUE_UNDEFINED or is_reference:
        raise RefusedError(f"{fact}, and nothing stands for them")
    # An opaque type, as that of bfloat16 is, is not converted to numbers.
    for dtype in (stored, np.dtype(f"V{stored.itemsize}")):
        value = np.zeros((), dtype)
        try:
            created.get_fill_value(value)
        except (OSError, RuntimeError, TypeError, ValueError):
            continue
        return value.tobytes()
    raise RefusedError(f"{fact}, and what stands for them cannot be read")


def _grid(
    dataset: Handle,
    created: Handle,
    shape: tuple[int, ...],
    itemsize: int,
    file_nbytes: int,
) -> Grid:
    filters = tuple(created.get_filter(i)[0] for i in range(created.get_nfilters()))
    for number in filters:
        if number not in FILTERS:
            name = _FILTER_NAMES.get(number, f"{number}, a plugin of HDF5")
            raise RefusedError(
                f"it was written with filter {name}; only gzip and shuffle are read",
                fix="Write it again with h5py: "
                'create_dataset(..., compression="gzip").',
            )
    extents: tuple[int, ...] = created.get_chunk()
    chunks: list[Chunk] = []
    # Each takes more than 8 bytes of the file's index of chunks.
    most = file_nbytes // 8

    def add(info: Handle) -> bool | None:
        # Raises nothing, which h5py would hide; anything but None ends the walk.
        starts = tuple(int(start) for start in info.chunk_offset)
        chunks.append(Chunk(starts, info.byte_offset, info.size, info.filter_mask))
        return True if len(chunks) > most else None

    dataset.chunk_iter(add)
    _check_chunks(chunks, shape, extents, file_nbytes)
    chunk_nbytes = math.prod(extents) * itemsize
    for chunk in chunks:
        ratio = MAX_EXPANSION if filters else 1
        if chunk_nbytes > ratio * chunk.nbytes:
            raise MalformedError(
                f"its chunk at {list(chunk.starts)} announces {chunk_nbytes} bytes, "
                f"stored in {chunk.nbytes}"
            )
    return Grid(extents, filters, tuple(chunks))


def _check_chunks(
    chunks: Sequence[Chunk],
    shape: tuple[int, ...],
    extents: tuple[int, ...],
    file_nbytes: int,
) -> None:
    """Checks that chunks make up a dataset, and lie in the file side by side."""
    wanted = math.prod(
        -(-dim // step) for dim, step in zip(shape, extents, strict=True)
    )
    if len(chunks) < wanted:  # HDF5 would make up what is missing, or was lost
        raise RefusedError(
            f"of its {wanted} chunks only {len(chunks)} were ever written"
        )
    if len(chunks) > wanted:
        raise MalformedError(f"expected {wanted} chunks, got {len(chunks)}")
    left = file_nbytes
    seen: set[tuple[int, ...]] = set()
    for chunk in chunks:
        grid = zip(chunk.starts, shape, extents, strict=True)
        is_in_grid = all(a < dim and a % step == 0 for a, dim, step in grid)
        left -= chunk.nbytes
        is_in_file = left >= 0 and chunk.offset + chunk.nbytes <= file_nbytes
        if not is_in_grid or not is_in_file or chunk.starts in seen:
            raise MalformedError(
                f"its chunk at {list(chunk.starts)}, {chunk.nbytes} bytes at "
                f"{chunk.offset}, cannot be there"
            )
        seen.add(chunk.starts)


def _dtypes(h5py: types.ModuleType, kind: Handle) -> tuple[StoredDtype, np.dtype]:
    """The dtype of the elements, and the one that they are stored in."""
    h5t = h5py.h5t
    number, itemsize = kind.get_class(), kind.get_size()
    if number == h5t.STRING and kind.is_variable_str():
        return _DTYPES["string"], np.dtype(f"V{REFERENCE.size}")
    if number == h5t.STRING:
        return _DTYPES["string"], np.dtype(f"S{itemsize}")
    if number == h5t.OPAQUE and itemsize == 2 and not kind.get_tag():
        # What becomes of bfloat16, the only dtype of two bytes that Keras has and h5py
        # does not know. Source: `H5IOStore.__setitem__`, saving_lib.py.
        return _DTYPES["bfloat16"], np.dtype("<u2")
    if number in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.COMPOUND):
        try:
            dtype: np.dtype = kind.dtype
        except (TypeError, ValueError):  # numpy has nothing like it
            return _unreadable(_CLASS_NAMES[number]), np.dtype(f"V{itemsize}")
        tensor_dtype = _DTYPES.get(dtype.name)
        # Not merely like it: every bit must mean what it means to numpy.
        if tensor_dtype is not None and kind.equal(h5t.py_create(dtype)):
            return tensor_dtype, np.dtype("u1") if dtype.kind == "b" else dtype
    name = _CLASS_NAMES.get(number, "unknown")
    return _unreadable(name), np.dtype(f"V{itemsize}")


def _unreadable(name: str) -> StoredDtype:
    return StoredDtype(f"hdf5 {name}", np.dtype(object), is_readable=False)
