"""Where leaves live: options, what targets carry, metadata, what does not fit."""

from __future__ import annotations

import json
import pathlib
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from flax import linen as nn
from flax import nnx
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

import tf2flax
from tf2flax._base.values import Box
from tf2flax._jax import meshes

P = PartitionSpec
SDS = jax.ShapeDtypeStruct


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"kernel": (16, 24), "bias": (24,), "even": (100, 8), "odd": (101, 8)}
    arrays = {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }
    return arrays | {"step": np.array(7, np.int32)}


@pytest.fixture(scope="module")
def prefix(
    arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    path = tmp_path_factory.mktemp("sharding") / "m"
    cut = {
        # As TensorFlow cuts 100 and 101 rows into three.
        "even": rows_in(arrays["even"], 3),
        "odd": rows_in(arrays["odd"], 3),
    }
    write_bundle(
        path, {name: Tensor(array, cut.get(name)) for name, array in arrays.items()}
    )
    return path


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("d", "m"))


def target_of(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: SDS(array.shape, array.dtype) for name, array in arrays.items()}


def expect_equal(got: dict[str, jax.Array], arrays: dict[str, np.ndarray]) -> None:
    for name, array in got.items():
        assert np.array_equal(array, arrays[name]), name
        for shard in array.addressable_shards:
            assert np.array_equal(shard.data, arrays[name][shard.index]), name


def test_one_sharding_for_all(
    prefix: pathlib.Path, arrays: dict[str, np.ndarray], mesh: Mesh
) -> None:
    everywhere = NamedSharding(mesh, P())
    for option in (
        {"sharding": everywhere},
        {"sharding": P(), "mesh": mesh},
        {"sharding": lambda _leaf: P(), "mesh": mesh},
        {"sharding": lambda _leaf: everywhere},
        {"sharding": {"": None, **dict.fromkeys(arrays, everywhere)}},
    ):
        got = tf2flax.init_from_checkpoint(
            prefix, {"/": "/"}, target_of(arrays), **option
        )
        assert all(leaf.sharding == everywhere for leaf in got.values())
        expect_equal(got, arrays)
    with jax.set_mesh(mesh):
        got = tf2flax.init_from_checkpoint(
            prefix, {"/": "/"}, target_of(arrays), sharding=P()
        )
        assert got["kernel"].sharding == everywhere


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_trees_and_upper_levels_of_them(
    prefix: pathlib.Path, arrays: dict[str, np.ndarray], axis_type: AxisType
) -> None:
    mesh = Mesh(
        np.array(jax.devices()).reshape(4, 2), ("d", "m"), axis_types=(axis_type,) * 2
    )
    target = {"params": {"a": target_of(arrays), "b": target_of(arrays)}}
    own = SingleDeviceSharding(jax.devices()[3])
    got = tf2flax.init_from_checkpoint(
        prefix,
        [("/", "params/a/"), ("/", "params/b/")],
        target,
        sharding={"params": {"a": {"kernel": P("d", "m")}, "b": own}},
        mesh=mesh,
    )["params"]
    assert got["a"]["kernel"].sharding == NamedSharding(mesh, P("d", "m"))
    assert not got["a"]["bias"].committed
    assert all(leaf.sharding == own for leaf in got["b"].values())
    expect_equal(got["a"], arrays)
    expect_equal(got["b"], arrays)


def test_functions_see_leaves(prefix: pathlib.Path, mesh: Mesh) -> None:
    seen: dict[str, Any] = {}

    def choose(leaf: Any) -> PartitionSpec | None:
        seen[leaf.name] = leaf
        return P("d") if len(leaf.shape) == 2 else None

    there = NamedSharding(mesh, P(None))
    target = {
        "w": SDS((24, 16), "bfloat16"),
        "b": SDS((24,), "float32", sharding=there),
    }
    key = {tf2flax.src("kernel").transpose(): "w", "bias": "b"}
    plan = tf2flax.plan(prefix, key, target, sharding=choose, mesh=mesh)
    assert seen["w"].shape == (24, 16)
    assert seen["w"].dtype == jnp.bfloat16
    assert [source.name for source in seen["w"].sources] == ["kernel"]
    assert plan.shardings == {"w": NamedSharding(mesh, P("d")), "b": there}


