"""Which slots of a checkpoint are the moments that a state of optax has.

Names and roles alone: what is spelled like a first moment, and belongs to the variables
that are asked for. Reads nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest
from tf2flax._base.moments import Moment, spellings
from tf2flax._base.role_patterns import ITERATIONS
from tf2flax._base.text import list_names

from .slots import ANY_VARIABLE, Sources, find_slots
from .training_views import SlotManifest

_SEPARATOR: Final = f"/{ANY_VARIABLE}/"


class MomentSlots:
    """The slots of a checkpoint, found by what they are for their variables.

    Attributes:
        manifest: The checkpoint.
        scopes: Scopes of the optimizers of which slots were taken.
    """

    def __init__(self, manifest: Manifest, prefix: str | None) -> None:
        """Finds the slots.

        Args:
            manifest: The checkpoint, or a view of it.
            prefix: Scope of the optimizer that is meant; None for any.
        """
        self.manifest = manifest
        self.scopes: set[str] = set()
        self._prefix = prefix
        self._slots = find_slots(manifest)
        self._roles = manifest.roles()
        self._views: dict[str, SlotManifest] = {}

    @property
    def counts_iterations(self) -> bool:
        """True if optimizers of Keras or TF2 wrote it, which count their steps."""
        return any(
            role.kind == "counter" and role.name in ITERATIONS
            for role in map(self._roles.of, self.manifest.names)
        )

    def variable_of(self, name: str) -> str:
        """The variable that a tensor is, or of which it is a moving average."""
        role = self._roles.of(name)
        return role.variable if role.kind == "average" and role.variable else name

    def sources(self, label: str) -> Sources:
        """The slots of a label, by variable.

        Raises:
            NotFoundError: There are none.
        """
        sources = self._slots.sources(label)
        if sources is None:
            raise self._slots.not_found(label)
        return sources

    def choose(self, field: str, moment: Moment, variables: Collection[str]) -> str:
        """Chooses the slot that is a moment of variables.

        Args:
            field: The field of the state, for messages.
            moment: What it is.
            variables: Names of the variables.

        Returns:
            The label of the slot, as `Checkpoint.slots` has it.

        Raises:
            AssignmentError: No slot, or several, are spelled so.
        """
        candidates = [
            label
            for labels in self._by_scope(variables).values()
            for name in spellings(moment, labels)
            for label in [labels[name]]
        ]
        if len(candidates) == 1:
            self.use(candidates[0])
            return candidates[0]
        key = field.rpartition("/")[2]
        if candidates:
            raise AssignmentError(
                f"`{field}` ({moment.name}) may be any of the slots "
                f"{list_names(candidates, 20)} - in `{self.manifest.index_path}`. Give "
                f'the one that is meant, slots={{"{key}": "{candidates[0]}"}}, or the '
                "prefix of the optimizer, prefix=."
            )
        raise AssignmentError(
            f"`{field}` ({moment.name}): no slot of these parameters is spelled so - "
            f"in `{self.manifest.index_path}`. {self._present(variables)} Give "
            f'slots={{"{key}": "..."}}, or slots={{"{key}": None}} to keep what the '
            "state holds."
        )

    def use(self, label: str) -> None:
        """Remembers the scope of the optimizer that a slot is of."""
        self.scopes.add(label.rpartition(_SEPARATOR)[0])

    def slot_of(self, label: str, name: str) -> str | None:
        """The slot of a tensor.

        Args:
            label: Label of the slot.
            name: Name of the tensor; a view may not list it.

        Returns:
            Name of the slot; None where the tensor has none.
        """
        variable = self.variable_of(name)
        if (slot := self.sources(label).get(variable)) is not None:
            return slot
        if label not in self._views:
            self._views[label] = SlotManifest(self.manifest, label)
        return self._views[label].source_of(variable)

    def of_variable(self, name: str) -> dict[str, str]:
        """The slots of one tensor: name of the slot -> name of its tensor.

        Args:
            name: Name of the tensor.
        """
        variable = self.variable_of(name)
        return {
            label.rpartition(_SEPARATOR)[2]: slot
            for label in self._labels([variable])
            if (slot := self.slot_of(label, variable)) is not None
        }

    def _by_scope(self, variables: Iterable[str]) -> dict[str, dict[str, str]]:
        """Scopes of optimizers of variables -> names of slots -> labels."""
        scopes: dict[str, dict[str, str]] = {}
        for label in self._labels(variables):
            scope, _, name = label.rpartition(_SEPARATOR)
            scopes.setdefault(scope, {})[name] = label
        return scopes

    def _labels(self, variables: Iterable[str]) -> list[str]:
        """Labels of the slots that some of the variables have."""
        names = {self.variable_of(name) for name in variables}
        return [
            label
            for label, sources in self._slots.by_label.items()
            if self._is_meant(label, sources)
            and (
                not names.isdisjoint(sources)
                or any(self.slot_of(label, n) for n in names - {*self.manifest.names})
            )
        ]

    def _is_meant(self, label: str, sources: Mapping[str, str]) -> bool:
        if self._prefix is None:
            return True
        scope = label.rpartition(_SEPARATOR)[0]
        return f"{scope}/".startswith(self._prefix) or any(
            slot.startswith(self._prefix) for slot in sources.values()
        )

    def _present(self, variables: Iterable[str]) -> str:
        """Says which slots there are."""
        if labels := self._labels(variables):
            return f"They have {list_names(labels, 20)}."
        if labels := list(self._slots.by_label):
            return f"They have none; other variables have {list_names(labels, 20)}."
        return "It holds no slots of known variables."
