"""Which tensors are slots of an optimizer, by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# What optimizers put behind the name of a variable.
_SLOT: Final = re.compile(
    r"(?P<variable>.+)(/(Adam|AdamW|Adamax|RMSProp|Momentum|Adagrad|Adadelta|Ftrl|"
    r"LARSOptimizer|LAMB|adam_m|adam_v|ExponentialMovingAverage)(_\d+)?|"
    r"_slot_(v|vr|vc|m))",
    re.S,
)
_OF_NO_VARIABLE: Final = re.compile(r"(.*/)?beta[12]_power(_\d+)?", re.S)
_OBJECT_SLOT: Final = "/.OPTIMIZER_SLOT/"


def is_slot(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Tells whether a tensor is a slot of an optimizer.

    It is where its name is that of another tensor with what an optimizer adds
    (`/Adam_1`, `/adam_m`, `_slot_vr` …) or with any one more part and the same shape,
    `beta1_power`, or below `.OPTIMIZER_SLOT`.

    Args:
        name: Its name.
        shapes: Shapes of all tensors by name.

    Returns:
        Whether it is one.

    Examples:
        >>> shapes = {"w": (3,), "w/Adam": (3,), "w/b": (1,)}
        >>> [name for name in shapes if is_slot(name, shapes)]
        ['w/Adam']
    """
    if _OBJECT_SLOT in name or _OF_NO_VARIABLE.fullmatch(name):
        return True
    known = _SLOT.fullmatch(name)
    if known and known["variable"] in shapes:
        return True
    parent = name.rpartition("/")[0]
    return parent in shapes and shapes[parent] == shapes[name]
