"""Leaves that grow: the checkpoint's elements between the leaf's own, bit for bit."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import tf2flax
from tf2flax import src

P = PartitionSpec
ARRAY = np.arange(24, dtype="f4").reshape(6, 4)


def mesh_of(kind: AxisType = AxisType.Auto) -> Mesh:
    devices = np.array(jax.devices()).reshape(4, 2)
    return Mesh(devices, ("a", "b"), axis_types=(kind,) * 2)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("growing")
    slots = {"w/Adam": ARRAY, "w/ExponentialMovingAverage": ARRAY, "v": ARRAY}
    return tf2flax.save_checkpoint(folder / "m", {"w": ARRAY, "b": ARRAY[0], **slots})


def grown(fresh: np.ndarray, index: Any, value: np.ndarray = ARRAY) -> np.ndarray:
    result = fresh.copy()
    result[index] = value
    return result


SPECS = st.sampled_from([None, P(), P("a"), P(None, "b"), P("a", "b"), P(("a", "b"))])


@settings(max_examples=40)
@given(st.data())
def test_own_elements_stay_wherever_a_leaf_lives(
    prefix: str, data: st.DataObject
) -> None:
    mesh = mesh_of(data.draw(st.sampled_from([AxisType.Auto, AxisType.Explicit])))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    if data.draw(st.booleans()):
        before, left = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 4))
        widths = ((before, 2 - before), (left, 4 - left))
        key = src("w").pad(widths, fill="keep")
        fresh = rng.normal(size=(8, 8)).astype("f4")
        index: Any = (slice(before, before + 6), slice(left, left + 4))
        wanted = grown(fresh, index)
    else:
        axis = data.draw(st.sampled_from([0, 1]))
        count = ARRAY.shape[axis]
        rows = data.draw(st.lists(st.integers(-1, count - 1), min_size=8, max_size=8))
        key = src("w").take(rows, axis=axis - 2, fill="keep")
        fresh = rng.normal(size=(8, 4) if axis == 0 else (6, 8)).astype("f4")
        places = np.array(rows) >= 0
        index = places if axis == 0 else (slice(None), places)
        taken = np.take(ARRAY, np.array(rows)[places], axis)
        wanted = grown(fresh, index, taken)
    specs = [data.draw(SPECS), data.draw(SPECS)]
    if fresh.shape[0] == 6:  # which 4 and 8 do not divide
        specs = [None if spec and spec[0] else spec for spec in specs]
    held, wished = (
        None if spec is None else NamedSharding(mesh, spec) for spec in specs
    )
    leaf: Any = fresh if held is None else jax.device_put(fresh, held)
    options: dict[str, Any] = {} if wished is None else {"sharding": wished}
    if data.draw(st.booleans()):
        tree = tf2flax.init_from_checkpoint(prefix, {key: "x"}, {"x": leaf}, **options)
    else:
        tree = tf2flax.plan(prefix, {key: "x"}, {"x": leaf}, **options).restore()
    got = tree["x"]
    assert np.asarray(got).tobytes() == wanted.tobytes()
    if wished is not None:
        assert got.sharding == wished
    elif held is not None:
        assert got.sharding == held
    else:
        assert not got.committed
    assert np.array_equal(leaf, fresh)


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float16", "float8_e5m2", "int8", "bool", "complex64"]
)
def test_every_bit_of_every_dtype_stays(dtype: str, tmp_path: pathlib.Path) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rng = np.random.default_rng(1)
    stored, fresh = (
        rng.integers(0, 2 if dtype == "bool" else 256, n * kind.itemsize, np.uint8)
        .view(kind).reshape(n, 1) for n in (256, 512)
    )  # fmt: skip
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"w": stored})
    key = src("w").pad(((256, 0), (0, 0)), fill="keep")
    for place in (None, NamedSharding(mesh_of(), P("a"))):
        leaf = jax.device_put(fresh, place)
        got = tf2flax.init_from_checkpoint(prefix, {key: "x"}, {"x": leaf})["x"]
        wanted = np.concatenate([fresh[:256], stored])
        assert np.asarray(got).tobytes() == wanted.tobytes()


def init(key: jax.Array) -> dict[str, jax.Array]:
    return {
        "x": jax.random.normal(key, (8, 4)),
        "y": jax.random.normal(key, (8,)),
        "z": jnp.ones(3),
    }


ENTRIES = {
    src("w").pad(((0, 2), (0, 0)), fill="keep"): "x",
    src("b").take([3, -1, 0, -1, -1, 1, 2, -1], fill="keep"): "y",
}


@pytest.mark.parametrize("spec", [None, P(), P("a"), P(("b", "a"))])
def test_warm_start_keeps_what_init_makes(prefix: str, spec: P | None) -> None:
    options: dict[str, Any] = {}
    if spec is not None:
        sharding = NamedSharding(mesh_of(), spec)
        whole = NamedSharding(mesh_of(), P())
        options["sharding"] = {"x": sharding, "y": sharding, "z": whole}
    tree = tf2flax.warm_start(init, prefix, ENTRIES, **options)(jax.random.key(3))
    fresh = jax.tree.map(np.asarray, jax.jit(init)(jax.random.key(3)))
    wanted_x = grown(fresh["x"], slice(0, 6))
    wanted_y = grown(fresh["y"], [0, 2, 5, 6], ARRAY[0][[3, 0, 1, 2]])
    assert np.asarray(tree["x"]).tobytes() == wanted_x.tobytes()
    assert np.asarray(tree["y"]).tobytes() == wanted_y.tobytes()
    if spec is not None:
        assert tree["x"].sharding == sharding


def test_warm_start_of_modules(prefix: str) -> None:
    key = src("w").pad(((0, 2), (0, 0)), fill="keep")
    embed = nn.Embed(8, 4)
    warm = tf2flax.warm_start(embed.init, prefix, {key: "params/embedding"})
    fresh = jax.jit(embed.init)(jax.random.key(0), jnp.zeros(1, int))
    table = warm(jax.random.key(0), jnp.zeros(1, int))["params"]["embedding"]
    wanted = grown(np.asarray(fresh["params"]["embedding"]), slice(0, 6))
    assert np.array_equal(table, wanted)

    def make(rngs: nnx.Rngs) -> nnx.Embed:
        return nnx.Embed(8, 4, rngs=rngs)

    model = tf2flax.warm_start(make, prefix, {key: "embedding"})(nnx.Rngs(0))
    expected = nnx.jit(make)(nnx.Rngs(0)).embedding[...]
    assert np.array_equal(
        model.embedding[...], grown(np.asarray(expected), slice(0, 6))
    )
    # A module is updated in place.
    other = nnx.Embed(8, 4, rngs=nnx.Rngs(1))
    before = np.asarray(other.embedding[...])
    assert tf2flax.init_from_checkpoint(prefix, {key: "embedding"}, other) is other
    assert np.array_equal(other.embedding[...], grown(before, slice(0, 6)))


def test_parts_of_a_partitioned_variable_grow(
    prefix: str, tmp_path: pathlib.Path
) -> None:
    fresh = np.full((9, 4), -1.0, "f4")
    for key, rows in (
        (src("w").pad(((0, 3), (0, 0)), fill="keep"), [0, 1, 2, 3, 4, 5, -1, -1, -1]),
        (src("w").take([5, -1, 0, 1, -1, 2, 3, -1, 4], fill="keep"), None),
    ):
        numbers = np.array(rows or key.numbers)  # pyright: ignore
        target = {f"t/part_{i}": fresh[i * 3 : i * 3 + 3] for i in range(3)}
        plan = tf2flax.plan(prefix, {key: "t"}, target)
        tree = plan.restore()
        wanted = grown(fresh, numbers >= 0, ARRAY[numbers[numbers >= 0]])
        got = np.concatenate([np.asarray(leaf) for leaf in tree.values()])
        assert np.array_equal(got, wanted)
        with pytest.warns(UserWarning, match=r"left out \(2\): `w/Adam`, `w/Expone"):
            saved = tf2flax.save_checkpoint(
                tmp_path / "to" / "m", tree, plan=plan, overwrite=True
            )
        again = tf2flax.open_checkpoint(saved)
        assert np.array_equal(again["w"].read(), wanted)
        assert len(again["w"].slices) == 3
        assert sorted(again) == ["b", "v", "w"]


def test_a_grown_leaf_is_written_in_its_own_shape_and_order(
    prefix: str, tmp_path: pathlib.Path
) -> None:
    folder = pathlib.Path(__file__).parents[1] / "data" / "vocabulary"
    rows = tf2flax.vocabulary(folder / "old.txt", folder / "new.txt")
    fresh = np.full((4, 4), -1.0, "f4")
    # Also where constants fill what is new, and where something follows.
    keys = [
        (src("w").take(rows, fill="keep"), fresh),
        (src("w").take(rows, fill=-1.0).transpose(), fresh.T),
        (src("w").cast("bfloat16").take(rows, fill="keep"), fresh.astype("bfloat16")),
        # Doubled, so that what is written is half of what the leaf has.
        ((src("w") * 2.0).take(rows, fill=-2.0), 2 * fresh),
        (src("w").take(rows, fill=-1.0) * 2.0, 2 * fresh),
    ]
    for key, leaf in keys:
        plan = tf2flax.plan(prefix, {key: "x"}, {"x": leaf})
        tree = {"x": np.asarray(plan.restore()["x"]) * 2}
        with pytest.warns(UserWarning, match=r"left out \(2\)"):
            saved = tf2flax.save_checkpoint(
                tmp_path / "m", tree, plan=plan, overwrite=True
            )
        table = tf2flax.load_variable(saved, "w")
        wanted = 2 * grown(fresh, [0, 1, 3], ARRAY[[3, 0, 1]])
        assert np.array_equal(table, wanted)
        assert table.dtype == np.float32
        assert str(plan.inverse().assignments[0]).startswith("`w` <- ")
    # What TensorFlow would need to know is not known.
    padded = src("w").pad(((0, 0), (0, 0)), fill=0.0).take(rows, fill=0.0)
    plan = tf2flax.plan(prefix, {padded: "x"}, {"x": fresh})
    with pytest.raises(tf2flax.AssignmentError, match="`x` cannot be written in its"):
        tf2flax.save_checkpoint(tmp_path / "n", plan.restore(), plan=plan)


def test_shapes_have_nothing_to_keep(prefix: str) -> None:
    target = {"x": jax.ShapeDtypeStruct((8, 4), "float32")}
    key = src("w").pad(((0, 2), (0, 0)), fill="keep")
    for call in (tf2flax.plan, tf2flax.init_from_checkpoint):
        with pytest.raises(tf2flax.AssignmentError, match=r"have none: `x`\. Init"):
            call(prefix, {key: "x"}, target)


def test_the_pad_that_an_error_proposes_fits(prefix: str) -> None:
    mesh, spec = mesh_of(), P("a")
    leaf = jax.ShapeDtypeStruct((6, 4), "float32")
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, {"w": "x"}, {"x": leaf}, sharding=spec, mesh=mesh)
    text = 'src("w").pad(((0, 2), (0, 0)), fill="keep")'
    assert f"A leaf of shape [8, 4] fits, with the key `{text}`" in str(caught.value)
    fresh = np.zeros((8, 4), "f4")
    got = tf2flax.init_from_checkpoint(
        prefix, {eval(text): "x"}, {"x": fresh}, sharding=spec, mesh=mesh
    )["x"]
    assert got.sharding == NamedSharding(mesh, spec)
    assert np.array_equal(got, grown(fresh, slice(0, 6)))
    # Dimensions that are replicated instead grow as well.
    got = tf2flax.init_from_checkpoint(
        prefix,
        {src("w").pad(((0, 3), (0, 0)), fill="keep"): "x"},
        {"x": np.ones((9, 4), "f4")},
        sharding=P("a", "b"),
        mesh=mesh,
        on_uneven="replicate",
    )["x"]
    assert got.sharding.spec == P(None, "b")
    assert np.array_equal(got, grown(np.ones((9, 4), "f4"), slice(0, 6)))


def test_messages_propose_no_key_for_what_keeps_elements(prefix: str) -> None:
    key = src("w").pad(((0, 2), (0, 0)), fill="keep")
    for shape in ((4, 8), (8, 4, 1), (32,), (9, 4)):
        with pytest.raises(tf2flax.AssignmentError) as caught:
            tf2flax.plan(prefix, {key: "x"}, {"x": np.zeros(shape, "f4")})
        assert f"expected shape {list(shape)}, got [8, 4]." in str(caught.value)
        assert "use the key" not in str(caught.value)


def test_a_conversion_has_nothing_to_keep(prefix: str, tmp_path: pathlib.Path) -> None:
    key = src("w").pad(((0, 2), (0, 0)), fill="keep")
    with pytest.raises(tf2flax.AssignmentError, match="a conversion has no leaves"):
        tf2flax.convert(prefix, tmp_path / "x.npz", assignment_map={key: "x"})
    key = 2.0 * src("w").pad(((0, 2), (0, 0)), fill=1.0)
    tf2flax.convert(prefix, tmp_path / "x.npz", assignment_map={key: "x"})
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["x"], 2 * grown(np.ones((8, 4)), slice(0, 6)))


def test_partitions_are_seen_through_pads_and_arithmetic(
    tmp_path: pathlib.Path,
) -> None:
    write_bundle(tmp_path / "m", {"w": Tensor(ARRAY, rows_in(ARRAY, 2))})
    entries = {
        src("w").pad(((0, 2), (0, 0)), fill="keep"): "x",
        (src("w") * 2.0 + src("w")).T.pad(((0, 0), (1, 1)), fill=1.0): "y",
    }
    target = {"x": np.ones((8, 4), "f4"), "y": np.ones((4, 8), "f4")}
    tree = tf2flax.init_from_checkpoint(
        tmp_path / "m",
        entries,
        target,
        sharding=tf2flax.from_partitions("a"),
        mesh=mesh_of(),
    )
    assert tree["x"].sharding.spec == P("a")
    assert tree["y"].sharding.spec == P(None, "a")
    wanted = grown(np.ones((4, 8), "f4"), (slice(None), slice(1, 7)), 3 * ARRAY.T)
    assert np.array_equal(tree["y"], wanted)


def test_switches_of_the_caller_change_nothing(prefix: str) -> None:
    key = src("w").pad(((0, 2), (0, 0)), fill="keep")
    fresh = np.full((8, 4), np.nan, "f4")
    for place in (None, NamedSharding(mesh_of(), P("a"))):
        leaf = jax.device_put(fresh, place)
        with (
            jax.transfer_guard("disallow"),
            jax.debug_nans(True),
            jax.disable_jit(True),
        ):
            got = tf2flax.init_from_checkpoint(prefix, {key: "x"}, {"x": leaf})["x"]
        assert np.asarray(got).tobytes() == grown(fresh, slice(0, 6)).tobytes()


@pytest.mark.parametrize("kind", [np.asarray, jax.numpy.asarray])
def test_own_elements_that_the_dtype_cannot_hold_are_refused(kind: Any) -> None:
    key = src("w").pad(((0, 2),), fill="keep")
    checkpoint = {"w": np.arange(4, dtype=np.int8)}
    large = kind(np.array([1000] * 4 + [7, 1000], np.int32))
    with pytest.raises(tf2flax.AssignmentError, match=r"Leaf `x`: elements of its own"):
        tf2flax.init_from_checkpoint(
            checkpoint, {key: "x"}, {"x": large}, dtype="checkpoint"
        )
    # Only what is kept must fit.
    fitting = kind(np.array([1000] * 4 + [7, 8], np.int32))
    tree = tf2flax.init_from_checkpoint(
        checkpoint, {key: "x"}, {"x": fitting}, dtype="checkpoint"
    )
    assert tree["x"].tolist() == [0, 1, 2, 3, 7, 8]
