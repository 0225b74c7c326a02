"""Views of moving averages and of slots, under the names of their variables.

So that one assignment map fills weights, averages and the state of an optimizer. What
belongs to which variable, `_base.roles` says. Nothing is read here.
"""

from __future__ import annotations

import abc
import functools
from typing import ClassVar, NamedTuple

from tf2flax._base.caller import show_value, warn_caller
from tf2flax._base.errors import (
    AssignmentError,
    CheckpointError,
    NotFoundError,
    TensorNotFoundError,
)
from tf2flax._base.manifest import Manifest, StoredNames, TensorEntry
from tf2flax._base.roles import VARIABLE, Role, Roles
from tf2flax._base.text import list_names

from .slots import ANY_VARIABLE, Sources, find_slots, slot_label


class _TrainingView(Manifest):
    """Names of variables, some of which stand for other tensors of a checkpoint."""

    # A new variable is stored under its name, a new slot is not.
    _shows_variables: ClassVar[bool] = True

    def __init__(self, base: Manifest, sources: Sources) -> None:
        """Takes what stands for what.

        Args:
            base: The checkpoint.
            sources: Names -> names in the checkpoint.
        """
        self._base = base
        self._sources = dict(sources)
        self._listed = frozenset(base.names)

    @property
    def prefix(self) -> str:
        """Absolute path or URL of the checkpoint, without suffix."""
        return self._base.prefix

    @property
    def index_path(self) -> str:
        """The file that lists the tensors, for messages."""
        return self._base.index_path

    @abc.abstractmethod
    def _source_of(self, listed: str) -> str | None:
        """Name in the checkpoint below; None for names that the view lacks.

        Args:
            listed: A name that the checkpoint below lists, or one that several share.
        """

    def _source(self, name: str) -> str | None:
        if name in self._listed or name not in self._base:
            return self._source_of(name)
        if self._base.is_shared(name):
            return self._source_of(name)
        # Another path to a variable, which the checkpoint does not list: what stands
        # for the variable stands for it under any of its names.
        plain = name.removesuffix(":0")
        if plain in self._listed:
            return self._source_of(plain)
        try:
            listed = self._names_by_place.get(self._base.stored().places(name))
        except CheckpointError:
            return None
        return None if listed is None else self._source_of(listed)

    @functools.cached_property
    def _names_by_place(self) -> dict[tuple[str, ...], str]:
        """Stored names of variables -> the names that the checkpoint below lists."""
        places = self._base.stored().places
        return {places(name): name for name in self._base.names}

    def __contains__(self, name: object) -> bool:
        """Tells whether the view has this name; no entry is decoded."""
        return isinstance(name, str) and self._source(name) is not None

    def is_shared(self, name: str) -> bool:
        """Tells whether several variables have this name."""
        source = self._source(name)
        return source is not None and self._base.is_shared(source)

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks the index of the checkpoint below; see `Manifest`."""
        return self._base.index_damage()

    def entry(self, name: str) -> TensorEntry:
        """Finds what stands for a variable.

        Args:
            name: Name of the variable.

        Returns:
            The entry, under this name.

        Raises:
            TensorNotFoundError: The view lacks the name, or (`SharedNameError`) several
                variables have it.
            DamagedError: Its entry is malformed.
        """
        source = self._source(name)
        if source is None:
            raise TensorNotFoundError(name, self.index_path)
        return self._base.entry(source)._replace(name=name)

    def stored(self) -> StoredNames:
        """As `Manifest.stored`: what stands for a variable is written, not itself."""
        below = self._base.stored()

        def places(name: str) -> tuple[str, ...]:
            source = self._source(name)
            if source is None:
                raise TensorNotFoundError(name, self.index_path)
            return below.places(source)

        return StoredNames(
            below.manifest,
            places,
            averages={**below.averages, **self._averages(below)},
            takes_new_names=self._shows_variables and below.takes_new_names,
        )

    def _averages(self, below: StoredNames) -> dict[str, str]:
        """Stored names of averages -> those of the variables that stand for them."""
        return {}


class AveragedManifest(_TrainingView):
    """All tensors but averages; variables that have one stand for it."""

    def __init__(self, base: Manifest, average: str) -> None:
        """Finds the moving averages of variables.

        Args:
            base: The checkpoint.
            average: Their name, the last component of those of tensors; with a scope
                before it, `train/…/ema`, only those in that scope.

        Raises:
            AssignmentError: It is not a name, or a variable has several of this name.
            NotFoundError: No variable has one.
        """
        if not isinstance(average, str) or not average:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AssignmentError(
                "by_moving_average: expected the name of moving averages, got "
                f"{show_value(average)}."
            )
        self._average = average
        averages = _find_averages(base, base.roles(), average)
        super().__init__(base, averages.sources)
        self._hidden = frozenset({*averages.sources.values(), *averages.others})
        self._names = tuple(name for name in base.names if name not in self._hidden)

    @property
    def names(self) -> tuple[str, ...]:
        """All names but those of averages, sorted."""
        return self._names

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Names that several variables have, sorted."""
        return self._base.shared_names

    @property
    def averaged(self) -> tuple[str, ...]:
        """Variables that stand for their moving averages, sorted."""
        return tuple(sorted(self._sources))

    def _averages(self, below: StoredNames) -> dict[str, str]:
        return {
            average: variable
            for name, source in self._sources.items()
            for average, variable in zip(
                below.places(source), below.places(name), strict=False
            )
        }

    def _source_of(self, listed: str) -> str | None:
        if listed in self._sources:
            return self._sources[listed]
        return listed if listed in self._base and listed not in self._hidden else None

    def hint(self, name: str) -> str:
        """Says which variable stands for an average."""
        for variable, source in self._sources.items():
            if source == name:
                return f"This is a view: `{variable}` stands for its moving average."
        if name in self._hidden:
            return "It is a moving average: use the checkpoint itself, not this view."
        return self._base.hint(name)

    def roles(self, *, may_read: bool = True) -> Roles:
        """Roles of the tensors below; what stands for an average is a variable."""
        return self._base.roles(may_read=may_read)

    def by_variable_name(self) -> Manifest:
        """The averages of the view under the variables' own names."""
        return AveragedManifest(self._base.by_variable_name(), self._average)

    def by_object_path(self) -> Manifest:
        """The averages of the view under paths of attributes."""
        return AveragedManifest(self._base.by_object_path(), self._average)


