"""`tf2flax show`: one tensor, where it lies and what is in it."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any, Final

import numpy as np

from tf2flax._base.errors import DamagedError
from tf2flax._base.manifest import EncodedPiece, Piece
from tf2flax._checkpoint.opening import open_checkpoint
from tf2flax._checkpoint.stored_tensor import StoredTensor
from tf2flax._reading.whole import check_readable

from .table import human, printable

# How much of a tensor is turned into float64 at once (elements).
_CHUNK: Final = 1 << 20
# The corner that is shown: rows and columns of the last two axes.
_ROWS: Final = 4
_COLUMNS: Final = 6
# How many pieces are listed on a terminal.
_MAX_PIECES: Final = 8
# How much of a string is shown (bytes).
_MAX_STRING: Final = 60


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "show",
        help="show one tensor: place, checksum, statistics, a corner of the values",
        description="Reads one tensor and shows where it lies, whether its checksum "
        "fits (exit code 1 where it does not), statistics of the finite values, and a "
        "corner of them.",
    )
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="prefix, directory, file or URL"
    )
    parser.add_argument("name", metavar="NAME", help="name of the tensor")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Shows; returns the exit code."""
    tensor = open_checkpoint(arguments.checkpoint)[arguments.name]
    check_readable(tensor.entry)
    damage = ""
    try:
        array = tensor.read()
    except DamagedError as error:
        damage = str(error)
        array = tensor.read(verify=False)  # fails where there is nothing to show
    facts = _facts(tensor, array, damage)
    if arguments.json:
        print(json.dumps(facts, indent=1))
    else:
        _print(tensor, array, facts)
    return 1 if damage else 0


def _facts(tensor: StoredTensor, array: np.ndarray, damage: str) -> dict[str, Any]:
    pieces = tensor.entry.pieces
    has_checksum = all(piece.has_checksum for piece in pieces)
    state = "differs" if damage else ("ok" if has_checksum else "not stored")
    return {
        "name": tensor.name,
        "dtype": tensor.entry.spec.dtype.name,
        "shape": list(tensor.shape),
        "num_elements": tensor.size,
        "nbytes": tensor.nbytes,
        "pieces": [
            {
                "region": [
                    [start, stop]
                    for start, stop in zip(
                        piece.box.starts, piece.box.stops, strict=True
                    )
                ],
                "place": _place(piece),
                "crc32c": None if piece.crc32c is None else f"{piece.crc32c:08x}",
            }
            for piece in pieces
        ],
        "checksum": state,
        "damage": damage or None,
        "statistics": _statistics(array),
        "corner": _corner(array),
    }


def _place(piece: Piece | EncodedPiece) -> str:
    if piece.data_file is not None:
        return f"{piece.path}[{piece.span.start}:{piece.span.stop}]"
    return piece.path


def _statistics(array: np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation, least and greatest of the finite values, and counts."""
    flat = array.reshape(-1)
    if array.dtype == object:
        lengths = [len(element) for element in flat.tolist()]
        if not lengths:
            return {}
        return {"shortest": min(lengths), "longest": max(lengths)}
    count, nans, infs, total, squares = 0, 0, 0, 0.0, 0.0
    low, high = math.inf, -math.inf
    shift: float | None = None  # keeps the squares of what lies far from 0 exact
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        values = np.abs(part) if part.dtype.kind == "c" else part
        values = values.astype(np.float64)
        nans += int(np.isnan(values).sum())
        infs += int(np.isinf(values).sum())
        values = values[np.isfinite(values)]
        if values.size:
            shift = float(values[0]) if shift is None else shift
            count += values.size
            with np.errstate(over="ignore", invalid="ignore"):
                total += float((values - shift).sum())
                squares += float(((values - shift) ** 2).sum())
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    found: dict[str, Any] = {"nan": nans, "inf": infs}
    if shift is not None:
        mean = total / count
        variance = squares / count - mean * mean
        found |= {
            "mean": _json_float(shift + mean),
            "std": _json_float(math.sqrt(abs(variance))),
            "min": low,
            "max": high,
        }
        if array.dtype.kind == "c":
            found["of"] = "absolute values"
    return found


def _json_float(value: float) -> float | None:
    """JSON knows no infinities, which squares of large values may become."""
    return value if math.isfinite(value) else None


def _corner(array: np.ndarray) -> Any:
    """The first rows and columns, as plain values."""
    if not array.size:
        return []
    corner = array[(0,) * max(0, array.ndim - 2)]
    if array.ndim >= 2:
        corner = corner[:_ROWS, :_COLUMNS]
    elif array.ndim == 1:
        corner = corner[:_COLUMNS]
    return _plain(np.asarray(corner, array.dtype).tolist())


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, bytes):
        cut = "…" if len(value) > _MAX_STRING else ""
        return value[:_MAX_STRING].decode("utf-8", "backslashreplace") + cut
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _print(tensor: StoredTensor, array: np.ndarray, facts: dict[str, Any]) -> None:
    print(printable(tensor.name))
    print(f"  dtype     {facts['dtype']}")
    print(f"  shape     {facts['shape']}  ({facts['num_elements']:,} elements)")
    print(f"  size      {human(facts['nbytes'])}")
    for number, piece in enumerate(facts["pieces"][:_MAX_PIECES]):
        box = ", ".join(f"{start}:{stop}" for start, stop in piece["region"])
        title = "lies at" if number == 0 else ""
        what = f"[{box}] " if tensor.slices else ""
        print(f"  {title:9} {what}{piece['place']}")
    if len(facts["pieces"]) > _MAX_PIECES:
        print(f"            … and {len(facts['pieces']) - _MAX_PIECES} slices more")
    print(f"  checksum  {facts['checksum']}")
    if facts["damage"]:
        print(f"            {facts['damage']}")
    for key, value in facts["statistics"].items():
        shown = f"{value:.6g}" if isinstance(value, float) else value
        print(f"  {key:9} {shown}")
    if array.size:
        _print_corner(array, facts["corner"])


def _print_corner(array: np.ndarray, corner: Any) -> None:
    rows: list[list[Any]] = (
        corner if array.ndim >= 2 else [corner if array.ndim else [corner]]
    )
    where = "0, " * (array.ndim - 2)
    print(f"  values    {f'[{where}…]' if where else ''}".rstrip())
    for row in rows:
        cells = [_cell(one) for one in row]
        more = " …" if array.ndim and array.shape[-1] > len(row) else ""
        print("    " + " ".join(f"{cell:>12}" for cell in cells) + more)
    if array.ndim >= 2 and array.shape[-2] > len(rows):
        print("    …")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(value) if isinstance(value, str) else str(value)
