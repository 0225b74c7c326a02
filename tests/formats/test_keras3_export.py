"""Exports of Keras 3 hold each variable twice; views list what they can answer."""

from __future__ import annotations

import pathlib
import pickle
from typing import Any, Literal

import numpy as np
import pytest
from bundle_writer import Tensor
from hypothesis import given
from hypothesis import strategies as st
from object_graphs import SUFFIX, write_object_based
from repository import DATA

import tf2flax

EXPORTS = DATA / "keras3_export"
ZEROS = np.zeros(3, "<f4")
POLICIES: tuple[Literal["error", "keep"], ...] = ("error", "keep")


def of_keras(export: str) -> dict[str, np.ndarray]:
    """Values as the model had them: number and path, joined by `|`."""
    with np.load(EXPORTS / export / "values.npz") as arrays:
        return dict(arrays)


def bits(array: np.ndarray) -> Any:
    return array.tolist() if array.dtype == object else array.tobytes()


def check_mapping(view: tf2flax.Checkpoint) -> None:
    """What a Mapping lists it answers, in every way, and nothing else is in it."""
    names = list(view)
    assert len(view) == len(names) == len(set(names))
    assert names == sorted(names)
    arrays = view.read()
    assert list(arrays) == names == [name for name, _ in view.items()]
    assert [tensor.name for tensor in view.values()] == names
    for name in names:
        assert name in view
        assert bits(view[name].read()) == bits(arrays[name])
    for name in view.manifest.shared_names:
        assert name not in view
        assert view.get(name) is None
        with pytest.raises(tf2flax.TensorNotFoundError, match="is shared by"):
            view[name]
        with pytest.raises(tf2flax.UnsupportedError, match="is shared by"):
            view.read([name])
    report = view.verify()
    assert report.num_tensors == len(names)
    assert report.unchecked == view.manifest.shared_names
    again = pickle.loads(pickle.dumps(view))
    assert list(again) == names
    assert again.manifest.shared_names == view.manifest.shared_names


@pytest.mark.parametrize("version", ["3.3.3", "3.15.1"])
def test_exported_variables_are_answered_by_name(version: str) -> None:
    folder = EXPORTS / f"functional-{version}"
    view = tf2flax.open_checkpoint(folder).by_variable_name()
    values = {
        key.partition("|")[2].replace("|", "/"): array
        for key, array in of_keras(folder.name).items()
    }
    arrays = view.read()
    assert arrays.keys() == values.keys()
    for name, array in values.items():
        assert arrays[name].tobytes() == array.tobytes(), name
        assert arrays[name].dtype == array.dtype
    target = {"fc1": {"kernel": np.zeros((6, 5), "f4"), "bias": np.zeros(5, "f4")}}
    got = tf2flax.init_from_checkpoint(view, {"fc1/": "fc1/"}, target)
    assert np.asarray(got["fc1"]["kernel"]).tobytes() == values["fc1/kernel"].tobytes()
    plan = tf2flax.plan(view, {"fc1/": "fc1/"}, target)
    assert set(plan.unused) == values.keys() - {"fc1/kernel", "fc1/bias"}


@pytest.mark.parametrize(
    "path",
    [
        "keras3_export/functional-3.3.3",
        "keras3_export/functional-3.15.1",
        "keras3_export/nested-3.15.1",
        "tf1_keras/object.ckpt",
        "tf1_keras/slots.ckpt-1",
        "tf2_object/object.ckpt",
        "tf2_object/slots.ckpt",
        "tf2_object/keras_object.ckpt",
    ],
)
def test_what_views_list_they_answer(path: str) -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / path)
    for view in (checkpoint.by_variable_name(), checkpoint.by_object_path()):
        check_mapping(view)
        merged = tf2flax.merge_checkpoints({"a/": view, "b/": checkpoint})
        check_mapping(merged)
        assert len(merged) == len(view) + len(checkpoint)


