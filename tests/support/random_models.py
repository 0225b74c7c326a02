"""Random models: a checkpoint, a target that is named otherwise, and the map between.

Layers are drawn at random, and named in one habit for each side; where a habit has no
word for what a layer is, its name says nothing.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import tf2flax

Shape = tuple[int, ...]

# What a layer is -> names in the habits of checkpoints, and of targets.
SOURCES: dict[str, tuple[str, ...]] = {
    "query": ("attention/self/query", "self_attention/q", "mha/q_proj", "attn/query"),
    "key": ("attention/self/key", "self_attention/k", "mha/k_proj", "attn/key"),
    "value": ("attention/self/value", "self_attention/v", "mha/v_proj", "attn/value"),
    "out": ("attention/output/dense", "self_attention/o", "mha/o_proj", "attn/out"),
    "up": ("intermediate/dense", "ffn/wi", "mlp/up", "mlp/c_fc"),
    "down": ("output/dense", "ffn/wo", "mlp/down", "mlp/c_proj"),
    "norm_attention": (
        "attention/output/LayerNorm",
        "self_attention/ln",
        "mha/ln",
        "ln_1",
    ),
    "norm_mlp": ("output/LayerNorm", "ffn/ln", "mlp/ln", "ln_2"),
    "words": ("embeddings/word_embeddings", "word_embedding", "tok/table", "wte"),
    "positions": (
        "embeddings/position_embeddings",
        "pos_embedding",
        "pos/table",
        "wpe",
    ),
    "pooler": ("pooler/dense", "pooler", "pool", "pooler"),
    "head": ("classifier", "logits", "head", "lm_head"),
    "final": ("final_layer_norm", "final_norm", "ln_final", "ln_f"),
}
TARGETS: dict[str, tuple[str, ...]] = {
    "query": ("attention/query", "attn/q", "self_attn/q_proj"),
    "key": ("attention/key", "attn/k", "self_attn/k_proj"),
    "value": ("attention/value", "attn/v", "self_attn/v_proj"),
    "out": ("attention/out", "attn/o", "self_attn/o_proj"),
    "qkv": ("attention/qkv", "attn/qkv", "self_attn/in_proj"),
    "up": ("mlp_in", "mlp/up", "mlp/fc_in"),
    "down": ("mlp_out", "mlp/down", "mlp/fc_out"),
    "norm_attention": ("attention_norm", "attn/norm", "self_attn_layer_norm"),
    "norm_mlp": ("mlp_norm", "mlp/norm", "mlp_layer_norm"),
    "words": ("token_embed", "tok_embedding", "embed_tokens"),
    "positions": ("position_embed", "pos_embedding", "embed_positions"),
    "pooler": ("pooler", "pooler/dense", "pooler"),
    "head": ("classifier", "head", "logits"),
    "final": ("final_norm", "norm_final", "last_layer_norm"),
}
_SCALES = ("gamma", "scale", "g")
_BIASES = ("beta", "bias", "b")
_KERNELS = ("kernel", "weights", "w")


@dataclasses.dataclass
class Model:
    """A model on both sides.

    Attributes:
        tensors: Shapes of the checkpoint.
        leaves: Shapes of the target.
        truth: The map, as pairs; one for each leaf.
    """

    tensors: dict[str, Shape] = dataclasses.field(default_factory=dict[str, Shape])
    leaves: dict[str, Shape] = dataclasses.field(default_factory=dict[str, Shape])
    truth: list[tuple[Any, str]] = dataclasses.field(default_factory=list[Any])


@dataclasses.dataclass
class _Builder:
    """Draws one model; every choice comes from `draw`."""

    draw: random.Random
    model: Model = dataclasses.field(default_factory=Model)

    def __post_init__(self) -> None:
        draw = self.draw
        self.habits = draw.randrange(4), draw.randrange(3)
        self.width, self.heads = draw.choice([(12, 3), (12, 4), (16, 4), (8, 2)])
        self.inner = draw.choice([20, 36, self.width])
        self.blocks = draw.choice([1, 2, 3, 5])
        self.first = draw.choice([0, 0, 1, 3])
        self.is_split = draw.random() < 0.4
        self.is_stacked = self.blocks > 1 and draw.random() < 0.3
        self.is_fused = not self.is_split and draw.random() < 0.3
        self.is_transposed = not self.is_split and draw.random() < 0.25
        self.kernel = draw.choice(_KERNELS)
        self.scale = draw.choice([0, 1, 2])
        self.source_block = draw.choice(["encoder/layer_{}", "h{}", "block{}/sub"])
        self.target_block = draw.choice(["layers_{}", "blocks/{}", "encoder/h_{}"])
        self.root = draw.choice(["", "bert/", "model/net/"])
        self.collection = draw.choice(["params/", ""])

    def source_name(self, layer: str, block: int | None) -> str:
        name = SOURCES[layer][self.habits[0]]
        if block is None:
            return f"{self.root}{name}"
        return f"{self.root}{self.source_block.format(block + self.first)}/{name}"

    def target_name(self, layer: str, block: int | None) -> str:
        name = TARGETS[layer][self.habits[1]]
        if block is None:
            return f"{self.collection}{name}"
        if self.is_stacked:
            scope = self.target_block.format("").rstrip("_/")
            return f"{self.collection}{scope}/{name}"
        return f"{self.collection}{self.target_block.format(block)}/{name}"

    def add(
        self,
        sources: dict[str, Shape],
        leaf: str,
        shape: Shape,
        change: Callable[..., Any],
        block: int | None,
    ) -> None:
        """Adds tensors, and the leaf that `change` makes of them."""
        self.model.tensors.update(sources)
        key = change(*map(tf2flax.src, sources))
        if block is None or not self.is_stacked:
            self.model.leaves[leaf] = shape
            self.model.truth.append((key, leaf))
            return
        self.stacks.setdefault(leaf, (shape, []))[1].append(key)

    def build(self) -> Model:
        """Draws the model."""
        self.stacks: dict[str, tuple[Shape, list[Any]]] = {}
        self.table("words", self.draw.choice([50, 60]))
        self.table("positions", self.draw.choice([14, 18]))
        for block in range(self.blocks):
            self.attention(block)
            self.dense("up", self.width, self.inner, block)
            self.dense("down", self.inner, self.width, block)
            self.norm("norm_attention", block)
            self.norm("norm_mlp", block)
        if self.draw.random() < 0.5:
            self.norm("final", None)
        if self.draw.random() < 0.5:
            self.dense("pooler", self.width, self.width, None)
        if self.draw.random() < 0.5:
            self.dense("head", self.width, 5, None)
        for leaf, (shape, keys) in self.stacks.items():
            self.model.leaves[leaf] = len(keys), *shape
            self.model.truth.append((tf2flax.stack(*keys), leaf))
        return self.model

    def table(self, layer: str, rows: int) -> None:
        shape = rows, self.width
        leaf = f"{self.target_name(layer, None)}/embedding"
        name = self.source_name(layer, None)
        if layer == "words" and self.draw.random() < 0.3:
            pieces = {f"{name}_{n}": (rows // 2, self.width) for n in range(2)}
            self.add(pieces, leaf, shape, tf2flax.concat, None)
        else:
            self.add({name: shape}, leaf, shape, lambda x: x, None)

    def norm(self, layer: str, block: int | None) -> None:
        for part, names in (("scale", _SCALES), ("bias", _BIASES)):
            source = f"{self.source_name(layer, block)}/{names[self.scale]}"
            leaf = f"{self.target_name(layer, block)}/{part}"
            self.add({source: (self.width,)}, leaf, (self.width,), lambda x: x, block)

    def dense(self, layer: str, rows: int, columns: int, block: int | None) -> None:
        source, leaf = self.source_name(layer, block), self.target_name(layer, block)
        kernel = {f"{source}/{self.kernel}": (rows, columns)}
        turned = self.is_transposed
        shape = (columns, rows) if turned else (rows, columns)
        turn: Callable[..., Any] = lambda x: x.transpose() if turned else x  # noqa: E731
        self.add(kernel, f"{leaf}/kernel", shape, turn, block)
        bias = f"{source}/{'b' if self.kernel == 'w' else 'bias'}"
        self.add({bias: (columns,)}, f"{leaf}/bias", (columns,), lambda x: x, block)

    def attention(self, block: int) -> None:
        width, heads = self.width, self.heads
        each = width // heads
        if not self.is_split and not self.is_fused:
            for layer in ("query", "key", "value", "out"):
                self.dense(layer, width, width, block)
            return
        bias = "b" if self.kernel == "w" else "bias"
        names = [self.source_name(layer, block) for layer in ("query", "key", "value")]
        if self.is_fused:
            leaf = self.target_name("qkv", block)
            kernels = {f"{name}/{self.kernel}": (width, width) for name in names}
            shape = (3 * width, width) if self.is_transposed else (width, 3 * width)
            self.add(kernels, f"{leaf}/kernel", shape, self.join, block)
            biases = {f"{name}/{bias}": (width,) for name in names}
            self.add(biases, f"{leaf}/bias", (3 * width,), tf2flax.concat, block)
            self.dense("out", width, width, block)
            return
        for name, layer in zip(names, ("query", "key", "value"), strict=True):
            leaf = self.target_name(layer, block)
            self.add(
                {f"{name}/{self.kernel}": (width, width)},
                f"{leaf}/kernel",
                (width, heads, each),
                lambda x: x.rearrange("d (h k) -> d h k", h=heads),
                block,
            )
            self.add(
                {f"{name}/{bias}": (width,)},
                f"{leaf}/bias",
                (heads, each),
                lambda x: x.rearrange("(h k) -> h k", h=heads),
                block,
            )
        name, leaf = self.source_name("out", block), self.target_name("out", block)
        self.add(
            {f"{name}/{self.kernel}": (width, width)},
            f"{leaf}/kernel",
            (heads, each, width),
            lambda x: x.rearrange("(h k) d -> h k d", h=heads),
            block,
        )
        self.add(
            {f"{name}/{bias}": (width,)}, f"{leaf}/bias", (width,), lambda x: x, block
        )

    def join(self, *kernels: Any) -> Any:
        joined = tf2flax.concat(*kernels, axis=1)
        return joined.transpose() if self.is_transposed else joined


def random_model(seed: int) -> Model:
    """Draws a model."""
    return _Builder(random.Random(seed)).build()
