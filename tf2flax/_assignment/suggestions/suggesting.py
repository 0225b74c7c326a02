"""A checkpoint and a target -> a suggested map. Begin here.

Reads no tensor: names, shapes, dtypes, and what tensors are to a training.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.resolution.assignments import Leaf
from tf2flax._base.errors import CheckpointError
from tf2flax._base.manifest import Manifest

from .blocks import Shape
from .checking import Entry, entry_of, find_entries
from .drafting import Draft, draft_map
from .layers import without_collection
from .lines import Line
from .words import Part, read_part, read_words

# Parts of the state of an optimizer: they have the names and shapes of parameters.
_STATES: Final = frozenset({"opt_state", "optimizer_state"})
_MOMENTS: Final = frozenset({"mu", "nu", "trace"})
_STEPS: Final = frozenset({"step", "global_step", "iteration", "iterations"})

# Names times leaves up to which what is nearest to a leaf is sought.
_MAX_COMPARED: Final = 1_000_000

Candidate = tuple[str | Expression, str]


@dataclasses.dataclass(frozen=True)
class SuggestedEntries:
    """A suggested map and what is open.

    Attributes:
        entries: Entries of the map, each with what speaks for it.
        unmatched: Leaves that nothing fills, in the target's order.
        ambiguous: Leaves that several tensors may fill, with candidates, best first.
        evidence: What speaks for the source of each leaf, or why it has none.
        misfits: What keeps the two from fitting, a line each.
        unused: Names of weights that fill no leaf.
    """

    entries: tuple[tuple[Entry, str], ...]
    unmatched: tuple[str, ...]
    ambiguous: tuple[tuple[str, tuple[Candidate, ...]], ...]
    evidence: Mapping[str, str]
    misfits: tuple[str, ...]
    unused: tuple[str, ...]


def suggest_entries(manifest: Manifest, leaves: Sequence[Leaf]) -> SuggestedEntries:
    """Suggests a map.

    Args:
        manifest: The checkpoint.
        leaves: The leaves of the target.
    """
    # From what there is, over lines, to what the engine makes of them.
    weights, slices, counters = _weights_of(manifest)
    wanted, reasons = _wanted_leaves(leaves)
    parts = _join_parts(wanted)
    draft = draft_map(weights, wanted, slices)
    _add_steps(draft, counters, wanted)
    _split_parts(draft, parts)
    lines, refused = find_entries(draft.lines, leaves, manifest)
    evidence = {**reasons, **draft.evidence, **refused}
    filled = {leaf for line, _ in lines for leaf in line.leaves}
    unused = tuple(name for name in weights if name not in draft.used)
    names = [leaf.name for leaf in leaves]
    ambiguous = tuple(
        (name, _candidates(draft.ambiguous[name]))
        for name in names
        if name in draft.ambiguous and name not in filled
    )
    doubtful = {name for name, _ in ambiguous}
    unmatched = tuple(n for n in names if n not in filled and n not in doubtful)
    left = _Left(weights, unused)
    silent = [name for name in unmatched if name not in evidence]
    for name in silent:
        shape = wanted.get(name, ())
        evidence[name] = left.explain(name, shape, for_count=len(silent))
    for name, candidates in ambiguous:
        evidence[name] = candidates[0][1]
    return SuggestedEntries(
        tuple((entry, evidence[line.leaves[0]]) for line, entry in lines),
        unmatched,
        ambiguous,
        {name: evidence[name] for name in names if name in evidence},
        tuple(_describe_misfits(draft.notes, unmatched, wanted, weights)),
        unused,
    )


def _weights_of(
    manifest: Manifest,
) -> tuple[dict[str, Shape], dict[str, tuple[int, ...]], list[str]]:
    """Shapes of weights, rows of slices, and names of counters."""
    roles = manifest.roles()
    weights: dict[str, Shape] = {}
    slices: dict[str, tuple[int, ...]] = {}
    counters: list[str] = []
    for name in manifest.names:
        role = roles.of(name)
        try:
            entry = manifest.entry(name)
        except CheckpointError:  # a plan that uses it says so
            continue
        if role.kind == "counter":
            counters.append(name)
        if role.kind != "variable" or entry.spec.dtype.numpy.kind not in "fiucbV":
            continue
        weights[name] = entry.spec.shape
        if len(entry.pieces) > 1 and len(entry.spec.shape) > 1:
            boxes = sorted(
                (piece.box.starts, piece.box.shape) for piece in entry.pieces
            )
            if all(shape[1:] == entry.spec.shape[1:] for _, shape in boxes):
                slices[name] = tuple(shape[0] for _, shape in boxes)
    return weights, slices, counters


def _wanted_leaves(
    leaves: Iterable[Leaf],
) -> tuple[dict[str, Shape], dict[str, str]]:
    """Shapes of the leaves that weights may fill; and why others are left out."""
    leaves = list(leaves)
    wanted: dict[str, Shape] = {}
    reasons: dict[str, str] = {}
    names = {leaf.name for leaf in leaves}
    parameters = names | {without_collection(name) for name in names}
    for leaf in leaves:
        if leaf.dtype is None or leaf.refusal:
            reasons[leaf.name] = leaf.refusal or "it does not hold numbers"
        elif _is_of_optimizer(leaf.name, parameters):
            reasons[leaf.name] = (
                "state of an optimizer: tf2flax.optimizer_plan fills it from slots"
            )
        else:
            wanted[leaf.name] = leaf.shape
    return wanted, reasons


def _is_of_optimizer(name: str, parameters: Set[str]) -> bool:
    """True for the state of an optimizer.

    A layer may be called `mu` as well: what is below a moment is called as a parameter.
    """
    scopes = name.split("/")
    return bool(_STATES.intersection(scopes)) or any(
        scope in _MOMENTS and "/".join(scopes[place + 1 :]) in parameters
        for place, scope in enumerate(scopes)
    )


def _join_parts(wanted: dict[str, Shape]) -> dict[str, list[str]]:
    """Puts the parts of partitioned variables together: `table/part_0`, `part_1`.

    Returns:
        Names of the parts by the name of the variable.
    """
    numbers: dict[str, dict[int, str]] = {}
    for name in wanted:
        scope, _, number = name.rpartition("/part_")
        if scope and number.isdecimal():
            numbers.setdefault(scope, {})[int(number)] = name
    parts: dict[str, list[str]] = {}
    # A family is counted from 0 without gaps, and cut along its first axis.
    for scope, names in numbers.items():
        shapes = [wanted[name] for name in names.values()]
        is_family = sorted(names) == list(range(len(names))) and scope not in wanted
        if is_family and len({shape[1:] for shape in shapes}) == 1 and shapes[0]:
            parts[scope] = [names[number] for number in sorted(names)]
            rows = sum(shape[0] for shape in shapes)
            for name in parts[scope]:
                del wanted[name]
            wanted[scope] = rows, *shapes[0][1:]
    return parts


def _split_parts(draft: Draft, parts: Mapping[str, Sequence[str]]) -> None:
    """Names the parts of variables in place of these."""
    for scope, names in parts.items():
        for number, line in enumerate(draft.lines):
            if scope in line.leaves:
                leaves = [n for leaf in line.leaves for n in parts.get(leaf, (leaf,))]
                draft.lines[number] = dataclasses.replace(line, leaves=tuple(leaves))
        if scope in draft.evidence:
            draft.evidence.update(dict.fromkeys(names, draft.evidence[scope]))
        if scope in draft.ambiguous:
            draft.ambiguous.update(dict.fromkeys(names, draft.ambiguous[scope]))


def _add_steps(
    draft: Draft, counters: Sequence[str], wanted: Mapping[str, Shape]
) -> None:
    """A counter of steps fills the only leaf that is called so."""
    filled = {leaf for line in draft.lines for leaf in line.leaves}
    steps = [
        name
        for name, shape in wanted.items()
        if not shape and name.rpartition("/")[2] in _STEPS and name not in filled
    ]
    if "global_step" in counters and len(steps) == 1:
        draft.ambiguous.pop(steps[0], None)
        line = Line(steps[0], (steps[0],), "global_step")
        draft.add([line], "the counter of steps")


def _candidates(
    open_lines: Sequence[tuple[Line, str]],
) -> tuple[Candidate, ...]:
    """Candidates for one leaf, each once."""
    candidates: dict[str, Candidate] = {}
    for line, reason in open_lines:
        key = entry_of(line)[0]
        candidates.setdefault(repr(key), (key, reason))
    return tuple(candidates.values())


class _Left:
    """Weights that fill nothing."""

    def __init__(self, weights: Mapping[str, Shape], unused: Iterable[str]) -> None:
        self._weights = weights
        # Part -> words -> the first of the tensors that are called so.
        self._names: dict[Part, dict[frozenset[str], str]] = {}
        for tensor in sorted(unused):
            names = self._names.setdefault(read_part(tensor).part, {})
            names.setdefault(frozenset(read_words(tensor)), tensor)

    def explain(self, leaf: str, shape: Shape, *, for_count: int) -> str:
        """Says what comes nearest to a leaf that nothing fills.

        Args:
            leaf: Its name.
            shape: Its shape.
            for_count: Of how many leaves this is asked: of too many, nothing is sought.
        """
        names = self._names.get(read_part(leaf).part, {})
        words = set(read_words(leaf))
        near = [
            (-len(words & others), tensor)
            for others, tensor in (
                names.items() if len(names) * for_count <= _MAX_COMPARED else ()
            )
            if not words.isdisjoint(others)
        ]
        tensor = min(near)[1] if near else ""
        if tensor and math.prod(self._weights[tensor]) != math.prod(shape):
            has = list(self._weights[tensor])
            return f"`{tensor}` has another shape: {has}, not {list(shape)}"
        return f"no weight that is left has the shape {list(shape)} and such a name"


def _describe_misfits(
    notes: Sequence[str],
    unmatched: Sequence[str],
    wanted: Mapping[str, Shape],
    weights: Mapping[str, Shape],
) -> list[str]:
    """One line for what keeps the two from fitting."""
    # One mistake, one line: the first of these that explains what is missing.
    result = list(notes)
    missing = [name for name in unmatched if name in wanted]
    if notes or not missing:
        return result
    widths = _other_width(missing, wanted, weights)
    if widths and len(missing) > len(wanted) // 3:
        result.append(
            f"another width: {widths[0]} in the checkpoint, {widths[1]} in the target"
        )
    elif len(missing) <= max(4, len(wanted) // 4):
        scopes = sorted({name.rpartition("/")[0] for name in missing})
        shown_scopes = ", ".join(f"`{scope}`" for scope in scopes[:3])
        more = f" and {len(scopes) - 3} more" if len(scopes) > 3 else ""
        result.append(f"the checkpoint has nothing for {shown_scopes}{more}")
    else:
        result.append(
            f"nothing fills {len(missing)} of {len(wanted)} leaves: this may be "
            "another model"
        )
    return result


def _other_width(
    missing: Sequence[str], wanted: Mapping[str, Shape], weights: Mapping[str, Shape]
) -> tuple[int, int] | None:
    """The size of the checkpoint that is another one in the target, if many are."""
    by_words: dict[frozenset[str], list[Shape]] = {}
    for name, shape in weights.items():
        by_words.setdefault(frozenset(read_words(read_part(name).layer)), []).append(
            shape
        )
    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    for name in missing:
        layer = frozenset(read_words(read_part(without_collection(name)).layer))
        for shape in by_words.get(layer, ()):
            if len(shape) == len(wanted[name]):
                pairs = zip(shape, wanted[name], strict=True)
                counts.update({(a, b) for a, b in pairs if a != b})
    best = counts.most_common(1)
    return best[0][0] if best and best[0][1] > len(missing) // 3 else None
