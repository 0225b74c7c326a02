"""A path as a user gives it -> the checkpoint that it means, opened.

Follows TensorFlow's rules for directories, state files, prefixes and patterns; which
format a file has is asked of the formats. Reads state files, indexes, and the first and
last bytes of what must be recognised; no tensor. Never imports JAX.

Source: tensorflow/python/training/checkpoint_management.py, checkpoint_utils.py.
"""

from __future__ import annotations

import dataclasses
import glob
import operator
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from tf2flax._base.caller import show_value
from tf2flax._base.errors import (
    AssignmentError,
    CheckpointNotFoundError,
    RedirectedError,
)
from tf2flax._base.manifest import Manifest
from tf2flax._base.memory import collection_paused
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning, check_tuning
from tf2flax._formats import formats
from tf2flax._formats.format import Candidate, Location
from tf2flax._storage.base import Storage
from tf2flax._storage.stores import is_context, storage_of

from .checkpoint import Checkpoint
from .choosing import MEMBER, checkpoints_in
from .foreign import not_a_checkpoint
from .interrupted_saves import describe_interrupted_save
from .mapping import manifest_of_mapping
from .merging import MergedManifest, prefixed
from .not_found import no_checkpoint_at, no_checkpoint_in
from .object_based import ObjectBasedManifest
from .state import PathLike, State, checkpoint_exists, read_state
from .stored_tensor import StoredTensor

if TYPE_CHECKING:
    from tf2flax._storage.requests import Context, KvStore

# A server sends on so often; more would be a circle.
_MAX_REDIRECTS: Final = 5


def open_checkpoint(
    path: PathLike | KvStore | Checkpoint | Mapping[str, Any],
    *,
    context: Context | None = None,
    tuning: Tuning | None = None,
) -> Checkpoint:
    """Opens a checkpoint: reads its index and none of its tensors.

    Args:
        path: A prefix (`model.ckpt-1000`); a directory (what its `checkpoint` state
            file names, else the variables of a SavedModel, else an empty basename,
            else Keras weights: an unzipped `.keras`, a preset of KerasHub, else the
            only checkpoint in it, if there is no state file); one of the
            checkpoint's files; a V1 file or a pattern of them
            (`model.ckpt-?????-of-00002`); Keras weights (`.h5`, `.keras`, or the index
            of several files, `.weights.json`). Local, or a URL that tensorstore knows
            (`gs://`, `s3://`, `http://`, `file://` …), or a `tensorstore.KvStore`.
            Also an open checkpoint, which is returned; or a flat mapping of names to
            arrays or `StoredTensor`s.
        context: tensorstore's, for URLs; the default one gives failing requests up
            within 30 seconds.
        tuning: How its tensors are read, by whichever function: sizes of reads, and
            what a request costs where they lie. None takes that of a checkpoint which
            is open already, that of the `StoredTensor`s of a mapping where they have
            the same, and the default of others.

    Returns:
        The checkpoint. What its files are is remembered: reading it after another one
        has taken their place is refused.

    Raises:
        CheckpointNotFoundError: There is none at `path`.
        DamagedError: The index is not a table, or malformed, or is being replaced.
        UnsupportedError: It is another kind of file, or no tensorstore URL.
        AssignmentError: `context` or `tuning` is not one.
        ReadError: The system or the store refuses, or does not answer for 60 seconds.

    Examples:
        >>> import numpy as np, tf2flax
        >>> checkpoint = tf2flax.open_checkpoint({"global_step": np.int64(7)})
        >>> checkpoint["global_step"].dtype
        dtype('int64')
    """
    if context is not None and not is_context(context):
        raise AssignmentError(
            "Option context: expected a tensorstore.Context or None, got "
            f"{show_value(context)}."
        )
    check_tuning("tuning", tuning)
    if isinstance(path, Checkpoint):
        return path if tuning is None else Checkpoint(path.manifest, tuning)
    return Checkpoint(manifest_of(path, context), tuning or tuning_of(path))


def manifest_of(
    checkpoint: Checkpoint | Mapping[str, Any] | PathLike | KvStore,
    context: Context | None = None,
) -> Manifest:
    """Reads what lists the tensors of a checkpoint; see `open_checkpoint`."""
    if isinstance(checkpoint, Checkpoint):
        return checkpoint.manifest
    if isinstance(checkpoint, Mapping):
        return manifest_of_mapping(checkpoint)
    for _ in range(_MAX_REDIRECTS):
        try:
            return manifest_at(locate(checkpoint, context))
        except RedirectedError as error:
            if not error.target:
                raise
            checkpoint = error.target
    return manifest_at(locate(checkpoint, context))


def tuning_of(checkpoint: object) -> Tuning:
    """How the tensors of a checkpoint, or of a mapping, are read: as they say."""
    if isinstance(checkpoint, Checkpoint):
        return checkpoint.tuning
    if isinstance(checkpoint, Mapping):
        members = cast("Mapping[object, object]", checkpoint).values()
        return _common({m.tuning for m in members if isinstance(m, StoredTensor)})
    return DEFAULT_TUNING


