"""Where leaves live: what is asked for, else what the target carries -> shardings.

A leaf may be given a place by the option `sharding`, by its own sharding, or by Flax's
partitioning metadata; the first that has an opinion counts. Reads no bytes and puts
nothing anywhere.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from flax.core.spmd import get_logical_axis_rules
from flax.linen.spmd import logical_to_mesh_axes
from jax.sharding import (
    AbstractMesh,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
)

from tf2flax._assignment.plans.plan import PlacementReport, Replicated
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.collapsing import summarise
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest

from .isolation import ambient_mesh
from .meshes import describe_manual_axes, is_abstract, names_of, show_spec
from .options import AxisNames, CheckedOptions, LogicalRules, ShardingOption
from .partition_rules import PartitionRules
from .sharding_option import (
    Opinion,
    ShardedLeaf,
    bare_leaf,
    is_function,
    loaded_leaf,
    parse_sharding,
)
from .targets import named_leaves
from .trees import Partitioning, Slot
from .uneven import ShardedDimension, describe_pad, describe_way_out

_NOTHING_TO_REPORT: Final = PlacementReport()


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Places of leaves.

    Attributes:
        shardings: Shardings by leaf; leaves without an opinion are left out.
        report: Facts about them that are worth knowing.
    """

    shardings: Mapping[str, Sharding] = dataclasses.field(default_factory=dict)
    report: PlacementReport = _NOTHING_TO_REPORT


def choose_placement(
    assignments: Sequence[Assignment],
    slots: Iterable[Slot],
    manifest: Manifest,
    options: CheckedOptions,
    *,
    initialised: Iterable[str] = (),
) -> Placement:
    """Chooses where leaves live: what is asked for, else what the target carries.

    Args:
        assignments: The leaves that are loaded.
        slots: All leaves of the target.
        manifest: Where the tensors lie.
        options: What the caller says.
        initialised: Names of other leaves that are to be placed too.

    Returns:
        The placement.

    Raises:
        AssignmentError: A leaf does not fit its sharding, or a name means no mesh axis;
            every such leaf is named.
    """
    by_name = {slot.leaf.name: slot for slot in slots}
    wants_sources = is_function(options.sharding)
    leaves = [
        loaded_leaf(
            assignment, by_name[assignment.leaf], manifest if wants_sources else None
        )
        for assignment in assignments
    ]
    leaves += [bare_leaf(by_name[name]) for name in initialised]
    names = [name for slot in by_name.values() for name in slot.leaf.names]
    chooser = _Chooser(options, names)
    shardings: dict[str, Sharding] = {}
    misfits: dict[str, _MisfitError] = {}
    for leaf in leaves:
        try:
            sharding = chooser.choose(leaf, by_name[leaf.name])
        except _MisfitError as error:
            misfits[leaf.name] = error
        else:
            if sharding is not None:
                shardings[leaf.name] = sharding
    if misfits:
        expressions = {a.leaf: a.expression for a in assignments if a.box is None}
        # Which mesh would fit is known once all leaves are.
        problems: list[str] = []
        for name, error in misfits.items():
            shape = by_name[name].leaf.shape
            pad = describe_pad(expressions.get(name), shape, error.uneven)
            problems.append(f"Leaf `{name}`: {error}{pad}{chooser.way_out(error)}")
        raise AssignmentError(summarise(problems))
    return Placement(shardings, chooser.report(leaves))


