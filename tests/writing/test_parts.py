"""Pieces of tensors are distributed over processes and files, and fetched in blocks."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tf2flax._base.values import STORED_DTYPES, Box, TensorSpec
from tf2flax._writing import device_arrays, parts, sharded, slicing
from tf2flax._writing.new_tensors import NewPiece, NewTensor

BYTE = next(dtype for dtype in STORED_DTYPES.values() if dtype.name == "uint8")


@given(
    shape=st.lists(st.integers(1, 5), max_size=4).map(tuple),
    max_size=st.integers(1, 20),
)
def test_blocks_follow_each_other(shape: tuple[int, ...], max_size: int) -> None:
    array = np.arange(int(np.prod(shape)), dtype="u1").reshape(shape)
    whole = Box.whole(shape)
    boxes = list(parts.split_box(whole, max_size))
    assert all(box.size <= max_size for box in boxes)
    blocks = [array[box.within(whole)].tobytes() for box in boxes]
    assert b"".join(blocks) == array.tobytes()


def new_tensor(number: int, size: int, process: int | None) -> NewTensor:
    spec = TensorSpec((size,), BYTE)
    piece = NewPiece(spec, None, lambda: np.zeros(size, "u1"), process)
    return NewTensor(b"%05d" % number, spec, (piece,))


@given(
    sizes=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([None, 3, 5]))),
    count=st.integers(1, 3),
    max_nbytes=st.sampled_from([None, 4, 10]),
)
def test_every_piece_has_one_place(
    sizes: list[tuple[int, int | None]], count: int, max_nbytes: int | None
) -> None:
    tensors = [new_tensor(i, *size) for i, size in enumerate(sizes)]
    planned = parts.plan_parts(
        tensors, (3, 5), num_data_files=count, max_nbytes=max_nbytes
    )
    first = 0
    for process, part in planned.items():
        # The first process writes what all have. Files are numbered one after another.
        assert [placed.tensor for placed in part.pieces] == [
            t for t in tensors if (t.pieces[0].process or 3) == process
        ]
        assert part.files.start == first
        first = part.files.stop
        numbers = [placed.number for placed in part.pieces]
        assert numbers == sorted(numbers)
        assert set(numbers) <= set(part.files)
        assert len(part.files) >= count
        for number in part.files if max_nbytes else ():
            held = [p.piece.nbytes for p in part.pieces if p.number == number]
            filled = sum(held[:-1]) if len(held) > 1 else 0
            assert filled <= max_nbytes * 2  # pyright: ignore[reportOptionalOperand]
    assert list(planned) == [3, 5]


@pytest.mark.parametrize("is_on_host", [True, False])
def test_shards_are_fetched_in_blocks(
    is_on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    array = np.arange(8 * 6 * 12, dtype="<f4").reshape(8, 6, 12)
    sharding = NamedSharding(mesh, PartitionSpec("a", None, "b"))
    value = jax.device_put(array, sharding)
    monkeypatch.setattr(device_arrays, "_is_on_host", lambda _: is_on_host)
    monkeypatch.setattr(parts, "BLOCK_NBYTES", 40)
    spec = TensorSpec(
        array.shape, next(d for d in STORED_DTYPES.values() if d.name == "float32")
    )
    tensor = sharded.sharded_tensor("t", spec, value)
    assert len(tensor.pieces) == 8
    for cut, limit in ((tensor, 40), (slicing.cut_slices(tensor, 60), 60)):
        joined = np.full(array.shape, np.nan, "f4")
        with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
            for piece in cut.pieces:
                blocks = [*parts._blocks(piece)]
                value = np.concatenate([block.ravel() for block in blocks])
                box = slicing.box_of_piece(piece, array.shape)
                joined[box.within(Box.whole(array.shape))] = value.reshape(box.shape)
                assert max(block.nbytes for block in blocks) <= limit
        assert np.array_equal(joined, array)
