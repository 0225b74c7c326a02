"""GPT-2 in linen, with a projection of its own for queries, keys and values together.

Needs: jax, flax. A model file: `ports_demo.py` runs it; maps/gpt2_linen.toml fills it
from the public TensorFlow checkpoints.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

# GPT-2's own epsilon; Flax's default of 1e-6 would be off by 4e-2.
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a GPT-2; the defaults are those of the checkpoint in tests/data/gpt2."""

    vocab: int = 97
    context: int = 20
    hidden: int = 32
    layers: int = 2
    heads: int = 4


class Attention(nn.Module):
    """Causal self-attention."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        hidden = x.shape[-1]
        features = (3, self.heads, hidden // self.heads)
        qkv = nn.DenseGeneral(features, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv, -3, 0)
        mask = nn.make_causal_mask(x[..., 0])
        context = nn.dot_product_attention(query, key, value, mask=mask)
        return nn.DenseGeneral(hidden, axis=(-2, -1), name="out")(context)


class Block(nn.Module):
    """Attention and a wide layer, each normalised first and added to its input."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        hidden = x.shape[-1]
        y = nn.LayerNorm(epsilon=EPSILON, name="attention_norm")(x)
        x += Attention(self.heads, name="attention")(y)
        y = nn.LayerNorm(epsilon=EPSILON, name="mlp_norm")(x)
        y = nn.gelu(nn.Dense(4 * hidden, name="mlp_in")(y), approximate=True)
        return x + nn.Dense(hidden, name="mlp_out")(y)


class GPT2(nn.Module):
    """GPT-2, its logits tied to the embedding of tokens."""

    config: Config

    @nn.compact
    def __call__(self, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes hidden states and logits of ids `[batch, length]`."""
        c = self.config
        tokens = nn.Embed(c.vocab, c.hidden, name="token_embed")
        positions = nn.Embed(c.context, c.hidden, name="position_embed")
        x = tokens(ids) + positions(jnp.arange(ids.shape[1]))
        for i in range(c.layers):
            x = Block(c.heads, name=f"blocks_{i}")(x)
        x = nn.LayerNorm(epsilon=EPSILON, name="final_norm")(x)
        return x, tokens.attend(x)
