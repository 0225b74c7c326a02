"""Leaves that have grown -> tensors in the shape and the order of the leaves.

What was loaded through a cast may have lost digits. An element that is as loading gave
it gets the bits that are stored, as in leaves that have not grown:

    stored float32     0.1001  0.2002            leaf bfloat16     0.1001  0.25  0.5
    written float32    0.1001  0.25    0.5       changed: 0.25     new: 0.5
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from tf2flax._assignment.layouts.nodes import StridedView
from tf2flax._assignment.layouts.origins import (
    casts_of,
    has_origin,
    origin_elements,
)
from tf2flax._assignment.layouts.resizing import evaluate
from tf2flax._assignment.layouts.scattering import Contribution
from tf2flax._assignment.layouts.uncasting import is_one_to_one
from tf2flax._assignment.plans.inverse import InversePlan, spec_lookup
from tf2flax._assignment.plans.renewals import Renewal
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.dtypes import forced_cast
from tf2flax._base.memory import view_at
from tf2flax._base.values import TensorSpec
from tf2flax._reading.strides import strided
from tf2flax._reading.whole import read_entry

from .backwards import leaf_value_of
from .new_tensors import NewTensor, whole_tensor
from .slicing import ReadOnce, join_parts

# Takes the elements of a tensor, or of a slice, from an array of the leaf's shape.
Take = Callable[[np.ndarray], np.ndarray]


def grown_tensors(
    inverse: InversePlan, renewal: Renewal, arrays: Mapping[str, NewTensor]
) -> dict[str, NewTensor]:
    """The tensors of a leaf that has grown, or of the parts of a family.

    Args:
        inverse: The plan backwards.
        renewal: The leaf, one of `inverse.renewals`.
        arrays: Leaves by name.
    """
    tensors: dict[str, NewTensor] = {}
    origins = {
        place: _Origins(inverse, renewal, name, place)
        for name, places in renewal.stored.items()
        for place in places
    }
    if renewal.parts:
        for place, origin in origins.items():
            parts = [_write_part(arrays[n], n, renewal, origin) for n in renewal.parts]
            tensors[place] = join_parts(place, parts)
        return tensors
    leaf, assignment = arrays[renewal.leaf], renewal.loaded[renewal.leaf]
    resized = inverse.resized(renewal, leaf.spec.shape)
    whole = ReadOnce(leaf.pieces[0].array, uses=len(resized))
    for place, (expression, shape) in resized.items():
        read = functools.partial(whole.evaluate, expression)
        tensors[place] = _write(
            place,
            TensorSpec(shape, leaf.spec.dtype),
            read,
            # Grown once more since it was loaded, it has elements in other places.
            assignment if leaf.spec.shape == assignment.shape else None,
            origins[place],
            functools.partial(evaluate, expression),
        )
    return tensors


def _write_part(
    leaf: NewTensor, name: str, renewal: Renewal, origins: _Origins
) -> NewTensor:
    """A slice of a tensor, from a leaf that is a part of a family."""
    assignment = renewal.loaded[name]
    box = assignment.box
    assert box is not None
    index = tuple(map(slice, box.starts, box.stops))
    return _write(
        name,
        leaf.spec,
        leaf.pieces[0].array,
        assignment if leaf.spec.shape == assignment.shape else None,
        origins,
        functools.partial(view_at, index=index),
    )


def _write(
    name: str,
    spec: TensorSpec,
    read: Callable[[], np.ndarray],
    assignment: Assignment | None,
    origins: _Origins,
    take: Take,
) -> NewTensor:
    """A tensor, or a slice: in the stored dtype if that holds all values of the leaf's.

    Args:
        name: Its name.
        spec: Its shape, and the dtype of the leaf.
        read: Gives the leaf's elements.
        assignment: How they were loaded; None if they are others now.
        origins: Where they came from.
        take: Takes this tensor's elements from arrays of the leaf's shape.
    """
    stored = origins.stored
    if not is_one_to_one(spec.dtype.numpy, stored.numpy):
        return whole_tensor(name, spec, read)

    def array() -> np.ndarray:
        value = read()
        result = forced_cast(value, stored.numpy)
        if assignment is None or not origins.is_alike:
            return result
        contribution = Contribution(name, value, None, origins.casts)
        leaf_value = leaf_value_of(assignment, stored.numpy, contribution)
        if leaf_value.is_reversible:
            return result
        elements, has_element = take(origins.elements.get()), take(origins.mask.get())
        is_loaded = has_element & leaf_value.is_as_loaded(elements)
        return np.where(is_loaded, elements, result)

    return whole_tensor(name, TensorSpec(spec.shape, stored), array)


class _Origins:
    """What elements of a leaf that has grown were loaded from, in the leaf's shape.

    Attributes:
        stored: Dtype that the tensor is stored in.
        is_alike: True if what was read has it, too.
        casts: What elements went through, but for the leaf's own dtype.
        elements: The elements.
        mask: True where there are any.
    """

    def __init__(
        self, inverse: InversePlan, renewal: Renewal, name: str, place: str
    ) -> None:
        """Reads nothing yet.

        Args:
            inverse: The plan backwards.
            renewal: The leaf.
            name: A tensor, by the name that the plan was made for.
            place: The stored name that is written.
        """
        manifest, expression = inverse.manifest, renewal.expression
        # It was read from the first of its places.
        entry = manifest.entry(renewal.stored[name][0])
        self.stored = manifest.entry(place).spec.dtype
        self.is_alike = entry.spec.dtype == self.stored
        self.casts = casts_of(expression, name)
        spec_of = spec_lookup(inverse.view)

        def read() -> np.ndarray:
            array = np.ascontiguousarray(read_entry(entry))

            def fetch(view: StridedView, out: np.ndarray) -> None:
                out[...] = strided(array, view.offset, view.shape, view.strides)

            return origin_elements(expression, name, spec_of, fetch)

        uses = max(len(renewal.parts), 1)
        self.elements = ReadOnce(read, uses=uses)
        self.mask = ReadOnce(lambda: has_origin(expression, name, spec_of), uses=uses)
