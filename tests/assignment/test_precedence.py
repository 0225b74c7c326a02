"""Who gets a leaf: the tables of docs/maps.md, and a slower statement of the order."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import ROOT

import tf2flax
from tf2flax import Expression, src

# Of no element, so that a tensor fits a leaf, a part and a family of parts alike.
EMPTY = np.zeros(0, "f4")
MAPS = ROOT / "docs" / "maps.md"
PARTS = ("a/t/part_0", "a/t/part_1")
LEAVES = ("a/b/c/k", "a/b/k", "a/k", "d/b/k", "k", *PARTS)
KEYS = "abcdefgh"


def write(path: pathlib.Path, names: Sequence[str]) -> tf2flax.Checkpoint:
    write_bundle(path, {name: Tensor(EMPTY) for name in sorted(names)})
    return tf2flax.open_checkpoint(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tf2flax.Checkpoint:
    """Tensors `a` to `h`, and in scopes of these names all that leaves may need."""
    names = [name.partition("/part_")[0] for name in (*LEAVES, "z/z/z/z/z")]
    cut = [name.split("/", n)[-1] for name in names for n in range(5)]
    tails = [*names, *cut]
    scopes = [f"{key}/{tail}" for key in KEYS for tail in set(tails)]
    path = tmp_path_factory.mktemp("precedence") / "m"
    return write(path, [*KEYS, "z", *scopes])


# --- The documentation -------------------------------------------------------------


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the table under a heading that are code."""
    table = MAPS.read_text().split(heading)[1].split("\n\n")[0]
    return [re.findall(r"`([^`]+)`", row) for row in table.splitlines()[2:] if row]


WINS = rows_of("\n| this entry | wins over | since |")
EQUALS = rows_of("\n| these entries | since |")
LEAF = "enc/layers_1/kernel"


def entries_of(text: str) -> list[tuple[str | Expression, str]]:
    return list(eval(f"{{{text}}}", {"src": src}).items())


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> tf2flax.Checkpoint:
    tails = ("kernel", "layers_1/kernel", LEAF)
    scopes = [f"{key}/{tail}" for key in "ab" for tail in tails]
    path = tmp_path_factory.mktemp("documented") / "m"
    return write(path, [*"abxy", *scopes])


def test_the_tables_are_there() -> None:
    assert len(WINS) >= 15
    assert len(EQUALS) >= 5
    assert all(len(row) == 2 for row in WINS)


@pytest.mark.parametrize("row", range(len(WINS)))
def test_documented_order(row: int, documented: tf2flax.Checkpoint) -> None:
    (winner,), (loser,) = map(entries_of, WINS[row])
    for order in ([winner, loser], [loser, winner]):
        plan = tf2flax.plan(documented, order, {LEAF: EMPTY})
        assert plan.assignments[0].entry.number == order.index(winner) + 1
        (lost,) = plan.to_dict()["overridden"]
        assert lost["by"] == str(plan.assignments[0].entry)
    alone = tf2flax.plan(documented, [loser], {LEAF: EMPTY})
    assert alone.assignments[0].leaf == LEAF  # it would have been reached


@pytest.mark.parametrize("row", range(len(EQUALS)))
def test_documented_errors(row: int, documented: tf2flax.Checkpoint) -> None:
    entries = entries_of(EQUALS[row][0])
    for order in itertools.permutations(entries):
        with pytest.raises(tf2flax.AssignmentError) as error:
            tf2flax.plan(documented, order, {LEAF: EMPTY, "step": EMPTY})
        message = str(error.value)
        assert f"leaf `{LEAF}`" in message
        for key, value in entries[:2]:
            assert f"`{key}` -> `{value}`" in message


# --- Cases worth a name ---------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> tf2flax.Checkpoint:
    """A small model with averages, and a table of rows."""
    rows = np.arange(5, dtype="f4")[:, None].repeat(2, 1)
    raw = {f"m/l_{i}/{w}": i + n for i in range(2) for n, w in ((10, "w"), (20, "b"))}
    tensors = {name: np.array([n], "f4") for name, n in raw.items()}
    tensors |= {f"{n}/EMA": array + 100 for n, array in tensors.items()}
    tensors |= {"m/norm/gamma": np.array([30], "f4"), "x": np.array([40], "f4")}
    tensors |= {"q/l_0/scale": np.array([50], "f4"), "q/norm/scale": np.zeros(1, "f4")}
    tensors |= {"rows": rows, "s/t": rows + 10, "s/l_0/t": rows + 20, "two": rows[:2]}
    path = tmp_path_factory.mktemp("numbers") / "m"
    write_bundle(path, {name: Tensor(tensors[name]) for name in sorted(tensors)})
    return tf2flax.open_checkpoint(path)


