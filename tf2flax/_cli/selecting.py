"""Options of commands that look at some tensors, and what they select."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tf2flax
from tf2flax._base.caller import warn_caller
from tf2flax._base.names import nearest
from tf2flax._base.text import counted, list_names
from tf2flax._formats.renamed import RenamedManifest


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds the checkpoint that a command looks at, its first argument."""
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="prefix, directory, file or URL"
    )


def add_names(parser: argparse.ArgumentParser) -> None:
    """Adds the option that says which names tensors have; see `open_named`."""
    parser.add_argument(
        "--names",
        choices=("stored", "variables", "objects"),
        default="stored",
        help="names of TF2 and Keras files: as stored, of variables, or of attributes",
    )


def open_named(path: str, names: str) -> tf2flax.Checkpoint:
    """Opens a checkpoint under the names that the option `--names` asks for.

    Warns:
        UserWarning: Some tensors have no name of their own there.

    Raises:
        CheckpointError: As `tf2flax.open_checkpoint`.
    """
    checkpoint = show_named(tf2flax.open_checkpoint(path), names)
    if unlisted := unlisted_in(checkpoint):
        warn_caller(
            f"{say_unlisted(checkpoint, names, unlisted)} Give --names stored to see "
            "them."
        )
    return checkpoint


def unlisted_in(checkpoint: tf2flax.Checkpoint) -> tuple[str, ...]:
    """Stored names of the tensors that a view of `--names` leaves out."""
    manifest = checkpoint.manifest
    return manifest.unlisted() if isinstance(manifest, RenamedManifest) else ()


def say_unlisted(
    checkpoint: tf2flax.Checkpoint, names: str, unlisted: Sequence[str]
) -> str:
    """A sentence that names the tensors which a view leaves out."""
    count = counted(len(unlisted), "tensor")
    return (
        f"--names {names} leaves out {count}, without a name of their own: "
        f"{list_names(unlisted, count=3)} - in `{checkpoint.manifest.index_path}`."
    )


def show_named(checkpoint: tf2flax.Checkpoint, names: str) -> tf2flax.Checkpoint:
    """The view of a checkpoint that the option `--names` asks for."""
    if names == "variables":
        return checkpoint.by_variable_name()
    return checkpoint.by_object_path() if names == "objects" else checkpoint


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Adds the options.

    Args:
        parser: Parser of a command.
    """
    add_checkpoint(parser)
    parser.add_argument(
        "pattern",
        metavar="GLOB",
        nargs="?",
        help="names that are wanted; * matches / as well, scope/ all names in it",
    )
    add_names(parser)
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


class Selected(NamedTuple):
    """What a command looks at.

    Attributes:
        checkpoint: The checkpoint, or the view of it.
        names: Names of the tensors, in their order.
        left_out: Names of slots and averages that `--no-slots` leaves out.
    """

    checkpoint: tf2flax.Checkpoint
    names: Sequence[str]
    left_out: Sequence[str]

    @property
    def tensors(self) -> Iterator[tf2flax.StoredTensor]:
        """The tensors, made one by one."""
        return (self.checkpoint[name] for name in self.names)


def select(arguments: argparse.Namespace) -> Selected:
    """Opens the checkpoint and selects tensors.

    Args:
        arguments: Parsed options of `add_selection`.

    Returns:
        What is selected.

    Raises:
        NotFoundError: The pattern matches no name.
        CheckpointError: As `tf2flax.open_checkpoint`.
    """
    checkpoint = open_named(arguments.checkpoint, arguments.names)
    names = match_names(checkpoint, arguments.pattern)
    left_out: Sequence[str] = ()
    if not arguments.slots:
        roles = checkpoint.manifest.roles()
        left_out = [name for name in names if roles.is_of_training(name)]
        of_training = frozenset(left_out)
        names = [name for name in names if name not in of_training]
    if arguments.sort == "size":
        sizes = {name: checkpoint[name].nbytes for name in names}
        names = sorted(names, key=lambda name: -sizes[name])
    return Selected(checkpoint, names, left_out)


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
    return match_among(
        checkpoint.manifest.names, pattern, f"`{checkpoint.manifest.index_path}`"
    )


def match_among(names: Sequence[str], pattern: str, place: str) -> list[str]:
    """The names that a pattern matches; see `match_names`.

    Args:
        names: Names, sorted.
        pattern: The pattern.
        place: Where they are, for the message.

    Raises:
        NotFoundError: There is none.
    """
    matching = [name for name in names if matches(name, pattern)]
    if not matching:
        raise tf2flax.NotFoundError(
            f"`{pattern}` matches none of {counted(len(names), 'tensor')} - in "
            f"{place}. {_suggest(names, pattern)}"
        )
    return matching


def matches(name: str, pattern: str) -> bool:
    """True if a glob, or a scope that ends in `/`, matches a name.

    A name matches itself, also where it would mean others as a pattern: `[x]`.
    """
    glob = f"{pattern}*" if pattern.endswith("/") else pattern
    return name == pattern or fnmatch.fnmatchcase(name, glob)


def _suggest(names: Sequence[str], pattern: str) -> str:
    """What to write instead of a pattern that matches no name."""
    scope = f"{pattern.rstrip('/')}/"
    if any(name.startswith(scope) for name in names):
        return f"It is a scope: write '{scope}'."
    from tf2flax._assignment.resolution.scopes import scopes_of  # for this alone

    wanted = pattern.replace("*", "")
    # A scope for a scope, where one is like it.
    scopes = scopes_of(names) if wanted.endswith("/") else frozenset[str]()
    close = nearest(wanted, scopes) or nearest(wanted, names)
    return f"Did you mean `{close[0]}`?" if close else "Leave it out to see all."
