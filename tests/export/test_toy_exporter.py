"""An exporter that nobody but this test knows: one class, and one line in the tuple."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np
import pytest

import tf2flax
from tf2flax._export import exporters
from tf2flax._export.exporter import ExportedTensor, Exporter, TensorSource


class ToyExporter(Exporter):
    name = "toy"
    endings = (".toy",)

    def check(self, tensors: Sequence[ExportedTensor]) -> None:
        for tensor in tensors:
            if tensor.dtype.kind not in "iuf":
                raise tf2flax.UnsupportedError(f"`{tensor.name}` is not a number.")

    def write(self, path: str, source: TensorSource) -> None:
        read = source.read_each(source.tensors)
        arrays = {tensor.name: array.tolist() for tensor, array in read}
        pathlib.Path(path).write_text(json.dumps(arrays))


def test_a_toy_exporter(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters, "EXPORTERS", (*exporters.EXPORTERS, ToyExporter))
    tensors = {"w": np.float32([1, 2]), "note": b"text", "ok": np.bool_(True)}
    prefix = tf2flax.save_checkpoint(tmp_path / "tf" / "m", tensors)
    with pytest.raises(tf2flax.UnsupportedError, match="`ok`"):
        tf2flax.convert(prefix, tmp_path / "m.toy")
    report = tf2flax.convert(prefix, tmp_path / "m.toy", assignment_map={"w": "v"})
    assert report.format == "toy"
    assert json.loads((tmp_path / "m.toy").read_text()) == {"v": [1.0, 2.0]}
    with pytest.raises(tf2flax.ExistsError):
        tf2flax.convert(prefix, tmp_path / "m.toy", assignment_map={"w": "v"})
