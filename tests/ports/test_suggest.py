"""`suggest` on published models and on models of other habits, against maps by hand."""

from __future__ import annotations

import json
import pathlib
import tomllib
from types import ModuleType
from typing import Any

import jax
import numpy as np
import port_pairs
import port_pairs_held_out
import pytest
from flax import linen as nn
from flax import nnx
from port_pairs import Pair, bert_tensors, dense, hf_embeddings, hf_encoder
from repository import ROOT
from suggesting import judge, judge_pair, layouts, target_of, weights_of

import tf2flax
from tf2flax import src
from tf2flax._writing.map_suggestions import format_suggestion

DATA = ROOT / "tests" / "data"
HEADS = [("bert/encoder/layer_{i}/", "bert/encoder/layer/{i}/")]


def bert(layers: int = 3) -> dict[str, tuple[int, ...]]:
    return {
        **bert_tensors("bert", layers=layers),
        **dense("bert/pooler/dense", 12, 12),
        "cls/seq_relationship/output_weights": (2, 12),
        "cls/seq_relationship/output_bias": (2,),
    }


def hf_bert(layers: int = 3) -> dict[str, tuple[int, ...]]:
    return {
        **hf_embeddings("bert", 12),
        **hf_encoder("bert", layers=layers),
        **dense("bert/pooler/dense", 12, 12),
    }


@pytest.mark.parametrize("pair", port_pairs.SEEN, ids=lambda pair: pair.name)
def test_pairs_are_complete_and_correct(pair: Pair) -> None:
    verdict = judge_pair(pair)
    assert verdict.wrong == []
    assert verdict.is_complete
    assert len(verdict.result.assignment_map) <= max(12, len(pair.leaves))


@pytest.mark.parametrize(
    "pair", port_pairs_held_out.HELD_OUT, ids=lambda pair: pair.name
)
def test_held_out_pairs_are_correct_or_the_right_candidate_is_near(pair: Pair) -> None:
    verdict = judge_pair(pair)
    assert verdict.wrong == []
    assert verdict.result.unmatched == ()
    assert set(verdict.places.values()) <= {0, 1}


def test_held_out_pairs_that_are_complete() -> None:
    complete = [p for p in port_pairs_held_out.HELD_OUT if judge_pair(p).is_complete]
    assert len(complete) >= 3


def target_of_port(demo: ModuleType, name: str) -> Any:
    port = demo.PORTS[name]
    if name.endswith("nnx"):
        return nnx.eval_shape(lambda: port.model(nnx.Rngs(0)))
    recorded = port.recorded()
    inputs = {a: recorded[array] for array, a in port.inputs.items()}
    return jax.eval_shape(port.model().init, jax.random.key(0), **inputs)


PORTS = ["bert_linen", "bert_nnx", "bert_scan", "gpt2_linen", "resnet_linen"]


@pytest.mark.parametrize("name", PORTS)
def test_examples_get_the_map_that_was_written_by_hand(
    demo: ModuleType, name: str
) -> None:
    by_hand = tf2flax.load_map(ROOT / "examples" / "maps" / f"{name}.toml")
    checkpoint = DATA / demo.PORTS[name].checkpoint / "model.ckpt"
    verdict = judge(checkpoint, target_of_port(demo, name), by_hand)
    assert verdict.wrong == []
    assert verdict.is_complete
    assert len(verdict.result.assignment_map) <= 15


def test_recurrent_cells() -> None:
    cells = {
        "basic": (nn.LSTMCell, "lstm"),
        "keras_lstm_sig": (nn.OptimizedLSTMCell, "keras_lstm"),
        "cudnn_gru": (nn.GRUCell, "gru"),
        "keras_gru_after": (nn.GRUCell, "keras_gru"),
    }
    target: dict[str, Any] = {"params": {}}
    by_hand: list[tuple[Any, str]] = []
    x = np.zeros((1, 2, 5), "f4")
    for name, (cell, map_file) in cells.items():
        model = nn.RNN(cell(6, name="cell"))
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        target["params"][name] = variables["params"]
        entries = tf2flax.load_map(DATA / "recurrent" / f"{map_file}.toml")
        assert isinstance(entries, dict)
        by_hand += [
            (key, value.replace("params/", f"params/{name}/"))
            for key, value in entries.items()
        ]
    verdict = judge(DATA / "recurrent" / "model.ckpt", target, by_hand)
    assert verdict.wrong == []
    assert verdict.is_complete
    evidence = verdict.result.evidence["params/basic/cell/hf/bias"]
    assert "TensorFlow adds forget_bias when it runs: 1.0 unless" in evidence


