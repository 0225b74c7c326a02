"""What to write where the checkpoint has layers under other names or numbers.

{"m/": "params/"}                m/dense_{i+8}/ -> params/Dense_{i}/    an entry more
{"m/l_{i}/": "params/l_{i}/"}    m/l_{i+1}/                             another key
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.captures import (
    NamePattern,
    literal_pattern,
    parse_name,
)
from tf2flax._assignment.language.entries import PlainEntry, Rule
from tf2flax._assignment.language.expressions import Source, sources_of
from tf2flax._base.collapsing import in_sequence
from tf2flax._base.text import list_names

from .entry_labels import fills_scope, target_of
from .new_entries import NewEntry, add_entries, generalise
from .numbered_layers import shift_key
from .renamed_layers import MovedLayers, NeededLayer, find_tensor
from .suggestions import (
    Surroundings,
    captures_of,
    did_you_mean,
    source_of_entry,
)

# Entries that are written out, and layers that a message names.
_MAX_ENTRIES: Final = 4
_MAX_LISTED: Final = 3

# Layers of one kind, each with the scope that it has in the checkpoint.
_Pairs = Sequence[tuple[NeededLayer, str]]


def describe_moved_layers(kinds: Sequence[MovedLayers], around: Surroundings) -> str:
    """Says where layers are, and what to write.

    Args:
        kinds: The layers of each entry; of several entries, the same layers. () for
            none.
        around: Names of the checkpoint and the target.

    Returns:
        Sentences; "" where no lines would give all layers their tensors.
    """
    if not kinds:
        return ""
    keys: list[str] = []
    entries: list[NewEntry] = []
    for moved in kinds:
        written = _write(moved, around)
        if written is None:
            return ""
        keys += [written[0]] if written[0] else []
        entries += written[1]
    if len(kinds) > 1 and keys:  # which entry has which key is more than a line
        return ""
    added = add_entries(entries) if entries else ""
    if not _is_sure(kinds[0]):
        steps = [f"use the key `{key}`" for key in keys]
        steps += [f"{added[0].lower()}{added[1:-1]}"] if added else []
        advice = f"If they are meant in this order, {' and '.join(steps)}."
    else:
        advice = f"{did_you_mean(keys)} {added}".strip()
    return f"{_state(kinds[0])} {advice}"


def _is_sure(moved: MovedLayers) -> bool:
    """True if names say it, and no layer is taken from the leaves that it fills."""
    is_taken = any(layer.is_there for layer, _ in moved.changed)
    return moved.is_alike and not (moved.family.is_unnumbered and is_taken)


def _state(moved: MovedLayers) -> str:
    """States which layers there are."""
    family = moved.family
    names = [*family.components.values()]
    if family.is_unnumbered and moved.is_alike:
        listed = ", ".join(f"`{name}`" for name in names[:2])
        return f"TensorFlow numbers layers from the second one on: {listed}."
    if not moved.is_alike:
        parent = moved.pairs[0][0].parent
        scopes = in_sequence([f"{parent}{name}/" for name in names])
        hold = "holds" if len(names) == 1 else "hold"
        return f"{list_names(scopes, _MAX_LISTED)} {hold} such names."
    fact = f"The checkpoint has `{names[0]}` to `{names[-1]}` there."
    if not moved.shift:
        return fact
    by = "one" if abs(moved.shift) == 1 else str(abs(moved.shift))
    return f"{fact} The numbers differ by {by}."


def _write(
    moved: MovedLayers, around: Surroundings
) -> tuple[str, list[NewEntry]] | None:
    """The key of the entry instead, or ""; and the entries to add."""
    changed = moved.changed
    entry = changed[0][0].entry
    entries = write_entries_below(moved, around)
    if entries is not None:
        return ("", entries) if entries else None
    first = [pair for pair in changed if _is_first(pair[0], pair[1], moved)]
    others = [pair for pair in changed if pair not in first]
    key = ""
    if others:
        key = _changed_key(others, moved, around)
        if not key:
            return None
    rows = [(pair, texts) for pair in first for texts in _literal_texts(*pair, around)]
    entries = _entries_for(rows, moved, around)
    if rows and not entries:
        return None
    # Of two entries that name leaves, the one with fewer captures wins.
    if not fills_scope(entry) and any(
        _captured(new.value) >= _captured(target_of(entry)) for new in entries
    ):
        return None
    return key, entries


def write_entries_below(
    moved: MovedLayers, around: Surroundings
) -> list[NewEntry] | None:
    """Writes entries for layers below the scope that their entry fills.

    Args:
        moved: The layers.
        around: Names of the checkpoint and the target.

    Returns:
        Entries; [] if they would be too many. None if the key of the entry itself says
        which layer it is, so that it must be changed.
    """
    if not fills_scope(moved.pairs[0][0].entry):
        return None
    rows: list[tuple[tuple[NeededLayer, str], tuple[str, str]]] = []
    for pair in moved.changed:
        texts = _places(*pair)
        if texts is None:
            return None
        rows.append((pair, texts))
    return _entries_for(rows, moved, around)


def _is_first(layer: NeededLayer, scope: str, moved: MovedLayers) -> bool:
    """True for a layer that the checkpoint has without a number."""
    name = moved.family.components.get(0, "")
    return moved.family.is_unnumbered and scope == f"{layer.parent}{name}/"


def _places(layer: NeededLayer, scope: str) -> tuple[str, str] | None:
    """Key and value for a layer, with the captures of its entry; or None.

    Args:
        layer: The layer.
        scope: The scope that it has in the checkpoint.

    Returns:
        None if the key of the entry itself says which layer it is.
    """
    entry = layer.entry
    if isinstance(entry, PlainEntry):
        key, value = entry.source, target_of(entry)
        written = literal_pattern(key), literal_pattern(value)
    else:
        assert isinstance(entry, Rule)
        assert isinstance(entry.target, NamePattern)
        (source,) = sources_of(source_of_entry(entry))
        written = source.pattern, entry.target.text
        binding = entry.target.matches(
            layer.problem.leaf or "", is_scope=True, lowest=entry.lowest()
        )
        if written[1] == "/":
            binding = {}
        if binding is None:
            return None
        key = parse_name(written[0]).expand(binding).literal
    # "/" is the whole checkpoint, or the whole target: a name below it begins anew.
    keys, values = ("" if text == "/" else text for text in written)
    key = "" if key == "/" else key
    if not layer.parent.startswith(key):
        return None
    path = literal_pattern(f"{layer.before}{layer.number}/")
    around = literal_pattern(layer.parent[len(key) :])
    return keys + literal_pattern(scope[len(key) :]), f"{values}{around}{path}"


def _literal_texts(
    layer: NeededLayer, scope: str, around: Surroundings
) -> list[tuple[str, str]]:
    """Keys and values for a layer: its scope, or each of its leaves."""
    if fills_scope(layer.entry):
        return [(literal_pattern(scope), literal_pattern(layer.value))]
    return [
        (literal_pattern(find_tensor(scope, below, around)), literal_pattern(leaf))
        for below, leaf in layer.needs
        if below
    ]


def _changed_key(pairs: _Pairs, moved: MovedLayers, around: Surroundings) -> str:
    """The key of an entry that says which layer it is, with other numbers; or ""."""
    layer = pairs[0][0]
    entry, before = layer.entry, moved.family.before
    components = moved.family.components
    numbers = {f"{layer.parent}{name}/": n for n, name in components.items()}
    shifts = {layer.number - numbers.get(scope, -1) for layer, scope in pairs}
    if "/" in before + layer.before or len(shifts) > 1:
        return ""
    # The key would move what it finds in other scopes as well.
    parents = {layer.parent for layer, _ in moved.pairs}
    depth = layer.parent.count("/")
    taken = around.taken.get(entry.number, ())
    if any("/".join([*name.split("/")[:depth], ""]) not in parents for name in taken):
        return ""
    name = None if before == layer.before else before
    return shift_key(entry, layer.scope, -shifts.pop(), before=name) or ""


def _entries_for(
    rows: Sequence[tuple[tuple[NeededLayer, str], tuple[str, str]]],
    moved: MovedLayers,
    around: Surroundings,
) -> list[NewEntry]:
    """As few entries as give all layers their tensors; [] if they are too many."""
    # The first name has no number, so that no entry covers it and the others.
    groups: dict[tuple[bool, str], dict[tuple[str, str], str]] = {}
    for (layer, scope), texts in rows:
        # A scope would lose to an entry that names leaves.
        part = "" if fills_scope(layer.entry) else texts[0].rpartition("/")[2]
        key = not _is_first(layer, scope, moved), part
        groups.setdefault(key, {})[texts] = layer.parent
    entries: list[NewEntry] = []
    for key in sorted(groups, key=lambda key: key[0]):
        general = _generalise(list(groups[key]), moved, around)
        if general:
            entries.append(general)
            continue
        by_parent: dict[str, list[tuple[str, str]]] = {}
        for texts, parent in groups[key].items():
            by_parent.setdefault(parent, []).append(texts)
        parts = [_generalise(texts, moved, around) for texts in by_parent.values()]
        if not all(parts):
            return []
        entries += [entry for entry in parts if entry]
    return entries if len(entries) <= _MAX_ENTRIES else []


def _generalise(
    texts: Sequence[tuple[str, str]], moved: MovedLayers, around: Surroundings
) -> NewEntry | None:
    """One entry for some keys and values; None if it would reach other leaves."""
    written = generalise(
        [(repr(Source(key)), value) for key, value in texts],
        avoid=captures_of(texts[0][0]) | captures_of(texts[0][1]),
    )
    if written is None:
        return None
    key, value = written
    reached = parse_name(value)
    is_scope = value.endswith("/")
    expected = {
        name
        for layer, _ in moved.pairs
        for name in (layer.value, *(leaf for _, leaf in layer.needs))
    }
    for i in around.leaves.range_under(reached.literals[0]):
        binding = reached.matches(around.leaves.names[i], is_scope=is_scope)
        if binding is not None and reached.expand(binding).literal not in expected:
            return None
    return NewEntry(key, value)


def _captured(value: str) -> int:
    """Number of components of a value that have captures."""
    return sum("{" in component for component in value.split("/"))
