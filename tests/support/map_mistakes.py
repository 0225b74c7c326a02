"""Maps that are wrong, each by one mistake, and what readers paste from a message.

Small checkpoints that look like those in the wild, made by `save_checkpoint`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

import tf2flax
from tf2flax import src, stack
from tf2flax._assignment.language.syntax import parse_key

Pair = tuple[Any, Any]


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A map, and what it was meant for.

    Attributes:
        tensors: Shape of every tensor; or the prefix of a checkpoint.
        entries: The map.
        target: The target, or the shape of every leaf.
        options: Options of `plan`.
    """

    tensors: dict[str, tuple[int, ...]] | pathlib.Path
    entries: Any
    target: Any
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, where: pathlib.Path) -> Any:
        """Plans, which fails."""
        return self.plan(where, self.entries)

    def plan(self, where: pathlib.Path, entries: Any) -> tf2flax.Plan:
        """Plans another map for the same checkpoint and target."""
        prefix = self.tensors
        if isinstance(prefix, dict):
            arrays = {name: _values_of(name, s) for name, s in prefix.items()}
            prefix = where / "m"
            if not (where / "m.index").exists():
                tf2flax.save_checkpoint(prefix, arrays)
        return tf2flax.plan(prefix, entries, self.tree, **self.options)

    def error(self, where: pathlib.Path, entries: Any) -> str:
        """What is wrong with a map; "" if nothing is."""
        try:
            self.plan(where, entries)
        except tf2flax.CheckpointError as error:
            return str(error)
        return ""

    def pairs(self) -> list[Pair]:
        """The entries, as pairs."""
        entries = self.entries
        return [*(entries.items() if isinstance(entries, dict) else entries)]

    def values(self, where: pathlib.Path, entries: Any) -> dict[str, np.ndarray]:
        """What a map fills, leaf by leaf; other leaves are kept."""
        target = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self.tree)
        keep: dict[str, Any] = {"on_missing": "keep", "on_mismatch": "keep"}
        lenient = dataclasses.replace(
            self, target=target, options={**self.options, **keep}
        )
        try:
            plan = lenient.plan(where, entries)
        except tf2flax.CheckpointError:
            return {}
        tree: Any = plan.restore()
        return {a.leaf: np.asarray(tree[a.leaf]) for a in plan.assignments}

    @property
    def tree(self) -> dict[str, Any]:
        """The target: leaves by name."""
        return {
            name: f32(*leaf) if isinstance(leaf, tuple) else leaf
            for name, leaf in self.target.items()
        }


