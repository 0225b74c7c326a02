# ruff: noqa: E501 - map files have long lines
"""Checkpoints and Flax models of other habits, with the map that a person writes.

Only names and shapes: values are random. Every shape of a model is as uneven as the model
allows, so that what can be told apart by shape can be told apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Shapes: TypeAlias = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A checkpoint, a target, and the map between them.

    Attributes:
        name: What the two are.
        tensors: Shapes of the checkpoint by name.
        leaves: Shapes of the target by name.
        map_file: The map by hand, as a map file.
    """

    name: str
    tensors: Shapes
    leaves: Shapes
    map_file: str

    def target(self, make: Any) -> dict[str, Any]:
        """The target as nested dicts, `make(shape)` at each leaf."""
        tree: dict[str, Any] = {}
        for name, shape in self.leaves.items():
            *scopes, last = name.split("/")
            scope = tree
            for key in scopes:
                scope = scope.setdefault(key, {})
            scope[last] = make(shape)
        return tree


def repeat(shapes: Mapping[str, tuple[int, ...]], numbers: Iterable[int]) -> Shapes:
    """Fills in `{i}` of every name with each number, or `{i+1}` with the next."""
    return {
        name.replace("{i}", str(i)).replace("{i+1}", str(i + 1)): shape
        for i in numbers
        for name, shape in shapes.items()
    }


def with_slots(shapes: Shapes, *suffixes: str) -> Shapes:
    """Every tensor, and its optimizer slots."""
    slots = {
        f"{name}/{suffix}": shape
        for name, shape in shapes.items()
        for suffix in suffixes
    }
    return shapes | slots


def dense(name: str, rows: int, columns: int) -> Shapes:
    """A kernel and a bias."""
    return {f"{name}/kernel": (rows, columns), f"{name}/bias": (columns,)}


def norm(name: str, width: int, scale: str = "scale", bias: str = "bias") -> Shapes:
    """A scale and a bias."""
    return {f"{name}/{scale}": (width,), f"{name}/{bias}": (width,)}


def _tf_norm(name: str, width: int) -> Shapes:
    return norm(name, width, "gamma", "beta")


def bert_tensors(
    scope: str, width: int = 12, inner: int = 20, layers: int = 3
) -> Shapes:
    """The encoder of google-research/bert, below `scope`."""
    layer = f"{scope}/encoder/layer_{{i}}"
    return {
        f"{scope}/embeddings/word_embeddings": (50, width),
        f"{scope}/embeddings/position_embeddings": (16, width),
        f"{scope}/embeddings/token_type_embeddings": (2, width),
        **_tf_norm(f"{scope}/embeddings/LayerNorm", width),
        **repeat(
            {
                **dense(f"{layer}/attention/self/query", width, width),
                **dense(f"{layer}/attention/self/key", width, width),
                **dense(f"{layer}/attention/self/value", width, width),
                **dense(f"{layer}/attention/output/dense", width, width),
                **_tf_norm(f"{layer}/attention/output/LayerNorm", width),
                **dense(f"{layer}/intermediate/dense", width, inner),
                **dense(f"{layer}/output/dense", inner, width),
                **_tf_norm(f"{layer}/output/LayerNorm", width),
            },
            range(layers),
        ),
    }


def hf_encoder(scope: str, width: int = 12, inner: int = 20, layers: int = 3) -> Shapes:
    """The encoder of FlaxBertModel and FlaxElectraModel of transformers."""
    layer = f"{scope}/encoder/layer/{{i}}"
    return repeat(
        {
            **dense(f"{layer}/attention/self/query", width, width),
            **dense(f"{layer}/attention/self/key", width, width),
            **dense(f"{layer}/attention/self/value", width, width),
            **dense(f"{layer}/attention/output/dense", width, width),
            **norm(f"{layer}/attention/output/LayerNorm", width),
            **dense(f"{layer}/intermediate/dense", width, inner),
            **dense(f"{layer}/output/dense", inner, width),
            **norm(f"{layer}/output/LayerNorm", width),
        },
        range(layers),
    )