def test_cells_that_flax_does_not_have_are_told() -> None:
    tensors = {
        "rnn/gru_cell/gates/kernel": (11, 12), "rnn/gru_cell/gates/bias": (12,),
        "rnn/gru_cell/candidate/kernel": (11, 6), "rnn/gru_cell/candidate/bias": (6,),
    }  # fmt: skip
    model = nn.RNN(nn.GRUCell(6, name="cell"))
    target = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 2, 5), "f4"))
    result = tf2flax.suggest(weights_of(tensors), target)
    assert result.assignment_map == {}
    assert "GRUCell resets the state before" in result.evidence["params/cell/hn/kernel"]


def test_tables_in_slices_are_open() -> None:
    """Nothing in a checkpoint says whether 'div' or 'mod' chose the slice of an id."""
    checkpoint = tf2flax.open_checkpoint(DATA / "wide_deep_partitioned" / "model.ckpt")
    scope = "dnn/input_from_feature_columns/input_layer"
    city = f"{scope}/city_embedding/embedding_weights"
    sizes = [rows.stop - rows.start for rows, _ in checkpoint[city].slices]
    starts = np.cumsum([0, *sizes])
    order = [int(starts[i % len(sizes)] + i // len(sizes)) for i in range(sum(sizes))]
    target = target_of(
        {
            "city": (11, 6),
            "query": (300, 8),
            "deep/bilinear": (8, 5, 8),
            **dense("deep/hidden_0", 25, 16),
            **dense("deep/hidden_1", 16, 8),
            **dense("deep/logits", 13, 1),
            "wide/num": (3, 1),
            "wide/bias": (1,),
        }
    )
    by_hand = {
        src(city).take(order): "city",
        f"{scope}/query_embedding/embedding_weights": "query",
        "dnn/bilinear/tensor": "deep/bilinear",
        "dnn/hiddenlayer_{i}/": "deep/hidden_{i}/",
        "dnn/logits/": "deep/logits/",
        "linear/linear_model/num/weights": "wide/num",
        "linear/linear_model/bias_weights": "wide/bias",
    }
    verdict = judge(checkpoint, target, by_hand)
    assert verdict.wrong == []
    assert verdict.places == {"city": 1, "query": 0}
    assert verdict.result.unmatched == ()


def t5() -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], list[Any]]:
    """T5, its heads wider than the model together, and a model with other names."""
    tensors: dict[str, tuple[int, ...]] = {"shared/embedding": (60, 24)}
    leaves: dict[str, tuple[int, ...]] = {"params/token_embed/embedding": (60, 24)}
    by_hand: list[Any] = [("shared/embedding", "params/token_embed/embedding")]
    parts = {"SelfAttention": "self_attention", "EncDecAttention": "cross_attention"}

    def add(tensor: str, shape: tuple[int, ...], leaf: str) -> None:
        tensors[tensor] = leaves[leaf] = shape
        by_hand.append((tensor, leaf))

    for side in ("encoder", "decoder"):
        steps = ["SelfAttention", *(["EncDecAttention"] if side == "decoder" else [])]
        for block in range(3):
            scope, below = f"{side}/block_{block:03}", f"params/{side}/layers_{block}"
            for number, step in enumerate(steps):
                layer = f"{scope}/layer_{number:03}"
                for head, name in zip("qkv", ("query", "key", "value"), strict=True):
                    tensor, leaf = (
                        f"{layer}/{step}/{head}",
                        f"{below}/{parts[step]}/{name}",
                    )
                    tensors[tensor], leaves[f"{leaf}/kernel"] = (24, 30), (24, 3, 10)
                    key = src(tensor).rearrange("d (h k) -> d h k", h=3)
                    by_hand.append((key, f"{leaf}/kernel"))
                tensor, leaf = f"{layer}/{step}/o", f"{below}/{parts[step]}/out/kernel"
                tensors[tensor], leaves[leaf] = (30, 24), (3, 10, 24)
                by_hand.append((src(tensor).rearrange("(h k) d -> h k d", h=3), leaf))
                add(
                    f"{layer}/layer_norm/scale",
                    (24,),
                    f"{below}/{parts[step]}_norm/scale",
                )
            layer = f"{scope}/layer_{len(steps):03}"
            for name, shape in (("wi", (24, 48)), ("wo", (48, 24))):
                add(
                    f"{layer}/DenseReluDense/{name}/kernel",
                    shape,
                    f"{below}/mlp/{name}/kernel",
                )
            add(f"{layer}/layer_norm/scale", (24,), f"{below}/mlp_norm/scale")
        add(f"{side}/final_layer_norm/scale", (24,), f"params/{side}/final_norm/scale")
        bias = f"{side}/block_000/layer_000/SelfAttention/relative_attention_bias"
        add(bias, (3, 32), f"params/{side}/relative_bias")
    return tensors, leaves, by_hand


