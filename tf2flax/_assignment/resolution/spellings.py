"""Names that are found nowhere because something else was meant: what to write.

Only for messages: a tensor may well be called `src("a")`, and is then found.
"""

from __future__ import annotations

import re
from typing import Final

from tf2flax._assignment.language.literals import quote
from tf2flax._assignment.language.syntax import is_expression, parse_expression
from tf2flax._base.errors import AssignmentError

# A name followed by an operation: `dense/kernel.transpose()`, `dense/kernel.T`.
_OPERATION: Final = re.compile(
    r"(?P<name>[^()]*?[^().])"
    r"(?P<call>\.(?:(?:transpose|reshape|rearrange|take|cast)\(.*\)|T))",
    re.S,
)
# What names of variables hardly ever hold, and patterns nearly always: `(.*)`, `\1`,
# `\d+`, `[^/]+`, `*`.
_PATTERN: Final = re.compile(r"\*|\\[0-9dDwWSsbg]|\[\^|\)\+|\.\+")

_CAPTURES: Final = "ijklmn"


def captures_for_stars(key: str, target: str) -> tuple[str, str] | None:
    """Writes captures in place of the `*` of a key and a value.

    Args:
        key: The key, as it reads in the map.
        target: The value.

    Returns:
        Both; None unless each has as many, with something else beside it.

    Examples:
        >>> captures_for_stars("layer_*/w", "layers_*/kernel")
        ('layer_{i}/w', 'layers_{i}/kernel')
    """
    count = key.count("*")
    if not 0 < count == target.count("*") <= len(_CAPTURES) or "{" in key + target:
        return None
    if "**" in key + target:
        return None
    key, target = (_with_captures(text) for text in (key, target))
    return key, target


def _with_captures(text: str) -> str:
    names = iter(_CAPTURES)
    return re.sub(r"\*", lambda _: f"{{{next(names)}}}", text)


def suggest_for_key(key: str) -> str:
    """What to write instead of a key that is not in the checkpoint; "" for no idea."""
    if is_expression(key):
        try:
            expression = parse_expression(key)
        except AssignmentError as error:
            return f"As an expression it is {str(error).rstrip('.')}."
        return (
            "It is an expression within quotes. Write the key without them: "
            f"`{expression!r}`, with `from tf2flax import src, concat, stack`."
        )
    match = _OPERATION.fullmatch(key)
    if match:
        call = ".transpose()" if match["call"] == ".T" else match["call"]
        try:
            expression = parse_expression(f"src({quote(match['name'])}){call}")
        except AssignmentError:
            return ""
        return f"An operation needs an expression: use the key `{expression!r}`."
    return suggest_for_pattern(key)


def suggest_for_target(target: str) -> str:
    """What to write instead of a value that is not in the target; "" for no idea."""
    if is_expression(target) or _OPERATION.fullmatch(target):
        return (
            "Expressions are keys, and the value is the name of a leaf: "
            '`src("name").transpose()` as the key.'
        )
    return suggest_for_pattern(target)


def suggest_for_pattern(name: str) -> str:
    """What to write instead of a pattern of another kind; "" for none."""
    if not _PATTERN.search(name):
        return ""
    return (
        "Names are not patterns: a scope (`encoder/`) stands for all below it, and "
        "`{i}` captures a part of a name (`layer_{i}/` -> `layers_{i}/`)."
    )
