"""What speaks for a slot or an average, where its own name alone may mislead.

`train/dense/kernel/Adam` is a slot of `dense/kernel` if an optimizer in `train` has
repeated that name. In `layer2/kernel/Adam`, `layer2` may be a layer, whose own variable
is not in the checkpoint: then it says nothing of another `kernel`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Final

from .role_patterns import (
    AVERAGES,
    CERTAIN_SLOT,
    COUNTER,
    ITERATIONS,
    PLAIN_SLOT,
    POWER,
    SETTING,
    SLOT,
    SLOT_MARKER,
    TRAINING_SCOPE,
)

# An optimizer keeps slots for as many variables, or nothing tells it from a layer.
_SEVERAL: Final = 2
# Scope and variable in the name of what may be a slot: the longest variable that fits.
FindVariable = Callable[[str], tuple[str, str] | None]


class RoleEvidence:
    """Facts about all names of a checkpoint, found when they are asked for."""

    def __init__(
        self,
        names: Collection[str],
        shape_of: Callable[[str], tuple[int, ...] | None],
        find_variable: FindVariable,
    ) -> None:
        """Takes names; looks at none of them yet.

        Args:
            names: All names of the checkpoint.
            shape_of: Their shapes.
            find_variable: Splits the name of a slot; None where no variable fits.
        """
        self._names = names
        self._shape_of = shape_of
        self._find_variable = find_variable
        self._variables_of: dict[str, dict[str, set[str]]] = {}

    def repeats_names(self, scope: str, last: str) -> bool:
        """True if an optimizer, or averages, in a scope repeat names of variables.

        Either the scope holds an optimizer's powers, counter or settings, or is called
        as theirs are (`training/Adam`); or variables have slots there, several and in
        scopes alone, and it is no scope of other variables: those may have had the
        slots, and be left out of the checkpoint.

        Args:
            scope: The scope before the name of a variable, not empty.
            last: Name of the slot or the average.
        """
        if TRAINING_SCOPE.fullmatch(scope) or scope in self._scopes_of_state:
            return True
        by_scope = self._variables_by_scope(last)
        variables = by_scope.get(scope, set())
        if len(variables) < _SEVERAL:
            return False
        # Where slots of this name lie below their variables, those in a layer do, too.
        if by_scope.get(""):
            return False
        return scope not in self._scopes_of_variables or all(
            variable.startswith(f"{scope}/") for variable in variables
        )

    def is_variable(self, name: str, last: str) -> bool:
        """True for what is called like a slot, and is none.

        What has slots is a variable: `att/v` with `att/v/Adam`. Averages may also be
        those of slots, unless the name is one that layers have. What only begins as the
        name of an optimizer has to come in two, `Adam_policy` and `Adam_policy_1`, or
        below several variables.

        Args:
            name: The name.
            last: Its last component.
        """
        slots, averages = self._owners
        if name in slots or (name in averages and PLAIN_SLOT.fullmatch(last)):
            return True
        if _is_certain(last):
            return False
        stem, _, number = name.rpartition("_")
        is_second = number.isdigit() and stem in self._names
        if is_second or f"{name}_1" in self._names:
            return False
        variables = set[str]().union(*self._variables_by_scope(last).values())
        return len(variables) < _SEVERAL

    def _variables_by_scope(self, last: str) -> dict[str, set[str]]:
        """Scopes -> variables whose names stand between them and a last component."""
        if last not in self._variables_of:
            by_scope = self._variables_of[last] = {}
            end = f"/{last}"
            for name in self._names:
                if name.endswith(end) and (split := self._find_variable(name)):
                    by_scope.setdefault(split[0], set()).add(split[1])
        return self._variables_of[last]

    @functools.cached_property
    def _owners(self) -> tuple[frozenset[str], frozenset[str]]:
        """Tensors that have slots, and those that have averages."""
        owners: tuple[set[str], set[str]] = set(), set()
        for name in self._names:
            last = name.rpartition("/")[2]
            if SLOT_MARKER in name or not _may_belong(last):
                continue
            split = self._find_variable(name)
            if split and (not split[0] or self.repeats_names(split[0], last)):
                owners[_is_average(last)].add(split[1])
        return frozenset(owners[0]), frozenset(owners[1])

    @functools.cached_property
    def _scopes_of_state(self) -> frozenset[str]:
        """Scopes that hold what an optimizer keeps for all variables."""
        return frozenset(
            name.rpartition("/")[0]
            for name in self._names
            if _is_state(name.rpartition("/")[2]) and self._shape_of(name) == ()
        )

    @functools.cached_property
    def _scopes_of_variables(self) -> frozenset[str]:
        """Scopes that hold, at any depth, what is no slot, average or counter."""
        scopes: set[str] = set()
        for name in self._names:
            scope, _, last = name.rpartition("/")
            is_step = COUNTER.fullmatch(last) or _is_state(last)
            if _may_belong(last) or (is_step and self._shape_of(name) == ()):
                continue
            while scope and scope not in scopes:
                scopes.add(scope)
                scope = scope.rpartition("/")[0]
        return frozenset(scopes)


# There are many names, and few last components.
@functools.lru_cache(maxsize=1024)
def _may_belong(last: str) -> bool:
    """True for the names of slots and averages."""
    return _is_average(last) or SLOT.fullmatch(last) is not None


@functools.lru_cache(maxsize=1024)
def _is_average(last: str) -> bool:
    return AVERAGES.fullmatch(last) is not None


@functools.lru_cache(maxsize=1024)
def _is_certain(last: str) -> bool:
    return CERTAIN_SLOT.fullmatch(last) is not None


@functools.lru_cache(maxsize=1024)
def _is_state(last: str) -> bool:
    """True for what an optimizer calls that which it keeps for all variables."""
    return last in ITERATIONS or bool(POWER.fullmatch(last) or SETTING.fullmatch(last))
