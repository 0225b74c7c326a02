"""Captures with nothing between them: where a name is cut, the shortest text decides.

`{part}{i}/` of `query0/kernel`     {part} is `q`, {i} is `uery0`
`{part}{i+0}/`                      {i} is a number: `query` and `0`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tf2flax._assignment.language.captures import Capture, NamePattern, parse_name
from tf2flax._assignment.language.entries import Rule
from tf2flax._assignment.language.expressions import sources_of

from .entry_labels import label_of
from .problems import Cause, SourceNotFound, explain_entries
from .suggestions import Surroundings, write_key, write_line


def explain_adjacent_captures(
    problems: Sequence[SourceNotFound], around: Surroundings
) -> tuple[list[Cause], list[SourceNotFound]]:
    """Finds entries whose captures would fit if one of them was a number.

    Args:
        problems: The problems.
        around: Names of the checkpoint and the target.

    Returns:
        Causes, and the problems that they do not explain.
    """
    return explain_entries(problems, lambda members: _explain_entry(members, around))


def _explain_entry(
    problems: Sequence[SourceNotFound], around: Surroundings
) -> Cause | None:
    """The cause, if all tensors of an entry are there with a number in its value."""
    entry = problems[0].entry
    if not isinstance(entry, Rule) or not isinstance(entry.target, NamePattern):
        return None
    target, leaf = entry.target, problems[0].leaf or ""
    for first, second, number in _adjacent(target):
        text = target.text.replace(str(number), f"{{{number.name}+0}}", 1)
        if not _fits(entry, parse_name(text), problems, around):
            continue
        lowest = entry.lowest()
        binding = target.matches(leaf, is_scope=entry.is_scope, lowest=lowest) or {}
        line = write_line(entry, write_key(entry, entry.source), text)
        return Cause(
            label_of(entry),
            f"captures side by side take the shortest texts that fit: in `{leaf}`, "
            f"{first} is {_quote(binding, first.name)} and {second} is "
            f"{_quote(binding, second.name)}.",
            tuple(problems),
            f"Make {number} a number: write `{line}`.",
        )
    return None


def _adjacent(target: NamePattern) -> Iterator[tuple[Capture, Capture, Capture]]:
    """Yields captures with nothing between them, and which of them may be a number."""
    pairs = zip(target.written, target.written[1:], target.literals[1:], strict=False)
    for first, second, between in pairs:
        for number in (second, first):
            if not between and number.offset is None and not number.is_path:
                yield first, second, number


def _quote(binding: Mapping[str, str], name: str) -> str:
    return f"`{binding.get(name, '')}`"


def _fits(
    entry: Rule,
    target: NamePattern,
    problems: Sequence[SourceNotFound],
    around: Surroundings,
) -> bool:
    """True if all tensors that are missing are there with another value."""
    keys = [parse_name(source.pattern) for source in sources_of(entry.source)]
    for problem in problems:
        binding = target.matches(problem.leaf or "", is_scope=entry.is_scope)
        if binding is None:
            return False
        if not all(
            key.expand(binding).literal in around.tensors
            for key in keys
            if set(key.captures) <= set(binding)
        ):
            return False
    return True
