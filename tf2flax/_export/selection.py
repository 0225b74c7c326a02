"""A map without a target: which tensors of a checkpoint fill which names.

In a restore the leaves of a target say what a scope or a capture stands for. Here it is
the tensors: each entry is read from its key to its value::

    entry      "bert/layer_{i}/": "layers_{i}/"
    tensors    bert/layer_0/w   bert/layer_1/w     bert/pooler/w
    names      layers_0/w       layers_1/w         (dropped)

The names become leaves, and the rules for restores decide between entries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tf2flax._assignment.language.captures import (
    parse_name,
)
from tf2flax._assignment.language.entries import MapEntry, PlainEntry
from tf2flax._assignment.language.expressions import (
    Expression,
    Source,
)
from tf2flax._assignment.language.grammar import FrozenMap, parse_map
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.nodes import Layout
from tf2flax._assignment.resolution.assignments import (
    Gap,
    Leaf,
    Resolution,
    whole_assignment,
)
from tf2flax._assignment.resolution.entry_labels import fills_scope, key_of, label_of
from tf2flax._assignment.resolution.matching import resolve_map
from tf2flax._assignment.resolution.policies import (
    DtypeChoice,
    MapOptions,
    Policy,
    parse_dtype_choice,
)
from tf2flax._assignment.resolution.scopes import NameTable, scopes_of
from tf2flax._assignment.resolution.suggestions import did_you_mean
from tf2flax._base.collapsing import summarise
from tf2flax._base.dtypes import DtypePolicy, kind_of
from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.manifest import Manifest
from tf2flax._base.names import nearest
from tf2flax._base.text import counted, list_names
from tf2flax._base.values import TensorSpec
from tf2flax._formats.renamed import RenamedManifest

from .exporter import ExportedTensor
from .origins import origins_of, refuse_collisions

# Leaves of a first resolution, which only finds out what fills them: no source has this
# shape, and every dtype is taken.
_UNKNOWN_SHAPE = (-1,)
_ANY_DTYPE = DtypeChoice(default="checkpoint")


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """What a conversion writes.

    Attributes:
        tensors: The tensors, sorted by name.
        dropped: Names of the checkpoint's tensors that fill nothing, sorted.
    """

    tensors: tuple[ExportedTensor, ...]
    dropped: tuple[str, ...]


def select_all(manifest: Manifest, dtype: object) -> Selection:
    """Selects every tensor under its own name.

    Args:
        manifest: The checkpoint.
        dtype: The option `dtype`.

    Raises:
        AssignmentError: The option is not valid, or refuses a tensor's dtype.
    """
    if dtype is None:
        tensors = [_as_it_is(name, manifest.spec(name)) for name in manifest.names]
        return Selection(tuple(tensors), ())
    entries = [
        PlainEntry(number, name, name)
        for number, name in enumerate(manifest.names, start=1)
    ]
    return _select(entries, manifest, dtype)


def hidden_by_view(manifest: Manifest, *, has_slots: bool) -> tuple[str, ...]:
    """Names of tensors that no name of a view stands for; none if it is no view.

    Args:
        manifest: The checkpoint, or a view of it.
        has_slots: Whether slots and averages count.

    Returns:
        Stored names of tensors that share a name, or have none; of a view of a view
        the names that are shared.
    """
    if not isinstance(manifest, RenamedManifest):
        return manifest.shared_names
    roles = manifest.base.roles()
    return tuple(
        name
        for name in manifest.unlisted()
        if has_slots or not roles.is_of_training(name)
    )


def refuse_hidden(manifest: Manifest, *, has_slots: bool) -> None:
    """Refuses a view that leaves out what would be written.

    Args:
        manifest: The checkpoint, or a view of it.
        has_slots: Whether slots and averages are written.

    Raises:
        UnsupportedError: It leaves something out.
    """
    if hidden := hidden_by_view(manifest, has_slots=has_slots):
        raise UnsupportedError(
            f"This view leaves out {counted(len(hidden), 'tensor')}, without a name of "
            f"their own: {list_names(hidden, count=3)} - in `{manifest.index_path}`. "
            "Convert the checkpoint itself, or say with assignment_map what is wanted."
        )


def select_by_map(
    manifest: Manifest, assignment_map: FrozenMap, dtype: object
) -> Selection:
    """Selects what the entries of a map name.

    Args:
        manifest: The checkpoint.
        assignment_map: The map; its values are names and scopes.
        dtype: The option `dtype`.

    Raises:
        AssignmentError: The map does not fit the checkpoint, or fills nothing.
    """
    entries = parse_map(assignment_map, lambda _: ())
    return _select(entries, manifest, dtype)


def without_slots(selection: Selection, manifest: Manifest) -> Selection:
    """Drops state of optimizers and moving averages.

    Args:
        selection: The selection.
        manifest: The checkpoint.

    Returns:
        The selection without them.
    """
    roles = manifest.roles()
    kept: list[ExportedTensor] = []
    slots: list[str] = []
    for tensor in selection.tensors:
        sources = tensor.assignment.sources
        if all(map(roles.is_of_training, sources)):
            slots += sources
        else:
            kept.append(tensor)
    return Selection(tuple(kept), tuple(sorted({*selection.dropped, *slots})))


def _select(
    entries: Sequence[MapEntry], manifest: Manifest, dtype: object
) -> Selection:
    _refuse_mixed(entries, manifest)
    origins = list(origins_of(entries, manifest))
    names = tuple(dict.fromkeys(origin.name for origin in origins))
    layouts, strings = _find_layouts(names, entries, manifest)
    leaves = [
        Leaf((name,), layout.shape, layout.dtype) for name, layout in layouts.items()
    ]
    choice = parse_dtype_choice("dtype", dtype)
    _refuse_idle_dtype(choice.default, leaves)
    options = MapOptions(
        aliases=None,
        dtype=choice,
        # Several scopes may move tensors into one: none of them has all of its names.
        on_missing=Policy(default="keep", yields=True),
    )
    # No entry may name a leaf that is not there: those of strings are done.
    done = {id(tensor.assignment.entry) for tensor in strings}
    others = [e for e in entries if fills_scope(e) or id(e) not in done]
    resolution = resolve_map(others, leaves, manifest, options, x64=True)
    tensors = [
        ExportedTensor(assignment.leaf, assignment.shape, assignment.dtype, assignment)
        for assignment in resolution.assignments
    ]
    tensors += strings
    refuse_collisions(origins, {t.name: t.assignment for t in tensors}, manifest)
    used = {name for tensor in tensors for name in tensor.assignment.sources}
    return Selection(
        tuple(sorted(tensors, key=lambda tensor: tensor.name)),
        tuple(name for name in manifest.names if name not in used),
    )


def _refuse_idle_dtype(dtype: DtypePolicy, leaves: Sequence[Leaf]) -> None:
    """Refuses a dtype that no tensor would get, as int32 where all are floats."""
    if not isinstance(dtype, np.dtype):
        return
    kinds = {kind_of(leaf.dtype) or "" for leaf in leaves if leaf.dtype is not None}
    if kinds and kind_of(dtype) not in kinds:
        raise AssignmentError(
            f"Option dtype: {dtype.name} is for tensors of its kind, and all that are "
            f"written are of other kinds ({', '.join(sorted(kinds))}). To cast these, "
            f'give pairs of a regex and a dtype, dtype=[("", "{dtype.name}")].'
        )


def _find_layouts(
    names: Sequence[str], entries: Sequence[MapEntry], manifest: Manifest
) -> tuple[dict[str, Layout], list[ExportedTensor]]:
    """Finds the layout of each name, by the entry that gets it.

    Returns:
        Layouts by name; and tensors of strings, which supply no leaf.

    Raises:
        AssignmentError: An expression does not fit its tensors; all are listed.
    """
    options = MapOptions(
        aliases=None,
        dtype=_ANY_DTYPE,
        on_missing=Policy(default="keep", yields=True),
        on_mismatch=Policy(default="keep"),
    )
    leaves = [Leaf((name,), _UNKNOWN_SHAPE, np.dtype(np.float32)) for name in names]
    resolution = resolve_map(entries, leaves, manifest, options, x64=True)
    _refuse_unused(resolution, manifest)
    layouts: dict[str, Layout] = {}
    strings: list[ExportedTensor] = []
    problems: list[str] = []
    for gap in resolution.mismatched:
        if gap.expression is None or gap.parts:
            continue
        try:
            _refuse_keeping(gap.expression)
            layout = lower(gap.expression, manifest.spec)
        except AssignmentError as error:
            problems.append(f"{label_of(gap.entry)}: {error}")
            continue
        if layout.dtype == object and isinstance(gap.expression, Source):
            name = parse_name(gap.expression.pattern).literal
            tensor = _as_it_is(name, manifest.spec(name), gap.entry)
            strings.append(dataclasses.replace(tensor, name=gap.leaf))
        else:
            layouts[gap.leaf] = layout
    if problems:
        raise AssignmentError(summarise(problems))
    return layouts, strings


def _as_it_is(
    name: str, spec: TensorSpec, entry: MapEntry | None = None
) -> ExportedTensor:
    """A whole tensor, under its own name."""
    if not spec.dtype.is_readable:
        raise UnsupportedError(
            f"Tensor `{name}` is of dtype {spec.dtype.name}, of which no array can be "
            "made. Name the tensors that are wanted in assignment_map."
        )
    assignment = whole_assignment(name, spec, entry)
    return ExportedTensor(name, spec.shape, assignment.dtype, assignment)


def _refuse_keeping(expression: Expression) -> None:
    """Refuses expressions that keep elements of a leaf: there is none."""
    if expression.keeps_leaf:
        raise AssignmentError(
            'fill="keep" keeps elements of a leaf, and a conversion has no leaves. '
            "Give fill= a number."
        )


def _refuse_mixed(entries: Sequence[MapEntry], manifest: Manifest) -> None:
    """Refuses values that are scopes where the key is one tensor."""
    problems = [
        f"{label_of(entry)}: `{entry.target}` is a scope and `{entry.source}` is one "
        f"tensor. Did you mean "
        f"`{entry.target.lstrip('/')}{entry.source.rpartition('/')[2]}`?"
        for entry in entries
        if isinstance(entry, PlainEntry)
        and isinstance(entry.target, str)
        and entry.target.endswith("/")
        and not entry.source.endswith("/")
        and entry.source in manifest
        # A tensor may be called so.
        and entry.target != entry.source
    ]
    if problems:
        raise AssignmentError(summarise(problems))


def _refuse_unused(resolution: Resolution, manifest: Manifest) -> None:
    """Refuses entries that fill nothing, and names of which tensors are missing."""
    gaps = {
        id(gap.entry): gap
        for gap in reversed(resolution.missing)
        if not fills_scope(gap.entry) and not gap.entry.is_optional
    }
    entries = {id(entry): entry for entry in resolution.unused_entries}
    entries |= {number: gap.entry for number, gap in gaps.items()}
    problems = [
        f"{label_of(entry)}: {_describe_missing(entry, gaps.get(number), manifest)}"
        for number, entry in entries.items()
    ]
    if problems:
        raise AssignmentError(summarise([problem.rstrip() for problem in problems]))


def _describe_missing(entry: MapEntry, gap: Gap | None, manifest: Manifest) -> str:
    """What the checkpoint lacks, and the names nearest to it."""
    if gap is not None and gap.present:
        return f"the checkpoint has no tensor `{gap.source}`, which `{gap.leaf}` needs."
    key = key_of(entry)
    if f"{key.rstrip('/')}/" in NameTable(manifest.names):
        hint = "It is a scope: end key and value with `/`."
    else:
        names = scopes_of(manifest.names) if key.endswith("/") else manifest.names
        hint = did_you_mean(nearest(key, names))
    return f"the checkpoint has no tensor for it. {hint}"
