"""Names that are nearest to one that was not found; and those with a number.

The search is fast enough for 100,000 names, and for names of 10,000 letters: names are
ranked by the path components that they share, and only the best are compared letter by
letter, where they differ, as far as a budget goes.
"""

from __future__ import annotations

import bisect
import collections
import difflib
import heapq
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

# Numbers in names have at most so many digits, which Python always converts; what has
# more is text. Source: `sys.int_info.str_digits_check_threshold`.
MAX_DIGITS: Final = 600
_DIGITS: Final = re.compile(r"[0-9]+")
# How many names are compared letter by letter; difflib takes about 20 µs for each.
_MAX_COMPARED: Final = 200
# Below this likeness (0 to 1) a suggestion misleads more often than it helps.
_MIN_LIKENESS: Final = 0.6
# Pairs of letters that one search compares at most (the table that difflib would fill),
# and letters of one name at most: 250,000 pairs of the same few letters take it 50 ms.
_MAX_PAIRS: Final = 250_000
_MAX_LETTERS: Final = 400


def nearest(name: str, names: Collection[str], count: int = 3) -> tuple[str, ...]:
    """Finds the names most like one that was not found.

    Args:
        name: The name that was asked for.
        names: The names that there are.
        count: How many to return at most.

    Returns:
        Names, best first; the name without its `:0` alone, where there is such a name.

    Examples:
        >>> nearest("encodr/kernel", ["encoder/kernel", "encoder/bias", "head"])
        ('encoder/kernel',)
        >>> nearest("w:0", ["w", "w_1"])
        ('w',)
    """
    for exact in (name.removesuffix(":0"), name.strip("/"), name + "/"):
        if exact != name and exact in names:
            return (exact,)
    scored: list[tuple[float, str]] = []
    pairs = 0
    for candidate in _sharing_components(name, names):
        if candidate.casefold() == name.casefold():
            return (candidate,)
        comparison = _Comparison(candidate, name)
        if pairs + comparison.pairs > _MAX_PAIRS:
            continue  # one that differs in less may still fit
        pairs += comparison.pairs
        if (likeness := comparison.likeness()) >= _MIN_LIKENESS:
            scored.append((-likeness, candidate))
    scored.sort()
    # Names much less like it than the best one would only mislead.
    return tuple(
        candidate for ratio, candidate in scored[:count] if ratio <= scored[0][0] + 0.1
    )


def why_no_file(name: str) -> str:
    r"""Says why no file can have a name; "" where one can.

    Examples:
        >>> why_no_file("a\0b"), why_no_file("\ud800"), why_no_file("a b")
        ('it has a NUL', 'surrogates not allowed', '')
    """
    if not name:
        return "it is empty"
    if "\0" in name:
        return "it has a NUL"
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        return error.reason
    return ""


class _Comparison:
    """Two names, taken apart into what is alike at both ends and what stands between.

    encoder/layer_3/kernel      `encoder/layer_` and `/kernel` are alike,
    encoder/layer_12/kernel     `3` and `12` remain to be compared
    """

    def __init__(self, first: str, second: str) -> None:
        shorter = min(len(first), len(second))
        start = _common_length(first, second)
        end = min(_common_length(first[::-1], second[::-1]), shorter - start)
        self._total = len(first) + len(second)
        self._alike = 2 * (start + end)
        # Of long middles only the beginning is compared; the remainder is unlike.
        self._first, self._second = (
            text[start : min(len(text) - end, start + _MAX_LETTERS)]
            for text in (first, second)
        )

    @property
    def pairs(self) -> int:
        """Pairs of letters that `likeness` compares at most."""
        return len(self._first) * len(self._second)

    def likeness(self) -> float:
        """How alike both are, 0 to 1, as difflib counts it."""
        compared = len(self._first) + len(self._second)
        matcher = difflib.SequenceMatcher(
            None, self._first, self._second, autojunk=False
        )
        at_most = (self._alike + matcher.real_quick_ratio() * compared) / self._total
        if at_most < _MIN_LIKENESS:
            return at_most
        return (self._alike + matcher.ratio() * compared) / self._total


def _common_length(first: str, second: str) -> int:
    """Number of letters that two texts begin with alike."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first.startswith(second[:middle]):
            low = middle
        else:
            high = middle - 1
    return low


def _sharing_components(name: str, names: Iterable[str]) -> list[str]:
    """The names that share most path components, the last one counting double."""
    parts = name.casefold().split("/")
    wanted, last, length = collections.Counter(parts), parts[-1], len(name)

    def score(candidate: str) -> tuple[int, int]:
        components = candidate.casefold().split("/")
        shared = sum(map(wanted.__contains__, components))
        shared += components[-1] == last
        return shared, -abs(len(candidate) - length)

    return heapq.nlargest(_MAX_COMPARED, names, key=score)


def numbered_names(names: Sequence[str], prefix: str, behind: str) -> Iterator[str]:
    """Names that begin with a prefix, a number, and a text that begins with `/`.

    A stack asks for one of the thousands of tensors that each layer has, layer by
    layer. `/` comes before all digits, so that what is in between is skipped::

        layer_1/a  layer_1/b  layer_1/w  layer_1/z  layer_10/a ...
        |--- to layer_1/w --->|--- to layer_10 ---->|

    Args:
        names: Names, sorted.
        prefix: What comes before the number.
        behind: What comes behind it; begins with `/`.

    Yields:
        The names, in their order.

    Examples:
        >>> list(numbered_names(["a_1/b", "a_1/w", "a_1/w2", "a_x/w"], "a_", "/w"))
        ['a_1/w', 'a_1/w2']
    """
    i = bisect.bisect_left(names, f"{prefix}0")
    while i < len(names) and names[i].startswith(prefix):
        number = _DIGITS.match(names[i], len(prefix))
        if number is None:  # behind the last one that begins with a digit
            return
        numbered = names[i][: number.end()]
        wanted = f"{numbered}{behind}"
        begun = i
        i = bisect.bisect_left(names, wanted, i)
        while i < len(names) and names[i].startswith(wanted):
            yield names[i]
            i += 1
        # Of a name such as `layer_1x`, nothing is left to be skipped.
        i = max(begun + 1, bisect.bisect_left(names, f"{numbered}0", i))
