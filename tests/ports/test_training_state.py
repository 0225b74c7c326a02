"""One map file fills weights, statistics, averages and slots of a whole training state.

Two models, of a MobileNet's and of a transformer's kind, with checkpoints whose names
are those of slim and of tensor2tensor. The expected leaves are written out by hand.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict

import tf2flax

EMA = "ExponentialMovingAverage"
Arrays = dict[str, np.ndarray[Any, Any]]


def checkpoint_of(
    folder: pathlib.Path,
    trained: Mapping[str, tuple[int, ...]],
    statistics: Mapping[str, tuple[int, ...]],
    spellings: Iterable[str],
) -> tf2flax.Checkpoint:
    """Random tensors: variables, an average of each, slots of what is trained."""
    random = np.random.default_rng(0)
    arrays: Arrays = {"global_step": np.asarray(7)}
    for name, shape in {**trained, **statistics}.items():
        spelled = ["{}", *spellings] if name in trained else ["{}"]
        for spelling in [*spelled, f"{{}}/{EMA}"]:
            values = random.uniform(0.5, 1.5, shape).astype("f4")
            arrays[spelling.format(name)] = values
    prefix = tf2flax.save_checkpoint(folder / "model.ckpt-7", arrays)
    return tf2flax.open_checkpoint(prefix)


def map_in(folder: pathlib.Path, text: str) -> Mapping[Any, Any]:
    """The map file, of at most 15 lines."""
    assert len(text.strip().splitlines()) <= 15
    (folder / "map.toml").write_text(text)
    return tf2flax.load_map(folder / "map.toml")


def assert_leaves(tree: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    flat = flatten_dict(dict(tree), sep="/")
    assert sorted(flat) == sorted(expected)
    for name, array in expected.items():
        assert np.array_equal(np.asarray(flat[name]), array), name


# --- a MobileNet, linen, TrainState --------------------------------------------------


class Norm(nn.Module):
    """Normalisation and ReLU6, as slim's MobileNet has them."""

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        norm = nn.BatchNorm(use_running_average=not is_training, epsilon=1e-3)
        return jnp.minimum(nn.relu(norm(x)), 6)


class MobileNet(nn.Module):
    """A stem, blocks of a depthwise and a pointwise convolution, and a head."""

    widths: tuple[int, ...] = (6, 8)

    @nn.compact
    def __call__(self, x: jax.Array, *, is_training: bool = False) -> jax.Array:
        x = nn.Conv(4, (3, 3), 2, use_bias=False, name="stem")(x)
        x = Norm(name="stem_norm")(x, is_training=is_training)
        for i, width in enumerate(self.widths, start=1):
            count = x.shape[-1]
            x = nn.Conv(
                count,
                (3, 3),
                feature_group_count=count,
                use_bias=False,
                name=f"depthwise_{i}",
            )(x)
            x = Norm(name=f"depthwise_norm_{i}")(x, is_training=is_training)
            x = nn.Conv(width, (1, 1), use_bias=False, name=f"pointwise_{i}")(x)
            x = Norm(name=f"pointwise_norm_{i}")(x, is_training=is_training)
        return nn.Dense(5, name="head")(x.mean((1, 2)))


class State(TrainState):
    """A TrainState with statistics, and with the averages of both."""

    batch_stats: Any = None
    averages: Any = None


MOBILENET_MAP = """
[assignment_map]
"MobilenetV1/Conv2d_0/weights" = "params/stem/kernel"
"MobilenetV1/Conv2d_0/BatchNorm/" = "{collection}/stem_norm/BatchNorm_0/"
'src("MobilenetV1/Conv2d_{i}_depthwise/depthwise_weights").rearrange("h w c m -> h w 1 (c m)")' = "params/depthwise_{i}/kernel"
"MobilenetV1/Conv2d_{i}_pointwise/weights" = "params/pointwise_{i}/kernel"
"MobilenetV1/Conv2d_{i}_{kind}/BatchNorm/" = "{collection}/{kind}_norm_{i}/BatchNorm_0/"
'src("MobilenetV1/Logits/Conv2d_1c_1x1/weights")[0, 0]' = "params/head/kernel"
"MobilenetV1/Logits/Conv2d_1c_1x1/biases" = "params/head/bias"
"""  # noqa: E501


