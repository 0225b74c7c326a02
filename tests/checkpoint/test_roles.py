"""Roles of tensors: what is a variable, a slot of which one, an average, a counter.

The tables in `tests/data/roles` were written from the models' code, name by name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from repository import DATA

import tf2flax
from tf2flax._base.role_patterns import VARIABLE_SUFFIX
from tf2flax._base.roles import VARIABLE, NamedRoles, Role

# Checkpoint -> names -> shape (None where it does not matter) and role.
Table = dict[str, tuple[tuple[int, ...] | None, Role]]
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}|\{(\d+(?:,\d+)+)\}")


def expanded(pattern: str) -> Iterator[str]:
    """`a{0..1}` -> `a0`, `a1`."""
    parts = re.split(r"\{\d+\.\.\d+\}|\{\d+(?:,\d+)+\}", pattern)
    choices: list[list[str]] = []
    for first, last, several in _NUMBERS.findall(pattern):
        numbers = map(str, range(int(first), int(last) + 1)) if first else ()
        choices.append(several.split(",") if several else list(numbers))
    for numbers in itertools.product(*choices):
        yield "".join(map("".join, itertools.zip_longest(parts, numbers, fillvalue="")))


def belonging(spelled: str, variable: str, shape: tuple[int, ...]) -> tuple[str, Role]:
    """The name and the role of what a table says that a variable has."""
    kind = "average" if spelled.startswith("~") else "slot"
    spelled = spelled.removeprefix("~").partition(":")[0]
    if ".OPTIMIZER_SLOT/" in spelled:
        place = spelled.partition(".OPTIMIZER_SLOT/")[2].removesuffix(VARIABLE_SUFFIX)
        scope, _, slot = place.rpartition("/")
        name = spelled.replace("*", variable.removesuffix(VARIABLE_SUFFIX))
    else:
        scope, _, slot = spelled.partition("*")
        name, scope, slot = scope + variable + slot, scope.rstrip("/"), slot[1:]
    return name, Role(kind, variable, slot, scope)


def shape_in(text: str) -> tuple[int, ...] | None:
    return tuple(int(n) for n in text[1:-1].split(",") if n) if text else None


def tables() -> dict[str, Table]:
    result: dict[str, Table] = {}
    for file in sorted((DATA / "roles").glob("*.txt")):
        for section in file.read_text().split("@ ")[1:]:
            path, _, *lines = section.strip("\n").split("\n")
            table = result.setdefault(path, {})
            for kind, shape, pattern, *slots in (line.split("\t") for line in lines):
                pattern = pattern.encode("latin-1").decode("unicode_escape")
                for name in expanded(pattern):
                    add(table, kind, shape_in(shape), name, slots)
    return result


def add(
    table: Table,
    kind: str,
    shape: tuple[int, ...] | None,
    name: str,
    slots: Sequence[str],
) -> None:
    last = name.removesuffix(VARIABLE_SUFFIX).rpartition("/")[2]
    if kind != "variable":
        role = Role("slot" if kind == "lost" else kind, None, last)  # pyright: ignore[reportArgumentType]
        table[name] = () if shape is None else shape, role
        return
    assert shape is not None
    table[name] = shape, VARIABLE
    for spelled in slots:
        slot_name, role = belonging(spelled, name, shape)
        axis = spelled.partition(":")[2]
        cut = shape if not axis else shape[: int(axis)] + shape[int(axis) + 1 :]
        table[slot_name] = cut, role


TABLES = tables()


def test_the_tables_say_enough() -> None:
    kinds = [role.kind for table in TABLES.values() for _, role in table.values()]
    assert len(TABLES) == 54
    assert kinds.count("slot") == 1405
    assert kinds.count("average") == 78
    assert kinds.count("variable") > 1300


@pytest.mark.parametrize("path", TABLES)
def test_roles(path: str) -> None:
    table = TABLES[path]
    roles = NamedRoles(table.keys(), lambda name: table[name][0])
    assert {name: roles.of(name) for name in table} == {
        name: role for name, (_, role) in table.items()
    }


@pytest.mark.parametrize(
    ("path", "count"),
    [("many_vars/model.ckpt", 20000), ("dtypes/model.ckpt", 76)],
)
def test_weights_alone(path: str, count: int) -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / path)
    roles = checkpoint.manifest.roles()
    assert sum(roles.of(name) == VARIABLE for name in checkpoint) == count
    assert dict(checkpoint.slots) == {}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        (f"keras_api/metrics/0/total{VARIABLE_SUFFIX}", Role("metric", None, "total")),
        (f"m/keras_api/metrics/12/a/b{VARIABLE_SUFFIX}", Role("metric", None, "b")),
        ("metrics/mean/vars/0", Role("metric", None, "0")),
        ("seed_generator_3/seed_generator_state",
         Role("seed", None, "seed_generator_state")),
        ("layers/dropout/seed_generator/vars/0", Role("seed", None, "0")),
        # Layers may be called so.
        ("metrics/dense/kernel", VARIABLE),
        ("layers/metrics/mean/vars/0", VARIABLE),
        ("seed_generator/dense/kernel", VARIABLE),
    ],
)  # fmt: skip
def test_what_keras_keeps_beside_weights(name: str, role: Role) -> None:
    assert NamedRoles([name], lambda _: ()).of(name) == role


# Spellings of optimizers that no checkpoint here has.
# Source: tensorflow/python/training/*.py; google-research/albert lamb_optimizer.py;
# tensor2tensor/utils/adafactor.py; tensorflow/contrib/opt.
@pytest.mark.parametrize(
    ("spelled", "slots"),
    [
        ("{}/{}", "Momentum RMSProp RMSProp_1 RMSProp_2 Adagrad Adadelta Adadelta_1"),
        ("{}/{}", "Ftrl Ftrl_1 adam_m adam_v AdaMax AdaMax_1 NAdam LARSOptimizer"),
        ("{}/{}", "Adam Adam_1 Adam_2 Adam_3 ProximalAdagrad AdagradDA MomentumW"),
        ("OptimizeLoss/{}/{}", "RMSProp RMSProp_1 Adam Adam_1 Momentum"),
        ("training/Adam/{}/{}", "m v vhat"),
        ("training/RMSprop/{}/{}", "rms mg momentum"),
        ("training/Adadelta/{}/{}", "accum_grad accum_var"),
        ("{}_{}", "slot_v slot_m"),
    ],
)
def test_spellings(spelled: str, slots: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {"a/w": (2, 3), "a/b": (3,), "s": ()}
    scope = spelled.partition("{}")[0].rstrip("/")
    expected = {
        spelled.format(variable, slot): Role("slot", variable, slot, scope)
        for variable in shapes
        for slot in slots.split()
    }
    shapes |= {name: shapes[role.variable or ""] for name, role in expected.items()}
    roles = NamedRoles(shapes.keys(), shapes.get)
    assert {name: roles.of(name) for name in expected} == expected


@pytest.mark.parametrize("slot", ["w_slot_vr", "w_slot_vc", "w/Adafactor", "w/vc_1"])
@pytest.mark.parametrize("shape", [(2, 5), (3, 5), (2, 3)])
def test_factored_slots_lack_one_axis(slot: str, shape: tuple[int, ...]) -> None:
    shapes = {"w": (2, 3, 5), slot: shape}
    assert NamedRoles(shapes.keys(), shapes.get).of(slot).variable == "w"
    shapes[slot] = (5,)
    assert NamedRoles(shapes.keys(), shapes.get).of(slot) == VARIABLE


# Name -> shape, of what only looks like something else.
LOOK_ALIKES: dict[str, tuple[int, ...]] = {
    "w": (4, 3),
    "w/Adam": (3,),  # of another shape
    "w_slot_vr": (3, 4),
    "x/Adam": (4, 3),  # no `x`
    "x/ExponentialMovingAverage": (4, 3),
    "y_slot_vr": (4,),
    "Momentum/kernel": (2,),  # a layer
    "Adam": (2,),
    "net/Adam/Adam_1": (9,),
    "global_step/w": (1,),
    "beta1_power": (4,),  # of rank 1
    "net/iterations": (3,),
    "net/learning_rate": (),  # not beside a counter
    "v": (6,),
    "attention/v": (5,),
    "w/Adamant": (4, 2),
    "metric/_variables/0" + VARIABLE_SUFFIX: (),
    "optimizer/_trainable_variables/3" + VARIABLE_SUFFIX: (3,),
    "w/part_0": (4, 3),
    "w/layer_0/Adam": (4, 3),  # not what is left of a name that was cut
}


def test_look_alikes_are_variables() -> None:
    roles = NamedRoles(LOOK_ALIKES.keys(), LOOK_ALIKES.get)
    wrong = {n: roles.of(n) for n in LOOK_ALIKES if roles.of(n) != VARIABLE}
    assert wrong == {}


def saved_name(scope: str, variable: str, part: int, slot: str) -> str:
    """What TF 1 saves the slot of a partition under, where the optimizer has a scope.

    Source: `_create_slot_var`, tensorflow/python/training/slot_creator.py.
    """
    partition = f"{variable}/part_{part}"
    name = f"{scope}/{partition}/{slot}"
    return f"{variable}/{name[len(partition) + 1 :]}"


@pytest.mark.parametrize("scope", ["OptimizeLoss", "a", "opt", "train_op/dnn/x", "dnn"])
@pytest.mark.parametrize("variable", ["dnn/hiddenlayer_0/biases", "w", "x/w"])
@pytest.mark.parametrize("slot", ["RMSProp", "Adam_1", "ExponentialMovingAverage"])
@pytest.mark.parametrize("part", [0, 12])
def test_names_that_were_cut_off(
    scope: str, variable: str, slot: str, part: int
) -> None:
    """No wrong variable, and no variable of its own."""
    name = saved_name(scope, variable, part, slot)
    shapes = {variable: (7,), name: (7,), "biases": (7,), "part_0": (7,)}
    role = NamedRoles(shapes.keys(), shapes.get).of(name)
    if name.removesuffix(f"/{slot}").endswith("/part_0"):
        del shapes["part_0"]
        role = NamedRoles(shapes.keys(), shapes.get).of(name)
    assert role == Role("average" if slot[0] == "E" else "slot", None, slot)


def test_the_real_one_that_was_cut_off() -> None:
    """As a `tf.contrib` estimator of 2017 wrote it."""
    name = "dnn/hiddenlayer_0/biases/ayer_0/biases/part_0/RMSProp"
    arrays = {"dnn/hiddenlayer_0/biases": np.zeros(5), name: np.zeros(5)}
    checkpoint = tf2flax.open_checkpoint(arrays)
    assert dict(checkpoint.slots) == {}
    assert "  1 tensor is left out, since nothing tells of what variable it is" in (
        repr(checkpoint.slots)
    )
    assert f"`{name}`" in repr(checkpoint.slots)
    with pytest.raises(tf2flax.NotFoundError, match=f"do not tell.*`{name}`"):
        checkpoint.by_slot("RMSProp")
    arrays |= {"dnn/logits": np.zeros(1), "OptimizeLoss/dnn/logits/RMSProp": np.ones(1)}
    view = tf2flax.open_checkpoint(arrays).by_slot("RMSProp")
    assert list(view) == ["dnn/logits"]
    with pytest.raises(tf2flax.TensorNotFoundError, match=f"`{name}`"):
        view["dnn/hiddenlayer_0/biases"]


def test_what_belongs_to_what() -> None:
    names = {
        "a", "a/Adam", "a/ExponentialMovingAverage", "train/a/Momentum", "k",
        "k_slot_vr",
        "a/ExponentialMovingAverage/local_step", "beta1_power", "alone/Adam",
        "m/w/.ATTRIBUTES/VARIABLE_VALUE",
        "m/w/.OPTIMIZER_SLOT/opt/m/.ATTRIBUTES/VARIABLE_VALUE",
    }  # fmt: skip
    roles = NamedRoles(names, lambda _: None)
    assert {name: list(roles.lineage(name)) for name in names} == {
        "a": [], "a/Adam": ["a"], "a/ExponentialMovingAverage": ["a"], "k": [],
        "train/a/Momentum": ["a"], "k_slot_vr": ["k"], "beta1_power": [],
        "a/ExponentialMovingAverage/local_step": ["a/ExponentialMovingAverage", "a"],
        "alone/Adam": [], "m/w/.ATTRIBUTES/VARIABLE_VALUE": [],
        "m/w/.OPTIMIZER_SLOT/opt/m/.ATTRIBUTES/VARIABLE_VALUE": [
            "m/w/.ATTRIBUTES/VARIABLE_VALUE"
        ],
    }  # fmt: skip


def test_what_advances_with_every_step() -> None:
    steps = {
        "global_step", "a/global_step", "beta2_power_1", "optimizer/iter",
        "optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE", "training/Adam/iterations",
        "x/beta1_power", "optimizer/vars/12", "o/_iterations",
        "optimizer/_variables/3/.ATTRIBUTES/VARIABLE_VALUE",
        "opt/_variables/3/.ATTRIBUTES/VARIABLE_VALUE",
        "opt/_iterations/.ATTRIBUTES/VARIABLE_VALUE",
    }  # fmt: skip
    names = steps | {
        "save_counter/.ATTRIBUTES/VARIABLE_VALUE",
        "optimizer/_learning_rate",
        "metric/_variables/0/.ATTRIBUTES/VARIABLE_VALUE",
        "optimizer/_trainable_variables/3/.ATTRIBUTES/VARIABLE_VALUE",
        "a",
        "step_size/w",
        "iterator/w",
    }
    roles = NamedRoles(names, lambda _: None)
    assert {name for name in names if roles.counts_steps(name)} == steps


# Tables of names alone, all of one shape: what is a slot or an average, and of what
# ("" where nobody can tell); all else is a variable, or a scalar of an optimizer.
EVIDENCE: dict[str, tuple[str, dict[str, str]]] = {
    "a layer's own variable is missing": (
        "kernel layer2/kernel/Adam",
        {"layer2/kernel/Adam": ""},
    ),
    "two of a layer are missing, another layer keeps its averages beside": (
        "kernel bias layer1/kernel layer1/kernel/EMA bias/EMA layer2/kernel/EMA "
        "layer2/bias/EMA",
        {
            "layer1/kernel/EMA": "layer1/kernel",
            "bias/EMA": "bias",
            "layer2/kernel/EMA": "",
            "layer2/bias/EMA": "",
        },
    ),
    "two of a layer are missing, others of these names have their slots beside": (
        "kernel bias kernel/Adam bias/Adam layer2/kernel/Adam layer2/bias/Adam",
        {
            "kernel/Adam": "kernel",
            "bias/Adam": "bias",
            "layer2/kernel/Adam": "",
            "layer2/bias/Adam": "",
        },
    ),
    "two optimizers, of which one is in a scope": (
        "kernel bias kernel/Adam bias/Adam s/kernel/Adam s/bias/Adam s/beta1_power()",
        {
            "kernel/Adam": "kernel",
            "bias/Adam": "bias",
            "s/kernel/Adam": "kernel",
            "s/bias/Adam": "bias",
        },
    ),
    "the layer holds another variable": (
        "kernel bias layer2/gamma layer2/kernel/Adam layer2/bias/Adam",
        {"layer2/kernel/Adam": "", "layer2/bias/Adam": ""},
    ),
    "several slots in a scope without variables": (
        "kernel bias s/kernel/Adam s/bias/Adam",
        {"s/kernel/Adam": "kernel", "s/bias/Adam": "bias"},
    ),
    "the optimizer is in the scope of its variables": (
        "s/kernel s/bias s/s/kernel/Momentum s/s/bias/Momentum",
        {"s/s/kernel/Momentum": "s/kernel", "s/s/bias/Momentum": "s/bias"},
    ),
    "powers of betas": (
        "kernel s/other s/beta1_power() s/kernel/Adam",
        {"s/kernel/Adam": "kernel"},
    ),
    "a power that is none": (
        "kernel s/beta1_power s/kernel/Adam",
        {"s/kernel/Adam": ""},
    ),
    "called as scopes of optimizers are": (
        "kernel OptimizeLoss/kernel/Momentum",
        {"OptimizeLoss/kernel/Momentum": "kernel"},
    ),
    "what has slots is a variable": (
        "att att/v att/v/Adam att/Adam",
        {"att/v/Adam": "att/v", "att/Adam": "att"},
    ),
    "what has an average is a variable": (
        "att att/m att/m/EMA att/EMA att/v",
        {"att/m/EMA": "att/m", "att/EMA": "att", "att/v": "att"},
    ),
    "slots may have averages": (
        "w w/Adam w/Adam/EMA",
        {"w/Adam": "w", "w/Adam/EMA": "w/Adam"},
    ),
    "only the beginning is an optimizer's name": (
        "enc enc/momentum_encoder g g/lamb_x",
        {},
    ),
    "the same, in two": (
        "w w/Adam_policy w/Adam_policy_1",
        {"w/Adam_policy": "w", "w/Adam_policy_1": "w"},
    ),
    "the same, of two variables": (
        "w w/Momentum_policy b b/Momentum_policy",
        {"w/Momentum_policy": "w", "b/Momentum_policy": "b"},
    ),
}


@pytest.mark.parametrize("case", EVIDENCE)
def test_evidence(case: str) -> None:
    names, expected = EVIDENCE[case]
    shapes = {
        name.removesuffix("()"): () if name.endswith("()") else (2,)
        for name in names.split()
    }
    roles = NamedRoles(shapes.keys(), shapes.get)
    assert {
        name: roles.of(name).variable or ""
        for name in shapes
        if roles.of(name).kind in ("slot", "average")
    } == expected


def test_no_average_of_another_layer() -> None:
    """`layer2/kernel` is not in the checkpoint: its average is not that of `kernel`."""
    lost = "layer2/kernel/ExponentialMovingAverage"
    values = {"kernel": 1, "kernel2": 1, lost: 9, "kernel2/ExponentialMovingAverage": 7}
    checkpoint = tf2flax.open_checkpoint({n: np.full(2, v) for n, v in values.items()})
    with pytest.warns(UserWarning, match=f"stand for themselves: `{lost}`"):
        view = checkpoint.by_moving_average()
    assert {name: view[name].read()[0] for name in view} == {"kernel": 1, "kernel2": 7}


def test_slots_of_keras_3_in_a_legacy_file() -> None:
    """`adam/outer_wide_bias_velocity`: both slots of all variables, in all views."""
    checkpoint = tf2flax.open_checkpoint(DATA / "keras" / "keras3_model.h5")
    variables = tuple(name for name in checkpoint if not name.startswith("adam/"))
    assert len(variables) == 4
    assert dict(checkpoint.slots) == {"momentum": variables, "velocity": variables}
    for slot in checkpoint.slots:
        view = checkpoint.by_slot(slot)
        for name in variables:
            stored = checkpoint[f"adam/{name.replace('/', '_')}_{slot}"].read()
            assert view[name].read().tobytes() == stored.tobytes()
    roles = checkpoint.manifest.roles()
    assert {n for n in checkpoint if not roles.is_of_training(n)} == {
        *variables,
        "adam/iteration",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"a_b": (2,)},  # joined as `a/b` is
        {"a/b": (3,)},  # of another shape
    ],
)
def test_flat_names_are_not_guessed(changes: dict[str, tuple[int, ...]]) -> None:
    shapes = {"a/b": (2,), "opt/iteration": (), "opt/a_b_velocity": (2,), **changes}
    role = NamedRoles(shapes.keys(), shapes.get).of("opt/a_b_velocity")
    assert role == Role("slot", None, "a_b_velocity")
    del shapes["opt/iteration"]  # a layer, then
    assert NamedRoles(shapes.keys(), shapes.get).of("opt/a_b_velocity") == VARIABLE
