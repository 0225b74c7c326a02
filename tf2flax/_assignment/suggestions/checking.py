"""Lines -> entries that mean the same, as few as possible, checked by the engine.

Every step that makes a map shorter is resolved as a restore would resolve it, and is
kept only if each leaf gets what the lines say. So a suggested map is never refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.grammar import parse_map
from tf2flax._assignment.language.making import src
from tf2flax._assignment.language.syntax import is_expression
from tf2flax._assignment.resolution.assignments import Leaf, Resolution
from tf2flax._assignment.resolution.matching import resolve_map
from tf2flax._assignment.resolution.policies import MapOptions
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest

from .compacting import join_collections, join_names, join_scopes
from .counting import join_counted
from .lines import Line

Entry = tuple[str | Expression, str]
# Lines that are resolved one by one when a map of them is refused.
_MAX_SINGLE: Final = 500


def entry_of(line: Line) -> Entry:
    """Writes a line as an entry of a map."""
    key = line.source()
    if not isinstance(key, str):
        return key, line.value
    if not line.is_pattern:
        has_braces = any(c in text for text in (key, line.value) for c in "{}")
        if has_braces:
            key, value = literal_pattern(key), literal_pattern(line.value)
            return src(key), value
    # A name that a file would read as an expression.
    return (src(key) if is_expression(key) else key), line.value


def find_entries(
    lines: Sequence[Line], leaves: Sequence[Leaf], manifest: Manifest
) -> tuple[list[tuple[Line, Entry]], dict[str, str]]:
    """Finds the shortest map that means what lines say.

    Args:
        lines: The lines.
        leaves: All leaves of the target.
        manifest: The checkpoint.

    Returns:
        Lines with their entries; and what is wrong with leaves whose line is refused.
    """
    resolver = _Resolver(leaves, manifest)
    names = [leaf.name for leaf in leaves if leaf.dtype is not None]
    stages = [list(lines)]
    for step in (join_scopes, join_collections, join_names, join_counted):
        stages.append(step(stages[-1], names))
    for stage in reversed(stages):
        if resolver.is_right(stage):
            return [(line, entry_of(line)) for line in stage], {}
    kept, refused = resolver.drop_refused(lines)
    return [(line, entry_of(line)) for line in kept], refused


class _Resolver:
    """Resolves maps for one target and one checkpoint."""

    def __init__(self, leaves: Sequence[Leaf], manifest: Manifest) -> None:
        self._leaves = leaves
        self._manifest = manifest

    def is_right(self, lines: Sequence[Line]) -> bool:
        """True if the engine takes a map, and gives each leaf what its line says."""
        if not lines:
            return True
        try:
            resolution = self._resolve(lines)
        except AssignmentError:
            return False
        wanted = {
            leaf: names
            for line in lines
            for leaf, names in zip(line.leaves, line.tensors, strict=False)
        }
        filled = {leaf for line in lines for leaf in line.leaves}
        sources = {a.leaf: a.sources for a in resolution.assignments}
        return set(sources) == filled and all(
            sources[leaf] == names for leaf, names in wanted.items()
        )

    def _resolve(self, lines: Sequence[Line]) -> Resolution:
        entries = parse_map([entry_of(line) for line in lines], lambda _: ())
        return resolve_map(
            entries, self._leaves, self._manifest, MapOptions(), x64=True
        )

    def drop_refused(self, lines: Sequence[Line]) -> tuple[list[Line], dict[str, str]]:
        """Leaves out lines that the engine refuses: of other dtypes, say."""
        kept: list[Line] = []
        refused: dict[str, str] = {}
        for line in lines[:_MAX_SINGLE]:
            try:
                self._resolve([line])
            except AssignmentError as error:
                reason = str(error).partition(" - in ")[0]
                refused.update(dict.fromkeys(line.leaves, reason))
            else:
                kept.append(line)
        if not self.is_right(kept):  # each alone is good, all together are not
            reason = "its line contradicts others"
            refused.update({leaf: reason for line in kept for leaf in line.leaves})
            return [], refused
        return kept, refused
