"""What a restore reads: the bytes that its leaves, or shards, are made of."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle

import tf2flax
from tf2flax import Expression, concat, src, stack
from tf2flax._base.values import Box
from tf2flax._restoring.plan_reads import plan_reads
from tf2flax._restoring.run_reads import HostLeaves, run_reads
from tf2flax._storage.local import LocalFile

# Rows of 32 KiB: runs that are worth a system call of their own.
ROWS, COLUMNS = 24, 8192
NBYTES = ROWS * COLUMNS * 4


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    size = ROWS * COLUMNS
    return {
        name: np.arange(i * size, (i + 1) * size, dtype="f4").reshape(ROWS, COLUMNS)
        for i, name in enumerate(("q", "k", "v"))
    }


@pytest.fixture(scope="module", params=["whole", "sliced"])
def prefix(
    request: pytest.FixtureRequest,
    arrays: dict[str, np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
    path = tmp_path_factory.mktemp("bytes") / "m"
    slices = rows_in(arrays["q"], 5) if request.param == "sliced" else None
    write_bundle(path, {name: Tensor(array, slices) for name, array in arrays.items()})
    return path


@pytest.fixture
def nbytes_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Bytes read of data files since it was last called."""
    read: list[int] = []
    original = LocalFile.read_runs_into

    def counted(
        file: LocalFile, starts: Sequence[int], buffer: memoryview, *, subject: str
    ) -> None:
        read.append(len(buffer))
        original(file, starts, buffer, subject=subject)

    monkeypatch.setattr(LocalFile, "read_runs_into", counted)

    def total() -> int:
        count = sum(read)
        read.clear()
        return count

    return total


Value = Callable[[dict[str, np.ndarray]], np.ndarray]
# Expression, its value, and the fraction of q, k and v that it reads.
WHOLE_LEAVES: dict[str, tuple[Expression, Value, float]] = {
    "rows": (src("q")[6:12], lambda a: a["q"][6:12], 0.25),
    "rows in steps": (src("q")[::4], lambda a: a["q"][::4], 0.25),
    "rows by number": (
        src("q").take([20, 3, 7]), lambda a: a["q"][[20, 3, 7]], 0.125,
    ),
    "columns": (src("q")[:, :4096], lambda a: a["q"][:, :4096], 0.5),
    "one of three": (
        concat("q", "k", "v", axis=1)[:, COLUMNS : 2 * COLUMNS], lambda a: a["k"], 1,
    ),
    "one layer": (stack("q", "k", "v")[2], lambda a: a["v"], 1),
    "transposed rows": (
        src("q").transpose()[:, 3:6], lambda a: a["q"].T[:, 3:6], 0.125,
    ),
    "one head": (
        src("q").rearrange("d (h k) -> h d k", h=2)[1], lambda a: a["q"][:, 4096:], 0.5,
    ),
    "a sum of rows": (
        src("q")[:6] + src("k")[6:12], lambda a: a["q"][:6] + a["k"][6:12], 0.5,
    ),
    "rows and a number": (
        (2.0 * src("q") - 1.0)[6:12], lambda a: 2 * a["q"][6:12] - 1, 0.25,
    ),
    "padded rows": (
        src("q")[:6].pad(((2, 1), (0, 0)), fill=0.5),
        lambda a: np.pad(a["q"][:6], ((2, 1), (0, 0)), constant_values=0.5), 0.25,
    ),
    "filled rows": (
        src("q").take([20, -1, 7], fill=3.0),
        lambda a: np.stack([a["q"][20], a["q"][0] * 0 + 3, a["q"][7]]), 2 / 24,
    ),
    "all, twice": (stack("q", "q"), lambda a: np.stack([a["q"]] * 2), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WHOLE_LEAVES))
def test_a_leaf_reads_its_own_bytes(
    name: str,
    prefix: pathlib.Path,
    arrays: dict[str, np.ndarray],
    nbytes_read: Callable[[], int],
) -> None:
    expression, value, fraction = WHOLE_LEAVES[name]
    wanted = value(arrays)
    target = {"x": jax.ShapeDtypeStruct(wanted.shape, "float32")}
    plan = tf2flax.plan(prefix, {expression: "x"}, target)
    assert nbytes_read() == 0
    assert plan.nbytes == NBYTES * fraction
    assert np.array_equal(plan.restore()["x"], wanted)
    assert nbytes_read() == NBYTES * fraction


