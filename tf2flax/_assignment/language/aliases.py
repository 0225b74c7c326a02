"""Names that Flax and TensorFlow give to the same parameter."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Final

# Last component of a leaf's name -> last components of tensors that may fill it.
# tf.layers and slim call a kernel `weights`, Sonnet and GPT-2 `w`; batch and layer
# normalisation of TF call a scale `gamma` (GPT-2: `g`) and a bias `beta`.
FLAX_ALIASES: Final[Mapping[str, tuple[str, ...]]] = types.MappingProxyType(
    {
        "kernel": ("weights", "w"),
        "bias": ("beta", "biases", "b"),
        "scale": ("gamma", "g"),
        "mean": ("moving_mean",),
        "var": ("moving_variance",),
        "embedding": ("embeddings", "weights"),
    }
)


def alias_sources(
    source: str, component: str, aliases: Mapping[str, tuple[str, ...]] | None
) -> tuple[str, ...]:
    """Writes the name of a tensor with each alias of the leaf's last component.

    Args:
        source: Exact name of the tensor, which the checkpoint lacks.
        component: Last component of the leaf's name.
        aliases: Aliases by component; None for none.

    Returns:
        Names to try, in the order of the aliases.

    Examples:
        >>> alias_sources("bn/scale", "scale", {"scale": ("gamma",)})
        ('bn/gamma',)
    """
    scope, slash, last = source.rpartition("/")
    if not aliases or last != component:
        return ()
    return tuple(f"{scope}{slash}{alias}" for alias in aliases.get(component, ()))