def test_partition_rules(
    prefix: pathlib.Path, arrays: dict[str, np.ndarray], mesh: Mesh
) -> None:
    rules = tf2flax.partition_rules(
        [("^kernel$", P("d", "m")), ("even", P("d")), ("nothing", P("m"))]
    )
    plan = tf2flax.plan(
        prefix, {"/": "/"}, target_of(arrays), sharding=rules, mesh=mesh
    )
    assert plan.shardings["even"] == NamedSharding(mesh, P("d"))
    assert plan.shardings["odd"] == NamedSharding(mesh, P())
    assert plan.placement.unmatched == ("bias", "odd", "step")
    assert plan.placement.unused_rules == ("('nothing', P('m'))",)
    report = str(plan)
    assert "Replicated because no partition rule matches (3)" in report
    assert "('nothing', P('m'))" in report
    assert json.loads(json.dumps(plan.to_dict()))["placement"]["unmatched"] == [
        "bias", "odd", "step",
    ]  # fmt: skip
    expect_equal(plan.restore(), arrays)


def test_partitions_are_cut_again(
    prefix: pathlib.Path, arrays: dict[str, np.ndarray], mesh: Mesh
) -> None:
    target = target_of(arrays)
    options = {"sharding": tf2flax.from_partitions("d"), "mesh": mesh}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, {"/": "/"}, target, **options)
    assert str(caught.value) == (
        "Leaf `odd`: shape [101, 8] does not fit P('d'): dimension 0, of 101, is not "
        "a multiple of mesh axis `d` of size 4. A leaf of shape [104, 8] fits, with "
        'the key `src("odd").pad(((0, 3), (0, 0)), fill="keep")`. '
        "Give on_uneven='replicate'."
    )
    plan = tf2flax.plan(prefix, {"/": "/"}, target, **options, on_uneven="replicate")
    (replicated,) = plan.placement.replicated
    assert (replicated.leaf, replicated.dimension, replicated.size) == ("odd", 0, 101)
    assert "the mesh does not divide them (1)" in str(plan)
    got = plan.restore()
    assert got["even"].sharding == NamedSharding(mesh, P("d"))
    assert got["odd"].sharding == NamedSharding(mesh, P(None))
    assert not got["kernel"].committed
    expect_equal(got, arrays)
    # Along the partitioned dimension, wherever the map puts it.
    turned = {"x": SDS((8, 100), "float32")}
    key = {tf2flax.src("even").transpose(): "x"}
    got = tf2flax.init_from_checkpoint(prefix, key, turned, **options)["x"]
    assert got.sharding == NamedSharding(mesh, P(None, "d"))
    assert np.array_equal(got, arrays["even"].T)


def test_replication_of_uneven_dimensions_alone(
    prefix: pathlib.Path, arrays: dict[str, np.ndarray], mesh: Mesh
) -> None:
    got = tf2flax.init_from_checkpoint(
        prefix,
        {"odd": "x"},
        {"x": SDS((101, 8), "float32", sharding=NamedSharding(mesh, P("m", "d")))},
        on_uneven="replicate",
    )["x"]
    assert got.sharding == NamedSharding(mesh, P(None, "d"))
    assert np.array_equal(got, arrays["odd"])


class Linen(nn.Module):
    names: tuple[str | None, ...]
    is_logical: bool
    rules: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros
        if self.is_logical:
            init = nn.with_logical_partitioning(init, self.names, rules=self.rules)
        else:
            init = nn.with_partitioning(init, self.names)
        return nn.Dense(24, kernel_init=init)(x)


def linen_target(*names: str | None, is_logical: bool = True, rules: Any = None) -> Any:
    module = Linen(names, is_logical, rules)
    return jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 16)))


