"""Resolves a map: entries, leaves and a manifest -> which tensors fill which leaf.

1. `rules` and `PlainEntries` find by names alone which entries reach which leaves.
2. `precedence` gives every leaf that a rule reaches to the entry that says most of its
   name. The order of entries in the map does not matter.
3. Rules claim what they won; plain entries then claim the other leaves in TensorFlow's
   order.
4. `claims` compares shapes and dtypes. All problems are collected: the caller gets a
   complete resolution, or one error with all of them.

Plain entries follow TensorFlow's own rules: keys in ascending order, later ones win.
`PlainEntries` can be read beside TensorFlow's function: `apply_entries` is the loop
over `sorted(assignment_map.items())`, and the methods `_assign_*` are its branches, in
the same order. TensorFlow has neither rules, which may override entries, nor aliases,
tied Variables and options that keep leaves.

Source: `_init_from_checkpoint`, tensorflow/python/training/checkpoint_utils.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tf2flax._assignment.language.aliases import alias_sources
from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.entries import MapEntry, PlainEntry, Rule
from tf2flax._assignment.language.expressions import Source
from tf2flax._assignment.language.grammar import has_braces
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest

from . import problems
from .assignments import Leaf, Resolution
from .claims import Claim, Claims
from .partitions import family_of, member_of_scope, parts_of
from .policies import MapOptions
from .precedence import PlainReach, choose_winners, strength_of_name, strength_of_scope
from .rules import apply_rules, find_reaches


def resolve_map(
    entries: Sequence[MapEntry],
    leaves: Sequence[Leaf],
    manifest: Manifest,
    options: MapOptions,
    *,
    x64: bool,
    is_initialised: bool = False,
) -> Resolution:
    """Finds what fills each leaf, and which leaves stay as they are.

    Args:
        entries: The entries of the map.
        leaves: The leaves of the target.
        manifest: The checkpoint.
        options: Options that decide what the map means.
        x64: True if JAX holds 64-bit dtypes.
        is_initialised: True if leaves that stay are made anew, also abstract ones.

    Returns:
        The resolution.

    Raises:
        AssignmentError: Entries do not fit the target or the checkpoint; all problems
            are listed, with the nearest names.
        DamagedError: The entry of a tensor that fills a leaf is malformed.
    """
    claims = Claims(leaves, manifest, options, x64=x64, is_initialised=is_initialised)
    rules = [entry for entry in entries if isinstance(entry, Rule)]
    plain_entries = [entry for entry in entries if isinstance(entry, PlainEntry)]
    plain = PlainEntries(claims, plain_entries)
    if rules:
        reaches = find_reaches(claims, rules)
        contested = {leaf for reach in reaches for leaf in reach.leaves}
        rivals = plain.find_reaches(contested)
        apply_rules(claims, choose_winners(claims, reaches, rivals))
    plain.apply_entries()
    if rules:
        plain.refuse_lost_names()
    return claims.build_resolution(entries)


# Name of a tensor, and the last component of the leaf's name if an alias replaced it.
_Spelling = tuple[str, str | None]


class PlainEntries:
    """The plain entries of one map."""

    def __init__(self, claims: Claims, entries: Sequence[PlainEntry]) -> None:
        """Sorts entries by key; `claims` has what rules have claimed so far."""
        self._claims = claims
        self._index = claims.index
        self._manifest = claims.manifest
        self._members: dict[str, list[str]] = {}
        self._entries = sorted(entries, key=lambda entry: entry.source)

    def find_reaches(self, leaves: set[str]) -> dict[str, list[PlainReach]]:
        """Finds which entries reach some leaves, by names alone.

        Args:
            leaves: Names of the leaves: those that rules reach as well.

        Returns:
            For each leaf, the entries that reach it, in TensorFlow's order.
        """
        reached: dict[str, list[PlainReach]] = {}
        for entry in self._entries if leaves else ():
            names = self._named_by(entry)
            strength = strength_of_name()
            if not names and isinstance(entry.target, str):
                names = self._in_scope_of(entry)
                strength = strength_of_scope(entry.target)
            reach = PlainReach(entry, strength)
            for leaf in leaves.intersection(names):
                reached.setdefault(leaf, []).append(reach)
        return reached

    def _named_by(self, entry: PlainEntry) -> list[str]:
        """The leaves that an entry names, of a family all parts; () for a scope."""
        target = entry.target
        if isinstance(target, str):
            is_leaf = target in self._index
            target = (target,) if is_leaf else parts_of(target, self._index)
        return [self._index[name] for name in target]

    def _in_scope_of(self, entry: PlainEntry) -> list[str]:
        """The leaves that an entry reaches as a scope."""
        target = entry.target
        assert isinstance(target, str)
        if not (target.endswith("/") and entry.source.endswith("/")):
            return []
        members = self._scope_members(target[:-1])
        return [leaf for member in members for leaf in self._leaves_of(member)]

    def refuse_lost_names(self) -> None:
        """Reports entries that name a leaf and lose it to a scope by key order alone.

        That is TensorFlow's order, but in a map with rules it would contradict the
        order in which rules win, where a name is stronger than any scope.
        """
        order = {id(entry): place for place, entry in enumerate(self._entries)}
        for entry in self._entries:
            for leaf in self._named_by(entry):
                winner = self._claims.entry_of(leaf)
                if (
                    isinstance(winner, PlainEntry)
                    # `precedence` has settled the leaves that rules reach.
                    and leaf not in self._claims.rule_leaves
                    and order[id(winner)] > order[id(entry)]
                    and not self._named_by(winner)
                ):
                    problem = problems.NameLoses(entry, winner, leaf)
                    self._claims.problems.append(problem)

    def apply_entries(self) -> None:
        """Adds the claims of all entries, except on leaves that rules get."""
        for entry in self._entries:
            self._apply_entry(entry)

    def _apply_entry(self, entry: PlainEntry) -> None:
        """Adds the claims of one entry, or its problems."""
        if isinstance(entry.target, tuple):
            if entry.is_list:
                self._assign_list(entry, entry.target)
            else:
                self._assign_leaf(entry, entry.target[0])
        elif entry.target in self._index:
            self._assign_leaf(entry, self._index[entry.target])
        elif parts := parts_of(entry.target, self._index):
            self._assign_parts(entry, parts)
        elif entry.target.endswith("/"):
            self._assign_scope(entry, entry.target)
        elif not entry.is_optional:
            self._claims.problems.append(problems.TargetNotFound(entry, entry.target))

    def _claimable(self, entry: PlainEntry, leaves: Iterable[str]) -> list[str]:
        """The leaves that `precedence` does not give to another entry."""
        free: list[str] = []
        for leaf in leaves:
            winner = self._claims.rule_leaves.get(leaf, entry)
            if winner is entry:
                free.append(leaf)
            else:
                self._claims.record_override(leaf, entry.source, entry, winner)
        return free

    def _report_clash(self, entry: PlainEntry, leaves: Iterable[str]) -> bool:
        """Reports a rule that names one of the leaves an entry names; False if none.

        A rule with captures is weaker, and loses the leaf.
        """
        for leaf in leaves:
            rule = self._claims.rule_leaves.get(leaf)
            if isinstance(rule, Rule) and rule.names_leaves:
                self._claims.problems.append(problems.Clash(entry, rule, leaf))
                return True
        return False

    def _source_exists(
        self, entry: PlainEntry, leaves: Sequence[str], parts: tuple[str, ...] = ()
    ) -> bool:
        """True if the key names a tensor; reports it as missing if not.

        Args:
            entry: The entry.
            leaves: The leaves that it would fill.
            parts: All leaves of the family that they are parts of; () if none.
        """
        if entry.source in self._manifest:
            return True
        keeps = self._claims.options.on_missing.keeps
        if entry.is_optional or (leaves and all(keeps(leaf) for leaf in leaves)):
            # Several leaves that are not one family are not one tensor.
            is_one = bool(parts) or len(leaves) == 1
            source = _source_of(entry.source) if is_one else None
            self._claims.report_missing(
                entry, leaves, [entry.source], source=source, parts=parts
            )
        else:
            self._claims.problems.append(
                problems.SourceNotFound(entry, entry.source, None)
            )
        return False

    def _assign_leaf(self, entry: PlainEntry, leaf: str) -> None:
        """One tensor to one leaf."""
        if self._report_clash(entry, [leaf]) or not self._claimable(entry, [leaf]):
            return
        if not self._source_exists(entry, [leaf]):
            return
        claim = Claim(leaf, _source_of(entry.source), entry)
        # TensorFlow compares shapes here at once, before a later entry can replace
        # this one; for scopes and parts it only does when variables are initialised.
        # Where a mismatch is not an error, names alone decide, as for all entries.
        try:
            self._claims.box_of(claim, self._claims.layout_of(claim.source))
        except AssignmentError as error:
            if not self._claims.options.on_mismatch.keeps(leaf):
                self._claims.report_mismatch(claim, error)
                return
        self._claims.assign(claim)

    def _assign_list(self, entry: PlainEntry, leaves: tuple[str, ...]) -> None:
        """One tensor to a list of parts, in any order."""
        if self._report_clash(entry, leaves):
            return
        free = self._claimable(entry, leaves)
        # An empty list fills nothing, but its tensor must exist, as in TensorFlow.
        family = family_of(leaves[0]) if leaves else None
        parts = parts_of(family[0], self._index) if family else ()
        if (free or not leaves) and not self._source_exists(entry, free, parts):
            return
        if leaves and (parts := self._claims.find_family(entry, leaves)):
            self._claim_parts(entry, free, parts)

    def _assign_parts(self, entry: PlainEntry, parts: tuple[str, ...]) -> None:
        """One tensor to all parts of a family."""
        leaves = [self._index[name] for name in parts]
        if self._report_clash(entry, leaves):
            return
        free = self._claimable(entry, leaves)
        if free and self._source_exists(entry, free, parts):
            self._claim_parts(entry, free, parts)

    def _claim_parts(
        self, entry: PlainEntry, leaves: Iterable[str], parts: tuple[str, ...]
    ) -> None:
        source = _source_of(entry.source)
        for leaf in leaves:
            self._claims.assign(Claim(leaf, source, entry, parts))

    def _assign_scope(self, entry: PlainEntry, target: str) -> None:
        """Every tensor under a scope to the leaf of the same name under another."""
        if not entry.source.endswith("/"):
            self._claims.problems.append(problems.KeyIsNotScope(entry))
            return
        # TensorFlow cuts the value at its last `/`, and adds `/` again for members.
        scope = target[: target.rindex("/")]
        members = self._scope_members(scope)
        if members and "/part_" in scope:
            self._claims.problems.append(problems.CutScope(entry))
            return
        done: set[str] = set()
        for name in members:
            self._assign_member(entry, target, scope, name, done)

    def _scope_members(self, scope: str) -> list[str]:
        """Names under a scope, sorted; the parts of a family are one member."""
        if scope not in self._members:  # asked for twice in a map with rules
            prefix = f"{scope}/" if scope else ""
            members = {
                member_of_scope(name, scope, self._index)
                for name, leaf in self._index.items()
                if name.startswith(prefix)
                and self._claims.leaves[leaf].dtype is not None
            }
            self._members[scope] = sorted(members)
        return self._members[scope]

    def _leaves_of(self, member: str) -> list[str]:
        """The leaf that a member of a scope is, or the parts of its family."""
        names = [member] if member in self._index else parts_of(member, self._index)
        return [self._index[name] for name in names]

    def _assign_member(
        self, entry: PlainEntry, target: str, scope: str, name: str, done: set[str]
    ) -> None:
        """One member of a scope; `done` are leaves reached under another name."""
        leaf = self._index.get(name)
        # A tied Variable may lie under the scope several times; it is filled once.
        if leaf in done:
            return
        if leaf:
            done.add(leaf)
        leaves = self._leaves_of(name)
        free = self._claimable(entry, leaves)
        if not free:
            return
        spellings = self._spellings(entry, target, scope, name)
        parts = () if leaf else parts_of(name, self._index)
        spelling = self._choose_spelling(entry, spellings, free, leaf or name, parts)
        if spelling is None:
            return
        source, alias = spelling
        expression = _source_of(source)
        for claimed in free:
            self._claims.assign(Claim(claimed, expression, entry, parts, alias))

    def _spellings(
        self, entry: PlainEntry, target: str, scope: str, name: str
    ) -> list[_Spelling]:
        """Names that a member's tensor may have, exact ones first."""
        names = self._claims.names_within(name, scope)
        exact = [_member_source(entry.source, target, scope, n) for n in names]
        spellings: list[_Spelling] = [(source, None) for source in exact]
        aliases = self._claims.options.aliases or {}
        for source, member in zip(exact, names, strict=True):
            component = member.rpartition("/")[2]
            if component not in aliases:  # as most
                continue
            spellings += [
                (spelled, component)
                for spelled in alias_sources(source, component, aliases)
            ]
        return spellings

    def _choose_spelling(
        self,
        entry: PlainEntry,
        spellings: Sequence[_Spelling],
        leaves: Sequence[str],
        member: str,
        parts: tuple[str, ...],
    ) -> _Spelling | None:
        """The first spelling that the checkpoint has.

        Args:
            entry: The entry.
            spellings: Names that the tensor may have.
            leaves: The leaves that need it.
            member: Name of the leaf or family, for messages.
            parts: All leaves of the family; () if it is a leaf.

        Returns:
            The spelling; None if there is a problem, which is reported.
        """
        present = [spelling for spelling in spellings if spelling[0] in self._manifest]
        if not present:
            exact = spellings[0][0]
            self._claims.report_missing(
                entry, leaves, [exact], source=_source_of(exact), parts=parts
            )
            return None
        source, alias = present[0]
        if alias is not None and len(by_alias := dict(present)) > 1:
            problem = problems.Ambiguous(entry, member, tuple(by_alias))
            self._claims.problems.append(problem)
            return None
        return source, alias


def _source_of(name: str) -> Source:
    """The source that a tensor is."""
    return Source(literal_pattern(name) if has_braces(name) else name)


def _member_source(key: str, target: str, scope: str, name: str) -> str:
    """Name of the tensor that fills a member of a scope, built as TensorFlow does.

    Args:
        key: The entry's key, a scope of the checkpoint.
        target: The entry's value, a scope of the target.
        scope: That value up to its last `/`.
        name: The member's name.

    Returns:
        The tensor's name.
    """
    below_scope = name[len(scope) :]
    if target != "/":
        below_scope = below_scope[1:]  # the `/` between scope and name
    source = below_scope if key == "/" else key + below_scope
    return source.removesuffix("/")
