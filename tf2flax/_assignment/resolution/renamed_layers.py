"""Layers that the checkpoint has under other names or numbers than a map needs.

    needed   Dense_0, Dense_1, Dense_2
    there    dense, dense_1, dense_2         TensorFlow numbers from the second one on
    there    dense_8, dense_9, dense_10      other numbers
    there    layer_1, layer_2, layer_3       other names as well, if nothing else fits

All that is needed of each layer must be there, in one way only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Source

from .entry_labels import fills_scope
from .layer_families import LayerFamily, families_under, letters_of, split_number
from .problems import SourceNotFound, group_by_key
from .suggestions import Surroundings, source_of_entry

# Scopes with layers that are looked at, and layers under one.
_MAX_PARENTS: Final = 50
_MAX_FAMILIES: Final = 50
# Layers of other names are taken to be meant if they are several.
_MIN_OTHERS: Final = 2

# A scope that is missing, or a name, and the problem.
Missing = Sequence[tuple[SourceNotFound, str]]


@dataclasses.dataclass(frozen=True, slots=True)
class NeededLayer:
    """A layer that an entry of a map needs.

    Attributes:
        parent: Scope around it.
        before: Its name before its number.
        number: Its number.
        value: Scope of its leaves; of an entry that names leaves, "".
        needs: Names below its scope, and the leaf of each.
        problem: A problem of its, or of a layer beside it.
        is_there: True if the checkpoint has it under this number; if others have other
            numbers, that is another layer.
    """

    parent: str
    before: str
    number: int
    value: str
    needs: tuple[tuple[str, str], ...]
    problem: SourceNotFound
    is_there: bool = False

    @property
    def scope(self) -> str:
        """The scope of its tensors, as the map has it."""
        return f"{self.parent}{self.before}{self.number}/"

    @property
    def entry(self) -> MapEntry:
        """The entry that needs it."""
        return self.problem.entry


@dataclasses.dataclass(frozen=True, slots=True)
class MovedLayers:
    """Layers of one entry, and where the checkpoint has them.

    Attributes:
        family: The layers of the checkpoint, of the first scope with layers.
        pairs: Each layer that is needed, and the scope of its tensors.
        is_alike: True if the layers have names that are alike.
    """

    family: LayerFamily
    pairs: tuple[tuple[NeededLayer, str], ...]
    is_alike: bool

    @property
    def changed(self) -> list[tuple[NeededLayer, str]]:
        """The layers that are elsewhere than the map has them."""
        return [(layer, scope) for layer, scope in self.pairs if layer.scope != scope]

    @property
    def shift(self) -> int:
        """By how much the numbers that are needed are higher, in the first scope."""
        parent = self.pairs[0][0].parent
        needed = {layer.number for layer, _ in self.pairs if layer.parent == parent}
        return min(needed) - min(self.family.components)


def find_moved_layers(
    missing: Missing, around: Surroundings, *, any_name: bool
) -> list[MovedLayers]:
    """Finds the layers of the checkpoint that a map needs by other names or numbers.

    Args:
        missing: Problems, and the scope of each under which nothing lies. These scopes
            differ by numbers alone.
        around: Names of the checkpoint and the target.
        any_name: True if the layers may be called otherwise altogether.

    Returns:
        The layers of each entry; [] unless all that is missing is there, in one way
        only.
    """
    problems = [problem for problem, _ in missing]
    groups = group_by_key(problems, [problem.entry.number for problem in problems])
    results: list[MovedLayers] = []
    for group in groups:
        members = [missing[number] for number in group]
        moved = _find_of_entry(members, around, any_name=any_name)
        if moved is None or (results and moved.family != results[0].family):
            return []
        results.append(moved)
    return results


def _find_of_entry(
    missing: Missing, around: Surroundings, *, any_name: bool
) -> MovedLayers | None:
    entry = missing[0][0].entry
    if not isinstance(source_of_entry(entry), Source):
        return None  # the entry does more to its tensors than what is proposed
    layers = _layers_of(missing)
    parents = list(dict.fromkeys(layer.parent for layer in layers))
    if not layers or len(parents) > _MAX_PARENTS:
        return None
    families = {parent: families_under(parent, around.tensors) for parent in parents}
    layers += [
        layer
        for parent in parents
        for layer in _layers_in_use(layers, parent, families[parent], around)
    ]
    wanted = letters_of(layers[0].before)
    ranked: dict[int, list[MovedLayers]] = {}
    for family in families[parents[0]][:_MAX_FAMILIES]:
        is_alike = bool(wanted) and family.letters.startswith(wanted)
        if is_alike or any_name:
            rank = 0 if family.letters == wanted else 1 if is_alike else 2
            moved = _match_family(family, layers, families, around, is_alike=is_alike)
            ranked.setdefault(rank, []).extend(moved)
    if not ranked:
        return None
    likely = ranked[min(ranked)]  # what is called so is meant, or nothing is
    if len(likely) != 1:
        return None
    moved = likely[0]
    if not any_name and not (moved.family.is_unnumbered or moved.shift):
        return None
    is_guess = not moved.is_alike or not moved.family.is_unnumbered
    return None if is_guess and len(moved.pairs) < _MIN_OTHERS else moved


def _layers_of(missing: Missing) -> list[NeededLayer]:
    """The layers that are missing; [] unless all that is missing lies in layers."""
    layers: dict[tuple[str, str], NeededLayer] = {}
    needs: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
    for problem, root in missing:
        parent, slash, component = root[:-1].rpartition("/")
        item = problem.source[len(root) :].partition("/")[0]
        name = split_number(component)
        if name is None and item.isdecimal():  # `blocks/0/`: a list of layers
            name = split_number(f"{component}/{item}")
        if name is None or not problem.leaf:
            return []
        scope = f"{parent}{slash}{name.before}{name.number}/"
        below, value = problem.source[len(scope) :], ""
        if fills_scope(problem.entry):
            if not below or not problem.leaf.endswith(f"/{below}"):
                return []
            value = problem.leaf[: -len(below)]
        needs.setdefault((scope, value), {})[below, problem.leaf] = None
        layers[scope, value] = NeededLayer(parent + slash, *name, value, (), problem)
    return [
        dataclasses.replace(layer, needs=tuple(needs[key]))
        for key, layer in layers.items()
    ]


def _layers_in_use(
    layers: Sequence[NeededLayer],
    parent: str,
    families: Sequence[LayerFamily],
    around: Surroundings,
) -> Iterator[NeededLayer]:
    """Yields the layers beside those that are missing, of which tensors fill leaves."""
    beside = [layer for layer in layers if layer.parent == parent]
    first = beside[0]
    missing = {layer.number for layer in beside}
    # They stay as they are only if what moves leaves their tensors alone.
    values = {_without_number(layer): layer for layer in beside}
    numbers = {
        number
        for family in families
        if family.before == first.before
        for number in family.components
        if number not in missing
        and f"{parent}{first.before}{number}/" in around.tensors
    }
    for number in sorted(numbers):
        for value, layer in values.items():
            used = dataclasses.replace(
                layer,
                number=number,
                value=value.replace("\0", str(number)),
                needs=(),
                is_there=True,
            )
            needs = tuple(_needs_in_use(used, around))
            if needs:
                yield dataclasses.replace(used, needs=needs)


def _without_number(layer: NeededLayer) -> str:
    """The scope of the leaves of a layer, with a mark in place of its number."""
    name = split_number(layer.value[:-1])
    if name is None or name.number != layer.number:
        return layer.value
    return f"{name.before}\0/"


def _needs_in_use(
    layer: NeededLayer, around: Surroundings
) -> Iterator[tuple[str, str]]:
    """Yields names below a layer that fill leaves now, and the leaves."""
    if not fills_scope(layer.entry):
        taken = around.taken.get(layer.entry.number, ())
        below = around.tensors.range_under(layer.scope)
        if any(around.tensors.names[i] in taken for i in below):
            yield "", ""
        return
    for i in around.leaves.range_under(layer.value):
        leaf = around.leaves.names[i]
        below = leaf[len(layer.value) :]
        tensor = find_tensor(layer.scope, below, around)
        if around.is_taken(layer.entry, tensor):
            yield below, leaf


def find_tensor(scope: str, below: str, around: Surroundings) -> str:
    """The tensor of a scope with a name, perhaps by an alias of it; "" for none."""
    spelled = alias_sources(below, below.rpartition("/")[2], FLAX_ALIASES)
    names = (f"{scope}{name}" for name in (below, *spelled))
    return next((name for name in names if name in around.tensors), "")


def _match_family(
    family: LayerFamily,
    layers: Sequence[NeededLayer],
    families: Mapping[str, Sequence[LayerFamily]],
    around: Surroundings,
    *,
    is_alike: bool,
) -> list[MovedLayers]:
    """The layers, if a family has all of them; [] or one."""
    scopes: dict[tuple[str, int], str] = {}
    for parent, beside in families.items():
        numbers = {layer.number for layer in layers if layer.parent == parent}
        # One name for all parents: another one below each would be a guess.
        same = [f for f in beside if f.before == family.before]
        matched = same[0].match(numbers) if same else {}
        if not matched:
            return []
        for number, component in matched.items():
            scopes[parent, number] = f"{parent}{component}/"
    pairs = tuple((layer, scopes[layer.parent, layer.number]) for layer in layers)
    moving = {layer.scope for layer in layers if layer.is_there}
    fits = all(
        not below or _has(layer, scope, below, leaf, moving, around)
        for layer, scope in pairs
        if layer.scope != scope
        for below, leaf in layer.needs
    )
    moved = MovedLayers(family, pairs, is_alike)
    return [moved] if fits and moved.changed else []


def _has(
    layer: NeededLayer,
    scope: str,
    below: str,
    leaf: str,
    moving: set[str],
    around: Surroundings,
) -> bool:
    """True if a scope has a tensor of a layer that no other layer is to have."""
    tensor = find_tensor(scope, below, around)
    if not tensor or not around.fits(layer.entry, tensor, leaf):
        return False
    return scope in moving or not around.is_taken(layer.entry, tensor)
