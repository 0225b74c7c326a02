"""`tf2flax ls`: what a checkpoint holds."""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tf2flax._assignment.plans.plan import is_slot
from tf2flax._base.errors import NotFoundError
from tf2flax._base.names import nearest
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.opening import open_checkpoint
from tf2flax._checkpoint.stored_tensor import StoredTensor

from .table import aligned, human, printable


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "ls",
        help="list tensors: name, dtype, shape, size, slices",
        description="Lists the tensors of a checkpoint; reads none of them. Where the "
        "output is no terminal, one line each, separated by tabs: name, dtype, shape, "
        "bytes, number of slices.",
    )
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="prefix, directory, file or URL"
    )
    parser.add_argument(
        "pattern", metavar="GLOB", nargs="?", help="names to list; * matches / as well"
    )
    parser.add_argument(
        "--no-slots",
        action="store_true",
        help="leave out what optimizers keep of other tensors: NAME/Adam_1, "
        "NAME/adam_m, NAME_slot_vr, beta1_power, .OPTIMIZER_SLOT …",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Lists; returns the exit code."""
    # Entries by the thousand are no cycles: looking for some takes a fifth of the time.
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        return _list(arguments)
    finally:
        if is_collecting:
            gc.enable()


def _list(arguments: argparse.Namespace) -> int:
    checkpoint = open_checkpoint(arguments.checkpoint)
    tensors: Iterable[StoredTensor] = _chosen(checkpoint, arguments.pattern)
    hidden: list[StoredTensor] = []
    if arguments.no_slots:
        manifest = checkpoint.manifest
        tensors = list(tensors)
        hidden = [tensor for tensor in tensors if is_slot(tensor.name, manifest)]
        names = {tensor.name for tensor in hidden}
        tensors = [tensor for tensor in tensors if tensor.name not in names]
    if arguments.json:
        _print_json(checkpoint, list(tensors), hidden)
    elif sys.stdout.isatty():
        _print_table(list(tensors), hidden)
    else:
        # Lines are kept, and tensors are not: a quarter of the time of a large one.
        lines = ["\t".join(_row(tensor, str(tensor.nbytes))) for tensor in tensors]
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _chosen(checkpoint: Checkpoint, pattern: str | None) -> Iterator[StoredTensor]:
    if pattern is None:
        return iter(checkpoint.values())
    names = [name for name in checkpoint if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        close = nearest(pattern.replace("*", ""), checkpoint.manifest.names)
        fix = f"Did you mean `{close[0]}`?" if close else "Leave it out to see all."
        raise NotFoundError(
            f"`{pattern}` matches none of {len(checkpoint)} tensors - in "
            f"`{checkpoint.manifest.index_path}`. {fix}"
        )
    return (checkpoint[name] for name in names)


def _row(tensor: StoredTensor, size: str) -> tuple[str, str, str, str, str]:
    entry = tensor.entry
    spec = entry.spec
    slices = str(len(entry.pieces)) if entry.is_sliced else "0"
    return printable(entry.name), spec.dtype.name, str(list(spec.shape)), size, slices


def _print_table(tensors: list[StoredTensor], hidden: list[StoredTensor]) -> None:
    header = ("name", "dtype", "shape", "size", "slices")
    rows = [_row(tensor, human(tensor.nbytes)) for tensor in tensors]
    rows = [(*row[:4], "" if row[4] == "0" else row[4]) for row in rows]
    if any(row[4] for row in rows):
        lines = aligned(header, rows, right=frozenset({3, 4}))
    else:
        lines = aligned(header[:4], [row[:4] for row in rows], right=frozenset({3}))
    print(*lines, sep="\n")
    print(_total(tensors))
    if hidden:
        print(f"slots left out: {_total(hidden)}")


def _total(tensors: list[StoredTensor]) -> str:
    elements = sum(tensor.size for tensor in tensors)
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return f"{len(tensors):,} tensors, {elements:,} elements, {human(nbytes)}"


def _print_json(
    checkpoint: Checkpoint, tensors: list[StoredTensor], hidden: list[StoredTensor]
) -> None:
    document = {
        "checkpoint": checkpoint.prefix,
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.entry.spec.dtype.name,
                "shape": list(tensor.shape),
                "nbytes": tensor.nbytes,
                "slices": [
                    [[axis.start, axis.stop] for axis in box] for box in tensor.slices
                ],
            }
            for tensor in tensors
        ],
        "num_tensors": len(tensors),
        "num_elements": sum(tensor.size for tensor in tensors),
        "nbytes": sum(tensor.nbytes for tensor in tensors),
        "slots_left_out": [tensor.name for tensor in hidden],
    }
    print(json.dumps(document, indent=1))
