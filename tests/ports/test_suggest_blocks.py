"""`suggest` where blocks differ, names are numbered, and outputs are tied."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from port_pairs import dense, hf_embeddings, hf_encoder
from suggesting import Shape, judge, layouts, target_of, weights_of

import tf2flax
from tf2flax import src

Shapes = dict[str, Shape]


def norm(scope: str, width: int) -> Shapes:
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{scope}/{name}": (width,) for name in names}


def flax_norm(scope: str, width: int) -> Shapes:
    return {
        f"params/{scope}/scale": (width,),
        f"params/{scope}/bias": (width,),
        f"batch_stats/{scope}/mean": (width,),
        f"batch_stats/{scope}/var": (width,),
    }


@pytest.mark.parametrize("kernels", [("dw",), ("dw", "project")])
def test_blocks_that_number_their_layers_unevenly_are_never_mixed_up(
    kernels: tuple[str, ...],
) -> None:
    """EfficientNet's first block has no expansion: its `bn` is another one's `bn_1`."""
    tensors: Shapes = {}
    leaves: Shapes = {}
    by_hand: dict[str, str] = {}
    for block, (inner, width) in enumerate([(8, 6), (24, 10), (40, 10), (40, 14)]):
        scope, below = f"net/blocks_{block}", f"block{block}"
        kinds = ["expand_bn"] if block else []
        kinds += ["dw_bn", "project_bn"]
        for number, kind in enumerate(kinds):
            size = width if kind == "project_bn" else inner
            name = f"{scope}/tpu_batch_normalization" + (f"_{number}" * bool(number))
            tensors |= norm(name, size)
            leaves |= flax_norm(f"{below}/{kind}", size)
            by_hand[f"{name}/"] = f"{{collection}}/{below}/{kind}/"
        for kernel in kernels:
            shape = (3, 3, 1, inner) if kernel == "dw" else (1, 1, inner, width)
            tensors[f"{scope}/{kernel}/kernel"] = shape
            leaves[f"params/{below}/{kernel}_conv/kernel"] = shape
            by_hand[f"{scope}/{kernel}/kernel"] = f"params/{below}/{kernel}_conv/kernel"
    verdict = judge(weights_of(tensors), target_of(leaves), by_hand)
    assert verdict.wrong == []
    assert verdict.result.unmatched == ()
    assert set(verdict.places.values()) <= {0, 1}
    # In a block without it there is nothing to confuse.
    assert not any("block0" in leaf for leaf in verdict.places)


def test_what_one_block_alone_has_is_not_taken_for_its_last_layer() -> None:
    """Its projection was made first there: `Conv_0`, and not `Conv_2`."""
    tensors: Shapes = {}
    leaves: Shapes = {}
    by_hand: dict[str, str] = {}
    for block in range(3):
        for number, name in enumerate(("proj", "a", "b")[bool(block) :]):
            scope, below = f"net/unit_{block}/{name}", f"Block_{block}"
            tensors[f"{scope}/weights"] = (1, 1, 8, 8)
            tensors |= norm(f"{scope}/BatchNorm", 8)
            leaves[f"params/{below}/Conv_{number}/kernel"] = (1, 1, 8, 8)
            leaves |= flax_norm(f"{below}/BatchNorm_{number}", 8)
            by_hand |= {
                f"{scope}/weights": f"params/{below}/Conv_{number}/kernel",
                f"{scope}/BatchNorm/": f"{{collection}}/{below}/BatchNorm_{number}/",
            }
    verdict = judge(weights_of(tensors), target_of(leaves), by_hand)
    assert verdict.wrong == []


def mobilenet(count: int) -> tuple[Shapes, Shapes, dict[str, str]]:
    tensors: Shapes = {}
    leaves: Shapes = {}
    by_hand: dict[str, str] = {}
    for block in range(count):
        scope = "MobilenetV2/expanded_conv" + (f"_{block}" if block else "")
        for kind in ("expand", "depthwise", "project")[0 if block else 1 :]:
            shape = {
                "expand": (1, 1, 8, 24),
                "depthwise": (3, 3, 1, 24 if block else 8),
                "project": (1, 1, 24 if block else 8, 8),
            }[kind]
            tensors[f"{scope}/{kind}/weights"] = shape
            tensors |= norm(f"{scope}/{kind}/BatchNorm", shape[-1])
            leaves[f"params/blocks_{block}/{kind}/conv/kernel"] = shape
            leaves |= flax_norm(f"blocks_{block}/{kind}/bn", shape[-1])
            below = f"blocks_{block}/{kind}"
            by_hand |= {
                f"{scope}/{kind}/weights": f"params/{below}/conv/kernel",
                f"{scope}/{kind}/BatchNorm/": f"{{collection}}/{below}/bn/",
            }
    return tensors, leaves, by_hand


def test_the_first_of_numbered_blocks_may_have_no_number() -> None:
    tensors, leaves, by_hand = mobilenet(8)
    verdict = judge(weights_of(tensors), target_of(leaves), by_hand)
    assert verdict.wrong == []
    assert verdict.is_complete
    assert len(verdict.result.assignment_map) <= 8


def resnet50() -> tuple[Shapes, Shapes, dict[str, str]]:
    tensors: Shapes = {}
    leaves: Shapes = {}
    by_hand: dict[str, str] = {}

    def add(tensor: str, leaf: str, number: object, shape: Shape) -> None:
        tensors[f"{tensor}/weights"] = shape
        tensors.update(norm(f"{tensor}/BatchNorm", shape[-1]))
        kernel = f"params/{leaf}/Conv_{number}/kernel"
        leaves[kernel] = shape
        leaves.update(flax_norm(f"{leaf}/BatchNorm_{number}", shape[-1]))
        by_hand[f"{tensor}/weights"] = kernel
        by_hand[f"{tensor}/BatchNorm/"] = f"{{collection}}/{leaf}/BatchNorm_{number}/"

    place, rows = 0, 4
    for block, (width, count) in enumerate([(4, 3), (8, 4), (16, 6), (32, 3)], 1):
        for unit in range(1, count + 1):
            scope = f"resnet_v1_50/block{block}/unit_{unit}/bottleneck_v1"
            leaf = f"Block_{place}"
            add(f"{scope}/conv1", leaf, 0, (1, 1, rows, width))
            add(f"{scope}/conv2", leaf, 1, (3, 3, width, width))
            add(f"{scope}/conv3", leaf, 2, (1, 1, width, 4 * width))
            place, rows = place + 1, 4 * width
    return tensors, leaves, by_hand


def test_blocks_of_units_are_two_lines_each() -> None:
    tensors, leaves, by_hand = resnet50()
    verdict = judge(weights_of(tensors), target_of(leaves), by_hand)
    assert verdict.wrong == []
    assert verdict.is_complete
    assert len(verdict.result.assignment_map) == 32
    keys = [str(key) for key in verdict.result.assignment_map]
    assert "resnet_v1_50/block2/unit_3/bottleneck_v1/conv{i+1}/weights" in keys


def test_branches_are_no_blocks_of_which_there_are_too_few() -> None:
    """Another number of branches is no misfit, as another number of layers is."""
    tensors: Shapes = {}
    leaves: Shapes = {}
    for number, names in enumerate([["0a"], ["0a", "0b"], ["0a", "0b"], ["0c"]]):
        for place, name in enumerate(names):
            shape = (1, 1, 8 + place, 4 + 3 * number + place)
            tensors[f"net/Branch_{number}/Conv2d_{name}_1x1/weights"] = shape
            is_last = place == len(names) - 1
            leaf = f"branch{number + 1}" if is_last else f"branch{number + 1}_reduce"
            leaves[f"params/mixed/{leaf}/conv/kernel"] = shape
    result = tf2flax.suggest(weights_of(tensors), target_of(leaves))
    assert "blocks" not in str(result).splitlines()[1]
    assert result.unmatched == ()


def test_a_name_that_another_one_extends_is_that_of_a_layer() -> None:
    tensors: Shapes = {}
    for layer in range(3):
        for name, shape in {"filter": (2, 6, 7), "gate": (2, 6, 7)}.items():
            tensors[f"stack/layer{layer}/{name}"] = shape
            tensors[f"stack/layer{layer}/{name}_bias"] = shape[-1:]
    leaves = {
        f"params/block_{layer}/{name}/{part}": shape
        for layer in range(3)
        for name in ("filter_conv", "gate_conv")
        for part, shape in {"kernel": (2, 6, 7), "bias": (7,)}.items()
    }
    by_hand = {
        "stack/layer{i}/filter": "params/block_{i}/filter_conv/kernel",
        "stack/layer{i}/gate": "params/block_{i}/gate_conv/kernel",
        "stack/layer{i}/filter_bias": "params/block_{i}/filter_conv/bias",
        "stack/layer{i}/gate_bias": "params/block_{i}/gate_conv/bias",
    }
    verdict = judge(weights_of(tensors), target_of(leaves), by_hand)
    assert verdict.wrong == []
    assert verdict.is_complete


BERT = {
    **{f"bert/embeddings/{name}": shape for name, shape in {
        "word_embeddings": (50, 12), "position_embeddings": (16, 12),
    }.items()},
    **dense("bert/pooler/dense", 12, 12),
    "cls/predictions/output_bias": (50,),
}  # fmt: skip
BERT_LEAVES = {
    "bert/embeddings/word_embeddings/embedding": (50, 12),
    "bert/embeddings/position_embeddings/embedding": (16, 12),
    **dense("bert/pooler/dense", 12, 12),
    **dense("cls/predictions/decoder", 12, 50),
}
GPT2 = {"model/wte": (50, 12), "model/wpe": (16, 12)}
GPT2_LEAVES = {
    "params/wte/embedding": (50, 12),
    "params/wpe/embedding": (16, 12),
    "params/lm_head/kernel": (12, 50),
}


def test_an_output_whose_bias_is_stored_is_tied() -> None:
    result = tf2flax.suggest(weights_of(BERT), target_of(BERT_LEAVES))
    assert result.unmatched == ()
    assert isinstance(result.assignment_map, dict)
    key = src("bert/embeddings/word_embeddings").transpose()
    assert result.assignment_map[key] == "cls/predictions/decoder/kernel"
    evidence = result.evidence["cls/predictions/decoder/kernel"]
    assert "tied to bert/embeddings/word_embeddings" in evidence


def test_the_table_is_a_candidate_where_nothing_says_that_an_output_is_tied() -> None:
    result = tf2flax.suggest(weights_of(GPT2), target_of(GPT2_LEAVES))
    assert result.unmatched == ()
    ((leaf, ((key, reason),)),) = result.ambiguous
    assert (leaf, key) == ("params/lm_head/kernel", src("model/wte").transpose())
    assert "ties its output" in reason


@pytest.mark.parametrize("leaf", ["params/new/kernel", "params/attention/out/kernel"])
def test_what_is_no_output_is_not_tied(leaf: str) -> None:
    leaves = {"params/wte/embedding": (50, 12), leaf: (12, 50)}
    result = tf2flax.suggest(weights_of({"model/wte": (50, 12)}), target_of(leaves))
    assert leaf in result.unmatched


def test_the_forget_bias_is_a_parameter_of_the_text(tmp_path: pathlib.Path) -> None:
    cell: Mapping[str, np.ndarray] = {
        "rnn/basic_lstm_cell/kernel": np.ones((5, 12), "f4"),
        "rnn/basic_lstm_cell/bias": np.ones(12, "f4"),
    }
    leaves: Shapes = {}
    for gate in "ifgo":
        leaves[f"params/cell/i{gate}/kernel"] = (2, 3)
        leaves |= dense(f"params/cell/h{gate}", 3, 3)
    target = target_of(leaves)
    result = tf2flax.suggest(cell, target)
    path = tmp_path / "map.toml"
    path.write_text(str(result))
    assert "forget_bias = 1.0" in str(result)
    entries = tf2flax.load_map(path)
    assert layouts(cell, entries, target) == layouts(
        cell, result.assignment_map, target
    )
    changed = tf2flax.load_map(path, forget_bias=0.5)
    values = tf2flax.plan(cell, changed, target).restore()["params"]["cell"]
    assert np.asarray(values["hf"]["bias"]).tolist() == [1.5] * 3
    assert np.asarray(values["hi"]["bias"]).tolist() == [1.0] * 3


def test_layers_of_another_number_are_still_a_misfit() -> None:
    tensors = {
        name.replace("/layer/", "/layer_"): shape
        for name, shape in hf_encoder("bert", layers=2).items()
    }
    leaves = hf_encoder("bert", layers=3) | hf_embeddings("bert", 12)
    text = str(tf2flax.suggest(weights_of(tensors), target_of(leaves)))
    assert "the checkpoint has 2 blocks" in text.splitlines()[1]


@pytest.mark.parametrize("before", ["", "pre_"])
def test_norms_belong_to_the_layers_that_they_are_named_after(before: str) -> None:
    """T5X says which layer follows a norm; Mesh TensorFlow numbers the two together."""
    tensors: Shapes = {}
    leaves: Shapes = {}
    by_hand: dict[str, str] = {}
    for i in range(2):
        for number, (old, new, kernels) in enumerate(DECODER):
            scope = f"decoder/block_00{i}/layer_00{number}"
            below = f"params/decoder/layers_{i}"
            tensors[f"{scope}/layer_norm/scale"] = (6,)
            leaves[f"{below}/{before}{new}_layer_norm/scale"] = (6,)
            by_hand[f"{scope}/layer_norm/scale"] = (
                f"{below}/{before}{new}_layer_norm/scale"
            )
            for first, second, shape in kernels:
                tensors[f"{scope}/{old}/{first}"] = shape
                leaves[f"{below}/{new}/{second}/kernel"] = shape
                by_hand[f"{scope}/{old}/{first}"] = f"{below}/{new}/{second}/kernel"
    verdict = judge(weights_of(tensors), target_of(leaves), by_hand)
    assert verdict.wrong == []
    assert (verdict.result.unmatched, verdict.result.ambiguous) == ((), ())


HEADS = (
    ("q", "query", (6, 8)),
    ("k", "key", (6, 8)),
    ("v", "value", (6, 8)),
    ("o", "out", (8, 6)),
)
DECODER: tuple[tuple[str, str, tuple[tuple[str, str, Shape], ...]], ...] = (
    ("SelfAttention", "self_attention", HEADS),
    ("EncDecAttention", "cross_attention", HEADS),
    (
        "DenseReluDense",
        "mlp",
        (("wi/kernel", "wi", (6, 10)), ("wo/kernel", "wo", (10, 6))),
    ),
)


@pytest.mark.parametrize(
    ("tensors", "leaves", "by_hand"),
    [
        (
            {"q/kernel": (12, 12), "kv/kernel": (12, 24), "kv/bias": (24,)},
            {"query/kernel": (12, 3, 4)}
            | {f"{n}/{p}": s for n in ("key", "value")
               for p, s in (("kernel", (12, 3, 4)), ("bias", (3, 4)))},
            {src("{s}/q/kernel").rearrange("d (h k) -> d h k", h=3): "{s}/query/kernel"}
            | {src("{s}/kv/kernel")[:, part].rearrange("d (h k) -> d h k", h=3):
               f"{{s}}/{name}/kernel" for name, part in
               (("key", slice(0, 12)), ("value", slice(12, 24)))}
            | {src("{s}/kv/bias")[part].rearrange("(h k) -> h k", h=3):
               f"{{s}}/{name}/bias" for name, part in
               (("key", slice(0, 12)), ("value", slice(12, 24)))},
        ),
        (
            {"q/kernel": (12, 12), "k/kernel": (12, 12), "v/kernel": (12, 12)},
            {"query/kernel": (12, 12), "key_value/kernel": (12, 24)},
            {"{s}/q/kernel": "{s}/query/kernel",
             tf2flax.concat("{s}/k/kernel", "{s}/v/kernel", axis=1):
             "{s}/key_value/kernel"},
        ),
    ],
    ids=["fused", "apart"],
)  # fmt: skip
def test_keys_and_values_are_fused_without_queries(
    tensors: Shapes, leaves: Shapes, by_hand: dict[Any, str]
) -> None:
    rest = dense("mlp/fc1", 12, 20) | dense("mlp/fc2", 20, 12)
    blocks = [f"block_{i}" for i in range(3)]
    verdict = judge(
        weights_of(
            {f"{b}/{n}": s for b in blocks for n, s in (tensors | rest).items()}
        ),
        target_of({f"{b}/{n}": s for b in blocks for n, s in (leaves | rest).items()}),
        {**by_hand, "{s}/mlp/": "{s}/mlp/"},
    )
    assert (verdict.wrong, verdict.is_complete) == ([], True)
    assert "block_{i}" in str(verdict.result)


@pytest.mark.parametrize(
    ("of_tensor", "of_leaf", "counts"),
    [
        ("unit{j}/stage{i}", "stages/{i}/units/{j}", (3, 3)),
        ("layer_{i}/expert_{j}", "experts_{j}/layers_{i}", (3, 3)),
        ("a{i}/b{j}", "x{j}/y{i}", (4, 3)),
        ("a{i}/b{j}", "x{i}/y{j}", (3, 3)),
    ],
)
def test_levels_of_blocks_may_be_exchanged(
    of_tensor: str, of_leaf: str, counts: tuple[int, int]
) -> None:
    numbers = [{"i": i, "j": j} for i in range(counts[0]) for j in range(counts[1])]
    tensors: Shapes = {}
    leaves: Shapes = {}
    for pair in numbers:
        for name, rows, columns in (("fc1", 8, 6), ("fc2", 6, 8)):
            tensors |= dense(f"{of_tensor.format(**pair)}/{name}", rows, columns)
            leaves |= dense(f"{of_leaf.format(**pair)}/{name}", rows, columns)
    by_hand = {f"{of_tensor}/": f"{of_leaf}/"}
    verdict = judge(weights_of(tensors), target_of(leaves), by_hand)
    assert (verdict.wrong, verdict.is_complete) == ([], True)
    assert len(verdict.result.assignment_map) <= 2


def test_a_layer_may_be_called_as_a_moment_of_an_optimizer() -> None:
    tensors = dense("enc/h", 20, 16) | dense("enc/z_mean", 16, 4)
    leaves = dense("params/enc/fc", 20, 16) | dense("params/enc/mu", 16, 4)
    moments = {f"0/mu/{name[7:]}": shape for name, shape in leaves.items()}
    result = tf2flax.suggest(weights_of(tensors), target_of(leaves | moments))
    assert set(result.assignment_map) == {"enc/h/", "enc/z_mean/"}
    assert set(result.unmatched) == set(moments)


def test_what_is_nearest_is_not_sought_for_thousands_of_leaves() -> None:
    """Compared in pairs, these would be 16 million."""
    tensors = {f"a{i}x/b{i}y/kernel_q{i}z": (3, 5) for i in range(4000)}
    leaves = {f"c{i}x/d{i}y/kernel_q{i}z": (4, 7) for i in range(4000)}
    begin = time.process_time()
    result = tf2flax.suggest(weights_of(tensors), target_of(leaves))
    assert time.process_time() - begin < 12
    assert result.unmatched == tuple(sorted(leaves))
    few = {name: leaves[name] for name in list(leaves)[:3]}
    evidence = tf2flax.suggest(weights_of(tensors), target_of(few)).evidence
    assert "has another shape: [3, 5], not [4, 7]" in next(iter(evidence.values()))


@pytest.mark.parametrize("suffix", ["", "/.ATTRIBUTES/VARIABLE_VALUE"])
@pytest.mark.parametrize(
    "names",
    [("conv", "dw", "sep", "out"), [f"layer_with_weights-{i}" for i in range(4)]],
)
def test_layers_of_keras_by_names_and_by_objects(
    names: Sequence[str], suffix: str
) -> None:
    """A bias is that of the kernel beside it, whatever the two are called."""
    conv, depthwise, separable, out = names
    tensors: Shapes = {
        f"{conv}/kernel": (3, 3, 3, 4), f"{conv}/bias": (4,),
        **norm(f"{conv}_bn", 4),
        f"{depthwise}/depthwise_kernel": (3, 3, 4, 2), f"{depthwise}/bias": (8,),
        f"{separable}/depthwise_kernel": (2, 2, 8, 1),
        f"{separable}/pointwise_kernel": (1, 1, 8, 6), f"{separable}/bias": (6,),
        **dense(out, 3, 2),
    }  # fmt: skip
    leaves: Shapes = {
        "params/Conv_0/kernel": (3, 3, 3, 4), "params/Conv_0/bias": (4,),
        **flax_norm("BatchNorm_0", 4),
        "params/Conv_1/kernel": (3, 3, 1, 8), "params/Conv_1/bias": (8,),
        "params/Conv_2/kernel": (2, 2, 1, 8),
        "params/Conv_3/kernel": (1, 1, 8, 6), "params/Conv_3/bias": (6,),
        **dense("params/Dense_0", 3, 2),
    }  # fmt: skip

    def key(name: str) -> tf2flax.Expression:
        return src(f"{name}{suffix}")

    parts = {"gamma": "params/BatchNorm_0/scale", "beta": "params/BatchNorm_0/bias",
             "moving_mean": "batch_stats/BatchNorm_0/mean",
             "moving_variance": "batch_stats/BatchNorm_0/var"}  # fmt: skip
    kernel = key(f"{depthwise}/depthwise_kernel").rearrange("h w c m -> h w 1 (c m)")
    by_hand = {
        **{key(f"{conv}/{p}"): f"params/Conv_0/{p}" for p in ("kernel", "bias")},
        **{key(f"{conv}_bn/{tensor}"): leaf for tensor, leaf in parts.items()},
        kernel: "params/Conv_1/kernel",
        key(f"{depthwise}/bias"): "params/Conv_1/bias",
        key(f"{separable}/depthwise_kernel").rearrange("a b c 1 -> a b 1 c"):
            "params/Conv_2/kernel",
        key(f"{separable}/pointwise_kernel"): "params/Conv_3/kernel",
        key(f"{separable}/bias"): "params/Conv_3/bias",
        **{key(f"{out}/{p}"): f"params/Dense_0/{p}" for p in ("kernel", "bias")},
    }  # fmt: skip
    tensors = {f"{name}{suffix}": shape for name, shape in tensors.items()}
    verdict = judge(weights_of(tensors), target_of(leaves), by_hand)
    assert (verdict.wrong, verdict.is_complete) == ([], True)


def test_recurrent_cells_by_objects() -> None:
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    scope = "layer_with_weights-4/forward_layer/cell"
    tensors = {"kernel": (2, 12), "recurrent_kernel": (3, 12), "bias": (12,)}
    leaves: Shapes = {}
    by_hand: dict[Any, str] = {}
    for place, gate in enumerate("ifgo"):
        columns = slice(3 * place, 3 * place + 3)
        leaves[f"params/lstm/i{gate}/kernel"] = (2, 3)
        leaves |= dense(f"params/lstm/h{gate}", 3, 3)
        for name, leaf in (
            ("kernel", "i{}/kernel"),
            ("recurrent_kernel", "h{}/kernel"),
        ):
            source = src(f"{scope}/{name}{suffix}")[:, columns]
            by_hand[source] = f"params/lstm/{leaf.format(gate)}"
        bias = src(f"{scope}/bias{suffix}")[columns]
        by_hand[bias] = f"params/lstm/h{gate}/bias"
    shapes = {f"{scope}/{name}{suffix}": shape for name, shape in tensors.items()}
    verdict = judge(weights_of(shapes), target_of(leaves), by_hand)
    assert (verdict.wrong, verdict.is_complete) == ([], True)
