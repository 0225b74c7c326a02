"""A format that the package does not know: one class, and one line in `FORMATS`."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import pickle

import jax
import numpy as np
import pytest

import tf2flax
from tf2flax._base.errors import DamagedError, TensorNotFoundError
from tf2flax._base.manifest import EncodedPiece, Manifest, TensorEntry
from tf2flax._base.values import STORED_DTYPES, Box, TensorSpec
from tf2flax._cli import main
from tf2flax._formats import formats
from tf2flax._formats.format import Candidate, Format, Location

MAGIC = b'{"toy": '
FLOAT32 = STORED_DTYPES[1]
KERNEL = np.arange(12, dtype="f4").reshape(4, 3)
BIAS = np.ones(3, "f4")


@dataclasses.dataclass(frozen=True, slots=True)
class ToyPiece(EncodedPiece):
    """A tensor whose numbers stand in the index itself."""

    numbers: tuple[float, ...]

    def check(self, *, subject: str) -> None:
        if len(self.numbers) != self.box.size:
            raise DamagedError(
                f"{subject} is damaged: {len(self.numbers)} numbers for shape "
                f"{list(self.box.shape)} - in {self.place}."
            )

    def read(self, box: Box) -> np.ndarray:
        self.check(subject="A tensor")
        array = np.array(self.numbers, "f4").reshape(self.box.shape)
        return array[box.within(Box.whole(self.box.shape))].copy()


class ToyManifest(Manifest):
    def __init__(self, path: str, contents: bytes) -> None:
        self._path = path
        self._tensors = json.loads(contents)["toy"]

    @property
    def prefix(self) -> str:
        return self._path

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._tensors))

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        return ()

    def entry(self, name: str) -> TensorEntry:
        if name not in self._tensors:
            raise TensorNotFoundError(name, self._path)
        shape, numbers = self._tensors[name]
        spec = TensorSpec(tuple(shape), FLOAT32)
        piece = ToyPiece(
            Box.whole(spec.shape), self._path, 4 * spec.size, tuple(numbers)
        )
        return TensorEntry(name, spec, (piece,), is_sliced=False, is_big_endian=False)


class ToyFormat(Format):
    name = "toy"
    endings = (".toy",)

    def recognise(self, candidate: Candidate) -> bool:
        return candidate.head.startswith(MAGIC)

    def open(self, location: Location) -> Manifest:
        storage, path = location.storage, location.files[0]
        return ToyManifest(storage.show(path), storage.read(path) or b"")

    def files_in_folder(self, storage: object, folder: str) -> tuple[str, ...]:
        path = pathlib.Path(folder, "weights.toy")
        return (str(path),) if path.is_file() else ()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, ToyFormat()))


def write(path: pathlib.Path, **damaged: list[float]) -> str:
    tensors = {"dense/kernel": KERNEL, "dense/bias": BIAS}
    stored = {
        name: [array.shape, array.reshape(-1).tolist()]
        for name, array in tensors.items()
    }
    for name, numbers in damaged.items():
        stored[f"dense/{name}"][1] = numbers
    path.write_text(json.dumps({"toy": stored}))
    return str(path)


def test_a_toy_format_is_opened_listed_and_read(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "weights.toy")
    checkpoint = tf2flax.open_checkpoint(path)
    assert list(checkpoint) == ["dense/bias", "dense/kernel"]
    assert tf2flax.list_variables(path)[1] == ("dense/kernel", [4, 3])
    assert list(tf2flax.open_checkpoint(tmp_path)) == list(checkpoint)
    tensor = checkpoint["dense/kernel"]
    assert np.array_equal(tensor.read(), KERNEL)
    assert np.array_equal(tensor[1:3, ::2], KERNEL[1:3, ::2])
    assert np.array_equal(tensor.open()[2:, 1].read().result(), KERNEL[2:, 1])
    arrays = checkpoint.read()
    assert all(
        np.array_equal(arrays[f"dense/{k}"], v)
        for k, v in (("kernel", KERNEL), ("bias", BIAS))
    )
    assert list(pickle.loads(pickle.dumps(checkpoint))) == list(checkpoint)
    assert len(tf2flax.merge_checkpoints({"a/": checkpoint, "b/": checkpoint})) == 4
    for command in (["ls"], ["show", "dense/kernel"], ["verify"]):
        assert main([command[0], path, *command[1:]]) == 0
    assert "dense/kernel" in capsys.readouterr().out


def test_a_toy_format_is_planned_and_restored(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "weights.toy")
    target = {
        "kernel": jax.ShapeDtypeStruct((3, 4), "float32"),
        "half": jax.ShapeDtypeStruct((2, 3), "float32"),
        "bias": jax.ShapeDtypeStruct((3,), "bfloat16"),
    }
    kernel = tf2flax.src("dense/kernel")
    plan = tf2flax.plan(
        path,
        {kernel.transpose(): "kernel", kernel[:2]: "half", "dense/bias": "bias"},
        target,
    )
    assert "dense/kernel" in str(plan)
    restored = plan.restore()
    assert np.array_equal(restored["kernel"], KERNEL.T)
    assert np.array_equal(restored["half"], KERNEL[:2])
    assert restored["bias"].dtype == "bfloat16"


def test_a_damaged_toy_is_reported(tmp_path: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(write(tmp_path / "a.toy", bias=[1.0]))
    report = checkpoint.verify()
    assert [damage.name for damage in report.damaged] == ["dense/bias"]
    assert not report.ok
    with pytest.raises(tf2flax.DamagedError, match=r"1 numbers for shape \[3\]"):
        checkpoint["dense/bias"].read()
    assert tf2flax.open_checkpoint(write(tmp_path / "b.toy")).verify().ok


def test_a_toy_format_is_suggested_and_looked_up(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "model.toy")
    with pytest.raises(tf2flax.CheckpointNotFoundError, match=r"model\.toy`\?"):
        tf2flax.open_checkpoint(tmp_path / "modle.toy")
    assert list(tf2flax.open_checkpoint(tmp_path)) == list(
        tf2flax.open_checkpoint(path)
    )
    with pytest.raises(tf2flax.TensorNotFoundError, match="Did you mean"):
        tf2flax.open_checkpoint(path)["dense/kernle"]
    for view in ("by_variable_name", "by_object_path"):
        with pytest.raises(tf2flax.UnsupportedError, match="names are the variables'"):
            getattr(tf2flax.open_checkpoint(path), view)()
