"""Options of commands that look at some tensors, and what they select."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Sequence

import tf2flax
from tf2flax._base.names import nearest
from tf2flax._base.optimizer_names import is_average, is_slot


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Adds the options.

    Args:
        parser: Parser of a command.
    """
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="prefix, directory, file or URL"
    )
    parser.add_argument(
        "pattern",
        metavar="GLOB",
        nargs="?",
        help="names that are wanted; * matches / as well, scope/ all names in it",
    )
    parser.add_argument(
        "--names",
        choices=("stored", "variables", "objects"),
        default="stored",
        help="names of TF2 and Keras files: as stored, of variables, or of attributes",
    )
    parser.add_argument(
        "--slots",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether optimizer slots and moving averages are included",
    )
    parser.add_argument(
        "--sort", choices=("name", "size"), default="name", help="the order"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")


def select(
    arguments: argparse.Namespace,
) -> tuple[tf2flax.Checkpoint, Sequence[tf2flax.StoredTensor]]:
    """Opens the checkpoint and selects tensors.

    Args:
        arguments: Parsed options of `add_selection`.

    Returns:
        The checkpoint, and the tensors in their order.

    Raises:
        NotFoundError: The pattern matches no name.
        CheckpointError: As `tf2flax.open_checkpoint`.
    """
    checkpoint = tf2flax.open_checkpoint(arguments.checkpoint)
    if arguments.names == "variables":
        checkpoint = checkpoint.by_variable_name()
    elif arguments.names == "objects":
        checkpoint = checkpoint.by_object_path()
    names = match_names(checkpoint, arguments.pattern)
    if not arguments.slots:
        manifest = checkpoint.manifest
        names = [
            name
            for name in names
            if not is_slot(name, manifest) and not is_average(name, manifest)
        ]
    tensors = [checkpoint[name] for name in names]
    if arguments.sort == "size":
        tensors.sort(key=lambda tensor: -tensor.nbytes)
    return checkpoint, tensors


def match_names(checkpoint: tf2flax.Checkpoint, pattern: str | None) -> list[str]:
    """Names that a pattern matches.

    Args:
        checkpoint: The checkpoint.
        pattern: A glob; a scope ending in `/` matches all names in it. None matches
            every name.

    Returns:
        The names, sorted.

    Raises:
        NotFoundError: There is none.
    """
    if pattern is None:
        return list(checkpoint)
    glob = f"{pattern}*" if pattern.endswith("/") else pattern
    names = [name for name in checkpoint if fnmatch.fnmatchcase(name, glob)]
    # A name may have brackets of its own.
    if not names and pattern in checkpoint:
        return [pattern]
    if not names:
        close = nearest(pattern.replace("*", ""), checkpoint.manifest.names)
        fix = f"Did you mean `{close[0]}`?" if close else "Leave it out to see all."
        raise tf2flax.NotFoundError(
            f"`{pattern}` matches none of {len(checkpoint)} tensors - in "
            f"`{checkpoint.manifest.index_path}`. {fix}"
        )
    return names
