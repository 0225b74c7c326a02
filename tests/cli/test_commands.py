"""`tree`, `stats`, `diff` and `convert` on the command line."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from forking import run_forked
from repository import DATA

import tf2flax
from tf2flax._cli import main

TENSORS: dict[str, Any] = {
    "enc/layer_0/w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "enc/layer_0/w/Adam": np.zeros((2, 3), np.float32),
    "enc/layer_0/w/ExponentialMovingAverage": np.ones((2, 3), np.float32),
    "enc/layer_1/b": np.ones(4, np.float64),
    "step": np.int64(7),
    "words": np.array([b"a", b"bcd"], object),
}


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> str:
    return tf2flax.save_checkpoint(tmp_path / "tf" / "m.ckpt", TENSORS)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(list(arguments))
    return code, capsys.readouterr().out


def test_tree(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "tree", prefix, "--depth", "2", "--no-slots") == (
        0,
        "enc/\t10\t0\t56\nenc/layer_0/\t6\t0\t24\nenc/layer_1/\t4\t0\t32\n"
        "step\t0\t0\t8\nwords\t0\t0\t10\n",
    )
    _, out = run(capsys, "tree", prefix, "enc/", "--sort", "size", "--json")
    document = json.loads(out)
    assert document["num_elements"] == 22
    # What the model has; slots and averages apart.
    assert document["num_parameters"] == 10
    assert document["num_slot_elements"] == 12
    (enc,) = document["members"]
    assert [member["name"] for member in enc["members"]] == ["layer_0", "layer_1"]
    assert enc["members"][0]["num_tensors"] == 3


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        # All but the state of a generator of random numbers; `epoch`, `step` and
        # `model/counter`; `global_step`. A scalar of floats is a parameter.
        ("keras3_export/functional-3.15.1", 67), ("tf2_object/object.ckpt", 261),
        ("sharded/model.ckpt", 751),
    ],
)  # fmt: skip
def test_parameters_are_weights(
    path: str, parameters: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # An export of Keras 3 holds every variable twice, under one name.
    names = "variables" if path.startswith("keras3") else "stored"
    _, out = run(capsys, "tree", str(DATA / path), "--json", "--names", names)
    assert json.loads(out)["num_parameters"] == parameters


def test_metrics_are_no_parameters(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {
        "dense/kernel": np.zeros((2, 3), np.float32),
        "keras_api/metrics/0/total/.ATTRIBUTES/VARIABLE_VALUE": np.float32(1),
    }
    saved = tf2flax.save_checkpoint(tmp_path / "m", tensors)
    assert run(capsys, "tree", saved, "--depth", "1") == (
        0, "dense/\t6\t0\t24\nkeras_api/\t0\t0\t4\n"
    )  # fmt: skip


def test_tree_on_a_terminal(
    prefix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out = run(capsys, "tree", prefix, "enc/", "--no-slots")
    assert out == (
        "parameters  size  name\n"
        "        10  56 B  enc/\n"
        "         6  24 B    layer_0/\n"
        "         6  24 B      w\n"
        "         4  32 B    layer_1/\n"
        "         4  32 B      b\n"
        "2 tensors, 10 parameters, 56 B\n"
        "slots and averages left out: 2 tensors\n"
    )
    _, out = run(capsys, "tree", prefix, "--depth", "2")
    assert out == (
        "parameters  slots   size  name\n"
        "        10     12  104 B  enc/\n"
        "         6     12   72 B    layer_0/\n"
        "         4          32 B    layer_1/\n"
        "         0           8 B  step\n"
        "         0          10 B  words\n"
        "6 tensors, 10 parameters, slots and averages 12 elements, 122 B\n"
    )


def test_stats(
    prefix: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run(capsys, "stats", prefix, "enc/layer_0/", "--json")
    assert code == 0
    first = json.loads(out)["tensors"][0]
    assert first["mean"] == 2.5
    assert first["zeros"] == 1
    assert (first["min"], first["max"], first["nan"]) == (0, 5, 0)
    bad = tf2flax.save_checkpoint(tmp_path / "b", {"w": np.float32([np.nan, 1, 0])})
    code, out = run(capsys, "stats", bad)
    assert (code, out) == (1, "w\t0.5\t0.5\t0\t1\t1\t1\t0\n")
    data = pathlib.Path(f"{prefix}.data-00000-of-00001")
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    assert main(["stats", prefix]) == 1
    assert "crc32c" in capsys.readouterr().err


FORMATS = ["safetensors", "npz", "orbax"]


@pytest.mark.parametrize("name", FORMATS)
def test_conversions_are_equal(
    name: Any, prefix: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"{tmp_path}/out.{name}"
    assert run(capsys, "convert", prefix, out, "--format", name, "--no-slots")[0] == 0
    code, text = run(capsys, "diff", prefix, out)
    missing = ["enc/layer_0/w/Adam", "enc/layer_0/w/ExponentialMovingAverage"]
    missing += [] if name == "npz" else ["words"]
    assert code == 1
    assert text == "".join(f"{tensor}\tonly in A\t\t\n" for tensor in missing)
    assert run(capsys, "diff", out, prefix, "enc/layer_1/") == (0, "")
    assert run(capsys, "diff", out, out, "--json")[0] == 0


@pytest.mark.parametrize("name", FORMATS)
def test_outputs_are_known_by_what_is_in_them(
    name: Any, prefix: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only `--format` says what they are, and no ending."""
    out = f"{tmp_path}/out"
    given = ["convert", prefix, out, "--format", name, "--no-slots"]
    assert run(capsys, *given)[0] == 0
    assert run(capsys, "diff", prefix, out, "enc/layer_1/") == (0, "")


