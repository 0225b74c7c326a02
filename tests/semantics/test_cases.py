"""What TensorFlow 1.15.5 was recorded to do with assignment maps, case by case.

`tests/data/semantics` holds the cases, the checkpoints and what made them. What a case
demands follows from its level:
  core, tf2_extension  the same leaves get the same values, the rest stay as they are;
                       where TF fails, a ValueError or OSError is raised
  edge                 the same result, or a refusal with a ValueError
  artifact             left out: accidents of TF's implementation
"""

from __future__ import annotations

import json
import pathlib
import shutil
import warnings
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from repository import DATA

import tf2flax

HERE = DATA / "semantics"
CASES = json.loads((HERE / "cases.json").read_text())
FIXTURES = json.loads((HERE / "fixtures.json").read_text())["fixtures"]


def dtype_of(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def stored_values(tensor: dict[str, Any]) -> np.ndarray | None:
    """The rule of fixtures.json by which every value was made."""
    name, base = tensor["dtype"], tensor["base"]
    count = int(np.prod(tensor["shape"], dtype=np.int64))
    numbers = base + np.arange(count)
    if name == "string":
        return None
    if name == "bool":
        values = np.arange(count) % (2 if base % 2 == 0 else 3) == 0
    elif name.startswith("complex"):
        values = numbers + 1j * (numbers + 0.5)
    else:
        values = numbers
    return values.astype(dtype_of(name)).reshape(tensor["shape"])


TABLES = {
    name: {tensor["name"]: stored_values(tensor) for tensor in fixture["tensors"]}
    for name, fixture in FIXTURES.items()
}


def is_tree(case: dict[str, Any]) -> bool:
    """Whether a case can be put as a flat dict of arrays."""
    graph = case["graph_resolved"] or []
    if any(
        v["dtype"] == "string" or v["shape"] is None or None in v["shape"]
        for v in graph
    ):
        return False
    kinds = {"variable_tuple", "mixed_list", "name_list", "tensor_of"}
    if any(
        isinstance(target, dict) and kinds & target.keys()
        for call in (case, *(case.get("more_calls") or []))
        for _, target in call["assignment_map"] or []
    ):
        return False
    if not isinstance(case["path"], (str, dict)) or case.get("racy"):
        return False
    foreign = [v["name"] for v in graph if v["store_key"] != v["name"]]
    by_object = all(
        isinstance(target, dict) and ("variable" in target or "variable_list" in target)
        for _, target in case["assignment_map"] or []
    )
    unstored = all(v["store_key"] is None for v in graph if v["name"] in foreign)
    return not foreign or (by_object and unstored)


def initial(case: dict[str, Any], variable: dict[str, Any]) -> float | bool:
    for drawn in case["graph"]:
        name = drawn.get("name", "")
        is_it = variable["name"] == name or variable["name"].startswith(f"{name}/part_")
        if is_it:
            value = drawn.get("init", -1.0)
            return False if variable["dtype"] == "bool" else value
    return False if variable["dtype"] == "bool" else -7.0


def path_of(path: Any, root: pathlib.Path) -> Any:
    if not isinstance(path, dict):
        return path.replace("{root}", str(root))
    if "pathlib" in path:
        return pathlib.Path(path["pathlib"].replace("{root}", str(root)))
    if "bytes" in path:
        return path["bytes"].replace("{root}", str(root)).encode()
    return None


def map_of(case: dict[str, Any], entries: Any, target: dict[str, Any]) -> Any:
    def value(given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kind, inner = next(iter(given.items()))
        if kind == "variable":
            return target[inner]
        if kind == "variable_list":
            return [target[name] for name in inner]
        return {"name": inner, "int": inner, "none": None}.get(
            kind, str(inner).encode()
        )

    def key(given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return given["bytes"].encode() if "bytes" in given else tuple(given["tuple"])

    pairs = [(key(k), value(v)) for k, v in entries]
    if case["map_type"] == "none":
        return None
    if case["map_type"] == "tuple":
        return tuple(pairs)
    return pairs if case["map_type"] in ("list", "dict_items") else dict(pairs)


def expected_array(case: dict[str, Any], want: Any) -> np.ndarray:
    spec = {"tensor": want} if isinstance(want, str) else want
    fixture, _, tensor = spec["tensor"].partition(":")
    if not tensor or fixture not in TABLES:
        fixture, tensor = case["checkpoint"], spec["tensor"]
    value = TABLES[fixture][tensor]
    assert value is not None
    if "offset" in spec:
        box = zip(spec["offset"], spec["size"], strict=True)
        value = value[tuple(slice(start, start + size) for start, size in box)]
    return value


RUNNABLE = [c for c in CASES if c["level"] != "artifact" and is_tree(c)]


def test_no_case_is_left_out_unnoticed() -> None:
    assert len(RUNNABLE) == 233


@pytest.mark.parametrize("case", RUNNABLE, ids=[case["id"] for case in RUNNABLE])
def test_case(
    case: dict[str, Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "fixtures"
    shutil.copytree(HERE / "fixtures", root)
    for relative, text in (case.get("state_files") or {}).items():
        file = root / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.replace("{root}", str(root)).encode())
    if case.get("cwd"):
        monkeypatch.chdir(case["cwd"].replace("{root}", str(root)))
    target = {
        v["name"]: np.full(v["shape"], initial(case, v), dtype_of(v["dtype"]))
        for v in case["graph_resolved"] or []
    }
    before = {name: array.copy() for name, array in target.items()}
    got: dict[str, Any] = target
    failure: Exception | None = None
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            for call in (case, *(case.get("more_calls") or [])):
                entries = map_of(case, call["assignment_map"] or [], got)
                path = path_of(call["path"], root)
                got = tf2flax.init_from_checkpoint(
                    path, entries, got, aliases=None, dtype="exact"
                )
        except (ValueError, OSError) as error:
            failure = error
    assert all(np.array_equal(target[name], before[name]) for name in before)
    expect = case["expect"]
    if case["level"] == "tf2_extension" and "expect_tf2_21" in case:
        expect = case["expect_tf2_21"]
    if "error" in expect:
        assert isinstance(failure, tf2flax.CheckpointError)
        return
    if failure is not None and case["level"] == "edge":
        assert isinstance(failure, tf2flax.CheckpointError)
        return
    assert failure is None, failure
    for name, want in expect["ok"].items():
        value = before[name] if want == "default" else expected_array(case, want)
        have = np.asarray(got[name])
        assert (have.dtype, have.shape) == (value.dtype, value.shape), name
        assert have.tobytes() == value.tobytes(), name
