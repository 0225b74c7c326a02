"""Options that may differ from leaf to leaf: one choice, or pairs of regex and choice.

`on_missing` and `on_mismatch` say what happens to leaves that cannot be filled, `dtype`
which dtype the others get. Here they are checked and looked up by a leaf's name.
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
    """What happens to leaves that cannot be filled, by their names.

    Attributes:
        rules: Patterns and their choices; the first pattern found in a name counts.
        default: The choice for names in which no pattern is found.
    """

    rules: tuple[tuple[re.Pattern[str], Choice], ...] = ()
    default: Choice = "error"

    def keeps(self, leaf: str) -> bool:
        """True if a leaf stays as it is; False if it is an error."""
        choices = (choice for pattern, choice in self.rules if pattern.search(leaf))
        return next(choices, self.default) == "keep"


# All leaves that an entry reaches must be filled.
STRICT: Final = Policy()


@dataclasses.dataclass(frozen=True, slots=True)
class DtypeChoice:
    """The dtypes that leaves get, by their names.

    Attributes:
        rules: Patterns and their choices; the first pattern found in a name counts. A
            dtype is forced on leaves of any kind.
        default: The choice for names in which no pattern is found. A dtype is forced
            only on leaves of the same kind: a float dtype leaves integers (steps) and
            bools (masks) as they are.
    """

    rules: tuple[tuple[re.Pattern[str], DtypePolicy], ...] = ()
    default: DtypePolicy = None

    def policy_of(self, leaf: str, dtype: np.dtype) -> DtypePolicy:
        """The choice for a leaf of a name and a dtype."""
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

    Raises:
        AssignmentError: It is something else.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return DtypeChoice(default=parse_dtype(value))
    rules: list[tuple[re.Pattern[str], DtypePolicy]] = []
    for pattern, choice in _parse_pairs("dtype", cast("object", value), "dtype"):
        try:
            rules.append((pattern, parse_dtype(choice)))
        except AssignmentError as error:
            raise AssignmentError(
                f"{error} It was given for {pattern.pattern!r}."
            ) from error
    return DtypeChoice(tuple(rules))


def parse_policy(option: str, value: object) -> Policy:
    """Checks the option `on_missing` or `on_mismatch`.

    Args:
        option: Name of the option, for messages.
        value: "error", "keep", or a sequence of `(regex, "error" | "keep")`.

    Raises:
        AssignmentError: It is something else.
    """
    if isinstance(value, str) and value in _CHOICES:
        return Policy(default=value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise AssignmentError(
            f"Option {option}: expected 'error', 'keep' or a list of (regex, policy), "
            f"got {show_value(value)}."
        )
    rules: list[tuple[re.Pattern[str], Choice]] = []
    for pattern, choice in _parse_pairs(option, cast("object", value), "policy"):
        if not isinstance(choice, str) or choice not in _CHOICES:
            raise AssignmentError(
                f"Option {option}: expected 'error' or 'keep' for "
                f"{pattern.pattern!r}, got {show_value(choice)}."
            )
        rules.append((pattern, choice))
    return Policy(tuple(rules))


def _parse_pairs(
    option: str, pairs: object, choice: str
) -> Iterator[tuple[re.Pattern[str], object]]:
    """Checks pairs of a regex and a choice, and compiles the regexes.

    Args:
        option: Name of the option, for messages.
        pairs: The sequence that the caller gave.
        choice: What a choice is called in messages.

    Yields:
        Compiled regexes and choices, which are not checked yet.

    Raises:
        AssignmentError: A member is not a pair, or its regex is not valid.
    """
    for pair in cast("Sequence[object]", pairs):
        items = (
            cast("Sequence[object]", pair) if isinstance(pair, (tuple, list)) else ()
        )
        if len(items) != 2 or not _is_text_regex(items[0]):
            raise AssignmentError(
                f"Option {option}: expected pairs of a regex and a {choice}, got "
                f"{show_value(cast('object', pair))}."
            )
        try:
            pattern = re.compile(cast("str", items[0]))
        except (re.error, RecursionError, OverflowError) as error:
            raise AssignmentError(
                f"Option {option}: {show_value(items[0])} is not a valid regular "
                f"expression: {error}."
            ) from error
        yield pattern, items[1]


def _is_text_regex(value: object) -> bool:
    """True for a regex of text; a regex of bytes cannot match names of leaves."""
    if isinstance(value, re.Pattern):
        return isinstance(cast("Any", value).pattern, str)
    return isinstance(value, str)
