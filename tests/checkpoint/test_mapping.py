"""Mappings of arrays as checkpoints; TensorFlow's reader; names tried first."""

from __future__ import annotations

import pathlib
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import tf2flax
from tf2flax._base.synonyms import _SYNONYMS, missing_attribute

BERT = "tests/data/bert/model.ckpt"
ARRAYS: dict[str, Any] = {
    "a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a/big": np.arange(4, dtype=">i4"),
    "a/fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "a/strided": np.arange(10, dtype=np.int16)[::-2],
    "bf": np.ones((2, 2), ml_dtypes.bfloat16),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.float64(3),
    "python": 3,
    "text": "é",
    "strings": np.array([b"a", b"b\0"], object),
    "device": jnp.arange(3),
}


def test_a_mapping_is_a_checkpoint() -> None:
    checkpoint = tf2flax.open_checkpoint(ARRAYS)
    assert list(checkpoint) == sorted(ARRAYS)
    arrays = checkpoint.read()
    for name, value in ARRAYS.items():
        if name in ("text", "strings"):
            continue
        expected = np.asarray(value)
        assert arrays[name].dtype == expected.dtype.newbyteorder("=")
        assert np.array_equal(arrays[name], expected), name
        assert arrays[name] is not value
    assert checkpoint["text"].read()[()] == "é".encode()
    assert checkpoint["strings"].read().tolist() == [b"a", b"b\0"]
    assert np.array_equal(checkpoint["a/kernel"][1:, ::2], ARRAYS["a/kernel"][1:, ::2])
    arrays["a/kernel"][:] = 0  # a copy
    assert ARRAYS["a/kernel"][2, 3] == 11
    assert checkpoint.verify().ok
    assert list(pickle.loads(pickle.dumps(checkpoint))) == list(checkpoint)
    assert len(tf2flax.merge_checkpoints({"x/": ARRAYS, "y/": BERT})) == 11 + 139
    assert tf2flax.list_variables(ARRAYS)[0] == ("a/big", [4])
    assert tf2flax.load_variable(ARRAYS, "scalar") == 3


@pytest.mark.parametrize("by", ["init", "plan", "warm_start"])
def test_leaves_are_filled_from_a_mapping(by: str) -> None:
    target = {"w": jax.ShapeDtypeStruct((4, 3), "float32"), "b": jnp.zeros(2)}
    entries = [(tf2flax.src("a/kernel").T, "w")]
    if by == "init":
        tree = tf2flax.init_from_checkpoint(ARRAYS, entries, target)
    elif by == "plan":
        tree = tf2flax.plan(ARRAYS, entries, target).restore()
    else:
        zeros = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(2)}
        tree = tf2flax.warm_start(lambda: zeros, ARRAYS, entries)()
    assert np.array_equal(tree["w"], ARRAYS["a/kernel"].T)


