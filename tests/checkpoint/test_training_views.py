"""Views of moving averages and slots: names, values, what they compose with."""

from __future__ import annotations

import itertools
import json
import pathlib
import pickle
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from object_graphs import SUFFIX, graph_bytes, write_object_based
from repository import DATA

import tf2flax
from tf2flax._cli import main
from tf2flax._formats.object_graph import GRAPH_KEY

F4 = np.arange(6, dtype="<f4")
WIDE = DATA / "wide_deep_partitioned" / "model.ckpt"
RESNET = DATA / "resnet_slim" / "model.ckpt"
EMA = "ExponentialMovingAverage"


def same(first: tf2flax.StoredTensor, second: tf2flax.StoredTensor) -> bool:
    """True if two tensors are one, but for their names."""
    values = first.read(), second.read()
    return (
        first.entry._replace(name="") == second.entry._replace(name="")
        and values[0].dtype == values[1].dtype
        and values[0].tobytes() == values[1].tobytes()
    )


def test_moving_averages_of_a_resnet() -> None:
    stored = tf2flax.open_checkpoint(RESNET)
    view = stored.by_moving_average()
    assert isinstance(view, tf2flax.Checkpoint)
    assert len(view.averaged) == 77
    assert set(view) == {name for name in stored if EMA not in name}
    for name in view:
        is_averaged = name in view.averaged
        assert same(view[name], stored[f"{name}/{EMA}" if is_averaged else name])
    assert f"{view.averaged[0]}/{EMA}" not in view
    with pytest.raises(tf2flax.TensorNotFoundError, match="stands for its moving"):
        view[f"{view.averaged[0]}/{EMA}"]
    assert stored.averaged == ()
    assert view.verify().ok
    assert len(view.read()) == len(view)
    copied = pickle.loads(pickle.dumps(view))
    assert copied.averaged == view.averaged
    assert "global_step" in copied
    assert dict(view.slots) == dict(stored.slots)
    assert same(
        view.by_slot("Momentum")["resnet_v1_8/logits/weights"],
        stored["resnet_v1_8/logits/weights/Momentum"],
    )


# Data, slot, how the tensor of a variable is called.
SLOTS: list[tuple[str, str, Callable[[str], str]]] = [
    ("bert/model.ckpt", "adam_m", lambda v: f"{v}/adam_m"),
    ("bert/model.ckpt", "adam_v", lambda v: f"{v}/adam_v"),
    ("resnet_slim/model.ckpt", "Momentum", lambda v: f"{v}/Momentum"),
    ("wide_deep_partitioned/model.ckpt", "Adagrad", lambda v: f"{v}/Adagrad"),
    ("wide_deep_partitioned/model.ckpt", "Ftrl_1", lambda v: f"{v}/Ftrl_1"),
    (
        "tf1_keras/slots.ckpt-1", "v",
        lambda v: f"{v.removesuffix(SUFFIX)}/.OPTIMIZER_SLOT/optimizer/v{SUFFIX}",
    ),
    (
        "tf2_object/slots.ckpt", "m",
        lambda v: f"{v.removesuffix(SUFFIX)}/.OPTIMIZER_SLOT/optimizer/m{SUFFIX}",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "slot", "stored_name"), SLOTS)
def test_slots_of_recorded_checkpoints(
    path: str, slot: str, stored_name: Callable[[str], str]
) -> None:
    stored = tf2flax.open_checkpoint(DATA / path)
    view = stored.by_slot(slot)
    assert tuple(view) == stored.slots[slot]
    assert len(view) > 3
    for name in view:
        assert same(view[name], stored[stored_name(name)])
        assert view[name].shape == stored[name].shape
        assert view[name].slices == stored[name].slices
    assert view.verify().ok
    assert list(pickle.loads(pickle.dumps(view))) == list(view)
    assert dict(view.slots) == {}
    assert view.averaged == ()


def test_slots_of_partitioned_variables_stay_slices() -> None:
    stored = tf2flax.open_checkpoint(WIDE)
    view = stored.by_slot("Ftrl")
    sliced = [name for name in view if view[name].slices]
    assert sliced
    for name in sliced:
        tensor = view[name]
        assert tensor.open().read().result().tobytes() == tensor.read().tobytes()
        assert np.array_equal(tensor[1:, :1], stored[f"{name}/Ftrl"].read()[1:, :1])


