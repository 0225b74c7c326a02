"""Files that `convert` writes, read back: names and arrays, for comparisons.

Knows the files of tf2flax and those that their own libraries write: safetensors, npz,
and Orbax directories with an OCDBT store. Imports none of these libraries.
"""

from __future__ import annotations

import ast
import json
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import IO, Any, Final, NamedTuple

import numpy as np

from tf2flax._base.errors import (
    CheckpointNotFoundError,
    DamagedError,
    NotFoundError,
    ReadError,
    UnsupportedError,
)
from tf2flax._base.memory import empty
from tf2flax._base.roles import NamedRoles
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.opening import open_checkpoint
from tf2flax._formats.renamed import RenamedManifest
from tf2flax._storage.requests import load_tensorstore

from .orbax import MANIFEST
from .safetensors import DTYPES, MAX_HEADER_NBYTES

_METADATA: Final = "_METADATA"


class ReadableArray(NamedTuple):
    """An array that is read when it is asked for.

    Attributes:
        shape: Its shape.
        dtype: Its dtype, as messages name it.
        nbytes: How many bytes are read for it; of strings, what is known before.
        read: Reads all of it; strings as an object array of bytes.
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    read: Callable[[], np.ndarray]


class _CheckpointArrays(dict[str, ReadableArray]):
    """Arrays of a checkpoint, which knows what they are to a training.

    What a view does not list, since names are shared or missing, has its stored name.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        view = checkpoint.manifest
        below, unlisted = checkpoint, tuple[str, ...]()
        if isinstance(view, RenamedManifest):
            below, unlisted = Checkpoint(view.base), view.unlisted()
        tensors = {key: below[key] for key in unlisted} | dict(checkpoint.items())
        super().__init__(
            (
                name,
                ReadableArray(
                    tensor.shape,
                    tensor.entry.spec.dtype.name,
                    tensor.nbytes,
                    tensor.read,
                ),
            )
            for name, tensor in tensors.items()
        )
        self._roles = ((checkpoint, view.roles()), (unlisted, below.manifest.roles()))

    def of_training(self) -> frozenset[str]:
        """Names of optimizer slots and moving averages."""
        return frozenset(
            name
            for names, roles in self._roles
            for name in names
            if roles.is_of_training(name)
        )


def slots_of(arrays: Mapping[str, ReadableArray]) -> frozenset[str]:
    """Names of optimizer slots and moving averages.

    Args:
        arrays: As `open_arrays` gives them. Of other files than checkpoints, names and
            shapes tell.
    """
    if isinstance(arrays, _CheckpointArrays):
        return arrays.of_training()
    roles = NamedRoles(frozenset(arrays), lambda name: arrays[name].shape)
    return frozenset(filter(roles.is_of_training, arrays))


def open_arrays(
    path: str, view: Callable[[Checkpoint], Checkpoint] = lambda checkpoint: checkpoint
) -> Mapping[str, ReadableArray]:
    """Opens a checkpoint, or what one was converted to.

    Args:
        path: A checkpoint of any kind; a file of safetensors, or an npz; or an Orbax
            directory, of a step or of the items in it.
        view: Gives a checkpoint, and nothing else, other names. A tensor that has none
            there keeps its stored name.

    Returns:
        Its arrays, by name.

    Raises:
        CheckpointError: It is neither, or it is damaged.
    """
    if os.path.isfile(path):
        if path.endswith(".safetensors") or _begins_as_safetensors(path):
            return _open_safetensors(path)
        if path.endswith(".npz") or _holds_npy(path):
            return _open_npz(path)
    if orbax := _find_orbax(path):
        return _open_orbax(orbax)
    try:
        return _CheckpointArrays(view(open_checkpoint(path)))
    except CheckpointNotFoundError as error:
        if not path.endswith((".npz", ".safetensors")) or os.path.lexists(path):
            raise
        raise NotFoundError(
            f"No file at `{os.path.abspath(path)}`. Give a file of arrays that is "
            "there, or a checkpoint."
        ) from error


