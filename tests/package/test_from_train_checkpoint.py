"""Each row of docs/from-train-checkpoint.md is so; tests/oracle compares TensorFlow."""

from __future__ import annotations

import doctest
import pathlib
import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from repository import DATA, ROOT

import tf2flax

PAGE = (ROOT / "docs" / "from-train-checkpoint.md").read_text()
CHECKPOINT = DATA / "tf2_object" / "object.ckpt"
KERNEL = "model/heads/a/kernel"


def view() -> tf2flax.Checkpoint:
    return tf2flax.open_checkpoint(CHECKPOINT).by_object_path()


def heads(*names: str) -> tuple[tf2flax.Checkpoint, dict[str, np.ndarray]]:
    """A checkpoint of head a alone, and a target with the leaves of some names."""
    mapping = {n: t for n, t in view().items() if n.startswith("model/heads/a/")}
    shapes = {"kernel": (8, 3), "bias": (3,)}
    target = {name: np.zeros(shapes.get(name, (2,)), "f4") for name in names}
    return tf2flax.open_checkpoint(mapping), target


ALL = {"model/heads/a/": "/"}


def left_over_values_are_warned_of(_: pathlib.Path) -> None:
    checkpoint, target = heads("kernel")
    with pytest.warns(UserWarning, match="1 tensor of the checkpoint fills no leaf"):
        tf2flax.init_from_checkpoint(checkpoint, ALL, target, on_unused="warn")


def assert_consumed(_: pathlib.Path) -> None:
    checkpoint, target = heads("kernel", "bias")
    plan = tf2flax.plan(checkpoint, ALL, target, on_unused="error")
    assert not plan.kept
    checkpoint, target = heads("kernel")
    with pytest.raises(tf2flax.AssignmentError, match="1 tensor of the checkpoint"):
        tf2flax.plan(checkpoint, ALL, target, on_unused="error")
    checkpoint, target = heads("kernel", "bias", "new")
    with pytest.raises(tf2flax.AssignmentError, match="model/heads/a/new"):
        tf2flax.plan(checkpoint, ALL, target, on_unused="error")
    entries = {f"model/heads/a/{name}": name for name in ("kernel", "bias")}
    plan = tf2flax.plan(checkpoint, entries, target, on_unused="error")
    assert plan.kept == ("new",)


def assert_existing_objects_matched(_: pathlib.Path) -> None:
    checkpoint, target = heads("kernel")
    assert not tf2flax.plan(checkpoint, ALL, target).kept  # the bias is left over
    checkpoint, target = heads("kernel", "new")
    with pytest.raises(tf2flax.AssignmentError, match="model/heads/a/new"):
        tf2flax.plan(checkpoint, ALL, target)
    entries = {"model/heads/a/kernel": "kernel"}
    assert tf2flax.plan(checkpoint, entries, target).kept == ("new",)


def assert_nontrivial_match(_: pathlib.Path) -> None:
    checkpoint, target = heads("new")
    for keep in ("error", "keep"):
        with pytest.raises(tf2flax.AssignmentError):
            tf2flax.plan(checkpoint, ALL, target, on_missing=keep)  # pyright: ignore


def expect_partial(_: pathlib.Path) -> None:
    checkpoint, target = heads("kernel")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = tf2flax.init_from_checkpoint(checkpoint, ALL, target)
    assert np.array_equal(tree["kernel"], checkpoint[KERNEL].read())


def objects_without_a_value_keep_their_own(_: pathlib.Path) -> None:
    checkpoint, target = heads("kernel", "new")
    target["new"] += 7
    for entries, options in ((ALL, {"on_missing": "keep"}), ({KERNEL: "kernel"}, {})):
        tree = tf2flax.init_from_checkpoint(checkpoint, entries, target, **options)  # pyright: ignore
        assert tree["new"].tolist() == [7, 7]
        assert tree["kernel"].any()


def values_of_another_shape(_: pathlib.Path) -> None:
    checkpoint, target = heads("kernel", "bias")
    target["bias"] = np.zeros(5, "f4")
    with pytest.raises(ValueError, match=r"expected shape \[5\]"):
        tf2flax.plan(checkpoint, ALL, target)
    plan = tf2flax.plan(checkpoint, ALL, target, on_mismatch="keep")
    assert [gap.leaf for gap in plan.mismatched] == ["bias"]