def hf_embeddings(scope: str, width: int, vocabulary: int = 50) -> Shapes:
    """The embeddings of BERT, ALBERT and ELECTRA in transformers."""
    return {
        f"{scope}/embeddings/word_embeddings/embedding": (vocabulary, width),
        f"{scope}/embeddings/position_embeddings/embedding": (16, width),
        f"{scope}/embeddings/token_type_embeddings/embedding": (2, width),
        **norm(f"{scope}/embeddings/LayerNorm", width),
    }


HF_BERT = Pair(
    "google-research/bert -> transformers' FlaxBertForPreTraining",
    with_slots(
        {
            **bert_tensors("bert"),
            **dense("bert/pooler/dense", 12, 12),
            "cls/predictions/output_bias": (50,),
            **dense("cls/predictions/transform/dense", 12, 12),
            **_tf_norm("cls/predictions/transform/LayerNorm", 12),
            "cls/seq_relationship/output_weights": (2, 12),
            "cls/seq_relationship/output_bias": (2,),
        },
        "adam_m",
        "adam_v",
    )
    | {"global_step": ()},
    {
        **hf_embeddings("bert", 12),
        **hf_encoder("bert"),
        **dense("bert/pooler/dense", 12, 12),
        "cls/predictions/bias": (50,),
        **dense("cls/predictions/transform/dense", 12, 12),
        **norm("cls/predictions/transform/LayerNorm", 12),
        **dense("cls/seq_relationship", 12, 2),
    },
    """
[assignment_map]
"bert/" = "bert/"
"bert/embeddings/{table}_embeddings" = "bert/embeddings/{table}_embeddings/embedding"
"bert/encoder/layer_{i}/" = "bert/encoder/layer/{i}/"
"cls/predictions/transform/" = "cls/predictions/transform/"
"cls/predictions/output_bias" = "cls/predictions/bias"
'src("cls/seq_relationship/output_weights").T' = "cls/seq_relationship/kernel"
"cls/seq_relationship/output_bias" = "cls/seq_relationship/bias"
""",
)

HF_ELECTRA = Pair(
    "google-research/electra -> transformers' FlaxElectraForPreTraining",
    {
        **{
            name: (shape[0], 8)
            if name.endswith("_embeddings")
            else (8,)
            if "embeddings/LayerNorm" in name
            else shape
            for name, shape in bert_tensors("electra").items()
        },
        **dense("electra/embeddings_project", 8, 12),
        **dense("discriminator_predictions/dense", 12, 12),
        **dense("discriminator_predictions/dense_1", 12, 1),
        **_tf_norm("generator_predictions/LayerNorm", 8),
        **dense("generator_predictions/dense", 4, 8),
        "generator_lm_head/bias": (50,),
        **{
            name: shape
            for name, shape in bert_tensors("generator", 4, 16).items()
            if "/embeddings/" not in name
        },
        **dense("generator/embeddings_project", 8, 4),
        "global_step": (),
    },
    {
        **hf_embeddings("electra", 8),
        **dense("electra/embeddings_project", 8, 12),
        **hf_encoder("electra"),
        **dense("discriminator_predictions/dense", 12, 12),
        **dense("discriminator_predictions/dense_prediction", 12, 1),
    },
    """
[assignment_map]
"electra/" = "electra/"
"electra/embeddings/{table}_embeddings" = "electra/embeddings/{table}_embeddings/embedding"
"electra/encoder/layer_{i}/" = "electra/encoder/layer/{i}/"
"discriminator_predictions/dense/" = "discriminator_predictions/dense/"
"discriminator_predictions/dense_1/" = "discriminator_predictions/dense_prediction/"
""",
)

