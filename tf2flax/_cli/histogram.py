"""A small histogram of the values of a tensor: counted exactly, drawn as bars of text.

Knows no checkpoint; what it counts is an array.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final, TextIO

import numpy as np

from tf2flax._base.dtypes import kind_of

_MAX_BINS: Final = 10
# How many elements are counted at once.
_CHUNK: Final = 1 << 20
# A bar in eighths of a character, and its length where there is room (characters).
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_MAX_BAR: Final = 40
_MIN_BAR: Final = 5

Bound = int | float


@dataclasses.dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie between bounds.

    Attributes:
        of: What is counted: "values", "absolute values" or "lengths".
        edges: Bounds, one more than bins. A bin holds what is not below its lower bound
            and is below its upper one; the last bin of floating-point numbers holds
            its upper bound as well. Bounds of integers are integers.
        counts: Number of values of each bin.
    """

    of: str
    edges: Sequence[Bound]
    counts: Sequence[int]

    def to_dict(self) -> dict[str, Any]:
        """The histogram as plain values, ready for `json.dumps`."""
        return dataclasses.asdict(self)


def count_values(array: np.ndarray) -> Histogram | None:
    """Counts the finite values of an array in at most ten bins.

    Args:
        array: The values; of complex numbers, absolute values are counted, and of
            strings, lengths.

    Returns:
        The histogram; None where fewer than two values are finite.

    Examples:
        >>> count_values(np.array([1, 1, 2, 4])).counts
        (2, 1, 0, 1)
    """
    of = "values"
    if array.dtype == object:
        of = "lengths"
        array = np.array([len(text) for text in array.reshape(-1).tolist()], np.int64)
    elif array.dtype.kind == "c":
        of = "absolute values"
    bounds = [
        (chunk.min(), chunk.max()) for chunk in _finite_chunks(array) if chunk.size
    ]
    if array.size < 2 or not bounds:
        return None
    lows, highs = zip(*bounds, strict=True)
    edges = _edges(min(lows).item(), max(highs).item(), is_bool=array.dtype == bool)
    # How many values lie below each inner bound: bins are the differences.
    inner = edges[1:-1]
    below, total = [0] * len(inner), 0
    for chunk in _finite_chunks(array):
        total += chunk.size
        for number, edge in enumerate(inner):
            below[number] += int(np.count_nonzero(chunk < edge))
    if total < 2:
        return None
    sums = [0, *below, total]
    counts = tuple(b - a for a, b in itertools.pairwise(sums))
    return Histogram(of, tuple(edges), counts)


def _finite_chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields elements as numbers that NumPy compares exactly, without NaN and inf."""
    flat, kind = array.reshape(-1), kind_of(array.dtype)
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        if kind == "bool":
            yield chunk.view(np.uint8)
        elif kind == "int":  # those of ml_dtypes compare, but have no largest one
            yield chunk if chunk.dtype.kind in "iu" else chunk.astype(np.int64)
        else:
            # NaNs that signal, and absolute values beyond the largest number.
            with np.errstate(invalid="ignore", over="ignore"):
                real = np.abs(chunk) if kind == "complex" else chunk
                wide = real.astype(np.float64)
            yield wide[np.isfinite(wide)]


def _edges(low: Bound, high: Bound, *, is_bool: bool) -> list[Bound]:
    """Bounds of bins of equal width; of integers, widths differ by at most 1."""
    if is_bool:
        return [0, 1, 2]
    if isinstance(low, int) and isinstance(high, int):
        span = high - low + 1
        num_bins = min(span, _MAX_BINS)
        return [low + span * i // num_bins for i in range(num_bins + 1)]
    if low == high:
        return [low, high]
    # `high - low` could overflow.
    parts = [i / _MAX_BINS for i in range(1, _MAX_BINS)]
    inner = {low * (1 - part) + high * part for part in parts}
    # Between neighbours among the numbers there are fewer bounds.
    return [low, *sorted(edge for edge in inner if low < edge < high), high]


def draw_histogram(
    histogram: Histogram, beside: Sequence[tuple[str, int]], *, width: int, ascii: bool
) -> list[str]:
    """Draws a histogram, a line for each bin.

    Args:
        histogram: The histogram.
        beside: What is counted and in no bin: a word, and its number.
        width: Columns that a line may have, besides labels and counts.
        ascii: True draws with letters that every terminal has.

    Returns:
        The lines.

    Examples:
        >>> histogram = count_values(np.array([1, 1, 2]))
        >>> draw_histogram(histogram, [("nan", 3)], width=18, ascii=True)
        ['  1  2  ##########', '  2  1  #####', 'nan  3']
    """
    labels = [*_labels(histogram), *(word for word, _ in beside)]
    counts = [*histogram.counts, *(number for _, number in beside)]
    numbers = [f"{count:,}" for count in counts]
    first, second = max(map(len, labels)), max(map(len, numbers))
    room = max(_MIN_BAR, min(_MAX_BAR, width - first - second - 4))
    largest = max(histogram.counts)
    bars = [_bar(count, largest, room, ascii=ascii) for count in histogram.counts]
    bars += [""] * len(beside)
    return [
        f"{label:>{first}}  {number:>{second}}  {bar}".rstrip()
        for label, number, bar in zip(labels, numbers, bars, strict=True)
    ]


def _bar(count: int, largest: int, room: int, *, ascii: bool) -> str:
    """A bar; what is not 0 is always seen."""
    if not count:
        return ""
    if ascii:
        return "#" * max(1, round(count / largest * room))
    eighths = max(1, round(count / largest * room * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _labels(histogram: Histogram) -> list[str]:
    """What each bin holds, in words."""
    edges = histogram.edges
    pairs = list(itertools.pairwise(edges))
    if all(isinstance(edge, int) for edge in edges):
        # The upper bound is no member.
        return [
            f"{low}" if high - low == 1 else f"{low} to {int(high) - 1}"
            for low, high in pairs
        ]
    texts: list[str] = []
    for digits in (4, 9, 17):  # 17 tell all numbers of 64 bits apart
        texts = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(texts)) == len(set(edges)):
            break
    return [
        low if low == high else f"{low} to {high}"
        for low, high in itertools.pairwise(texts)
    ]


def is_ascii_only(stream: TextIO) -> bool:
    """True if a stream, or the terminal behind it, cannot show parts of blocks."""
    try:
        _EIGHTHS.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    # The console of Linux has no parts of blocks in its font.
    return stream.isatty() and os.environ.get("TERM") in ("dumb", "linux")
