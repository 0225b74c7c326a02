"""A tensor as a `.npy` file, with the dtypes that every reader of NumPy knows."""

from __future__ import annotations

import os
import pathlib
from typing import Final

import numpy as np

import tf2flax
from tf2flax._base.dtypes import kind_of
from tf2flax._export.npz import as_fixed_bytes, write_array
from tf2flax._export.outputs import new_output
from tf2flax._storage.faults import write_error
from tf2flax._storage.local import LOCAL
from tf2flax._storage.stores import storage_of
from tf2flax._storage.writing import new_folders

_ENDING: Final = ".npy"


def check_npy(out: str, *, overwrite: bool) -> str:
    """Checks where a file is to be written, before anything is read.

    Args:
        out: The path.
        overwrite: True if a file that exists may be replaced.

    Returns:
        The absolute path.

    Raises:
        UnsupportedError: It is a URL, or has another ending.
        ExistsError: Something lies there.
    """
    storage, text = storage_of(out)
    if not storage.is_local:
        raise tf2flax.UnsupportedError(
            f"-o: `{storage.show(text)}` is not a local path. Write a local file, and "
            "copy it."
        )
    path = LOCAL.show(text)
    # Another ending may be that of the checkpoint itself.
    if not path.endswith(_ENDING):
        raise tf2flax.UnsupportedError(
            f"-o: expected a file that ends in {_ENDING}, got `{out}`. Write "
            f"`{out}{_ENDING}`."
        )
    if pathlib.Path(path).is_dir():
        raise tf2flax.ExistsError(
            f"A folder lies at the output - at `{path}`. Choose another path."
        )
    if os.path.lexists(path) and not overwrite:
        raise tf2flax.ExistsError(
            f"The output exists already - at `{path}`. Choose another path, or give "
            "--overwrite."
        )
    return path


def write_npy(path: str, name: str, array: np.ndarray) -> np.dtype:
    """Writes an array; the file appears once it is whole.

    Args:
        path: As `check_npy` gives it.
        name: Name of the tensor, for messages.
        array: Its values.

    Returns:
        The dtype that was written, which holds all values exactly: NumPy alone has no
        bfloat16, for one.

    Raises:
        UnsupportedError: Strings that NumPy would change.
        ReadError: The system refuses.
    """
    if array.dtype == object:
        array = as_fixed_bytes(
            array, name, "Read it in Python: checkpoint[name].read()"
        )
    dtype = written_dtype(array.dtype)
    try:
        with (
            new_folders(path),
            new_output(path) as temporary,
            pathlib.Path(temporary).open("xb") as file,
        ):
            with np.errstate(invalid="ignore"):  # NaNs that signal
                array = array.astype(dtype, copy=False)
            write_array(file, array)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(path, error) from error
    return dtype


def written_dtype(dtype: np.dtype) -> np.dtype:
    """NumPy's own dtype that holds all values of a dtype.

    Examples:
        >>> import ml_dtypes
        >>> written_dtype(np.dtype(ml_dtypes.int4)), written_dtype(np.dtype("int64"))
        (dtype('int8'), dtype('int64'))
    """
    if dtype.isbuiltin == 1 or dtype.kind == "S":
        return dtype
    if kind_of(dtype) == "int":
        return np.dtype(np.uint8 if dtype.name.startswith("u") else np.int8)
    return np.dtype(np.float32)
