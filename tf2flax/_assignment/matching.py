"""Entries of a map, leaves and a manifest -> which tensor fills which leaf.

The rules, and their order, are those of TensorFlow's `_init_from_checkpoint`: entries
in ascending order of their keys, later ones replacing earlier ones. Every problem is
collected; the caller gets all or nothing.

Source: tensorflow/python/training/checkpoint_utils.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from tf2flax._errors import AssignmentError, UnsupportedError
from tf2flax._manifest import Manifest
from tf2flax._specs import TensorSlice, TensorSpec

from . import problems
from .aliases import alias_sources
from .dtypes import DtypePolicy, result_dtype
from .partitions import family_of, parts_of, tile
from .values import Assignment, Leaf, MapEntry, Override, Resolution


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How a map is read.

    Attributes:
        aliases: Leaf name -> tensor names to try within scopes; None for none.
        dtype: Which dtype a leaf gets.
        x64: Whether JAX holds 64-bit dtypes.
    """

    aliases: Mapping[str, tuple[str, ...]] | None
    dtype: DtypePolicy
    x64: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Claim:
    """A leaf that an entry fills, before shapes and dtypes are compared.

    `parts` are all leaves of the family that the leaf is a part of, else ().
    """

    leaf: str
    source: str
    entry: MapEntry
    parts: tuple[str, ...] = ()
    alias: str | None = None


def resolve(
    entries: Sequence[MapEntry],
    leaves: Sequence[Leaf],
    manifest: Manifest,
    options: Options,
) -> Resolution:
    """Resolves a map.

    Args:
        entries: The map, in any order.
        leaves: All leaves of the target.
        manifest: The checkpoint's names and specs.
        options: How the map is read.

    Returns:
        What fills each leaf, and what stays as it is.

    Raises:
        AssignmentError: Entries do not fit the target or the checkpoint; all the
            problems are listed, with the nearest names.
        DamagedError: The entry of a tensor that fills a leaf is malformed.
    """
    resolver = _Resolver(leaves, manifest, options)
    for entry in sorted(entries, key=lambda entry: entry.source):
        resolver.apply(entry)
    return resolver.finish()


