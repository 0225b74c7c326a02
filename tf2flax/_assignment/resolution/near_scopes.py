"""Where the tensors lie that a scope should hold: renamed, or a level away.

asked for `bert/layer_0/q/kernel`, `bert/layer_0/k/kernel`
there are `bert/encoder/layer_0/q/kernel` ...            -> `bert/encoder/layer_0/`
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._base.names import nearest

from .likeness import likeness
from .problems import SourceNotFound
from .scopes import NameTable
from .suggestions import Surroundings, transfer

# Names that are looked for everywhere, and names that are tried under a candidate.
_MAX_SEARCHED: Final = 3
_MAX_SAMPLED: Final = 20
# Components of a scope of which each is left out once.
_MAX_DEPTH: Final = 64
# Candidates that are tried.
_MAX_CANDIDATES: Final = 20
_NUMBER: Final = re.compile(r"(\d+)")


class MovedScope(NamedTuple):
    """Where tensors lie that a scope should hold.

    Attributes:
        scope: The scope instead, "" for the outermost one; None if there is none, or if
            several are as likely.
        holds_names: True if names of the scope lie there, False if only its own name is
            like it.
        rivals: The scopes that are as likely.
    """

    scope: str | None
    holds_names: bool = False
    rivals: tuple[str, ...] = ()


def find_moved_scope(
    missing: Sequence[tuple[SourceNotFound, str]], around: Surroundings
) -> MovedScope:
    """Finds the scope that holds what another one should.

    Args:
        missing: Problems, and the scope of each under which nothing lies. These scopes
            differ by numbers alone.
        around: Names of the checkpoint and the target.

    Returns:
        The scope in place of the first one.
    """
    root, tensors = missing[0][1], around.tensors
    parent, slash, component = root[:-1].rpartition("/")
    like = tensors.like_children(parent + slash, component)
    # `block_0` for `blok_0`, also if `block_10` is as much like it.
    numbered = [_with_numbers_of(component, scope) for scope in like]
    like = [*(scope for scope in numbered if scope in tensors), *like]
    near = {*like, *_without_a_component(root, tensors)}
    elsewhere = _scopes_elsewhere(missing, around)
    step = max(1, len(missing) // _MAX_SAMPLED)
    roots = list(dict.fromkeys(scope for _, scope in missing))
    best: dict[str, tuple[int, int]] = {}
    for candidate in dict.fromkeys([*like, *near, *elsewhere]):
        # One scope for several would give the same tensors to all of them.
        if len({transfer(root, candidate, scope) for scope in roots}) < len(roots):
            continue
        is_named_so = candidate[:-1].rpartition("/")[2] == component
        quality = 2 if candidate in near else int(is_named_so)
        sample = missing[::step]
        hits = sum(
            _has_name(candidate, root, pair, around, any_size=quality > 0)
            for pair in sample
        )
        # What is written like it is meant, whatever its sizes; of others, most fit.
        if candidate not in like and hits and quality:
            fitting = sum(
                _has_name(candidate, root, pair, around, any_size=False)
                for pair in sample
            )
            hits = hits if 2 * fitting > hits else 0
        # Half of them: otherwise names like `kernel` would lie anywhere.
        if hits and 2 * hits >= len(sample):
            best[candidate] = hits, quality
    if best:
        first = max(best.values())
        equal = [scope for scope, rank in best.items() if rank == first]
        if first[1] == 2:
            equal = _most_like(component, equal)
        if len(equal) == 1:
            return MovedScope(equal[0], holds_names=True)
        return MovedScope(None, rivals=tuple(equal))
    taken = around.taken.get(missing[0][0].entry.number, ())
    free = [scope for scope in like if not _is_taken(scope, tensors, taken)]
    return MovedScope(free[0]) if free else MovedScope(None)


def _most_like(component: str, scopes: Sequence[str]) -> list[str]:
    """Of some scopes those whose own names are most like a name."""
    scores = [likeness(component, s[:-1].rpartition("/")[2]) for s in scopes]
    return [s for s, score in zip(scopes, scores, strict=True) if score == max(scores)]


def _has_name(
    candidate: str,
    root: str,
    pair: tuple[SourceNotFound, str],
    around: Surroundings,
    *,
    any_size: bool,
) -> bool:
    """True if a tensor that is missing under a scope lies under another one."""
    problem, scope = pair
    moved = transfer(root, candidate, scope)
    return any(
        moved + name in around.tensors
        and not around.is_taken(problem.entry, moved + name)
        and (any_size or around.fits(problem.entry, moved + name, problem.leaf))
        for name in _spellings(problem.source[len(scope) :])
    )


def _is_taken(scope: str, tensors: NameTable, taken: Collection[str]) -> bool:
    """True if something under a scope fills leaves already."""
    if not taken:
        return False
    return any(tensors.names[i] in taken for i in tensors.range_under(scope))


def _scopes_elsewhere(
    missing: Sequence[tuple[SourceNotFound, str]], around: Surroundings
) -> list[str]:
    """Scopes anywhere under which names lie that another one should hold."""
    root = missing[0][1]
    component = root[:-1].rpartition("/")[2]
    below = [problem.source[len(scope) :] for problem, scope in missing[:_MAX_SEARCHED]]
    scopes = _scopes_with(below, around.tensors)
    ending = f"/{component}/"
    for name in around.tensors.names:
        if (position := name.find(ending)) >= 0:
            scopes.setdefault(name[: position + len(ending)])
    if len(scopes) <= _MAX_CANDIDATES:
        return list(scopes)
    near = nearest(root, scopes, count=_MAX_CANDIDATES)
    return list(near or scopes)[:_MAX_CANDIDATES]


def _without_a_component(root: str, tensors: NameTable) -> list[str]:
    """The scopes that a scope is without one of its components."""
    components = root[:-1].split("/")[:_MAX_DEPTH]
    shorter = [
        "/".join([*components[:k], *components[k + 1 :]]) + "/"
        for k in range(len(components))
        if len(components) > 1
    ]
    return [scope for scope in shorter if scope in tensors]


def find_deeper_scopes(
    scope: str, below: Sequence[str], tensors: NameTable
) -> list[str]:
    """Finds the scopes further down under which names lie.

    Args:
        scope: The scope.
        below: Names without the scope, at least one; none of them lies under it.
        tensors: Names of the checkpoint.

    Returns:
        Scopes that hold all of a sample of the names, in the order of the checkpoint.
    """
    step = max(1, len(below) // _MAX_SAMPLED)
    sample = below[::step]
    endings = tuple(f"/{spelled}" for spelled in _spellings(below[0]))
    deeper: dict[str, None] = {}
    for i in tensors.range_under(scope):
        name = tensors.names[i]
        if name.endswith(endings):
            ending = next(e for e in endings if name.endswith(e))
            deeper[name[: len(name) - len(ending) + 1]] = None
    return [
        candidate
        for candidate in deeper
        if len(candidate) > len(scope)
        and all(
            any(candidate + spelled in tensors for spelled in _spellings(name))
            for name in sample
        )
    ]


def _with_numbers_of(component: str, scope: str) -> str:
    """A scope with the numbers of another name in its last component."""
    parent, slash, last = scope[:-1].rpartition("/")
    numbers, parts = _NUMBER.findall(component), _NUMBER.split(last)
    if len(numbers) != len(parts) // 2:
        return scope
    parts[1::2] = numbers
    return f"{parent}{slash}{''.join(parts)}/"


def _scopes_with(below: Sequence[str], tensors: NameTable) -> dict[str, None]:
    """Scopes anywhere under which names lie."""
    scopes: dict[str, None] = {}
    for name in below:
        # A single component (`kernel`) lies under half of all scopes.
        if "/" not in name.rstrip("/"):
            continue
        endings = tuple(f"/{spelled}" for spelled in _spellings(name))
        for tensor in tensors.names:
            if tensor.endswith(endings):
                ending = next(e for e in endings if tensor.endswith(e))
                scopes[tensor[: len(tensor) - len(ending) + 1]] = None
            elif tensor == name:
                scopes[""] = None
    return scopes


def _spellings(name: str) -> tuple[str, ...]:
    """A name, and the same with other names of its parameter."""
    last = name.rpartition("/")[2]
    return (name, *alias_sources(name, last, FLAX_ALIASES))
