"""Assignments -> host arrays: tensors read once, leaves put together from them.

Reads and casts; knows no device and never imports JAX.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from . import _reading, _regions
from ._assignment.collapsing import screenful
from ._assignment.dtypes import cast
from ._assignment.filling import fill
from ._assignment.layouts import View, needed_elements
from ._assignment.values import Assignment
from ._errors import AssignmentError
from ._files import aligned_empty
from ._manifest import Entry, Manifest
from ._runs import strided
from ._specs import TensorSlice


def read_leaves(
    assignments: Sequence[Assignment],
    manifest: Manifest,
    *,
    is_forced: bool,
    verify: bool,
) -> dict[str, np.ndarray]:
    """Reads, puts together and casts leaves.

    Tensors that are needed whole are read once, and checked; of the others, what is
    needed. A leaf is put together as soon as all of its tensors are there.

    Args:
        assignments: What fills each leaf.
        manifest: Where the tensors lie.
        is_forced: Whether casts may change values.
        verify: Whether CRC-32C checksums are compared.

    Returns:
        Arrays by leaf, of which no two share memory.

    Raises:
        DamagedError: A data file is missing or short, or a checksum differs.
        AssignmentError: Values do not fit the leaves' dtypes; every leaf is named.
        ReadError: The operating system refuses.
    """
    needed = needed_elements([view for one in assignments for view in one.views])
    entries = {name: manifest.entry(name) for name in needed}
    whole = {name for name, entry in entries.items() if needed[name] >= entry.spec.size}
    assembly = _Assembly(assignments, entries, whole, is_forced=is_forced)
    assembly.make_independent()
    _reading.read_many(
        [entries[name] for name in needed if name in whole],
        assembly.deliver,
        verify=verify,
    )
    return assembly.finish()


def read_boxes(
    assignment: Assignment,
    boxes: Iterable[TensorSlice],
    manifest: Manifest,
    *,
    is_forced: bool,
) -> dict[TensorSlice, np.ndarray]:
    """Reads boxes of one leaf: together where they lie together.

    Column shards of the same rows would otherwise read those rows once for each.

    Args:
        assignment: What fills the leaf.
        boxes: Boxes of the leaf, at least one.
        manifest: Where the tensors lie.
        is_forced: Whether casts may change values.

    Returns:
        Arrays by box, of which no two share memory.

    Raises:
        DamagedError: A data file is missing or short.
        AssignmentError: Values do not fit the leaf's dtype.
        ReadError: The operating system refuses.
    """
    entries = {name: manifest.entry(name) for name in assignment.sources}
    assembly = _Assembly([assignment], entries, set(), is_forced=is_forced)
    wanted = list(dict.fromkeys(boxes))
    around = TensorSlice(
        tuple(map(min, zip(*(box.starts for box in wanted), strict=True))),
        tuple(map(max, zip(*(box.stops for box in wanted), strict=True))),
    )
    try:
        if around.size > sum(box.size for box in wanted):
            return {box: assembly.box(assignment, box) for box in wanted}
        array = assembly.box(assignment, around)
    except AssignmentError as error:
        raise AssignmentError(_said_of(assignment, error)) from error
    return {box: _own(array[box.within(around)]) for box in wanted}


class _Assembly:
    """Leaves on their way from tensors to arrays; used from several threads."""

    def __init__(
        self,
        assignments: Sequence[Assignment],
        entries: Mapping[str, Entry],
        whole: set[str],
        *,
        is_forced: bool,
    ) -> None:
        self._entries = entries
        self._is_forced = is_forced
        self._lock = threading.Lock()
        # Tensors that were read whole, for as long as leaves need them.
        self._tensors: dict[str, np.ndarray] = {}
        self._users: dict[str, list[Assignment]] = {name: [] for name in whole}
        self._uses: dict[str, int] = dict.fromkeys(whole, 0)
        self._waits: dict[str, int] = {}
        self._given: set[str] = set()
        self._arrays: dict[str, np.ndarray] = {}
        self._problems: list[str] = []
        for one in assignments:
            own = whole.intersection(one.sources)
            self._waits[one.leaf] = len(own)
            for name in own:
                self._users[name].append(one)
                self._uses[name] += 1
        self._independent = [one for one in assignments if not self._waits[one.leaf]]

    def make_independent(self) -> None:
        """Makes the leaves that need no whole tensor."""
        _reading.in_parallel(
            [functools.partial(self._make, one) for one in self._independent]
        )

    def deliver(self, entry: Entry, array: np.ndarray) -> None:
        """Takes a tensor that was read whole; makes the leaves that it completes."""
        ready: list[Assignment] = []
        with self._lock:
            self._tensors[entry.name] = array
            for one in self._users[entry.name]:
                self._waits[one.leaf] -= 1
                if not self._waits[one.leaf]:
                    ready.append(one)
        for one in ready:
            self._make(one)
            with self._lock:
                for name in self._uses.keys() & set(one.sources):
                    self._uses[name] -= 1
                    if not self._uses[name]:
                        del self._tensors[name]

    def finish(self) -> dict[str, np.ndarray]:
        """Gives the arrays, or everything that is wrong with them."""
        if self._problems:
            raise AssignmentError(screenful(sorted(self._problems)))
        return self._arrays

    def box(self, assignment: Assignment, box: TensorSlice) -> np.ndarray:
        """Puts a box of a leaf together.

        Raises:
            AssignmentError: Values do not fit the leaf's dtype.
        """
        out = aligned_empty(box.shape, assignment.layout.dtype)
        fill(assignment.layout, box, out, self._fetch)
        return cast(out, assignment.dtype, is_forced=self._is_forced)

    def _make(self, one: Assignment) -> None:
        try:
            array = self._handed_over(one)
            if array is None:
                array = self.box(one, TensorSlice.whole(one.shape))
            else:
                array = cast(array, one.dtype, is_forced=self._is_forced)
        except AssignmentError as error:
            with self._lock:
                self._problems.append(_said_of(one, error))
        else:
            with self._lock:
                self._arrays[one.leaf] = array

    def _handed_over(self, one: Assignment) -> np.ndarray | None:
        """The tensor's own buffer, for the first leaf that is all of it as it is.

        JAX takes buffers over: no two leaves may share one.
        """
        view = one.layout
        if not isinstance(view, View) or not view.is_whole or view.casts:
            return None
        with self._lock:
            array = self._tensors.get(view.source)
            if array is None or view.source in self._given:
                return None
            self._given.add(view.source)
        return array.reshape(view.shape)

    def _fetch(self, view: View, out: np.ndarray) -> None:
        array = self._tensors.get(view.source)
        if array is None:
            entry = self._entries[view.source]
            _regions.read_view_into(entry, view.offset, view.strides, out)
        else:
            out[...] = strided(array, view.offset, view.shape, view.strides)


def _said_of(assignment: Assignment, error: AssignmentError) -> str:
    return f"Leaf `{assignment.leaf}` cannot take tensor `{assignment.source}`: {error}"


def _own(array: np.ndarray) -> np.ndarray:
    result = aligned_empty(array.shape, array.dtype)
    result[...] = array
    return result
