"""`tf2flax show`: one tensor, where it lies and what is in it."""

from __future__ import annotations

import argparse
import math
import shlex
import shutil
import sys
from typing import Any, Final

import numpy as np

import tf2flax
from tf2flax._base.manifest import EncodedPiece, Piece
from tf2flax._base.text import counted, format_nbytes, printable

from .documents import print_json
from .histogram import Histogram, count_values, draw_histogram, is_ascii_only
from .outputs import check_output
from .selecting import add_checkpoint, add_names, open_named
from .statistics import describe_values
from .terminals import wants_bar

# The corner that is shown: rows and columns of the last two axes.
_ROWS: Final = 4
_COLUMNS: Final = 6
# How many pieces are listed on a terminal.
_MAX_PIECES: Final = 8
# How much of a string is shown (bytes).
_MAX_STRING: Final = 60
_INDENT: Final = 4
_EXAMPLES: Final = """\
examples:
  tf2flax show model.ckpt-1000 bert/pooler/dense/kernel
  tf2flax show model.ckpt-1000 bert/pooler/dense/kernel -o kernel.npy
"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "show",
        help="show one tensor: place, checksum, statistics, histogram, a corner",
        description="Reads one tensor and shows where it lies, whether its checksum "
        "fits (exit code 1 where it does not), statistics and a histogram of the "
        "finite values, and a corner of them.",
        epilog=_EXAMPLES,
    )
    add_checkpoint(parser)
    parser.add_argument("name", metavar="NAME", help="name of the tensor")
    add_names(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE.npy",
        help="also write the values as a NumPy file",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an output that exists"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Shows the tensor; returns the exit code."""
    path = check_output(
        arguments.output,
        "-o",
        "FILE.npy",
        overwrite=arguments.overwrite,
        ending=".npy",  # another may be that of the checkpoint itself
    )
    checkpoint, tensor = _find(arguments.checkpoint, arguments.name, arguments.names)
    damage = ""
    try:
        has_bar = wants_bar(tensor.nbytes)
        array = checkpoint.read([tensor.name], progress=has_bar)[tensor.name]
    except tf2flax.DamagedError as error:
        damage = str(error)
        # Fails where it is not the checksum that is wrong: there is nothing to show.
        array = tensor.read(verify=False)
    histogram = count_values(array)
    facts = _facts(tensor, array, damage)
    facts["histogram"] = histogram and histogram.to_dict()
    facts["output"] = _write(path, tensor, array, damage) if path else None
    if arguments.json:
        print_json(facts)
    else:
        _print(tensor, array, facts, histogram)
    return 1 if damage else 0


def _write(
    path: str, tensor: tf2flax.StoredTensor, array: np.ndarray, damage: str
) -> dict[str, Any]:
    """Writes the output, and says what was written."""
    if damage:
        return {"path": path, "dtype": None}
    from .npy import write_npy  # here: it takes a while

    dtype = write_npy(path, printable(tensor.name), array)
    name = f"S{dtype.itemsize}" if dtype.kind == "S" else dtype.name
    return {"path": path, "dtype": name}


def _find(
    path: str, name: str, names: str
) -> tuple[tf2flax.Checkpoint, tf2flax.StoredTensor]:
    """Looks up the tensor; says what to write on a command line where it is not there.

    Raises:
        CheckpointError: There is no such checkpoint, or no such tensor in it.
    """
    try:
        checkpoint = open_named(path, names)
    except tf2flax.CheckpointNotFoundError as error:
        if not tf2flax.checkpoint_exists(name):
            raise
        raise tf2flax.CheckpointNotFoundError(
            f"{error} The checkpoint comes first: tf2flax show {shlex.quote(name)} "
            f"{shlex.quote(path)}"
        ) from error
    try:
        return checkpoint, checkpoint[name]
    except tf2flax.TensorNotFoundError as error:
        if error.close or error.hint:
            raise
        raise tf2flax.NotFoundError(
            f"Tensor `{printable(name)}` not found - in `{error.place}`. See "
            f"`tf2flax ls {shlex.quote(path)}`; NAME is one name, and no pattern."
        ) from error


def _facts(
    tensor: tf2flax.StoredTensor, array: np.ndarray, damage: str
) -> dict[str, Any]:
    pieces = tensor.entry.pieces
    has_checksum = all(piece.has_checksum for piece in pieces)
    checksum = "ok" if has_checksum else "not stored"
    return {
        "name": tensor.name,
        "dtype": tensor.entry.spec.dtype.name,
        "shape": list(tensor.shape),
        "num_elements": tensor.size,
        "nbytes": tensor.nbytes,
        "pieces": [
            {
                "region": [
                    list(bounds)
                    for bounds in zip(piece.box.starts, piece.box.stops, strict=True)
                ],
                "place": _place(piece),
                "crc32c": None if piece.crc32c is None else f"{piece.crc32c:08x}",
            }
            for piece in pieces
        ],
        "checksum": "differs" if damage else checksum,
        "damage": damage or None,
        "statistics": describe_values(array),
        "corner": _corner(array),
    }


