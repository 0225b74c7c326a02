"""Recurrent cells: the gates of TensorFlow and Keras, and those of Flax.

TensorFlow keeps all gates in one kernel; Flax has one for each gate:

    kernel [d + h, 4 h]    rows: input, then state; columns: gates i, j, f, o
    ii/kernel [d, h]  ...  ho/kernel [h, h], ho/bias [h]

Source: tensorflow/python/ops/rnn_cell_impl.py, tensorflow/contrib/cudnn_rnn,
tensorflow/python/keras/layers/recurrent_v2.py; flax/linen/recurrent.py,
flax/nnx/nn/recurrent.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Expression, Source, map_sources
from tf2flax._assignment.language.making import concat, src

from .assigning import assign
from .blocks import Family, Shape
from .layers import Layer, PartSource
from .lines import Line
from .scoring import Scorer
from .words import OF_OBJECTS, read_words

Kind = Literal["lstm", "gru"]

_GATES: Final[Mapping[Kind, str]] = {"lstm": "ifgo", "gru": "rzn"}
# Columns of gates: TensorFlow calls `j` what Flax calls `g`, and `u` what it calls `z`.
_TF_LSTM: Final = "igfo"
_KERAS_LSTM: Final = "ifgo"
_KERAS_GRU: Final = "zrn"
# What BasicLSTMCell, LSTMCell and LSTMBlockCell add unless they are told otherwise.
_FORGET_BIAS: Final = 1.0
_MIN_MARGIN: Final = 0.3
# Words that all cells have.
_CELL_WORDS: Final = frozenset({"cell", "rnn", "lstm", "gru", "multi", "bidirectional"})

RESET_FIRST: Final = (
    "TensorFlow's GRUCell resets the state before it multiplies, Flax's after that: no "
    "map fills it"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A cell of either side.

    Attributes:
        scope: Its scope, without a `/` at its end.
        kind: What it is.
        sizes: Features of its inputs and of its state.
        parts: Expressions by the leaves of Flax (`hi/bias`); of a target, names.
        tensors: Names of its tensors; of a target, of its leaves.
        note: What should be known about it.
    """

    scope: str
    kind: Kind
    sizes: tuple[int, int]
    parts: Mapping[str, Expression | str]
    tensors: tuple[str, ...]
    note: str = ""

    @property
    def layer(self) -> Layer:
        """The cell, to be compared by its names."""
        origin = PartSource((Family(self.scope, {(): self.sizes}),))
        words = (word for word in read_words(self.scope) if word not in _CELL_WORDS)
        return Layer(self.scope, {"main": origin}, tuple(words))


def find_target_cells(leaves: Mapping[str, Shape]) -> list[Cell]:
    """Finds the cells of a target."""
    scopes: dict[str, dict[str, str]] = {}
    for name in leaves:
        pieces = name.split("/")
        if len(pieces) > 2 and pieces[-1] in ("kernel", "bias"):
            gate = pieces[-2].rstrip("_")
            scopes.setdefault("/".join(pieces[:-2]), {})[f"{gate}/{pieces[-1]}"] = name
    cells: list[Cell] = []
    for scope, parts in scopes.items():
        # A module for each gate; or NNX's two, of all gates.
        for kind, gates in _GATES.items():
            wanted = {f"{side}{gate}/kernel" for side in "ih" for gate in gates}
            if wanted <= set(parts):
                rows, columns = leaves[parts[f"i{gates[0]}/kernel"]][-2:]
                names = tuple(parts.values())
                cells.append(Cell(scope, kind, (rows, columns), parts, names))
        if {"dense_i/kernel", "dense_h/kernel", "dense_h/bias"} == set(parts):
            rows, columns = leaves[parts["dense_i/kernel"]][-2:]
            if columns == 4 * leaves[parts["dense_h/kernel"]][0]:
                size = rows, columns // 4
                cells.append(Cell(scope, "lstm", size, parts, tuple(parts.values())))
    return cells