def _values_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values that no other tensor has, none of them twice."""
    first = zlib.crc32(name.encode()) % 10_000 * 100
    count = int(np.prod(shape))
    return np.arange(first, first + count, dtype="f4").reshape(shape)


def layers(count: int, **shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {
        f"layer_{i}/{name.replace('_', '/')}": shape
        for i in range(count)
        for name, shape in shapes.items()
    }


def under(scope: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{scope}{name}": shape for name, shape in shapes.items()}


SPLIT = "d (h k) -> d h k"
BLOCK = layers(3, q_kernel=(32, 32), ffn_kernel=(32, 16), ffn_bias=(16,))
HEADS = {f"layers_{i}/q": (32, 4, 8) for i in range(3)}
MODULES = [a + b for a in "abcdef" for b in "uvwxyz"]
BERT = {
    **under("bert/encoder/", BLOCK),
    "bert/pooler/kernel": (32, 32), "bert/embeddings/table": (50, 32),
}  # fmt: skip
T5 = {
    **{f"encoder/block_{i:03}/att/q": (8, 8) for i in range(24)},
    "encoder/block_000/att/relative_attention_bias": (32, 4),
}
AVERAGES = {
    **{f"net/{m}/w": (2,) for m in MODULES},
    **{f"net/{m}/w/ExponentialMovingAverage": (2,) for m in MODULES[:-9]},
}
NORMS = {f"net/{m}/{p}": (2,) for m in MODULES for p in ("gamma", "beta")}
CONFIG = {
    f"layer_{i}/{name}": shape
    for i in range(4)
    for name, shape in {
        "q": (12, 12), "k": (12, 12), "v": (12, 12), "up": (12, 48), "down": (48, 12),
        "bias": (12,), "up_bias": (48,), "scale": (12,),
    }.items()
}  # fmt: skip
SMALL = {name: tuple(n // 12 * 8 for n in shape) for name, shape in CONFIG.items()}
QKV = {f"params/{m}": (2,) for m in ("query", "key", "value")}

CAUSES: dict[str, Mistake] = {
    "a wrong number of heads": Mistake(
        under("enc/", BLOCK),
        {src("enc/layer_{i}/q/kernel").rearrange(SPLIT, h=8): "layers_{i}/q"},
        HEADS,
    ),
    "a wrong number of heads, of other sizes": Mistake(
        {"q": (96, 96)},
        {src("q").rearrange(SPLIT, h=8): "q"}, {"q": (96, 6, 16)},
    ),
    "a number of heads that divides nothing": Mistake(
        {"q": (96, 96)},
        {src("q").rearrange("(h k) d -> h k d", h=7): "q"}, {"q": (6, 16, 96)},
    ),
    "both sizes given": Mistake(
        {"q": (96, 96)},
        {src("q").rearrange(SPLIT, h=8, k=12): "q"}, {"q": (96, 6, 16)},
    ),
    "heads of stacked layers": Mistake(
        under("enc/", BLOCK),
        {stack(src("enc/layer_{i}/q/kernel").rearrange(SPLIT, h=8), over="i"): "q"},
        {"q": (3, 32, 4, 8)},
    ),
    "the right heads in another order": Mistake(
        {"q": (96, 96)},
        {src("q").rearrange(SPLIT, h=6): "q"}, {"q": (6, 96, 16)},
    ),
    "axes that are split": Mistake(
        under("enc/", BLOCK), {"enc/layer_{i}/q/kernel": "layers_{i}/q"}, HEADS
    ),
    "axes of which several are equally long": Mistake(
        {"w": (3, 3, 4)}, {"w": "w"}, {"w": (3, 4, 3)}
    ),
    "another layout": Mistake({"w": (4, 6)}, {"w": "w"}, {"w": (3, 8)}),
    "transposed, with captures": Mistake(
        under("enc/", BLOCK), {"enc/layer_{i}/ffn/kernel": "layers_{i}/ffn"},
        {f"layers_{i}/ffn": (16, 32) for i in range(3)},
    ),
    "transposed, under a scope": Mistake(
        under("enc/", BLOCK), {"enc/": "params/"},
        under("params/", layers(3, q_kernel=(32, 32), ffn_kernel=(16, 32))),
    ),
    "transposed, under a captured scope": Mistake(
        under("enc/", BLOCK), {"enc/layer_{i}/": "blocks/{i}/"},
        {f"blocks/{i}/ffn/kernel": (16, 32) for i in range(3)},
    ),
    "transposed, entry by entry": Mistake(
        under("enc/", BLOCK),
        {f"enc/layer_{i}/ffn/kernel": f"f{i}" for i in range(3)},
        {f"f{i}": (16, 32) for i in range(3)},
    ),
    "another version": Mistake(
        {f"MobilenetV1/Conv2d_{i}/weights": (3, 3) for i in range(30)},
        {"MobilenetV2/": "params/"},
        {f"params/expanded_conv_{i}/weights": (3, 3) for i in range(30)},
    ),
    "a level that is missing": Mistake(
        BERT, {"bert/": "params/"},
        {**under("params/", BLOCK), "params/pooler/kernel": (32, 32)},
    ),
    "a level that is missing, with captures": Mistake(
        BERT, {"bert/layer_{i}/": "params/layer_{i}/"}, under("params/", BLOCK)
    ),
    "a level that is missing everywhere": Mistake(
        under("model/", BLOCK), {name: name for name in BLOCK}, BLOCK
    ),
    "a level that is missing in a scope": Mistake(
        under("model/", BLOCK), {"/": "params/"}, under("params/", BLOCK)
    ),
    "a level too many": Mistake(
        BERT, {"model/bert/encoder/": "params/"}, under("params/", BLOCK)
    ),
    "a scope that is wrong in many keys": Mistake(
        BERT, {f"bret/encoder/{name}": name for name in BLOCK}, BLOCK
    ),
    "a scope that is wrong in an expression": Mistake(
        BERT, {src("bret/encoder/layer_{i}/ffn/kernel").transpose(): "l{i}"},
        {f"l{i}": (16, 32) for i in range(3)},
    ),
    "a scope that is wrong in each layer": Mistake(
        BERT, {"bert/encoder/layr_{i}/": "layer_{i}/"}, BLOCK
    ),
    "a scope that is wrong in each layer, key by key": Mistake(
        BERT, {f"bert/encoder/{n.replace('ffn', 'fnn')}": n for n in BLOCK}, BLOCK
    ),
    "a scope that is wrong in each layer, value by value": Mistake(
        BLOCK, {n: n.replace("ffn", "fnn") for n in BLOCK}, BLOCK
    ),
    "captured scopes that are not there": Mistake(
        BERT, {"bert/{m}/kernel": "params/{m}/kernel"},
        {f"params/{m}/kernel": (2,) for m in MODULES},
    ),
    "captured names that are wrong": Mistake(
        {f"net/{m}/kernel": (2,) for m in MODULES}, {"net/{m}/kernl": "params/{m}/w"},
        {f"params/{m}/w": (2,) for m in MODULES},
    ),
    "names under a scope that are wrong": Mistake(
        {f"net/{m}/kernel": (2,) for m in MODULES}, {"net/": "params/"},
        {f"params/{m}/kernl": (2,) for m in MODULES},
    ),
    "another checkpoint": Mistake(
        BERT, {"/": "/"}, {f"{m}/{p}": (2,) for m in MODULES for p in "wb"}
    ),
    "layers that only the first has": Mistake(
        T5, {"encoder/": "params/"},
        {
            f"params/block_{i:03}/att/{name}": shape for i in range(24)
            for name, shape in (("q", (8, 8)), ("relative_attention_bias", (32, 4)))
        },
    ),
    "averages of some": Mistake(
        AVERAGES, {"net/{m}/w/ExponentialMovingAverage": "{m}/w"},
        {f"{m}/w": (2,) for m in MODULES},
    ),
    "layers that are numbered from 1": Mistake(
        BERT, {"bert/encoder/": "/"},
        {f"layer_{i}/ffn/bias": (16,) for i in range(1, 4)},
    ),
    "aliases off": Mistake(
        NORMS, {"net/": "/"},
        {f"{m}/{p}": (2,) for m in MODULES for p in ("scale", "bias")},
        {"aliases": None},
    ),
    ":0 on every key": Mistake(BERT, {f"{name}:0": name for name in BERT}, BERT),
    "parts that are tensors": Mistake(
        {"emb/part_0": (2, 3), "emb/part_1": (1, 3)}, {"emb": "e"}, {"e": (3, 3)}
    ),
    "parts that are tensors, along axis 1": Mistake(
        {f"emb/{t}/part_{i}": (2, 3) for t in "ab" for i in range(12)},
        {"emb/{t}": "{t}"}, {"a": (2, 36), "b": (2, 36)},
    ),
    "parts that are tensors, under a scope": Mistake(
        {f"net/emb/part_{i}": (2, 3) for i in range(2)}, {"net/": "/"}, {"emb": (4, 3)},
    ),
    "another size everywhere": Mistake(CONFIG, {"/": "/"}, SMALL),
    "a scope that is wrong in many values": Mistake(
        BLOCK, {name: f"parms/{name}" for name in BLOCK}, under("params/", BLOCK)
    ),
    "params/ forgotten in every value": Mistake(
        BLOCK, {name: name for name in BLOCK}, under("params/", BLOCK)
    ),
    "a tensor to a scope without its slash": Mistake(
        BERT, {"bert/pooler/kernel": "params/pooler"},
        {"params/pooler/kernel": (32, 32)},
    ),
    "a captured value that names nothing": Mistake(
        BERT, {"bert/encoder/layer_{i}/": "params/layers_{i}/"}, under("params/", BLOCK)
    ),
    "a value with two captures": Mistake(
        {f"{m}_{i}": (2,) for m in ("query", "key", "value") for i in range(2)},
        {"{m}_{i}": "parms/{m}/{i}"},
        {f"params/{m}/{i}": (2,) for m in ("query", "key", "value") for i in range(2)},
    ),
    "names with braces": Mistake(
        {"a{0}/w": (2, 3)}, {"a{{0}}/w": "b{{1}}"}, {"b{1}": (3, 2)}
    ),
    "names with braces that are wrong": Mistake(
        {"a{0}/weights": (2,)}, {"a{{0}}/weigths": "b{{2}}"}, {"b{1}": (2,)}
    ),
    "a plain scope within a module part_0": Mistake(
        {"net/part_0/w": (2,)}, {"net/part_0/": "m/part_0/"}, {"m/part_0/w": (2,)}
    ),
}  # fmt: skip

_NAMES = r"((?:`[^`]+`(?: or )?)+)"
_CAPTURE = re.compile(r"\{(\w+)(?:\.\.\.|[+-]\d+)?\}")
_VALUE_IS_WRONG = re.compile("has no leaf|reach(es)? no leaf|and `[^`]*` is one tensor")
_ENTRY = r"`([^`]+)` -> `([^`]+)`"
_ADDED = rf"(?:the entry|the entries|entries such as) (?:(?:, | and )?{_ENTRY})+"
_QUOTED = re.compile(r"`([^`]+)`")


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Something that a message says to paste.

    Attributes:
        text: The words of the message.
        entries: The map in which it is pasted.
    """

    text: str
    entries: list[Pair]