def before_variables_are_made(_: pathlib.Path) -> None:
    entries = {"model/heads/a/": "params/"}
    init = tf2flax.warm_start(nn.Dense(3).init, view(), entries)
    params = init(jax.random.key(0), np.ones((1, 8), "f4"))["params"]
    assert np.array_equal(params["kernel"], view()[KERNEL].read())


def paths(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(
        tmp_path / "m", tf2flax.open_checkpoint(CHECKPOINT)
    )
    for path in (prefix, tmp_path, tf2flax.latest_checkpoint(tmp_path)):
        assert path is not None
        assert KERNEL in tf2flax.open_checkpoint(path).by_object_path()
    saved_model = tf2flax.open_checkpoint(DATA / "saved_model" / "model")
    assert "fc1/0" in saved_model.by_object_path()


def slots(_: pathlib.Path) -> None:
    opened = tf2flax.open_checkpoint(DATA / "tf2_object" / "slots.ckpt")
    slots = opened.by_object_path().slots
    assert KERNEL in slots["m"]
    assert opened.by_object_path().by_slot("m")[KERNEL].shape == (8, 3)


def back(tmp_path: pathlib.Path) -> None:
    plan = tf2flax.plan(view(), {KERNEL: "kernel"}, {"kernel": np.zeros((8, 3), "f4")})
    tree = {"kernel": np.full((8, 3), 7, "f4")}
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    )
    before = tf2flax.open_checkpoint(CHECKPOINT)
    assert list(saved) == list(before)
    graph = "_CHECKPOINTABLE_OBJECT_GRAPH"
    assert saved[graph].read() == before[graph].read()
    assert (saved.by_object_path()[KERNEL].read() == 7).all()


# First cells of the rows, up to the text that is looked for.
ROWS: dict[str, Callable[[pathlib.Path], None]] = {
    "`restore(path)` alone": left_over_values_are_warned_of,
    "`.assert_consumed()`": assert_consumed,
    "`.assert_existing_objects_matched()`": assert_existing_objects_matched,
    "`.assert_nontrivial_match()`": assert_nontrivial_match,
    "`.expect_partial()`": expect_partial,
    "an object without a value": objects_without_a_value_keep_their_own,
    "a value of another shape": values_of_another_shape,
    "`restore` before": before_variables_are_made,
    "`read(path)`": paths,
    "slots of": slots,
    "`save(path)`": back,
}


def test_every_row_has_a_test() -> None:
    rows = re.findall(r"^\| (?!in TensorFlow|---)(.*?) \|", PAGE, re.MULTILINE)
    assert len(rows) == len(ROWS)
    for row, start in zip(rows, ROWS, strict=True):
        assert row.startswith(start)


@pytest.mark.parametrize("row", list(ROWS))
def test_the_row_is_so(row: str, tmp_path: pathlib.Path) -> None:
    ROWS[row](tmp_path)


def test_what_differs(tmp_path: pathlib.Path) -> None:
    """Slots, counters and strings are not asked for, and the graph gets no objects."""
    opened = tf2flax.open_checkpoint(DATA / "tf2_object" / "slots.ckpt")
    seen = opened.by_object_path()
    floats = [n for n, t in seen.items() if n.startswith("model/") and t.dtype == "f4"]
    target: Any = {str(i): np.zeros(seen[n].shape, "f4") for i, n in enumerate(floats)}
    entries: Any = {name: str(i) for i, name in enumerate(floats)}
    others = [
        (re.escape(n), "ignore") for n in ("model/half", "model/bf", "model/counter")
    ]
    options: Any = {"on_unused": [*others, ("", "error")]}
    plan = tf2flax.plan(seen, entries, target, **options)
    assert "model/text" in plan.unused
    assert plan.to_dict()["unused"]["optimizer_slots"]
    tree = {**plan.restore(), "new": np.ones(2, "f4")}
    saved = tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan, new={"new": "new"})
    assert tf2flax.load_variable(saved, "new").tolist() == [1, 1]
    assert "new" not in tf2flax.open_checkpoint(saved).by_object_path()


def test_examples_run_as_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    test = doctest.DocTestParser().get_doctest(PAGE, {}, "page", None, 0)
    assert len(test.examples) >= 8
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    )
    runner.run(test)
    assert runner.failures == 0
