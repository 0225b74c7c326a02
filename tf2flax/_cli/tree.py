"""`tf2flax tree`: scopes with their parameters and bytes, as `du` shows folders.

Parameters are what a model has: elements of its weights. What training adds (slots,
averages, an optimizer's own numbers) is counted apart; counters, metrics, seeds and
strings are neither. Bytes are those of all.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

import tf2flax
from tf2flax._base.dtypes import kind_of
from tf2flax._base.roles import Roles
from tf2flax._base.text import align_columns, counted, format_nbytes, printable

from .documents import print_json
from .numbers import whole_number
from .selecting import Selected, add_selection, select

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
        num_parameters: Number of those of the model's weights.
        num_slot_elements: Number of those of slots and averages.
        nbytes: Bytes of their elements.
        members: What lies directly under it, by name.
    """

    name: str
    num_tensors: int = 0
    num_elements: int = 0
    num_parameters: int = 0
    num_slot_elements: int = 0
    nbytes: int = 0
    members: dict[str, Scope] = dataclasses.field(default_factory=dict[str, "Scope"])

    def add(self, tensor: tf2flax.StoredTensor, kind: str) -> None:
        """Counts a tensor of a kind of `roles`."""
        self.num_tensors += 1
        self.num_elements += tensor.size
        self.nbytes += tensor.nbytes
        if kind in ("slot", "average", "optimizer"):
            self.num_slot_elements += tensor.size
        elif kind == "variable" and _holds_weights(tensor):
            self.num_parameters += tensor.size

    def to_dict(self, depth: int | None) -> dict[str, Any]:
        """The scope as plain values, so many levels deep."""
        return {
            "name": self.name,
            "num_tensors": self.num_tensors,
            "num_elements": self.num_elements,
            "num_parameters": self.num_parameters,
            "num_slot_elements": self.num_slot_elements,
            "nbytes": self.nbytes,
            "members": [
                member.to_dict(None if depth is None else depth - 1)
                for member in self.members.values()
                if depth is None or depth > 0
            ],
        }


def _holds_weights(tensor: tf2flax.StoredTensor) -> bool:
    """True for variables of a model: no strings, and no whole numbers that count."""
    dtype = tensor.entry.spec.dtype
    if dtype.is_string:
        return False
    is_counting = dtype.is_readable and kind_of(dtype.numpy) in ("int", "bool")
    return not (is_counting and tensor.shape == ())


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "tree",
        help="show scopes with their parameters and bytes",
        description="Shows scopes as `du` shows folders; reads no tensor. Parameters "
        "are those of the model; elements of slots and averages are counted apart, "
        "counters and metrics not at all. "
        "Where the output is no terminal, one line each, separated by tabs: name, "
        "parameters, elements of slots and averages, bytes.",
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
    root = build_tree(selected.tensors, selected.checkpoint.manifest.roles())
    if arguments.sort == "size":
        _sort(root)
    if arguments.json:
        document: dict[str, Any] = {
            "checkpoint": selected.checkpoint.prefix
        } | root.to_dict(arguments.depth)
        print_json(document)
    elif sys.stdout.isatty():
        _print_table(root, arguments.depth, selected)
    else:
        for name, scope in _paths(root, arguments.depth, ""):
            counts = (scope.num_parameters, scope.num_slot_elements, scope.nbytes)
            print(printable(name), *counts, sep="\t")
    return 0


def _print_table(root: Scope, depth: int | None, selected: Selected) -> None:
    rows = [("parameters", "slots", "size", "name"), *_rows(root, depth)]
    if not root.num_slot_elements:  # the column would be empty
        rows = [(row[0], *row[2:]) for row in rows]
    print(*align_columns(rows, right=range(len(rows[0]) - 1)), sep="\n")
    slots = ""
    if root.num_slot_elements:
        slots = f"slots and averages {root.num_slot_elements:,} elements, "
    print(
        f"{counted(root.num_tensors, 'tensor')}, {root.num_parameters:,} parameters, "
        f"{slots}{format_nbytes(root.nbytes)}"
    )
    if selected.left_out:
        number = counted(len(selected.left_out), "tensor")
        print(f"slots and averages left out: {number}")


def build_tree(tensors: Iterable[tf2flax.StoredTensor], roles: Roles) -> Scope:
    """Counts tensors by scope.

    Args:
        tensors: The tensors.
        roles: What they are to a training.

    Returns:
        The scope of all of them.
    """
    root = Scope("")
    for tensor in tensors:
        kind = roles.of(tensor.name).kind
        scope = root
        scope.add(tensor, kind)
        for component in tensor.name.split("/"):
            scope = scope.members.setdefault(component, Scope(component))
            scope.add(tensor, kind)
    return root


def _sort(root: Scope) -> None:
    """Puts the largest members first, at all levels."""
    pending = [root]
    while pending:
        scope = pending.pop()
        members = sorted(scope.members.items(), key=lambda item: -item[1].nbytes)
        scope.members = dict(members)
        pending += scope.members.values()


def _rows(root: Scope, depth: int | None) -> Iterator[tuple[str, str, str, str]]:
    """Rows of the table, in the order of the tree."""
    for path, scope in _paths(root, depth, ""):
        indent = "  " * path.rstrip("/").count("/")
        slash = "/" if scope.members else ""
        yield (
            f"{scope.num_parameters:,}",
            f"{scope.num_slot_elements:,}" if scope.num_slot_elements else "",
            format_nbytes(scope.nbytes),
            f"{indent}{printable(scope.name)}{slash}",
        )


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
