"""Leaves that have grown -> tensors in the shape and the order of the leaves.

What was loaded through a cast may have lost digits. An element that is as loading gave
it gets the bits that are stored, as in leaves that have not grown:

    stored float32     0.1001  0.2002            leaf bfloat16     0.1001  0.25  0.5
    written float32    0.1001  0.25    0.5       changed: 0.25     new: 0.5

Arithmetic with numbers is taken back, also for elements that the leaf has of its own:
loading them again must give what the leaf has.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._assignment.layouts.nodes import StridedView
from tf2flax._assignment.layouts.origins import (
    has_origin,
    origin_elements,
    steps_through,
)
from tf2flax._assignment.layouts.resizing import evaluate
from tf2flax._assignment.layouts.scattering import Contribution
from tf2flax._assignment.layouts.steps import has_numbers
from tf2flax._assignment.layouts.uncasting import (
    LeafValue,
    is_one_to_one,
    settle_values,
)
from tf2flax._assignment.plans.inverse import InversePlan, spec_lookup
from tf2flax._assignment.plans.renewals import Renewal
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.dtypes import forced_cast, kind_of
from tf2flax._base.errors import AssignmentError
from tf2flax._base.memory import view_at
from tf2flax._base.values import StoredDtype, TensorSpec
from tf2flax._reading.strides import strided
from tf2flax._reading.whole import read_entry

from .backwards import leaf_value_of, misfit_error
from .new_tensors import NewPiece, NewTensor, spans_processes, stored_key
from .slicing import ReadOnce, box_of_piece, join_parts

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

    Raises:
        AssignmentError: Of complex tensors, the leaf has the real part alone, and where
            its elements came from is not known; or it spans processes, and a tensor is
            more than the leaf itself.
    """
    tensors: dict[str, NewTensor] = {}
    num_pieces = sum(len(arrays[leaf].pieces) for leaf in renewal.leaves)
    origins = {
        place: _Origins(inverse, renewal, name, place, uses=num_pieces)
        for name, places in renewal.stored.items()
        for place in places
    }
    if renewal.parts:
        for place, origin in origins.items():
            parts = [
                _write_pieces(place, arrays[part], renewal.loaded[part], origin)
                for part in renewal.parts
            ]
            tensors[place] = join_parts(place, parts)
        return tensors
    leaf, assignment = arrays[renewal.leaf], renewal.loaded[renewal.leaf]
    resized = inverse.resized(renewal, leaf.spec.shape)
    whole = ReadOnce(leaf.pieces[0].array, uses=len(resized))
    for place, (expression, shape) in resized.items():
        if spans_processes(leaf):
            refuse_rearranged(renewal, place, expression)
            tensors[place] = _write_pieces(place, leaf, assignment, origins[place])
            continue
        elements = _Elements(
            place,
            TensorSpec(shape, leaf.spec.dtype),
            functools.partial(whole.evaluate, expression),
            functools.partial(evaluate, expression),
            # Grown once more since it was loaded, it has elements in other places.
            is_moved=leaf.spec.shape != assignment.shape,
        )
        dtype, array = _as_stored(elements, assignment, origins[place])
        spec = TensorSpec(shape, dtype)
        tensors[place] = NewTensor(
            stored_key(place), spec, (NewPiece(spec, None, array),)
        )
    return tensors


def refuse_rearranged(renewal: Renewal, name: str, expression: Expression) -> None:
    """Refuses a leaf that spans processes, and is not its tensor as it is.

    Args:
        renewal: The leaf.
        name: The tensor.
        expression: The tensor in terms of the leaf.

    Raises:
        AssignmentError: The tensor is more than the leaf itself.
    """
    if not isinstance(expression, Source):
        raise AssignmentError(
            f"Leaf `{renewal.leaf}` spans processes, does not have the shape of "
            f"the tensor, and is written to `{name}` as `{expression}`. Replicate "
            "it, or save it without the plan."
        )


def _write_pieces(
    place: str, leaf: NewTensor, assignment: Assignment, origins: _Origins
) -> NewTensor:
    """A tensor, or a slice of it, in the pieces of a leaf.

    Args:
        place: Stored name of the tensor.
        leaf: The leaf, or a part of a family.
        assignment: How it was loaded.
        origins: Where its elements came from.
    """
    shape = leaf.spec.shape
    # Of a part, boxes count from where it begins in the tensor.
    starts = (0,) * len(shape) if assignment.box is None else assignment.box.starts
    pieces: list[NewPiece] = []
    dtype = leaf.spec.dtype
    for piece in leaf.pieces:
        box = box_of_piece(piece, shape).moved(starts)
        index = tuple(map(slice, box.starts, box.stops))
        take = functools.partial(view_at, index=index)
        is_moved = shape != assignment.shape
        elements = _Elements(place, piece.spec, piece.array, take, is_moved=is_moved)
        dtype, array = _as_stored(elements, assignment, origins)
        spec = TensorSpec(piece.spec.shape, dtype)
        pieces.append(dataclasses.replace(piece, spec=spec, array=array, part=None))
    return NewTensor(stored_key(place), TensorSpec(shape, dtype), tuple(pieces))


