"""`convert`: maps, options, and what goes wrong: nothing is left half-written."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from forking import run_forked

import tf2flax
from tf2flax import src
from tf2flax._cli import main
from tf2flax._export import outputs

TENSORS: Mapping[str, Any] = {
    "bert/layer_0/q": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bert/layer_0/q/Adam": np.zeros((2, 3), np.float32),
    "bert/layer_1/q": np.arange(6, 12, dtype=np.float32).reshape(2, 3),
    "bert/pooler/w": np.ones(4, np.float32),
    "global_step": np.int64(7),
    "note": b"text",
}


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> str:
    return tf2flax.save_checkpoint(tmp_path / "tf" / "model.ckpt", TENSORS)


def converted(
    prefix: str, folder: pathlib.Path, assignment_map: Any, **options: Any
) -> tuple[tf2flax.ConversionReport, dict[str, np.ndarray]]:
    out = folder / "out.npz"
    report = tf2flax.convert(prefix, out, assignment_map=assignment_map, **options)
    with np.load(out) as archive:
        return report, {name: archive[name] for name in archive.files}


Q0, Q1 = TENSORS["bert/layer_0/q"], TENSORS["bert/layer_1/q"]
MAPS: list[tuple[str, Any, dict[str, Any]]] = [
    (
        "scope",
        {"bert/": "model/"},
        {
            "model/layer_0/q": Q0,
            "model/layer_0/q/Adam": TENSORS["bert/layer_0/q/Adam"],
            "model/layer_1/q": Q1,
            "model/pooler/w": TENSORS["bert/pooler/w"],
        },
    ),
    ("name", {"global_step": "step"}, {"step": TENSORS["global_step"]}),
    (
        "scope to the top",
        {"bert/pooler/": "/"},
        {"w": TENSORS["bert/pooler/w"]},
    ),
    (
        "captures",
        {"bert/layer_{i}/q": "layers/{i}/query"},
        {"layers/0/query": Q0, "layers/1/query": Q1},
    ),
    (
        "scope of an expression",
        [(src("bert/layer_1/").transpose(), "b/")],
        {"b/q": Q1.T},
    ),
    (
        "counted",
        [(tf2flax.stack("bert/layer_{i}/q", over="i"), "qs")],
        {"qs": np.stack([Q0, Q1])},
    ),
    (
        "two captures of two sources",
        [(tf2flax.concat("bert/layer_{i}/q", "bert/layer_{j}/q"), "q_{i}_{j}")],
        {
            f"q_{i}_{j}": np.concatenate([(Q0, Q1)[i], (Q0, Q1)[j]])
            for i in (0, 1)
            for j in (0, 1)
        },
    ),
    (
        "a rule beside a scope",
        [("bert/layer_0/", "a/"), (src("bert/layer_1/q")[0], "a/q")],
        {"a/q": Q1[0], "a/q/Adam": TENSORS["bert/layer_0/q/Adam"]},
    ),
    (
        "several scopes into one",
        {"bert/layer_1/": "all/", "bert/pooler/": "all/"},
        {"all/q": Q1, "all/w": TENSORS["bert/pooler/w"]},
    ),
    ("strings", {"note": "remark"}, {"remark": np.bytes_(b"text")}),
]


@pytest.mark.parametrize(
    ("assignment_map", "expected"), [m[1:] for m in MAPS], ids=[m[0] for m in MAPS]
)
def test_maps(
    prefix: str, tmp_path: pathlib.Path, assignment_map: Any, expected: dict[str, Any]
) -> None:
    report, read = converted(prefix, tmp_path, assignment_map)
    assert report.written == tuple(sorted(expected))
    assert sorted(read) == sorted(expected)
    for name, array in expected.items():
        assert read[name].shape == np.shape(array)
        assert read[name].dtype == np.asarray(array).dtype
        assert np.array_equal(read[name], array), name
    used = set(TENSORS) - set(report.dropped)
    assert used  # the others are listed
    assert len(report.dropped) == len(TENSORS) - len(used)


def test_what_is_dropped_and_left_out(prefix: str, tmp_path: pathlib.Path) -> None:
    report = tf2flax.convert(prefix, tmp_path / "m.safetensors", slots=False)
    assert report.dropped == ("bert/layer_0/q/Adam",)
    assert report.left_out == ("note",)
    assert report.to_dict()["format"] == "safetensors"
    assert "4 tensors" in str(report)
    assert "`note`" in str(report)
    report = tf2flax.convert(
        prefix,
        tmp_path / "m2.safetensors",
        assignment_map={"bert/": "b/"},
        slots=False,
    )
    assert report.dropped == ("bert/layer_0/q/Adam", "global_step", "note")
    assert not report.left_out


def test_dtypes(prefix: str, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "m.ckpt"
    tf2flax.convert(prefix, out, format="tensorbundle", dtype="bfloat16")
    checkpoint = tf2flax.open_checkpoint(out)
    assert checkpoint["bert/pooler/w"].dtype.name == "bfloat16"
    assert checkpoint["global_step"].dtype == np.int64
    assert checkpoint["note"].read() == b"text"
    choices = [("layer_0", "float16"), ("step", "int32")]
    _, read = converted(prefix, tmp_path, None, dtype=choices)
    assert {name: array.dtype.name for name, array in read.items()} == {
        "bert/layer_0/q": "float16",
        "bert/layer_0/q/Adam": "float16",
        "bert/layer_1/q": "float32",
        "bert/pooler/w": "float32",
        "global_step": "int32",
        "note": "bytes32",
    }
    large = tf2flax.save_checkpoint(tmp_path / "large", {"w": np.float32([1e6])})
    _, read = converted(large, tmp_path, None, dtype="float16", overwrite=True)
    assert np.isinf(read["w"]).all()  # forced, as in a restore


def test_views_and_open_checkpoints(tmp_path: pathlib.Path) -> None:
    view = tf2flax.open_checkpoint(
        "tests/data/tf1_keras/object.ckpt"
    ).by_variable_name()
    report, read = converted(view, tmp_path, None)  # type: ignore[arg-type]
    assert "bi/backward_lstm/bias" in report.written
    assert np.array_equal(
        read["bi/backward_lstm/bias"], view["bi/backward_lstm/bias"].read()
    )


# What is wrong, and words that the message has.
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"out": "m.bin"}, tf2flax.AssignmentError, "does not say the format.*'npz'"),
    ({"format": "onnx"}, tf2flax.AssignmentError, "'safetensors'.*got 'onnx'"),
    ({"format": 3}, tf2flax.AssignmentError, "got 3"),
    ({"out": "gs://bucket/m.npz"}, tf2flax.UnsupportedError, "not a local path"),
    ({"by_reference": True}, tf2flax.AssignmentError, "by_reference.*Leave it out"),
    ({"by_reference": "copy"}, tf2flax.AssignmentError, "'beside', got 'copy'"),
    ({"data_files": 2}, tf2flax.AssignmentError, "data_files.*Leave it out"),
    ({"flat": True}, tf2flax.AssignmentError, "flat.*Leave it out"),
    ({"flat": "yes"}, tf2flax.AssignmentError, "flat"),
    ({"verify": None}, tf2flax.AssignmentError, "verify"),
    ({"progress": 1}, tf2flax.AssignmentError, "progress"),
    (
        {"format": "tensorbundle", "data_files": 0},
        tf2flax.AssignmentError,
        "expected 1 to",
    ),
    ({"format": "orbax"}, tf2flax.AssignmentError, r"`bert/layer_0/q`.*slots=False"),
    ({"dtype": "float99"}, tf2flax.AssignmentError, "float99"),
    ({"dtype": [("layer_0", "bfloat16")]}, tf2flax.UnsupportedError, "bfloat16 of"),
    ({"assignment_map": {}}, tf2flax.AssignmentError, "nothing to write"),
    (
        {"assignment_map": {"bret/": "x/"}},
        tf2flax.AssignmentError,
        "Entry 1 `bret/` -> `x/`: the checkpoint has no tensor for it",
    ),
    (
        {"assignment_map": {"bert/poolr/": "x/"}},
        tf2flax.AssignmentError,
        r"Did you mean `bert/pooler/`\?",
    ),
    (
        {"assignment_map": {"bert/pooler/v": "x"}},
        tf2flax.AssignmentError,
        "Did you mean `bert/pooler/w`",
    ),
    (
        {"assignment_map": {"bert/": "x"}},
        tf2flax.AssignmentError,
        "scope",
    ),
    (
        {"assignment_map": {"bert/pooler/w": "{kind}/w"}},
        tf2flax.AssignmentError,
        r"\{kind\}.*key too",
    ),
    (
        {"assignment_map": [(src("bert/pooler/w").reshape(3), "x")]},
        tf2flax.AssignmentError,
        r"reshape\(3,\)",
    ),
    (
        {"assignment_map": {"bert/pooler/w": "p/"}},
        tf2flax.AssignmentError,
        "`p/` is a scope and `bert/pooler/w` is one tensor. Did you mean `p/w`",
    ),
    (
        {"assignment_map": {"bert/poler/": "p/"}},
        tf2flax.AssignmentError,
        r"no tensor for it. Did you mean `bert/pooler/`\?",
    ),
    ({"assignment_map": {"note": 3}}, tf2flax.AssignmentError, "int 3"),
    ({"checkpoint": "no/such"}, tf2flax.CheckpointNotFoundError, "no/such"),
]


@pytest.mark.parametrize(("wrong", "error", "words"), WRONG)
def test_wrong_calls(
    prefix: str,
    tmp_path: pathlib.Path,
    wrong: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    before = sorted(tmp_path.rglob("*"))
    options = dict(wrong)
    out = options.pop("out", "m.npz")
    path = out if "://" in out else tmp_path / out
    with pytest.raises(error, match=re.compile(words, re.S)):
        tf2flax.convert(options.pop("checkpoint", prefix), path, **options)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("names", [["a//b"], ["/a"], ["a/"]])
def test_names_that_orbax_never_finds(names: list[str], tmp_path: pathlib.Path) -> None:
    tensors = {name: np.float32([i]) for i, name in enumerate(names)}
    for flat in (False, True):
        with pytest.raises(tf2flax.AssignmentError, match="assignment_map"):
            tf2flax.convert(tensors, tmp_path / "o", format="orbax", flat=flat)


def test_names_that_npz_would_change(tmp_path: pathlib.Path) -> None:
    for name in ("a.npy", "x" * 70_000):
        with pytest.raises(tf2flax.AssignmentError, match="assignment_map"):
            tf2flax.convert({name: np.ones(1)}, tmp_path / "o.npz")


@pytest.mark.parametrize("names", [["a", "a/b"]])
def test_names_that_cannot_nest(names: Sequence[str], tmp_path: pathlib.Path) -> None:
    tensors = {name: np.float32([i]) for i, name in enumerate(names)}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", tensors)
    with pytest.raises(tf2flax.AssignmentError, match="flat=True"):
        tf2flax.convert(prefix, tmp_path / "o", format="orbax")
    # The way out that the message gives.
    tf2flax.convert(prefix, tmp_path / "o", format="orbax", flat=True)


def test_names_that_orbax_takes_for_one(tmp_path: pathlib.Path) -> None:
    tensors = {"a.b": np.float32([0]), "a/b": np.float32([1])}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", tensors)
    with pytest.raises(tf2flax.AssignmentError, match=r"`a.b` and `a/b` for one"):
        tf2flax.convert(prefix, tmp_path / "o", format="orbax")
    tf2flax.convert(prefix, tmp_path / "o", format="orbax", flat=True)


def test_odd_names(tmp_path: pathlib.Path) -> None:
    odd = "caf\udce9/w"  # Latin-1
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {odd: np.float32([0])})
    for name in ("safetensors", "npz", "orbax"):
        with pytest.raises(tf2flax.AssignmentError, match="not valid text"):
            tf2flax.convert(prefix, tmp_path / name, format=name)  # type: ignore[arg-type]
    tf2flax.convert(prefix, tmp_path / "t", format="tensorbundle")
    assert list(tf2flax.open_checkpoint(tmp_path / "t")) == [odd]
    reserved = tf2flax.save_checkpoint(tmp_path / "r", {"__metadata__": np.int32(0)})
    with pytest.raises(tf2flax.AssignmentError, match="another meaning"):
        tf2flax.convert(reserved, tmp_path / "r.safetensors")


FORMATS = ["safetensors", "npz", "orbax", "tensorbundle"]


@pytest.mark.parametrize("name", FORMATS)
def test_outputs_that_exist(name: Any, prefix: str, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    options: Any = {"format": name, "assignment_map": {"bert/pooler/": "a/"}}
    tf2flax.convert(prefix, out, **options)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(tf2flax.ExistsError, match="overwrite=True"):
        tf2flax.convert(prefix, out, **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    tf2flax.convert(prefix, out, **options, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == sorted(before)
    if name in ("safetensors", "npz"):  # a file may become a directory
        tf2flax.convert(prefix, out, **{**options, "format": "orbax"}, overwrite=True)
        assert out.is_dir()
        assert sorted(tmp_path.iterdir()) == [out, tmp_path / "tf"]


@pytest.mark.parametrize("name", ["safetensors", "npz", "orbax"])
def test_nothing_else_is_replaced(
    name: Any, prefix: str, tmp_path: pathlib.Path
) -> None:
    """Overwriting deletes no folder of other files, and no checkpoint."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    options: Any = {"format": name, "slots": False, "overwrite": True}
    for out in (tmp_path / "home", tmp_path / "tf", tmp_path):
        with pytest.raises(tf2flax.ExistsError, match="another path"):
            tf2flax.convert(prefix, out, **options)
    with pytest.raises(tf2flax.ExistsError, match="checkpoint itself"):
        tf2flax.convert(prefix, f"{prefix}.index", **options)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "x"
    assert tf2flax.open_checkpoint(prefix).verify().ok


