"""What is given where the path of a checkpoint belongs, and what to give instead.

Only for messages: knows no checkpoint, and asks values for attributes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tf2flax._base.caller import attribute_of
from tf2flax._base.errors import UnsupportedError


def not_a_path(value: object) -> UnsupportedError:
    """The error for a value that is neither a path nor a KvStore."""
    return UnsupportedError(
        "Expected the path of a checkpoint (str, bytes, os.PathLike or "
        f"tensorstore.KvStore), got {type(value).__name__}.{_suggest(value)}"
    )


def _suggest(value: Any) -> str:
    """What to give instead; begins with a space, or is ""."""
    prefix = attribute_of(value, "prefix")
    shape = attribute_of(value, "shape")
    is_named = isinstance(attribute_of(value, "name"), str)
    is_plan = callable(attribute_of(value, "restore"))
    is_file = callable(attribute_of(value, "write"))
    if value is None:
        return (
            " None is what tf2flax.latest_checkpoint gives where it finds no "
            "checkpoint."
        )
    if isinstance(value, Mapping) and isinstance(prefix, str):
        return (
            f" It is open already: look names up in it (`checkpoint[name]`), or give "
            f'its path, "{prefix}".'
        )
    if is_plan:
        return " A plan has its checkpoint already: call its `restore()`."
    if isinstance(value, Mapping):
        return (
            " The path comes first. Arrays in memory are written to a path by "
            "tf2flax.save_checkpoint(path, arrays)."
        )
    if is_named:
        if is_file:
            return " Give the name of the file, which need not be open."
        return " Give the checkpoint that it is from."
    if isinstance(value, (list, tuple, set, frozenset)) or (
        isinstance(value, Iterable) and shape is None
    ):
        return " tf2flax.merge_checkpoints shows several checkpoints as one."
    return ""
