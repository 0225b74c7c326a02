"""`save_checkpoint(..., opt_state=)`: slots, powers and counters under their names."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from repository import DATA

import tf2flax

PARAMS = {"d": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(4)}}
THE_MAP: list[tuple[Any, str]] = [
    (tf2flax.src("d/kernel").T, "d/kernel"),
    ("d/bias", "d/bias"),
]
SGD = optax.sgd(0.1, 0.9)


def power(beta: float, steps: int) -> np.float32:
    value = np.float32(1)
    for _ in range(steps + 1):
        value = np.float32(value * np.float32(beta))
    return value


def checkpoint(tmp_path: pathlib.Path, *slots: str, **scalars: Any) -> str:
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {"left": np.ones(2, "f4"), **scalars}
    for name, shape in (("d/kernel", (3, 4)), ("d/bias", (4,))):
        for suffix in ("", *(f"/{slot}" for slot in slots)):
            tensors[name + suffix] = rng.random(shape, "f4")
    return tf2flax.save_checkpoint(tmp_path / "old", tensors)


def loaded(prefix: str, tx: Any, **options: Any) -> tuple[Any, Any, Any, Any]:
    plan = tf2flax.plan(prefix, THE_MAP, PARAMS)
    opt_plan = tf2flax.optimizer_plan(plan, tx.init(PARAMS), **options)
    return plan, plan.restore(), opt_plan, opt_plan.restore()


def arrays_of(prefix: str) -> dict[str, np.ndarray]:
    return tf2flax.open_checkpoint(prefix).read()


def counting(state: Any, count: Any) -> Any:
    """A chain of Adam and a schedule that both say so many steps."""
    return (
        (state[0][0]._replace(count=count), *state[0][1:]),
        state[1]._replace(count=count),
    )


def test_what_was_only_loaded_comes_back_bit_for_bit(tmp_path: pathlib.Path) -> None:
    prefix = checkpoint(
        tmp_path,
        *("Adam", "Adam_1"),
        beta1_power=power(0.9, 5),
        beta2_power=power(0.999, 5),
        global_step=np.int64(77),
    )
    plan, params, opt_plan, state = loaded(prefix, optax.adam(1e-3))
    saved = tf2flax.save_checkpoint(
        tmp_path / "new", params, plan=plan, opt_state=(opt_plan, state)
    )
    old, new = arrays_of(prefix), arrays_of(saved)
    assert old.keys() == new.keys()
    for name, array in old.items():
        assert array.dtype == new[name].dtype, name
        np.testing.assert_array_equal(array, new[name], err_msg=name)


def test_slots_powers_and_counters_go_on(tmp_path: pathlib.Path) -> None:
    prefix = checkpoint(
        tmp_path,
        *("Adam", "Adam_1"),
        beta1_power=power(0.9, 5),
        beta2_power=power(0.999, 5),
        global_step=np.int64(77),
        save_counter=np.int64(3),
    )
    tx = tf2flax.optax.adam(1e-3)
    plan, params, opt_plan, state = loaded(prefix, tx)
    for _ in range(2):
        _, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    saved = tf2flax.save_checkpoint(
        tmp_path / "new", params, plan=plan, opt_state=(opt_plan, state)
    )
    new = arrays_of(saved)
    np.testing.assert_array_equal(new["d/kernel/Adam"], state[0].mu["d"]["kernel"].T)
    np.testing.assert_array_equal(new["d/bias/Adam_1"], state[0].nu["d"]["bias"])
    assert new["beta1_power"] == power(0.9, 7)
    assert new["beta2_power"] == power(0.999, 7)
    assert (new["global_step"], new["global_step"].dtype) == (79, np.int64)
    assert new["save_counter"] == 3
    # What was written says the same count again.
    (_, _, _, again) = loaded(saved, tx)
    assert int(again[0].count) == 7


def test_powers_that_have_run_out_stay_so(tmp_path: pathlib.Path) -> None:
    gone = np.float32(0)
    prefix = checkpoint(
        tmp_path,
        *("Adam", "Adam_1"),
        beta1_power=gone,
        beta2_power=gone,
        global_step=np.int64(500_000),
    )
    plan, params, opt_plan, state = loaded(prefix, optax.adam(1e-3))
    state = (state[0]._replace(count=state[0].count + 3), *state[1:])
    saved = tf2flax.save_checkpoint(
        tmp_path / "new", params, plan=plan, opt_state=(opt_plan, state)
    )
    new = arrays_of(saved)
    assert (new["beta1_power"], new["beta2_power"]) == (0, 0)
    assert new["global_step"] == 500_003


def test_a_negated_trace_is_written_with_its_sign(tmp_path: pathlib.Path) -> None:
    prefix = checkpoint(tmp_path, "RMSProp", "RMSProp_1")
    plan, params, opt_plan, state = loaded(prefix, optax.rmsprop(0.1, momentum=0.9))
    trace = jax.tree.map(lambda x: x - 1, state[2].trace)
    changed = (*state[:2], optax.TraceState(trace))
    saved = tf2flax.save_checkpoint(
        tmp_path / "new", params, plan=plan, opt_state=(opt_plan, changed)
    )
    new = arrays_of(saved)
    np.testing.assert_array_equal(new["d/bias/RMSProp_1"], -trace["d"]["bias"])


def test_views_are_written_under_stored_names(tmp_path: pathlib.Path) -> None:
    view = tf2flax.open_checkpoint(
        DATA / "tf2_object" / "slots.ckpt"
    ).by_variable_name()
    name = next(iter(view.slots["m"]))
    params = {"p": jnp.zeros(view[name].shape)}
    plan = tf2flax.plan(view, {name: "p"}, params)
    tx = tf2flax.optax.adam(1e-3)
    opt_plan = tf2flax.optimizer_plan(plan, tx.init(params))
    state = opt_plan.restore()
    _, state = tx.update(params, state, params)
    saved = tf2flax.save_checkpoint(
        tmp_path / "new",
        {"p": plan.restore()["p"] + 1},
        plan=plan,
        opt_state=(opt_plan, state),
    )
    new = tf2flax.open_checkpoint(saved).by_variable_name()
    np.testing.assert_array_equal(new.by_slot("m")[name].read(), state[0].mu["p"])
    assert "beta2_power" in str(opt_plan.inverse())
    assert list(new) == list(view)


def test_partitioned_slots_are_written_as_slices(tmp_path: pathlib.Path) -> None:
    ckpt = tf2flax.open_checkpoint(DATA / "wide_deep_partitioned")
    scope = "dnn/input_from_feature_columns/input_layer/query_embedding"
    name = f"{scope}/embedding_weights"
    halves = {"q": {f"part_{i}": jnp.zeros((150, 8)) for i in range(2)}}
    plan = tf2flax.plan(ckpt, {name: "q"}, halves)
    opt_plan = tf2flax.optimizer_plan(plan, optax.scale_by_rss().init(halves))
    state = jax.tree.map(lambda x: x + 1, opt_plan.restore())
    saved = tf2flax.save_checkpoint(
        tmp_path / "new", plan.restore(), plan=plan, opt_state=(opt_plan, state)
    )
    slot = tf2flax.open_checkpoint(saved)[f"{name}/Adagrad"]
    assert slot.slices == ckpt[f"{name}/Adagrad"].slices != ()
    np.testing.assert_array_equal(slot.read(), ckpt[f"{name}/Adagrad"].read() + 1)


def test_drop_leaves_out_other_slots_and_writes_these(tmp_path: pathlib.Path) -> None:
    prefix = checkpoint(tmp_path, "Momentum", "Other_optimizer")
    plan, params, opt_plan, state = loaded(prefix, SGD)
    saved = tf2flax.save_checkpoint(
        tmp_path / "new",
        params,
        plan=plan,
        opt_state=(opt_plan, state),
        unused="drop",
    )
    names = {"d/kernel", "d/bias", "d/kernel/Momentum", "d/bias/Momentum"}
    assert set(tf2flax.open_checkpoint(saved)) == names


def test_leaves_of_the_state_that_nothing_writes_are_named(
    tmp_path: pathlib.Path,
) -> None:
    prefix = checkpoint(tmp_path, "Momentum")
    params = {**PARAMS, "head": jnp.zeros(3)}
    plan = tf2flax.plan(prefix, THE_MAP, params)
    opt_plan = tf2flax.optimizer_plan(plan, SGD.init(params))
    with pytest.warns(UserWarning, match="`head`, `opt_state/0/trace/head`"):
        tf2flax.save_checkpoint(
            tmp_path / "new",
            plan.restore(),
            plan=plan,
            opt_state=(opt_plan, opt_plan.restore()),
        )


def test_a_new_head_is_written_with_its_slots_by_new(tmp_path: pathlib.Path) -> None:
    prefix = checkpoint(tmp_path, "Momentum")
    params = {**PARAMS, "head": jnp.zeros(3)}
    plan = tf2flax.plan(prefix, THE_MAP, params)
    opt_plan = tf2flax.optimizer_plan(plan, SGD.init(params))
    saved = tf2flax.save_checkpoint(
        tmp_path / "new",
        plan.restore(),
        plan=plan,
        opt_state=(opt_plan, opt_plan.restore()),
        new={"head": "head", "head/Momentum": "opt_state/0/trace/head"},
    )
    assert tf2flax.open_checkpoint(saved).slots["Momentum"] == (
        "d/bias",
        "d/kernel",
        "head",
    )


def test_other_pairs_are_refused(tmp_path: pathlib.Path) -> None:
    prefix = checkpoint(tmp_path, "Adam", "Adam_1", global_step=np.int64(7))
    tx = optax.chain(optax.adam(1e-3), optax.scale_by_schedule(lambda _: 1.0))
    plan, params, opt_plan, state = loaded(prefix, tx)
    uneven = (state[0], state[1]._replace(count=jnp.int32(3)))
    other = tf2flax.plan(prefix, THE_MAP, PARAMS)
    cases: list[tuple[Any, Any, str]] = [
        (plan, state, "expected a pair"),
        (plan, (plan, state), "expected a pair"),
        (other, (opt_plan, state), "made for other parameters"),
        (None, (opt_plan, state), "the plan of the parameters says"),
        (plan, (opt_plan, uneven), "count different steps"),
        *(
            (plan, (opt_plan, counting(state, count)), "expected a number of steps")
            for count in (
                jnp.int32([7, 8]),
                jnp.int32(-1),
                np.float32(3.7),
                np.nan,
                "x",
            )
        ),
        (plan, (opt_plan, state[:1]), "is not in the state"),
        (plan, (opt_plan, PARAMS), "is not in the"),
    ]
    for the_plan, pair, words in cases:
        with pytest.raises(tf2flax.AssignmentError, match=words):
            tf2flax.save_checkpoint(
                tmp_path / "new", params, plan=the_plan, opt_state=pair
            )


def test_a_counter_that_its_dtype_cannot_hold_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    prefix = checkpoint(tmp_path, "Adam", "Adam_1", global_step=np.int32(2**31 - 2))
    plan, params, opt_plan, state = loaded(prefix, optax.adam(1e-3))
    steps = int(state[0].count)
    changed = (state[0]._replace(count=np.int64(steps + 2)), *state[1:])
    with pytest.raises(
        tf2flax.AssignmentError, match="int32 cannot hold 2147483648"
    ) as caught:
        tf2flax.save_checkpoint(
            tmp_path / "new", params, plan=plan, opt_state=(opt_plan, changed)
        )
    assert not (tmp_path / "new.index").exists()
    # What it says will do.
    limit = int(str(caught.value).split("at most ")[1].split()[0])
    assert limit == steps + 1
    changed = (state[0]._replace(count=np.int64(limit)), *state[1:])
    saved = tf2flax.save_checkpoint(
        tmp_path / "new", params, plan=plan, opt_state=(opt_plan, changed)
    )
    assert tf2flax.load_variable(saved, "global_step") == 2**31 - 1


def test_a_train_state_is_written_with_what_its_optimizer_counts(
    tmp_path: pathlib.Path,
) -> None:
    prefix = checkpoint(tmp_path, "Adam", "Adam_1", global_step=np.int64(7))
    plan = tf2flax.plan(
        prefix,
        [(source, f"params/{leaf}") for source, leaf in THE_MAP],
        {"params": PARAMS},
    )
    tx = optax.MultiSteps(optax.adam(1e-3), 2)
    params = plan.restore()
    state = TrainState.create(apply_fn=print, params=params["params"], tx=tx)
    opt_plan = tf2flax.optimizer_plan(plan, state)
    state = opt_plan.restore()
    inner = state.opt_state.inner_opt_state
    inner = (inner[0]._replace(count=jnp.int32(9)), *inner[1:])
    counted = state.opt_state._replace(
        gradient_step=jnp.int32(9), inner_opt_state=inner
    )
    state = state.replace(step=11, opt_state=counted)  # two calls for each step
    with pytest.warns(UserWarning, match="2 leaves .*`opt_state/acc_grads/d/bias`"):
        saved = tf2flax.save_checkpoint(
            tmp_path / "new", params, plan=plan, opt_state=(opt_plan, state)
        )
    assert tf2flax.load_variable(saved, "global_step") == 9