@dataclasses.dataclass(frozen=True, slots=True)
class _Elements:
    """Elements of a leaf that are written as a tensor, or as a slice of one.

    Attributes:
        place: Stored name of the tensor.
        spec: Their shape, and the dtype of the leaf.
        read: Gives them.
        take: Takes those in the same places from arrays of the shape that was loaded.
        is_moved: True if the leaf has another shape now, so that there are none.
    """

    place: str
    spec: TensorSpec
    read: Callable[[], np.ndarray]
    take: Take
    is_moved: bool


def _as_stored(
    elements: _Elements, assignment: Assignment, origins: _Origins
) -> tuple[StoredDtype, Callable[[], np.ndarray]]:
    """Elements of a leaf as they are written: their dtype, and what gives them.

    Args:
        elements: The elements.
        assignment: How they were loaded.
        origins: Where they came from.
    """
    stored = origins.stored
    has_origins = origins.is_alike and not elements.is_moved
    is_real_part = origins.is_real_part(assignment.dtype)
    if is_real_part and not has_origins:
        raise AssignmentError(
            f"Leaf `{assignment.leaf}` cannot be written as `{elements.place}`: it has "
            "the real part alone, and which imaginary parts belong to it is not known, "
            "since its shape has changed after loading. Load the tensor as complex "
            "numbers, or save the tree without the plan."
        )
    before = origins.elements if has_origins else None
    if is_real_part or has_numbers(origins.steps):
        write = _settled
    elif is_one_to_one(elements.spec.dtype.numpy, stored.numpy):
        write = _cast_back
    else:
        return elements.spec.dtype, elements.read
    return stored, functools.partial(write, elements, assignment, origins, before)


def _settled(
    elements: _Elements,
    assignment: Assignment,
    origins: _Origins,
    before: ReadOnce | None,
) -> np.ndarray:
    """Numbers that load as the leaf has them.

    Imaginary parts that were never loaded stay.

    Args:
        elements: The elements.
        assignment: How they were loaded.
        origins: Where they came from.
        before: The stored elements, in the leaf's shape; None if they are not known.
    """
    value = _leaf_value(elements, assignment, origins)
    result = np.zeros(elements.spec.shape, origins.stored.numpy)
    if before is not None:
        result[...] = elements.take(before.get())
    if conflict := settle_values(result, [value]):
        spec = TensorSpec(elements.spec.shape, origins.stored)
        raise misfit_error(conflict, value, elements.place, spec)
    return result


def _cast_back(
    elements: _Elements,
    assignment: Assignment,
    origins: _Origins,
    before: ReadOnce | None,
) -> np.ndarray:
    """As `_settled`, of elements for which a cast alone finds these numbers."""
    value = _leaf_value(elements, assignment, origins)
    result = forced_cast(value.value, origins.stored.numpy)
    if before is None or value.is_reversible:
        return result
    stored = elements.take(before.get())
    is_loaded = elements.take(origins.mask.get()) & value.is_as_loaded(stored)
    return np.where(is_loaded, stored, result)


def _leaf_value(
    elements: _Elements, assignment: Assignment, origins: _Origins
) -> LeafValue:
    contribution = Contribution(elements.place, elements.read(), None, origins.steps)
    return leaf_value_of(assignment, origins.stored.numpy, contribution)


class _Origins:
    """What elements of a leaf that has grown were loaded from, in the leaf's shape.

    Attributes:
        stored: Dtype that the tensor is stored in.
        is_alike: True if what was read has it, too.
        steps: What elements went through, but for the leaf's own dtype.
        elements: The elements; zeros where there are none.
        mask: True where there are any.
    """

    def __init__(
        self,
        inverse: InversePlan,
        renewal: Renewal,
        name: str,
        place: str,
        *,
        uses: int,
    ) -> None:
        """Reads nothing yet.

        Args:
            inverse: The plan backwards.
            renewal: The leaf.
            name: A tensor, by the name that the plan was made for.
            place: The stored name that is written.
            uses: How often `elements` and `mask` may be asked for.
        """
        manifest, expression = inverse.manifest, renewal.expression
        spec_of = spec_lookup(inverse.view)
        # It was read from the first of its places.
        entry = manifest.entry(renewal.stored[name][0])
        self.stored = manifest.entry(place).spec.dtype
        self.is_alike = entry.spec.dtype == self.stored
        self.steps = (entry.spec.dtype.numpy, *steps_through(expression, name, spec_of))

        def read() -> np.ndarray:
            array = np.ascontiguousarray(read_entry(entry))

            def fetch(view: StridedView, out: np.ndarray) -> None:
                out[...] = strided(array, view.offset, view.shape, view.strides)

            return origin_elements(expression, name, spec_of, fetch)

        self.elements = ReadOnce(read, uses=uses)
        self.mask = ReadOnce(lambda: has_origin(expression, name, spec_of), uses=uses)

    def is_real_part(self, dtype: np.dtype) -> bool:
        """True if a leaf of a dtype has no imaginary parts, and the tensor does."""
        casts = (s for s in (*self.steps, dtype) if isinstance(s, np.dtype))
        kinds = [kind_of(self.stored.numpy), *map(kind_of, casts)]
        return kinds[0] == "complex" and any(kind != "complex" for kind in kinds)