def suggestions_in(message: str, pairs: Sequence[Pair]) -> Iterator[Suggestion]:
    """Finds all that a message suggests, and pastes it.

    Args:
        message: The message.
        pairs: The map that it is about.
    """
    for line in message.splitlines():
        label = re.search(r"[Ii]n entry (\d+):", line) or re.search(
            r"Entry (\d+)", line
        )
        number = int(label[1]) - 1 if label else 0
        for match in re.finditer(rf"[Dd]id you mean (?:the scope )?{_NAMES}\?", line):
            for name in _QUOTED.findall(match[1]):
                yield Suggestion(match[0], _replaced(pairs, number, name, line))
        for match in re.finditer(r"[Uu]se the key `([^`]+)`", line):
            yield Suggestion(match[0], _replaced(pairs, number, match[1], line))
        for match in re.finditer(rf"[Aa]dd {_ADDED}", line):
            added = re.findall(_ENTRY, match[0])
            new = [(parse_key(key), value) for key, value in added]
            yield Suggestion(match[0], [*pairs, *new])
        for match in re.finditer(r"[Ww]rite ((?:`\{[^`]+\}`(?: or )?)+)", line):
            for text in _QUOTED.findall(match[1]):
                new = _read_line(text)
                yield Suggestion(match[0], _with_entry(pairs, number, new))
        for pattern, change in _EVERYWHERE.items():
            for match in re.finditer(pattern, line):
                changed = [change(match, *pair) for pair in pairs]
                yield Suggestion(match[0], changed)


