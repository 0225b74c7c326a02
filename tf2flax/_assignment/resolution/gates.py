"""Gates of recurrent cells: one tensor of TensorFlow for the leaves of Flax.

    kernel [d + h, 4 h]      ii/kernel [d, h] ... ho/kernel [h, h]

The order of the gates depends on the cell, and some biases are changed as well: which
lines are right, `suggest` decides, and not a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .mismatches import Reason
from .problems import Mismatch

_GATES: Final = frozenset(
    f"{side}{gate}" for side in "ih" for gates in ("ifgo", "rzn") for gate in gates
)
# Gates in one tensor: of an LSTM, of a GRU all or two of them.
_COUNTS: Final = (4, 3, 2)
_SUGGEST: Final = (
    "tf2flax.suggest(checkpoint, target) writes a line for each gate of the cells that "
    "it knows"
)


def find_gate(problem: Mismatch) -> Reason | None:
    """Finds a tensor of all gates, of which a leaf is one by its name.

    Args:
        problem: A leaf, and a tensor of another shape.

    Returns:
        The reason; None if the leaf is no gate, or the tensor is not of several.
    """
    gate, shape = problem.leaf.split("/")[-2:-1], problem.source_shape
    # `in` alone may be any layer.
    if not is_gate(gate) or gate == ["in"] or not shape or not problem.shape:
        return None
    columns = problem.shape[-1]
    count = next((n for n in _COUNTS if shape[-1] == n * columns), None)
    if count is None:
        return None
    rows = " and may have the rows of input and state" if len(shape) > 1 else ""
    return Reason(f"The tensor may be of {count} gates{rows}: {_SUGGEST}.")


def is_gate(components: Iterable[str]) -> bool:
    """True if all of some names, one at least, are those of Flax's gates."""
    gates = [component.rstrip("/_") for component in components]
    return bool(gates) and _GATES.issuperset(gates)


def describe_gates(names: Iterable[str]) -> str:
    """Says how leaves of gates are filled by what lies beside them.

    Args:
        names: What there is in place of the scopes of the gates.

    Returns:
        A sentence; "" if it is no kernel.
    """
    has_kernel = any(
        name in ("kernel", "weights", "recurrent_kernel") for name in names
    )
    return f"If these hold all gates of a cell, {_SUGGEST}." if has_kernel else ""
