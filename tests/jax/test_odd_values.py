"""Odd values at every public parameter: a CheckpointError, or what is documented.

A `TypeError` passes where Python itself raises it for the call (a parameter that is not
there), before any code of the package runs.
"""

from __future__ import annotations

import collections
import enum
import pathlib
import types
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import tf2flax

BERT = "tests/data/bert/model.ckpt"


class Hostile:
    """An object of which nothing can be asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    __hash__ = object.__hash__


class Text(str):
    """Like text, but another class."""


class Color(enum.Enum):
    RED = "red"


def _holding_itself() -> list[Any]:
    result: list[Any] = []
    result.append(result)
    return result


def _mapping_holding_itself() -> dict[str, Any]:
    result: dict[str, Any] = {}
    result["a"] = result
    return result


ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "zero": lambda: 0,
    "negative": lambda: -1,
    "float": lambda: 1.5,
    "nan": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "huge": lambda: 10**30,
    "complex": lambda: 1j,
    "empty text": lambda: "",
    "text": lambda: "x",
    "NUL": lambda: "a\0b",
    "surrogate": lambda: "\ud800",
    "slash": lambda: "/",
    "braces": lambda: "{",
    "digits": lambda: "1" * 5000,
    "text subclass": lambda: Text("x"),
    "bytes": lambda: b"\xff",
    "bytearray": lambda: bytearray(b"x"),
    "memoryview": lambda: memoryview(b"x"),
    "path": lambda: pathlib.Path("x"),
    "empty list": list,
    "list of None": lambda: [None],
    "list of numbers": lambda: [1, 2],
    "list of text": lambda: ["a", "b"],
    "pairs": lambda: [("a", "b")],
    "odd pairs": lambda: [("(", "error")],
    "pairs of bytes": lambda: [(b"a", b"b")],
    "list of itself": _holding_itself,
    "empty dict": dict,
    "dict of numbers": lambda: {1: 2},
    "dict of None": lambda: {"a": None},
    "dict of itself": _mapping_holding_itself,
    "empty tuple": tuple,
    "tuple": lambda: ("a",),
    "set": lambda: {"a"},
    "range": lambda: range(3),
    "generator": lambda: (i for i in range(3)),
    "object": object,
    "class": lambda: int,
    "function": lambda: lambda: None,
    "module": lambda: types,
    "slice": lambda: slice(None),
    "dots": lambda: ...,
    "NotImplemented": lambda: NotImplemented,
    "enum": lambda: Color.RED,
    "hostile": Hostile,
    "numpy scalar": lambda: np.float32(1),
    "numpy text": lambda: np.str_("x"),
    "array": lambda: np.zeros(3),
    "array of objects": lambda: np.array([object()]),
    "array of text": lambda: np.array(["a"]),
    "dtype": lambda: np.dtype(object),
    "structured dtype": lambda: np.dtype([("a", "i4")]),
    "jax array": lambda: jax.numpy.zeros(2),
    "key": lambda: jax.random.key(0),
    "struct": lambda: jax.ShapeDtypeStruct((2,), "float32"),
    "spec": lambda: PartitionSpec("nowhere"),
}


def _target() -> dict[str, Any]:
    return {"kernel": np.zeros((32, 32), np.float32)}


MAP = {"bert/pooler/dense/kernel": "kernel"}


def _init(key: jax.Array) -> dict[str, Any]:
    return {"kernel": jax.random.normal(key, (32, 32))}


def _warm(*args: Any, **kwargs: Any) -> Any:
    return tf2flax.warm_start(*args, **kwargs)(jax.random.key(0))


def _restored(*args: Any, **kwargs: Any) -> Any:
    plan = tf2flax.plan(*args, **kwargs)
    str(plan)
    return plan.restore()


def _next(*args: Any, **kwargs: Any) -> Any:
    return next(tf2flax.checkpoints_iterator(*args, **kwargs), None)


def _plan() -> tf2flax.Plan:
    return tf2flax.plan(BERT, MAP, _target())


def _method(make: Callable[[], Any], name: str) -> Callable[..., Any]:
    return lambda *args, **kwargs: getattr(make(), name)(*args, **kwargs)


OPTIONS = [
    *("aliases", "dtype", "sharding", "mesh", "logical_axis_rules", "strategy"),
    *("on_missing", "on_mismatch", "on_uneven", "verify", "max_in_flight_bytes"),
    "progress",
]
# What is called -> right arguments, by position, and the names of others.
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], list[str]]] = {
    "open_checkpoint": (tf2flax.open_checkpoint, (BERT,), ["context"]),
    "list_variables": (tf2flax.list_variables, (BERT,), []),
    "load_variable": (tf2flax.load_variable, (BERT, "global_step"), []),
    "latest_checkpoint": (tf2flax.latest_checkpoint, ("tests/data/bert",), []),
    "checkpoint_exists": (tf2flax.checkpoint_exists, (BERT,), []),
    "checkpoints_iterator": (_next, ("tests/data/bert", 0, 0), ["timeout_fn"]),
    "merge_checkpoints": (tf2flax.merge_checkpoints, ({"a/": BERT},), []),
    "init_from_checkpoint": (
        tf2flax.init_from_checkpoint, (BERT, MAP, _target()), OPTIONS,
    ),
    "plan": (_restored, (BERT, MAP, _target()), OPTIONS),
    "warm_start": (_warm, (_init, BERT, MAP), OPTIONS),
    "load_map": (tf2flax.load_map, ("tests/data/nothing.toml",), []),
    "save_map": (tf2flax.save_map, (MAP, "map.toml"), []),
    "save_checkpoint": (
        tf2flax.save_checkpoint, ("m", {"a": np.zeros(2)}),
        ["plan", "unused", "data_files", "overwrite"],
    ),
    "partition_rules": (tf2flax.partition_rules, ([("a", PartitionSpec())],), []),
    "from_partitions": (tf2flax.from_partitions, ("x",), []),
    "src": (tf2flax.src, ("a",), []),
    "concat": (tf2flax.concat, ("a", "b"), ["axis", "over"]),
    "stack": (tf2flax.stack, ("a", "b"), ["axis", "over"]),
    "transpose": (_method(lambda: tf2flax.src("a"), "transpose"), (0, 1), []),
    "reshape": (_method(lambda: tf2flax.src("a"), "reshape"), (2, 3), []),
    "rearrange": (
        _method(lambda: tf2flax.src("a"), "rearrange"), ("(a b) -> a b",), ["a"],
    ),
    "index": (_method(lambda: tf2flax.src("a"), "__getitem__"), (0,), []),
    "take": (_method(lambda: tf2flax.src("a"), "take"), ([0],), []),
    "cast": (_method(lambda: tf2flax.src("a"), "cast"), ("float32",), []),
    "Checkpoint[]": (
        _method(lambda: tf2flax.open_checkpoint(BERT), "__getitem__"),
        ("global_step",), [],
    ),
    "Checkpoint in": (
        _method(lambda: tf2flax.open_checkpoint(BERT), "__contains__"), ("a",), [],
    ),
    "Checkpoint.read": (
        _method(lambda: tf2flax.open_checkpoint(BERT), "read"),
        (["global_step"],), ["verify", "progress"],
    ),
    "Checkpoint.verify": (
        _method(lambda: tf2flax.open_checkpoint(BERT), "verify"), (False,), [],
    ),
    "StoredTensor.read": (
        _method(lambda: tf2flax.open_checkpoint(BERT)["global_step"], "read"),
        (), ["verify"],
    ),
    "Plan.restore": (_method(_plan, "restore"), (False,), []),
    "Plan.cost": (_method(_plan, "cost"), (), ["processes", "devices_per_process"]),
}  # fmt: skip
TENSOR = "bert/pooler/dense/kernel"


def _planned(**options: Any) -> Any:
    return tf2flax.plan(BERT, MAP, _target(), **options)


# Odd values within what is given.
NESTED: dict[str, Callable[[Any], Any]] = {
    "key of a map": lambda odd: tf2flax.plan(BERT, [(odd, "kernel")], _target()),
    "value of a map": lambda odd: tf2flax.plan(BERT, {TENSOR: odd}, _target()),
    "list of leaves": lambda odd: tf2flax.plan(BERT, {TENSOR: [odd]}, _target()),
    "leaf": lambda odd: tf2flax.plan(BERT, MAP, {**_target(), "odd": odd}),
    "leaf that is wanted": lambda odd: tf2flax.plan(BERT, MAP, {"kernel": odd}),
    "aliases": lambda odd: _planned(aliases={"kernel": odd}),
    "name of aliases": lambda odd: _planned(aliases={odd: ("a",)}),
    "dtype pair": lambda odd: _planned(dtype=[odd]),
    "dtype regex": lambda odd: _planned(dtype=[(odd, "float32")]),
    "dtype of a pair": lambda odd: _planned(dtype=[("kernel", odd)]),
    "policy pair": lambda odd: _planned(on_missing=[odd]),
    "policy regex": lambda odd: _planned(on_missing=[(odd, "keep")]),
    "policy of a pair": lambda odd: _planned(on_mismatch=[("kernel", odd)]),
    "sharding tree": lambda odd: _planned(sharding={"kernel": odd}),
    "sharding function": lambda odd: _planned(sharding=lambda _: odd),
    "logical rule": lambda odd: _planned(logical_axis_rules=[odd]),
    "logical name": lambda odd: _planned(logical_axis_rules=[(odd, "x")]),
    "logical axis": lambda odd: _planned(logical_axis_rules=[("x", odd)]),
    "partition rule": lambda odd: tf2flax.partition_rules([odd]),
    "partition regex": lambda odd: tf2flax.partition_rules([(odd, PartitionSpec())]),
    "partition spec": lambda odd: tf2flax.partition_rules([("kernel", odd)]),
    "merged": lambda odd: tf2flax.merge_checkpoints([odd]),
    "merged by prefix": lambda odd: tf2flax.merge_checkpoints({"a/": odd}),
    "prefix": lambda odd: tf2flax.merge_checkpoints([(odd, BERT)]),
    "names": lambda odd: tf2flax.open_checkpoint(BERT).read([odd]),
    "saved": lambda odd: tf2flax.save_checkpoint("m", {"a": odd}, overwrite=True),
    "saved in a tree": lambda odd: tf2flax.save_checkpoint(
        "m", {"a": {"b": odd}}, overwrite=True
    ),
    "saved key": lambda odd: tf2flax.save_checkpoint(
        "m", {odd: np.zeros(2)}, overwrite=True
    ),
    "saved map": lambda odd: tf2flax.save_map({"a": odd}, "map.toml"),
    "row": lambda odd: tf2flax.src("a").take([odd]),
    "bound of a slice": lambda odd: tf2flax.src("a")[odd:],
    "index of several": lambda odd: tf2flax.src("a")[0, odd],
    "axes": lambda odd: tf2flax.src("a").transpose([odd, 0]),
}
# What NumPy raises for an index of the same kind is documented.
INDEXED: dict[str, Callable[..., Any]] = {
    "StoredTensor[]": lambda value: tf2flax.open_checkpoint(BERT)[TENSOR][value],
}


def _check(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> str:
    """Calls; says what is wrong with the exception, if anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*args, **kwargs)
    except tf2flax.CheckpointError:
        return ""
    except Exception as error:
        frames = [frame.filename for frame in _frames(error)]
        inside = [name for name in frames if "tf2flax/_" in name.replace("\\", "/")]
        if isinstance(error, TypeError) and not inside:
            return ""  # Python's own, of the call
        last = _frames(error)[-1]
        try:
            text = str(error)[:80]
        except Exception:
            text = "?"
        where = f"{pathlib.Path(last.filename).name}:{last.lineno}"
        own = [pathlib.Path(name).name for name in inside][-1:]
        return f"{type(error).__name__}: {text} ({where}, {own})"
    return ""


