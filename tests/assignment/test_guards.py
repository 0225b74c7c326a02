"""Guards of a plan: weights that fill no leaf, weights in slots, and what it prints."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

import tf2flax
from tf2flax import concat, src

STEPS = np.zeros((), "i8")
W = np.zeros((4, 6), "f4")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("guards") / "m"
    weights = {
        "net/a/kernel": W, "net/b/kernel": W, "net/b/bias": W[0], "head/kernel": W,
        "head/{x}": W, "tied": W, "qkv": W, "wrong": W[:2],
    }  # fmt: skip
    slots = {f"{name}/Adam": array for name, array in weights.items()}
    averages = {
        f"{name}/ExponentialMovingAverage": array for name, array in weights.items()
    }
    tensors = {
        **weights,
        **slots,
        **averages,
        "global_step": STEPS,
        "beta1_power": STEPS,
    }
    text = Tensor(np.array([b"vocabulary"], object))
    write_bundle(path, {**{k: Tensor(v) for k, v in tensors.items()}, "text": text})
    return path


WEIGHTS = [
    "head/kernel", "head/{x}", "net/a/kernel", "net/b/bias", "net/b/kernel", "qkv",
    "tied", "wrong",
]  # fmt: skip
KERNEL = {"a": {"kernel": W}}

# Map, target, options, and the weights that nobody answers for.
LEFT: dict[str, tuple[Any, Any, dict[str, Any], list[str]]] = {
    "a scope": (
        {"net/": "/"}, KERNEL, {}, [n for n in WEIGHTS if n != "net/a/kernel"]
    ),
    "all scopes": (
        {"net/": "/", src("head/"): "head/"},
        {**KERNEL, "b": {"kernel": W, "bias": W[0]}, "head": {"kernel": W, "{x}": W}},
        {}, ["qkv", "tied", "wrong"],
    ),
    "a part": ({src("qkv")[:2]: "x", "tied": "t"}, {"x": W[:2], "t": W}, {},
               [n for n in WEIGHTS if n not in ("qkv", "tied")]),
    "kept for its shape": (
        {"wrong": "x", "tied": "t"}, {"x": W, "t": W}, {"on_mismatch": "keep"},
        [n for n in WEIGHTS if n not in ("wrong", "tied")],
    ),
    "kept for another that is missing": (
        {concat("qkv", "absent"): "x", "tied": "t"}, {"x": W, "t": W},
        {"on_missing": "keep"}, [n for n in WEIGHTS if n not in ("qkv", "tied")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(LEFT))
def test_what_fills_no_leaf(name: str, prefix: pathlib.Path) -> None:
    entries, target, options, left = LEFT[name]
    with pytest.raises(tf2flax.AssignmentError, match="Option on_unused: ") as caught:
        tf2flax.plan(prefix, entries, target, on_unused="error", **options)
    text = str(caught.value)
    assert [n for n in WEIGHTS if f"`{n}`" in text] == left
    assert f"{len(left)} tensors" in text
    assert "Adam" not in text
    assert "global_step" not in text
    with pytest.warns(UserWarning, match=f"{len(left)} tensors of the checkpoint"):
        tf2flax.init_from_checkpoint(
            prefix, entries, target, on_unused="warn", **options
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tf2flax.init_from_checkpoint(prefix, entries, target, **options)


def test_policies_by_name(prefix: pathlib.Path) -> None:
    entries, policy = {"net/": "/"}, [("^net/", "error"), ("^head", "warn")]
    target = {**KERNEL, "b": {"kernel": W, "bias": W[0]}}
    with pytest.warns(UserWarning, match=r"2 tensors .*`head/kernel`, `head/\{x\}`\."):
        tf2flax.init_from_checkpoint(prefix, entries, target, on_unused=policy)
    with pytest.raises(tf2flax.AssignmentError, match=r"2 tensors .*`net/b/bias`"):
        tf2flax.plan(prefix, entries, KERNEL, on_unused=policy)


def test_optional_entries_answer_for_their_tensors(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "m.toml"
    path.write_text("""
