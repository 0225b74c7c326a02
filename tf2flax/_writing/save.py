"""`save_checkpoint`: a tree or a mapping -> a V2 checkpoint that TensorFlow restores.

What is given is checked and named first; only then the first file is opened. Arrays
are fetched one by one while they are written. Trees are taken apart by `_jax.targets`,
which alone needs JAX: a flat mapping of numpy arrays is saved without it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, cast

import numpy as np

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.layouts.resizing import evaluate
from tf2flax._assignment.plans.inverse import InversePlan
from tf2flax._assignment.resolution.partitions import family_of
from tf2flax._base.caller import attribute_of, check_switch, show_value, warn_caller
from tf2flax._base.errors import (
    AssignmentError,
    CheckpointError,
    ExistsError,
    ReadError,
    UnsupportedError,
)
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.memory import empty, view_at
from tf2flax._base.text import list_names
from tf2flax._base.values import STORED_DTYPES, Box, StoredDtype, TensorSpec
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.object_based import ObjectBasedManifest
from tf2flax._checkpoint.state import PathLike
from tf2flax._checkpoint.stored_tensor import StoredTensor
from tf2flax._formats.object_graph import GRAPH_KEY
from tf2flax._reading.whole import check_readable
from tf2flax._storage.exchanging import existing_files
from tf2flax._storage.local import LOCAL
from tf2flax._storage.stores import storage_of

from .backwards import TensorWriter
from .bundle import MAX_DATA_FILES, Extents, NewPiece, NewTensor, write_bundle
from .stale import StaleCopies
from .state_file import update_state

# Bytes that NumPy's own dtypes hold -> TensorFlow's number; quantised integers, which
# are integers to NumPy, keep theirs only where they come from a checkpoint.
_CODES: Final[dict[np.dtype, int]] = {
    dtype.numpy: code
    for code, dtype in STORED_DTYPES.items()
    if dtype.is_readable and not dtype.name.startswith(("q", "string"))
}
_CODE_OF_NAME: Final = {dtype.name: code for code, dtype in STORED_DTYPES.items()}
_STRING: Final = 7


def save_checkpoint(
    prefix: PathLike,
    tree_or_mapping: Any,
    *,
    plan: Invertible | None = None,
    unused: Literal["copy", "drop"] = "copy",
    data_files: int = 1,
    overwrite: bool = False,
) -> str:
    """Writes a V2 checkpoint, as `tf.train.Saver` does.

    Arrays are written one after the other, so that beside the tree about one tensor is
    in memory. The files appear under their names only once they are whole, the index
    last, then the state file `checkpoint` names the prefix; the checkpoints that it
    named before stay in its list. In a SavedModel, which has no state file, none is
    written.

    Args:
        prefix: Local path of the new checkpoint, without suffix ("run/model.ckpt-7");
            its directory is made where it is missing.
        tree_or_mapping: What to save. A flat mapping of names to arrays, or a
            `Checkpoint`, is written under the names as they stand. Of anything else
            (nested dicts, linen variables, `nnx.State`, `nnx.Module`, any pytree) a
            leaf is written under its '/'-joined path, and leaves `<name>/part_0` to
            `<name>/part_<n-1>` (n >= 2) become slices of one tensor `<name>`: along the
            only axis on which their shapes differ, else along axis 0. Arrays of bytes
            or text become string tensors; Python scalars, what NumPy makes of them in a
            flat mapping, and in a tree what JAX does (int32, float32), or 64 bits where
            they do not fit.
        plan: The plan that loaded the tree (`tf2flax.plan`). The tree is written under
            the checkpoint's names, in its shapes, dtypes and slices: the map backwards.
            Where the plan was made for a view (`by_variable_name()` …), these are the
            stored names, with the object graph, so that TensorFlow restores the file in
            the checkpoint's place. What was only loaded comes back bit for bit. Leaves
            that `on_mismatch` kept are written in their own shape and dtype, a tied
            Variable to all of its tensors. Other leaves that the plan did not load are
            left out, with a warning; another one names slots, averages and steps that
            are copied although their variables have changed.
        unused: With a plan, what happens to tensors, and parts of tensors, that it did
            not load: "copy" them from the checkpoint, those that a view hides as well,
            or "drop" them, from the object graph too. Slots and averages of tensors of
            a new shape are dropped in any case.
        data_files: Number of data files, between which the bytes are balanced.
        overwrite: Whether files of this prefix that are there already are replaced,
            once the new ones are complete; an interrupt waits until all of them are.
            Who has opened the old checkpoint must open it again, and make its plans
            again: a plan that was saved over its own source serves no second time.

    Returns:
        The prefix, absolute.

    Raises:
        ExistsError: Files of this prefix are there already.
        AssignmentError: A name or a value cannot be saved, two leaves have one name, or
            no tensor of the checkpoint's dtype loads as a leaf is; or the plan was made
            for several merged checkpoints with an object graph.
        UnsupportedError: A dtype that no checkpoint holds; an array that spans
            processes; a prefix that is a URL; a view in which tensors share a name.
        ReadError: The system refuses.

    Examples:
        >>> import numpy as np, tempfile, tf2flax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = {"part_0": np.zeros((3, 2)), "part_1": np.zeros((1, 2))}
        ...     prefix = tf2flax.save_checkpoint(f"{folder}/m", {"table": table})
        ...     tf2flax.list_variables(prefix)
        [('table', [4, 2])]

    Source: `tf.train.Saver.save`, tensorflow/python/training/saver.py;
    `update_checkpoint_state_internal`, checkpoint_management.py.
    """
    path = _checked_prefix(prefix)
    is_replacing = check_switch("overwrite", overwrite)
    if isinstance(data_files, bool) or not isinstance(data_files, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AssignmentError(
            f"Expected a number of data files, got {show_value(data_files)}."
        )
    if not 1 <= data_files <= MAX_DATA_FILES:
        raise AssignmentError(
            f"Expected 1 to {MAX_DATA_FILES} data files, got {show_value(data_files)}."
        )
    if not isinstance(unused, str) or unused not in ("copy", "drop"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AssignmentError(
            f"Expected unused 'copy' or 'drop', got {show_value(unused)}."
        )
    stale: StaleCopies | None = None
    if plan is None:
        found = _tensors_of(tree_or_mapping)
    else:
        found, stale = _tensors_backwards(
            tree_or_mapping, plan, is_copying=unused == "copy"
        )
    tensors = sorted(found, key=lambda tensor: tensor.name)
    if not tensors:
        raise AssignmentError("There is nothing to save: the tree holds no arrays.")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        present = existing_files(path)
        if present and not is_replacing:
            raise ExistsError(
                f"A checkpoint is there already - at `{present[0]}`. Choose another "
                "prefix, or give overwrite=True."
            )
        write_bundle(path, tensors, num_data_files=data_files)
        update_state(path)
    except OSError as error:
        if isinstance(error, (ExistsError, ReadError)):
            raise
        raise ReadError(f"Cannot write `{path}`: {error.strerror or error}.") from error
    if stale is not None and (message := stale.message()):
        warn_caller(message)
    return path


class Invertible(Protocol):
    """A plan that can be turned round: `tf2flax.Plan`."""

    def inverse(self) -> InversePlan:
        """What each tensor is, in terms of leaves.

        Raises:
            DamagedError: The entry of a tensor is malformed.
        """
        ...


def _checked_prefix(prefix: PathLike) -> str:
    storage, text = storage_of(prefix)
    if not storage.is_local:
        raise UnsupportedError(
            f"`{storage.show(text)}` is no local path: checkpoints are written to "
            "local directories. Write it there and copy its files, the index last."
        )
    if "\0" in text:
        raise AssignmentError(f"No file can be called {text!r}.")
    try:
        os.fsencode(text)
        os.path.basename(text).encode()  # as the state file must
    except UnicodeEncodeError as error:
        raise AssignmentError(
            f"No checkpoint can be called {show_value(text)}: {error.reason}."
        ) from error
    path = LOCAL.show(text)
    if not os.path.basename(path) or os.path.isdir(path):
        raise AssignmentError(
            f"`{path}` is a directory, and a checkpoint needs a name in it: "
            f"`{os.path.join(path, 'model.ckpt')}`."
        )
    return path


def _tensors_of(value: Any) -> list[NewTensor]:
    """Names and checks everything that is to be saved; reads and fetches nothing."""
    if isinstance(value, Checkpoint):
        _check_view(value)
        return [_stored(name, tensor) for name, tensor in value.items()]
    if _is_flat(value):
        flat: Mapping[str, Any] = value
        return [_tensor(name, one) for name, one in flat.items()]
    leaves = _leaves_of(value)
    tensors: list[NewTensor] = []
    families = _families(leaves)
    members = {part for parts in families.values() for part in parts}
    for name, parts in families.items():
        if name in leaves:
            raise AssignmentError(
                f"Leaf `{name}` and its parts `{parts[0]}` … would be one tensor. "
                "Rename one of them."
            )
        tensors.append(_family(name, [_tensor(part, leaves[part]) for part in parts]))
    for name, one in leaves.items():
        if name not in members:
            tensors.append(_tensor(name, one))
    return tensors


def _check_view(checkpoint: Checkpoint) -> None:
    """Refuses a view that hides tensors, of which the copy would lack them."""
    if shared := checkpoint.manifest.shared_names:
        raise UnsupportedError(
            f"In this view of `{checkpoint.prefix}` several tensors share one name: "
            f"{list_names(shared)}. Save the checkpoint itself, or `view.read()` to "
            "leave them out."
        )


def _leaves_of(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name; Python scalars as the arrays that JAX makes."""
    # Here, and not above, since it imports JAX and Flax.
    from tf2flax._jax import targets

    leaves: dict[str, Any] = {}
    for slot in targets.take_apart(tree).slots:
        value = slot.value
        if isinstance(value, (bool, int, float, complex)):
            assert slot.leaf.dtype is not None  # a number has one
            value = _scalar(slot.leaf.name, value, slot.leaf.dtype)
        leaves[slot.leaf.name] = value
    return leaves


