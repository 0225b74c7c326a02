"""Grown leaves that went through a cast: what was only loaded keeps the stored bits."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from repository import DATA

import tf2flax
from tf2flax import Expression, concat, src, stack, vocabulary

RNG = np.random.default_rng(0)
W = RNG.normal(size=(5, 3)).astype("f4")
V = RNG.normal(size=(5, 3))  # float64
WIDE = RNG.integers(-(2**40), 2**40, (5, 3))
SQUARE = RNG.normal(size=(5, 5)).astype("f4")
OLD, NEW = DATA / "vocabulary" / "old.txt", DATA / "vocabulary" / "new.txt"
COMPLEX = (RNG.normal(size=(5, 3)) + 1j * RNG.normal(size=(5, 3))).astype("c8")
NAN = np.array([[0x7FC12345, 0x3F812345]], "u4").view("f4")


def write(folder: pathlib.Path, *, big_endian: bool = False) -> pathlib.Path:
    tensors = {
        "w": Tensor(W), "v": Tensor(V), "i": Tensor(WIDE), "nan": Tensor(NAN),
        "sliced": Tensor(W, rows_in(W, 3), data_file=[0, 1, 0]), "c": Tensor(COMPLEX),
        "s": Tensor(W[0, 0]), "none": Tensor(W[:, :0]), "w/Adam": Tensor(W),
        "square": Tensor(SQUARE),
    }  # fmt: skip
    write_bundle(folder / "m", tensors, num_data_files=2, big_endian=big_endian)
    return folder / "m"


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    return write(tmp_path)


def save(
    prefix: pathlib.Path, key: Any, target: Any, dtype: Any = None, change: Any = None
) -> tuple[tf2flax.Checkpoint, dict[str, np.ndarray]]:
    with jax.enable_x64(True):
        plan = tf2flax.plan(prefix, {key: "x"}, target, dtype=dtype)
        tree = {name: np.array(leaf) for name, leaf in plan.restore().items()}
    if change is not None:
        change(tree)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = tf2flax.save_checkpoint(
            prefix.parent / "to", tree, plan=plan, overwrite=True
        )
    return tf2flax.open_checkpoint(saved), tree


ROWS = vocabulary(OLD, NEW)  # 3, 0, -1, 1
COLUMNS = vocabulary(OLD, NEW, axis=1, num_oov_buckets=1)
# Key, shape and dtype of the leaf, option `dtype`, tensor -> where its elements lie in
# what is written, and which they are.
GROWN: dict[str, tuple[Any, Any, Any, Any, dict[str, tuple[Any, np.ndarray]]]] = {
    "a narrower leaf": (
        src("w").pad(((0, 1), (0, 0)), fill="keep"), (6, 3), "bfloat16", None,
        {"w": (np.s_[:5], W)},
    ),
    "option dtype": (
        src("w").pad(((1, 0), (2, 0)), fill="keep"), (6, 5), "float32", "float16",
        {"w": (np.s_[1:, 2:], W)},
    ),
    "a cast in the key": (
        src("w").cast("bfloat16").take([1, -1, 0], fill="keep"), (3, 3), "float32",
        None, {"w": (np.s_[[0, 2]], W[[1, 0]])},
    ),
    "doubles": (
        src("v").take([1, -1, 0, 1], fill="keep"), (4, 3), "float32", None,
        {"v": (np.s_[[0, 2, 3]], V[[1, 0, 1]])},
    ),
    "integers that wrapped around": (
        src("i").pad(((0, 1), (0, 0)), fill="keep"), (6, 3), "int64", "int32",
        {"i": (np.s_[:5], WIDE)},
    ),
    "integers of floats": (
        src("v").cast("int16").pad(((0, 1), (0, 0)), fill="keep"), (6, 3), "int16",
        None, {"v": (np.s_[:5], V)},
    ),
    "a vocabulary": (
        src("w").take(ROWS, fill=0.0), (4, 3), "bfloat16", None,
        {"w": (np.s_[[0, 1, 3]], W[[3, 0, 1]])},
    ),
    "columns of a transpose": (
        src("w").T.take(COLUMNS, fill="keep"), (3, 5), "bfloat16", None,
        {"w": (np.s_[[0, 1, 3]], W[[3, 0, 1]])},
    ),
    "both axes": (
        src("square").take(ROWS, fill=0.0).take(COLUMNS, fill="keep"), (4, 5),
        "bfloat16", None,
        {"square": (np.ix_([0, 1, 3], [0, 1, 3]), SQUARE[[3, 0, 1]][:, [3, 0, 1]])},
    ),
    "joined tensors": (
        concat("w", "sliced", axis=1).pad(((0, 2), (0, 0)), fill="keep"), (7, 6),
        "bfloat16", None, {"w": (np.s_[:5], W), "sliced": (np.s_[:5], W)},
    ),
    "joined casts": (
        stack(src("w"), src("v").cast("float32")).pad(
            ((0, 0), (0, 0), (1, 0)), fill="keep"
        ),
        (2, 5, 4), "float16", None,
        {"w": (np.s_[:, 1:], W), "v": (np.s_[:, 1:], V)},
    ),
    "slices of several files": (
        src("sliced").take([-1, 4, 0], fill="keep"), (3, 3), "bfloat16", None,
        {"sliced": (np.s_[1:], W[[4, 0]])},
    ),
    "not a number": (
        src("nan").pad(((0, 1), (0, 0)), fill="keep"), (2, 2), "bfloat16", None,
        {"nan": (np.s_[:1], NAN)},
    ),
    "no axes": (src("s").pad((), fill="keep"), (), "bfloat16", None,
                {"s": (np.s_[...], W[0, 0])}),
    "no elements": (src("none").pad(((0, 1), (0, 0)), fill="keep"), (6, 0), "bfloat16",
                    None, {"none": (np.s_[:5], W[:, :0])}),
    "nothing is lost": (src("w").pad(((0, 1), (0, 0)), fill="keep"), (6, 3), "float64",
                        None, {"w": (np.s_[:5], W.astype("f8"))}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(GROWN))
def test_elements_that_were_only_loaded_keep_their_bits(
    name: str, tmp_path: pathlib.Path
) -> None:
    key, shape, dtype, option, wanted = GROWN[name]
    # Every other one in the other order of bytes.
    prefix = write(tmp_path, big_endian=list(GROWN).index(name) % 2 == 0)
    own = np.full(shape, 2, dtype)
    saved, _ = save(prefix, key, {"x": own}, option)
    for tensor, (index, elements) in wanted.items():
        written = saved[tensor].read()
        assert written[index].tobytes() == elements.tobytes(), tensor
        assert written.dtype == elements.dtype
        is_own = np.ones(written.shape, bool)
        is_own[index] = False
        # Or filled, where a vocabulary lacks a word.
        assert np.isin(written[is_own], (0, 2)).all()
    assert "w/Adam" not in saved or "w" not in wanted
    # Changed elements are written as the leaf has them, all others as before.
    first, (index, elements) = next(iter(wanted.items()))
    if not elements.size or not elements.ndim or name == "not a number":
        return

    def change(tree: dict[str, np.ndarray]) -> None:
        tree["x"][...] = np.where(np.isin(tree["x"], 2), tree["x"], tree["x"] + 1)
        tree["x"][tuple(slice(0, 1) for _ in shape)] = own.dtype.type(3)

    saved, _ = save(prefix, key, {"x": own}, option, change)
    assert not np.array_equal(saved[first].read()[index], elements)
    assert (saved[first].read() == 3).any()


def test_parts_keep_their_bits_as_well(prefix: pathlib.Path) -> None:
    """In the stored dtype, each part as a slice."""
    for key, index, elements in (
        (src("w").pad(((0, 2), (0, 0)), fill="keep"), np.s_[:5], W),
        (src("sliced").take([4, -1, 0, 3, -1, 1, 2], fill="keep"),
         [0, 2, 3, 5, 6], W[[4, 0, 3, 1, 2]]),
    ):  # fmt: skip
        target = {
            f"x/part_{i}": np.full((rows, 3), 2, "bfloat16")
            for i, rows in enumerate((3, 4))
        }

        def change(tree: dict[str, np.ndarray]) -> None:
            tree["x/part_1"][-1, 0] = 7

        saved, _ = save(prefix, key, target)
        name = "w" if elements is W else "sliced"
        written = saved[name].read()
        assert written.dtype == np.float32
        assert written[index].tobytes() == elements.tobytes()
        assert [s[0] for s in saved[name].slices] == [slice(0, 3), slice(3, 7)]
        saved, _ = save(prefix, key, target, change=change)
        changed = saved[name].read()
        written[-1, 0] = 7
        assert np.array_equal(changed, written)


def test_a_leaf_that_was_cast_or_grew_once_more(prefix: pathlib.Path) -> None:
    key = src("w").pad(((0, 1), (0, 0)), fill="keep")
    target = {"x": np.full((6, 3), 2, "f4")}

    def narrow(tree: dict[str, np.ndarray]) -> None:
        tree["x"] = tree["x"].astype("bfloat16")

    def widen(tree: dict[str, np.ndarray]) -> None:
        tree["x"] = tree["x"].astype("f4")

    def grow(tree: dict[str, np.ndarray]) -> None:
        tree["x"] = np.concatenate([tree["x"], tree["x"]])

    # Rounded by the user since: these values are meant.
    saved, _ = save(prefix, key, target, change=narrow)
    assert np.array_equal(saved["w"].read()[:5], W.astype("bfloat16").astype("f4"))
    saved, _ = save(prefix, key, target, "bfloat16", change=widen)
    assert saved["w"].read()[:5].tobytes() == W.tobytes()
    saved, tree = save(prefix, key, target, "bfloat16", change=grow)
    assert np.array_equal(saved["w"].read(), tree["x"].astype("f4"))


def test_over_the_checkpoint_it_was_loaded_from(prefix: pathlib.Path) -> None:
    key = src("w").pad(((0, 1), (0, 0)), fill="keep")
    plan = tf2flax.plan(prefix, {key: "x"}, {"x": np.full((6, 3), 2, "bfloat16")})
    with pytest.warns(UserWarning, match="left out"):
        tf2flax.save_checkpoint(prefix, plan.restore(), plan=plan, overwrite=True)
    assert tf2flax.load_variable(prefix, "w")[:5].tobytes() == W.tobytes()


SAME = vocabulary(OLD, OLD)
UNCHANGED: list[Expression] = [
    src("w").take(range(5), fill="keep"),
    src("w").pad(((0, 0), (0, 0)), fill="keep"),
    (src("w") + 2.0).take(SAME, fill=0.0).T,
    src("w").T.take(vocabulary(OLD, OLD, axis=1)).cast("bfloat16"),
]


@pytest.mark.parametrize("key", UNCHANGED, ids=["take", "pad", "sum", "columns"])
def test_growth_by_nothing_drops_nothing(key: Expression, prefix: pathlib.Path) -> None:
    """The leaf is written as any other: a slot still fits, and is stale at most."""
    shape = (3, 5) if ".transpose()" in repr(key) else (5, 3)
    target = {"x": np.zeros(shape, "f4")}
    plan = tf2flax.plan(prefix, {key: "x"}, target)
    tree = {"x": np.array(plan.restore()["x"])}
    to = prefix.parent / "to"
    saved = tf2flax.open_checkpoint(tf2flax.save_checkpoint(to, tree, plan=plan))
    before = tf2flax.open_checkpoint(prefix).read()
    assert {n: a.tobytes() for n, a in saved.read().items()} == {
        n: a.tobytes() for n, a in before.items()
    }
    tree["x"] *= 2
    with pytest.warns(UserWarning, match="as it was, although .*: `w/Adam`"):
        tf2flax.save_checkpoint(to, tree, plan=plan, overwrite=True)
    assert tf2flax.load_variable(to, "w/Adam").tobytes() == W.tobytes()


def test_another_order_drops_slots(prefix: pathlib.Path) -> None:
    key = src("w").take([1, 0, 2, 3, 4], fill="keep")
    plan = tf2flax.plan(prefix, {key: "x"}, {"x": np.zeros((5, 3), "f4")})
    with pytest.warns(UserWarning, match=r"shape, order or dtype .*\(1\): `w/Adam`"):
        tf2flax.save_checkpoint(prefix.parent / "to", plan.restore(), plan=plan)


def test_an_average_or_a_slot_grows_with_its_variable(tmp_path: pathlib.Path) -> None:
    average = "w/ExponentialMovingAverage"
    names = ("w", average, "w/Adam")
    tf2flax.save_checkpoint(tmp_path / "m", dict.fromkeys(names, W))
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    key = src("w").pad(((0, 1), (0, 0)), fill="keep")
    target = {"x": np.zeros((6, 3), "f4")}
    plan = tf2flax.plan(checkpoint.by_moving_average(), {key: "x"}, target)
    tree = plan.restore()
    message = f'`x` would give `{average}` another .* variable `w` .*averages="both"'
    with pytest.raises(tf2flax.AssignmentError, match=message):
        tf2flax.save_checkpoint(tmp_path / "to", tree, plan=plan)
    with pytest.warns(UserWarning, match=r"\(1\): `w/Adam`"):
        saved = tf2flax.save_checkpoint(
            tmp_path / "both", tree, plan=plan, averages="both"
        )
    assert tf2flax.list_variables(saved) == [("w", [6, 3]), (average, [6, 3])]
    saved = tf2flax.save_checkpoint(tmp_path / "drop", tree, plan=plan, unused="drop")
    assert tf2flax.list_variables(saved) == [(average, [6, 3])]
    plan = tf2flax.plan(checkpoint.by_slot("Adam"), {key: "x"}, target)
    with pytest.raises(tf2flax.AssignmentError, match="Write `w` from a leaf as well"):
        tf2flax.save_checkpoint(tmp_path / "to", plan.restore(), plan=plan)


REAL: list[tuple[Any, Any]] = [
    (src("c").pad(((0, 1), (0, 0)), fill="keep"), [("x", "float32")]),
    (src("c").cast("float32").pad(((0, 1), (0, 0)), fill="keep"), None),
    # Not every double is a single one: still as the tensor is stored.
    (src("c").pad(((0, 1), (0, 0)), fill="keep"), [("x", "float64")]),
    ((-src("c")).cast("float32").pad(((0, 1), (0, 0)), fill="keep"), None),
]


@pytest.mark.parametrize(("key", "option"), REAL)
def test_imaginary_parts_that_were_not_loaded_stay(
    key: Expression, option: Any, prefix: pathlib.Path
) -> None:
    sign = -1 if "-" in repr(key) else 1

    def change(tree: dict[str, np.ndarray]) -> None:
        tree["x"][1, 1] = 7

    target = {"x": np.full((6, 3), 2, "f4")}
    for dtype in option or ():
        target = {"x": target["x"].astype(dtype[1])}
    saved, tree = save(prefix, key, target, option, change)
    wanted = np.concatenate([COMPLEX, np.full((1, 3), sign * 2, "c8")])
    wanted[1, 1] = complex(sign * 7, COMPLEX[1, 1].imag)
    assert np.array_equal(saved["c"].read(), wanted)
    assert saved["c"].dtype == np.complex64
    assert tree["x"].dtype.kind == "f"


def test_imaginary_parts_that_nobody_knows_are_refused(prefix: pathlib.Path) -> None:
    key = src("c").pad(((0, 1), (0, 0)), fill="keep")

    def grow(tree: dict[str, np.ndarray]) -> None:
        tree["x"] = np.concatenate([tree["x"], tree["x"]])

    def drop(tree: dict[str, np.ndarray]) -> None:
        tree["x"] = tree["x"].real.copy()

    for dtype, option, change, message in (
        (
            "float32",
            [("x", "float32")],
            grow,
            "`x` cannot .* `c`: it has the real part",
        ),
        (
            "complex64",
            None,
            drop,
            "expected dtype complex64, as in the plan, got float",
        ),
    ):
        with pytest.raises(tf2flax.AssignmentError, match=message):
            save(prefix, key, {"x": np.zeros((6, 3), dtype)}, option, change)


# Key, the leaf's own elements, what they are written as.
COMPUTED: dict[str, tuple[Any, Any, str, Any, Any]] = {
    "a product": ((src("w") * 2).pad(((0, 1), (0, 0)), fill="keep"), "w", "float32",
                  7.0, 3.5),
    "a sum": ((1.5 - src("w")).pad(((0, 1), (0, 0)), fill="keep"), "w", "float32",
              7.0, -5.5),
    "a narrower leaf": ((src("w") * 0.5).pad(((0, 1), (0, 0)), fill="keep"), "w",
                        "bfloat16", 7.0, 14.0),
    "integers": ((-src("i") * 3).pad(((0, 1), (0, 0)), fill="keep"), "i", "int64",
                 6, -2),
}  # fmt: skip


@pytest.mark.parametrize("name", list(COMPUTED))
def test_arithmetic_is_taken_back(name: str, prefix: pathlib.Path) -> None:
    key, tensor, dtype, own, wanted = COMPUTED[name]
    elements = {"w": W, "i": WIDE}[tensor]

    def change(tree: dict[str, np.ndarray]) -> None:
        tree["x"][1, 1] = own

    for target in (
        {"x": np.full((6, 3), own, dtype)},
        {f"x/part_{i}": np.full((3, 3), own, dtype) for i in range(2)},
    ):
        change_whole = change if "x" in target else None
        saved, _ = save(prefix, key, target, change=change_whole)
        written = saved[tensor].read()
        assert written.dtype == elements.dtype
        result = np.concatenate([elements, np.full((1, 3), wanted, elements.dtype)])
        if change_whole:
            result[1, 1] = wanted
        assert written.tobytes() == result.tobytes()
        assert "w/Adam" not in saved or tensor != "w"


def test_elements_that_no_value_loads_as_are_refused(prefix: pathlib.Path) -> None:
    key = (src("i") * 3).pad(((0, 1), (0, 0)), fill="keep")
    message = r"`x` cannot be written as `i`: .* 3 of 18, the first is 7 at \[5, 0\]"
    with pytest.raises(tf2flax.AssignmentError, match=message):
        save(prefix, key, {"x": np.full((6, 3), 7)})
