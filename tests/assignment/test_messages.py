"""Thirty typical mistakes, and word for word what is said about them.

`python tests/assignment/test_messages.py` writes
tests/data/golden/messages.txt anew; read the change before committing it.
"""

from __future__ import annotations

import pathlib
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from map_mistakes import Mistake, check_suggestions
from repository import DATA, ROOT

import tf2flax

HERE = ROOT / "tests"
GOLDEN = DATA / "golden" / "messages.txt"
BERT = DATA / "bert" / "model.ckpt"
SDS = jax.ShapeDtypeStruct


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return SDS(shape, "float32")


def layers(count: int) -> dict[str, Any]:
    dense = {"kernel": f32(32, 64), "bias": f32(64)}
    return {
        "params": {
            "encoder": {
                f"layer_{i}": {"intermediate": {"dense": dict(dense)}}
                for i in range(count)
            }
        }
    }


POOLER = {"params": {"pooler": {"dense": {"kernel": f32(32, 32), "bias": f32(32)}}}}
NORM = {"params": {"LayerNorm": {"scale": f32(32), "bias": f32(32)}}}
TABLE = {f"table/part_{i}": f32(40, 32) for i in range(3)}
TWICE = np.zeros((32, 32), np.float32)


def plan(entries: Any, target: Any, **options: Any) -> Mistake:
    return Mistake(BERT, entries, target, options)


def pointer(where: pathlib.Path) -> Any:
    (where / "model.ckpt.index").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4746\n"
    )
    return tf2flax.open_checkpoint(where / "model.ckpt")


def no_data(where: pathlib.Path) -> Any:
    index = BERT.with_name("model.ckpt.index").read_bytes()
    (where / "model.ckpt.index").write_bytes(index)
    return tf2flax.load_variable(where / "model.ckpt", "global_step")


def truncated(where: pathlib.Path) -> Any:
    no_data_index = BERT.with_name("model.ckpt.index").read_bytes()
    (where / "model.ckpt.index").write_bytes(no_data_index)
    data = BERT.with_name("model.ckpt.data-00000-of-00001").read_bytes()
    (where / "model.ckpt.data-00000-of-00001").write_bytes(data[:1000])
    return tf2flax.load_variable(where / "model.ckpt", "global_step")


def flipped(where: pathlib.Path) -> Any:
    truncated_free = BERT.with_name("model.ckpt.data-00000-of-00001").read_bytes()
    data = bytearray(truncated_free)
    data[5] ^= 1
    index = BERT.with_name("model.ckpt.index").read_bytes()
    (where / "model.ckpt.index").write_bytes(index)
    (where / "model.ckpt.data-00000-of-00001").write_bytes(bytes(data))
    return tf2flax.open_checkpoint(where / "model.ckpt").read()


DENSE = "bert/pooler/dense"


def empty_line(where: pathlib.Path) -> object:
    (where / "words.txt").write_text("the\n\ncat\n")
    return tf2flax.vocabulary(where / "words.txt", where / "words.txt")


def moved(where: pathlib.Path) -> Any:
    (where / "checkpoint").write_text('model_checkpoint_path: "/home/a/model.ckpt"')
    (where / "model.ckpt.index").write_bytes(
        BERT.with_name("model.ckpt.index").read_bytes()
    )
    return tf2flax.open_checkpoint(where)