def find_source_cells(tensors: Mapping[str, Shape]) -> list[Cell]:
    """Finds the cells of a checkpoint that Flax has as well."""
    scopes: dict[str, dict[str, Shape]] = {}
    for name, shape in tensors.items():
        pieces = name.removesuffix(OF_OBJECTS).split("/")
        for depth in (1, 2, 3):
            if len(pieces) > depth:
                scope = "/".join(pieces[:-depth])
                scopes.setdefault(scope, {})["/".join(pieces[-depth:])] = shape
    readers = (_tf_lstm, _keras_lstm, _cudnn_gru, _keras_gru)
    return [
        cell if set(cell.tensors) <= set(tensors) else _name_as_objects(cell)
        for scope, shapes in scopes.items()
        for cell in (reader(scope, shapes) for reader in readers)
        if cell is not None
    ]


def _name_as_objects(cell: Cell) -> Cell:
    """A cell whose tensors have the names of an object-based checkpoint."""
    parts = {
        leaf: map_sources(part, lambda source: Source(source.pattern + OF_OBJECTS))
        for leaf, part in cell.parts.items()
        if not isinstance(part, str)
    }
    tensors = tuple(name + OF_OBJECTS for name in cell.tensors)
    return dataclasses.replace(cell, parts=parts, tensors=tensors)


def has_reset_first(tensors: Mapping[str, Shape]) -> bool:
    """True if a checkpoint has cells that reset their state first."""
    return any(
        name.endswith("gates/kernel")
        and f"{name[: -len('gates/kernel')]}candidate/kernel" in tensors
        for name in tensors
    )


def _tf_lstm(scope: str, shapes: Mapping[str, Shape]) -> Cell | None:
    kernel, bias = shapes.get("kernel", ()), shapes.get("bias", ())
    if set(shapes) - {"kernel", "bias"} or "lstm" not in scope.casefold():
        return None
    if len(kernel) != 2 or bias != kernel[1:] or kernel[1] % 4:
        return None
    width = kernel[1] // 4
    rows = kernel[0] - width
    if rows <= 0:
        return None
    note = ""
    parts: dict[str, Expression] = {}
    for place, gate in enumerate(_TF_LSTM):
        columns = slice(place * width, (place + 1) * width)
        source = _tensor(scope, "kernel")
        parts[f"i{gate}/kernel"] = source[:rows, columns]
        parts[f"h{gate}/kernel"] = source[rows:, columns]
        parts[f"h{gate}/bias"] = _tensor(scope, "bias")[columns]
    if "cudnn" not in scope.casefold():
        parts["hf/bias"] = parts["hf/bias"] + _FORGET_BIAS
        note = (
            "TensorFlow adds forget_bias when it runs: 1.0 unless the code says "
            "otherwise"
        )
    return _source_cell(scope, "lstm", (rows, width), parts, ("kernel", "bias"), note)


def _keras_lstm(scope: str, shapes: Mapping[str, Shape]) -> Cell | None:
    names = ("kernel", "recurrent_kernel", "bias")
    kernel, state, bias = (shapes.get(name, ()) for name in names)
    if set(shapes) != set(names) or len(kernel) != 2 or len(state) != 2:
        return None
    width = state[0]
    if kernel[1] != 4 * width or state[1] != 4 * width or bias != (4 * width,):
        return None
    parts: dict[str, Expression] = {}
    for place, gate in enumerate(_KERAS_LSTM):
        columns = slice(place * width, (place + 1) * width)
        parts[f"i{gate}/kernel"] = _tensor(scope, "kernel")[:, columns]
        parts[f"h{gate}/kernel"] = _tensor(scope, "recurrent_kernel")[:, columns]
        parts[f"h{gate}/bias"] = _tensor(scope, "bias")[columns]
    return _source_cell(scope, "lstm", (kernel[0], width), parts, names)


def _cudnn_gru(scope: str, shapes: Mapping[str, Shape]) -> Cell | None:
    kernel = shapes.get("gates/kernel", ())
    below = "candidate/input_projection/kernel", "candidate/hidden_projection/kernel"
    if len(kernel) != 2 or not set(below) <= set(shapes):
        return None
    rows, width = shapes[below[0]]
    if kernel != (rows + width, 2 * width):
        return None
    parts: dict[str, Expression] = {}
    for place, gate in enumerate("rz"):
        columns = slice(place * width, (place + 1) * width)
        source = _tensor(scope, "gates/kernel")
        parts[f"i{gate}/kernel"] = source[:rows, columns]
        parts[f"h{gate}/kernel"] = source[rows:, columns]
        parts[f"i{gate}/bias"] = _tensor(scope, "gates/bias")[columns]
    for side, name in zip("ih", ("input_projection", "hidden_projection"), strict=True):
        for part in ("kernel", "bias"):
            parts[f"{side}n/{part}"] = _tensor(scope, f"candidate/{name}/{part}")
    names = (
        "gates/kernel",
        "gates/bias",
        *(f"{path[:-6]}{part}" for path in below for part in ("kernel", "bias")),
    )
    return _source_cell(scope, "gru", (rows, width), parts, names)


