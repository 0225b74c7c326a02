"""What is no checkpoint: every kind of file and folder is named, with what reads it.

Each is made here, given by its path and by a URL, and what its message says to give or
to run is given and run.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pathlib
import pickle
import re
import shutil
import sqlite3
import struct
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.serialization
import numpy as np
import pytest
import scipy.io
from bundle_writer import write_bundle
from http_server import Served, serving

import tf2flax

ARRAY = np.arange(6, dtype="f4").reshape(2, 3)
ERRORS = (
    tf2flax.DamagedError,
    tf2flax.UnsupportedError,
    tf2flax.CheckpointNotFoundError,
)


def saved(write: Callable[[Any], object]) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def zipped(*members: tuple[str, bytes], compressed: bool = True) -> bytes:
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, contents in members:
            archive.writestr(name, contents)
    return out.getvalue()


def tarred(mode: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, contents in checkpoint_files("run/model.ckpt-7"):
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
    return out.getvalue()


def checkpoint_files(prefix: str) -> list[tuple[str, bytes]]:
    """The files of a checkpoint, by their paths."""
    folder = pathlib.Path(os.environ["TMPDIR_OF_TESTS"])
    shutil.rmtree(folder / "made", ignore_errors=True)
    write_bundle(folder / "made" / "m", {"w": ARRAY})
    return [
        (prefix + path.name.removeprefix("m"), path.read_bytes())
        for path in sorted((folder / "made").iterdir())
    ]


@pytest.fixture(autouse=True)
def _where_files_are_made(tmp_path_factory: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("TMPDIR_OF_TESTS", str(tmp_path_factory.mktemp("made")))


def hdf5() -> bytes:
    h5py = pytest.importorskip("h5py")

    def write(out: Any) -> None:
        with h5py.File(out, "w") as file:
            file["layers/dense/vars/0"] = ARRAY

    return saved(write)


def message(number: int, contents: bytes) -> bytes:
    """A field of a protobuf message."""
    assert len(contents) < 128
    return bytes([number << 3 | 2, len(contents)]) + contents


def safetensors() -> bytes:
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + ARRAY.tobytes()


def sqlite() -> bytes:
    base = sqlite3.connect(":memory:")
    base.execute("create table t (a)")
    return base.serialize()


GRAPH = message(1, message(1, b"input") + message(2, b"Placeholder"))
TORCH = ("archive/data.pkl", b"\x80\x02"), ("archive/data/0", ARRAY.tobytes())
EVENT = message(3, b"brain.Event:2")
RECORD = struct.pack("<QI", len(EVENT) + 9, 0) + b"\x09" + bytes(8) + EVENT
# name of the file, its contents, what is said of it
Case = tuple[str, Callable[[], bytes] | bytes, str]
FILES: dict[str, Case] = {
    # What downloads leave in a file's place.
    "git-LFS pointer": (
        "m.ckpt",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "a git-LFS pointer .*Run `git lfs pull`",
    ),
    "git-annex pointer": (
        "m.ckpt",
        b"/annex/objects/MD5-s9--0\n",
        "a git-annex pointer.*`git annex get`",
    ),
    "HTML page": ("m.ckpt", b"<!DOCTYPE html><html>", "an HTML page.*Download the fi"),
    "HTML page with a mark": ("m.h5", b"\xef\xbb\xbf\r\n<html lang=en>", "an HTML pa"),
    "error page": (
        "m.ckpt",
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "an error page of a store.*credentials",
    ),
    "metadata of macOS": ("._m.ckpt", b"\0\5\x16\7\0\2\0\0", "metadata of macOS"),
    "empty": ("m.ckpt", b"", "an empty file.*Copy the file again"),
    "zero bytes": ("m.ckpt", bytes(9000), "never written: it is all zero bytes"),
    "text of a server": ("m.ckpt", b"Entry not found\n", "begins `Entry not found`"),
    "text in UTF-16": ("m.ckpt", "weights".encode("utf-16"), "a text in UTF-16"),
    "control characters": ("m.ckpt", b"\x1b[31m\x07", "not a TensorFlow checkpoint"),
    "a text with an escape": ("m.txt", b"a `b` \xc3\xa9", r"begins `a 'b' \\xe9`"),
    # Archives and compressed files.
    "tar": ("run.tar", lambda: tarred("w"), "a tar archive, not a .*`tar -xf '"),
    "tar, gzip": ("run.tgz", lambda: tarred("w:gz"), "a tar archive, compressed by gz"),
    "gzip of HDF5": (
        "m.h5.gz",
        lambda: gzip.compress(hdf5()),
        r"compressed by gzip \(HDF5\).*`gzip -dc '.*' > '.*m\.h5'`",
    ),
    "gzip called .h5": ("m.h5", lambda: gzip.compress(b"x" * 999), "compressed by gzi"),
    "gzip of a pickle": (
        "m.pkl.gz",
        lambda: gzip.compress(pickle.dumps({"a": 1})),
        r"compressed by gzip \(a pickle of Python\)",
    ),
    "gzip, damaged": ("m.gz", b"\x1f\x8b\x08\x00" + b"\xff" * 40, "damaged gzip file"),
    "bzip2": ("m.bz2", bz2.compress(b"x" * 99), "by bzip2.*`bunzip2 --keep '"),
    "xz": ("m.xz", lzma.compress(b"x" * 99), "compressed by xz.*`unxz --keep '"),
    "zstd": ("m.zst", b"\x28\xb5\x2f\xfd\x00", "compressed by zstd.*`unzstd '"),
    "lz4": ("m.lz4", b"\x04\x22\x4d\x18\x60", "compressed by lz4.*`unlz4 '"),
    "7z": ("m.7z", b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive.*`7z x '"),
    "RAR": ("m.rar", b"Rar!\x1a\x07\x01\x00", "a RAR archive.*`unrar x '"),
    "zip of a checkpoint": (
        "BERT base.zip",
        lambda: zipped(
            ("__MACOSX/bert/._model.ckpt.index", b"\0\5\x16\7"),
            *checkpoint_files("bert é/model.ckpt"),
        ),
        r"a zip archive of a checkpoint.*Give `.*\|zip:bert%20%C3%A9/model\.ckpt`\.",
    ),
    "zip, stored": (
        "m.zip",
        lambda: zipped(*checkpoint_files("model.ckpt-5"), compressed=False),
        r"Give `.*m\.zip\|zip:model\.ckpt-5`\.",
    ),
    "zip of a SavedModel": (
        "saved.zip",
        lambda: zipped(
            ("saved/saved_model.pb", b"\x08\1"),
            *checkpoint_files("saved/variables/variables"),
        ),
        r"Give `.*\|zip:saved/variables/variables`\.",
    ),
    "zip of Keras weights": (
        "m.zip",
        lambda: zipped(("best/model.weights.h5", hdf5())),
        r"Give `.*\|zip:best/model\.weights\.h5`\.",
    ),
    "zip of nothing known": (
        "m.zip",
        lambda: zipped(("a.txt", b"x"), ("b/c", b"y")),
        "holds no checkpoint, but `a.txt`, `b/c`",
    ),
    "zip of escapes": (
        "m.zip",
        lambda: zipped(("\x1b[31m", b"x")),
        r"holds no checkpoint, but `\\x1b\[31m`",
    ),
    "zip, empty": ("m.zip", lambda: zipped(), "holds no checkpoint, but nothing"),
    "zip, cut": (
        "m.zip",
        lambda: zipped(*checkpoint_files("model.ckpt"))[:-40],
        "a zip archive that was cut short",
    ),
    # Weights of others.
    "npy": ("w.npy", saved(lambda out: np.save(out, ARRAY)), r"`numpy\.load\('"),
    "npz": (
        "w.npz",
        saved(lambda out: np.savez_compressed(out, w=ARRAY, v=ARRAY)),
        r"arrays of NumPy \(`\.npz`\).*`numpy\.load\('",
    ),
    "safetensors": ("m.safetensors", safetensors(), r"`safetensors\.numpy\.load"),
    "safetensors called .h5": ("m.h5", safetensors(), "a safetensors file"),
    "safetensors, index": (
        "model.safetensors.index.json",
        b'{"weight_map": {"w": "model-00001-of-00002.safetensors"}}',
        "not Keras weights",
    ),
    "GGUF": ("m.gguf", b"GGUF\3\0\0\0", r"`gguf\.GGUFReader\('"),
    "GGML": ("ggml-model.bin", b"tjgg\1\0\0\0", "a GGML file"),
    "TensorFlow Lite": (
        "m.tflite",
        b"\x1c\0\0\0TFL3\x14\0",
        r"a model of TensorFlow Lite.*`tf\.lite\.Interpreter\('",
    ),
    "PyTorch": ("m.ckpt", zipped(*TORCH), r"a checkpoint of PyTorch.*`torch\.load\('"),
    "PyTorch before 1.6": (
        "pytorch_model.bin",
        b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\2M",
        r"a checkpoint of PyTorch.*`torch\.load\('",
    ),
    "TorchScript": (
        "m.pt",
        zipped(*TORCH, ("archive/constants.pkl", b"\x80\2")),
        r"`torch\.jit\.load\('",
    ),
    "pickle, protocol 5": ("m.h5", pickle.dumps({"w": ARRAY}), r"`pickle\.loads\("),
    "pickle, protocol 2": ("p", pickle.dumps([1, "a"], protocol=2), "a pickle of Pyth"),
    "MXNet": ("m.params", struct.pack("<QQ", 0x112, 0), r"`mxnet\.nd\.load\('"),
    "fastText": ("m.bin", struct.pack("<ii", 793712314, 12), r"`fasttext\.load_model"),
    "ONNX": ("m.onnx", b"\x08\7" + message(2, b"pytorch"), r"`onnx\.load\('"),
    "ONNX called .h5": ("m.h5", b"\x08\7" + message(2, b"tf2onnx"), "an ONNX model"),
    "SavedModel alone": (
        "saved_model.pb",
        b"\x08\1\x12\3\x0a\1\0",
        "the graph of a SavedModel, without the variables",
    ),
    "frozen graph": ("frozen.pb", GRAPH, "a frozen graph.*GraphDef.FromString"),
    "graph in text": ("graph.pbtxt", b"node {\n", "a graph of TensorFlow in text"),
    "graph of a checkpoint": (
        "m.ckpt-7.meta",
        b"\x0a\x00",
        "the graph of a checkpoint, without its values.*Copy `.*m.ckpt-7.index`",
    ),
    "data alone": (
        "m.ckpt-7.data-00000-of-00001",
        ARRAY.tobytes(),
        "belongs to a checkpoint whose index is missing",
    ),
    "MessagePack": (
        "flax_model.msgpack",
        flax.serialization.msgpack_serialize({"params": {"w": ARRAY}}),
        r"as Flax writes it.*`flax\.serialization\.msgpack_restore\(",
    ),
    "Caffe": ("m.caffemodel", message(1, b"net"), "weights of Caffe"),
    "Core ML": ("m.mlmodel", b"\x08\4", "a Core ML model"),
    # Data, and what lies beside checkpoints.
    "MATLAB": ("w.mat", saved(lambda o: scipy.io.savemat(o, {"w": ARRAY})), "loadmat"),
    "NetCDF": ("w.nc", b"CDF\2\0\0\0\0", r"`netCDF4\.Dataset\('"),
    "HDF4": ("w.hdf", b"\x0e\3\x13\1\0", "a file of HDF4"),
    "Parquet": ("w.parquet", b"PAR1\x15\4", r"`pandas\.read_parquet\('"),
    "Arrow": ("w.arrow", b"ARROW1\0\0", "a file of Arrow"),
    "SQLite": ("w.db", sqlite(), r"`sqlite3\.connect\('"),
    "events": (
        "events.out.tfevents.1",
        RECORD,
        "a file of events for TensorBoard.*summary_iterator",
    ),
    "PDF": ("paper.pdf", b"%PDF-1.5\n", "a PDF document"),
    "image": ("plot.png", b"\x89PNG\r\n\x1a\n", "an image"),
    "program": ("run", b"\x7fELF\2\1\1", "a program"),
    "config": ("bert_config.json", b'{"hidden_size": 768}', "JSON without a `weight_m"),
    "vocabulary": ("vocab.txt", b"[PAD]\n[UNK]\n", "a vocabulary or text"),
    "state file": ("checkpoint", b'model_checkpoint_path: "m"', "Give its directory"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving({}) as served:
        yield served


def contents_of(name: str) -> bytes:
    made = FILES[name][1]
    return made if isinstance(made, bytes) else made()


def message_of(path: object) -> str:
    """What is said of a path; short, and soon."""
    started = time.process_time()  # waits for other processes do not count
    with pytest.raises(ERRORS) as caught:
        tf2flax.open_checkpoint(path)  # pyright: ignore[reportArgumentType]
    assert time.process_time() - started < 1
    text = str(caught.value)
    assert text.count("\n") < 25
    assert len(text) < 2000
    assert text.isprintable()
    return text


def suggestions(text: str) -> list[str]:
    """The paths and URLs that a message says to give."""
    sentences = re.findall(r"(?:Give|Did you mean|step first:) (.*)", text)
    paths = [path for part in sentences for path in re.findall("`([^`]*)`", part)]
    return [path for path in paths if path.startswith(("/", "http:", "file:"))]


def check_suggestions(text: str) -> list[str]:
    """Opens what a message says to give."""
    paths = suggestions(text)
    for path in paths:
        assert len(tf2flax.open_checkpoint(path)), path
    return paths


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named(name: str, server: Served, tmp_path: pathlib.Path) -> None:
    """The same is said of it as a file and by HTTP; what reads it, does."""
    file, _, match = FILES[name]
    contents = contents_of(name)
    (tmp_path / file).write_bytes(contents)
    text = message_of(tmp_path / file)
    assert re.search(match, text), text
    assert str(tmp_path / file) in text
    if "zip:" in text:
        assert check_suggestions(text)
    path = f"/run/{file.replace(' ', '%20')}"
    server.files = {path: contents}
    by_url = message_of(server.url + path)
    match = match.partition(".*")[0] if "-dc" in match else match
    assert re.search(match, by_url), by_url
    if "zip:" in by_url:
        assert check_suggestions(by_url)
    elif "`numpy" in by_url:
        assert "Download it first." in by_url


@pytest.mark.parametrize("name", ["npz", "zip of a checkpoint", "npy"])
def test_a_large_file_is_not_read_whole(name: str, server: Served) -> None:
    nbytes = 16 << 20
    contents = contents_of(name)
    if "zip" in name:
        members = ("large", bytes(nbytes)), *checkpoint_files("m")
        contents = zipped(*members, compressed=False)
    elif name == "npz":
        array = np.zeros(nbytes, "u1")
        contents = saved(lambda out: np.savez(out, w=array))
    else:
        contents += bytes(nbytes)
    server.files, server.nbytes = {"/run/m": contents}, 0
    text = message_of(f"{server.url}/run/m")
    assert 0 < server.nbytes < nbytes / 8
    assert re.search(FILES[name][2].partition(".*")[0], text)


def test_there_are_sixty() -> None:
    assert len(FILES) >= 60


READERS = ("npy", "npz", "pickle, protocol 5", "MessagePack", "MATLAB")


@pytest.mark.parametrize("name", READERS)
def test_what_reads_it_does(name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / FILES[name][0]
    path.write_bytes(contents_of(name))
    code = re.search(r"`([a-z._]+\([^`]*\))` reads it", message_of(path))
    assert code
    modules = {"numpy": np, "flax": flax, "scipy": scipy}
    value = eval(code[1], {**modules, "pickle": pickle, "pathlib": pathlib})
    value = value.get("params", value) if isinstance(value, dict) else value
    array = value if isinstance(value, np.ndarray) else value["w"]
    assert array.tolist() == ARRAY.tolist()
    if hasattr(value, "close"):
        value.close()


@pytest.mark.parametrize("name", ["tar", "tar, gzip", "gzip of HDF5"])
def test_what_unpacks_it_does(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / FILES[name][0]).write_bytes(contents_of(name))
    command = re.search("`((?:tar|gzip) .*?)`", message_of(tmp_path / FILES[name][0]))
    assert command
    subprocess.run(command[1], shell=True, check=True, cwd=tmp_path)
    path = tmp_path / ("m.h5" if "HDF5" in name else "run")
    assert len(tf2flax.open_checkpoint(path)) == 1


# --- folders ----------------------------------------------------------------------

# names in it, what is said of it
FOLDERS: dict[str, tuple[Iterable[str], str]] = {
    "Orbax": (["_CHECKPOINT_METADATA", "manifest.ocdbt", "d/x"], r"`orbax\.checkpoint"),
    "Orbax, older": (["checkpoint", "w/.zarray"], r"a checkpoint of Orbax.*`orbax"),
    "Orbax, steps": (["7/_CHECKPOINT_METADATA", "9/default/d"], "CheckpointManager"),
    "T5X": (["checkpoint", "target.encoder.w/.zarray"], r"`t5x\.checkpoints"),
    "Flax": (["checkpoint_100", "checkpoint_200"], r"`flax\.training\.checkpoints"),
    "safetensors": (["config.json", "model.safetensors"], r"`safetensors\.numpy"),
    "Flax of Hugging Face": (["flax_model.msgpack"], r"`flax\.serialization"),
    "PyTorch": (["config.json", "pytorch_model.bin"], r"`torch\.load\("),
    "distributed PyTorch": ([".metadata", "__0_0.distcp"], "dcp_to_torch_save"),
    "TensorFlow.js": (["model.json", "group1-shard1of1.bin"], "`tensorflowjs"),
    "Zarr": ([".zarray", "0.0"], r"an array of Zarr.*`zarr\.open"),
    "Zarr, groups": ([".zgroup", "w/.zarray"], r"a group of Zarr.*`zarr\.open"),
    "GGUF": (["m.gguf"], r"`gguf\.GGUFReader"),
    "ONNX": (["m.onnx"], r"`onnx\.load"),
    "SavedModel": (["saved_model.pb"], "a SavedModel without variables"),
    "events": (["events.out.tfevents.1"], "begin with|no `checkpoint` state file"),
    "tar": (["bert.tar.gz"], "It holds `bert.tar.gz`, a tar archive"),
    "TensorFlow Lite": (["m.tflite"], "It holds `m.tflite`, a model of TensorFlow L"),
    "data": (["m-7.data-00000-of-00001"], "data of `m-7`, whose index is missing"),
    "graph": (["m.ckpt-7.meta"], "holds `m.ckpt-7.meta` alone, which is a graph with"),
    "nothing": ([], "Give the prefix of a checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_named(name: str, tmp_path: pathlib.Path) -> None:
    names, match = FOLDERS[name]
    for file in names:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(flax.serialization.msgpack_serialize({"w": ARRAY}))
    text = message_of(tmp_path)
    assert re.search(match, text), text
    assert not suggestions(text)


@pytest.mark.parametrize("name", ["Orbax", "safetensors", "PyTorch", "Zarr"])
def test_a_folder_is_named_where_nothing_is_listed(name: str, server: Served) -> None:
    names, match = FOLDERS[name]
    server.files = {f"/run/{file}": b"x" for file in names}
    text = message_of(f"{server.url}/run/")
    assert re.search(match, text), text


def test_folders_of_folders(tmp_path: pathlib.Path) -> None:
    write_bundle(tmp_path / "uncased" / "bert_model.ckpt", {"w": ARRAY})
    text = message_of(tmp_path)
    assert check_suggestions(text) == [f"{tmp_path}/uncased/bert_model.ckpt"]
    assert check_suggestions(message_of(tmp_path / "bert_model.ckpt"))


def test_a_folder_of_a_saved_model(tmp_path: pathlib.Path) -> None:
    write_bundle(tmp_path / "1" / "variables" / "variables", {"w": ARRAY})
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\x08\1")
    assert check_suggestions(message_of(tmp_path))
    assert check_suggestions(message_of(tmp_path / "1" / "saved_model.pb"))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "1/variables/gone"')
    message_of(tmp_path)


def test_a_cache_of_hugging_face(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "models--google--bert"
    for name in ("refs", "blobs"):
        (folder / name).mkdir(parents=True)
    write_bundle(folder / "snapshots" / "0a1b" / "model.ckpt", {"w": ARRAY})
    paths = check_suggestions(message_of(folder))
    assert paths == [f"{folder}/snapshots/0a1b/model.ckpt"]


def test_a_folder_of_a_zip(tmp_path: pathlib.Path) -> None:
    contents = zipped(*checkpoint_files("bert/model.ckpt"))
    (tmp_path / "bert.zip").write_bytes(contents)
    assert check_suggestions(message_of(tmp_path))
