"""warm_start: what init functions may return, and threads that share an nnx.Rngs."""

from __future__ import annotations

import dataclasses
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import write_bundle
from flax import nnx

import tf2flax

KERNEL = np.ones((2, 3), "f4")
FILLED = {"kernel": "kernel"}


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    write_bundle(tmp_path / "m", {"kernel": KERNEL, "x": np.float32(5)})
    return tmp_path / "m"


def in_threads(count: int, action: Callable[[int], Any]) -> list[BaseException]:
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            action(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return errors


class Drawn(nnx.Module):
    """A kernel that the checkpoint has, and a key that tells one call from another."""

    def __init__(self, draw: Callable[[], jax.Array]) -> None:
        self.kernel = nnx.Param(jax.random.normal(draw(), (2, 3)))
        self.key = nnx.Param(jax.random.key_data(draw()))


@pytest.mark.parametrize("how", ["passed", "a stream", "two functions"])
def test_threads_that_share_rngs_go_one_after_the_other(
    prefix: pathlib.Path, how: str
) -> None:
    rngs, reference = nnx.Rngs(0), nnx.Rngs(0)
    draws = [rngs, rngs.default if how == "a stream" else rngs]
    warm = [
        tf2flax.warm_start(lambda draw=draw: Drawn(draw), prefix, FILLED)
        for draw in draws
    ]
    if how == "passed":
        passed = tf2flax.warm_start(Drawn, prefix, FILLED)
        warm = [lambda: passed(rngs)] * 2
    keys: list[bytes] = []

    def run(number: int) -> None:
        for _ in range(2):
            model = warm[number % 2]()
            assert np.array_equal(model.kernel[...], KERNEL)
            keys.append(np.asarray(model.key[...]).tobytes())

    assert in_threads(4, run) == []
    assert len(set(keys)) == 8
    for _ in range(16):
        reference()
    assert int(rngs.default.count[...]) == 16
    assert np.array_equal(jax.random.key_data(rngs()), jax.random.key_data(reference()))


def test_an_init_function_that_raises_in_a_thread_gives_rngs_back(
    prefix: pathlib.Path,
) -> None:
    rngs = nnx.Rngs(0)

    def build(fails: bool) -> Any:
        model = nnx.Linear(2, 3, rngs=rngs)
        if fails:
            raise RuntimeError("from the init function")
        return model

    warm = tf2flax.warm_start(build, prefix, FILLED)
    errors = in_threads(4, lambda number: [warm(number % 2 == 1) for _ in range(3)])
    assert [str(error) for error in errors] == ["from the init function"] * 2
    assert int(rngs.default.count[...]) == 2 * 3 * 2
    rngs()


def test_an_interrupt_while_rngs_advance_leaves_them(
    prefix: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rngs = nnx.Rngs(0, params=1)
    counts = [rngs.default.count, rngs.params.count]
    before = [count.get_raw_value() for count in counts]

    def build() -> Any:
        return {"kernel": jax.random.normal(rngs(), (2, 3)), "k": rngs.params()}

    set_raw_value = nnx.Variable.set_raw_value

    def interrupted(self: Any, *args: Any, **options: Any) -> None:
        if self is counts[1] and not isinstance(args[0], jax.core.Tracer):
            raise KeyboardInterrupt
        set_raw_value(self, *args, **options)

    monkeypatch.setattr(nnx.Variable, "set_raw_value", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tf2flax.warm_start(build, prefix, FILLED)()
    assert all(
        count.get_raw_value() is old for count, old in zip(counts, before, strict=True)
    )


def test_warm_start_within_an_init_function_is_refused(prefix: pathlib.Path) -> None:
    rngs = nnx.Rngs(0)
    inner = tf2flax.warm_start(lambda: nnx.Linear(2, 3, rngs=rngs), prefix, FILLED)
    outer = tf2flax.warm_start(lambda: (rngs(), inner())[1], prefix, FILLED)
    for _ in range(2):
        with pytest.raises(tf2flax.UnsupportedError, match="while JAX is tracing"):
            outer()
    assert int(rngs.default.count[...]) == 0
    inner()


class Rope(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (2, 3)))
        self.freqs = 1.0 / 10.0 ** jnp.arange(3.0)
        self.drawn = jax.random.normal(rngs.params(), (2,))
        self.host = np.arange(3.0)
        self.named = nnx.data({"a": jnp.ones(2), "b": [jnp.zeros(1)]})
        self.list = nnx.List([jnp.ones(2), nnx.Dict(a=jnp.ones(1))])
        self.note = nnx.static("kept")
        self.tree = nnx.Param({"a": jnp.ones(2)})
        self.none = nnx.Param(None)


def test_plain_arrays_of_modules_are_computed(prefix: pathlib.Path) -> None:
    got = tf2flax.warm_start(Rope, prefix, FILLED)(nnx.Rngs(0))
    whole = Rope(nnx.Rngs(0))
    assert np.array_equal(got.kernel[...], KERNEL)
    assert np.array_equal(got.freqs + 0, whole.freqs)
    assert np.array_equal(got.drawn + 0, whole.drawn)
    assert np.array_equal(got.host, whole.host)
    assert np.array_equal(got.named["b"][0], whole.named["b"][0])
    assert np.array_equal(got.list[1]["a"], whole.list[1]["a"])
    assert np.array_equal(got.tree.get_raw_value()["a"], np.ones(2))
    assert got.none.get_raw_value() is None
    assert nnx.graphdef(got) == nnx.graphdef(whole)
    nnx.jit(lambda model: model.freqs)(got)
    # Older versions of Flax do not list shapes in a state.
    with pytest.raises(tf2flax.AssignmentError, match=r"`freqs`.*plain array|no leaf"):
        tf2flax.warm_start(Rope, prefix, {"x": "freqs"})(nnx.Rngs(0))


@dataclasses.dataclass
class Config:
    width: Any = 3
    name: str = "x"


def build_in_a_closure(rngs: nnx.Rngs) -> Any:
    model = nnx.Linear(2, 3, rngs=rngs)
    scale = jnp.ones(3) * 2
    model.act = lambda x: x * scale
    return model


def build_in_a_graphdef(rngs: nnx.Rngs) -> Any:
    return nnx.split(Rope(rngs))


def build_in_a_dataclass(_: nnx.Rngs) -> Any:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    model.table = Config(jnp.ones(3))
    return jnp.ones(3), model


def build_in_an_object(rngs: nnx.Rngs) -> Any:
    model = nnx.Linear(2, 3, rngs=rngs)
    model.config = Config(jnp.ones(3))
    return model


@pytest.mark.parametrize(
    ("build", "place"),
    [
        (build_in_a_closure, "act/scale"),
        (build_in_a_graphdef, "0/"),
        (build_in_a_dataclass, "1/table/width"),
        (build_in_an_object, "config/width"),
    ],
)
def test_arrays_that_nothing_can_replace_are_named(
    prefix: pathlib.Path, build: Callable[..., Any], place: str
) -> None:
    warm = tf2flax.warm_start(build, prefix, {})
    if build is build_in_a_graphdef and _lists_traced_arrays():
        graphdef, state = warm(nnx.Rngs(0))
        assert np.array_equal(nnx.merge(graphdef, state).freqs, Rope(nnx.Rngs(0)).freqs)
        return
    with pytest.raises(tf2flax.UnsupportedError, match=f"in `{place}"):
        warm(nnx.Rngs(0))


def _lists_traced_arrays() -> bool:
    """Whether this version of Flax has traced plain arrays in a state."""

    @jax.jit
    def split(x: jax.Array) -> Any:
        return nnx.state(nnx.List([x]))

    return bool(jax.tree.leaves(split(jnp.ones(2))))


def test_what_stands_beside_modules(prefix: pathlib.Path) -> None:
    config, texts = Config(), np.array(["a"])

    def build(rngs: nnx.Rngs) -> Any:
        model = nnx.Linear(2, 3, rngs=rngs)
        model.config, model.texts = config, texts
        return model, 3, None, {"k": model.kernel}

    got = tf2flax.warm_start(build, prefix, {"kernel": "0/kernel"})(nnx.Rngs(0))
    assert np.array_equal(got[0].kernel[...], KERNEL)
    assert got[0].config is config
    assert got[0].texts is texts
    assert got[3]["k"] is got[0].kernel
    assert isinstance(got[1], jax.Array)
    assert got[2] is None
    for value in ("text", config, texts):
        init = tf2flax.warm_start(lambda value=value: (jnp.ones(1), value), prefix, {})
        with pytest.raises(tf2flax.AssignmentError, match="gives arrays"):
            init()


class Unreadable:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} here")


def test_what_jax_takes_no_array_for(prefix: pathlib.Path) -> None:
    texts = np.array(["a", "bc"])

    def build(given: Any, config: Any) -> Any:
        model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        model.given, model.config = given, nnx.data(config)
        return model

    got = tf2flax.warm_start(build, prefix, FILLED)(texts, {"seed": 2**40})
    assert got.given is texts
    assert got.config["seed"] == 2**40
    for value, what in ((2**40, "an int which no JAX"), (Unreadable(), "`Unreadable`")):
        init = tf2flax.warm_start(lambda value=value: (jnp.ones(1), value), prefix, {})
        with pytest.raises(tf2flax.AssignmentError, match=f"gives arrays.* {what}"):
            init()


def test_mutable_arrays_are_made_anew(prefix: pathlib.Path) -> None:
    def build(rngs: nnx.Rngs) -> Any:
        with nnx.var_defaults(ref=True):
            return nnx.Linear(2, 3, rngs=rngs)

    got = tf2flax.warm_start(build, prefix, FILLED)(nnx.Rngs(0))
    assert isinstance(got.kernel.get_raw_value(), jax.Ref)
    assert np.array_equal(got.kernel[...], KERNEL)
    got.bias[...] += 1
    assert np.array_equal(got.bias[...], np.ones(3))


@pytest.mark.parametrize("how", ["passed", "closed over"])
def test_mutable_arrays_of_rngs_advance(prefix: pathlib.Path, how: str) -> None:
    with nnx.var_defaults(ref=True):
        rngs = nnx.Rngs(0)
    reference = rngs.default.count.get_raw_value()
    assert isinstance(reference, jax.Ref)
    for count in (2, 4):
        if how == "passed":
            tf2flax.warm_start(Drawn, prefix, FILLED)(rngs)
        else:
            tf2flax.warm_start(lambda: Drawn(rngs), prefix, FILLED)()
        assert rngs.default.count.get_raw_value() is reference
        assert int(reference[...]) == count
    whole = nnx.Rngs(0)
    [whole() for _ in range(4)]
    assert np.array_equal(jax.random.key_data(rngs()), jax.random.key_data(whole()))


class Parent(nnx.Module):
    """A module that its children know."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.freqs = jnp.arange(3.0)
        self.children = nnx.List([nnx.Linear(2, 3, rngs=rngs) for _ in range(2)])
        for child in self.children:
            child.parent = self


def test_modules_that_hold_their_parent_are_warm_started(prefix: pathlib.Path) -> None:
    name = "children/1/kernel"
    builds: dict[str, Callable[[nnx.Rngs], Any]] = {
        name: Parent,
        f"p/0/{name}": lambda rngs: {"p": [Parent(rngs)]},
    }
    for name, build in builds.items():
        got = tf2flax.warm_start(build, prefix, {"kernel": name})(nnx.Rngs(0))
        parent: Any = got if isinstance(got, Parent) else got["p"][0]
        assert parent.children[0].parent is parent
        assert np.array_equal(parent.children[1].kernel[...], KERNEL)
        assert np.array_equal(parent.freqs + 0, np.arange(3.0))


def test_modules_that_many_others_share_are_warm_started(prefix: pathlib.Path) -> None:
    def build(rngs: nnx.Rngs) -> Any:
        module: Any = nnx.Linear(2, 3, rngs=rngs)
        for _ in range(30):
            module = nnx.Dict(a=module, b=module)
        return {"m": module}

    name = f"m/{'a/' * 30}kernel"
    got = tf2flax.warm_start(build, prefix, {"kernel": name})(nnx.Rngs(0))["m"]
    for _ in range(30):
        got = got.b
    assert np.array_equal(got.kernel[...], KERNEL)


class Pair(nnx.Module):
    """Holds one module twice."""

    def __init__(self, inner: nnx.Module) -> None:
        self.a = inner
        self.b = inner


def shared_module(levels: int) -> nnx.Module:
    module: nnx.Module = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    for _ in range(levels):
        module = Pair(module)
    return module


def test_modules_that_are_shared_many_levels_deep_are_entered_once_each(
    prefix: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = 12  # which have 4096 paths
    name = "/".join([*["a"] * levels, "kernel"])
    flatten = jax.tree_util.tree_flatten_with_path
    calls = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return flatten(*args, **options)

    monkeypatch.setattr(jax.tree_util, "tree_flatten_with_path", counted)
    module = shared_module(levels)
    tf2flax.init_from_checkpoint(prefix, {"kernel": name}, module)
    tf2flax.init_from_checkpoint(prefix, {"kernel": f"0/{name}"}, [module])
    init = tf2flax.warm_start(lambda given: shared_module(levels), prefix, {"x": name})
    with pytest.raises(tf2flax.AssignmentError, match="expected shape"):
        init(module)
    assert calls < 40 * levels
