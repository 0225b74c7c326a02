"""What messages suggest gives the right values, also where other ones would fit."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from advice_mistakes import ADVICE, Advice
from counting import count_calls
from layer_mistakes import LAYER_ADVICE, STACKED
from map_mistakes import f32, suggestions_in
from stacked_mistakes import STACKED_ADVICE

import tf2flax
from tf2flax import src, stack

MAX_LINES = 25


CASES = {**ADVICE, **LAYER_ADVICE, **STACKED_ADVICE}


# Cases of which several entries are suggested, each for some of the leaves.
IN_PIECES = (
    "slices of a fused tensor, captured",
    "slices of a fused stack, captured",
    "transposed leaves beside a square one",
)


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Advice:
    return CASES[request.param]


def wrong_leaves(case: Advice, where: pathlib.Path, entries: object) -> list[str]:
    """The leaves that a map fills with other values than the right map does."""
    right = case.mistake.values(where, case.right)
    got = case.mistake.values(where, entries)
    return [n for n in got if n not in right or not np.array_equal(got[n], right[n])]


def test_what_is_pasted_gives_the_right_values(
    case: Advice, tmp_path: pathlib.Path
) -> None:
    mistake = case.mistake
    before = mistake.error(tmp_path, mistake.entries)
    wrong = wrong_leaves(case, tmp_path, mistake.entries)
    is_solved = False
    for suggestion in suggestions_in(before, mistake.pairs()):
        worse = set(wrong_leaves(case, tmp_path, suggestion.entries)) - {*wrong}
        assert not worse, (suggestion, worse)
        after = mistake.error(tmp_path, suggestion.entries)
        assert after != before
        is_solved |= not after
    assert is_solved == case.is_solved, before


@pytest.mark.parametrize("name", IN_PIECES)
def test_all_that_is_pasted_gives_the_right_values(
    name: str, tmp_path: pathlib.Path
) -> None:
    case = CASES[name]
    mistake, pairs = case.mistake, case.mistake.pairs()
    message = mistake.error(tmp_path, mistake.entries)
    suggestions = suggestions_in(message, pairs)
    new = [pair for s in suggestions for pair in s.entries[len(pairs) :]]
    assert len(new) > 1
    assert not mistake.error(tmp_path, [*pairs, *new])
    assert not wrong_leaves(case, tmp_path, [*pairs, *new])


def test_the_message_says(case: Advice, tmp_path: pathlib.Path) -> None:
    message = case.mistake.error(tmp_path, case.mistake.entries)
    assert message
    assert len(message.splitlines()) <= MAX_LINES
    for words in case.words:
        assert words in message, message


def test_the_test_of_values_can_fail(tmp_path: pathlib.Path) -> None:
    case = ADVICE["numbers of a reshape"]
    (key,) = case.mistake.entries
    entries = {key.transpose(0, 2, 1): "params/l_{i}/q"}
    assert not case.mistake.error(tmp_path, entries)
    assert wrong_leaves(case, tmp_path, entries) == ["params/l_0/q", "params/l_1/q"]


# Maps of which every leaf fails, and what they would be if it did not.
NAMES = [
    f"net/block_{i}/unit_{j}/{p}"
    for i in range(26)
    for j in range(10)
    for p in ("kernel", "bias")
]
HALF = NAMES[: len(NAMES) // 2]
HEADS = src("net/block_{i}/{m}/{p}").rearrange("d (h k) -> d h k", h=3)
HEADS_VALUE = "net/block_{i}/{m}/{p}"
Names = list[str]
Case = Callable[[Names], tuple[Any, Any]]


def shaped(names: Names, *shape: int) -> dict[str, Any]:
    return {name: f32(*shape) for name in names}


def differing(names: Names, first: int) -> dict[str, Any]:
    return {name: f32(first, 2 + i, 3) for i, name in enumerate(names)}


GOOD: dict[str, Case] = {
    "scopes": lambda names: ({"net/": "net/"}, shaped(names, 2, 3)),
    "rules": lambda names: ({HEADS: HEADS_VALUE}, shaped(names, 2, 3, 1)),
    "entries": lambda names: ({name: name for name in names}, shaped(names, 2, 3)),
}
FAILING: dict[str, tuple[str, Case]] = {
    "transposed": (
        "scopes", lambda names: ({"net/": "net/"}, shaped(names, 3, 2))
    ),
    "another shape each": (
        "scopes", lambda names: ({"net/": "net/"}, differing(names, 2))
    ),
    "a scope": ("scopes", lambda names: ({"nett/": "net/"}, shaped(names, 2, 3))),
    "names": (
        "scopes",
        lambda names: (
            {"net/": "net/"}, {f"{name}{n}": f32(2, 3) for n, name in enumerate(names)}
        ),
    ),
    "heads of another shape each": (
        "rules", lambda names: ({HEADS: HEADS_VALUE}, differing(names, 5))
    ),
    "entries of leaves": (
        "entries",
        lambda names: ({name: f"{name}x" for name in names}, shaped(names, 2, 3)),
    ),
    "entries of tensors": (
        "entries",
        lambda names: ({f"{name}x": name for name in names}, shaped(names, 2, 3)),
    ),
}  # fmt: skip
# Calls of functions that a leaf may take more than in a plan that fits, and that the
# message takes whatever the number of leaves: a second is a few millions, so that
# 20,000 leaves take less than one.
MAX_MORE = 60
MAX_ONCE = 200_000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tf2flax.Checkpoint:
    prefix = tmp_path_factory.mktemp("many") / "m"
    tensors = {name: np.zeros((2, 3), "f4") for name in NAMES}
    return tf2flax.open_checkpoint(tf2flax.save_checkpoint(prefix, tensors))


def count_work(checkpoint: tf2flax.Checkpoint, entries: Any, target: Any) -> int:
    def plan() -> None:
        with contextlib.suppress(tf2flax.AssignmentError):
            tf2flax.plan(checkpoint, entries, target)

    return count_calls(plan)


@pytest.fixture(scope="module")
def good_counts(many: tf2flax.Checkpoint) -> Callable[[str, int], int]:
    @functools.cache
    def count(kind: str, number: int) -> int:
        return count_work(many, *GOOD[kind](NAMES[:number]))

    return count


@pytest.mark.parametrize("name", list(FAILING))
def test_a_map_of_which_all_fails_takes_little_more_than_a_good_one(
    name: str, many: tf2flax.Checkpoint, good_counts: Callable[[str, int], int]
) -> None:
    kind, failing = FAILING[name]
    with pytest.raises(tf2flax.AssignmentError):
        tf2flax.plan(many, *failing(NAMES))
    half, whole = (
        count_work(many, *failing(names)) - good_counts(kind, len(names))
        for names in (HALF, NAMES)
    )
    assert whole - half < MAX_MORE * len(HALF)
    assert whole < MAX_MORE * len(NAMES) + MAX_ONCE


def test_a_line_for_a_map_file_is_toml(tmp_path: pathlib.Path) -> None:
    case = CASES["no slash on both sides"].mistake
    file = tmp_path / "map.toml"
    file.write_text("[assignment_map]\n'bert/pooler/dense' = 'params'\n")
    message = case.error(tmp_path, tf2flax.load_map(file))
    line = re.findall(r"write `(.*?)`", message)
    assert line == ["""'bert/pooler/dense/' = "params/\""""]
    file.write_text(f"[assignment_map]\n{line[0]}\n")
    assert not case.error(tmp_path, tf2flax.load_map(file))


