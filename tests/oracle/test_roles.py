"""Slots and averages as TensorFlow 1.15 itself names and saves them.

For each optimizer, with and without a scope, over plain and partitioned variables:
`get_slot` and `average` say which tensor is which slot of which variable.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest

import tf2flax

TF1 = os.environ.get("TF2FLAX_TF1_PYTHON", "")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(not TF1, reason="set TF2FLAX_TF1_PYTHON"),
]

# What makes them; the slots in the order of their names: what `get_slot` calls them.
OPTIMIZERS = {
    "t.AdamOptimizer(0.1)": ["m", "v"],
    "t.MomentumOptimizer(0.1, 0.5)": ["momentum"],
    "t.RMSPropOptimizer(0.1)": ["rms", "momentum"],
    "t.RMSPropOptimizer(0.1, centered=True)": ["rms", "mg", "momentum"],
    "t.AdagradOptimizer(0.1)": ["accumulator"],
    "t.AdadeltaOptimizer(0.1)": ["accum", "accum_update"],
    "t.FtrlOptimizer(0.1)": ["accum", "linear"],
    "t.ProximalAdagradOptimizer(0.1)": ["accumulator"],
    "t.AdamOptimizer(0.1, name='policy_optimizer')": ["m", "v"],
    "c.AdaMaxOptimizer(0.1)": ["m", "v"],
    "c.NadamOptimizer(0.1)": ["m", "v"],
    "c.LARSOptimizer(0.1)": ["momentum"],
    "c.LazyAdamOptimizer(0.1)": ["m", "v"],
    "c.MomentumWOptimizer(0.1, 0.1, 0.5)": ["momentum"],
}
WORKER = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.FATAL)
import tensorflow.contrib.opt as c
t = tf.compat.v1.train
folder = sys.argv[1]
truth = {}

def saved(variable):
    info = variable._get_save_slice_info()
    return info.full_name if info else variable.op.name

for number, (code, scope) in enumerate(json.loads(sys.argv[2])):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        get = tf.compat.v1.get_variable
        parts = tf.compat.v1.fixed_size_partitioner(2)
        get("net/w", [2, 3])
        get("net/b", [3])
        get("dnn/hiddenlayer_0/table", [4, 2], partitioner=parts)
        get("s", [])
        variables = tf.compat.v1.trainable_variables()
        loss = tf.add_n([tf.reduce_sum(v ** 2) for v in variables])
        optimizer = eval(code)
        average = t.ExponentialMovingAverage(0.9, zero_debias=number % 2 == 1)
        with tf.compat.v1.variable_scope(scope) if scope else tf.name_scope("x"):
            optimizer.minimize(loss, global_step=t.get_or_create_global_step())
            average.apply(variables)
        slots = {}
        for name in optimizer.get_slot_names():
            for v in variables:
                slot = optimizer.get_slot(v, name)
                if slot is not None:
                    slots[saved(slot)] = [saved(v), name]
        averages = {saved(average.average(v)): saved(v) for v in variables}
        session.run(tf.compat.v1.global_variables_initializer())
        prefix = t.Saver().save(session, "%s/%d" % (folder, number))
    truth[number] = [prefix, slots, averages]
json.dump(truth, open(folder + "/truth.json", "w"))
"""
SCOPES = ["train", "OptimizeLoss", "a/long/scope/for/it"]
CASES = [
    (code, scope)
    for number, code in enumerate(OPTIMIZERS)
    for scope in ("", SCOPES[number % len(SCOPES)])
]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    folder = tmp_path_factory.mktemp("roles")
    # TensorFlow 1.15 ends on flags of XLA that it does not know.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [TF1, "-W", "ignore", "-c", WORKER, str(folder), json.dumps(CASES)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(pathlib.Path(folder, "truth.json").read_text())


@pytest.mark.parametrize("number", range(len(CASES)), ids=str)
def test_roles(number: int, truth: dict[str, list[object]]) -> None:
    prefix, slots, averages = truth[str(number)]
    assert isinstance(prefix, str)
    assert isinstance(slots, dict)
    assert isinstance(averages, dict)
    checkpoint = tf2flax.open_checkpoint(prefix)
    roles = checkpoint.manifest.roles()
    code, scope = CASES[number]
    order: dict[str, list[str]] = {}
    for name, (variable, slot) in slots.items():
        role = roles.of(name)
        assert role.kind == "slot", name
        if scope and variable == "dnn/hiddenlayer_0/table":
            # The writer cuts the name: nobody is told a wrong variable.
            assert role.variable is None, name
            continue
        assert role.variable == variable, name
        assert role.scope == scope
        order.setdefault(role.name, []).append(slot)
    # Each spelling means the same for every variable, in this order.
    assert all(len(set(names)) == 1 for names in order.values())
    # RMSProp without centring keeps no `mg`.
    assert [order[name][0] for name in sorted(order)] == OPTIMIZERS[code]
    for name, variable in averages.items():
        role = roles.of(name)
        assert role.kind == "average"
        assert role.variable == (
            None if scope and variable == "dnn/hiddenlayer_0/table" else variable
        )
    others = set(checkpoint) - set(slots) - set(averages)
    for name in others:
        role = roles.of(name)
        if role.kind == "variable":
            assert name in {"net/w", "net/b", "s", "dnn/hiddenlayer_0/table"}
