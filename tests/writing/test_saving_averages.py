"""The way back through averages and slots: stored names, what is stale, both."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle
from object_graphs import SUFFIX, write_object_based
from repository import DATA

import tf2flax

F4 = np.arange(6, dtype="<f4")
EMA = "ExponentialMovingAverage"
SLICES = [(slice(0, 2),), (slice(2, 6),)]


@pytest.fixture
def stored(tmp_path: pathlib.Path) -> tf2flax.Checkpoint:
    """Two variables with averages, one of them in slices and a scope; slots; a step."""
    arrays: dict[str, Any] = {
        "w": F4, f"w/{EMA}": F4 + 1, "w/Adam": F4 + 2, f"w/{EMA}/biased": F4 + 3,
        "t": Tensor(F4 + 4, SLICES), f"train/t/{EMA}": Tensor(F4 + 5, SLICES),
        "train/t/Adam": Tensor(F4 + 6, SLICES), "alone": F4 + 7,
        "global_step": np.int64(8),
    }  # fmt: skip
    write_bundle(tmp_path / "from" / "m", arrays)
    return tf2flax.open_checkpoint(tmp_path / "from" / "m")


TARGET: dict[str, Any] = {name: np.zeros(6, "f4") for name in ("w", "t", "alone")}


def save(
    folder: pathlib.Path, view: tf2flax.Checkpoint, changed: str, **options: Any
) -> tuple[tf2flax.Checkpoint, str]:
    """Loads all leaves through a view, changes one, saves; and the warning."""
    target = {name: leaf for name, leaf in TARGET.items() if name in view}
    plan = tf2flax.plan(view, {"/": "/"}, target)
    tree = {name: np.asarray(leaf) for name, leaf in plan.restore().items()}
    if changed:
        tree[changed] = tree[changed] * 100
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prefix = tf2flax.save_checkpoint(folder / "to", tree, plan=plan, **options)
    assert len(caught) <= 1
    message = str(caught[0].message) if caught else ""
    return tf2flax.open_checkpoint(prefix), message


def changes(before: tf2flax.Checkpoint, after: tf2flax.Checkpoint) -> set[str]:
    """Names of tensors that are not what they were; all names and slices must be."""
    assert list(after) == list(before)
    assert all(after[name].slices == before[name].slices for name in before)
    arrays = before.read(), after.read()
    return {n for n in before if arrays[0][n].tolist() != arrays[1][n].tolist()}


def test_what_was_only_loaded_comes_back(
    stored: tf2flax.Checkpoint, tmp_path: pathlib.Path
) -> None:
    for number, view in enumerate((stored.by_moving_average(), stored.by_slot("Adam"))):
        saved, message = save(tmp_path / str(number), view, "")
        assert changes(stored, saved) == set()
        assert message == ""


def test_averages_are_written_and_variables_named(
    stored: tf2flax.Checkpoint, tmp_path: pathlib.Path
) -> None:
    saved, message = save(tmp_path, stored.by_moving_average(), "w")
    assert changes(stored, saved) == {f"w/{EMA}"}
    assert saved[f"w/{EMA}"].read()[1] == 200
    assert (
        "1 variable is copied as it was, although its moving average has changed: "
        '`w`. averages="both" writes both, where leaves hold the whole tensor.'
    ) in message
    assert f"`global_step`, `w/{EMA}/biased`" in message
    # The slots are those of the variable, which has not changed.
    assert "Adam" not in message


def test_averages_in_slices_and_scopes(
    stored: tf2flax.Checkpoint, tmp_path: pathlib.Path
) -> None:
    saved, message = save(tmp_path, stored.by_moving_average(), "t")
    assert changes(stored, saved) == {f"train/t/{EMA}"}
    assert "has changed: `t`." in message


def test_a_variable_without_an_average_is_itself(
    stored: tf2flax.Checkpoint, tmp_path: pathlib.Path
) -> None:
    saved, message = save(tmp_path, stored.by_moving_average(), "alone")
    assert changes(stored, saved) == {"alone"}
    assert "moving average" not in message


def test_both(stored: tf2flax.Checkpoint, tmp_path: pathlib.Path) -> None:
    view = stored.by_moving_average()
    saved, message = save(tmp_path / "w", view, "w", averages="both")
    # Those of `t` and `alone` are equal to what was loaded: their averages.
    assert changes(stored, saved) == {"w", f"w/{EMA}", "t"}
    assert saved["w"].read().tolist() == saved[f"w/{EMA}"].read().tolist()
    assert saved["t"].read().tolist() == (F4 + 5).tolist()
    assert "`w/Adam`" in message
    assert "moving average" not in message


def test_both_from_the_variable(
    stored: tf2flax.Checkpoint, tmp_path: pathlib.Path
) -> None:
    saved, message = save(tmp_path / "1", stored, "t")
    assert changes(stored, saved) == {"t"}
    assert f"`train/t/Adam`, `train/t/{EMA}`" in message
    saved, message = save(tmp_path / "2", stored, "t", averages="both")
    assert changes(stored, saved) == {"t", f"train/t/{EMA}", f"w/{EMA}"}
    assert EMA not in message.replace(f"w/{EMA}/biased", "")


def test_both_where_leaves_came_from_both(
    stored: tf2flax.Checkpoint, tmp_path: pathlib.Path
) -> None:
    """Nothing that a leaf was loaded from is written from another leaf."""
    target = {"a": np.zeros(6, "f4"), "b": np.zeros(6, "f4")}
    plan = tf2flax.plan(stored, {"w": "a", f"w/{EMA}": "b"}, target)
    tree = {"a": F4 * 10, "b": F4 * 20}
    with pytest.warns(UserWarning, match="global_step"):
        prefix = tf2flax.save_checkpoint(
            tmp_path / "m", tree, plan=plan, averages="both"
        )
    saved = tf2flax.open_checkpoint(prefix)
    assert saved["w"].read()[1] == 10
    assert saved[f"w/{EMA}"].read()[1] == 20


def test_slots_are_written_under_their_names(
    stored: tf2flax.Checkpoint, tmp_path: pathlib.Path
) -> None:
    saved, message = save(tmp_path, stored.by_slot("train/…/Adam"), "t")
    assert changes(stored, saved) == {"train/t/Adam"}
    assert message == ""


def test_averages_of_another_name(tmp_path: pathlib.Path) -> None:
    """Nobody but the view knows that they are averages."""
    write_bundle(tmp_path / "m", {"w": F4, "w/ema_99": F4 + 1, "t": F4, "alone": F4})
    stored = tf2flax.open_checkpoint(tmp_path / "m")
    view = stored.by_moving_average("ema_99")
    saved, message = save(tmp_path / "1", view, "w")
    assert changes(stored, saved) == {"w/ema_99"}
    assert "has changed: `w`." in message
    saved, message = save(tmp_path / "2", view, "w", averages="both")
    assert changes(stored, saved) == {"w", "w/ema_99"}
    assert message == ""


def test_averages_of_an_object_graph(tmp_path: pathlib.Path) -> None:
    variables = {"net/a": ("w", F4), "ema/0": (f"w/{EMA}", F4 + 1), "n": ("t", F4)}
    stored = write_object_based(tmp_path / "a", variables)
    view = stored.by_moving_average().by_variable_name()
    saved, message = save(tmp_path / "1", view, "w")
    assert changes(stored, saved) == {f"ema/0{SUFFIX}"}
    assert f"has changed: `net/a{SUFFIX}`" in message
    merged = tf2flax.merge_checkpoints([stored.by_variable_name()])
    saved, _ = save(tmp_path / "2", merged.by_moving_average(), "w", averages="both")
    assert changes(stored, saved) == {f"ema/0{SUFFIX}", f"net/a{SUFFIX}"}


def test_merged_averages(tmp_path: pathlib.Path) -> None:
    first = {"w": F4, f"w/{EMA}": F4 + 1}
    merged = tf2flax.merge_checkpoints(
        {"": tf2flax.open_checkpoint(first).by_moving_average(), "b/": {"w": F4}}
    )
    saved, message = save(tmp_path, merged, "w")
    assert saved["w"].read()[1] == 1
    assert saved[f"w/{EMA}"].read()[1] == 200
    assert "has changed: `w`." in message


def test_every_slot_and_average_of_a_resnet(tmp_path: pathlib.Path) -> None:
    stored = tf2flax.open_checkpoint(DATA / "resnet_slim" / "model.ckpt")
    for view, end in (
        (stored.by_moving_average(), f"/{EMA}"),
        (stored.by_slot("Momentum"), "/Momentum"),
    ):
        names = [name for name in view if f"{name}{end}" in stored]
        target = {f"l{n}": np.zeros(view[m].shape, "f4") for n, m in enumerate(names)}
        entries = {name: f"l{number}" for number, name in enumerate(names)}
        plan = tf2flax.plan(view, entries, target)
        tree = {k: np.asarray(leaf) + 1 for k, leaf in plan.restore().items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prefix = tf2flax.save_checkpoint(tmp_path / end[1:], tree, plan=plan)
        saved = tf2flax.open_checkpoint(prefix)
        assert changes(stored, saved) == {f"{name}{end}" for name in names}


@pytest.mark.parametrize("averages", [None, True, "neither", 3])
def test_the_option_is_checked(averages: Any, tmp_path: pathlib.Path) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="Expected averages 'follow' or"):
        tf2flax.save_checkpoint(tmp_path / "m", {"w": F4}, averages=averages)


def test_both_leaves_a_variable_whole(
    stored: tf2flax.Checkpoint, tmp_path: pathlib.Path
) -> None:
    """Of a part of an average, its variable would become a mixture of both."""
    target = {"k": np.zeros(4, "f4")}
    plan = tf2flax.plan(stored.by_moving_average(), {tf2flax.src("w")[2:]: "k"}, target)
    with pytest.warns(UserWarning, match="changed: `w`.*where leaves hold the whole"):
        prefix = tf2flax.save_checkpoint(
            tmp_path / "m", {"k": F4[:4] * 10}, plan=plan, averages="both"
        )
    saved = tf2flax.open_checkpoint(prefix)
    assert changes(stored, saved) == {f"w/{EMA}"}
    assert saved[f"w/{EMA}"].read().tolist() == [1, 2, 0, 10, 20, 30]


def test_both_where_two_leaves_hold_all(
    stored: tf2flax.Checkpoint, tmp_path: pathlib.Path
) -> None:
    w = tf2flax.src("w")
    target = {"a": np.zeros(4, "f4"), "b": np.zeros(2, "f4")}
    plan = tf2flax.plan(stored.by_moving_average(), {w[2:]: "a", w[:2]: "b"}, target)
    tree = {"a": F4[:4] * 10, "b": F4[:2]}
    with pytest.warns(UserWarning, match="global_step"):
        prefix = tf2flax.save_checkpoint(
            tmp_path / "m", tree, plan=plan, averages="both"
        )
    saved = tf2flax.open_checkpoint(prefix)
    assert saved["w"].read().tolist() == [0, 1, 0, 10, 20, 30]
    assert saved[f"w/{EMA}"].read().tolist() == saved["w"].read().tolist()


@pytest.mark.parametrize("is_view", [True, False])
def test_both_are_equal_after_a_cast(tmp_path: pathlib.Path, *, is_view: bool) -> None:
    """What bfloat16 has lost comes from where the leaf was loaded from."""
    arrays = {"w": np.array([0.1, 0.2], "f4"), f"w/{EMA}": np.array([0.3, 0.7], "f4")}
    checkpoint = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "from", arrays)
    )
    view = checkpoint.by_moving_average() if is_view else checkpoint
    plan = tf2flax.plan(view, {"w": "k"}, {"k": np.zeros(2, "f4")}, dtype="bfloat16")
    leaf = np.array(plan.restore()["k"])
    leaf[1] = 4
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(
            tmp_path / "to", {"k": leaf}, plan=plan, averages="both"
        )
    )
    expected = np.array([0.3 if is_view else 0.1, 4], "f4")
    for name in arrays:
        assert saved[name].read().tobytes() == expected.tobytes(), name


def test_both_in_a_view_of_one_scope(tmp_path: pathlib.Path) -> None:
    """`b` has no average in `eval`: that in `train` is not the view's."""
    arrays = {
        "w": F4,
        "b": F4 + 1,
        f"eval/w/{EMA}": F4 + 2,
        f"train/w/{EMA}": F4 + 3,
        f"train/b/{EMA}": F4 + 4,
    }
    checkpoint = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "from", arrays)
    )
    view = checkpoint.by_moving_average(f"eval/…/{EMA}")
    plan = tf2flax.plan(view, {"/": "/"}, {n: np.zeros(6, "f4") for n in ("w", "b")})
    tree = {"w": F4 * 10, "b": F4 * 20}
    with pytest.warns(UserWarning, match=f"`train/b/{EMA}`"):
        prefix = tf2flax.save_checkpoint(
            tmp_path / "to", tree, plan=plan, averages="both"
        )
    saved = tf2flax.open_checkpoint(prefix)
    assert changes(checkpoint, saved) == {"w", "b", f"eval/w/{EMA}"}
    assert saved["w"].read().tolist() == saved[f"eval/w/{EMA}"].read().tolist()