[options]
on_unused = "error"
[assignment_map]
"net/" = "/"
[optional]
"head/" = "nowhere/"
"tied" = "none"
'src("{q}kv")' = "{q}/none"
"wro{n}g" = "{n}/none"
""")
    target = {**KERNEL, "b": {"kernel": W, "bias": W[0]}}
    assert len(tf2flax.plan(prefix, tf2flax.load_map(path), target).assignments) == 3
    with pytest.raises(tf2flax.AssignmentError, match=r"`qkv`, `tied`"):
        tf2flax.plan(prefix, {"net/": "/"}, target, on_unused="error")


def test_an_option_of_a_file_is_named_with_its_line(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "m.toml"
    path.write_text('[assignment_map]\n"net/" = "/"\n[options]\non_unused = "error"\n')
    loaded = tf2flax.load_map(path)
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, loaded, KERNEL)
    assert str(caught.value).startswith(f"{path}:4: Option on_unused: ")
    with pytest.raises(tf2flax.AssignmentError, match=r"^Option on_unused: "):
        tf2flax.plan(prefix, loaded, KERNEL, on_unused="error")


@pytest.mark.parametrize(
    "value", ["kept", 3, [("a", "keep")], ["a"], None, [("(", "warn")]]
)
def test_wrong_policies_are_refused(value: Any, prefix: pathlib.Path) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="Option on_unused: "):
        tf2flax.plan(prefix, {"net/": "/"}, KERNEL, on_unused=value)


def test_weights_in_the_place_of_slots_are_told(prefix: pathlib.Path) -> None:
    state = {
        "params": KERNEL,
        "opt_state": [{"mu": KERNEL, "nu": KERNEL, "count": STEPS}],
    }
    state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, "float32"), state)
    entries = {"net/": "params/", "global_step": "opt_state/0/count"}
    state["opt_state"][0]["count"] = np.int32(0)
    wrong = {**entries, "net/a/": "opt_state/0/nu/a/", "net/b/": "opt_state/0/mu/b/"}
    del wrong["net/b/"]
    wrong[src("net/")] = "opt_state/0/mu/"
    plan = tf2flax.plan(prefix, wrong, state)
    assert "Weights in place of optimizer slots (2)" in str(plan)
    assert plan.to_dict()["misplaced"] == [
        "opt_state/0/mu/a/kernel", "opt_state/0/nu/a/kernel",
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="2 leaves of an optimizer's state are filled"):
        plan.restore()


@pytest.mark.parametrize("kind", ["a view", "merged views", "names of slots"])
def test_slots_in_their_place_are_not(kind: str, prefix: pathlib.Path) -> None:
    ckpt: Any = tf2flax.open_checkpoint(prefix)
    entries: Any = {"net/": "opt_state/0/mu/"}
    if kind == "a view":
        ckpt = ckpt.by_slot("Adam")
    elif kind == "merged views":
        ckpt = tf2flax.merge_checkpoints({"w/": ckpt, "m/": ckpt.by_slot("Adam")})
        entries = {"m/net/": "opt_state/0/mu/", "w/net/": "params/"}
    else:
        entries = {"net/a/kernel/Adam": "opt_state/0/mu/a/kernel"}
    target = {"opt_state": [{"mu": KERNEL}], "params": KERNEL}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = tf2flax.plan(ckpt, entries, target)
        plan.restore()
    assert plan.to_dict()["misplaced"] == []


def test_the_plan_shows_shardings_casts_and_shared_tensors(
    prefix: pathlib.Path,
) -> None:
    struct = jax.ShapeDtypeStruct
    target = {
        "q": struct((2, 6), "float32"), "k": struct((2, 6), "bfloat16"),
        "step": struct((), "int32"), "forced": struct((4, 6), "float32"),
        "key": struct((4, 6), "float16"),
    }  # fmt: skip
    plan = tf2flax.plan(
        prefix,
        {
            src("qkv")[:2]: "q", src("qkv")[2:]: "k", "global_step": "step",
            "net/a/kernel": "forced", src("tied").cast("float16"): "key",
        },
        target,
        dtype=[("^forc", "bfloat16")],
        mesh=AbstractMesh((2,), ("x",)),
        sharding=lambda leaf: P(None, "x") if len(leaf.shape) == 2 else None,
    )  # fmt: skip
    lines = [" ".join(line.split()) for line in f"{plan}".splitlines()]
    for line in (
        "k src(\"qkv\")[2:] [2, 6] float32 -> bfloat16 48 B 2 P(None, 'x')",
        "float32 -> bfloat16 dtype rule '^forc' 1",
        "float32 -> bfloat16 the leaf 1",
        "float32 -> float16 .cast in the key 1",
        "int64 -> int32 the leaf 1",
        "qkv k, q",
    ):
        assert line in lines


def test_parts_of_one_variable_are_one_leaf(prefix: pathlib.Path) -> None:
    target = {"w/part_0": W[:2], "w/part_1": W[2:]}
    plan = tf2flax.plan(prefix, {"tied": "w"}, target)
    assert "fill several leaves" not in str(plan)
    forced = tf2flax.plan(prefix, {"tied": "w"}, target, dtype=ml_dtypes.bfloat16)
    assert "option dtype" in str(forced)


def test_slots_under_names_of_variables_are_no_weights() -> None:
    """In a view of slots, alone or merged with others, no model lacks them."""
    checkpoint = tf2flax.open_checkpoint(
        {"w": W, "b": W, "w/Adam": W, "b/Adam": W, "w/Adam_1": W}
    )
    view = checkpoint.by_slot("Adam")
    merged = tf2flax.merge_checkpoints(
        {"": checkpoint, "m/": view, "v/": checkpoint.by_slot("Adam_1")}
    )
    both = {"w": "w", "b": "b"}
    plan = tf2flax.plan(merged, both, {"w": W, "b": W}, on_unused="error")
    assert {"m/b", "m/w", "v/w"} <= set(plan.to_dict()["unused"]["optimizer_slots"])
    assert plan.to_dict()["unused"]["variables"] == []
    plan = tf2flax.plan(view, {"w": "w"}, {"w": W}, on_unused="error")
    assert plan.to_dict()["unused"]["optimizer_slots"] == ["b"]
    # What is left of the weights themselves is still told.
    with pytest.raises(tf2flax.AssignmentError, match=r"1 tensor of .*: `b`"):
        tf2flax.plan(merged, {"w": "w"}, {"w": W}, on_unused="error")
