"""BERT in linen, with submodules named as in the public TensorFlow checkpoints.

Needs: jax, flax. A model file: `bert_demo.py` runs it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

# BERT's own epsilon; Flax's default of 1e-6 would be off by 1e-3.
EPSILON = 1e-12
# TensorFlow names and scopes -> leaves and scopes of `Bert`'s variables.
ASSIGNMENT_MAP = {
    "bert/embeddings/word_embeddings": "params/embeddings/word/embedding",
    "bert/embeddings/token_type_embeddings": "params/embeddings/token_type/embedding",
    "bert/embeddings/position_embeddings": "params/embeddings/position/embedding",
    "bert/embeddings/LayerNorm/": "params/embeddings/LayerNorm/",
    "bert/encoder/": "params/encoder/",
    "bert/pooler/": "params/pooler/",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a BERT; the defaults are those of the checkpoint in tests/data/bert."""

    vocab: int = 100
    hidden: int = 32
    layers: int = 2
    heads: int = 4
    intermediate: int = 64
    token_types: int = 2
    positions: int = 24


class Embeddings(nn.Module):
    """Sum of word, token-type and position embeddings, normalised."""

    config: Config

    @nn.compact
    def __call__(self, ids: jax.Array, token_types: jax.Array) -> jax.Array:
        """Embeds ids `[batch, length]` as `[batch, length, hidden]`."""
        c = self.config
        x = nn.Embed(c.vocab, c.hidden, name="word")(ids)
        x += nn.Embed(c.token_types, c.hidden, name="token_type")(token_types)
        positions = jnp.arange(ids.shape[1])
        x += nn.Embed(c.positions, c.hidden, name="position")(positions)
        return nn.LayerNorm(epsilon=EPSILON, name="LayerNorm")(x)


class SelfAttention(nn.Module):
    """Attention of every token to every token that the mask keeps."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        hidden = x.shape[-1]
        shape = (*x.shape[:2], self.heads, hidden // self.heads)
        query = nn.Dense(hidden, name="query")(x).reshape(shape)
        key = nn.Dense(hidden, name="key")(x).reshape(shape)
        value = nn.Dense(hidden, name="value")(x).reshape(shape)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / shape[-1] ** 0.5
        hidden_keys = 1.0 - jnp.asarray(mask, x.dtype)[:, None, None, :]
        scores += hidden_keys * -10000.0
        context = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), value)
        return context.reshape(x.shape)


class Output(nn.Module):
    """A projection, added to a residual and normalised."""

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array) -> jax.Array:
        """Projects `[batch, length, any]` to the residual's shape."""
        x = nn.Dense(residual.shape[-1], name="dense")(x)
        return nn.LayerNorm(epsilon=EPSILON, name="LayerNorm")(x + residual)


class Attention(nn.Module):
    """Self-attention with its output projection."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        context = SelfAttention(self.heads, name="self")(x, mask)
        return Output(name="output")(context, x)


class Intermediate(nn.Module):
    """The wide layer between two projections; the tanh form of GELU, as in TF."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to `[batch, length, features]`."""
        return nn.gelu(nn.Dense(self.features, name="dense")(x), approximate=True)


class Layer(nn.Module):
    """One layer of the encoder."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        x = Attention(self.config.heads, name="attention")(x, mask)
        wide = Intermediate(self.config.intermediate, name="intermediate")(x)
        return Output(name="output")(wide, x)


class Encoder(nn.Module):
    """All layers, called `layer_0`, `layer_1`, ..."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        for i in range(self.config.layers):
            x = Layer(self.config, name=f"layer_{i}")(x, mask)
        return x


class Pooler(nn.Module):
    """The first token, projected: the sentence."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to `[batch, hidden]`."""
        return jnp.tanh(nn.Dense(x.shape[-1], name="dense")(x[:, 0]))


class Bert(nn.Module):
    """BERT without its heads."""

    config: Config

    @nn.compact
    def __call__(
        self, ids: jax.Array, mask: jax.Array, token_types: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the sequence and pooled outputs of ids `[batch, length]`."""
        x = Embeddings(self.config, name="embeddings")(ids, token_types)
        x = Encoder(self.config, name="encoder")(x, mask)
        return x, Pooler(name="pooler")(x)


def make_params() -> dict[str, Any]:
    """The variables, abstract: `tf2flax plan … --target bert_linen:make_params`."""
    ids = jnp.ones((1, 8), "int32")
    return jax.eval_shape(Bert(Config()).init, jax.random.key(0), ids, ids, ids)
