"""What takes the elements that are read: contracts between reading and whoever asks.

Whole tensors for a dict, tensors that are only checked, and leaves of a model are
three targets; reading knows none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from tf2flax._base.values import Box

from .destinations import Destination
from .units import ReadUnit, SmallRead, ViewRead


class UnitReceiver(Protocol):
    """Takes the elements of whole units; from several threads."""

    def destinations(self, unit: ReadUnit) -> Sequence[Destination]:
        """Where the elements of a large unit go while they come in; perhaps nowhere."""
        ...

    def receive(self, unit: ReadUnit, elements: np.ndarray) -> None:
        """Takes all elements of a unit at once: an array of one axis, to keep."""
        ...


class ViewReceiver(Protocol):
    """Takes the elements of a view; from several threads."""

    def room_for(self, box: Box) -> np.ndarray | None:
        """Memory that a box of the view is read into, where it stays.

        Returns:
            An array of the box's shape and the tensor's dtype; None where the box goes
            elsewhere too, or not as it is: then `receive` takes it.
        """
        ...

    def receive(self, box: Box, elements: np.ndarray) -> None:
        """Takes a box of the view, in memory that is not used again."""
        ...


class ReadTarget(Protocol):
    """What a group fills: says what is read for it, and takes it."""

    @property
    def host_nbytes(self) -> int:
        """Bytes of host memory that it takes until it is handed on."""
        ...

    @property
    def small(self) -> list[SmallRead]:
        """Small pieces, which share reads with their neighbours; in any order.

        There may be very many, so that no unit is made of each.
        """
        ...

    @property
    def units(self) -> Sequence[tuple[ReadUnit, UnitReceiver]]:
        """What else is read whole, and what takes it."""
        ...

    @property
    def views(self) -> Sequence[tuple[ViewRead, ViewReceiver]]:
        """What is read in part, and what takes it."""
        ...

    def allocate(self) -> None:
        """Makes room; called before anything is read, once all that is large is there.

        Raises:
            UnsupportedError: A dtype holds no array.
        """
        ...

    def finish(self) -> None:
        """Does what is left, once everything was taken."""
        ...


TargetT = TypeVar("TargetT", bound=ReadTarget)
