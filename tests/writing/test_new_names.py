"""Leaves under names that the checkpoint lacks: by `new=`, and by the map."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle

import tf2flax
from tf2flax import concat, first_of, src, stack
from tf2flax._base.values import STORED_DTYPES, StoredDtype
from tf2flax._checkpoint.checkpoint import Checkpoint

KERNEL = np.arange(12, dtype="f4").reshape(3, 4)
TABLE = np.arange(12, dtype="f4").reshape(6, 2)


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> str:
    """A trunk with slots, an average, a step; a table in slices; several files."""
    arrays: dict[str, Any] = {
        "global_step": np.int64(7),
        "trunk/w": KERNEL,
        "trunk/w/Adam": KERNEL + 1,
        "trunk/b": np.ones(4, "f4"),
        "trunk/b/ExponentialMovingAverage": np.ones(4, "f4"),
    }
    tensors = {name: Tensor(np.asarray(a)) for name, a in arrays.items()}
    tensors["table"] = Tensor(TABLE, rows_in(TABLE, 3))
    path = tmp_path / "from" / "m"
    write_bundle(path, tensors)
    return str(path)


def target() -> dict[str, Any]:
    head = {"kernel": np.full((3, 7), 5, "f4"), "bias": np.arange(7, dtype="f4")}
    return {
        "trunk": {"w": np.zeros((3, 4), "f4"), "b": np.zeros(4, "f4")},
        "head": head,
    }


TRUNK = {"trunk/": "trunk/"}


def save(
    plan: tf2flax.Plan, tree: Any, **options: Any
) -> tuple[tf2flax.Checkpoint, list[str]]:
    """What is written, and the warnings, which are all of the caller's line."""
    out = pathlib.Path(plan.inverse().manifest.prefix).parent.parent / "out"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = tf2flax.save_checkpoint(out, tree, plan=plan, overwrite=True, **options)
    assert all(warning.filename == __file__ for warning in caught)
    checkpoint = tf2flax.open_checkpoint(path)
    assert checkpoint.verify().ok
    return checkpoint, [str(warning.message) for warning in caught]


def test_a_leaf_under_a_new_name(prefix: str) -> None:
    plan = tf2flax.plan(prefix, TRUNK, target())
    new = {"cls/kernel": "head/kernel", "cls/bias": "head/bias"}
    saved, said = save(plan, plan.restore(), new=new)
    assert said == []
    before = tf2flax.open_checkpoint(prefix)
    assert set(saved) == {*before, *new}
    assert saved["cls/kernel"].read().tolist() == [[5.0] * 7] * 3
    assert saved["cls/bias"].dtype == np.float32
    for name in before:
        assert saved[name].read().tobytes() == before[name].read().tobytes()
        assert saved[name].slices == before[name].slices
    # What `new` does not name is left out, and named.
    _, said = save(plan, plan.restore(), new={"cls/kernel": "head/kernel"})
    assert said == [
        "1 leaves that the plan did not load are not written: `head/bias`. Name them, "
        "new={name of a tensor: leaf}, or save them in a separate checkpoint."
    ]


def test_what_is_copied_stale_is_named_beside_new_names(prefix: str) -> None:
    plan = tf2flax.plan(prefix, TRUNK, target())
    tree = plan.restore()
    tree["trunk"]["w"] = tree["trunk"]["w"] + 1
    new = {"cls/kernel": "head/kernel", "cls/bias": "head/bias"}
    _, (message,) = save(plan, tree, new=new)
    assert "2 tensors are copied" in message
    assert "`global_step`, `trunk/w/Adam`" in message


def leaves() -> dict[str, Any]:
    layers = {f"l_{i}": {"w": np.full((2, 3), i, "f4")} for i in range(3)}
    return {
        "kernel": np.arange(6, dtype="f4").reshape(2, 3),
        "half": np.arange(6, dtype="f2").reshape(2, 3),
        "ints": np.arange(4, dtype="i4"),
        "swapped": np.arange(4, dtype=">i4"),
        "scalar": np.float32(3),
        "empty": np.zeros((0, 3), "f4"),
        "sharded": jax.device_put(
            np.arange(16, dtype="f4"),
            jax.sharding.NamedSharding(
                jax.make_mesh((8,), ("x",)), jax.sharding.PartitionSpec("x")
            ),
        ),
        "layers": layers,
        "parts": {"part_0": TABLE[:4], "part_1": TABLE[4:]},
    }