def test_keras_3_tells_slots_by_numbers_and_config() -> None:
    stored = tf2flax.open_checkpoint(DATA / "tf2_object" / "model.keras")
    assert {slot: len(names) for slot, names in stored.slots.items()} == {
        "momentum": 14, "velocity": 14,
    }  # fmt: skip
    named = stored.by_variable_name()
    # Of each variable, in turn; the first two are counter and learning rate.
    assert same(
        stored.by_slot("velocity")["layers/conv2d/vars/0"], stored["optimizer/vars/3"]
    )
    for slot in ("momentum", "velocity"):
        assert list(named.by_slot(slot)) == list(
            stored.by_slot(slot).by_variable_name()
        )
        for name, tensor in named.by_slot(slot).items():
            assert same(tensor, named[f"adam/{name.replace('/', '_')}_{slot}"])
    # Without a config nothing tells the order.
    weights = tf2flax.open_checkpoint(DATA / "tf2_object" / "keras.weights.h5")
    assert dict(weights.slots) == {}
    assert "`optimizer/vars/{2..29}`" in repr(weights.slots)
    with pytest.raises(tf2flax.NotFoundError, match=r"is not known: `optimizer/vars/"):
        weights.by_slot("momentum")


def test_keras_3_optimizers_in_an_object_graph() -> None:
    stored = tf2flax.open_checkpoint(DATA / "tf2_object" / "keras_object.ckpt")
    named = stored.by_variable_name()
    for slot in ("momentum", "velocity"):
        view = named.by_slot(slot)
        assert len(view) == 14
        for name, tensor in view.items():
            assert same(tensor, named[f"adam/{name.replace('/', '_')}_{slot}"])
        paths = stored.by_object_path().by_slot(slot)
        assert len(paths) == len(stored.by_slot(slot)) == 14


def test_lists_of_optimizers_where_names_do_not_tell(tmp_path: pathlib.Path) -> None:
    """Two variables that are one name without slashes, and tf.keras 2.11's spelling."""
    checkpoint = write_object_based(
        tmp_path,
        {
            "net/0": ("a/b_c", F4), "net/1": ("a_b/c", F4), "net/2": ("d/w", F4),
            "o/_iterations": ("adam/iteration", np.int64(1)),
            "o/_variables/0": ("adam/a_b_c_momentum", F4),
            "o/_variables/1": ("Adam/m/d/w", F4 + 1),
            "o/_variables/2": ("adam/d_w_velocity", F4 + 2),
            "o/_variables/3": ("adam/d_w_velocity", F4 + 3),
            "o/_variables/4": ("adam/d_w_norm", F4[:3]),
        },
    )  # fmt: skip
    assert dict(checkpoint.slots) == {"m": (f"net/2{SUFFIX}",)}
    assert checkpoint.by_variable_name().by_slot("m")["d/w"].read()[0] == 1
    # 2 and 3 share a name, and 4 is of another shape.
    assert f"`o/_variables/0{SUFFIX}`, `o/_variables/{{2..4}}{SUFFIX}`" in repr(
        checkpoint.slots
    )


def test_references_of_the_graph_count(tmp_path: pathlib.Path) -> None:
    """Slots are those of `slot_variables`, whatever their keys; bad numbers are not."""
    graph = graph_bytes([([], [("a", f"a{SUFFIX}")]), ([], [("s", f"s{SUFFIX}")])])
    # An optimizer: original variable, name, slot variable.
    for variable, name, slot in ((0, b"m", 1), (0, b"x", 9), (-5, b"y", 1)):
        reference = b"\x08" + _varint(variable) + b"\x12\x01" + name
        reference += b"\x18" + _varint(slot)
        node = b"\x1a" + _varint(len(reference)) + reference
        graph += b"\x0a" + _varint(len(node)) + node
    arrays = {f"a{SUFFIX}": F4, f"s{SUFFIX}": F4 + 1}
    write_bundle(tmp_path / "m", {**arrays, GRAPH_KEY: np.array(graph, object)})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    assert dict(checkpoint.slots) == {"m": (f"a{SUFFIX}",)}
    assert checkpoint.by_slot("m")[f"a{SUFFIX}"].read()[0] == 1


