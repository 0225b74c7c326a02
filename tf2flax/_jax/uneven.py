"""Dimensions that a mesh does not divide, and which smaller mesh would."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from jax.sharding import AbstractMesh, Mesh

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.writing import write_expression


@dataclasses.dataclass(frozen=True, slots=True)
class ShardedDimension:
    """A dimension of some leaf that axes of a mesh cut.

    Attributes:
        number: Its number in the leaf.
        size: Its size.
        mesh: The mesh.
        names: The axes.
    """

    number: int
    size: int
    mesh: Mesh | AbstractMesh
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of shards that the axes cut it into."""
        return math.prod(self.mesh.shape[name] for name in self.names)

    @property
    def is_uneven(self) -> bool:
        """True if the shards would not be of one size."""
        return self.size % self.count != 0

    def describe(self) -> str:
        """Says that the axes do not divide it."""
        names = " x ".join(f"`{name}`" for name in self.names)
        axes = "mesh axis" if len(self.names) == 1 else "mesh axes"
        return (
            f"dimension {self.number}, of {self.size}, is not a multiple of {axes} "
            f"{names} of size {self.count}"
        )


def describe_pad(
    source: Expression | None,
    shape: tuple[int, ...],
    uneven: Sequence[ShardedDimension],
) -> str:
    """Says with which pad a larger leaf would fit, where its mesh should stay.

    Args:
        source: What the leaf is loaded from; None if it is not loaded as a whole.
        shape: Shape of the leaf.
        uneven: Its dimensions that the mesh does not divide.

    Returns:
        A sentence, after a space; "" where there is none.
    """
    if source is None or not uneven or source.is_growth:
        return ""
    more = {d.number: -d.size % d.count for d in uneven}
    widths = [(0, more.get(axis, 0)) for axis in range(len(shape))]
    fitting = [size + after for size, (_, after) in zip(shape, widths, strict=True)]
    key = write_expression(source.pad(widths, fill="keep"))
    return f" A leaf of shape {fitting} fits, with the key `{key}`."


def describe_way_out(
    mesh: Mesh | AbstractMesh, dimensions: Iterable[ShardedDimension]
) -> str:
    """Says what can be done about uneven dimensions.

    Args:
        mesh: The mesh that cuts them.
        dimensions: All dimensions that this mesh, or another, cuts.

    Returns:
        A sentence.
    """
    sizes = _fitting_sizes(
        mesh, [dimension for dimension in dimensions if dimension.mesh == mesh]
    )
    ways = ["on_uneven='replicate'"]
    if any(size > 1 for size in sizes.values()):
        axes = " and ".join(f"`{name}` of size {size}" for name, size in sizes.items())
        ways.append(f"a mesh with {'axis' if len(sizes) == 1 else 'axes'} {axes}")
    return f"Give {', or '.join(ways)}."


def _fitting_sizes(
    mesh: Mesh | AbstractMesh, dimensions: Sequence[ShardedDimension]
) -> Mapping[str, int]:
    """Finds sizes, not above those of a mesh, that divide every dimension it cuts.

    A size that divides one leaf alone is no help: the next leaf would not fit it.

    Returns:
        Sizes of the axes that cut uneven dimensions; all others stay as they are.
    """
    uneven = {
        name
        for dimension in dimensions
        if dimension.is_uneven
        for name in dimension.names
    }
    sizes = {name: 1 if name in uneven else size for name, size in mesh.shape.items()}
    # Axis by axis, the largest size that fits beside those chosen before: all sizes of
    # all axes at once would be too many to try.
    for name in sizes:
        if name not in uneven:
            continue
        for size in range(mesh.shape[name], 1, -1):
            grown = {**sizes, name: size}
            if all(
                dimension.size % math.prod(grown[axis] for axis in dimension.names) == 0
                for dimension in dimensions
            ):
                sizes = grown
                break
    return {name: size for name, size in sizes.items() if name in uneven}