K = np.arange(6, dtype="f4").reshape(2, 3)
BF16 = ml_dtypes.bfloat16
EXPRESSIONS: dict[str, tuple[Any, np.ndarray]] = {
    "transposed": (src("kernel").transpose(), K.T),
    "indexed": (src("kernel")[1, ::2], K[1, ::2]),
    "reshaped": (src("kernel").reshape(3, 2), K.reshape(3, 2)),
    "rearranged": (src("kernel").rearrange("a (b c) -> b (a c)", b=3), K.T),
    "joined": (
        concat("kernel", src("half").cast("float32"), axis=1),
        np.concatenate([K, K], 1),
    ),
    "stacked": (
        stack("layers/l_{i}/w", over="i"),
        np.stack([np.full((2, 3), i, "f4") for i in range(3)]),
    ),
    "rows": (src("kernel").take([1, -1], fill=9.0), np.stack([K[1], K[0] * 0 + 9])),
    "padded": (src("scalar").reshape(1).pad(((0, 2),)), np.array([3, 0, 0], "f4")),
    "added": (src("kernel") + src("kernel"), K + K),
    "numbers": (1.0 - src("kernel") * 2.0, 1 - K * 2),
    "cast": (src("kernel").cast("float16"), K.astype("f2")),
    "in the leaf's dtype": (src("half").transpose(), K.T.astype("f2")),
    "swapped": (src("swapped")[::-1], np.arange(4, dtype="i4")[::-1]),
    "nothing": (src("empty").transpose(), np.zeros((3, 0), "f4")),
    "a scalar": (src("scalar") * 2.0, np.array(6, "f4")),
    "sharded": (src("sharded")[4:9], np.arange(4, 9, dtype="f4")),
    "partitioned": (src("parts")[::-1], TABLE[::-1]),
    "chosen": (first_of("nothing", "kernel"), K),
}


@pytest.mark.parametrize("data_files", [1, 3])
def test_expressions_over_leaves(prefix: str, data_files: int) -> None:
    tree = {"trunk": np.zeros((3, 4), "f4"), **leaves()}
    plan = tf2flax.plan(prefix, {"trunk/w": "trunk"}, tree)
    new = {f"new/{name}": expression for name, (expression, _) in EXPRESSIONS.items()}
    saved, _ = save(plan, plan.restore(), new=new, data_files=data_files)
    for name, (_, want) in EXPRESSIONS.items():
        array = saved[f"new/{name}"].read()
        assert (array.dtype, array.shape) == (want.dtype, want.shape), name
        assert array.tobytes() == np.ascontiguousarray(want).tobytes(), name


def test_a_partitioned_leaf_is_written_in_slices(prefix: str) -> None:
    tree = {"trunk": np.zeros((3, 4), "f4"), **leaves()}
    plan = tf2flax.plan(prefix, {"trunk/w": "trunk"}, tree)
    new = {"t": "parts", "p": "parts/part_1"}
    saved, said = save(plan, plan.restore(), new=new)
    assert [box[0].stop for box in saved["t"].slices] == [4, 6]
    assert saved["t"].read().tolist() == TABLE.tolist()
    assert saved["p"].read().tolist() == TABLE[4:].tolist()
    assert "part" not in said[0]