def test_chosen_tensors_are_a_checkpoint(tmp_path: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(BERT)
    chosen = {name: t for name, t in checkpoint.items() if "pooler" in name}
    report = tf2flax.convert(chosen, tmp_path / "m.npz")
    assert report.written == tuple(sorted(chosen))
    # The bytes of the file, and its checksums.
    renamed = tf2flax.open_checkpoint({"w": checkpoint["bert/pooler/dense/kernel"]})
    assert (
        renamed["w"].entry.pieces == checkpoint["bert/pooler/dense/kernel"].entry.pieces
    )
    assert np.array_equal(renamed["w"].read(), checkpoint["bert/pooler/dense/kernel"])
    assert repr(renamed) == "Checkpoint('a mapping', 1 tensor)"


@pytest.mark.parametrize(
    ("mapping", "error", "words"),
    [
        ({"a": {"b": np.zeros(1)}}, tf2flax.AssignmentError, "flatten_dict"),
        ({"a": [1, 2]}, tf2flax.AssignmentError, "not an array"),
        ({3: np.zeros(1)}, tf2flax.AssignmentError, "has names, got 3"),
        ({"": np.zeros(1)}, tf2flax.AssignmentError, "has names"),
        ({"a": np.zeros(1, "M8[s]")}, tf2flax.UnsupportedError, "datetime64"),
        ({"a": None}, tf2flax.AssignmentError, "not an array"),
        ({"a": "\ud800"}, tf2flax.AssignmentError, "not valid text"),
        ({"a": 1 << 70}, tf2flax.AssignmentError, "objects"),
        ({"a": np.array(["x", None], object)}, tf2flax.AssignmentError, "objects"),
        ({"a": np.ma.array([1, 2], mask=[0, 1])}, tf2flax.AssignmentError, "masked"),
        (
            {"a": jax.ShapeDtypeStruct((1,), "float32")},
            tf2flax.AssignmentError,
            "values",
        ),
    ],
)
def test_mappings_of_something_else(
    mapping: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tf2flax.open_checkpoint(mapping)


def test_open_checkpoints_are_taken_where_paths_are() -> None:
    with tf2flax.open_checkpoint(BERT) as checkpoint:
        assert tf2flax.open_checkpoint(checkpoint) is checkpoint
        assert tf2flax.list_variables(checkpoint) == tf2flax.list_variables(BERT)
        assert tf2flax.load_variable(checkpoint, "global_step:0") == 123456
        reader = tf2flax.load_checkpoint(checkpoint)
        assert reader.checkpoint is checkpoint
    assert checkpoint["global_step"].read() == 123456  # nothing was closed


def test_the_reader_of_tensorflow() -> None:
    reader = tf2flax.load_checkpoint("tests/data/bert")
    assert isinstance(reader, tf2flax.CheckpointReader)
    step = reader.get_tensor("global_step")
    assert (step, type(step)) == (123456, np.int64)
    assert reader.has_tensor("global_step")
    assert not reader.has_tensor("nothing")
    shapes = reader.get_variable_to_shape_map()
    assert shapes == dict(tf2flax.list_variables(BERT))
    dtypes = reader.get_variable_to_dtype_map()
    assert dtypes.keys() == shapes.keys()
    assert dtypes["global_step"] == np.int64
    with pytest.raises(tf2flax.TensorNotFoundError, match="global_step"):
        reader.get_tensor("global_stop")


def test_names_that_people_try_first() -> None:
    checkpoint = tf2flax.open_checkpoint(BERT)
    owners = {
        "tf2flax": tf2flax,
        "Checkpoint": checkpoint,
        "StoredTensor": checkpoint["global_step"],
        "Expression": tf2flax.src("w"),
    }
    for owner, synonyms in _SYNONYMS.items():
        for name in synonyms:
            with pytest.raises(
                AttributeError, match=r"has no attribute '\w+'\. Write "
            ):
                getattr(owners[owner], name)
    with pytest.raises(AttributeError, match="Did you mean 'init_from_checkpoint'"):
        _ = tf2flax.init_from_checkpont  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="Did you mean 'by_variable_name'"):
        _ = checkpoint.by_variable_names  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match=r"'astype'\. Write \.cast\(dtype\)"):
        _ = tf2flax.src("w").astype  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="Did you mean 'transpose'"):
        _ = tf2flax.src("w").transpos  # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(checkpoint, "_repr_latex_")
    assert str(missing_attribute("x", "tf2flax", "__wrapped__", [])).endswith("'")


def test_synonyms_in_the_text_of_expressions(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text("""[assignment_map]\n'src("w").permute(1, 0)' = "w"\n""")
    with pytest.raises(
        tf2flax.AssignmentError,
        match=r"there is no `\.permute`\. Write \.transpose\(axes\)\.",
    ):
        tf2flax.load_map(path)


def test_transposed_as_numpy_spells_it() -> None:
    assert tf2flax.src("w").transpose() == tf2flax.src("w").T
    assert tf2flax.src("w") == tf2flax.src("w").T.T