def test_what_other_libraries_wrote(
    prefix: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {k: v for k, v in TENSORS.items() if k in ("enc/layer_0/w", "step")}
    arrays["step"] = np.asarray(arrays["step"])
    safetensors.numpy.save_file(arrays, tmp_path / "s.safetensors")
    np.savez(tmp_path / "n.npz", **arrays)
    with jax.enable_x64(True):
        tree = {
            "enc": {"layer_0": {"w": arrays["enc/layer_0/w"]}},
            "step": arrays["step"],
        }
        checkpointer = ocp.StandardCheckpointer()
        checkpointer.save(tmp_path / "o", tree)
        checkpointer.wait_until_finished()
    for out in ("s.safetensors", "n.npz", "o"):
        for pattern in arrays:
            code, text = run(capsys, "diff", prefix, f"{tmp_path}/{out}", pattern)
            assert (code, text) == (0, ""), out


@pytest.mark.parametrize("chunk", [1 << 20, 1])
def test_differences(
    chunk: int,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tf2flax._cli.diff._CHUNK", chunk)
    a = {
        "cast": np.float32([1, 2]),
        "close": np.float32([1, 0]),
        "int": np.int64([2**60, 1]),
        "nan": np.float32([np.nan]),
        "shape": np.zeros(3, np.float32),
        "text": b"a",
        "size 0": np.zeros((0, 2), np.float32),
        "scalar": np.float64(4),
    }
    b = a | {
        "cast": np.float64([1, 2]),
        "close": np.float32([1.001, 0]),
        "int": np.int64([2**60 + 1, 1]),
        "shape": np.zeros((3, 1), np.float32),
        "text": b"b",
        "scalar": np.float64(5),
        "more": np.int32(0),
    }
    first = tf2flax.save_checkpoint(tmp_path / "a", a)
    second = tf2flax.save_checkpoint(tmp_path / "b", b)
    code, out = run(capsys, "diff", first, second)
    assert code == 1
    assert out.splitlines() == [
        "cast\tdtype float32 and float64\t0\t0",
        "close\tvalues\t0.001\t0.000999",
        "int\tvalues\t1\t8.67e-19",
        "more\tonly in B\t\t",
        "scalar\tvalues\t1\t0.2",
        "shape\tshape [3] and [3, 1]\t\t",
        "text\tvalues\t\t",
    ]
    assert run(capsys, "diff", first, second, "close", "--rtol", "1e-2") == (0, "")
    assert run(capsys, "diff", first, first) == (0, "")


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("a.safetensors", b"", "header has 0 bytes"),
        ("a.safetensors", (1 << 60).to_bytes(8, "little") + b"{}", "header has"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"[]", "not a sound"),
        (
            "a.safetensors",
            (67).to_bytes(8, "little")
            + b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}   ',
            "offsets 0 and 4",
        ),
        ("a.npz", b"PK", "not a sound npz"),
        ("o/_METADATA", b"{", "not what Orbax writes"),
        ("o/_METADATA", b'{"tree_metadata": {}}', "use_ocdbt=True"),
    ],
)
def test_damaged_files(
    name: str,
    contents: bytes,
    words: str,
    tmp_path: pathlib.Path,
    prefix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(contents)
    given = path.parent if "/" in name else path
    assert main(["diff", str(given), prefix]) == 2
    assert words in capsys.readouterr().err


def test_convert(
    prefix: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tf2flax.save_map(tmp_path / "m.toml", {"enc/layer_{i}/": "l{i}/"})
    code, out = run(
        capsys,
        "convert",
        prefix,
        f"{tmp_path}/m.safetensors",
        "--map",
        f"{tmp_path}/m.toml",
        "--dtype",
        "float16",
        "--no-slots",
        "--json",
    )
    report = json.loads(out)
    assert code == 0
    assert report["written"] == ["l0/w", "l1/b"]
    assert report["dropped"][-2:] == ["step", "words"]
    assert safetensors.numpy.load_file(tmp_path / "m.safetensors")["l1/b"].dtype == "f2"
    assert main(["convert", prefix, f"{tmp_path}/m.safetensors"]) == 2
    assert "give --overwrite." in capsys.readouterr().err
    by_reference = ["convert", prefix, f"{tmp_path}/o", "--format", "orbax"]
    assert main([*by_reference, "--by-reference", "--no-slots"]) == 0
    assert main(["verify", f"{tmp_path}/o"]) == 0


@pytest.mark.parametrize(
    "command",
    [
        *("ls", "tree", "show", "stats", "diff", "verify", "plan", "suggest"),
        *("compare", "convert", "completion"),
    ],
)
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"\n  tf2flax {command} " in text
    # The description is wrapped, and the examples are not.
    description = text.partition("\n\n")[2].partition("\n\n")[0]
    assert max(map(len, description.splitlines())) < 80


def test_tables_on_narrow_terminals(
    prefix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names stay whole; what does not fit beside them comes below."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    _, out = run(capsys, "ls", prefix, "enc/layer_0/")
    assert out.splitlines()[:4] == [
        "name                         dtype    shape   size",
        "enc/layer_0/w                float32  [2, 3]  24 B",
        "enc/layer_0/w/Adam           float32  [2, 3]  24 B",
        "enc/layer_0/w/ExponentialMovingAverage",
    ]
    assert out.splitlines()[4] == f"{'float32  [2, 3]  24 B':>50}"
    monkeypatch.setenv("COLUMNS", "40")
    _, out = run(capsys, "stats", prefix, "enc/layer_1/b")
    assert out.splitlines()[0] == "enc/layer_1/b"
    assert "mean 1, std 0, min 1, max 1" in out
    other = {**TENSORS, "enc/layer_1/b": np.zeros(4)}
    second = tf2flax.save_checkpoint(f"{prefix}.2", other)
    _, out = run(capsys, "diff", prefix, second)
    assert out.splitlines()[:2] == [
        "enc/layer_1/b", "    difference values, max abs 1, max rel 1"
    ]  # fmt: skip


def test_a_bar_where_reading_takes_long(
    prefix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    commands = (["stats", prefix], ["diff", prefix, prefix], ["show", prefix, "step"])
    for limit, has_bar in ((16 << 20, False), (1, True)):
        monkeypatch.setattr("tf2flax._cli.terminals._LONG_NBYTES", limit)
        for command in commands:
            assert main(command) == 0
            printed = capsys.readouterr()
            assert (len(printed.err) > 0) == has_bar
            assert "Reading" not in printed.out


def test_no_command_imports_jax(prefix: str, tmp_path: pathlib.Path) -> None:
    code = (
        "from tf2flax._cli import main\n"
        f"main(['convert', {prefix!r}, '{tmp_path}/a.npz'])\n"
        f"main(['diff', {prefix!r}, '{tmp_path}/a.npz'])\n"
        f"main(['tree', {prefix!r}])\nmain(['stats', {prefix!r}])\n"
        "main(['completion', 'zsh'])\n"
        "import sys; print('modules', *sys.modules)"
    )
    done = run_forked(code, check=True)
    modules = done.stdout.splitlines()[-1].split()
    assert not {"jax", "flax", "tensorstore"} & {m.partition(".")[0] for m in modules}


def test_diff_without_slots(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = np.ones((2, 2), np.float32)
    state = {"w": kernel, "w/Adam": kernel, "w/ExponentialMovingAverage": kernel}
    a = tf2flax.save_checkpoint(tmp_path / "a", state)
    b = str(tmp_path / "b.npz")
    tf2flax.convert(a, b, slots=False)
    assert main(["diff", a, b]) == 1
    assert "w/Adam\tonly in A" in capsys.readouterr().out
    whole = str(tmp_path / "whole.npz")
    tf2flax.convert(a, whole)
    # Of an npz, names and shapes tell what slots are.
    for first, second in ((a, b), (b, a), (whole, b)):
        assert main(["diff", first, second, "--no-slots", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["differences"] == []
        assert document["equal"] == 1
        assert document["slots_left_out"] == ["w/Adam", "w/ExponentialMovingAverage"]


EXPORTED = str(DATA / "keras3_export" / "functional-3.15.1")


def test_names_of_variables_in_every_command(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `ls --names` lists, the others take; `convert` writes these names."""
    named = ["--names", "variables"]
    _, listed = run(capsys, "ls", EXPORTED, *named)
    names = [line.split("\t")[0] for line in listed.splitlines()]
    assert "fc1/kernel" in names
    for name in names:
        assert run(capsys, "show", EXPORTED, name, *named)[0] == 0
    out = f"{tmp_path}/out.safetensors"
    code, text = run(capsys, "convert", EXPORTED, out, *named)
    assert code == 0
    assert "paths of objects" not in text
    assert sorted(safetensors.numpy.load_file(out)) == names
    assert run(capsys, "diff", EXPORTED, out, *named) == (0, "")
    for name in ("orbax", "npz", "tensorbundle"):
        other = f"{tmp_path}/out.{name}"
        assert main(["convert", EXPORTED, other, *named, "--format", name]) == 0
        capsys.readouterr()
        assert run(capsys, "diff", EXPORTED, other, *named) == (0, "")
    assert run(capsys, "diff", out, EXPORTED)[0] == 1
    # Without it, the report says what to give.
    code, text = run(capsys, "convert", EXPORTED, f"{tmp_path}/stored.npz")
    assert text.endswith("; --names variables has those of variables\n")
    assert main(["show", EXPORTED, "fc1/kernel"]) == 2
    assert "this name is in `--names variables`." in capsys.readouterr().err


def test_plan_and_convert_a_target_by_names_of_variables(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = tf2flax.open_checkpoint(EXPORTED).by_variable_name()["fc1/kernel"].read()
    (tmp_path / "named_target.py").write_text(
        f"import numpy as np\ntree = {{'kernel': np.zeros({kernel.shape}, 'f4')}}\n"
    )
    (tmp_path / "m.toml").write_text('[assignment_map]\n"fc1/kernel" = "kernel"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = ["--map", "m.toml", "--target", "named_target:tree"]
    for names, code in (("variables", 0), ("stored", 1)):
        assert main(["plan", EXPORTED, *given, "--names", names]) == code
    capsys.readouterr()
    assert main(["convert", EXPORTED, "k.npz", *given, "--names", "variables"]) == 0
    assert np.array_equal(np.load("k.npz")["kernel"], kernel)