KERNEL = "bert/pooler/dense/kernel"
MISTAKES: dict[str, Callable[[pathlib.Path], Any]] = {
    "wrong scope in the checkpoint": plan({"bert/poler/": "params/pooler/"}, POOLER),
    "wrong scope in the target": plan({"bert/pooler/": "params/poler/dense"}, POOLER),
    "wrong scope in the target, with slash": plan(
        {"bert/pooler/": "params/poler/"}, POOLER
    ),
    "missing slash on the key": plan({"bert/pooler": "params/pooler/"}, POOLER),
    "missing slash on the target": plan({"bert/pooler/": "params/pooler"}, POOLER),
    "a scope to a leaf": plan({"bert/pooler/": "params/pooler/dense/kernel"}, POOLER),
    "a tensor to a scope": plan({KERNEL: "params/pooler/"}, POOLER),
    "transposed": plan(
        {"bert/encoder/layer_0/intermediate/dense/kernel": "k"}, {"k": f32(64, 32)}
    ),
    "another shape": plan({KERNEL: "k"}, {"k": f32(32, 48)}),
    "an axis of one too many": plan(
        {"bert/pooler/dense/bias": "b"}, {"b": f32(1, 32)}
    ),
    "too many layers": plan({"bert/encoder/": "params/encoder/"}, layers(4)),
    ":0 on the key": plan({f"{KERNEL}:0": "params/pooler/dense/kernel"}, POOLER),
    "gamma for scale, aliases off": plan(
        {"bert/embeddings/LayerNorm/": "params/LayerNorm/"}, NORM, aliases=None
    ),
    "gamma for scale, by name": plan(
        {"bert/embeddings/LayerNorm/scale": "params/LayerNorm/scale"}, NORM
    ),
    "a leaf that the target lacks": plan({KERNEL: "params/dense/kernel"}, POOLER),
    "params/ forgotten": plan({KERNEL: "pooler/dense/kernel"}, POOLER),
    "another case": plan({"bert/embeddings/layernorm/gamma": "g"}, {"g": f32(32)}),
    "optimizer slots in the target": plan(
        {"cls/predictions/output_bias/": "slots/"},
        {"slots": {"Adam": f32(100), "adam_m": f32(100)}},
    ),
    "several at once": plan(
        {KERNEL: "a", "bert/pooler/dense/bias": "b", "global_stp": "c"},
        {"a": f32(32), "b": SDS((32,), "int32"), "c": SDS((), "int32")},
    ),
    "abstract leaves that nothing fills": plan(
        {KERNEL: "params/pooler/dense/kernel"}, POOLER
    ),
    "dtype exact": plan({"global_step": "s"}, {"s": SDS((), "int32")}, dtype="exact"),
    "int64 without x64": plan({"global_step": "s"}, {"s": np.int64(0)}),
    "parts that do not add up": plan(
        {"bert/embeddings/word_embeddings": "table"}, TABLE
    ),
    "a list of names": plan(
        {"bert/embeddings/word_embeddings": ["table/part_0"]}, TABLE
    ),
    "a tuple of parts": plan(
        {"bert/embeddings/word_embeddings": tuple(TABLE.values())}, TABLE
    ),
    "an object from elsewhere": plan({KERNEL: TWICE.copy()}, {"a": TWICE}),
    "an object at two leaves": plan({KERNEL: TWICE}, {"a": TWICE, "b": TWICE}),
    "no map": plan(None, POOLER),
    "a map the wrong way round": plan(
        {"params/pooler/": "bert/pooler/"}, POOLER
    ),
    "a rule and a plain entry for one leaf": plan(
        [(KERNEL, "k"), (tf2flax.src(KERNEL).transpose(), "k")], {"k": f32(32, 32)}
    ),
    "captured scopes that say as much": plan(
        {"bert/{a}/dense/": "{a}/", "cls/{b}/": "{b}/"}, {"pooler": {"bias": f32(32)}}
    ),
    "a name that loses by its key": plan(
        [
            ("bert/embeddings/LayerNorm/beta", "dense/bias"),
            ("bert/pooler/dense/", "dense/"),
            (tf2flax.src("global_step"), "step"),
        ],
        {"dense": {"bias": f32(32), "kernel": f32(32, 32)}, "step": SDS((), "int32")},
    ),
    "rows that are not there": lambda _: tf2flax.src("w").take([3, -1, 0, -1]),
    "an array in an expression": lambda _: tf2flax.src("w") * np.ones(3),
    "an operation after what is kept": lambda _: tf2flax.src("w")
    .pad(((0, 9), (0, 0)), fill="keep")
    .transpose(),
    "a float for integers": lambda _: tf2flax.plan(
        BERT, {tf2flax.src("global_step") * 0.5: "x"}, {"x": np.zeros((), "i4")}
    ),
    "tensors that are not broadcast": lambda _: tf2flax.plan(
        BERT,
        {tf2flax.src(f"{DENSE}/kernel") + tf2flax.src(f"{DENSE}/bias"): "x"},
        {"x": np.zeros((32, 32), "f4")},
    ),
    "none of first_of": lambda _: tf2flax.plan(
        BERT,
        {tf2flax.first_of(f"{DENSE}/kernal", f"ema/{DENSE}/kernel"): "x"},
        {"x": np.zeros((32, 32), "f4")},
    ),
    "a vocabulary with an empty line": empty_line,
    "wrong path": lambda _: tf2flax.open_checkpoint(f"{BERT}-1000"),
    "wrong directory": lambda _: tf2flax.open_checkpoint(HERE / "no" / "model.ckpt"),
    "a directory without checkpoint": lambda where: tf2flax.open_checkpoint(where),
    "a state file of another machine": moved,
    "a URL of no store": lambda _: tf2flax.open_checkpoint("ftp://host/model.ckpt"),
    "a wrong name": lambda _: tf2flax.load_variable(BERT, "bert/pooler/kernel"),
    "a git-LFS pointer": pointer,
    "an index without its data": no_data,
    "a truncated copy": truncated,
    "a flipped bit": flipped,
}  # fmt: skip


def message_of(name: str, where: pathlib.Path) -> str:
    try:
        MISTAKES[name](where)
    except tf2flax.CheckpointError as error:
        text = f"{type(error).__name__}: {error}"
    else:
        # Not an error in TensorFlow either: a scope that reaches nothing.
        text = "(accepted)"
    return text.replace(str(where), "WHERE").replace(str(HERE), "TESTS")


def golden() -> dict[str, str]:
    parts = re.split(r"^== (.*)\n", GOLDEN.read_text(), flags=re.M)[1:]
    return {
        name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


@pytest.mark.parametrize("name", list(MISTAKES))
def test_message(name: str, tmp_path: pathlib.Path) -> None:
    assert message_of(name, tmp_path) == golden()[name]


MAPS = {name: m for name, m in MISTAKES.items() if isinstance(m, Mistake)}
del MAPS["no map"]


@pytest.mark.parametrize("name", list(MAPS))
def test_suggestions_paste(name: str, tmp_path: pathlib.Path) -> None:
    check_suggestions(MAPS[name], tmp_path)


def test_there_are_thirty() -> None:
    assert list(golden()) == list(MISTAKES)
    assert len(MISTAKES) >= 30


def main() -> None:
    with GOLDEN.open("w") as file:
        for name in MISTAKES:
            with tempfile.TemporaryDirectory() as where:
                message = message_of(name, pathlib.Path(where))
            file.write(f"== {name}\n{message}\n\n")


@pytest.mark.parametrize(("count", "is_cut"), [(6, False), (7, True)])
def test_six_parts_are_listed(count: int, is_cut: bool) -> None:
    parts = {f"w/part_{number}": f32(3, 2) for number in range(count)}
    with pytest.raises(tf2flax.AssignmentError, match=f"its {count} parts ") as error:
        tf2flax.plan({"w": np.zeros((4, 2), np.float32)}, {"w": "w"}, parts)
    assert str(error.value).count("[3, 2]") == 6
    assert ("[3, 2], ... do not tile" in str(error.value)) == is_cut


if __name__ == "__main__":
    sys.exit(main())