def _common(tunings: set[Tuning]) -> Tuning:
    """What several places have in common: where they differ, the default."""
    return tunings.pop() if len(tunings) == 1 else DEFAULT_TUNING


def manifest_at(location: Location) -> Manifest:
    """Reads what a checkpoint lists.

    Args:
        location: Where it lies.

    Returns:
        Its names and entries.

    Raises:
        CheckpointError: As `open_checkpoint`.
    """
    manifest = location.format.open(location)
    return ObjectBasedManifest(manifest) if manifest.has_object_graph else manifest


def merge_checkpoints(
    checkpoints: (
        Mapping[str, Checkpoint | PathLike | KvStore]
        | Iterable[
            Checkpoint
            | PathLike
            | KvStore
            | tuple[str, Checkpoint | PathLike | KvStore]
        ]
    ),
) -> Checkpoint:
    """Shows several checkpoints as one.

    Args:
        checkpoints: Prefix of names -> checkpoint, or the path of one, as a mapping or
            as pairs, in which a prefix may be there more than once. A prefix is put
            before every name of its checkpoint ("encoder/"); "" puts none. Also
            checkpoints and paths alone, which get none.

    Returns:
        One checkpoint with all of the names; nothing is copied. Its `tuning` is
        theirs, where they have the same, else the default.

    Raises:
        AssignmentError: Two of them would have one name.
        CheckpointError: As `open_checkpoint`.

    Examples:
        >>> import numpy as np, tf2flax
        >>> bert = tf2flax.open_checkpoint({"kernel": np.ones((3, 2)), "step": 7})
        >>> list(tf2flax.merge_checkpoints({"a/": bert, "b/": bert}))
        ['a/kernel', 'a/step', 'b/kernel', 'b/step']
        >>> list(tf2flax.merge_checkpoints([("", bert), ("b/", bert)]))
        ['b/kernel', 'b/step', 'kernel', 'step']
        >>> list(tf2flax.merge_checkpoints([bert]))
        ['kernel', 'step']
    """
    manifests: list[tuple[str, Manifest]] = []
    tunings: set[Tuning] = set()
    for prefix, source in prefixed(checkpoints):
        opened = open_checkpoint(source)
        manifests.append((prefix, opened.manifest))
        tunings.add(opened.tuning)
    return Checkpoint(MergedManifest(manifests), _common(tunings))


@collection_paused()
def list_variables(
    path: PathLike | KvStore | Checkpoint | Mapping[str, Any],
) -> list[tuple[str, list[int]]]:
    """Lists names and shapes, as `tf.train.list_variables`.

    Args:
        path: As for `open_checkpoint`.

    Returns:
        `(name, [dim, ...])` pairs, sorted by name.

    Raises:
        CheckpointError: As `open_checkpoint`.

    Examples:
        >>> import numpy as np, tf2flax
        >>> tf2flax.list_variables({"kernel": np.ones((3, 2)), "step": 7})
        [('kernel', [3, 2]), ('step', [])]

    Source: tensorflow/python/training/checkpoint_utils.py.
    """
    specs = open_checkpoint(path).manifest.specs()
    # In their order already, mostly: names are ordered by code point, keys by bytes.
    return sorted(
        [(name, list(spec.shape)) for name, spec in specs], key=operator.itemgetter(0)
    )


