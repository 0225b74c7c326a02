"""`optimizer_plan`: states of optax from slots, through the plan of the parameters."""

from __future__ import annotations

import copy
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding, PartitionSpec
from repository import DATA

import tf2flax

SHAPES = {"d/kernel": (6, 4), "d/bias": (4,)}
STEPS = 5


def power(beta: float, steps: int) -> np.float32:
    """What TensorFlow stores after some steps."""
    value = np.float32(1)
    for _ in range(steps + 1):
        value = np.float32(value * np.float32(beta))
    return value


def checkpoint(*slots: str, **scalars: Any) -> dict[str, Any]:
    """Two variables with slots of some names."""
    rng = np.random.default_rng(0)
    names = [name for v in SHAPES for name in (v, *(f"{v}/{slot}" for slot in slots))]
    tensors = {
        name: rng.random(SHAPES["/".join(name.split("/")[:2])], "f4") for name in names
    }
    return {**tensors, **scalars}


ADAM = checkpoint(
    "Adam", "Adam_1", beta1_power=power(0.9, STEPS), beta2_power=power(0.999, STEPS)
)
PARAMS = {"d": {"kernel": jnp.zeros((6, 4)), "bias": jnp.zeros(4)}}
THE_MAP: dict[Any, str] = {"d/": "d/"}


def filled(
    tensors: dict[str, Any], tx: optax.GradientTransformation, **options: Any
) -> Any:
    plan = tf2flax.plan(tensors, THE_MAP, PARAMS)
    return tf2flax.optimizer_state(plan, tx.init(PARAMS), **options)


def assert_holds(field: Any, tensors: dict[str, Any], slot: str, sign: int = 1) -> None:
    for name in ("kernel", "bias"):
        wanted = sign * tensors[f"d/{name}/{slot}"]
        np.testing.assert_array_equal(field["d"][name], wanted)


def refused(
    the_map: Any, words: str, tensors: Any = None, tx: Any = None, **options: Any
) -> str:
    tensors = ADAM if tensors is None else tensors
    plan = tf2flax.plan(tensors, the_map, PARAMS)
    state = (tx or optax.adam(1e-3)).init(PARAMS)
    with pytest.raises(tf2flax.CheckpointError, match=words) as caught:
        tf2flax.optimizer_plan(plan, state, **options)
    return str(caught.value)


@pytest.mark.parametrize("tx", [optax.adam(1.0), optax.adamw(1.0), optax.lamb(1.0)])
def test_adam_gets_moments_and_the_count_that_its_power_says(tx: Any) -> None:
    (adam, *_) = filled(ADAM, tx)
    assert int(adam.count) == STEPS
    assert adam.count.dtype == np.int32
    assert_holds(adam.mu, ADAM, "Adam")
    assert_holds(adam.nu, ADAM, "Adam_1")


