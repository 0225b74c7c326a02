"""Normalisations of which scale or bias are loaded, and the statistics are not.

A batch normalisation with the checkpoint's scale and the initial mean and variance
computes something else, and no shape or name tells. Knows names alone: linen keeps the
statistics in a collection of their own, `params/bn/scale` and `batch_stats/bn/mean`,
NNX beside the scale, `bn/scale` and `bn/mean`.
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
from tf2flax._base.optimizer_names import VARIABLE_SUFFIX

from .assignments import Assignment, Resolution

Aliases = Mapping[str, tuple[str, ...]]

# What leaves and tensors call the statistics, besides what aliases say.
_SPELLINGS: Final = {
    "mean": ("mean", "moving_mean", "running_mean", "pop_mean"),
    "var": (
        *("var", "variance", "moving_var", "moving_variance"),
        *("running_var", "running_variance", "pop_var", "pop_variance"),
    ),
}
# What leaves and tensors call scale and bias; a word may stand before it in one
# component of a tensor's name (`bn1_gamma`).
_AFFINE: Final = ("scale", "bias", "gamma", "beta", "offset", "weight", "g", "b")
_AFFINE_AT_END: Final = re.compile(rf"(?:(.*[_.-]))?(?:{'|'.join(_AFFINE)})")
# Collections of linen; a leaf's name without them is that of its module.
_COLLECTIONS: Final = frozenset({"params", "batch_stats"})
# What stands behind a variable's own name.
_SUFFIX: Final = re.compile(
    rf"(/ExponentialMovingAverage(_\d+)?|{re.escape(VARIABLE_SUFFIX)}|:0)*$"
)
# What stands behind the name of a statistic in Sonnet 2, before that.
_AVERAGE: Final = "/average"
# Lines of normalisations that a warning names.
_MAX_NAMED: Final = 60
# The variables of a Keras 3 layer, by number: [scale], [bias], mean, variance.
_NUMBERED: Final = re.compile(r"(.*/vars/)(\d)")


@dataclasses.dataclass(frozen=True, slots=True)
class HalfNorm:
    """A normalisation that is loaded by half.

    Attributes:
        name: What the names of its scale and bias begin with.
        kept: Its statistics that stay as they are.
        tensors: The tensors of the checkpoint that would fill them, in that order.
    """

    name: str
    kept: tuple[str, ...]
    tensors: tuple[str, ...]


def find_half_norms(
    resolution: Resolution, manifest: Manifest, aliases: Aliases | None
) -> tuple[HalfNorm, ...]:
    """Finds normalisations of which scale or bias are loaded, and statistics are not.

    Statistics that the checkpoint does not have beside the scale or bias, or that
    `on_mismatch` keeps, are no news.

    Args:
        resolution: What the map means.
        manifest: The checkpoint.
        aliases: Leaf name -> tensor names, of the option.

    Returns:
        The normalisations, in the order of the target.
    """
    spellings = _spellings(aliases or {})
    mismatched = {gap.leaf for gap in resolution.mismatched}
    kept = [
        (name, kind)
        for name in resolution.kept
        if (kind := spellings.get(name.rpartition("/")[2])) and name not in mismatched
    ]
    if not kept:
        return ()
    by_kind = _tensor_spellings(spellings, resolution.assignments)
    used = {
        name for assignment in resolution.assignments for name in assignment.sources
    }
    norms = _Norms(resolution.assignments)

    @functools.cache  # many leaves of a flat model have the same candidates
    def half_of(beside: _Beside, kind: str) -> tuple[str, str] | None:
        """The first of some scales and biases that has a statistic: norm, tensor."""
        for assignment in norms.of(beside):
            tensor = next(_statistics_of(assignment, by_kind[kind], kind, manifest), "")
            if tensor and (beside.is_certain or tensor not in used):
                return assignment.leaf.rpartition("/")[0] or "/", tensor
        return None

    halves: dict[str, list[tuple[str, str]]] = {}
    for leaf, kind in kept:
        if half := half_of(norms.beside(leaf), kind):
            halves.setdefault(half[0], []).append((leaf, half[1]))
    return tuple(
        HalfNorm(norm, *map(tuple, zip(*pairs, strict=True)))
        for norm, pairs in halves.items()
    )


def describe_half_norms(norms: Sequence[HalfNorm]) -> str:
    """States which normalisations are loaded by half.

    Args:
        norms: The normalisations.

    Returns:
        The text of a warning; "" for none.
    """
    if not norms:
        return ""
    names = [f"`{row.cells[0]}`" for row in collapse([(norm.name,) for norm in norms])]
    hidden = len(names) - _MAX_NAMED
    more = f" and {hidden} more (print the plan)" if hidden > 0 else ""
    example = norms[0]
    is_one = len(norms) == 1
    count = "1 normalisation is" if is_one else f"{len(norms)} normalisations are"
    return (
        f"{count} loaded by half: scale or bias come from the checkpoint, but mean or "
        "variance, which it has as well, stay as they are: "
        f"{', '.join(names[:_MAX_NAMED])}{more}. Add entries that fill them, such as "
        f"`{example.tensors[0]}` -> `{example.kept[0]}`."
    )


class _Beside(NamedTuple):
    """Which scales and biases may belong to a statistic's module.

    Attributes:
        is_certain: Whether they do, by the module's name.
        key: The module's name; else its depth, and all but the first component.
    """

    is_certain: bool
    key: tuple[str, ...]


class _Norms:
    """Scales and biases that are loaded, by the modules that they may belong to."""

    def __init__(self, assignments: Sequence[Assignment]) -> None:
        self._found: dict[_Beside, list[Assignment]] = {}
        for assignment in assignments:
            *module, last = assignment.leaf.split("/")
            if last in _AFFINE:
                for beside in (_by_name(module), _by_tail(module)):
                    self._found.setdefault(beside, []).append(assignment)

    def beside(self, leaf: str) -> _Beside:
        """What the scales and biases of a statistic's module are found by.

        Where trees are put together by hand, the collections may be called anything:
        modules whose names differ in the first component alone may be one.
        """
        *module, _ = leaf.split("/")
        certain = _by_name(module)
        return certain if certain in self._found else _by_tail(module)

    def of(self, beside: _Beside) -> Sequence[Assignment]:
        """The scales and biases."""
        return self._found.get(beside, ())


def _by_name(module: Sequence[str]) -> _Beside:
    return _Beside(True, tuple(part for part in module if part not in _COLLECTIONS))


def _by_tail(module: Sequence[str]) -> _Beside:
    return _Beside(False, (str(len(module)), *module[1:]))


def _spellings(aliases: Aliases) -> dict[str, str]:
    """What a name means: "mean" or "var"; aliases may call leaves otherwise."""
    kinds = {word: kind for kind, words in _SPELLINGS.items() for word in words}
    for leaf, tensors in aliases.items():
        kind = next((kinds[name] for name in tensors if name in kinds), None)
        kind = kinds.get(leaf, kind)
        if kind is not None:
            kinds |= dict.fromkeys((leaf, *tensors), kind)
    return kinds


def _tensor_spellings(
    spellings: Mapping[str, str], assignments: Sequence[Assignment]
) -> dict[str, tuple[str, ...]]:
    """What tensors call each statistic, also as the map spells those it loads."""
    words: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for word, kind in spellings.items():
        words[kind][word] = None
    for assignment in assignments:
        kind = spellings.get(assignment.leaf.rpartition("/")[2])
        if kind is not None:
            for source in assignment.sources:
                words[kind][_split(source)[1]] = None
    return {kind: tuple(words[kind]) for kind in _SPELLINGS}


def _split(tensor: str) -> tuple[str, str, str]:
    """A tensor's scope with its `/`, its own name, and what stands behind that."""
    match = _SUFFIX.search(tensor)
    assert match is not None  # it matches nothing at the end as well
    scope, slash, name = tensor[: match.start()].rpartition("/")
    return scope + slash, name, match[0]


