"""T5 v1.0 in linen: heads apart, the bias of relative positions as an embedding."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

# Sizes of the checkpoint in tests/data/t5_like.
VOCAB, WIDTH, HEADS, HEAD_WIDTH, WIDE, LAYERS = 60, 24, 3, 10, 48, 2
BUCKETS, FAR = 32, 128
MASKED = -1e9


def bucket(relative: jax.Array, *, both_ways: bool) -> jax.Array:
    """Bucket of each position of a key relative to that of its query."""
    buckets, offset = BUCKETS, jnp.zeros_like(relative)
    distance = jnp.maximum(-relative, 0)
    if both_ways:
        buckets //= 2
        offset = jnp.where(relative > 0, buckets, 0)
        distance = jnp.abs(relative)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(FAR / exact)
    far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(int), buckets - 1)
    return offset + jnp.where(distance < exact, distance, far)


class RelativeBias(nn.Module):
    """One number for each head and bucket, `[1, heads, length, length]`."""

    both_ways: bool

    @nn.compact
    def __call__(self, length: int) -> jax.Array:
        """Bias of all pairs of positions."""
        position = jnp.arange(length)
        relative = position[None] - position[:, None]
        table = nn.Embed(BUCKETS, HEADS, name="embedding")
        biases = table(bucket(relative, both_ways=self.both_ways))
        return biases.transpose(2, 0, 1)[None]


class Attention(nn.Module):
    """Attention without biases; T5 leaves the products unscaled."""

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array, bias: jax.Array) -> jax.Array:
        """Maps `[batch, length, width]` to the same shape."""
        query, key, value = (
            nn.DenseGeneral((HEADS, HEAD_WIDTH), use_bias=False, name=name)(inputs)
            for name, inputs in (("query", x), ("key", memory), ("value", memory))
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) + bias
        context = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), value)
        return nn.DenseGeneral(WIDTH, axis=(-2, -1), use_bias=False, name="out")(
            context
        )


class Block(nn.Module):
    """A block of the encoder, or of the decoder where there is a memory."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        bias: jax.Array,
        memory: jax.Array | None = None,
        memory_bias: jax.Array | None = None,
    ) -> jax.Array:
        """Maps `[batch, length, width]` to the same shape."""
        y = nn.RMSNorm(name="self_attention_norm")(x)
        x += Attention(name="self_attention")(y, y, bias)
        if memory is not None and memory_bias is not None:
            y = nn.RMSNorm(name="cross_attention_norm")(x)
            x += Attention(name="cross_attention")(y, memory, memory_bias)
        y = nn.RMSNorm(name="mlp_norm")(x)
        y = nn.relu(nn.Dense(WIDE, use_bias=False, name="mlp_in")(y))
        return x + nn.Dense(WIDTH, use_bias=False, name="mlp_out")(y)


class Stack(nn.Module):
    """All blocks of one side: they share the bias of relative positions."""

    is_decoder: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *memory: jax.Array) -> jax.Array:
        """Maps `[batch, length, width]` to the same shape; `mask` is added."""
        relative = RelativeBias(not self.is_decoder, name="relative_attention_bias")
        bias = relative(x.shape[1]) + mask
        for i in range(LAYERS):
            x = Block(name=f"blocks_{i}")(x, bias, *memory)
        return nn.RMSNorm(name="final_norm")(x)


class T5(nn.Module):
    """T5, its logits tied to the embedding that both sides share."""

    @nn.compact
    def __call__(
        self, inputs: jax.Array, mask: jax.Array, decoder_inputs: jax.Array
    ) -> dict[str, jax.Array]:
        """Outputs of ids `[batch, length]`; `mask` is 1 where there is an input."""
        tokens = nn.Embed(VOCAB, WIDTH, name="token_embed")
        padding = (1 - mask)[:, None, None] * MASKED
        causal = (1 - nn.make_causal_mask(decoder_inputs)) * MASKED
        memory = Stack(is_decoder=False, name="encoder")(tokens(inputs), padding)
        x = Stack(is_decoder=True, name="decoder")(
            tokens(decoder_inputs), causal, memory, padding
        )
        logits = tokens.attend(x * WIDTH**-0.5)
        return {"encoder_output": memory, "decoder_output": x, "logits": logits}