@pytest.mark.parametrize(
    ("slots", "tx", "fields"),
    [
        (["Momentum"], optax.sgd(1.0, 0.9), {"0/trace": ("Momentum", 1)}),
        (
            ["Momentum"],
            optax.sgd(1.0, 0.9, nesterov=True),
            {"0/trace": ("Momentum", 1)},
        ),
        (
            ["RMSProp", "RMSProp_1"],
            optax.rmsprop(1.0, momentum=0.9),
            {"0/nu": ("RMSProp", 1), "2/trace": ("RMSProp_1", -1)},
        ),
        (["RMSProp", "RMSProp_1"], optax.rmsprop(1.0), {"0/nu": ("RMSProp", 1)}),
        (
            ["RMSProp", "RMSProp_1", "RMSProp_2"],
            optax.rmsprop(1.0, momentum=0.9, centered=True),
            {
                "0/nu": ("RMSProp", 1),
                "0/mu": ("RMSProp_1", 1),
                "2/trace": ("RMSProp_2", -1),
            },
        ),
        (["Adagrad"], optax.adagrad(1.0), {"0/sum_of_squares": ("Adagrad", 1)}),
        (
            ["Adadelta", "Adadelta_1"],
            optax.adadelta(1.0),
            {"1/e_g": ("Adadelta", 1), "1/e_x": ("Adadelta_1", 1)},
        ),
        (
            ["Ftrl", "Ftrl_1"],
            tf2flax.optax.ftrl(1.0),
            {"accumulator": ("Ftrl", 1), "linear": ("Ftrl_1", 1)},
        ),
        (
            ["adam_m", "adam_v"],
            optax.scale_by_adam(),
            {"mu": ("adam_m", 1), "nu": ("adam_v", 1)},
        ),
        (
            ["rms", "mg", "momentum"],
            optax.rmsprop(1.0, momentum=0.9, centered=True),
            {"0/nu": ("rms", 1), "0/mu": ("mg", 1), "2/trace": ("momentum", -1)},
        ),
        (
            ["policy_optimizer", "policy_optimizer_1"],
            optax.scale_by_adam(),
            {"mu": ("policy_optimizer", 1), "nu": ("policy_optimizer_1", 1)},
        ),
    ],
)
def test_slots_are_found_by_their_spelling(
    slots: list[str], tx: Any, fields: dict[str, tuple[str, int]]
) -> None:
    tensors = checkpoint(*slots, global_step=np.int64(3))
    state = filled(tensors, tx)
    for path, (slot, sign) in fields.items():
        field = state
        for key in path.split("/"):
            field = field[int(key)] if key.isdigit() else getattr(field, key)
        assert_holds(field, tensors, slot, sign)


def test_a_trace_changes_its_sign_only_behind_mean_squares_or_as_told() -> None:
    tensors = checkpoint("Momentum")
    assert_holds(filled(tensors, optax.sgd(1.0, 0.9))[0].trace, tensors, "Momentum")
    state = filled(tensors, optax.sgd(1.0, 0.9), negate=True)
    assert_holds(state[0].trace, tensors, "Momentum", -1)


def test_states_are_found_within_what_wraps_them() -> None:
    kernels = {"d": {"kernel": True, "bias": False}}
    labels = {"d": {"kernel": "a", "bias": "b"}}
    masked = filled(ADAM, optax.chain(optax.masked(optax.adam(1.0), kernels)))
    inner = masked[0].inner_state[0]
    assert isinstance(inner.mu["d"]["bias"], optax.MaskedNode)
    np.testing.assert_array_equal(inner.mu["d"]["kernel"], ADAM["d/kernel/Adam"])

    both = filled(
        {**ADAM, "d/bias/Momentum": np.full(4, 7, "f4")},
        optax.multi_transform({"a": optax.adam(1.0), "b": optax.sgd(1.0, 0.9)}, labels),
    ).inner_states
    adam, sgd = both["a"].inner_state[0], both["b"].inner_state[0]
    np.testing.assert_array_equal(adam.nu["d"]["kernel"], ADAM["d/kernel/Adam_1"])
    np.testing.assert_array_equal(sgd.trace["d"]["bias"], np.full(4, 7))

    steps = filled(ADAM, optax.MultiSteps(optax.adam(1.0), 4).gradient_transformation())
    assert (int(steps.gradient_step), int(steps.mini_step)) == (STEPS, 0)
    assert_holds(steps.inner_opt_state[0].mu, ADAM, "Adam")
    assert not np.any(steps.acc_grads["d"]["kernel"])

    rate = optax.inject_hyperparams(optax.adam)(learning_rate=0.25)
    hyper = filled(ADAM, rate)
    assert float(hyper.hyperparams["learning_rate"]) == 0.25
    assert int(hyper.count) == STEPS
    assert_holds(hyper.inner_state[0].nu, ADAM, "Adam_1")


def test_a_train_state_is_filled_with_its_step() -> None:
    plan = tf2flax.plan(ADAM, {"d/": "params/d/"}, {"params": PARAMS})
    before = TrainState.create(apply_fn=print, params=PARAMS, tx=optax.adam(1.0))
    state = tf2flax.optimizer_state(plan, before)
    assert int(state.step) == int(state.opt_state[0].count) == STEPS
    assert_holds(state.opt_state[0].mu, ADAM, "Adam")
    assert state.params["d"]["bias"] is PARAMS["d"]["bias"]
    assert int(before.step) == 0


