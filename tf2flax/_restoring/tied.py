"""Tied leaves whose tensors differ: found by checksums, else by reading them."""

from __future__ import annotations

from typing import Final

import numpy as np

from tf2flax._assignment.language.captures import literal_pattern, parse_name
from tf2flax._assignment.language.expressions import Source, map_sources
from tf2flax._assignment.layouts.comparing import equal_elements
from tf2flax._assignment.layouts.filling import fill_array
from tf2flax._assignment.layouts.nodes import StridedView
from tf2flax._assignment.resolution.assignments import Assignment, Resolution
from tf2flax._base.caller import warn_caller
from tf2flax._base.dtypes import forced_cast
from tf2flax._base.manifest import Manifest, have_equal_checksums
from tf2flax._base.memory import empty
from tf2flax._base.text import and_more
from tf2flax._base.values import Box
from tf2flax._reading.whole import read_entry

# Leaves that a warning names.
_MAX_SHOWN: Final = 20


def describe_ties(resolution: Resolution, manifest: Manifest) -> str:
    """Names the tied leaves whose tensors hold other values than what fills them.

    Args:
        resolution: What a map means.
        manifest: The checkpoint.

    Returns:
        A sentence for each; "" where all agree.

    Raises:
        DamagedError: A tensor that had to be read is damaged.
        ReadError: The system or the store refuses.
    """
    filled = {assignment.leaf: assignment for assignment in resolution.assignments}
    sentences: list[str] = []
    for tie in resolution.ties:
        if tie.leaf not in filled:  # kept: nothing is read for it
            continue
        read = filled[tie.leaf]
        others = [f"`{gap.source}`" for gap in tie.mismatches]
        for twin in tie.twins:
            if not _is_same(read, twin, manifest):
                others.append(f"`{twin.source}`")
        if others:
            sentences.append(
                f"leaf `{tie.leaf}` is filled from `{read.source}`, and not from "
                f"{', '.join(others)}"
            )
    text = "; ".join(sentences[:_MAX_SHOWN])
    return and_more(text, len(sentences) - _MAX_SHOWN, separator="; ")


def warn_of_ties(differing: str) -> None:
    """Warns the caller of what `describe_ties` found, if anything.

    Args:
        differing: What it says.
    """
    if differing:
        warn_caller(
            "The target ties what the checkpoint stores as several tensors of "
            f"different values: {differing}. Saving with the plan writes the leaf to "
            "every tensor that fits it."
        )


def _is_same(first: Assignment, second: Assignment, manifest: Manifest) -> bool:
    """Whether a leaf gets the same values either way; reads as little as it can."""
    pairs = [
        (manifest.entry(name), manifest.entry(twin))
        for name, twin in zip(first.sources, second.sources, strict=False)
    ]
    is_alike = len(first.sources) == len(second.sources) and all(
        entry.spec == twin.spec for entry, twin in pairs
    )
    if is_alike and _is_renamed(first, second):
        equal = [have_equal_checksums(*pair) for pair in pairs]
        if all(equal):
            return True
        if first.is_whole and second.is_whole and False in equal:
            return False
    values = _values(first, manifest), _values(second, manifest)
    return bool(equal_elements(*values).all())


def _is_renamed(first: Assignment, second: Assignment) -> bool:
    """Whether the same is done to other tensors."""
    names = dict(zip(first.sources, second.sources, strict=True))
    if first.box != second.box:
        return False

    def renamed(source: Source) -> Source:
        name = parse_name(source.pattern).literal
        return Source(literal_pattern(names[name]))

    return map_sources(first.expression, renamed) == second.expression


def _values(assignment: Assignment, manifest: Manifest) -> np.ndarray:
    """What a leaf gets, read whole."""
    arrays: dict[str, np.ndarray] = {}

    def fetch(view: StridedView, out: np.ndarray) -> None:
        if view.source not in arrays:
            stored = read_entry(manifest.entry(view.source))
            arrays[view.source] = np.ascontiguousarray(stored).reshape(-1)
        flat = arrays[view.source]
        strides = [stride * flat.itemsize for stride in view.strides]
        part = flat[view.offset :]
        out[...] = np.lib.stride_tricks.as_strided(part, view.shape, strides)

    layout = assignment.layout
    out = empty(layout.shape, layout.dtype)
    fill_array(layout, Box.whole(layout.shape), out, fetch)
    return forced_cast(out, assignment.dtype)