def _scalar(
    name: str, value: complex, dtype: np.dtype
) -> np.ndarray[Any, np.dtype[Any]]:
    """A Python scalar as the array that JAX makes; wider where it does not fit that."""
    try:
        with np.errstate(all="ignore"):
            array = np.asarray(value, dtype)
        is_held = bool(np.isfinite(array)) or not np.isfinite(value)
        return array if is_held else np.asarray(value)
    except OverflowError:
        array = np.asarray(value)
    if array.dtype == object:
        raise AssignmentError(
            f"Leaf `{name}` is an integer of {value.bit_length()} bits, which no "  # pyright: ignore[reportAttributeAccessIssue]
            "checkpoint holds. Save it as text, or as a float."
        )
    return array


def _tensors_backwards(
    tree: Any, plan: Invertible, *, is_copying: bool
) -> tuple[list[NewTensor], StaleCopies]:
    """Names and checks the tensors that a plan's leaves came from."""
    inverse = _inverse_of(plan)
    leaves = _leaves_of(tree)
    wanted = set(inverse.leaves)
    arrays = {name: _tensor(name, leaves[name]) for name in wanted & leaves.keys()}
    specs = {name: one.spec for name, one in arrays.items()}
    inverse.check(specs, is_copying=is_copying, present=leaves.keys())
    if left_out := [name for name in leaves if name not in wanted]:
        warn_caller(
            f"{len(left_out)} leaves that the plan did not load are not written: "
            f"{list_names(left_out, 20)}. Save them in a checkpoint of their own."
        )
    backwards = TensorWriter(inverse, lambda leaf: arrays[leaf].pieces[0].array())
    manifest = inverse.manifest
    renewed = _renewed(inverse, arrays)
    kept = {place for one in inverse.renewals for place in one.places}
    told = [one.name for one in inverse.assignments if one.name not in kept]
    copies = inverse.copied if is_copying else ()
    stale = _stale_copies(inverse, told, copies, renewed)
    tensors = [
        _rewritten(
            manifest.entry(name),
            stale.watched(name, functools.partial(backwards.tensor, name)),
        )
        for name in told
    ]
    tensors += renewed.values()
    dropped = {*stale.dropped, *renewed}
    if stale.dropped and isinstance(manifest, ObjectBasedManifest):
        dropped.add(GRAPH_KEY)  # another one is written
    tensors += [
        _stored(name, StoredTensor(manifest.entry(name)))
        for name in copies
        if name not in dropped
    ]
    is_without_some = not is_copying or bool(stale.dropped)
    if is_without_some and isinstance(manifest, ObjectBasedManifest):
        graph = manifest.graph_of(stale.dropped if is_copying else inverse.copied)
        tensors.append(_tensor(GRAPH_KEY, graph))
    return tensors, stale