class Model(nnx.Module):
    def __init__(self) -> None:
        self.d = nnx.Linear(6, 4, rngs=nnx.Rngs(0))


def test_an_nnx_optimizer_is_filled_in_place_and_its_state_as_a_tree() -> None:
    model = Model()
    optimizer = nnx.Optimizer(model, optax.adam(1.0), wrt=nnx.Param)
    plan = tf2flax.plan(ADAM, THE_MAP, model)
    state = tf2flax.optimizer_state(plan, nnx.state(optimizer))
    assert not np.any(optimizer.opt_state[0].mu["d"]["kernel"][...])
    assert tf2flax.optimizer_state(plan, optimizer) is optimizer
    adam = optimizer.opt_state[0]
    assert int(optimizer.step[...]) == int(adam.count[...]) == STEPS
    np.testing.assert_array_equal(adam.mu["d"]["kernel"][...], ADAM["d/kernel/Adam"])
    np.testing.assert_array_equal(
        state["opt_state"][0]["nu"]["d"]["bias"][...], ADAM["d/bias/Adam_1"]
    )


def test_slots_take_the_way_of_their_parameters() -> None:
    src = tf2flax.src
    tensors = checkpoint("Momentum")
    kernel = tensors["d/kernel/Momentum"]
    cases: list[tuple[Any, np.ndarray]] = [
        (src("d/kernel").T, kernel.T),
        (src("d/kernel")[1:4, ::2], kernel[1:4, ::2]),
        (src("d/kernel").reshape(24), kernel.reshape(24)),
        (
            src("d/kernel").rearrange("a (b c) -> b a c", b=2),
            kernel.reshape(6, 2, 2).transpose(1, 0, 2),
        ),
        (tf2flax.concat("d/kernel", "d/kernel", axis=1), np.hstack([kernel, kernel])),
        (tf2flax.stack("d/bias", "d/bias"), np.stack([tensors["d/bias/Momentum"]] * 2)),
        (src("d/kernel").cast("float16"), kernel.astype("f2").astype("f4")),
        (src("d/kernel") + 1.0, kernel),
        (2.0 + src("d/kernel") - 1.0, kernel),
        (src("d/kernel").take([5, 0]), kernel[[5, 0]]),
        (
            src("d/kernel").pad(((0, 2), (0, 0)), fill=9.0),
            np.pad(kernel, ((0, 2), (0, 0))),
        ),
        (
            src("d/kernel").take([1, -1], fill=9.0),
            np.stack([kernel[1], 0 * kernel[1]]),
        ),
        (tf2flax.first_of("d/kernel/EMA", "d/kernel"), kernel),
    ]
    params = {f"p{i}": jnp.zeros(value.shape) for i, (_, value) in enumerate(cases)}
    the_map = [(key, f"p{i}") for i, (key, _) in enumerate(cases)]
    plan = tf2flax.plan(tensors, the_map, params)
    state = tf2flax.optimizer_state(plan, optax.trace(0.9).init(params))
    for i, (_, value) in enumerate(cases):
        np.testing.assert_array_equal(state.trace[f"p{i}"], value, err_msg=the_map[i])