def expected_shardings(
    slots: Sequence[Slot], options: CheckedOptions
) -> list[Sharding]:
    """Lists shardings that leaves may get, before anything is known of the checkpoint.

    Args:
        slots: All leaves of the target.
        options: What the caller says.

    Returns:
        The shardings; those that functions of leaves choose by mesh, or by tensors,
        are not all among them.
    """
    # The other processes must learn of a failure even where opening the checkpoint
    # fails here, before any leaf is known to be loaded: so these are guesses.
    mesh = options.mesh or ambient_mesh()
    opinions: list[Any] = [slot.sharding for slot in slots]
    opinions += _early_opinions(options.sharding, slots, mesh)
    is_on_mesh = (
        is_function(options.sharding)
        or any(slot.partitioning for slot in slots)
        or any(isinstance(opinion, PartitionSpec) for opinion in opinions)
    )
    if mesh is not None and is_on_mesh:
        opinions.append(NamedSharding(mesh, PartitionSpec()))
    return [opinion for opinion in opinions if isinstance(opinion, Sharding)]


def _early_opinions(
    option: ShardingOption, slots: Sequence[Slot], mesh: Mesh | AbstractMesh | None
) -> Iterator[Any]:
    """Lists what the option `sharding` asks for before any tensor is known."""
    if option is None:
        return
    if isinstance(option, (Sharding, PartitionSpec)):
        yield option
    elif not is_function(option):
        yield from (value for _, value in named_leaves(option))
    elif mesh is None:  # else the mesh says who takes part
        for slot in slots:
            # A function that raises does so again later, where that is reported.
            with contextlib.suppress(Exception):
                yield option(bare_leaf(slot))


@functools.lru_cache(maxsize=1024)  # leaves of layers are alike
def _without_freedom(spec: PartitionSpec) -> PartitionSpec:
    """A spec that says of every axis where values lie: unconstrained is unsharded.

    Raises:
        _MisfitError: It says how values are summed up, which a checkpoint cannot know.
    """
    if getattr(spec, "unreduced", None) or getattr(spec, "reduced", None):
        raise _MisfitError(
            f"{spec} says how values are summed up over devices; a checkpoint holds "
            "values. Give a spec without `unreduced` and `reduced`."
        )
    free = PartitionSpec.UNCONSTRAINED
    return PartitionSpec(*[None if entry is free else entry for entry in spec])


class _MisfitError(Exception):
    """A leaf does not fit its sharding; the message says how."""

    # The mesh that does not divide the leaf, where that is what does not fit.
    mesh: Mesh | AbstractMesh | None = None
    # The dimensions that it does not divide.
    uneven: Sequence[ShardedDimension] = ()