def _varint(value: int) -> bytes:
    value, out = value % 2**64, b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def test_every_path_of_a_variable_leads_to_its_slot() -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "tf2_object" / "slots.ckpt")
    view = checkpoint.by_object_path().by_slot("m")
    assert "model/layers/0/kernel" not in list(view)
    assert "model/layers/0/kernel" in view
    assert same(view["model/layers/0/kernel"], view["model/shared/kernel"])
    assert "model/layers/7/kernel" not in view


def test_averages_by_every_path(tmp_path: pathlib.Path) -> None:
    graph = graph_bytes(
        [
            ([("a", 1), ("b", 1), ("ema", 2)], []),
            ([], [("w", f"a{SUFFIX}")]),
            ([], [(f"w/{EMA}", f"ema{SUFFIX}")]),
        ]
    )
    arrays = {f"a{SUFFIX}": F4, f"ema{SUFFIX}": F4 + 1}
    write_bundle(tmp_path / "m", {**arrays, GRAPH_KEY: np.array(graph, object)})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    copied = pickle.loads(pickle.dumps(checkpoint.by_moving_average()))
    for view, name in (
        (copied, f"a{SUFFIX}"),
        (checkpoint.by_moving_average(), f"a{SUFFIX}"),
        (checkpoint.by_object_path().by_moving_average(), "a"),
        (checkpoint.by_object_path().by_moving_average(), "b"),
        (checkpoint.by_moving_average().by_object_path(), "b"),
        (checkpoint.by_variable_name().by_moving_average(), "w"),
        (checkpoint.by_moving_average().by_variable_name(), "w"),
    ):
        assert view[name].read()[0] == 1


@pytest.fixture
def several() -> tf2flax.Checkpoint:
    """Two optimizers and two averages over the same variables, in scopes and not."""
    names = ["w", "b", "w/Adam", "w/Adam_1", "b/Adam", "b/Adam_1"]
    names += [f"train/{v}/Adam" for v in "wb"] + ["train/w/Adam_1"]
    names += [f"w/{EMA}", f"w/{EMA}_1", "w/ema", f"w/{EMA}/biased"]
    names += [f"eval/b/{EMA}", f"ema/b/{EMA}"]
    arrays: dict[str, Any] = {name: F4 + i for i, name in enumerate(names)}
    arrays |= {f"w/{EMA}/local_step": np.float32(3), "global_step": np.int64(1)}
    return tf2flax.open_checkpoint(arrays)


def test_several_optimizers_have_scopes(several: tf2flax.Checkpoint) -> None:
    assert dict(several.slots) == {
        "Adam": ("b", "w"), "Adam_1": ("b", "w"),
        "train/…/Adam": ("b", "w"), "train/…/Adam_1": ("w",),
    }  # fmt: skip
    assert same(several.by_slot("train/…/Adam")["w"], several["train/w/Adam"])
    assert same(several.by_slot("Adam")["w"], several["w/Adam"])
    merged = tf2flax.merge_checkpoints({"a/": several, "b/": {"w": F4, "w/Adam": F4}})
    slots = merged.slots
    assert slots["a/…/Adam"] == ("a/b", "a/w")
    assert slots["a/train/…/Adam"] == ("a/b", "a/w")
    assert slots["b/…/Adam"] == ("b/w",)
    assert same(merged.by_slot("a/train/…/Adam")["a/w"], several["train/w/Adam"])
    with pytest.raises(tf2flax.NotFoundError, match=r"Several optimizers.*`b/…/Adam`"):
        merged.by_slot("Adam")
    # A slot may be written as it stands behind the variable's name.
    assert list(several.by_slot("/Adam_1")) == ["b", "w"]
    adafactor = tf2flax.open_checkpoint({"w": F4, "w_slot_v": F4 + 1})
    assert dict(adafactor.slots) == {"slot_v": ("w",)}
    assert list(adafactor.by_slot("_slot_v")) == ["w"]
    # A scope may be written where it is not needed.
    alone = tf2flax.open_checkpoint({"w": F4, "train_op/w/Adam": F4 + 1})
    assert dict(alone.slots) == {"Adam": ("w",)}
    assert (
        list(alone.by_slot("train_op/…/Adam")) == list(alone.by_slot("Adam")) == ["w"]
    )


