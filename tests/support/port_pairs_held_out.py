# ruff: noqa: E501 - map files have long lines
"""The five pairs that nobody looked at while the engine was tuned.

Written before the engine of suggestions, in a commit before it.
"""

from __future__ import annotations

from port_pairs import Pair, Shapes, dense, hf_embeddings, norm, repeat, with_slots


def _tf_norm(name: str, width: int) -> Shapes:
    return norm(name, width, "gamma", "beta")


_INNER = "bert/encoder/transformer/group_0/inner_group_0"
_HF_INNER = "albert/encoder/albert_layer_groups/0/albert_layers/0"

HF_ALBERT = Pair(
    "google-research/albert -> transformers' FlaxAlbertForPreTraining",
    with_slots(
        {
            "bert/embeddings/word_embeddings": (50, 8),
            "bert/embeddings/position_embeddings": (16, 8),
            "bert/embeddings/token_type_embeddings": (2, 8),
            **_tf_norm("bert/embeddings/LayerNorm", 8),
            **dense("bert/encoder/embedding_hidden_mapping_in", 8, 12),
            **dense(f"{_INNER}/attention_1/self/query", 12, 12),
            **dense(f"{_INNER}/attention_1/self/key", 12, 12),
            **dense(f"{_INNER}/attention_1/self/value", 12, 12),
            **dense(f"{_INNER}/attention_1/output/dense", 12, 12),
            **_tf_norm(f"{_INNER}/LayerNorm", 12),
            **_tf_norm(f"{_INNER}/LayerNorm_1", 12),
            **dense(f"{_INNER}/ffn_1/intermediate/dense", 12, 20),
            **dense(f"{_INNER}/ffn_1/intermediate/output/dense", 20, 12),
            **dense("bert/pooler/dense", 12, 12),
            "cls/predictions/output_bias": (50,),
            **dense("cls/predictions/transform/dense", 12, 8),
            **_tf_norm("cls/predictions/transform/LayerNorm", 8),
            "cls/seq_relationship/output_weights": (2, 12),
            "cls/seq_relationship/output_bias": (2,),
        },
        "adam_m",
        "adam_v",
    )
    | {"global_step": ()},
    {
        **hf_embeddings("albert", 8),
        **dense("albert/encoder/embedding_hidden_mapping_in", 8, 12),
        **dense(f"{_HF_INNER}/attention/query", 12, 12),
        **dense(f"{_HF_INNER}/attention/key", 12, 12),
        **dense(f"{_HF_INNER}/attention/value", 12, 12),
        **dense(f"{_HF_INNER}/attention/dense", 12, 12),
        **norm(f"{_HF_INNER}/attention/LayerNorm", 12),
        **dense(f"{_HF_INNER}/ffn", 12, 20),
        **dense(f"{_HF_INNER}/ffn_output", 20, 12),
        **norm(f"{_HF_INNER}/full_layer_layer_norm", 12),
        **dense("albert/pooler", 12, 12),
        "predictions/bias": (50,),
        **dense("predictions/dense", 12, 8),
        **norm("predictions/LayerNorm", 8),
        **dense("sop_classifier/classifier", 12, 2),
    },
    f"""
[assignment_map]
"bert/embeddings/LayerNorm/" = "albert/embeddings/LayerNorm/"
"bert/embeddings/{{table}}_embeddings" = "albert/embeddings/{{table}}_embeddings/embedding"
"bert/encoder/embedding_hidden_mapping_in/" = "albert/encoder/embedding_hidden_mapping_in/"
"{_INNER}/attention_1/self/query/" = "{_HF_INNER}/attention/query/"
"{_INNER}/attention_1/self/key/" = "{_HF_INNER}/attention/key/"
"{_INNER}/attention_1/self/value/" = "{_HF_INNER}/attention/value/"
"{_INNER}/attention_1/output/dense/" = "{_HF_INNER}/attention/dense/"
"{_INNER}/LayerNorm/" = "{_HF_INNER}/attention/LayerNorm/"
"{_INNER}/LayerNorm_1/" = "{_HF_INNER}/full_layer_layer_norm/"
"{_INNER}/ffn_1/intermediate/dense/" = "{_HF_INNER}/ffn/"
"{_INNER}/ffn_1/intermediate/output/dense/" = "{_HF_INNER}/ffn_output/"
"bert/pooler/dense/" = "albert/pooler/"
"cls/predictions/output_bias" = "predictions/bias"
"cls/predictions/transform/dense/" = "predictions/dense/"
"cls/predictions/transform/LayerNorm/" = "predictions/LayerNorm/"
'src("cls/seq_relationship/output_weights").T' = "sop_classifier/classifier/kernel"
"cls/seq_relationship/output_bias" = "sop_classifier/classifier/bias"
""",
)


