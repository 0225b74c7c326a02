"""Prints how far outputs are from those of TensorFlow 1.15; the other examples use it.

Needs: numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# Outputs are of order 1 to 10; two correct float32 implementations differ by some 1e-6.
TOLERANCE = 1e-5


def difference(output: Any, recorded: np.ndarray) -> float:
    """The greatest absolute difference; NaN if either holds one."""
    return float(np.abs(np.asarray(output) - recorded).max())


def report(differences: Mapping[str, float]) -> int:
    """Prints differences by name, and gives the exit status: 1 beyond the tolerance."""
    print("Greatest absolute difference to TensorFlow 1.15:")
    width = max(map(len, differences))
    for name, value in differences.items():
        print(f"  {name:<{width}}  {value:.2e}")
    # Not through their maximum: no comparison finds a NaN there.
    is_close = all(value <= TOLERANCE for value in differences.values())
    print(f"{'OK: all' if is_close else 'FAILED: not all'} within {TOLERANCE:.0e}")
    return 0 if is_close else 1
