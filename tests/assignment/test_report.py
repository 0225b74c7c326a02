"""The plan and the errors as people read them."""

from __future__ import annotations

import io
import itertools
import pathlib
import re
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle
from hypothesis import given
from hypothesis import strategies as st

import tf2flax
from tf2flax._assignment.plans.sections import is_terminal
from tf2flax._base.collapsing import collapse, in_sequence

LAYERS = 24


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("report") / "m"
    tensors = {
        f"enc/layer_{i}/{part}": np.zeros((2, 3), "f4")
        for i in range(LAYERS)
        for part in ("kernel", "kernel/Adam")
    }
    tensors |= {"norm": np.zeros(3, "f4"), "other": np.zeros(1, "f4")}
    write_bundle(path, {name: Tensor(array) for name, array in tensors.items()})
    return path


def plan_of(prefix: pathlib.Path) -> tf2flax.Plan:
    target = {f"layers_{i}/w": np.zeros((2, 3), "f4") for i in range(LAYERS)}
    target |= {
        "t": np.zeros((3, 2), "f2"),
        "kept_0": np.zeros(1),
        "kept_1": np.zeros(1),
    }
    target |= {"gone": np.zeros(1, "f4"), "bad": np.zeros(2, "f4")}
    entries = [
        ("enc/layer_{i}/kernel", "layers_{i}/w"),
        (tf2flax.src("enc/layer_0/kernel").transpose(), "t"),
        ("none", "gone"),
        ("norm", "bad"),
    ]
    return tf2flax.plan(prefix, entries, target, on_missing="keep", on_mismatch="keep")


# Words of each line; columns are checked apart.
REPORT = """\
Restore plan for PREFIX
25 leaves loaded (576 B), 2 kept, 1 missing, 1 mismatched, 26 tensors unused

Loaded (25):
  leaf source shape dtype bytes entry
  layers_{0..23}/w enc/layer_{0..23}/kernel [2, 3] float32 576 B 1
  t src("enc/layer_0/kernel").transpose() [3, 2] float32 -> float16 24 B 2

Entries that fill them (2):
  entry of the map leaves in
  1 `enc/layer_{i}/kernel` -> `layers_{i}/w` 24
  2 `src("enc/layer_0/kernel").transpose()` -> `t` 1

Casts (1):
  dtype by leaves
  float32 -> float16 the leaf 1

Tensors that fill several leaves (1):
  source leaf
  enc/layer_0/kernel layers_0/w, t

Missing in the checkpoint, kept as they are (1):
  leaf source reason entry of the map
  gone none not in the checkpoint Entry 3 `none` -> `gone`

Mismatched, kept as they are (1):
  leaf source reason entry of the map
  bad norm expected shape [2], got [3]. CONFIGURATION Entry 4 `norm` -> `bad`

Kept as they are (2):
  kept_{0..1}

Unused in the checkpoint (2):
  norm
  other

Unused optimizer slots (24):
  Adam 24 tensors
""".replace("CONFIGURATION", "Was the model built with another configuration?")


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def test_the_report(prefix: pathlib.Path) -> None:
    text = str(plan_of(prefix)).replace(str(prefix), "PREFIX")
    assert words(text) == words(REPORT)
    table = text.split("\n\n")[1].splitlines()[1:]
    assert len({len(line) for line in table}) == 1
    assert "\x1b" not in text


def test_groups_of_to_dict(prefix: pathlib.Path) -> None:
    said = plan_of(prefix).to_dict()
    assert len(said["assignments"]) == 25
    assert said["kept"] == ["kept_0", "kept_1"]
    assert [gap["leaf"] for gap in said["missing"]] == ["gone"]
    assert [gap["leaf"] for gap in said["mismatched"]] == ["bad"]
    assert said["mismatched"][0]["rule"]["number"] == 4
    last = said["assignments"][-1]
    assert last["expression"] == 'src("enc/layer_0/kernel").transpose()'
    assert last["casts"] == ["float32", "float16"]