def test_parts_of_a_merged_checkpoint_are_not_replaced(tmp_path: pathlib.Path) -> None:
    tf2flax.save_checkpoint(tmp_path / "a", {"w": np.ones(3)})
    tf2flax.save_checkpoint(tmp_path / "b", {"v": np.ones(3)})
    merged = tf2flax.merge_checkpoints([tmp_path / "a", tmp_path / "b"])
    data = tmp_path / "b.data-00000-of-00001"
    with pytest.raises(tf2flax.ExistsError, match="checkpoint itself"):
        tf2flax.convert(merged, data, format="npz", overwrite=True)
    assert tf2flax.open_checkpoint(tmp_path / "b").verify().ok


def test_a_damaged_step_stops_nothing(tmp_path: pathlib.Path) -> None:
    tensors = {"a": np.ones(16, np.float32), "global_step": np.int64(3)}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", tensors)
    data = pathlib.Path(f"{prefix}.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-3] + b"abc")
    report = tf2flax.convert(prefix, tmp_path / "o.npz", assignment_map={"a": "b"})
    assert report.written == ("b",)
    tf2flax.convert(prefix, tmp_path / "p.npz", verify=False)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_there", [False, True])
def test_failures_leave_nothing(
    name: Any,
    failure: BaseException,
    is_there: bool,
    prefix: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk is full, or Ctrl-C comes, at whichever call that makes files last."""
    out = tmp_path / "out"
    options: Any = {"format": name, "assignment_map": {"bert/pooler/": "a/"}}
    if is_there:
        tf2flax.convert(prefix, out, **options)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    fsync = os.fsync
    calls = 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise failure
        fsync(descriptor)

    fails_at = 0
    monkeypatch.setattr(os, "fsync", failing)
    tf2flax.convert(prefix, tmp_path / "count", **options)
    number, calls = calls, 0
    for path in tmp_path.glob("count*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    before = {
        path: contents
        for path, contents in before.items()
        if path.exists() and path.name != "checkpoint"
    }
    # The last ones come after the output has appeared: it is whole then.
    for fails_at in range(1, max(number - 1, 2)):
        calls = 0
        expected = tf2flax.ReadError if isinstance(failure, OSError) else type(failure)
        with pytest.raises(expected):
            tf2flax.convert(prefix, out, **options, overwrite=is_there)
        after = {
            path: path.read_bytes()
            for path in tmp_path.rglob("*")
            if path.is_file() and path.name != "checkpoint"
        }
        assert after == before, fails_at
    monkeypatch.undo()
    tf2flax.convert(prefix, out, **options, overwrite=is_there)


@pytest.mark.parametrize("name", ["safetensors", "orbax"])
def test_a_disk_that_fails_while_more_is_read(
    name: Any, prefix: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may tell the thread alone, which waits for the disk meanwhile."""
    monkeypatch.setattr(outputs, "_SYNC_NBYTES", 1)
    calls: list[int] = []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    options: Any = {"format": name, "slots": False}
    with pytest.raises(tf2flax.ReadError, match="Input/output error"):
        tf2flax.convert(prefix, tmp_path / "out", **options)
    assert calls
    assert sorted(tmp_path.iterdir()) == [tmp_path / "tf"]
    monkeypatch.undo()
    monkeypatch.setattr(outputs, "_SYNC_NBYTES", 1)
    tf2flax.convert(prefix, tmp_path / "out", **options)
    assert main(["diff", prefix, str(tmp_path / "out"), "bert/pooler/"]) == 0


@pytest.mark.parametrize("name", FORMATS)
def test_failures_leave_no_folders(
    name: Any, prefix: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were made for the output go again; those that were there stay."""

    def failing(_: int) -> None:
        raise OSError(28, "No space left")

    (tmp_path / "there").mkdir()
    options: Any = {"format": name, "assignment_map": {"bert/pooler/": "a/"}}
    monkeypatch.setattr(os, "fsync", failing)
    for out in ("new/deep/out", "there/new/out"):
        with pytest.raises(tf2flax.ReadError):
            tf2flax.convert(prefix, tmp_path / out, **options)
    with pytest.raises(tf2flax.ReadError):
        tf2flax.save_checkpoint(tmp_path / "new" / "m", {"a": np.ones(2)})
    assert not (tmp_path / "new").exists()
    assert [*(tmp_path / "there").iterdir()] == []
    monkeypatch.undo()
    tf2flax.convert(prefix, tmp_path / "new/deep/out", **options)


def test_a_dtype_that_no_tensor_gets(tmp_path: pathlib.Path) -> None:
    floats, step = {"w": np.float32([1.5, 2])}, {"step": np.int64(3)}
    out = tmp_path / "o.npz"
    with pytest.raises(tf2flax.AssignmentError, match=r"int32 is for tensors of its k"):
        tf2flax.convert(floats, out, dtype="int32")
    assert not out.exists()
    tf2flax.convert(floats, out, dtype=[("", "int32")])
    assert np.load(out)["w"].dtype == np.int32
    tf2flax.convert(floats | step, out, dtype="int32", overwrite=True)
    kinds = {name: array.dtype.name for name, array in np.load(out).items()}
    assert kinds == {"w": "float32", "step": "int32"}
    with pytest.raises(tf2flax.AssignmentError, match="float16"):
        tf2flax.convert(step, out, dtype="float16", overwrite=True)


def test_damage_leaves_nothing(prefix: str, tmp_path: pathlib.Path) -> None:
    data = pathlib.Path(f"{prefix}.data-00000-of-00001")
    stored = bytearray(data.read_bytes())
    stored[3] ^= 1
    data.write_bytes(stored)
    for name in FORMATS:
        options: Any = {"format": name, "slots": False}
        with pytest.raises(tf2flax.DamagedError, match="crc32c"):
            tf2flax.convert(prefix, tmp_path / "out", **options)
        assert sorted(tmp_path.iterdir()) == [tmp_path / "tf"]
        tf2flax.convert(prefix, tmp_path / name, **options, verify=False)
        for path in tmp_path.glob(f"{name}*"):
            path.rename(tmp_path / "tf" / f"{name}_{path.name}")


def test_it_runs_without_jax(prefix: str, tmp_path: pathlib.Path) -> None:
    code = "import tf2flax\n" + "".join(
        f"tf2flax.convert({prefix!r}, {f'{tmp_path}/{name}'!r}, format={name!r}, "
        "slots=False)\n"
        for name in FORMATS
    )
    done = run_forked(f"{code}\nimport sys; print(*sys.modules)", check=True)
    loaded = {module.partition(".")[0] for module in done.stdout.split()}
    assert not loaded & {"jax", "flax", "orbax", "tensorstore", "safetensors"}


def test_progress(prefix: str, tmp_path: pathlib.Path) -> None:
    reports: list[tf2flax.Progress] = []
    report = tf2flax.convert(prefix, tmp_path / "m.npz", progress=reports.append)
    assert reports[-1].done >= report.nbytes - 8  # strings take no room in an array
