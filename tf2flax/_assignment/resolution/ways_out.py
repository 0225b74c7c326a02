"""What to do about leaves that the checkpoint cannot fill: leave them as they are.

Only an array can stay as it is. A leaf that has a shape and no elements, a
`jax.ShapeDtypeStruct`, must be initialised.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .suggestions import Surroundings

_KEEP: Final = (
    "Keep leaves that the checkpoint lacks with on_missing='keep', or leave them out "
    "of the target."
)
_INITIALISE: Final = (
    "tf2flax.warm_start with on_missing='keep' initialises leaves that the checkpoint "
    "lacks. Or leave them out of the target."
)
_NEW_HEAD: Final = (
    'A new head or vocabulary stays as it is with on_mismatch="keep"; '
    "tf2flax.warm_start initialises it."
)
_NEW_ABSTRACT_HEAD: Final = (
    'tf2flax.warm_start with on_mismatch="keep" initialises a new head or vocabulary.'
)


def keep_missing(leaves: Iterable[str | None], around: Surroundings) -> str:
    """Says what to do about leaves of which the checkpoint has nothing.

    Args:
        leaves: Their names.
        around: Names of the checkpoint and the target.

    Returns:
        A sentence.
    """
    return _INITIALISE if _are_abstract(leaves, around) else _KEEP


def is_way_out(text: str) -> bool:
    """True for what `keep_missing` says, without anything else."""
    return text in (_KEEP, _INITIALISE)


def keep_new_head(leaves: Iterable[str | None], around: Surroundings) -> str:
    """Says what to do about leaves that are meant to have another shape.

    Args:
        leaves: Their names.
        around: Names of the checkpoint and the target.

    Returns:
        A sentence.
    """
    return _NEW_ABSTRACT_HEAD if _are_abstract(leaves, around) else _NEW_HEAD


def _are_abstract(leaves: Iterable[str | None], around: Surroundings) -> bool:
    return bool(around.abstract) and all(leaf in around.abstract for leaf in leaves)
