"""Finds half-loaded normalisations: scale or bias are loaded, mean or variance are not.

A batch normalisation with the scale of the checkpoint and the initial mean and variance
computes wrong values, which no error of shapes or names reveals. Only names are looked
at. In linen the statistics are in another collection (`params/bn/scale`,
`batch_stats/bn/mean`), in NNX beside the scale (`bn/scale`, `bn/mean`).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tf2flax._base.collapsing import collapse
from tf2flax._base.manifest import Manifest
from tf2flax._base.role_patterns import AVERAGE, VARIABLE_SUFFIX
from tf2flax._base.text import and_more

from .assignments import Assignment, Resolution

Aliases = Mapping[str, tuple[str, ...]]

# Names of the statistics in targets and checkpoints, besides those in aliases.
_SPELLINGS: Final = {
    "mean": ("mean", "moving_mean", "running_mean", "pop_mean"),
    "var": (
        *("var", "variance", "moving_var", "moving_variance"),
        *("running_var", "running_variance", "pop_var", "pop_variance"),
    ),
}
# Names of scale and bias; a prefix may stand before them in the same component of a
# tensor's name (`bn1_gamma`).
_AFFINE: Final = ("scale", "bias", "gamma", "beta", "offset", "weight", "g", "b")
_AFFINE_AT_END: Final = re.compile(rf"(?:(.*[_.-]))?(?:{'|'.join(_AFFINE)})")
# Collections of linen. A leaf's name without them begins with that of its module.
_COLLECTIONS: Final = frozenset({"params", "batch_stats"})
# What may follow a variable's own name in a checkpoint.
_SUFFIX: Final = re.compile(rf"(/{AVERAGE}(_\d+)?|{re.escape(VARIABLE_SUFFIX)}|:0)*$")
# What follows the name of a statistic in Sonnet 2, before such a suffix.
_AVERAGE: Final = "/average"
# Lines of normalisations that a warning names.
_MAX_NAMED: Final = 60
# The variables of a Keras 3 layer, by number: [scale], [bias], mean, variance.
_NUMBERED: Final = re.compile(r"(.*/vars/)(\d)")


@dataclasses.dataclass(frozen=True, slots=True)
class HalfNorm:
    """A normalisation of which only scale or bias are loaded.

    Attributes:
        name: Name of the module in the target, as it is in the names of scale and bias.
        kept: Names of its statistics, which stay as they are.
        tensors: Tensors of the checkpoint that would fill them, in the same order.
    """

    name: str
    kept: tuple[str, ...]
    tensors: tuple[str, ...]


def find_half_norms(
    resolution: Resolution, manifest: Manifest, aliases: Aliases | None
) -> tuple[HalfNorm, ...]:
    """Finds normalisations of which scale or bias are loaded, but statistics are not.

    Statistics that the checkpoint does not have beside the scale or bias are left out,
    and so are those that `on_mismatch` keeps, which the plan lists already.

    Args:
        resolution: Meaning of the map.
        manifest: The checkpoint.
        aliases: Option `aliases`: last components of leaves -> those of tensors.

    Returns:
        The normalisations, in the order of the target.
    """
    kinds = _kinds_of_names(aliases or {})
    mismatched = {gap.leaf for gap in resolution.mismatched}
    kept = [
        (name, kind)
        for name in resolution.kept
        if (kind := kinds.get(name.rpartition("/")[2])) and name not in mismatched
    ]
    if not kept:
        return ()
    names_by_kind = _tensor_names_by_kind(kinds, resolution.assignments)
    used = {
        name for assignment in resolution.assignments for name in assignment.sources
    }
    scales = _LoadedScales(resolution.assignments)

    @functools.cache  # many leaves of a flat model have the same candidates
    def find_norm(key: _ModuleKey, kind: str) -> tuple[str, str] | None:
        """The first norm whose statistic the checkpoint has: module and tensor."""
        for assignment in scales.with_key(key):
            tensors = _statistics_of(assignment, names_by_kind[kind], kind, manifest)
            tensor = next(tensors, "")
            # If the module is a guess, a tensor that fills another leaf is not its own.
            if tensor and (key.is_certain or tensor not in used):
                return assignment.leaf.rpartition("/")[0] or "/", tensor
        return None

    by_norm: dict[str, list[tuple[str, str]]] = {}
    for leaf, kind in kept:
        if norm := find_norm(scales.key_of_module(leaf), kind):
            module, tensor = norm
            by_norm.setdefault(module, []).append((leaf, tensor))
    return tuple(
        HalfNorm(module, *map(tuple, zip(*pairs, strict=True)))
        for module, pairs in by_norm.items()
    )


def describe_half_norms(norms: Sequence[HalfNorm]) -> str:
    """States which normalisations are only half loaded; "" if there are none."""
    if not norms:
        return ""
    names = [f"`{row.cells[0]}`" for row in collapse([(norm.name,) for norm in norms])]
    num_hidden = len(names) - _MAX_NAMED
    listed = and_more(", ".join(names[:_MAX_NAMED]), num_hidden)
    hint = " (print the plan)" if num_hidden > 0 else ""
    example = norms[0]
    is_one = len(norms) == 1
    count = "1 normalisation is" if is_one else f"{len(norms)} normalisations are"
    return (
        f"{count} only half loaded: scale or bias come from the checkpoint, but mean "
        "or variance stay as they are, although the checkpoint has them: "
        f"{listed}{hint}. Add entries that fill them, such as `{example.tensors[0]}` "
        f"-> `{example.kept[0]}`."
    )


class _ModuleKey(NamedTuple):
    """Key by which the scales and biases of a statistic's module are looked up.

    Attributes:
        is_certain: True if leaves of this key belong to the same module.
        components: Components of the module's name; if not certain, their number and
            all of them but the first.
    """

    is_certain: bool
    components: tuple[str, ...]


class _LoadedScales:
    """Scales and biases that are loaded, by the module that they may belong to."""

    def __init__(self, assignments: Sequence[Assignment]) -> None:
        self._by_key: dict[_ModuleKey, list[Assignment]] = {}
        for assignment in assignments:
            *module, last = assignment.leaf.split("/")
            if last in _AFFINE:
                for key in (_certain_key(module), _uncertain_key(module)):
                    self._by_key.setdefault(key, []).append(assignment)

    def key_of_module(self, leaf: str) -> _ModuleKey:
        """The key of a statistic's module.

        If a tree was put together by hand, its collections may have any names: modules
        whose names differ only in the first component may be the same.
        """
        *module, _ = leaf.split("/")
        certain = _certain_key(module)
        return certain if certain in self._by_key else _uncertain_key(module)

    def with_key(self, key: _ModuleKey) -> Sequence[Assignment]:
        """The scales and biases of a key."""
        return self._by_key.get(key, ())


def _certain_key(module: Sequence[str]) -> _ModuleKey:
    return _ModuleKey(
        True, tuple(component for component in module if component not in _COLLECTIONS)
    )


def _uncertain_key(module: Sequence[str]) -> _ModuleKey:
    return _ModuleKey(False, (str(len(module)), *module[1:]))


def _kinds_of_names(aliases: Aliases) -> dict[str, str]:
    """Names of statistics -> "mean" or "var"; aliases may add names."""
    kinds = {word: kind for kind, words in _SPELLINGS.items() for word in words}
    for leaf, tensors in aliases.items():
        kind = next((kinds[name] for name in tensors if name in kinds), None)
        kind = kinds.get(leaf, kind)
        if kind is not None:
            kinds |= dict.fromkeys((leaf, *tensors), kind)
    return kinds


def _tensor_names_by_kind(
    kinds: Mapping[str, str], assignments: Sequence[Assignment]
) -> dict[str, tuple[str, ...]]:
    """Names that tensors of each statistic may have; the map itself may use others."""
    names: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for name, kind in kinds.items():
        names[kind][name] = None
    for assignment in assignments:
        kind = kinds.get(assignment.leaf.rpartition("/")[2])
        if kind is not None:
            for source in assignment.sources:
                names[kind][_split_name(source)[1]] = None
    return {kind: tuple(names[kind]) for kind in _SPELLINGS}


def _split_name(tensor: str) -> tuple[str, str, str]:
    """Splits a tensor's name: scope with its `/`, the variable's own name, suffix."""
    match = _SUFFIX.search(tensor)
    assert match is not None  # it can match the empty text at the end
    scope, slash, name = tensor[: match.start()].rpartition("/")
    return scope + slash, name, match[0]


def _statistics_of(
    assignment: Assignment, names: Sequence[str], kind: str, manifest: Manifest
) -> Iterator[str]:
    """Tensors of a statistic that belongs to the scale or bias that fills a leaf.

    Args:
        assignment: The scale or bias.
        names: Names that the statistic may have.
        kind: "mean" or "var".
        manifest: The checkpoint.

    Yields:
        Names of tensors, the likeliest first.
    """
    for source in assignment.sources:
        if numbered := _NUMBERED.fullmatch(source):
            yield from _numbered_statistics(
                numbered[1], int(numbered[2]), kind, manifest
            )
            continue
        scope, name, suffix = _split_name(source)
        affine = _AFFINE_AT_END.fullmatch(name)
        prefix = (affine[1] or "") if affine else ""
        # Statistics rarely have averages: a scale that is loaded from its average may
        # belong to a mean that has none.
        suffixes = dict.fromkeys((suffix, suffix.partition("/Exp")[0], ""))
        for ending in (*suffixes, *(_AVERAGE + suffix for suffix in suffixes)):
            for statistic in names:
                tensor = f"{scope}{prefix}{statistic}{ending}"
                if tensor != source and tensor in manifest:
                    yield tensor


def _numbered_statistics(
    scope: str, number: int, kind: str, manifest: Manifest
) -> Iterator[str]:
    """The last two variables of a Keras 3 layer, if they follow that of a number.

    Scale and bias are optional, so that mean and variance have no fixed numbers.
    """
    present = [i for i in range(10) if f"{scope}{i}" in manifest]
    if len(present) >= 3:
        index = present[-2 if kind == "mean" else -1]
        if index > number:
            yield f"{scope}{index}"
