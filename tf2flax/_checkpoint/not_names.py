"""What is given where the name of a tensor belongs, and what to write instead.

Only for messages: knows no checkpoint, and asks values for attributes alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from tf2flax._base.caller import attribute_of

from .stored_tensor import StoredTensor


def suggest_name(value: object) -> str:
    """Says what to write instead of something that is not text, as a key."""
    expected = f"A name is text, not {type(value).__name__}."
    if isinstance(value, bytes):
        return f"{expected} Write {value.decode('utf-8', 'backslashreplace')!r}."
    if isinstance(value, StoredTensor):
        return "It is the tensor already: call its `read()`, or give its `name`."
    if attribute_of(value, "children") is not None:  # an expression
        return "Expressions are keys of assignment maps: give the name of a tensor."
    words = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else ()
    if words and all(isinstance(word, str) for word in words):
        return f'{expected} Write "{"/".join(words)}".'
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return f"{expected} Several are read by `checkpoint.read(names)`."
    return f"{expected} `list(checkpoint)` has all names."
