"""Weights that a map takes into the state of an optimizer: slots have the same shapes.

`{"bert/": "/"}` reaches `params/...` and `opt_state/0/nu/...` alike. No error of shapes
or names reveals that a second moment got the weights; what a tensor is to its training
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.collapsing import list_collapsed
from tf2flax._base.manifest import Manifest
from tf2flax._base.text import counted

# Names, or rows of names that count up, that a message lists.
_MAX_NAMED: Final = 10


def find_misplaced(
    assignments: Sequence[Assignment], manifest: Manifest
) -> tuple[Assignment, ...]:
    """Finds leaves of an optimizer's state that weights fill.

    Args:
        assignments: Those of leaves of an optimizer's state.
        manifest: The checkpoint. Names of a view of slots are those of variables, and
            stand for slots.

    Returns:
        The assignments whose tensors are all variables.
    """
    roles = manifest.roles(may_read=False)

    def is_weight(name: str) -> bool:
        return roles.of(name).kind == "variable" and not roles.stands_for_slot(name)

    return tuple(
        assignment
        for assignment in assignments
        if assignment.sources and all(map(is_weight, assignment.sources))
    )


def describe_misplaced(assignments: Sequence[Assignment]) -> str:
    """States which leaves of an optimizer's state are filled with weights."""
    leaves = [assignment.leaf for assignment in assignments]
    first = assignments[0]
    is_one = len(leaves) == 1
    return (
        f"{counted(len(leaves), 'leaf', 'leaves')} of an optimizer's state "
        f"{'is' if is_one else 'are'} filled with weights, not with slots: "
        f"{list_collapsed(leaves, _MAX_NAMED)} (`{first.leaf}` with `{first.source}`). "
        "Name the scope of the parameters in the map, and fill the state by "
        "tf2flax.optimizer_state(plan, opt_state)."
    )
