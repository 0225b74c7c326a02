"""`suggest`: a map for a checkpoint and a target, and what is open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.suggestions.suggesting import suggest_entries
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.opening import manifest_of
from tf2flax._checkpoint.state import PathLike
from tf2flax._jax.restore import take_target
from tf2flax._writing.map_suggestions import format_suggestion


@dataclasses.dataclass(frozen=True, repr=False)
class Suggestion:
    """A suggested map; made by `tf2flax.suggest`. Printed, it is a map file.

    Attributes:
        assignment_map: The map, as `tf2flax.plan` takes it: a dict, or pairs where a
            key occurs twice.
        unmatched: Names of the leaves that nothing fills.
        ambiguous: Leaves that several sources may fill: the name of each, and its
            candidates, best first, as pairs of a key for a map and a reason.
        evidence: What speaks for the source of a leaf, or why it has none, by name.

    Examples:
        >>> import jax, numpy as np, tf2flax
        >>> square = {"net/kernel": np.ones((3, 3), "float32")}  # or a path
        >>> leaf = jax.ShapeDtypeStruct((3, 3), "float32")
        >>> result = tf2flax.suggest(square, {"net": {"kernel": leaf}})
        >>> [str(key) for key, reason in dict(result.ambiguous)["net/kernel"]]
        ['net/kernel', 'src("net/kernel").transpose()']
    """

    assignment_map: dict[str | Expression, str] | list[tuple[str | Expression, str]]
    unmatched: tuple[str, ...]
    ambiguous: tuple[tuple[str, tuple[tuple[str | Expression, str], ...]], ...]
    evidence: Mapping[str, str]
    # Beside the map: what speaks for each entry, and what keeps the two from fitting.
    _reasons: tuple[str, ...]
    _misfits: tuple[str, ...]
    _prefix: str

    def __str__(self) -> str:
        """The map as the text of a map file: what is open as comments."""
        entries = self.assignment_map
        is_table = isinstance(entries, dict)
        pairs = list(entries.items()) if is_table else entries
        return format_suggestion(
            list(zip(pairs, self._reasons, strict=True)),
            self.ambiguous,
            [(leaf, self.evidence.get(leaf, "")) for leaf in self.unmatched],
            title=f"Suggested for {self._prefix} by tf2flax.suggest.",
            notes=self._misfits,
            is_table=is_table,
        )

    def __repr__(self) -> str:
        """The suggestion in one line."""
        return (
            f"Suggestion({self._prefix!r}, {len(self.assignment_map)} entries, "
            f"{len(self.ambiguous)} ambiguous, {len(self.unmatched)} unmatched)"
        )


def misfits_of(suggestion: Suggestion) -> tuple[str, ...]:
    """What keeps checkpoint and target from fitting, a line each."""
    return suggestion._misfits  # pyright: ignore[reportPrivateUsage]


def suggest(
    checkpoint: PathLike | Checkpoint | Mapping[str, Any], target: Any
) -> Suggestion:
    """Suggests a map from names, shapes and structure; reads no tensor.

    Args:
        checkpoint: A path, an open checkpoint, or a flat mapping of names to arrays.
        target: A pytree, linen variables, an `nnx.State` or an `nnx.Module`.

    Returns:
        The map, and what is open: print it.

    Raises:
        CheckpointNotFoundError: There is no checkpoint at the path.
        AssignmentError: The target has no leaf.
        DamagedError: The index is malformed.

    Examples:
        >>> import jax, numpy as np, tf2flax
        >>> checkpoint = {  # or a path
        ...     "net/fc/weights": np.ones((4, 3)),
        ...     "net/fc/biases": np.ones(3),
        ... }
        >>> leaf = lambda *shape: jax.ShapeDtypeStruct(shape, "float32")
        >>> target = {"params": {"fc": {"kernel": leaf(4, 3), "bias": leaf(3)}}}
        >>> tf2flax.suggest(checkpoint, target).unmatched
        ()
    """
    manifest = manifest_of(checkpoint)
    parts = take_target(target)
    suggested = suggest_entries(manifest, parts.leaves)
    pairs = [entry for entry, _ in suggested.entries]
    is_table = len({repr(key) for key, _ in pairs}) == len(pairs)
    return Suggestion(
        dict(pairs) if is_table else pairs,
        suggested.unmatched,
        suggested.ambiguous,
        suggested.evidence,
        tuple(reason for _, reason in suggested.entries),
        suggested.misfits,
        manifest.prefix,
    )
