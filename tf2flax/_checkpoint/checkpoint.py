"""A checkpoint as a mapping of names to stored tensors, and TensorFlow's own verbs.

Opening reads the index and no tensor. Never imports JAX.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import posixpath
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tf2flax._base.caller import check_switch, members, show_value
from tf2flax._base.errors import (
    DamagedError,
    SharedNameError,
    TensorNotFoundError,
    UnsupportedError,
)
from tf2flax._base.manifest import DataFile, Manifest
from tf2flax._base.names import nearest
from tf2flax._base.progress import ProgressFunction, check_progress, reporting
from tf2flax._formats.bundle import BundleManifest
from tf2flax._formats.object_graph import GRAPH_KEY
from tf2flax._formats.v1 import V1Manifest
from tf2flax._reading import whole
from tf2flax._storage.base import Index, Storage
from tf2flax._storage.faults import recognise_wrong_file
from tf2flax._storage.snapshots import replaced

from .keras_weights import KerasManifest, by_layer, open_keras
from .locate import Kind, Location, PathLike, locate
from .merging import prefixed
from .object_based import ObjectBasedManifest
from .stored_tensor import StoredTensor
from .verifying import VerificationReport, verify
from .views import MergedManifest

if TYPE_CHECKING:
    from tf2flax._storage.requests import Context, KvStore

# How often the index of a checkpoint that is being replaced is read again, and how long
# is waited before (s): exchanging names takes less than a millisecond for each file.
_MAX_OPENINGS: Final = 10
_REPLACING_S: Final = 0.01


class Checkpoint(Mapping[str, StoredTensor]):
    """A checkpoint: names, sorted, to stored tensors.

    Picklable; a copy keeps the index that was read when the checkpoint was opened.

    Examples:
        >>> import tf2flax
        >>> checkpoint = tf2flax.open_checkpoint("tests/data/bert/model.ckpt")
        >>> len(checkpoint)
        139
        >>> "global_step" in checkpoint
        True
        >>> int(checkpoint["global_step"].read())
        123456
    """

    __slots__ = ("_manifest",)

    def __init__(self, manifest: Manifest) -> None:
        """Wraps a manifest; made by `open_checkpoint`, not by users."""
        self._manifest = manifest

    @property
    def prefix(self) -> str:
        """Absolute path or URL of the checkpoint, without suffix."""
        return self._manifest.prefix

    @property
    def manifest(self) -> Manifest:
        """Names and entries, for the layers above."""
        return self._manifest

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._manifest.names)

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names, sorted."""
        return iter(self._manifest.names)

    def __contains__(self, name: object) -> bool:
        """Whether a tensor has this name; not where several share it in a view."""
        if not isinstance(name, str) or name not in self._manifest:
            return False
        return not self._manifest.is_shared(name)

    def __getitem__(self, name: str) -> StoredTensor:
        """Looks up one tensor; reads nothing of it.

        Args:
            name: Its key.

        Returns:
            The stored tensor.

        Raises:
            TensorNotFoundError: No tensor has this name; the nearest are named. In a
                view: several share it, and those are named (an `UnsupportedError` too).
            DamagedError: Its entry is malformed.
        """
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise self._tensor_not_found(name)
        try:
            return StoredTensor(self._manifest.entry(name))
        except SharedNameError:
            raise
        except TensorNotFoundError:
            raise self._tensor_not_found(name) from None

    def read(
        self,
        names: Iterable[str] | None = None,
        *,
        verify: bool = True,
        progress: bool | ProgressFunction = False,
    ) -> dict[str, np.ndarray]:
        """Reads many tensors whole, in parallel.

        Args:
            names: Which; None reads all.
            verify: Whether CRC-32C checksums are compared.
            progress: True draws a bar on stderr; a function is called with a
                `tf2flax.Progress`.

        Returns:
            Arrays by name, in the order of `names`.

        Raises:
            TensorNotFoundError: One of the names is not there; nothing is read.
            DamagedError: A data file is missing or short, a checksum differs, or the
                checkpoint has been replaced since it was opened.
            UnsupportedError: One of the dtypes holds no array.
            ReadError: The operating system refuses.

        Examples:
            >>> import tf2flax
            >>> checkpoint = tf2flax.open_checkpoint("tests/data/bert/model.ckpt")
            >>> checkpoint.read(["global_step"])
            {'global_step': array(123456)}
        """
        verify = check_switch("verify", verify)
        check_progress(progress)
        if names is None:
            wanted = self._manifest.names
        else:
            wanted = (
                (names,) if isinstance(names, str) else tuple(members("read", names))
            )
            for name in wanted:
                if name not in self._manifest:
                    raise self._tensor_not_found(name)
        entries = {name: self._manifest.entry(name) for name in wanted}
        total = sum(entry.nbytes for entry in entries.values()) if progress else 0
        with reporting(
            progress, total, f"Reading {posixpath.basename(self.prefix)}"
        ) as advance:
            return whole.read_many(
                tuple(entries.values()), verify=verify, advance=advance
            )

    def verify(self, progress: bool | ProgressFunction = False) -> VerificationReport:
        """Checks every byte: blocks, entries, coverage of slices, sizes, checksums.

        Memory is bounded by some MiB besides the largest tensor of strings; every byte
        is read once (of V1 checkpoints, twice).

        Args:
            progress: True draws a bar on stderr; a function is called with a
                `tf2flax.Progress`.

        Returns:
            A report with everything that is damaged: `ok`, `damaged`,
            `raise_for_damage()`, and a text when printed.

        Raises:
            DamagedError: The checkpoint has been replaced since it was opened: nothing
                is damaged, and nothing was verified.
            ReadError: The system or the store refuses.

        Examples:
            >>> import tf2flax
            >>> tf2flax.open_checkpoint("tests/data/bert/model.ckpt").verify().ok
            True
        """
        return verify(self._manifest, progress=progress)

    def by_variable_name(self) -> Checkpoint:
        """The tensors of an object-based checkpoint under their variables' own names.

        So that one assignment map works for both generations: `dense/kernel` is what
        TF1 stores, and what TF2 stores under the path of an object. Slot variables are
        included. A name that several variables share is not listed, and looking it up
        says which tensors share it.

        A Keras 3 export (`model.export(dir)`) stores a variable twice, as
        `variables/<i>` and as `_all_variables/<j>`. Where exactly these two have a
        name, and their dtypes, shapes and checksums are equal, they are one variable:
        listed once, and `save_checkpoint(..., plan=plan)` writes both.

        Weights of Keras 3 go by the names of layers, those of nested models before
        them: `left/dense/kernel`. The variables' own names, and those of an optimizer's
        (`adam/dense_kernel_momentum`), follow from `config.json` in a `.keras` file or
        its folder. In `.weights.h5` the class that names the layer's group tells them,
        where it is one of Keras's and has so many variables in one way only; else they
        are numbers: `dense/0`. `.weights.h5` of Keras before 3.6 holds no names of
        layers: a warning says so, and stored names stay.

        Returns:
            A view; nothing is copied.

        Raises:
            UnsupportedError: The checkpoint is neither: names are the variables' own
                already.
            DamagedError: Its object graph or `config.json` is malformed.
            ReadError: The system or the store refuses.

        Examples:
            >>> import tf2flax
            >>> checkpoint = tf2flax.open_checkpoint("tests/data/tf1_keras/object.ckpt")
            >>> list(checkpoint.by_variable_name())[:2]
            ['bi/backward_lstm/bias', 'bi/backward_lstm/kernel']

        Source: `object_graph_key_mapping`, tensorflow/python/training/saver.py.
        """
        if isinstance(self._manifest, KerasManifest):
            return Checkpoint(by_layer(self._manifest))
        return Checkpoint(self._object_based().by_variable_name())

    def by_object_path(self) -> Checkpoint:
        """The tensors of an object-based checkpoint under plain paths of attributes.

        A variable is listed under the path it is stored under, without suffix and
        escapes; any other path that leads to it can be looked up as well. What a Keras
        3 export stores twice (see `by_variable_name`) is listed once, as
        `variables/<i>`.

        Returns:
            A view; nothing is copied.

        Raises:
            UnsupportedError: The checkpoint is not object-based.
            DamagedError: Its object graph is malformed.

        Examples:
            >>> import tf2flax
            >>> checkpoint = tf2flax.open_checkpoint("tests/data/tf1_keras/object.ckpt")
            >>> list(checkpoint.by_object_path())[:2]
            ['layer_with_weights-0/bias', 'layer_with_weights-0/kernel']
        """
        return Checkpoint(self._object_based().by_object_path())

    def _object_based(self) -> ObjectBasedManifest:
        if isinstance(self._manifest, KerasManifest):
            raise UnsupportedError(
                f"`{self._manifest.index_path}` holds no object graph: Keras weights "
                "are stored under the paths of objects. Use the checkpoint as it is, "
                "or by_variable_name()."
            )
        if not isinstance(self._manifest, ObjectBasedManifest):
            raise UnsupportedError(
                f"`{self._manifest.index_path}` holds no object graph, or this is a "
                "view of it: names are the variables' own already. Use the checkpoint "
                "as it is."
            )
        return self._manifest

    def __repr__(self) -> str:
        """Names the checkpoint with its number of tensors."""
        return f"Checkpoint({self.prefix!r}, {len(self)} tensors)"

    def __reduce__(self) -> tuple[type[Checkpoint], tuple[Manifest]]:
        """Pickles the manifest, not the path alone."""
        return Checkpoint, (self._manifest,)

    def _tensor_not_found(self, name: object) -> TensorNotFoundError:
        place = self._manifest.index_path
        if not isinstance(name, str):
            return TensorNotFoundError(show_value(name), place)
        hint = self._manifest.hint(name)
        if (
            hint
            and isinstance(self._manifest, KerasManifest)
            and self._manifest.weights.is_keras_3
        ):
            hint += " `checkpoint.by_variable_name()` goes by the names of layers."
        return TensorNotFoundError(
            name, place, nearest(name, self._manifest.names), hint
        )


