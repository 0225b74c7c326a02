"""A target changes as a whole or not at all, whatever raises, and when."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pathlib
import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import write_bundle
from flax import nnx

import tf2flax
from tf2flax._jax import variables
from tf2flax._jax.targets import take_apart

W = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(3, dtype=np.float32) + 10


@pytest.fixture
def checkpoint(tmp_path: pathlib.Path) -> tf2flax.Checkpoint:
    write_bundle(tmp_path / "m", {"m/kernel": W, "m/bias": B, "b": B, "twice": W * 2})
    return tf2flax.open_checkpoint(tmp_path / "m")


def linear(seed: int = 0) -> nnx.Linear:
    return nnx.Linear(2, 3, rngs=nnx.Rngs(seed))


class Picky:
    """A pytree that takes NumPy arrays alone."""

    def __init__(self, x: Any) -> None:
        if not isinstance(x, np.ndarray):
            raise ValueError("numpy only")
        self.x = x


jax.tree_util.register_pytree_with_keys(
    Picky,
    lambda picky: (((jax.tree_util.GetAttrKey("x"), picky.x),), None),
    lambda _, children: Picky(*children),
)


@dataclasses.dataclass
class Uncopyable:
    x: Any

    def __copy__(self) -> Any:
        raise RuntimeError("not to be copied")


@dataclasses.dataclass
class Single:
    x: Any

    def __copy__(self) -> Any:
        return self


@dataclasses.dataclass
class Computed:
    x: Any


Computed.x = property(lambda _: np.zeros(3, "f4"))  # type: ignore[method-assign]


def computed() -> Computed:
    return object.__new__(Computed)


class Refusing(nnx.Param[Any]):
    def set_raw_value(self, value: Any, **options: Any) -> None:
        raise RuntimeError("not to be set")


class Irreplaceable(nnx.Param[Any]):
    def replace(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("not to be replaced")


class Module(nnx.Module):
    def __init__(self, x: Any) -> None:
        self.x = x


ZEROS = np.zeros(3, "f4")
RAISING: dict[str, Callable[[], Any]] = {
    "Picky: numpy only": lambda: Picky(ZEROS),
    "Uncopyable .*not to be copied": lambda: Uncopyable(ZEROS),
    "Single .*the object itself": lambda: Single(ZEROS),
    "Computed .*no setter": computed,
    "not to be set": lambda: Module(Refusing(jnp.zeros(3))),
    "not to be replaced": lambda: {"x": Irreplaceable(jnp.zeros(3))},
    "not to be replaced. Nothing": lambda: nnx.state(
        Module(Irreplaceable(jnp.zeros(3)))
    ),
}


@pytest.mark.parametrize("what", RAISING)
@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("call", ["init", "plan"])
def test_nothing_changes_where_a_part_of_the_target_raises(
    checkpoint: tf2flax.Checkpoint, what: str, is_first: bool, call: str
) -> None:
    modules = [linear(0), linear(1)]
    before = [(m.kernel.get_raw_value(), m.bias.get_raw_value()) for m in modules]
    odd = RAISING[what]()
    target = {
        "z" if is_first else "m0": modules[0],
        "y": [odd],
        "z9": {"m": modules[1]},
    }
    first = "z" if is_first else "m0"
    entries = [("m/", f"{first}/"), ("b", "y/0/x"), ("m/", "z9/m/")]
    plan = tf2flax.plan(checkpoint, entries, target)

    def run() -> None:
        if call == "plan":
            plan.restore()
        tf2flax.init_from_checkpoint(checkpoint, entries, target)

    with pytest.raises(tf2flax.AssignmentError, match=what):
        run()
    after = [(m.kernel.get_raw_value(), m.bias.get_raw_value()) for m in modules]
    for old, new in zip(before, after, strict=True):
        assert all(a is b for a, b in zip(old, new, strict=True))
    assert target["y"] == [odd]
    assert not np.any(getattr(odd, "x", ZEROS)[...])


@dataclasses.dataclass
class Holder:
    module: Any


@pytest.mark.parametrize("how", ["before", "after", "twice", "always"])
@pytest.mark.parametrize("call", range(4))
def test_nothing_changes_where_an_interrupt_comes_within_or_between_modules(
    checkpoint: tf2flax.Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    call: int,
) -> None:
    modules = [linear(0), linear(1)]
    target = {"params": {"a": Holder(modules[0])}, "z": [modules[1]]}
    placed = [v for m in modules for v in (m.kernel, m.bias)]
    before = [v.get_raw_value() for v in placed]
    set_raw_value = nnx.Variable.set_raw_value
    calls: list[Any] = []

    def interrupted(self: Any, *args: Any, **options: Any) -> None:
        calls.append(self)
        number = len(calls) - 1
        if how == "before" and number == call:
            raise KeyboardInterrupt
        if how == "always" and number >= call:
            raise KeyboardInterrupt
        set_raw_value(self, *args, **options)
        if how != "before" and number == call:
            raise KeyboardInterrupt
        if how == "twice" and number > call and number % 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(nnx.Variable, "set_raw_value", interrupted)
    entries = [("m/", "params/a/module/"), ("m/", "z/0/")]
    with pytest.raises(KeyboardInterrupt):
        tf2flax.init_from_checkpoint(checkpoint, entries, target)
    assert len(calls) > call
    for variable, old in zip(placed, before, strict=True):
        assert variable.get_raw_value() is old


def test_a_real_interrupt_while_changes_are_undone(
    checkpoint: tf2flax.Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = linear()
    before = (model.kernel.get_raw_value(), model.bias.get_raw_value())
    set_raw_value = nnx.Variable.set_raw_value
    calls: list[Any] = []

    def interrupted(self: Any, *args: Any, **options: Any) -> None:
        set_raw_value(self, *args, **options)
        calls.append(self)
        if 2 <= len(calls) <= 6:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(nnx.Variable, "set_raw_value", interrupted)
    # Shells let their background jobs ignore it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tf2flax.init_from_checkpoint(checkpoint, {"m/": "/"}, model)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert model.kernel.get_raw_value() is before[0]
    assert model.bias.get_raw_value() is before[1]


def test_a_dataclass_that_is_the_whole_target_is_named(
    checkpoint: tf2flax.Checkpoint,
) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="The Uncopyable that is given"):
        tf2flax.init_from_checkpoint(checkpoint, {"b": "x"}, Uncopyable(ZEROS))


class StopError(KeyboardInterrupt):
    """An interrupt at one line."""


def interrupted_at(number: int, action: Callable[[], Any]) -> bool:
    """Runs an action with an interrupt at a line of the rebuilding of a target."""
    before, lines = sys.gettrace(), 0

    def trace(frame: types.FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        file = pathlib.PurePath(frame.f_code.co_filename).name
        if file not in ("targets.py", "variables.py", "variablelib.py"):
            return None
        lines += event == "line"
        if lines > number:
            sys.settrace(before)
            raise StopError
        return trace

    sys.settrace(trace)
    try:
        action()
    except StopError:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupt_at_any_line_leaves_all_values_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Signals are not handled between a block and the release of its lock, as here.
    monkeypatch.setattr(variables, "_SETTING", contextlib.nullcontext())
    modules = [linear(0), linear(1)]
    placed = [v for m in modules for v in (m.kernel, m.bias)]
    before = [v.get_raw_value() for v in placed]
    target = take_apart((modules[0], {"x": modules[1]}))
    values = {leaf.name: jnp.ones(leaf.shape) for leaf in target.leaves}
    number, untouched = 0, 0
    while interrupted_at(number, lambda: target.rebuild(values)):
        after = [v.get_raw_value() for v in placed]
        kept = [old is new for old, new in zip(before, after, strict=True)]
        assert all(kept) or not any(kept)
        untouched += all(kept)
        for variable, old in zip(placed, before, strict=True):
            variable.set_raw_value(old)
        number += 1
    assert untouched > 100


def test_an_action_is_repeated_until_it_ends() -> None:
    calls: list[int] = []

    def action() -> None:
        calls.append(len(calls))
        if len(calls) < 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        variables.to_the_end(action)
    assert calls == [0, 1, 2, 3]


def test_a_variable_that_modules_share_is_one_leaf(
    checkpoint: tf2flax.Checkpoint,
) -> None:
    first, second = linear(0), linear(1)
    second.kernel = first.kernel
    target = (first, {"other": second}, first)
    plan = tf2flax.plan(checkpoint, {"m/": "1/other/"}, target)
    assert [a.leaf for a in plan.assignments] == ["0/kernel", "1/other/bias"]
    assert plan.kept == ("0/bias",)
    got = plan.restore()
    assert got[0] is got[2] is first
    assert got[1]["other"] is second
    assert second.kernel is first.kernel
    assert np.array_equal(first.kernel[...], W)
    assert np.array_equal(second.bias[...], B)
    assert not np.any(first.bias[...])
    tf2flax.init_from_checkpoint(checkpoint, {"b": first.bias}, target)
    assert np.array_equal(first.bias[...], B)
    zeros = jnp.zeros((2, 3))
    first.kernel[...] = zeros
    tf2flax.init_from_checkpoint(checkpoint, {"m/kernel": "2/kernel"}, target)
    assert np.array_equal(second.kernel[...], W)


def test_a_module_and_a_state_of_it(checkpoint: tf2flax.Checkpoint) -> None:
    model = linear()
    state = nnx.state(model)
    kernel = model.kernel.get_raw_value()
    got = tf2flax.init_from_checkpoint(
        checkpoint, {"m/": "s/"}, {"m": model, "s": state}
    )
    assert got["m"] is model
    assert model.kernel.get_raw_value() is kernel
    assert got["s"]["kernel"] is not model.kernel
    assert np.array_equal(got["s"]["kernel"][...], W)


def test_threads_that_fill_one_module_leave_no_mixture(tmp_path: pathlib.Path) -> None:
    class Many(nnx.Module):
        def __init__(self) -> None:
            self.ws = nnx.List([nnx.Param(jnp.zeros(())) for _ in range(20)])

    paths = [tmp_path / str(number) for number in (1, 2)]
    for number, path in enumerate(paths, 1):
        write_bundle(path, {f"ws/{i}": np.float32(number) for i in range(20)})
    model, mixed = Many(), list[Any]()
    plans = [tf2flax.plan(path, {"/": "/"}, model) for path in paths]
    barrier = threading.Barrier(2, timeout=600)

    def fill(plan: tf2flax.Plan) -> None:
        for _ in range(6):
            barrier.wait()
            plan.restore()
            barrier.wait()
            values = {float(w[...]) for w in model.ws}
            mixed.extend([values] if len(values) > 1 else [])

    threads = [threading.Thread(target=fill, args=(plan,)) for plan in plans]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not mixed


def test_mutable_arrays_keep_their_identity(
    checkpoint: tf2flax.Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nnx.var_defaults(ref=True):
        model = linear()
    reference = model.kernel.get_raw_value()
    assert isinstance(reference, jax.Ref)
    tf2flax.init_from_checkpoint(checkpoint, {"m/": "/"}, model)
    assert model.kernel.get_raw_value() is reference
    assert np.array_equal(reference[...], W)
    assert np.array_equal(model.bias[...], B)
    other = linear(1)
    with monkeypatch.context() as patches:

        def refuse(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patches.setattr(nnx.Variable, "set_raw_value", refuse)
        entries = {"twice": "0/kernel", "m/bias": "1/bias"}
        with pytest.raises(KeyboardInterrupt):
            tf2flax.init_from_checkpoint(checkpoint, entries, (model, other))
    assert np.array_equal(reference[...], W)


def test_copies_of_dataclasses_leave_the_original(
    checkpoint: tf2flax.Checkpoint,
) -> None:
    original = Holder([Holder(np.zeros(3, "f4")), linear()])
    module = original.module[1]
    shallow = copy.copy(original.module)
    got = tf2flax.init_from_checkpoint(
        checkpoint, [("b", "module/0/module"), ("m/", "module/1/")], original
    )
    assert original.module == shallow
    assert not np.any(original.module[0].module)
    assert np.array_equal(got.module[0].module, B)
    assert got.module[1] is module
    assert np.array_equal(module.kernel[...], W)