def test_averages_by_name_and_scope(several: tf2flax.Checkpoint) -> None:
    with pytest.raises(tf2flax.AssignmentError, match=r"`b` has 2.*`eval/…/Exp"):
        several.by_moving_average()
    view = several.by_moving_average(f"eval/…/{EMA}")
    assert view.averaged == ("b",)
    assert same(view["b"], several[f"eval/b/{EMA}"])
    assert same(view["w"], several["w"])
    assert same(several.by_moving_average("ema")["w"], several["w/ema"])
    assert same(several.by_moving_average(f"{EMA}_1")["w"], several[f"w/{EMA}_1"])
    # No average is a name of its own, whichever is asked for.
    assert set(view) == {name for name in several if EMA not in name}
    with pytest.raises(tf2flax.TensorNotFoundError, match="It is a moving average"):
        view[f"w/{EMA}_1"]
    merged = tf2flax.merge_checkpoints({"a/": RESNET, "b/": view})
    assert merged.averaged == ("b/b",)
    assert same(merged["b/b"], view["b"])
    assert len(tf2flax.merge_checkpoints({"a/": RESNET}).by_moving_average().averaged)


def test_averages_that_were_cut_off() -> None:
    """The variables stand for themselves, which is said."""
    name = f"dnn/table/able/part_0/{EMA}"
    arrays = {"dnn/table": F4, name: F4 + 1}
    with pytest.raises(tf2flax.NotFoundError, match=f"is not known: `{name}`"):
        tf2flax.open_checkpoint(arrays).by_moving_average()
    checkpoint = tf2flax.open_checkpoint({**arrays, "w": F4, f"w/{EMA}": F4 + 2})
    with pytest.warns(UserWarning, match=f"stand for themselves: `{name}`"):
        view = checkpoint.by_moving_average()
    assert view.averaged == ("w",)
    assert view["dnn/table"].read()[0] == 0
    assert name not in view


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c: c.by_slot("Adan"), r"No slot `Adan` found .*Did you mean `Adam`\?"),
        (lambda c: c.by_slot("Adan"), r"There are `Adam`, `Adam_1`, `train/…/Adam`"),
        (lambda c: c.by_moving_average("Adam"), r'use by_slot\("Adam"\)'),
        (lambda c: c.by_moving_average("emaa"), "There are `ExponentialMoving"),
        (lambda c: c.by_moving_average(f"x/…/{EMA}"), "No variable has"),
    ],
)
def test_unknown_names(
    ask: Callable[[tf2flax.Checkpoint], Any], message: str, several: tf2flax.Checkpoint
) -> None:
    with pytest.raises(tf2flax.NotFoundError, match=message):
        ask(several)


@pytest.mark.parametrize("name", [None, 3, b"Adam"])
def test_names_are_names(name: Any, several: tf2flax.Checkpoint) -> None:
    for view in (several.by_slot, several.by_moving_average):
        with pytest.raises(tf2flax.AssignmentError, match="expected the name of"):
            view(name)


def test_checkpoints_without_slots() -> None:
    weights = tf2flax.open_checkpoint({"a": F4})
    assert dict(weights.slots) == {}
    assert str(weights.slots) == "Slots of the optimizers: none"
    with pytest.raises(tf2flax.NotFoundError, match="holds no slots"):
        weights.by_slot("Adam")
    with pytest.raises(tf2flax.NotFoundError, match="holds no moving averages"):
        weights.by_moving_average()


def test_a_variable_without_the_slot() -> None:
    view = tf2flax.open_checkpoint(RESNET).by_slot("Momentum")
    with pytest.raises(tf2flax.TensorNotFoundError, match="has no slot `Momentum`"):
        view["global_step"]
    assert view.get("global_step") is None


def test_nothing_is_read() -> None:
    """Names and shapes alone: these have no data file."""
    prefix = DATA / "bert" / "model.ckpt"
    entries = tf2flax.open_checkpoint(prefix).manifest
    files = {piece.path for n in entries.names for piece in entries.entry(n).pieces}
    assert files

    class Unreadable:
        shape, dtype = (3,), np.dtype("f4")

        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise AssertionError("read")

    arrays: dict[str, Any] = {n: Unreadable() for n in ("w", "w/Adam", f"w/{EMA}")}
    checkpoint = tf2flax.open_checkpoint(arrays)
    assert dict(checkpoint.slots) == {"Adam": ("w",)}
    assert checkpoint.by_slot("Adam")["w"].shape == (3,)
    assert checkpoint.by_moving_average().averaged == ("w",)