def test_equal_variables_of_two_submodels_stay_two() -> None:
    """Biases and norms of layers `d` and `n` in `left` and `right` are all fresh."""
    checkpoint = tf2flax.open_checkpoint(EXPORTS / "nested-3.15.1")
    view = checkpoint.by_variable_name()
    assert list(view) == ["out/bias", "out/kernel"]
    shared = ["beta", "gamma", "moving_mean", "moving_variance"]
    assert view.manifest.shared_names == (
        "d/bias",
        "d/kernel",
        *(f"n/{name}" for name in shared),
    )
    with pytest.raises(tf2flax.UnsupportedError) as caught:
        view["d/bias"]
    for place in ("variables/1", "variables/7", "_all_variables/"):
        assert place in str(caught.value)
    paths = checkpoint.by_object_path()
    for key, array in of_keras("nested-3.15.1").items():
        number = key.partition("|")[0]
        assert paths[f"variables/{number}"].read().tobytes() == array.tobytes()
    target = {"d": {"kernel": np.zeros((4, 4), "f4"), "bias": np.zeros(4, "f4")}}
    for call in (tf2flax.plan, tf2flax.init_from_checkpoint):
        for policy in POLICIES:
            with pytest.raises(tf2flax.AssignmentError) as problem:
                call(view, {"d/": "d/"}, target, on_missing=policy)
            assert "`d/bias` is shared by 4 tensors: `variables/1/" in str(
                problem.value
            )


def test_exported_variables_are_listed_under_one_path() -> None:
    checkpoint = tf2flax.open_checkpoint(EXPORTS / "functional-3.15.1")
    paths = checkpoint.by_object_path()
    assert list(paths) == [f"variables/{number}" for number in range(9)]
    names = checkpoint.by_variable_name()
    for number in range(8):
        path = f"_all_variables/{number}"
        got = paths[path].read()  # another path that leads to the variable
        assert got.tobytes() == checkpoint[path + SUFFIX].read().tobytes()
    target = {"k": np.zeros((6, 5), "f4")}
    kernel = names["fc1/kernel"].read()
    path = next(p for p in paths if paths[p].read().tobytes() == kernel.tobytes())
    other = next(
        f"_all_variables/{i}"
        for i in range(8)
        if paths[f"_all_variables/{i}"].read().tobytes() == kernel.tobytes()
    )
    for given_path in (path, other):
        plan = tf2flax.plan(paths, {given_path: "k"}, target)
        assert len(plan.unused) == 8
        assert path not in plan.unused


F4, I4 = np.arange(6, dtype="<f4"), np.arange(6, dtype="<i4")
SLICES = [(slice(0, 2),), (slice(2, 6),)]
OTHERS = [(slice(0, 3),), (slice(3, 6),)]
PAIRS: dict[str, tuple[Any, Any, bool]] = {
    "equal": (F4, F4, True),
    "rank 0": (F4[1], F4[1], True),
    "size 0": (F4[:0], F4[:0], True),
    "rank 3": (F4.reshape(1, 2, 3), F4.reshape(1, 2, 3), True),
    "bool": (F4 > 2, F4 > 2, True),
    "strings": (
        np.array([b"a", b"bc"], object),
        np.array([b"a", b"bc"], object),
        True,
    ),
    "other strings": (
        np.array([b"a", b"bc"], object),
        np.array([b"ab", b"c"], object),
        False,
    ),
    "values differ": (F4, F4 + 1, False),
    "one bit differs": (F4, np.where(F4 == 0, -F4, F4), False),
    "dtypes differ": (np.zeros(6, "<f4"), np.zeros(6, "<i4"), False),
    "shapes differ": (F4.reshape(2, 3), F4.reshape(3, 2), False),
    "ranks differ": (F4[:1].reshape(()), F4[:1], False),
    "both empty, shapes differ": (F4[:0].reshape(0, 2), F4[:0].reshape(2, 0), False),
    "equal slices": (Tensor(F4, SLICES), Tensor(F4, SLICES), True),
    "slices differ": (Tensor(F4, SLICES), Tensor(F4 * 2, SLICES), False),
    "sliced differently": (Tensor(F4, SLICES), Tensor(F4, OTHERS), False),
    "sliced and whole": (Tensor(F4, SLICES), F4, False),
}