def numbers_of(dtype: StoredDtype, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(np.arange(int(np.prod(shape))).reshape(shape) % 2)
    return values.astype(dtype.numpy)


@pytest.mark.parametrize("swap", [False, True])
def test_every_dtype_rank_and_byte_order(prefix: str, *, swap: bool) -> None:
    tree: dict[str, Any] = {"trunk": KERNEL}
    new: dict[str, Any] = {}
    want: dict[str, np.ndarray] = {}
    for dtype in STORED_DTYPES.values():
        if not dtype.is_readable or dtype.is_string or dtype.name.startswith("q"):
            continue
        for shape in ((), (0, 3), (3,), (2, 3)):
            array = numbers_of(dtype, shape)
            name = f"{dtype.name}{len(shape)}{len(want)}"
            tree[name] = array.astype(dtype.numpy.newbyteorder(">")) if swap else array
            new |= {f"n/{name}": name, f"t/{name}": src(name).transpose()}
            want |= {f"n/{name}": array, f"t/{name}": array.T}
    assert len(want) > 100
    plan = tf2flax.plan(prefix, {"trunk/w": "trunk"}, {"trunk": tree["trunk"]})
    saved, said = save(plan, tree, new=new)
    assert said == []
    for name, array in want.items():
        got = saved[name].read()
        assert (got.dtype, got.shape) == (array.dtype, array.shape), name
        assert got.tobytes() == np.ascontiguousarray(array).tobytes(), name


def test_strings_under_a_new_name(prefix: str) -> None:
    tree = {"trunk": np.zeros((3, 4), "f4"), "words": np.array([b"a\0", b""], object)}
    plan = tf2flax.plan(prefix, {"trunk/w": "trunk"}, {"trunk": tree["trunk"]})
    saved, _ = save(plan, tree, new={"words": "words"})
    assert saved["words"].read().tolist() == [b"a\0", b""]
    with pytest.raises(tf2flax.AssignmentError, match="dtype string"):
        save(plan, tree, new={"words": src("words")[::-1]})


def test_a_name_of_the_checkpoint_is_refused(prefix: str) -> None:
    plan = tf2flax.plan(prefix, TRUNK, target())
    for options in ({}, {"unused": "drop"}, {"data_files": 2}):
        for name in ("trunk/w", "table", "trunk/w/Adam"):
            with pytest.raises(tf2flax.ExistsError, match=f"`{name}` is in the check"):
                save(plan, plan.restore(), new={name: "head/kernel"}, **options)
    with pytest.raises(FileExistsError, match="`table`, `trunk/w` are in the checkpo"):
        save(plan, plan.restore(), new={"table": "head/bias", "trunk/w": "head/kernel"})
    assert not (pathlib.Path(prefix).parent.parent / "out.index").exists()


def test_names_of_views_are_names_of_the_checkpoint(data: pathlib.Path) -> None:
    view = tf2flax.open_checkpoint(data / "tf2_object/object.ckpt").by_object_path()
    name = "model/heads/a/kernel"
    plan = tf2flax.plan(view, {name: "k"}, {"k": np.zeros((8, 3), "f4")})
    for present in (name, f"{name}/.ATTRIBUTES/VARIABLE_VALUE"):
        with pytest.raises(tf2flax.ExistsError, match="is in the checkpoint already"):
            tf2flax.save_checkpoint("m", plan.restore(), plan=plan, new={present: "k"})


# The option, and what is said of it.
WRONG: list[tuple[Any, str]] = [
    ({"x": "heed/kernel"}, r"the tree has no leaf `heed/kernel`. Did you mean `he"),
    ({"x": "head"}, "the tree has no leaf `head`. It is a scope: name each tensor"),
    ({"x": "head/"}, 'Option new, `x`: "head/" is a scope'),
    ({"x": ""}, 'Option new, `x`: "" is a scope'),
    ({"x": "head/{n}"}, r"`head/\{n\}` has captures"),
    ({"x": "head/{"}, "a single `{`"),
    ({"x": np.ones(2)}, "expected the name of a leaf, or an expression over leaves"),
    ({"x": None}, "expected the name of a leaf"),
    ({3: "head/bias"}, "Option new, 3: expected the name of a tensor"),
    ({b"x": "head/bias"}, "expected the name of a tensor as the key"),
    ({"": "head/bias"}, "A tensor needs a name"),
    ({"_CHECKPOINTABLE_OBJECT_GRAPH": "head/bias"}, "the name of the object graph of"),
    ({"\ud800": "head/bias"}, "is not valid text"),
    (["x"], r"Option new: expected a mapping of names of tensors"),
    ("head/bias", "Option new: expected a mapping"),
    ({"x": src("head/bias").pad(((0, 1),), fill="keep")}, 'fill="keep" keeps elements'),
    ({"x": concat("head/bias", "head/kernel")}, "concat"),
    ({"x": src("head/bias").reshape(2, 2)}, "reshape"),
    ({"x": stack("head_{i}", over="i")}, r"has no leaf `head_\{i\}`"),
    ({"x": "nil", "y": "nil", "z": "head/bias"}, r"(?s)2 problems.*`x`.*`y`|`x`.*`y`"),
]  # fmt: skip


@pytest.mark.parametrize(("new", "message"), WRONG, ids=map(str, range(len(WRONG))))
def test_what_new_refuses(prefix: str, new: Any, message: str) -> None:
    plan = tf2flax.plan(prefix, TRUNK, target())
    with pytest.raises(tf2flax.AssignmentError, match=message):
        save(plan, plan.restore(), new=new)
    assert not (pathlib.Path(prefix).parent.parent / "out.index").exists()


@pytest.mark.parametrize("option", [{"unused": "drop"}, {"averages": "both"}])
def test_what_is_said_of_a_checkpoint_needs_a_plan(
    tmp_path: pathlib.Path, option: dict[str, Any]
) -> None:
    with pytest.raises(tf2flax.AssignmentError, match=r"='\w+': .* Give it as plan="):
        tf2flax.save_checkpoint(tmp_path / "m", {"a": np.ones(2)}, **option)
    assert not [*tmp_path.iterdir()]


def test_new_needs_a_plan(tmp_path: pathlib.Path) -> None:
    for tree in ({"a": np.ones(2)}, {"a": {"b": np.ones(2)}}):
        with pytest.raises(tf2flax.AssignmentError, match="there is no plan"):
            tf2flax.save_checkpoint(tmp_path / "m", tree, new={"x": "a"})
    assert tf2flax.save_checkpoint(tmp_path / "m", {"a": np.ones(2)}, new=None)


# Entries that find nothing, the leaf, and what it is written as.
MISSING: dict[str, tuple[Any, Any, Mapping[str, np.ndarray]]] = {
    "a name": ({"h/k": "x"}, K, {"h/k": K}),
    "a scope": ({"h/": "s/"}, {"k": K}, {"h/k": K}),
    "all of it": ({"/": "/"}, K, {"x": K}),
    "an alias": ({"h/": "s/"}, {"kernel": K}, {"h/kernel": K}),
    "a capture": ({"h_{i}/k": "{i}x"}, {"3x": K}, {"h_3/k": K}),
    "captures of scopes": ({"h_{i}/": "s_{i}/"}, {"s_2": {"k": K}}, {"h_2/k": K}),
    "transposed": ({src("h").transpose(): "x"}, K, {"h": K.T}),
    "axes": (
        {src("h").transpose(1, 2, 0): "x"},
        np.arange(24.0).reshape(2, 3, 4).astype("f4"),
        {"h": np.arange(24.0).reshape(2, 3, 4).astype("f4").transpose(2, 0, 1)},
    ),
    "cast": ({src("h").cast("float16"): "x"}, K, {"h": K}),
    "heads": (
        {src("h").rearrange("d (h k) -> d h k", h=3): "x"},
        np.arange(12, dtype="f4").reshape(2, 3, 2),
        {"h": np.arange(12, dtype="f4").reshape(2, 6)},
    ),
    "heads, joined": (
        {src("h").rearrange("... h k -> ... (h k)", k=1): "x"}, K, {"h": K[..., None]}
    ),
    "stacked": ({stack("a", "b"): "x"}, K, {"a": K[0], "b": K[1]}),
    "stacked, transposed": (
        {stack(src("a").transpose(), "b", axis=-1): "x"},
        np.arange(12, dtype="f4").reshape(2, 3, 2),
        {
            "a": np.arange(12, dtype="f4").reshape(2, 3, 2)[..., 0].T,
            "b": np.arange(12, dtype="f4").reshape(2, 3, 2)[..., 1],
        },
    ),
    "grown": ({src("h").pad(((0, 1), (0, 0)), fill="keep"): "x"}, K, {"h": K}),
    "a scalar": ({"h": "x"}, np.float32(2), {"h": np.array(2, "f4")}),
    "a scalar, transposed": ({src("h").T: "x"}, np.int32(2), {"h": np.array(2, "i4")}),
    "nothing in it": ({src("h").T: "x"}, K[:0], {"h": K[:0].T}),
    "a dtype": ({"h": "x"}, K.astype(BF16), {"h": K.astype(BF16)}),
    "swapped bytes": ({"h": "x"}, K.astype(">f4"), {"h": K}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MISSING))
def test_leaves_of_entries_that_the_checkpoint_lacks(prefix: str, name: str) -> None:
    entries, leaf, want = MISSING[name]
    tree = leaf if isinstance(leaf, dict) else {"x": leaf}
    if name in ("a scope", "an alias"):
        tree = {"s": leaf}
    tree = {**tree, "w": np.zeros((3, 4), "f4")}
    pairs = [*entries.items(), ("trunk/w", "w")]
    plan = tf2flax.plan(prefix, pairs, tree, on_missing="keep")
    inverse = plan.inverse()
    assert inverse.left_out == ()
    assert {one.name for one in inverse.assignments} == {*want, "trunk/w"}
    for unused in ("copy", "drop"):
        saved, said = save(plan, plan.restore(), unused=unused)
        assert said == []
        for tensor, array in want.items():
            got = saved[tensor].read()
            assert (got.dtype, got.shape) == (array.dtype, array.shape)
            assert got.tobytes() == np.ascontiguousarray(array).tobytes()
    # The same map fills the same leaves from what was written; growth is there now.
    if name != "grown":
        again = tf2flax.init_from_checkpoint(saved, pairs, tree, on_missing="keep")
        jax.tree.map(np.testing.assert_array_equal, again, plan.restore())


def test_a_missing_family_is_written_in_slices(prefix: str) -> None:
    parts = {f"part_{i}": np.full((n, 2), i, "f4") for i, n in enumerate((4, 5))}
    tree = {"t": parts, "w": np.zeros((3, 4), "f4")}
    entries: list[tuple[Any, Any, str]] = [
        ("gone", "t", "gone"), ("gone/", "/", "gone/t"), ("gone_{x}", "{x}", "gone_t"),
        ("gone", [parts["part_0"], parts["part_1"]], "gone"),
    ]  # fmt: skip
    for key, value, name in entries:
        pairs = [(key, value), ("trunk/w", "w")]
        plan = tf2flax.plan(prefix, pairs, tree, on_missing="keep")
        saved, said = save(plan, plan.restore())
        assert said == []
        assert [box[0].stop for box in saved[name].slices] == [4, 9]


def test_a_part_of_a_missing_family_is_left_out(prefix: str) -> None:
    """All parts together are the tensor; one of them is not."""
    parts = {f"part_{i}": np.full((n, 2), i, "f4") for i, n in enumerate((4, 5))}
    tree = {"t": parts, "w": np.zeros((3, 4), "f4")}
    pairs: Any = [("gone", [parts["part_0"]]), ("trunk/w", "w")]
    plan = tf2flax.plan(prefix, pairs, tree, on_missing="keep")
    saved, (message,) = save(plan, plan.restore())
    assert "gone" not in saved
    assert "`t/part_0`, `t/part_1`" in message


# Entries whose tensors do not follow from the leaf.
UNCLEAR: dict[str, tuple[Any, Any]] = {
    "a concatenation": ({concat("a", "b"): "x"}, K),
    "cut": ({src("h")[:1]: "x"}, K),
    "reshaped": ({src("h").reshape(2, 3): "x"}, K),
    "merged": ({src("h").rearrange("a b c -> a (b c)"): "x"}, K),
    "one of several": ({first_of("a", "b"): "x"}, K),
    "counted": ({stack("h_{i}", over="i"): "x"}, K),
    "another number": ({stack("a", "b"): "x"}, np.zeros((3, 2), "f4")),
    "changed": ({src("h") * 2.0: "x"}, K),
    "summed": ({src("h") + src("g"): "x"}, K),
    "twice": ({stack("a", "a"): "x"}, K),
    "partly there": ({stack("trunk/b", "b"): "x"}, np.zeros((2, 4), "f4")),
    "of another rank": ({src("h").transpose(2, 1, 0): "x"}, K),
}


@pytest.mark.parametrize("name", list(UNCLEAR))
def test_what_does_not_follow_is_left_out_and_named(prefix: str, name: str) -> None:
    entries, leaf = UNCLEAR[name]
    tree = {"x": leaf, "w": np.zeros((3, 4), "f4")}
    pairs = [*entries.items(), ("trunk/w", "w")]
    plan = tf2flax.plan(prefix, pairs, tree, on_missing="keep")
    assert plan.inverse().left_out == ("x",)
    saved, (message,) = save(plan, plan.restore())
    assert "not written: `x`. Name them, new={name of a tensor: leaf}" in message
    assert set(saved) == set(tf2flax.open_checkpoint(prefix))
    saved, said = save(plan, plan.restore(), new={"mine": src("x").T})
    assert saved["mine"].read().tolist() == leaf.T.tolist()
    assert said == []


def test_the_first_of_two_leaves_is_written_under_a_missing_name(prefix: str) -> None:
    tree = {"a": K, "b": K + 1, "w": np.zeros((3, 4), "f4")}
    pairs: Any = [("h", "a"), ("h", "b"), ("trunk/w", "w")]
    plan = tf2flax.plan(prefix, pairs, tree, on_missing="keep")
    saved, (message,) = save(plan, plan.restore())
    assert saved["h"].read().tolist() == K.tolist()
    assert "not written: `b`" in message


def test_new_adds_to_what_the_map_writes(prefix: str) -> None:
    tree = {**target(), "w": np.full((2, 2), 3, "f4")}
    entries = {**TRUNK, "head/": "head/", "table": "w"}
    plan = tf2flax.plan(prefix, entries, tree, on_missing="keep", on_mismatch="keep")
    new = {"cls": src("head/kernel").T, "small": "w", "again": "trunk/b"}
    saved, (message,) = save(plan, plan.restore(), new=new)
    assert "1 tensor is copied" in message  # the step, since `table` is another one
    assert "`global_step`" in message
    assert set(saved) >= {"head/kernel", "head/bias", *new}
    assert saved["cls"].shape == (7, 3)
    assert saved["table"].shape == saved["small"].shape == (2, 2)
    assert saved["again"].read().tolist() == [1, 1, 1, 1]
    for leaf in ("head/kernel", "head/bias"):
        with pytest.raises(tf2flax.AssignmentError, match="`head/bias`: by the map it"):
            save(plan, plan.restore(), new={"head/bias": leaf})


def test_a_leaf_that_cannot_be_written_in_its_place_gets_a_name(prefix: str) -> None:
    """One that was kept, and of which no inverse gives a tensor of another shape."""
    tree = {"x": np.full((2, 9), 3, "f4"), "w": np.zeros((3, 4), "f4")}
    pairs: Any = [(src("table")[:2], "x"), ("trunk/w", "w")]
    plan = tf2flax.plan(prefix, pairs, tree, on_mismatch="keep")
    with pytest.raises(tf2flax.AssignmentError, match="Name it in new="):
        save(plan, plan.restore())
    saved, said = save(plan, plan.restore(), new={"x": "x"})
    assert said == []
    assert saved["x"].shape == (2, 9)
    assert saved["table"].read().tolist() == TABLE.tolist()


def test_a_leaf_that_is_gone_or_has_another_shape(prefix: str) -> None:
    entries = {**TRUNK, src("head/kernel").rearrange("a (b c) -> a b c", b=7): "head"}
    tree = {"trunk": target()["trunk"], "head": np.zeros((3, 7, 2), "f4")}
    plan = tf2flax.plan(prefix, entries, tree, on_missing="keep")
    restored = plan.restore()
    saved, said = save(plan, {"trunk": restored["trunk"]})
    assert "head/kernel" not in saved
    assert said == []
    restored["head"] = np.zeros((3, 7, 5), "f4")
    saved, _ = save(plan, restored)
    assert saved["head/kernel"].shape == (3, 35)
    restored["head"] = np.zeros((3, 8, 5), "f4")
    with pytest.raises(tf2flax.AssignmentError, match="Leaf `head` cannot be written"):
        save(plan, restored)


def test_optional_entries_are_written_as_well(prefix: str, tmp_path: Any) -> None:
    (tmp_path / "m.toml").write_text(
        '[assignment_map]\n"trunk/" = "trunk/"\n[optional]\n"cls/" = "head/"\n'
    )
    entries = tf2flax.load_map(tmp_path / "m.toml")
    plan = tf2flax.plan(prefix, entries, target())
    saved, said = save(plan, plan.restore())
    assert said == []
    assert saved["cls/kernel"].shape == (3, 7)


Views = dict[str, tuple[Callable[[Checkpoint], Any], str]]
VIEWS: Views = {
    "averages": (Checkpoint.by_moving_average, "trunk/b"),
    "merged": (lambda c: tf2flax.merge_checkpoints({"a/": c}), "a/trunk/b"),
}


@pytest.mark.parametrize("name", list(VIEWS))
def test_a_new_variable_in_a_view(prefix: str, name: str) -> None:
    view, key = VIEWS[name]
    opened = view(tf2flax.open_checkpoint(prefix))
    tree = {"b": np.zeros(4, "f4"), "x": K}
    entries = {key: "b", "b/new": "x"}
    plan = tf2flax.plan(opened, entries, tree, on_missing="keep")
    out = pathlib.Path(prefix).parent / "out"
    saved = tf2flax.save_checkpoint(out, plan.restore(), plan=plan)
    assert tf2flax.load_variable(saved, "b/new").tolist() == K.tolist()


def test_a_view_without_stored_names_for_it(prefix: str, data: pathlib.Path) -> None:
    """The object graph has no place for it, and a slot no name."""
    slots = tf2flax.open_checkpoint(prefix).by_slot("Adam")
    graph = tf2flax.open_checkpoint(data / "tf2_object/object.ckpt").by_object_path()
    cases = [(slots, "trunk/w", (3, 4)), (graph, "model/heads/a/kernel", (8, 3))]
    for number, (view, key, shape) in enumerate(cases):
        tree = {"k": np.zeros(shape, "f4"), "x": jnp.asarray(K)}
        entries = {key: "k", "model/heads/c/kernel": "x"}
        plan = tf2flax.plan(view, entries, tree, on_missing="keep")
        out = pathlib.Path(prefix).parent / str(number)
        with pytest.warns(UserWarning, match="not written: `x`. Name them, new="):
            tf2flax.save_checkpoint(out, plan.restore(), plan=plan)
        saved = tf2flax.save_checkpoint(
            out, plan.restore(), plan=plan, new={"c": "x"}, overwrite=True
        )
        assert tf2flax.load_variable(saved, "c").tolist() == K.tolist()
    # Under its stored name it is written, though the graph does not have it.
    stored = tf2flax.open_checkpoint(data / "tf2_object/object.ckpt")
    end = "/.ATTRIBUTES/VARIABLE_VALUE"
    entries = {f"model/heads/a/kernel{end}": "k", f"model/heads/c/kernel{end}": "x"}
    plan = tf2flax.plan(stored, entries, tree, on_missing="keep")
    saved = tf2flax.save_checkpoint(
        pathlib.Path(prefix).parent / "stored", plan.restore(), plan=plan
    )
    assert f"model/heads/c/kernel{end}" in tf2flax.open_checkpoint(saved)


def test_tied_leaves_and_missing_names(prefix: str) -> None:
    from flax import nnx

    class Tied(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Param(jnp.zeros((3, 4)))
            self.b = self.a

    model = Tied()
    entries = {"trunk/w": "a", "gone": "b"}
    plan = tf2flax.plan(prefix, entries, model, on_missing="keep")
    saved, _ = save(plan, plan.restore())
    assert plan.missing == ()  # one of its names fills it
    assert saved["trunk/w"].shape == (3, 4)
    assert "gone" not in saved


def test_values_that_cannot_be_made_leave_no_files(prefix: str) -> None:
    """They are met when the tensor is written, and everything is removed."""
    plan = tf2flax.plan(prefix, TRUNK, target())
    tree = {**plan.restore(), "big": np.full(3, 2**30, "i4")}
    with pytest.raises(tf2flax.AssignmentError, match="Leaf `zz` cannot take"):
        save(plan, tree, new={"zz": src("big") * 4})
    folder = pathlib.Path(prefix).parent.parent
    assert [path.name for path in folder.iterdir()] == ["from"]