def open_checkpoint(
    path: PathLike | KvStore, *, context: Context | None = None
) -> Checkpoint:
    """Opens a checkpoint: reads its index and none of its tensors.

    Args:
        path: A prefix (`model.ckpt-1000`); a directory (what its `checkpoint` state
            file names, else the variables of a SavedModel, else an empty basename,
            else Keras weights: an unzipped `.keras`, a preset of KerasHub); one of the
            checkpoint's files; a V1 file or a pattern of them
            (`model.ckpt-?????-of-00002`); Keras weights (`.h5`, `.keras`, or the index
            of several files, `.weights.json`). Local, or a URL that tensorstore knows
            (`gs://`, `s3://`, `http://`, `file://` …), or a `tensorstore.KvStore`.
        context: tensorstore's, for URLs; the default one gives failing requests up
            within 30 seconds.

    Returns:
        The checkpoint. What its files are is remembered: reading it after another one
        has taken their place is refused.

    Raises:
        CheckpointNotFoundError: There is none at `path`.
        DamagedError: The index is no table, or malformed, or is being replaced.
        UnsupportedError: It is another kind of file, or no tensorstore URL.
        ReadError: The system or the store refuses, or does not answer for 60 seconds.

    Examples:
        >>> import tf2flax
        >>> tf2flax.open_checkpoint("tests/data/bert")["global_step"].dtype
        dtype('int64')
    """
    return Checkpoint(manifest_at(locate(path, context)))


