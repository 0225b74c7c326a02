"""What type checkers see of the public names; read by `make types`, never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
# What is ignored below must really be an error.

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, assert_type

import jax
import numpy as np
import tensorstore as ts

import tf2flax


def report_bytes(done: int, total: int) -> None: ...


def compare(model: Any, recorded: dict[str, np.ndarray], plan: tf2flax.Plan) -> None:
    comparison = tf2flax.compare_outputs(
        model.apply, {}, (), recorded, plan=plan, intermediates={"a": "0"}, atol=1e-4
    )
    assert_type(comparison, tf2flax.Comparison)
    assert_type(comparison.ok, bool)
    assert_type([row.max_abs for row in comparison.rows], list[float | None])
    if comparison.first is not None:
        assert_type(comparison.first.entries, tuple[str, ...])
    for change in comparison.candidates:
        assert_type(change.lines, tuple[str, ...])
    assert_type(str(comparison), str)
    tf2flax.compare_outputs(model.apply, {}, (), "oracle.npz", 1e-5)  # pyright: ignore[reportCallIssue]


def read(path: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(path)
    assert_type(checkpoint, tf2flax.Checkpoint)
    assert_type(tf2flax.open_checkpoint("m.ckpt"), tf2flax.Checkpoint)
    assert_type(tf2flax.open_checkpoint(b"m.ckpt"), tf2flax.Checkpoint)
    assert_type(iter(checkpoint), Iterator[str])
    assert_type(checkpoint.get("a"), tf2flax.StoredTensor | None)
    assert_type(checkpoint.read(["a"], verify=False), dict[str, np.ndarray])
    tensor = checkpoint["a"]
    assert_type(tensor, tf2flax.StoredTensor)
    assert_type(tensor.shape, tuple[int, ...])
    assert_type(tensor.dtype, np.dtype[Any])
    assert_type(tensor.slices, tuple[tuple[slice, ...], ...])
    assert_type(tensor.read(), np.ndarray)
    assert_type(tensor.open(), ts.TensorStore)
    np.asarray(tensor)
    assert_type(tf2flax.list_variables(path), list[tuple[str, list[int]]])
    assert_type(tf2flax.latest_checkpoint(path), str | None)
    assert_type(tf2flax.checkpoint_exists(path), bool)
    assert_type(checkpoint.by_variable_name(), tf2flax.Checkpoint)
    assert_type(checkpoint.by_moving_average(), tf2flax.Checkpoint)
    assert_type(checkpoint.by_slot("Adam"), tf2flax.Checkpoint)
    assert_type(checkpoint.averaged, tuple[str, ...])
    assert_type(checkpoint.slots, Mapping[str, tuple[str, ...]])
    assert_type(checkpoint.by_object_path(), tf2flax.Checkpoint)
    report = checkpoint.verify(progress=lambda progress: print(progress.eta))
    checkpoint.verify(progress=report_bytes)  # pyright: ignore[reportArgumentType]
    assert_type(report, tf2flax.VerificationReport)
    assert_type(report.damaged, tuple[tf2flax.Damage, ...])
    store = ts.KvStore.open("memory://").result()
    tf2flax.open_checkpoint(store, context=ts.Context())
    assert_type(tf2flax.checkpoints_iterator(path, timeout=0), Iterator[str])
    assert_type(tf2flax.merge_checkpoints({"": checkpoint}), tf2flax.Checkpoint)
    paths: dict[str, str] = {"a/": "one", "b/": "two"}
    tf2flax.merge_checkpoints(paths)
    tf2flax.merge_checkpoints([checkpoint, path, store])
    tf2flax.merge_checkpoints([("a/", checkpoint), ("", path), ("", store)])
    tf2flax.merge_checkpoints([checkpoint, ("a/", "path")])
    tf2flax.merge_checkpoints(name for name in ("a", "b"))
    tf2flax.merge_checkpoints(paths.items())
    arrays: dict[str, np.ndarray] = {}
    assert_type(tf2flax.save_checkpoint(path, arrays, overwrite=True), str)
    names: dict[str, str] = {"output_bias": "params/head/bias"}
    expressions = {"output_weights": tf2flax.src("params/head/kernel").transpose()}
    tf2flax.save_checkpoint(path, arrays, new=names)
    tf2flax.save_checkpoint(path, arrays, new=expressions)
    tf2flax.save_checkpoint(path, arrays, new={**names, **expressions})


def init(key: jax.Array, *, width: int) -> dict[str, jax.Array]:
    return {"a": jax.random.normal(key, (width,))}


def assign(path: pathlib.Path, leaf: jax.Array) -> None:
    names: dict[str, str] = {"scope/": "params/"}
    leaves: dict[str, jax.Array] = {"a": leaf}
    parts: list[tuple[str, list[jax.Array]]] = [("a", [leaf, leaf])]
    for assignment_map in (names, leaves, parts):
        plan = tf2flax.plan(path, assignment_map, {"a": leaf}, aliases=None)
        assert_type(plan, tf2flax.Plan)
        assert_type(plan.kept, tuple[str, ...])
        assert_type(plan.nbytes, int)
        assert_type(plan.to_dict(), dict[str, Any])
        assert_type(plan.assignments, tuple[tf2flax.Assignment, ...])
        assert_type(plan.missing, tuple[tf2flax.Gap, ...])
        assert_type(plan.placement, tf2flax.PlacementReport)
        assert_type(plan.placement.replicated, tuple[tf2flax.Replicated, ...])
        assert_type(plan.cost().processes, tuple[tf2flax.ProcessCost, ...])
        assert_type(plan.inverse(), tf2flax.InversePlan)
        inverses = plan.inverse().assignments
        assert_type(inverses, tuple[tf2flax.InverseAssignment, ...])
    checkpoint = tf2flax.open_checkpoint(path)
    tf2flax.init_from_checkpoint(checkpoint, {"a": "a"}, {"a": leaf}, dtype="exact")
    regex = re.compile("kernel$")
    pairs: list[tuple[str | re.Pattern[str], Any]] = [(regex, jax.numpy.bfloat16)]
    for dtype in ("bfloat16", np.float32, jax.numpy.float16, pairs, [("a", "exact")]):
        tf2flax.init_from_checkpoint(checkpoint, {"a": "a"}, {"a": leaf}, dtype=dtype)
        tf2flax.plan(checkpoint, {"a": "a"}, {"a": leaf}, dtype=dtype)
        tf2flax.warm_start(init, checkpoint, {"a": "a"}, dtype=dtype)
    tf2flax.plan(checkpoint, {"a": "a"}, {"a": leaf}, on_missing=[(regex, "keep")])
    tf2flax.plan(checkpoint, {"a": "a"}, {}, on_missing=[(regex, "drop")])  # pyright: ignore[reportArgumentType]
    tf2flax.plan(checkpoint, {"a": "a"}, {}, strategy="once")  # pyright: ignore[reportArgumentType]
    rules = tf2flax.partition_rules([("kernel$", jax.sharding.PartitionSpec("m"))])
    assert_type(
        tf2flax.plan(checkpoint, {}, {}, sharding=rules).cost(), tf2flax.PlanCost
    )
    tf2flax.init_from_checkpoint(checkpoint, {}, {}, on_uneven="keep")  # pyright: ignore[reportArgumentType]
    tf2flax.init_from_checkpoint(checkpoint, {}, {}, on_odd="keep")  # pyright: ignore[reportCallIssue]
    tf2flax.warm_start(init, checkpoint, {}, verify="no")  # pyright: ignore[reportArgumentType]
    warm = tf2flax.warm_start(init, checkpoint, {"a": "a"})
    assert_type(warm(leaf, width=3), dict[str, jax.Array])
    warm(leaf, wide=3)  # pyright: ignore[reportCallIssue]
    loose: Callable[[], Any] = tf2flax.warm_start(dict, checkpoint, {"a": "a"})
    assert_type(loose(), Any)


def train_on(path: pathlib.Path, params: dict[str, jax.Array]) -> None:
    plan = tf2flax.plan(path, {"a": "a"}, params)
    tx = tf2flax.optax.adam(1e-3)
    opt_plan = tf2flax.optimizer_plan(plan, tx.init(params), slots={"mu": "Adam"})
    assert_type(opt_plan, tf2flax.Plan)
    assert_type(tf2flax.optimizer_state(plan, tx.init(params), count="step"), Any)
    state = (opt_plan, opt_plan.restore())
    tf2flax.save_checkpoint(path, params, plan=plan, opt_state=state)
    tf2flax.optimizer_plan(plan, None, negate="no")  # pyright: ignore[reportArgumentType]


def tell(error: tf2flax.TensorNotFoundError) -> None:
    assert_type(error.name, str)
    as_key: KeyError = error
    as_value: ValueError = error
    _ = as_key, as_value, tf2flax.AssignmentError("said")


def port(path: pathlib.Path) -> None:
    result = tf2flax.suggest(path, {})
    assert_type(result, tf2flax.Suggestion)
    assert_type(result.unmatched, tuple[str, ...])
    for _leaf, candidates in result.ambiguous:
        assert_type(candidates, tuple[tuple[str | tf2flax.Expression, str], ...])
    tf2flax.plan(path, result.assignment_map, {})


def grow(path: pathlib.Path) -> None:
    rows = tf2flax.vocabulary(path, "new.txt", num_oov_buckets=2)
    assert_type(rows, tf2flax.Rows)
    assert_type(rows.numbers, tuple[int, ...])
    table = tf2flax.src("table")
    assert_type(table.take(rows, fill="keep"), tf2flax.Expression)
    assert_type(table.take([1, -1], axis=1, fill=0.5), tf2flax.Expression)
    assert_type(table.pad(((0, 9), (0, 0)), fill=0.0), tf2flax.Expression)
    assert_type(2.0 * table + table - 1, tf2flax.Expression)
    assert_type(-table * np.float32(2), tf2flax.Expression)
    assert_type(tf2flax.first_of("a", table), tf2flax.Expression)
