"""Checks of the options of a plan that say nothing about names, and need no JAX.

Map files may give them too, and are checked when they are loaded.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# What callers give has any type.

from __future__ import annotations

from typing import Any

from tf2flax._base.caller import is_one_of, is_whole_number, show_value, wrong_value
from tf2flax._base.errors import AssignmentError


def check_strategy(option: str, strategy: object) -> object:
    """Refuses what is not the name of a strategy.

    Args:
        option: Name of the option, for the message.
        strategy: What the caller gave.

    Returns:
        The same.

    Raises:
        AssignmentError: It is none.
    """
    if not is_one_of(strategy, ("auto", "local", "read-once")):
        raise AssignmentError(
            f"Option {option}: expected 'auto', 'local' or 'read-once', got "
            f"{show_value(strategy)}."
        )
    return strategy


def check_uneven(option: str, policy: object) -> object:
    """Refuses what is not a policy for uneven dimensions."""
    if not is_one_of(policy, ("error", "replicate")):
        raise AssignmentError(
            f"Option {option}: expected 'error' or 'replicate', got "
            f"{show_value(policy)}."
        )
    return policy


def check_nbytes(option: str, nbytes: object) -> object:
    """Refuses what is not a positive number of bytes."""
    if not is_count(nbytes):
        raise AssignmentError(
            f"Option {option}: expected a positive whole number of bytes, got "
            f"{show_value(nbytes)}."
        )
    return nbytes


def is_count(value: Any) -> bool:
    """True for whole numbers above 0, also NumPy's, but no bools."""
    return is_whole_number(value) and bool(value > 0)


def check_logical_rules(option: str, rules: Any) -> object:
    """Refuses what are not pairs of a logical name and a mesh axis.

    Returns:
        The pairs; lists, as map files have them, as tuples.
    """
    if rules is None:
        return None
    if not isinstance(rules, (tuple, list)) or not all(map(_is_rule, rules)):
        raise wrong_value(
            f"Option {option}: expected pairs of a logical name and the mesh axis that "
            f"it means (or None), got {show_value(rules)}. Write",
            [("embed", "data"), ("mlp", "model")],
            ".",
        )
    return tuple((name, tuple(a) if isinstance(a, list) else a) for name, a in rules)


def _is_rule(rule: Any) -> bool:
    return (
        isinstance(rule, (tuple, list))
        and len(rule) == 2
        and isinstance(rule[0], str)
        and isinstance(rule[1], (str, tuple, list, type(None)))
    )
