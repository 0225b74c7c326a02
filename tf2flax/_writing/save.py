"""`save_checkpoint`: a tree or a mapping -> a V2 checkpoint that TensorFlow restores.

All that is given is checked and named before the first file is opened; arrays are
fetched one by one while they are written. JAX is imported only for trees and plans: a
flat mapping of numpy arrays is saved without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from tf2flax._assignment.language.expressions import Expression
from tf2flax._base.caller import check_switch, is_one_of, show_value, warn_caller
from tf2flax._base.errors import AssignmentError
from tf2flax._checkpoint.state import PathLike
from tf2flax._storage.faults import complete_error

from .bundle import write_bundle
from .by_plan import Invertible, prepare_by_plan
from .new_names import refuse_without_plan
from .new_tensors import NewTensor
from .optimizer import refuse_state_without_plan
from .parts import MAX_DATA_FILES
from .prefixes import open_destination, refuse_present, writing_to
from .stale import StaleCopies
from .state_file import publish
from .trees import prepare_tree

# What happens to tensors that a plan did not load.
_UNUSED: Final = ("copy", "drop")
# What happens to variables and their moving averages.
_AVERAGES: Final = ("follow", "both")


def save_checkpoint(
    prefix: PathLike,
    tree_or_mapping: Any,
    *,
    plan: Invertible | None = None,
    opt_state: tuple[Invertible, Any] | None = None,
    new: Mapping[str, str | Expression] | None = None,
    unused: Literal["copy", "drop"] = "copy",
    averages: Literal["follow", "both"] = "follow",
    data_files: int = 1,
    overwrite: bool = False,
) -> str:
    """Writes a V2 checkpoint, as `tf.train.Saver` does.

    Arrays are written one after the other: about one tensor is in memory besides the
    tree. The files get their names only once they are whole, the index last. Then the
    state file `checkpoint` names the prefix, and keeps the checkpoints that it named
    before; a SavedModel has no state file and gets none.

    Where an array spans processes of `jax.distributed`, all of them call this alike.
    Each writes a data file of its shards, every element once; the first one writes the
    index, and what every process has: NumPy arrays, scalars, copies.

    Args:
        prefix: Path of the new checkpoint, without suffix ("run/model.ckpt-7"), local
            or a URL that tensorstore can write (gs://, s3:// …). A local directory is
            made if it is missing.
        tree_or_mapping: What to save. A flat mapping of names to arrays, or a
            `Checkpoint`, is written under its names as they stand. In anything else
            (nested dicts, linen variables, `nnx.State`, `nnx.Module`, any pytree) a
            leaf is written under its '/'-joined path, and leaves `<name>/part_0` to
            `<name>/part_<n-1>` (n >= 2) become slices of one tensor `<name>`: along the
            only axis on which their shapes differ, else along axis 0. Arrays of bytes
            or text become string tensors. Python scalars become what NumPy makes of
            them in a flat mapping, and in a tree what JAX makes of them (int32,
            float32), or 64 bits where they do not fit.
        plan: The plan that loaded the tree (`tf2flax.plan`). The map is applied
            backwards: the tree is written under the checkpoint's names, in its shapes,
            dtypes and slices. Where the plan was made for a view (`by_variable_name()`
            …), these are the stored names, with the object graph, so that TensorFlow
            can restore the new file instead of the old one. What was only loaded comes
            back bit for bit. Leaves that `on_mismatch` kept are written in their
            present shape and dtype, and those that `on_missing` kept under the names
            that the map has for them, which the checkpoint lacks; a tied Variable to
            all of its tensors. Other leaves that the plan did not load are left out,
            with a warning; another warning names slots, averages and steps that are
            copied although their variables have changed.
        opt_state: With a plan, the state of an optimizer as well: a pair of the plan
            that `tf2flax.optimizer_plan` made, and the state. Slots, powers of betas
            and counters are written under their own names.
        new: With a plan, what else is written: names of tensors that the checkpoint
            lacks -> names of leaves, or expressions over leaves (`tf2flax.src`), in the
            leaf's dtype. The object graph of TF2 does not get these names: they are
            read by name.
        unused: With a plan, what happens to tensors, and elements of tensors, that it
            did not load: "copy" copies them from the checkpoint, also those that a view
            hides; "drop" leaves them out, also out of the object graph. Slots and
            averages of tensors of a new shape are dropped in any case.
        averages: With a plan, which of a variable and its moving averages are written:
            "follow", what the leaf was loaded from, so that a plan for
            `by_moving_average()` writes averages, and a warning names the variables
            that stay as they were; "both", the leaf is written to either.
        data_files: Number of data files, between which the bytes are balanced; a store
            gets more where one would be larger than 32 MiB, and tensors that are larger
            in slices.
        overwrite: Whether files of this prefix that exist already are replaced, once
            the new ones are complete; an interrupt waits until all of them are. A
            checkpoint that was open must be opened again, and its plans made again:
            also a plan that was saved over the checkpoint it was made for.

    Returns:
        The prefix, absolute; or its URL.

    Raises:
        ExistsError: Files of this prefix exist already; or the checkpoint has a tensor
            of a name in `new` already.
        AssignmentError: A name or a value cannot be saved; two leaves have one name; no
            values of the checkpoint's dtype would load as those of a leaf; or the plan
            was made for several merged checkpoints with an object graph.
        UnsupportedError: No checkpoint holds a dtype; the store of a URL can only be
            read; tensors share a name in a view.
        ReadError: The system or the store refuses; also where the checkpoint is written
            and complete, and its folder could not be brought up to date: it says so.

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
    is_replacing = check_switch("overwrite", overwrite)
    _check_options(unused, averages, data_files)
    stale: StaleCopies | None = None

    def prepare() -> list[NewTensor]:
        nonlocal stale
        if plan is None:
            refuse_without_plan(new)
            refuse_state_without_plan(opt_state)
            _refuse_options_without_plan(unused, averages)
            tensors = prepare_tree(tree_or_mapping)
        else:
            tensors, stale = prepare_by_plan(
                tree_or_mapping,
                plan,
                is_copying=unused == "copy",
                has_averages=averages == "both",
                opt_state=opt_state,
                new=new,
            )
        return _in_order(tensors)

    if processes := _saving_processes(tree_or_mapping, opt_state):
        # Here, since only jobs of several processes need it.
        from .together import SharedSave

        save = SharedSave(prefix, processes, data_files, is_replacing)
        path, problem = save.run(prepare)
    else:
        path, problem = _write(prefix, prepare, data_files, is_replacing=is_replacing)
    if stale is not None and (message := stale.message()):
        warn_caller(message)
    if problem:
        raise complete_error(path, problem)
    return path


def _write(
    prefix: PathLike,
    prepare: Callable[[], Sequence[NewTensor]],
    data_files: int,
    *,
    is_replacing: bool,
) -> tuple[str, str]:
    """Writes the checkpoint of one process, and names it in its folder.

    Returns:
        The prefix, for users; and what went wrong once the checkpoint was there.
    """
    destination = open_destination(prefix)
    tensors = prepare()
    with writing_to(destination), destination.folders():
        replaced = refuse_present(destination, is_replacing=is_replacing)
        bundle = write_bundle(destination, tensors, num_data_files=data_files)
        problem = publish(destination, bundle.index, bundle.suffixes, replaced)
    return destination.path, problem


def _in_order(tensors: Iterable[NewTensor]) -> list[NewTensor]:
    """Sorts tensors by their keys, as an index does; there is one at least."""
    if ordered := sorted(tensors, key=_key_of):
        return ordered
    raise AssignmentError("There is nothing to save: the tree holds no arrays.")


def _key_of(tensor: NewTensor) -> bytes:
    return tensor.key


def _saving_processes(*trees: Any) -> Mapping[int, Any]:
    """A device of each process that saves; none where nothing spans processes."""
    if "jax" not in sys.modules:
        return {}
    # Here, since it imports JAX.
    from .sharded import saving_processes

    return saving_processes(trees)


def _refuse_options_without_plan(unused: str, averages: str) -> None:
    """Refuses what says something of a checkpoint, where there is none."""
    given = {"unused": (unused, "copy"), "averages": (averages, "follow")}
    for name, (value, default) in given.items():
        if value != default:
            raise AssignmentError(
                f"{name}={value!r}: which tensors of a checkpoint that is about, the "
                "plan of the restore says. Give it as plan=."
            )


def _check_options(unused: object, averages: object, data_files: object) -> None:
    if isinstance(data_files, bool) or not isinstance(data_files, int):
        raise AssignmentError(
            f"Expected a number of data files, got {show_value(data_files)}."
        )
    if not 1 <= data_files <= MAX_DATA_FILES:
        raise AssignmentError(
            f"Expected 1 to {MAX_DATA_FILES} data files, got {show_value(data_files)}."
        )
    if not is_one_of(unused, _UNUSED):
        raise AssignmentError(
            f"Expected unused 'copy' or 'drop', got {show_value(unused)}."
        )
    if not is_one_of(averages, _AVERAGES):
        raise AssignmentError(
            f"Expected averages 'follow' or 'both', got {show_value(averages)}."
        )
