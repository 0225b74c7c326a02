"""Transformations that do what TensorFlow's optimizers do, where optax has none.

Their states are those of optax, so that `tf2flax.optimizer_state` fills them, and so do
schedules, masks and chains work with them. docs/optimizers.md has all optimizers, also
those of optax that agree, and by how much the others differ.

Needs optax (which flax brings along).
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# JAX and optax leave many of their types unknown.

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["ScaleByFtrlState", "adam", "adam_weight_decay", "ftrl", "lamb"]


class ScaleByFtrlState(NamedTuple):
    """State of `ftrl`, of which optax has none.

    Attributes:
        accumulator: Sums of squared gradients: slot `Ftrl`.
        linear: Slot `Ftrl_1`.
    """

    accumulator: Any
    linear: Any


def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam with epsilon where `tf.train.AdamOptimizer` has it.

    TensorFlow divides by `sqrt(v) + eps` and corrects the bias afterwards; optax and
    the paper correct first. The larger epsilon is, the more that matters.

    Examples:
        >>> import tf2flax.optax
        >>> tx = tf2flax.optax.adam(1e-3)
        >>> tx.init({"w": jnp.zeros(2)})[0].count
        Array(0, dtype=int32)

    Source: tensorflow/python/training/adam.py.
    """
    scaling = _scale_by_adam(b1, b2, eps, is_corrected=True)
    return optax.chain(scaling, optax.scale_by_learning_rate(learning_rate))


def adam_weight_decay(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    mask: Any = None,
) -> optax.GradientTransformation:
    """BERT's `AdamWeightDecayOptimizer`: Adam without a correction of the bias.

    Args:
        learning_rate: The rate, or a schedule.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
        eps: Added to the root of the second moment.
        weight_decay: Times the parameter, added to the update.
        mask: Which parameters decay, as of `optax.adamw`: BERT leaves out biases and
            LayerNorm.

    Examples:
        >>> import tf2flax.optax
        >>> tx = tf2flax.optax.adam_weight_decay(5e-5)

    Source: google-research/bert, optimization.py.
    """
    return optax.chain(
        _scale_by_adam(b1, b2, eps, is_corrected=False),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def lamb(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    mask: Any = None,
) -> optax.GradientTransformation:
    """ALBERT's `LAMBOptimizer`: LAMB without a correction of the bias.

    Args:
        learning_rate: The rate, or a schedule.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
        eps: Added to the root of the second moment.
        weight_decay: Times the parameter, added to the update.
        mask: Which parameters decay, and are scaled by their norm; as of `optax.lamb`.

    Examples:
        >>> import tf2flax.optax
        >>> tx = tf2flax.optax.lamb(1e-3)

    Source: google-research/albert, lamb_optimizer.py.
    """
    ratio = optax.scale_by_trust_ratio()
    return optax.chain(
        _scale_by_adam(b1, b2, eps, is_corrected=False),
        optax.add_decayed_weights(weight_decay, mask),
        ratio if mask is None else optax.masked(ratio, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def ftrl(
    learning_rate: float,
    learning_rate_power: float = -0.5,
    initial_accumulator_value: float = 0.1,
    l1: float = 0.0,
    l2: float = 0.0,
    l2_shrinkage: float = 0.0,
) -> optax.GradientTransformation:
    """`tf.train.FtrlOptimizer`, with the same arguments.

    The rate is a number; a schedule goes through `optax.inject_hyperparams`.

    Examples:
        >>> import tf2flax.optax
        >>> tx = tf2flax.optax.ftrl(0.1, l1=0.01)

    Source: tensorflow/core/kernels/training_ops.cc, `ApplyFtrl` and `ApplyFtrlV2`.
    """

    def init(params: Any) -> ScaleByFtrlState:
        fill = functools.partial(jnp.full_like, fill_value=initial_accumulator_value)
        starts = (jax.tree.map(f, params) for f in (fill, jnp.zeros_like))
        return ScaleByFtrlState(*starts)

    def step(g: Any, n: Any, z: Any, w: Any) -> tuple[Any, Any, Any]:
        new = n + g * g
        power, new_power = n**-learning_rate_power, new**-learning_rate_power
        z = z + g + (2 * l2_shrinkage - (new_power - power) / learning_rate) * w
        target = (jnp.sign(z) * l1 - z) / (new_power / learning_rate + 2 * l2)
        return jnp.where(jnp.abs(z) > l1, target, 0.0) - w, new, z

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        stepped = jax.tree.map(step, updates, *state, _present(params))
        trees = jax.tree.structure(params), jax.tree.structure((0, 0, 0))
        updates, *new = jax.tree.transpose(*trees, stepped)
        return updates, ScaleByFtrlState(*new)

    return optax.GradientTransformation(init, update)


def _present(params: Any) -> Any:
    if params is None:
        raise ValueError("ftrl needs the parameters: update(grads, state, params).")
    return params


def _scale_by_adam(
    b1: float, b2: float, eps: float, *, is_corrected: bool
) -> optax.GradientTransformation:
    """Adam's moments; their bias is corrected behind the division, or not at all."""

    def init(params: Any) -> optax.ScaleByAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g * g, updates, state.nu)
        t = jnp.asarray(count, jnp.float32)
        rate = jnp.sqrt(1 - b2**t) / (1 - b1**t) if is_corrected else 1.0

        def scaled(m: Any, v: Any) -> Any:
            return jnp.asarray(rate, m.dtype) * m / (jnp.sqrt(v) + eps)

        return jax.tree.map(scaled, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
