"""Copies of tensors that belong to variables with new values: to warn about them.

Averages and slots belong to one variable, counters to all. A variable is compared with
the stored one when it is written: by its checksum, or by reading the stored one again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from tf2flax._base.collapsing import list_collapsed
from tf2flax._base.manifest import Manifest, TensorEntry
from tf2flax._base.memory import bytes_of, view_at
from tf2flax._base.text import counted
from tf2flax._base.values import Box
from tf2flax._checkpoint.stored_tensor import StoredTensor
from tf2flax._formats.wire.coding import crc32c, mask
from tf2flax._reading.whole import read_entry

# Names that a warning shows, each of which may stand for a range of numbers.
_MAX_NAMES: Final = 10


class StaleCopies:
    """Compares what is written, and knows which copies no longer belong to it.

    Attributes:
        dropped: Slots and averages of tensors that get another shape, order or dtype:
            no model could restore them, or they would belong to other rows.
    """

    def __init__(
        self,
        manifest: Manifest,
        written: Iterable[str],
        copied: Iterable[str],
        renewed: Collection[str] = (),
        copies: Mapping[str, Sequence[str]] | None = None,
        averages: Mapping[str, str] | None = None,
        alternatives: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Sorts tensors by the variables that they belong to.

        Args:
            manifest: The checkpoint.
            written: Names of the tensors that leaves are written to.
            copied: Names of those that are copied as they are.
            renewed: Those of the written ones that get another shape, order or dtype.
            copies: Written tensors -> copied ones that may hold the same variable.
            averages: Averages that only a view knows -> their variables.
            alternatives: Written tensors -> those that `first_of` did not choose.
        """
        copied = tuple(copied)
        self._alternatives = {
            name: others
            for name, names in (alternatives or {}).items()
            if (others := [candidate for candidate in names if candidate in copied])
        }
        self._manifest = manifest
        self._copies = copies or {}
        roles = manifest.roles()
        # A slot or a counter that has changed makes nothing else stale.
        self._sources = {
            name
            for name in (*written, *renewed)
            if roles.of(name).kind in ("variable", "average")
        }
        # Where a slot is loaded by `first_of`, it makes the other ones stale.
        self._sources.update(self._alternatives)
        self._changed: set[str] = self._sources & set(renewed)
        # By what is written: copies that belong to it, and the variable that it is a
        # moving average of.
        self._members: dict[str, list[str]] = {}
        self._variables: dict[str, str] = {}
        self._steps: list[str] = []
        dropped: list[str] = []
        left = set(copied)
        for name in copied:
            lineage = list(roles.lineage(name))
            if roles.counts_steps(name):
                self._steps.append(name)
            elif any(variable in self._changed for variable in lineage):
                dropped.append(name)
            else:
                for variable in self._sources.intersection(lineage):
                    self._members.setdefault(variable, []).append(name)
        for name in self._sources:
            role = roles.of(name)
            of_role = role.variable if role.kind == "average" else None
            if (variable := (averages or {}).get(name) or of_role) in left:
                self._variables[name] = variable
        self.dropped: tuple[str, ...] = tuple(dropped)

    def watched(
        self, name: str, read: Callable[[], np.ndarray], box: Box | None = None
    ) -> Callable[[], np.ndarray]:
        """Makes a tensor be compared with the stored one when it is written.

        Args:
            name: Name of the tensor.
            read: Gives its array.
            box: The box of the tensor that it gives; None for all of it.

        Returns:
            What gives the array; `read` itself where nothing depends on the tensor.
        """
        if name not in self._sources:
            return read
        dependents = (self._members, self._variables, self._copies, self._alternatives)
        has_members = any(name in members for members in dependents)
        if not self._steps and not has_members:
            return read

        def compared() -> np.ndarray:
            array = read()
            # Steps belong to all variables: one that has changed is enough.
            if (has_members or not self._changed) and _differs(
                self._manifest.entry(name), array, box
            ):
                self._changed.add(name)
            return array

        return compared

    def message(self) -> str:
        """The warning, once everything is written; "" where there is none."""
        sentences: list[str] = []
        if stale := self._stale_names():
            fact = (
                "1 tensor is copied from the checkpoint as it was, although what it "
                "belongs to has changed"
                if len(stale) == 1
                else f"{len(stale)} tensors are copied from the checkpoint as they "
                "were, although what they belong to has changed"
            )
            sentences.append(
                f"{fact}: {list_collapsed(stale, _MAX_NAMES)}. "
                'unused="drop" leaves out what the plan did not load.'
            )
        if variables := self._stale_variables():
            fact = (
                "1 variable is copied as it was, although its moving average has "
                "changed"
                if len(variables) == 1
                else f"{len(variables)} variables are copied as they were, although "
                "their moving averages have changed"
            )
            sentences.append(
                f"{fact}: {list_collapsed(variables, _MAX_NAMES)}. "
                'averages="both" writes both, where leaves hold the whole tensor.'
            )
        if doubles := self._stale_doubles():
            sentences.append(
                f"{len(doubles)} tensors are copied as they are, though they may hold "
                "variables that are written elsewhere: "
                f"{list_collapsed(doubles, _MAX_NAMES)}. A Keras 3 export stores each "
                "variable under `variables/` and again under `_all_variables/`: load "
                "both, or make the plan for `by_variable_name()`, which writes both."
            )
        if others := self._stale_alternatives():
            sentences.append(
                f"{counted(len(others), 'tensor')} copied as before, although first_of "
                "chose another one, which has changed: "
                f"{list_collapsed(others, _MAX_NAMES)}."
            )
        if self.dropped:
            sentences.append(
                "Slots and averages of tensors that now have another shape, order or "
                f"dtype are left out ({len(self.dropped)}): "
                f"{list_collapsed(self.dropped, _MAX_NAMES)}."
            )
        return " ".join(sentences)

    def _stale_names(self) -> list[str]:
        """Slots, averages and counters that belong to what has changed."""
        # What `first_of` did not choose has a sentence of its own.
        others = {name for names in self._alternatives.values() for name in names}
        names = {
            name
            for variable, members in self._members.items()
            if variable in self._changed
            for name in members
        }
        return sorted([*(names - others), *(self._steps if self._changed else ())])

    def _stale_variables(self) -> list[str]:
        """Variables of which the moving average alone has changed."""
        others = {name for names in self._alternatives.values() for name in names}
        return sorted(
            {
                variable
                for average, variable in self._variables.items()
                if average in self._changed and variable not in others
            }
        )

    def _stale_alternatives(self) -> list[str]:
        """Copies that `first_of` did not choose, of what has changed."""
        names = (
            candidate
            for name, others in self._alternatives.items()
            if name in self._changed
            for candidate in others
        )
        return sorted(set(names))

    def _stale_doubles(self) -> list[str]:
        """Copies that may hold a variable that has changed in another tensor."""
        copies = (
            copy
            for name, names in self._copies.items()
            if name in self._changed
            for copy in names
        )
        return sorted(set(copies))


def _differs(entry: TensorEntry, array: np.ndarray, box: Box | None) -> bool:
    """True if an array of a tensor's dtype is not what is stored, in a box of it."""
    whole = Box.whole(entry.spec.shape)
    if box is not None:
        index = box.within(whole)
        stored = StoredTensor(entry)[index]
        return _raw(stored).tobytes() != _raw(array).tobytes()
    has_crcs = all(piece.crc32c is not None for piece in entry.pieces)
    if entry.is_big_endian or not has_crcs:
        stored = read_entry(entry)
        return _raw(stored).tobytes() != _raw(array).tobytes()
    return any(
        _checksum(view_at(array, piece.box.within(whole))) != piece.crc32c
        for piece in entry.pieces
    )


def _checksum(array: np.ndarray) -> int:
    """The masked CRC-32C of an array's bytes, as files store it."""
    return mask(crc32c(_raw(array).data))


def _raw(array: np.ndarray) -> np.ndarray:
    return bytes_of(np.ascontiguousarray(array))
