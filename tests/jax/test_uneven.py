"""What the error about uneven dimensions proposes works, when it is pasted."""

from __future__ import annotations

import math
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

import tf2flax
from tf2flax._jax.uneven import ShardedDimension, describe_way_out

P = PartitionSpec
SDS = jax.ShapeDtypeStruct
AXES = ("a", "b", "c")
DEVICES = np.array(jax.devices())


def mesh_of(sizes: dict[str, int], kind: AxisType = AxisType.Auto) -> Mesh:
    devices = DEVICES[: math.prod(sizes.values())].reshape(tuple(sizes.values()))
    return Mesh(devices, tuple(sizes), axis_types=(kind,) * len(sizes))


def proposed(message: str) -> dict[str, int]:
    """The sizes of axes that a message proposes; the same for every leaf."""
    ends = {
        line.partition("Give on_uneven='replicate'")[2] for line in message.split("\n")
    }
    (end,) = ends
    assert end == "." or end.startswith(", or a mesh with ax")
    return {name: int(size) for name, size in re.findall(r"`(\w+)` of size (\d+)", end)}


def write(path: pathlib.Path, shapes: dict[str, tuple[int, ...]], parts: int) -> str:
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
        tensors[name] = Tensor(array, rows_in(array, min(parts, shape[0])))
    write_bundle(path, tensors)
    return str(path)


dims = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 24])
specs = st.sampled_from(
    [
        P("a"), P(None, "a"), P("a", "b"), P("b", "a"), P(("a", "b")), P(("b", "c")),
        P(("c", "a"), "b"), P(None, ("a", "b", "c")), P("c", ("a", "b")), P(), P("b"),
    ]
)  # fmt: skip
meshes = st.sampled_from(
    [(4, 2, 1), (2, 2, 2), (8, 1, 1), (1, 4, 2), (3, 2, 1), (2, 1, 3)]
)


@settings(max_examples=30)
@given(
    leaves=st.lists(st.tuples(dims, dims, specs), min_size=1, max_size=4),
    shape=meshes,
    kind=st.sampled_from([AxisType.Auto, AxisType.Explicit]),
)
def test_proposals_fit_every_leaf(
    leaves: list[tuple[int, int, PartitionSpec]],
    shape: tuple[int, int, int],
    kind: AxisType,
    tmp_path: pathlib.Path,
) -> None:
    shapes = {
        f"leaf/{i}": (rows, columns) for i, (rows, columns, _) in enumerate(leaves)
    }
    prefix = write(tmp_path / "m", shapes, 1)
    tree = {f"leaf/{i}": spec for i, (_, _, spec) in enumerate(leaves)}
    target = {name: SDS(shape, "float32") for name, shape in shapes.items()}
    sizes = dict(zip(AXES, shape, strict=True))

    def plan(sizes: dict[str, int], **options: Any) -> tf2flax.Plan:
        mesh = mesh_of(sizes, kind)
        return tf2flax.plan(
            prefix, {"/": "/"}, target, sharding=lambda leaf: tree[leaf.name],
            mesh=mesh, **options,
        )  # fmt: skip

    try:
        plan(sizes)
    except tf2flax.AssignmentError as error:
        message = str(error)
    else:
        return
    assert "is not a multiple of mesh ax" in message
    assert plan(sizes, on_uneven="replicate").placement.replicated
    if found := proposed(message):
        smaller = sizes | found
        assert all(smaller[name] <= sizes[name] for name in sizes)
        plan(smaller)
    else:
        # Nothing but single devices would do: along every axis that was named.
        named = set(re.findall(r"mesh axe?i?s (`.*?`) of", message))
        axes = {name for text in named for name in re.findall(r"`(\w)`", text)}
        for name in axes:
            for size in range(2, sizes[name] + 1):
                with pytest.raises(tf2flax.AssignmentError):
                    plan(sizes | dict.fromkeys(axes, 1) | {name: size})


def restored(prefix: str, target: Any, **options: Any) -> Any:
    return tf2flax.init_from_checkpoint(prefix, {"/": "/"}, target, **options)


def test_every_dimension_that_is_uneven_is_named(tmp_path: pathlib.Path) -> None:
    prefix = write(tmp_path / "m", {"x": (6, 9), "y": (8, 9)}, 1)
    target = {"x": SDS((6, 9), "float32"), "y": SDS((8, 9), "float32")}
    options: dict[str, Any] = {"sharding": P("a", "b")}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        restored(prefix, target, mesh=mesh_of({"a": 4, "b": 2}), **options)
    end = (
        "Give on_uneven='replicate', or a mesh with axes `a` of size 2 and `b` of "
        "size 1."
    )
    assert str(caught.value) == (
        "Leaf `x`: shape [6, 9] does not fit P('a', 'b'): dimension 0, of 6, is not a "
        "multiple of mesh axis `a` of size 4; dimension 1, of 9, is not a multiple "
        "of mesh axis `b` of size 2. A leaf of shape [8, 10] fits, with the key "
        f'`src("x").pad(((0, 2), (0, 1)), fill="keep")`. {end}\n'
        "Leaf `y`: shape [8, 9] does not fit P('a', 'b'): dimension 1, of 9, is not a "
        "multiple of mesh axis `b` of size 2. A leaf of shape [8, 10] fits, with the "
        f'key `src("y").pad(((0, 0), (0, 1)), fill="keep")`. {end}'
    )
    got = restored(prefix, target, mesh=mesh_of({"a": 2, "b": 1}), **options)
    assert got["x"].sharding.spec == P("a", "b")


