"""Entries to add to a map, as few as say it: with captures where leaves differ.

    net/a_0/w -> params/a/0/w
    net/a_1/w -> params/a/1/w        net/a_{i}/w -> params/a/{i}/w

An entry is written with `src(...)`, which wins over the scopes around it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence, Set
from typing import Final

from tf2flax._assignment.language.captures import literal_pattern, parse_name
from tf2flax._assignment.language.expressions import Expression, Source

from .scopes import NameTable

_NUMBER: Final = re.compile(r"(\d+)")
_CAPTURES: Final = "ijklmn"


@dataclasses.dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry that is suggested, as it is written in a map.

    Attributes:
        key: The key: an expression.
        value: The value.
        is_example: True if it stands for several.
    """

    key: str
    value: str
    is_example: bool = False

    def __str__(self) -> str:
        """The entry, as a sentence."""
        what = "entries such as" if self.is_example else "the entry"
        return f"Add {what} `{self.key}` -> `{self.value}`."


def add_entries(entries: Sequence[NewEntry]) -> str:
    """Says which entries to add, as a sentence.

    Examples:
        >>> add_entries([NewEntry("a", "x"), NewEntry("b", "y"), NewEntry("c", "z")])
        'Add the entries `a` -> `x`, `b` -> `y` and `c` -> `z`.'
    """
    if len(entries) == 1:
        return str(entries[0])
    written = [f"`{entry.key}` -> `{entry.value}`" for entry in entries]
    listed = f"{', '.join(written[:-1])} and {written[-1]}"
    is_example = any(entry.is_example for entry in entries)
    return f"Add {'entries such as' if is_example else 'the entries'} {listed}."


def propose_entry(
    pairs: Sequence[tuple[Expression, str]], names: NameTable
) -> NewEntry:
    """Proposes an entry for leaves, with captures where there are several.

    Args:
        pairs: The source of each leaf, without captures, and the leaf; or scopes.
        names: All names of leaves.

    Returns:
        The entry. Of sources that no captures show, that of the first.
    """
    texts = [(repr(source), literal_pattern(leaf)) for source, leaf in pairs]
    if len(texts) > 1 and (general := generalise(texts)):
        key, value = general
        reached = parse_name(value)
        is_scope = value.endswith("/")
        expected = {leaf for _, leaf in pairs}
        matched = (
            reached.expand(binding).literal
            for name in names.names
            if (binding := reached.matches(name, is_scope=is_scope)) is not None
        )
        if all(name in expected for name in matched):
            return NewEntry(key, value)
    return NewEntry(*texts[0], is_example=len(texts) > 1)


def generalise(
    pairs: Sequence[tuple[str, str]], *, avoid: Set[str] = frozenset()
) -> tuple[str, str] | None:
    """Writes pairs of texts that differ by numbers alone as one, with captures.

    Args:
        pairs: Key and value of each.
        avoid: Captures that the texts have already.

    Returns:
        Key and value; None if the numbers of the values do not give those of the keys,
        or those of the keys are fewer: one tensor would fill all that a capture of the
        value matches.

    Examples:
        >>> generalise([("a_0/w", "b/0/w"), ("a_1/w", "b/1/w")])
        ('a_{i}/w', 'b/{i}/w')
        >>> generalise([("a_0/w", "b/1/w"), ("a_1/w", "b/2/w")])
        ('a_{i-1}/w', 'b/{i}/w')
    """
    keys = [_NUMBER.split(key) for key, _ in pairs]
    values = [_NUMBER.split(value) for _, value in pairs]
    captures: dict[tuple[str, ...], str] = {}
    used: set[str] = set()
    free = [letter for letter in _CAPTURES if letter not in avoid]
    value = _write_captures(values, captures, set(), free)
    key = _write_captures(keys, captures, used, ())
    if key is None or value is None or used != {*captures.values()}:
        return None
    return key, value


