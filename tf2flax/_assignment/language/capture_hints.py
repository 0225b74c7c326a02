"""What to write instead of a capture that does not fit: the nearest, in its place.

Only for messages: entered where something is wrong already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tf2flax._base.names import nearest

# A number, words, or a format as `str.format` takes them; nothing else can be guessed.
_GUESSED: Final = re.compile(r"(?P<words>[\w\s-]*)([:!].*)?", re.A | re.S)
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.A)


def suggest_capture(text: str, braces: str) -> str:
    """What to write where braces hold something else than a name.

    Args:
        text: The name or scope, as it was written.
        braces: What stands in the braces.

    Returns:
        A sentence; begins with a space, or is "".

    Examples:
        >>> suggest_capture("layers_{ i }/", " i ")
        ' Write `layers_{i}/`.'
    """
    match = _GUESSED.fullmatch(braces)
    if match is None:
        return ""
    name = re.sub(r"\W+", "_", match["words"].strip(), flags=re.A)
    if not _NAME.fullmatch(name) or not name.strip("_"):
        name = "i"
    written = text.replace(f"{{{braces}}}", f"{{{name}}}")
    return f" Write `{written}`."


def suggest_value_capture(
    key: Sequence[str], value: Sequence[str], name: str, text: str
) -> str:
    """What to write where the value lacks a capture of the key.

    Args:
        key: Captures of the key.
        value: Captures of the value.
        name: The one that the value lacks.
        text: The value, as it was written.

    Returns:
        A sentence.
    """
    # What the value has of its own may be the same capture, misspelt.
    strange = [capture for capture in value if capture not in key]
    if not strange:
        return f'Put it there, or use stack(..., over="{name}").'
    close = nearest(name, strange, 1)
    misspelt = close[0] if close else strange[0]
    # `{j}`, and `{j+1}` and `{j...}` as well.
    fixed = re.sub(rf"\{{{misspelt}(?=[}}+.-])", f"{{{name}", text)
    return f"The value has {{{misspelt}}} instead: write `{fixed}`."


def suggest_over(name: str, captures: Sequence[str]) -> str:
    """What to write for a capture to count that there is not.

    Args:
        name: What `over` names.
        captures: The captures that there are.

    Returns:
        A sentence.
    """
    if not captures:
        return f"Write {{{name}}} where its number stands in the name."
    close = nearest(name, captures, 1)
    return f'Write over="{close[0] if close else captures[0]}".'
