"""Powers of betas, from which the steps of an Adam are counted.

`AdamOptimizer` counts no steps. It stores beta1 and beta2 multiplied up once a step:

    steps t             0        1        2
    beta2_power      0.999  0.998001  0.997003      = beta2^(t+1), rounded at each step

Source: tensorflow/python/training/adam.py, `_create_slots` and `_finish`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

# Below this, TensorFlow's kernels make 0 of a product.
_TINY: Final = float(np.finfo(np.float32).tiny)
# Steps that are multiplied up at once: 256 kB of float32.
_BLOCK: Final = 65_536


def has_run_out(power: float) -> bool:
    """True for a power that says nothing any more: 0, or a number below normal ones."""
    return not power >= _TINY


def power_after(beta: float, steps: int) -> np.float32:
    """The power that TensorFlow stores after a number of steps.

    Args:
        beta: The beta.
        steps: Number of steps, from 0 on.

    Returns:
        beta^(steps + 1), multiplied up in float32; 0 once it has run out.

    Examples:
        >>> float(power_after(0.5, 2))
        0.125
    """
    for start, powers in _blocks(beta):
        if steps - start < powers.size:
            power = powers[steps - start]
            return np.float32(0) if has_run_out(float(power)) else power
    return np.float32(0)


def steps_of(power: float, beta: float) -> int | None:
    """Counts the steps after which TensorFlow stores a power.

    Args:
        power: What is stored; has not run out.
        beta: The beta.

    Returns:
        The number of steps; None where the beta never gives this power.

    Examples:
        >>> steps_of(0.125, 0.5), steps_of(0.3, 0.5)
        (2, None)
    """
    for start, powers in _blocks(beta):
        equal = np.flatnonzero(powers == np.float32(power))
        if equal.size:
            # A beta so near to 1 that its powers stay the same counts nothing.
            return start + int(equal[0]) if equal.size == 1 else None
        if float(powers[-1]) < power:
            break
    return None


def _blocks(beta: float) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the powers of a beta until they run out, with the steps of the first."""
    if not 0.0 < beta < 1.0:
        return
    count = math.ceil(math.log(_TINY) / math.log(beta)) + 1
    power = np.float32(1)
    for start in range(0, count, _BLOCK):
        factors = np.full(min(_BLOCK, count - start), beta, np.float32)
        factors[0] *= power
        powers = np.multiply.accumulate(factors, dtype=np.float32)
        yield start, powers
        power = powers[-1]