def test_t5() -> None:
    tensors, leaves, by_hand = t5()
    slots = {f"{name}_slot_v": shape for name, shape in tensors.items()}
    verdict = judge(weights_of(tensors | slots), target_of(leaves), by_hand)
    assert verdict.wrong == []
    assert verdict.is_complete
    assert len(verdict.result.assignment_map) < 25  # not one for each of 64 leaves


def test_a_generator_with_transposed_convolutions() -> None:
    """Flax takes their kernels as they are, or flipped and with axes swapped."""
    tensors = {
        **dense("generator/fc", 20, 240),
        "generator/deconv1/kernel": (5, 5, 10, 12), "generator/deconv1/bias": (10,),
        "generator/deconv2/kernel": (4, 4, 10, 10), "generator/deconv2/bias": (10,),
        "generator/to_rgb/kernel": (3, 3, 10, 3), "generator/to_rgb/bias": (3,),
    }  # fmt: skip
    plain = {f"params/{name[10:]}": shape for name, shape in tensors.items()}
    by_hand = [("generator/", "params/")]
    verdict = judge(weights_of(tensors), target_of(plain), by_hand)
    assert (verdict.wrong, verdict.is_complete) == ([], True)
    turned = plain | {"params/deconv1/kernel": (5, 5, 12, 10)}
    entries: list[Any] = [*by_hand]
    for layer in ("deconv1", "deconv2"):
        flipped = src(f"generator/{layer}/kernel")[::-1, ::-1].transpose(0, 1, 3, 2)
        entries.append((flipped, f"params/{layer}/kernel"))
    verdict = judge(weights_of(tensors), target_of(turned), entries)
    assert (verdict.wrong, verdict.is_complete) == ([], True)
    assert "flipped" in verdict.result.evidence["params/deconv1/kernel"]


MISFITS = {
    "another number of layers": (
        hf_bert(5),
        "the checkpoint has 3 blocks `bert/encoder/layer_*`, the target has 5 "
        "`bert/encoder/layer/*`",
    ),
    "a missing head": (
        {**hf_bert(), **dense("classifier", 12, 7)},
        "the checkpoint has nothing for `classifier`",
    ),
    "another width": (
        {n: tuple(9 if k == 12 else k for k in s) for n, s in hf_bert().items()},
        "another width: 12 in the checkpoint, 9 in the target",
    ),
}


@pytest.mark.parametrize("name", list(MISFITS))
def test_what_does_not_fit_is_told_in_one_line(name: str) -> None:
    leaves, line = MISFITS[name]
    result = tf2flax.suggest(weights_of(bert()), target_of(leaves))
    assert result.unmatched
    comments = [text[2:] for text in str(result).splitlines() if text.startswith("# ")]
    assert comments[1] == line


def test_a_new_head_never_takes_another_one() -> None:
    for classes in (2, 3, 12):
        leaves = {**hf_bert(), **dense("classifier", 12, classes)}
        result = tf2flax.suggest(weights_of(bert()), target_of(leaves))
        given = layouts(weights_of(bert()), result.assignment_map, target_of(leaves))
        assert not [leaf for leaf in given if leaf.startswith("classifier")]


def test_square_kernels_lie_as_their_siblings_do() -> None:
    tensors = bert_tensors("bert")
    turned = {
        name: shape[::-1] if name.endswith("kernel") else shape
        for name, shape in hf_encoder("bert").items()
    }
    verdict = judge(
        weights_of(tensors),
        target_of(turned),
        [*HEADS, (src("bert/encoder/layer_{i}/{path...}/kernel").T,
                  "bert/encoder/layer/{i}/{path...}/kernel")],
    )  # fmt: skip
    assert (verdict.wrong, verdict.is_complete) == ([], True)
    leaf = "bert/encoder/layer/0/attention/self/query/kernel"
    evidence = verdict.result.evidence[leaf]
    assert "transposed, as all called `kernel` that are not square" in evidence


