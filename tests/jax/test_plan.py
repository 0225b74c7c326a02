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
from tf2flax._jax import restore, transfer
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


A, B = np.ones((16, 4), np.float32), np.ones((8, 4), np.float32)
SLICED = Tensor(A, slices=[np.s_[0:16, 0:1], np.s_[0:16, 1:4]])
# Keys of a map for leaf `a` of shape (16, 4), and whether it is one whole tensor.
KEYS: dict[str, tuple[Any, bool]] = {
    "whole": ("a", True),
    "in pieces": ("sliced", True),
    "in another shape": (tf2flax.src("a").reshape(64).reshape(16, 4), True),
    "transposed": (tf2flax.src("t").transpose(), False),
    "a slice": (tf2flax.src("long")[:16], False),
    "joined": (tf2flax.concat("b", "b"), False),
    "backwards": (tf2flax.src("a")[::-1], False),
    "scaled": (tf2flax.src("a") * 2, False),
}


@pytest.mark.parametrize("max_in_flight_bytes", [32, 1 << 20])
@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("name", list(KEYS))
def test_reads_are_planned_for_a_report_only_where_some_are_in_part(
    tmp_path: pathlib.Path,
    name: str,
    is_sharded: bool,
    max_in_flight_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "WHOLE_NBYTES", 64)  # else small leaves are not cut
    tensors = {"a": A, "b": B, "t": A.T.copy(), "long": np.ones((20, 4), np.float32)}
    write_bundle(
        tmp_path / "m", {n: Tensor(t) for n, t in tensors.items()} | {"sliced": SLICED}
    )
    key, is_whole = KEYS[name]
    devices = jax.devices() if is_sharded else jax.devices()[:1]
    target = {"a": jax.ShapeDtypeStruct((16, 4), np.float32)}
    plan = tf2flax.plan(
        tmp_path / "m",
        {key: "a"},
        target,
        sharding=NamedSharding(Mesh(np.array(devices), "d"), PartitionSpec("d")),
        max_in_flight_bytes=max_in_flight_bytes,
    )
    job: Any = plan._job  # pyright: ignore[reportPrivateUsage]
    unverified = plan.unverified
    assert ("reads" in vars(job)) is not (is_whole and not is_sharded)
    assert unverified == job.reads.unverified
