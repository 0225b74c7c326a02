"""Outputs that are tied to an embedding: checkpoints have no kernel for them.

    word_embeddings [v, d], output_bias [v]    ->    decoder/kernel [d, v], decoder/bias

A bias of its own says that there is such an output (BERT). Where nothing does (GPT-2),
the embedding is a candidate, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from .blocks import Shape
from .layers import Layer, PartSource
from .lines import Line
from .transforms import find_transforms
from .words import Part, read_part, read_words

# What tables are that no output is tied to.
_OTHER_TABLES: Final = frozenset({"position", "segment"})
_OUTPUTS: Final = frozenset({"head", "mlm", "out", "decoder", "unembed", "unembedding"})
_INNER: Final = frozenset({"attention", "ffn"})

TIED: Final = "no other tensor fits: right if the model ties its output to this table"


def make_tied(layers: Sequence[Layer], wanted: Sequence[Layer]) -> list[Layer]:
    """Makes layers of a table and of a bias that stands alone.

    Args:
        layers: Layers of a checkpoint.
        wanted: Layers of a target; only what one of them may need is made.
    """
    # Shapes of kernels that a target has beside a bias, then tables that have them
    # turned, then biases of as many words.
    outputs = {
        next(iter(layer.parts["main"].members.values()))
        for layer in wanted
        if set(layer.parts) == {"main", "bias"}
    }
    made: list[Layer] = []
    for table in filter(_is_table, layers):
        main = table.parts["main"]
        shape = next(iter(main.members.values()))
        if len(shape) != 2 or shape[::-1] not in outputs:
            continue
        for layer in layers:
            bias = layer.parts.get("bias")
            if bias is None or len(layer.parts) > 1 or layer.is_made:
                continue
            if list(bias.members.values()) == [shape[:1]]:
                parts: dict[Part, PartSource] = {"main": main, "bias": bias}
                note = f"tied to {main.families[0].pattern}: there is no other kernel"
                words = layer.words
                made.append(Layer(layer.name, parts, words, is_made=True, note=note))
    return made


def _is_table(layer: Layer) -> bool:
    if "main" not in layer.parts or layer.is_made:
        return False
    family = layer.parts["main"].families[0]
    return _holds_words(family.pattern)


def _holds_words(name: str) -> bool:
    """True for the name of a table of words, or of a table that says nothing more."""
    words = set(read_words(name))
    is_table = read_part(name).is_table or "embedding" in words
    return is_table and not words & _OTHER_TABLES


def find_tied(
    tensors: Mapping[str, Shape], leaves: Mapping[str, Shape]
) -> Iterator[tuple[str, list[Line]]]:
    """Finds tables that may fill the kernel of an output.

    Args:
        tensors: Shapes of weights by name.
        leaves: Shapes of leaves that nothing else fills.

    Yields:
        Names of leaves, and the lines of candidates.
    """
    # A table of words, as it is or turned, for what its name calls an output.
    tables = {name: shape for name, shape in tensors.items() if _holds_words(name)}
    for leaf, shape in leaves.items():
        reading = read_part(leaf)
        words = set(read_words(reading.layer))
        if reading.part != "main" or len(shape) != 2:
            continue
        if not words & _OUTPUTS or words & _INNER:
            continue
        lines = [
            Line(leaf, (leaf,), name, None, find_transforms(of_table, shape)[0])
            for name, of_table in tables.items()
            if shape in (of_table, of_table[::-1]) and len(set(shape)) == 2
        ]
        if lines:
            yield leaf, lines
