"""Scopes under which nothing lies: what may have been meant, and what to write.

Layers of other numbers, the same names elsewhere, layers that a leaf stacks, gates.
`missing_tensors` finds the scopes, and joins those that are missing for one reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.entries import Rule
from tf2flax._assignment.language.expressions import Source
from tf2flax._base.collapsing import list_collapsed
from tf2flax._base.text import counted, list_names

from .entry_labels import fills_scope, target_of
from .gates import describe_gates, is_gate
from .layer_entries import describe_moved_layers
from .near_scopes import MovedScope, find_moved_scope
from .new_entries import propose_entry
from .numbered_layers import describe_layers
from .problems import Cause, SourceNotFound, label_of_problems
from .renamed_layers import MovedLayers, find_moved_layers
from .spellings import suggest_for_pattern
from .stacked_layers import stack_instead
from .suggestions import (
    Surroundings,
    change_key,
    list_below,
    scopes_named,
    source_of_entry,
    transfer,
)
from .ways_out import keep_missing

# Roots that a line names, and from how many on the roots of one entry share a line.
MAX_ROOTS: Final = 3


class MissingScope:
    """Scopes under which nothing lies, and which differ by numbers alone."""

    def __init__(
        self,
        missing: Sequence[tuple[SourceNotFound, str]],
        around: Surroundings,
        *,
        may_search: bool,
    ) -> None:
        """Looks for the scopes that may have been meant.

        Args:
            missing: Problems, and the scope that each lacks.
            around: Names of the checkpoint and the target.
            may_search: False if there have been enough searches.
        """
        self.missing = missing
        self._around = around
        self.root = missing[0][1]
        parent, component = _split(self.root)
        self.parent = parent
        self.beside = around.tensors.numbers_beside(parent, component)
        entry = missing[0][0].entry
        is_named = change_key(entry, self.root, self.root) is not None
        # The key has this component as it is, whatever stands around it.
        place = self.root.count("/") - 1
        is_literal = any(
            pattern.split("/")[place : place + 1] == [literal_pattern(component)]
            for pattern in scopes_named(entry)
        )
        if len(self.beside) == 1 and is_literal:
            self.beside = []  # `MobilenetV2/` in a key: a name with a number in it
        self.is_captured = is_named and not is_literal
        instead = MovedScope(None)
        self.layers: Sequence[MovedLayers] = ()
        self.advice_on_layers = ""
        # A number that the key has as it is belongs to a name.
        if may_search and not is_literal:
            self._find_layers(any_name=False)
        if may_search and not self.beside and not self.layers:
            instead = find_moved_scope(missing, around)
        self.moved, self.is_moved, self._rivals = instead
        is_known = self.beside or self.layers or self.moved or is_literal
        if may_search and not is_known:
            self._find_layers(any_name=True)

    def _find_layers(self, *, any_name: bool) -> None:
        """Looks for layers of other numbers or names, and for what to write of them."""
        layers = find_moved_layers(self.missing, self._around, any_name=any_name)
        if advice := describe_moved_layers(layers, self._around):
            self.layers, self.advice_on_layers = layers, advice

    @property
    def problems(self) -> tuple[SourceNotFound, ...]:
        """The problems."""
        return tuple(problem for problem, _ in self.missing)

    @property
    def scopes_of_layers(self) -> list[str]:
        """Scopes of the layers that may have been meant."""
        return [scope for moved in self.layers for _, scope in moved.changed]

    @property
    def is_explained(self) -> bool:
        """True if there is more to say than that nothing lies there."""
        return bool(
            self.beside
            or self.moved is not None
            or self._rivals
            or self._hint()
            or self.layers
        )

    @property
    def relation(self) -> tuple[str, str] | None:
        """What stands before the names, and what should; None if that is not known."""
        if self.moved is None or not self.is_moved:
            return None
        return _without_common_end(self.root, self.moved)

    def explain(self) -> Cause:
        """States the cause, and what to do."""
        first = self.missing[0][0]
        if len(self.missing) == 1 and not fills_scope(first.entry):
            fact = first.fact
            if self.moved is None:  # else the advice shows what is wrong
                fact = f"{fact[:-1]}; nothing lies under `{self.root}`."
        else:
            fact = f"nothing lies under {self._list_roots()}, which {self._needs()}."
        label = label_of_problems(self.problems)
        if self.layers:
            return Cause(label, fact, self.problems, self.advice_on_layers)
        if self.beside:
            advice = describe_layers(
                self.missing, self.beside, self._around, is_captured=self.is_captured
            )
            return Cause(label, fact, self.problems, advice)
        if self.moved is None:
            return Cause(label, fact, self.problems, self._hint() or self._list())
        advice = self._hint() or self._advise()
        if not advice and not self.is_moved:  # only its name is like it
            return Cause(label, fact, self.problems, self._list())
        where = self._where_they_lie()
        if len(self.missing) > 1 or fills_scope(first.entry):
            fact = f"{fact[:-1]}; {where}."
        return Cause(label, fact, self.problems, advice)

    def _where_they_lie(self) -> str:
        """What lies under the scope that may have been meant."""
        if not self.moved:
            return "the same names are there without it"
        old, new = self.relation or (self.root, self.moved)
        scopes = [new]
        if old:
            roots = dict.fromkeys(root for _, root in self.missing)
            moved = (transfer(self.root, self.moved, root) for root in roots)
            scopes = [s for s in dict.fromkeys(moved) if s in self._around.tensors]
        count = sum(map(self._around.tensors.count_under, scopes))
        lie = "lies" if count == 1 else "lie"
        return f"{counted(count, 'tensor')} {lie} under {list_collapsed(scopes, 2)}"

    def _list_roots(self) -> str:
        roots = list(dict.fromkeys(root for _, root in self.missing))
        return list_collapsed(roots, len(roots) if len(roots) <= MAX_ROOTS else 2)

    def _needs(self) -> str:
        """Who needs the scopes."""
        leaves = {problem.leaf for problem, _ in self.missing}
        if leaves == {None}:
            return f"{counted(len(self.missing), 'entry', 'entries')} name"
        if len(leaves) == 1:
            return f"leaf `{self.missing[0][0].leaf}` needs"
        entry = self.missing[0][0].entry
        numbers = {problem.entry.number for problem, _ in self.missing}
        target = target_of(entry) if len(numbers) == 1 and fills_scope(entry) else ""
        return f"{len(leaves)} leaves{f' of `{target}`' if target else ''} need"

    def _list(self) -> str:
        """What there is, where nothing is like the scope."""
        if advice := stack_instead(self.missing, self._rivals, self._around):
            return advice
        if self._rivals:
            listed = list_names(self._rivals, MAX_ROOTS)
            return f"Such names lie under {listed}: only their meaning tells which."
        keep = ""
        if is_gate(_split(root)[1] for _, root in self.missing):
            keep = describe_gates(self._around.tensors.children_of(self.parent))
        if not keep and fills_scope(self.missing[0][0].entry):
            leaves = (problem.leaf for problem in self.problems)
            keep = keep_missing(leaves, self._around)
        return f"{list_below(self.root, self._around)} {keep}".strip()

    def _hint(self) -> str:
        manifest = self._around.manifest
        return (
            manifest.hint(self.root)
            or manifest.hint(self.missing[0][0].source)
            or suggest_for_pattern(self.root)
        )

    def _with_captures(self, old: str, new: str) -> tuple[str, str]:
        """Two scopes with captures for numbers, if all keys are written so."""
        count = old.count("/")
        written = {
            "/".join(pattern.split("/")[:count]) + "/"
            for problem, _ in self.missing
            for pattern in scopes_named(problem.entry)
        }
        pattern = written.pop()
        is_alike = not written and transfer(old, old, pattern) == pattern
        if not is_alike or pattern == old:
            return old, new
        return pattern, transfer(old, new, pattern)

    def _advise(self) -> str:
        """The key to use instead, or the entry to add."""
        assert self.moved is not None
        entries = {problem.entry.number for problem, _ in self.missing}
        old, new = self.relation or (self.root, self.moved)
        if len(entries) > 1 and not new:
            return f"Leave `{old}` out of the keys."
        if len(entries) > 1 and not old:
            return put_before(new, self.problems)
        if len(entries) > 1:
            if old in self._around.tensors:
                # Other keys name it rightly, and are not to be changed as well.
                old, new = self._with_captures(self.root, self.moved)
            elif len({root for _, root in self.missing}) > 1:
                old, new = self._with_captures(old, new)
                old, new = _without_common_start(old, new)
            return f"In the keys, write `{new}` in place of `{old}`."
        entry = self.missing[0][0].entry
        is_unused = not self._around.claimed.get(entry.number)
        if not old and is_unused and (key := change_key(entry, "/", new)):
            return f"Did you mean `{key}`?"
        # Roots of other numbers are covered by the captures of the key.
        if key := change_key(entry, self.root, self.moved):
            return f"Did you mean `{key}`?"
        if old and is_unused and (key := change_key(entry, old, new or "/")):
            return f"Did you mean `{key}`?"
        source = entry.source if isinstance(entry, Rule) else Source("")
        if not self.is_moved or not isinstance(source, Source):
            return ""
        pairs: dict[str, tuple[Source, str]] = {}
        for problem, root in self.missing:
            below = problem.source[len(root) :]
            leaf = problem.leaf or ""
            if below and leaf.endswith(f"/{below}"):
                new = transfer(self.root, self.moved, root)
                scope = leaf[: -len(below)]
                pairs[root] = (Source(literal_pattern(new) or "/"), scope)
        if not pairs:
            return ""
        return str(propose_entry(list(pairs.values()), self._around.leaves))


def put_before(scope: str, problems: Sequence[SourceNotFound]) -> str:
    """Says where a scope is missing: of expressions, before the names in them."""
    keys = (source_of_entry(problem.entry) for problem in problems)
    is_text = all(isinstance(key, Source) for key in keys)
    return f"Put `{scope}` before the {'keys' if is_text else 'names in the keys'}."


def _split(root: str) -> tuple[str, str]:
    """The scope around a scope, and its name without `/`."""
    parent, slash, component = root[:-1].rpartition("/")
    return parent + slash, component


def _without_common_start(old: str, new: str) -> tuple[str, str]:
    """Two scopes without the components that both begin with."""
    olds, news = old.split("/"), new.split("/")
    while len(olds) > 2 and len(news) > 2 and olds[0] == news[0]:
        del olds[0], news[0]
    return "/".join(olds), "/".join(news)


def _without_common_end(old: str, new: str) -> tuple[str, str]:
    """Two scopes without the components that both end in."""
    olds, news = old.split("/")[:-1], new.split("/")[:-1]
    while olds and news and olds[-1] == news[-1]:
        olds.pop()
        news.pop()
    return tuple("".join(f"{c}/" for c in components) for components in (olds, news))  # pyright: ignore[reportReturnType]
