"""Captures: `{i}`, `{path...}`, `{i+1}`: what they match, what maps mean by them."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle
from counting import count_calls
from hypothesis import given
from hypothesis import strategies as st

import tf2flax
from tf2flax import Expression, concat, src, stack
from tf2flax._assignment.language.captures import (
    literal_pattern,
    lowest_numbers,
    parse_name,
)

Pairs = Sequence[tuple[str | Expression, Any]]

# Pattern, name, whether the pattern is a scope, and the texts of its captures.
MATCHES: list[tuple[str, str, bool, dict[str, str] | None]] = [
    ("{path...}/w", "a/w", False, {"path": "a"}),
    ("{path...}/w", "a/b/c/w", False, {"path": "a/b/c"}),
    ("{path...}/w", "w", False, None),
    ("{path...}", "a/b", False, {"path": "a/b"}),
    ("p/{path...}/w", "p/a/w", False, {"path": "a"}),
    ("p/{path...}/w", "p//w", False, None),
    ("{path...}/x/", "a/x/b/x/c", True, {"path": "a"}),
    ("{a}/{path...}/w", "x/y/z/w", False, {"a": "x", "path": "y/z"}),
    ("{path...}/{a}", "x/y/z", False, {"path": "x/y", "a": "z"}),
    ("{path...}/{path...}", "", False, None),
    ("l_{i+1}", "l_1", False, {"i": "0"}),
    ("l_{i+1}", "l_0", False, None),
    ("l_{i-1}", "l_0", False, {"i": "1"}),
    ("l_{i-12}", "l_7", False, {"i": "19"}),
    ("l_{i+0}", "l_7", False, {"i": "7"}),
    ("l_{i+0}", "l_07", False, None),
    ("l_{i+0}", "l_x", False, None),
    ("l_{i}/{i+1}", "l_9/10", False, {"i": "9"}),
    ("l_{i}/{i+1}", "l_9/11", False, None),
    ("l_{i}/{i+1}", "l_09/10", False, None),
    ("{i+1}_{i}_{i-1}", "3_2_1", False, {"i": "2"}),
    ("{i+1}_{i}_{i-1}/", "2_1_0/w", True, {"i": "1"}),
    ("{i}{i+1}", "1011", False, {"i": "10"}),
    ("{a}_{i-1}/{a}_{i}", "x_1_2/x_1_3", False, {"i": "3", "a": "x_1"}),
    ("{a}_{i-1}", "x_1_2", False, {"a": "x_1", "i": "3"}),
    ("l_{i-1}{{i-1}}", "l_4{i-1}", False, {"i": "5"}),
    ("x{i+0}{j}", "x123", False, {"i": "1", "j": "23"}),  # the shortest
    ("{a}_{i+3}{b}", "x_2_5z", False, {"a": "x_2", "i": "2", "b": "z"}),
    ("{path...}/{i+1}/w", "a/3/w", False, {"path": "a", "i": "2"}),
    ("{path...}/{i+1}/w", "a/b/3/w", False, {"path": "a/b", "i": "2"}),
    ("{path...}/{i+1}", "a//3", False, None),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "name", "is_scope", "expected"), MATCHES)
def test_what_a_pattern_matches(
    pattern: str, name: str, is_scope: bool, expected: dict[str, str] | None
) -> None:
    if pattern.count("...") > 1:
        with pytest.raises(tf2flax.AssignmentError, match="at most one capture of"):
            parse_name(pattern)
        return
    parsed = parse_name(pattern)
    assert parsed.matches(name, is_scope=is_scope) == expected
    if expected is not None and not is_scope:
        assert parsed.expand(expected).literal == name


# Pattern, and what is said of it.
REFUSED: dict[str, str] = {
    "l_{path...}/w": r"`l_\{path...\}/w`: \{path...\} stands for whole components",
    "{path...}w": "stands for whole components",
    "a/{path...}{i}": "stands for whole components",
    "{i}{path...}": "stands for whole components",
    "{a...}/x/{b...}": r"at most one capture of several components, got \{a...\} and",
    "{i + 1}": r"without spaces: \{i\+1\}",
    "{i+}": r"as \{i\}, \{i\+1\} or \{path...\}",
    "{i*2}": "is not a valid capture",
    "{+1}": "is not a valid capture",
    "{...path}": r"\{path...\} for several components",
    "{path..}": r"\{path...\} for several components",
    "{i+1+1}": "is not a valid capture",
    "{i+1234567890123456789}": "is not a valid capture",
    "{path...+1}": "is not a valid capture",
}


@pytest.mark.parametrize("pattern", list(REFUSED))
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(tf2flax.AssignmentError, match=REFUSED[pattern]):
        parse_name(pattern)


COMPONENT = st.text("ab/{}09_", min_size=1, max_size=4)
PIECES = st.lists(
    st.one_of(
        COMPONENT.map(literal_pattern),
        st.sampled_from(["{i}", "{i+1}", "{i-2}", "{j}", "{j+10}", "/", "/{path...}/"]),
    ),
    max_size=6,
)


@given(PIECES, st.integers(2, 120), st.text("ab9_", min_size=1), st.text("a/"))
def test_what_is_filled_in_is_found_again(
    pieces: list[str], i: int, j: str, path: str
) -> None:
    text = "".join(pieces)
    try:
        pattern = parse_name(text)
    except tf2flax.AssignmentError:
        return
    is_number = any(piece == "{j+10}" for piece in pieces)
    filled = {"i": str(i), "j": str(i) if is_number else j}
    filled["path"] = "/".join(part for part in path.split("/") if part) or "a"
    name = pattern.expand(filled).literal
    binding = pattern.matches(name)
    # Another division of the name may come first; it gives the same name.
    assert binding is not None
    assert pattern.expand(binding).literal == name
    assert set(binding) == set(pattern.captures)


def test_long_runs_of_digits_are_no_work() -> None:
    pattern = parse_name("l{a}_{a+1}/m{b}_{b+1}/n{c}_{c+1}/w")
    name = "/".join(f"{part}{'123456789' * 200}_2" for part in "lmn")
    assert pattern.matches(f"{name}/v") is None
    assert count_calls(lambda: pattern.matches(f"{name}/v")) < 30_000


NAMES = [
    *(f"enc/layer_{i}/{part}" for i in range(4) for part in ("w", "b")),
    "enc/layer_02/z", "enc/block/att/w", "enc/block/att/deep/w", "enc/block/b", "top",
    *(f"gap/l_{i}/w" for i in (0, 1, 3)), "from_one/l_1/w", "from_one/l_2/w",
    "x0/w", "x1/w",
]  # fmt: skip
NUMBER = {name: float(i + 1) for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("captures") / "m"
    write_bundle(path, {n: Tensor(np.array([v], "f4")) for n, v in NUMBER.items()})
    return path


def leaves(*names: str) -> dict[str, np.ndarray]:
    return {name: np.zeros(1, "f4") for name in names}


# Map, leaves, and the tensors that fill them; leaves that are not named are kept.
MEANINGS: dict[str, tuple[Pairs, list[str], dict[str, str]]] = {
    "a path in a name": (
        [("enc/{path...}/w", "p/{path...}/kernel")],
        [f"p/{x}kernel" for x in ("block/att/", "block/att/deep/", "layer_0/", "")],
        {
            "p/block/att/kernel": "enc/block/att/w",
            "p/block/att/deep/kernel": "enc/block/att/deep/w",
            "p/layer_0/kernel": "enc/layer_0/w",
        },
    ),
    "a path in a scope": (
        [("enc/{path...}/att/", "p/{path...}/attention/")],
        ["p/block/attention/w", "p/block/attention/deep/w"],
        {
            "p/block/attention/w": "enc/block/att/w",
            "p/block/attention/deep/w": "enc/block/att/deep/w",
        },
    ),
    "a path in an expression": (
        [(src("enc/{path...}/w").reshape(1), "{path...}/kernel")],
        ["block/att/kernel"],
        {"block/att/kernel": "enc/block/att/w"},
    ),
    "counted from one": (
        [("enc/layer_{i-1}/", "p/layers_{i}/")],
        ["p/layers_1/w", "p/layers_4/b", "p/layers_0/w"],
        {"p/layers_1/w": "enc/layer_0/w", "p/layers_4/b": "enc/layer_3/b"},
    ),
    "the value alone has the offset": (
        [("enc/layer_{i}/", "p/layers_{i-1}/")],
        ["p/layers_0/w", "p/layers_2/b"],
        {"p/layers_0/w": "enc/layer_1/w", "p/layers_2/b": "enc/layer_3/b"},
    ),
    "offsets on both sides": (
        [("enc/layer_{i+1}/w", "p_{i+2}/w")],
        ["p_1/w", "p_2/w", "p_4/w"],
        {"p_2/w": "enc/layer_1/w", "p_4/w": "enc/layer_3/w"},
    ),
    "numbers have no leading zeros": (
        [("enc/layer_{i-1}/w", "p_{i}/w"), ("enc/layer_0{i+0}/z", "q_{i}")],
        ["p_03/w", "p_3/w", "q_2"],
        {"p_3/w": "enc/layer_2/w", "q_2": "enc/layer_02/z"},
    ),
    "a capture says more than a path that took two components": (
        [("enc/{path...}/w", "{path...}/w"), ("top", "{a}/att/w")],
        ["block/att/w"],
        {"block/att/w": "top"},
    ),
    "a path that took much loses to two captures": (
        [("enc/{path...}/w", "{path...}/w"), ("top", "{a}/{b}/deep/w")],
        ["block/att/deep/w"],
        {"block/att/deep/w": "top"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MEANINGS))
def test_meaning(name: str, prefix: pathlib.Path) -> None:
    entries, names, expected = MEANINGS[name]
    for order in itertools.permutations(entries):
        plan = tf2flax.plan(prefix, order, leaves(*names))
        assert {a.leaf: " ".join(a.sources) for a in plan.assignments} == expected
        assert set(plan.kept) == set(names) - set(expected)
    tree = tf2flax.init_from_checkpoint(prefix, dict(entries), leaves(*names))
    for leaf, source in expected.items():
        assert tree[leaf].tolist() == [NUMBER[source]]


# An expression, and the tensors that it stacks.
STACKS: dict[str, tuple[Expression, list[str]]] = {
    "from the second": (
        stack("enc/layer_{i+1}/w", over="i"), [f"enc/layer_{i}/w" for i in (1, 2, 3)]
    ),
    "counted from one": (
        stack("from_one/l_{i+1}/w", over="i"), ["from_one/l_1/w", "from_one/l_2/w"]
    ),
    "all but what lies below 0": (
        stack("enc/layer_{i-1}/w", over="i"), [f"enc/layer_{i}/w" for i in range(4)]
    ),
    "several sources": (
        stack(concat("x{i-1}/w", "from_one/l_{i}/w"), over="i").reshape(4, 1),
        ["x0/w", "from_one/l_1/w", "x1/w", "from_one/l_2/w"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(STACKS))
def test_counted_captures_with_an_offset(name: str, prefix: pathlib.Path) -> None:
    expression, names = STACKS[name]
    target = {"x": np.zeros((len(names), 1), "f4")}
    tree = tf2flax.init_from_checkpoint(prefix, {expression: "x"}, target)
    assert tree["x"].ravel().tolist() == [NUMBER[name] for name in names]


# Map, leaves, and what the error says.
ERRORS: dict[str, tuple[Any, list[str], str]] = {
    "a gap": (
        {stack("gap/l_{i+1}/w", over="i"): "x"}, ["x"], "tensor `gap/l_2/w`"
    ),
    "a path that is counted": (
        {stack("enc/{path...}/w", over="path"): "x"}, ["x"], 'over="path" counts'
    ),
    "a scope that ends in a path": (
        {"enc/{path...}/": "p/{path...}/"}, ["p/a/w"], "where the scope ends"
    ),
    "two kinds of one capture": (
        {"enc/{path}/w": "p/{path...}/w"}, ["p/a/w"],
        r"\{path...\} and \{path\} stand in one entry",
    ),
    "a path that the value lacks": (
        {"enc/{path...}/w": "x"}, ["x"], r"capture \{path\} of the key"
    ),
    "two paths for a leaf": (
        {"enc/{a...}/w": "{a...}/w", "gap/{a...}/w": "{a...}/w"}, ["l_1/w"],
        "both name it",
    ),
    "a path of one component, and a capture": (
        {"enc/{path...}/w": "{path...}/w", "top": "{a}/w"}, ["x/w"], "both name it"
    ),
    "no such layer": (
        {"enc/layer_{i-1}/w": "p_{i}"}, ["p_9"], "no tensor `enc/layer_8/w`|layer_8/`"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ERRORS))
def test_error(name: str, prefix: pathlib.Path) -> None:
    entries, names, message = ERRORS[name]
    pairs = list(entries.items())
    for order in itertools.permutations(pairs):
        with pytest.raises(tf2flax.AssignmentError, match=message):
            tf2flax.plan(prefix, order, leaves(*names))


def test_paths_move_scopes_of_converted_checkpoints(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    entries = {"enc/{path...}/w": "{path...}/kernel", "gap/l_{i+1}/": "g/{i}/"}
    tf2flax.convert(
        prefix, tmp_path / "out", format="tensorbundle", assignment_map=entries
    )
    moved = tf2flax.open_checkpoint(tmp_path / "out")
    assert list(moved) == sorted(
        [
            *(f"layer_{i}/kernel" for i in range(4)),
            "block/att/kernel", "block/att/deep/kernel", "g/0/w", "g/2/w",
        ]
    )  # fmt: skip
    assert moved["g/2/w"].read().tolist() == [NUMBER["gap/l_3/w"]]


@given(
    st.lists(
        st.from_regex(r"(a_|b/|)[01279]{0,2}(/[w0x]|\.|_|:|-){0,2}w?", fullmatch=True)
    )
)
def test_numbered_names_are_those_that_a_look_at_all_finds(names: list[str]) -> None:
    ordered = sorted(set(names))
    for text in ("a_{i}/w", "a_{i}/0/{j}", "b/{i}/x", "{i}/w", "a_{i+1}/w"):
        pattern = parse_name(text)
        counted = frozenset(pattern.captures)
        lowest = lowest_numbers([pattern])
        found = list(pattern.among(ordered, counted, lowest))
        every = (pattern.matches(n, digits=counted, lowest=lowest) for n in ordered)
        assert found == [binding for binding in every if binding is not None]


def test_a_stack_looks_at_one_name_of_each_layer() -> None:
    """Also where a layer has thousands of tensors, each of which has a stack."""
    names = sorted(f"layer_{i}/cell_{j}/w" for i in range(20) for j in range(200))
    pattern = parse_name("layer_{i}/cell_7/w")
    found: list[dict[str, str]] = []
    calls = count_calls(lambda: found.extend(pattern.among(names, frozenset("i"))))
    assert len(found) == 20
    assert calls < len(names) // 4