def test_growth_keeps_what_the_state_holds() -> None:
    params = {"p": jnp.zeros((8, 4))}
    key = tf2flax.src("d/kernel").pad(((0, 2), (0, 0)), fill="keep")
    plan = tf2flax.plan(checkpoint("Momentum"), {key: "p"}, params)
    trace = tf2flax.optimizer_state(plan, optax.TraceState({"p": jnp.ones((8, 4))}))
    np.testing.assert_array_equal(trace.trace["p"][6:], np.ones((2, 4)))
    abstract = optax.TraceState({"p": jax.ShapeDtypeStruct((8, 4), "float32")})
    with pytest.raises(tf2flax.AssignmentError, match=r"tx\.init\(params\)"):
        tf2flax.optimizer_plan(plan, abstract)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (-tf2flax.src("d/kernel"), "a change of sign"),
        (1.0 - tf2flax.src("d/kernel"), "a change of sign"),
        (tf2flax.src("d/kernel") * 2.0, "a product"),
        (tf2flax.src("d/kernel") + tf2flax.src("d/kernel"), "a sum of tensors"),
    ],
)
def test_slots_do_not_go_through_what_changes_values(key: Any, words: str) -> None:
    message = refused([(key, "d/kernel")], words)
    assert "0/mu/d/kernel" in message
    assert "0/nu/d/kernel" in message


def test_slots_do_not_go_through_another_vocabulary() -> None:
    folder = DATA / "vocabulary"
    rows = tf2flax.vocabulary(f"{folder}/old.txt", f"{folder}/new.txt")
    table = np.ones((5, 3), "f4")
    plan = tf2flax.plan(
        {"t": table, "t/Momentum": table},
        {tf2flax.src("t").take(rows, fill=0.0): "t"},
        {"t": jnp.zeros((4, 3))},
    )
    state = optax.TraceState({"t": jnp.zeros((4, 3))})
    with pytest.raises(tf2flax.AssignmentError, match="another vocabulary"):
        tf2flax.optimizer_plan(plan, state)


def test_leaves_that_the_plan_kept_keep_what_the_state_holds() -> None:
    params = {**PARAMS, "head": jnp.zeros(3)}
    plan = tf2flax.plan(ADAM, THE_MAP, params)
    state = optax.tree.map_params(
        optax.adam(1.0), lambda p: p + 4, optax.adam(1.0).init(params)
    )
    opt_plan = tf2flax.optimizer_plan(plan, state)
    assert opt_plan.kept == ("0/mu/head", "0/nu/head")
    restored = opt_plan.restore()
    assert restored[0].mu["head"] is state[0].mu["head"]
    abstract = jax.eval_shape(optax.adam(1.0).init, params)
    with pytest.raises(tf2flax.AssignmentError, match=r"0/mu/head.*tx\.init\(params\)"):
        tf2flax.optimizer_plan(plan, abstract)


def test_a_variable_without_the_slot_is_an_error_unless_on_missing_keeps_it() -> None:
    tensors = {name: t for name, t in ADAM.items() if name != "d/bias/Adam"}
    message = refused(THE_MAP, "has no slot `Adam`", tensors)
    assert "`0/mu/d/bias`: `d/bias`" in message
    plan = tf2flax.plan(tensors, THE_MAP, PARAMS, on_missing=[("bias", "keep")])
    opt_plan = tf2flax.optimizer_plan(plan, optax.adam(1.0).init(PARAMS))
    assert opt_plan.kept == ("0/mu/d/bias",)


def test_abstract_states_are_filled_where_their_parameters_live() -> None:
    mesh = jax.make_mesh((4, 2), ("x", "y"))
    sharding = tf2flax.partition_rules(
        [("kernel", PartitionSpec("y", "x")), ("", PartitionSpec())]
    )
    plan = tf2flax.plan(ADAM, THE_MAP, PARAMS, sharding=sharding, mesh=mesh)
    abstract = jax.eval_shape(optax.adam(1.0).init, PARAMS)
    (adam, *_) = tf2flax.optimizer_state(plan, abstract)
    kernel = adam.nu["d"]["kernel"]
    wanted = NamedSharding(mesh, PartitionSpec("y", "x"))
    assert kernel.sharding.is_equivalent_to(wanted, 2)
    np.testing.assert_array_equal(kernel, ADAM["d/kernel/Adam_1"])


