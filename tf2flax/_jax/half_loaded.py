"""Normalisations that look loaded by half, and have their statistics already.

Where a model is filled in turns, an earlier call may have loaded mean and variance.
Names do not tell; the values of the target and the checkpoint do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from tf2flax._assignment.layouts.comparing import equal_elements
from tf2flax._assignment.resolution.half_norms import HalfNorm
from tf2flax._base.dtypes import forced_cast
from tf2flax._base.errors import CheckpointError
from tf2flax._base.manifest import Manifest
from tf2flax._reading.whole import read_entry

from .trees import Slot


def without_statistics(
    norms: Sequence[HalfNorm], slots: Sequence[Slot], manifest: Manifest
) -> list[HalfNorm]:
    """Leaves out the statistics that the target has from the checkpoint already.

    Reads statistics alone, and only where there are normalisations at all.

    Args:
        norms: What names say about normalisations.
        slots: The target's leaves.
        manifest: The checkpoint.

    Returns:
        The normalisations of which statistics differ, each with those that do.
    """
    values = {slot.leaf.name: slot.value for slot in slots} if norms else {}
    halves: list[HalfNorm] = []
    for norm in norms:
        pairs = [
            (leaf, tensor)
            for leaf, tensor in zip(norm.kept, norm.tensors, strict=True)
            if not _holds(values, leaf, tensor, manifest)
        ]
        if pairs:
            kept, tensors = zip(*pairs, strict=True)
            halves.append(dataclasses.replace(norm, kept=kept, tensors=tensors))
    return halves


def _holds(
    values: Mapping[str, Any], leaf: str, tensor: str, manifest: Manifest
) -> bool:
    """True if a leaf holds a tensor's values; False where that cannot be known."""
    value = values.get(leaf)
    if isinstance(value, jax.Array):
        is_whole_here = value.is_fully_addressable or value.is_fully_replicated
        if value.is_deleted() or not is_whole_here:
            return False
        value = jax.device_get(value)
    if not isinstance(value, np.ndarray):
        return False
    array = cast("np.ndarray", value)
    try:
        stored = read_entry(manifest.entry(tensor))
    except CheckpointError:  # damaged, say: nothing of it is loaded
        return False
    if stored.size != array.size:
        return False
    loaded = forced_cast(stored.reshape(-1), array.dtype)
    return bool(equal_elements(loaded, array.reshape(-1)).all())
