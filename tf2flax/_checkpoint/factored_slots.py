"""The slots of Adafactor, whose second moment may be factored into rows and columns.

Of a variable `[a, b]`, one slot is its mean over one axis, the other one over the
other. Which axis each of them lacks, shapes tell, except where axes are equally long:

                              rows (vr) lack           columns (vc) lack
    Mesh TensorFlow (T5)      the longest axis         the second longest
    Tensor2Tensor, Keras      the last axis            the one before it

Source: mesh_tensorflow/optimize.py, `_factored_dims`; tensor2tensor/utils/adafactor.py,
`_create_slots`; keras/src/optimizers/adafactor.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping

from tf2flax._base.moments import numbered_families

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class FactoredSlots:
    """The slots of Adafactor of one variable.

    Attributes:
        lacking: Axis of the variable -> the slot that lacks it; {} where the second
            moment is not factored.
        whole: The second moment where it is not; else None.
        momentum: The first moment, if it has one.
    """

    lacking: Mapping[int, str]
    whole: str | None
    momentum: str | None


def find_factored(
    slots: Mapping[str, str], shape: Shape, shape_of: Callable[[str], Shape | None]
) -> FactoredSlots:
    """Tells the slots of Adafactor apart.

    Args:
        slots: The slots of a variable: their names -> their tensors.
        shape: Shape of the variable.
        shape_of: Gives the shape of a tensor.
    """
    is_mesh = any(name.startswith("slot_") for name in slots)
    named = {name.removeprefix("slot_"): slot for name, slot in slots.items()}
    rows = named.get("vr", named.get("r"))
    columns = named.get("vc", named.get("c"))
    whole, momentum = named.get("v"), named.get("m")
    if rows is None and whole is None:
        rows, columns, whole, momentum = _numbered(slots, shape, shape_of)
    if rows is None or columns is None:
        return FactoredSlots({}, whole, momentum)
    axes = _factored_axes(shape, is_mesh=is_mesh)
    lacking = {
        _lacking(shape_of(slot), shape, axis): slot
        for slot, axis in zip((rows, columns), axes, strict=True)
    }
    return FactoredSlots(lacking, None, momentum)


def _numbered(
    slots: Mapping[str, str], shape: Shape, shape_of: Callable[[str], Shape | None]
) -> tuple[str | None, str | None, str | None, str | None]:
    """Slots that are called by the optimizer, in its order: m, then vr and vc, or v."""
    families = [
        family
        for family in numbered_families(slots)
        if re.search("adafactor", family[0], re.I)
    ]
    if len(families) != 1:
        return None, None, None, None
    # `Adafactor` is m, vr or v, by what the optimizer was told and the shape.
    tensors = [slots[name] for name in families[0]]
    whole = [tensor for tensor in tensors if shape_of(tensor) == shape]
    factors = [tensor for tensor in tensors if shape_of(tensor) != shape]
    if len(factors) == 2:
        return factors[0], factors[1], None, whole[0] if whole else None
    return None, None, whole[-1], whole[0] if len(whole) > 1 else None


def _factored_axes(shape: Shape, *, is_mesh: bool) -> tuple[int, int]:
    """The axes that rows and columns lack, by convention."""
    if not is_mesh:
        return len(shape) - 1, len(shape) - 2
    longest = sorted(range(len(shape)), key=lambda axis: -shape[axis])
    return longest[0], longest[1]


def _lacking(slot: Shape | None, shape: Shape, axis: int) -> int:
    """The axis that a slot lacks: what its shape says, else the convention."""
    fitting = [i for i in range(len(shape)) if shape[:i] + shape[i + 1 :] == slot]
    return axis if axis in fitting or not fitting else fitting[0]