JOINED = concat("q", "k", "v", axis=1)
# Expression, the box that is one shard, and whether its bytes alone are read.
SHARDS: dict[str, tuple[Expression, tuple[slice, ...], bool]] = {
    "rows of heads": (
        JOINED.rearrange("d (p h k) -> d p h k", p=3, h=2),
        (slice(6, 12), slice(0, 3), slice(0, 2), slice(0, 4096)),
        True,
    ),
    "one of q, k and v": (
        JOINED.rearrange("d (p h k) -> p d h k", p=3, h=2),
        (slice(1, 2), slice(0, ROWS), slice(0, 2), slice(0, 4096)),
        True,
    ),
    "some heads": (
        JOINED.rearrange("d (h k) -> h d k", h=6),
        (slice(2, 5), slice(0, ROWS), slice(0, 4096)),
        True,
    ),
    "some rows of a transpose": (
        src("q").transpose(),
        (slice(0, COLUMNS), slice(12, 18)),
        True,
    ),
    "layers": (
        stack("q", "k", "v"),
        (slice(1, 3), slice(0, ROWS), slice(0, COLUMNS)),
        True,
    ),
    "merged rows": (
        stack("q", "k", "v").rearrange("l (a b) c -> (a l b) c", a=2),
        (slice(0, 18), slice(0, COLUMNS)),
        True,
    ),
    "a sum": (
        -(src("q") + src("k")).transpose() * 0.5,
        (slice(0, COLUMNS), slice(12, 18)),
        True,
    ),
    "a pad and a little more": (
        src("q").pad(((6, 0), (0, 0)), fill=1.0) + 1.0,
        (slice(0, 9), slice(0, COLUMNS)),
        True,
    ),
    "what mixes axes": (
        src("q").transpose().reshape(ROWS * 2, COLUMNS // 2),
        (slice(0, 6), slice(0, COLUMNS // 2)),
        False,
    ),
}


@pytest.mark.parametrize("name", list(SHARDS))
def test_a_shard_reads_its_own_bytes(
    name: str,
    prefix: pathlib.Path,
    arrays: dict[str, np.ndarray],
    nbytes_read: Callable[[], int],
) -> None:
    expression, index, is_exact = SHARDS[name]
    checkpoint = tf2flax.open_checkpoint(prefix)
    whole = tf2flax.init_from_checkpoint(
        prefix, {expression: "x"}, _target(expression, arrays)
    )["x"]
    plan = tf2flax.plan(prefix, {expression: "x"}, _target(expression, arrays))
    (assignment,) = plan.assignments
    assert assignment.is_exact == is_exact
    assert plan.to_dict()["assignments"][0]["reads"] == (
        "shards" if is_exact else "whole"
    )
    assert ("x *" in str(plan)) == (not is_exact)
    box = Box(tuple(s.start for s in index), tuple(s.stop for s in index))
    nbytes_read()
    reading = plan_reads([assignment], {"x": [box]}, checkpoint.manifest)
    found: list[np.ndarray] = []

    def put(leaves: HostLeaves) -> Callable[[], None]:
        found.append(leaves["x"][box])
        return lambda: None

    run_reads(
        reading,
        put,
        verify=True,
        max_in_flight_bytes=1,
        advance=lambda _nbytes, _name: None,
    )
    assert np.array_equal(found[0], whole[index])
    # A sum needs two elements for each, a pad none.
    size = {"a sum": 2 * box.size, "a pad and a little more": box.size // 3}
    needed = size.get(name, box.size) * 4
    assert reading.needed_nbytes == needed or not is_exact
    assert (nbytes_read() == needed) == is_exact


def _target(
    expression: Expression, arrays: dict[str, np.ndarray]
) -> dict[str, jax.ShapeDtypeStruct]:
    from tf2flax._assignment.layouts.lowering import lower
    from tf2flax._base.values import STORED_DTYPES, TensorSpec

    spec = TensorSpec(arrays["q"].shape, STORED_DTYPES[1])
    shape = lower(expression, lambda _: spec).shape
    return {"x": jax.ShapeDtypeStruct(shape, "float32")}