def ones(*names: str) -> dict[str, np.ndarray]:
    return {name: np.ones(1, "f4") for name in names}


def filled(
    checkpoint: tf2flax.Checkpoint, entries: Any, target: Any, **options: Any
) -> dict[str, list[float]]:
    """First elements of all leaves, the same in every order of the entries."""
    results: list[dict[str, list[float]]] = []
    for order in itertools.permutations(entries):
        tree = tf2flax.plan(checkpoint, order, target, **options).restore()
        results.append(
            {n: np.ravel(leaf[..., :1]).tolist() for n, leaf in tree.items()}
        )
    assert all(result == results[0] for result in results)
    return results[0]


def test_averages_that_are_named_win_over_captured_scopes(
    numbers: tf2flax.Checkpoint,
) -> None:
    target = ones("l_0/w", "l_0/b", "l_1/w", "l_1/b")
    entries = [("m/l_{i}/", "l_{i}/"), ("m/l_1/w/EMA", "l_1/w")]
    expected = {"l_0/w": [10], "l_0/b": [20], "l_1/w": [111], "l_1/b": [21]}
    assert filled(numbers, entries, target) == expected
    for spelled in (src("m/l_1/w/EMA"), src("m/l_1/w/EMA")[:]):
        assert filled(numbers, [entries[0], (spelled, "l_1/w")], target) == expected
    by_name = [entries[0], ("m/l_{i}/w/EMA", "l_{i}/w")]
    expected["l_0/w"] = [110]
    assert filled(numbers, by_name, target) == expected


def test_an_average_that_is_not_there_is_not_replaced_by_the_variable(
    numbers: tf2flax.Checkpoint,
) -> None:
    target = ones("l_0/w", "l_1/w")
    entries = [("m/l_{i}/", "l_{i}/"), ("m/l_1/w/Average", "l_1/w")]
    with pytest.raises(tf2flax.AssignmentError, match="no tensor `m/l_1/w/Average`"):
        tf2flax.plan(numbers, entries, target)
    assert filled(numbers, entries, target, on_missing="keep") == {
        "l_0/w": [10],
        "l_1/w": [1],
    }


def test_a_name_whose_tensor_does_not_fit_is_not_replaced_by_a_scope(
    numbers: tf2flax.Checkpoint,
) -> None:
    entries = [("m/l_{i}/", "l_{i}/"), ("rows", "l_1/w")]
    with pytest.raises(tf2flax.AssignmentError, match=r"`rows` -> `l_1/w`: .* shape"):
        tf2flax.plan(numbers, entries, ones("l_0/w", "l_1/w"))
    kept = filled(numbers, entries, ones("l_0/w", "l_1/w"), on_mismatch="keep")
    assert kept == {"l_0/w": [10], "l_1/w": [1]}


# The stronger entry, whose tensor is not there, and a weaker one.
GONE: list[tuple[tuple[Any, str], tuple[Any, str]]] = [
    (("z/gone", "x/b"), ("m/l_1/", "x/")),
    (("z/gone", "x/b"), ("m/l_1/b", "x/b")),
    (("z/gone", "x/b"), (src("m/l_1/"), "x/")),
    (("z/gone", "x/b"), ("m/l_1/", "{x}/")),
    ((src("z/gone"), "x/b"), ("m/l_1/", "x/")),
    (("z/", "x/"), ("m/l_1/", "x/")),
    (("z/", "x/"), ("m/l_1/b", "x/b")),
    (("z/", "x/"), ("m/l_1/", "{x}/")),
]


