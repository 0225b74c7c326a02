"""docs/optimizers.md: each call against three further steps of TensorFlow 1.15."""

from __future__ import annotations

import ast
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from repository import DATA, ROOT

import tf2flax

CHECKPOINT = DATA / "optimizers" / "model.ckpt"
RECORDED = np.load(DATA / "optimizers" / "oracle.npz")
# Some roundings of float32 in three steps, as part of the largest change. Adam corrects
# its bias by 1 - beta^t, in which the rounding of beta^t counts a thousandfold.
TOLERANCES = {"adam": 2e-5, "adam_epsilon": 2e-5}
TOLERANCE = 2e-6
# Rows of the table, by what they are called in tests/data/generators/optimizers.py.
ROWS = {
    "sgd": "GradientDescentOptimizer(0.1)",
    "momentum": "MomentumOptimizer(0.1, 0.9)",
    "nesterov": "MomentumOptimizer(0.1, 0.9, use_nesterov=True)",
    "rmsprop": "RMSPropOptimizer(0.01, momentum=0.9)",
    "rmsprop_plain": "RMSPropOptimizer(0.01)",
    "rmsprop_centred": "RMSPropOptimizer(0.01, momentum=0.9, centered=True)",
    "adagrad": "AdagradOptimizer(0.1)",
    "adadelta": "AdadeltaOptimizer(1.0)",
    "adam": "AdamOptimizer(0.01)",
    "adam_epsilon": "AdamOptimizer(0.01, epsilon=1e-3)",
    "ftrl": "FtrlOptimizer(0.1, l1=0.05, l2=0.02, l2_shrinkage=0.01)",
    "bert": "BERT's AdamWeightDecayOptimizer(0.01, weight_decay_rate=0.01)",
    "albert": "ALBERT's LAMBOptimizer(0.01, weight_decay_rate=0.01)",
    "adafactor": "Mesh TensorFlow's AdafactorOptimizer(0.01)",
}
MASK = {"w": True, "b": False}


def table() -> dict[str, list[str]]:
    """Rows of the table: TensorFlow's call -> the other cells."""
    text = (ROOT / "docs" / "optimizers.md").read_text()
    lines = re.findall(r"^\| `(.+?)` \| (.+) \|(.*)\|$", text, re.MULTILINE)
    return {call: [*cells.split(" | "), last.strip()] for call, cells, last in lines}


def transformation(cell: str) -> Any:
    call = re.fullmatch(r"`(.+?)`.*", cell)
    assert call is not None, cell
    return eval(call[1], {"optax": optax, "tf2flax": tf2flax, "mask": MASK})


def difference(name: str, tx: Any) -> float:
    """How far three steps are from those of TensorFlow, as part of what they change."""
    zeros = {"w": jnp.zeros((6, 4)), "b": jnp.zeros(4)}
    plan = tf2flax.plan(CHECKPOINT, {f"of_{name}/": "/"}, zeros)
    params = before = plan.restore()
    state = tx.init(params)
    if jax.tree.leaves(state):
        state = tf2flax.optimizer_state(plan, state, prefix=f"of_{name}/")
    for i in range(3):
        grads = {key: jnp.asarray(RECORDED[f"grads/{key}"][i]) for key in params}
        with jax.numpy_dtype_promotion("standard"):  # which optax relies on
            updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    wanted = {key: RECORDED[f"after/of_{name}/{key}"] for key in params}
    change = max(np.abs(wanted[key] - before[key]).max() for key in params)
    return max(np.abs(wanted[key] - params[key]).max() for key in params) / change


def test_transformations_are_at_most_25_lines_without_their_docstrings() -> None:
    tree = ast.parse((ROOT / "tf2flax" / "optax" / "__init__.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(functions) > 4
    for node in functions:
        code = ast.unparse(node.body[1:] if ast.get_docstring(node) else node.body)
        signature = len(node.args.args) + 2
        assert signature + len(list(filter(None, code.splitlines()))) <= 25, node.name


def test_their_states_are_those_of_optax() -> None:
    params = {"w": jnp.ones(2)}
    for make in (
        tf2flax.optax.adam,
        tf2flax.optax.adam_weight_decay,
        tf2flax.optax.lamb,
    ):
        state = make(0.1).init(params)
        assert jax.tree.structure(state[0]) == jax.tree.structure(
            optax.scale_by_adam().init(params)
        )
    tx = tf2flax.optax.ftrl(0.1)
    state = tx.init(params)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, state)


def test_the_table_has_a_row_for_each_optimizer() -> None:
    assert list(table()) == list(ROWS.values())


@pytest.mark.parametrize("name", ROWS)
def test_the_call_agrees_with_tensorflow(name: str) -> None:
    here, _, _ = table()[ROWS[name]]
    assert difference(name, transformation(here)) < TOLERANCES.get(name, TOLERANCE)


@pytest.mark.parametrize("name", ROWS)
def test_the_table_says_how_far_optax_itself_is_off(name: str) -> None:
    here, differs, of_optax = table()[ROWS[name]]
    tolerance = TOLERANCES.get(name, TOLERANCE)
    assert float(differs.removeprefix("below ")) == tolerance
    if not of_optax:
        assert "tf2flax.optax" not in here or name == "ftrl"
        return
    figure = re.search(r"`: (\S+)$", of_optax)
    assert figure is not None
    measured = difference(name, transformation(of_optax))
    assert measured == pytest.approx(float(figure[1]), rel=0.1)