def _keras_gru(scope: str, shapes: Mapping[str, Shape]) -> Cell | None:
    names = ("kernel", "recurrent_kernel", "bias")
    kernel, state, bias = (shapes.get(name, ()) for name in names)
    if set(shapes) != set(names) or len(kernel) != 2 or len(state) != 2:
        return None
    width = state[0]
    # One row of biases belongs to a cell that resets its state first.
    if kernel[1] != 3 * width or state[1] != 3 * width or bias != (2, 3 * width):
        return None
    parts: dict[str, Expression] = {}
    biases = _tensor(scope, "bias")
    for place, gate in enumerate(_KERAS_GRU):
        columns = slice(place * width, (place + 1) * width)
        parts[f"i{gate}/kernel"] = _tensor(scope, "kernel")[:, columns]
        parts[f"h{gate}/kernel"] = _tensor(scope, "recurrent_kernel")[:, columns]
        if gate == "n":
            parts["in/bias"], parts["hn/bias"] = biases[0, columns], biases[1, columns]
        else:
            parts[f"i{gate}/bias"] = biases[0, columns] + biases[1, columns]
    return _source_cell(scope, "gru", (kernel[0], width), parts, names)


def _tensor(scope: str, name: str) -> Expression:
    return src(literal_pattern(f"{scope}/{name}"))


def _source_cell(
    scope: str,
    kind: Kind,
    sizes: tuple[int, int],
    parts: Mapping[str, Expression],
    names: tuple[str, ...],
    note: str = "",
) -> Cell:
    return Cell(scope, kind, sizes, parts, tuple(f"{scope}/{n}" for n in names), note)


@dataclasses.dataclass(frozen=True, eq=False)
class CellPair:
    """A cell of the target, and the cells that fit it, best first."""

    target: Cell
    sources: tuple[Cell, ...]
    is_clear: bool
    words: tuple[str, ...]

    def lines(self, place: int = 0) -> Iterator[Line]:
        """The lines that fill the cell from one of its sources."""
        cell = self.sources[place]
        for part, name in self.target.parts.items():
            key = _part_of(cell, part)
            if key is not None:
                yield Line(literal_pattern(str(name)), (str(name),), key=key)


def _part_of(cell: Cell, part: str) -> Expression | None:
    """The source of a leaf; of NNX's kernels of all gates, put together."""
    gate, _, kind = part.partition("/")
    if gate in ("dense_i", "dense_h"):
        keys = [f"{gate[-1]}{g}/{kind}" for g in _GATES[cell.kind]]
        sources = [cell.parts[key] for key in keys if key in cell.parts]
        if len(sources) < len(keys):
            return None
        return concat(*sources, axis=1 if kind == "kernel" else 0)
    key = cell.parts.get(part)
    return key if isinstance(key, Expression) else None


def pair_cells(sources: list[Cell], targets: list[Cell]) -> list[CellPair]:
    """Chooses a cell of the checkpoint for each cell of the target that one fits."""
    layers = [cell.layer for cell in sources], [cell.layer for cell in targets]
    scorer = Scorer(*layers)
    scores = {
        (s, t): scorer.score(layers[0][s], layers[1][t])
        for s, source in enumerate(sources)
        for t, target in enumerate(targets)
        if (source.kind, source.sizes) == (target.kind, target.sizes)
    }
    pairs: list[CellPair] = []
    for t, choice in sorted(assign(scores).items()):
        order = (choice.source, *choice.rivals)
        points = scores[choice.source, t]
        is_only = choice.margin == float("inf")
        pairs.append(
            CellPair(
                targets[t],
                tuple(sources[s] for s in order),
                choice.margin >= _MIN_MARGIN and (is_only or points > 0),
                tuple(scorer.words(layers[0][choice.source], layers[1][t])),
            )
        )
    return pairs
