"""Names as words: what a name says, whatever the habit in which it is written.

    `bert/encoder/layer_0/attention/self/query/kernel`    attention self query
    `params/layers_0/mha/q_proj/kernel`                   attention query

Words of TensorFlow, Flax, Keras, Sonnet and of published models that mean the same are
one word here. Never looks at shapes.
"""

from __future__ import annotations

import functools
import re
from typing import Final, Literal, NamedTuple

# What a parameter is to its layer. "main" is a kernel, a table, or anything else.
Part = Literal["main", "bias", "scale", "mean", "var"]

_TOKEN: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
# `conv2d`, `Conv1D`, `1x1`, `v1`: digits that count nothing.
_NOT_NUMBERS: Final = re.compile(r"(?i)(?<=conv)_?[123]d|(?<![0-9a-z])[0-9]+x[0-9]+")

# The last words of a name -> what the parameter is to its layer.
_PARTS: Final[dict[str, Part]] = {
    **dict.fromkeys(("kernel", "kernels", "weight", "weights", "w"), "main"),
    **dict.fromkeys(("matrix", "mat", "filter", "filters"), "main"),
    **dict.fromkeys(("bias", "biases", "b", "beta", "offset"), "bias"),
    **dict.fromkeys(("scale", "gamma", "g"), "scale"),
    **dict.fromkeys(("mean", "mu"), "mean"),
    **dict.fromkeys(("var", "variance"), "var"),
    **dict.fromkeys(("embedding", "embeddings", "table"), "main"),
}
_TABLES: Final = frozenset({"embedding", "embeddings", "table"})
# Words before these that belong to them: `moving_mean`.
_BEFORE_PART: Final = frozenset({"moving", "running", "batch"})

# What object-based checkpoints write behind every name.
OF_OBJECTS: Final = "/.ATTRIBUTES/VARIABLE_VALUE"

