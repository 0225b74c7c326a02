"""Layers: kernel, bias, scale and statistics that belong together.

    `cls/output_weights`, `cls/output_bias`              main, bias of `cls/output`
    `params/bn/scale`, `batch_stats/bn/mean`             scale, mean of `bn`

A bias can only fill the bias of the layer whose kernel its own kernel fills; so layers
are compared, not arrays. Layers that no name has are made of others here: queries, keys
and values as one, each of them as a part of one, tables that were split by hand.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.making import concat, src

from .blocks import MARK, Family, Numbers, Shape, in_order
from .words import Part, Reading, read_part, read_words

# Collections of linen: a layer has leaves in several of them.
COLLECTIONS: Final = frozenset(
    {"params", "batch_stats", "constants", "cache", "spectral_norm", "norm_stats"}
)
# Words of layers that hold nothing but scale, bias and statistics.
_NORM_WORDS: Final = frozenset({"norm", "layernorm", "batchnorm"})


@dataclasses.dataclass(frozen=True, eq=False)
class PartSource:
    """What fills a leaf before it is transformed: a tensor, or something of tensors.

    Attributes:
        families: Its tensors.
        how: "whole"; "joined", the tensors along an axis; "part", a part of the only
            one along its last axis; "pieces", all members of the only one along axis 0.
        place: Which part.
        count: Number of parts.
    """

    families: tuple[Family, ...]
    how: Literal["whole", "joined", "part", "pieces"] = "whole"
    place: int = 0
    count: int = 1

    @property
    def members(self) -> Mapping[Numbers, Shape]:
        """Shapes by the numbers of blocks."""
        first = self.families[0]
        if self.how == "whole":  # as nearly always
            return first.members
        if self.how == "joined":
            return {
                numbers: (
                    *shape[:-1],
                    sum(f.members[numbers][-1] for f in self.families),
                )
                for numbers, shape in first.members.items()
                if all(numbers in family.members for family in self.families)
            }
        if self.how == "part":
            return {n: (*s[:-1], s[-1] // self.count) for n, s in first.members.items()}
        shapes = [first.members[numbers] for numbers in in_order(first.members)]
        rows = sum(shape[0] for shape in shapes)
        return {(): (rows, *shapes[0][1:])}

    def expression(self, numbers: Numbers, texts: Sequence[str] | None) -> Expression:
        """Writes it.

        Args:
            numbers: Numbers of a member.
            texts: Captures in place of these numbers; None for the member itself.
        """
        first = self.families[0]
        if self.how == "pieces":
            prefix = literal_pattern(first.pattern.partition(MARK)[0])
            return concat(prefix + "{n}", over="n")
        sources = [self._source(family, numbers, texts) for family in self.families]
        if self.how == "joined":
            return concat(*sources, axis=len(first.members[numbers]) - 1)
        if self.how == "part":
            shape = first.members[numbers]
            width = shape[-1] // self.count
            start = self.place * width
            return sources[0][(..., slice(start, start + width))]
        return sources[0]

    def _source(
        self, family: Family, numbers: Numbers, texts: Sequence[str] | None
    ) -> Expression:
        if texts is None:
            return src(literal_pattern(family.name(numbers)))
        return src(put_captures(family.pattern, texts))

    def names(self, numbers: Numbers) -> list[str]:
        """Names of the tensors of a member."""
        if self.how == "pieces":
            return [
                self.families[0].name(n) for n in in_order(self.families[0].members)
            ]
        return [family.name(numbers) for family in self.families]


def put_captures(pattern: str, texts: Sequence[str]) -> str:
    """A pattern with captures in place of its numbers, its own braces doubled."""
    pieces = [literal_pattern(piece) for piece in pattern.split(MARK)]
    return "".join(p + e for p, e in zip(pieces, [*texts, ""], strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """What belongs together, on one side.

    Attributes:
        name: Its name, `MARK` in place of the numbers of blocks, without a collection.
        parts: Its arrays.
        words: Words of its name within its block.
        is_made: True for a layer that no name has.
        beside: Name of the layer that a normalisation belongs to by its number alone:
            linen calls them `Conv_1` and `BatchNorm_1`.
        note: What should be known about it.
    """

    name: str
    parts: Mapping[Part, PartSource]
    words: tuple[str, ...]
    is_made: bool = False
    beside: str = ""
    note: str = ""

    @property
    def scopes(self) -> Iterator[str]:
        """Scopes around it, the nearest first."""
        name = self.name
        while "/" in name:
            name = name.rpartition("/")[0]
            yield name

    @functools.cached_property
    def word_set(self) -> frozenset[str]:
        """Its words."""
        return frozenset(self.words)

    @property
    def is_norm(self) -> bool:
        """True if it has a scale, or statistics, and no kernel."""
        return "main" not in self.parts and bool({"scale", "mean"} & set(self.parts))


def find_layers(families: Iterable[Family], *, is_target: bool) -> list[Layer]:
    """Puts the arrays of one group into layers.

    Args:
        families: Families of arrays.
        is_target: True for leaves, whose names may begin with a collection.

    Returns:
        The layers, in the order of their first arrays.
    """
    families = list(families)
    table: dict[str, dict[Part, Family]] = {}
    alone: list[tuple[str, Family]] = []
    # `filter` and `filter_bias`: a name that another one extends is that of a layer.
    extended = {read_part(family.pattern).layer for family in families}
    for family in families:
        reading = read_part(family.pattern)
        if reading.part == "main" and family.pattern in extended:
            reading = reading._replace(layer=family.pattern)
        name = without_collection(reading.layer) if is_target else reading.layer
        parts = table.setdefault(name, {})
        part = _part_of(family, reading)
        if part in parts:  # two kernels beside each other are two layers
            alone.append((family.pattern, family))
        else:
            parts[part] = family
    _take_biases(table)
    layers: list[Layer] = []
    for name, parts in table.items():
        layers += _split_norm(name, parts)
    layers += [_make_layer(name, {"main": family}) for name, family in alone]
    return _put_beside(layers)


def _take_biases(table: dict[str, dict[Part, Family]]) -> None:
    """Gives the bias of a scope to its kernel of another name: the last one.

    `sep/depthwise_kernel`, `sep/pointwise_kernel`, `sep/bias`
    """
    for name in [name for name, parts in table.items() if set(parts) == {"bias"}]:
        for kind in ("pointwise", "depthwise"):
            parts = table.get(f"{name}/{kind}", {})
            if set(parts) == {"main"}:
                parts.update(table.pop(name))
                break


def _put_beside(layers: list[Layer]) -> list[Layer]:
    """Says which layer a normalisation belongs to, where the two are counted alike."""
    counted: dict[str, list[dict[str, str]]] = {}
    stems: dict[str, dict[str, str]] = {}
    norms: dict[str, dict[str, Layer]] = {}
    for layer in layers:
        stem = layer.name.rstrip("0123456789")
        number = layer.name[len(stem) :]
        if number and layer.is_norm:
            norms.setdefault(stem, {})[number] = layer
        elif number and "main" in layer.parts:
            if stem not in stems:
                counted.setdefault(stem.rpartition("/")[0], []).append(
                    stems.setdefault(stem, {})
                )
            stems[stem][number] = layer.name
    # Exactly one kind of layer may be counted by the same numbers in the same scope.
    beside: dict[int, str] = {}
    for stem, members in norms.items():
        scope = stem.rpartition("/")[0]
        alike = [m for m in counted.get(scope, ()) if m.keys() == members.keys()]
        if len(alike) == 1:
            beside |= {id(norm): alike[0][n] for n, norm in members.items()}
    return [
        dataclasses.replace(layer, beside=beside[id(layer)])
        if id(layer) in beside
        else layer
        for layer in layers
    ]


def _part_of(family: Family, reading: Reading) -> Part:
    """The part that an array is; a weight of one axis is a scale."""
    is_vector = all(len(shape) == 1 for shape in family.members.values())
    if reading.part == "main" and reading.has_part and is_vector:
        return "main" if reading.is_table else "scale"
    return reading.part


def without_collection(name: str) -> str:
    """The name of a leaf below its collection."""
    first, _, below = name.partition("/")
    return below if first in COLLECTIONS and below else name


def _split_norm(name: str, parts: dict[Part, Family]) -> Iterator[Layer]:
    """One layer, or two where a kernel and its normalisation have one scope."""
    if "main" in parts and ({"scale", "mean"} & set(parts)):
        bias = parts.get("bias")
        is_beta = bias is not None and bias.pattern.endswith("beta")
        norm: dict[Part, Family] = {
            p: f for p, f in parts.items() if p not in ("main", "bias")
        }
        main: dict[Part, Family] = {"main": parts["main"]}
        if bias is not None:
            (norm if is_beta else main)["bias"] = bias
        yield _make_layer(name, main)
        yield _make_layer(f"{name}/norm", norm)
        return
    if set(parts) == {"bias"}:
        family = parts["bias"]
        if any(len(shape) > 1 for shape in family.members.values()):
            parts = {"main": family}  # relative_attention_bias: a table
    yield _make_layer(name, parts)


def _make_layer(name: str, parts: Mapping[Part, Family]) -> Layer:
    inner = name.rpartition(MARK)[2] if MARK in name else name
    words = read_words(inner)
    if any(read_part(family.pattern).is_table for family in parts.values()):
        words = (*words, "embedding")
    if "main" not in parts and "scale" in parts:
        words = (*words, "norm")
    return Layer(name, {part: PartSource((f,)) for part, f in parts.items()}, words)


# What is fused in this order everywhere: GPT-2, transformers, Flax's own layers.
HEADS: Final = {"qkv": ("query", "key", "value"), "kv": ("key", "value")}


def fuse_heads(layers: Sequence[Layer], fused: Literal["qkv", "kv"]) -> list[Layer]:
    """Makes layers of queries, keys and values that lie beside each other.

    Args:
        layers: Layers of a checkpoint.
        fused: What is made.
    """
    heads = HEADS[fused]
    scopes: dict[str, dict[str, list[Layer]]] = {}
    # By the scope that they share, then by what they are.
    for layer in layers:
        kinds = [word for word in heads if word in layer.word_set]
        if len(kinds) == 1 and "main" in layer.parts:
            scope = next(layer.scopes, "")
            scopes.setdefault(scope, {}).setdefault(kinds[0], []).append(layer)
    made: list[Layer] = []
    for scope, by_kind in scopes.items():
        if set(by_kind) != set(heads) or any(len(v) > 1 for v in by_kind.values()):
            continue
        members = [by_kind[kind][0] for kind in heads]
        parts: dict[Part, PartSource] = {}
        for part in members[0].parts:
            if all(part in layer.parts for layer in members):
                families = tuple(layer.parts[part].families[0] for layer in members)
                if len({tuple(f.members.values()) for f in families}) == 1:
                    parts[part] = PartSource(families, "joined")
        if "main" in parts:
            words = tuple(w for w in members[0].words if w not in heads)
            name = f"{scope}/{fused}" if scope else fused
            made.append(Layer(name, parts, (*words, fused), is_made=True))
    return made


def split_heads(layers: Sequence[Layer]) -> list[Layer]:
    """Makes queries, keys and values of layers that hold all, or keys and values."""
    made: list[Layer] = []
    for layer in layers:
        main = layer.parts.get("main")
        if main is None or layer.is_made or main.how != "whole":
            continue
        heads = _heads_in(layer, main.members.values())
        for place, kind in enumerate(heads):
            parts: dict[Part, PartSource] = {
                part: PartSource(origin.families, "part", place, len(heads))
                for part, origin in layer.parts.items()
            }
            words = tuple(w for w in layer.words if w not in HEADS)
            name = f"{layer.name}/{kind}"
            made.append(Layer(name, parts, (*words, kind, "attention"), is_made=True))
    return made


def _heads_in(layer: Layer, shapes: Iterable[Shape]) -> Sequence[str]:
    """What a layer may hold side by side: "qkv" goes without saying, "kv" does not."""
    fused = "kv" if "kv" in layer.word_set else "qkv"
    heads = HEADS[fused]
    if not layer.word_set & {fused, "attention"}:
        return ()
    is_wide = fused == "kv" or all(shape[-1] >= shape[-2:][0] for shape in shapes)
    is_divisible = all(len(s) > 1 and s[-1] % len(heads) == 0 for s in shapes)
    return heads if is_wide and is_divisible else ()


def join_pieces(tensors: Mapping[str, Shape]) -> list[Layer]:
    """Makes tables of tensors that end in a number: `weights_0` to `weights_15`.

    Args:
        tensors: Shapes by name.
    """
    # Tensors by what stands before their last number.
    stems: dict[str, dict[Numbers, Shape]] = {}
    for name, shape in tensors.items():
        stem = name.rstrip("0123456789")
        if stem != name and len(shape) > 1:
            stems.setdefault(stem, {})[name[len(stem) :],] = shape
    made: list[Layer] = []
    for stem, members in stems.items():
        numbers = [int(key[0]) for key in in_order(members)]
        is_counted = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        is_alike = len({shape[1:] for shape in members.values()}) == 1
        if len(members) > 1 and is_counted and is_alike and stem.strip("/"):
            layer = read_part(stem.rstrip("_-/")).layer
            family = Family(stem + MARK, members)
            parts: dict[Part, PartSource] = {"main": PartSource((family,), "pieces")}
            made.append(Layer(layer, parts, read_words(layer), is_made=True))
    return made