@pytest.mark.parametrize(("strong", "weak"), GONE)
def test_a_leaf_whose_tensor_is_missing_is_not_filled_by_a_weaker_entry(
    numbers: tf2flax.Checkpoint, strong: tuple[Any, str], weak: tuple[Any, str]
) -> None:
    for order in itertools.permutations([weak, strong, ("two", "y")]):
        target = {"x/b": np.ones(1, "f4"), "y": np.zeros((2, 2), "f4")}
        plan = tf2flax.plan(numbers, order, target, on_missing="keep")
        assert [(gap.leaf, gap.entry.number) for gap in plan.missing] == [
            ("x/b", 1 + order.index(strong))
        ]
        (lost,) = plan._job.plan.resolution.overridden
        assert (lost.leaf, lost.entry.number) == ("x/b", 1 + order.index(weak))


def test_a_later_key_fills_a_leaf_whose_tensor_an_earlier_one_lacks(
    numbers: tf2flax.Checkpoint,
) -> None:
    entries = {"a/": "x/", "m/l_1/b": "x/b"}
    plan = tf2flax.plan(numbers, entries, ones("x/b"), on_missing="keep")
    assert not plan.missing
    assert plan.restore()["x/b"].tolist() == [21]


def test_a_deeper_plain_scope_wins_over_a_rule_of_scopes(
    numbers: tf2flax.Checkpoint,
) -> None:
    target = ones("p/l_0/w", "p/l_1/w", "p/l_1/b")
    entries = [("m/l_1/", "p/l_1/"), (src("m/").reshape(-1)[:], "p/")]
    assert filled(numbers, entries, target)["p/l_1/b"] == [21]
    plan = tf2flax.plan(numbers, entries, target)
    assert [assignment.entry.number for assignment in plan.assignments] == [2, 1, 1]
    # Aliases do not matter for who gets a leaf: a deeper `gamma` beats a `scale`.
    entries = [("m/norm/", "p/norm/"), ("q/", "{p}/")]
    assert filled(numbers, entries, ones("p/norm/scale")) == {"p/norm/scale": [30]}


PARTS_OF_5 = {"p/t/part_0": np.ones((3, 2), "f4"), "p/t/part_1": np.ones((2, 2), "f4")}


@pytest.mark.parametrize("scope", [("s/", "p/"), ("s/", "{p}/"), (src("s/")[:], "p/")])
def test_a_part_that_a_rule_names_beside_a_scope(
    scope: tuple[Any, str], numbers: tf2flax.Checkpoint
) -> None:
    entries = [scope, (src("two"), "p/t/part_1")]
    expected = {"p/t/part_0": [10, 11, 12], "p/t/part_1": [0, 1]}
    assert filled(numbers, entries, PARTS_OF_5) == expected


# What names a part, plainly, and the first elements of the rows that it gets.
@pytest.mark.parametrize(
    ("entry", "rows"),
    [
        (("two", "p/t/part_1"), [0, 1]),
        (("two", PARTS_OF_5["p/t/part_1"]), [0, 1]),
        (("rows", [PARTS_OF_5["p/t/part_1"]]), [3, 4]),
    ],
)
def test_a_part_that_is_named_plainly_beside_a_captured_scope(
    entry: tuple[str, Any], rows: list[float], numbers: tf2flax.Checkpoint
) -> None:
    expected = {"p/t/part_0": [10, 11, 12], "p/t/part_1": rows}
    assert filled(numbers, [("s/", "{p}/"), entry], PARTS_OF_5) == expected


@pytest.mark.parametrize("strong", ["s/x", src("s/x"), src("s/x")[:]])
@pytest.mark.parametrize("weak", ["a/", "z/", "{a}/", src("a/")])
def test_a_leaf_is_kept_whatever_kind_of_entry_does_not_fit(
    tmp_path: pathlib.Path, strong: Any, weak: Any
) -> None:
    scopes = {f"{scope}/w": np.ones(2, "f4") for scope in "az"}
    prefix = tf2flax.save_checkpoint(
        tmp_path / "m", {**scopes, "s/x": np.ones(3, "f4"), "a/n": np.ones(2, "f4")}
    )
    value = "{a}/" if weak == "{a}/" else "a/"
    target = {"a": {"w": np.zeros(2, "f4")}, "o": np.zeros(3, "f4")}
    entries = [(strong, "a/w"), (weak, value), ("s/x", "o")]
    # Of plain entries the later key wins, as in TensorFlow.
    expected = "z/w" if (strong, weak) == ("s/x", "z/") else None
    plan = tf2flax.plan(prefix, entries, target, on_mismatch="keep")
    sources = {a.leaf: a.source for a in plan.assignments}
    assert sources.get("a/w") == expected
    assert [gap.leaf for gap in plan.mismatched] == ([] if expected else ["a/w"])