def _stale_copies(
    inverse: InversePlan,
    written: Sequence[str],
    copied: Sequence[str],
    renewed: Collection[str],
) -> StaleCopies:
    """Begins to watch what is copied, by names and by what the object graph tells."""
    manifest = inverse.manifest
    copies: Mapping[str, Sequence[str]] = {}
    slots: Mapping[str, str] = {}
    if copied and isinstance(manifest, ObjectBasedManifest):
        # A damaged graph is copied as it is.
        with contextlib.suppress(CheckpointError):
            copies = manifest.unwritten_copies({*written, *renewed})
            slots = manifest.slots_of_lists()
    return StaleCopies(manifest, written, copied, renewed, copies, slots)


def _renewed(
    inverse: InversePlan, arrays: Mapping[str, NewTensor]
) -> dict[str, NewTensor]:
    """Tensors in the shape and dtype of leaves that did not fit them, by name."""
    tensors: dict[str, NewTensor] = {}
    for renewal in inverse.renewals:
        if not all(leaf in arrays for leaf in renewal.leaves):
            continue
        if renewal.parts:
            members = [arrays[part] for part in renewal.parts]
            tensors |= {name: _family(name, members) for name in renewal.places}
            continue
        leaf = arrays[renewal.leaf]
        resized = inverse.resized(renewal, leaf.spec.shape)
        whole = ReadOnce(leaf.pieces[0].array, uses=len(resized))
        for name, (expression, shape) in resized.items():
            spec = TensorSpec(shape, leaf.spec.dtype)
            piece = NewPiece(spec, None, functools.partial(whole.evaluated, expression))
            tensors[name] = NewTensor(_key(name), spec, leaf.dtype_code, (piece,))
    return tensors