def test_stacks_and_partitions_are_filled_as_their_parameters() -> None:
    layers = {f"l_{i}/w": np.full((2, 3), i, "f4") for i in range(3)}
    slots = {f"{name}/Momentum": 10 + value for name, value in layers.items()}
    params = {"w": jnp.zeros((3, 2, 3))}
    key = tf2flax.stack("l_{i}/w", over="i")
    plan = tf2flax.plan({**layers, **slots}, {key: "w"}, params)
    (trace, *_) = tf2flax.optimizer_state(plan, optax.sgd(1.0, 0.9).init(params))
    np.testing.assert_array_equal(trace.trace["w"][:, 0, 0], [10, 11, 12])

    ckpt = tf2flax.open_checkpoint(DATA / "wide_deep_partitioned")
    name = "dnn/input_from_feature_columns/input_layer/query_embedding"
    table = ckpt[f"{name}/embedding_weights/Adagrad"].read()
    halves = {"q": {f"part_{i}": jnp.zeros((150, 8)) for i in range(2)}}
    plan = tf2flax.plan(ckpt, {f"{name}/embedding_weights": "q"}, halves)
    state = tf2flax.optimizer_state(plan, optax.scale_by_rss().init(halves))
    parts = state.sum_of_squares["q"]
    np.testing.assert_array_equal(np.concatenate([*parts.values()]), table)


def test_averages_have_the_slots_of_their_variables(tmp_path: pathlib.Path) -> None:
    averages = {
        f"{v}/ExponentialMovingAverage": np.full(shape, 9, "f4")
        for v, shape in SHAPES.items()
    }
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {**ADAM, **averages})
    ckpt = tf2flax.open_checkpoint(prefix)
    named = {"d/{k}/ExponentialMovingAverage": "d/{k}"}
    for view, the_map in ((ckpt, named), (ckpt.by_moving_average(), THE_MAP)):
        plan = tf2flax.plan(view, the_map, PARAMS)
        params = plan.restore()
        assert np.all(params["d"]["bias"] == 9)
        opt_plan = tf2flax.optimizer_plan(plan, optax.adam(1.0).init(PARAMS))
        state = opt_plan.restore()
        assert_holds(state[0].mu, ADAM, "Adam")
        saved = tf2flax.save_checkpoint(
            tmp_path / "new",
            jax.tree.map(lambda x: x + 1, params),
            plan=plan,
            opt_state=(opt_plan, jax.tree.map(lambda x: x + 1, state)),
            averages="both",
            overwrite=True,
        )
        new = tf2flax.open_checkpoint(saved)
        assert np.all(new["d/kernel"].read() == 10)
        np.testing.assert_array_equal(
            new["d/kernel/Adam"].read(), ADAM["d/kernel/Adam"] + 1
        )


def test_momentum_of_keras_holds_its_rate_and_is_refused() -> None:
    tensors = checkpoint("momentum", iter=np.int64(3))
    refused(THE_MAP, "the SGD of Keras", tensors, optax.sgd(1.0, 0.9))
    tx = optax.chain(optax.scale_by_learning_rate(0.1), optax.trace(0.9))
    assert_holds(filled(tensors, tx, negate=False)[1].trace, tensors, "momentum")


@pytest.mark.parametrize(
    ("file", "slot", "source"),
    [
        ("slots.ckpt", "v", "optimizer/beta2_power"),
        ("keras_object.ckpt", "velocity", "model/optimizer/_iterations"),
    ],
)
def test_object_graphs_say_which_slots_there_are(
    file: str, slot: str, source: str
) -> None:
    view = tf2flax.open_checkpoint(DATA / "tf2_object" / file).by_object_path()
    name = view.slots[slot][0]
    params = {"p": jnp.zeros(view[name].shape)}
    plan = tf2flax.plan(view, {name: "p"}, params)
    opt_plan = tf2flax.optimizer_plan(plan, optax.adam(1.0).init(params))
    assert opt_plan.assignments[0].source == f"count 1 from {source}"
    state = opt_plan.restore()
    np.testing.assert_array_equal(state[0].nu["p"], view.by_slot(slot)[name].read())