class _Resolver:
    """The state of one resolution: claims so far, and everything wrong so far."""

    def __init__(
        self, leaves: Sequence[Leaf], manifest: Manifest, options: Options
    ) -> None:
        self._leaves = {leaf.name: leaf for leaf in leaves}
        # Every name, also a second one of a tied Variable, to the leaf it means.
        self._index = {name: leaf.name for leaf in leaves for name in leaf.names}
        self._manifest = manifest
        self._options = options
        self._claims: dict[str, _Claim] = {}
        self._overridden: list[Override] = []
        self._unused: list[MapEntry] = []
        self._problems: list[problems.Problem] = []

    def apply(self, entry: MapEntry) -> None:
        """Adds the claims of one entry, or its problems."""
        if isinstance(entry.target, tuple):
            if entry.is_list:
                self._assign_list(entry, entry.target)
            else:
                self._assign_leaf(entry, entry.target[0])
        elif entry.target in self._index:
            self._assign_leaf(entry, self._index[entry.target])
        elif parts := parts_of(entry.target, self._index):
            self._assign_parts(entry, parts, parts)
        elif entry.target.endswith("/"):
            self._assign_scope(entry, entry.target)
        else:
            self._problems.append(
                problems.TargetNotFound(entry, entry.target, tuple(self._index))
            )

    def finish(self) -> Resolution:
        """Compares shapes and dtypes of what won, and reports every problem."""
        assignments: dict[str, Assignment] = {}
        for claim in self._claims.values():
            try:
                assignments[claim.leaf] = self._checked(claim)
            except AssignmentError as error:
                self._misfit(claim, str(error))
        if self._problems:
            raise AssignmentError(problems.report(self._problems, self._manifest))
        return Resolution(
            assignments=tuple(
                assignments[name] for name in self._leaves if name in assignments
            ),
            kept=tuple(name for name in self._leaves if name not in assignments),
            overridden=tuple(self._overridden),
            unused_entries=tuple(self._unused),
        )

    def _claim(self, claim: _Claim) -> None:
        earlier = self._claims.pop(claim.leaf, None)
        if earlier and earlier.entry is not claim.entry:
            self._overridden.append(
                Override(claim.leaf, earlier.source, earlier.entry, claim.entry)
            )
        self._claims[claim.leaf] = claim

    def _misfit(self, claim: _Claim, fact: str) -> None:
        """Reports that a leaf and its tensor do not fit; a family's parts together."""
        leaf = claim.leaf
        if claim.parts:
            leaf = claim.parts[0].removesuffix("0") + "*"
        problem = problems.Misfit(claim.entry, leaf, claim.source, fact)
        if problem not in self._problems:
            self._problems.append(problem)

    def _source_exists(self, entry: MapEntry) -> bool:
        if entry.source in self._manifest:
            return True
        self._problems.append(problems.SourceNotFound(entry, entry.source, None))
        return False

    def _assign_leaf(self, entry: MapEntry, leaf: str) -> None:
        """One tensor to one leaf; TensorFlow compares the shapes at once."""
        if not self._source_exists(entry):
            return
        claim = _Claim(leaf, entry.source, entry)
        try:
            self._box(claim, self._spec(claim))
        except AssignmentError as error:
            self._misfit(claim, str(error))
        else:
            self._claim(claim)

    def _assign_list(self, entry: MapEntry, leaves: tuple[str, ...]) -> None:
        """One tensor to a list of parts, in whatever order."""
        if not self._source_exists(entry):
            return
        if not leaves:
            self._unused.append(entry)
            return
        families = {name: family_of(name) for name in leaves}
        named = {family[0] for family in families.values() if family}
        if len(named) > 1 or None in families.values():
            self._problems.append(problems.NotOneFamily(entry, leaves))
            return
        parts = parts_of(named.pop(), self._index)
        if missing := [name for name in leaves if name not in parts]:
            self._problems.append(problems.GapInFamily(entry, missing[0], parts))
            return
        self._assign_parts(entry, leaves, parts)

    def _assign_parts(
        self, entry: MapEntry, leaves: Iterable[str], parts: tuple[str, ...]
    ) -> None:
        if self._source_exists(entry):
            for leaf in leaves:
                name = self._index[leaf]
                self._claim(_Claim(name, entry.source, entry, parts=parts))

    def _assign_scope(self, entry: MapEntry, target: str) -> None:
        """Every tensor under a scope to the leaf of the same name under another."""
        if not entry.source.endswith("/"):
            self._problems.append(problems.KeyIsNoScope(entry))
            return
        scope = target[: target.rindex("/")]
        members = sorted(self._scope_members(scope))
        if not members:
            self._unused.append(entry)
            return
        before = len(self._problems)
        done: set[str] = set()
        for name in members:
            self._assign_member(entry, target, scope, name, done)
        added = self._problems[before:]
        if (
            len(added) > 1
            and all(isinstance(problem, problems.SourceNotFound) for problem in added)
            and not problems.scope_holds_tensors(entry.source, self._manifest.names)
        ):
            # Nothing under the scope: one sentence, not one for each member.
            self._problems[before:] = [problems.ScopeNotFound(entry, len(added))]

    def _scope_members(self, scope: str) -> set[str]:
        """Names under a scope, each cut where a part's number begins."""
        prefix = f"{scope}/" if scope else ""
        return {
            name.partition("/part_")[0]
            for name, leaf in self._index.items()
            if name.startswith(prefix) and self._leaves[leaf].dtype is not None
        }

    def _assign_member(
        self, entry: MapEntry, target: str, scope: str, name: str, done: set[str]
    ) -> None:
        """One member of a scope; `done` are leaves reached under another name."""
        leaf = self._index.get(name)
        parts = () if leaf else parts_of(name, self._index)
        if leaf in done:
            return
        spellings = self._spellings(entry, target, scope, name, leaf)
        if leaf:
            done.add(leaf)
        found = next((s for s in spellings if s[0] in self._manifest), None)
        if found is None:
            self._problems.append(
                problems.SourceNotFound(entry, spellings[0][0], leaf or name)
            )
            return
        source, alias = found
        if ambiguous := self._ambiguous(spellings, alias):
            self._problems.append(problems.Ambiguous(entry, leaf or name, ambiguous))
        elif leaf:
            self._claim(_Claim(leaf, source, entry, alias=alias))
        elif parts:
            for part in parts:
                self._claim(
                    _Claim(self._index[part], source, entry, parts=parts, alias=alias)
                )
        else:
            self._problems.append(problems.CutName(entry, name))

    def _spellings(
        self, entry: MapEntry, target: str, scope: str, name: str, leaf: str | None
    ) -> list[tuple[str, str | None]]:
        """Names that a member's tensor may have, exact ones first, with the alias."""
        prefix = f"{scope}/" if scope else ""
        names = [name]
        if leaf:  # a tied Variable answers to each of its names
            names += [
                other
                for other in self._leaves[leaf].names
                if other != name and other.startswith(prefix)
            ]
        exact = [_member_source(entry.source, target, scope, n) for n in names]
        spelled: list[tuple[str, str | None]] = [(source, None) for source in exact]
        for source, own in zip(exact, names, strict=True):
            component = own.rpartition("/")[2]
            spelled += [
                (alias, component)
                for alias in alias_sources(source, component, self._options.aliases)
            ]
        return spelled

    def _ambiguous(
        self, spellings: list[tuple[str, str | None]], alias: str | None
    ) -> list[str]:
        """Aliases of one leaf that the checkpoint holds, where they are several."""
        if alias is None:
            return []
        found = [s for s, a in spellings if a is not None and s in self._manifest]
        return list(dict.fromkeys(found)) if len(set(found)) > 1 else []

    def _spec(self, claim: _Claim) -> TensorSpec:
        try:
            return self._manifest.entry(claim.source).spec
        except UnsupportedError as error:  # a name that several tensors share
            raise AssignmentError(str(error)) from error

    def _box(self, claim: _Claim, spec: TensorSpec) -> TensorSlice:
        """The box of the tensor that fills a leaf; shapes must agree."""
        leaf = self._leaves[claim.leaf]
        if leaf.dtype is None:
            raise AssignmentError(
                "the leaf holds no numbers (a PRNG key or another object). "
                "Leave it out of the map."
            )
        if not claim.parts:
            if spec.shape != leaf.shape:
                raise AssignmentError(problems.shapes_differ(leaf.shape, spec.shape))
            return TensorSlice.whole(spec.shape)
        parts = [self._leaves[self._index[part]] for part in claim.parts]
        boxes = tile([part.shape for part in parts], spec.shape)
        if boxes is None:
            raise AssignmentError(
                problems.parts_do_not_tile([part.shape for part in parts], spec.shape)
            )
        return boxes[[part.name for part in parts].index(claim.leaf)]

    def _checked(self, claim: _Claim) -> Assignment:
        spec = self._spec(claim)
        leaf = self._leaves[claim.leaf]
        region = self._box(claim, spec)
        assert leaf.dtype is not None  # `_box` refuses such leaves
        return Assignment(
            leaf=claim.leaf,
            source=claim.source,
            region=region,
            is_whole=region.shape == spec.shape,
            shape=leaf.shape,
            stored=spec.dtype,
            dtype=result_dtype(
                spec.dtype, leaf.dtype, self._options.dtype, x64=self._options.x64
            ),
            entry=claim.entry,
            alias=claim.alias,
        )


def _member_source(key: str, target: str, scope: str, name: str) -> str:
    """Name of the tensor that fills a member of a scope.

    Args:
        key: The entry's key, a scope of the checkpoint.
        target: The entry's value, a scope of the target.
        scope: That value up to its last `/`.
        name: The member's name.

    Returns:
        The tensor's name, put together the way TensorFlow does.
    """
    tail = name[len(scope) :]
    if target != "/":
        tail = tail[1:]
    source = tail if key == "/" else key + tail
    return source.removesuffix("/")