def _inverse_of(plan: Any) -> InversePlan:
    """Turns a plan round, if it is one."""
    # Classes have the method too, and other libraries have one of that name.
    if not isinstance(plan, type) and callable(attribute_of(plan, "inverse")):
        module = type(plan).__module__.partition(".")[0]
        inverse = plan.inverse() if module == "tf2flax" else None
        if isinstance(inverse, InversePlan):
            return inverse
    kind = "the class " if isinstance(plan, type) else ""
    name = plan.__name__ if isinstance(plan, type) else type(plan).__name__
    raise AssignmentError(
        f"Expected a plan of tf2flax.plan, got {kind}{name}. Give what "
        "tf2flax.plan(checkpoint, assignment_map, target) returns."
    )


def _is_flat(value: Any) -> bool:
    """Whether a value maps names to arrays, one level deep."""
    if not isinstance(value, Mapping):
        return False
    flat = cast("Mapping[Any, Any]", value)
    return all(isinstance(name, str) and _is_array(one) for name, one in flat.items())


def _is_array(value: Any) -> bool:
    if isinstance(value, (np.ndarray, np.generic, StoredTensor, bytes, str)):
        return True
    return isinstance(value, (bool, int, float, complex)) or _is_jax_array(value)


def _is_jax_array(value: Any) -> bool:
    jax = sys.modules.get("jax")  # who has an array of its has imported it
    return jax is not None and isinstance(value, jax.Array)