def _place(piece: Piece | EncodedPiece) -> str:
    """File and bytes; only the file of what its format alone can read."""
    if piece.data_file is None:
        return piece.path
    return f"{piece.path}[{piece.span.start}:{piece.span.stop}]"


def _corner(array: np.ndarray) -> Any:
    """The first rows and columns, as values for JSON."""
    if not array.size:
        return []
    corner = array[(0,) * max(0, array.ndim - 2)]
    if array.ndim >= 2:
        corner = corner[:_ROWS, :_COLUMNS]
    elif array.ndim == 1:
        corner = corner[:_COLUMNS]
    return _json_value(np.asarray(corner, array.dtype).tolist())


def _json_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_json_value(element) for element in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, bytes):
        ellipsis = "…" if len(value) > _MAX_STRING else ""
        return value[:_MAX_STRING].decode("utf-8", "backslashreplace") + ellipsis
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, (bool, int, str)):
        return value
    number = float(value)  # also of ml_dtypes
    return number if math.isfinite(number) else str(number)


def _print(
    tensor: tf2flax.StoredTensor,
    array: np.ndarray,
    facts: dict[str, Any],
    histogram: Histogram | None,
) -> None:
    print(printable(tensor.name))
    print(f"  dtype     {facts['dtype']}")
    print(f"  shape     {facts['shape']}  ({counted(tensor.size, 'element')})")
    print(f"  size      {format_nbytes(facts['nbytes'])}")
    for number, piece in enumerate(facts["pieces"][:_MAX_PIECES]):
        bounds = ", ".join(f"{start}:{stop}" for start, stop in piece["region"])
        title = "lies at" if number == 0 else ""
        box = f"[{bounds}] " if tensor.slices else ""
        print(f"  {title:9} {box}{printable(piece['place'])}")
    if len(facts["pieces"]) > _MAX_PIECES:
        print(f"            … and {len(facts['pieces']) - _MAX_PIECES} slices more")
    print(f"  checksum  {facts['checksum']}")
    if facts["damage"]:
        print(f"            {printable(facts['damage'])}")
    for key, value in facts["statistics"].items():
        print(f"  {key:9} {f'{value:.6g}' if isinstance(value, float) else value}")
    if histogram is not None:
        print(*_histogram_lines(histogram, facts["statistics"]), sep="\n")
    if array.size:
        print(*_corner_lines(array, facts["corner"]), sep="\n")
    if facts["output"]:
        print(f"  {_describe_output(facts)}")


def _histogram_lines(histogram: Histogram, statistics: dict[str, Any]) -> list[str]:
    counts = [(word, statistics.get(word, 0)) for word in ("nan", "inf")]
    lines = draw_histogram(
        histogram,
        [(word, count) for word, count in counts if count],
        width=shutil.get_terminal_size().columns - _INDENT,
        ascii=is_ascii_only(sys.stdout),
    )
    of = "" if histogram.of == "values" else f" of {histogram.of}"
    return [f"  histogram{of}", *(f"{' ' * _INDENT}{line}" for line in lines)]


def _describe_output(facts: dict[str, Any]) -> str:
    """What was written, and as what where NumPy lacks the dtype."""
    path, dtype = printable(facts["output"]["path"]), facts["output"]["dtype"]
    if dtype is None:
        return f"not written, since the checksum differs: {path}"
    is_same = dtype == facts["dtype"]
    as_ = "" if is_same else f" (as {dtype}: NumPy has no {facts['dtype']})"
    return f"written   {path}{as_}"


def _corner_lines(array: np.ndarray, corner: Any) -> list[str]:
    if array.ndim == 0:
        rows = [[corner]]
    elif array.ndim == 1:
        rows = [corner]
    else:
        rows = corner
    # Of more axes than two, the corner is that of the first matrix: `[0, 0, …]`.
    matrix = f"[{'0, ' * (array.ndim - 2)}…]" if array.ndim > 2 else ""
    has_more_columns = array.ndim > 0 and array.shape[-1] > len(rows[0])
    more = " …" if has_more_columns else ""
    lines = [f"  values    {matrix}".rstrip()]
    for row in rows:
        cells = " ".join(f"{_cell(value):>12}" for value in row)
        lines.append(f"    {cells}{more}")
    if array.ndim >= 2 and array.shape[-2] > len(rows):
        lines.append("    …")
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(value) if isinstance(value, str) else str(value)