def test_a_family_and_a_part_of_it_are_named(numbers: tf2flax.Checkpoint) -> None:
    family = {"p/t/part_0": [0, 1, 2], "p/t/part_1": [3, 4]}
    for key in ("rows", src("rows")):
        for weaker in (("two", "{p}/t/part_1"), ("s/t", "p/{t}")):
            assert filled(numbers, [(key, "p/t"), weaker], PARTS_OF_5) == family
    part = [("s/t", "p/{t}"), (src("two"), "p/t/part_1")]
    expected = {"p/t/part_0": [10, 11, 12], "p/t/part_1": [0, 1]}
    assert filled(numbers, part, PARTS_OF_5) == expected
    entries = [("rows", "p/t"), (src("two"), "p/t/part_1")]
    with pytest.raises(tf2flax.AssignmentError, match="both name it"):
        tf2flax.plan(numbers, entries, PARTS_OF_5)


def test_objects_name_their_leaves(numbers: tf2flax.Checkpoint) -> None:
    target = ones("l_0/w", "l_1/w")
    for key in ("x", src("x")):
        entries = [("m/l_{i}/", "l_{i}/"), (key, target["l_1/w"])]
        assert filled(numbers, entries, target) == {"l_0/w": [10], "l_1/w": [40]}


def test_a_leaf_of_two_names_is_named_by_either(numbers: tf2flax.Checkpoint) -> None:
    class Tied(nnx.Module):
        def __init__(self) -> None:
            self.first = nnx.Param(jnp.zeros(1))
            self.second = self.first

    for name in ("first", "second"):
        entries = [("m/l_0/w", "{any}"), ("x", name)]
        module = tf2flax.init_from_checkpoint(numbers, entries, Tied())
        assert module.first.get_value().tolist() == [40]


def test_a_leaf_of_two_names_is_overridden_once(numbers: tf2flax.Checkpoint) -> None:
    class Tied(nnx.Module):
        def __init__(self) -> None:
            self.l_0 = nnx.Dict(w=nnx.Param(jnp.zeros(1)))
            self.l_1 = self.l_0

    entries = [("m/", "/"), (src("m/l_1/"), "l_1/")]
    plan = tf2flax.plan(numbers, entries, Tied())
    (lost,) = plan.to_dict()["overridden"]
    assert lost["entry"] == "`m/` -> `/`"


def test_equal_rules_under_a_stronger_entry_are_no_error(
    numbers: tf2flax.Checkpoint,
) -> None:
    entries = [("m/{i}/", "{i}/"), ("q/{i}/", "{i}/"), ("x", "l_0/w")]
    assert filled(numbers, entries, ones("l_0/w")) == {"l_0/w": [40]}
    with pytest.raises(tf2flax.AssignmentError, match="both reach it"):
        tf2flax.plan(numbers, entries, ones("l_0/w", "l_0/b"))


def test_a_plain_winner_stands_in_the_report(numbers: tf2flax.Checkpoint) -> None:
    entries = [("m/l_{i}/", "l_{i}/"), ("m/", "/"), ("x", "l_0/w")]
    plan = tf2flax.plan(numbers, entries, ones("l_0/w", "l_1/w"))
    captured, scope, name = (f"`{key}` -> `{value}`" for key, value in entries)
    lost = plan.to_dict()["overridden"]
    assert {(row["leaf"], row["entry"], row["by"]) for row in lost} == {
        ("l_0/w", captured, name),
        ("l_0/w", scope, name),
        ("l_1/w", scope, captured),
    }
    assert "Overridden entries (3)" in str(plan)


