"""Compares outputs with those of TensorFlow 1.15; the other examples use it.

Needs: jax, flax.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import tf2flax

# Outputs are of order 1 to 10; two correct float32 implementations differ by some 1e-6.
TOLERANCE = 1e-5


def compare(
    fn: Any,
    variables: Any,
    inputs: Any,
    recorded: Mapping[str, np.ndarray],
    plan: tf2flax.Plan | None = None,
    **names: str,
) -> tf2flax.Comparison:
    """Runs a model and compares its outputs.

    Args:
        fn: As `tf2flax.compare_outputs`; so are the next two.
        variables: Its first argument.
        inputs: Its other arguments.
        recorded: All that TensorFlow recorded, by name.
        plan: The plan that loaded the variables.
        **names: Recorded outputs -> what the model calls them: places in its tuple.
    """
    return tf2flax.compare_outputs(
        fn,
        variables,
        inputs,
        {name: recorded[name] for name in names},
        plan=plan,
        intermediates=names,
        rtol=0,
        atol=TOLERANCE,
    )


def difference(got: Any, wanted: Any) -> tf2flax.Comparison:
    """Compares what was computed already: an array, or several by name."""
    if isinstance(got, Mapping):
        names = {name: name for name in got}
        arrays = {name: np.asarray(array) for name, array in got.items()}
        return compare(lambda arrays: arrays, arrays, (), wanted, **names)
    return tf2flax.compare_outputs(
        lambda array: array, np.asarray(got), (), wanted, rtol=0, atol=TOLERANCE
    )


def report(comparisons: Mapping[str, tf2flax.Comparison]) -> int:
    """Prints differences by name, and gives the exit status: 1 beyond the tolerance."""
    rows = [
        (f"{label}  {row.name}".strip(), row.max_abs, row.fact)
        for label, comparison in comparisons.items()
        for row in comparison.rows
    ]
    print("Greatest absolute difference to TensorFlow 1.15:")
    width = max(len(name) for name, *_ in rows)
    for name, value, fact in rows:
        print(f"  {name:<{width}}  {fact if value is None else f'{value:.2e}'}")
    is_close = all(comparison.ok for comparison in comparisons.values())
    # The first layer that differs, and what makes it equal.
    for comparison in comparisons.values():
        if not comparison.ok:
            print(comparison)
    print(f"{'OK: all' if is_close else 'FAILED: not all'} within {TOLERANCE:.0e}")
    return 0 if is_close else 1