Frame = collections.namedtuple("Frame", "filename lineno")


def _frames(error: BaseException) -> list[Frame]:
    result: list[Frame] = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        result.append(Frame(code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return result


@pytest.mark.parametrize("name", CALLS)
def test_odd_values(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, right, options = CALLS[name]
    data = pathlib.Path("tests").absolute()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").symlink_to(data)
    wrong: list[str] = []
    for kind, make in ODD.items():
        for position in range(len(right)):
            if (name, position) == ("warm_start", 0) and callable(make()):
                continue  # what the caller's own function raises passes
            args = [*right[:position], make(), *right[position + 1 :]]
            if fault := _check(function, args, {}):
                wrong.append(f"argument {position} {kind}: {fault}")
        for option in options:
            if fault := _check(function, [*right], {option: make()}):
                wrong.append(f"{option}={kind}: {fault}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", NESTED)
def test_odd_values_within(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pathlib.Path("tests").absolute()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").symlink_to(data)
    wrong: list[str] = []
    for kind, make in ODD.items():
        value = make()
        try:
            hash(value)
        except TypeError:
            if name in ("name of aliases", "saved key"):
                continue
        if fault := _check(NESTED[name], [value], {}):
            wrong.append(f"{kind}: {fault}")
    assert not wrong, "\n".join(wrong)


def test_odd_indices() -> None:
    """As NumPy takes them, or refuses them."""
    tensor = tf2flax.open_checkpoint(BERT)[TENSOR]
    array = tensor.read()
    for kind, make in ODD.items():
        outcomes = [_outcome(holder, make()) for holder in (array, tensor)]
        assert outcomes[0] == outcomes[1], kind


def _outcome(holder: Any, index: Any) -> Any:
    try:
        found = np.asarray(holder[index])
    except Exception as error:
        return type(error)
    return found.shape, found.tobytes()
