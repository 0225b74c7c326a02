"""Leaves that would stay abstract, and states of random numbers: what to do about them.

Makes messages alone: which leaves stay is decided before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.resolution.assignments import Leaf, Resolution
from tf2flax._assignment.resolution.entry_labels import label_of, target_of
from tf2flax._assignment.resolution.problem_report import SUGGEST, fails_mostly
from tf2flax._assignment.resolution.unfilled import unused_lines
from tf2flax._base.collapsing import list_by_words, summarise
from tf2flax._base.errors import AssignmentError

from .targets import Target

# Leaves that a message names, or kinds of them.
_MAX_NAMED: Final = 8


def abstract_leaves_error(
    abstract: Sequence[Leaf], target: Target, resolution: Resolution
) -> AssignmentError:
    """Says which leaves would stay abstract, why each does, and what to do.

    Args:
        abstract: Leaves of the target that are abstract and are not loaded.
        target: The target.
        resolution: Meaning of the map.

    Returns:
        The error.
    """
    missing = {gap.leaf for gap in resolution.missing}
    mismatched = {gap.leaf for gap in resolution.mismatched}
    unreached = [
        leaf
        for leaf in abstract
        if leaf.name not in missing and leaf.name not in mismatched
    ]
    names = [leaf.name for leaf in unreached]
    texts = [
        _describe_unreached(
            [*names, *target.abstract_states],
            # Random numbers, say, which no entry could fill.
            is_fillable=any(leaf.dtype is not None for leaf in unreached),
        ),
        _describe_kept("on_missing", [n for n in _names(abstract) if n in missing]),
        _describe_kept("on_mismatch", [n for n in _names(abstract) if n in mismatched]),
        _describe_rngs(
            [name for name, is_shape in target.rng_states.items() if is_shape]
        ),
    ]
    message = " ".join(filter(None, texts))
    if unused := unused_lines(resolution, target.leaves):
        # Most likely the cause of the others, and therefore first.
        separator = "\n" if "\n" in unused else " "
        message = f"{unused}{separator}{message}"
    elif fails_mostly(len(abstract), len(resolution.assignments)):
        message += f" Most of the target stays: {SUGGEST}"
    return AssignmentError(message)


def abstract_growth_error(names: Sequence[str]) -> AssignmentError:
    """Says which leaves have no elements that they could keep, and what to do."""
    return AssignmentError(
        f'fill="keep" keeps elements of these leaves ({len(names)}), which are '
        f"jax.ShapeDtypeStruct and have none: {list_by_words(names, _MAX_NAMED)}. "
        "Initialise them with tf2flax.warm_start, or give arrays in the target."
    )


def refuse_rng_states(entries: Sequence[MapEntry], rng_states: Collection[str]) -> None:
    """Refuses entries that name a state of random numbers.

    Args:
        entries: The entries of a map.
        rng_states: Names of the states.

    Raises:
        AssignmentError: An entry names one.
    """
    problems = [
        f"{label_of(entry)}: `{target_of(entry)}` is a state of random numbers "
        "(nnx.RngState), which no tensor fills: TensorFlow's have another form. Remove "
        "the entry."
        for entry in entries
        if target_of(entry) in rng_states
    ]
    if problems:
        raise AssignmentError(summarise(problems))


def _names(leaves: Sequence[Leaf]) -> list[str]:
    return [leaf.name for leaf in leaves]


def _describe_unreached(names: Sequence[str], *, is_fillable: bool) -> str:
    if not names:
        return ""
    listed = list_by_words(names, _MAX_NAMED)
    way_out = "Add entries for them, or initialise" if is_fillable else "Initialise"
    return (
        f"No entry fills these leaves ({len(names)}), which would stay "
        f"jax.ShapeDtypeStruct: {listed}. {way_out} them with "
        "tf2flax.warm_start."
    )


def _describe_kept(option: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    listed = list_by_words(names, _MAX_NAMED)
    return (
        f"{option} keeps these leaves ({len(names)}) as they are, which is "
        f"jax.ShapeDtypeStruct: {listed}. Initialise them with "
        "tf2flax.warm_start, or give arrays in the target."
    )


def _describe_rngs(names: Sequence[str]) -> str:
    if not names:
        return ""
    return (
        f"These states of random numbers (nnx.RngState, {len(names)}) are "
        f"jax.ShapeDtypeStruct, and no tensor fills them: "
        f"{list_by_words(names, _MAX_NAMED)}. Make the model with tf2flax.warm_start, "
        "which initialises them, or split them off: `rngs, state = "
        "nnx.split_state(state, nnx.RngState, ...)`, where `state = nnx.state(model)`, "
        "and fill `state`."
    )
