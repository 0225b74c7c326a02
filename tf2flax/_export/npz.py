"""NumPy's `.npz`: a zip file with one `.npy` file for each tensor, not compressed.

Source: numpy/lib/format.py, numpy/lib/_npyio_impl.py.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Sequence
from typing import IO, Final

import numpy as np

from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.memory import bytes_of
from tf2flax._base.values import Box
from tf2flax._formats.object_graph import GRAPH_KEY

from .exporter import ExportedTensor, Exporter, TensorSource
from .safetensors import refuse_dtypes, refuse_invalid_text

# NumPy's own dtypes. Others (bfloat16) would be read back as bytes without a meaning.
_DTYPES: Final = frozenset(
    np.dtype(name)
    for name in (
        "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64",
        "int64", "float16", "float32", "float64", "complex64", "complex128",
    )
)  # fmt: skip

_MAX_NAME_NBYTES: Final = 65_531  # with `.npy`, all that a zip file has room for


class Npz(Exporter):
    """One `.npz` file; strings become arrays of bytes, but for object graphs."""

    name = "npz"
    endings = (".npz",)
    takes_strings = True

    def leaves_out(self, tensor: ExportedTensor) -> bool:
        """True for object graphs, of which NumPy would cut off zero bytes."""
        return tensor.is_string and tensor.assignment.sources == (GRAPH_KEY,)

    def check(self, tensors: Sequence[ExportedTensor]) -> None:
        """Refuses dtypes that NumPy lacks, and names that `numpy.load` would change."""
        arrays = [tensor for tensor in tensors if not tensor.is_string]
        refuse_dtypes(arrays, _DTYPES, self.name)
        for tensor in tensors:
            refuse_invalid_text(tensor.name)
            if len(tensor.name.encode()) > _MAX_NAME_NBYTES:
                raise AssignmentError(
                    f"Name `{tensor.name[:40]}…` has more than {_MAX_NAME_NBYTES} "
                    "bytes, and no zip file holds it. Move the tensor with "
                    "assignment_map."
                )
            if tensor.name.endswith(".npy"):
                raise AssignmentError(
                    f"Name `{tensor.name}` loses its ending when numpy.load reads it. "
                    "Move the tensor with assignment_map."
                )
            if "\0" in tensor.name:
                raise AssignmentError(
                    f"Name {tensor.name!r} has a NUL, which no zip file holds. Move "
                    "the tensor with assignment_map."
                )

    def write(self, path: str, source: TensorSource) -> None:
        """Writes the tensors one after the other."""
        with (
            open(path, "xb") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
            contextlib.closing(_Members(archive)) as members,
        ):
            source.read_in_order(source.tensors, members.take)
            members.close()
            archive.close()
            file.flush()
            os.fsync(file.fileno())


class _Members:
    """The arrays in an archive, each a file that ends before the next one begins."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._member: IO[bytes] | None = None

    def take(self, tensor: ExportedTensor, box: Box, array: np.ndarray) -> None:
        """Writes a box of a tensor, which follows the one before."""
        if not any(box.starts):
            self.close()
            way_out = "Leave it out with assignment_map"
            array = as_fixed_bytes(array, tensor.name, way_out)
            info = zipfile.ZipInfo(f"{tensor.name}.npy")
            self._member = self._archive.open(info, "w", force_zip64=True)
            _write_header(self._member, tensor.shape, array.dtype)
        assert self._member is not None
        self._member.write(bytes_of(np.ascontiguousarray(array)).data)

    def close(self) -> None:
        """Ends the file of the last tensor."""
        if self._member is not None:
            self._member.close()
            self._member = None


def write_array(file: IO[bytes], array: np.ndarray) -> None:
    """Writes an array as `numpy.save` does, without a copy of it."""
    _write_header(file, array.shape, array.dtype)
    file.write(bytes_of(np.ascontiguousarray(array)).data)


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Writes what stands before the elements of an array."""
    header = np.lib.format.header_data_from_array_1_0(np.zeros((), dtype))
    header["shape"] = shape
    np.lib.format.write_array_header_1_0(file, header)


def as_fixed_bytes(array: np.ndarray, name: str, way_out: str) -> np.ndarray:
    """Strings as NumPy's bytes of fixed length; other arrays as they are.

    Args:
        array: The array.
        name: Name of the tensor, for the message.
        way_out: What to do instead, for the message.

    Raises:
        UnsupportedError: A string ends in zero bytes, which NumPy would cut off.
    """
    if array.dtype != object:
        return array
    strings = array.reshape(-1).tolist()
    if any(string.endswith(b"\0") for string in strings):
        raise UnsupportedError(
            f"Tensor `{name}` has strings that end in zero bytes, which NumPy would "
            f"cut off. {way_out}."
        )
    return np.array(strings, "S").reshape(array.shape)