def _replaced(pairs: Sequence[Pair], number: int, text: str, line: str) -> list[Pair]:
    """The map with a text as the key of an entry, or as its value if that is wrong."""
    key, value = pairs[number]
    new = (key, text) if _VALUE_IS_WRONG.search(line) else (parse_key(text), value)
    # A key without its captures would give every leaf the same tensor; what it counts
    # may be named instead.
    counted = set(re.findall(r'over="(\w+)"', str(key)))
    captures = set(_CAPTURE.findall(str(key))) - counted
    assert captures <= set(_CAPTURE.findall(str(new[0])))
    return [*pairs[:number], new, *pairs[number + 1 :]]


def _read_line(text: str) -> Pair:
    """Reads a dict of one entry, as it stands in a message."""
    match = re.fullmatch(r"\{(.+): (\"[^\"]*\")\}", text)
    assert match, text
    key = match[1]
    return parse_key(json.loads(key) if key.startswith('"') else key), json.loads(
        match[2]
    )


def _with_entry(pairs: Sequence[Pair], number: int, new: Pair) -> list[Pair]:
    """The map with another entry in the place of the one that has its key or value."""
    places = [
        i for i, (key, value) in enumerate(pairs) if key == new[0] or value == new[1]
    ]
    number = places[0] if len(places) == 1 else number
    return [*pairs[:number], new, *pairs[number + 1 :]]


def _swap(text: str, old: str, new: str) -> str:
    if text.startswith(old):
        return new + text[len(old) :]
    return text.replace(f"/{old}", f"/{new}", 1)


_EVERYWHERE: dict[str, Callable[[re.Match[str], Any, Any], Pair]] = {
    r"In the keys, write `([^`]+)` in place of `([^`]+)`": lambda m, k, v: (
        _swap(k, m[2], m[1]), v,
    ),
    r"In the values, write `([^`]+)` in place of `([^`]+)`": lambda m, k, v: (
        k, _swap(v, m[2], m[1]),
    ),
    r"Put `([^`]+)` before the keys": lambda m, k, v: (m[1] + k, v),
    r"Put `([^`]+)` before the values": lambda m, k, v: (k, m[1] + v),
    r"Leave `([^`]+)` out of the values": lambda m, k, v: (k, _swap(v, m[1], "")),
    r"Leave `([^`]+)` out of the keys": lambda m, k, v: (_swap(k, m[1], ""), v),
    r"Write the keys without `:0`": lambda m, k, v: (k.removesuffix(":0"), v),
}  # fmt: skip


def check_suggestions(mistake: Mistake, where: pathlib.Path) -> None:
    """Pastes everything that a message suggests; each must be better than before."""
    before = mistake.error(where, mistake.entries)
    for suggestion in suggestions_in(before, mistake.pairs()):
        after = mistake.error(where, suggestion.entries)
        assert is_better(before, after), (suggestion, after)


def count_problems(message: str) -> int:
    """Number of problems that a message is about."""
    if not message:
        return 0
    match = re.match(r"(\d+) problems", message)
    return int(match[1]) if match else 1


def facts_of(message: str) -> set[str]:
    """What is wrong, without entries and suggestions."""
    facts = re.findall(r"`: (.+)", message) or [message]
    return {re.split(r"[.(;:] ?(?=[A-Zd(])", fact)[0] for fact in facts}


def is_better(before: str, after: str) -> bool:
    """True if a problem is gone."""
    if count_problems(after) < count_problems(before):
        return True
    # As many: another one has come in its place.
    return bool(facts_of(before) - facts_of(after)) and "valid" not in after