def test_layers_of_a_stack_are_not_written_one_by_one() -> None:
    tensors = {name: np.zeros(shape, "f4") for name, shape in STACKED.items()}
    entries = {stack("e/l_{i}/", over="i"): "/"}
    target = {"a": np.zeros((4, 12, 6), "f4"), "b": np.zeros((12, 4, 6), "f4")}
    plan = tf2flax.plan(tensors, entries, target, on_mismatch="keep")
    (gap,) = plan.mismatched
    assert "stacked along another axis" in gap.fact
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(tensors, entries, {"a": target["a"]}, on_mismatch="keep")
    with pytest.raises(tf2flax.AssignmentError) as refused:
        tf2flax.plan(tensors, entries, target)
    for text in (gap.fact, str(plan), str(caught.value), str(refused.value)):
        assert "e/l_5" not in text
    assert "e/l_{0..11}/a" in str(caught.value)


def test_a_shape_in_place_of_a_leaf_is_named(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"a/w": np.zeros((3, 4), "f4")})
    for entries in ({"a/w": "w"}, {"a/": "/"}):
        for target in ({"w": (3, 4)}, {"w": [3, 4]}):
            with pytest.raises(tf2flax.AssignmentError) as caught:
                tf2flax.plan(prefix, entries, target)
            message = str(caught.value)
            assert "`w` is a tuple or list of numbers" in message
            assert "`w/0` and `w/1`" in message
            assert 'jax.ShapeDtypeStruct(shape, "float32")' in message


@pytest.mark.parametrize(
    ("stored", "leaf", "is_offered"),
    [
        ("float32", "int32", False), ("float32", "bool", False),
        ("int32", "bool", False), ("int32", "float32", True),
    ],
)  # fmt: skip
def test_force_is_offered_where_values_survive_it(
    stored: str, leaf: str, is_offered: bool
) -> None:
    target = {"w": jax.ShapeDtypeStruct((3,), leaf)}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan({"w": np.zeros(3, stored)}, {"w": "w"}, target)
    message = str(caught.value)
    assert (f"Force it with dtype='{leaf}'" in message) == is_offered
    assert (f"A cast to {leaf} would lose values" in message) != is_offered
    assert "dtype='checkpoint'" in message


@pytest.mark.parametrize(("sound", "offers"), [(0, True), (4, False)])
def test_numbers_are_not_shifted_where_some_layers_are_right(
    sound: int, *, offers: bool, tmp_path: pathlib.Path
) -> None:
    """The key would move the layers of `enc0` that are right as they are."""
    first = 0 if sound else 1
    names = [f"enc0/layer{i}/w" for i in range(first, 4)]
    names += [f"enc1/layer{i}/w" for i in range(1, 4)]
    arrays = {name: np.full(2, k, "f4") for k, name in enumerate(names)}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", arrays)
    target = {f"e{e}": {f"l{i}": arrays[names[0]] for i in range(3)} for e in (0, 1)}
    with pytest.raises(tf2flax.AssignmentError, match="differ by one") as caught:
        tf2flax.plan(prefix, {"enc{e}/layer{i}/w": "e{e}/l{i}"}, target)
    assert ("{i+1}" in str(caught.value)) == offers
