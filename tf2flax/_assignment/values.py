"""What the engine works on: leaves, entries of the map, and what they resolve to."""

from __future__ import annotations

import dataclasses

import numpy as np

from tf2flax._specs import StoredDtype, TensorSlice


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the target.

    Attributes:
        names: Every name it answers to; the first is the one it is called by.
        shape: Its shape.
        dtype: Its dtype; None where it holds no numbers (PRNG keys, other objects),
            so that no scope reaches it and no tensor fits it.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype | None

    @property
    def name(self) -> str:
        """The name it is called by."""
        return self.names[0]


@dataclasses.dataclass(frozen=True, slots=True)
class MapEntry:
    """One entry of an assignment map, its objects already found in the target.

    Attributes:
        number: Its place in the map, from 1.
        source: The key: a tensor's name, or a scope ending in `/`.
        target: The value: a name or scope; or the leaves that were given as objects.
        is_list: Whether the value was a list of leaves: parts of one tensor.
    """

    number: int
    source: str
    target: str | tuple[str, ...]
    is_list: bool = False

    def __str__(self) -> str:
        """The entry as it reads in the map."""
        if isinstance(self.target, str):
            shown = f"`{self.target}`"
        elif self.is_list:
            shown = f"[{', '.join(f'`{name}`' for name in self.target)}]"
        else:
            shown = f"`{self.target[0]}`"
        return f"`{self.source}` -> {shown}"


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """One leaf and the tensor, or box of one, that fills it.

    Attributes:
        leaf: Name of the leaf.
        source: Name of the tensor.
        region: The box of the tensor that fills the leaf.
        is_whole: Whether that is all of the tensor.
        shape: Shape of the leaf.
        stored: The tensor's dtype.
        dtype: The dtype that the leaf gets.
        entry: The entry of the map that says so.
        alias: The last component of the leaf's name, where an alias stood in for it.
    """

    leaf: str
    source: str
    region: TensorSlice
    is_whole: bool
    shape: tuple[int, ...]
    stored: StoredDtype
    dtype: np.dtype
    entry: MapEntry
    alias: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the checkpoint that the leaf needs."""
        return self.region.size * self.stored.numpy.itemsize

    @property
    def is_cast(self) -> bool:
        """Whether the dtype changes on the way."""
        return self.stored.numpy != self.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class Override:
    """An assignment that a later entry, in key order, replaced."""

    leaf: str
    source: str
    entry: MapEntry
    by: MapEntry


@dataclasses.dataclass(frozen=True, slots=True)
class Resolution:
    """What a map means for a target and a checkpoint.

    Attributes:
        assignments: One for each leaf that is filled, in the target's order.
        kept: Names of the leaves that no entry reaches, in the target's order.
        overridden: What later entries replaced.
        unused_entries: Entries that assign nothing.
    """

    assignments: tuple[Assignment, ...]
    kept: tuple[str, ...]
    overridden: tuple[Override, ...]
    unused_entries: tuple[MapEntry, ...]
