"""Why the checkpoint lacks a tensor although it has the scope: what its name should be.

Problems of one kind are one cause: all keys that end in `:0`, all `scale`s that the
checkpoint calls `gamma`, a tensor that only the first layer has.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.entries import Rule
from tf2flax._assignment.language.expressions import Source
from tf2flax._base.collapsing import collapse, list_collapsed
from tf2flax._base.names import nearest
from tf2flax._base.text import counted, list_names

from .counted_sources import key_under, scope_around
from .entry_labels import fills_scope, key_of, target_of
from .likeness import closest_names, like_components, names_same_parameter
from .new_entries import propose_entry, propose_sources
from .numbered_layers import describe_shift
from .problems import Cause, SourceNotFound, label_of_problems
from .scopes import template_of
from .spellings import suggest_for_key
from .stacked_layers import has_no_numbers, name_layers
from .stored_parts import axis_of_parts, concat_parts, describe_rows
from .suggestions import (
    Surroundings,
    change_key,
    describe_numbers,
    did_you_mean,
    list_below,
    source_of_entry,
    transfer,
)
from .training_state import means_variable_above, without_training_state
from .ways_out import is_way_out, keep_missing

# Tensors of a scope that are looked at, and components of names.
_MAX_TENSORS: Final = 1000
_MAX_DEPTH: Final = 64
# Names that are suggested for one.
_MAX_SUGGESTED: Final = 3
_MEANT: Final = re.compile(r"If `([^`]+)` is meant, ")
_CAPTURE: Final = re.compile(r"\{\w+(?:\.\.\.|[+-]\d+)?\}")


def kind_of_name(problem: SourceNotFound, around: Surroundings) -> tuple[Hashable, ...]:
    """Key of what is wrong with a name; problems of one key are one cause.

    Args:
        problem: The problem; something lies under every scope of its name.
        around: Names of the checkpoint and the target.

    Returns:
        The kind of mistake, and what such problems have in common.
    """
    source, entry = problem.source, problem.entry.number
    tensors = around.tensors
    is_scope_entry = fills_scope(problem.entry)
    last = template_of(source.rpartition("/")[2])
    # From what is certain to what is merely alike.
    if not tensors.names:
        return ("empty",)
    if problem.leaf is None and suggest_for_key(source):
        return "spelling", entry
    if source.endswith(":0") and _without_suffix(source) in tensors:
        return ("suffix",)
    if f"{source}/part_0" in tensors:
        return "parts", entry
    if source.rstrip("/") + "/" in tensors:
        if not is_scope_entry:
            return "scope", entry
        if below := _only_below(problem, around):
            return "level", entry, below.removeprefix(source)
    if alias := _alias_of(source, around):
        return "alias", last, alias.rpartition("/")[2], is_scope_entry
    above = _tensor_above(source, around)
    is_general = is_scope_entry or isinstance(problem.entry, Rule)
    if above and means_variable_above(source, above, around):
        return "below", last, "" if is_general else source
    if template_of(source) in around.tensors_by_template:
        return "numbers", template_of(source), entry if is_scope_entry else -1
    if scope := scope_around(problem, around):
        return "scope around", entry, scope
    if "{" in source and has_no_numbers(problem, around):
        return "no numbers", entry
    return "name", entry, last if is_general else source


def explain_name(
    problems: Sequence[SourceNotFound],
    kind: Hashable,
    around: Surroundings,
    *,
    may_search: bool,
) -> Cause:
    """States what is wrong with names of one kind, and what to do.

    Args:
        problems: The problems of one kind.
        kind: The kind of mistake, the first that `kind_of_name` says.
        around: Names of the checkpoint and the target.
        may_search: False if near names are not looked up any more.

    Returns:
        The cause.
    """
    advise = _ADVICE.get(kind, _advise_near)
    is_search = advise is _advise_near
    advice = "" if is_search and not may_search else advise(problems, around)
    return Cause(label_of_problems(problems), _state(problems), tuple(problems), advice)


def _state(problems: Sequence[SourceNotFound]) -> str:
    """Names the tensors that are missing, and the leaves that need them."""
    rows = collapse([(p.source, p.leaf or "") for p in problems])
    source, leaf = rows[0].cells
    needs = f", which leaf `{leaf}` needs" if leaf else ""
    more = len(problems) - len(rows[0].members)
    others = f", and {more} more like it" if more else ""
    return f"found no tensor `{source}`{needs}{others}."


def _advise_around(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    """The scope around layers that are counted."""
    scope = scope_around(problems[0], around)
    key = key_under(problems[0].entry, scope)
    return f"Such names lie under `{scope}`. Did you mean `{key}`?"


def _advise_empty(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    return "The checkpoint has no tensors."


def _advise_spelling(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    return suggest_for_key(problems[0].source)


def _advise_suffix(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    if len({problem.entry.number for problem in problems}) > 1:
        return "Write the keys without `:0`: names of tensors have no such end."
    return _replace(problems, _without_suffix, around)


def _advise_parts(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    """The parts of a partitioned variable that were stored as tensors."""
    first = problems[0]
    count = 0
    while f"{first.source}/part_{count}" in around.tensors:
        count += 1
    leaf = first.leaf or target_of(first.entry)
    axis = axis_of_parts(first.source, count, around.shapes.get(leaf), around)
    fact = f"Its parts are {count} tensors"
    if axis is None:
        return f"{fact}, which do not add up to the shape of the leaf."
    written = source_of_entry(first.entry)
    if fills_scope(first.entry):
        key = concat_parts(literal_pattern(first.source), axis)
        if first.leaf is None:
            return f"{fact}."
        return f"{fact}. {propose_entry([(key, first.leaf)], around.leaves)}"
    if not isinstance(written, Source):
        return f"{fact}: join them with concat."
    return f"{fact}: use the key `{concat_parts(written.pattern, axis)!r}`."


def _advise_scope(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    """The name is a scope: which of its tensors is meant."""
    first = problems[0]
    scope = first.source.rstrip("/") + "/"
    numbers = around.tensors.range_under(scope)
    names = [around.tensors.names[i] for i in numbers[:_MAX_TENSORS]]
    target = first.leaf or target_of(first.entry)
    fact = f"`{scope}` is a scope of {counted(len(numbers), 'tensor')}"
    scores = [
        (_common_end(name, target), name)
        for name in without_training_state(first.source, names, around)
        if around.may_fill(first.entry, name, first.leaf)
    ]
    if not scores:
        return f"{fact}, none of which has the size of the leaf."
    best = max(score for score, _ in scores)
    likely = [name for score, name in scores if score == best]
    if not best:  # slots and averages lie below the variables
        likely = [name for name in likely if "/" not in name[len(scope) :]] or likely
    if len(likely) > 3:
        return f"{fact}: name the one that fills the leaf."
    keys = [change_key(first.entry, first.source, name) for name in likely]
    return f"{fact}. {did_you_mean([key for key in keys if key])}".rstrip()


def _only_below(problem: SourceNotFound, around: Surroundings) -> str:
    """The only tensor directly under a name that may fill the leaf; "" if not one."""
    scope = f"{problem.source}/"
    below = itertools.islice(around.tensors.children_of(scope), _MAX_TENSORS)
    names = [
        scope + name
        for name in below
        if not name.endswith("/")
        and around.may_fill(problem.entry, scope + name, problem.leaf)
    ]
    names = without_training_state(problem.source, names, around)
    return names[0] if len(names) == 1 else ""


def _advise_level(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    """The tensors lie a level below their names: `w/ExponentialMovingAverage`."""
    pairs = [(_only_below(p, around), p.leaf) for p in problems]
    ending = pairs[0][0].removeprefix(f"{problems[0].source}/")
    entry = propose_sources([(t, leaf) for t, leaf in pairs if leaf], around.leaves)
    return f"`{problems[0].source}/` holds `{ending}`. {entry}"


def _common_end(tensor: str, leaf: str) -> int:
    """Number of components that two names end in alike, with aliases."""
    last = leaf.rpartition("/")[2]
    spelled = (leaf, *alias_sources(leaf, last, FLAX_ALIASES))
    backwards = tensor.split("/")[::-1]
    counts: list[int] = []
    for name in spelled:
        pairs = zip(backwards, name.split("/")[::-1], strict=False)
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
        counts.append(sum(1 for _ in alike))
    return max(counts)


def _advise_alias(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    advice = _replace(problems, lambda source: _alias_of(source, around), around)
    # Aliases are for members of scopes only.
    if fills_scope(problems[0].entry):
        return f"{advice} Option aliases can stand in for it too."
    return advice


def _advise_below(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    leaf = problems[0].leaf or ""
    if text := describe_numbers(leaf.rpartition("/")[0], around):
        return text
    source = problems[0].source
    if _is_slot(source, around):  # its variable would be another value
        above = _tensor_above(source, around)
        return f"The checkpoint has `{above}`, and no such slot of it."
    return describe_rows(
        problems[0], _tensor_above(source, around), around
    ) or _replace(problems, lambda source: _tensor_above(source, around), around)


def _is_slot(source: str, around: Surroundings) -> bool:
    """True for a name of a slot of a tensor that is there."""
    return around.roles.of(source).kind == "slot"


def _advise_numbers(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    """Tensors of the same name, but for a number, are there."""
    source = problems[0].source
    there = around.tensors_by_template[template_of(source)]
    components = source.split("/")
    # The component in which most of them differ says which layers have it.
    places = [
        [i for i, c in enumerate(name.split("/")) if c != components[i]]
        for name in there
    ]
    single = [
        (place[0], name)
        for place, name in zip(places, there, strict=True)
        if len(place) == 1
    ]
    if not single:
        there = without_training_state(source, there, around)
        return did_you_mean(nearest(source, there))
    place = single[0][0]
    present = [name.split("/")[place] for i, name in single if i == place]
    fact = f"The checkpoint has it for {list_collapsed(present, 2)} only."
    if place == len(components) - 1:
        shift = describe_shift([(p, p.source) for p in problems], around)
        return f"{fact} {shift}".rstrip()
    return f"{fact} {_keep(problems, around)}"


def _advise_no_numbers(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    """Layers that are counted, and have names only."""
    return name_layers(problems[0], around)


def _advise_near(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    """Names that are like it."""
    first, source = problems[0], problems[0].source
    if hint := around.manifest.hint(source):
        return hint
    needs_entry = _gets_entries(first, around)
    near, is_sure = _names_like(source, around)
    near = without_training_state(source, near, around)
    close = [name for name in near if around.fits(first.entry, name, first.leaf)]
    if not needs_entry:  # the name was written so: its shape is the next question
        close = (close or near)[:_MAX_SUGGESTED]
        keys = [change_key(first.entry, source, name) for name in close]
        captures = _CAPTURE.findall(key_of(first.entry))
        # What names one tensor is no help for an entry of many.
        alike = [key for key in keys if key and _CAPTURE.findall(key) == captures]
        return did_you_mean(list(dict.fromkeys(alike))) or list_below(source, around)
    above = source.rpartition("/")[0]
    is_above = above in around.tensors and not _is_slot(source, around)
    if not is_sure and is_above and around.may_fill(first.entry, above, first.leaf):
        return _replace(problems, lambda s: s.rpartition("/")[0], around)
    # What is less like it than a tensor of another leaf is hardly meant.
    if not close or not is_sure or around.is_taken(first.entry, close[0]):
        if not fills_scope(first.entry):
            return ""
        return _advise_related(problems, around) or _keep(problems, around)
    if len(close) > 1:
        return f"The checkpoint has {list_names(close, _MAX_SUGGESTED)}."
    scope, slash, last = close[0].rpartition("/")
    if scope == source.rpartition("/")[0]:  # the others lack the same component
        return _replace(
            problems, lambda s: f"{s.rpartition('/')[0]}{slash}{last}", around
        )
    moved = [transfer(source, close[0], problem.source) for problem in problems]
    is_general = len({*moved}) == len(moved) and all(m in around.tensors for m in moved)
    members = problems if is_general else problems[:1]
    return _replace(members, lambda s: transfer(source, close[0], s), around)


def _advise_related(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    """The only tensor beside it that fits, and is named for the same parameter."""
    first = problems[0]
    scope, slash, last = first.source.rpartition("/")
    beside = itertools.islice(around.tensors.children_of(scope + slash), _MAX_TENSORS)
    related = [
        scope + slash + name
        for name in beside
        if names_same_parameter(last, name)
        and around.may_fill(first.entry, scope + slash + name, first.leaf)
    ]
    if len(related) != 1:
        return ""
    new = related[0].rpartition("/")[2]
    advice = _replace(problems, lambda s: f"{s.rpartition('/')[0]}{slash}{new}", around)
    return "" if is_way_out(advice) else advice


def _keep(problems: Sequence[SourceNotFound], around: Surroundings) -> str:
    return keep_missing((problem.leaf for problem in problems), around)


def _names_like(source: str, around: Surroundings) -> tuple[list[str], bool]:
    """Tensors that may be meant by a name; True if they are surely like it."""
    scope, slash, last = source.rpartition("/")
    beside = itertools.islice(around.tensors.children_of(scope + slash), _MAX_TENSORS)
    names = [name for name in beside if not name.endswith("/")]
    if alike := like_components(last, names):
        return [f"{scope}{slash}{name}" for name in alike], True
    return closest_names(source, around.manifest.names)


_ADVICE: Final[dict[Hashable, Callable[..., str]]] = {
    "empty": _advise_empty,
    "spelling": _advise_spelling,
    "suffix": _advise_suffix,
    "parts": _advise_parts,
    "scope": _advise_scope,
    "level": _advise_level,
    "alias": _advise_alias,
    "below": _advise_below,
    "numbers": _advise_numbers,
    "scope around": _advise_around,
    "no numbers": _advise_no_numbers,
}


def _replace(
    problems: Sequence[SourceNotFound],
    rename: Callable[[str], str],
    around: Surroundings,
) -> str:
    """Suggests other names: in the key, or for members of scopes as a new entry."""
    first = problems[0]
    new = rename(first.source)
    # The key is changed, unless it is right for other leaves.
    if not _gets_entries(first, around):
        key = change_key(first.entry, first.source, new)
        is_one = len({problem.entry.number for problem in problems}) == 1
        where = "" if is_one else f"In entry {first.entry.number}: "
        return where + did_you_mean([key] if key else [])
    if not isinstance(source_of_entry(first.entry), Source):
        return f"The checkpoint has `{new}`."
    renamed = [(rename(problem.source), problem.leaf or "") for problem in problems]
    pairs = [
        (name, leaf)
        for name, leaf in renamed
        if leaf and name in around.tensors and around.may_fill(first.entry, name, leaf)
    ]
    if not pairs:
        return _keep(problems, around)
    entry = propose_sources(pairs, around.leaves)
    return f"If `{pairs[0][0]}` is meant, a{str(entry)[1:]}"


def tensor_meant(advice: str) -> str:
    """The tensor that `_replace` suggests as an entry to add; "" if it does not."""
    match = _MEANT.match(advice)
    return match[1] if match else ""


def _gets_entries(problem: SourceNotFound, around: Surroundings) -> bool:
    """True if a leaf needs an entry of its own, since the key is right for others."""
    entry = problem.entry
    is_used = isinstance(entry, Rule) and bool(around.claimed.get(entry.number))
    return fills_scope(entry) or is_used


def _without_suffix(source: str) -> str:
    return source[:-2] if source.endswith(":0") else source


def _alias_of(source: str, around: Surroundings) -> str:
    """The name with an alias that the checkpoint has; "" if it has none."""
    last = source.rpartition("/")[2]
    spelled = alias_sources(source, last, FLAX_ALIASES)
    return next((name for name in spelled if name in around.tensors), "")


def _tensor_above(source: str, around: Surroundings) -> str:
    """The longest scope of a name that is itself a tensor; "" if none is."""
    position = source.rfind("/")
    for _ in range(_MAX_DEPTH):
        if position <= 0:
            break
        if source[:position] in around.tensors:
            return source[:position]
        position = source.rfind("/", 0, position)
    return ""
