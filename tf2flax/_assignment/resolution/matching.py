"""Resolves a map: entries, leaves and a manifest -> which tensors fill which leaf.

1. `rules` and `plain` find by names alone which entries reach which leaves.
2. `precedence` gives every leaf that a rule reaches to the entry that says most of its
   name. The order of entries in the map does not matter.
3. Rules claim what they won; plain entries then claim the other leaves in TensorFlow's
   order.
4. `claims` compares shapes and dtypes. All problems are collected: the caller gets a
   complete resolution, or one error with all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tf2flax._assignment.language.entries import MapEntry, PlainEntry, Rule
from tf2flax._base.manifest import Manifest

from .assignments import Leaf, Resolution
from .claims import Claims
from .plain import PlainEntries
from .policies import MapOptions
from .precedence import choose_winners
from .rules import apply_rules, find_reaches


def resolve_map(
    entries: Sequence[MapEntry],
    leaves: Sequence[Leaf],
    manifest: Manifest,
    options: MapOptions,
    *,
    x64: bool,
) -> Resolution:
    """Finds what fills each leaf, and which leaves stay as they are.

    Raises:
        AssignmentError: Entries do not fit the target or the checkpoint; all problems
            are listed, with the nearest names.
        DamagedError: The entry of a tensor that fills a leaf is malformed.
    """
    claims = Claims(leaves, manifest, options, x64=x64)
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
