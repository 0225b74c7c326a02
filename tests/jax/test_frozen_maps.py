"""Maps are frozen when they are given: iterators, and containers that change later."""

from __future__ import annotations

import collections
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import write_bundle

import tf2flax
from tf2flax import src

KERNEL = np.arange(6, dtype="f4").reshape(2, 3) + 1


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    write_bundle(tmp_path / "m", {"net/kernel": KERNEL, "rows": KERNEL[:, :2] * 2})
    return tmp_path / "m"


def init(key: jax.Array) -> dict[str, Any]:
    return {"net": {"kernel": jax.random.normal(key, (2, 3))}, "t": jnp.zeros((2, 2))}


TARGET = {"net": {"kernel": np.zeros((2, 3), "f4")}, "t": np.zeros((2, 2), "f4")}
PAIRS: list[tuple[Any, Any]] = [("net/", "net/"), (src("rows").transpose(), "t")]


class Computed(Mapping[Any, Any]):
    """A mapping that is no dict."""

    def __getitem__(self, key: Any) -> Any:
        return dict(PAIRS)[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(dict(PAIRS))

    def __len__(self) -> int:
        return len(PAIRS)


FORMS: dict[str, Callable[[], Any]] = {
    "a dict": lambda: dict(PAIRS),
    "an ordered dict": lambda: collections.OrderedDict(PAIRS),
    "a read-only dict": lambda: types.MappingProxyType(dict(PAIRS)),
    "a mapping": Computed,
    "a list": lambda: list(PAIRS),
    "a tuple": lambda: tuple(PAIRS),
    "lists as pairs": lambda: [list(pair) for pair in PAIRS],
    "items of a dict": lambda: dict(PAIRS).items(),
    "a generator": lambda: (pair for pair in PAIRS),
    "a zip": lambda: zip(*zip(*PAIRS, strict=True), strict=True),
    "a map": lambda: map(tuple, PAIRS),
    "an iterator": lambda: iter(PAIRS),
    "a deque": lambda: collections.deque(PAIRS),
}


def check(tree: Any) -> None:
    assert np.array_equal(tree["net"]["kernel"], KERNEL)
    assert np.array_equal(tree["t"], KERNEL[:, :2].T * 2)


@pytest.mark.parametrize("name", list(FORMS))
def test_every_form_of_a_map_serves_every_call(name: str, prefix: pathlib.Path) -> None:
    check(tf2flax.init_from_checkpoint(prefix, FORMS[name](), TARGET))
    plan = tf2flax.plan(prefix, FORMS[name](), TARGET)
    check(plan.restore())
    check(plan.restore())
    warm = tf2flax.warm_start(init, prefix, FORMS[name]())
    check(warm(jax.random.key(0)))
    check(warm(jax.random.key(1)))


def emptied(given: Any) -> None:
    given.clear()


def replaced(given: Any) -> None:
    if isinstance(given, dict):
        given["net/"] = "nowhere/"
    else:
        given[0] = ("gone", "net/kernel")


def added(given: Any) -> None:
    if isinstance(given, dict):
        given["gone"] = "net/kernel"
    else:
        given.append((3, None))


def within(given: Any) -> None:
    given[0][1] = "nowhere/"


CHANGES = [
    (name, change)
    for name in ("a dict", "a list", "lists as pairs")
    for change in (emptied, replaced, added, within)
    if change is not within or name == "lists as pairs"
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_what_happens_to_a_map_later_has_no_effect(
    name: str, change: Callable[[Any], None], prefix: pathlib.Path
) -> None:
    given = FORMS[name]()
    warm = tf2flax.warm_start(init, prefix, given)
    check(warm(jax.random.key(0)))
    change(given)
    check(warm(jax.random.key(0)))
    given = FORMS[name]()
    plan = tf2flax.plan(prefix, given, TARGET)
    change(given)
    check(plan.restore())
    assert plan.unused_rules == ()


@pytest.mark.parametrize("suffix", [".toml", ".json"])
@pytest.mark.parametrize("form", [dict, list])
def test_maps_from_files_keep_their_places(
    suffix: str, form: Callable[[Any], Any], prefix: pathlib.Path
) -> None:
    path = prefix.with_suffix(suffix)
    tf2flax.save_map(path, form([*PAIRS, ("gone", "net/kernel")]))
    loaded = tf2flax.load_map(path)
    warm = tf2flax.warm_start(init, prefix, loaded)
    loaded.clear()
    with pytest.raises(tf2flax.AssignmentError, match=rf"m{suffix}:\d+\) `gone`"):
        warm(jax.random.key(0))


def test_lists_of_leaves_are_frozen(prefix: pathlib.Path) -> None:
    part = np.zeros((2, 2), "f4")
    parts = [part]
    given = {"rows": parts, "net/": "net/"}
    plan = tf2flax.plan(prefix, given, {**TARGET, "t/part_0": part})
    parts.append(part)
    assert np.array_equal(plan.restore()["t/part_0"], KERNEL[:, :2] * 2)
    # No object is a leaf of what is yet to be initialised: the list says so as it was.
    warm = tf2flax.warm_start(init, prefix, given)
    parts.clear()
    with pytest.raises(tf2flax.AssignmentError, match=r"got ndarray of shape \(2, 2\)"):
        warm(jax.random.key(0))


# Maps that are wrong whatever the target is, and what their errors contain.
WRONG: dict[str, tuple[Any, str]] = {
    "no map": (None, "Expected an assignment map"),
    "text": ("net/", "Expected an assignment map"),
    "a number": (3, "Expected an assignment map"),
    "no pairs": ([("net/", "net/"), "ab"], "Entry 2: expected a pair"),
    "triples": (zip("a", "b", "c", strict=True), "Entry 1: expected a pair"),
    "a key of another kind": ({3: "t"}, "Entry 1: expected the name of a tensor"),
    "a value of None": ({"rows": None}, "Entry 1 `rows`: .* got None"),
    "a number as value": ({"rows": 3}, "Entry 1 `rows`: .* got int 3"),
    "a tuple as value": ({"rows": ("t",)}, 'Join the keys of a leaf with `/`: "t"'),
    "a tuple of objects as value": ({"rows": (1.5,)}, "Make it a list"),
    "a list of names": ({"rows": ["t"]}, "not names; got 't'"),
    "a lone brace": ({"rows_{i": "t"}, "single `{`"),
    "a capture without meaning": ({"rows_{i}": "t"}, r"capture \{i\} of the key"),
    "a scope for a name": ({src("net/"): "t"}, "Did you mean `t/`"),
    "several": (
        {3: "t", "rows": None},
        r"Entry 1: (.|\n)*Entry 2 `rows`: ",
    ),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_maps_are_refused_when_they_are_given(
    name: str, prefix: pathlib.Path
) -> None:
    given, message = WRONG[name]
    with pytest.raises(tf2flax.AssignmentError, match=message) as error:
        tf2flax.warm_start(init, prefix, given)
    if not isinstance(given, zip):
        with pytest.raises(tf2flax.AssignmentError) as planned:
            tf2flax.plan(prefix, given, TARGET)
        assert str(planned.value) == str(error.value)


def test_what_needs_a_target_is_said_when_called(prefix: pathlib.Path) -> None:
    for given in ({"rows": "gone"}, {"rows": KERNEL}, {"gone": "t"}):
        warm = tf2flax.warm_start(init, prefix, given)
        with pytest.raises(
            tf2flax.AssignmentError, match=r"gone|not a leaf of the target"
        ):
            warm(jax.random.key(0))


def test_options_are_frozen_too(prefix: pathlib.Path) -> None:
    aliases, keep = {"kernel": ("weights",)}, [["^t$", "keep"]]
    warm = tf2flax.warm_start(
        init, prefix, {"net/": "net/", "gone": "t"}, aliases=aliases, on_missing=keep
    )
    aliases["kernel"], keep[0][1] = (), "error"
    tree = warm(jax.random.key(0))
    assert np.array_equal(tree["net"]["kernel"], KERNEL)
    assert np.array_equal(tree["t"], np.zeros((2, 2)))


def test_an_iterator_that_was_read_before_is_refused(prefix: pathlib.Path) -> None:
    entries = iter(PAIRS)
    check(tf2flax.init_from_checkpoint(prefix, entries, TARGET))
    calls: list[Callable[[], Any]] = [
        lambda: tf2flax.init_from_checkpoint(prefix, entries, TARGET),
        lambda: tf2flax.plan(prefix, entries, TARGET),
        lambda: tf2flax.warm_start(init, prefix, entries),
    ]
    for call in calls:
        with pytest.raises(tf2flax.AssignmentError, match="iterator without entries"):
            call()
    for empty in ({}, [], (), {}.items()):
        assert not tf2flax.plan(prefix, empty, TARGET).assignments


def test_aliases_are_frozen_too(prefix: pathlib.Path) -> None:
    names = {"kernel": ("k",), "weights": ("kernel",)}
    aliases = types.MappingProxyType(names)
    target = {"weights": jnp.zeros((2, 3))}
    warm = tf2flax.warm_start(lambda: target, prefix, {"net/": "/"}, aliases=aliases)
    names.clear()
    assert np.array_equal(warm()["weights"], KERNEL)
