"""Query, key and value: one tensor of the checkpoint for three leaves, or the reverse.

    GPT-2 has `c_attn/w`, shape [1, 32, 96]; the target has `q/kernel`, `k/kernel` and
    `v/kernel`, shape [32, 32] each: slices of it.

Only the order that all such models have is suggested, and said to be an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from typing import Final

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Expression, Joined, Source

from .entry_labels import label_of, target_of
from .mismatches import Reason
from .new_entries import NewEntry, add_entries, generalise
from .problems import Cause, Mismatch, SourceNotFound, group_by_key
from .suggestions import Surroundings, source_of_entry

_PARTS: Final = ("query", "key", "value")
_WORDS: Final = {
    **{word: place for place, word in enumerate(_PARTS)},
    **{word[0]: place for place, word in enumerate(_PARTS)},
    **{f"{word[0]}_proj": place for place, word in enumerate(_PARTS)},
}
_FUSED: Final = frozenset({"qkv", "qkv_proj", "c_attn", "query_key_value", "in_proj"})
# Of cross-attention: key and value alone, by the same input.
_FUSED_PAIR: Final = frozenset({"kv", "kv_proj", "key_value", "to_kv"})
_ALL: Final = _FUSED | _WORDS.keys()
_TIMES: Final = {2: "twice", 3: "three times"}
_LISTED: Final = {2: "key and value", 3: "query, key and value"}
# What names of such tensors hold, where one part alone is asked for.
_ATTENTION: Final = ("attn", "attention", "qkv")
# Components of a name that are looked at.
_MAX_DEPTH: Final = 64

# A source, and its leaf.
_Pair = tuple[Expression, str]


def explain_fused(
    problems: Sequence[SourceNotFound], around: Surroundings
) -> tuple[list[Cause], list[SourceNotFound]]:
    """Finds leaves that are parts of one tensor, or several tensors in one.

    Args:
        problems: The problems.
        around: Names of the checkpoint and the target.

    Returns:
        Causes, and the problems that they do not explain.
    """
    causes: list[Cause] = []
    explained: set[int] = set()
    for group in group_by_key(problems, [p.entry.number for p in problems]):
        members = [problems[number] for number in group]
        if not isinstance(source_of_entry(members[0].entry), Source):
            continue
        # Few names have such a component; a map may lack 20,000.
        members = [m for m in members if not _ALL.isdisjoint(m.source.split("/"))]
        for cause in (_explain_parts(members, around), _explain_whole(members, around)):
            if cause is not None:
                causes.append(cause)
                explained |= {id(problem) for problem in cause.problems}
    return causes, [p for p in problems if id(p) not in explained]


def find_slice(problem: Mismatch) -> Reason | None:
    """Finds the slice of a tensor that a leaf is, by its name.

    Args:
        problem: A leaf, and a tensor of another shape.

    Returns:
        The reason; None if the leaf is not a third of the tensor, or half of one of
        key and value.
    """
    words = [c for c in problem.leaf.split("/")[:_MAX_DEPTH] if c in _WORDS]
    is_pair = not _FUSED_PAIR.isdisjoint(problem.source.split("/"))
    count = len(_PARTS) - is_pair
    parts = _parts(problem.source_shape, problem.shape, count)
    if not words or not parts or (is_pair and not _WORDS[words[0]]):
        return None
    # `k` may be any kernel, and `value` that of a game.
    names = f"{problem.source} {problem.leaf}".casefold()
    if not is_pair and not any(word in names for word in _ATTENTION):
        return None
    return Reason(
        f"The tensor is {_TIMES[count]} as large. If it holds {_LISTED[count]} in this "
        "order",
        parts[_WORDS[words[0]] - is_pair],
        is_of_part=True,
    )


def part_of(problem: Mismatch) -> int | None:
    """Which part of a tensor a leaf is by its name; None if it is none."""
    if find_slice(problem) is None:
        return None
    return next(_WORDS[c] for c in problem.leaf.split("/") if c in _WORDS)


def _explain_parts(
    problems: Sequence[SourceNotFound], around: Surroundings
) -> Cause | None:
    """Leaves for query, key and value, where the checkpoint has one tensor."""
    families: dict[tuple[str, str], dict[int, SourceNotFound]] = {}
    for problem in problems:
        for scope, component, below in _splits(problem.source):
            if component in _WORDS:
                family = families.setdefault((scope, below), {})
                family.setdefault(_WORDS[component], problem)
    # By parameter and part, so that the layers of each have one entry.
    pairs: dict[tuple[str, int], list[_Pair]] = {}
    members: list[SourceNotFound] = []
    tensors: list[tuple[str, int]] = []
    for (scope, below), family in families.items():
        places = sorted(family)
        count = len(places)
        if places not in ([0, 1, 2], [1, 2]):
            continue
        fused = _FUSED if count == len(_PARTS) else _FUSED_PAIR
        name = _whole_of(scope, below or "kernel", fused, around)
        shapes = {around.shapes.get(_leaf_of(p)) for p in family.values()}
        if len(shapes) > 1 or not name:
            continue
        parts = _parts(around.manifest.shape_of(name), shapes.pop(), count)
        for place, part in zip(places, parts, strict=False):  # there may be none
            source = part(Source(literal_pattern(name)))
            pair = (source, _leaf_of(family[place]))
            pairs.setdefault((below, place), []).append(pair)
            members.append(family[place])
            tensors.append((name, count))
    if not members:
        return None
    name, count = tensors[0]
    advice = (
        f"`{name}` is {_TIMES[count]} as large: if it holds {_LISTED[count]} in this "
        "order, "
    )
    return _cause(members, advice, list(pairs.values()))


def _explain_whole(
    problems: Sequence[SourceNotFound], around: Surroundings
) -> Cause | None:
    """A leaf for query, key and value together, where the checkpoint has three."""
    pairs: dict[str, list[_Pair]] = {}
    members: list[SourceNotFound] = []
    scopes: list[str] = []
    for problem in problems:
        leaf = problem.leaf or ""
        for scope, component, below in _splits(problem.source):
            if component not in _FUSED or not below:
                continue
            if joined := _joined(scope, below, around.shapes.get(leaf), around):
                pairs.setdefault(below, []).append((joined, leaf))
                members.append(problem)
                scopes.append(scope)
    if not members:
        return None
    advice = (
        f"`{scopes[0]}` holds `query/`, `key/` and `value/`: if the leaf is made of "
        "them in this order, "
    )
    return _cause(members, advice, list(pairs.values()))


def _cause(
    problems: list[SourceNotFound],
    advice: str,
    entries: Sequence[Sequence[_Pair]],
) -> Cause:
    new: list[NewEntry] = []
    for pairs in entries:
        texts = [(repr(source), literal_pattern(leaf)) for source, leaf in pairs]
        general = generalise(texts)
        new.append(NewEntry(*(general or texts[0]), is_example=general is None))
    first, more = problems[0], len(problems) - 1
    fact = first.fact
    if more:
        fact = f"{fact[:-1]}, and {more} more like it."
    text = add_entries(new)
    return Cause(label_of(first.entry), fact, tuple(problems), f"{advice}a{text[1:]}")


def _splits(name: str) -> list[tuple[str, str, str]]:
    """A name at each component: the scope before it, itself, and what is below."""
    components = name.split("/")[:_MAX_DEPTH]
    return [
        (
            "".join(f"{c}/" for c in components[:k]),
            component,
            "/".join(components[k + 1 :]),
        )
        for k, component in enumerate(components)
    ]


def _named_so(scope: str, below: str, around: Surroundings) -> str:
    """The tensor of a scope for a parameter, perhaps by an alias; "" for none."""
    last = below.rpartition("/")[2]
    spelled = (below, *alias_sources(below, last, FLAX_ALIASES))
    names = (f"{scope}{name}" for name in spelled)
    return next((name for name in names if name in around.tensors), "")


def _leaf_of(problem: SourceNotFound) -> str:
    """The leaf that a tensor is meant for."""
    return problem.leaf or target_of(problem.entry)


def _whole_of(scope: str, below: str, fused: Set[str], around: Surroundings) -> str:
    """The tensor of all parts of a scope, in it or a level below; "" for none."""
    scopes = (scope, *(f"{scope}{component}/" for component in sorted(fused)))
    names = (_named_so(candidate, below, around) for candidate in scopes)
    return next(filter(None, names), "")


def _parts(
    whole: tuple[int, ...] | None, shape: tuple[int, ...] | None, count: int
) -> list[Callable[[Expression], Expression]]:
    """What makes each of some parts of a tensor; [] if they do not make it up.

    Of leaves whose last axis is split into heads, the parts are reshaped.
    """
    if indices := _slices(whole, shape, count):
        return [lambda source, index=index: source[index] for index in indices]
    if not shape or len(shape) < 2:
        return []
    merged = (*shape[:-2], shape[-2] * shape[-1])
    return [
        lambda source, index=index, shape=shape: source[index].reshape(shape)
        for index in _slices(whole, merged, count)
    ]


def _slices(
    whole: tuple[int, ...] | None, shape: tuple[int, ...] | None, count: int
) -> list[tuple[int | slice, ...]]:
    """The index of each of some parts in a tensor; [] if they do not make it up."""
    if whole is None or not shape or math.prod(whole) != count * math.prod(shape):
        return []
    # Parts that are stacked, as [3, d, d]; where two axes may be it, none is taken.
    stacked = [
        axis
        for axis in range(len(whole))
        if whole[axis] == count and (*whole[:axis], *whole[axis + 1 :]) == shape
    ]
    if len(stacked) == 1:
        before = (slice(None),) * stacked[0]
        return [(*before, place) for place in range(count)]
    # Axes of length 1, as those of kernels that were convolutions, are left out.
    axes = [axis for axis, size in enumerate(whole) if size != 1]
    if len(axes) != len(shape):
        return []
    longer = [a for a, size in zip(axes, shape, strict=True) if whole[a] != size]
    if len(longer) != 1 or whole[longer[0]] % count:
        return []
    size = whole[longer[0]] // count
    return [
        tuple(
            0 if a not in axes
            else _part(place, size, count) if a == longer[0]
            else slice(None)
            for a in range(len(whole))
        )
        for place in range(count)
    ]  # fmt: skip


def _part(place: int, size: int, count: int) -> slice:
    start, stop = place * size, (place + 1) * size
    return slice(start or None, None if place == count - 1 else stop)


def _joined(
    scope: str, below: str, whole: tuple[int, ...] | None, around: Surroundings
) -> Expression | None:
    """Three tensors as one; None if they do not make up a leaf along one axis only."""
    names = [_named_so(f"{scope}{part}/", below, around) for part in _PARTS]
    shapes = {around.manifest.shape_of(name) if name else None for name in names}
    shape = shapes.pop()
    # Of different shapes, or of none, they are no parts of one tensor.
    if shapes or not shape or whole is None or len(whole) != len(shape):
        return None
    axes = [axis for axis, size in enumerate(shape) if whole[axis] != size]
    if len(axes) != 1 or whole[axes[0]] != len(names) * shape[axes[0]]:
        return None
    sources = tuple(Source(literal_pattern(name)) for name in names)
    return Joined(sources, axes[0], False, None)