def test_the_order_is_that_of_every_call(numbers: tf2flax.Checkpoint) -> None:
    entries = [("m/l_{i}/", "l_{i}/"), ("x", "l_1/w")]
    target = {"l_0": {"w": jnp.ones(1)}, "l_1": {"w": jnp.ones(1)}}
    trees = [
        tf2flax.init_from_checkpoint(numbers, entries, target),
        tf2flax.plan(numbers, entries, target).restore(),
        tf2flax.warm_start(lambda: target, numbers, entries)(),
    ]
    for tree in trees:
        assert tree["l_0"]["w"].tolist() == [10]
        assert tree["l_1"]["w"].tolist() == [40]


@pytest.mark.filterwarnings("ignore:Entries of the assignment map reach no leaf")
def test_a_name_never_loses_to_a_scope_by_its_key_where_there_are_rules(
    numbers: tf2flax.Checkpoint,
) -> None:
    target = ones("l_0/w", "l_1/w", "y")
    late = [("m/l_0/", "l_0/"), ("m/l_0/w/EMA", "l_0/w")]
    assert filled(numbers, late, target)["l_0/w"] == [110]
    early = [("m/l_0/w/EMA", "l_1/w"), ("m/l_1/", "l_1/")]
    assert filled(numbers, early, target)["l_1/w"] == [11]  # exactly TensorFlow
    for rule in ((src("x"), "y"), ("x", "{y}"), ("none_{i}/", "none_{i}/")):
        assert filled(numbers, [*late, rule], target)["l_0/w"] == [110]
        with pytest.raises(tf2flax.AssignmentError, match=r'src\("m/l_0/w/EMA"\)'):
            tf2flax.plan(numbers, [*early, rule], target)
        mended = [(src(early[0][0]), early[0][1]), early[1], rule]
        assert filled(numbers, mended, target)["l_1/w"] == [110]


# --- A slower statement of the order -------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An entry; its value is a name, a scope, or leaves that are given as objects."""

    key: str
    is_expression: bool
    value: str | tuple[str, ...]
    is_missing: bool = False

    @property
    def text(self) -> str:
        return f"{self.key}{'_' * self.is_missing}{'/' * self.is_scope}"

    @property
    def is_scope(self) -> bool:
        return isinstance(self.value, str) and self.value.endswith("/")

    @property
    def captured(self) -> int:
        parts = self.value.split("/") if isinstance(self.value, str) else ()
        return sum("{" in part for part in parts)

    @property
    def is_rule(self) -> bool:
        return self.is_expression or self.captured > 0

    @property
    def rank(self) -> tuple[int, ...]:
        if not self.is_scope:
            return (1, -self.captured)
        depth = len([part for part in str(self.value).split("/") if part])
        return (0, depth, -self.captured, int(self.is_rule))

    def pair(self, target: dict[str, Any]) -> tuple[Any, Any]:
        value: Any = self.value
        if isinstance(value, tuple):
            objects = [target[name] for name in value]
            is_part = value[0] in PARTS
            value = objects if is_part else objects[0]
        return src(self.text) if self.is_expression else self.text, value

    def reaches(self, leaf: str) -> bool:
        if isinstance(self.value, tuple):
            return leaf in self.value
        if self.value == "/":
            return True
        pattern = re.sub(r"\{\w\}", "[^/]+", self.value)
        if self.is_scope:
            return re.match(pattern, leaf) is not None
        names = {leaf, leaf.partition("/part_")[0]}
        return any(re.fullmatch(pattern, name) for name in names)


def expected_entry(entries: Sequence[Drawn], leaf: str, on_missing: str) -> int | None:
    """Number of the entry that gets a leaf, from 1; None for none.

    Raises:
        LookupError: Several are equal, or a tensor is not there.
    """
    winner = winning_entry(entries, leaf)
    # A stronger entry's leaf asks for nothing; plain ones alone are as in TensorFlow.
    reaching = [entry for entry in entries if entry.reaches(leaf)]
    is_plain = not any(entry.is_rule for entry in reaching)
    asked = reaching if is_plain else [entries[winner]] if winner is not None else []
    if on_missing == "error" and any(entry.is_missing for entry in asked):
        raise LookupError
    return None if winner is None else winner + 1


