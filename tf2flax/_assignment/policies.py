"""What happens to leaves that cannot be filled: an error, or they are kept."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Final, Literal, cast

from tf2flax._errors import AssignmentError

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
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise AssignmentError(
            f"Option {option}: expected 'error', 'keep' or a list of (regex, policy), "
            f"got {value!r}."
        )
    rules: list[tuple[re.Pattern[str], Choice]] = []
    for pair in cast("Sequence[object]", value):
        items = (
            cast("Sequence[object]", pair) if isinstance(pair, (tuple, list)) else ()
        )
        if len(items) != 2 or not isinstance(items[0], (str, re.Pattern)):
            raise AssignmentError(
                f"Option {option}: expected pairs of a regex and a policy, got "
                f"{pair!r}."
            )
        if not isinstance(items[1], str) or items[1] not in _CHOICES:
            raise AssignmentError(
                f"Option {option}: expected 'error' or 'keep' for {items[0]!r}, "
                f"got {items[1]!r}."
            )
        try:
            pattern = re.compile(cast("str", items[0]))
        except re.error as error:
            raise AssignmentError(
                f"Option {option}: {items[0]!r} is no regular expression: {error}."
            ) from error
        rules.append((pattern, items[1]))
    return Policy(tuple(rules))
