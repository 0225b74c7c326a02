"""Leaves that hold all layers along one axis, where the checkpoint has them apart.

    leaf `enc/layer/kernel` [3, 4, 4]    tensors `enc/layer_0/kernel` ... [4, 4]
                                         stack("enc/layer_{i}/kernel", over="i")

A stack is proposed only where it has the shape of the leaf, and no other axis would do.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence, Set
from typing import Final, NamedTuple

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._assignment.language.captures import literal_pattern, parse_name
from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import (
    Expression,
    Joined,
    Source,
    map_sources,
    sources_of,
)
from tf2flax._assignment.language.literals import quote
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._base.errors import AssignmentError
from tf2flax._base.text import list_names

from .entry_labels import fills_scope, target_of
from .layer_families import families_under
from .mismatches import Reason
from .new_entries import propose_entry
from .problems import Mismatch, SourceNotFound
from .scopes import template_of
from .sources import find_source
from .suggestions import Surroundings, captures_of, source_of_entry, write_key

_LETTERS: Final = "ijklmn"
_NUMBER: Final = re.compile(r"\d+")
# Components of a name that are looked at.
_MAX_DEPTH: Final = 64
# What lies under one scope and is looked at, and layers that a message names.
_MAX_CHILDREN: Final = 1000
_MAX_LISTED: Final = 3


class _Stack(NamedTuple):
    """Layers that differ in one component of their names.

    Attributes:
        place: Which component it is.
        before: What stands before its number; what stands after it.
        after: What stands after its number.
        names: Its texts in order, where the first has no number; else ().
        axis: Axis along which the leaf has them.
    """

    place: int
    before: str
    after: str
    names: tuple[str, ...]
    axis: int

    def of(self, source: Expression) -> Expression:
        """Stacks a source: a tensor of one of the layers, or a scope of it."""
        assert isinstance(source, Source)
        components = source.pattern.split("/")
        if not self._holds(components[self.place : self.place + 1]):
            return source
        used = captures_of(source.pattern)
        letter = next((c for c in _LETTERS if c not in used), "layer")
        number = f"{literal_pattern(self.before)}{{{letter}}}"
        written = [literal_pattern(name) for name in self.names]
        sources: list[Source] = []
        for text in written or [number + literal_pattern(self.after)]:
            components[self.place] = text
            sources.append(Source("/".join(components)))
        over = None if written else letter
        return Joined(tuple(sources), self.axis, is_stack=True, over=over)

    def _holds(self, components: Sequence[str]) -> bool:
        """True if the component that names a layer is one of these."""
        layer = re.escape(self.before) + r"\d+" + re.escape(self.after)
        return any(
            text in self.names if self.names else re.fullmatch(layer, text)
            for text in (parse_name(component).literal for component in components)
        )


def find_stack(problem: Mismatch, around: Surroundings) -> Reason | None:
    """Finds the layers that a leaf stacks, of which its tensor is one.

    Args:
        problem: A leaf, and a tensor of another shape.
        around: Names of the checkpoint and the target.

    Returns:
        The reason; None if the leaf is no stack of such tensors.
    """
    source = problem.expression
    if not isinstance(source, Source) or problem.source_shape is None:
        return None
    if len(problem.shape) != len(problem.source_shape) + 1:
        return None
    name = parse_name(source.pattern).literal
    stacks = _stacks_of(name, problem.shape, around)
    if not stacks:
        return None
    stack = stacks[0]
    count = problem.shape[stack.axis]
    text = f"The leaf stacks {count} layers, which the checkpoint has one by one"
    if len(stacks) > 1:
        return Reason(
            f"{text}. Join them by `stack`: several axes are as long, and only their "
            "meaning tells which."
        )
    key = source_of_entry(problem.entry)
    components = key.pattern.rstrip("/").split("/") if isinstance(key, Source) else []
    is_named = stack.place < len(components)
    if is_named and captures_of(components[stack.place]):
        return None
    is_of_key = is_named or not fills_scope(problem.entry)
    return Reason(text, stack.of, is_of_key=is_of_key)


def stack_instead(
    missing: Sequence[tuple[SourceNotFound, str]],
    scopes: Sequence[str],
    around: Surroundings,
) -> str:
    """Says how leaves are filled that stack layers of which a map names the scope.

    Args:
        missing: Problems, and the scope of each under which nothing lies.
        scopes: Scopes under which such names lie.
        around: Names of the checkpoint and the target.

    Returns:
        Sentences; "" if the scopes are no layers of these leaves.
    """
    entry, root = missing[0][0].entry, missing[0][1]
    if not scopes or len({template_of(scope) for scope in scopes}) > 1:
        return ""
    stacks = set[_Stack]()
    pairs: dict[str, tuple[Expression, str]] = {}
    for problem, scope in missing:
        leaf = problem.leaf or target_of(problem.entry)
        below = problem.source[len(scope) :]
        # One way for each leaf: of several, only their meaning tells.
        candidates = _stacks_of(
            tensor_of(scopes[0] + below, around), around.shapes.get(leaf, ()), around
        )
        if scope != root or len(candidates) != 1:
            return ""
        stacks.add(candidates[0])
        if below and leaf.endswith(f"/{below}"):
            value = leaf[: -len(below)]
            pairs[value] = candidates[0].of(Source(literal_pattern(scopes[0]))), value
    if len(stacks) > 1:
        return ""
    fact = f"The checkpoint has {len(scopes)} such layers, which the leaf stacks"
    if key := _key_of_stack(entry, root, scopes[0], stacks.pop()):
        is_one = len({problem.entry.number for problem, _ in missing}) == 1
        if is_one:
            return f"{fact}: use the key `{key}`."
        return f"{fact}. In entry {entry.number}: use the key `{key}`; others alike."
    return (
        f"{fact}. {propose_entry(list(pairs.values()), around.leaves)}" if pairs else ""
    )


def _key_of_stack(entry: MapEntry, root: str, scope: str, stack: _Stack) -> str:
    """The key of an entry that stacks layers, where it names their scope; or ""."""
    source, depth = source_of_entry(entry), root.count("/")
    if not isinstance(source, Source):
        return ""
    components = source.pattern.split("/")
    if len(components) <= depth - (not fills_scope(entry)):
        return ""
    if "/".join([*components[:depth], ""]) != literal_pattern(root):
        return ""
    moved = literal_pattern(scope) + "/".join(components[depth:])
    return write_key(entry, stack.of(Source(moved)))


def has_no_numbers(problem: SourceNotFound, around: Surroundings) -> bool:
    """True if an entry counts layers, and those that are there have no numbers."""
    return bool(_layers_meant(problem, around).names)


def name_layers(problem: SourceNotFound, around: Surroundings) -> str:
    """Says what to write of layers that have no numbers to count, in sentences."""
    layers, key = _layers_meant(problem, around), source_of_entry(problem.entry)
    assert isinstance(key, Joined)
    listed = list_names(layers.names, _MAX_LISTED)
    fact = f'over="{key.over}" counts numbers, and not all of {listed} have one'
    parent = "/".join([*problem.source.split("/")[: layers.place], ""])
    for family in families_under(parent, around.tensors):
        names = tuple(family.components.values())
        if family.is_unnumbered and {*names} == {*layers.names}:
            changed = _with_layers(key, layers._replace(names=names))
            return f"{fact}: use the key `{changed!r}`."
    operand = _with_layers(key, layers).operands[0]
    first = quote(operand.pattern) if isinstance(operand, Source) else repr(operand)
    return (
        f"{fact}. Name each in the key, in the order in which the leaf has them: "
        f"{key.verb}({first}, ..., axis={key.axis})."
    )


def _with_layers(key: Joined, layers: _Stack) -> Joined:
    """A key that counts layers, with their names instead."""
    (source,) = sources_of(key)
    components = source.pattern.split("/")
    operands: list[Expression] = []
    for name in layers.names:
        components[layers.place] = literal_pattern(name)
        pattern = "/".join(components)
        operands += map_sources(key, lambda _, p=pattern: Source(p)).children
    return dataclasses.replace(key, operands=tuple(operands), over=None)


def _layers_meant(problem: SourceNotFound, around: Surroundings) -> _Stack:
    """The layers that an entry should count; of no names where there are none."""
    key, components = source_of_entry(problem.entry), problem.source.split("/")
    places = [place for place, text in enumerate(components) if "{" in text]
    none = _Stack(0, "", "", (), 0)
    if not isinstance(key, Joined) or len(list(sources_of(key))) != 1:
        return none
    # Of two captures that count, or of many components, nothing is said.
    if len(places) != 1 or len(components) > _MAX_DEPTH:
        return none
    place = places[0]
    before, _, after = components[place].partition("{")
    after = after.partition("}")[2]
    parent = "/".join([*components[:place], ""])
    below = "/".join(["", *components[place + 1 :]])
    children = itertools.islice(around.tensors.children_of(parent), _MAX_CHILDREN)
    names = {child.rstrip("/"): None for child in children}
    meant = tuple(
        name
        for name in names
        if name.startswith(before)
        and name.endswith(after)
        and tensor_of(f"{parent}{name}{below}", around)
    )
    return _Stack(place, before, after, meant if len(meant) > 1 else (), key.axis)


def tensor_of(name: str, around: Surroundings) -> str:
    """A tensor by its name or an alias of it; "" if there is none."""
    spelled = alias_sources(name, name.rpartition("/")[2], FLAX_ALIASES)
    return next((n for n in (name, *spelled) if n in around.tensors), "")


def _stacks_of(name: str, shape: tuple[int, ...], around: Surroundings) -> list[_Stack]:
    """The ways to stack a tensor and those of other layers to a shape."""
    stored = around.manifest.shape_of(name)
    axes = [a for a in range(len(shape)) if (*shape[:a], *shape[a + 1 :]) == stored]
    # Most tensors are no layer of any stack: nothing is looked for.
    if not axes or all(shape[axis] < 2 for axis in axes):
        return []
    return [
        stack
        for candidate in _families_of(name, {shape[axis] for axis in axes}, around)
        for axis in axes
        if _has_shape(stack := candidate._replace(axis=axis), name, shape, around)
    ]


def _families_of(name: str, counts: Set[int], around: Surroundings) -> Iterator[_Stack]:
    """Yields layers that differ in one component, as many as a stack may hold."""
    components = name.split("/")[:_MAX_DEPTH]
    alike = around.tensors_by_template.get(template_of(name), ())
    for place, component in enumerate(components):
        parent = "".join(f"{c}/" for c in components[:place])
        numbers = list(_NUMBER.finditer(component))
        if len(numbers) == 1 and len(alike) >= min(counts):
            start, stop = numbers[0].span()
            ending = "/".join([component[stop:], *components[place + 1 :]])
            beginning = parent + component[:start]
            count = sum(n.startswith(beginning) and n.endswith(ending) for n in alike)
            if count in counts:
                yield _Stack(place, component[:start], component[stop:], (), 0)
        # Of TensorFlow's numbers, the first is left out.
        first = component[: numbers[0].start()].rstrip("_") if numbers else component
        is_first = f"{parent}{first}/" in around.tensors
        if (
            place + 1 < len(components)
            and is_first
            and (f"{parent}{first}_1/" in around.tensors)
        ):
            for family in families_under(parent, around.tensors):
                names = tuple(family.components.values())
                if family.is_unnumbered and component in names and len(names) in counts:
                    yield _Stack(place, "", "", names, 0)


def _has_shape(
    stack: _Stack, name: str, shape: tuple[int, ...], around: Surroundings
) -> bool:
    """True if stacked tensors have a shape."""
    try:
        stacked = stack.of(Source(literal_pattern(name)))
        expanded = find_source(stacked, around.manifest)
        if expanded.missing:
            return False
        return lower(expanded.expression, around.manifest.spec).shape == shape
    except AssignmentError:
        return False
