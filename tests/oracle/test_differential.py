"""Random graphs, maps and checkpoints: tf2flax against live TensorFlow 1.15.

Needs a Python with TensorFlow 1.15 in `TF2FLAX_TF1_PYTHON`. Runs
`TF2FLAX_ORACLE_EXAMPLES` cases (2,000 unless said). tf2flax must give the same values
bit for bit, or both must fail; the only differences allowed are the decisions below.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import random
import re
import subprocess
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tf2flax

PYTHON = os.environ.get("TF2FLAX_TF1_PYTHON", "")
EXAMPLES = int(os.environ.get("TF2FLAX_ORACLE_EXAMPLES", "2000"))
WORKER = pathlib.Path(__file__).with_name("tf1_worker.py")
NUM_CHECKPOINTS = 24

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON, reason="set TF2FLAX_TF1_PYTHON to a Python with TensorFlow 1.15"
    ),
]

SCOPES = ["", "a/", "a_1/", "a/d/", "s/", "s/t/", "s.x/", "s-y/", "q/part_x/"]
SHAPES = {
    "w": [4, 3], "b": [3], "c": [10, 4], "k": [], "sq": [6, 6], "part_0": [4, 3],
}  # fmt: skip
NAMES = [scope + leaf for scope in SCOPES for leaf in SHAPES]
DTYPES = ["float32"] * 8 + ["float64", "int32", "int64", "bool", "float16"]
SLASHES = [
    "/",
    "",
    "//",
    "a/",
    "a",
    "/a/",
    "a//",
    "s/",
    "s/t/",
    "s.",
    "q/",
    "a_",
    "none/",
]


class Worker:
    """A process of TensorFlow 1.15 that answers one request at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [PYTHON, "-W", "ignore", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise AssertionError(f"the worker died on {json.dumps(request)}")

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def draw_variable(rng: random.Random, name: str) -> dict[str, Any]:
    shape = SHAPES[name.rpartition("/")[2]]
    if rng.random() < 0.03:
        shape = rng.choice([*SHAPES.values(), shape[::-1], [1, *shape]])
    parts, axis = 0, 0
    if shape and rng.random() < 0.35 and "part_" not in name:
        axis = rng.randrange(len(shape))
        parts = rng.randint(1, min(shape[axis], 5))
    return {
        "name": name,
        "shape": shape,
        "dtype": rng.choice(DTYPES) if rng.random() < 0.05 else "float32",
        "axis": axis,
        "parts": parts,
    }


def draw_variables(rng: random.Random, least: int, most: int) -> list[dict[str, Any]]:
    names = rng.sample(NAMES, rng.randint(least, most))
    drawn = []
    for name in names:
        variable = draw_variable(rng, name)
        family = f"{name}/part_0"
        # TF itself refuses two variables of one name.
        if not (variable["parts"] and family in names):
            drawn.append(variable)
    return drawn


def draw_target(rng: random.Random, leaves: list[str]) -> dict[str, Any]:
    kind = rng.random()
    # A part by itself takes a whole tensor of its own shape: mostly an error.
    plain = [name for name in leaves if "/part_" not in name]
    single = rng.choice(plain if plain and rng.random() < 0.85 else leaves)
    families = sorted({n.rpartition("/part_")[0] for n in leaves if "/part_" in n})
    if kind < 0.25:
        return {"variable": single}
    if kind < 0.45 and families:
        family = rng.choice(families)
        parts = [n for n in leaves if n.startswith(f"{family}/part_")]
        if rng.random() < 0.5:
            rng.shuffle(parts)
            parts = parts[: rng.randint(0, len(parts))]
        if rng.random() < 0.05:
            parts.append(rng.choice(leaves))
        return {"list": parts}
    if kind < 0.6 and families:
        return {"name": rng.choice(families)}
    if kind < 0.96:
        return {"name": single}
    return {"name": rng.choice(SLASHES + NAMES)}


def draw_entry(
    rng: random.Random, stored: list[str], leaves: list[str]
) -> tuple[str, dict[str, Any]]:
    """An entry that is likely to work, or one that is likely not to."""
    if rng.random() < 0.35:
        key = rng.choice(SLASHES) if rng.random() < 0.3 else rng.choice(SCOPES) or "/"
        full = rng.choice(leaves).partition("/part_")[0]
        scope = full[: rng.choice([i for i, c in enumerate("/" + full) if c == "/"])]
        below = {n.partition("/part_")[0] for n in leaves if n.startswith(scope)}
        fitting = [
            other
            for other in SCOPES
            if all(other + name[len(scope) :] in stored for name in below)
        ]
        if rng.random() < 0.15:
            scope = rng.choice(SCOPES + SLASHES)
        elif fitting and rng.random() < 0.9:
            key = rng.choice(fitting) or "/"
        return key, {"name": scope or "/"}
    target = draw_target(rng, leaves)
    key = rng.choice(stored)
    named = (
        target.get("name") or target.get("variable") or (target.get("list") or [key])[0]
    )
    last = named.partition("/part_")[0].rpartition("/")[2]
    alike = [name for name in stored if name.rpartition("/")[2] == last]
    if alike and rng.random() < 0.95:
        key = rng.choice(alike)
    if rng.random() < 0.04:
        key = rng.choice([key + "/", key + ":0", "/" + key, key[:-1], key.upper(), ""])
    return key, target


def leaves_of(variables: list[dict[str, Any]]) -> list[str]:
    return [
        name
        for v in variables
        for name in (
            [f"{v['name']}/part_{i}" for i in range(v["parts"])]
            if v["parts"]
            else [v["name"]]
        )
    ]


def initial(variable: dict[str, Any], full: list[dict[str, Any]]) -> np.ndarray:
    name = variable["name"]
    drawn = next(
        v
        for v in full
        if name == v["name"] or (v["parts"] and name.startswith(f"{v['name']}/part_"))
    )
    init = False if variable["dtype"] == "bool" else drawn["init"]
    return np.full(variable["shape"], init, variable["dtype"])


# Decisions: (what SEMANTICS.md says, whether a case is one).


def target_must_be_a_leaf_or_end_in_a_slash(case: dict[str, Any], error: str) -> bool:
    """'ck/': 'm/missing' quietly means scope m/: refused."""
    names = {v["name"] for v in case["answer"]["variables"]}
    return "and a scope must end with `/`" in error and any(
        "name" in target
        and target["name"] not in names
        and f"{target['name']}/part_0" not in names
        and not target["name"].endswith("/")
        for _, target in case["map"]
    )


def resource_variables_keep_their_shape(case: dict[str, Any], error: str) -> bool:
    """A resource variable takes a wrong shape from a scope map: refused."""
    shapes = {v["name"]: v["shape"] for v in case["answer"]["variables"]}
    return ("expected shape" in error or "do not tile" in error) and any(
        shape != shapes[name] for name, (shape, _) in case["answer"]["ok"].items()
    )


def a_map_with_entries_fills_a_leaf(case: dict[str, Any], error: str) -> bool:
    """A map with entries of which none fills a leaf changes nothing: refused."""
    return "No entry of the assignment map fills a leaf" in error and all(
        case["answer"]["ok"][v["name"]][1]
        == initial(v, case["variables"]).tobytes().hex()
        for v in case["answer"]["variables"]
    )


REFUSALS = [
    a_map_with_entries_fills_a_leaf,
    target_must_be_a_leaf_or_end_in_a_slash,
    resource_variables_keep_their_shape,
]


def parts_need_no_slice_info(case: dict[str, Any]) -> bool:
    """Parts are the leaves <name>/part_0 ... of the target; TF needs slice info."""
    return case["answer"]["error"][1] == "AttributeError" and any(
        "/part_" in v["name"] and not v["slice"] for v in case["answer"]["variables"]
    )


def a_module_may_be_called_part(case: dict[str, Any]) -> bool:
    """A scope fills `q/part_x/sq` by its name; TF takes it for a part of `q`.

    It finds no variable `q`, no tensor `q`, or none with the scope's own name.
    """
    kind, text = case["answer"]["error"][1:]
    missing = re.match(r"Tensor (\S*) \(.* is not found", text)
    scopes = {
        key.rstrip("/")
        for key, target in case["map"]
        if target.get("name", "").endswith("/")
    }
    return any("/part_x/" in v["name"] for v in case["answer"]["variables"]) and (
        (kind == "AttributeError" and bool(scopes))
        or (
            missing is not None
            and (missing[1] in scopes or missing[1].rpartition("/")[2] == "q")
        )
    )


SUCCESSES = [parts_need_no_slice_info, a_module_may_be_called_part]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def checkpoints(
    worker: Worker, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, list[str]]]:
    made: list[tuple[str, list[str]]] = []
    for number in range(NUM_CHECKPOINTS):
        rng = random.Random(number)
        tensors = draw_variables(rng, 25, 50)
        for i, tensor in enumerate(tensors):
            tensor["base"] = 1 + 150 * i
        prefix = str(tmp_path_factory.mktemp("ckpt") / "model.ckpt")
        worker.ask({"save": prefix, "tensors": tensors})
        made.append((prefix, [tensor["name"] for tensor in tensors]))
        assert list(tf2flax.open_checkpoint(prefix)) == sorted(made[-1][1])
    return made


