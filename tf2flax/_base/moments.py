"""What an optimizer keeps for a variable, and how TensorFlow spells that.

A *moment* is what a slot is for its variable, whoever wrote it: `dense/kernel/Adam_1`,
BERT's `adam_v`, the `v` of TF2 and the `velocity` of Keras 3 are all second moments.

Source: tensorflow/python/training/{adam,momentum,rmsprop,adagrad,adadelta,ftrl}.py;
tensorflow/python/keras/optimizer_v2; keras/src/optimizers; google-research/bert
optimization.py and albert lamb_optimizer.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple


class Moment(NamedTuple):
    """A moment, and its spellings.

    Attributes:
        name: What it is called in messages.
        optimizer: What names of TF1's optimizers that keep it hold (regex), which are
            those of their slots: `Adam`, `dqn_adam`.
        place: Which of the optimizer's slots it is, from 0; -1 for the last.
        counts: How many slots such an optimizer may have.
        words: Names of slots that say what they are.
        beside: A slot that must be there as well, where the words mean several moments.
    """

    name: str
    optimizer: str
    place: int
    counts: tuple[int, ...]
    words: tuple[str, ...]
    beside: str = ""


FIRST_MOMENT: Final = Moment(
    "first moment",
    "adam|lamb",
    0,
    (2,),
    ("m", r"(?!slot_)\w+_m", "momentum"),
    "velocity",
)
SECOND_MOMENT: Final = Moment(
    "second moment", "adam|lamb", 1, (2,), ("v", r"(?!slot_)\w+_v", "velocity")
)
MOMENTUM: Final = Moment("momentum", "momentum", 0, (1,), ("momentum",))
MEAN_SQUARE: Final = Moment("mean square", "rms", 0, (2, 3), ("rms", "velocity"))
MEAN_GRADIENT: Final = Moment(
    "mean gradient", "rms", 1, (3,), ("mg", "average_gradient")
)
RMS_MOMENTUM: Final = Moment("momentum", "rms", -1, (2, 3), ("momentum",))
SUM_OF_SQUARES: Final = Moment(
    "sum of squares", "adagrad", 0, (1,), ("accumulator", "accum")
)
DELTA_GRADIENT: Final = Moment(
    "mean square of gradients", "adadelta", 0, (2,), ("accum_grad", "accumulated_grad")
)
DELTA_UPDATE: Final = Moment(
    "mean square of updates",
    "adadelta",
    1,
    (2,),
    ("accum_var", "accum_update", "accumulated_delta_var"),
)
FTRL_ACCUMULATOR: Final = Moment(
    "accumulator", "ftrl", 0, (2,), ("accumulator", "accum"), "linear"
)
FTRL_LINEAR: Final = Moment("linear", "ftrl", 1, (2,), ("linear",))
# Of Adafactor, whose slots differ from variable to variable; see `factored`.
ROWS: Final = Moment(
    "second moment of rows", "adafactor", 0, (), ("slot_vr", "vr", "r")
)
COLUMNS: Final = Moment(
    "second moment of columns", "adafactor", 1, (), ("slot_vc", "vc", "c")
)
UNFACTORED: Final = Moment("second moment", "adafactor", -1, (), ("slot_v", "v"))
FACTORED_MOMENTUM: Final = Moment("momentum", "adafactor", 0, (), ("slot_m", "m"))

# What names of optimizers hold that keep one of these.
_OPTIMIZERS: Final = "adam|lamb|momentum|rms|adagrad|adadelta|ftrl|adafactor"
_NUMBERED: Final = re.compile(r"(.+)_(\d+)")


def spellings(moment: Moment, slots: Collection[str]) -> list[str]:
    """Finds the slots that are a moment, by their names.

    Args:
        moment: The moment.
        slots: Names of the slots of one optimizer's scope, without the scope.

    Returns:
        Those that are this moment; several where nothing tells which is meant.

    Examples:
        >>> spellings(SECOND_MOMENT, ["Adam", "Adam_1"])
        ['Adam_1']
        >>> spellings(RMS_MOMENTUM, ["RMSProp", "RMSProp_1", "RMSProp_2"])
        ['RMSProp_2']
    """
    families = numbered_families(slots)
    named = [
        name
        for family in families
        if re.search(moment.optimizer, family[0], re.I)
        for name in _members(moment, family)
    ]
    words = [name for name in slots if _is_word(moment, name, slots)]
    if named or words:
        return list(dict.fromkeys([*named, *words]))
    # The user has named the optimizer: `policy_optimizer`, `policy_optimizer_1`.
    return [
        name
        for family in families
        if family[0] not in moment.words and not re.search(_OPTIMIZERS, family[0], re.I)
        if len(family) in moment.counts
        for name in _members(moment, family)
    ]


def numbered_families(slots: Collection[str]) -> list[list[str]]:
    """Groups slots that count up: `Adam` and `Adam_1`, in the order of numbers."""
    families: dict[str, dict[int, str]] = {}
    for name in slots:
        match = _NUMBERED.fullmatch(name)
        # `dqn_adam_1` is the name of an optimizer if there is no `dqn_adam`.
        if match and match[1] in slots:
            families.setdefault(match[1], {})[int(match[2])] = name
        else:
            families.setdefault(name, {})[0] = name
    return [
        [family[number] for number in sorted(family)] for family in families.values()
    ]


def _members(moment: Moment, family: Sequence[str]) -> list[str]:
    """The slot of a family that is the moment; all, if several optimizers share it."""
    if re.search(r"_[mv]$", family[0]):  # BERT's, which say what they are
        return []
    if len(family) not in moment.counts:
        # `Adam_2` and `Adam_3` are those of a second optimizer.
        return list(family) if len(family) > max(moment.counts) else []
    return [family[moment.place]]


def _is_word(moment: Moment, name: str, slots: Collection[str]) -> bool:
    """True for the name of a slot that says what it is."""
    if not any(re.fullmatch(word, name) for word in moment.words):
        return False
    # Keras 3 calls the first moment `momentum`, beside `velocity`; so does SGD alone.
    return name != "momentum" or not moment.beside or moment.beside in slots
