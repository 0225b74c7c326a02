"""`tf2flax.Tuning`: other reads, the same values, wherever tensors are read."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import pickle
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from http_server import serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

import tf2flax
from tf2flax import Tuning
from tf2flax._reading import groups
from tf2flax._reading.whole import read_entry

ARRAY = np.random.default_rng(0).standard_normal((24, 16), dtype=np.float32)
ARRAYS: dict[str, np.ndarray] = {
    "big": np.arange(35, dtype=np.int64).reshape(5, 7),
    "complex": ARRAY[:5].astype(np.complex64),
    "empty": ARRAY[:0],
    "flags": ARRAY[:3] > 0,
    "scalar": np.array(7, np.int64),
    "sliced": ARRAY + 1,
    "strings": np.array([b"", b"ab", b"c" * 40], object),
    "whole": ARRAY,
}
SIZES = (
    "chunk_nbytes", "remote_chunk_nbytes", "small_nbytes", "group_nbytes", "job_nbytes",
    "min_direct_nbytes", "read_cost_nbytes", "transfer_nbytes", "min_excess_nbytes",
)  # fmt: skip
COUNTS = ("max_over_read", "max_runs", "max_workers", "portions_in_flight")
TINY = Tuning(**dict.fromkeys(SIZES, 16), max_workers=1)


@st.composite
def tunings(draw: st.DrawFn) -> Tuning:
    sizes = {name: draw(st.sampled_from([1, 16, 40, 1000, 1 << 30])) for name in SIZES}
    counts = {name: draw(st.sampled_from([1, 3, 100])) for name in COUNTS}
    return Tuning(**sizes, **counts)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("tuning") / "m"
    tensors = {name: Tensor(array) for name, array in ARRAYS.items()}
    tensors["sliced"] = Tensor(ARRAYS["sliced"], rows_in(ARRAY, 5))
    write_bundle(path, tensors)
    return path


@given(tuning=tunings())
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_values_are_the_same_however_they_are_read(
    prefix: pathlib.Path, tuning: Tuning
) -> None:
    checkpoint = tf2flax.open_checkpoint(prefix, tuning=tuning)
    assert checkpoint.verify().ok
    for name, array in checkpoint.read().items():
        tensor = checkpoint[name]
        for got in (array, tensor.read(), tensor[...]):
            np.testing.assert_array_equal(got, ARRAYS[name])
        if tensor.ndim == 2:
            for index in (np.s_[1:3], np.s_[:, 2:5], np.s_[::2, 3], [0, -1]):
                if tensor.size or index == np.s_[1:3]:
                    np.testing.assert_array_equal(tensor[index], ARRAYS[name][index])
    numbers = {name: a for name, a in ARRAYS.items() if a.dtype.itemsize < 8}
    target = {
        name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in numbers.items()
    }
    for options in ({"tuning": tuning}, {"max_in_flight_bytes": 100}):
        restored = tf2flax.init_from_checkpoint(
            checkpoint, {"/": "/"}, target, **options
        )
        for name, leaf in restored.items():
            np.testing.assert_array_equal(leaf, ARRAYS[name])
    mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4])
    columns = tf2flax.init_from_checkpoint(
        prefix, {"whole": "whole", "sliced": "sliced"},
        {name: target[name] for name in ("whole", "sliced")},
        sharding=PartitionSpec(None, "d"), mesh=mesh, tuning=tuning,
    )  # fmt: skip
    for name, leaf in columns.items():
        np.testing.assert_array_equal(leaf, ARRAYS[name])


def test_a_checkpoint_keeps_its_tuning(prefix: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(prefix, tuning=TINY)
    assert checkpoint.tuning is TINY
    assert tf2flax.open_checkpoint(checkpoint) is checkpoint
    assert pickle.loads(pickle.dumps(checkpoint)).tuning == TINY
    other = tf2flax.open_checkpoint(checkpoint, tuning=Tuning())
    assert (other.tuning, checkpoint.tuning) == (Tuning(), TINY)
    assert tf2flax.open_checkpoint(prefix).tuning == Tuning()
    assert tf2flax.merge_checkpoints({"a/": checkpoint}).tuning == TINY
    merged = tf2flax.merge_checkpoints({"a/": checkpoint, "b/": prefix})
    assert merged.tuning == Tuning()
    for members, expected in (
        ({"x": checkpoint["whole"]}, TINY),
        ({"x": checkpoint["whole"], "y": np.ones(2)}, TINY),
        ({"x": checkpoint["whole"], "y": other["whole"]}, Tuning()),
        ({"x": np.ones(2)}, Tuning()),
    ):
        assert tf2flax.open_checkpoint(members).tuning == expected


def test_views_are_read_as_the_checkpoint_is() -> None:
    tensors = {
        name: np.zeros(2) for name in ("w", "w/adam_m", "w/ExponentialMovingAverage")
    }
    checkpoint = tf2flax.open_checkpoint(tensors, tuning=TINY)
    assert checkpoint.by_slot("adam_m").tuning == TINY
    assert checkpoint.by_moving_average().tuning == TINY
    keras = tf2flax.open_checkpoint("tests/data/tf1_keras/object.ckpt", tuning=TINY)
    assert keras.by_variable_name().tuning == TINY
    assert keras.by_object_path().tuning == TINY


def test_what_a_store_is_like_decides_how_columns_are_read(
    prefix: pathlib.Path,
) -> None:
    """Rows where an answer takes long, and a request for each run where it does not."""
    files = {f"/{path.name}": path.read_bytes() for path in prefix.parent.iterdir()}
    for latency_s, expected in ((1e-9, len(ARRAY)), (0.03, 1)):
        tuning = Tuning(remote_latency_s=latency_s)
        with serving(files) as served:
            checkpoint = tf2flax.open_checkpoint(f"{served.url}/m", tuning=tuning)
            np.testing.assert_array_equal(checkpoint["whole"][:, :4], ARRAY[:, :4])
        ranges = {r[2] for r in served.requests if ".data-" in r[1]}
        # A request may be repeated; that of one byte asks whether the file is the same.
        assert len(ranges - {"bytes=0-0"}) == expected


def test_costs_follow_the_tuning(prefix: pathlib.Path) -> None:
    """A process of 4 reads its columns run by run, or whole rows."""
    target = {"whole": jax.ShapeDtypeStruct(ARRAY.shape, "float32")}
    mesh = jax.sharding.AbstractMesh((4,), ("d",))
    for cost_nbytes, expected in ((0, ARRAY.nbytes // 4), (1 << 20, None)):
        tuning = Tuning(read_cost_nbytes=cost_nbytes)
        for source, options in (
            (prefix, {"tuning": tuning}),
            (tf2flax.open_checkpoint(prefix, tuning=tuning), {}),
        ):
            plan = tf2flax.plan(
                source, {"whole": "whole"}, target,
                sharding=PartitionSpec(None, "d"), mesh=mesh, **options,
            )  # fmt: skip
            (process, *_) = plan.cost(processes=4, strategy="local").processes
            assert process.needed_nbytes == ARRAY.nbytes // 4
            # From the first to the last element of the columns, gaps included.
            assert process.read_nbytes == (expected or ARRAY.nbytes - 12 * 4)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("max_workers", 0, "max_workers is 0, not a whole number from 1 to 1,024"),
        ("max_workers", 10**9, "not a whole number from 1 to 1,024"),
        ("max_workers", True, "max_workers is True, not a whole number"),
        ("chunk_nbytes", 0, "chunk_nbytes is 0, not a whole number from 1 on"),
        ("chunk_nbytes", 1e6, "chunk_nbytes is 1000000.0, not a whole number"),
        ("max_runs", -1, "max_runs is -1, not a whole number from 0 on"),
        ("small_nbytes", "1 MiB", "small_nbytes is '1 MiB', not a whole number"),
        (
            "remote_latency_s",
            -0.5,
            "remote_latency_s is -0.5, not a number from 0 to",
        ),
        ("remote_latency_s", math.nan, "remote_latency_s is nan, not a number"),
        ("remote_latency_s", None, "remote_latency_s is None, not a number"),
        ("remote_nbytes_per_s", 0, "remote_nbytes_per_s is 0, not a number from 1 to "),
        ("remote_nbytes_per_s", math.inf, "remote_nbytes_per_s is inf, not a number"),
        ("remote_nbytes_per_s", 1e300, "not a number from 1 to 1,000,000,000,000,000"),
        ("remote_latency_s", 10**400, "not a number from 0 to 86,400"),
        ("remote_latency_s", b"0.5", "remote_latency_s is b'0.5', not a number"),
        ("remote_latency_s", np.bool_(True), "not a number from 0 to 86,400"),
        ("max_workers", np.bool_(True), "not a whole number from 1 to 1,024"),
        pytest.param("max_workers", 10**5000, "not a whole number from", id="huge"),
    ],
)
def test_numbers_that_nothing_can_be_read_by_are_refused(
    name: str, value: Any, text: str
) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="Tuning: ") as caught:
        Tuning(**{name: value})
    assert text in str(caught.value)


def test_no_tensor_makes_jobs_without_bound(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_MAX_JOBS", 10)
    write_bundle(tmp_path / "m", {"whole": Tensor(ARRAY)})
    tiny = Tuning(chunk_nbytes=1, job_nbytes=1, small_nbytes=0)
    entry = tf2flax.open_checkpoint(tmp_path / "m").manifest.entry("whole")
    counts: list[int] = []
    opened = groups.GroupReader.open

    def counted(reader: Any) -> Any:
        jobs = opened(reader)
        counts.append(len(jobs))
        return jobs

    monkeypatch.setattr(groups.GroupReader, "open", counted)
    np.testing.assert_array_equal(read_entry(entry, tuning=tiny), ARRAY)
    mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4])
    restored = tf2flax.init_from_checkpoint(
        tmp_path / "m", {tf2flax.src("whole")[:, 3:]: "x"},
        {"x": jax.ShapeDtypeStruct((24, 13), "float32")},
        sharding=PartitionSpec("d"), mesh=mesh, tuning=tiny,
    )  # fmt: skip
    np.testing.assert_array_equal(restored["x"], ARRAY[:, 3:])
    assert 5 < max(counts) <= 60


def test_numbers_of_numpy_are_numbers() -> None:
    tuning = Tuning(max_workers=np.int64(3), remote_latency_s=np.float32(0.5))  # pyright: ignore[reportArgumentType]
    assert tuning == Tuning(max_workers=3, remote_latency_s=0.5)
    assert type(tuning.max_workers) is int
    assert type(tuning.remote_latency_s) is float
    assert hash(tuning) == hash(dataclasses.replace(tuning))


@pytest.mark.parametrize("value", [4, "fast", {"max_workers": 4}, Tuning])
def test_what_is_no_tuning_is_refused(value: Any, prefix: pathlib.Path) -> None:
    wanted = "Option tuning: expected a tf2flax.Tuning or None, got "
    with pytest.raises(tf2flax.AssignmentError, match=wanted):
        tf2flax.open_checkpoint(prefix, tuning=value)
    with pytest.raises(tf2flax.AssignmentError, match=wanted):
        tf2flax.plan(prefix, {}, {"x": jax.numpy.ones(2)}, tuning=value)