def mobilenet_names() -> tuple[
    dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], dict[str, tuple[str, Any]]
]:
    """Shapes of trained variables, of statistics, and leaves: source and change."""
    trained: dict[str, tuple[int, ...]] = {}
    statistics: dict[str, tuple[int, ...]] = {}
    leaves: dict[str, tuple[str, Any]] = {}

    def same(array: Any) -> Any:
        return array

    def norm(scope: str, leaf: str, width: int) -> None:
        for name, target, shapes in (
            ("gamma", "params/{}/scale", trained),
            ("beta", "params/{}/bias", trained),
            ("moving_mean", "batch_stats/{}/mean", statistics),
            ("moving_variance", "batch_stats/{}/var", statistics),
        ):
            shapes[f"{scope}/BatchNorm/{name}"] = (width,)
            leaf_name = target.format(f"{leaf}/BatchNorm_0")
            leaves[leaf_name] = f"{scope}/BatchNorm/{name}", same

    def weight(
        name: str, shape: tuple[int, ...], leaf: str, change: Any = same
    ) -> None:
        trained[name] = shape
        leaves[leaf] = name, change

    scope = "MobilenetV1/Conv2d_0"
    weight(f"{scope}/weights", (3, 3, 3, 4), "params/stem/kernel")
    norm(scope, "stem_norm", 4)
    for i, (before, after) in enumerate(((4, 6), (6, 8)), start=1):
        scope = f"MobilenetV1/Conv2d_{i}"
        weight(
            f"{scope}_depthwise/depthwise_weights",
            (3, 3, before, 1),
            f"params/depthwise_{i}/kernel",
            lambda array: array.reshape(3, 3, 1, -1),
        )
        norm(f"{scope}_depthwise", f"depthwise_norm_{i}", before)
        leaf = f"params/pointwise_{i}/kernel"
        weight(f"{scope}_pointwise/weights", (1, 1, before, after), leaf)
        norm(f"{scope}_pointwise", f"pointwise_norm_{i}", after)
    scope = "MobilenetV1/Logits/Conv2d_1c_1x1"
    weight(f"{scope}/weights", (1, 1, 8, 5), "params/head/kernel", lambda a: a[0, 0])
    weight(f"{scope}/biases", (5,), "params/head/bias")
    return trained, statistics, leaves


def test_a_train_state_of_a_mobilenet(tmp_path: pathlib.Path) -> None:
    trained, statistics, leaves = mobilenet_names()
    stored = checkpoint_of(
        tmp_path, trained, statistics, ["{}/RMSProp", "{}/RMSProp_1"]
    )
    the_map = map_in(tmp_path, MOBILENET_MAP)
    model = MobileNet()
    images = jnp.ones((2, 8, 8, 3))
    # Shapes alone: everything is filled.
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), images)
    tx = optax.rmsprop(0.1, momentum=0.9)
    rms, rate, trace = jax.eval_shape(tx.init, variables["params"])

    def slot(name: str, params: Any) -> Any:
        view = stored.by_slot(name)
        return tf2flax.init_from_checkpoint(view, the_map, {"params": params})["params"]

    weights = tf2flax.init_from_checkpoint(stored, the_map, variables)
    averages = tf2flax.init_from_checkpoint(
        stored.by_moving_average(), the_map, variables
    )
    state = State.create(
        apply_fn=model.apply,
        params=weights["params"],
        tx=tx,
        batch_stats=weights["batch_stats"],
        averages=averages,
    )
    state = state.replace(
        opt_state=(
            rms._replace(nu=slot("RMSProp", rms.nu)),
            rate,
            trace._replace(trace=slot("RMSProp_1", trace.trace)),
        )
    )

    def expected(spelling: str, prefix: str = "") -> dict[str, Any]:
        return {
            leaf.removeprefix(prefix): change(stored[spelling.format(name)].read())
            for leaf, (name, change) in leaves.items()
            if leaf.startswith(prefix)
        }

    assert_leaves(state.params, expected("{}", "params/"))
    assert_leaves(state.batch_stats, expected("{}", "batch_stats/"))
    assert_leaves(state.averages, expected(f"{{}}/{EMA}"))
    assert_leaves(state.opt_state[0].nu, expected("{}/RMSProp", "params/"))
    assert_leaves(state.opt_state[2].trace, expected("{}/RMSProp_1", "params/"))
    apply = jax.jit(model.apply)
    outputs = [apply(v, images) for v in (weights, averages)]
    assert all(jnp.isfinite(output).all() for output in outputs)
    assert not jnp.array_equal(*outputs)


# --- a transformer, NNX, nnx.Optimizer -----------------------------------------------


class Block(nnx.Module):
    """Attention and a feed-forward layer, each after a normalisation."""

    def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs) -> None:
        self.norm_1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads, width, use_bias=False, decode=False, rngs=rngs
        )
        self.norm_2 = nnx.LayerNorm(width, rngs=rngs)
        self.wide = nnx.Linear(width, 2 * width, rngs=rngs)
        self.narrow = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm_1(x))
        return x + self.narrow(nnx.relu(self.wide(self.norm_2(x))))


