"""Where leaves live: options, what the target carries, Flax's metadata -> shardings.

Reads no bytes and puts nothing anywhere.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import jax
import numpy as np
from flax import nnx
from flax.core.spmd import get_logical_axis_rules
from flax.linen.spmd import logical_to_mesh_axes
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
)

from tf2flax._assignment.layouts.nodes import JoinedLayout, Layout, StridedView
from tf2flax._assignment.plans.plan import PlacementReport, Replicated
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.caller import is_one_of, members, show_value
from tf2flax._base.collapsing import summarise
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest
from tf2flax._base.progress import accepts_arguments
from tf2flax._checkpoint.stored_tensor import StoredTensor
from tf2flax._reading.runs import along_axes

from .isolation import ambient_mesh
from .meshes import is_abstract, names_of, show_spec
from .target_leaf import Partitioning, Slot
from .targets import named_leaves
from .uneven import ShardedDimension, describe_way_out

# A name of a mesh axis, several, or None, as entries of a PartitionSpec are.
AxisNames = str | tuple[str, ...] | None
# Pairs of a logical name and the mesh axes that it means.
LogicalRules = Sequence[tuple[str, AxisNames]]
# What a leaf's opinion may be; None for none.
Opinion = Sharding | PartitionSpec | None
# What the option `sharding` takes: one for all leaves, a tree, or a function.
ShardingOption = Any

_UNEVEN: Final = ("error", "replicate")


@dataclasses.dataclass(frozen=True, slots=True)
class ShardedLeaf:
    """A leaf, as functions that choose shardings see it.

    Attributes:
        name: Its name in the target.
        shape: Its shape.
        dtype: Its dtype.
        sources: The tensors that fill it; none for a leaf that is initialised.
        partitioned_axis: The axis along which its tensors are saved as slices of a
            partitioned variable; None where they are not.
        other_names: Further names of it: of a Variable that is tied to another.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sources: tuple[StoredTensor, ...] = ()
    partitioned_axis: int | None = None
    other_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of its names."""
        return (self.name, *self.other_names)


class PartitionRules:
    """Shardings by rule; made by `partition_rules`."""

    __slots__ = ("rules",)
    rules: tuple[tuple[re.Pattern[str], PartitionSpec], ...]

    def __init__(
        self, rules: tuple[tuple[re.Pattern[str], PartitionSpec], ...]
    ) -> None:
        """Wraps rules; made by `partition_rules`, not by users."""
        self.rules = rules

    def match(self, names: Sequence[str]) -> int | None:
        """The number of the first rule that matches a leaf; None where none does."""
        numbers = (
            i
            for i, (regex, _) in enumerate(self.rules)
            if any(regex.search(name) for name in names)
        )
        return next(numbers, None)

    def __call__(self, leaf: ShardedLeaf) -> PartitionSpec:
        """The spec of a leaf; replicated where no rule matches."""
        number = self.match(leaf.names)
        return PartitionSpec() if number is None else self.rules[number][1]

    def __repr__(self) -> str:
        """As it is written."""
        pairs = (f"({regex.pattern!r}, {show_spec(p)})" for regex, p in self.rules)
        shown = ", ".join(pairs)
        return f"partition_rules([{shown}])"


def partition_rules(rules: Iterable[tuple[str, PartitionSpec]]) -> PartitionRules:
    """Shards leaves by rule: a value for the option `sharding`.

    A leaf that no rule matches is replicated, and the plan says so; so it does of rules
    that match no leaf.

    Args:
        rules: Pairs of a regex, searched in the leaf's name, and the PartitionSpec of
            the leaves that it matches; the first that matches counts.

    Returns:
        A function of leaves.

    Raises:
        AssignmentError: They are no such pairs, or a regex is malformed.

    Examples:
        >>> import tf2flax
        >>> from jax.sharding import PartitionSpec as P
        >>> tf2flax.partition_rules([("kernel$", P(None, "model")), ("", P())])
        partition_rules([('kernel$', P(None, 'model')), ('', P())])
    """
    given: Any = rules
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise AssignmentError(
            "partition_rules: expected pairs of a regex and a PartitionSpec, got "
            f"{type(given).__name__}."
        )
    parsed: list[tuple[re.Pattern[str], PartitionSpec]] = []
    pair: Any
    for number, pair in enumerate(members("partition_rules", given), start=1):
        items: Any = pair if isinstance(pair, (tuple, list)) else ()
        if (
            len(items) != 2
            or not _is_regex(items[0])
            or not isinstance(items[1], PartitionSpec)
        ):
            raise AssignmentError(
                f"partition_rules: expected pairs of a regex and a PartitionSpec, got "
                f"{show_value(pair)} as number {number}."
            )
        try:
            parsed.append((re.compile(items[0]), items[1]))
        except (re.error, OverflowError, RecursionError) as error:
            raise AssignmentError(
                f"partition_rules: {show_value(items[0])} is no regular "
                f"expression: {error}."
            ) from error
    return PartitionRules(tuple(parsed))


def _is_regex(value: object) -> bool:
    """Whether a value is text, or a compiled pattern of text."""
    is_compiled = isinstance(value, re.Pattern) and isinstance(value.pattern, str)
    return isinstance(value, str) or is_compiled


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionedAxes:
    """Shardings after the partitions in the checkpoint; made by `from_partitions`."""

    axis: str | tuple[str, ...]

    def __call__(self, leaf: ShardedLeaf) -> PartitionSpec | None:
        """The spec of a leaf; None where its tensors are not partitioned."""
        if leaf.partitioned_axis is None:
            return None
        return PartitionSpec(*[None] * leaf.partitioned_axis, self.axis)


def from_partitions(axis: str | tuple[str, ...]) -> PartitionedAxes:
    """Shards leaves as their variables were partitioned: a value for `sharding`.

    A leaf that a partitioned variable fills is sharded along the partitioned dimension,
    into as many shards as the mesh has, however many partitions were saved. About other
    leaves it has no opinion.

    Args:
        axis: The mesh axis to shard on, or several.

    Returns:
        A function of leaves.

    Raises:
        AssignmentError: It is no name.

    Examples:
        >>> import tf2flax
        >>> tf2flax.from_partitions("model")
        PartitionedAxes(axis='model')
    """
    names: tuple[Any, ...] = axis if isinstance(axis, tuple) else (axis,)
    if not names or not all(isinstance(name, str) for name in names):
        raise AssignmentError(
            f"from_partitions: expected the name of a mesh axis, got "
            f"{show_value(axis)}."
        )
    return PartitionedAxes(axis)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlacementOptions:
    """What the caller says about where leaves live; see `tf2flax.plan`."""

    sharding: ShardingOption = None
    mesh: Mesh | AbstractMesh | None = None
    logical_axis_rules: LogicalRules | None = None
    on_uneven: Literal["error", "replicate"] = "error"

    def __post_init__(self) -> None:
        mesh: Any = self.mesh
        if not isinstance(mesh, (Mesh, AbstractMesh, type(None))):
            raise AssignmentError(
                f"Option mesh: expected a jax.sharding.Mesh, got {show_value(mesh)}."
            )
        if mesh is not None and mesh.empty:
            raise AssignmentError(
                "Option mesh: the mesh has no axes and no devices (that of "
                "jax.sharding.get_mesh() where none is set). Give one that has some, "
                "or None."
            )
        if problem := _manual_axes(mesh):
            raise AssignmentError(f"Option mesh: {problem}")
        if not is_one_of(self.on_uneven, _UNEVEN):
            raise AssignmentError(
                f"Option on_uneven: expected 'error' or 'replicate', got "
                f"{show_value(self.on_uneven)}."
            )
        _check_logical_rules(self.logical_axis_rules)


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where leaves live.

    Attributes:
        shardings: By leaf; those about which nobody has an opinion are left out.
        report: What is worth knowing about them.
    """

    shardings: Mapping[str, Sharding]
    report: PlacementReport


