"""Adafactor: second moments by rows and columns, whole ones, and momentum."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import tf2flax

STEP = {"global_step": np.int64(7)}


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape, "f4")


def state_of(
    tensors: dict[str, Any], key: Any, shape: tuple[int, ...], **options: Any
) -> Any:
    """The state of one parameter `w`, factored from axes of 2 on."""
    params = {"w": jnp.zeros(shape)}
    plan = tf2flax.plan({**tensors, **STEP}, {key: "w"}, params)
    tx = optax.adafactor(0.01, min_dim_size_to_factor=2, **options)
    return tf2flax.optimizer_state(plan, tx.init(params))


MESH = {"w": rand(6, 4), "w_slot_vr": rand(4), "w_slot_vc": rand(6)}
T2T = {"w": rand(6, 4), "w/Adafactor": rand(6), "w/Adafactor_1": rand(4)}


@pytest.mark.parametrize("key", ["w", tf2flax.src("w").T])
@pytest.mark.parametrize("tensors", [MESH, T2T])
def test_rows_lack_the_longest_axis_whoever_wrote_them(
    key: Any, tensors: dict[str, np.ndarray]
) -> None:
    shape = (6, 4) if isinstance(key, str) else (4, 6)
    factored = state_of(tensors, key, shape)[0]
    short, long = sorted([v for n, v in tensors.items() if n != "w"], key=len)
    np.testing.assert_array_equal(factored.v_row["w"], short)
    np.testing.assert_array_equal(factored.v_col["w"], long)
    assert factored.v["w"].shape == (1,)
    assert int(factored.count) == 7


def test_of_equal_axes_the_one_that_the_writer_leaves_out_counts() -> None:
    tensors = {"w": rand(4, 4), "w_slot_vr": rand(4), "w_slot_vc": 1 + rand(4)}
    # Mesh TensorFlow's rows lack axis 0, optax's rows the last of the longest axes.
    plain = state_of(tensors, "w", (4, 4))[0]
    turned = state_of(tensors, tf2flax.src("w").T, (4, 4))[0]
    np.testing.assert_array_equal(plain.v_row["w"], tensors["w_slot_vc"])
    np.testing.assert_array_equal(turned.v_row["w"], tensors["w_slot_vr"])


def test_axes_that_stay_are_put_in_the_order_of_the_leaf() -> None:
    tensors = {
        "w": rand(6, 3, 5),
        "w/Adafactor": rand(6, 3),
        "w/Adafactor_1": rand(3, 5),
    }
    tensors["w/Adafactor_1"] = rand(6, 5)  # lacks axis 1
    with pytest.raises(tf2flax.AssignmentError, match="min_dim_size_to_factor"):
        state_of(tensors, "w", (6, 3, 5))
    mesh = {"w": rand(6, 3, 5), "w_slot_vr": rand(3, 5), "w_slot_vc": rand(6, 3)}
    factored = state_of(mesh, tf2flax.src("w").transpose(2, 0, 1), (5, 6, 3))[0]
    np.testing.assert_array_equal(factored.v_row["w"], mesh["w_slot_vr"].T)
    np.testing.assert_array_equal(factored.v_col["w"], mesh["w_slot_vc"])


def test_whole_second_moments_and_momentum_have_the_shape_of_their_variable() -> None:
    tensors = {"w": rand(5), "w_slot_v": rand(5), "w_slot_m": 1 + rand(5)}
    state = state_of(tensors, tf2flax.src("w")[::-1], (5,), momentum=0.9)
    np.testing.assert_array_equal(state[0].v["w"], tensors["w_slot_v"][::-1])
    (ema,) = [part.ema for part in state if hasattr(part, "ema")]
    np.testing.assert_array_equal(ema["w"], tensors["w_slot_m"][::-1])
    numbered = {"w": rand(5), "w/Adafactor": rand(5), "w/Adafactor_1": 1 + rand(5)}
    state = state_of(numbered, "w", (5,), momentum=0.9)
    np.testing.assert_array_equal(state[0].v["w"], numbered["w/Adafactor_1"])


def test_rows_go_through_nothing_but_transposes() -> None:
    for key, shape in (
        (tf2flax.src("w")[:, :2], (6, 2)),
        (tf2flax.src("w").reshape(4, 6), (4, 6)),
        (tf2flax.src("w") + 1.0, (6, 4)),
    ):
        with pytest.raises(tf2flax.AssignmentError, match="more than a transpose"):
            state_of(MESH, key, shape)


def test_what_is_factored_on_one_side_alone_is_refused() -> None:
    whole = {"w": rand(6, 4), "w_slot_v": rand(6, 4)}
    with pytest.raises(tf2flax.AssignmentError, match="factored=False"):
        state_of(whole, "w", (6, 4))
    with pytest.raises(tf2flax.AssignmentError, match="it is factored"):
        state_of(MESH, "w", (6, 4), factored=False)
    state = state_of(whole, "w", (6, 4), factored=False)
    np.testing.assert_array_equal(state[0].v["w"], whole["w_slot_v"])


def test_rows_and_columns_lie_where_these_axes_of_the_parameter_do() -> None:
    mesh = jax.make_mesh((2, 4), ("x", "y"))
    params = {"w": jnp.zeros((6, 4))}
    plan = tf2flax.plan(
        {**MESH, **STEP},
        {"w": "w"},
        params,
        mesh=mesh,
        sharding=PartitionSpec("x", "y"),
    )
    tx = optax.adafactor(0.01, min_dim_size_to_factor=2)
    state = tx.init(params)
    factored = tf2flax.optimizer_state(plan, state)[0]
    assert factored.v_row["w"].sharding.spec == PartitionSpec("y")
    assert factored.v_col["w"].sharding.spec == PartitionSpec("x")
    np.testing.assert_array_equal(factored.v_col["w"], MESH["w_slot_vc"])