class Transformer(nnx.Module):
    """An embedding, blocks, and a head that is tied to the embedding."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.blocks = nnx.List([Block(8, 2, rngs=rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(8, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


TRANSFORMER_MAP = """
[parameters]
heads = 2
[assignment_map]
"transformer/embed/weights" = "embed/embedding"
"transformer/layer_{i}/self_attention/layer_norm/layer_norm_{p}" = "blocks/{i}/norm_1/{p}"
'src("transformer/layer_{i}/self_attention/q/kernel").rearrange("d (h k) -> d h k", h=heads)' = "blocks/{i}/attention/query/kernel"
'src("transformer/layer_{i}/self_attention/k/kernel").rearrange("d (h k) -> d h k", h=heads)' = "blocks/{i}/attention/key/kernel"
'src("transformer/layer_{i}/self_attention/v/kernel").rearrange("d (h k) -> d h k", h=heads)' = "blocks/{i}/attention/value/kernel"
'src("transformer/layer_{i}/self_attention/output_transform/kernel").rearrange("(h k) d -> h k d", h=heads)' = "blocks/{i}/attention/out/kernel"
"transformer/layer_{i}/ffn/layer_norm/layer_norm_{p}" = "blocks/{i}/norm_2/{p}"
"transformer/layer_{i}/ffn/conv1/" = "blocks/{i}/wide/"
"transformer/layer_{i}/ffn/conv2/" = "blocks/{i}/narrow/"
"transformer/layer_norm/layer_norm_{p}" = "norm/{p}"
"""  # noqa: E501


def transformer_names() -> tuple[
    dict[str, tuple[int, ...]], dict[str, tuple[str, Callable[[Any], Any]]]
]:
    """Shapes of variables, and leaves: source and change."""
    shapes: dict[str, tuple[int, ...]] = {"transformer/embed/weights": (11, 8)}
    leaves: dict[str, tuple[str, Callable[[Any], Any]]] = {}
    same = np.asarray
    leaves["embed/embedding"] = "transformer/embed/weights", same

    def norm(scope: str, leaf: str) -> None:
        for kind in ("scale", "bias"):
            shapes[f"{scope}/layer_norm/layer_norm_{kind}"] = (8,)
            leaves[f"{leaf}/{kind}"] = f"{scope}/layer_norm/layer_norm_{kind}", same

    for i in range(2):
        scope, leaf = f"transformer/layer_{i}", f"blocks/{i}"
        norm(f"{scope}/self_attention", f"{leaf}/norm_1")
        norm(f"{scope}/ffn", f"{leaf}/norm_2")
        for old, new, split in (
            ("q", "query", (8, 2, 4)), ("k", "key", (8, 2, 4)),
            ("v", "value", (8, 2, 4)), ("output_transform", "out", (2, 4, 8)),
        ):  # fmt: skip
            name = f"{scope}/self_attention/{old}/kernel"
            shapes[name] = (8, 8)
            leaves[f"{leaf}/attention/{new}/kernel"] = (
                name,
                lambda array, split=split: array.reshape(split),
            )
        for old, new, shape in (
            ("conv1", "wide", (8, 16)),
            ("conv2", "narrow", (16, 8)),
        ):
            for kind, size in (("kernel", shape), ("bias", shape[1:])):
                shapes[f"{scope}/ffn/{old}/{kind}"] = size
                leaves[f"{leaf}/{new}/{kind}"] = f"{scope}/ffn/{old}/{kind}", same
    norm("transformer", "norm")
    return shapes, leaves


def test_an_nnx_optimizer_of_a_transformer(tmp_path: pathlib.Path) -> None:
    shapes, leaves = transformer_names()
    spellings = ["training/{}/Adam", "training/{}/Adam_1"]
    stored = checkpoint_of(tmp_path, shapes, {}, spellings)
    the_map = map_in(tmp_path, TRANSFORMER_MAP)
    abstract = nnx.eval_shape(lambda: Transformer(rngs=nnx.Rngs(0)))
    averages = nnx.clone(abstract)
    model = tf2flax.init_from_checkpoint(stored, the_map, abstract)
    averaged = tf2flax.init_from_checkpoint(
        stored.by_moving_average(), the_map, averages
    )
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    adam, *others = optimizer.opt_state
    optimizer.opt_state = (
        adam._replace(
            mu=tf2flax.init_from_checkpoint(stored.by_slot("Adam"), the_map, adam.mu),
            nu=tf2flax.init_from_checkpoint(stored.by_slot("Adam_1"), the_map, adam.nu),
        ),
        *others,
    )
    for tree, spelling in (
        (nnx.state(model, nnx.Param), "{}"),
        (nnx.state(averaged, nnx.Param), f"{{}}/{EMA}"),
        (optimizer.opt_state[0].mu, spellings[0]),
        (optimizer.opt_state[0].nu, spellings[1]),
    ):
        flat = {
            "/".join(map(str, path)): np.asarray(leaf.get_value())
            for path, leaf in nnx.to_flat_state(tree)
        }
        assert sorted(flat) == sorted(leaves)
        for leaf, (name, change) in leaves.items():
            expected = change(stored[spelling.format(name)].read())
            assert np.array_equal(flat[leaf], expected), leaf
    tokens = jnp.arange(6).reshape(2, 3)
    apply = nnx.jit(lambda module: module(tokens))
    assert not jnp.array_equal(apply(model), apply(averaged))
