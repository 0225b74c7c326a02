"""`convert`: which tensors give which names, and what is said where two give one."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import tf2flax
from tf2flax import concat, src, stack


def tensors(*names: str) -> dict[str, np.ndarray]:
    return {name: np.full(2, i, np.float32) for i, name in enumerate(names)}


def convert(
    names: Mapping[str, Any], assignment_map: Any, folder: pathlib.Path, **options: Any
) -> tuple[str, ...]:
    out = folder / "out.npz"
    return tf2flax.convert(names, out, assignment_map=assignment_map, **options).written


BOTH = tensors("a/v", "a/w", "b/w")
COLLISIONS: list[tuple[dict[str, Any], Any, str]] = [
    (
        tensors("l1/h23/w", "l12/h3/w"),
        {"l{i}/h{j}/w": "l{i}{j}/w"},
        "Entry 1 `l{i}/h{j}/w` -> `l{i}{j}/w`: `l1/h23/w` and `l12/h3/w` both give the "
        "name `l123/w`. Give one of them another name, with a separate entry.",
    ),
    (
        tensors("a/c/conv/k", "a/conv/c/k"),
        {"{p...}/conv/": "{p...}/c/"},
        "Entry 1 `{p...}/conv/` -> `{p...}/c/`: `a/conv/c/k` and `a/c/conv/k` both "
        "give the name `a/c/c/k`. Give one of them another name, with a separate "
        "entry.",
    ),
    (
        BOTH,
        {"a/": "n/", "b/": "n/"},
        "Entry 2 `b/` -> `n/`: `b/w` and `a/w` both give the name `n/w` (the second by "
        "entry 1 `a/` -> `n/`). Give one of them another name, with a separate entry.",
    ),
    (
        BOTH,
        {"a/w": "x", "b/w": "x"},
        "Entry 2 `b/w` -> `x`: `b/w` and `a/w` both give the name `x` (the second by "
        "entry 1 `a/w` -> `x`). Give one of them another name, with a separate entry.",
    ),
    (
        # TensorFlow's order of keys alone would take the name from the first.
        BOTH,
        {"a/w": "n/w", "b/": "n/"},
        "Entry 2 `b/` -> `n/`: `b/w` and `a/w` both give the name `n/w` (the second by "
        "entry 1 `a/w` -> `n/w`). Give one of them another name, with a separate "
        "entry.",
    ),
    (
        tensors("a/c/conv/k", "c/conv/k"),
        {"{p...}/conv/": "{p...}/c/"},
        "Entry 1 `{p...}/conv/` -> `{p...}/c/`: `a/c/conv/k` gives the name `a/c/c/k`, "
        "but the value `{p...}/c/` reads that name otherwise, and there is no tensor "
        "for it. Give this tensor a separate entry.",
    ),
]


@pytest.mark.parametrize(("names", "assignment_map", "message"), COLLISIONS)
def test_no_tensor_is_lost_to_another_of_its_name(
    names: dict[str, Any], assignment_map: Any, message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(tf2flax.AssignmentError) as raised:
        convert(names, assignment_map, tmp_path)
    assert str(raised.value) == message
    assert not list(tmp_path.iterdir())


ON_PURPOSE: list[tuple[dict[str, Any], Any, tuple[str, ...]]] = [
    (BOTH, {"a/": "n/", "b/w": "n/w"}, ("n/v", "n/w")),
    (BOTH, {"b/": "n/", src("a/w"): "n/w"}, ("n/w",)),
    (BOTH, {"a/": "n/", "a/w": "n/w"}, ("n/v", "n/w")),
    (BOTH, {stack("a/w", "b/w"): "n/w", "a/": "n/"}, ("n/v", "n/w")),
    (
        tensors("l_0/w", "l_1/w", "l_0/v", "l_1/v"),
        {stack("l_{i}/", over="i"): "n/"},
        ("n/v", "n/w"),
    ),
]


@pytest.mark.parametrize(("names", "assignment_map", "written"), ON_PURPOSE)
def test_stronger_entries_override_others(
    names: dict[str, Any],
    assignment_map: Any,
    written: tuple[str, ...],
    tmp_path: pathlib.Path,
) -> None:
    assert convert(names, assignment_map, tmp_path) == written


def test_the_name_of_parts_that_no_scope_moves(tmp_path: pathlib.Path) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="parts of partitioned variables"):
        convert(tensors("a/t/part_0", "a/t/part_1"), {"a/": "n/"}, tmp_path)


def map_file(folder: pathlib.Path, text: str) -> Any:
    (folder / "map.toml").write_text(text)
    return tf2flax.load_map(folder / "map.toml")


def test_optional_entries_may_find_no_tensor(tmp_path: pathlib.Path) -> None:
    text = (
        '[assignment_map]\n"a/w" = "x"\n[optional]\n"no" = "y"\n"no/" = "z/"\n'
        '\'concat("l_{i-1}", "l_{i}")\' = "c{i}"\n'
    )
    names = BOTH | tensors("l_0", "l_1")
    assert convert(names, map_file(tmp_path, text), tmp_path) == ("c1", "x")


def test_messages_have_file_and_line(tmp_path: pathlib.Path) -> None:
    entries = map_file(tmp_path, '[assignment_map]\n"a/w" = "x"\n"bb/" = "y/"\n')
    with pytest.raises(tf2flax.AssignmentError, match=r"Entry 2 \(.*map\.toml:3\) `bb"):
        convert(BOTH, entries, tmp_path)


def test_the_tensor_that_an_expression_lacks_is_named(tmp_path: pathlib.Path) -> None:
    entries = {concat("l_{i-1}/w", "l_{i}/w"): "s{i}"}
    with pytest.raises(tf2flax.AssignmentError) as raised:
        convert(tensors("l_0/w", "l_1/w"), entries, tmp_path)
    assert str(raised.value).endswith(
        "-> `s{i}`: the checkpoint has no tensor `l_2/w`, which `s2` needs."
    )


def test_options_of_a_map_file_are_those_of_plan(tmp_path: pathlib.Path) -> None:
    """docs/guide.md and the docstring say so."""
    text = '[options]\ndtype = "float16"\n[assignment_map]\n"a/w" = "x"\n'
    convert(BOTH, map_file(tmp_path, text), tmp_path)
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["x"].dtype == np.float32
