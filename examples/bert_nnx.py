"""BERT in NNX, with a list of layers, and the map that fills it.

Needs: jax, flax. A model file: `bert_demo.py` runs it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from bert_linen import EPSILON, Config
from flax import nnx


def assignment_map(config: Config) -> dict[str, str]:
    """TensorFlow names and scopes -> leaves and scopes of `Bert`."""
    layers = {f"bert/encoder/layer_{i}/": f"layers/{i}/" for i in range(config.layers)}
    return {
        "bert/embeddings/word_embeddings": "word/embedding",
        "bert/embeddings/token_type_embeddings": "token_type/embedding",
        "bert/embeddings/position_embeddings": "position/embedding",
        "bert/embeddings/LayerNorm/": "norm/",
        **layers,
        "bert/pooler/dense/": "pooler/",
    }


class SelfAttention(nnx.Module):
    """Attention of every token to every token that the mask keeps."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        """Makes the three projections."""
        self.heads = config.heads
        self.query = nnx.Linear(config.hidden, config.hidden, rngs=rngs)
        self.key = nnx.Linear(config.hidden, config.hidden, rngs=rngs)
        self.value = nnx.Linear(config.hidden, config.hidden, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        shape = (*x.shape[:2], self.heads, x.shape[-1] // self.heads)
        query = self.query(x).reshape(shape)
        key = self.key(x).reshape(shape)
        value = self.value(x).reshape(shape)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / shape[-1] ** 0.5
        hidden_keys = 1.0 - jnp.asarray(mask, x.dtype)[:, None, None, :]
        scores += hidden_keys * -10000.0
        context = jnp.einsum("bhqk,bkhd->bqhd", nnx.softmax(scores), value)
        return context.reshape(x.shape)


class Output(nnx.Module):
    """A projection, added to a residual and normalised."""

    def __init__(self, features: int, config: Config, *, rngs: nnx.Rngs) -> None:
        """Makes both; they are called as in the checkpoint."""
        self.dense = nnx.Linear(features, config.hidden, rngs=rngs)
        self.LayerNorm = nnx.LayerNorm(config.hidden, epsilon=EPSILON, rngs=rngs)

    def __call__(self, x: jax.Array, residual: jax.Array) -> jax.Array:
        """Projects `[batch, length, features]` to the residual's shape."""
        return self.LayerNorm(self.dense(x) + residual)


class Attention(nnx.Module):
    """Self-attention with its output projection."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        """Makes both; they are called as in the checkpoint."""
        self.self = SelfAttention(config, rngs=rngs)
        self.output = Output(config.hidden, config, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        return self.output(self.self(x, mask), x)


class Intermediate(nnx.Module):
    """The wide layer between two projections; the tanh form of GELU, as in TF."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        """Makes the projection."""
        self.dense = nnx.Linear(config.hidden, config.intermediate, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to `[batch, length, intermediate]`."""
        return nnx.gelu(self.dense(x), approximate=True)


class Layer(nnx.Module):
    """One layer of the encoder."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        """Makes its three parts; they are called as in the checkpoint."""
        self.attention = Attention(config, rngs=rngs)
        self.intermediate = Intermediate(config, rngs=rngs)
        self.output = Output(config.intermediate, config, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Bert(nnx.Module):
    """BERT without its heads."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        """Makes embeddings, layers and pooler."""
        c = config
        self.word = nnx.Embed(c.vocab, c.hidden, rngs=rngs)
        self.token_type = nnx.Embed(c.token_types, c.hidden, rngs=rngs)
        self.position = nnx.Embed(c.positions, c.hidden, rngs=rngs)
        self.norm = nnx.LayerNorm(c.hidden, epsilon=EPSILON, rngs=rngs)
        self.layers = nnx.List([Layer(c, rngs=rngs) for _ in range(c.layers)])
        self.pooler = nnx.Linear(c.hidden, c.hidden, rngs=rngs)

    def __call__(
        self, ids: jax.Array, mask: jax.Array, token_types: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the sequence and pooled outputs of ids `[batch, length]`."""
        x = self.word(ids) + self.token_type(token_types)
        x = self.norm(x + self.position(jnp.arange(ids.shape[1])))
        for layer in self.layers:
            x = layer(x, mask)
        return x, jnp.tanh(self.pooler(x[:, 0]))