def _write_captures(
    rows: Sequence[Sequence[str]],
    captures: dict[tuple[str, ...], str],
    used: set[str],
    free: Sequence[str],
) -> str | None:
    """Joins split texts, with captures for numbers that differ.

    Args:
        rows: Literal text and numbers in turn, of each text.
        captures: Numbers of all texts at one place -> the capture; of values, captures
            are added.
        used: Captures that the text has are added.
        free: Captures that may be added; () for the texts of keys, to which those of
            values give their meaning.

    Returns:
        The text; None if the texts differ by more, or a capture is not there.
    """
    if len({len(row) for row in rows}) > 1:
        return None
    written: list[str] = []
    for place, column in enumerate(zip(*rows, strict=True)):
        if len(set(column)) == 1:
            written.append(column[0])
        elif place % 2 == 0:
            return None
        elif column not in captures and not free:
            # Numbers of a key may be others than those of the value by a constant.
            shifted = _shifted(column, captures)
            if shifted is None:
                return None
            used.add(shifted[0])
            written.append(f"{{{shifted}}}")
        else:
            if column not in captures and len(captures) == len(free):
                return None
            name = captures.get(column) or free[len(captures)]
            captures[column] = name
            used.add(name)
            written.append(f"{{{name}}}")
    return "".join(written)


def _shifted(
    column: tuple[str, ...], captures: Mapping[tuple[str, ...], str]
) -> str | None:
    """A capture with an offset, which gives the numbers of a place; None for none."""
    for numbers, name in captures.items():
        # `{i+1}` matches no leading zeros.
        if any(text != str(int(text)) for text in (*column, *numbers)):
            continue
        offsets = {int(a) - int(b) for a, b in zip(column, numbers, strict=True)}
        if len(offsets) == 1:
            return f"{name}{offsets.pop():+d}"
    return None


def propose_sources(pairs: Sequence[tuple[str, str]], names: NameTable) -> NewEntry:
    """Proposes an entry that gives tensors to leaves, as they are.

    Args:
        pairs: Name of the tensor of each leaf, and the leaf.
        names: All names of leaves.

    Returns:
        The entry, with captures for numbers or for components that differ.
    """
    entry = propose_entry(
        [(Source(literal_pattern(tensor)), leaf) for tensor, leaf in pairs], names
    )
    return (entry.is_example and _capture_components(pairs, names)) or entry


def _capture_components(
    pairs: Sequence[tuple[str, str]], names: NameTable
) -> NewEntry | None:
    """Writes pairs of names that differ in components as one, with captures.

        net/a/w/EMA -> params/a/w
        net/b/w/EMA -> params/b/w      net/{i}/{j}/EMA -> params/{i}/{j}

    Args:
        pairs: Names of tensor and leaf.
        names: All names of leaves.

    Returns:
        The entry; None if it would reach other leaves, or does not fit all.
    """
    tensor, leaf = (name.split("/") for name in pairs[0])
    # Components after those that both have in common, as in w/EMA -> w.
    ends = [(i, j) for i in (0, 1) for j in (0, 1)]
    counts = [_count_alike(tensor, leaf, *end) for end in ends]
    count = min(max(counts), len(_CAPTURES))
    if not count:
        return None
    captures = [f"{{{name}}}" for name in _CAPTURES[:count]]
    key, value = (
        "/".join(
            [
                *map(literal_pattern, name[: len(name) - end - count]),
                *captures,
                *map(literal_pattern, name[len(name) - end :]),
            ]
        )
        for name, end in zip(
            (tensor, leaf), ends[counts.index(max(counts))], strict=True
        )
    )
    source, target = parse_name(key), parse_name(value)
    expected = {leaf: tensor for tensor, leaf in pairs}
    for name in names.names:
        binding = target.matches(name)
        if binding is None:
            continue
        if expected.pop(name, None) != source.expand(binding).literal:
            return None
    return None if expected else NewEntry(repr(Source(key)), value)


def _count_alike(
    tensor: Sequence[str], leaf: Sequence[str], tensor_end: int, leaf_end: int
) -> int:
    """Number of components that are the same before the ends of two names."""
    count = 0
    backwards = zip(tensor[::-1][tensor_end:], leaf[::-1][leaf_end:], strict=False)
    for ours, theirs in backwards:
        if ours != theirs:
            break
        count += 1
    return count