FUSED_FLAT = Pair(
    "google-research/bert -> one scope for each layer, queries, keys and values fused",
    {**bert_tensors("bert"), **dense("bert/pooler/dense", 12, 12), "global_step": ()},
    {
        "params/tok_embed/embedding": (50, 12),
        "params/pos_embed/embedding": (16, 12),
        "params/seg_embed/embedding": (2, 12),
        **norm("params/embed_ln", 12),
        **repeat(
            {
                **dense("params/block_{i}_qkv", 12, 36),
                **dense("params/block_{i}_attn_proj", 12, 12),
                **norm("params/block_{i}_attn_ln", 12),
                **dense("params/block_{i}_fc1", 12, 20),
                **dense("params/block_{i}_fc2", 20, 12),
                **norm("params/block_{i}_mlp_ln", 12),
            },
            range(3),
        ),
        **dense("params/pooler", 12, 12),
    },
    """
[assignment_map]
"bert/embeddings/word_embeddings" = "params/tok_embed/embedding"
"bert/embeddings/position_embeddings" = "params/pos_embed/embedding"
"bert/embeddings/token_type_embeddings" = "params/seg_embed/embedding"
"bert/embeddings/LayerNorm/" = "params/embed_ln/"
'concat("bert/encoder/layer_{i}/attention/self/query/kernel", "bert/encoder/layer_{i}/attention/self/key/kernel", "bert/encoder/layer_{i}/attention/self/value/kernel", axis=1)' = "params/block_{i}_qkv/kernel"
'concat("bert/encoder/layer_{i}/attention/self/query/bias", "bert/encoder/layer_{i}/attention/self/key/bias", "bert/encoder/layer_{i}/attention/self/value/bias")' = "params/block_{i}_qkv/bias"
"bert/encoder/layer_{i}/attention/output/dense/" = "params/block_{i}_attn_proj/"
"bert/encoder/layer_{i}/attention/output/LayerNorm/" = "params/block_{i}_attn_ln/"
"bert/encoder/layer_{i}/intermediate/dense/" = "params/block_{i}_fc1/"
"bert/encoder/layer_{i}/output/dense/" = "params/block_{i}_fc2/"
"bert/encoder/layer_{i}/output/LayerNorm/" = "params/block_{i}_mlp_ln/"
"bert/pooler/dense/" = "params/pooler/"
""",
)


def _dcgan_tensors() -> Shapes:
    return {
        "generator/g_h0_lin/Matrix": (10, 192),
        "generator/g_h0_lin/bias": (192,),
        "generator/g_h1/w": (5, 5, 8, 12),
        "generator/g_h1/biases": (8,),
        "generator/g_h2/w": (5, 5, 4, 8),
        "generator/g_h2/biases": (4,),
        "generator/g_h3/w": (5, 5, 3, 4),
        "generator/g_h3/biases": (3,),
        **{
            f"generator/g_bn{i}/{leaf}": (width,)
            for i, width in enumerate((12, 8, 4))
            for leaf in ("beta", "gamma", "moving_mean", "moving_variance")
        },
    }


DCGAN = Pair(
    "carpedm20/DCGAN-tensorflow -> a list of layers without names",
    {
        **with_slots(
            {k: v for k, v in _dcgan_tensors().items() if "moving" not in k},
            "Adam",
            "Adam_1",
        ),
        **_dcgan_tensors(),
        **{
            f"discriminator/d_h{i}_conv/{leaf}": shape
            for i, shapes in enumerate(
                [((5, 5, 3, 4), (4,)), ((5, 5, 4, 8), (8,)), ((5, 5, 8, 12), (12,))]
            )
            for leaf, shape in zip(("w", "biases"), shapes, strict=True)
        },
        "discriminator/d_h3_lin/Matrix": (192, 1),
        "discriminator/d_h3_lin/bias": (1,),
        "beta1_power": (),
        "beta2_power": (),
    },
    {
        "params/layers_0/kernel": (10, 192),
        "params/layers_0/bias": (192,),
        **norm("params/layers_2", 12),
        "params/layers_4/kernel": (5, 5, 8, 12),
        "params/layers_4/bias": (8,),
        **norm("params/layers_5", 8),
        "params/layers_7/kernel": (5, 5, 4, 8),
        "params/layers_7/bias": (4,),
        **norm("params/layers_8", 4),
        "params/layers_10/kernel": (5, 5, 3, 4),
        "params/layers_10/bias": (3,),
        **norm("batch_stats/layers_2", 12, "mean", "var"),
        **norm("batch_stats/layers_5", 8, "mean", "var"),
        **norm("batch_stats/layers_8", 4, "mean", "var"),
    },
    """
[assignment_map]
"generator/g_h0_lin/Matrix" = "params/layers_0/kernel"
"generator/g_h0_lin/bias" = "params/layers_0/bias"
"generator/g_bn0/" = "{collection}/layers_2/"
"generator/g_h1/w" = "params/layers_4/kernel"
"generator/g_h1/biases" = "params/layers_4/bias"
"generator/g_bn1/" = "{collection}/layers_5/"
"generator/g_h2/w" = "params/layers_7/kernel"
"generator/g_h2/biases" = "params/layers_7/bias"
"generator/g_bn2/" = "{collection}/layers_8/"
"generator/g_h3/w" = "params/layers_10/kernel"
"generator/g_h3/biases" = "params/layers_10/bias"
""",
)


