"""Names of the slots of Keras 3's optimizers, which hold those of their variables.

    variable `outer/wide/bias`, slot `adam/outer_wide_bias_velocity`     (Keras 3)
    variable `dense/kernel`,    slot `Adam/m/dense/kernel`               (tf.keras 2.11)

Source: keras/src/optimizers/base_optimizer.py, `add_variable_from_reference`; the same
of tf.keras 2.11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .role_patterns import KERAS_SLOTS


def flatten_names(keys: Mapping[str, str]) -> dict[str, str]:
    """Names of variables as Keras 3 puts them into those of slots -> keys.

    Args:
        keys: Names of variables -> their keys in the checkpoint.

    Returns:
        Keys by joined names; "" where two are joined alike.
    """
    flat: dict[str, str] = {}
    for name, key in keys.items():
        joined = name.replace("/", "_")
        flat[joined] = "" if joined in flat else key
    return flat


def read_slot_name(
    name: str,
    keys: Mapping[str, str],
    flat: Mapping[str, str],
    fits: Callable[[str], bool],
) -> tuple[str, str] | None:
    """Reads from the name of a slot what it belongs to.

    Args:
        name: Name of the slot.
        keys: Names of variables -> their keys in the checkpoint.
        flat: What `flatten_names` makes of them.
        fits: Tells of a key whether the slot has the shape of its variable.

    Returns:
        Key of the variable and name of the slot; None if the name does not tell.
    """
    readings: set[tuple[str, str]] = set()
    # With the optimizer's own name before it, which Keras leaves out at times.
    for candidate in dict.fromkeys((name, name.partition("/")[2])):
        words = candidate.split("_")
        for start in range(1, len(words)):
            key = flat.get("_".join(words[:start]), "")
            readings.add((key, "_".join(words[start:])))
        slot, _, variable = candidate.partition("/")
        readings.add((keys.get(variable, ""), slot))
    fitting = {
        (key, slot)
        for key, slot in readings
        if key and slot in KERAS_SLOTS and fits(key)
    }
    return fitting.pop() if len(fitting) == 1 else None  # never a guess
