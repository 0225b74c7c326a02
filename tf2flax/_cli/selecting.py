"""Options of commands that look at some tensors, and what they select."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Sequence

import tf2flax
from tf2flax._base.names import nearest
from tf2flax._base.optimizer_names import is_average, is_slot
from tf2flax._base.text import counted


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
    # A name matches itself, also where it would mean others as a pattern: `[x]`.
    names = [
        name
        for name in checkpoint
        if name == pattern or fnmatch.fnmatchcase(name, glob)
    ]
    if not names:
        raise tf2flax.NotFoundError(
            f"`{pattern}` matches none of {counted(len(checkpoint), 'tensor')} - in "
            f"`{checkpoint.manifest.index_path}`. {_suggest(checkpoint, pattern)}"
        )
    return names


def _suggest(checkpoint: tf2flax.Checkpoint, pattern: str) -> str:
    """What to write instead of a pattern that matches no name."""
    if any(name.startswith(f"{pattern}/") for name in checkpoint):
        return f"It is a scope: write '{pattern}/'."
    close = nearest(pattern.replace("*", ""), checkpoint.manifest.names)
    return f"Did you mean `{close[0]}`?" if close else "Leave it out to see all."
