"""Names of tensors that are nearest to one that was not found.

The search is fast enough for 100,000 names: they are ranked by the path components that
they share, and only the best are compared letter by letter.
"""

from __future__ import annotations

import collections
import difflib
import heapq
import re
from collections.abc import Collection, Iterable
from typing import Final

# Numbers in names have at most so many digits, which Python always converts; what has
# more is text. Source: `sys.int_info.str_digits_check_threshold`.
MAX_DIGITS: Final = 600
# How many names are compared letter by letter; difflib takes about 20 µs for each.
_MAX_COMPARED: Final = 200
# Below this likeness (0 to 1) a suggestion misleads more often than it helps.
_MIN_LIKENESS: Final = 0.6
_COMPONENT: Final = re.compile(r"[^/]+")


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
    candidates = _sharing_components(name, names)
    matcher = difflib.SequenceMatcher(a="", b=name, autojunk=False)
    scored: list[tuple[float, str]] = []
    for candidate in candidates:
        matcher.set_seq1(candidate)
        if candidate.casefold() == name.casefold():
            return (candidate,)
        if matcher.real_quick_ratio() >= _MIN_LIKENESS:
            ratio = matcher.ratio()
            if ratio >= _MIN_LIKENESS:
                scored.append((-ratio, candidate))
    scored.sort()
    # Names much less like it than the best one would only mislead.
    return tuple(
        candidate for ratio, candidate in scored[:count] if ratio <= scored[0][0] + 0.1
    )


def _sharing_components(name: str, names: Iterable[str]) -> list[str]:
    """The names that share most path components, the last one counting double."""
    weights = collections.Counter(_COMPONENT.findall(name.casefold()))
    last = name.casefold().rpartition("/")[2]
    length = len(name)

    def score(candidate: str) -> tuple[int, int]:
        components = _COMPONENT.findall(candidate.casefold())
        shared = sum(component in weights for component in components)
        shared += components[-1:] == [last]
        return shared, -abs(len(candidate) - length)

    return heapq.nlargest(_MAX_COMPARED, names, key=score)