def run_ours(case: dict[str, Any]) -> dict[str, Any] | tf2flax.CheckpointError:
    target = {
        v["name"]: initial(v, case["variables"]) for v in case["answer"]["variables"]
    }

    def value(given: dict[str, Any]) -> Any:
        if "name" in given:
            return given["name"]
        if "variable" in given:
            return target[given["variable"]]
        return [target[name] for name in given["list"]]

    entries = {key: value(given) for key, given in case["map"]}
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return tf2flax.init_from_checkpoint(
                case["run"], entries, target, aliases=None, dtype="exact"
            )
        except tf2flax.CheckpointError as error:
            return error


def difference(case: dict[str, Any], fired: collections.Counter[str]) -> str | None:
    """What differs between both results, unless a decision covers it."""
    answer, ours = case["answer"], run_ours(case)
    if "error" in answer:
        if isinstance(ours, tf2flax.CheckpointError):
            fired[f"both fail: {answer['error'][1]}"] += 1
            return None
        for decision in SUCCESSES:
            if decision(case):
                fired[decision.__name__] += 1
                return None
        return f"TF fails ({answer['error']}), tf2flax does not"
    if isinstance(ours, tf2flax.CheckpointError):
        for decision in REFUSALS:
            if decision(case, str(ours)):
                fired[decision.__name__] += 1
                return None
        return f"TF succeeds, tf2flax refuses: {ours}"
    for name, (shape, data) in answer["ok"].items():
        have = np.asarray(ours[name])
        if list(have.shape) != shape or have.tobytes().hex() != data:
            return f"{name}: TF has other values than tf2flax"
    fired["same values"] += 1
    return None


