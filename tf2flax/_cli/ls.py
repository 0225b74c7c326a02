"""`tf2flax ls`: the tensors of a checkpoint, without reading any."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import tf2flax
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.memory import collection_paused
from tf2flax._base.text import counted, format_nbytes, printable

from .documents import print_json
from .selecting import add_selection, select
from .terminals import print_table

_EXAMPLES: Final = """\
examples:
  tf2flax ls model.ckpt-1000 --no-slots
  tf2flax ls gs://bucket/run/model.ckpt-1000 bert/encoder/ --sort size
  tf2flax ls saved_model/ '*kernel' --names variables --json
"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "ls",
        help="list tensors: name, dtype, shape, size, slices",
        description="Lists the tensors of a checkpoint; reads none of them. Where the "
        "output is no terminal, one line each, separated by tabs: name, dtype, shape, "
        "bytes, number of slices.",
        epilog=_EXAMPLES,
    )
    add_selection(parser)
    parser.set_defaults(run=run)


@collection_paused()
def run(arguments: argparse.Namespace) -> int:
    """Lists the tensors; returns the exit code."""
    selected = select(arguments)
    checkpoint = selected.checkpoint
    if arguments.json or sys.stdout.isatty():
        tensors = list(selected.tensors)
        left_out = [checkpoint[name] for name in selected.left_out]
        if arguments.json:
            _print_json(checkpoint, tensors, left_out)
        else:
            _print_table(tensors, left_out)
    else:
        # Lines are collected, entries are not, and no tensors are made of them: a third
        # of the time where there are many.
        entries = map(checkpoint.manifest.entry, selected.names)
        lines = ["\t".join(_cells(entry, str(entry.nbytes))) for entry in entries]
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _cells(entry: TensorEntry, size: str) -> tuple[str, ...]:
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
        *cells, num_slices = _cells(tensor.entry, format_nbytes(tensor.nbytes))
        rows.append((*cells, "" if num_slices == "0" else num_slices))
    if not any(row[4] for row in rows[1:]):  # the column would be empty
        rows = [row[:4] for row in rows]
    print_table(rows, right={3, 4})
    print(_describe_total(tensors))
    if slots:
        print(f"slots and averages left out: {_describe_total(slots)}")


def _describe_total(tensors: list[tf2flax.StoredTensor]) -> str:
    num_elements = sum(tensor.size for tensor in tensors)
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return (
        f"{counted(len(tensors), 'tensor')}, {counted(num_elements, 'element')}, "
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
    print_json(document)
