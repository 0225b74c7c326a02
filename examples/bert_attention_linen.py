"""BERT as a Flax author would write it: linen's own attention, and its own names.

Needs: jax, flax. Model files: `ports_demo.py` runs them; maps/bert_linen.toml and
maps/bert_scan.toml fill them from the public TensorFlow checkpoints.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from bert_linen import EPSILON, Config
from flax import linen as nn


class Layer(nn.Module):
    """One layer of the encoder."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        c = self.config
        attention = nn.MultiHeadDotProductAttention(c.heads, name="attention")
        x += attention(x, mask=mask[:, None, None, :])
        x = nn.LayerNorm(epsilon=EPSILON, name="attention_norm")(x)
        wide = nn.gelu(nn.Dense(c.intermediate, name="mlp_in")(x), approximate=True)
        x += nn.Dense(c.hidden, name="mlp_out")(wide)
        return nn.LayerNorm(epsilon=EPSILON, name="mlp_norm")(x)


class Bert(nn.Module):
    """BERT without its heads.

    Attributes:
        config: Its sizes.
        is_scanned: Whether the layers are one `nn.scan`: every leaf of them has a
            leading axis of layers, under `layers/`. Otherwise they are `layers_0` ...
    """

    config: Config
    is_scanned: bool = False

    @nn.compact
    def __call__(
        self, ids: jax.Array, mask: jax.Array, token_types: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the sequence and pooled outputs of ids `[batch, length]`."""
        c = self.config
        x = nn.Embed(c.vocab, c.hidden, name="token_embed")(ids)
        x += nn.Embed(c.token_types, c.hidden, name="segment_embed")(token_types)
        positions = jnp.arange(ids.shape[1])
        x += nn.Embed(c.positions, c.hidden, name="position_embed")(positions)
        x = nn.LayerNorm(epsilon=EPSILON, name="embed_norm")(x)
        x = self._encode(x, jnp.asarray(mask, bool))
        return x, jnp.tanh(nn.Dense(c.hidden, name="pooler")(x[:, 0]))

    def _encode(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        c = self.config
        if not self.is_scanned:
            for i in range(c.layers):
                x = Layer(c, name=f"layers_{i}")(x, mask)
            return x
        layers = nn.scan(
            lambda layer, x, mask: (layer(x, mask), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.layers,
        )
        x, _ = layers(Layer(c, name="layers"), x, mask)
        return x