def test_slots_are_counted_by_what_they_are() -> None:
    end = "/.ATTRIBUTES/VARIABLE_VALUE"
    array = np.zeros(2, "f4")
    names = (
        *(f"{v}/.OPTIMIZER_SLOT/opt/{slot}{end}" for v in "wx" for slot in "mv"),
        *("dense/kernel", "adam/iteration", "adam/dense_kernel_velocity"),
        *(f"w{end}", f"x{end}", "optimizer/vars/2", "optimizer/vars/3"),
    )
    tensors = dict.fromkeys(names, array)
    tensors["adam/iteration"] = np.array(3)
    checkpoint = tf2flax.open_checkpoint(tensors)
    text = str(tf2flax.plan(checkpoint, {"dense/kernel": "k"}, {"k": array}))
    counts = ["2 tensors"] * 3 + ["1 tensor"]
    kinds = zip(("m", "v", "numbered", "velocity"), counts, strict=True)
    found = words(text.partition("Unused optimizer slots (7):\n")[2])
    assert sorted(found) == sorted([kind, *count.split()] for kind, count in kinds)
    view = tf2flax.open_checkpoint(
        {f"{v}{slot}": array for v in "wx" for slot in ("", "/Adam")}
    ).by_slot("Adam")
    text = str(tf2flax.plan(view, {"w": "k"}, {"k": array}))
    assert text.endswith("(1):\n  under the name of its variable  1 tensor")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_on_a_terminal_only(
    prefix: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(prefix)
    plain = str(plan)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    coloured = str(plan)
    assert "\x1b[32mLoaded (25):\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert f"{plan}" == plain
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert str(plan) == plain
    closed = io.StringIO()
    closed.close()
    assert not is_terminal(closed)


class Tags(HTMLParser):
    """Checks that tags close in order; keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html(prefix: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tags = Tags()
    tags.feed(plan_of(prefix)._repr_html_())  # pyright: ignore[reportPrivateUsage]
    assert not tags.open
    assert "25 leaves loaded" in tags.text
    assert "layers_{0..23}/w" in tags.text
    evil = tf2flax.save_checkpoint(tmp_path / "m", {"<script>": np.ones(1, "f4")})
    html = tf2flax.plan(evil, {}, {"<b>": np.zeros(1)})._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "<b>" not in html.replace("<b>Restore plan</b>", "")


def test_html_shows_problems_without_a_click(prefix: pathlib.Path) -> None:
    html = plan_of(prefix)._repr_html_()  # pyright: ignore[reportPrivateUsage]
    opened = re.findall(r"<details open><summary>(.*?) \(\d+\)<", html)
    assert opened[0] == "Loaded"
    assert "Missing in the checkpoint, kept as they are" in opened
    assert "Mismatched, kept as they are" in opened
    assert "Unused in the checkpoint" not in opened


def test_html_keeps_a_shape_on_one_line(prefix: pathlib.Path) -> None:
    html = plan_of(prefix)._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert '<td class="unbroken"><code>[2, 3]' in html
    assert ".tf2flax .unbroken code { white-space: nowrap }" in html


def test_one_of_a_kind_is_counted_in_the_singular(tmp_path: pathlib.Path) -> None:
    arrays = {"a": np.ones(2, "f4"), "b": np.ones(2, "f4")}
    path = tf2flax.save_checkpoint(tmp_path / "m", arrays)
    plan = tf2flax.plan(path, {"a": "x"}, {"x": np.zeros(2, "f4")})
    for text in (str(plan), repr(plan), plan._repr_html_()):  # pyright: ignore[reportPrivateUsage]
        assert "1 leaf loaded" in text
        assert "1 tensor unused" in text
    assert "1 tensor from 1 leaf, 1 copied" in str(plan.inverse())


# Rows -> what they collapse to.
COLLAPSED: dict[str, tuple[list[tuple[str, ...]], list[tuple[str, ...]]]] = {
    "nothing": ([], []),
    "one": ([("a_1",)], [("a_1",)]),
    "a run": ([("a_0", "b_1"), ("a_1", "b_2")], [("a_{0..1}", "b_{1..2}")]),
    "a gap": ([("a_0",), ("a_2",), ("a_3",)], [("a_0",), ("a_{2..3}",)]),
    "out of order": ([("a_1",), ("x",), ("a_0",)], [("a_{0..1}",), ("x",)]),
    "against each other": (
        [("a_0", "b_1"), ("a_1", "b_0")], [("a_0", "b_1"), ("a_1", "b_0")]
    ),
    "two numbers": (
        [(f"a_{i}/b_{j}",) for i in range(3) for j in range(2)],
        [("a_{0..2}/b_{0..1}",)],
    ),
    "another step": (
        [("a_0/b_0",), ("a_0/b_1",), ("a_1/b_1",)], [("a_0/b_{0..1}",), ("a_1/b_1",)]
    ),
    "ten follows nine": ([(f"a_{i}",) for i in (9, 10, 11)], [("a_{9..11}",)]),
    "leading zeros": ([("a_00",), ("a_01",)], [("a_00",), ("a_01",)]),
    "equal rows": ([("a_0",), ("a_0",)], [("a_0",), ("a_0",)]),
    "other shapes": ([("a_0", "2"), ("a_1", "4")], [("a_0", "2"), ("a_1", "4")]),
    "many digits": (
        [(f"a_1{'0' * n}{i}",) for n in (598, 599) for i in range(2)],
        [(f"a_{{1{'0' * 599}..1{'0' * 598}1}}",)]
        + [(f"a_1{'0' * 599}{i}",) for i in range(2)],
    ),
    "digits of another script": (
        [("a_\u0661",), ("a_\u0662",), ("b_\u06610",), ("b_\u06611",)],
        [("a_\u0661",), ("a_\u0662",), ("b_\u06610",), ("b_\u06611",)],
    ),
    "ranges that are there": (
        [("a_{0..1}2",), ("a_{0..1}3",), ("{00",)], [("a_{0..1}{2..3}",), ("{00",)]
    ),
    "cells that others have": (
        [(f"a_{i}", f"a_{i}", "2", "") for i in range(3)],
        [("a_{0..2}", "a_{0..2}", "2", "")],
    ),
    "control characters": ([("a\0_0",), ("a\1_1",)], [("a\0_0",), ("a\1_1",)]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(COLLAPSED))
def test_rows_collapse(name: str) -> None:
    rows, expected = COLLAPSED[name]
    assert [row.cells for row in collapse(rows)] == expected


@given(st.lists(st.tuples(st.text("ab_01/{}.", max_size=6)), max_size=20))
def test_collapsing_loses_no_row(rows: list[tuple[str, ...]]) -> None:
    found = collapse(rows)
    assert sorted(i for row in found for i in row.members) == list(range(len(rows)))
    for row in found:
        if len(row.members) == 1:
            assert row.cells == rows[row.members[0]]


# A number, by the rules: in ASCII, without leading zeros, and no part of another.
NUMBER = re.compile(r"(?<!\d)(?:0|[1-9][0-9]*)(?!\d)")


@given(st.lists(st.tuples(st.text("a_012\u0661\0\1", max_size=5)), max_size=20))
def test_rows_that_collapse_count_up(rows: list[tuple[str, ...]]) -> None:
    for row in collapse(rows):
        members = [rows[i][0] for i in row.members]
        assert len({NUMBER.sub("#", text) for text in members}) == 1
        numbers = sorted(tuple(map(int, NUMBER.findall(text))) for text in members)
        steps = {
            tuple(b - a for a, b in itertools.pairwise(column))
            for column in zip(*numbers, strict=True)
        }
        # Nested numbers take one pass each.
        if len(members) > 1 and len(numbers[0]) == 1:
            assert steps == {(1,) * (len(members) - 1)}
        if len(members) > 1:
            text = row.cells[0].replace("\u2400", "\0").replace("\u2401", "\1")
            assert NUMBER.sub("#", members[0]) == NUMBER.sub(
                "#", re.sub(r"\{\d+\.\.\d+\}", "0", text)
            )


def test_sequences_keep_their_order() -> None:
    texts = ["w_2", "w_1", "w_2", "w_3", "b", "w_4"]
    assert in_sequence(texts) == ["w_2", "w_{1..3}", "b", "w_4"]


def test_an_error_stays_within_a_screen(prefix: pathlib.Path) -> None:
    letters = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    target = {f"p/{name}": np.zeros(1, "f4") for name in letters}
    target |= {f"layers_{i}/w": np.zeros((3, 3), "f4") for i in range(LAYERS)}
    entries: list[tuple[Any, str]] = [
        ("enc/layer_{i}/kernel", "layers_{i}/w"),
        ("enc/", "p/"),
        ("norm", "none"),
    ]
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, entries, target)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith(f"{1 + len(letters) + LAYERS} problems")
    # The likely causes first: a target that is not there, then tensors, then shapes.
    assert "the target has no leaf `none`" in lines[1]
    assert "found no tensor `enc/ak`" in lines[2]
    assert "leaf `layers_{0..23}/w` cannot take tensor `enc/layer_{0..23}/" in lines[-3]
    assert re.search(r"and \d+ more", lines[-2])
    assert "Most of the map fails: tf2flax.suggest(" in lines[-1]


def test_names_that_nearly_match_are_told_for_each(prefix: pathlib.Path) -> None:
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(
            prefix, {"nrm": "a", "othr": "b"}, {"a": np.zeros(1), "b": np.ones(1)}
        )
    assert "Did you mean `norm`?" in str(caught.value)
    assert "Did you mean `other`?" in str(caught.value)


def test_other_messages_stay_within_a_screen(prefix: pathlib.Path) -> None:
    letters = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, {f"{name}{{": "x" for name in letters}, {"x": np.zeros(1)})
    assert len(str(caught.value).splitlines()) <= 60
    assert str(caught.value).endswith("and 42 more.")


def test_lines_that_differ_by_names_alone_are_few(prefix: pathlib.Path) -> None:
    names = [f"enc/layer_{i}/kernel" for i in range(LAYERS)]
    words = [f"{a}{b}" for a in "abcdef" for b in "wxyz"]
    entries = {name: f"no_{word}" for name, word in zip(names, words, strict=True)}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, entries, {"leaf": np.zeros((2, 3), "f4")})
    text = str(caught.value)
    assert text.startswith("24 problems")
    assert "and 9 more. Fix these first.\n" in text
    assert text.endswith("tf2flax.suggest(checkpoint, target) suggests a map.")
    assert text.count("\n") <= 25
