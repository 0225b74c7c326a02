"""`tf2flax convert`: a checkpoint in another format, or TensorFlow's own, changed."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import tf2flax

from .documents import print_json
from .numbers import positive_number
from .outputs import check_folder
from .selecting import (
    add_checkpoint,
    add_names,
    open_named,
    say_unlisted,
    show_named,
)
from .targets import add_target, load_target
from .wording import in_options

_EXAMPLES: Final = """\
examples:
  tf2flax convert model.ckpt-1000 model.safetensors
  tf2flax convert model.ckpt-1000 orbax/ --format orbax --no-slots
  tf2flax convert model.ckpt-1000 small.ckpt --format tensorbundle --dtype bfloat16
  tf2flax convert model.ckpt-1000 model.npz --map names.toml
  tf2flax convert saved_model/ dense.safetensors --names variables
  tf2flax convert model.ckpt-1000 flax/ --format orbax --map bert.toml \\
      --target model:make_params
"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "convert",
        help="write safetensors, Orbax, npz or a changed checkpoint",
        description="Writes a checkpoint in another format. The output appears once it "
        "is whole.",
        epilog=_EXAMPLES,
    )
    add_checkpoint(parser)
    parser.add_argument(
        "out", metavar="OUT", help="file, directory (orbax) or prefix (tensorbundle)"
    )
    parser.add_argument(
        "--format",
        choices=("orbax", "safetensors", "tensorbundle", "npz"),
        help="the format; without it, the ending of OUT says it",
    )
    parser.add_argument(
        "--map", metavar="FILE", help="map file: what is written, under which names"
    )
    add_target(parser, required=False)
    add_names(parser)
    _add_options(parser)
    parser.set_defaults(run=run)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype", help="dtype of the tensors of its kind: float16, of floats"
    )
    parser.add_argument(
        "--data-files",
        type=positive_number,
        default=1,
        metavar="N",
        help="of a tensorbundle",
    )
    parser.add_argument(
        "--slots",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether optimizer slots and moving averages are written",
    )
    parser.add_argument(
        "--flat", action="store_true", help="orbax: keep names whole, do not nest them"
    )
    parser.add_argument(
        "--by-reference",
        nargs="?",
        const=True,
        default=False,
        choices=("hardlink", "symlink", "beside"),
        metavar="WAY",
        help="orbax: refer to the bytes of TensorFlow's files instead of copying them "
        "(hardlink, symlink or beside)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an output that exists"
    )
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether checksums are compared",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Converts the checkpoint; returns the exit code."""
    check_folder(arguments.out)
    if arguments.target:
        report = _convert_tree(arguments)
        _print(report, as_json=arguments.json)
        return 0
    assignment_map = tf2flax.load_map(arguments.map) if arguments.map else None
    report = tf2flax.convert(
        _open_whole(arguments) if assignment_map is None else _open(arguments),
        arguments.out,
        format=arguments.format,
        assignment_map=assignment_map,
        dtype=arguments.dtype,
        data_files=arguments.data_files,
        slots=arguments.slots,
        flat=arguments.flat,
        overwrite=arguments.overwrite,
        verify=arguments.verify,
        by_reference=arguments.by_reference,
        progress=sys.stderr.isatty(),
    )
    _print(report, as_json=arguments.json)
    return 0


def _open(arguments: argparse.Namespace) -> tf2flax.Checkpoint:
    """The checkpoint; warns of what its names leave out, which no map can take."""
    return open_named(arguments.checkpoint, arguments.names)


def _open_whole(arguments: argparse.Namespace) -> tf2flax.Checkpoint:
    """The checkpoint, where its names leave out nothing that would be written.

    Raises:
        UnsupportedError: They leave something out.
    """
    from tf2flax._export.selection import hidden_by_view  # here: it takes a while

    stored = tf2flax.open_checkpoint(arguments.checkpoint)
    checkpoint = show_named(stored, arguments.names)
    unlisted = hidden_by_view(checkpoint.manifest, has_slots=arguments.slots)
    if unlisted:
        has_paths = arguments.names == "variables" and stored.manifest.has_object_graph
        others = " or --names objects" if has_paths else ""
        sentence = say_unlisted(checkpoint, arguments.names, unlisted)
        raise tf2flax.UnsupportedError(
            f"{sentence} Nothing is written. Give --names stored{others}, or say with "
            "--map what is wanted."
        )
    return checkpoint


def _print(report: tf2flax.ConversionReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report.to_dict())
    else:
        print(in_options(str(report), {"names": ["--names"]}))


def _convert_tree(arguments: argparse.Namespace) -> tf2flax.ConversionReport:
    """Writes the tree of a target, with the leaves that the map fills."""
    if not arguments.map:
        raise tf2flax.AssignmentError(
            "--target: what fills it is said by a map. Give --map FILE too."
        )
    from tf2flax._export.trees import convert_tree

    # The map first: a mistake in it needs neither the checkpoint nor the target.
    assignment_map = tf2flax.load_map(arguments.map)
    return convert_tree(
        _open(arguments),
        arguments.out,
        assignment_map,
        load_target(arguments.target),
        format=arguments.format,
        dtype=arguments.dtype,
        options=(arguments.data_files, arguments.flat, arguments.by_reference),
        overwrite=arguments.overwrite,
        verify=arguments.verify,
        progress=sys.stderr.isatty(),
    )