def test_a_plan_for_a_state_tells_its_cost_and_its_inverse() -> None:
    plan = tf2flax.plan(ADAM, THE_MAP, PARAMS)
    opt_plan = tf2flax.optimizer_plan(plan, optax.adam(1.0).init(PARAMS))
    assert opt_plan.cost().processes[0].needed_nbytes == opt_plan.nbytes == 232
    assert opt_plan.unused == ()
    names = [assignment.name for assignment in opt_plan.inverse().assignments]
    assert sorted(names) == sorted(set(ADAM) - set(SHAPES))
    assert copy.copy(opt_plan).inverse().copied == tuple(sorted(SHAPES))


def test_the_plan_says_where_the_count_is_from() -> None:
    plan = tf2flax.plan(ADAM, THE_MAP, PARAMS)
    text = str(tf2flax.optimizer_plan(plan, optax.adam(1.0).init(PARAMS)))
    assert "0/count        count 5 from beta2_power" in text


@pytest.mark.parametrize(
    ("scalars", "options", "wanted"),
    [
        ({"beta2_power": power(0.999, 0), "beta1_power": power(0.9, 0)}, {}, 0),
        ({"beta2_power": power(0.999, 2000), "beta1_power": np.float32(0)}, {}, 2000),
        ({"beta2_power": power(0.98, 12)}, {"betas": (0.5, 0.98)}, 12),
        ({"beta2_power": np.float32(0), "global_step": np.int64(400_000)}, {}, 400_000),
        ({"beta2_power": np.float32(1e-42), "iter": np.int64(7)}, {}, 7),
        ({"opt/iter": np.int64(7), "global_step": np.int64(9)}, {}, 7),
        ({"global_step": np.int32(9)}, {}, 9),
        ({"beta2_power": power(0.999, 3)}, {"count": 8}, 8),
        ({"beta2_power": power(0.999, 3), "s": np.int64(6)}, {"count": "s"}, 6),
        (
            {
                "beta2_power": power(0.999, 3),
                "beta2_power_1": power(0.999, 9),
                "beta1_power_1": power(0.9, 9),
            },
            {"count": "beta2_power_1"},
            9,
        ),
        (
            {"a/beta2_power": power(0.999, 3), "b/beta2_power": power(0.999, 9)},
            {"count": "b/beta2_power"},
            9,
        ),
    ],
)
def test_steps_are_counted(
    scalars: dict[str, Any], options: dict[str, Any], wanted: int
) -> None:
    tensors = checkpoint("Adam", "Adam_1", **scalars)
    (adam, *_) = filled(tensors, optax.adam(1.0), **options)
    assert int(adam.count) == wanted


def test_steps_that_nothing_tells_are_refused() -> None:
    slots = checkpoint("Adam", "Adam_1")
    assert "count=1000" in refused(THE_MAP, "counts steps", slots)
    gone = {**slots, "beta2_power": np.float32(0)}
    refused(THE_MAP, "`beta2_power` has run out", gone)
    several = {
        **slots,
        "beta2_power": power(0.999, 3),
        "beta2_power_1": power(0.999, 9),
    }
    message = refused(THE_MAP, "Several tensors", several)
    assert "`beta2_power` (3 steps), `beta2_power_1` (9 steps)" in message
    several = {**slots, "a/iter": np.int64(1), "b/iter": np.int64(2)}
    refused(THE_MAP, r"`a/iter` \(1 step\), `b/iter` \(2 steps\)", several)
    refused(THE_MAP, "not a power of beta2 = 0.99,", ADAM, betas=(0.9, 0.99))
    refused(THE_MAP, "`beta1_power` is", ADAM, betas=(0.8, 0.999))
    refused(THE_MAP, "nothing", ADAM, count="nothing")
    refused(THE_MAP, "count", ADAM, count=-1)


def test_without_anything_that_counts_no_count_is_needed() -> None:
    tensors = checkpoint("Momentum")
    assert_holds(filled(tensors, optax.sgd(1.0, 0.9))[0].trace, tensors, "Momentum")


