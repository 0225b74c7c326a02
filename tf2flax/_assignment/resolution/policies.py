"""Options that may differ from leaf to leaf: pairs of a regex and a choice.

`on_missing` and `on_mismatch` say what happens to leaves that cannot be filled, `dtype`
which dtype those get that can.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, cast

import numpy as np

from tf2flax._base.caller import show_value
from tf2flax._base.dtypes import DtypePolicy, kind_of, parse_dtype
from tf2flax._base.errors import AssignmentError

Choice = Literal["error", "keep"]
_CHOICES: Final = ("error", "keep")


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """Choices by the names of leaves.

    Attributes:
        rules: Patterns, and what they choose; the first that is found in a name wins.
        default: The choice where none is.
    """

    rules: tuple[tuple[re.Pattern[str], Choice], ...] = ()
    default: Choice = "error"

    def keeps(self, leaf: str) -> bool:
        """Whether a leaf is kept.

        Args:
            leaf: Its name.

        Returns:
            Whether it is; otherwise it is an error.
        """
        found = (choice for pattern, choice in self.rules if pattern.search(leaf))
        return next(found, self.default) == "keep"


# Nothing is kept that an entry reaches.
STRICT: Final = Policy()


@dataclasses.dataclass(frozen=True, slots=True)
class DtypeChoice:
    """The dtypes that leaves get, by their names.

    Attributes:
        rules: Patterns, and what they choose; the first that is found in a name wins.
            A dtype is forced on whatever leaf the name belongs to.
        default: The choice where none is. A dtype is forced on leaves of its own kind
            alone: a float dtype leaves integers (steps) and bools (masks) as they are.
    """

    rules: tuple[tuple[re.Pattern[str], DtypePolicy], ...] = ()
    default: DtypePolicy = None

    def policy_of(self, leaf: str, dtype: np.dtype) -> DtypePolicy:
        """What holds for a leaf.

        Args:
            leaf: Its name.
            dtype: Its dtype.

        Returns:
            The policy.
        """
        for pattern, policy in self.rules:
            if pattern.search(leaf):
                return policy
        default = self.default
        if isinstance(default, np.dtype) and kind_of(default) != kind_of(dtype):
            return None
        return default


def parse_dtype_choice(value: object) -> DtypeChoice:
    """Checks the option `dtype`.

    Args:
        value: None, "exact", "checkpoint", a dtype, or a sequence of `(regex, one of
            these)`.

    Returns:
        The choice.

    Raises:
        AssignmentError: It is none of these.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return DtypeChoice(default=parse_dtype(value))
    rules: list[tuple[re.Pattern[str], DtypePolicy]] = []
    for pattern, choice in _pairs("dtype", cast("Sequence[object]", value), "dtype"):
        try:
            rules.append((pattern, parse_dtype(choice)))
        except AssignmentError as error:
            raise AssignmentError(f"{error} It is for {pattern.pattern!r}.") from error
    return DtypeChoice(tuple(rules))


def parse_policy(option: str, value: object) -> Policy:
    """Checks the option `on_missing` or `on_mismatch`.

    Args:
        option: Its name, for messages.
        value: "error", "keep", or a sequence of `(regex, "error" | "keep")`.

    Returns:
        The policy.

    Raises:
        AssignmentError: It is none of these.
    """
    if isinstance(value, str) and value in _CHOICES:
        return Policy(default=value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise AssignmentError(
            f"Option {option}: expected 'error', 'keep' or a list of (regex, policy), "
            f"got {show_value(value)}."
        )
    rules: list[tuple[re.Pattern[str], Choice]] = []
    for pattern, choice in _pairs(option, cast("Sequence[object]", value), "policy"):
        if not isinstance(choice, str) or choice not in _CHOICES:
            raise AssignmentError(
                f"Option {option}: expected 'error' or 'keep' for "
                f"{pattern.pattern!r}, got {show_value(choice)}."
            )
        rules.append((pattern, choice))
    return Policy(tuple(rules))


def _pairs(
    option: str, pairs: Sequence[object], what: str
) -> Iterator[tuple[re.Pattern[str], object]]:
    """Checks pairs of a regex and something, and compiles the regexes.

    Args:
        option: Name of the option, for messages.
        pairs: What the caller gave.
        what: What stands beside each regex, for messages.

    Yields:
        The pairs.

    Raises:
        AssignmentError: Something is no pair, or no regex of text.
    """
    for pair in pairs:
        items = (
            cast("Sequence[object]", pair) if isinstance(pair, (tuple, list)) else ()
        )
        if len(items) != 2 or not _is_text_regex(items[0]):
            raise AssignmentError(
                f"Option {option}: expected pairs of a regex and a {what}, got "
                f"{show_value(cast('object', pair))}."
            )
        try:
            pattern = re.compile(cast("str", items[0]))
        except (re.error, RecursionError, OverflowError) as error:
            raise AssignmentError(
                f"Option {option}: {show_value(items[0])} is no regular "
                f"expression: {error}."
            ) from error
        yield pattern, items[1]


def _is_text_regex(value: object) -> bool:
    """Whether a value is a regex for text; names of leaves are no bytes."""
    if isinstance(value, re.Pattern):
        return isinstance(cast("Any", value).pattern, str)
    return isinstance(value, str)
