"""Plain entries, by TensorFlow's own rules: ascending keys, later ones win.

Source: `_init_from_checkpoint`, tensorflow/python/training/checkpoint_utils.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tf2flax._assignment.language.aliases import alias_sources
from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.entries import PlainEntry, Rule
from tf2flax._assignment.language.expressions import Source
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._base.errors import AssignmentError

from . import problems
from .claims import Claim, Claims
from .partitions import parts_of
from .precedence import PlainReach, strength_of_name, strength_of_scope


class PlainEntries:
    """The plain entries of one map."""

    def __init__(self, claims: Claims, entries: Sequence[PlainEntry]) -> None:
        """Sorts entries.

        Args:
            claims: What has been claimed so far.
            entries: The entries, in any order.
        """
        self._claims = claims
        self._index = claims.index
        self._manifest = claims.manifest
        self._members: dict[str, list[str]] = {}
        self._entries = sorted(entries, key=lambda entry: entry.source)

    def reaches(self, leaves: set[str]) -> dict[str, list[PlainReach]]:
        """Finds which entries reach leaves, by names alone.

        Args:
            leaves: Names of the leaves that matter.

        Returns:
            By leaf, those that reach it, in TensorFlow's order.
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
        """The leaves that an entry names; of scopes, none."""
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
        """Reports entries that name a leaf and lost it to a scope by key order alone.

        Only of leaves that no rule reaches: the others are settled already.
        """
        order = {id(entry): place for place, entry in enumerate(self._entries)}
        for entry in self._entries:
            for leaf in self._named_by(entry):
                by = self._claims.filler(leaf)
                if (
                    isinstance(by, PlainEntry)
                    and leaf not in self._claims.taken
                    and order[id(by)] > order[id(entry)]
                    and not self._named_by(by)
                ):
                    problem = problems.NameLoses(entry, by, leaf)
                    self._claims.problems.append(problem)

    def apply(self) -> None:
        """Adds the claims of all entries, but for leaves that other entries get."""
        for entry in self._entries:
            self._apply(entry)

    def _apply(self, entry: PlainEntry) -> None:
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
        else:
            self._claims.problems.append(
                problems.TargetNotFound(entry, entry.target, tuple(self._index))
            )

    def _free(self, entry: PlainEntry, leaves: Iterable[str]) -> list[str]:
        """The leaves that an entry may claim; the others it leaves to who gets them."""
        free: list[str] = []
        for leaf in leaves:
            by = self._claims.taken.get(leaf, entry)
            if by is entry:
                free.append(leaf)
            else:
                self._claims.override(leaf, entry.source, entry, by)
        return free

    def _clashes(self, entry: PlainEntry, leaves: Iterable[str]) -> bool:
        """Whether a rule without captures names a leaf that an entry names."""
        for leaf in leaves:
            rule = self._claims.taken.get(leaf)
            if isinstance(rule, Rule) and rule.names_leaves:
                self._claims.problems.append(problems.Clash(entry, rule, leaf))
                return True
        return False

    def _source_exists(self, entry: PlainEntry, leaves: Sequence[str]) -> bool:
        if entry.source in self._manifest:
            return True
        keeps = self._claims.options.on_missing.keeps
        if leaves and all(keeps(leaf) for leaf in leaves):
            self._claims.lacks(entry, leaves, [entry.source])
        else:
            self._claims.problems.append(
                problems.SourceNotFound(entry, entry.source, None)
            )
        return False

    def _assign_leaf(self, entry: PlainEntry, leaf: str) -> None:
        """One tensor to one leaf; TensorFlow compares the shapes at once."""
        if self._clashes(entry, [leaf]) or not self._free(entry, [leaf]):
            return
        if not self._source_exists(entry, [leaf]):
            return
        claim = Claim(leaf, Source(literal_pattern(entry.source)), entry)
        try:
            self._claims.box(claim, lower(claim.source, self._claims.spec_of))
        except AssignmentError as error:
            self._claims.misfit(claim, str(error))
        else:
            self._claims.claim(claim)

    def _assign_list(self, entry: PlainEntry, leaves: tuple[str, ...]) -> None:
        """One tensor to a list of parts, in whatever order."""
        if self._clashes(entry, leaves):
            return
        free = self._free(entry, leaves)
        if (free or not leaves) and not self._source_exists(entry, free):
            return
        if leaves and (parts := self._claims.family_parts(entry, leaves)):
            self._claim_parts(entry, free, parts)

    def _assign_parts(self, entry: PlainEntry, parts: tuple[str, ...]) -> None:
        """One tensor to all parts of a family."""
        leaves = [self._index[name] for name in parts]
        if self._clashes(entry, leaves):
            return
        free = self._free(entry, leaves)
        if free and self._source_exists(entry, free):
            self._claim_parts(entry, free, parts)

    def _claim_parts(
        self, entry: PlainEntry, leaves: Iterable[str], parts: tuple[str, ...]
    ) -> None:
        source = Source(literal_pattern(entry.source))
        for leaf in leaves:
            self._claims.claim(Claim(leaf, source, entry, parts))

    def _assign_scope(self, entry: PlainEntry, target: str) -> None:
        """Every tensor under a scope to the leaf of the same name under another."""
        if not entry.source.endswith("/"):
            self._claims.problems.append(problems.KeyIsNoScope(entry))
            return
        scope = target[: target.rindex("/")]
        before = len(self._claims.problems)
        done: set[str] = set()
        for name in self._scope_members(scope):
            self._assign_member(entry, target, scope, name, done)
        added = self._claims.problems[before:]
        if (
            len(added) > 1
            and all(isinstance(problem, problems.SourceNotFound) for problem in added)
            and not problems.scope_holds_tensors(entry.source, self._manifest.names)
        ):
            # Nothing under the scope: one sentence, not one for each member.
            self._claims.problems[before:] = [problems.ScopeNotFound(entry, len(added))]

    def _scope_members(self, scope: str) -> list[str]:
        """Names under a scope, each cut where a part's number begins; sorted."""
        if scope not in self._members:  # looked up twice where there are rules
            prefix = f"{scope}/" if scope else ""
            members = {
                name.partition("/part_")[0]
                for name, leaf in self._index.items()
                if name.startswith(prefix)
                and self._claims.leaves[leaf].dtype is not None
            }
            self._members[scope] = sorted(members)
        return self._members[scope]

    def _leaves_of(self, member: str) -> list[str]:
        """The leaf that a member of a scope is, or the parts of the family."""
        names = [member] if member in self._index else parts_of(member, self._index)
        return [self._index[name] for name in names]

    def _assign_member(
        self, entry: PlainEntry, target: str, scope: str, name: str, done: set[str]
    ) -> None:
        """One member of a scope; `done` are leaves reached under another name."""
        leaf = self._index.get(name)
        if leaf in done:
            return
        if leaf:
            done.add(leaf)
        leaves = self._leaves_of(name)
        parts = () if leaf else parts_of(name, self._index)
        free = self._free(entry, leaves)
        if leaves and not free:
            return
        spellings = self._spellings(entry, target, scope, name)
        found = next((s for s in spellings if s[0] in self._manifest), None)
        if found is None:
            self._claims.lacks(entry, free or [name], [spellings[0][0]])
            return
        source, alias = found
        if ambiguous := self._ambiguous(spellings, alias):
            self._claims.problems.append(
                problems.Ambiguous(entry, leaf or name, ambiguous)
            )
            return
        if not leaves:
            self._claims.problems.append(problems.CutName(entry, name))
        expression = Source(literal_pattern(source))
        for one in free:
            self._claims.claim(Claim(one, expression, entry, parts, alias))

    def _spellings(
        self, entry: PlainEntry, target: str, scope: str, name: str
    ) -> list[tuple[str, str | None]]:
        """Names that a member's tensor may have, exact ones first, with the alias."""
        names = self._claims.names_within(name, scope)
        exact = [_member_source(entry.source, target, scope, n) for n in names]
        spelled: list[tuple[str, str | None]] = [(source, None) for source in exact]
        known = self._claims.options.aliases
        for source, own in zip(exact, names, strict=True):
            component = own.rpartition("/")[2]
            spelled += [
                (alias, component) for alias in alias_sources(source, component, known)
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
    tail = _tail(target, scope, name)
    source = tail if key == "/" else key + tail
    return source.removesuffix("/")


def _tail(target: str, scope: str, name: str) -> str:
    """What of a member's name lies below the scope."""
    tail = name[len(scope) :]
    return tail if target == "/" else tail[1:]
