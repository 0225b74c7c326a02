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

from .entry_labels import fills_scope, target_of
from .new_entries import NewEntry, add_entries, generalise
from .problems import SourceNotFound
from .scopes import NameTable
from .suggestions import Surroundings, source_of_entry

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
    root = missing[0][1]
    parent = _parent_of(root)
    numbered = _NUMBERED.fullmatch(root[len(parent) : -1])
    if numbered is None or any(not problem.leaf for problem, _ in missing):
        return ""
    if not isinstance(source_of_entry(missing[0][0].entry), Source):
        return ""  # the entry does more to its tensors than what is proposed
    for first in _first_layers(parent, numbered[1], around):
        if entries := _entries_for(missing, first, around):
            layers = f"`{first}`, `{first}_1`"
            return (
                f"TensorFlow numbers layers from the second one on: {layers}. "
                f"{add_entries(entries)}"
            )
    return ""


def left_out_of_stack(tensors: Sequence[str], names: NameTable) -> str:
    """Finds the first layer, which has no number, beside layers that are stacked.

    Args:
        tensors: Names of the tensors that are stacked.
        names: Names of the checkpoint.

    Returns:
        Its tensor; "" if the layers differ by more than a number, or there is none.
    """
    rows = list(zip(*(name.split("/") for name in tensors), strict=False))
    places = [place for place, row in enumerate(rows) if len(set(row)) > 1]
    if len(places) != 1:
        return ""
    # Where a layer has the number 0, one without a number is another one.
    layers = [_NUMBERED.fullmatch(component) for component in rows[places[0]]]
    if not all(layers) or {layer[2] for layer in layers if layer} >= {"0"}:
        return ""
    components = tensors[0].split("/")
    stems = {layer[1] for layer in layers if layer}
    components[places[0]] = stems.pop()
    first = "/".join(components)
    return first if not stems and first in names else ""


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
    missing: Sequence[tuple[SourceNotFound, str]], first: str, around: Surroundings
) -> list[NewEntry]:
    """The entries, for the first layer and for the others; [] if not all is there."""
    # Layers of each block are numbered on their own.
    parents: dict[str, list[str]] = {}
    for _, root in missing:
        parents.setdefault(_parent_of(root), []).append(root)
    lowest = {
        parent: _lowest_number(roots, f"{parent}{first}", around)
        for parent, roots in parents.items()
    }
    # The first name has no number, so that no entry covers it and the others.
    groups: dict[tuple[bool, str], dict[tuple[str, str], None]] = {}
    for problem, root in missing:
        parent = _parent_of(root)
        start = lowest[parent]
        numbered = _NUMBERED.fullmatch(root[len(parent) : -1])
        below = problem.source[len(root) :]
        if numbered is None or start is None:
            return []
        number = int(numbered[2]) - start
        scope = f"{parent}{first}_{number}/" if number else f"{parent}{first}/"
        pair = _pair_of(problem, scope, below, around)
        if pair is None:
            return []
        # A scope would lose to an entry that names leaves.
        part = "" if fills_scope(problem.entry) else below
        groups.setdefault((number > 0, part), {})[pair] = None
    ordered = [groups[key] for key in sorted(groups, key=lambda key: key[0])]
    entries = _generalised(ordered)
    entry = missing[0][0].entry
    # Of two entries that name leaves, the one with fewer captures wins.
    if not fills_scope(entry) and any(
        _captured(new.value) >= _captured(target_of(entry)) for new in entries
    ):
        return []
    return entries


def _captured(value: str) -> int:
    """Number of components of a value that have captures."""
    return sum("{" in component for component in value.split("/"))


def _parent_of(root: str) -> str:
    """The scope that a scope lies in; "" for the outermost one."""
    parent, slash, _ = root[:-1].rpartition("/")
    return parent + slash


def _pair_of(
    problem: SourceNotFound, scope: str, below: str, around: Surroundings
) -> tuple[str, str] | None:
    """A scope and its value, or a tensor and its leaf; None if none may be meant."""
    leaf = problem.leaf or ""
    tensor = _tensor_for(problem, scope, below, around)
    if tensor is None:
        return None
    if not fills_scope(problem.entry):
        return tensor, leaf
    return (scope, leaf[: -len(below)]) if leaf.endswith(f"/{below}") else None


def _generalised(groups: Iterable[Iterable[tuple[str, str]]]) -> list[NewEntry]:
    """One entry for each group of scopes and values; [] if one has none."""
    entries: list[NewEntry] = []
    for group in groups:
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


def _tensor_for(
    problem: SourceNotFound, scope: str, below: str, around: Surroundings
) -> str | None:
    """A tensor of a scope that may be meant, perhaps by an alias of its name."""
    spelled = (below, *alias_sources(below, below.rpartition("/")[2], FLAX_ALIASES))
    for name in spelled:
        if scope + name in around.tensors and around.may_fill(
            problem.entry, scope + name, problem.leaf
        ):
            return scope + name
    return None
