"""Keras weights, in one file, several files or a folder -> a manifest, and its view.

Reads files that lie elsewhere whole; local ones are read in place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import posixpath

from tf2flax._base.caller import warn_caller
from tf2flax._base.errors import CheckpointError, DamagedError
from tf2flax._formats.keras.config import ConfigFile
from tf2flax._formats.keras.file import KerasFile
from tf2flax._formats.keras.hdf5 import Hdf5Manifest
from tf2flax._formats.keras.shards import (
    ShardedHdf5Manifest,
    ShardIndex,
    missing_shard,
    nbytes_of,
)
from tf2flax._storage.base import Storage
from tf2flax._storage.faults import recognise_wrong_file

from .locate import Kind, Location
from .views import RenamedManifest

KerasManifest = Hdf5Manifest | ShardedHdf5Manifest


def open_keras(location: Location) -> KerasManifest:
    """Finds the weights in the file, or the files, of a location.

    Args:
        location: Where they lie; of a kind of Keras's.

    Returns:
        Their names and entries.

    Raises:
        DamagedError: A file is missing or malformed, or does not fit the others.
        UnsupportedError: h5py is not installed, or the files hold something else.
        ReadError: The system or the store refuses.
    """
    storage, path = location.storage, location.path
    config = _config(storage, location.config) if location.config else None
    if location.kind is Kind.KERAS:
        return _opened(storage, path, config)
    index = ShardIndex.parse(storage.show(path), storage.read(path) or b"")
    folder = posixpath.dirname(path)
    paths = {name: posixpath.join(folder, name) for name in index.names}
    absent = [name for name in paths if not storage.is_file(paths[name])]
    if absent:
        raise missing_shard(absent[0], index, len(paths) - len(absent))
    shards = {name: _shard(storage, paths[name]) for name in paths}
    held = sum(nbytes_of(shard) for shard in shards.values())
    for name in index.unnamed():
        path = posixpath.join(folder, name)
        if index.is_reached_by(held) or not storage.is_file(path):
            break
        shards[name] = _shard(storage, path)
        held += nbytes_of(shards[name])
    return ShardedHdf5Manifest(index, shards, config)


def by_layer(manifest: KerasManifest) -> RenamedManifest:
    """The view under the names of layers and variables.

    Args:
        manifest: The weights.

    Raises:
        UnsupportedError: They are not Keras 3's.
        DamagedError: The config of the model is malformed.
        ReadError: The system refuses.

    Warns:
        UserWarning: They have no names of layers.
    """
    names = manifest.variable_names()
    if not names.has_layers:
        warn_caller(
            f"`{manifest.index_path}` holds no names of layers: Keras before 3.6 "
            "stored none in `.weights.h5`, and one of several files has not all. These "
            "are the stored names: use them, open the index of all files "
            "(`.weights.json`), or save the model again with a newer Keras."
        )
    return RenamedManifest(manifest, names.keys)


def _config(storage: Storage, path: str) -> ConfigFile:
    """The config beside the weights: another one, later, is not about them."""
    file = _file(storage, path)
    if storage.is_local:
        # Of one that cannot be read, a message waits until it is needed.
        with contextlib.suppress(CheckpointError, OSError), file.open() as window:
            file = dataclasses.replace(file, snapshot=window.snapshot(file.path))
    return ConfigFile(file)


def _file(storage: Storage, path: str) -> KerasFile:
    contents = None if storage.is_local else storage.read(path)
    return KerasFile(storage.show(path), contents)


def _shard(storage: Storage, path: str) -> Hdf5Manifest:
    try:
        return _opened(storage, path)
    except DamagedError as error:
        wrong = recognise_wrong_file(storage.file(path).head())
        if wrong is None:
            raise
        raise DamagedError(
            f"Expected Keras weights, got {wrong[0]} - at `{storage.show(path)}`. "
            f"{wrong[1]}"
        ) from error


def _opened(
    storage: Storage, path: str, config: ConfigFile | None = None
) -> Hdf5Manifest:
    file = _file(storage, path)
    return Hdf5Manifest(file.path, file.contents, config=config)