def _conv1d(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}/w": (1, rows, columns), f"{name}/b": (columns,)}


HF_GPT2 = Pair(
    "openai/gpt-2 -> transformers' FlaxGPT2LMHeadModel",
    {
        "model/wte": (50, 12),
        "model/wpe": (16, 12),
        **repeat(
            {
                **norm("model/h{i}/ln_1", 12, "g", "b"),
                **_conv1d("model/h{i}/attn/c_attn", 12, 36),
                **_conv1d("model/h{i}/attn/c_proj", 12, 12),
                **norm("model/h{i}/ln_2", 12, "g", "b"),
                **_conv1d("model/h{i}/mlp/c_fc", 12, 48),
                **_conv1d("model/h{i}/mlp/c_proj", 48, 12),
            },
            range(3),
        ),
        **norm("model/ln_f", 12, "g", "b"),
    },
    {
        "transformer/wte/embedding": (50, 12),
        "transformer/wpe/embedding": (16, 12),
        **repeat(
            {
                **norm("transformer/h/{i}/ln_1", 12),
                "transformer/h/{i}/attn/c_attn/kernel": (36, 12),
                "transformer/h/{i}/attn/c_attn/bias": (36,),
                "transformer/h/{i}/attn/c_proj/kernel": (12, 12),
                "transformer/h/{i}/attn/c_proj/bias": (12,),
                **norm("transformer/h/{i}/ln_2", 12),
                "transformer/h/{i}/mlp/c_fc/kernel": (48, 12),
                "transformer/h/{i}/mlp/c_fc/bias": (48,),
                "transformer/h/{i}/mlp/c_proj/kernel": (12, 48),
                "transformer/h/{i}/mlp/c_proj/bias": (12,),
            },
            range(3),
        ),
        **norm("transformer/ln_f", 12),
    },
    """
[assignment_map]
"model/wte" = "transformer/wte/embedding"
"model/wpe" = "transformer/wpe/embedding"
"model/h{i}/ln_{j}/g" = "transformer/h/{i}/ln_{j}/scale"
"model/h{i}/ln_{j}/b" = "transformer/h/{i}/ln_{j}/bias"
'src("model/h{i}/{part}/{layer}/w")[0].T' = "transformer/h/{i}/{part}/{layer}/kernel"
"model/h{i}/{part}/{layer}/b" = "transformer/h/{i}/{part}/{layer}/bias"
"model/ln_f/g" = "transformer/ln_f/scale"
"model/ln_f/b" = "transformer/ln_f/bias"
""",
)


def _slim_norm(name: str, width: int) -> Shapes:
    leaves = ("beta", "gamma", "moving_mean", "moving_variance")
    return {f"{name}/BatchNorm/{leaf}": (width,) for leaf in leaves}


_WIDTHS = ((6, 10), (10, 14), (14, 14), (14, 18))

MOBILENET = Pair(
    "slim's MobileNet v1 -> flat scopes, and a Dense for the logits",
    with_slots(
        {
            "MobilenetV1/Conv2d_0/weights": (3, 3, 3, 6),
            **_slim_norm("MobilenetV1/Conv2d_0", 6),
            **{
                name: shape
                for i, (rows, columns) in enumerate(_WIDTHS, 1)
                for name, shape in {
                    f"MobilenetV1/Conv2d_{i}_depthwise/depthwise_weights": (
                        3,
                        3,
                        rows,
                        1,
                    ),
                    **_slim_norm(f"MobilenetV1/Conv2d_{i}_depthwise", rows),
                    f"MobilenetV1/Conv2d_{i}_pointwise/weights": (1, 1, rows, columns),
                    **_slim_norm(f"MobilenetV1/Conv2d_{i}_pointwise", columns),
                }.items()
            },
            "MobilenetV1/Logits/Conv2d_1c_1x1/weights": (1, 1, 18, 11),
            "MobilenetV1/Logits/Conv2d_1c_1x1/biases": (11,),
        },
        "RMSProp",
        "ExponentialMovingAverage",
    )
    | {"global_step": ()},
    {
        "params/stem_conv/kernel": (3, 3, 3, 6),
        **norm("params/stem_bn", 6),
        **norm("batch_stats/stem_bn", 6, "mean", "var"),
        **{
            name: shape
            for i, (rows, columns) in enumerate(_WIDTHS)
            for name, shape in {
                f"params/block{i}_dw_conv/kernel": (3, 3, 1, rows),
                **norm(f"params/block{i}_dw_bn", rows),
                **norm(f"batch_stats/block{i}_dw_bn", rows, "mean", "var"),
                f"params/block{i}_pw_conv/kernel": (1, 1, rows, columns),
                **norm(f"params/block{i}_pw_bn", columns),
                **norm(f"batch_stats/block{i}_pw_bn", columns, "mean", "var"),
            }.items()
        },
        **dense("params/head", 18, 11),
    },
    """
[assignment_map]
"MobilenetV1/Conv2d_0/weights" = "params/stem_conv/kernel"
"MobilenetV1/Conv2d_0/BatchNorm/" = "{collection}/stem_bn/"
'src("MobilenetV1/Conv2d_{i}_depthwise/depthwise_weights").rearrange("h w c 1 -> h w 1 c")' = "params/block{i-1}_dw_conv/kernel"
"MobilenetV1/Conv2d_{i}_depthwise/BatchNorm/" = "{collection}/block{i-1}_dw_bn/"
"MobilenetV1/Conv2d_{i}_pointwise/weights" = "params/block{i-1}_pw_conv/kernel"
"MobilenetV1/Conv2d_{i}_pointwise/BatchNorm/" = "{collection}/block{i-1}_pw_bn/"
'src("MobilenetV1/Logits/Conv2d_1c_1x1/weights")[0, 0]' = "params/head/kernel"
"MobilenetV1/Logits/Conv2d_1c_1x1/biases" = "params/head/bias"
""",
)