def winning_entry(entries: Sequence[Drawn], leaf: str) -> int | None:
    """The place of the entry that gets a leaf, or LookupError where several would."""
    reaching = [i for i, entry in enumerate(entries) if entry.reaches(leaf)]
    rules = [i for i in reaching if entries[i].is_rule]
    plain = [i for i in reaching if not entries[i].is_rule]
    plain.sort(key=lambda i: entries[i].text)  # stable
    if not rules:
        winner = (plain or [None])[-1]
        before = plain[:-1]
        is_refused = any(entry.is_rule for entry in entries)
    else:
        winner = plain[-1] if plain else None
        before = plain[:-1]
        is_refused = True
    named = [i for i in before if not entries[i].is_scope]
    if is_refused and named and entries[winner].is_scope:
        raise LookupError
    if not rules:
        return winner
    best = max(entries[i].rank for i in rules)
    if winner is not None and entries[winner].rank > best:
        return winner
    names = [i for i in reaching if entries[i].rank == (1, 0)]
    if best == (1, 0) and len(names) > 1:
        raise LookupError
    (strongest, *others) = (i for i in rules if entries[i].rank == best)
    if others:
        raise LookupError
    return strongest


NAMES = [
    *LEAVES, "a/t", "{x}/k", "a/{x}", "a/b/{x}", "{x}/b/k", "{x}/{y}/k", "a/{x}/c/k",
    "{x}/t", "a/t/{x}", "{x}", "{x}/{y}/c/{z}", "a{x}/b/k",
]  # fmt: skip
SCOPES = [
    "/", "a/", "a/b/", "a/b/c/", "d/", "a/t/", "{x}/", "{x}/b/", "a/{x}/", "{x}/{y}/",
    "a/{x}/c/", "{x}/t/", "{x}/{y}/{z}/", "{x}{y}/b/",
]  # fmt: skip
OBJECTS = [*((name,) for name in LEAVES), PARTS, PARTS[::-1]]
# Reaches a leaf whatever else is drawn, so that the map fills one.
ALWAYS = Drawn("z", False, "z/z/z/z/z")


@st.composite
def maps(draw: st.DrawFn, missing: st.SearchStrategy[bool]) -> list[Drawn]:
    values = [st.sampled_from(NAMES), st.sampled_from(SCOPES), st.sampled_from(OBJECTS)]
    entries = draw(
        st.lists(
            st.builds(
                Drawn,
                key=st.sampled_from(KEYS),
                is_expression=st.booleans(),
                value=st.one_of(values[0], values[1], values[1], values[2]),
                is_missing=missing,
            ),
            min_size=2,
            max_size=5,
        )
    )
    return draw(st.permutations([*entries, ALWAYS]))


@settings(max_examples=250)
@given(
    entries=maps(st.sampled_from([False, False, False, True])),
    on_missing=st.sampled_from(["error", "keep"]),
)
def test_the_order_is_that_of_a_slower_statement(
    entries: list[Drawn], on_missing: Any, checkpoint: tf2flax.Checkpoint
) -> None:
    names = (*LEAVES, str(ALWAYS.value))
    target = {name: np.zeros(0, "f4") for name in names}
    try:
        expected = {name: expected_entry(entries, name, on_missing) for name in names}
    except LookupError:
        expected = None
    pairs = [entry.pair(target) for entry in entries]
    if expected is None:
        with pytest.raises(
            tf2flax.AssignmentError, match=r"leaf `|no tensor `|nothing lies"
        ):
            tf2flax.plan(checkpoint, pairs, target, on_missing=on_missing)
        return
    plan = tf2flax.plan(checkpoint, pairs, target, on_missing=on_missing)
    got: dict[str, int | None] = dict.fromkeys(names)
    got |= {loaded.leaf: loaded.entry.number for loaded in plan.assignments}
    got |= {gap.leaf: gap.entry.number for gap in plan.missing}
    assert got == expected
    for gap in plan.missing:
        assert entries[gap.entry.number - 1].is_missing
    resolution = plan._job.plan.resolution
    lost = {
        (override.leaf, override.entry.number, override.by.number)
        for override in resolution.overridden
    }
    for name, number in expected.items():
        reaching = [i for i, entry in enumerate(entries, 1) if entry.reaches(name)]
        if any(entries[i - 1].is_rule for i in reaching):
            losers = {(name, i, number) for i in reaching if i != number}
            assert losers == {triple for triple in lost if triple[0] == name}
