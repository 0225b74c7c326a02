"""What notebooks show of checkpoints, tensors, verifications and costs."""

from __future__ import annotations

import pathlib
from html.parser import HTMLParser
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import write_bundle
from jax.sharding import AbstractMesh, PartitionSpec
from repository import ROOT

import tf2flax

DATA = ROOT / "tests" / "data"


class Page(HTMLParser):
    """Checks that tags close in order; keeps rows of tables, and all text."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(value._repr_html_())
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data


def test_a_checkpoint() -> None:
    page = Page(tf2flax.open_checkpoint(DATA / "bert" / "model.ckpt"))
    assert "139 tensors, 282 kB" in page.text
    assert "60 rows and 31 more" in page.text
    assert page.rows[0] == ["name", "dtype", "shape", "size"]
    row = ["bert/encoder/layer_{0..1}/output/dense/bias", "float32", "[32]", "256 B"]
    assert row in page.rows
    assert len(page.rows) == 61
    many = Page(tf2flax.open_checkpoint(DATA / "many_vars" / "model.ckpt"))
    assert "20,000 tensors, more than " in many.text
    assert "of the first 5000" in many.text


def test_names_are_escaped(tmp_path: pathlib.Path) -> None:
    write_bundle(tmp_path / "m", {"<script>": np.ones(1), "a&b": np.ones(2)})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    page = Page(checkpoint)
    assert [row[0] for row in page.rows[1:]] == ["<script>", "a&b"]
    assert "<script>" in Page(checkpoint["<script>"]).text


def test_a_tensor() -> None:
    path = DATA / "wide_deep_partitioned" / "model.ckpt"
    page = Page(tf2flax.open_checkpoint(path)["dnn/hiddenlayer_1/kernel"])
    assert "float32 [16, 8], 512 B" in page.text
    assert len(page.rows) == 4
    assert page.rows[1][0] == "[0:6, 0:8]"
    assert "model.ckpt.data-00000-of-00001[" in page.rows[1][1]


def test_a_verification(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"w": np.arange(9, dtype="f4")})
    assert (
        "1 tensor, 36 B checked: all well"
        in Page(tf2flax.open_checkpoint(prefix).verify()).text
    )
    data = tmp_path / "m.data-00000-of-00001"
    data.write_bytes(b"\xff" + data.read_bytes()[1:])
    page = Page(tf2flax.open_checkpoint(prefix).verify())
    assert "checked: 1 damaged" in page.text
    assert page.rows[1][0] == "w"
    assert "Tensor `w` is damaged" in page.rows[1][1]


def test_a_cost_in_the_style_of_a_plan() -> None:
    plan = tf2flax.plan(
        DATA / "bert" / "model.ckpt",
        {"bert/pooler/dense/kernel": "kernel"},
        {"kernel": jax.ShapeDtypeStruct((32, 32), "float32")},
        sharding=PartitionSpec("rows"),
        mesh=AbstractMesh((16,), ("rows",)),
    )
    page = Page(plan.cost(processes=2))
    assert "strategy auto" in page.text
    assert page.rows[1] == ["0-1", "2.05 kB", "2.05 kB", "1.00", "4.1 kB", "2.05 kB"]
    assert "Loaded (1)" in Page(plan).text


@pytest.mark.parametrize(
    "name", ["Checkpoint", "StoredTensor", "Plan", "PlanCost", "VerificationReport"]
)
def test_that_all_of_them_have_one(name: str) -> None:
    assert callable(getattr(tf2flax, name)._repr_html_)
