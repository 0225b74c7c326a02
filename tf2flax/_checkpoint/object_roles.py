"""Roles of the tensors of an object-based checkpoint, under their stored keys.

The object graph says which slots optimizers of TF2 keep for which variables, and what
all variables are called. Optimizers of Keras 3, and of tf.keras since 2.11, keep a list
of variables: of what they are slots, their names tell.

Source: keras/src/optimizers/base_optimizer.py, `add_variable_from_reference`
(`adam/dense_kernel_momentum`); the same of tf.keras 2.11 (`Adam/m/dense/kernel`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from tf2flax._base.keras_slots import flatten_names, read_slot_name
from tf2flax._base.manifest import Manifest
from tf2flax._base.role_patterns import SLOT_MARKER, VARIABLE_SUFFIX
from tf2flax._base.roles import (
    VARIABLE,
    NamedRoles,
    Role,
    Roles,
    is_of_optimizer_list,
)
from tf2flax._formats.object_graph import Names


class ObjectRoles(Roles):
    """Roles of the tensors of a checkpoint that has an object graph."""

    def __init__(
        self,
        manifest: Manifest,
        keys: Names,
        slots: Mapping[str, tuple[str, str]],
        twins: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Takes what the object graph says.

        Args:
            manifest: The checkpoint, under its stored keys.
            keys: Names of variables -> keys.
            slots: Keys of slots -> key of the variable, and name of the slot.
            twins: Keys of variables that are stored twice -> both keys.
        """
        self._names = frozenset(manifest.names)
        self._shape_of = manifest.shape_of
        self._slots = slots
        self._twins = twins
        self._by_key = NamedRoles(self._names, self._shape_of)
        # A name that several variables share says of none what it is.
        places = {name: twins.get(key[0], key) for name, key in keys.items()}
        self._keys = {
            name: place[0]
            for name, place in places.items()
            if len(place) == 1 or place[0] in twins
        }
        self._name_of = {key: name for name in self._keys for key in keys[name]}
        self._by_name = NamedRoles(
            self._keys.keys(), lambda name: manifest.shape_of(self._keys[name])
        )

    def of(self, name: str) -> Role:
        """The role of a tensor; see `Roles`."""
        role = self._by_key.of(name)
        if name in self._slots:
            variable, slot = self._slots[name]
            is_stored = variable in self._names
            return Role("slot", variable if is_stored else None, slot, role.scope)
        if SLOT_MARKER in name:
            return role
        if role.kind == "slot" and role.variable is None:
            return self._in_list(name) or role
        if role.kind == "variable" and name in self._name_of:
            return self._translated(name, self._by_name.of(self._name_of[name]))
        return role

    def average(self, name: str, average: str) -> Role:
        """The role of a tensor where averages have a certain name; see `Roles`."""
        if self.of(name).kind in ("variable", "average") and name in self._name_of:
            role = self._by_name.average(self._name_of[name], average)
            return self._translated(name, role)
        return VARIABLE

    def _translated(self, key: str, role: Role) -> Role:
        """The role of a name of a variable, with keys."""
        if role.variable is None:
            return role
        variable = self._keys[role.variable]
        places, own_places = self._twins.get(variable), self._twins.get(key)
        if places is not None and own_places is not None:
            # Of a variable and an average in two lists, those in one list.
            variable = places[own_places.index(key)]
        return role._replace(variable=variable)

    def _in_list(self, key: str) -> Role | None:
        """The role of a slot in the list of an optimizer; None if names do not tell."""
        name = self._name_of.get(key, "")
        if not is_of_optimizer_list(key, self._names):
            return None
        shape = self._shape_of(key)
        reading = read_slot_name(
            name, self._keys, self._flat, lambda v: self._shape_of(v) == shape
        )
        if reading is None:
            return None
        variable, slot = reading
        scope = key.removesuffix(VARIABLE_SUFFIX).rpartition("/_variables/")[0]
        return Role("slot", variable, slot, scope)

    @functools.cached_property
    def _flat(self) -> Mapping[str, str]:
        """Names of variables as Keras 3 puts them into those of slots -> keys."""
        return flatten_names(self._keys)