def _families(names: Iterable[str]) -> dict[str, list[str]]:
    """Finds the parts of partitioned variables: all from 0 to n - 1, two at least."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        part = family_of(name)
        if part is not None and part[0]:
            found.setdefault(part[0], {})[part[1]] = name
    return {
        name: [parts[i] for i in range(len(parts))]
        for name, parts in found.items()
        if len(parts) >= 2 and max(parts) == len(parts) - 1
    }


def _family(name: str, parts: list[NewTensor]) -> NewTensor:
    """One tensor in slices, of the parts of a partitioned variable."""
    shapes = [part.spec.shape for part in parts]
    way_out = "Save a flat mapping of names to arrays to write them as they stand."
    if len({part.dtype_code for part in parts}) > 1:
        names = sorted({part.spec.dtype.name for part in parts})
        raise AssignmentError(
            f"The parts of `{name}` differ in dtype: {', '.join(names)}. {way_out}"
        )
    if len({len(shape) for shape in shapes}) > 1 or not shapes[0]:
        raise AssignmentError(
            f"The parts of `{name}` are no slices of one tensor: their shapes are "
            f"{_some(shapes)}. {way_out}"
        )
    axes = [
        axis for axis, dims in enumerate(zip(*shapes, strict=True)) if len({*dims}) > 1
    ]
    if len(axes) > 1:
        raise AssignmentError(
            f"The parts of `{name}` differ along several axes: their shapes are "
            f"{_some(shapes)}. {way_out}"
        )
    axis = axes[0] if axes else 0
    whole = list(shapes[0])
    whole[axis] = sum(shape[axis] for shape in shapes)
    start = 0
    pieces: list[NewPiece] = []
    for part in parts:
        starts, stops = [0] * len(whole), list(whole)
        starts[axis], stops[axis] = start, start + part.spec.shape[axis]
        start = stops[axis]
        box = Box(tuple(starts), tuple(stops))
        extents = _extents(box, tuple(whole))
        pieces.append(NewPiece(part.spec, extents, part.pieces[0].array))
    spec = TensorSpec(tuple(whole), parts[0].spec.dtype)
    return _sliced(_key(name), spec, parts[0].dtype_code, pieces)


def _sliced(
    key: bytes, spec: TensorSpec, dtype_code: int, slices: Sequence[NewPiece]
) -> NewTensor:
    """A tensor in slices, of which TensorFlow 1 can read all.

    There an empty slice overlaps its neighbours, two of them divide by zero, and a
    scalar has no slices. So empty ones are not written, and where less than two are
    left, the tensor is no longer sliced.

    Args:
        key: The tensor's key.
        spec: Shape and dtype of the whole.
        dtype_code: TensorFlow's number of the dtype.
        slices: Its slices, at least one, which tile it.
    """
    filled = [piece for piece in slices if piece.spec.size]
    is_kept = spec.shape and len(filled) == len(slices)
    if is_kept or len(filled) > 1:
        return NewTensor(key, spec, dtype_code, tuple(filled))
    # One holds all elements; or none does, and any of them is as empty as the whole.
    only = filled[0] if filled else slices[0]

    def array() -> np.ndarray:
        return only.array().reshape(spec.shape)

    return NewTensor(key, spec, dtype_code, (NewPiece(spec, None, array),))


def _some(shapes: list[tuple[int, ...]]) -> str:
    shown = ", ".join(str(list(shape)) for shape in shapes[:6])
    return f"{shown} …" if len(shapes) > 6 else shown


def _extents(box: Box, shape: tuple[int, ...]) -> Extents:
    """A box as files name it: a whole axis starts at 0 and has length -1."""
    return tuple(
        (0, -1) if (start, stop) == (0, dim) else (start, stop - start)
        for start, stop, dim in zip(box.starts, box.stops, shape, strict=True)
    )


def _stored(name: str, tensor: StoredTensor) -> NewTensor:
    """A tensor of a checkpoint under some name, as it is."""
    return _rewritten(tensor.entry._replace(name=name), tensor.read)


def _rewritten(entry: TensorEntry, read: Callable[[], np.ndarray]) -> NewTensor:
    """A tensor with the dtype and the slices of a stored one, and values of its own."""
    check_readable(entry)
    name, spec = entry.name, entry.spec
    code = _CODE_OF_NAME[spec.dtype.name]
    if not entry.is_sliced:
        return NewTensor(_key(name), spec, code, (NewPiece(spec, None, read),))
    num_filled = sum(piece.box.size > 0 for piece in entry.pieces)
    whole = ReadOnce(read, uses=max(num_filled, 1))
    pieces = tuple(
        NewPiece(
            TensorSpec(piece.box.shape, spec.dtype),
            _extents(piece.box, spec.shape),
            whole.part(piece.box.within(Box.whole(spec.shape))),
        )
        for piece in entry.pieces
    )
    return _sliced(_key(name), spec, code, pieces)


class ReadOnce:
    """An array that is read for its first use, and dropped after its last."""

    def __init__(self, read: Callable[[], np.ndarray], *, uses: int) -> None:
        self._read = read
        self._uses = uses
        self._array: np.ndarray | None = None

    def part(self, index: tuple[slice, ...]) -> Callable[[], np.ndarray]:
        return lambda: view_at(self.get(), index)

    def evaluated(self, expression: Expression) -> np.ndarray:
        """What an expression makes of it."""
        return evaluate(expression, self.get())

    def get(self) -> np.ndarray:
        """The array, for one of its uses."""
        array = self._read() if self._array is None else self._array
        self._uses -= 1
        self._array = array if self._uses else None
        return array


def _tensor(name: str, value: Any) -> NewTensor:
    """One array, not fetched yet."""
    if isinstance(value, StoredTensor):
        return _stored(name, value)
    if _is_jax_array(value):
        spec, array = _device_array(name, value)
    else:
        spec, array = _host_array(name, value)
    code = _STRING if spec.dtype.is_string else _CODES[spec.dtype.numpy]
    return NewTensor(_key(name), spec, code, (NewPiece(spec, None, array),))


def _host_array(name: str, value: Any) -> tuple[TensorSpec, Callable[[], np.ndarray]]:
    if not _is_array(value):
        raise AssignmentError(
            f"Leaf `{name}` is no array but a {type(value).__name__}. "
            "Leave it out of the tree."
        )
    if isinstance(value, np.ma.MaskedArray):
        raise AssignmentError(
            f"Leaf `{name}` is a masked array, and no checkpoint holds masks. Fill it "
            "first, with `filled()`."
        )
    array: np.ndarray[Any, np.dtype[Any]]
    array = np.asarray(value, object if isinstance(value, bytes) else None)
    if array.dtype.kind in "OSU":
        strings = _strings(name, array)
        return TensorSpec(array.shape, STORED_DTYPES[_STRING]), lambda: strings
    return TensorSpec(array.shape, _dtype(name, array.dtype)), lambda: array


def _strings(name: str, array: np.ndarray) -> np.ndarray:
    """An array of bytes; text becomes UTF-8."""
    out = empty(array.size, object)
    for i, element in enumerate(array.reshape(-1).tolist()):
        if isinstance(element, str):
            try:
                out[i] = element.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError as error:
                raise AssignmentError(
                    f"Leaf `{name}` holds {show_value(element)}, which is no text: "
                    f"{error.reason}. Give bytes."
                ) from error
        elif isinstance(element, bytes):
            out[i] = element
        else:
            raise AssignmentError(
                f"Leaf `{name}` is an array of objects, one of which is a "
                f"{type(element).__name__}. Only bytes and text can be saved."
            )
    return out.reshape(array.shape)


def _device_array(name: str, value: Any) -> tuple[TensorSpec, Callable[[], np.ndarray]]:
    jax = sys.modules["jax"]
    if isinstance(value, jax.core.Tracer):
        raise UnsupportedError(
            f"Leaf `{name}` is being traced by JAX. Save outside of jax.jit and of "
            "every other transformation."
        )
    if value.is_deleted():
        raise AssignmentError(
            f"Leaf `{name}` was deleted or donated. Save before it is."
        )
    if not value.is_fully_addressable:
        raise UnsupportedError(
            f"Leaf `{name}` spans processes. Gather it first, with "
            "jax.experimental.multihost_utils.process_allgather, and save in one "
            "process."
        )
    if not isinstance(value.dtype, np.dtype):
        raise AssignmentError(
            f"Leaf `{name}` is of dtype {value.dtype}. Save jax.random.key_data of it, "
            "or leave it out."
        )
    dtype = cast("np.dtype[Any]", value.dtype)
    spec = TensorSpec(value.shape, _dtype(name, dtype))
    return spec, lambda: _fetched(jax, value)


def _fetched(jax: Any, value: Any) -> np.ndarray:
    """Copies an array to the host, shard by shard, each once."""
    shards = {shard.index_key: shard for shard in map(_Shard, value.addressable_shards)}
    if len(shards) == 1:
        return next(iter(shards.values())).fetch(jax)
    out = empty(value.shape, value.dtype)
    for shard in shards.values():
        out[shard.index] = shard.fetch(jax)
    return out


class _Shard:
    """One device's piece of an array."""

    def __init__(self, shard: Any) -> None:
        self.index: tuple[slice, ...] = shard.index
        self._data = shard.data

    @property
    def index_key(self) -> tuple[tuple[Any, Any], ...]:
        """What replicas of a shard have in common."""
        return tuple((one.start, one.stop) for one in self.index)

    def fetch(self, jax: Any) -> np.ndarray:
        # An array keeps the host's copy once it was asked for; this one is dropped.
        passing = jax.make_array_from_single_device_arrays(
            self._data.shape, self._data.sharding, [self._data]
        )
        return jax.device_get(passing)


def _dtype(name: str, dtype: np.dtype[Any]) -> StoredDtype:
    code = _CODES.get(dtype.newbyteorder("="))
    if code is None:
        raise UnsupportedError(
            f"Leaf `{name}` is of dtype {dtype}, which no TensorFlow checkpoint holds. "
            "Cast it, or leave it out."
        )
    return STORED_DTYPES[code]


def _key(name: str) -> bytes:
    if not name:
        raise AssignmentError("A tensor needs a name: the tree is a single array.")
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise AssignmentError(f"Name {name!r} is no text: {error.reason}.") from error
