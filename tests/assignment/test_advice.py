"""What messages suggest gives the right values, also where other ones would fit."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from advice_mistakes import ADVICE, Advice
from map_mistakes import suggestions_in

import tf2flax

MAX_LINES = 25


@pytest.fixture(params=list(ADVICE))
def case(request: pytest.FixtureRequest) -> Advice:
    return ADVICE[request.param]


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
