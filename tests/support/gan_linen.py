"""The generator of a GAN in linen: transposed convolutions, and norms of all kinds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def up(features: int, size: tuple[int, int], **kwargs: Any) -> nn.ConvTranspose:
    """A transposed convolution as TensorFlow's: its kernel is `[h, w, out, in]`."""
    return nn.ConvTranspose(features, size, transpose_kernel=True, **kwargs)


class SpectralConv(nn.Module):
    """A convolution by a kernel of norm 1, by one step from the stored vector."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `[batch, h, w, channels]`, whose borders are reflected."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        u = self.variable("batch_stats", "u", jnp.ones, (1, self.features)).value
        matrix = kernel.reshape(-1, self.features)
        v = u @ matrix.T
        v /= jnp.linalg.norm(v)
        sigma = jnp.linalg.norm(v @ matrix)
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        dims = ("NHWC", "HWIO", "NHWC")
        convolved = jax.lax.conv_general_dilated(
            x, kernel / sigma, (1, 1), "VALID", dimension_numbers=dims
        )
        return convolved + bias


class PReLU(nn.Module):
    """A slope for each channel, where Flax's own has one for all."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps an array to one of the same shape."""
        slope = self.param("negative_slope", nn.initializers.zeros, x.shape[-1:])
        return jnp.where(x >= 0, x, slope * x)


def depth_to_space(x: jax.Array) -> jax.Array:
    """Twice the height and width, of a quarter of the channels."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, 2 * h, 2 * w, c // 4)


class Generator(nn.Module):
    """Images `[batch, 22, 14, 3]` of noise and labels."""

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
        """The image of `z` `[batch, 16]`, and what some layers give."""
        outputs: dict[str, jax.Array] = {}
        x = jnp.concatenate([z, nn.Embed(6, 4, name="label_embed")(label)], axis=1)
        x = nn.Dense(240, name="dense")(x).reshape(-1, 4, 5, 12)
        x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="norm_0")(x)
        x = outputs["fc"] = nn.leaky_relu(x, 0.2)
        x = up(10, (5, 5), strides=(2, 2), name="up_1")(x)
        # Recorded, as the norm that follows takes away its bias.
        outputs["deconv_s2k5"] = x
        x = nn.relu(nn.InstanceNorm(epsilon=1e-6, name="instance_norm")(x))
        x = up(8, (4, 3), strides=(2, 1), use_bias=False, name="up_2")(x)
        # TensorFlow's takes the mean of an image and scales each channel.
        x = nn.LayerNorm(1e-12, reduction_axes=(1, 2, 3), name="layer_norm")(x)
        x = nn.elu(x)
        x = up(6, (3, 3), strides=(2, 2), padding="VALID", name="up_3")(x)
        x = nn.GroupNorm(num_groups=3, epsilon=1e-6, name="group_norm")(x)
        x = outputs["gnorm"] = jnp.tanh(x)
        # One row and one column fewer than twice as many: an odd size.
        odd = ((2, 1), (2, 1))
        x = up(5, (4, 4), strides=(2, 2), padding=odd, name="up_4")(x)
        x = SpectralConv(8, name="spectral_conv")(nn.selu(x[:, ::3, ::3]))
        outputs["sn_conv"] = x
        x = depth_to_space(PReLU(name="prelu")(x))
        x = nn.Conv(3, (4, 4), strides=(2, 2), name="to_rgb")(x)
        outputs["image"] = jnp.tanh(x)
        return outputs
