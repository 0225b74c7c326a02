"""What is copied from a checkpoint although the variables it belongs to have changed.

Averages and slots belong to one variable, steps to all. Whether a variable has changed
is found while it is written: by its checksum, or by reading it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from tf2flax._base.collapsing import collapse
from tf2flax._base.manifest import Manifest, TensorEntry
from tf2flax._base.memory import bytes_of, view_at
from tf2flax._base.optimizer_names import is_slot, is_step, variable_of
from tf2flax._base.values import Box
from tf2flax._formats.wire.crc32c import crc32c, mask
from tf2flax._reading.whole import read_entry

# Names that a warning shows, each perhaps of several numbers.
_MAX_SHOWN: Final = 10


class StaleCopies:
    """Watches what is written, and tells which copies no longer belong to it.

    Attributes:
        dropped: Slots and averages of tensors that get another shape or dtype: no model
            could restore them.
    """

    def __init__(
        self,
        manifest: Manifest,
        written: Iterable[str],
        copied: Iterable[str],
        renewed: Collection[str] = (),
        copies: Mapping[str, Sequence[str]] | None = None,
        slots: Mapping[str, str] | None = None,
    ) -> None:
        """Sorts tensors by the variables that they belong to.

        Args:
            manifest: The checkpoint.
            written: Names of the tensors that leaves are written to.
            copied: Names of those that are copied as they are.
            renewed: Those of the written ones that get another shape or dtype.
            copies: By written ones: copied ones that may hold the same variable.
            slots: By slots that names do not tell: their variables.
        """
        self._manifest = manifest
        self._copies = copies or {}
        # A slot or a step that has changed makes nothing else stale.
        root_of = {
            name: variable_of(name, manifest)
            for name in (*written, *renewed)
            if not is_slot(name, manifest) and not is_step(name, manifest)
        }
        renewed_roots = {root_of[name] for name in renewed if name in root_of}
        roots = set(root_of.values())
        self._root_of = root_of
        self._members: dict[str, list[str]] = {}
        self._steps: list[str] = []
        self._changed: set[str] = set(renewed_roots)
        dropped: list[str] = []
        slots = slots or {}
        for name in copied:
            if name not in slots and _is_step(name, manifest):
                self._steps.append(name)
                continue
            root = slots.get(name) or variable_of(name, manifest)
            if root in renewed_roots and root != name:
                dropped.append(name)
            elif root in roots:
                self._members.setdefault(root, []).append(name)
        self.dropped: tuple[str, ...] = tuple(dropped)

    def watched(
        self, name: str, read: Callable[[], np.ndarray]
    ) -> Callable[[], np.ndarray]:
        """Compares a tensor with the checkpoint's when it is written.

        Args:
            name: Its name.
            read: Gives its array.

        Returns:
            The same, where something depends on it a function that looks at it.
        """
        root = self._root_of.get(name)
        if root is None:
            return read
        has_members = root in self._members or name in self._copies
        if not self._steps and not has_members:
            return read

        def compared() -> np.ndarray:
            array = read()
            # For steps it is enough to know that anything has changed.
            is_asked = has_members or not self._changed
            if (
                is_asked
                and root not in self._changed
                and _differs(self._manifest.entry(name), array)
            ):
                self._changed.add(root)
            return array

        return compared

    def message(self) -> str:
        """What is stale, now that everything is written; "" where nothing is."""
        stale = [
            name
            for root, names in self._members.items()
            if root in self._changed
            for name in names
        ]
        stale += self._steps if self._changed else []
        sentences: list[str] = []
        if stale:
            what = (
                "1 tensor is copied from the checkpoint as it was, although what it "
                "belongs to has changed"
                if len(stale) == 1
                else f"{len(stale)} tensors are copied from the checkpoint as they "
                "were, although what they belong to has changed"
            )
            sentences.append(
                f"{what}: {_listed(sorted(stale))}. "
                'unused="drop" leaves out what the plan did not load.'
            )
        if doubles := self._changed_elsewhere():
            sentences.append(
                f"{len(doubles)} tensors are copied as they are, though they may hold "
                f"variables that are written elsewhere: {_listed(doubles)}. A Keras 3 "
                "export stores each variable under `variables/` and again under "
                "`_all_variables/`: load both, or make the plan for "
                "`by_variable_name()`, which writes both."
            )
        if self.dropped:
            sentences.append(
                "Slots and averages of tensors that now have another shape or dtype "
                f"are left out ({len(self.dropped)}): {_listed(self.dropped)}."
            )
        return " ".join(sentences)

    def _changed_elsewhere(self) -> list[str]:
        """What may hold a variable that has changed where another tensor holds it."""
        copies = (
            copy
            for name, names in self._copies.items()
            if self._root_of.get(name) in self._changed
            for copy in names
        )
        return sorted(set(copies))


def _is_step(name: str, manifest: Manifest) -> bool:
    """Whether a tensor belongs to no variable, but to the training of all."""
    if variable_of(name, manifest) != name:
        return False
    return is_step(name, manifest) or is_slot(name, manifest)


def _listed(names: Collection[str]) -> str:
    """Names for a message: running numbers as one, and no more than a few."""
    rows = collapse([(name,) for name in names])
    shown = ", ".join(f"`{row.cells[0]}`" for row in rows[:_MAX_SHOWN])
    more = sum(len(row.members) for row in rows[_MAX_SHOWN:])
    return f"{shown} and {more} more" if more else shown


def _differs(entry: TensorEntry, array: np.ndarray) -> bool:
    """Whether an array of a tensor's shape and dtype is not what is stored."""
    whole = Box.whole(entry.spec.shape)
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