class _Chooser:
    """Chooses shardings leaf by leaf, and remembers what is worth knowing."""

    def __init__(self, options: CheckedOptions, names: Sequence[str]) -> None:
        self._options = options
        self._mesh = options.mesh or ambient_mesh()
        self._opinion = parse_sharding(options.sharding, names)
        self._replicated: list[Replicated] = []
        self._dimensions: list[ShardedDimension] = []
        self._ways_out: dict[Mesh | AbstractMesh, str] = {}

    def choose(self, leaf: ShardedLeaf, slot: Slot) -> Sharding | None:
        """The sharding of one leaf; None where nobody has an opinion.

        Raises:
            _MisfitError: It does not fit.
        """
        opinion = self._opinion(leaf)
        if opinion is None:
            opinion = self._of_target(slot)
        if opinion is None:
            return None
        if isinstance(opinion, PartitionSpec):
            opinion = self._on_mesh(_without_freedom(opinion))
        if isinstance(opinion, NamedSharding):
            if opinion.mesh.empty:
                raise _MisfitError(
                    "its sharding is over a mesh without axes and devices. Give one "
                    "over a mesh that has some."
                )
            if problem := describe_manual_axes(opinion.mesh):
                raise _MisfitError(problem)
            _without_freedom(opinion.spec)
            return self._fitted(leaf, self._concrete(opinion))
        if problem := _problem_of(opinion, leaf.shape):
            raise _MisfitError(problem)
        return opinion

    def way_out(self, error: _MisfitError) -> str:
        """Says what to do about a leaf that does not fit, if its message does not."""
        mesh = error.mesh
        if mesh is None:
            return ""
        if mesh not in self._ways_out:
            self._ways_out[mesh] = describe_way_out(mesh, self._dimensions)
        return f" {self._ways_out[mesh]}"

    def _of_target(self, slot: Slot) -> Opinion:
        """Finds what the target asks for a leaf: its sharding, else its metadata."""
        carried, partitioning = slot.sharding, slot.partitioning
        if carried is not None and is_abstract(carried):
            # NNX made it of the metadata, by the leaf's own rules.
            if partitioning is None or self._options.logical_axis_rules is None:
                return carried
            carried = None
        if carried is None and partitioning is not None:
            return self._of_metadata(partitioning)
        return carried

    def report(self, leaves: Sequence[ShardedLeaf]) -> PlacementReport:
        """Collects what is worth knowing, once all leaves are placed."""
        unmatched: list[str] = []
        unused: list[str] = []
        option = self._options.sharding
        if isinstance(option, PartitionRules):
            numbers = {leaf.name: option.match(leaf.names) for leaf in leaves}
            unmatched = [name for name, number in numbers.items() if number is None]
            used = set(numbers.values())
            unused = [
                f"({regex.pattern!r}, {show_spec(spec)})"
                for i, (regex, spec) in enumerate(option.rules)
                if i not in used
            ]
        return PlacementReport(tuple(self._replicated), tuple(unmatched), tuple(unused))

    def _on_mesh(self, spec: PartitionSpec) -> NamedSharding:
        if self._mesh is None:
            raise _MisfitError(
                f"{show_spec(spec)} needs a mesh. Give option mesh, or a "
                "NamedSharding, or call under jax.set_mesh."
            )
        return _named_sharding(self._mesh, spec, None)

    def _concrete(self, sharding: NamedSharding) -> NamedSharding:
        """Puts the mesh that is given, or in force, in place of an abstract one."""
        if not isinstance(sharding.mesh, AbstractMesh):
            return sharding
        if self._mesh is None:
            raise _MisfitError(
                "its sharding is over an AbstractMesh, which has no devices. Give "
                "option mesh a jax.sharding.Mesh, or call under jax.set_mesh."
            )
        spec = _without_freedom(sharding.spec)
        return _named_sharding(self._mesh, spec, sharding.memory_kind)

    def _of_metadata(self, partitioning: Partitioning) -> NamedSharding | None:
        """Turns Flax's metadata into a sharding on a mesh; None without any mesh."""
        mesh = self._options.mesh or partitioning.mesh or self._mesh
        if mesh is None or mesh.empty:
            return None
        rules = self._options.logical_axis_rules
        if rules is None:
            rules = [*(partitioning.rules or ()), *get_logical_axis_rules()]
        spec = _resolve_names(partitioning.names, rules, mesh)
        return _named_sharding(mesh, spec, None)

    def _fitted(self, leaf: ShardedLeaf, sharding: NamedSharding) -> NamedSharding:
        """Checks that the mesh divides the leaf, or replicates what it does not."""
        entries = list(_without_freedom(sharding.spec))
        if len(entries) > len(leaf.shape):
            axes = "1 axis" if len(leaf.shape) == 1 else f"{len(leaf.shape)} axes"
            raise _MisfitError(
                f"shape {list(leaf.shape)} does not fit {show_spec(sharding.spec)}: "
                f"it has {axes}, not {len(entries)}."
            )
        dimensions = [
            ShardedDimension(axis, leaf.shape[axis], sharding.mesh, names_of(entry))
            for axis, entry in enumerate(entries)
            if names_of(entry)
        ]
        uneven = [dimension for dimension in dimensions if dimension.is_uneven]
        if self._options.on_uneven == "error":
            # Even ones count as well: a mesh that is proposed must divide all leaves.
            self._dimensions += dimensions
            if uneven:
                raise _uneven_error(leaf.shape, sharding, uneven)
        for dimension in uneven:
            self._replicated.append(
                Replicated(
                    leaf=leaf.name,
                    dimension=dimension.number,
                    size=dimension.size,
                    axes=dimension.names,
                    count=dimension.count,
                )
            )
            entries[dimension.number] = None
        if entries == list(sharding.spec):
            return sharding
        spec = PartitionSpec(*entries)
        return _named_sharding(sharding.mesh, spec, sharding.memory_kind)


