"""Leaves larger than what the host may hold: portion by portion, onto devices.

Devices of these tests are CPUs, which take whole arrays over; here they are taken for
accelerators.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    SingleDeviceSharding,
)
from ml_dtypes import bfloat16
from old_files import flipped_bit

import tf2flax
from tf2flax._base.tuning import Tuning
from tf2flax._jax import transfer

P = PartitionSpec
SHAPE = (96, 40)
LIMIT = 4096  # of 15,360 bytes
TUNING = Tuning(job_nbytes=640, group_nbytes=LIMIT // 4)
ARRAY = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    tensors = {
        "whole": Tensor(ARRAY),
        "sliced": Tensor(ARRAY, rows_in(ARRAY, 5)),
        "small": Tensor(ARRAY[:2]),
    }
    write_bundle(tmp_path / "m", tensors)
    return tmp_path / "m"


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("d", "m"))


@pytest.fixture(autouse=True)
def accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "is_on_host", lambda _: False)


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each portion that comes."""
    found: list[int] = []
    take = transfer.PortionedLeaf.take

    def counted(self: Any, arrays: Any) -> Any:
        found.extend(array.nbytes for array in arrays.values())
        return take(self, arrays)

    monkeypatch.setattr(transfer.PortionedLeaf, "take", counted)
    return found


def restore(prefix: pathlib.Path, key: Any, shape: Any, **options: Any) -> jax.Array:
    leaf = jax.ShapeDtypeStruct(shape, options.pop("leaf_dtype", "float32"))
    target = {"x": leaf, "y": jax.ShapeDtypeStruct((2, 40), "float32")}
    got = tf2flax.init_from_checkpoint(
        prefix,
        [(key, "x"), (tf2flax.src("small"), "y")],
        target,
        max_in_flight_bytes=LIMIT,
        tuning=TUNING,
        **options,
    )
    assert np.array_equal(got["y"], ARRAY[:2])
    return got["x"]


@pytest.mark.parametrize(
    ("name", "spec", "kind"),
    [
        ("whole", P(), AxisType.Auto),
        ("whole", P(None, "m"), AxisType.Explicit),
        ("sliced", P("m", "d"), AxisType.Auto),
        ("sliced", P("d"), AxisType.Explicit),
    ],
    ids=str,
)
def test_shards_are_filled_portion_by_portion(
    name: str, spec: PartitionSpec, kind: AxisType, prefix: pathlib.Path, mesh: Mesh,
    delivered: list[int],
) -> None:  # fmt: skip
    own = Mesh(mesh.devices, mesh.axis_names, axis_types=(kind,) * 2)
    got = restore(prefix, name, SHAPE, sharding={"x": NamedSharding(own, spec)})
    assert got.sharding == NamedSharding(own, spec)
    assert np.array_equal(got, ARRAY)
    for shard in got.addressable_shards:
        assert np.array_equal(shard.data, ARRAY[shard.index])
    assert sum(delivered) == ARRAY.nbytes
    assert max(delivered) <= LIMIT // 4


def test_leaves_without_sharding(
    prefix: pathlib.Path, mesh: Mesh, delivered: list[int]
) -> None:
    for key, wanted in (
        ("whole", ARRAY),
        (tf2flax.src("whole").transpose(), ARRAY.T),
        (tf2flax.src("sliced").transpose(), ARRAY.T),
    ):
        got = restore(prefix, key, wanted.shape)
        assert not got.committed
        assert np.array_equal(got, wanted)
    assert delivered
    with jax.set_mesh(jax.make_mesh((4, 2), ("d", "m"))):
        assert np.array_equal(restore(prefix, "whole", SHAPE), ARRAY)
        got = restore(prefix, "whole", SHAPE, sharding={"x": P("d")})
        assert np.array_equal(jax.device_get(got), ARRAY)
    own = SingleDeviceSharding(jax.devices()[3])
    got = restore(prefix, "whole", SHAPE, sharding=own)
    assert got.sharding == own
    assert np.array_equal(got, ARRAY)
    got = restore(prefix, "whole", SHAPE, leaf_dtype=bfloat16, sharding=own)
    assert np.array_equal(got, ARRAY.astype(bfloat16))


@pytest.mark.parametrize("name", ["whole", "sliced"])
def test_checksums_cover_all_portions(
    name: str, prefix: pathlib.Path, mesh: Mesh
) -> None:
    plan = tf2flax.plan(
        prefix, {name: "x"}, {"x": jax.ShapeDtypeStruct(SHAPE, "float32")},
        sharding=P("d"), mesh=mesh, max_in_flight_bytes=LIMIT, tuning=TUNING,
    )  # fmt: skip
    assert plan.unverified == ()
    data = prefix.with_name("m.data-00000-of-00001")
    (piece, *_) = tf2flax.open_checkpoint(prefix).manifest.entry(name).pieces
    for place in (piece.span.start, piece.span.start + 1000, piece.span.stop - 1):
        with (
            flipped_bit(data, place),
            pytest.raises(tf2flax.DamagedError, match=f"`{name}` is damaged"),
        ):
            plan.restore()
    assert np.array_equal(plan.restore()["x"], ARRAY)


def test_a_portion_that_does_not_fit_is_named_once(prefix: pathlib.Path) -> None:
    huge = np.full(SHAPE, 1e30, np.float32)
    write_bundle(prefix, {"whole": Tensor(huge)})
    leaf = jax.ShapeDtypeStruct(SHAPE, "float16")
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.init_from_checkpoint(
            prefix,
            {"whole": "x"},
            {"x": leaf},
            max_in_flight_bytes=1024,
            tuning=TUNING,
        )
    assert str(caught.value).count("Leaf `x`") == 1
    assert "3840 of 3840" in str(caught.value)


def test_costs_count_portions(prefix: pathlib.Path) -> None:
    leaf = jax.ShapeDtypeStruct(SHAPE, "float32")
    plan = tf2flax.plan(
        prefix, {"whole": "x"}, {"x": leaf},
        sharding=P("d"), mesh=AbstractMesh((8,), ("d",)), max_in_flight_bytes=LIMIT,
        tuning=TUNING,
    )  # fmt: skip
    (one,) = plan.cost(processes=1).processes
    assert one.read_nbytes == one.needed_nbytes == ARRAY.nbytes
    # What readers hold besides is as much as they read, of so little.
    assert one.host_nbytes == LIMIT + ARRAY.nbytes
    cost = plan.cost(processes=2).processes[1]
    assert cost.read_nbytes == ARRAY.nbytes // 2
