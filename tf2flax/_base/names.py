"""Names as text: the nearest to one that was not found, lists, numbers and marks.

Fast enough for 100,000 names: names are ranked by the path components they share, and
only the best are compared letter by letter.
"""

from __future__ import annotations

import collections
import difflib
import heapq
import re
from collections.abc import Collection, Container, Iterable, Sequence
from typing import Final

# Numbers in names have at most so many digits, which Python always converts; what has
# more is text. Source: `sys.int_info.str_digits_check_threshold`.
MAX_DIGITS: Final = 600
# Keys of TF2's checkpoints: how that of a variable's value ends, and what stands
# between the paths of a variable and of its slot.
# Source: tensorflow/python/checkpoint/trackable_utils.py.
VARIABLE_SUFFIX: Final = "/.ATTRIBUTES/VARIABLE_VALUE"
SLOT_MARKER: Final = "/.OPTIMIZER_SLOT/"
# How many names are compared letter by letter; difflib takes about 20 µs for each.
_MAX_COMPARED: Final = 200
# Below this likeness (0 to 1) a suggestion misleads more often than it helps.
_MIN_LIKENESS: Final = 0.6
_COMPONENT: Final = re.compile(r"[^/]+")
# Where a `tf.train.Checkpoint` has the variables of a Keras 3 optimizer, slots as well;
# the optimizer is an attribute of any name.
_OPTIMIZER_LIST: Final = re.compile(
    rf"(?P<optimizer>(.*/)?)_variables/[0-9]+{re.escape(VARIABLE_SUFFIX)}"
)


def listed(names: Sequence[str], count: int = 5) -> str:
    """Lists names for a message, of many the first ones.

    Args:
        names: The names.
        count: How many to show at most.

    Returns:
        Text.

    Examples:
        >>> listed(["a", "b", "c"], count=2)
        '`a`, `b` and 1 more'
    """
    first = ", ".join(f"`{name}`" for name in names[:count])
    hidden = len(names) - count
    return f"{first} and {hidden} more" if hidden > 0 else first


def nearest(name: str, names: Collection[str], count: int = 3) -> tuple[str, ...]:
    """Finds the names most like one that was not found.

    Args:
        name: What was asked for.
        names: What is there.
        count: How many to name at most.

    Returns:
        Names, best first; the name without its `:0` alone, where that is there.

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
    # Names much less like it than the best are noise.
    return tuple(n for ratio, n in scored[:count] if ratio <= scored[0][0] + 0.1)


def _sharing_components(name: str, names: Iterable[str]) -> list[str]:
    """The names that share most path components, the last one counting double."""
    weights = collections.Counter(_COMPONENT.findall(name.casefold()))
    last = name.casefold().rpartition("/")[2]
    length = len(name)

    def score(candidate: str) -> tuple[int, int]:
        parts = _COMPONENT.findall(candidate.casefold())
        shared = sum(part in weights for part in parts) + (parts[-1:] == [last])
        return shared, -abs(len(candidate) - length)

    return heapq.nlargest(_MAX_COMPARED, names, key=score)


def is_of_optimizer_list(name: str, stored: Container[str]) -> bool:
    """Tells whether a tensor is in the list of variables of a Keras 3 optimizer.

    Metrics have such a list, too, but count no iterations.

    Args:
        name: Stored name of the tensor.
        stored: All names.

    Returns:
        Whether it is.
    """
    match = _OPTIMIZER_LIST.fullmatch(name)
    return match is not None and (
        f"{match['optimizer']}_iterations{VARIABLE_SUFFIX}" in stored
    )
