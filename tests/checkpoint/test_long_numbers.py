"""Names with more digits than Python turns into a number are names like others."""

from __future__ import annotations

import pathlib
import sys

import jax
import numpy as np
import pytest

import tf2flax

LONG = "1" * 5000
ONES = np.ones(2, "<f4")


@pytest.fixture(autouse=True, params=[4300, 640])
def _limit(request: pytest.FixtureRequest) -> object:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(request.param)
    yield
    sys.set_int_max_str_digits(before)


def leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")


@pytest.mark.parametrize("digits", [601, 641, 5000])
def test_they_are_not_counted(tmp_path: pathlib.Path, digits: int) -> None:
    number = "1" * digits
    path = tf2flax.save_checkpoint(
        tmp_path / "m", {f"layer_{number}/w": ONES, "layer_0/w": ONES}
    )
    for way in (tf2flax.stack, tf2flax.concat):
        with pytest.raises(tf2flax.AssignmentError, match=f"a number of {digits} dig"):
            tf2flax.plan(path, {way("layer_{i}/w", over="i"): "w"}, {"w": leaf(1, 2)})


def test_numbers_that_python_converts_are_counted(tmp_path: pathlib.Path) -> None:
    path = tf2flax.save_checkpoint(tmp_path / "m", {f"layer_{'1' * 600}/w": ONES})
    with pytest.raises(tf2flax.AssignmentError, match="layer_"):
        tf2flax.plan(
            path,
            {tf2flax.stack("layer_{i}/w", over="i"): "w", "layer_0/w": "w"},
            {"w": leaf(1, 2)},
        )


def test_plans_and_reports(tmp_path: pathlib.Path) -> None:
    path = tf2flax.save_checkpoint(
        tmp_path / "m",
        {
            f"{scope}{number}{tail}": ONES
            for scope in ("", "layer_", "a/part_")
            for number in (LONG, f"{LONG}2", "0", "1")
            for tail in ("", "/w")
        },
    )
    plan = tf2flax.plan(path, {"layer_{i}/": "x_{i}/"}, {"x_0": {"w": leaf(2)}})
    assert LONG in str(plan)
    assert "layer_{0..1}/w" not in str(plan.to_dict())
    assert plan.restore()["x_0"]["w"].tolist() == [1, 1]
    assert LONG in plan._repr_html_()


def test_what_is_wrong_is_said(tmp_path: pathlib.Path) -> None:
    number = "".join(str(i) for i in range(240))[-649:]  # more than the least limit
    names = [f"layer_{number}/w", f"layer_{number[1:]}/w", "layer_0/w", "layer_1/w"]
    path = tf2flax.save_checkpoint(tmp_path / "m", dict.fromkeys(names, ONES))
    target = {f"x_{number}": {"w": leaf(2)}, "x_9": {"w": leaf(2)}, number: leaf(2)}
    for entries in (
        {"layer_{i}/": "x_{i}/"},
        {"layer_9/w": "x_9/w", f"layer_{number}3/w": f"x_{number}/w"},
        {f"layer_{number}/": f"y_{number}/"},
    ):
        with pytest.raises(tf2flax.AssignmentError):
            tf2flax.plan(path, entries, target)
    with pytest.raises(tf2flax.TensorNotFoundError):
        tf2flax.load_variable(path, f"layer_{number}4/w")


def test_parts(tmp_path: pathlib.Path) -> None:
    tree = {"t": {"part_0": ONES, "part_1": ONES, f"part_{LONG}": ONES}}
    path = tf2flax.save_checkpoint(tmp_path / "m", tree)
    assert list(tf2flax.open_checkpoint(path)) == ["t", f"t/part_{LONG}"]
    target = {"u": {"part_0": leaf(2), "part_1": leaf(2), f"part_{LONG}": leaf(2)}}
    got = tf2flax.init_from_checkpoint(
        path, {"t": "u", f"t/part_{LONG}": f"u/part_{LONG}"}, target
    )
    assert got["u"][f"part_{LONG}"].tolist() == [1, 1]


def test_steps(tmp_path: pathlib.Path) -> None:
    path = f"run-{'1' * 200}"  # as long as the name of a file may be
    prefix = tf2flax.save_checkpoint(tmp_path / path, {"a": ONES})
    assert tf2flax.latest_checkpoint(tmp_path) == prefix
    assert list(tf2flax.checkpoints_iterator(tmp_path, timeout=0)) == [prefix]
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "m-{LONG}"\n')
    assert tf2flax.latest_checkpoint(tmp_path) is None
    assert list(tf2flax.checkpoints_iterator(tmp_path, timeout=0)) == []
    with pytest.raises(tf2flax.CheckpointError):
        tf2flax.open_checkpoint(tmp_path / f"m-{LONG}")
    with pytest.raises(tf2flax.CheckpointError):
        tf2flax.save_checkpoint(tmp_path / f"m-{LONG}", {"a": ONES})


def test_map_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.toml").write_text(f'[assignment_map]\n"a_{LONG}" = "b_{LONG}"\n')
    (key,) = tf2flax.load_map(tmp_path / "a.toml")
    assert str(key).endswith(LONG)


def test_integers(tmp_path: pathlib.Path) -> None:
    huge, source = 10**5000, tf2flax.src("w")
    for give in (
        lambda: source[huge],
        lambda: source[-huge],
        lambda: source[1:huge],
        lambda: source.reshape(2, huge),
        lambda: source.transpose(huge, 0),
        lambda: source.take([1, huge]),
        lambda: tf2flax.concat(source, source, axis=huge),
    ):
        with pytest.raises(tf2flax.AssignmentError, match="got one of 16610 bits"):
            give()
    assert repr(source[: 10**30]) == f'src("w")[:{10**30}]'
    with pytest.raises(tf2flax.AssignmentError, match="99999 data files"):
        tf2flax.save_checkpoint(tmp_path / "m", {"a": ONES}, data_files=huge)