class SlotManifest(_TrainingView):
    """The slots of one name, under the names of their variables."""

    _shows_variables: ClassVar[bool] = False

    def __init__(self, base: Manifest, slot: str) -> None:
        """Finds the slots of a name.

        Args:
            base: The checkpoint.
            slot: One of its `slots`.

        Raises:
            AssignmentError: It is not a name.
            NotFoundError: The checkpoint has no such slots, or to which variables they
                belong cannot be told.
        """
        if not isinstance(slot, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AssignmentError(
                f"by_slot: expected the name of slots, got {show_value(slot)}."
            )
        slots = find_slots(base)
        sources = slots.sources(slot)
        if sources is None:
            raise slots.not_found(slot)
        super().__init__(base, sources)
        self._slot = slot
        self._unassigned = slots.unassigned_of(slot)
        self._names = tuple(sorted(sources))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables that have the slot, sorted."""
        return self._names

    def _source_of(self, listed: str) -> str | None:
        return self._sources.get(listed)

    def source_of(self, name: str) -> str | None:
        """Name of the slot in the checkpoint below; None where there is none.

        Args:
            name: Any name of the variable.
        """
        return self._source(name)

    def hint(self, name: str) -> str:
        """Says that a variable has no such slot, and which slots have no variable."""
        if name not in self._base:
            return self._base.hint(name)
        if self._unassigned:
            return (
                f"No slot `{self._slot}` is known to be that of `{name}`. To which "
                "variables these belong, their names do not tell: "
                f"{list_names(self._unassigned)}. Read them by their stored names."
            )
        return f"This is a view: `{name}` has no slot `{self._slot}`."

    def roles(self, *, may_read: bool = True) -> Roles:
        """All of them have the names of variables."""
        return _SlotRoles()

    def by_variable_name(self) -> Manifest:
        """The slots of the view under the variables' own names."""
        return SlotManifest(self._base.by_variable_name(), self._slot)

    def by_object_path(self) -> Manifest:
        """The slots of the view under paths of attributes."""
        return SlotManifest(self._base.by_object_path(), self._slot)


class _SlotRoles(Roles):
    """Roles where all names are those of variables, and stand for their slots."""

    def stands_for_slot(self, name: str) -> bool:
        """True: the view shows slots alone; see `Roles`."""
        del name
        return True

    def of(self, name: str) -> Role:
        """The role of a tensor; see `Roles`."""
        return VARIABLE

    def average(self, name: str, average: str) -> Role:
        """The role of a tensor where averages have a certain name; see `Roles`."""
        return VARIABLE


class _Averages(NamedTuple):
    """Moving averages of a checkpoint.

    Attributes:
        sources: Variables -> their averages of one name.
        others: Names of averages that have another name, or no variable.
    """

    sources: Sources
    others: tuple[str, ...]


def _find_averages(base: Manifest, roles: Roles, average: str) -> _Averages:
    """Finds averages of one name; see `AveragedManifest`."""
    scope, is_scoped, last = average.rpartition(f"/{ANY_VARIABLE}/")
    by_variable: dict[str, list[str]] = {}
    others: list[str] = []
    lost: list[str] = []
    listed = frozenset(base.names)
    for name in base.names:
        role = roles.average(name, last)
        is_meant = role.kind == "average" and role.scope == (
            scope if is_scoped else role.scope
        )
        if is_meant and role.variable in listed:
            by_variable.setdefault(role.variable, []).append(name)
        elif (role := roles.of(name)).kind == "average":
            others.append(name)
            if role.name == last and role.variable is None:
                lost.append(name)
    if not by_variable:
        raise _no_averages(base, roles, average, others, lost)
    for variable, averages in by_variable.items():
        if len(averages) > 1:
            labels = [slot_label(roles.average(name, last)) for name in averages]
            raise AssignmentError(
                f"by_moving_average: `{variable}` has {len(averages)} averages {last}: "
                f"{list_names(averages)} - in `{base.index_path}`. Ask for one of "
                f"{list_names(labels)}."
            )
    if lost:
        warn_caller(
            "by_moving_average: to which variables these averages belong, their names "
            f"do not tell, so that the variables stand for themselves: "
            f"{list_names(lost)} - in `{base.index_path}`. Read them by their stored "
            "names."
        )
    sources = {variable: averages[0] for variable, averages in by_variable.items()}
    return _Averages(sources, tuple(others))


def _no_averages(
    base: Manifest, roles: Roles, average: str, others: list[str], lost: list[str]
) -> NotFoundError:
    """The error that no variable has a moving average of some name."""
    names = sorted({slot_label(roles.of(name)) for name in others})
    if lost:
        fix = f"To which variables these belong is not known: {list_names(lost)}."
    elif average in find_slots(base).by_label:
        fix = f'These are slots: use by_slot("{average}").'
    elif names:
        fix = f"There are {list_names(names)}."
    else:
        fix = "It holds no moving averages: use the checkpoint itself, not this view."
    return NotFoundError(
        f"No variable has a moving average `<variable>/{average}` - in "
        f"`{base.index_path}`. {fix}"
    )