def _t2t_norm(scope: str) -> Shapes:
    name = f"{scope}/layer_prepostprocess/layer_norm"
    return norm(name, 12, "layer_norm_scale", "layer_norm_bias")


def _t2t_attention(scope: str) -> Shapes:
    heads = ("q", "k", "v", "output_transform")
    return {
        f"{scope}/multihead_attention/{head}/kernel": (12, 12) for head in heads
    } | _t2t_norm(scope)


def _t2t_ffn(scope: str) -> Shapes:
    return {
        **dense(f"{scope}/conv1", 12, 20),
        **dense(f"{scope}/conv2", 20, 12),
        **_t2t_norm(scope),
    }


def _scanned_attention(scope: str, count: int) -> Shapes:
    return {
        **{
            f"{scope}/{head}/kernel": (count, 12, 4, 3)
            for head in ("query", "key", "value")
        },
        f"{scope}/out/kernel": (count, 4, 3, 12),
    }


def _scanned_norm(scope: str, count: int) -> Shapes:
    return {f"{scope}/scale": (count, 12), f"{scope}/bias": (count, 12)}


def _scanned_ffn(scope: str, count: int) -> Shapes:
    return {
        f"{scope}/ffn_in/kernel": (count, 12, 20),
        f"{scope}/ffn_in/bias": (count, 20),
        f"{scope}/ffn_out/kernel": (count, 20, 12),
        f"{scope}/ffn_out/bias": (count, 12),
    }


def _t2t_lines(side: str, layer: str, attention: str, stacked: str) -> str:
    source = f"transformer/body/{side}/layer_{{i}}/{layer}"
    heads = f"{source}/multihead_attention"
    lines = [
        f'\'stack(src("{heads}/{head}/kernel").rearrange("d (h k) -> d h k", h=4), over="i")\' '
        f'= "params/{side}/blocks/{attention}/{name}/kernel"'
        for head, name in (("q", "query"), ("k", "key"), ("v", "value"))
    ]
    lines += [
        f'\'stack(src("{heads}/output_transform/kernel").rearrange("(h k) d -> h k d", h=4), '
        f'over="i")\' = "params/{side}/blocks/{attention}/out/kernel"',
        _t2t_norm_lines(source, f"params/{side}/blocks/{stacked}"),
    ]
    return "\n".join(lines)


def _t2t_norm_lines(source: str, leaf: str) -> str:
    scope = f"{source}/layer_prepostprocess/layer_norm"
    return "\n".join(
        f'\'stack("{scope}/layer_norm_{name}", over="i")\' = "{leaf}/{name}"'
        for name in ("scale", "bias")
    )


def _t2t_ffn_lines(side: str) -> str:
    source = f"transformer/body/{side}/layer_{{i}}/ffn"
    lines = [
        f'\'stack("{source}/{layer}/", over="i")\' = "params/{side}/blocks/{name}/"'
        for layer, name in (("conv1", "ffn_in"), ("conv2", "ffn_out"))
    ]
    return "\n".join([*lines, _t2t_norm_lines(source, f"params/{side}/blocks/ln_ffn")])


def _final_norm_lines(side: str) -> str:
    scope = f"transformer/body/{side}/layer_prepostprocess/layer_norm"
    return "\n".join(
        f'"{scope}/layer_norm_{name}" = "params/{side}/ln_final/{name}"'
        for name in ("scale", "bias")
    )


_SHARED = "transformer/symbol_modality_64_12/shared/weights"

