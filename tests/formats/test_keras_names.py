"""Names of Keras 3's layers and variables: what Keras calls them, or numbers."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import DATA

import tf2flax
from tf2flax._formats.keras.archive import CONFIG, MEMBER
from tf2flax._formats.keras.config import ConfigFile, nodes_of, parse_json
from tf2flax._formats.keras.file import KerasFile

h5py = pytest.importorskip("h5py")

NAMES = DATA / "keras" / "names"
VERSIONS = ["3.3.3", "3.15.1"]
Groups = Mapping[str, tuple[str, list[np.ndarray]]]


def stored(folder: pathlib.Path, groups: Groups, name: str = "m.weights.h5") -> str:
    """A file of weights: place of a group -> name of the layer and variables."""
    path = folder / name
    with h5py.File(path, "w") as file:
        for place, (layer, variables) in groups.items():
            group = file.create_group(f"{place}/vars" if place else "vars")
            if layer:
                group.attrs["name"] = layer
            for number, value in enumerate(variables):
                group.create_dataset(str(number), data=value)
    return str(path)


def archived(
    folder: pathlib.Path, groups: Groups, config: object, *, method: int = 0
) -> str:
    weights = pathlib.Path(stored(folder, groups)).read_bytes()
    path = folder / "m.keras"
    with zipfile.ZipFile(path, "w", method) as archive:
        text = config if isinstance(config, str) else json.dumps(config)
        archive.writestr(CONFIG, text)
        archive.writestr(MEMBER, weights)
    return str(path)


def zeros(*shapes: tuple[int, ...], dtype: str = "f4") -> list[np.ndarray]:
    return [np.zeros(shape, dtype) for shape in shapes]


DENSE = zeros((3, 2), (2,))


def names(path: str | pathlib.Path) -> list[str]:
    return list(tf2flax.open_checkpoint(path).by_variable_name())


def layer(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": {"name": name, **config},
    }


def model(*layers: object, **more: Any) -> dict[str, Any]:
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "top", "layers": list(layers)},
        **more,
    }


# --- what Keras says --------------------------------------------------------------


def truth(version: str) -> dict[str, np.ndarray]:
    """Values by Keras's paths, of those that are unique."""
    with np.load(NAMES / f"{version}.npz") as file:
        paths = [key.partition("|")[2].replace("|", "/") for key in file]
        counts = collections.Counter(paths)
        values = [file[key] for key in file]
    found = dict(zip(paths, values, strict=True))
    # Keras saves no states of random seeds.
    return {
        path: value
        for path, value in found.items()
        if counts[path] == 1 and not path.startswith("seed_generator")
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_names_are_those_of_keras(version: str) -> None:
    checkpoint = tf2flax.open_checkpoint(NAMES / f"{version}.keras")
    view = checkpoint.by_variable_name()
    assert len(view) == len(checkpoint)
    expected = truth(version)
    assert len(expected) > 40
    optimizer = "SGD" if version == "3.3.3" else "sgd"
    # The two models within have a layer of one name, which Keras calls `d` twice.
    twice = {
        name
        for part in ("left", "right")
        for variable in ("kernel", "bias")
        for name in (
            f"{part}/d/{variable}",
            f"{optimizer}/{part}_d_{variable}_momentum",
        )
    }
    assert set(view) == set(expected) | twice
    for name, value in expected.items():
        assert view[name].read().tobytes() == value.tobytes(), name
        assert view[name].read().dtype == value.dtype
    left, right = view["left/d/kernel"].read(), view["right/d/kernel"].read()
    assert not np.array_equal(left, right)
    assert f"{optimizer}/conv1_kernel_momentum" in view
    assert f"{optimizer}/frozen_kernel_momentum" not in view


@pytest.mark.parametrize("version", VERSIONS)
def test_names_without_a_config(version: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.weights.h5"
    with zipfile.ZipFile(NAMES / f"{version}.keras") as archive:
        path.write_bytes(archive.read(MEMBER))
    checkpoint = tf2flax.open_checkpoint(path)
    if version == "3.3.3":
        with pytest.warns(UserWarning, match="holds no names of layers"):
            view = checkpoint.by_variable_name()
        assert list(view) == list(checkpoint)
        return
    view = checkpoint.by_variable_name()
    expected = truth(version)
    for name in view:
        stem, _, last = name.rpartition("/")
        if last.isdecimal():
            assert stem in {"sgd", "norm", "ln", "steps/td"}, name
        elif name in expected:
            assert view[name].read().tobytes() == expected[name].tobytes()
        else:
            assert name.startswith(("left/d/", "right/d/"))
    # Of three variables it is not known which the normalisation lacks.
    assert {f"norm/{number}" for number in range(3)} <= set(view)
    assert "both/forward_l/lstm_cell/recurrent_kernel" in view
    assert "att/attention_output/bias" in view


def test_one_entry_maps_a_layer_and_one_a_model() -> None:
    view = tf2flax.open_checkpoint(NAMES / "3.15.1.keras").by_variable_name()
    target = {"conv1": {"kernel": np.zeros((2, 4, 4), "f4"), "bias": np.zeros(4, "f4")}}
    for assignments, tree in (
        ({"conv1/": "a/"}, {"a": target["conv1"]}),
        ({"/": "params/"}, {"params": target}),
    ):
        restored = tf2flax.init_from_checkpoint(view, assignments, tree)
        found = restored["a"] if "a" in restored else restored["params"]["conv1"]
        assert np.array_equal(found["kernel"], view["conv1/kernel"].read())
        assert np.array_equal(found["bias"], view["conv1/bias"].read())


def test_saving_through_the_view_writes_stored_names(tmp_path: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(NAMES / "3.15.1.keras")
    target = {"bias": np.zeros(4, "f4")}
    plan = tf2flax.plan(checkpoint.by_variable_name(), {"conv1/": "/"}, target)
    assert np.array_equal(plan.restore()["bias"], checkpoint["layers/conv1d/vars/1"])
    new = {"bias": np.arange(4, dtype="f4")}
    with pytest.warns(UserWarning, match=r"3 tensors are copied .*`optimizer/vars/3`"):
        prefix = tf2flax.save_checkpoint(tmp_path / "m", new, plan=plan)
    saved = tf2flax.open_checkpoint(prefix)
    assert list(saved) == list(checkpoint)
    assert saved["layers/conv1d/vars/1"].read().tolist() == [0, 1, 2, 3]


def test_a_view_can_be_pickled_read_and_verified() -> None:
    view = tf2flax.open_checkpoint(NAMES / "3.15.1.keras").by_variable_name()
    copied = pickle.loads(pickle.dumps(view))
    assert copied.verify().ok
    arrays = view.read()
    assert list(arrays) == list(copied)
    for name, array in copied.read().items():
        assert array.tobytes() == arrays[name].tobytes()


# --- the class of a layer ---------------------------------------------------------

BY_GROUP: dict[str, tuple[str, list[np.ndarray], list[str]]] = {
    "dense": ("layers/dense_12", DENSE, ["kernel", "bias"]),
    "no bias": ("layers/dense", zeros((3, 2)), ["kernel"]),
    "more": ("layers/dense", zeros((3, 2), (2,), (2,)), ["0", "1", "2"]),
    "quantised": (
        "layers/dense",
        [*zeros((3, 2), dtype="i1"), *zeros((2,))],
        ["0", "1"],
    ),
    "float16": ("layers/dense", zeros((3, 2), (2,), dtype="f2"), ["kernel", "bias"]),
    "another class": ("layers/dense", zeros((2,), (3, 2)), ["0", "1"]),
    "conv": ("layers/conv2d_transpose", zeros((3, 3, 2, 1), (2,)), ["kernel", "bias"]),
    "depthwise": ("layers/depthwise_conv2d", zeros((3, 3, 2, 1)), ["kernel"]),
    "separable": (
        "layers/separable_conv1d",
        zeros((3, 2, 1), (1, 2, 4), (4,)),
        ["depthwise_kernel", "pointwise_kernel", "bias"],
    ),
    "embedding": ("layers/embedding", zeros((9, 2)), ["embeddings"]),
    "batch": (
        "layers/batch_normalization_3",
        zeros((2,), (2,), (2,), (2,)),
        ["gamma", "beta", "moving_mean", "moving_variance"],
    ),
    "batch of 3": ("layers/batch_normalization", zeros(*[(2,)] * 3), ["0", "1", "2"]),
    "batch of 2": (
        "layers/batch_normalization",
        zeros((2,), (2,)),
        ["moving_mean", "moving_variance"],
    ),
    "layer": ("layers/layer_normalization", zeros((2,), (2,)), ["gamma", "beta"]),
    "layer of 1": ("layers/layer_normalization", zeros((2,)), ["0"]),
    "group": ("layers/group_normalization", zeros((2,), (2,)), ["gamma", "beta"]),
    "rms": ("layers/rms_normalization", zeros((2,)), ["scale"]),
    "normalization": (
        "layers/normalization",
        [*zeros((2,), (2,)), *zeros((), dtype="i4")],
        ["mean", "variance", "count"],
    ),
    "prelu": ("layers/p_re_lu", zeros((2,)), ["alpha"]),
    "einsum": ("layers/einsum_dense", zeros((2, 2), (2,)), ["kernel", "bias"]),
    "attention": (
        "layers/attention",
        zeros((), ()),
        ["scale", "concat_score_weight"],
    ),
    "attention of another": ("layers/attention", zeros((3, 1), (4, 1)), ["0", "1"]),
    "unknown": ("layers/my_layer", zeros((2,)), ["0"]),
    "attribute": ("dense", DENSE, ["0", "1"]),
    "attribute of a layer": ("layers/my_layer/dense", DENSE, ["0", "1"]),
    "list": ("blocks/dense_1", DENSE, ["kernel", "bias"]),
    "list in a layer": ("layers/my_layer/more/dense", DENSE, ["kernel", "bias"]),
    "nested list": ("table/container_1/dense", DENSE, ["kernel", "bias"]),
}


@pytest.mark.parametrize("case", BY_GROUP)
def test_the_class_in_the_name_of_a_group(case: str, tmp_path: pathlib.Path) -> None:
    place, variables, expected = BY_GROUP[case]
    around = {"": ("top", []), "layers/my_layer": ("outer", [])}
    path = stored(tmp_path, {**around, place: ("given", variables)})
    start = "outer/given" if place.startswith("layers/my_layer/") else "given"
    assert names(path) == sorted(f"{start}/{name}" for name in expected)


CELL = zeros((2, 8), (2, 8), (8,))


def test_cells_and_attention(tmp_path: pathlib.Path) -> None:
    groups: dict[str, tuple[str, list[np.ndarray]]] = {
        "": ("top", []),
        "layers/lstm": ("l", []),
        "layers/lstm/cell": ("lstm_cell", CELL),
        "layers/bidirectional": ("b", []),
        "layers/bidirectional/forward_layer": ("forward_x", []),
        "layers/bidirectional/forward_layer/cell": ("gru_cell", CELL),
        "layers/bidirectional/backward_layer": ("backward_x", []),
        "layers/bidirectional/backward_layer/cell": ("my_cell", CELL),
        "mine": ("mine", []),
        "mine/my_attention": ("x", []),
        "mine/my_attention/_query_dense": ("query", zeros((2, 2, 2))),
        "mine/my_attention/_key_dense": ("other", zeros((2, 2, 2))),
        # A normalisation, say: attention's kernels have three axes.
        "mine/my_attention/_value_dense": ("value", zeros((2,), (2,))),
        "layers/multi_head_attention": ("m", []),
        "layers/multi_head_attention/_query_dense": ("query", zeros((2, 2, 2))),
        "layers/multi_head_attention/output_dense": ("out", zeros((2, 2, 2), (2,))),
        "layers/time_distributed": ("t", []),
        "layers/time_distributed/layer": ("d", DENSE),
    }
    cell = ["bias", "kernel", "recurrent_kernel"]
    assert names(stored(tmp_path, groups)) == [
        *(f"b/backward_x/my_cell/{number}" for number in range(3)),
        *(f"b/forward_x/gru_cell/{name}" for name in cell),
        *(f"l/lstm_cell/{name}" for name in cell),
        *("m/out/bias", "m/out/kernel", "m/query/kernel"),
        *("mine/x/other/0", "mine/x/query/kernel", "mine/x/value/0", "mine/x/value/1"),
        *("t/d/0", "t/d/1"),
    ]


def test_the_config_tells_classes(tmp_path: pathlib.Path) -> None:
    other = {"module": "mine", "registered_name": "mine>Dense"}
    config = model(
        layer("Dense", "first"),
        {**layer("Dense", "custom"), **other},
        # Keras writes no module for a class of a script.
        {**layer("Dense", "script"), **other, "module": None},
        {**layer("Dense", "alike"), **other, "module": "keras_mine"},
        layer("BatchNormalization", "norm", scale=False, center=True),
        layer("BatchNormalization", "renorm", center=False, renorm=True),
        layer("LayerNormalization", "rms", rms_scaling=True),
        layer("TimeDistributed", "t", layer=layer("Dense", "inner")),
        {"module": "keras.src.ops.numpy", "class_name": "Dense", "config": {}},
        layer("Dense", "last", use_bias=False),
    )
    groups = {
        "": ("top", []),
        "layers/dense": ("first", DENSE),
        "layers/dense_1": ("custom", DENSE),
        "layers/dense_2": ("script", DENSE),
        "layers/dense_3": ("alike", DENSE),
        "layers/dense_4": ("last", zeros((3, 2))),
        "layers/batch_normalization": ("norm", zeros((2,), (2,), (2,))),
        "layers/batch_normalization_1": ("renorm", zeros(*[(2,)] * 6)),
        "layers/layer_normalization": ("rms", zeros((2,))),
        "layers/time_distributed": ("t", []),
        "layers/time_distributed/layer": ("inner", DENSE),
    }
    expected = [
        *("alike/0", "alike/1", "custom/0", "custom/1", "first/bias", "first/kernel"),
        *("last/kernel", "norm/beta", "norm/moving_mean", "norm/moving_variance"),
        *("renorm/gamma", "renorm/moving_mean", "renorm/moving_stddev"),
        *("renorm/moving_variance", "renorm/renorm_mean", "renorm/renorm_stddev"),
        *("rms/gamma", "script/0", "script/1"),
        *("t/inner/bias", "t/inner/kernel"),
    ]
    assert names(archived(tmp_path, groups, config)) == expected
    deflated = archived(tmp_path, groups, config, method=zipfile.ZIP_DEFLATED)
    assert names(deflated) == expected


def test_a_config_of_another_model_is_not_believed(tmp_path: pathlib.Path) -> None:
    config = model(layer("BatchNormalization", "other", scale=False))
    groups = {
        "": ("top", []),
        "layers/batch_normalization": ("norm", zeros(*[(2,)] * 3)),
    }
    assert names(archived(tmp_path, groups, config)) == ["norm/0", "norm/1", "norm/2"]
    # Nor is one that says another number of variables.
    config = model(layer("BatchNormalization", "norm"))
    assert names(archived(tmp_path, groups, config)) == ["norm/0", "norm/1", "norm/2"]


def test_names_that_variables_share(tmp_path: pathlib.Path) -> None:
    groups = {
        "": ("top", []),
        "a": ("same", [np.zeros(2), np.ones(2)]),
        "b": ("same", [np.ones(2)]),
        "c": ("other", [np.ones(2)]),
    }
    checkpoint = tf2flax.open_checkpoint(stored(tmp_path, groups))
    view = checkpoint.by_variable_name()
    with pytest.raises(tf2flax.UnsupportedError) as caught:
        view["same/0"]
    assert "`a/vars/0`, `b/vars/0`" in str(caught.value)
    assert list(view) == ["other/0", "same/1"]
    assert set(view.read()) == set(view)
    assert view["same/1"].read().tolist() == [1, 1]
    assert view["other/0"].read().tolist() == [1, 1]


def test_keys_that_are_no_numbers_are_names(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/text_vectorization/vars")
        group.attrs["name"] = "text"
        group.create_dataset("idf_weights", data=np.ones(3))
        file.create_dataset("stray", data=1)
        file.create_group("vars").attrs["name"] = "top"
        file["vars/0"] = 3.0
    assert names(path) == ["0", "stray", "text/idf_weights"]


# --- optimizers -------------------------------------------------------------------


def optimizer(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    found = {"class_name": class_name, "config": {"name": name, **config}}
    return {"optimizer": found}


VARIABLES = ["a_kernel", "a_bias", "b_kernel", "b_bias"]
SHAPES: list[tuple[int, ...]] = [(3, 2), (2,), (2, 1), (1,)]
SLOTS: dict[str, tuple[dict[str, Any], list[tuple[str, ...]]]] = {
    "Adam": ({}, [("momentum", "velocity")]),
    "AdamW": ({"amsgrad": True}, [("momentum", "velocity"), ("velocity_hat",)]),
    "SGD": ({"momentum": 0.5}, [("momentum",)]),
    "RMSprop": ({"centered": True}, [("velocity",), ("average_gradient",)]),
    "Adagrad": ({}, [("accumulator",)]),
    "Adamax": ({"use_ema": True}, [("average",), ("momentum", "norm")]),
    "Ftrl": (
        {"gradient_accumulation_steps": 2},
        [("gradient_accumulator",), ("accumulator", "linear")],
    ),
    "Lion": ({"learning_rate": {"class_name": "Decay"}}, [("momentum",)]),
}


@pytest.mark.parametrize("class_name", SLOTS)
def test_slots(class_name: str, tmp_path: pathlib.Path) -> None:
    config, groups_of_slots = SLOTS[class_name]
    first = (
        ["iteration"] if "learning_rate" in config else ["iteration", "learning_rate"]
    )
    expected = [*first]
    shapes: list[tuple[int, ...]] = [()] * len(first)
    for together in groups_of_slots:
        for variable, shape in zip(VARIABLES, SHAPES, strict=True):
            for slot in together:
                expected.append(f"{variable}_{slot}")
                shapes.append(shape)
    described = model(
        layer("Dense", "a"),
        layer("Dense", "frozen", trainable=False),
        layer("Dense", "b"),
        compile_config=optimizer(class_name, "opt", **config),
    )
    groups = {
        "": ("top", []),
        "layers/dense": ("a", zeros(*SHAPES[:2])),
        "layers/dense_1": ("frozen", DENSE),
        "layers/dense_2": ("b", zeros(*SHAPES[2:])),
        "optimizer": ("opt", zeros(*shapes)),
    }
    path = archived(tmp_path, groups, described)
    found = tf2flax.open_checkpoint(path).by_variable_name()
    keys = {name for name in found if name.startswith("opt/")}
    assert keys == {f"opt/{name}" for name in expected}
    # What does not fit is not guessed: a variable less, or of another shape.
    for shapes_of_another in (shapes[:-1], [*shapes[:-1], (7,)]):
        groups["optimizer"] = ("opt", zeros(*shapes_of_another))
        found = tf2flax.open_checkpoint(archived(tmp_path, groups, described))
        left = [
            name.split("/")[1] for name in found.by_variable_name() if "opt/" in name
        ]
        numbers = range(len(first), len(shapes_of_another))
        assert sorted(left) == sorted([*first, *map(str, numbers)])


def test_slots_of_layers_in_attributes(tmp_path: pathlib.Path) -> None:
    a, b = layer("Dense", "a"), layer("Dense", "b")
    weights = zeros((3, 2), (2,))
    groups: dict[str, tuple[str, list[np.ndarray]]] = {
        "": ("top", []),
        "layers/pair": ("pair", []),
        "optimizer": ("opt", [*zeros((), ()), *weights, *weights]),
    }

    def slots(config: Mapping[str, Any], *places: str) -> list[str]:
        pair = {**layer("Pair", "pair", **config), "module": None}
        pair["registered_name"] = "Pair"
        described = model(
            pair, compile_config=optimizer("SGD", "opt", momentum=0.5, learning_rate=1)
        )
        inner = zip(places, "ab", strict=True)
        more = {f"layers/pair/{place}": (name, weights) for place, name in inner}
        view = names(archived(tmp_path, {**groups, **more}, described))
        slots = {name.removeprefix("opt/") for name in view if "opt/" in name}
        return sorted(slots - {"iteration", "learning_rate"})[:2]

    # A class of the user's may track its layers in another order than its config has.
    assert slots({"x": a, "y": b}, "x", "y") == ["2", "3"]
    named = ["pair_a_bias_momentum", "pair_a_kernel_momentum"]
    assert slots({"x": [a, b]}, "x/dense", "x/dense_1") == named


def test_an_optimizer_given_by_a_word(tmp_path: pathlib.Path) -> None:
    described = model(layer("Dense", "a"), compile_config={"optimizer": "sgd"})
    groups = {
        "layers/dense": ("", DENSE),
        "optimizer": ("", zeros((), ())),
    }
    # As Keras 3.3 stores it: every name comes from the config.
    assert names(archived(tmp_path, groups, described)) == [
        *("SGD/iteration", "SGD/learning_rate", "a/bias", "a/kernel"),
    ]


# --- what cannot be named, and damage ---------------------------------------------


def test_files_of_keras_2_have_their_names_already(data: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(data / "keras" / "keras2_model.h5")
    with pytest.raises(tf2flax.UnsupportedError, match="names are the variables' own"):
        checkpoint.by_variable_name()


def test_an_archive_without_a_config(tmp_path: pathlib.Path) -> None:
    weights = pathlib.Path(
        stored(tmp_path, {"layers/dense": ("d", DENSE)})
    ).read_bytes()
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, weights)
    assert names(path) == ["d/bias", "d/kernel"]


BAD_CONFIGS = {
    "cut": '{"class_name": "Seq',
    "list": "[]",
    "deep": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "not text": "\udcff",
    "a large number": '{"a": ' + "9" * 10_000 + "}",
    "empty": "",
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_damaged_config_leaves_stored_names(
    case: str, tmp_path: pathlib.Path
) -> None:
    weights = pathlib.Path(
        stored(tmp_path, {"layers/dense": ("d", DENSE)})
    ).read_bytes()
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(CONFIG, BAD_CONFIGS[case].encode("utf-8", "surrogateescape"))
        archive.writestr(MEMBER, weights)
    checkpoint = tf2flax.open_checkpoint(path)
    assert len(checkpoint) == 2
    with pytest.raises(tf2flax.DamagedError, match=r"`config.json`.*m\.keras"):
        checkpoint.by_variable_name()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["Dense", "adam", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                (
                    *("class_name", "config", "layers", "layer", "name", "cell"),
                    *("module", "compile_config", "optimizer", "learning_rate"),
                )
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(
    config=st.dictionaries(st.sampled_from(["class_name", "config", "module"]), JSON)
)
def test_any_config_is_followed(config: dict[str, Any]) -> None:
    groups = {"layers", "layers/dense", "layers/dense/cell", "optimizer", "layer"}
    nodes = nodes_of(parse_json(json.dumps(config).encode()), groups)
    assert set(nodes) <= groups | {""}


@given(flips=st.dictionaries(st.integers(0, 10**6), st.integers(1, 255), max_size=3))
def test_any_damaged_archive_is_named_or_refused(flips: dict[int, int]) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(CONFIG, json.dumps(model(layer("Dense", "d"))))
        archive.writestr(MEMBER, b"\x89HDF\r\n\x1a\n")
    contents = bytearray(out.getvalue())
    for position, mask in flips.items():
        contents[position % len(contents)] ^= mask
    file = ConfigFile(KerasFile("m.keras", bytes(contents)), is_archive=True)
    with contextlib.suppress(tf2flax.DamagedError, tf2flax.UnsupportedError):
        assert file.read() is None or nodes_of(file.read() or {}, {"layers"})
