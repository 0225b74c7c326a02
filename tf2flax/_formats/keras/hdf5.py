"""HDF5 files of Keras weights -> names and entries.

h5py, an extra, lists what a file holds when it is opened, and takes no part in reads.
No handle is kept, so that a manifest is picklable and threads share nothing.

Source: keras-team/keras, keras/src/legacy/saving/legacy_h5_format.py (`.h5` of Keras 1
and 2) and keras/src/saving/saving_lib.py (`.weights.h5` and `.keras` of Keras 3).
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Generator
from typing import Final

import numpy as np

from tf2flax._base.errors import (
    CheckpointError,
    MalformedError,
    TensorNotFoundError,
    UnsupportedError,
)
from tf2flax._base.manifest import EncodedPiece, TensorEntry
from tf2flax._base.text import printable
from tf2flax._base.values import Box

from .archive import checksum_damage, weights_in
from .config import ConfigFile
from .file import FileSlice, KerasFile, damaged, read_error
from .hdf5_dataset import Handle, RefusedError, describe, load_h5py
from .hdf5_elements import Description, read_elements
from .hdf5_names import find_weights, name_weights, open_dataset
from .manifest import KerasManifest
from .names import Weights

# What h5py says of a file that was cut.
_CUT: Final = re.compile(r"eof = (\d+),.*stored_eof = (\d+)")
# What h5py has been seen to raise on damaged bytes, and its neighbours.
_H5PY_ERRORS: Final = (
    ArithmeticError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Hdf5Piece(EncodedPiece):
    """A dataset, read when it is asked for.

    Attributes:
        name: The tensor's key.
        file: The file.
        description: The dataset as the file described it when it was opened.
    """

    name: str
    file: KerasFile
    description: Description

    def check(self, *, subject: str) -> None:
        """Checks that the file is still there; its size was checked already."""
        self.file.open().close()

    def read(self, box: Box) -> np.ndarray:
        """Reads a box, and of the rest only what shares a chunk; see `EncodedPiece`."""
        dtype = self.description.spec.dtype
        if not dtype.is_readable:
            raise UnsupportedError(
                f"Tensor `{printable(self.name)}` is of dtype {dtype.name}, which "
                f"holds no array - in `{self.file.path}`. Leave it out of what is read."
            )
        stream = self.file.open()
        try:
            array = read_elements(stream, self.description, box)
            stream.check_unchanged(f"Tensor `{printable(self.name)}`")
            return array
        except MalformedError as error:
            stream.check_unchanged(f"Tensor `{printable(self.name)}`")
            raise damaged(
                f"Tensor `{printable(self.name)}`", error, self.file.path
            ) from error
        except OSError as error:
            raise read_error(self.file.path, error) from error
        finally:
            stream.close()


class Hdf5Manifest(KerasManifest):
    """Names and entries of one file of Keras weights.

    What Keras 1 and 2 wrote goes by the names of the variables, those of optimizers
    too, without the `:0` of TensorFlow: `dense/kernel`, as assignment maps have it.
    Where weights of several layers have one name, each goes by its layer's, a `/`, and
    that name.

    Keras 3 stores no names of variables, and those of layers only as attributes. Its
    weights go by the paths at which they lie, which is how its own errors and
    `KerasFileEditor` name them: `layers/dense/vars/0`. `hint` leads there from the name
    of a layer, `variable_names` from `dense/kernel`.
    """

    def __init__(
        self,
        path: str,
        contents: bytes | None = None,
        *,
        config: ConfigFile | None = None,
    ) -> None:
        """Finds the weights and reads what they are.

        Args:
            path: Absolute path of a local file; where `contents` are given, a name for
                messages.
            contents: All bytes of a file that lies elsewhere.
            config: The `config.json` beside the file. That of an archive is found in
                it.

        Raises:
            DamagedError: It is cut, malformed, or larger inside than it can be.
            UnsupportedError: h5py is not installed; links lead out of the file; an
                archive holds no weights.
            ReadError: The system refuses.
        """
        self._path: str = path
        self._file: KerasFile = weights_in(path, contents)
        if self._file.is_member:
            archive = dataclasses.replace(
                self._file, contents=contents, span=None, crc32=None
            )
            config = ConfigFile(archive, is_archive=True)
        self._config: ConfigFile | None = config
        self._entries: dict[str, TensorEntry | CheckpointError] = {}
        with _opened(self._file, "The file") as (root, stream):
            groups = find_weights(root, stream)
            places, self._shared = name_weights(groups.weights)
            self._objects: frozenset[str] = groups.objects
            self._layers: dict[str, str] = groups.layers
            for name, place in places.items():
                self._entries[name] = self._described(name, place, root, stream)
        self._names: tuple[str, ...] = tuple(sorted(self._entries))

    @property
    def prefix(self) -> str:
        """Path of the file."""
        return self._path

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all weights, sorted by code point."""
        return self._names

    def __contains__(self, name: object) -> bool:
        """Tells whether one weight alone has this name, with or without a `:0`."""
        return isinstance(name, str) and self._stored_name(name) in self._entries

    def hint(self, name: str) -> str:
        """Says which weights share a name, or where a layer of Keras 3 is stored."""
        full_names = self._shared.get(name.removesuffix(":0"))
        if full_names:
            which = " or ".join(f"`{full_name}`" for full_name in full_names[:4])
            return f"{len(full_names)} weights have this name: give {which}."
        return super().hint(name)

    @property
    def weights(self) -> Weights:
        """Shapes, dtypes and layers, from which names of variables follow."""
        entries = self._entries.items()
        specs = {
            name: None if isinstance(entry, CheckpointError) else entry.spec
            for name, entry in entries
        }
        return Weights(specs, self._layers, self._objects)

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Compares the checksum of an archive; Keras writes HDF5 without any.

        Returns:
            The file and the message, where it differs.

        Raises:
            DamagedError: The file is gone, or shorter than it was.
            ReadError: The system refuses.
        """
        message = checksum_damage(self._file)
        return () if message is None else ((self._path, message),)

    def entry(self, name: str) -> TensorEntry:
        """Looks up one weight.

        Args:
            name: Its name.

        Returns:
            The entry, with one piece.

        Raises:
            TensorNotFoundError: No weight has this name, or several have.
            DamagedError: What the file says of it is impossible.
            UnsupportedError: Its values lie in another file, or behind a plugin.
        """
        entry = self._entries.get(self._stored_name(name))
        if entry is None:
            close = self._shared.get(name, ())
            raise TensorNotFoundError(name, self._path, close, self.hint(name))
        if isinstance(entry, CheckpointError):
            # A new one each time: what is raised collects tracebacks.
            raise type(entry)(*entry.args)
        return entry

    def _stored_name(self, name: str) -> str:
        """The name without the `:0` that Keras 1 and 2 show, unless it is stored so."""
        return name if name in self._entries else name.removesuffix(":0")

    def _described(
        self, name: str, place: bytes, root: Handle, stream: FileSlice
    ) -> TensorEntry | CheckpointError:
        """The entry of a weight, or why it has none: the others have theirs."""
        try:
            description = describe(open_dataset(root, place), stream.nbytes)
        except (RefusedError, MalformedError, *_H5PY_ERRORS) as error:
            if stream.failure is not None:
                raise
            return _translated(error, f"Tensor `{printable(name)}`", self._path)
        piece = Hdf5Piece(
            box=Box.whole(description.spec.shape),
            path=self._file.path,
            # Of strings, that of the references to them.
            nbytes=description.nbytes,
            name=name,
            file=self._file,
            description=description,
        )
        return TensorEntry(
            name=name,
            spec=description.spec,
            pieces=(piece,),
            is_sliced=False,
            is_big_endian=False,  # h5py has swapped them by then
        )


@contextlib.contextmanager
def _opened(
    file: KerasFile, subject: str
) -> Generator[tuple[Handle, FileSlice], None, None]:
    """Opens a file; what h5py raises meanwhile is damage.

    Args:
        file: The file.
        subject: What is read, for messages.

    Yields:
        The root group, and the bytes.
    """
    try:
        h5py = load_h5py()
    except ImportError as error:
        raise UnsupportedError(
            f"Keras weights are read by h5py, which is not installed - for "
            f"`{file.path}`. Run `pip install 'tf2flax[keras]'`."
        ) from error
    stream = file.open(is_exact=True)
    try:
        with h5py.File(stream, "r") as opened:
            yield opened.id, stream
        stream.check_unchanged(subject)
    except CheckpointError:
        raise
    except (RefusedError, MalformedError, *_H5PY_ERRORS) as error:
        if stream.failure is not None:
            raise read_error(file.path, stream.failure) from error
        stream.check_unchanged(subject)
        raise _translated(error, subject, file.path) from error
    finally:
        stream.close()


def _translated(error: Exception, subject: str, path: str) -> CheckpointError:
    """Says to the user what was wrong."""
    if isinstance(error, RefusedError):
        return UnsupportedError(
            f"{subject} cannot be read: {error} - in `{path}`. {error.fix}"
        )
    if isinstance(error, MalformedError):
        return damaged(subject, error, path)
    cut = _CUT.search(str(error))
    if cut:
        size, wanted = int(cut[1]), int(cut[2])
        fact = f"it has only {size} bytes, {wanted - size} are missing"
        return damaged("The file", fact, path)
    return damaged(subject, f"HDF5 cannot read it ({str(error)[:200]})", path)
