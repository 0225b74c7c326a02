"""Costs of many processes, which are counted for kinds of leaves and of processes."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, PartitionSpec
from slow_costs import slow_costs

import tf2flax
from tf2flax import src
from tf2flax._base.tuning import Tuning
from tf2flax._jax import read_once
from tf2flax._restoring import clusters, plan_reads

P = PartitionSpec
SHAPE = (24, 16)
ARRAY = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
# Tensors of some hundred bytes take parts, gaps, groups and portions.
TINY = Tuning(
    chunk_nbytes=256, read_cost_nbytes=24, small_nbytes=600, group_nbytes=1500,
    min_excess_nbytes=64, max_over_read=2, max_runs=64, max_workers=1,
)  # fmt: skip
# Leaves, and what fills them: alike in layers, of one tensor, of several, computed.
SOURCES: dict[str, Any] = {
    **{
        f"layer_{i}/{name}": src(f"layer_{i}/{name}") for i in range(3) for name in "wb"
    },
    "turned": src("whole").transpose(),
    "rows": src("rows"),
    "columns": src("columns"),
    "columns_turned": src("columns_too").transpose(),
    **{f"fused_{i}": src("fused")[i * 8 : i * 8 + 8] for i in range(3)},
    **{f"twice_{i}": src("rows_too") for i in range(2)},
    **{f"joined_{i}": tf2flax.concat(f"q{i}", f"k{i}", axis=1) for i in range(2)},
    "taken": src("taken").take([5, 3, 3, 23, 0, 11, 7, 2], axis=0),
    "scaled": src("scaled") * 2.0,
    "scalar": src("scalar"),
    "padded": src("padded").pad(((0, 8), (0, 0)), fill=0.0),
    "empty": src("empty"),
}
SHAPES: dict[str, tuple[int, ...]] = {
    "turned": SHAPE[::-1], "columns_turned": SHAPE[::-1], "scalar": (),
    "padded": (32, 16), "empty": (0, 16), "taken": (8, 16),
    **{f"layer_{i}/b": (16,) for i in range(3)},
    **{f"fused_{i}": (8, 16) for i in range(3)},
    **{f"joined_{i}": (24, 32) for i in range(2)},
}  # fmt: skip
ABSTRACT = {
    leaf: jax.ShapeDtypeStruct(SHAPES.get(leaf, SHAPE), "float32") for leaf in SOURCES
}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    columns = rows_in(ARRAY, 3, axis=1)
    tensors = {
        **{f"layer_{i}/w": Tensor(ARRAY) for i in range(3)},
        **{f"layer_{i}/b": Tensor(ARRAY[0]) for i in range(3)},
        **{f"{name}{i}": Tensor(ARRAY) for i in range(2) for name in "qk"},
        **{name: Tensor(ARRAY) for name in ("whole", "fused", "taken")},
        **{name: Tensor(ARRAY) for name in ("scaled", "padded")},
        "rows": Tensor(ARRAY, rows_in(ARRAY, 5)),
        "rows_too": Tensor(ARRAY, rows_in(ARRAY, 2)),
        "columns": Tensor(ARRAY, columns),
        "columns_too": Tensor(ARRAY, columns),
        "scalar": Tensor(np.float32(3)),
        "empty": Tensor(ARRAY[:0]),
    }  # fmt: skip
    path = tmp_path_factory.mktemp("costs") / "m"
    write_bundle(path, tensors)
    return path


@pytest.fixture
def tiny_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves of some hundred bytes are worth sharing in."""
    monkeypatch.setattr(read_once, "READ_ONCE_NBYTES", 800)


@st.composite
def specs(draw: st.DrawFn, shape: tuple[int, ...], mesh: AbstractMesh) -> PartitionSpec:
    """A spec of which every count of shards divides its axis."""
    names = list(draw(st.permutations(mesh.axis_names)))
    entries: list[Any] = []
    for extent in shape:
        taken = tuple(names[: draw(st.integers(0, len(names)))])
        if extent % math.prod(mesh.shape[name] for name in taken):
            taken = ()
        names = names[len(taken) :]
        entries.append(taken or None)
    return P(*entries)


@given(data=st.data())
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.usefixtures("tiny_leaves")
def test_costs_are_those_of_every_leaf_in_every_process(
    prefix: pathlib.Path, data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=3))
    mesh = AbstractMesh(tuple(sizes), tuple("abc"[: len(sizes)]))
    count = math.prod(sizes)
    processes = data.draw(
        st.sampled_from([n for n in range(1, count + 1) if count % n == 0])
    )
    names = st.lists(
        st.sampled_from(list(SOURCES)), min_size=1, max_size=9, unique=True
    )
    leaves = data.draw(names)
    # Few specs, so that leaves that could be alike are.
    by_shape: dict[tuple[int, ...], PartitionSpec] = {}
    shardings: dict[str, PartitionSpec | None] = {}
    for leaf in leaves:
        shape = SHAPES.get(leaf, SHAPE)
        is_new = shape not in by_shape or data.draw(st.integers(0, 3)) == 0
        spec = data.draw(specs(shape, mesh)) if is_new else by_shape[shape]
        shardings[leaf] = by_shape[shape] = spec
    limit = data.draw(st.sampled_from([256, 2000, 6000, 1 << 30]))
    plan = tf2flax.plan(
        prefix,
        [(SOURCES[leaf], leaf) for leaf in leaves],
        {leaf: ABSTRACT[leaf] for leaf in leaves},
        sharding=lambda leaf: shardings[leaf.name],
        mesh=mesh,
        max_in_flight_bytes=limit,
        tuning=TINY,
    )  # fmt: skip
    strategy: Any = data.draw(st.sampled_from(["local", "read-once", "auto"]))
    manifest = tf2flax.open_checkpoint(prefix).manifest
    assert plan.cost(processes, strategy=strategy) == slow_costs(
        plan.assignments, plan.shardings, manifest, strategy, processes, limit, TINY
    )


def test_alike_leaves_of_alike_processes_are_planned_once(
    prefix: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[object] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        planned.append(arguments)
        return plan_reads.plan_reads(*arguments, **options)

    for module in (clusters, read_once):
        monkeypatch.setattr(module, "plan_reads", counted)
    leaves = [f"layer_{i}/{name}" for i in range(3) for name in "wb"]
    plan = tf2flax.plan(
        prefix,
        [(SOURCES[leaf], leaf) for leaf in leaves],
        {leaf: ABSTRACT[leaf] for leaf in leaves},
        sharding=P(),
        mesh=AbstractMesh((4096, 8), ("hosts", "chips")),
    )  # fmt: skip
    cost = plan.cost(processes=4096, strategy="read-once")
    # Padded to a multiple of the devices, so that few of the processes read anything.
    assert cost.read_nbytes == 3 * (ARRAY.nbytes + ARRAY[0].nbytes)
    assert len(planned) < 24
