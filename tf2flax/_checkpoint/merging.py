"""What `merge_checkpoints` is given, in any form -> prefixes and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from tf2flax._base.caller import members
from tf2flax._base.errors import AssignmentError

from .stored_tensor import StoredTensor


def prefixed(checkpoints: object) -> list[tuple[str, Any]]:
    """Reads prefixes and checkpoints from what is merged.

    Args:
        checkpoints: A mapping, pairs, or checkpoints alone; any iterable.

    Returns:
        Pairs of a prefix ("" for none) and a checkpoint or path, which may be of any
        type: whoever opens them checks that.

    Raises:
        AssignmentError: It is none of these.
    """
    if isinstance(checkpoints, Mapping):
        items = list(cast(Mapping[str, Any], checkpoints).items())
        # A checkpoint is a mapping as well: of names to tensors.
        if any(isinstance(value, StoredTensor) for _, value in items[:1]):
            raise _not_mergeable("one checkpoint")
        return items
    # Text is iterable as well, and one path is not several.
    if isinstance(checkpoints, str | bytes) or not isinstance(checkpoints, Iterable):
        raise _not_mergeable(type(checkpoints).__name__)
    pairs: list[tuple[str, Any]] = []
    for element in members("merge_checkpoints", cast(Iterable[Any], checkpoints)):
        if not isinstance(element, tuple | list):
            pairs.append(("", element))
            continue
        pair = cast(Sequence[Any], element)
        if len(pair) != 2:
            raise _not_mergeable(f"{len(pair)} elements in place of a pair")
        pairs.append((pair[0], pair[1]))
    return pairs


def _not_mergeable(what: str) -> AssignmentError:
    return AssignmentError(
        f"Expected checkpoints with prefixes of names, got {what}. Write "
        '{"a/": first, "b/": second}, [("a/", first), ("", second)] or '
        "[first, second]."
    )