T2T_SCANNED = Pair(
    "tensor2tensor's Transformer -> scanned layers with heads apart",
    {
        **{f"{_SHARED}_{i}": (4, 12) for i in range(16)},
        **repeat(
            {
                **_t2t_attention("transformer/body/encoder/layer_{i}/self_attention"),
                **_t2t_ffn("transformer/body/encoder/layer_{i}/ffn"),
            },
            range(5),
        ),
        **_t2t_norm("transformer/body/encoder"),
        **repeat(
            {
                **_t2t_attention("transformer/body/decoder/layer_{i}/self_attention"),
                **_t2t_attention("transformer/body/decoder/layer_{i}/encdec_attention"),
                **_t2t_ffn("transformer/body/decoder/layer_{i}/ffn"),
            },
            range(3),
        ),
        **_t2t_norm("transformer/body/decoder"),
        "global_step": (),
    },
    {
        "params/shared_embedding/embedding": (64, 12),
        **_scanned_attention("params/encoder/blocks/self_attn", 5),
        **_scanned_norm("params/encoder/blocks/ln_self", 5),
        **_scanned_ffn("params/encoder/blocks", 5),
        **_scanned_norm("params/encoder/blocks/ln_ffn", 5),
        **norm("params/encoder/ln_final", 12),
        **_scanned_attention("params/decoder/blocks/self_attn", 3),
        **_scanned_norm("params/decoder/blocks/ln_self", 3),
        **_scanned_attention("params/decoder/blocks/cross_attn", 3),
        **_scanned_norm("params/decoder/blocks/ln_cross", 3),
        **_scanned_ffn("params/decoder/blocks", 3),
        **_scanned_norm("params/decoder/blocks/ln_ffn", 3),
        **norm("params/decoder/ln_final", 12),
    },
    f"""
[assignment_map]
'concat({", ".join(f'"{_SHARED}_{i}"' for i in range(16))})' = "params/shared_embedding/embedding"
{_t2t_lines("encoder", "self_attention", "self_attn", "ln_self")}
{_t2t_ffn_lines("encoder")}
{_final_norm_lines("encoder")}
{_t2t_lines("decoder", "self_attention", "self_attn", "ln_self")}
{_t2t_lines("decoder", "encdec_attention", "cross_attn", "ln_cross")}
{_t2t_ffn_lines("decoder")}
{_final_norm_lines("decoder")}
""",
)

_BLOCK = "encoder/num_blocks_{i}"

KYUBYONG_LISTS = Pair(
    "Kyubyong's transformer, its layers numbered in order of creation -> nnx.List of nnx.List",
    {
        "embeddings/weight_mat": (40, 12),
        **repeat(
            {
                **dense(f"{_BLOCK}/multihead_attention/dense", 12, 12),
                **dense(f"{_BLOCK}/multihead_attention/dense_1", 12, 12),
                **dense(f"{_BLOCK}/multihead_attention/dense_2", 12, 12),
                **_tf_norm(f"{_BLOCK}/multihead_attention/ln", 12),
                **dense(f"{_BLOCK}/positionwise_feedforward/dense", 12, 20),
                **dense(f"{_BLOCK}/positionwise_feedforward/dense_1", 20, 12),
                **_tf_norm(f"{_BLOCK}/positionwise_feedforward/ln", 12),
            },
            range(4),
        ),
        **dense("prediction/dense", 12, 6),
    },
    {
        "token_table/embedding": (40, 12),
        **repeat(
            {
                **dense("blocks/{i}/0/q_proj", 12, 12),
                **dense("blocks/{i}/0/k_proj", 12, 12),
                **dense("blocks/{i}/0/v_proj", 12, 12),
                **norm("blocks/{i}/0/norm", 12),
                **dense("blocks/{i}/1/up", 12, 20),
                **dense("blocks/{i}/1/down", 20, 12),
                **norm("blocks/{i}/1/norm", 12),
            },
            range(4),
        ),
        **dense("head", 12, 6),
    },
    f"""
[assignment_map]
"embeddings/weight_mat" = "token_table/embedding"
"{_BLOCK}/multihead_attention/dense/" = "blocks/{{i}}/0/q_proj/"
"{_BLOCK}/multihead_attention/dense_1/" = "blocks/{{i}}/0/k_proj/"
"{_BLOCK}/multihead_attention/dense_2/" = "blocks/{{i}}/0/v_proj/"
"{_BLOCK}/multihead_attention/ln/" = "blocks/{{i}}/0/norm/"
"{_BLOCK}/positionwise_feedforward/dense/" = "blocks/{{i}}/1/up/"
"{_BLOCK}/positionwise_feedforward/dense_1/" = "blocks/{{i}}/1/down/"
"{_BLOCK}/positionwise_feedforward/ln/" = "blocks/{{i}}/1/norm/"
"prediction/dense/" = "head/"
""",
)

HELD_OUT = (HF_ALBERT, HF_GPT2, MOBILENET, T2T_SCANNED, KYUBYONG_LISTS)