LINEN_MAP = {"kernel": "params/Dense_0/kernel", "bias": "params/Dense_0/bias"}
RULES = (("embed", "d"), ("mlp", "m"), ("rest", None))


def test_linen_metadata(
    prefix: pathlib.Path, arrays: dict[str, np.ndarray], mesh: Mesh
) -> None:
    wanted = NamedSharding(mesh, P("d", "m"))
    physical = linen_target("d", "m", is_logical=False)
    logical = linen_target("embed", "mlp")
    own_rules = linen_target("embed", "mlp", rules=RULES)
    for target, options in (
        (physical, {"mesh": mesh}),
        (logical, {"mesh": mesh, "logical_axis_rules": RULES}),
        (own_rules, {"mesh": mesh}),
    ):
        got = tf2flax.init_from_checkpoint(prefix, LINEN_MAP, target, **options)
        box = got["params"]["Dense_0"]["kernel"]
        assert type(box) is type(target["params"]["Dense_0"]["kernel"])
        assert box.value.sharding == wanted
        assert np.array_equal(box.value, arrays["kernel"])
        assert not got["params"]["Dense_0"]["bias"].committed
    with nn.logical_axis_rules(RULES), jax.set_mesh(mesh):
        got = tf2flax.init_from_checkpoint(prefix, LINEN_MAP, logical)
        assert got["params"]["Dense_0"]["kernel"].value.sharding == wanted
    # Without any mesh, metadata is kept and not acted on.
    got = tf2flax.init_from_checkpoint(prefix, LINEN_MAP, logical)
    assert not got["params"]["Dense_0"]["kernel"].value.committed
    assert got["params"]["Dense_0"]["kernel"].names == ("embed", "mlp")


def test_logical_names_that_nothing_resolves(prefix: pathlib.Path, mesh: Mesh) -> None:
    target = linen_target("embed", "heads")
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, LINEN_MAP, target, mesh=mesh, logical_axis_rules=RULES)
    assert str(caught.value) == (
        "Leaf `params/Dense_0/kernel`: no rule resolves the logical axis `heads` of "
        "('embed', 'heads'), and the mesh has the axes `d`, `m`. Give "
        "logical_axis_rules; a rule to None replicates."
    )
    target = linen_target("embed", "rest")
    plan = tf2flax.plan(prefix, LINEN_MAP, target, mesh=mesh, logical_axis_rules=RULES)
    assert plan.shardings["params/Dense_0/kernel"] == NamedSharding(mesh, P("d", None))


class Nnx(nnx.Module):
    def __init__(self, names: tuple[str | None, ...], rngs: nnx.Rngs) -> None:
        init = nnx.with_partitioning(nnx.initializers.zeros_init(), names)
        self.dense = nnx.Linear(16, 24, kernel_init=init, rngs=rngs)


NNX_MAP = {"kernel": "dense/kernel", "bias": "dense/bias"}


def test_nnx_metadata(
    prefix: pathlib.Path, arrays: dict[str, np.ndarray], mesh: Mesh
) -> None:
    wanted = NamedSharding(mesh, P("d", "m"))
    with jax.set_mesh(mesh):
        abstract = nnx.eval_shape(lambda: Nnx(("d", "m"), nnx.Rngs(0)))
    # Its leaves carry an AbstractMesh: the mesh that is given takes its place.
    model = tf2flax.init_from_checkpoint(prefix, NNX_MAP, abstract, mesh=mesh)
    assert model.dense.kernel[...].sharding == wanted
    assert np.array_equal(model.dense.kernel[...], arrays["kernel"])
    with jax.set_mesh(mesh):
        abstract = nnx.eval_shape(lambda: Nnx(("d", "m"), nnx.Rngs(0)))
        model = tf2flax.init_from_checkpoint(prefix, NNX_MAP, abstract)
        assert model.dense.kernel[...].sharding == wanted
        state = nnx.state(nnx.eval_shape(lambda: Nnx(("d", None), nnx.Rngs(0))))
        got = tf2flax.init_from_checkpoint(prefix, NNX_MAP, state)
        assert got.dense.kernel[...].sharding.spec == P("d", None)
    # As newer versions of Flax leave them after `jax.set_mesh`.
    nowhere = NamedSharding(mesh.abstract_mesh, P("d", "m"))
    kernel = jax.ShapeDtypeStruct((16, 24), "float32", sharding=nowhere)
    with pytest.raises(tf2flax.AssignmentError, match="Give option mesh"):
        tf2flax.plan(prefix, {"kernel": "kernel"}, {"kernel": kernel})


