"""A tensor as a `.npy` file, with the dtypes that every reader of NumPy knows."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from tf2flax._base.dtypes import kind_of
from tf2flax._export.npz import as_fixed_bytes, write_array
from tf2flax._export.outputs import new_output
from tf2flax._storage.faults import write_error


def write_npy(path: str, name: str, array: np.ndarray) -> np.dtype:
    """Writes an array; the file appears once it is whole.

    Args:
        path: As `check_output` gives it.
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
