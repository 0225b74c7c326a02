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