@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("way", ["average", "variable", "stored average"])
def test_both_in_an_export_of_keras_3(
    way: str, tmp_path: pathlib.Path, *, is_double: bool
) -> None:
    """It stores each variable twice, perhaps its average: all copies are written."""
    variables = {
        "variables/0": ("w", F4),
        "_all_variables/0": ("w", F4),
        "variables/1": ("t", F4 + 2),
        "_all_variables/1": ("t", F4 + 2),
        "variables/2": (f"w/{EMA}", F4 + 1),
    }
    if is_double:
        variables["_all_variables/2"] = variables["variables/2"]
    stored = write_object_based(tmp_path / "a", variables)
    view = stored.by_variable_name()
    view = view if way == "variable" else view.by_moving_average()
    if way == "stored average":  # of the checkpoint itself, the view renamed
        view = stored.by_moving_average().by_variable_name()
    saved, message = save(tmp_path / "1", view, "w", averages="both")
    copies = [name for name, (variable, _) in variables.items() if variable != "t"]
    assert changes(stored, saved) == {f"{name}{SUFFIX}" for name in copies}
    assert message == ""
    saved, message = save(tmp_path / "2", view, "w")
    assert changes(stored, saved) < {f"{name}{SUFFIX}" for name in copies}
    assert "has changed" in message or "have changed" in message


def test_both_leaves_other_copies_of_one_name_alone(tmp_path: pathlib.Path) -> None:
    """Two variables of one name are not one where their values differ."""
    variables = {
        "variables/0": ("w", F4),
        "_all_variables/0": ("w", F4 + 1),
        "ema/0": (f"w/{EMA}", F4 + 2),
    }
    stored = write_object_based(tmp_path / "a", variables)
    with pytest.raises(tf2flax.NotFoundError, match="No variable has a moving average"):
        stored.by_moving_average()
