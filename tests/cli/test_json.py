"""The documents of `--json`: their keys and types, which are public."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle

import tf2flax
from tf2flax._cli import main
from tf2flax._cli.commands import COMMANDS

NUMBER = (int, float, str)  # "inf" and "nan" are strings
MAYBE_TEXT = (str, None)

LISTED = {
    "name": str, "dtype": str, "shape": [int], "nbytes": int, "slices": [[[int]]],
}  # fmt: skip
LS = {
    "checkpoint": str, "tensors": [LISTED], "num_tensors": int, "num_elements": int,
    "nbytes": int, "slots_left_out": [str],
}  # fmt: skip
SCOPE: dict[str, Any] = {
    "name": str, "num_tensors": int, "num_elements": int, "num_parameters": int,
    "num_slot_elements": int, "nbytes": int,
}  # fmt: skip
SCOPE["members"] = [SCOPE]
# Of strings there are lengths, of an empty tensor counts alone.
STATISTICS = {
    "nan?": int, "inf?": int, "zeros?": int, "mean?": NUMBER, "std?": (*NUMBER, None),
    "min?": NUMBER, "max?": NUMBER, "of?": str, "shortest?": int, "longest?": int,
}  # fmt: skip
SHOW = {
    "name": str, "dtype": str, "shape": [int], "num_elements": int, "nbytes": int,
    "pieces": [{"region": [[int]], "place": str, "crc32c": MAYBE_TEXT}],
    "checksum": ("ok", "differs", "not stored"), "damage": MAYBE_TEXT,
    "statistics": STATISTICS, "corner": object,
    "histogram": ({"of": str, "edges": [float], "counts": [int]}, None),
    "output": ({"path": str, "dtype": MAYBE_TEXT}, None),
}  # fmt: skip
STATS = {
    "checkpoint": str,
    "tensors": [
        {"name": str, "dtype": str, "shape": [int], "error?": str, **STATISTICS}
    ],
}
DIFFERENCE = {
    "name": str, "fact": str, "max_abs": (*NUMBER, None), "max_rel": (*NUMBER, None),
}  # fmt: skip
DIFF = {
    "a": str, "b": str, "equal": int, "differences": [DIFFERENCE],
    "slots_left_out": [str],
}  # fmt: skip
VERIFY = {
    "ok": bool, "prefix": str, "num_tensors": int, "nbytes": int,
    "damaged": [{"name": str, "message": str}], "unchecked": [str],
}  # fmt: skip
# Of leaves by name: candidates with what speaks for each; and evidence.
SUGGEST = {
    "checkpoint": str, "complete": bool, "assignment_map": [[str]],
    "unmatched": [str], "ambiguous": dict, "evidence": dict, "misfits": [str],
}  # fmt: skip
ROW = {
    "name": str, "path": str, "shape": [int], "ok": bool, "fact": str,
    "max_abs": (*NUMBER, None), "max_rel": (*NUMBER, None), "cosine": (*NUMBER, None),
}  # fmt: skip
FIRST = {"name": str, "path": str, "leaves": [str], "entries": [str]}
COMPARE = {
    "got": str, "want": str, "ok": bool, "rows": [ROW], "first": (FIRST, None),
    "candidates": [object], "rtol": float, "atol": float, "notes": [str],
}  # fmt: skip
CONVERT = {
    "path": str, "format": str, "written": [str], "dropped": [str],
    "left_out": [str], "nbytes": int, "kept": [str],
}  # fmt: skip


def problems(value: Any, schema: Any, at: str = "") -> list[str]:
    """Where a value is not as its schema says; keys with `?` may be missing."""
    if isinstance(schema, tuple):  # one of several
        fits = any(not problems(value, each, at) for each in schema)
        return [] if fits else [f"{at}: {value!r}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{at}: {value!r} is not a list"]
        return [
            problem
            for number, member in enumerate(value)
            for problem in problems(member, schema[0], f"{at}[{number}]")
        ]
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{at}: {value!r} is not an object"]
        keys = {key.removesuffix("?"): part for key, part in schema.items()}
        needed = {key for key in schema if not key.endswith("?")}
        wrong = [f"{at}: lacks {key}" for key in sorted(needed - value.keys())]
        wrong += [f"{at}: has {key}" for key in sorted(value.keys() - keys.keys())]
        return wrong + [
            problem
            for key in value.keys() & keys.keys()
            for problem in problems(value[key], keys[key], f"{at}.{key}")
        ]
    if isinstance(schema, type):
        is_bool = isinstance(value, bool) and schema not in (bool, object)
        fits = isinstance(value, schema) and not is_bool
        return [] if fits else [f"{at}: {value!r} is not {schema.__name__}"]
    return [] if value == schema else [f"{at}: {value!r} is not {schema!r}"]


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    rows = [(slice(0, 1), slice(None)), (slice(1, 2), slice(None))]
    tensors: dict[str, Any] = {
        "enc/w": Tensor(np.ones((2, 3), "f4"), rows),
        "enc/w/Adam": np.full((2, 3), np.inf, "f4"),
        "c": np.array([3 + 4j], "c8"),
        "global_step": np.int64(3),
        "none": np.zeros((0, 2), "f4"),
        "s": np.array(b"text", object),
    }
    write_bundle(tmp_path / "m", tensors)
    write_bundle(
        tmp_path / "n",
        {"enc/w": np.zeros((2, 3), "f4"), "s": np.array(b"other", object)},
    )
    write_bundle(tmp_path / "bad", {"a": np.ones(2)})
    (tmp_path / "bad.data-00000-of-00001").write_bytes(bytes(16))
    np.savez(tmp_path / "got.npz", x=np.ones(3), y=np.array([np.nan, 1]))
    np.savez(tmp_path / "want.npz", x=np.ones(3), y=np.ones(2), z=np.ones((2, 2)))
    (tmp_path / "map.toml").write_text('[assignment_map]\n"enc/w" = "w"\n')
    (tmp_path / "json_target.py").write_text(
        "import numpy as np\n"
        "tree = {'w': np.zeros((2, 3), 'f4'), 'head': np.zeros(2, 'f4')}\n"
        "wrong = {'w': np.zeros(3, 'f4')}\n"
        "small = {'w': np.zeros((2, 3), 'f4')}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


PLAN = ["plan", "m", "--map", "map.toml", "--target"]
# Calls, their exit codes, and what their documents are.
CALLS: list[tuple[list[str], int, Any]] = [
    (["ls", "m"], 0, LS),
    (["ls", "m", "enc/", "--no-slots"], 0, LS),
    (["tree", "m"], 0, {"checkpoint": str, **SCOPE}),
    (["tree", "m", "--depth", "0"], 0, {"checkpoint": str, **SCOPE}),
    *((["show", "m", name], 0, SHOW) for name in ("enc/w", "c", "none", "s")),
    (["show", "m", "enc/w", "-o", "w.npy"], 0, SHOW),
    (["show", "bad", "a", "-o", "a.npy"], 1, SHOW),
    (["stats", "m"], 1, STATS),
    (["stats", "bad"], 1, STATS),
    (["diff", "m", "n"], 1, DIFF),
    (["diff", "m", "m", "--no-slots"], 0, DIFF),
    (["verify", "m"], 0, VERIFY),
    (["verify", "bad"], 1, VERIFY),
    (["suggest", "m", "--target", "json_target:tree"], 1, SUGGEST),
    (["suggest", "n", "--target", "json_target:small"], 0, SUGGEST),
    (["compare", "got.npz", "want.npz"], 1, COMPARE),
    (["compare", "got.npz", "got.npz"], 0, COMPARE),
    (["convert", "m", "m.npz"], 0, CONVERT),
    (["convert", "m", "n.npz", "--map", "map.toml"], 0, CONVERT),
]


@pytest.mark.parametrize(("call", "code", "schema"), CALLS)
def test_documents(
    call: list[str],
    code: int,
    schema: Any,
    folder: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*call, "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert problems(document, schema) == []


def test_plans(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of `Plan.to_dict()`, and whether a restore would fail."""
    assert main([*PLAN, "json_target:tree", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document.pop("ok"), document.pop("error")) == (True, None)
    import json_target  # type: ignore[import-not-found]

    plan = tf2flax.plan("m", tf2flax.load_map("map.toml"), json_target.tree)
    assert document == json.loads(json.dumps(plan.to_dict()))
    assert main([*PLAN, "json_target:wrong", "--json"]) == 1
    failed = json.loads(capsys.readouterr().out)
    assert failed.keys() == {"ok", "error", *document}
    assert (failed["ok"], type(failed["error"])) == (False, str)


def test_every_command_has_a_schema() -> None:
    names = set(COMMANDS)
    # The scripts of `completion` are no documents.
    assert {call[0] for call, *_ in CALLS} | {"plan"} == names - {"completion"}
