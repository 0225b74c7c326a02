"""Keras weights as formats: one file of HDF5, or several with an index.

Finds them in files and in folders. Those that lie in a store are read whole; local ones
are read in place.

Source: keras-team/keras, keras/src/saving/saving_lib.py (`_save_model_to_dir`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import posixpath
from collections.abc import Sequence
from typing import Final

from tf2flax._base.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DamagedError,
)
from tf2flax._base.manifest import Manifest
from tf2flax._formats.foreign_zip import is_keras_archive
from tf2flax._formats.format import Candidate, Format, Location
from tf2flax._storage.base import Storage
from tf2flax._storage.foreign import recognise_wrong_file

from .archive import CONFIG, HDF5_MAGIC, MEMBER
from .config import ConfigFile
from .file import KerasFile
from .hdf5 import Hdf5Manifest
from .shards import ShardedHdf5Manifest, ShardIndex, missing_shard, nbytes_of

# Keras weights in several files have an index; in a folder of Keras's it is this.
_FOLDER_INDEX: Final = "model.weights.json"
_INDEX_ENDING: Final = ".weights.json"
# An HDF5 file may begin with a block of the user's, whose length is a power of two. Of
# larger ones the beginning of the file tells nothing: where the name is that of HDF5,
# the file is asked for each, up to the last one here.
_HDF5_STARTS: Final = (0, 512, 1024, 2048)
_LARGE_STARTS: Final = tuple(1 << power for power in range(12, 31))
_HDF5_ENDINGS: Final = (".h5", ".hdf5")


class KerasFormat(Format):
    """Weights in one file: `.weights.h5`, `.h5`, or a `.keras` archive."""

    name = "Keras weights"
    endings = (".weights.h5", ".keras", ".h5", ".hdf5")

    def recognise(self, candidate: Candidate) -> bool:
        """True for HDF5 and archives of Keras; what is in them shows when opened."""
        head = candidate.head
        is_hdf5 = any(head.startswith(HDF5_MAGIC, start) for start in _HDF5_STARTS)
        if is_hdf5 or is_keras_archive(head, candidate.path):
            return True
        if not head or not candidate.path.endswith(_HDF5_ENDINGS):
            return False
        # None, beyond the end of the file, ends the search.
        marks = (candidate.has_at(start, HDF5_MAGIC) for start in _LARGE_STARTS)
        return any(itertools.takewhile(lambda mark: mark is not None, marks))

    def files_in_folder(self, storage: Storage, folder: str) -> tuple[str, ...]:
        """Finds the weights of a model that Keras saved as a folder.

        Such are an unzipped `.keras`, a preset of KerasHub, and folders that hold
        weights in several files.

        Returns:
            The weights, or the index of several files of them, and the model's config
            if it is there; () for any other folder.

        Raises:
            CheckpointNotFoundError: The folder holds several indexes of weights.
            ReadError: The store refuses.
        """
        names = names_in(storage, folder)
        if names is not None and any(name.endswith(".index") for name in names):
            return ()  # it is not clear that Keras's weights are meant
        for name in (MEMBER, _FOLDER_INDEX):
            path = posixpath.join(folder, name)
            if (name in names) if names is not None else storage.is_file(path):
                config = posixpath.join(folder, CONFIG)
                return (path, config) if storage.is_file(config) else (path,)
        indexes = [name for name in names or () if name.endswith(_INDEX_ENDING)]
        if len(indexes) > 1:
            which = " or ".join(f"`{name}`" for name in indexes[:4])
            raise CheckpointNotFoundError(
                f"`{storage.show(folder)}` holds {len(indexes)} indexes of Keras "
                f"weights. Give the one that is meant: {which}."
            )
        return tuple(posixpath.join(folder, name) for name in indexes)

    def open(self, location: Location) -> Manifest:
        """Finds the weights in the file; see `Format`.

        Raises:
            UnsupportedError: h5py is not installed, or the file holds something else.
        """
        storage = location.storage
        path, *configs = location.files
        return _open_file(storage, path, _config_of(storage, configs))


class ShardedKerasFormat(Format):
    """Weights in several files, named by an index in JSON."""

    name = "Keras weights in several files"
    endings = (_INDEX_ENDING,)

    def recognise(self, candidate: Candidate) -> bool:
        """True for objects of JSON; whether they list weights shows when opened."""
        is_json = candidate.path.endswith(".json")
        return is_json and candidate.head.lstrip().startswith(b"{")

    def open(self, location: Location) -> Manifest:
        """Finds the weights in all files; see `Format`.

        Raises:
            DamagedError: A file is missing, or does not fit the others.
            UnsupportedError: h5py is not installed, or the files hold something else.
        """
        storage = location.storage
        path, *configs = location.files
        config = _config_of(storage, configs)
        index = ShardIndex.parse(storage.show(path), storage.read(path) or b"")
        return ShardedHdf5Manifest(index, _open_shards(storage, path, index), config)


def _open_shards(
    storage: Storage, index_path: str, index: ShardIndex
) -> dict[str, Hdf5Manifest]:
    """Opens the files that an index names, and those that it should have named."""
    folder = posixpath.dirname(index_path)
    paths = {name: posixpath.join(folder, name) for name in index.names}
    absent = [name for name in paths if not storage.is_file(paths[name])]
    if absent:
        raise missing_shard(absent[0], index, len(paths) - len(absent))
    shards = {name: _open_shard(storage, paths[name]) for name in paths}
    held = sum(nbytes_of(shard) for shard in shards.values())
    # Keras 3.10 names only the first file of a group that goes on in others.
    for name in index.unnamed():
        path = posixpath.join(folder, name)
        if index.is_reached_by(held) or not storage.is_file(path):
            break
        shards[name] = _open_shard(storage, path)
        held += nbytes_of(shards[name])
    return shards


def names_in(storage: Storage, folder: str) -> list[str] | None:
    """Names in a folder; None where they cannot be listed."""
    try:
        return storage.names_in(folder)
    except CheckpointError:
        return None


def _config_of(storage: Storage, paths: Sequence[str]) -> ConfigFile | None:
    """The config beside the weights: another one, later, is not about them."""
    for path in paths:
        file = _file(storage, path)
        if storage.is_local:
            # If it cannot be read, a message waits until it is needed.
            with contextlib.suppress(CheckpointError, OSError), file.open() as stream:
                file = dataclasses.replace(file, snapshot=stream.snapshot(file.path))
        return ConfigFile(file)
    return None


def _file(storage: Storage, path: str) -> KerasFile:
    contents = None if storage.is_local else storage.read(path)
    return KerasFile(storage.show(path), contents)


def _open_shard(storage: Storage, path: str) -> Hdf5Manifest:
    try:
        return _open_file(storage, path)
    except DamagedError as error:
        wrong_file = recognise_wrong_file(storage.file(path).head())
        if wrong_file is None:
            raise
        raise DamagedError(
            f"Expected Keras weights, got {wrong_file[0]} - at "
            f"`{storage.show(path)}`. {wrong_file[1]}"
        ) from error


def _open_file(
    storage: Storage, path: str, config: ConfigFile | None = None
) -> Hdf5Manifest:
    file = _file(storage, path)
    return Hdf5Manifest(file.path, file.contents, config=config)