@pytest.mark.parametrize("kind", ["pinned_host", "unpinned_host"])
def test_memory_kinds_pass_through(
    prefix: pathlib.Path, arrays: dict[str, np.ndarray], mesh: Mesh, kind: str
) -> None:
    big = np.arange(1 << 19, dtype=np.float32).reshape(512, 1024)
    write_bundle(prefix.with_name("big"), {"big": Tensor(big)})
    for spec in (P(), P("d"), P("d", "m")):
        sharding = NamedSharding(mesh, spec, memory_kind=kind)
        got = tf2flax.init_from_checkpoint(
            prefix, {"kernel": "x"}, {"x": SDS((16, 24), "float32")}, sharding=sharding
        )["x"]
        assert got.sharding == sharding
        assert got.sharding.memory_kind == kind
        assert np.array_equal(got, arrays["kernel"])
        got = tf2flax.init_from_checkpoint(
            prefix.with_name("big"),
            {"big": "x"},
            {"x": SDS(big.shape, "float32")},
            sharding=sharding,
        )["x"]
        assert got.sharding.memory_kind == kind
        assert np.array_equal(got, big)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a name": ({"sharding": "d"}, "Option sharding: expected"),
    "a number": ({"sharding": 3}, "Option sharding: expected"),
    "a tree of names": ({"sharding": {"kernel": "d"}}, "it has at `kernel` 'd'"),
    "a tree of others": ({"sharding": {"other": P()}}, "`other`, where the target"),
    "a function of names": (
        {"sharding": lambda _: "d"}, "it gave for leaf `kernel` 'd'",
    ),
    "a class": ({"sharding": NamedSharding}, "expected a function of one argument"),
    "a function of two": (
        {"sharding": lambda a, b: None}, "expected a function of one argument",
    ),
    "manual axes": (
        {"mesh": AbstractMesh((2,), ("d",), axis_types=(AxisType.Manual,))},
        "Option mesh: the mesh has Manual axes (`d`)",
    ),
    "a spec without mesh": ({"sharding": P()}, "needs a mesh"),
    "an unknown axis": (
        {"sharding": P("z"), "mesh": "mesh"}, "names `z`, but the mesh",
    ),
    "an axis twice": ({"sharding": P("d", "d"), "mesh": "mesh"}, "names `d` twice"),
    "too many axes": (
        {"sharding": P("d", None, None), "mesh": "mesh"}, "it has 2 axes, not 3",
    ),
    "no mesh": ({"mesh": "d"}, "Option mesh: expected"),
    "no rules": ({"logical_axis_rules": {"a": "b"}}, "Option logical_axis_rules"),
    "strategy": ({"strategy": "once"}, "Option strategy: expected 'auto'"),
    "on_uneven": ({"on_uneven": "keep"}, "Option on_uneven: expected"),
    "no bytes": ({"max_in_flight_bytes": 0}, "Option max_in_flight_bytes"),
    "some bytes": ({"max_in_flight_bytes": "1G"}, "Option max_in_flight_bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_OPTIONS))
def test_bad_options(name: str, prefix: pathlib.Path, mesh: Mesh) -> None:
    options, said = BAD_OPTIONS[name]
    if options.get("mesh") == "mesh":
        options = {**options, "mesh": mesh}
    target = {"kernel": SDS((16, 24), "float32")}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, {"kernel": "kernel"}, target, **options)
    assert said in str(caught.value)


