"""`tf2flax ls`: the tensors of a checkpoint, without reading any."""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import tf2flax
from tf2flax._base.names import nearest
from tf2flax._base.optimizer_names import is_slot
from tf2flax._base.text import align_columns, counted, format_nbytes, printable


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
        "NAME/adam_m, NAME_slot_vr, beta1_power, .OPTIMIZER_SLOT …; averages are no "
        "slots and stay",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Lists the tensors; returns the exit code."""
    # The collector would look for cycles among the thousands of entries that are made,
    # which have none: a fifth of the time.
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        return _list_tensors(arguments)
    finally:
        if is_collecting:
            gc.enable()


def _list_tensors(arguments: argparse.Namespace) -> int:
    checkpoint = tf2flax.open_checkpoint(arguments.checkpoint)
    tensors: Iterable[tf2flax.StoredTensor]
    tensors = _select(checkpoint, arguments.pattern)
    slots: list[tf2flax.StoredTensor] = []
    if arguments.no_slots:
        tensors = list(tensors)
        names = checkpoint.manifest
        slots = [tensor for tensor in tensors if is_slot(tensor.name, names)]
        slot_names = {tensor.name for tensor in slots}
        tensors = [tensor for tensor in tensors if tensor.name not in slot_names]
    if arguments.json:
        _print_json(checkpoint, list(tensors), slots)
    elif sys.stdout.isatty():
        _print_table(list(tensors), slots)
    else:
        # Lines are collected, and tensors are not: a quarter of the time where there
        # are many.
        lines = ["\t".join(_cells(tensor, str(tensor.nbytes))) for tensor in tensors]
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _select(
    checkpoint: tf2flax.Checkpoint, pattern: str | None
) -> Iterator[tf2flax.StoredTensor]:
    if pattern is None:
        return iter(checkpoint.values())
    # A name matches itself, also where it would mean others as a pattern: `[x]`.
    names = [
        name
        for name in checkpoint
        if name == pattern or fnmatch.fnmatchcase(name, pattern)
    ]
    if not names:
        raise tf2flax.NotFoundError(
            f"`{pattern}` matches none of {counted(len(checkpoint), 'tensor')} - in "
            f"`{checkpoint.manifest.index_path}`. {_suggest(checkpoint, pattern)}"
        )
    return (checkpoint[name] for name in names)


def _suggest(checkpoint: tf2flax.Checkpoint, pattern: str) -> str:
    """What to write instead of a pattern that matches no name."""
    scope = f"{pattern.rstrip('/')}/"
    if any(name.startswith(scope) for name in checkpoint):
        return f"It is a scope: write '{scope}*'."
    close = nearest(pattern.replace("*", ""), checkpoint.manifest.names)
    return f"Did you mean `{close[0]}`?" if close else "Leave it out to see all."


def _cells(tensor: tf2flax.StoredTensor, size: str) -> tuple[str, ...]:
    entry = tensor.entry
    spec = entry.spec
    num_slices = str(len(entry.pieces)) if entry.is_sliced else "0"
    return (
        printable(entry.name),
        spec.dtype.name,
        str(list(spec.shape)),
        size,
        num_slices,
    )


def _print_table(
    tensors: list[tf2flax.StoredTensor], slots: list[tf2flax.StoredTensor]
) -> None:
    rows: list[tuple[str, ...]] = [("name", "dtype", "shape", "size", "slices")]
    for tensor in tensors:
        *cells, num_slices = _cells(tensor, format_nbytes(tensor.nbytes))
        rows.append((*cells, "" if num_slices == "0" else num_slices))
    if not any(row[4] for row in rows[1:]):  # the column would be empty
        rows = [row[:4] for row in rows]
    print(*align_columns(rows, right={3, 4}), sep="\n")
    print(_describe_total(tensors))
    if slots:
        print(f"slots left out: {_describe_total(slots)}")


def _describe_total(tensors: list[tf2flax.StoredTensor]) -> str:
    num_elements = sum(tensor.size for tensor in tensors)
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return (
        f"{len(tensors):,} {'tensor' if len(tensors) == 1 else 'tensors'}, "
        f"{num_elements:,} {'element' if num_elements == 1 else 'elements'}, "
        f"{format_nbytes(nbytes)}"
    )


def _print_json(
    checkpoint: tf2flax.Checkpoint,
    tensors: list[tf2flax.StoredTensor],
    slots: list[tf2flax.StoredTensor],
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
        "slots_left_out": [tensor.name for tensor in slots],
    }
    print(json.dumps(document, indent=1))
