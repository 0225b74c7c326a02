"""What turns a tensor of one shape into a leaf of another one.

    (12, 12)     -> (12, 4, 3)    .rearrange("d (h k) -> d h k", h=4)
    (1, 12, 48)  -> (12, 48)      [0]
    (2, 12)      -> (12, 2)       .transpose()

All that shapes allow is found, the most usual first. Which of several is meant, names
and siblings decide elsewhere.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Final, NamedTuple

from tf2flax._assignment.language.expressions import Expression

from .blocks import Shape


class Transform(NamedTuple):
    """An operation of an expression.

    Attributes:
        kind: What it does, whatever the sizes: the same for all members of a family.
        sizes: Sizes of named axes.
        is_transposed: True if rows and columns of a matrix change places; None where
            there is no such question.
        cost: How unusual it is.
    """

    kind: str
    sizes: tuple[tuple[str, int], ...] = ()
    is_transposed: bool | None = None
    cost: float = 0.0

    @property
    def is_plain(self) -> bool:
        """True if the tensor fills the leaf as it is."""
        return self.kind == "same"

    def apply(self, source: Expression) -> Expression:
        """Adds the operation to an expression."""
        if self.kind == "same":
            return source
        if self.kind.startswith("drop"):
            index = (0,) * int(self.kind[4:])
            return source[index if len(index) > 1 else 0]
        if self.kind == "transpose":
            return source.transpose()
        if self.kind.startswith("flip"):
            rank = int(self.kind[4:])
            flipped = source[(slice(None, None, -1),) * (rank - 2)]
            return flipped.transpose(*range(rank - 2), rank - 1, rank - 2)
        return source.rearrange(self.kind, **dict(self.sizes))

    @property
    def fact(self) -> str:
        """What it does, in words."""
        sizes = dict(self.sizes)
        if self.kind == "same":
            return ""
        if self.kind.startswith("drop"):
            return "axes of length 1 dropped"
        if self.kind.startswith("flip"):
            return "flipped and transposed, as transposed convolutions are"
        if "h" in sizes:
            verb = "split" if " h k" in self.kind.partition("->")[2] else "joined"
            return f"{sizes['h']} heads {verb}"
        return "transposed" if self.is_transposed else "axes rearranged"


SAME: Final = Transform("same")

# Pattern, whether rows and columns change places, cost. Axes of length 1 are left out.
_PATTERNS: Final[tuple[tuple[str, bool | None, float], ...]] = (
    ("(h k) -> h k", None, 0.05),
    ("h k -> (h k)", None, 0.05),
    ("(p h k) -> p h k", None, 0.1),
    ("a b -> b a", True, 0.5),
    ("d (h k) -> d h k", False, 0.05),
    ("(h k) d -> h k d", False, 0.05),
    ("d (h k) -> h d k", False, 0.2),
    ("d (h k) -> h k d", True, 0.6),
    ("(h k) d -> d h k", True, 0.6),
    ("d h k -> d (h k)", False, 0.05),
    ("h k d -> (h k) d", False, 0.05),
    ("h d k -> d (h k)", False, 0.2),
    ("d (p h k) -> d p h k", False, 0.1),
    ("d (p h k) -> p d h k", False, 0.2),
    ("d (p n) -> p d n", False, 0.3),
    ("d p h k -> d (p h k)", False, 0.1),
    ("h w c n -> (h w c) n", False, 0.2),
    ("(h w c) n -> h w c n", False, 0.3),
)
_AXIS: Final = re.compile(r"\(([^)]*)\)|(\S+)")


@functools.lru_cache(maxsize=1 << 14)
def find_transforms(source: Shape, leaf: Shape) -> tuple[Transform, ...]:
    """Finds what turns one shape into another one, the most usual first.

    Args:
        source: Shape of a tensor.
        leaf: Shape of a leaf.

    Examples:
        >>> [t.kind for t in find_transforms((12, 12), (12, 4, 3))]
        ['d (h k) -> d h k', '(h k) d -> d h k']
        >>> find_transforms((3, 3, 6, 1), (3, 3, 1, 6))[0].kind
        'a b c 1 -> a b 1 c'
    """
    if math.prod(source) != math.prod(leaf):
        return ()
    options: list[Transform] = []
    if source == leaf:
        is_matrix = len(_core(source)) == 2
        options.append(SAME._replace(is_transposed=False if is_matrix else None))
    if len(source) == len(leaf) == 2:
        if source == leaf[::-1]:
            options.append(Transform("transpose", (), True, 0.5))
        return tuple(options)
    options += [] if source == leaf else _without_ones(source, leaf)
    options += _by_patterns(source, leaf)
    options += _of_convolutions(source, leaf)
    return tuple(sorted(options, key=lambda option: option.cost))


def _core(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _without_ones(source: Shape, leaf: Shape) -> list[Transform]:
    """Axes of length 1 that only one of the two has."""
    if _core(source) != _core(leaf):
        return []
    is_transposed = False if len(_core(source)) == 2 else None
    dropped = len(source) - len(leaf)
    if dropped > 0 and source[:dropped] == (1,) * dropped and source[dropped:] == leaf:
        return [Transform(f"drop{dropped}", (), is_transposed, 0.1)]
    letters = "abcdefgh"[: len(_core(source))]
    if len(letters) < len(_core(source)) or not letters:
        return []
    left, right = _with_ones(source, letters), _with_ones(leaf, letters)
    return [Transform(f"{left} -> {right}", (), is_transposed, 0.15)]


def _with_ones(shape: Shape, axes: str | list[str]) -> str:
    """Axes of a pattern for a shape, `1` for those of length 1."""
    names = iter(axes)
    return " ".join("1" if size == 1 else next(names) for size in shape)


def _by_patterns(source: Shape, leaf: Shape) -> list[Transform]:
    options: list[Transform] = []
    before, after = _core(source), _core(leaf)
    for pattern, is_transposed, cost in _PATTERNS:
        left, right = ([*_AXIS.finditer(side)] for side in pattern.split(" -> "))
        if (len(left), len(right)) != (len(before), len(after)):
            continue
        # Lengths of the axes that stand alone on either side, then all are compared.
        lengths: dict[str, int] = {}
        single = [*zip(left, before, strict=True), *zip(right, after, strict=True)]
        lengths.update((axis[2], size) for axis, size in single if axis[2])
        fits = all(
            math.prod(lengths.get(name, 0) for name in (axis[1] or axis[2]).split())
            == size
            for axis, size in single
        )
        if fits:
            text = " -> ".join(
                _with_ones(shape, [axis[0] for axis in axes])
                for shape, axes in ((source, left), (leaf, right))
            )
            given = [name for name in ("p", "h", "w") if f"{name} " in pattern]
            sizes = _given_sizes(left, given, lengths)
            options.append(Transform(text, sizes, is_transposed, cost))
    return options


def _given_sizes(
    left: list[re.Match[str]], names: list[str], lengths: dict[str, int]
) -> tuple[tuple[str, int], ...]:
    """Sizes that the pattern needs: those of axes that it splits, but the last."""
    is_split = any(axis[1] for axis in left)
    return tuple((name, lengths[name]) for name in names if is_split)


def _of_convolutions(source: Shape, leaf: Shape) -> list[Transform]:
    """Kernels of depthwise and of transposed convolutions."""
    rank = len(source)
    if rank != len(leaf) or rank < 3 or source[:-2] != leaf[:-2]:
        return []
    options: list[Transform] = []
    if rank == 4 and leaf[2] == 1 and min(source[2:]) > 1:
        options.append(Transform("h w c m -> h w 1 (c m)", (), None, 0.1))
    if source[-2:] == leaf[-2:][::-1] and min(source[-2:]) > 1:
        options.append(Transform(f"flip{rank}", (), True, 0.7))
    return options