def _uneven_error(
    shape: tuple[int, ...], sharding: NamedSharding, uneven: Sequence[ShardedDimension]
) -> _MisfitError:
    """Says which dimensions a mesh does not divide."""
    facts = "; ".join(dimension.describe() for dimension in uneven)
    error = _MisfitError(
        f"shape {list(shape)} does not fit {show_spec(sharding.spec)}: {facts}."
    )
    error.mesh = sharding.mesh
    error.uneven = uneven
    return error


def _problem_of(sharding: Sharding, shape: tuple[int, ...]) -> str | None:
    """Says why an array of some shape cannot live on a sharding that has no mesh."""
    try:
        sharding.shard_shape(shape)
    except (IndexError, AssertionError):
        reason = "it is for another number of axes."
    except ValueError as error:
        reason = str(error).splitlines()[0]
    else:
        return None
    return f"shape {list(shape)} does not fit {sharding}: {reason}"


@functools.lru_cache(maxsize=1024)  # leaves of layers are alike
def _named_sharding(
    mesh: Mesh | AbstractMesh, spec: PartitionSpec, memory_kind: str | None
) -> NamedSharding:
    """A sharding over a mesh, each of whose axes is named once at most.

    Raises:
        _MisfitError: It names an axis twice, or one that the mesh does not have.
    """
    named = [name for entry in spec for name in names_of(entry)]
    unknown = [name for name in named if name not in mesh.axis_names]
    if unknown:
        raise _MisfitError(
            f"{show_spec(spec)} names {_quoted(dict.fromkeys(unknown))}, but the mesh "
            f"has the axes {_quoted(mesh.axis_names)}."
        )
    twice = next((name for i, name in enumerate(named) if name in named[:i]), None)
    if twice is not None:
        raise _MisfitError(f"{show_spec(spec)} names `{twice}` twice.")
    return NamedSharding(mesh, spec, memory_kind=memory_kind)


def _quoted(names: Iterable[object]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _resolve_names(
    names: Sequence[Any], rules: LogicalRules, mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """Resolves the names of Flax's metadata: by rules, else as axes of the mesh."""
    ruled = {name for name, _ in rules}
    flat = [name for entry in names for name in names_of(entry)]
    try:
        axes_named = dict.fromkeys(flat)
    except TypeError as error:  # dicts, say
        raise _MisfitError(f"its metadata does not name axes: {error}.") from error
    unknown = [name for name in axes_named if name not in {*ruled, *mesh.axis_names}]
    if unknown:
        raise _MisfitError(
            f"no rule resolves the logical axis {_quoted(unknown)} of {tuple(names)}, "
            f"and the mesh has the axes {_quoted(mesh.axis_names)}. Give "
            "logical_axis_rules; a rule to None replicates."
        )
    logical = [name if name in ruled else None for name in names]
    try:
        resolved = logical_to_mesh_axes(tuple(logical), tuple(rules))
    except ValueError as error:
        raise _MisfitError(str(error)) from error
    entries: list[AxisNames] = []
    for name, axes in zip(names, resolved or (), strict=True):
        if name in ruled:
            entries.append(axes)
        elif isinstance(name, tuple):  # several at once: each by its first rule
            first_rules = dict(reversed(list(rules)))
            meanings = [first_rules.get(logical, logical) for logical in name]
            entries.append(tuple(a for m in meanings for a in names_of(m)) or None)
        else:
            entries.append(None if name is PartitionSpec.UNCONSTRAINED else name)
    return PartitionSpec(*entries)
