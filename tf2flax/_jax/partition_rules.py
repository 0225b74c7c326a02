"""Shardings by rule: `partition_rules` and `from_partitions`, values for `sharding=`.

A rule sees a leaf by its names, shape, dtype and sources; no mesh, and no device.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from jax.sharding import PartitionSpec

from tf2flax._base.caller import members, show_value
from tf2flax._base.errors import AssignmentError

from .meshes import show_spec
from .sharding_option import ShardedLeaf


class PartitionRules:
    """Shardings by rule; made by `partition_rules`."""

    __slots__ = ("rules",)
    rules: tuple[tuple[re.Pattern[str], PartitionSpec], ...]

    def __init__(
        self, rules: tuple[tuple[re.Pattern[str], PartitionSpec], ...]
    ) -> None:
        """Wraps rules; made by `partition_rules`, not by users."""
        self.rules = rules

    def match(self, names: Sequence[str]) -> int | None:
        """Finds the number of the first rule that matches a leaf, None if none does."""
        numbers = (
            i
            for i, (regex, _) in enumerate(self.rules)
            if any(regex.search(name) for name in names)
        )
        return next(numbers, None)

    def __call__(self, leaf: ShardedLeaf) -> PartitionSpec:
        """The spec of a leaf; replicated where no rule matches."""
        number = self.match(leaf.names)
        return PartitionSpec() if number is None else self.rules[number][1]

    def __repr__(self) -> str:
        """As it is written."""
        pairs = (f"({regex.pattern!r}, {show_spec(p)})" for regex, p in self.rules)
        return f"partition_rules([{', '.join(pairs)}])"


def partition_rules(rules: Iterable[tuple[str, PartitionSpec]]) -> PartitionRules:
    """Shards leaves by rule: a value for the option `sharding`.

    A leaf that no rule matches is replicated, and the plan says so; so it does of rules
    that match no leaf.

    Args:
        rules: Pairs of a regex, searched in the leaf's name, and the PartitionSpec of
            the leaves that it matches; the first that matches counts.

    Returns:
        A function of leaves.

    Raises:
        AssignmentError: They are not such pairs, or a regex is not valid.

    Examples:
        >>> import tf2flax
        >>> from jax.sharding import PartitionSpec as P
        >>> tf2flax.partition_rules([("kernel$", P(None, "model")), ("", P())])
        partition_rules([('kernel$', P(None, 'model')), ('', P())])
    """
    given: Any = rules
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise AssignmentError(
            "partition_rules: expected pairs of a regex and a PartitionSpec, got "
            f"{type(given).__name__}.{_suggest_rules(given)}"
        )
    parsed: list[tuple[re.Pattern[str], PartitionSpec]] = []
    pair: Any
    for number, pair in enumerate(members("partition_rules", given), start=1):
        items: Any = pair if isinstance(pair, (tuple, list)) else ()
        if (
            len(items) != 2
            or not _is_regex(items[0])
            or not isinstance(items[1], PartitionSpec)
        ):
            raise AssignmentError(
                f"partition_rules: expected pairs of a regex and a PartitionSpec, got "
                f"{show_value(pair)} as number {number}.{_RULES}"
            )
        try:
            parsed.append((re.compile(items[0]), items[1]))
        except (re.error, OverflowError, RecursionError) as error:
            raise AssignmentError(
                f"partition_rules: {show_value(items[0])} is not a valid regular "
                f"expression: {error}."
            ) from error
    return PartitionRules(tuple(parsed))


_RULES: Final = ' Write [("kernel$", PartitionSpec(None, "model")), ...].'


def _suggest_rules(value: object) -> str:
    """What to write instead of something that is no rules; begins with a space."""
    if isinstance(value, ShardedLeaf):  # the function was given, and not called
        return " Write sharding=tf2flax.partition_rules([(regex, spec), ...])."
    return _RULES


def _suggest_axis(value: object) -> str:
    """What to write instead of something that is no axis; begins with a space."""
    if isinstance(value, ShardedLeaf):
        return ' Write sharding=tf2flax.from_partitions("model").'
    if isinstance(value, list):
        return f" Several axes are a tuple: {tuple(value)!r}."
    return ' Write tf2flax.from_partitions("model"), and give the mesh as option mesh.'


def _is_regex(value: object) -> bool:
    """True for text, and for a compiled pattern of text."""
    is_compiled = isinstance(value, re.Pattern) and isinstance(value.pattern, str)
    return isinstance(value, str) or is_compiled


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionedAxes:
    """Shardings after the partitions in the checkpoint; made by `from_partitions`."""

    axis: str | tuple[str, ...]

    def __call__(self, leaf: ShardedLeaf) -> PartitionSpec | None:
        """The spec of a leaf; None where its tensors are not partitioned."""
        if leaf.partitioned_axis is None:
            return None
        return PartitionSpec(*[None] * leaf.partitioned_axis, self.axis)


def from_partitions(axis: str | tuple[str, ...]) -> PartitionedAxes:
    """Shards leaves as their variables were partitioned: a value for `sharding`.

    A leaf that a partitioned variable fills is sharded along the partitioned dimension,
    into as many shards as the mesh has, however many partitions were saved. About other
    leaves it has no opinion.

    Args:
        axis: The mesh axis to shard on, or several.

    Returns:
        A function of leaves.

    Raises:
        AssignmentError: It is not a name, or not several.

    Examples:
        >>> import tf2flax
        >>> tf2flax.from_partitions("model")
        PartitionedAxes(axis='model')
    """
    names: tuple[Any, ...] = axis if isinstance(axis, tuple) else (axis,)
    if not names or not all(isinstance(name, str) for name in names):
        raise AssignmentError(
            f"from_partitions: expected the name of a mesh axis, got "
            f"{show_value(axis)}.{_suggest_axis(axis)}"
        )
    return PartitionedAxes(axis)
