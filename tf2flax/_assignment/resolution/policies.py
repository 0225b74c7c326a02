"""Options that decide what a map means, checked: aliases, dtypes, what may be kept.

All but the aliases may differ from leaf to leaf: pairs of a regex and a choice.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast

import numpy as np

from tf2flax._assignment.language.aliases import FLAX_ALIASES
from tf2flax._base.caller import is_one_of, show_value, wrong_value
from tf2flax._base.dtypes import DtypePolicy, kind_of, parse_dtype
from tf2flax._base.errors import AssignmentError

T = TypeVar("T")

Choice = Literal["error", "keep"]
_CHOICES: Final = ("error", "keep")
UnusedChoice = Literal["ignore", "warn", "error"]
_UNUSED_CHOICES: Final = ("ignore", "warn", "error")
# Right values, for messages: a choice of each kind, and aliases.
_EXAMPLES: Final = {"policy": "keep", "dtype": "bfloat16"}
_ALIASES: Final = {"scale": ("gamma",)}


def _first_rule(
    rules: Sequence[tuple[re.Pattern[str], T]], name: str
) -> tuple[re.Pattern[str], T] | None:
    """The first rule whose pattern is found in a name."""
    return next((rule for rule in rules if rule[0].search(name)), None)


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """Policy for leaves that cannot be filled, by their names.

    Attributes:
        rules: Patterns and their choices; the first pattern found in a name counts.
        default: The choice for names in which no pattern is found.
        yields: True if an entry that lacks its tensor leaves the name to a weaker one,
            as where several scopes are moved into one.
    """

    rules: tuple[tuple[re.Pattern[str], Choice], ...] = ()
    default: Choice = "error"
    yields: bool = False

    def keeps(self, leaf: str) -> bool:
        """True if a leaf stays as it is; False if it is an error."""
        rule = _first_rule(self.rules, leaf)
        return (self.default if rule is None else rule[1]) == "keep"


@dataclasses.dataclass(frozen=True, slots=True)
class UnusedPolicy:
    """What happens to tensors that fill no leaf, by their names.

    Attributes:
        rules: Patterns and their choices; the first pattern found in a name counts.
        default: The choice for names in which no pattern is found.
        place: File and line of the option; "" where the call gives it.
    """

    rules: tuple[tuple[re.Pattern[str], UnusedChoice], ...] = ()
    default: UnusedChoice = "ignore"
    place: str = ""

    def choice_of(self, name: str) -> UnusedChoice:
        """The choice for a tensor."""
        rule = _first_rule(self.rules, name)
        return self.default if rule is None else rule[1]


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

    def rule_of(self, leaf: str) -> tuple[re.Pattern[str], DtypePolicy] | None:
        """The rule that counts for a leaf; None where the default does."""
        return _first_rule(self.rules, leaf)

    def policy_of(self, leaf: str, dtype: np.dtype) -> DtypePolicy:
        """The choice for a leaf of a name and a dtype."""
        if rule := self.rule_of(leaf):
            return rule[1]
        default = self.default
        if isinstance(default, np.dtype) and kind_of(default) != kind_of(dtype):
            return None
        return default


def parse_dtype_choice(option: str, value: object) -> DtypeChoice:
    """Checks the option `dtype`.

    Args:
        option: Its name, for messages.
        value: None, "exact", "checkpoint", a dtype, or a sequence of `(regex, one of
            these)`.

    Raises:
        AssignmentError: It is something else.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return DtypeChoice(default=parse_dtype(value))
    rules: list[tuple[re.Pattern[str], DtypePolicy]] = []
    for pattern, choice in _parse_pairs(option, cast("object", value), "dtype"):
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
        raise wrong_value(
            f"Option {option}: expected 'error', 'keep' or a list of (regex, policy), "
            f"got {show_value(value)}. Write",
            [("^head/", "keep")],
            " for some leaves.",
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


def parse_unused(option: str, value: object) -> UnusedPolicy:
    """Checks the option `on_unused`.

    Args:
        option: Its name, for messages.
        value: "ignore", "warn", "error", or a sequence of `(regex, one of these)`.

    Raises:
        AssignmentError: It is something else.
    """
    if is_one_of(value, _UNUSED_CHOICES):
        return UnusedPolicy(default=cast("UnusedChoice", value))
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise wrong_value(
            f"Option {option}: expected 'ignore', 'warn', 'error' or a list of (regex, "
            f"policy), got {show_value(value)}. Write",
            [("^head/", "ignore"), ("", "error")],
            " for some tensors.",
        )
    rules: list[tuple[re.Pattern[str], UnusedChoice]] = []
    for pattern, choice in _parse_pairs(option, cast("object", value), "policy"):
        if not is_one_of(choice, _UNUSED_CHOICES):
            raise AssignmentError(
                f"Option {option}: expected 'ignore', 'warn' or 'error' for "
                f"{pattern.pattern!r}, got {show_value(choice)}."
            )
        rules.append((pattern, cast("UnusedChoice", choice)))
    return UnusedPolicy(tuple(rules))


def parse_aliases(option: str, value: object) -> Mapping[str, tuple[str, ...]] | None:
    """Checks the option `aliases`.

    Args:
        option: Its name, for messages.
        value: None, or a mapping of leaf names to tuples of checkpoint names.

    Returns:
        The same as a dict of its own; None for no aliases.

    Raises:
        AssignmentError: It is neither.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise wrong_value(
            f"Option {option}: expected a mapping of leaf names to tuples of "
            f"checkpoint names, or None, got {type(value).__name__}. Write",
            _ALIASES,
            ".",
        )
    aliases: dict[str, tuple[str, ...]] = {}
    for leaf, names in cast("Mapping[object, object]", value).items():
        tensors: list[Any] = [*names] if isinstance(names, (tuple, list)) else [None]
        is_named = all(isinstance(tensor, str) for tensor in tensors)
        if not isinstance(leaf, str) or not is_named:
            raise wrong_value(
                f"Option {option}: expected a tuple of names for {show_value(leaf)}, "
                f"got {show_value(cast('object', names))}. Write",
                _ALIASES,
                ".",
            )
        aliases[leaf] = tuple(tensors)
    return aliases


# Turns what a caller gave for an option (its name, its value) into what is kept.
Check = Callable[[str, Any], object]


def _as_it_is(_option: str, value: object) -> object:
    return value


def option_field(default: object, check: Check = _as_it_is) -> Any:
    """Declares an option of `MapOptions`, or of what extends it.

    Args:
        default: Its value where the caller gives none, as callers write it.
        check: Refuses a wrong value, and turns a right one into that of the field.

    Returns:
        The field.
    """
    checked = check("", default)
    # A factory, since dataclasses take read-only mappings for mutable ones.
    return dataclasses.field(
        default_factory=itertools.repeat(checked).__next__,
        metadata={"default": default, "check": check},
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapOptions:
    """Options that decide what a map means, checked.

    Attributes:
        aliases: Leaf name -> tensor names to try within scopes; None for none.
        dtype: Which dtype a leaf gets.
        on_missing: What happens to leaves whose source is not in the checkpoint.
        on_mismatch: What happens to leaves whose source does not fit.
        on_unused: What happens to tensors that fill no leaf.
    """

    aliases: Mapping[str, tuple[str, ...]] | None = option_field(
        FLAX_ALIASES, parse_aliases
    )
    dtype: DtypeChoice = option_field(None, parse_dtype_choice)
    on_missing: Policy = option_field("error", parse_policy)
    on_mismatch: Policy = option_field("error", parse_policy)
    on_unused: UnusedPolicy = option_field("ignore", parse_unused)


def check_option(field: dataclasses.Field[Any], value: Any) -> object:
    """Checks an option that a caller gives.

    Args:
        field: The field of the option.
        value: What the caller gives, which stays as it is.

    Returns:
        The value of the field; what the caller changes later has no effect on it.

    Raises:
        AssignmentError: It is not valid.
    """
    try:
        value = _copy_containers(value)
    except RecursionError:
        raise AssignmentError(
            f"Option {field.name}: it holds itself, or is nested too deeply."
        ) from None
    return field.metadata["check"](field.name, value)


def _copy_containers(value: Any) -> Any:
    """Copies dicts and lists, and those within; everything else is as it was."""
    if type(value) is dict:
        items = cast("dict[object, object]", value).items()
        return {key: _copy_containers(member) for key, member in items}
    if type(value) is list:
        return [_copy_containers(item) for item in cast("list[object]", value)]
    return value


def _parse_pairs(
    option: str, pairs: object, choice: str
) -> Iterator[tuple[re.Pattern[str], object]]:
    """Checks pairs of a regex and a choice, and compiles the regexes.

    Args:
        option: Name of the option, for messages.
        pairs: The sequence that the caller gave.
        choice: Word for a choice in messages.

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
            raise wrong_value(
                f"Option {option}: expected pairs of a regex and a {choice}, got "
                f"{show_value(cast('object', pair))}. Write",
                [("^head/", _EXAMPLES[choice])],
                ".",
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
