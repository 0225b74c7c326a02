"""A bottleneck ResNet in linen, padded as slim pads.

Needs: jax, flax. A model file: `ports_demo.py` and `moving_averages.py` run it;
maps/resnet_linen.toml fills it from slim's checkpoints.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

# slim's 1e-5, which TensorFlow's fused batch normalisation raises to this.
EPSILON = 1.001e-5


@dataclasses.dataclass(frozen=True)
class Unit:
    """Sizes of one unit: features outside and inside of the bottleneck, and stride."""

    depth: int
    inner: int
    stride: int


# Those of the checkpoint in tests/data/resnet_slim.
BLOCKS = (
    (Unit(32, 8, 1), Unit(32, 8, 2)),
    (Unit(48, 12, 1), Unit(48, 12, 1)),
)


class ConvNorm(nn.Module):
    """A convolution without bias, normalised over the batch."""

    features: int
    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to `[..., features]`."""
        before = (self.size - 1) // 2
        pad = (before, self.size - 1 - before)
        x = nn.Conv(
            self.features,
            (self.size, self.size),
            strides=self.stride,
            padding=(pad, pad),
            use_bias=False,
            name="conv",
        )(x)
        return nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name="norm")(x)


class Bottleneck(nn.Module):
    """Three convolutions, added to their input."""

    unit: Unit

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to `[..., depth]`."""
        u = self.unit
        if x.shape[-1] == u.depth:
            shortcut = x[:, :: u.stride, :: u.stride]
        else:
            shortcut = ConvNorm(u.depth, 1, u.stride, name="shortcut")(x)
        y = nn.relu(ConvNorm(u.inner, 1, name="conv1")(x))
        y = nn.relu(ConvNorm(u.inner, 3, u.stride, name="conv2")(y))
        y = ConvNorm(u.depth, 1, name="conv3")(y)
        return nn.relu(shortcut + y)


class ResNet(nn.Module):
    """A stem, blocks of units, and a linear head."""

    blocks: tuple[tuple[Unit, ...], ...] = BLOCKS
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the logits of images `[batch, height, width, 3]`."""
        x = nn.relu(ConvNorm(64, 7, 2, name="stem")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for b, units in enumerate(self.blocks, start=1):
            for u, unit in enumerate(units, start=1):
                x = Bottleneck(unit, name=f"block{b}_unit{u}")(x)
        return nn.Dense(self.classes, name="head")(jnp.mean(x, axis=(1, 2)))