# Several words -> what they mean together. The longest come first.
_PHRASES: Final[tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = (
    (("dense", "relu", "dense"), ("ffn",)),
    (("enc", "dec", "attention"), ("cross", "attention")),
    (("encoder", "decoder", "attention"), ("cross", "attention")),
    (("query", "key", "value"), ("qkv", "attention")),
    (("key", "value"), ("kv", "attention")),
    (("embedding", "hidden", "mapping"), ("project", "embedding")),
    (("embeddings", "project"), ("project", "embedding")),
    (("layer", "norm"), ("norm", "layernorm")),
    (("batch", "norm"), ("norm", "batchnorm")),
    (("batch", "normalization"), ("norm", "batchnorm")),
    (("layer", "normalization"), ("norm", "layernorm")),
    (("group", "norm"), ("norm", "groupnorm")),
    (("instance", "norm"), ("norm", "instancenorm")),
    (("rms", "norm"), ("norm",)),
    (("feed", "forward"), ("ffn",)),
    (("multi", "head"), ()),
    (("position", "wise"), ()),
    (("token", "type"), ("segment",)),
    (("ln", "f"), ("norm", "final")),
    (("c", "attn"), ("qkv", "attention")),
    (("in", "proj"), ("qkv", "attention")),
    (("c", "proj"), ("out",)),
    (("c", "fc"), ("up",)),
    (("output", "transform"), ("out",)),
    (("conv", "transpose"), ("deconv",)),
    (("fully", "connected"), ("dense",)),
    (("seq", "relationship"), ("nsp", "head")),
    (("linear", "model"), ("wide",)),
    (("query", "proj"), ("query", "attention")),
    (("key", "proj"), ("key", "attention")),
    (("value", "proj"), ("value", "attention")),
    (("q", "proj"), ("query", "attention")),
    (("k", "proj"), ("key", "attention")),
    (("v", "proj"), ("value", "attention")),
)
_STARTS: Final = frozenset(words[0] for words, _ in _PHRASES)

# Groups of words that mean the same: the first is what they become.
_SYNONYMS: Final = (
    "attention attn att mha multihead",
    "norm ln layernorm bn batchnorm normalization normalisation norms",
    "embedding embed emb embeds embeddings embedder lookup",
    "word words tok token tokens vocab vocabulary",
    "position pos positions positional",
    "segment seg segments",
    "out output outputs proj projection o down wo",
    "up intermediate wi in",
    "ffn mlp ff feedforward positionwise",
    "head heads classifier classification logits logit predictions prediction cls",
    "forward fw fwd forwards",
    "backward bw bwd backwards",
    "encoder enc",
    "decoder dec",
    "generator gen",
    "discriminator disc discrim critic",
    "depthwise dw",
    "pointwise pw",
    "pooler pooling pool",
    "dense linear lin fc",
    "deconv convtranspose upconv",
    "shortcut downsample skip",
    "cross encdec inter",
    "block blocks layer layers",
    "mlm lm",
    "nsp sop",
    "transform",
    "final last",
    "hidden hiddenlayer",
    "colour color",
    "deep dnn",
)
# A word -> words that it means. Queries are of an attention, wherever they stand.
_MEANINGS: Final[dict[str, tuple[str, ...]]] = {
    **{word: (group.split()[0],) for group in _SYNONYMS for word in group.split()},
    **dict.fromkeys(("query", "q", "queries"), ("query", "attention")),
    **dict.fromkeys(("key", "k", "keys"), ("key", "attention")),
    **dict.fromkeys(("value", "v", "values", "val"), ("value", "attention")),
    "qkv": ("qkv", "attention"),
    "kv": ("kv", "attention"),
    "wte": ("word", "embedding"),
    "wpe": ("position", "embedding"),
    **dict.fromkeys(("wi", "up", "intermediate"), ("up", "ffn")),
    **dict.fromkeys(("wo", "down"), ("out", "ffn")),
    **dict.fromkeys(("ln", "layernorm"), ("norm", "layernorm")),
    **dict.fromkeys(("bn", "batchnorm"), ("norm", "batchnorm")),
    "convtranspose": ("deconv",),
    "cls": ("head",),
    "predictions": ("head", "mlm"),
    "nsp": ("nsp", "head"),
    "sop": ("nsp", "head"),
}
# What cannot tell layers of one model apart.
_EMPTY_WORDS: Final = frozenset(
    {"params", "model", "module", "the", "a", "d", "x", "w", "c", "prepostprocess"}
)


class Reading(NamedTuple):
    """What a name says.

    Attributes:
        part: What the parameter is to its layer.
        layer: Name of the layer: the name without the words that say its part.
        has_part: True if the name says the part.
        is_table: True if it is called an embedding or a table.
    """

    part: Part
    layer: str
    has_part: bool
    is_table: bool


@functools.lru_cache(maxsize=1 << 16)
def read_part(name: str) -> Reading:
    """Splits a name into that of a layer and what the parameter is to it.

    Examples:
        >>> read_part("bn/moving_mean")[:2], read_part("cls/output_weights")[:2]
        (('mean', 'bn'), ('main', 'cls/output'))
        >>> read_part("bert/word_embeddings")[:2], read_part("attention/q")[:2]
        (('main', 'bert/word'), ('main', 'attention/q'))
    """
    name = name.removesuffix(OF_OBJECTS)
    scope, _, last = name.rpartition("/")
    tokens = [(m[0].casefold(), m.start()) for m in _TOKEN.finditer(last)]
    number = ""
    if len(tokens) > 1 and tokens[-1][0].isdigit():
        number = f"#{tokens.pop()[0]}"
    word = tokens[-1][0] if tokens else ""
    part = _PARTS.get(word)
    if part is None:
        return Reading("main", name, has_part=False, is_table=False)
    end = len(tokens) - 1
    if part == "main" and end and tokens[end - 1][0] in ("bias", "biases"):
        part, end = "bias", end - 1  # `bias_weights` of TensorFlow's linear models
    while end and tokens[end - 1][0] in _BEFORE_PART:
        end -= 1
    prefix = last[: tokens[end][1]].rstrip("_-. ")
    pieces = [piece for piece in (scope, prefix) if piece]
    layer = "/".join(pieces) + number
    is_table = word in _TABLES
    if is_table and not prefix and not number:
        layer = scope
    return Reading(part, layer, has_part=True, is_table=is_table)


@functools.lru_cache(maxsize=1 << 16)
def read_words(name: str) -> tuple[str, ...]:
    """The words of a name, in order, in the spelling that all habits share here.

    Examples:
        >>> read_words("layers_0/mha/q_proj")
        ('block', 'attention', 'query', 'attention')
        >>> read_words("h0/attn/c_attn")
        ('h', 'attention', 'qkv', 'attention')
    """
    text = _NOT_NUMBERS.sub("", name.removesuffix(OF_OBJECTS))
    words: list[str] = []
    for component in text.split("/"):
        words += _words_of(component)
    return tuple(words)


@functools.lru_cache(maxsize=1 << 14)
def _words_of(component: str) -> tuple[str, ...]:
    tokens = [token.casefold() for token in _TOKEN.findall(component)]
    words: list[str] = []
    place = 0
    while place < len(tokens):
        meaning, length = _meaning_at(tokens, place)
        words += [word for word in meaning if word not in _EMPTY_WORDS]
        place += length
    return tuple(words)


def _meaning_at(tokens: list[str], place: int) -> tuple[tuple[str, ...], int]:
    """What the tokens at a place mean, and how many of them it takes."""
    if tokens[place] in _STARTS:
        for phrase, meaning in _PHRASES:
            if tuple(tokens[place : place + len(phrase)]) == phrase:
                return meaning, len(phrase)
    token = tokens[place]
    if token.isdigit():
        return (), 1
    return _MEANINGS.get(token, (token,)), 1
