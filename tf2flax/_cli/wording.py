"""Messages of Python's functions -> messages of the command line.

The one place that knows both spellings: `overwrite=True` is `--overwrite` here. An
option that a command does not have stays as Python spells it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

# Parameters whose options are called otherwise.
_RENAMED: Final = {"assignment_map": "map"}
# Views of a checkpoint in Python, for which commands have `--names`.
_VIEW: Final = re.compile(
    r"(?:checkpoint\.|open_checkpoint\(path\)\.)?by_(variable|object)(?:_name|_path)\(\)"
)
_OPTION: Final = re.compile(
    r"\b(?P<lead>Option |(?P<word>in |with ))?(?P<name>[a-z_]+)"
    r"(?:=(?P<value>True|False|'[^']*'|\"[^\"]*\"|\[\(.*?\)\]|(?=[,.])))?(?![\w=])"
)


# What a terminal shows of one word: all of any path that a system takes (characters).
_MAX_WORD: Final = 4096
_END: Final = 200
_LONG_WORD: Final = re.compile(rf"\S{{{_MAX_WORD},}}")


def shorten_words(message: str) -> str:
    """Cuts words that nobody can have meant to be read.

    Examples:
        >>> shorten_words("a" * 5000) == "a" * 200 + "…" + "a" * 200
        True
    """
    return _LONG_WORD.sub(lambda word: f"{word[0][:_END]}…{word[0][-_END:]}", message)


def in_options(message: str, options: Mapping[str, Sequence[str]]) -> str:
    """Writes a message with options of the command line in place of parameters.

    Args:
        message: The message of an error; what stands between backticks stays.
        options: Spellings of each option of the command (`--slots`, `--no-slots`), by
            its name.

    Examples:
        >>> in_options("Give overwrite=True.", {"overwrite": ["--overwrite"]})
        'Give --overwrite.'
        >>> in_options("It is in `by_object_path()`.", {"names": ["--names"]})
        'It is in `--names objects`.'
    """

    def spelled(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        spellings = options.get(_RENAMED.get(name, name))
        # A word of the sentence, unless it is marked as an option.
        is_marked = match["lead"] == "Option " or value is not None
        is_renamed = name in _RENAMED and match["word"] is not None
        if not spellings or not (is_marked or is_renamed):
            return match[0]
        if value is not None and value.startswith("["):  # no option takes pairs
            return f"in Python {match[0]}"
        if value == "False":
            spellings = [s for s in spellings if s.startswith("--no-")] or spellings
        is_text = value is not None and value[:1] in ("'", '"')
        text = f" {value[1:-1]}" if value and is_text else ""
        return f"{match['word'] or ''}{spellings[0]}{text}"

    parts = message.split("`")
    parts[::2] = [_OPTION.sub(spelled, part) for part in parts[::2]]
    text = "`".join(parts)
    return _VIEW.sub(r"--names \1s", text) if "names" in options else text
