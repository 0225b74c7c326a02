"""A plan: made once, looked at and run without doing anything twice."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import tf2flax
from tf2flax._jax import restore
from tf2flax._restoring import clusters
from tf2flax._restoring.plan_reads import plan_reads


def test_a_restore_reuses_what_its_report_has_planned(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "m", {"a": Tensor(np.ones((16, 4), np.float32))})
    target = {"a": jax.ShapeDtypeStruct((16, 4), np.float32)}
    rows = NamedSharding(Mesh(np.array(jax.devices()), "d"), PartitionSpec("d"))
    planned: list[object] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        planned.append(arguments)
        return plan_reads(*arguments, **options)

    for module in (restore, clusters):
        monkeypatch.setattr(module, "plan_reads", counted)
    for sharding in (None, rows):
        planned.clear()
        plan = tf2flax.plan(tmp_path / "m", {"/": "/"}, target, sharding=sharding)
        assert not planned
        assert "Loaded (1)" in str(plan)
        assert plan.unverified == ()
        assert plan.cost().read_nbytes == 256
        np.testing.assert_array_equal(plan.restore()["a"], np.ones((16, 4)))
        plan.restore()
        assert len(planned) == 1
        plan.cost(2 if sharding else 1, strategy="local")
        assert len(planned) > 1


# More than JAX cuts into shards itself, many leaves in one call.
SHAPE = (64, 4_104)
# Keys of a map for a leaf of this shape, and whether it is one whole tensor.
KEYS: dict[str, tuple[Any, bool]] = {
    "whole": ("a", True),
    "in pieces": ("sliced", True),
    "in another shape": (tf2flax.src("a").reshape(-1).reshape(*SHAPE), True),
    "transposed": (tf2flax.src("t").transpose(), False),
    "a slice": (tf2flax.src("long")[:64], False),
    "joined": (tf2flax.concat("b", "b"), False),
    "backwards": (tf2flax.src("a")[::-1], False),
    "scaled": (tf2flax.src("a") * 2, False),
}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("plan") / "m"
    rows, columns = SHAPE
    shapes = {
        "a": SHAPE,
        "b": (32, columns),
        "t": (columns, rows),
        "long": (80, columns),
    }
    tensors = {name: Tensor(np.ones(shape, "f4")) for name, shape in shapes.items()}
    slices = [np.s_[0:rows, 0:1], np.s_[0:rows, 1:columns]]
    tensors["sliced"] = Tensor(np.ones(SHAPE, "f4"), slices=slices)
    write_bundle(path, tensors)
    return path


@pytest.mark.parametrize("max_in_flight_bytes", [1 << 16, 1 << 30])
@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("name", list(KEYS))
def test_reads_are_planned_for_a_report_only_where_some_may_be_in_part(
    prefix: pathlib.Path, name: str, is_sharded: bool, max_in_flight_bytes: int
) -> None:
    key, is_whole = KEYS[name]
    devices = jax.devices() if is_sharded else jax.devices()[:1]
    mesh = Mesh(np.array(devices), "d")
    plan = tf2flax.plan(
        prefix,
        {key: "leaf"},
        {"leaf": jax.ShapeDtypeStruct(SHAPE, np.float32)},
        sharding=NamedSharding(mesh, PartitionSpec(None, "d")),
        max_in_flight_bytes=max_in_flight_bytes,
    )
    job: Any = plan._job  # pyright: ignore[reportPrivateUsage]
    unverified = plan.unverified
    assert ("reads" in vars(job)) is not (is_whole and not is_sharded)
    assert unverified == job.reads.unverified
