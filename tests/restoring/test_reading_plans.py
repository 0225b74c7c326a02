"""Any boxes of any leaves: the right elements, read once, checked, in little memory."""

from __future__ import annotations

import errno
import itertools
import math
import os
import pathlib
import resource
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import expressions
import jax
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

import tf2flax
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.nodes import all_views
from tf2flax._base.boxes import boxes_in_run, cut_into_boxes, merge_boxes
from tf2flax._base.tuning import Tuning
from tf2flax._base.values import DTYPES_BY_NUMPY, Box, TensorSpec
from tf2flax._formats.wire.coding import combine, crc32c
from tf2flax._reading import parts, runs
from tf2flax._reading.strides import strided
from tf2flax._restoring.plan_reads import is_streamed, plan_reads, views_within
from tf2flax._restoring.reads import ReadPlan
from tf2flax._restoring.run_reads import HostLeaves, run_reads
from tf2flax._storage import local
from tf2flax._storage.local import LocalFile

# Makes tensors of some bytes as hard to read as those of some GiB.
TINY = Tuning(
    chunk_nbytes=32,
    small_nbytes=24,
    group_nbytes=48,
    job_nbytes=64,
    min_direct_nbytes=8,
    read_cost_nbytes=8,
)


def target_of(arrays: dict[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}


def read(
    reading: ReadPlan, *, limit: int = 1 << 30, verify: bool = True
) -> dict[str, dict[Box, np.ndarray]]:
    """Runs a reading; what is handed on is copied, and then made unusable."""
    found: dict[str, dict[Box, np.ndarray]] = {}
    counted: list[int] = []
    lock = threading.Lock()

    def put(leaves: HostLeaves) -> Any:
        for leaf, arrays in leaves.items():
            own = {box: array.copy() for box, array in arrays.items()}
            found.setdefault(leaf, {}).update(own)
        return lambda: None

    def advance(nbytes: int, name: str) -> None:
        assert name
        with lock:
            counted.append(nbytes)

    run_reads(
        reading,
        put,
        verify=verify,
        max_in_flight_bytes=limit,
        advance=advance,
    )
    assert sum(counted) == reading.nbytes
    return found


def read_in_chunks(
    path: pathlib.Path,
    key: Any,
    target: dict[str, jax.ShapeDtypeStruct],
    *,
    verify: bool = True,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Leaves, read whole and in tiny chunks."""
    plan = tf2flax.plan(path, key, target, **options)
    boxes = {leaf: [Box.whole(wanted.shape)] for leaf, wanted in target.items()}
    manifest = tf2flax.open_checkpoint(path).manifest
    reading = plan_reads(plan.assignments, boxes, manifest, tuning=TINY)
    leaves = read(reading, verify=verify)
    return {leaf: arrays[boxes[leaf][0]] for leaf, arrays in leaves.items()}


@st.composite
def slices_of(
    draw: st.DrawFn, shape: tuple[int, ...]
) -> list[tuple[slice, ...]] | None:
    """A way to save a tensor: whole, or cut along one or two axes."""
    if not shape or draw(st.booleans()):
        return None
    cuts: list[list[slice]] = []
    for dim in shape:
        inner = draw(st.sets(st.integers(1, max(1, dim - 1)), max_size=2))
        bounds = [0, *sorted(n for n in inner if n < dim), dim]
        cuts.append(list(map(slice, bounds, bounds[1:])))
        if draw(st.booleans()):
            break
    cuts += [[slice(0, dim)] for dim in shape[len(cuts) :]]
    result: list[tuple[slice, ...]] = [()]
    for axis in cuts:
        result = [(*head, one) for head in result for one in axis]
    return draw(st.permutations(result))


@st.composite
def boxes_of(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Box]:
    """Some boxes, or the shards of a mesh, or all of it."""
    if not all(shape) or draw(st.booleans()):
        return [Box.whole(shape)]
    boxes: list[Box] = []
    for _ in range(draw(st.integers(1, 4))):
        bounds = [sorted(draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
        boxes.append(Box(tuple(a for a, _ in bounds), tuple(b for _, b in bounds)))
    return boxes


@settings(max_examples=250)
@given(data=st.data())
def test_any_boxes_of_any_leaves(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arrays = data.draw(expressions.tensors(count=3))
    path = tmp_path_factory.mktemp("plans") / "m"
    tensors = {
        name: Tensor(array, data.draw(slices_of(array.shape)))
        for name, array in arrays.items()
    }
    write_bundle(path, tensors)
    leaves = {
        f"leaf{i}": data.draw(expressions.cases(arrays))
        for i in range(data.draw(st.integers(1, 4)))
    }
    dtypes = {
        leaf: f"{case.value.dtype.name[:-2]}{data.draw(st.sampled_from((32, 64)))}"
        for leaf, case in leaves.items()
    }
    with jax.enable_x64(True):
        plan = tf2flax.plan(
            path,
            [(case.expression, leaf) for leaf, case in leaves.items()],
            {
                leaf: jax.ShapeDtypeStruct(case.value.shape, dtypes[leaf])
                for leaf, case in leaves.items()
            },
        )
    boxes = {
        leaf: data.draw(boxes_of(case.value.shape)) for leaf, case in leaves.items()
    }
    manifest = tf2flax.open_checkpoint(path).manifest
    reading = plan_reads(plan.assignments, boxes, manifest, tuning=TINY)
    found = read(reading, limit=data.draw(st.sampled_from([1, 100, 1 << 30])))
    for leaf, case in leaves.items():
        assert set(found[leaf]) == set(boxes[leaf])
        for box, array in found[leaf].items():
            wanted = case.value[box.within(Box.whole(case.value.shape))]
            assert array.dtype == dtypes[leaf]
            assert np.array_equal(array, wanted), (leaf, box)
    assert reading.needed_nbytes <= sum(array.nbytes for array in arrays.values())


@given(data=st.data())
@settings(max_examples=250)
def test_views_of_all_are_those_within_the_box_of_all(data: st.DataObject) -> None:
    arrays = data.draw(expressions.tensors(count=3))
    specs = {
        name: TensorSpec(array.shape, DTYPES_BY_NUMPY[array.dtype])
        for name, array in arrays.items()
    }
    layout = lower(data.draw(expressions.cases(arrays)).expression, specs.__getitem__)
    assume(is_streamed(layout))
    views = [(view, box) for view, box in all_views(layout) if box.size]
    assert views == list(views_within(layout, Box.whole(layout.shape)))


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_boxes_in_portions(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    value = array.transpose(axes).astype(bfloat16)
    slices = rows_in(array, data.draw(st.integers(1, shape[0])))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "m")
        is_sliced = data.draw(st.booleans())
        write_bundle(path, {"t": Tensor(array, slices if is_sliced else None)})
        leaf = jax.ShapeDtypeStruct(value.shape, "bfloat16")
        key = tf2flax.src("t").transpose(axes)
        plan = tf2flax.plan(path, {key: "x"}, {"x": leaf})
        manifest = tf2flax.open_checkpoint(path).manifest
        boxes = grid(data, value.shape)
        limit = data.draw(st.integers(1, 2 * value.size))
        reading = plan_reads(
            plan.assignments, {"x": boxes}, manifest, {"x": limit}, TINY
        )
        found = read(reading, limit=limit)["x"]
    together = sum(box.size for box in boxes)
    assert ("x" in reading.portioned) == (2 * together > limit and value.size > 1)
    assert sum(box.size for box in found) == together
    for box, part in found.items():
        whole = Box.whole(value.shape)
        assert np.array_equal(part, value[box.within(whole)])
        assert any(box.intersection(own) == box for own in boxes)
    assert reading.needed_nbytes == 4 * together
    if together == value.size:
        assert reading.nbytes == array.nbytes
        assert reading.unverified == ()


def grid(data: st.DataObject, shape: tuple[int, ...]) -> list[Box]:
    """Some of the shards of an array, as a mesh cuts it."""
    counts = [
        data.draw(st.sampled_from([k for k in range(1, n + 1) if n % k == 0]))
        for n in shape
    ]
    extents = tuple(n // k for n, k in zip(shape, counts, strict=True))
    shards: list[Box] = []
    for place in itertools.product(*map(range, counts)):
        starts = tuple(i * n for i, n in zip(place, extents, strict=True))
        shards.append(Box((0,) * len(shape), extents).moved(starts))
    if data.draw(st.booleans()):
        return shards
    return data.draw(st.lists(st.sampled_from(shards), min_size=1, unique=True))


def _misfits() -> Iterator[tuple[str, np.ndarray, str, str]]:
    floats = np.ones((40, 50), np.float32)
    floats[7, 3], floats[30, 1] = 1e30, -1e30
    yield "floats", floats, "float16", "2 of 2000 values do not fit float16, the first"
    ints = np.zeros((40, 50), np.int32)
    ints[7, 3] = 300
    yield "ints", ints, "uint8", "1 of 2000 values do not fit uint8, the first is 300"


@pytest.mark.parametrize("case", list(_misfits()), ids=lambda case: case[0])
def test_misfits_are_counted_over_chunks(
    case: tuple[str, np.ndarray, str, str], tmp_path: pathlib.Path
) -> None:
    _, array, dtype, said = case
    write_bundle(tmp_path / "m", {"t": Tensor(array), "u": Tensor(array)})
    target = {
        "x": jax.ShapeDtypeStruct(array.shape, dtype),
        "y": jax.ShapeDtypeStruct(array.shape[::-1], dtype),
    }
    key = {"t": "x", tf2flax.src("u").transpose(): "y"}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        read_in_chunks(tmp_path / "m", key, target)
    text = str(caught.value)
    assert f"Leaf `x` cannot take tensor `t`: {said}" in text
    assert "Leaf `y` cannot take" in text
    assert "at [7, 3]" in text
    assert ("at [1, 30]" if dtype == "float16" else "at [3, 7]") in text
    forced = read_in_chunks(tmp_path / "m", key, target, dtype=dtype)
    with np.errstate(all="ignore"):
        assert np.array_equal(forced["x"], array.astype(dtype))


def test_casts_in_chunks(tmp_path: pathlib.Path) -> None:
    array = np.random.default_rng(0).standard_normal((64, 33), dtype=np.float32)
    write_bundle(tmp_path / "m", {"t": Tensor(array)})
    target = {
        "x": jax.ShapeDtypeStruct((64, 33), "bfloat16"),
        "y": jax.ShapeDtypeStruct((33, 64), "float32"),
    }
    key = {"t": "x", tf2flax.src("t").cast("float16").transpose(): "y"}
    got = read_in_chunks(tmp_path / "m", key, target)
    assert np.array_equal(got["x"], array.astype(bfloat16))
    assert np.array_equal(got["y"], array.astype("f2").astype("f4").T)


@pytest.mark.parametrize("position", [0, 63, 64, 1000, 4095])
def test_checksums_of_parts_are_combined(tmp_path: pathlib.Path, position: int) -> None:
    array = np.arange(1024, dtype=np.int32).reshape(32, 32)
    write_bundle(tmp_path / "m", {"t": Tensor(array)})
    target = {"x": jax.ShapeDtypeStruct((32, 32), "int32")}
    whole = read_in_chunks(tmp_path / "m", {"t": "x"}, target)
    assert np.array_equal(whole["x"], array)
    data = tmp_path / "m.data-00000-of-00001"
    contents = bytearray(data.read_bytes())
    contents[position] ^= 1
    data.write_bytes(contents)
    with pytest.raises(tf2flax.DamagedError, match="crc32c"):
        read_in_chunks(tmp_path / "m", {"t": "x"}, target)
    got = read_in_chunks(tmp_path / "m", {"t": "x"}, target, verify=False)
    assert (np.asarray(got["x"]) != array).sum() == 1


@given(data=st.binary(max_size=400), cut=st.integers(0, 400))
def test_checksums_combine(data: bytes, cut: int) -> None:
    first, second = data[:cut], data[cut:]
    assert combine(crc32c(first), crc32c(second), len(second)) == crc32c(data)


def test_checksums_of_very_long_parts_combine() -> None:
    # Zero bytes after a part, 4 GiB and more of them, a power of two at a time.
    crc, nbytes = crc32c(bytes(1 << 20)), 1 << 20
    while nbytes < 1 << 34:
        crc, nbytes = combine(crc, crc, nbytes), 2 * nbytes
    head = crc32c(b"head")
    in_two = combine(combine(head, crc, nbytes), crc, nbytes)
    assert in_two == combine(head, combine(crc, crc, nbytes), 2 * nbytes)


@settings(max_examples=300)
@given(data=st.data())
def test_restricted_views(data: st.DataObject) -> None:
    arrays = data.draw(expressions.tensors(count=1))
    (name,) = arrays
    base = np.arange(arrays[name].size).reshape(arrays[name].shape)
    assume(base.size)
    view = base
    for _ in range(data.draw(st.integers(0, 3))):
        axes = data.draw(st.permutations(range(view.ndim)))
        steps = [data.draw(st.sampled_from([1, -1, 2, -2])) for _ in axes]
        view = view.transpose(axes)[tuple(slice(None, None, step) for step in steps)]
    strides = tuple(stride // base.itemsize for stride in view.strides)
    offset = int(view.flat[0])
    start = data.draw(st.integers(0, base.size))
    stop = data.draw(st.integers(start, base.size))
    counts = np.zeros(view.shape, int)
    whole = Box.whole(view.shape)
    lows: list[int] = []
    for box in boxes_in_run(offset, view.shape, strides, start, stop):
        counts[box.within(whole)] += 1
        lows.append(int(view[box.within(whole)].min()))
    assert np.array_equal(counts, (view >= start) & (view < stop))
    assert lows == sorted(lows)
    counts[...] = 0
    limit = data.draw(st.integers(1, 30))
    for box in cut_into_boxes(view.shape, strides, limit):
        assert box.size <= limit
        counts[box.within(whole)] += 1
    assert (counts == 1).all()
    boxes = data.draw(boxes_of(view.shape))
    before, after = np.zeros(view.shape, bool), np.zeros(view.shape, bool)
    for box in boxes:
        before[box.within(whole)] = True
    joined = merge_boxes(boxes) if boxes else ()
    for box in joined:
        after[box.within(whole)] = True
    assert np.array_equal(before, after)
    assert len(joined) <= len(set(boxes))


def test_over_read_is_bounded() -> None:
    shapes = [(4096, 1), (4096, 16), (512, 64, 3), (16384, 2)]
    for shape in shapes:
        for row in (8, 64, 300, 1000, 5000, 1 << 16):
            strides = (*(row * 3 * n for n in range(len(shape) - 1, 0, -1)), 1)
            batches = runs.batch_runs(0, shape, strides, 4, 256 << 10)
            read = sum(batch.size for batch in batches) * 4
            needed = math.prod(shape) * 4
            is_free = read - needed <= 1 << 20
            assert read <= 8 * needed or is_free or math.prod(shape[:-1]) > 16_384


class _Slow:
    """A device that is never done with what it was given: hand-overs wait."""

    def __init__(self) -> None:
        self.held = 0
        self.most = 0

    def put(self, leaves: HostLeaves) -> Any:
        nbytes = sum(a.nbytes for arrays in leaves.values() for a in arrays.values())
        self.held += nbytes
        self.most = max(self.most, self.held)

        def wait() -> None:
            self.held -= nbytes

        return wait


def test_memory_in_flight_is_bounded(tmp_path: pathlib.Path) -> None:
    arrays = {f"t{i:02d}": np.full((64, 1024), i, np.float32) for i in range(40)}
    write_bundle(tmp_path / "m", {name: Tensor(a) for name, a in arrays.items()})
    target = {
        name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()
    }
    plan = tf2flax.plan(tmp_path / "m", {"/": "/"}, target)
    manifest = tf2flax.open_checkpoint(tmp_path / "m").manifest
    boxes = {name: [Box.whole(a.shape)] for name, a in arrays.items()}
    reading = plan_reads(plan.assignments, boxes, manifest)
    for limit in (1, 1 << 20, 1 << 22):
        slow = _Slow()
        run_reads(
            reading,
            slow.put,
            verify=True,
            max_in_flight_bytes=limit,
            advance=lambda _nbytes, _name: None,
        )
        assert slow.held == 0
        assert slow.most <= max(limit, reading.host_nbytes)


def test_neighbours_are_read_and_placed_together(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 20_000
    arrays = {f"t{i}": np.array([i, -i], np.int32) for i in range(count)}
    tf2flax.save_checkpoint(tmp_path / "m", arrays)
    calls: list[int] = []
    read_runs_into, device_put = LocalFile.read_runs_into, jax.device_put

    def counted(file: LocalFile, starts: Any, buffer: Any, *, subject: str) -> None:
        calls.append(len(buffer))
        read_runs_into(file, starts, buffer, subject=subject)

    def put(*args: Any, **options: Any) -> Any:
        calls.append(-1)
        return device_put(*args, **options)

    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    monkeypatch.setattr(LocalFile, "read_runs_into", counted)
    monkeypatch.setattr(jax, "device_put", put)
    target = {name: jax.ShapeDtypeStruct((2,), "int32") for name in arrays}
    got = tf2flax.init_from_checkpoint(checkpoint, {"/": "/"}, target)
    assert len(calls) < 10
    for i in range(0, count, 997):
        assert got[f"t{i}"].tolist() == [i, -i]


def test_one_failure_ends_the_rest(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {f"t{i:02d}": np.full((512, 256), i, np.float32) for i in range(50)}
    write_bundle(tmp_path / "m", {name: Tensor(a) for name, a in arrays.items()})
    read_runs_into = LocalFile.read_runs_into
    calls: list[str] = []

    def failing(file: LocalFile, starts: Any, buffer: Any, *, subject: str) -> None:
        calls.append(subject)
        if "t03" in subject:
            raise KeyboardInterrupt
        read_runs_into(file, starts, buffer, subject=subject)

    monkeypatch.setattr(LocalFile, "read_runs_into", failing)
    target = {
        name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()
    }
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        tf2flax.init_from_checkpoint(tmp_path / "m", {"/": "/"}, target)
    assert threading.active_count() <= before
    assert len(calls) < 20


def test_failures_name_tensor_file_and_range(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {f"t{i}": np.full((300, 512), i, np.float32) for i in range(3)}
    write_bundle(tmp_path / "m", {name: Tensor(a) for name, a in arrays.items()})
    target = target_of(arrays)
    preadv = os.preadv

    def failing(descriptor: int, buffers: Any, offset: int) -> int:
        if offset == 300 * 512 * 4:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(tf2flax.ReadError) as caught:
        tf2flax.init_from_checkpoint(tmp_path / "m", {"/": "/"}, target)
    assert str(caught.value) == (
        f"Cannot read `{tmp_path}/m.data-00000-of-00001`: Input/output error - for "
        "Tensor `t1`, bytes [614400:1228800]."
    )


def test_many_files_with_few_descriptors(tmp_path: pathlib.Path) -> None:
    arrays = {f"t{i:02d}": np.full((300, 512), i, np.float32) for i in range(30)}
    tf2flax.save_checkpoint(tmp_path / "m", arrays, data_files=30)
    plan = tf2flax.plan(tmp_path / "m", {"/": "/"}, target_of(arrays))
    plan.restore()  # whatever JAX opens, it has opened
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + 8, hard))
    try:
        restored = plan.restore()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    for name, array in arrays.items():
        np.testing.assert_array_equal(restored[name], array)


def test_files_are_opened_by_no_python_that_an_interrupt_could_stop(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"t": np.ones((300, 512), np.float32)}
    write_bundle(tmp_path / "m", {name: Tensor(a) for name, a in arrays.items()})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    monkeypatch.setattr(local, "_open_at_once", None)
    tf2flax.init_from_checkpoint(checkpoint, {"/": "/"}, target_of(arrays))
    np.testing.assert_array_equal(checkpoint["t"][5:9], arrays["t"][5:9])


def test_progress_counts_every_byte(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {"a": np.ones((300, 1000), np.float32), "b": np.ones(7, np.int32)}
    write_bundle(tmp_path / "m", {name: Tensor(a) for name, a in arrays.items()})
    target = {
        name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()
    }
    seen: list[tf2flax.Progress] = []
    plan = tf2flax.plan(tmp_path / "m", {"/": "/"}, target, progress=seen.append)
    plan.restore()
    total = sum(a.nbytes for a in arrays.values())
    assert seen[-1].done == seen[-1].total == total
    assert {one.tensor for one in seen} == {"a", "b"}
    assert seen[-1].eta == 0
    assert seen[-1].rate > 0
    again: list[tf2flax.Progress] = []
    plan.restore(progress=again.append)
    assert again[-1].done == again[-1].total == total
    plan.restore(progress=True)
    assert "Restoring m" in capsys.readouterr().err
    for refused in (lambda done, total: None, divmod):
        with pytest.raises(
            tf2flax.AssignmentError,
            match=r"a function of a tf2flax\.Progress, got .* It takes two arguments",
        ):
            plan.restore(progress=refused)


@pytest.mark.parametrize("way", ["columns", "grid", "every second row", "cast"])
def test_slices_that_are_no_rows_are_read_piece_by_piece(
    tmp_path: pathlib.Path, way: str
) -> None:
    array = np.arange(600 * 400, dtype=np.float32).reshape(600, 400)
    halves = [slice(0, 250), slice(250, 400)]
    slices = [(slice(None), one) for one in halves]
    if way == "grid":
        rows = [slice(0, 7), slice(7, 600)]
        slices = [(row, one) for row in rows for one in halves]
    write_bundle(tmp_path / "m", {"t": Tensor(array, slices)})
    index = {"columns": np.s_[:, 100:300], "every second row": np.s_[::2]}
    own = index.get(way, np.s_[:, ::-1])
    dtype = "bfloat16" if way == "cast" else "float32"
    wanted = array[own].astype(dtype)
    plan = tf2flax.plan(
        tmp_path / "m",
        {tf2flax.src("t")[own]: "x"},
        {"x": jax.ShapeDtypeStruct(wanted.shape, dtype)},
    )
    (group,) = plan._job.reads.groups
    # One read for each piece, and nothing held besides what fills the leaf.
    assert len(group.wholes) + len(group.parts) == len(slices)
    assert group.host_nbytes == wanted.nbytes
    assert plan.unverified == (() if way in ("grid", "cast") else ("t",))
    assert np.array_equal(plan.restore()["x"], wanted)


def test_views_across_many_rows_of_column_slices_are_a_few_steps(
    tmp_path: pathlib.Path,
) -> None:
    array = np.arange(8192 * 16, dtype=np.float32).reshape(8192, 16)
    write_bundle(tmp_path / "m", {"t": Tensor(array, rows_in(array, 2, axis=1))})
    entry = tf2flax.open_checkpoint(tmp_path / "m").manifest.entry("t")
    for offset, shape, strides in (
        (4, (8192, 8), (16, 1)),
        (0, (4096, 16), (32, 1)),
        (8191 * 16 + 12, (8192, 4), (-16, -3)),
        (4, (8, 8192), (1, 16)),
    ):
        assert len(parts._split_by_piece(entry, offset, shape, strides) or ()) == 2
        out = np.empty(shape, np.float32)
        parts.read_view_into(entry, offset, strides, out)
        assert np.array_equal(out, strided(array, offset, shape, strides))


def test_scattered_rows_are_read_alone(tmp_path: pathlib.Path) -> None:
    array = np.arange(4096 * 2048, dtype=np.float32).reshape(4096, 2048)
    tf2flax.save_checkpoint(tmp_path / "m", {"t": array})
    rows = np.random.default_rng(0).permutation(4096)[:100].tolist()
    rows += rows[:3]
    leaf = jax.ShapeDtypeStruct((103, 2048), "float32")
    plan = tf2flax.plan(tmp_path / "m", {tf2flax.src("t").take(rows): "x"}, {"x": leaf})
    reading = plan._job.reads
    assert reading.nbytes <= 8 * 100 * 8192
    assert reading.groups[0].host_nbytes <= 2 * 103 * 8192 + reading.nbytes
    assert np.array_equal(plan.restore()["x"], array[rows])