@pytest.mark.parametrize("case", PAIRS)
def test_what_is_one_variable_in_two_places(case: str, tmp_path: pathlib.Path) -> None:
    first, second, is_one = PAIRS[case]
    checkpoint = write_object_based(
        tmp_path, {"_all_variables/7": ("v", second), "variables/3": ("v", first)}
    )
    names, paths = checkpoint.by_variable_name(), checkpoint.by_object_path()
    check_mapping(names)
    check_mapping(paths)
    assert ("v" in names) == is_one
    assert list(names) == (["v"] if is_one else [])
    places = ["variables/3"] if is_one else ["_all_variables/7", "variables/3"]
    assert list(paths) == places


MODEL, EXPORTED = "variables/{}", "_all_variables/{}"
REFUSED: dict[str, list[str]] = {
    "both in the model's list": ["variables/0", "variables/1"],
    "both in the other": ["_all_variables/0", "_all_variables/1"],
    "two in each": [
        "variables/0",
        "variables/2",
        "_all_variables/0",
        "_all_variables/3",
    ],
    "two and one": ["variables/0", "variables/2", "_all_variables/0"],
    "one and two": ["variables/0", "_all_variables/1", "_all_variables/0"],
    "a third elsewhere": ["variables/0", "_all_variables/0", "optimizer/kernel"],
    "trainable_variables": ["trainable_variables/0", "_all_variables/0"],
    "non_trainable_variables": ["variables/0", "non_trainable_variables/0"],
    "optimizer_variables": ["optimizer_variables/0", "_all_variables/0"],
    "deeper": ["variables/0/value", "_all_variables/0"],
    "not at the root": ["model/variables/0", "model/_all_variables/0"],
    "no number": ["variables/a", "_all_variables/a"],
    "an odd number": ["variables/٣", "_all_variables/3"],
    "no list": ["a/iteration", "b/iteration"],
    "metrics": ["keras_api/metrics/0/total", "keras_api/metrics/1/total"],
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", ["d/bias", "iteration"])
def test_nothing_else_is_merged(case: str, name: str, tmp_path: pathlib.Path) -> None:
    """Equal byte for byte, and still not one variable."""
    value = np.zeros((), "<i8") if name == "iteration" else ZEROS
    places = REFUSED[case]
    checkpoint = write_object_based(tmp_path, dict.fromkeys(places, (name, value)))
    view = checkpoint.by_variable_name()
    check_mapping(view)
    assert len(view) == 0
    with pytest.raises(tf2flax.UnsupportedError) as caught:
        view[name]
    assert f"is shared by {len(places)} tensors" in str(caught.value)
    assert all(f"`{place}{SUFFIX}`" in str(caught.value) for place in places)
    paths = checkpoint.by_object_path()
    check_mapping(paths)
    assert list(paths) == sorted(places)


PLACES = [f"{one}/{i}" for one in ("variables", "_all_variables") for i in range(3)]


@given(
    stored=st.dictionaries(
        st.sampled_from([*PLACES, "step", "model/w"]),
        st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([0, 1])),
        min_size=1,
    )
)
def test_a_name_is_answered_where_one_variable_has_it(
    stored: dict[str, tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("m")
    variables = {
        place: (name, np.full(2, value, "<f4"))
        for place, (name, value) in stored.items()
    }
    view = write_object_based(folder, variables).by_variable_name()
    for name in {name for name, _ in stored.values()}:
        places = [place for place, (own, _) in stored.items() if own == name]
        heads = sorted(place.partition("/")[0] for place in places)
        values = {stored[place][1] for place in places}
        is_pair = heads == ["_all_variables", "variables"] and len(values) == 1
        assert (name in view) == (len(places) == 1 or is_pair)
        if name in view:
            assert view[name].read().tolist() == [values.pop()] * 2
    check_mapping(view)


def test_a_malformed_entry_of_either_place_is_said(tmp_path: pathlib.Path) -> None:
    for place in ("variables/0", "_all_variables/0"):
        pair = {"variables/0": ("v", F4), "_all_variables/0": ("v", F4)}
        bad = {**pair, place: ("v", Tensor(F4, code=99))}
        view = write_object_based(
            tmp_path, {**bad, "step": ("step", I4)}
        ).by_variable_name()
        assert view["step"].read().tolist() == I4.tolist()
        with pytest.raises(tf2flax.CheckpointError, match=place):
            view["v"]


def test_shared_names_are_never_taken_for_missing(tmp_path: pathlib.Path) -> None:
    """Where one is the last of a stack, has an alias beside it, or leaves are kept."""
    variables = {f"l{i}": (f"layer_{i}/w", F4) for i in range(2)}
    variables |= {f"{one}2": ("layer_2/w", F4) for one in "kl"}
    variables |= {f"{one}_k": ("x/kernel", F4) for one in "kl"}
    variables |= {"w": ("x/weights", F4)}
    view = write_object_based(tmp_path, variables).by_variable_name()
    stacked = tf2flax.stack("layer_{i}/w", over="i")
    leaf = np.zeros(6, "f4")
    cases: list[tuple[Any, Any]] = [
        ({stacked: "w"}, {"w": np.zeros((2, 6), "f4")}),
        ({"layer_{i}/w": "w_{i}"}, {f"w_{i}": leaf for i in range(3)}),
        ({"x/": "x/"}, {"x": {"kernel": leaf}}),
        ({"x/kernel": "k"}, {"k": leaf}),
        ({"/": "/"}, {"x": {"kernel": leaf}}),
        ({"x/kernel": "w"}, {"w": {f"part_{i}": leaf[:3] for i in range(2)}}),
    ]
    for entries, target in cases:
        for policy in POLICIES:
            with pytest.raises(tf2flax.AssignmentError, match="is shared by 2 tensors"):
                tf2flax.plan(
                    view, entries, target, on_missing=policy, on_mismatch=policy
                )


def test_merged_checkpoints_do_not_answer_for_a_shared_name(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "two").mkdir()
    one = write_object_based(
        tmp_path, {"a": ("x/w", F4), "b": ("x/w", F4), "c": ("v", F4)}
    )
    two = write_object_based(tmp_path / "two", {"w": ("w", F4)}).by_variable_name()
    view = one.by_variable_name()
    with pytest.raises(tf2flax.AssignmentError, match="`x/w` is in two"):
        tf2flax.merge_checkpoints({"": view, "x/": two})
    merged = tf2flax.merge_checkpoints({"y/": view, "x/": two})
    assert list(merged) == ["x/w", "y/v"]
    check_mapping(merged)
    assert merged.manifest.shared_names == ("y/x/w",)


def test_an_error_on_a_stored_name_says_who_shares_it() -> None:
    checkpoint = tf2flax.open_checkpoint(EXPORTS / "nested-3.15.1")
    with pytest.raises(tf2flax.TensorNotFoundError, match="shared by 4 tensors"):
        checkpoint["d/bias"]
    with pytest.raises(tf2flax.AssignmentError, match=r"by_variable_name\(\)"):
        tf2flax.plan(checkpoint, {"d/": "d/"}, {"d": {"bias": ZEROS, "kernel": ZEROS}})


def test_listing_stored_names_shows_both_places(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tf2flax._cli import main

    assert main(["ls", str(EXPORTS / "functional-3.15.1")]) == 0
    listed = capsys.readouterr().out
    assert listed.count("variables/0" + SUFFIX) == 2