def test_slots_that_several_optimizers_have_are_chosen_by_the_caller() -> None:
    tensors = {
        **checkpoint("Adam", "Adam_1", "Adam_2", "Adam_3"),
        "global_step": np.int64(1),
    }
    message = refused(THE_MAP, "may be any of", tensors)
    assert "`Adam`, `Adam_1`, `Adam_2`, `Adam_3`" in message
    chosen = {"mu": "Adam_2", "0/nu": "Adam_3"}
    (adam, *_) = filled(tensors, optax.adam(1.0), slots=chosen)
    assert_holds(adam.mu, tensors, "Adam_2")
    assert_holds(adam.nu, tensors, "Adam_3")
    (adam, *_) = filled(tensors, optax.adam(1.0), slots={"mu": None, "nu": "Adam_1"})
    assert not np.any(adam.mu["d"]["bias"])
    refused(THE_MAP, "Did you mean", tensors, slots={"mu": "Adm_2"})
    refused(THE_MAP, "the state has no `m`", tensors, slots={"m": "Adam"})
    refused(THE_MAP, "expected a mapping", tensors, slots=["Adam"])


def test_a_prefix_chooses_slots_and_powers_of_one_optimizer() -> None:
    rng = np.random.default_rng(1)
    tensors: dict[str, Any] = {"d/kernel": rng.random((6, 4), "f4")}
    for steps, scope in ((3, "a"), (9, "a/b")):
        tensors[f"{scope}/beta1_power"] = power(0.9, steps)
        tensors[f"{scope}/beta2_power"] = power(0.999, steps)
        for slot in ("Adam", "Adam_1"):
            tensors[f"{scope}/d/kernel/{slot}"] = rng.random((6, 4), "f4")
    the_map = {"d/kernel": "d/kernel"}
    refused(the_map, "may be any of", tensors)
    plan = tf2flax.plan(tensors, the_map, PARAMS)
    state = optax.adam(1.0).init(PARAMS)
    (adam, *_) = tf2flax.optimizer_state(plan, state, prefix="a/b/")
    assert int(adam.count) == 9
    np.testing.assert_array_equal(adam.mu["d"]["kernel"], tensors["a/b/d/kernel/Adam"])


def test_states_that_nobody_knows_are_named() -> None:
    message = refused(THE_MAP, "ScaleByLionState", tx=optax.lion(1.0))
    assert 'slots={"mu": "..."}' in message
    (lion, *_) = filled(ADAM, optax.lion(1.0), slots={"mu": "Adam"})
    assert_holds(lion.mu, ADAM, "Adam")
    refused(THE_MAP, "They have `Adam`, `Adam_1`", tx=optax.sgd(1.0, 0.9))


def test_other_arguments_are_refused_with_what_to_give() -> None:
    plan = tf2flax.plan(ADAM, THE_MAP, PARAMS)
    state = optax.adam(1.0).init(PARAMS)
    opt_plan = tf2flax.optimizer_plan(plan, state)
    for wrong in (ADAM, None, opt_plan):
        with pytest.raises(tf2flax.AssignmentError, match="plan of the parameters"):
            tf2flax.optimizer_plan(wrong, state)  # type: ignore[arg-type]
    with pytest.raises(tf2flax.AssignmentError, match="No leaf of the state"):
        tf2flax.optimizer_plan(plan, {"other": jnp.zeros(3)})
    other = optax.adam(1.0).init({"other": jnp.zeros(3)})
    with pytest.raises(tf2flax.AssignmentError, match="structure of the parameters"):
        tf2flax.optimizer_plan(plan, other)
    wider = optax.adam(1.0).init(
        jax.tree.map(lambda p: jnp.zeros((*p.shape, 2)), PARAMS)
    )
    with pytest.raises(tf2flax.AssignmentError, match=r"has shape \[6, 4, 2\]"):
        tf2flax.optimizer_plan(plan, wider)
    for options in ({"betas": 0.9}, {"negate": 1}, {"prefix": 3}, {"count": 1.5}):
        with pytest.raises(tf2flax.AssignmentError, match="expected"):
            tf2flax.optimizer_plan(plan, state, **options)  # type: ignore[arg-type]
