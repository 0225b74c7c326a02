"""Values of two entries that may be swapped, where a transpose would fit as well.

    intermediate/kernel (32, 64) -> mlp_out/kernel (64, 32)
    output/kernel       (64, 32) -> mlp_in/kernel  (32, 64)

Either both are stored transposed, or each is meant for the leaf of the other entry.
"""

from __future__ import annotations

from collections.abc import Sequence

from .mismatches import Reason
from .problems import Mismatch

_Shapes = tuple[tuple[int, ...], tuple[int, ...]]


class SwappedValues:
    """Mismatches of a map, by their shapes."""

    def __init__(self, problems: Sequence[Mismatch]) -> None:
        """Notes the first mismatch of each entry and pair of shapes.

        Args:
            problems: All mismatches of a map.
        """
        # Two entries of each pair are enough: one of them is another entry.
        self._first: dict[_Shapes, dict[int, Mismatch]] = {}
        for problem in problems:
            if problem.source_shape is None:
                continue
            of_shapes = self._first.setdefault(
                (problem.shape, problem.source_shape), {}
            )
            if len(of_shapes) < 2:
                of_shapes.setdefault(problem.entry.number, problem)

    def doubt(self, group: Sequence[Mismatch]) -> Reason | None:
        """Asks whether values are swapped, if another entry's tensor fits as it is.

        Args:
            group: Mismatches of one entry that have the same shapes.

        Returns:
            The reason; None if no other entry has the shapes the other way round.
        """
        first = group[0]
        shape, source_shape = first.shape, first.source_shape
        if source_shape is None or sorted(shape) != sorted(source_shape):
            return None
        for rival in self._first.get((source_shape, shape), {}).values():
            if rival.entry.number != first.entry.number:
                return Reason(
                    f"`{rival.source}` of entry {rival.entry.number} has this shape: "
                    "are the two values swapped? If not, the axes are in another order."
                )
        return None