def load_variable(
    path: PathLike | KvStore | Checkpoint | Mapping[str, Any], name: str
) -> Any:
    """Reads one tensor, as `tf.train.load_variable`.

    Args:
        path: As for `open_checkpoint`.
        name: Its key; one trailing `:0` is ignored.

    Returns:
        Array; a numpy scalar, or `bytes`, where the rank is 0.

    Raises:
        TensorNotFoundError: No tensor has this name.
        CheckpointError: As `open_checkpoint` and `StoredTensor.read`.

    Examples:
        >>> import numpy as np, tf2flax
        >>> tf2flax.load_variable({"global_step": np.int64(7)}, "global_step:0")
        np.int64(7)

    Source: tensorflow/python/training/checkpoint_utils.py.
    """
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointNotFoundError as error:
        if isinstance(name, str) and checkpoint_exists(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CheckpointNotFoundError(
                f"{error} The path comes first, then the name of the tensor."
            ) from error
        raise
    # Anything but a string is looked up as it is, and not found.
    key = name.removesuffix(":0") if isinstance(name, str) else name  # pyright: ignore[reportUnnecessaryIsInstance]
    return checkpoint[key].read()[()]


def locate(path: PathLike | KvStore, context: Context | None = None) -> Location:
    """Finds the checkpoint that a path means.

    Args:
        path: A prefix, a directory, one of the checkpoint's files, or a pattern of V1
            files; local, a URL, or a KvStore.
        context: tensorstore's, for URLs.

    Returns:
        Where it lies, and its format.

    Raises:
        CheckpointNotFoundError: Nothing there is a checkpoint.
        UnsupportedError: It is a kind of file that cannot be read.
        DamagedError: Something else lies in the checkpoint's place.
        ReadError: The system or the store refuses.
    """
    return locate_in(*storage_of(path, context))


def locate_in(storage: Storage, path: str) -> Location:
    """Finds the checkpoint that a path of a storage means; see `locate`."""
    if storage.is_directory(path):
        state = read_state(storage, path)
        location = _in_directory(storage, path, state)
        if location is None:
            raise no_checkpoint_in(storage, path, state)
        return location
    location = _at(storage, path)
    if location is None and not storage.is_local:  # stores do not know directories
        directory = f"{path}/"
        location = _in_directory(storage, directory, read_state(storage, directory))
    if location is None:
        raise no_checkpoint_at(storage, path)
    return location


def _at(storage: Storage, path: str) -> Location | None:
    """The checkpoint that a prefix, a file or a pattern means; None for none."""
    if not path:
        return None
    location = _find_by_prefix(storage, path)
    if location is not None:
        return location
    member = MEMBER.fullmatch(path)
    if member:
        location = _find_by_prefix(storage, member["prefix"])
        if location is not None:
            return location
        if member[2] == "meta" and storage.is_file(member["prefix"]):
            path = member["prefix"]  # the graph next to a V1 checkpoint
    if storage.is_file(path):
        return _of_file(storage, path)
    if glob.has_magic(path):
        matches = storage.matches(path)
        paths = tuple(match for match in matches if storage.is_file(match))
        return _find_by_pattern(storage, path, paths) if paths else None
    return None


def _of_file(storage: Storage, path: str) -> Location:
    """The checkpoint that a file is, which does not belong to one that has an index.

    Raises:
        DamagedError: Something else lies in its place, or its index is missing.
        UnsupportedError: It is of no format.
    """
    candidate = Candidate(storage, path)
    location = _recognise(storage, candidate)
    if location is not None:
        return location
    raise not_a_checkpoint(storage, candidate)


def _in_directory(storage: Storage, directory: str, state: State) -> Location | None:
    """The checkpoint that a directory leads to: by its state file, or its layout."""
    location = _at(storage, state.prefix) if state.prefix else None
    if location is None:  # a SavedModel, or a module of TensorFlow Hub
        variables = os.path.join(directory, "variables", "variables")
        location = _find_by_prefix(storage, variables)
    if location is None:  # an empty basename
        location = _find_by_prefix(storage, os.path.join(directory, ""))
    # A state file that leads nowhere is an error, whatever else lies beside it.
    if location is None and not state.is_present:
        files = _files_in_folder(storage, directory)
        if files:
            location = dataclasses.replace(_of_file(storage, files[0]), files=files)
    if location is None and not state.is_present:
        location = _alone_in(storage, directory)
    return location


def _alone_in(storage: Storage, directory: str) -> Location | None:
    """The only checkpoint of a directory; None where there are others or none.

    TensorFlow asks for a state file even so; but there is one thing that can be meant.
    """
    checkpoints = checkpoints_in(storage, directory)
    if len(checkpoints) != 1 or describe_interrupted_save(storage, directory):
        return None
    return _at(storage, checkpoints[0])


def _find_by_prefix(storage: Storage, prefix: str) -> Location | None:
    """Finds the checkpoint whose files share a prefix; None where there is none."""
    for file_format in formats.FORMATS:
        location = file_format.find_by_prefix(storage, prefix)
        if location is not None:
            return location
    return None


def _find_by_pattern(
    storage: Storage, pattern: str, paths: tuple[str, ...]
) -> Location | None:
    """Finds the checkpoint that several files are together.

    Args:
        storage: The place.
        pattern: What matches the files.
        paths: The files, one at least.

    Returns:
        Where it lies; None where no format recognises all of them.
    """
    for file_format in formats.FORMATS:
        if file_format.takes_patterns and all(
            file_format.recognise(Candidate(storage, path)) for path in paths
        ):
            return Location(file_format, storage, pattern, paths)
    return None


def _recognise(storage: Storage, candidate: Candidate) -> Location | None:
    """Finds the format of a file; None where it is of none."""
    for file_format in formats.FORMATS:
        if file_format.recognise(candidate):
            path = candidate.path
            return Location(file_format, storage, path, (path,))
    return None


def _files_in_folder(storage: Storage, folder: str) -> tuple[str, ...]:
    """The files of the checkpoint that a folder is; see `Format.files_in_folder`."""
    for file_format in formats.FORMATS:
        paths = file_format.files_in_folder(storage, folder)
        if paths:
            return paths
    return ()
