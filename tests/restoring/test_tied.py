"""Tied Variables: one leaf of several tensors, which all of them are written to."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from flax import nnx

import tf2flax
from tf2flax import src


class Layer(nnx.Module):
    def __init__(self, kernel: nnx.Param[Any], bias: float) -> None:
        self.kernel = kernel
        self.bias = nnx.Param(jnp.full(2, float(bias)))


class Model(nnx.Module):
    def __init__(self, shape: tuple[int, ...] = (2, 3), dtype: Any = "f4") -> None:
        kernel = nnx.Param(jnp.zeros(shape, dtype))
        self.a = Layer(kernel, 1)
        self.b = Layer(kernel, 2)


ONES = np.arange(6, dtype="f4").reshape(2, 3) + 1 / 3


def make(tmp_path: pathlib.Path, **kernels: np.ndarray) -> str:
    arrays: dict[str, np.ndarray] = {}
    for name, kernel in kernels.items():
        arrays[f"{name}/kernel"] = kernel
        arrays[f"{name}/bias"] = np.zeros(2, "f4")
    return tf2flax.save_checkpoint(tmp_path / "from" / "m", arrays)


def read(prefix: Any) -> dict[str, np.ndarray]:
    return tf2flax.open_checkpoint(prefix).read()


def warned(call: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    assert all(one.filename == __file__ for one in caught)
    return result, [str(one.message) for one in caught]


# Maps of tensors a/… and b/… to a module whose kernel is tied.
MAPS: dict[str, Any] = {
    "root": {"/": "/"},
    "scopes": {"a/": "a/", "b/": "b/"},
    "captured": {"{x}/": "{x}/"},
    "names": {f"{x}/{y}": f"{x}/{y}" for x in "ab" for y in ("kernel", "bias")},
    "rules": [
        (src(f"{x}/{y}").reshape(-1).reshape(shape), f"{x}/{y}")
        for x in "ab"
        for y, shape in (("kernel", (2, 3)), ("bias", (2,)))
    ],
}


@pytest.mark.parametrize("name", ["root", "scopes", "captured", "names"])
def test_all_tensors_of_a_tied_variable_are_written(
    tmp_path: pathlib.Path, name: str
) -> None:
    prefix = make(tmp_path, a=ONES, b=ONES)
    model = Model()
    plan = tf2flax.plan(prefix, MAPS[name], model)
    _, said = warned(plan.restore)
    assert said == []
    inverse = plan.inverse()
    assert {one.name for one in inverse.assignments} == set(read(prefix))
    assert inverse.copied == inverse.left_out == ()
    untouched = tf2flax.save_checkpoint(tmp_path / "same", model, plan=plan)
    for tensor, array in read(prefix).items():
        assert read(untouched)[tensor].tobytes() == array.tobytes()
    model.a.kernel[...] = model.a.kernel[...] * 5
    changed = read(tf2flax.save_checkpoint(tmp_path / "new", model, plan=plan))
    assert np.array_equal(changed["a/kernel"], ONES * 5)
    assert np.array_equal(changed["b/kernel"], ONES * 5)


def test_rules_that_name_one_leaf_twice_are_refused_as_ever(
    tmp_path: pathlib.Path,
) -> None:
    prefix = make(tmp_path, a=ONES, b=ONES)
    with pytest.raises(tf2flax.AssignmentError):
        tf2flax.plan(prefix, MAPS["rules"], Model())


def test_loading_says_where_tensors_of_one_leaf_differ(tmp_path: pathlib.Path) -> None:
    prefix = make(tmp_path, a=ONES, b=ONES + 1)
    plan = tf2flax.plan(prefix, {"/": "/"}, Model())
    calls = {
        "plan": plan.restore,
        "init": lambda: tf2flax.init_from_checkpoint(prefix, {"/": "/"}, Model()),
        "warm": lambda: tf2flax.warm_start(Model, prefix, {"/": "/"})(),
    }
    for call in calls.values():
        model, said = warned(call)
        assert said == [
            "The target ties what the checkpoint stores as several tensors of "
            "different values: leaf `a/kernel` is filled from `a/kernel`, and not "
            "from `b/kernel`. Saving with the plan writes the leaf to every tensor "
            "that fits it."
        ]
        assert np.array_equal(model.b.kernel[...], ONES)
    # Nothing is said of what is not tied, or where the names are not mapped.
    _, said = warned(
        lambda: tf2flax.init_from_checkpoint(prefix, {"a/": "a/"}, Model())
    )
    assert said == []


@pytest.mark.parametrize("kind", ["sliced", "h5", "dtypes", "expressions"])
@pytest.mark.parametrize("is_equal", [True, False])
def test_values_are_compared_where_checksums_do_not_tell(
    tmp_path: pathlib.Path, kind: str, is_equal: bool
) -> None:
    first = np.arange(6, dtype="f4").reshape(2, 3)
    second = first if is_equal else first[::-1].copy()
    bias = np.zeros(2, "f4")
    entries: Any = {"/": "/"}
    path: Any = tmp_path / "m"
    if kind == "h5":
        h5py = pytest.importorskip("h5py")
        path = tmp_path / "m.h5"
        with h5py.File(path, "w") as file:
            for name, kernel in (("a", first), ("b", second)):
                file[f"{name}/kernel"], file[f"{name}/bias"] = kernel, bias
    else:
        tensors = {"a/kernel": Tensor(first), "b/kernel": Tensor(second)}
        tensors |= {"a/bias": Tensor(bias), "b/bias": Tensor(bias)}
        if kind == "sliced":
            tensors["b/kernel"] = Tensor(second, rows_in(second, 2))
        elif kind == "dtypes":
            tensors["b/kernel"] = Tensor(second.astype("f8"))
        else:
            tensors["b/kernel"] = Tensor(np.ascontiguousarray(second.T))
            entries = [("a/", "a/"), (src("b/").transpose(), "b/")]
        write_bundle(path, tensors)
    model, said = warned(lambda: tf2flax.init_from_checkpoint(path, entries, Model()))
    assert len(said) == (not is_equal)
    assert np.array_equal(model.a.kernel[...], first) or kind == "expressions"


def test_an_entry_that_names_the_leaf_leaves_the_others_alone(
    tmp_path: pathlib.Path,
) -> None:
    prefix = make(tmp_path, a=ONES, b=ONES + 1, c=ONES + 2)
    for entries in (
        [("/", "/"), ("c/kernel", "b/kernel")],
        [("{x}/kernel", "{x}/kernel"), ("c/kernel", "a/kernel")],
        [("a/", "a/"), ("c/kernel", "b/kernel"), ("b/", "b/")],
        # Components with captures count, as they do for who gets a leaf.
        [("c/kernel", "a/ker{k}{l}"), ("b/kernel", "{x}/k{y}")],
    ):
        model = Model()
        plan = tf2flax.plan(prefix, entries, model)
        _, said = warned(plan.restore)
        assert said == []
        assert np.array_equal(model.a.kernel[...], ONES + 2)
        leaves = {one.name: one.leaves for one in plan.inverse().assignments}
        assert leaves["c/kernel"] == ("a/kernel",)
        assert not {"a/kernel", "b/kernel"} & leaves.keys()


def test_what_does_not_fit_the_leaf_is_named_and_stays(tmp_path: pathlib.Path) -> None:
    prefix = make(tmp_path, a=ONES, b=np.ones((3, 2), "f4"))
    model = Model()
    plan = tf2flax.plan(prefix, {"/": "/"}, model)
    _, said = warned(plan.restore)
    assert "and not from `b/kernel`" in said[0]
    path = tf2flax.save_checkpoint(tmp_path / "to", model, plan=plan)
    assert read(path)["b/kernel"].shape == (3, 2)


def test_a_tied_leaf_of_a_new_shape(tmp_path: pathlib.Path) -> None:
    prefix = make(tmp_path, a=ONES, b=ONES)
    model = Model((4, 5))
    plan = tf2flax.plan(prefix, {"/": "/"}, model, on_mismatch="keep")
    path = tf2flax.save_checkpoint(tmp_path / "to", plan.restore(), plan=plan)
    assert read(path)["a/kernel"].shape == read(path)["b/kernel"].shape == (4, 5)


def test_digits_of_every_tensor_come_back(tmp_path: pathlib.Path) -> None:
    prefix = make(tmp_path, a=ONES, b=ONES.astype("f8"))
    model = Model(dtype="bfloat16")
    plan = tf2flax.plan(prefix, {"/": "/"}, model)
    path = tf2flax.save_checkpoint(tmp_path / "to", plan.restore(), plan=plan)
    for name, array in read(prefix).items():
        assert read(path)[name].tobytes() == array.tobytes()


def test_layers_that_share_their_weights(tmp_path: pathlib.Path) -> None:
    class Shared(nnx.Module):
        def __init__(self) -> None:
            kernel = nnx.Param(jnp.zeros(2))
            self.layers = nnx.List([Layer(kernel, i) for i in range(3)])

    arrays = {f"layer_{i}/kernel": np.full(2, 4, "f4") for i in range(3)}
    arrays |= {f"layer_{i}/bias": np.zeros(2, "f4") for i in range(3)}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", arrays)
    model = Shared()
    plan = tf2flax.plan(prefix, {"layer_{i}/": "layers/{i}/"}, model)
    plan.restore()
    model.layers[1].kernel[...] = jnp.ones(2)
    path = tf2flax.save_checkpoint(tmp_path / "to", model, plan=plan)
    for i in range(3):
        assert read(path)[f"layer_{i}/kernel"].tolist() == [1, 1]


def test_a_leaf_under_an_alias_and_a_state(tmp_path: pathlib.Path) -> None:
    arrays = {"a/weights": ONES, "b/weights": ONES}
    arrays |= {"a/biases": np.zeros(2, "f4"), "b/biases": np.zeros(2, "f4")}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", arrays)
    model = Model()
    plan = tf2flax.plan(prefix, {"a/": "a/", "b/": "b/"}, model)
    plan.restore()
    model.b.kernel[...] = jnp.zeros((2, 3))
    path = tf2flax.save_checkpoint(tmp_path / "to", model, plan=plan)
    assert not read(path)["a/weights"].any()
    assert not read(path)["b/weights"].any()
    # A State lists a tied Variable once: the other tensor is nobody's.
    state: Any = nnx.state(Model())  # pyright: ignore[reportUnknownVariableType]
    entries = {"a/": "a/", "b/biases": "b/bias"}
    plan = tf2flax.plan(prefix, entries, state)
    assert plan.inverse().copied == ("b/weights",)


def test_targets_without_ties_are_resolved_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tf2flax._assignment.resolution import ties

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ties, "resolve_map", never)
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"w": ONES})
    plan = tf2flax.plan(prefix, {"/": "/"}, {"w": jax.ShapeDtypeStruct((2, 3), "f4")})
    assert plan.restore()["w"].shape == (2, 3)