def _statistics_of(
    assignment: Assignment, words: Sequence[str], kind: str, manifest: Manifest
) -> Iterator[str]:
    """Tensors that are a statistic beside the scale or bias that fills a leaf."""
    for source in assignment.sources:
        if numbered := _NUMBERED.fullmatch(source):
            yield from _by_number(numbered[1], int(numbered[2]), kind, manifest)
            continue
        scope, name, suffix = _split(source)
        affine = _AFFINE_AT_END.fullmatch(name)
        head = (affine[1] or "") if affine else ""
        # With the suffix (averages of statistics are rare), then without.
        plain = dict.fromkeys((suffix, suffix.partition("/Exp")[0], ""))
        for ending in (*plain, *(f"{_AVERAGE}{one}" for one in plain)):
            for word in words:
                tensor = f"{scope}{head}{word}{ending}"
                if tensor != source and tensor in manifest:
                    yield tensor


def _by_number(scope: str, number: int, kind: str, manifest: Manifest) -> Iterator[str]:
    """The last two variables of a Keras 3 layer, where they follow the scale's."""
    present = [i for i in range(10) if f"{scope}{i}" in manifest]
    if len(present) >= 3:
        index = present[-2 if kind == "mean" else -1]
        if index > number:
            yield f"{scope}{index}"
