"""The slots of optimizers: what they are called, and of which variables they are.

Names and roles alone; nothing is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from tf2flax._base.collapsing import list_collapsed
from tf2flax._base.errors import NotFoundError
from tf2flax._base.manifest import Manifest
from tf2flax._base.names import nearest
from tf2flax._base.roles import Role
from tf2flax._base.text import counted, list_names, printable

# What stands for a variable's name between the scope of an optimizer and a slot.
ANY_VARIABLE: Final = "…"
# Variables -> what stands for them.
Sources = Mapping[str, str]


class Slots(NamedTuple):
    """Slots of the optimizers of a checkpoint.

    Attributes:
        place: The file, for messages.
        by_label: Slots -> variables -> names of the tensors. A slot is its name, with
            the scope of the optimizer (`training/…/Adam`) where several share one.
        scoped: The same, each with its scope.
        unassigned: Names of slots -> tensors of which the variable cannot be told.
    """

    place: str
    by_label: Mapping[str, Sources]
    scoped: Mapping[str, Sources]
    unassigned: Mapping[str, tuple[str, ...]]

    @property
    def left_out(self) -> tuple[str, ...]:
        """All tensors that are slots, and nobody knows of what, sorted."""
        return tuple(sorted(n for names in self.unassigned.values() for n in names))

    def sources(self, slot: str) -> Sources | None:
        """Variables -> the tensors that are their slots; None where there are none.

        Args:
            slot: A slot, with or without the scope of the optimizer; also as it stands
                behind the variable's name: `/Adam`, `_slot_vr`.
        """
        for spelled in (slot, slot[1:] if slot[:1] in ("/", "_") else slot):
            for sources in (self.by_label.get(spelled), self.scoped.get(spelled)):
                if sources is not None:
                    return sources
        return None

    def unassigned_of(self, slot: str) -> tuple[str, ...]:
        """Tensors that are such slots, and nobody knows of what.

        Args:
            slot: A slot, with or without the scope of the optimizer.
        """
        return self.unassigned.get(slot.rpartition(f"/{ANY_VARIABLE}/")[2], ())

    def not_found(self, slot: str) -> NotFoundError:
        """The error that there are no such slots, or that they cannot be used."""
        unassigned = self.unassigned_of(slot)
        if unassigned:
            return NotFoundError(
                f"To which variables the slots `{slot}` belong, their names do not "
                f"tell - in `{self.place}`: {list_names(unassigned)}. Read them by "
                "their stored names."
            )
        labels = list(self.by_label)
        shared = [name for name in labels if name.endswith(f"/{ANY_VARIABLE}/{slot}")]
        if shared:
            fix = f"Several optimizers have it: use {list_names(shared, 20)}."
        elif labels:
            close = nearest(slot, labels)
            fix = f"Did you mean `{close[0]}`? " if close else ""
            fix += f"There are {list_names(labels, 20)}."
        else:
            fix = "It holds no slots of known variables."
        if left := self.left_out:
            fix += f" To which variables these belong is not known: {list_names(left)}."
        return NotFoundError(f"No slot `{slot}` found - in `{self.place}`. {fix}")


class SlotNames(Mapping[str, tuple[str, ...]]):
    """Slots -> names of the variables that have them; printed, also what is left out.

    Examples:
        >>> import numpy as np, tf2flax
        >>> names = ("w", "w/Adam", "w/Adam_1", "optimizer/vars/2", "optimizer/vars/3")
        >>> tf2flax.open_checkpoint({name: np.zeros(2) for name in names}).slots
        Slots of the optimizers:
          Adam: 1 variable
          Adam_1: 1 variable
          2 tensors are left out, since nothing tells of what variables they are slots:
            `optimizer/vars/{2..3}`
    """

    __slots__ = ("_slots",)

    def __init__(self, slots: Slots) -> None:
        """Wraps slots; made by `Checkpoint.slots`."""
        self._slots = slots

    def __getitem__(self, slot: str) -> tuple[str, ...]:
        """Names of the variables that have a slot, sorted."""
        return tuple(sorted(self._slots.by_label[slot]))

    def __iter__(self) -> Iterator[str]:
        """Iterates over the slots, sorted."""
        return iter(self._slots.by_label)

    def __len__(self) -> int:
        """Number of slots."""
        return len(self._slots.by_label)

    def __repr__(self) -> str:
        """A line for each slot, and what is left out."""
        lines = ["Slots of the optimizers:" + " none" * (not self._slots.by_label)]
        for slot, variables in self._slots.by_label.items():
            lines.append(f"  {printable(slot)}: {counted(len(variables), 'variable')}")
        if left := self._slots.left_out:
            fact = (
                "1 tensor is left out, since nothing tells of what variable it is a "
                "slot:"
                if len(left) == 1
                else f"{len(left)} tensors are left out, since nothing tells of what "
                "variables they are slots:"
            )
            lines += [f"  {fact}", f"    {list_collapsed(left, 10)}"]
        return "\n".join(lines)


def find_slots(manifest: Manifest) -> Slots:
    """Finds the slots of a checkpoint.

    Args:
        manifest: The checkpoint.
    """
    roles = manifest.roles()
    listed = frozenset(manifest.names)
    by_name: dict[str, dict[str, dict[str, list[str]]]] = {}
    unassigned: dict[str, list[str]] = {}
    for name in manifest.names:
        role = roles.of(name)
        if role.kind != "slot":
            continue
        if role.variable not in listed:
            unassigned.setdefault(role.name, []).append(name)
            continue
        scopes = by_name.setdefault(role.name, {})
        scopes.setdefault(role.scope, {}).setdefault(role.variable, []).append(name)
    labelled: dict[str, Sources] = {}
    scoped: dict[str, Sources] = {}
    for name, scopes in sorted(by_name.items()):
        for scope, tensors in sorted(scopes.items()):
            sources = {v: names[0] for v, names in tensors.items() if len(names) == 1}
            # Of two that are called alike, nothing tells which is meant.
            doubles = [n for names in tensors.values() if len(names) > 1 for n in names]
            if doubles:
                unassigned.setdefault(name, []).extend(doubles)
            if not sources:
                continue
            label = slot_label(Role("slot", None, name, scope))
            scoped[label] = sources
            labelled[label if len(scopes) > 1 else name] = sources
    left = {name: tuple(tensors) for name, tensors in unassigned.items()}
    return Slots(manifest.index_path, dict(sorted(labelled.items())), scoped, left)


def slot_label(role: Role) -> str:
    """The name of a slot or an average, with the scope that it is in."""
    return f"{role.scope}/{ANY_VARIABLE}/{role.name}" if role.scope else role.name
