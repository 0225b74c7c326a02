"""What the names of tensors say about optimizers: slots, averages, counters of steps.

Decided by names alone, since a checkpoint stores nothing else about it; TF2's object
graph, which knows more, is `_formats.object_graph`.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

# Keys of TF2's checkpoints: how that of a variable's value ends, and what stands
# between the paths of a variable and of its slot.
# Source: tensorflow/python/checkpoint/trackable_utils.py.
VARIABLE_SUFFIX: Final = "/.ATTRIBUTES/VARIABLE_VALUE"
SLOT_MARKER: Final = "/.OPTIMIZER_SLOT/"
# Names that optimizers of TensorFlow give to the slots of a variable, as its children;
# an optimizer's own name may stand before them (`dqn_adam_1`).
_SLOT: Final = re.compile(
    r"(?i:(.*_)?(nadam|adam|adamax|lamb|lars|momentum|rmsprop|adagrad|adadelta"
    r"|ftrl|proximaladagrad)\w*)"
    r"|(vr|vc|v|m|accumulator|linear|rms|gradient_squared_accumulator"
    r"|gradient_accumulator)(_\d+)?"
)
# The slots that Mesh TensorFlow's Adafactor appends to a variable's name.
_SLOT_SUFFIX: Final = re.compile(r"(?P<variable>.+)_slot_(vr|vc|v|m)")
_AVERAGE: Final = re.compile(r"ExponentialMovingAverage(_\d+)?|EMA|local_step|biased")
_POWER: Final = re.compile(r"(.*/)?beta[12]_power(_\d+)?")
# Counters of a training, and what a Keras optimizer keeps besides slots: its numbered
# variables, which belong to the whole model.
_STEP: Final = re.compile(
    r"(.*/)?(global_step|iter|_?iterations?)(_\d+)?"
    r"|(.*/)?_?optimizer/(_variables|vars)/\d+|(.*/)?optimizer_weights/.*"
)
# Where a `tf.train.Checkpoint` has the variables of a Keras 3 optimizer, slots as well;
# the optimizer is an attribute of any name.
_OPTIMIZER_LIST: Final = re.compile(
    rf"(?P<optimizer>(.*/)?)_variables/[0-9]+{re.escape(VARIABLE_SUFFIX)}"
)


def is_slot(name: str, names: Container[str]) -> bool:
    """True if a tensor is an optimizer's state: a slot of another tensor.

    Args:
        name: Name of the tensor.
        names: All names; a slot's variable must be among them.
    """
    if _POWER.fullmatch(name) or SLOT_MARKER in name:
        return True
    suffixed = _SLOT_SUFFIX.fullmatch(name)
    if suffixed and suffixed["variable"] in names:
        return True
    scope, _, last = name.rpartition("/")
    if not _SLOT.fullmatch(last):
        return False
    # An optimizer under a scope repeats the variable's name below it.
    return any(tail in names for tail in _tails(scope))


def is_average(name: str, names: Container[str]) -> bool:
    """True if a tensor is a moving average of another one.

    Args:
        name: Name of the tensor.
        names: All names; the variable must be among them.
    """
    scope, _, last = name.rpartition("/")
    return bool(_AVERAGE.fullmatch(last)) and any(
        tail in names for tail in _tails(scope)
    )


def is_step(name: str, names: Container[str]) -> bool:
    """True if a tensor counts steps of a training, or belongs to all of a training.

    Args:
        name: Name of the tensor.
        names: All names.

    Examples:
        >>> names = {"global_step", "dense/kernel"}
        >>> [is_step(name, names) for name in sorted(names)]
        [False, True]
    """
    if SLOT_MARKER in name:
        return False
    if is_of_optimizer_list(name, names):
        return True
    plain = name.removesuffix(VARIABLE_SUFFIX)
    return bool(_POWER.fullmatch(plain) or _STEP.fullmatch(plain))


def is_of_optimizer_list(name: str, names: Container[str]) -> bool:
    """True if a tensor is in the list of variables of a Keras 3 optimizer.

    Metrics have such a list, too, but count no iterations.
    """
    match = _OPTIMIZER_LIST.fullmatch(name)
    return match is not None and (
        f"{match['optimizer']}_iterations{VARIABLE_SUFFIX}" in names
    )


def variable_of(name: str, names: Container[str]) -> str:
    """Finds the variable that a slot or an average belongs to.

    Args:
        name: Name of a tensor.
        names: All names.

    Returns:
        Name of the variable; `name` itself where it is neither slot nor average.
    """
    if SLOT_MARKER in name:
        path = name.partition(SLOT_MARKER)[0]
        keys = (f"{path}{VARIABLE_SUFFIX}", path)
        return next((key for key in keys if key in names), name)
    suffixed = _SLOT_SUFFIX.fullmatch(name)
    if suffixed and suffixed["variable"] in names:
        return suffixed["variable"]
    scope, _, last = name.rpartition("/")
    if not (_SLOT.fullmatch(last) or _AVERAGE.fullmatch(last)):
        return name
    # An average may have slots itself, to undo its bias: so its variable is next.
    variable = next((tail for tail in _tails(scope) if tail in names), None)
    return name if variable is None else variable_of(variable, names)


def _tails(name: str) -> list[str]:
    """`a/b/c` -> `a/b/c`, `b/c`, `c`."""
    components = name.split("/")
    return ["/".join(components[i:]) for i in range(len(components))] if name else []
