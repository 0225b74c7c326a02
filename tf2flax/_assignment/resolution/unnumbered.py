"""Layers of which TensorFlow numbers all but the first: `dense`, `dense_1`, `dense_2`.

Flax numbers all: `Dense_0`, `Dense_1`, `Dense_2`. No capture stands for both, so that
the first layer takes an entry.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Final

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Source

from .new_entries import NewEntry, add_entries, generalise
from .problems import SourceNotFound
from .suggestions import Surroundings

# What lies beside the layers and is looked at.
_MAX_CHILDREN: Final = 1000
_NUMBERED: Final = re.compile(r"(.*?)_?(0|[1-9]\d{0,3})")


def describe_unnumbered(
    missing: Sequence[tuple[SourceNotFound, str]], around: Surroundings
) -> str:
    """Says which entries give layers that TensorFlow numbers from the second one on.

    Args:
        missing: Problems of one entry, and the scope of each under which nothing lies.
            These scopes differ by numbers alone.
        around: Names of the checkpoint and the target.

    Returns:
        Sentences; "" unless all that is missing is there under such names.
    """
    parent, _, component = missing[0][1][:-1].rpartition("/")
    parent = f"{parent}/" if parent else ""
    numbered = _NUMBERED.fullmatch(component)
    if numbered is None or any(not problem.leaf for problem, _ in missing):
        return ""
    for first in _first_layers(parent, numbered[1], around):
        if entries := _entries_for(missing, parent, first, around):
            layers = f"`{first}`, `{first}_1`"
            return (
                f"TensorFlow numbers layers from the second one on: {layers}. "
                f"{add_entries(entries)}"
            )
    return ""


def _first_layers(parent: str, stem: str, around: Surroundings) -> list[str]:
    """Names of scopes without numbers whose names a name of Flax begins."""
    children = around.tensors.children_of(parent)
    names = [c[:-1] for c in itertools.islice(children, _MAX_CHILDREN) if c[-1] == "/"]
    wanted = _letters(stem)
    return [
        name
        for name in names
        if wanted
        and _letters(name).startswith(wanted)
        and f"{parent}{name}_1/" in around.tensors
    ]


def _letters(name: str) -> str:
    """A name without case and `_`: `BatchNorm` begins `batch_normalization`."""
    return name.replace("_", "").casefold()


def _entries_for(
    missing: Sequence[tuple[SourceNotFound, str]],
    parent: str,
    first: str,
    around: Surroundings,
) -> list[NewEntry]:
    """The entries, for the first layer and for the others; [] if not all is there."""
    lowest = _lowest_number([root for _, root in missing], f"{parent}{first}", around)
    if lowest is None:
        return []
    # The first name has no number, so that no entry covers it and the others.
    pairs: dict[bool, dict[tuple[str, str], None]] = {True: {}, False: {}}
    for problem, root in missing:
        numbered = _NUMBERED.fullmatch(root[:-1].rpartition("/")[2])
        below, leaf = problem.source[len(root) :], problem.leaf or ""
        if numbered is None or not leaf.endswith(f"/{below}"):
            return []
        number = int(numbered[2]) - lowest
        is_first = number == 0
        scope = f"{parent}{first}/" if is_first else f"{parent}{first}_{number}/"
        if not _may_fill(problem, scope, below, around):
            return []
        pairs[is_first][scope, leaf[: -len(below)]] = None
    return _generalised(pairs.values())


def _generalised(groups: Iterable[Iterable[tuple[str, str]]]) -> list[NewEntry]:
    """One entry for each group of scopes and values; [] if one has none."""
    entries: list[NewEntry] = []
    for group in filter(None, groups):
        general = generalise(
            [
                (repr(Source(literal_pattern(scope))), literal_pattern(value))
                for scope, value in group
            ]
        )
        if general is None:
            return []
        entries.append(NewEntry(*general))
    return entries


def _lowest_number(
    roots: Sequence[str], first: str, around: Surroundings
) -> int | None:
    """The number that stands for the first layer; None if that is not known.

    Numbers begin with 0, or are as many as there are layers.
    """
    components = (root[:-1].rpartition("/")[2] for root in roots)
    matches = map(_NUMBERED.fullmatch, components)
    numbers = {int(match[2]) for match in matches if match}
    if not numbers or min(numbers) == 0:
        return 0
    count = 1
    while f"{first}_{count}/" in around.tensors and count <= len(numbers):
        count += 1
    lowest = min(numbers)
    return lowest if numbers == set(range(lowest, lowest + count)) else None


def _may_fill(
    problem: SourceNotFound, scope: str, below: str, around: Surroundings
) -> bool:
    """True if a tensor of a scope may be meant, perhaps by an alias of its name."""
    spelled = (below, *alias_sources(below, below.rpartition("/")[2], FLAX_ALIASES))
    return any(
        scope + name in around.tensors
        and around.may_fill(problem.entry, scope + name, problem.leaf)
        for name in spelled
    )