def test_metadata_that_names_no_axes(prefix: pathlib.Path, mesh: Mesh) -> None:
    box: Any = nn.Partitioned(jnp.zeros((16, 24)), names=({}, None))
    with pytest.raises(
        tf2flax.AssignmentError, match=r"`x`.*metadata does not name axes"
    ):
        tf2flax.plan(prefix, {"kernel": "x"}, {"x": box}, mesh=mesh)


@pytest.mark.parametrize(
    "rules",
    [
        None,
        3,
        "kernel",
        {"a": P()},
        [("a",)],
        [("a", "d")],
        [("(", P())],
        [("a{99999999999999}", P())],
        [("(" * 10_000, P())],
        [(1, P())],
        [(b"a", P())],
        [(re.compile(b"a"), P())],
        [(types.SimpleNamespace(pattern="a"), P())],
    ],
)
def test_bad_rules(rules: Any) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="partition_rules"):
        tf2flax.partition_rules(rules)
    with pytest.raises(tf2flax.AssignmentError, match="from_partitions"):
        tf2flax.from_partitions(3)  # pyright: ignore[reportArgumentType]


SHARDINGS: list[PartitionSpec] = [
    P(), P("d"), P(None, "m"), P(("d", "m")), P(("m", "d")), P("m", "d"), P("d", "m"),
    P(None, ("m", "d")), P("d", None), P(None, None),
]  # fmt: skip


@pytest.mark.parametrize("spec", SHARDINGS, ids=str)
def test_boxes_of_devices_are_those_of_jax(spec: PartitionSpec, mesh: Mesh) -> None:
    shape = (16, 24)
    sharding = NamedSharding(mesh, spec)
    boxes = meshes.device_boxes(sharding, shape)
    indices = sharding.devices_indices_map(shape)
    for device, box in zip(mesh.devices.flat, boxes, strict=True):
        assert box.within(Box.whole(shape)) == tuple(
            slice(*index.indices(dim)[:2])
            for index, dim in zip(indices[device], shape, strict=True)
        )