def test_square_kernels_without_such_siblings_are_ambiguous() -> None:
    tensors = {**bert_tensors("bert", inner=12), "cls/x/output_weights": (2, 12)}
    leaves = {**hf_encoder("bert", inner=12), "cls/x/output/kernel": (12, 2)}
    by_hand = [*HEADS, (src("cls/x/output_weights").T, "cls/x/output/kernel")]
    verdict = judge(weights_of(tensors), target_of(leaves), by_hand)
    assert verdict.wrong == []
    kernels = {n for n in leaves if n.endswith("kernel") and "cls" not in n}
    assert verdict.places == dict.fromkeys(kernels, 0)
    # A comment for each of both, in the text.
    leaf = "bert/encoder/layer/0/attention/self/query/kernel"
    tensor = "bert/encoder/layer_0/attention/self/query/kernel"
    text = str(verdict.result)
    assert f'\n# "{tensor}" = "{leaf}"  # as it is' in text
    assert f'\n# \'src("{tensor}").transpose()\' = "{leaf}"  # transposed' in text


def test_equals_are_not_guessed() -> None:
    tensors: dict[str, tuple[int, ...]] = {}
    leaves: dict[str, tuple[int, ...]] = {}
    for tower, side in (("tower_a", "left"), ("tower_b", "right")):
        tensors |= {
            n.replace("bert", tower): s for n, s in bert_tensors("bert").items()
        }
        leaves |= {n.replace("bert", side): s for n, s in hf_encoder("bert").items()}
    result = tf2flax.suggest(weights_of(tensors), target_of(leaves))
    assert result.assignment_map == {}
    assert {leaf for leaf, _ in result.ambiguous} == set(leaves)
    assert all(len(candidates) > 1 for _, candidates in result.ambiguous)


def test_the_state_of_an_optimizer_is_left_alone() -> None:
    tensors = dense("net/fc", 4, 3)
    slots = {f"{name}/Adam": shape for name, shape in tensors.items()}
    tensors |= slots | {"beta1_power": (), "global_step": ()}
    leaves = {
        **dense("params/fc", 4, 3), **dense("opt_state/0/mu/fc", 4, 3), "step": ()
    }  # fmt: skip
    result = tf2flax.suggest(weights_of(tensors), target_of(leaves))
    assert result.assignment_map == {"net/": "params/", "global_step": "step"}
    assert set(result.unmatched) == set(dense("opt_state/0/mu/fc", 4, 3))
    assert "state of an optimizer" in result.evidence["opt_state/0/mu/fc/bias"]


def test_parts_of_a_partitioned_variable() -> None:
    leaves = {"table/part_0": (5, 4), "table/part_1": (6, 4), **dense("fc", 4, 3)}
    tensors = {"emb/table": (11, 4), **dense("net/fc", 4, 3)}
    result = tf2flax.suggest(weights_of(tensors), target_of(leaves))
    assert result.assignment_map == {"emb/table": "table", "net/fc/": "fc/"}


@pytest.mark.parametrize(
    "pair", port_pairs_held_out.HELD_OUT, ids=lambda pair: pair.name
)
def test_the_text_is_a_map_file_of_the_same_map(
    pair: Pair, tmp_path: pathlib.Path
) -> None:
    result = tf2flax.suggest(weights_of(pair.tensors), target_of(pair.leaves))
    path = tmp_path / "map.toml"
    path.write_text(str(result))
    assert dict(tf2flax.load_map(path)) == result.assignment_map
    lines = str(result).splitlines()
    assert lines[0] == "# Suggested for a mapping by tf2flax.suggest."
    # What speaks for a line stands above it, or above the line before.
    first = lines.index("[assignment_map]") + 1
    assert lines[first].startswith("# ")
    for leaf, candidates in result.ambiguous:
        for key, reason in candidates:
            text = json.dumps(key) if isinstance(key, str) else repr(key)
            assert any(
                text in line and leaf in line and reason in line and line[:2] == "# "
                for line in lines
            )
    with_first = "\n".join(
        line[2:] if line.startswith(('# "', "# '")) else line for line in lines
    )
    if len(result.ambiguous) == 0:
        assert "assignment_map" in tomllib.loads(with_first)


