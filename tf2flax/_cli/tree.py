"""`tf2flax tree`: scopes with their parameters and bytes, as `du` shows folders."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

import tf2flax
from tf2flax._base.text import align_columns, counted, format_nbytes, printable

from .documents import print_json
from .numbers import whole_number
from .selecting import add_selection, select

_EXAMPLES: Final = """\
examples:
  tf2flax tree model.ckpt-1000
  tf2flax tree model.ckpt-1000 bert/encoder/ --depth 2 --sort size
"""


@dataclasses.dataclass(slots=True)
class Scope:
    """A scope, or a tensor, with all that lies under it.

    Attributes:
        name: Its last component.
        num_tensors: Number of tensors.
        num_elements: Number of their elements.
        nbytes: Bytes of their elements.
        members: What lies directly under it, by name.
    """

    name: str
    num_tensors: int = 0
    num_elements: int = 0
    nbytes: int = 0
    members: dict[str, Scope] = dataclasses.field(default_factory=dict[str, "Scope"])

    def add(self, tensor: tf2flax.StoredTensor) -> None:
        """Counts a tensor."""
        self.num_tensors += 1
        self.num_elements += tensor.size
        self.nbytes += tensor.nbytes

    def to_dict(self, depth: int | None) -> dict[str, Any]:
        """The scope as plain values, so many levels deep."""
        return {
            "name": self.name,
            "num_tensors": self.num_tensors,
            "num_elements": self.num_elements,
            "nbytes": self.nbytes,
            "members": [
                member.to_dict(None if depth is None else depth - 1)
                for member in self.members.values()
                if depth is None or depth > 0
            ],
        }


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "tree",
        help="show scopes with their parameters and bytes",
        description="Shows scopes as `du` shows folders; reads no tensor.",
        epilog=_EXAMPLES,
    )
    add_selection(parser)
    parser.add_argument(
        "--depth", type=whole_number, metavar="N", help="levels that are shown"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Shows the tree; returns the exit code."""
    selected = select(arguments)
    root = build_tree(selected.tensors)
    if arguments.sort == "size":
        _sort(root)
    if arguments.json:
        document: dict[str, Any] = {
            "checkpoint": selected.checkpoint.prefix
        } | root.to_dict(arguments.depth)
        print_json(document)
        return 0
    rows = list(_rows(root, arguments.depth, 0))
    if sys.stdout.isatty():
        head = ("parameters", "size", "name")
        print(*align_columns([head, *rows], right={0, 1}), sep="\n")
        print(
            f"{counted(root.num_tensors, 'tensor')}, "
            f"{root.num_elements:,} parameters, {format_nbytes(root.nbytes)}"
        )
    else:
        for name, scope in _paths(root, arguments.depth, ""):
            print(f"{printable(name)}\t{scope.num_elements}\t{scope.nbytes}")
    return 0


def build_tree(tensors: Iterable[tf2flax.StoredTensor]) -> Scope:
    """Counts tensors by scope.

    Args:
        tensors: The tensors.

    Returns:
        The scope of all of them.
    """
    root = Scope("")
    for tensor in tensors:
        scope = root
        scope.add(tensor)
        for component in tensor.name.split("/"):
            scope = scope.members.setdefault(component, Scope(component))
            scope.add(tensor)
    return root


def _sort(root: Scope) -> None:
    """Puts the largest members first, at all levels."""
    pending = [root]
    while pending:
        scope = pending.pop()
        members = sorted(scope.members.items(), key=lambda item: -item[1].nbytes)
        scope.members = dict(members)
        pending += scope.members.values()


def _rows(
    scope: Scope, depth: int | None, level: int
) -> Iterator[tuple[str, str, str]]:
    """Rows of the table, in the order of the tree."""
    for path, member in _paths(scope, depth, ""):
        indent = "  " * path.rstrip("/").count("/")
        slash = "/" if member.members else ""
        name = f"{indent}{printable(member.name)}{slash}"
        yield f"{member.num_elements:,}", format_nbytes(member.nbytes), name


def _paths(scope: Scope, depth: int | None, prefix: str) -> Iterator[tuple[str, Scope]]:
    """Yields members and their paths, down to a depth."""
    pending = [(f"{prefix}{name}", member) for name, member in scope.members.items()]
    pending.reverse()
    while pending:
        path, member = pending.pop()
        if depth is not None and path.count("/") >= depth:
            continue
        yield (f"{path}/" if member.members else path), member
        below = [(f"{path}/{name}", sub) for name, sub in member.members.items()]
        pending += reversed(below)
