"""Entries of a map, leaves and a manifest -> which tensors fill which leaf.

The entry that says most of a leaf's name gets it, whatever the order in the map
(`precedence`). Every problem is collected; the caller gets all or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from tf2flax._assignment.language.entries import MapEntry, PlainEntry, Rule
from tf2flax._base.manifest import Manifest

from .assignments import Leaf, Resolution
from .claims import Claims, Options
from .plain import PlainEntries
from .precedence import choose_winners
from .rules import apply_rules, find_reaches


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
    claims = Claims(leaves, manifest, options)
    rules = [entry for entry in entries if isinstance(entry, Rule)]
    plain_entries = [entry for entry in entries if isinstance(entry, PlainEntry)]
    plain = PlainEntries(claims, plain_entries)
    reaches = find_reaches(claims, rules)
    contested = {leaf for reach in reaches for leaf in reach.leaves}
    apply_rules(claims, choose_winners(claims, reaches, plain.reaches(contested)))
    plain.apply()
    if rules:
        plain.refuse_lost_names()
    return claims.finish(entries)
