"""Which pairs of layers are certain, and how their kernels lie.

A square kernel fits as it is and transposed. What the checkpoint's own kernels do that
are not square, and are called the same, decides; where there is none, nothing does.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Final

from tf2flax._assignment.language.making import src

from .blocks import Family
from .fitting import Alignment
from .layers import Layer, PartSource
from .lines import Line, write_lines
from .pairing import Pair
from .transforms import Transform
from .words import Part, read_part

# Candidates that are listed for a leaf.
_MAX_CANDIDATES: Final = 4
# Words of what is made anew for another task: a shape alone says nothing of it.
_HEADS: Final = frozenset({"head"})
_COMMON_WORDS: Final = frozenset({"dense", "out", "block", "norm", "layernorm"})
# Kinds of kernels that lie alike, whatever they are called.
_ANY: Final = ("*",)
_DECONV: Final = ("deconv",)
# What a transform costs that is nothing unusual.
_USUAL: Final = 0.4
# Rows that a candidate lists.
_MAX_ROWS: Final = 512
# How TensorFlow looks up rows of a partitioned table (`partition_strategy`).
_DIV: Final = "rows as they were saved: right if looked up by 'div'"
_MOD: Final = "rows by the remainder of ids: right if looked up by 'mod'"
_ONLY_SHAPE: Final = "nothing but its shape speaks for it"
_SAME_SHAPE: Final = "has the same shape"

_Key = tuple[object, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a table that was split by the remainder of ids."""

    total: int
    count: int

    def take(self, line: Line) -> Line:
        """Puts the rows that a line gives into the order of ids."""
        key = line.source()
        source = src(key) if isinstance(key, str) else key
        if self.total % self.count == 0:
            ordered = source.rearrange("(p n) d -> (n p) d", p=self.count)
            return Line(line.value, line.leaves, key=ordered)
        starts = [0]
        for place in range(self.count):
            starts.append(starts[-1] + len(range(place, self.total, self.count)))
        order = [starts[i % self.count] + i // self.count for i in range(self.total)]
        return Line(line.value, line.leaves, key=source.take(order))


@dataclasses.dataclass(frozen=True, eq=False)
class Option:
    """What may fill a family of leaves, and why.

    Attributes:
        origin: Its tensors.
        leaf: The leaves.
        alignment: The blocks that both are in.
        way: What is done to the tensors.
        reason: What speaks for it.
        rows: The order of rows, where that of the tensor is another one.
        is_open: True if it is not certain, though there is no other one.
    """

    origin: PartSource
    leaf: Family
    alignment: Alignment
    way: Transform
    reason: str
    rows: _Rows | None = None
    is_open: bool = False

    def lines(self, *, has_captures: bool = True) -> list[Line]:
        """The lines: as few as possible, or one for each leaf."""
        lines = write_lines(
            self.origin,
            self.leaf,
            self.alignment,
            self.way.kind,
            has_captures=has_captures,
        )
        return list(lines) if self.rows is None else [*map(self.rows.take, lines)]

    def may_have_captures(self, certain: Set[str]) -> bool:
        """True if a line with captures reaches no leaf that another kind leaves open.

        Args:
            certain: Names of all leaves that are certain.
        """
        whole = self.alignment.whole
        if whole is None:
            return True
        pattern = self.leaf.pattern
        family = next(f for f in whole.target.families if f.pattern == pattern)
        if len(family.members) == len(self.leaf.members):
            return True
        # Lines of names win over the captures of the most common kind alone.
        return self.alignment.is_most and all(
            family.name(numbers) in certain for numbers in family.members
        )


class Decider:
    """Decides about pairs of layers, all of which it knows."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        is_whole: bool,
        slices: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Looks at the kernels that are not square.

        Args:
            pairs: All pairs.
            is_whole: True if they use all of a checkpoint and all of a target.
            slices: Rows of each slice of tensors that were saved as slices.
        """
        self._is_whole = is_whole
        self._slices = slices
        self._votes: dict[_Key, collections.Counter[bool]] = {}
        for pair in filter(self._is_certain, pairs):
            ways = {_way_of(o) for o in pair.fit.options.get("main", ())} - {None}
            if len(ways) == 1:
                for key in _keys_of(pair.source, pair.target):
                    counter = self._votes.setdefault(key, collections.Counter())
                    counter[bool(*ways)] += 1

    def _is_certain(self, pair: Pair) -> bool:
        if not pair.is_clear or (_may_be_new(pair) and not self._is_turned(pair)):
            return False
        if pair.has_evidence:
            return True
        is_in_block = bool(pair.alignment.source.prefixes)
        if not pair.is_only:
            return is_in_block and pair.points > 0
        if is_in_block:  # aligned blocks, and nothing else in them has its shapes
            return pair.points > -0.5
        is_usual = all(o[0].cost < _USUAL for o in pair.fit.options.values())
        is_head = (pair.source.word_set ^ pair.target.word_set) & _HEADS
        return is_usual and (self._is_whole or (not is_head and _is_rare(pair)))

    def _is_turned(self, pair: Pair) -> bool:
        """True if all kernels that are called as this one are transposed."""
        keys = _keys_of(pair.source, pair.target)
        votes = self._votes.get(keys[0]) if keys else None
        return votes is not None and set(votes) == {True}

    def decide(self, pair: Pair) -> Iterator[list[Option]]:
        """Decides about the leaves of a layer.

        Yields:
            For each of its parts the candidates, best first; one that is certain alone.
        """
        is_certain = self._is_certain(pair)
        for part, options in pair.fit.options.items():
            leaf = pair.target.parts[part].families[0]
            origin = pair.source.parts[part]
            ways, reason = self._choose_ways(pair, part, options)
            evidence = _evidence(pair, ways[0], reason)
            best = Option(origin, leaf, pair.alignment, ways[0], evidence)
            rows = self._by_remainder(pair, origin) if part == "main" else None
            if not is_certain:
                yield _with_doubt(best, pair, part)
            elif len(ways) > 1:
                yield [
                    dataclasses.replace(best, way=way, reason=_way_text(way))
                    for way in ways
                ]
            else:
                yield [best] if rows is None else _with_rows(best, rows)

    def _choose_ways(
        self, pair: Pair, part: Part, options: tuple[Transform, ...]
    ) -> tuple[list[Transform], str]:
        """The transforms that may be meant, and why; one if that is certain."""
        # Only kernels that fit both ways are asked about, and no tables.
        first = options[0]
        by_way: dict[bool, Transform] = {}
        for option in options if part == "main" else ():
            if (way := _way_of(option)) is not None:
                by_way.setdefault(way, option)
        if len(by_way) < 2 or _is_table(pair) or not _has_question(pair, first):
            return [first], ""
        keys = _keys_of(pair.source, pair.target)
        if read_part(pair.source.parts[part].families[0].pattern).has_part:
            keys = [key for key in keys if key != _ANY]
        for key in keys:
            votes = self._votes.get(key)
            if votes is not None and len(votes) == 1:
                way = next(iter(votes))
                verb = "transposed" if way else "not transposed"
                return [by_way[way]], f"{verb}, as {_label(key)} that are not square"
            if votes is not None:
                break
        return [by_way[False], by_way[True]], ""

    def _by_remainder(self, pair: Pair, origin: PartSource) -> _Rows | None:
        """The rows of a table in the order of ids, if remainders chose its slices."""
        family = origin.families[0]
        sizes = self._slices.get(family.pattern)
        if origin.how != "whole" or not sizes or "bias" in pair.source.parts:
            return None
        if family.pattern.endswith("kernel") or not read_part(family.pattern).has_part:
            return None
        total, count = sum(sizes), len(sizes)
        by_remainder = tuple(len(range(place, total, count)) for place in range(count))
        return _Rows(total, count) if sizes == by_remainder else None


def _with_doubt(best: Option, pair: Pair, part: Part) -> list[Option]:
    """The best candidate and its rivals, none of which is certain."""
    has_reason = pair.has_evidence or pair.rivals
    reason = best.reason if has_reason else _ONLY_SHAPE
    candidates = [dataclasses.replace(best, reason=reason, is_open=True)]
    for rival in pair.rivals:
        options = rival.fit.options.get(part)
        if options:
            origin = rival.source.parts[part]
            candidates.append(
                Option(origin, best.leaf, rival.alignment, options[0], _SAME_SHAPE)
            )
    return candidates[:_MAX_CANDIDATES]


def _with_rows(best: Option, rows: _Rows) -> list[Option]:
    """A table as it was saved, and in the order of ids."""
    if rows.total > _MAX_ROWS and rows.total % rows.count:
        reason = f"{_DIV}, wrong if by 'mod'"
        return [dataclasses.replace(best, reason=reason, is_open=True)]
    return [
        dataclasses.replace(best, reason=_DIV),
        dataclasses.replace(best, reason=_MOD, rows=rows),
    ]


def _way_of(option: Transform) -> bool | None:
    """True if a kernel is transposed; None for what says nothing about that."""
    return False if option.kind == "same" else option.is_transposed


def _is_table(pair: Pair) -> bool:
    both = pair.source.word_set | pair.target.word_set
    family = pair.target.parts["main"].families[0]
    return read_part(family.pattern).is_table or "embedding" in both


def _may_be_new(pair: Pair) -> bool:
    """True for a head that may as well be made for another task.

    A classifier of two classes has the shape of BERT's next-sentence head, transposed.
    """
    common = pair.source.word_set & pair.target.word_set
    if not common & _HEADS or pair.source.name == pair.target.name:
        return False
    is_turned = any(o[0].is_transposed for o in pair.fit.options.values())
    return is_turned and not common - _HEADS - _COMMON_WORDS


def _has_question(pair: Pair, first: Transform) -> bool:
    """False for kernels of convolutions, which lie alike on both sides."""
    is_flipped = any(o.kind.startswith("flip") for o in pair.fit.options["main"])
    is_deconv = "deconv" in pair.source.word_set | pair.target.word_set
    return not is_flipped or is_deconv or first.kind != "same"


def _is_rare(pair: Pair) -> bool:
    """True for shapes that are hardly equal by chance."""
    main = pair.target.parts.get("main")
    if main is None:
        return False
    shape = next(iter(main.families[0].members.values()))
    return len(shape) > 2 or (len(shape) == 2 and len(pair.fit.options) > 1)


def _keys_of(source: Layer, target: Layer) -> list[_Key]:
    """Kinds of kernels that lie alike, the nearest first; () for tables and vectors."""
    words = source.word_set | target.word_set
    if "main" not in source.parts or "main" not in target.parts:
        return []
    family, leaf = source.parts["main"].families[0], target.parts["main"].families[0]
    if read_part(leaf.pattern).is_table or "embedding" in words:
        return []
    if "deconv" in words:
        return [(*_DECONV, len(next(iter(leaf.members.values()))))]
    last = family.pattern.rpartition("/")[2], leaf.pattern.rpartition("/")[2]
    # `attention/q` has no word for a kernel: it lies as those do that have one.
    is_named = read_part(family.pattern).has_part
    is_kernel = is_named and last[0] in ("kernel", "w", "weights")
    return [last, last[:1], *([_ANY] if is_kernel or not is_named else [])]


def _label(key: _Key) -> str:
    if key == _ANY:
        return "all kernels"
    if key[:1] == _DECONV:
        return "all of transposed convolutions"
    return f"all called `{key[0]}`"


def _way_text(way: Transform) -> str:
    verb = "transposed" if _way_of(way) else "as it is"
    return f"{verb}: the kernel is square, and no other one says how kernels lie"


def _evidence(pair: Pair, way: Transform, reason: str) -> str:
    """What speaks for a pair, in a few words."""
    facts: list[str] = []
    if pair.words:
        facts.append(f"both names say {', '.join(pair.words)}")
    if pair.is_only:
        facts.append("nothing else has these shapes")
    if len(pair.alignment.pairs) > 1:
        facts.append(f"{len(pair.alignment.pairs)} blocks on both sides")
    if pair.alignment.target.is_stacked:
        count = len(next(iter(pair.alignment.pairs.values())))
        facts.append(f"a stack of {count} blocks")
    facts += [fact for fact in (way.fact, reason, pair.source.note) if fact]
    return "; ".join(dict.fromkeys(facts)) or "its neighbours"