@pytest.mark.parametrize("parts", [1, 3, 5])
def test_families_of_parts(parts: int, tmp_path: pathlib.Path) -> None:
    # 30,522 rows as TensorFlow cuts them: 10,174 each, of which 4 is no divisor.
    prefix = write(tmp_path / "m", {"table": (522, 2), "other": (12, 2)}, parts)
    mesh = mesh_of({"a": 4})
    whole: dict[str, Any] = {
        "table": SDS((522, 2), "float32"), "other": SDS((12, 2), "float32"),
    }  # fmt: skip
    sizes = [len(rows) for rows in np.array_split(np.arange(522), parts)]
    family = {
        "table": {f"part_{i}": SDS((n, 2), "float32") for i, n in enumerate(sizes)},
        "other": SDS((12, 2), "float32"),
    }
    for target in (whole, family):
        for sharding in (
            tf2flax.from_partitions("a"), tf2flax.partition_rules([("table", P("a"))]),
        ):  # fmt: skip
            options: dict[str, Any] = {"sharding": sharding}
            try:
                got = restored(prefix, target, mesh=mesh, **options)
            except tf2flax.AssignmentError as error:
                message = str(error)
            else:  # nothing is partitioned
                assert parts == 1
                continue
            got = restored(prefix, target, mesh=mesh, **options, on_uneven="replicate")
            assert jax.tree.all(jax.tree.map(lambda a: a.committed, got["table"]))
            if sizes_proposed := proposed(message):
                got = restored(prefix, target, mesh=mesh_of(sizes_proposed), **options)
                assert jax.tree.leaves(got["table"])[0].sharding.num_devices > 1


def test_rows_of_a_vocabulary(tmp_path: pathlib.Path) -> None:
    prefix = write(tmp_path / "m", {"table": (10, 4)}, 2)
    key = {tf2flax.src("table").take([0, 3, 5, 7, 9, 1]): "x"}
    leaf = {"x": SDS((6, 4), "float32")}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, key, leaf, sharding=P("a"), mesh=mesh_of({"a": 4}))
    smaller = mesh_of(proposed(str(caught.value)))
    got = tf2flax.init_from_checkpoint(prefix, key, leaf, sharding=P("a"), mesh=smaller)
    assert got["x"].sharding == NamedSharding(smaller, P("a"))
    assert smaller.shape == {"a": 3}


def test_logical_axes_metadata_and_leaves_that_are_initialised(
    tmp_path: pathlib.Path,
) -> None:
    prefix = write(tmp_path / "m", {"kernel": (12, 6)}, 1)
    dense = nn.Dense(
        6,
        kernel_init=nn.with_logical_partitioning(
            nn.initializers.zeros, ("embed", "mlp")
        ),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("mlp",)),
    )
    rules = (("embed", ("a", "c")), ("mlp", "b"))

    def call(sizes: dict[str, int], **options: Any) -> Any:
        init = tf2flax.warm_start(
            dense.init, prefix, {"kernel": "params/kernel"},
            mesh=mesh_of(sizes), logical_axis_rules=rules, **options,
        )  # fmt: skip
        return init(jax.random.key(0), jnp.ones((1, 12)))

    sizes = {"a": 2, "b": 4, "c": 1}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        call(sizes)
    found = proposed(str(caught.value))
    assert found == {"b": 3}
    for got in (call(sizes | {"b": 3, "a": 2}), call(sizes, on_uneven="replicate")):
        assert got["params"]["bias"].value.committed


def test_meshes_that_do_not_exist_and_zero_rows(tmp_path: pathlib.Path) -> None:
    prefix = write(tmp_path / "m", {"x": (30522, 4)}, 1)
    target = {"x": SDS((30522, 4), "float32")}
    mesh = AbstractMesh((256, 16), ("data", "model"))
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(
            prefix, {"/": "/"}, target, sharding=P(("data", "model")), mesh=mesh
        )
    found = proposed(str(caught.value))
    assert found == {"data": 6, "model": 1}
    smaller = AbstractMesh(tuple(found.values()), tuple(found))
    tf2flax.plan(
        prefix, {"/": "/"}, target, sharding=P(("data", "model")), mesh=smaller
    )
    empty = ShardedDimension(0, 0, mesh, ("data",))
    assert not empty.is_uneven
    odd = ShardedDimension(0, 7, mesh, ("data",))
    assert describe_way_out(mesh, [empty, odd]).endswith("`data` of size 7.")
