"""Captures that do not fit: messages write the nearest, and it works."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np
import pytest

import tf2flax
from tf2flax import concat, src, stack

TENSORS = {f"enc/layer_{i}/w": np.full((2, 3), i, "f4") for i in range(3)}
LEAVES = {f"layers_{i}": {"w": np.zeros((2, 3), "f4")} for i in range(3)}

# An entry, and what is said of it.
ENTRIES: dict[str, tuple[Any, str, str]] = {
    "another capture in the value": (
        "enc/layer_{i}/",
        "layers_{j}/",
        "The value has {j} instead: write `layers_{i}/`.",
    ),
    "the nearest of several": (
        "enc/{layer}/{part}",
        "{layr}/{part}{x}",
        "The value has {layr} instead: write `{layer}/{part}{x}`.",
    ),
    "none in the value": (
        "enc/layer_{i}/",
        "layers_0/",
        'Put it there, or use stack(..., over="i").',
    ),
    "over another name": (
        stack("enc/layer_{i}/", over="layer"),
        "layers_0/",
        'there is no capture {layer} in src("enc/layer_{i}/"). Write over="i".',
    ),
    "over what the value has": (
        stack("enc/layer_{i}/{part}", over="layers"),
        "{part}",
        'Write over="i".',
    ),
    "over without a capture": (
        concat(src("enc/layer_0/w"), over="i"),
        "layers_0/w",
        "Write {i} where its number stands in the name.",
    ),
    "no name": ("enc/layer_{}/", "layers_{}/", "Write `layers_{i}/`."),
    "a number": ("enc/layer_{0}/", "layers_{0}/", "Write `layers_{i}/`."),
    "spaces": ("enc/layer_{ i }/", "layers_{i}/", "Write `enc/layer_{i}/`."),
    "a format": ("enc/layer_{i:02d}/", "layers_{i}/", "Write `enc/layer_{i}/`."),
    "a hyphen": ("a/{la-yer}/", "b/{la_yer}/", "Write `a/{la_yer}/`."),
}


def message_of(key: Any, value: str) -> str:
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(TENSORS, {key: value}, LEAVES)
    return str(caught.value)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_nearest_capture_is_written(name: str) -> None:
    key, value, words = ENTRIES[name]
    text = message_of(key, value)
    assert words in text
    assert text.startswith(f"Entry 1 `{key}`: ")


def test_what_is_written_fills_the_leaves() -> None:
    for key, value in (("enc/layer_{i}/", "layers_{j}/"), ("enc/{ i }/", "{i}/")):
        (written,) = re.findall(r"[Ww]rite `([^`]*)`", message_of(key, value))
        entry = {key: written} if "{j}" in value else {written: value}
        target = LEAVES if "{j}" in value else {"layer_1": LEAVES["layers_1"]}
        tree = tf2flax.init_from_checkpoint(TENSORS, entry, target)
        assert {float(np.asarray(leaf["w"]).max()) for leaf in tree.values()} >= {1.0}


def test_map_files_name_the_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('[assignment_map]\n"a" = "b"\n"enc/layer_{i}/" = "layers_{j}/"\n')
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.load_map(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:3: ")
    assert "write `layers_{i}/`" in text
