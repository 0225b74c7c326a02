"""Where the tensors lie that a scope should hold: renamed, or a level away.

asked for `bert/layer_0/q/kernel`, `bert/layer_0/k/kernel`
there are `bert/encoder/layer_0/q/kernel` ...            -> `bert/encoder/layer_0/`
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._base.names import nearest

from .scopes import NameTable
from .suggestions import transfer

# Names that are looked for everywhere, and names that are tried under a candidate.
_MAX_SEARCHED: Final = 3
_MAX_SAMPLED: Final = 20
# Components of a scope of which each is left out once.
_MAX_DEPTH: Final = 64
# Candidates that are tried.
_MAX_CANDIDATES: Final = 20
_NUMBER: Final = re.compile(r"(\d+)")


def find_moved_scope(
    missing: Sequence[tuple[str, str]],
    tensors: NameTable,
    taken: Collection[str] = (),
) -> tuple[str | None, bool]:
    """Finds the scope that holds what another one should.

    Args:
        missing: Names of tensors that are missing, and the scope of each under which
            nothing lies. These scopes differ by numbers alone.
        tensors: Names of the checkpoint.
        taken: Those that fill other leaves already.

    Returns:
        The scope in place of the first one, "" for the outermost; and True if names of
        the others lie under it, False if only its name is like theirs. None if there is
        no such scope.
    """
    root = missing[0][1]
    below = [name[len(scope) :] for name, scope in missing]
    parent, slash, component = root[:-1].rpartition("/")
    like = tensors.like_children(parent + slash, component)
    # `block_0` for `blok_0`, also if `block_10` is as much like it.
    numbered = [_with_numbers_of(component, scope) for scope in like]
    like = [*(scope for scope in numbered if scope in tensors), *like]
    candidates = _scopes_with(below[:_MAX_SEARCHED], tensors)
    if len(candidates) > _MAX_CANDIDATES:
        candidates = (
            list(nearest(root, candidates, count=_MAX_CANDIDATES))
            or (candidates[:_MAX_CANDIDATES])
        )
    best: tuple[int, str | None] = (0, None)
    step = max(1, len(missing) // _MAX_SAMPLED)
    sample = list(zip(missing, below, strict=True))[::step]
    shorter = _without_a_component(root, tensors)
    for candidate in dict.fromkeys([*like, *shorter, *candidates]):
        hits = sum(
            any(
                transfer(root, candidate, scope) + spelled in tensors
                and transfer(root, candidate, scope) + spelled not in taken
                for spelled in _spellings(rest_of_name)
            )
            for (_, scope), rest_of_name in sample
        )
        # Half of them: otherwise names like `kernel` would lie anywhere.
        if 2 * hits >= len(sample) and hits > best[0]:
            best = (hits, candidate)
    if best[1] is not None:
        return best[1], True
    free = [scope for scope in like if not _is_taken(scope, tensors, taken)]
    return (free[0], False) if free else (None, False)


def _is_taken(scope: str, tensors: NameTable, taken: Collection[str]) -> bool:
    """True if something under a scope fills leaves already."""
    if not taken:
        return False
    return any(tensors.names[i] in taken for i in tensors.range_under(scope))


def _without_a_component(root: str, tensors: NameTable) -> list[str]:
    """The scopes that a scope is without one of its components."""
    components = root[:-1].split("/")[:_MAX_DEPTH]
    shorter = [
        "/".join([*components[:k], *components[k + 1 :]]) + "/"
        for k in range(len(components) - 1)
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


def _scopes_with(below: Sequence[str], tensors: NameTable) -> list[str]:
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
    return list(scopes)


def _spellings(name: str) -> tuple[str, ...]:
    """A name, and the same with other names of its parameter."""
    last = name.rpartition("/")[2]
    return (name, *alias_sources(name, last, FLAX_ALIASES))
