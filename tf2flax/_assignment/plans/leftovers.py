"""Tensors of the checkpoint that fill no leaf and that nobody answers for: `on_unused`.

Slots, averages, counters, strings and the object graph are no weights, and nobody
expects a model to have them, also not in a view that shows slots under the names of
variables; of what an entry reaches, the plan says already why it
fills nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.entries import MapEntry, PlainEntry, Rule
from tf2flax._assignment.language.expressions import sources_of
from tf2flax._assignment.resolution.assignments import Resolution
from tf2flax._assignment.resolution.policies import UnusedChoice, UnusedPolicy
from tf2flax._assignment.resolution.scopes import NameTable
from tf2flax._base.collapsing import list_collapsed
from tf2flax._base.errors import AssignmentError, CheckpointError
from tf2flax._base.manifest import Manifest
from tf2flax._base.text import counted

# Names, or rows of names that count up, that a message lists.
_MAX_NAMED: Final = 20


def find_leftovers(
    resolution: Resolution,
    unused: Sequence[str],
    entries: Sequence[MapEntry],
    manifest: Manifest,
) -> tuple[str, ...]:
    """Finds the weights that fill no leaf and that nobody answers for.

    Args:
        resolution: Meaning of the map.
        unused: Names of the tensors that fill no leaf.
        entries: All entries of the map.
        manifest: The checkpoint.

    Returns:
        Their names, sorted.
    """
    answered = set(_reached(resolution))
    answered.update(_optional(entries, manifest))
    roles = manifest.roles(may_read=False)
    return tuple(
        name
        for name in unused
        if name not in answered
        and roles.of(name).kind == "variable"
        and not roles.stands_for_slot(name)
        and not _is_text(name, manifest)
    )


def check_leftovers(
    resolution: Resolution,
    unused: Sequence[str],
    entries: Sequence[MapEntry],
    manifest: Manifest,
    policy: UnusedPolicy,
) -> tuple[str, ...]:
    """As `find_leftovers`, and refuses those of which `on_unused` says so.

    Raises:
        AssignmentError: There are such weights; they are listed.
    """
    leftovers = find_leftovers(resolution, unused, entries, manifest)
    if message := describe_leftovers(leftovers, policy, "error"):
        place = f"{policy.place}: " if policy.place else ""
        raise AssignmentError(f"{place}Option on_unused: {message}")
    return leftovers


def describe_leftovers(
    names: Sequence[str], policy: UnusedPolicy, choice: UnusedChoice
) -> str:
    """States which weights fill no leaf, and what to do.

    Args:
        names: Weights that nobody answers for.
        policy: Option `on_unused`.
        choice: "warn" or "error".

    Returns:
        A message; "" if the option says something else of all of them.
    """
    listed = [name for name in names if policy.choice_of(name) == choice]
    if not listed:
        return ""
    fill = "fills" if len(listed) == 1 else "fill"
    return (
        f"{counted(len(listed), 'tensor')} of the checkpoint {fill} no leaf: "
        f"{list_collapsed(listed, _MAX_NAMED)}. Add entries for what the model needs; "
        'leave out the rest by on_unused=[(regex, "ignore"), ...], or name it in the '
        "table [optional] of a map file."
    )


def _reached(resolution: Resolution) -> Iterator[str]:
    """Names of tensors that an entry reaches, but that fill nothing."""
    for gap in (*resolution.missing, *resolution.mismatched):
        yield from gap.present
        if gap.expression is not None:
            for source in sources_of(gap.expression):
                yield parse_name(source.pattern).literal
    for tie in resolution.ties:
        for twin in tie.twins:
            yield from twin.sources


def _optional(entries: Sequence[MapEntry], manifest: Manifest) -> Iterator[str]:
    """Names of tensors that optional entries name, alone or by their scopes."""
    table = NameTable(manifest.names)
    for entry in entries:
        if not entry.is_optional:
            continue
        if isinstance(entry, PlainEntry):
            yield entry.source
            if entry.source.endswith("/"):
                scope = "" if entry.source == "/" else entry.source
                yield from (manifest.names[n] for n in table.range_under(scope))
        else:
            yield from _sources_of_rule(entry, manifest)


def _sources_of_rule(rule: Rule, manifest: Manifest) -> Iterator[str]:
    """Names of tensors that the key of a rule may stand for."""
    lowest = rule.lowest()
    for source in sources_of(rule.source):
        pattern = parse_name(source.pattern)
        is_scope = pattern.text.endswith("/")
        for name in manifest.names:
            binding = pattern.matches(name, is_scope=is_scope, lowest=lowest)
            if binding is not None or pattern.text == "/":
                yield name


def _is_text(name: str, manifest: Manifest) -> bool:
    """True for strings, the object graph among them."""
    try:
        return manifest.spec(name).dtype.is_string
    except CheckpointError:  # damaged, or a name that several tensors share
        return False