def _lstm_leaves(scope: str, rows: int, width: int) -> Shapes:
    gates = {f"{scope}/i{gate}/kernel": (rows, width) for gate in "ifgo"}
    hidden = {f"{scope}/h{gate}/kernel": (width, width) for gate in "ifgo"}
    return gates | hidden | {f"{scope}/h{gate}/bias": (width,) for gate in "ifgo"}


def _lstm_lines(source: str, leaf: str, rows: int, width: int) -> str:
    lines: list[str] = []
    for gate, block in {"i": 0, "g": 1, "f": 2, "o": 3}.items():
        columns = f"{block * width}:{(block + 1) * width}"
        kernel = f'src("{source}/kernel")'
        bias = f'src("{source}/bias")[{columns}]{" + 1.0" if gate == "f" else ""}'
        lines += [
            f"'{kernel}[:{rows}, {columns}]' = \"{leaf}/i{gate}/kernel\"",
            f"'{kernel}[{rows}:, {columns}]' = \"{leaf}/h{gate}/kernel\"",
            f"'{bias}' = \"{leaf}/h{gate}/bias\"",
        ]
    return "\n".join(lines)


_TAGGER = "tagger/bidirectional_rnn"

BILSTM = Pair(
    "a bidirectional tagger -> nn.OptimizedLSTMCell in nn.Bidirectional",
    {
        **with_slots(
            {
                "tagger/embedding_matrix": (40, 7),
                f"{_TAGGER}/fw/basic_lstm_cell/kernel": (12, 20),
                f"{_TAGGER}/fw/basic_lstm_cell/bias": (20,),
                f"{_TAGGER}/bw/basic_lstm_cell/kernel": (12, 20),
                f"{_TAGGER}/bw/basic_lstm_cell/bias": (20,),
                "tagger/projection/W": (10, 9),
                "tagger/projection/b": (9,),
            },
            "Adam",
            "Adam_1",
        ),
        "beta1_power": (),
        "beta2_power": (),
    },
    {
        "params/word_vectors/embedding": (40, 7),
        **_lstm_leaves("params/encoder/forward_rnn/cell", 7, 5),
        **_lstm_leaves("params/encoder/backward_rnn/cell", 7, 5),
        **dense("params/classifier", 10, 9),
    },
    f"""
[assignment_map]
"tagger/embedding_matrix" = "params/word_vectors/embedding"
{_lstm_lines(f"{_TAGGER}/fw/basic_lstm_cell", "params/encoder/forward_rnn/cell", 7, 5)}
{_lstm_lines(f"{_TAGGER}/bw/basic_lstm_cell", "params/encoder/backward_rnn/cell", 7, 5)}
"tagger/projection/W" = "params/classifier/kernel"
"tagger/projection/b" = "params/classifier/bias"
""",
)

SEEN = (HF_BERT, HF_ELECTRA, FUSED_FLAT, DCGAN, BILSTM)
