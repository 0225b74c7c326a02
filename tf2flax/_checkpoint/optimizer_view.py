"""The slots of a checkpoint, and beside them how many steps were done.

All else is hidden, so that a plan for the state of an optimizer says which slots fill
no leaf, and not which weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tf2flax._base.errors import TensorNotFoundError
from tf2flax._base.manifest import Manifest, TensorEntry
from tf2flax._base.roles import Role, Roles

from .mapping import manifest_of_mapping


class OptimizerManifest(Manifest):
    """Slots under their names, and values that no tensor holds as such.

    Attributes:
        base: The checkpoint.
    """

    def __init__(self, base: Manifest, values: Mapping[str, int]) -> None:
        """Takes the values that are found out of others.

        Args:
            base: The checkpoint.
            values: Numbers, by names that the checkpoint does not have.
        """
        self.base = base
        self._values = manifest_of_mapping(
            {name: np.asarray(value, np.int64) for name, value in values.items()}
        )
        roles = base.roles()
        slots = (name for name in base.names if roles.of(name).kind == "slot")
        self._names = tuple(sorted((*slots, *values)))

    @property
    def prefix(self) -> str:
        """Absolute path or URL of the checkpoint, without suffix."""
        return self.base.prefix

    @property
    def index_path(self) -> str:
        """The file that lists the tensors, for messages."""
        return self.base.index_path

    @property
    def names(self) -> tuple[str, ...]:
        """Names of slots and of values, sorted."""
        return self._names

    def __contains__(self, name: object) -> bool:
        """Tells whether a tensor has this name; no entry is decoded."""
        return name in self._values or name in self.base

    def is_shared(self, name: str) -> bool:
        """Tells whether several tensors have this name."""
        return name not in self._values and self.base.is_shared(name)

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks the index of the checkpoint below; see `Manifest`."""
        return self.base.index_damage()

    def entry(self, name: str) -> TensorEntry:
        """Finds a tensor, or a value.

        Raises:
            TensorNotFoundError: There is neither.
            DamagedError: Its entry is malformed.
        """
        if name in self._values:
            return self._values.entry(name)
        if name not in self.base:
            raise TensorNotFoundError(name, self.index_path)
        return self.base.entry(name)

    def roles(self, *, may_read: bool = True) -> Roles:
        """Roles of the tensors below; values are counters."""
        return _RolesWithCounts(self.base.roles(may_read=may_read), self._values)


class _RolesWithCounts(Roles):
    """Roles of a checkpoint, and of values beside its tensors."""

    def __init__(self, base: Roles, values: Manifest) -> None:
        self._base = base
        self._values = values

    def of(self, name: str) -> Role:
        """The role of a tensor, or of a value; see `Roles`."""
        return Role("counter") if name in self._values else self._base.of(name)

    def average(self, name: str, average: str) -> Role:
        """The role of a tensor where averages have a certain name; see `Roles`."""
        return self._base.average(name, average)