def test_holes_are_commented_lines(tmp_path: pathlib.Path) -> None:
    leaves = {**hf_bert(), **dense("classifier", 12, 7)}
    result = tf2flax.suggest(weights_of(bert()), target_of(leaves))
    assert result.unmatched == ("classifier/bias", "classifier/kernel")
    assert '\n# "" = "classifier/kernel"  # ' in str(result)
    (tmp_path / "map.toml").write_text(str(result))
    assert dict(tf2flax.load_map(tmp_path / "map.toml")) == result.assignment_map


def test_keys_that_occur_twice_are_pairs(tmp_path: pathlib.Path) -> None:
    entries = [(("a/", "x/"), "why"), (("a/", "y/"), "why")]
    question = [("z", [("b", "this"), ("c", "that")])]
    text = format_suggestion(
        entries, question, [("w", "none")], title="T", notes=["N"], is_table=False
    )
    assert text.splitlines() == [
        "# T", "# N", "assignment_map = [", "# why", '    ["a/", "x/"],',
        '    ["a/", "y/"],', "", "# `z` is open: take one of these lines",
        '# ["b", "z"],  # this', '# ["c", "z"],  # that', '# "" = "w"  # none', "]",
    ]  # fmt: skip
    (tmp_path / "map.toml").write_text(text)
    assert tf2flax.load_map(tmp_path / "map.toml") == [("a/", "x/"), ("a/", "y/")]


def test_braces_and_numbers_in_names() -> None:
    tensors = {**dense("net{x}/fc", 4, 3), **dense("net{x}/out", 3, 2)}
    leaves = {**dense("net{x}/fc", 4, 3), **dense("net{x}/out", 3, 2)}
    result = tf2flax.suggest(weights_of(tensors), target_of(leaves))
    assert (result.ambiguous, result.unmatched) == ((), ())
    plan = tf2flax.plan(weights_of(tensors), result.assignment_map, target_of(leaves))
    assert {a.leaf: a.sources for a in plan.assignments} == {n: (n,) for n in leaves}


def test_heads_become_a_parameter(demo: ModuleType, tmp_path: pathlib.Path) -> None:
    target = target_of_port(demo, "bert_linen")
    result = tf2flax.suggest(DATA / "bert" / "model.ckpt", target)
    lines = str(result).splitlines()
    assert lines[1:6] == ["", "[parameters]", "heads = 4", "", "[assignment_map]"]
    assert sum("h=heads" in line for line in lines) == 2
    path = tmp_path / "map.toml"
    path.write_text(str(result))
    assert dict(tf2flax.load_map(path)) == result.assignment_map


def test_errors_and_plans_propose_it_where_most_of_a_map_fails() -> None:
    checkpoint, target = weights_of(bert()), target_of(hf_bert())
    wrong = {
        f"bert/{scope}/": f"bert/{scope}/"
        for scope in ("embeddings", "encoder", "pooler", "encoder/layer/0")
    }
    names = {f"w{letter}": f"bert/encoder/layer/0/{letter}" for letter in "abcdef"}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(checkpoint, {**wrong, **names}, target)
    proposal = "Most of the map fails: tf2flax.suggest(checkpoint, target) suggests"
    assert proposal in str(caught.value)
    with pytest.raises(tf2flax.AssignmentError) as caught:  # one mistake is mended
        tf2flax.plan(checkpoint, {"bert/": "bert/", "brt/pooler/": "x/"}, target)
    assert "tf2flax.suggest" not in str(caught.value)
    with pytest.raises(tf2flax.AssignmentError, match=r"target stays: tf2flax\.sugg"):
        tf2flax.plan(checkpoint, {"bert/pooler/": "bert/pooler/"}, target)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f4"), target)
    with pytest.raises(tf2flax.AssignmentError, match=r"fills a leaf .* tf2flax\.sugg"):
        tf2flax.plan(checkpoint, {"bert/": "params/"}, zeros)
    kept = tf2flax.plan(checkpoint, {"bert/": "bert/"}, zeros, on_missing="keep")
    assert proposal in format(kept)
    assert proposal not in format(tf2flax.plan(checkpoint, HEADS, zeros))