def choose_placement(
    assignments: Sequence[Assignment],
    slots: Iterable[Slot],
    manifest: Manifest,
    options: PlacementOptions,
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
    wants_sources = _is_function(options.sharding)
    leaves = [
        _loaded_leaf(one, by_name[one.leaf], manifest if wants_sources else None)
        for one in assignments
    ]
    leaves += [_bare_leaf(by_name[name]) for name in initialised]
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
        # What would fit is known once all leaves are.
        problems = [
            f"Leaf `{name}`: {error}{chooser.way_out(error)}"
            for name, error in misfits.items()
        ]
        raise AssignmentError(summarise(problems))
    return Placement(shardings, chooser.report(leaves))


def expected_shardings(
    slots: Sequence[Slot], options: PlacementOptions
) -> list[Sharding]:
    """Lists shardings that leaves may get, before anything is known of the checkpoint.

    Args:
        slots: All leaves of the target.
        options: What the caller says.

    Returns:
        The shardings; those that functions of leaves choose by mesh, or by tensors,
        are not all among them.
    """
    option = options.sharding
    found: list[Any] = [slot.sharding for slot in slots]
    mesh = options.mesh or ambient_mesh()
    if isinstance(option, (Sharding, PartitionSpec)):
        found.append(option)
    elif _is_function(option):
        found += [None] if mesh else _guesses(option, slots)
    elif option is not None:
        found += [value for _, value in named_leaves(option)]
    is_metadata = any(slot.partitioning for slot in slots)
    has_specs = any(isinstance(one, PartitionSpec) for one in found)
    if mesh is not None and (is_metadata or has_specs or _is_function(option)):
        found.append(NamedSharding(mesh, PartitionSpec()))
    return [one for one in found if isinstance(one, Sharding)]


def _guesses(function: Callable[[ShardedLeaf], Any], slots: Sequence[Slot]) -> Any:
    """What a function says of leaves whose tensors are not known yet."""
    if jax.process_count() == 1:  # nobody needs to know
        return
    for slot in slots:
        with contextlib.suppress(Exception):  # it will say so again, with its reason
            yield function(_bare_leaf(slot))


def _manual_axes(mesh: Mesh | AbstractMesh | None) -> str:
    """Says that a mesh has axes along which no array can be placed; "" where not."""
    if mesh is None or AxisType.Manual not in mesh.axis_types:
        return ""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    shown = ", ".join(f"`{name}`" for name, kind in kinds if kind == AxisType.Manual)
    return (
        f"the mesh has Manual axes ({shown}), along which arrays live only inside of "
        "jax.shard_map. Give a mesh whose axes are Auto or Explicit."
    )


def _settled(spec: PartitionSpec) -> PartitionSpec:
    """A spec as it says where values lie.

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


class _Chooser:
    """Chooses shardings leaf by leaf, and remembers what is worth knowing."""

    def __init__(self, options: PlacementOptions, names: Sequence[str]) -> None:
        self._options = options
        self._mesh = options.mesh or ambient_mesh()
        self._opinion = _opinions(options.sharding, names)
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
            opinion = self._on_mesh(_settled(opinion))
        if isinstance(opinion, NamedSharding):
            if opinion.mesh.empty:
                raise _MisfitError(
                    "its sharding is over a mesh without axes and devices. Give one "
                    "over a mesh that has some."
                )
            if problem := _manual_axes(opinion.mesh):
                raise _MisfitError(problem)
            _settled(opinion.spec)
            return self._fitted(leaf, self._concrete(opinion))
        if problem := _problem_of(opinion, leaf.shape):
            raise _MisfitError(problem)
        return opinion

    def way_out(self, error: _MisfitError) -> str:
        """What to do about a leaf that does not fit, where its message lacks that."""
        mesh = error.mesh
        if mesh is None:
            return ""
        if mesh not in self._ways_out:
            self._ways_out[mesh] = describe_way_out(mesh, self._dimensions)
        return f" {self._ways_out[mesh]}"

    def _of_target(self, slot: Slot) -> Opinion:
        """What the target says of a leaf: its sharding, else its metadata."""
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
        """What is worth knowing, once all leaves are placed."""
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
        return _named(self._mesh, spec, None)

    def _concrete(self, sharding: NamedSharding) -> NamedSharding:
        """Puts the mesh that is given, or in force, in place of an abstract one."""
        if not isinstance(sharding.mesh, AbstractMesh):
            return sharding
        if self._mesh is None:
            raise _MisfitError(
                "its sharding is over an AbstractMesh, which has no devices. Give "
                "option mesh a jax.sharding.Mesh, or call under jax.set_mesh."
            )
        return _named(self._mesh, _settled(sharding.spec), sharding.memory_kind)

    def _of_metadata(self, partitioning: Partitioning) -> NamedSharding | None:
        """What Flax's partitioning metadata means on a mesh; None without any mesh."""
        mesh = self._options.mesh or partitioning.mesh or self._mesh
        if mesh is None or mesh.empty:
            return None
        rules = self._options.logical_axis_rules
        if rules is None:
            rules = [*(partitioning.rules or ()), *get_logical_axis_rules()]
        return _named(mesh, _mesh_axes(partitioning.names, rules, mesh), None)

    def _fitted(self, leaf: ShardedLeaf, sharding: NamedSharding) -> NamedSharding:
        """Checks that the mesh divides the leaf, or replicates what it does not."""
        entries = [
            None if entry is PartitionSpec.UNCONSTRAINED else entry
            for entry in sharding.spec
        ]
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
        uneven = [one for one in dimensions if one.is_uneven]
        if self._options.on_uneven == "error":
            self._dimensions += dimensions
            if uneven:
                raise _uneven_error(leaf.shape, sharding, uneven)
        for one in uneven:
            self._replicated.append(
                Replicated(leaf.name, one.number, one.size, one.names, one.count)
            )
            entries[one.number] = None
        if entries == list(sharding.spec):
            return sharding
        spec = PartitionSpec(*entries)
        return _named(sharding.mesh, spec, sharding.memory_kind)


def _uneven_error(
    shape: tuple[int, ...], sharding: NamedSharding, uneven: Sequence[ShardedDimension]
) -> _MisfitError:
    """Says which dimensions a mesh does not divide."""
    facts = "; ".join(one.describe() for one in uneven)
    error = _MisfitError(
        f"shape {list(shape)} does not fit {show_spec(sharding.spec)}: {facts}."
    )
    error.mesh = sharding.mesh
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


def _named(
    mesh: Mesh | AbstractMesh, spec: PartitionSpec, memory_kind: str | None
) -> NamedSharding:
    named = [name for entry in spec for name in names_of(entry)]
    unknown = [name for name in named if name not in mesh.axis_names]
    if unknown:
        shown = ", ".join(f"`{name}`" for name in dict.fromkeys(unknown))
        raise _MisfitError(
            f"{show_spec(spec)} names {shown}, but the mesh has the axes "
            f"{', '.join(f'`{name}`' for name in mesh.axis_names)}."
        )
    twice = [name for i, name in enumerate(named) if name in named[:i]]
    if twice:
        raise _MisfitError(f"{show_spec(spec)} names `{twice[0]}` twice.")
    return NamedSharding(mesh, spec, memory_kind=memory_kind)


def _mesh_axes(
    names: Sequence[Any], rules: LogicalRules, mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """Resolves the names of Flax's metadata: by rules, else as axes of the mesh."""
    known = {name for name, _ in rules}
    flat = [name for entry in names for name in names_of(entry)]
    try:
        axes_named = dict.fromkeys(flat)
    except TypeError as error:  # dicts, say
        raise _MisfitError(f"its metadata names no axes: {error}.") from error
    unknown = [name for name in axes_named if name not in {*known, *mesh.axis_names}]
    if unknown:
        shown = ", ".join(f"`{name}`" for name in unknown)
        axes = ", ".join(f"`{name}`" for name in mesh.axis_names)
        raise _MisfitError(
            f"no rule resolves the logical axis {shown} of {tuple(names)}, and the "
            f"mesh has the axes {axes}. Give logical_axis_rules; a rule to None "
            "replicates."
        )
    logical = [name if name in known else None for name in names]
    try:
        resolved = logical_to_mesh_axes(tuple(logical), tuple(rules))
    except ValueError as error:
        raise _MisfitError(str(error)) from error
    entries: list[AxisNames] = []
    for name, axes in zip(names, resolved or (), strict=True):
        if name in known:
            entries.append(axes)
        elif isinstance(name, tuple):  # several at once: each by its first rule
            means = dict(reversed(list(rules)))
            parts = [part for one in name for part in names_of(means.get(one, one))]
            entries.append(tuple(parts) or None)
        else:
            entries.append(None if name is PartitionSpec.UNCONSTRAINED else name)
    return PartitionSpec(*entries)


def _check_logical_rules(rules: object) -> None:
    if rules is None:
        return
    is_pairs = isinstance(rules, (tuple, list)) and all(
        isinstance(rule, (tuple, list))
        and len(rule) == 2
        and isinstance(rule[0], str)
        and isinstance(rule[1], (str, tuple, type(None)))
        for rule in rules
    )
    if not is_pairs:
        raise AssignmentError(
            "Option logical_axis_rules: expected pairs of a logical name and the mesh "
            f"axis that it means (or None), got {show_value(rules)}."
        )


def _opinions(
    option: ShardingOption, names: Sequence[str]
) -> Callable[[ShardedLeaf], Opinion]:
    """Turns the option `sharding` into a function of leaves.

    Raises:
        AssignmentError: It is nothing of the kind.
    """
    if option is None or isinstance(option, (Sharding, PartitionSpec)):
        return lambda _: option
    if _is_function(option):
        if isinstance(option, type) or not accepts_arguments(option, 1):
            raise AssignmentError(
                "Option sharding: expected a function of one argument, a leaf, that "
                f"gives a Sharding, a PartitionSpec or None, got {show_value(option)}."
            )

        def choose(leaf: ShardedLeaf) -> Opinion:
            return _checked(option(leaf), f"gave for leaf `{leaf.name}`")

        return choose
    if (
        isinstance(option, (str, bytes, Mesh, AbstractMesh, jax.Device, jax.Array))
        or np.isscalar(option)
        or isinstance(option, np.ndarray)
    ):
        raise AssignmentError(
            "Option sharding: expected a jax.sharding.Sharding, a PartitionSpec, a "
            f"tree of them, or a function of leaves, got "
            f"{show_value(option)}.{_hint(option)}"
        )
    tree = {
        name: _checked(value, f"has at `{name}`")
        for name, value in named_leaves(option)
    }
    useless = [
        name
        for name in tree
        if name and not any(f"{leaf}/".startswith(f"{name}/") for leaf in names)
    ]
    if useless:
        shown = ", ".join(f"`{name}`" for name in useless[:20])
        raise AssignmentError(
            f"Option sharding: the tree has {shown}, where the target has no leaf. "
            "Give a tree of the target's structure, or of its upper levels."
        )

    def find(leaf: ShardedLeaf) -> Opinion:
        scopes = (scope for name in leaf.names for scope in _scopes(name))
        return next((tree[scope] for scope in scopes if scope in tree), None)

    return find


def _is_function(option: ShardingOption) -> bool:
    """Whether an option is a function of leaves: an NNX module may be called too."""
    return callable(option) and not isinstance(option, (nnx.Pytree, Mesh))


def _hint(value: Any) -> str:
    """What was probably meant."""
    if isinstance(value, (Mesh, AbstractMesh)):
        return " Give it as mesh=, and a PartitionSpec here."
    if isinstance(value, jax.Device):
        return " Give jax.sharding.SingleDeviceSharding(device)."
    return ""


def _scopes(name: str) -> Iterator[str]:
    """A name and the scopes around it, the nearest first, the root last."""
    while name:
        yield name
        name = name.rpartition("/")[0]
    yield ""


def _checked(value: Any, what: str) -> Opinion:
    if value is None or isinstance(value, (Sharding, PartitionSpec)):
        return value
    raise AssignmentError(
        "Option sharding: expected a jax.sharding.Sharding, a PartitionSpec or None, "
        f"but it {what} {show_value(value)}.{_hint(value)}"
    )


def _bare_leaf(slot: Slot) -> ShardedLeaf:
    leaf = slot.leaf
    dtype: Any = getattr(slot.value, "dtype", object) if leaf.dtype is None else None
    return ShardedLeaf(
        leaf.name, leaf.shape, leaf.dtype or dtype, other_names=leaf.names[1:]
    )


def _loaded_leaf(
    assignment: Assignment, slot: Slot, manifest: Manifest | None
) -> ShardedLeaf:
    """A leaf as functions see it; without a manifest nobody asks for its tensors."""
    sources: tuple[StoredTensor, ...] = ()
    axis: int | None = None
    if manifest is not None:
        entries = [manifest.entry(name) for name in assignment.sources]
        sources = tuple(map(StoredTensor, entries))
        cut_axes = {one.name: _cut_axis(one) for one in sources}
        axis = _partitioned_axis(assignment.layout, cut_axes)
    return ShardedLeaf(
        assignment.leaf,
        assignment.shape,
        assignment.dtype,
        sources,
        axis,
        slot.leaf.names[1:],
    )


def _cut_axis(tensor: StoredTensor) -> int | None:
    """The axis along which a tensor is saved as slices."""
    for axis, dim in enumerate(tensor.shape):
        if any(part[axis] != slice(0, dim) for part in tensor.slices):
            return axis
    return None


def _partitioned_axis(layout: Layout, cut_axes: Mapping[str, int | None]) -> int | None:
    """The axis of a layout that runs along the partitioned axis of its tensors."""
    if isinstance(layout, JoinedLayout):
        axes = {_partitioned_axis(operand, cut_axes) for _, operand in layout.operands}
        return axes.pop() if len(axes) == 1 else None
    if not isinstance(layout, StridedView) or cut_axes[layout.source] is None:
        return None
    if 0 in layout.shape:
        return None
    view = along_axes(layout.base.shape, layout.offset, layout.shape, layout.strides)
    if view is None:
        return None
    steps = {
        axis: abs(step)
        for axis, (base_axis, step) in enumerate(view.along)
        if base_axis == cut_axes[layout.source]
    }
    return max(steps, key=lambda axis: steps[axis]) if steps else None