def manifest_at(location: Location) -> Manifest:
    """Reads what a checkpoint lists.

    Args:
        location: Where it lies.

    Returns:
        Its names and entries.

    Raises:
        CheckpointError: As `open_checkpoint`.
    """
    storage, shown = location.storage, location.storage.show(location.path)
    if location.kind is Kind.V1:
        return V1Manifest(shown, [storage.whole_file(path) for path in location.files])
    if location.kind in (Kind.KERAS, Kind.KERAS_SHARDS):
        return open_keras(location)
    for _ in range(_MAX_OPENINGS):
        index = location.index
        if index is None:
            break
        manifest = _bundle_manifest(storage, location.path, index)
        if index.settle(manifest.data_paths()):
            return ObjectBasedManifest(manifest) if GRAPH_KEY in manifest else manifest
        # Somebody is replacing it: its index comes last.
        time.sleep(_REPLACING_S)
        location = dataclasses.replace(
            location, index=storage.read_index(f"{location.path}.index")
        )
    raise replaced("The checkpoint", f"{shown}.index")


def _bundle_manifest(storage: Storage, path: str, index: Index) -> BundleManifest:
    shown = storage.show(path)
    found = recognise_wrong_file(index.contents[:64])
    if found:
        raise DamagedError(
            f"Expected the index of a checkpoint, got {found[0]} - at "
            f"`{shown}.index`. {found[1]}"
        )
    base = shown if storage.is_local else path
    return BundleManifest(
        shown, index.contents, functools.partial(_data_file, index, base)
    )