def _begins_as_safetensors(path: str) -> bool:
    """True if a file begins with the length of a header, and the header follows."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:  # whoever opens it says why
        return False
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and length <= min(MAX_HEADER_NBYTES, os.path.getsize(path))


def _holds_npy(path: str) -> bool:
    """True if a file is a zip of arrays and nothing else; Keras writes zips too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _open_safetensors(path: str) -> Mapping[str, ReadableArray]:
    dtypes = {name: dtype for dtype, name in DTYPES.items()}
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_NBYTES, size - 8):
                raise ValueError(f"its header has {length} bytes")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            arrays: dict[str, ReadableArray] = {}
            for name, fields in header.items():
                start, stop = fields["data_offsets"]
                dtype, shape = dtypes[fields["dtype"]], tuple(fields["shape"])
                nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
                if (
                    stop - start != nbytes
                    or not 0 <= start <= stop <= size - 8 - length
                ):
                    raise ValueError(f"`{name}` has offsets {start} and {stop}")
                place = start + 8 + length
                arrays[name] = ReadableArray(
                    shape, str(dtype), nbytes, _range_reader(path, place, shape, dtype)
                )
    except OSError as error:
        raise ReadError(f"Cannot read `{path}`: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"`{path}` is not a sound file of safetensors: {error}. Copy it again."
        ) from error
    return arrays


def _range_reader(
    path: str, start: int, shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        array = empty(shape, dtype)
        stored = array.reshape(-1).view(np.uint8)
        with open(path, "rb") as file:
            file.seek(start)
            if file.readinto(stored.data) != stored.size:
                raise DamagedError(f"`{path}` has become shorter. Copy it again.")
        return array

    return read


def _open_npz(path: str) -> Mapping[str, ReadableArray]:
    arrays: dict[str, ReadableArray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    shape, dtype = _npy_header(file)
                name = member.removesuffix(".npy")
                if dtype.hasobject:
                    raise UnsupportedError(
                        f"`{name}` holds objects of Python, which only pickle reads - "
                        f"in `{path}`. Save it as an array of numbers or bytes."
                    )
                arrays[name] = ReadableArray(
                    shape,
                    "string" if dtype.kind == "S" else str(dtype),
                    math.prod(shape) * dtype.itemsize,
                    _npz_reader(path, name),
                )
    except OSError as error:
        raise ReadError(f"Cannot read `{path}`: {error.strerror}.") from error
    except (ValueError, zipfile.BadZipFile) as error:
        raise DamagedError(
            f"`{path}` is not a sound npz file: {error}. Copy it again."
        ) from error
    return arrays


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype


def _npz_reader(path: str, name: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            with np.load(path) as archive:
                array: np.ndarray = archive[name]
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DamagedError(
                f"`{name}` is damaged: {error} - in `{path}`. Copy the file again."
            ) from error
        return array.astype(object) if array.dtype.kind == "S" else array

    return read


def _find_orbax(path: str) -> str | None:
    """The directory of an Orbax checkpoint: this one, or `default` in a step's."""
    for folder in (path, os.path.join(path, "default"), os.path.join(path, "pytree")):
        if os.path.isfile(os.path.join(folder, _METADATA)):
            return folder
    return None


def _open_orbax(folder: str) -> Mapping[str, ReadableArray]:
    metadata_path = os.path.join(folder, _METADATA)
    try:
        metadata = json.loads(pathlib.Path(metadata_path).read_bytes())
        keys = [
            (ast.literal_eval(key), value["value_metadata"])
            for key, value in metadata["tree_metadata"].items()
        ]
        driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, AttributeError) as e:
        raise DamagedError(
            f"`{metadata_path}` is not what Orbax writes: {e}. Copy the directory "
            "again."
        ) from e
    if not os.path.isfile(os.path.join(folder, MANIFEST)):
        raise UnsupportedError(
            f"`{folder}` is an Orbax checkpoint without an OCDBT store. Restore it "
            "with Orbax, and save it again with use_ocdbt=True."
        )
    return {
        "/".join(map(str, path)): _orbax_array(folder, driver, ".".join(map(str, path)))
        for path, value in keys
        if value.get("value_type") not in ("None", "string", "Dict", "List")
    }


def _orbax_array(folder: str, driver: str, name: str) -> ReadableArray:
    ts: Any = load_tensorstore()
    base = f"file://{os.path.abspath(folder)}/"
    spec = {
        "driver": driver,
        "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"},
    }
    try:
        store = ts.open(spec, read=True, open=True).result()
    except ValueError as error:
        raise DamagedError(
            f"`{name}` cannot be opened - in `{folder}`: {str(error)[:200]}."
        ) from error

    def read() -> np.ndarray:
        try:
            return np.asarray(store.read().result())
        except ValueError as error:
            raise DamagedError(
                f"`{name}` is damaged - in `{folder}`: {str(error)[:200]}."
            ) from error

    dtype: np.dtype = store.dtype.numpy_dtype
    nbytes = int(store.size) * dtype.itemsize
    return ReadableArray(tuple(store.shape), str(dtype), nbytes, read)
