"""BERT as an NNX author would write it: NNX's own attention, and its own names.

Needs: jax, flax. A model file: `ports_demo.py` runs it; maps/bert_nnx.toml fills it
from the public TensorFlow checkpoints.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from bert_linen import EPSILON, Config
from flax import nnx


class Layer(nnx.Module):
    """One layer of the encoder."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        """Makes attention, the wide layer and two normalisations."""
        c = config
        self.attention = nnx.MultiHeadAttention(
            c.heads, c.hidden, decode=False, rngs=rngs
        )
        self.attention_norm = nnx.LayerNorm(c.hidden, epsilon=EPSILON, rngs=rngs)
        self.mlp_in = nnx.Linear(c.hidden, c.intermediate, rngs=rngs)
        self.mlp_out = nnx.Linear(c.intermediate, c.hidden, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(c.hidden, epsilon=EPSILON, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        x = self.attention_norm(x + self.attention(x, mask=mask[:, None, None, :]))
        wide = nnx.gelu(self.mlp_in(x), approximate=True)
        return self.mlp_norm(x + self.mlp_out(wide))


class Bert(nnx.Module):
    """BERT without its heads."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        """Makes embeddings, layers and pooler."""
        c = config
        self.token_embed = nnx.Embed(c.vocab, c.hidden, rngs=rngs)
        self.segment_embed = nnx.Embed(c.token_types, c.hidden, rngs=rngs)
        self.position_embed = nnx.Embed(c.positions, c.hidden, rngs=rngs)
        self.embed_norm = nnx.LayerNorm(c.hidden, epsilon=EPSILON, rngs=rngs)
        self.layers = nnx.List([Layer(c, rngs=rngs) for _ in range(c.layers)])
        self.pooler = nnx.Linear(c.hidden, c.hidden, rngs=rngs)

    def __call__(
        self, ids: jax.Array, mask: jax.Array, token_types: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the sequence and pooled outputs of ids `[batch, length]`."""
        x = self.token_embed(ids) + self.segment_embed(token_types)
        x = self.embed_norm(x + self.position_embed(jnp.arange(ids.shape[1])))
        for layer in self.layers:
            x = layer(x, jnp.asarray(mask, bool))
        return x, jnp.tanh(self.pooler(x[:, 0]))