def _data_file(index: Index, prefix: str, suffix: str) -> DataFile:
    """The file of a checkpoint; a function of the module, so that it is picklable."""
    return index.file(prefix + suffix)


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
        One checkpoint with all of the names; nothing is copied.

    Raises:
        AssignmentError: Two of them would have one name.
        CheckpointError: As `open_checkpoint`.

    Examples:
        >>> import tf2flax
        >>> bert = tf2flax.open_checkpoint("tests/data/bert/model.ckpt")
        >>> merged = tf2flax.merge_checkpoints({"a/": bert, "b/": bert})
        >>> len(merged), "b/global_step" in merged
        (278, True)
        >>> len(tf2flax.merge_checkpoints([("", bert), ("b/", bert)]))
        278
        >>> len(tf2flax.merge_checkpoints([bert]))
        139
    """
    parts = [
        (prefix, one if isinstance(one, Checkpoint) else open_checkpoint(one))
        for prefix, one in prefixed(checkpoints)
    ]
    return Checkpoint(MergedManifest([(prefix, one.manifest) for prefix, one in parts]))


def list_variables(path: PathLike | KvStore) -> list[tuple[str, list[int]]]:
    """Lists names and shapes, as `tf.train.list_variables`.

    Args:
        path: As for `open_checkpoint`.

    Returns:
        `(name, [dim, ...])` pairs, sorted by name.

    Raises:
        CheckpointError: As `open_checkpoint`.

    Examples:
        >>> import tf2flax
        >>> tf2flax.list_variables("tests/data/bert/model.ckpt")[0]
        ('bert/embeddings/LayerNorm/beta', [32])

    Source: tensorflow/python/training/checkpoint_utils.py.
    """
    specs = open_checkpoint(path).manifest.specs()
    # In their order already, mostly: names are ordered by code point, keys by bytes.
    return sorted(
        [(name, list(spec.shape)) for name, spec in specs], key=operator.itemgetter(0)
    )


def load_variable(path: PathLike | KvStore, name: str) -> Any:
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
        >>> import tf2flax
        >>> tf2flax.load_variable("tests/data/bert/model.ckpt", "global_step:0")
        np.int64(123456)

    Source: tensorflow/python/training/checkpoint_utils.py.
    """
    checkpoint = open_checkpoint(path)
    # Anything but a string is looked up as it is, and not found.
    key = name.removesuffix(":0") if isinstance(name, str) else name  # pyright: ignore[reportUnnecessaryIsInstance]
    return checkpoint[key].read()[()]