def test_costs_of_meshes_that_do_not_exist(prefix: pathlib.Path) -> None:
    mesh = AbstractMesh((8, 4), ("d", "m"))
    target = {"kernel": SDS((16, 24), "float32"), "even": SDS((100, 8), "float32")}
    rules = tf2flax.partition_rules([("kernel", P("d")), ("even", P("m"))])
    plan = tf2flax.plan(prefix, {"/": "/"}, target, sharding=rules, mesh=mesh)
    assert plan.shardings["kernel"] == NamedSharding(mesh, P("d"))
    kernel, even = 16 * 24 * 4, 100 * 8 * 4
    local = plan.cost(processes=8, strategy="local")
    assert [one.needed_nbytes for one in local.processes] == [kernel // 8 + even] * 8
    assert [one.device_nbytes for one in local.processes] == [
        4 * (kernel // 8) + even
    ] * 8
    assert local.over_read == 1
    once = plan.cost(processes=8, strategy="read-once")
    assert once.read_nbytes == kernel + even
    # 100 rows, cut into 4 for the axis m, and these into 8 for d: at most 16 of them.
    assert max(one.read_nbytes for one in once.processes) == kernel // 8 + 16 * 8 * 4
    assert plan.cost(processes=1).read_nbytes == kernel + even
    assert "0-7" in str(local)
    assert "all processes:" in str(local)
    assert json.loads(json.dumps(local.to_dict()))["strategy"] == "local"
    with pytest.raises(tf2flax.AssignmentError, match="cannot be split over 3"):
        plan.cost(processes=3)
    with pytest.raises(tf2flax.AssignmentError, match=r"plan\.cost\(processes"):
        plan.cost()
    with pytest.raises(tf2flax.AssignmentError, match="positive whole number"):
        plan.cost(processes=0)
    here = {"kernel": P("d"), "even": SingleDeviceSharding(jax.devices()[1])}
    mixed = tf2flax.plan(prefix, {"/": "/"}, target, sharding=here, mesh=mesh)
    with pytest.raises(tf2flax.AssignmentError, match="on devices that are here"):
        mixed.cost(processes=1)
    with pytest.raises(tf2flax.UnsupportedError, match="Plan again with mesh="):
        plan.restore()
    assert "Restore plan for" in str(plan)


def test_warm_start_places_what_it_initialises(
    prefix: pathlib.Path, arrays: dict[str, np.ndarray], mesh: Mesh
) -> None:
    def init(key: jax.Array) -> dict[str, jax.Array]:
        return {
            "kernel": jax.random.normal(key, (16, 24)),
            "head": jax.random.normal(key, (24, 16)),
            "free": jax.random.normal(key, (3,)),
            "step": jnp.zeros((), jnp.int32),
        }

    own = SingleDeviceSharding(jax.devices()[5])
    seen: list[Any] = []

    def choose(leaf: Any) -> Sharding | PartitionSpec | None:
        seen.append(leaf)
        return {"kernel": P("d", "m"), "head": P("m"), "step": own}.get(leaf.name)

    warm = tf2flax.warm_start(
        init, prefix, {"kernel": "kernel"}, sharding=choose, mesh=mesh
    )
    key = jax.random.key(1)
    got, wanted = warm(key), jax.jit(init)(key)
    assert got["kernel"].sharding == NamedSharding(mesh, P("d", "m"))
    assert got["head"].sharding == NamedSharding(mesh, P("m"))
    assert got["step"].sharding == own
    assert np.array_equal(got["kernel"], arrays["kernel"])
    for name in ("head", "free", "step"):
        assert np.array_equal(got[name], wanted[name]), name
    assert {leaf.name: bool(leaf.sources) for leaf in seen} == {
        "kernel": True, "head": False, "free": False, "step": False,
    }  # fmt: skip


def test_kept_leaves_are_those_of_a_sharded_init(
    prefix: pathlib.Path, mesh: Mesh
) -> None:
    def init(key: jax.Array) -> dict[str, jax.Array]:
        drawn = jax.random.normal(key, (64, 128))
        return {
            "kernel": jax.random.normal(key, (16, 24)),
            "drawn": drawn,
            "norm": drawn / jnp.linalg.norm(drawn, axis=0),  # summed up over shards
            "product": drawn @ drawn.T,
        }

    key, rows = jax.random.key(1), NamedSharding(mesh, P("d"))
    warm = tf2flax.warm_start(init, prefix, {"kernel": "kernel"}, sharding=rows)
    got, wanted = warm(key), jax.jit(init, out_shardings=rows)(key)
    for name in ("drawn", "norm", "product"):
        assert got[name].sharding == rows
        assert np.array_equal(got[name], wanted[name]), name
    assert np.array_equal(got["drawn"], jax.jit(init)(key)["drawn"])


def test_manual_axes_of_a_leaf(prefix: pathlib.Path) -> None:
    devices = np.array(jax.devices()[:2])
    manual = Mesh(devices, ("d",), axis_types=(AxisType.Manual,))
    target = {"kernel": SDS((16, 24), "float32")}
    with pytest.raises(tf2flax.AssignmentError, match=r"`kernel`.*Manual axes \(`d`\)"):
        tf2flax.plan(
            prefix, {"kernel": "kernel"}, target, sharding=NamedSharding(manual, P())
        )


def test_what_is_read_in_part_is_listed(prefix: pathlib.Path) -> None:
    target = {"x": SDS((8, 24), "float32"), "y": SDS((24,), "float32")}
    key = {tf2flax.src("kernel")[4:12]: "x", "bias": "y"}
    plan = tf2flax.plan(prefix, key, target)
    assert plan.unverified == ("kernel",)
    assert "Read in part and therefore not verified (1)" in str(plan)
    both = {tf2flax.src("kernel")[:8]: "x", tf2flax.src("kernel")[8:]: "z"}
    target = {"x": SDS((8, 24), "float32"), "z": SDS((8, 24), "float32")}
    assert tf2flax.plan(prefix, both, target).unverified == ()
