"""A suggested map -> text of a map file; what is open becomes comments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.expressions import Expression

from .toml_values import toml_string

Key = str | Expression
Entry = tuple[Key, str]
Question = tuple[str, Sequence[tuple[Key, str]]]

# Sizes of heads, which become a parameter where all of them are equal.
_HEADS: Final = re.compile(r"\bh=([0-9]+)\b")
# What TensorFlow's LSTM cells add when they run: not in the checkpoint, so that a file
# says it once, where it can be changed.
_FORGET_BIAS: Final = re.compile(r"\+ (1\.0)(?![0-9])")


def format_suggestion(
    entries: Sequence[tuple[Entry, str]],
    ambiguous: Sequence[Question],
    unmatched: Sequence[tuple[str, str]],
    *,
    title: str,
    notes: Sequence[str],
    is_table: bool,
) -> str:
    """Writes a suggestion.

    Args:
        entries: Entries of the map, each with what speaks for it.
        ambiguous: Leaves with several candidates, best first.
        unmatched: Leaves that nothing fills, each with a reason.
        title: First line.
        notes: What keeps checkpoint and target from fitting.
        is_table: False if a key occurs twice: the file then holds pairs.
    """
    # Evidence stands above its lines, once for all that it speaks for.
    lines = [_comment(text) for text in (title, *notes)]
    texts = [(_key_text(key), toml_string(value), why) for (key, value), why in entries]
    if is_table:
        texts, parameters = _take_parameters(texts)
        lines += ["", "[parameters]", *parameters, ""] if parameters else []
    lines.append("[assignment_map]" if is_table else "assignment_map = [")
    reason_above = ""
    for key, value, why in texts:
        if why and why != reason_above:
            lines.append(_comment(why))
        reason_above = why
        lines.append(f"{key} = {value}" if is_table else f"    [{key}, {value}],")
    for leaf, candidates in ambiguous:
        lines += ["", _comment(f"`{leaf}` is open: take one of these lines")]
        for key, why in candidates:
            entry = f"{_key_text(key)} = {toml_string(leaf)}"
            if not is_table:
                entry = f"[{_key_text(key)}, {toml_string(leaf)}],"
            lines.append(_comment(f"{entry}  # {why}"))
    for leaf, why in unmatched:
        hole = f'"" = {toml_string(leaf)}'
        lines.append(_comment(f"{hole}  # {why}" if why else hole))
    if not is_table:
        lines.append("]")
    return "\n".join(lines) + "\n"


def _take_parameters(
    texts: Sequence[tuple[str, str, str]],
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Puts parameters in place of numbers that a model decides.

    Returns:
        The texts of the entries, and the lines of the parameters.
    """
    # Heads, where all lines have as many; then what TensorFlow adds when it runs.
    parameters: list[str] = []
    heads = {size for key, _, _ in texts for size in _HEADS.findall(key)}
    if len(heads) == 1:
        parameters.append(f"heads = {next(iter(heads))}")
        texts = [(_HEADS.sub("h=heads", key), value, why) for key, value, why in texts]
    added = {
        number
        for key, _, why in texts
        if "forget_bias" in why
        for number in _FORGET_BIAS.findall(key)
    }
    if added:
        parameters.append(
            f"forget_bias = {added.pop()}  # TensorFlow's default, not in the "
            "checkpoint: what does the code of the model say?"
        )
        texts = [
            (_FORGET_BIAS.sub("+ forget_bias", key), value, why)
            if "forget_bias" in why
            else (key, value, why)
            for key, value, why in texts
        ]
    return list(texts), parameters


def _comment(text: str) -> str:
    return "# " + " ".join(text.split("\n"))


def _key_text(key: Key) -> str:
    return toml_string(key if isinstance(key, str) else repr(key))
