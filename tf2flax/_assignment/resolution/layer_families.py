"""Layers of the checkpoint that stand side by side, in the order of their numbers.

    dense_8, dense_9, dense_10      numbered
    dense, dense_1, dense_2         TensorFlow numbers from the second one on
    layers/0, layers/1, layers/2    a list

Which of them a map needs is found by their number: all of them, in the same steps.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence, Set
from typing import Final, NamedTuple

from .scopes import NameTable

# What lies under one scope and is looked at.
_MAX_CHILDREN: Final = 1000
# Padded numbers are text: `{i+1}` does not match them.
_NUMBERED: Final = re.compile(r"(.*?)(0|[1-9]\d{0,3})")


class LayerName(NamedTuple):
    """A name that ends in a number: `dense_8`, or `layers/8` of a list."""

    before: str
    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class LayerFamily:
    """Layers that differ by their numbers alone.

    Attributes:
        before: What stands before the numbers: `dense_`.
        components: The number of each, ascending -> its name below the scope around
            them. The first one that has no number is 0.
        is_unnumbered: True if the first one has no number.
    """

    before: str
    components: Mapping[int, str]
    is_unnumbered: bool = False

    @property
    def letters(self) -> str:
        """The name of the layers, to be compared with other ones."""
        return letters_of(self.before)

    def match(self, needed: Set[int]) -> dict[int, str]:
        """Finds the layer that each number stands for.

        Args:
            needed: The numbers that are needed.

        Returns:
            Number that is needed -> name of the layer. {} unless all are there in the
            same steps; of layers that both sides count from 0 on, the last may be more.
        """
        shift = min(needed) - min(self.components)
        if len(needed) != len(self.components) and not (
            self.is_unnumbered and min(needed) == 0
        ):
            return {}
        if not all(number - shift in self.components for number in needed):
            return {}
        return {number: self.components[number - shift] for number in sorted(needed)}


def split_number(name: str) -> LayerName | None:
    """Splits a name without `/` at its end before the number there; or None."""
    match = _NUMBERED.fullmatch(name)
    if match is None or match[1][-1:].isdigit():
        return None
    return LayerName(match[1], int(match[2]))


def letters_of(name: str) -> str:
    """A name without case, `_` and `/`: `BatchNorm` begins `batch_normalization`."""
    return name.replace("_", "").replace("/", "").casefold()


def families_under(scope: str, names: NameTable) -> list[LayerFamily]:
    """Finds the layers directly under a scope, and those of lists there.

    Args:
        scope: The scope; "" for the outermost one.
        names: Names of the checkpoint.

    Returns:
        Families of layers, each a scope that something lies under.
    """
    children = _scopes_under(scope, names)
    numbered: dict[str, dict[int, str]] = {}
    for child in children:
        if layer := split_number(child):
            numbered.setdefault(layer.before, {})[layer.number] = child
        if f"{scope}{child}/0/" in names or f"{scope}{child}/1/" in names:
            for item in _scopes_under(f"{scope}{child}/", names):
                if item.isdecimal() and (layer := split_number(f"{child}/{item}")):
                    members = numbered.setdefault(layer.before, {})
                    members[layer.number] = f"{child}/{item}"
    families: list[LayerFamily] = []
    for before, members in numbered.items():
        # TensorFlow gives the first of several layers no number: dense, dense_1, ...
        first = before.removesuffix("_")
        is_unnumbered = 0 not in members and 1 in members and first in children
        if is_unnumbered:
            members[0] = first
        families.append(
            LayerFamily(before, dict(sorted(members.items())), is_unnumbered)
        )
    return families


def _scopes_under(scope: str, names: NameTable) -> dict[str, None]:
    children = itertools.islice(names.children_of(scope), _MAX_CHILDREN)
    return {child[:-1]: None for child in children if child.endswith("/")}


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
    layers = [split_number(component) for component in rows[places[0]]]
    if not all(layers) or any(layer.number == 0 for layer in layers if layer):
        return ""
    components = tensors[0].split("/")
    stems = {layer.before.removesuffix("_") for layer in layers if layer}
    components[places[0]] = stems.pop()
    first = "/".join(components)
    return first if not stems and first in names else ""