def test_a_plan_reads_no_graph(tmp_path: pathlib.Path) -> None:
    variables = {"a": ("w", F4), "b": ("w/Adam", F4), "o/iter": ("i", np.int64(1))}
    stored = write_object_based(tmp_path, variables)
    slot = f"a/.OPTIMIZER_SLOT/o/m{SUFFIX}"
    write_bundle(tmp_path / "m", {**{n: stored[n].read() for n in stored}, slot: F4})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    (tmp_path / "m.data-00000-of-00001").unlink()
    plan = tf2flax.plan(checkpoint, {f"a{SUFFIX}": "w"}, {"w": F4})
    assert plan.to_dict()["unused"]["optimizer_slots"] == [slot]
    # With nothing to read, views take what keys say.
    assert dict(checkpoint.slots) == {"m": (f"a{SUFFIX}",)}


# --- random trees --------------------------------------------------------------------

DTYPES = [
    *("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "c16"),
    *("?", ml_dtypes.bfloat16),
]
COMPONENTS = st.sampled_from(
    ["a", "b", "kernel", "Adam", "Adam_1", "Momentum", "m", "v", EMA, "part_0", "vr"]
)
NAMES = st.lists(COMPONENTS, min_size=1, max_size=3).map("/".join)
OPTIMIZERS = st.lists(
    st.tuples(
        st.sampled_from(["", "training", "OptimizeLoss", "x/y"]),
        st.sampled_from(
            [
                ("Adam", "Adam_1"), ("Momentum",), ("RMSProp", "RMSProp_1"), (EMA,),
                ("adam_m", "adam_v"), ("Ftrl", "Ftrl_1"), ("policy_optimizer",),
            ]
        ),
    ),
    max_size=3,
    unique_by=lambda optimizer: optimizer[1],
)  # fmt: skip


def array_of(draw: Callable[[Any], Any], number: int) -> np.ndarray[Any, Any]:
    """An array of a shape of its own: so no slot fits two variables."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = [(), (0, 3), (number + 1,), (2, number + 1), (number + 1, 1, 2)]
    chosen = shape[number] if number < 2 else draw(st.sampled_from(shape[2:]))
    return np.arange(np.prod(chosen, dtype=int)).reshape(chosen).astype(dtype)


@settings(max_examples=60)
@given(data=st.data())
def test_random_trees(data: st.DataObject) -> None:
    variables = data.draw(st.lists(NAMES, unique=True, min_size=1, max_size=6))
    arrays = {
        name: array_of(data.draw, number) for number, name in enumerate(variables)
    }
    slots: dict[str, dict[str, str]] = {}
    for scope, names in data.draw(OPTIMIZERS):
        trained = data.draw(st.lists(st.sampled_from(variables), unique=True))
        for slot, variable in itertools.product(names, trained):
            name = "/".join(filter(None, (scope, variable, slot)))
            if name not in arrays:
                slots.setdefault(slot, {})[variable] = name
                arrays[name] = arrays[variable].copy()
        if scope:
            arrays[f"{scope}/beta1_power"] = np.zeros((), "f4")
    for number, name in enumerate(data.draw(st.lists(NAMES, max_size=4)), start=20):
        arrays.setdefault(name, np.zeros((number, 3), "f4"))  # look-alikes
    for variable in data.draw(st.lists(st.sampled_from(variables), unique=True)):
        arrays.setdefault(f"{variable}/Adagrad", np.zeros((99,), "f4"))
    checkpoint = tf2flax.open_checkpoint(arrays)
    averages = slots.pop(EMA, {})
    assert {slot: set(names) for slot, names in checkpoint.slots.items()} == {
        slot: set(names) for slot, names in slots.items()
    }
    for slot, names in slots.items():
        view = checkpoint.by_slot(slot)
        for variable, name in names.items():
            assert_same_array(view[variable], arrays[name])
    if averages:
        view = checkpoint.by_moving_average()
        assert view.averaged == tuple(sorted(averages))
        assert set(view) == set(arrays) - set(averages.values())
        for name, tensor in view.items():
            assert_same_array(tensor, arrays[averages.get(name, name)])


def assert_same_array(
    tensor: tf2flax.StoredTensor, expected: np.ndarray[Any, Any]
) -> None:
    array = tensor.read()
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    assert array.tobytes() == expected.tobytes()


def test_slices_of_every_kind_in_a_file(tmp_path: pathlib.Path) -> None:
    arrays: dict[str, Any] = {}
    for number, dtype in enumerate(DTYPES):
        rows = np.arange(12).reshape(4, 3).astype(dtype)
        slices = [(slice(0, 1), slice(0, 3)), (slice(1, 4), slice(0, 3))]
        arrays[f"v{number}"] = Tensor(rows, slices)
        arrays[f"v{number}/Adam"] = Tensor(rows[::-1].copy(), slices)
        arrays[f"t/v{number}/{EMA}"] = Tensor(rows * rows.dtype.type(1), slices)
    arrays |= {"s": F4[0], "s/Adam": F4[1], "e": F4[:0], "e/Adam": F4[:0]}
    write_bundle(tmp_path / "m", arrays)
    stored = tf2flax.open_checkpoint(tmp_path / "m")
    view, averages = stored.by_slot("Adam"), stored.by_moving_average()
    assert len(view) == len(DTYPES) + 2
    for name in view:
        assert same(view[name], stored[f"{name}/Adam"])
        assert len(view[name].slices) == (2 if name[0] == "v" else 0)
    for name in averages.averaged:
        assert same(averages[name], stored[f"t/{name}/{EMA}"])
    assert len(averages.averaged) == len(DTYPES)
    assert view.verify().ok


# --- what uses the same roles --------------------------------------------------------


def test_ls_and_convert_and_plans_agree(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays: Mapping[str, Any] = {
        "w": F4, "w/policy_optimizer": F4, f"t/w/{EMA}": F4, "x/Adam": F4,
        "beta1_power": F4[0], "global_step": np.int64(1), "Momentum/kernel": F4[:2],
        "w/Adam": F4[:2],
    }  # fmt: skip
    prefix = tf2flax.save_checkpoint(tmp_path / "m", arrays)
    left = {"w/policy_optimizer", f"t/w/{EMA}", "beta1_power"}
    assert main(["ls", "--json", "--no-slots", prefix]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["slots_left_out"]) == left
    report = tf2flax.convert(prefix, tmp_path / "m.safetensors", slots=False)
    assert set(report.dropped) == left
    plan = tf2flax.plan(prefix, {"w": "w"}, {"w": F4})
    unused = plan.to_dict()["unused"]
    assert unused["optimizer_slots"] == ["beta1_power", "w/policy_optimizer"]
    assert unused["averages"] == [f"t/w/{EMA}"]
    assert set(unused["variables"]) == set(arrays) - left - {"w"}


def test_ls_leaves_out_the_slots_of_keras_3(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(DATA / "tf2_object" / "keras.weights.h5")
    assert main(["ls", "--json", "--no-slots", path]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all("optimizer" not in t["name"] for t in document["tensors"])


def test_one_map_for_weights_averages_and_slots() -> None:
    stored = tf2flax.open_checkpoint(RESNET)
    kernel = stored["resnet_v1_8/logits/weights"]
    target = {"kernel": np.zeros(kernel.shape[2:], "f4")}
    entries = {tf2flax.src("resnet_v1_8/logits/weights")[0, 0]: "kernel"}
    for view, name in (
        (stored, kernel.name),
        (stored.by_moving_average(), f"{kernel.name}/{EMA}"),
        (stored.by_slot("Momentum"), f"{kernel.name}/Momentum"),
    ):
        tree = tf2flax.init_from_checkpoint(view, entries, target)
        assert np.array_equal(tree["kernel"], stored[name].read()[0, 0])
    with pytest.raises(tf2flax.AssignmentError, match="global_step"):
        tf2flax.init_from_checkpoint(
            stored.by_slot("Momentum"), {"global_step": "kernel"}, target
        )


def test_a_view_is_converted(tmp_path: pathlib.Path) -> None:
    bert = tf2flax.open_checkpoint(DATA / "bert" / "model.ckpt").by_slot("adam_v")
    for by_reference in (False, True):
        out = tmp_path / f"{by_reference}.orbax"
        report = tf2flax.convert(bert, out, format="orbax", by_reference=by_reference)
        assert sorted(report.written) == sorted(bert)
    view = tf2flax.open_checkpoint(WIDE).by_slot("Ftrl")
    tf2flax.convert(view, tmp_path / "m.npz", format="npz")
    with np.load(tmp_path / "m.npz") as arrays, warnings.catch_warnings():
        assert sorted(arrays) == sorted(view)
        assert all(np.array_equal(arrays[name], view[name].read()) for name in view)
