"""Entries of a map, leaves and a manifest -> which tensors fill which leaf.

Three strengths, whatever the order in the map: rules that name a leaf, rules of scopes,
plain entries. Every problem is collected; the caller gets all or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from tf2flax._manifest import Manifest

from .claims import Claims, Options
from .plain import apply_plain
from .rules import apply_rules
from .values import Entry, Leaf, MapEntry, Resolution, Rule


def resolve(
    entries: Sequence[Entry],
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
    claims = Claims(leaves, manifest, options)
    apply_rules(claims, [entry for entry in entries if isinstance(entry, Rule)])
    apply_plain(claims, [entry for entry in entries if isinstance(entry, MapEntry)])
    return claims.finish(entries)