def test_random_cases(worker: Worker, checkpoints: list[tuple[str, list[str]]]) -> None:
    fired: collections.Counter[str] = collections.Counter()
    seen: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=False,  # other cases in every run; a failing one is printed
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**48))
    def run(seed: int) -> None:
        rng = random.Random(seed)
        prefix, stored = rng.choice(checkpoints)
        variables = draw_variables(rng, 1, 6)
        if not variables:
            return
        for i, variable in enumerate(variables):
            variable |= {"init": -1 - i, "resource": rng.random() < 0.3}
        leaves = leaves_of(variables)
        entries = [
            draw_entry(rng, stored, leaves)
            for _ in range(rng.choice([1, 1, 1, 2, 2, 4]))
        ]
        case: dict[str, Any] = {
            "run": prefix,
            "variables": variables,
            "map": list(dict(entries).items()),
        }
        case["answer"] = worker.ask(case)
        if case["answer"].get("error", [""])[0] == "build":
            fired["TF cannot build the graph"] += 1
            return
        seen.add(seed)
        problem = difference(case, fired)
        assert problem is None, f"{problem}\n{json.dumps(case, indent=1)}"

    run()
    print(f"\n{len(seen)} cases: {dict(fired.most_common())}")
    assert fired["same values"] > EXAMPLES // 10
    assert sum(n for what, n in fired.items() if "fail" in what) > EXAMPLES // 20
