"""What maps with captures and expressions mean: who gets a leaf, and from where."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import tf2flax
from tf2flax import Expression, concat, src, stack

Pairs = Sequence[tuple[str | Expression, Any]]

# Tensors of one element, so that a value tells where it is from; some are sliced.
NAMES = [
    *(f"deep/l_{i}/w" for i in range(12)),
    *(f"enc/layer_{i}/{part}" for i in range(3) for part in ("kernel", "bias")),
    "enc/layer_10/kernel", "enc/norm/gamma", "enc/norm/beta", "enc/kernel",
    "gap/l_0/w", "gap/l_1/w", "gap/l_3/w", "from_two/l_2/w", "from_two/l_3/w",
    "twice/l_1/w", "twice/l_01/w", "moe/l_0/e_0/w", "moe/l_0/e_1/w", "moe/l_1/e_0/w",
    "moe/l_1/e_1/w", "odd/{i}/w", "shared", "a/x", "a/y", "b/x", "b/y", "l_x/w",
    "1_2/w", "1:2_3/w", "1_2:3/w", "from_two/l_x/w", "two/both/gamma", "two/both/g",
]  # fmt: skip
LEAF = np.zeros(1, "f4")
PARTS = {"t/part_0": np.zeros((5, 2), "f4")}
NUMBER = {name: float(i + 1) for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("maps") / "m"
    tensors = {name: Tensor(np.array([n], "f4")) for name, n in NUMBER.items()}
    rows = np.arange(10, dtype="f4").reshape(5, 2)
    tensors["rows"] = Tensor(rows, rows_in(rows, 2))
    tensors["matrix"] = Tensor(np.arange(6, dtype="f4").reshape(2, 3))
    write_bundle(path, tensors)
    return path


def leaves(*names: str) -> dict[str, np.ndarray]:
    return {name: np.zeros(1, "f4") for name in names}


def sources(plan: tf2flax.Plan) -> dict[str, str]:
    return {one.leaf: " ".join(one.sources) for one in plan.assignments}


# Map, leaves, and the tensors that fill them; leaves that are not named are kept.
MEANINGS: dict[str, tuple[Pairs, list[str], dict[str, str]]] = {
    "a captured scope": (
        [("enc/layer_{i}/", "p/layers_{i}/")],
        ["p/layers_0/kernel", "p/layers_2/bias", "p/other"],
        {
            "p/layers_0/kernel": "enc/layer_0/kernel",
            "p/layers_2/bias": "enc/layer_2/bias",
        },
    ),
    "two digits": (
        [("enc/layer_{i}/", "p/layers_{i}/")],
        ["p/layers_10/kernel"],
        {"p/layers_10/kernel": "enc/layer_10/kernel"},
    ),
    "a captured name": (
        [("enc/layer_{i}/kernel", "w_{i}")],
        ["w_0", "w_1"],
        {"w_0": "enc/layer_0/kernel", "w_1": "enc/layer_1/kernel"},
    ),
    "a component of its own": (
        [("enc/layer_{i}/kernel", "layers/{i}/w")],
        ["layers/2/w"],
        {"layers/2/w": "enc/layer_2/kernel"},
    ),
    "several captures": (
        [("moe/l_{i}/e_{j}/w", "expert_{j}/layer_{i}")],
        ["expert_1/layer_0"],
        {"expert_1/layer_0": "moe/l_0/e_1/w"},
    ),
    "several in one component, shortest first": (
        [("{a}_{b}/w", "x_{a}_{b}")],
        ["x_1_2", "x_l_x"],
        {"x_1_2": "1_2/w", "x_l_x": "l_x/w"},
    ),
    "the first capture is the shortest": (
        [("{a}:{b}/w", "x_{a}_{b}")], ["x_1_2_3"], {"x_1_2_3": "1:2_3/w"}
    ),
    "a capture twice": (
        [("enc/layer_{i}/kernel", "w_{i}_{i}")],
        ["w_1_1", "w_1_2"],
        {"w_1_1": "enc/layer_1/kernel"},
    ),
    "no capture crosses a slash": (
        [("enc/{x}", "p/{x}")],
        ["p/kernel", "p/layer_0/kernel"],
        {"p/kernel": "enc/kernel"},
    ),
    "a capture of the value alone": (
        [("shared", "p/{any}/w"), ("a/", "{c}/s/")],
        ["p/0/w", "p/1/w", "c0/s/x", "c1/s/y"],
        {"p/0/w": "shared", "p/1/w": "shared", "c0/s/x": "a/x", "c1/s/y": "a/y"},
    ),
    "literal braces": (
        [("odd/{{i}}/w", "x"), ("odd/{{i}}/", "{{s}}/")],
        ["x", "{s}/w"],
        {"x": "odd/{i}/w", "{s}/w": "odd/{i}/w"},
    ),
    "literal braces beside captures": (
        [("{a}/{{i}}/w", "{a}_{{{a}}}")],
        ["odd_{odd}"],
        {"odd_{odd}": "odd/{i}/w"},
    ),
    "aliases under captured scopes": (
        [("{s}/norm/", "p/{s}_norm/")],
        ["p/enc_norm/scale", "p/enc_norm/bias"],
        {"p/enc_norm/scale": "enc/norm/gamma", "p/enc_norm/bias": "enc/norm/beta"},
    ),
    "an expression of a scope": (
        [(src("enc/norm/").reshape(-1), "p/")],
        ["p/gamma", "p/scale"],
        {"p/gamma": "enc/norm/gamma", "p/scale": "enc/norm/gamma"},
    ),
    "an expression of all": (
        [(src("/").reshape(1), "/")],
        ["a/x", "shared"],
        {"a/x": "a/x", "shared": "shared"},
    ),
    "concat of scopes": (
        [(concat("a/", "b/")[:1], "p/")],
        ["p/x", "p/y"],
        {"p/x": "a/x", "p/y": "a/y"},
    ),
    "a rule beats a scope around it": (
        [("enc/", "p/"), (src("shared"), "p/kernel")],
        ["p/kernel", "p/norm/gamma"],
        {"p/kernel": "shared", "p/norm/gamma": "enc/norm/gamma"},
    ),
    "a rule beats a captured scope": (
        [("enc/layer_{i}/", "p/{i}/"), ("shared", "p/{i}/kernel")],
        ["p/0/kernel", "p/0/bias"],
        {"p/0/kernel": "shared", "p/0/bias": "enc/layer_0/bias"},
    ),
    "a plain name beats a captured scope": (
        [("shared", "p/0/kernel"), ("enc/layer_{i}/", "p/{i}/")],
        ["p/0/kernel", "p/1/kernel"],
        {"p/0/kernel": "shared", "p/1/kernel": "enc/layer_1/kernel"},
    ),
    "a rule of one leaf beats a captured name": (
        [(src("a/x"), "x"), (src("b/x"), "{n}")], ["x"], {"x": "a/x"}
    ),
    "the deeper captured scope wins": (
        [("enc/{n}/", "p/{n}/"), ("{s}/norm/", "p/deep/{s}/")],
        ["p/deep/enc/gamma", "p/norm/gamma"],
        {"p/deep/enc/gamma": "enc/norm/gamma", "p/norm/gamma": "enc/norm/gamma"},
    ),
    "a leaf that a plain name gets asks for nothing": (
        # Nor does the plain scope, which would alone: a rule reaches the leaf, too.
        [("enc/", "p/"), ("gap/l_{i}/", "p/{i}/"), ("shared", "p/2/absent")],
        ["p/2/absent", "p/1/w"],
        {"p/2/absent": "shared", "p/1/w": "gap/l_1/w"},
    ),
    "a taken leaf asks for nothing": (
        # `enc/absent` is not in the checkpoint, nor does anything need it.
        [("enc/", "p/"), (src("shared"), "p/absent")],
        ["p/absent", "p/kernel"],
        {"p/absent": "shared", "p/kernel": "enc/kernel"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MEANINGS))
def test_meaning(name: str, prefix: pathlib.Path) -> None:
    entries, names, expected = MEANINGS[name]
    for order in itertools.permutations(entries):
        plan = tf2flax.plan(prefix, order, leaves(*names))
        assert sources(plan) == expected
        assert set(plan.kept) == set(names) - set(expected)
    tree = tf2flax.init_from_checkpoint(prefix, dict(entries), leaves(*names))
    for leaf, source in expected.items():
        assert tree[leaf].tolist() == [NUMBER[source]]


# What stands in the map, the leaf's value, and its shape.
VALUES: dict[str, tuple[Expression, Any]] = {
    "stack in numeric order": (
        stack("enc/layer_{i}/bias", over="i"),
        [[NUMBER[f"enc/layer_{i}/bias"]] for i in range(3)],
    ),
    "ten comes after nine": (
        stack("deep/l_{i}/w", over="i").reshape(-1),
        [NUMBER[f"deep/l_{i}/w"] for i in range(12)],
    ),
    "stack from the smallest": (
        stack("from_two/l_{i}/w", over="i", axis=1),
        [[NUMBER["from_two/l_2/w"], NUMBER["from_two/l_3/w"]]],
    ),
    "concat over": (
        concat("from_two/l_{i}/w", over="i"),
        [NUMBER["from_two/l_2/w"], NUMBER["from_two/l_3/w"]],
    ),
    "concat": (concat("a/x", "b/x"), [NUMBER["a/x"], NUMBER["b/x"]]),
    "stack of stacks": (
        stack(stack("moe/l_{i}/e_{j}/w", over="j"), over="i").reshape(2, 2),
        [[NUMBER[f"moe/l_{i}/e_{j}/w"] for j in range(2)] for i in range(2)],
    ),
    "an expression in a stack": (
        stack(concat("moe/l_{i}/e_0/w", "moe/l_{i}/e_1/w")[::-1], over="i"),
        [[NUMBER[f"moe/l_{i}/e_{j}/w"] for j in (1, 0)] for i in range(2)],
    ),
    "slices of a partitioned variable": (src("rows").transpose()[1, 1:4], [3, 5, 7]),
    "rows": (src("rows").take([4, 0, 4])[:, 0], [8, 0, 8]),
    "numpy's words": (
        src("matrix").rearrange("a (b c) -> c (a b)", c=3).cast("i4"),
        [[0, 3], [1, 4], [2, 5]],
    ),
}


@pytest.mark.parametrize("name", list(VALUES))
def test_value(name: str, prefix: pathlib.Path) -> None:
    expression, expected = VALUES[name]
    wanted = np.array(expected, "i4" if "cast" in repr(expression) else "f4")
    target = {"x": jax.ShapeDtypeStruct(wanted.shape, wanted.dtype)}
    plan = tf2flax.plan(prefix, {expression: "x"}, target)
    assert plan.restore()["x"].tolist() == expected


def test_stacked_scopes(prefix: pathlib.Path) -> None:
    target = {"layers": {"w": np.zeros((2, 1), "f4")}}
    tree = tf2flax.init_from_checkpoint(
        prefix, {stack("from_two/l_{i}/", over="i"): "layers/"}, target
    )
    assert tree["layers"]["w"].tolist() == [
        [NUMBER["from_two/l_2/w"]],
        [NUMBER["from_two/l_3/w"]],
    ]


# Map, leaves, and what the error says.
ERRORS: dict[str, tuple[Any, Any, str]] = {
    "a gap": ({stack("gap/l_{i}/w", over="i"): "x"}, leaves("x"), "tensor `gap/l_2/w`"),
    "one number twice": (
        {stack("twice/l_{i}/w", over="i"): "x"}, leaves("x"), "both `01` and `1` for"
    ),
    "nothing to count": (
        {stack("none_{i}/w", over="i"): "x"}, leaves("x"), r"no tensor `none_\{i\}/w`"
    ),
    "another count": (
        {stack("enc/layer_{i}/bias", over="i"): "x"},
        {"x": np.zeros((2, 1), "f4")},
        r"expected shape \[2, 1\], got \[3, 1\]. 3 are stacked: was the model built "
        "with another number of layers",
    ),
    "a capture that the value lacks": (
        {"enc/layer_{i}/kernel": "x"}, leaves("x"), r"capture \{i\} of the key"
    ),
    "a counted capture in the value": (
        {stack("gap/l_{i}/w", over="i"): "x_{i}"}, leaves("x_0"), "stands in the value"
    ),
    "a capture counted twice": (
        {stack(stack("gap/l_{i}/w", over="i"), over="i"): "x"}, leaves("x"),
        r"no capture \{i\}",
    ),
    "a counted capture that is not there": (
        {stack("gap/l_0/w", over="i"): "x"}, leaves("x"), r"no capture \{i\}"
    ),
    "a lone brace": ({"enc/layer_{i": "x"}, leaves("x"), "single `{`"),
    "a capture without a name": (
        {"enc/{}/w": "x"}, leaves("x"), "is not a valid capture"
    ),
    "five captures in a component": (
        {"{a}{b}{c}{d}{e}": "{a}{b}{c}{d}{e}"}, leaves("x"), "at most 4 captures"
    ),
    "scopes and names": ({concat("a/", "b"): "x"}, leaves("x"), "or all are scopes"),
    "a scope for a name": ({src("a/"): "x"}, leaves("x"), "Did you mean `x/`"),
    "a name for a scope": ({src("a"): "x/"}, leaves("x/y"), "Did you mean `a/`"),
    "a captured key for an object": ({"a/{x}": LEAF}, {"x": LEAF}, r"capture \{x\}"),
    "a scope for an object": ({src("a/"): LEAF}, {"x": LEAF}, "fills a scope"),
    "two rules for a leaf": (
        {src("a/x"): "x", src("b/x"): "x"}, leaves("x"), "both name it"
    ),
    "two captured names for a leaf": (
        {src("a/x"): "{n}", src("b/x"): "{m}"}, leaves("x"), "both name it"
    ),
    "two captured scopes for a leaf": (
        {"a/{n}/": "{n}/", "{n}/": "{n}/"}, leaves("a/x"), "both reach it"
    ),
    "a rule and a plain entry": (
        {src("a/x"): "x", "b/x": "x"}, leaves("x"), "both name it"
    ),
    "a rule and an object": (
        {src("a/x"): "x", "b/x": LEAF}, {"x": LEAF}, "both name it"
    ),
    "a rule and a list": (
        [(src("rows"), "t"), ("rows", [PARTS["t/part_0"]])],
        PARTS,
        "both name it",
    ),
    "no such leaf": ({src("a/x"): "none"}, leaves("x"), "no leaf `none`"),
    "no such tensor": (
        {src("a/z"): "x"}, leaves("x"), "no tensor `a/z`, .*Did you mean"
    ),
    "no such scope": (
        {"nothing_{i}/": "p/{i}/"},
        leaves("p/0/w", "p/1/w"),
        r"nothing lies under `nothing_\{0..1\}/`, which 2 leaves",
    ),
    "two aliases": ({"two/{n}/": "{n}/"}, leaves("both/scale"), "could both fill"),
    "a transpose": (
        {"matrix": "x"},
        {"x": np.zeros((3, 2), "f4")},
        r'use the key `src\("matrix"\).transpose\(\)`',
    ),
    "an operation that does not fit": (
        {src("matrix").reshape(5): "x"}, {"x": np.zeros(5, "f4")}, "6 elements"
    ),
    "a key of another kind": ({3: "x"}, leaves("x"), "or an expression"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ERRORS))
def test_error(name: str, prefix: pathlib.Path) -> None:
    entries, target, message = ERRORS[name]
    pairs = list(entries.items()) if isinstance(entries, dict) else entries
    for order in itertools.permutations(pairs):
        with pytest.raises(tf2flax.AssignmentError, match=message):
            tf2flax.plan(prefix, order, target)


def test_overridden_entries_are_told(prefix: pathlib.Path) -> None:
    entries = [("enc/", "p/"), (src("shared"), "p/kernel")]
    plan = tf2flax.plan(prefix, entries, leaves("p/kernel"))
    (lost,) = plan.to_dict()["overridden"]
    assert lost["entry"] == "`enc/` -> `p/`"
    assert lost["by"] == '`src("shared")` -> `p/kernel`'
    assert plan.unused_rules == ()


def test_rules_that_reach_nothing_are_told(prefix: pathlib.Path) -> None:
    entries = {"enc/layer_{i}/": "none_{i}/", "a/{n}": "none_{n}/x", "shared": "x"}
    plan = tf2flax.plan(prefix, entries, leaves("x"))
    assert plan.unused_rules == (
        "`enc/layer_{i}/` -> `none_{i}/`",
        "`a/{n}` -> `none_{n}/x`",
    )


def test_families_are_filled_by_expressions(prefix: pathlib.Path) -> None:
    target = {f"t/part_{i}": np.zeros((n, 2), "f4") for i, n in enumerate((3, 2))}
    key = src("rows").take([4, 3, 2, 1, 0])
    tree = tf2flax.init_from_checkpoint(prefix, {key: "t"}, target)
    joined = np.concatenate([tree["t/part_0"], tree["t/part_1"]])
    assert joined[:, 0].tolist() == [8, 6, 4, 2, 0]
    tree = tf2flax.init_from_checkpoint(prefix, [(key, [target["t/part_1"]])], target)
    assert tree["t/part_1"][:, 0].tolist() == [2, 0]
    assert tree["t/part_0"] is target["t/part_0"]
    parts = {f"rows/part_{i}": part for i, part in enumerate(target.values())}
    tree = tf2flax.init_from_checkpoint(prefix, {"row{s}": "row{s}"}, parts)
    assert tree["rows/part_1"][:, 0].tolist() == [6, 8]


@pytest.mark.parametrize("stored", ["one", "two"])
@pytest.mark.parametrize(
    "entry", [("m/{n}/w", "{n}/w"), ("m/{n}/", "{n}/"), (src("m/{n}/w")[:], "{n}/w")]
)
def test_a_tied_variable_is_found_under_each_name_that_a_capture_matches(
    tmp_path: pathlib.Path, stored: str, entry: tuple[Any, str]
) -> None:
    class Part(nnx.Module):
        def __init__(self, w: nnx.Param[Any]) -> None:
            self.w = w

    class Tied(nnx.Module):
        def __init__(self) -> None:
            w = nnx.Param(jnp.zeros(2))
            self.one, self.two = Part(w), Part(w)

    prefix = tf2flax.save_checkpoint(
        tmp_path / "m", {f"m/{stored}/w": np.ones(2, "f4")}
    )
    module = tf2flax.init_from_checkpoint(prefix, [entry], Tied())
    assert module.one.w is module.two.w
    assert module.two.w[...].tolist() == [1, 1]


@pytest.mark.parametrize("key", ["net/", src("net/"), "{n}et/", "/"])
def test_modules_called_part_0_are_modules(tmp_path: pathlib.Path, key: Any) -> None:
    tensors = {"part_0/kernel": 1, "part_1/part_x/kernel": 2, "part_of/b": 3, "t": 4}
    scope = "" if key == "/" else "net/"
    prefix = tf2flax.save_checkpoint(
        tmp_path / "m",
        {scope + name: np.full(2, n, "f4") for name, n in tensors.items()},
    )
    zero = np.zeros(2, "f4")
    target = {
        "part_0": {"kernel": zero}, "part_1": {"part_x": {"kernel": zero}},
        "part_of": {"b": zero}, "t": {"part_0": zero[:1], "part_1": zero[1:]},
    }  # fmt: skip
    value = "{n}et/" if key == "{n}et/" else "net/"
    tree = tf2flax.init_from_checkpoint(prefix, {key: value}, {"net": target})["net"]
    assert tree["part_0"]["kernel"].tolist() == [1, 1]
    assert tree["part_1"]["part_x"]["kernel"].tolist() == [2, 2]
    assert tree["part_of"]["b"].tolist() == [3, 3]
    assert tree["t"]["part_1"].tolist() == [4]


def test_a_tied_variable_is_one_leaf(prefix: pathlib.Path) -> None:
    class Tied(nnx.Module):
        def __init__(self) -> None:
            self.x = nnx.Param(jnp.zeros(1))
            self.y = self.x

    # The tensors of its two names differ.
    with pytest.warns(UserWarning, match="leaf `x` .* and not from `a/y`"):
        module = tf2flax.init_from_checkpoint(prefix, {"a/{n}": "{n}"}, Tied())
    assert module.x.get_value().tolist() == [NUMBER["a/x"]]
    assert module.y is module.x
    with pytest.warns(UserWarning, match="leaf `x` .* and not from `b/y`"):
        module = tf2flax.init_from_checkpoint(prefix, {src("b/"): "/"}, Tied())
    assert module.y.get_value().tolist() == [NUMBER["b/x"]]


def test_objects_are_targets_of_expressions(prefix: pathlib.Path) -> None:
    target = {"x": np.zeros((3, 2), "f4"), "y": np.ones(1, "f4")}
    key = src("matrix").transpose()
    tree = tf2flax.init_from_checkpoint(prefix, [(key, target["x"])], target)
    assert tree["x"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert tree["y"] is target["y"]


def test_captures_reach_no_leaf_without_numbers(prefix: pathlib.Path) -> None:
    target = {"x": np.zeros(1, "f4"), "y": jax.random.key(0), "z": None}
    for entries in ({"a/{n}": "{n}"}, {src("a/").reshape(1): "/"}):
        tree = tf2flax.init_from_checkpoint(prefix, entries, target)
        assert tree["x"].tolist() == [NUMBER["a/x"]]
        assert tree["y"] is target["y"]
    with pytest.raises(tf2flax.AssignmentError, match="holds no numbers"):
        tf2flax.plan(prefix, {src("a/y"): "y"}, target)


def test_casts(prefix: pathlib.Path) -> None:
    key = src("matrix").cast("bfloat16")
    target = {"x": jax.ShapeDtypeStruct((2, 3), "float32")}
    plan = tf2flax.plan(prefix, {key: "x"}, target)
    (one,) = plan.assignments
    assert [dtype.name for dtype in one.casts] == ["float32", "bfloat16", "float32"]
    assert plan.restore()["x"].dtype == "float32"
    kept = tf2flax.plan(prefix, {key: "x"}, target, dtype="checkpoint").restore()
    assert kept["x"].dtype == "bfloat16"
    with pytest.raises(tf2flax.AssignmentError, match="refuses to cast"):
        tf2flax.plan(prefix, {key: "x"}, target, dtype="exact")
    with pytest.raises(tf2flax.AssignmentError, match="is not safe"):
        tf2flax.plan(prefix, {src("matrix").cast("i4"): "x"}, target)


# Option, and what becomes of the leaves.
POLICIES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "all kept": (
        {"on_missing": "keep", "on_mismatch": "keep"},
        ["p/gone", "p/gone_too"],
        ["q"],
    ),
    "some kept": (
        {"on_missing": [("too$", "keep"), ("gone", "keep")], "on_mismatch": "keep"},
        ["p/gone", "p/gone_too"],
        ["q"],
    ),
}


@pytest.mark.parametrize("name", list(POLICIES))
@pytest.mark.parametrize("scope", [("enc/", "p/"), ("enc/", "{p}/")])
def test_what_cannot_be_filled_is_kept(
    name: str, scope: tuple[str, str], prefix: pathlib.Path
) -> None:
    options, missing, mismatched = POLICIES[name]
    target = leaves("p/kernel", "p/gone", "p/gone_too") | {"q": np.zeros(3, "f4")}
    plan = tf2flax.plan(prefix, [scope, ("shared", "q")], target, **options)
    assert [gap.leaf for gap in plan.missing] == missing
    assert [gap.leaf for gap in plan.mismatched] == mismatched
    assert set(plan.kept) == {*missing, *mismatched}
    tree = plan.restore()
    assert all(tree[leaf] is target[leaf] for leaf in plan.kept)
    assert tree["p/kernel"].tolist() == [NUMBER["enc/kernel"]]


NOT_KEPT: dict[str, dict[str, Any]] = {
    "by default": {},
    "another leaf": {"on_missing": [("other", "keep")], "on_mismatch": "keep"},
    "the first match counts": {
        "on_missing": [("gone", "error"), ("", "keep")], "on_mismatch": "keep",
    },
    "the other option": {"on_mismatch": "keep"},
}  # fmt: skip


@pytest.mark.parametrize("name", list(NOT_KEPT))
def test_what_is_not_kept_is_an_error(name: str, prefix: pathlib.Path) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="no tensor `enc/gone`"):
        tf2flax.plan(prefix, {"enc/": "p/"}, leaves("p/gone"), **NOT_KEPT[name])


@pytest.mark.parametrize(
    "value",
    ["ignore", None, 3, [("a",)], [("a", "drop")], [("(", "keep")], [(3, "keep")]],
)
def test_wrong_policies_are_refused(value: Any, prefix: pathlib.Path) -> None:
    for option in ("on_missing", "on_mismatch"):
        with pytest.raises(tf2flax.AssignmentError, match=f"Option {option}"):
            tf2flax.plan(prefix, {}, leaves("x"), **{option: value})


def test_dtypes_that_are_refused_at_plan_time_are_mismatches(
    prefix: pathlib.Path,
) -> None:
    target = {"x": np.zeros(1, "i4"), "y": np.zeros(1, "f4")}
    entries = [("shared", "x"), ("shared", "y")]
    plan = tf2flax.plan(prefix, entries, target, on_mismatch="keep")
    assert "not safe" in plan.mismatched[0].fact
    assert plan.restore()["x"] is target["x"]


def test_targets_that_are_not_there_are_never_kept(prefix: pathlib.Path) -> None:
    options: dict[str, Any] = {"on_missing": "keep", "on_mismatch": "keep"}
    for key in ("shared", src("shared")):
        with pytest.raises(tf2flax.AssignmentError, match="no leaf `none`"):
            tf2flax.plan(prefix, [(key, "none")], leaves("x"), **options)


def test_several_checkpoints_feed_one_model(
    prefix: pathlib.Path, data: pathlib.Path
) -> None:
    merged = tf2flax.merge_checkpoints({"small/": prefix, "bert/": data / "bert"})
    target = leaves("layer_0/kernel") | {"step": jax.ShapeDtypeStruct((), "int32")}
    tree = tf2flax.init_from_checkpoint(
        merged,
        {"small/enc/layer_{i}/": "layer_{i}/", "bert/global_step": "step"},
        target,
    )
    assert tree["layer_0/kernel"].tolist() == [NUMBER["enc/layer_0/kernel"]]
    assert tree["step"].tolist() == 123456


def test_warm_start_takes_rules(prefix: pathlib.Path) -> None:
    def init(key: jax.Array) -> dict[str, jax.Array]:
        return {"x": jax.random.normal(key, (3, 2)), "y": jax.random.normal(key, (2,))}

    warm = tf2flax.warm_start(
        init,
        prefix,
        {src("matrix").transpose(): "x", "gone": "y"},
        on_missing="keep",
    )
    tree = warm(jax.random.key(0))
    assert tree["x"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert np.array_equal(tree["y"], jax.jit(init)(jax.random.key(0))["y"])


ENTRIES: list[tuple[str | Expression, str]] = [
    ("enc/", "p/"), ("enc/layer_{i}/", "p/layer_{i}/"), ("{s}/", "p/{s}/"),
    ("a/", "p/layer_0/"), ("a/x", "p/layer_0/kernel"),
    ("{s}/layer_{i}/bias", "{s}_{i}"),
    (src("a/x"), "p/kernel"), (src("enc/layer_0/").reshape(1), "p/layer_1/"),
    (stack("deep/l_{i}/w", over="i")[0], "p/layer_{j}/kernel"), ("none", "p/kernel"),
    ("/", "q/"), ("{x}", "q/{x}"), (concat("shared", "a/y")[1:], "q/shared"),
]  # fmt: skip
MEMBERS = [
    "p/kernel", "p/layer_0/kernel", "p/layer_0/bias", "p/layer_1/kernel", "enc_2",
    "p/norm/gamma", "q/shared", "q/a/x", "q/missing",
]  # fmt: skip


@settings(max_examples=200)
@given(drawn=st.data())
def test_plans_add_up_whatever_the_order(
    drawn: st.DataObject, prefix: pathlib.Path
) -> None:
    entries = drawn.draw(st.lists(st.sampled_from(ENTRIES), unique=True, max_size=5))
    target = leaves(*drawn.draw(st.lists(st.sampled_from(MEMBERS), unique=True)))
    keep = drawn.draw(st.sampled_from(["error", "keep"]))
    outcomes: list[Any] = []
    for order in (entries, entries[::-1], drawn.draw(st.permutations(entries))):
        try:
            plan = tf2flax.plan(
                prefix, order, target, on_missing=keep, on_mismatch=keep
            )
        except tf2flax.AssignmentError as error:
            outcomes.append(f"an error: {len(str(error).splitlines()) <= 60}")
            continue
        loaded = [one.leaf for one in plan.assignments]
        assert sorted([*loaded, *plan.kept]) == sorted(target)
        gaps = [gap.leaf for gap in (*plan.missing, *plan.mismatched)]
        assert set(gaps) <= set(plan.kept)
        used = {name for one in plan.assignments for name in one.sources}
        assert used | set(plan.unused) == set(tf2flax.open_checkpoint(prefix))
        assert not used & set(plan.unused)
        assert plan.nbytes <= sum(one.nbytes for one in plan.assignments)
        told = plan.to_dict()
        assert [one["leaf"] for one in told["assignments"]] == loaded
        noun = "leaf" if len(loaded) == 1 else "leaves"
        assert f"{len(loaded)} {noun} loaded" in str(plan)
        outcomes.append(sources(plan))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0] != "an error: False"
