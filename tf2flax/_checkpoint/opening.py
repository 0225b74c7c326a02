"""TensorFlow's verbs: a checkpoint opened by its path, its variables listed and read.

Opening reads the index and no tensor. Never imports JAX.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tf2flax._base.manifest import Manifest
from tf2flax._formats.format import Location

from .checkpoint import Checkpoint
from .locate import locate
from .merging import MergedManifest, prefixed
from .object_based import ObjectBasedManifest
from .state import PathLike

if TYPE_CHECKING:
    from tf2flax._storage.requests import Context, KvStore


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
        DamagedError: The index is not a table, or malformed, or is being replaced.
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
    manifests: list[tuple[str, Manifest]] = []
    for prefix, source in prefixed(checkpoints):
        is_open = isinstance(source, Checkpoint)
        checkpoint = source if is_open else open_checkpoint(source)
        manifests.append((prefix, checkpoint.manifest))
    return Checkpoint(MergedManifest(manifests))


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
