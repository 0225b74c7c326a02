"""Orbax: a directory that plain Orbax restores, with any sharding.

Elements lie uncompressed in one file; a small index (`ocdbt`) says which of its bytes
are which chunk of which array. With `by_reference` the index leads to TensorFlow's own
data files instead, and nothing is copied.

    out/manifest.ocdbt    the index's root          out/_METADATA    the tree
    out/d/index           its nodes                 out/_sharding    where leaves live
    out/d/data            elements, all arrays

Source: orbax/checkpoint/_src/serialization/type_handlers.py and metadata/tree.py; the
zarr v2 driver of tensorstore.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np

from tf2flax._base.errors import AssignmentError
from tf2flax._base.text import list_names
from tf2flax._storage.writing import (
    sync_directory,
    write_atomically,
    write_new_file,
)

from .by_reference import refer_to_data_files
from .chunks import Chunks, cut_in_chunks
from .exporter import ExportedTensor, Exporter, TensorSource
from .ocdbt import Item, build_ocdbt
from .outputs import raw_file
from .safetensors import refuse_dtypes, refuse_invalid_text

DATA_PATH: Final = "d/data"
INDEX_PATH: Final = "d/index"
MANIFEST: Final = "manifest.ocdbt"
# Dtypes as zarr v2 writes them.
_DTYPES: Final[Mapping[np.dtype, str]] = {
    **{
        np.dtype(code): np.dtype(code).str
        for code in (
            "?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8",
            "f2", "f4", "f8", "c8", "c16",
        )
    },
    np.dtype(ml_dtypes.bfloat16): "bfloat16",
    np.dtype(ml_dtypes.float8_e4m3fn): "float8_e4m3fn",
    np.dtype(ml_dtypes.float8_e5m2): "float8_e5m2",
}  # fmt: skip
# Any one device: whoever restores without a target gets arrays there.
_ONE_DEVICE: Final = json.dumps(
    {
        "sharding_type": "NamedSharding",
        "shape": [1],
        "axis_names": ["x"],
        "axis_types": ["AxisType.Auto"],
        "partition_spec": [],
        "device_mesh": {"mesh": [{"id": 0}]},
    }
)
_DICT_KEY: Final = 2


class Orbax(Exporter):
    """A directory of Orbax; names are nested at "/" unless they are to stay flat."""

    name = "orbax"
    option_names = frozenset({"flat", "by_reference"})

    def check(self, tensors: Sequence[ExportedTensor]) -> None:
        """Refuses dtypes that zarr lacks, and names that do not make a tree."""
        refuse_dtypes(tensors, _DTYPES, self.name)
        for tensor in tensors:
            refuse_invalid_text(tensor.name)
        paths = {tensor.name: self._path(tensor.name) for tensor in tensors}
        if self.options.flat:
            _refuse_names_that_are_scopes(paths)
        else:
            _refuse_names_that_do_not_nest(paths)
        _refuse_equal_parameters(paths)

    def write(self, path: str, source: TensorSource) -> None:
        """Writes data, index and metadata; the metadata last."""
        if self.options.by_reference:
            chunks = refer_to_data_files(path, source, self.options.by_reference)
        else:
            chunks = _write_data(path, source)
        items = sorted(self._items(source, chunks))
        manifest, nodes = build_ocdbt(items, INDEX_PATH, uuid=secrets.token_bytes(16))
        files = [(INDEX_PATH, nodes), (MANIFEST, manifest)]
        # Beside the data files, readers may see each file as soon as it is there.
        write = write_atomically if self.writes_in_place else write_new_file
        folders: dict[str, str] = {}
        for name, contents in [*files, *self._metadata(source, chunks)]:
            target = os.path.join(path, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            write(target, contents)
            folders[os.path.dirname(target)] = target
        for target in folders.values():
            sync_directory(target)

    def may_replace(self, path: str) -> bool:
        """True for what an earlier conversion, or Orbax itself, has written."""
        if not os.path.isdir(path):
            return True
        names = os.listdir(path)
        return not names or "_METADATA" in names

    @property
    def writes_in_place(self) -> bool:
        """True where the index lies in the directory of the checkpoint."""
        return self.options.by_reference == "beside"

    def find_present(self, path: str) -> str | None:
        """Finds the directory; or the index in it, where it is to lie beside others."""
        if self.writes_in_place:
            path = os.path.join(path, MANIFEST)
        return super().find_present(path)

    def _path(self, name: str) -> tuple[str, ...]:
        """The keys that lead to a tensor in the tree."""
        return (name,) if self.options.flat else tuple(name.split("/"))

    def _parameter(self, name: str) -> str:
        """What the index calls a tensor."""
        return ".".join(self._path(name))

    def _items(
        self, source: TensorSource, chunks: Mapping[str, Chunks]
    ) -> Iterable[Item]:
        """Keys and values of the index."""
        for tensor in source.tensors:
            name = self._parameter(tensor.name)
            tensor_chunks = chunks[tensor.name]
            array = {
                "chunks": tensor_chunks.shape,
                "compressor": None,
                "dimension_separator": ".",
                "dtype": tensor_chunks.dtype or _DTYPES[tensor.dtype],
                "fill_value": None,
                "filters": None,
                "order": tensor_chunks.order,
                "shape": tensor.shape,
                "zarr_format": 2,
            }
            yield f"{name}/.zarray".encode(), _json(array)
            for index, reference in tensor_chunks.references:
                yield f"{name}/{index}".encode(), reference

    def _metadata(
        self, source: TensorSource, chunks: Mapping[str, Chunks]
    ) -> Iterable[tuple[str, bytes]]:
        """The files that tell Orbax of the tree."""
        tree = {str(path): _leaf(tensor, path) for tensor, path in self._paths(source)}
        yield (
            "_sharding",
            _json(
                {
                    base64.urlsafe_b64encode(
                        self._parameter(t.name).encode()
                    ).decode(): _ONE_DEVICE
                    for t in source.tensors
                }
            ),
        )
        yield (
            "array_metadatas/process_0",
            _json(
                {
                    "array_metadatas": [
                        {
                            "array_metadata": {
                                "param_name": self._parameter(tensor.name),
                                "write_shape": tensor.shape,
                                "chunk_shape": chunks[tensor.name].shape,
                                "ext_metadata": None,
                            }
                        }
                        for tensor in source.tensors
                    ]
                }
            ),
        )
        yield "_CHECKPOINT_METADATA", _json({"custom_metadata": dict(source.metadata)})
        yield (
            "_METADATA",
            _json(
                {
                    "tree_metadata": tree,
                    "use_ocdbt": True,
                    "use_zarr3": False,
                    "store_array_data_equal_to_fill_value": True,
                    "custom_metadata": None,
                }
            ),
        )

    def _paths(
        self, source: TensorSource
    ) -> Iterable[tuple[ExportedTensor, tuple[str, ...]]]:
        for tensor in source.tensors:
            yield tensor, self._path(tensor.name)


def _write_data(path: str, source: TensorSource) -> dict[str, Chunks]:
    """Writes the elements of all tensors into one file; gives where they lie."""
    offset = 0
    offsets: list[tuple[str, int]] = []
    chunks: dict[str, Chunks] = {}
    for tensor in source.tensors:
        offsets.append((tensor.name, offset))
        chunks[tensor.name] = cut_in_chunks(
            tensor.shape, tensor.dtype, DATA_PATH, offset
        )
        offset += tensor.nbytes
    os.makedirs(os.path.join(path, os.path.dirname(DATA_PATH)))
    with raw_file(os.path.join(path, DATA_PATH), offset, offsets) as file:
        source.read_into(file.take, in_boxes=True)
    return chunks


def _leaf(tensor: ExportedTensor, path: Sequence[str]) -> dict[str, Any]:
    """How `_METADATA` describes a leaf."""
    return {
        "key_metadata": [{"key": key, "key_type": _DICT_KEY} for key in path],
        "value_metadata": {
            "value_type": "jax.Array",
            "skip_deserialize": False,
            "write_shape": tensor.shape,
        },
    }


def _refuse_names_that_are_scopes(names: Iterable[str]) -> None:
    """Refuses names that tensorstore, which takes them for folders, would change."""
    changed = [n for n in names if n.endswith("/") or n.startswith("/") or "//" in n]
    if changed:
        raise AssignmentError(
            f"Orbax cannot find arrays under these names: {list_names(changed)}. Move "
            "them with assignment_map."
        )


def _refuse_names_that_do_not_nest(paths: Mapping[str, tuple[str, ...]]) -> None:
    """Refuses names of which one is a scope of another, and empty components."""
    scopes = {path[:i] for path in paths.values() for i in range(1, len(path))}
    both = [name for name, path in paths.items() if path in scopes]
    empty = [name for name, path in paths.items() if "" in path]
    if not both and not empty:
        return
    facts: list[str] = []
    if both:
        facts.append(f"{list_names(both)}: a tensor, and a scope of others")
    if empty:
        facts.append(f"{list_names(empty)}: a component without a name")
    raise AssignmentError(
        f"Names that cannot be nested at `/`: {'; '.join(facts)}. Give "
        "slots=False to drop optimizer slots, flat=True to keep names whole, or move "
        "these tensors with assignment_map."
    )


def _refuse_equal_parameters(paths: Mapping[str, tuple[str, ...]]) -> None:
    """Refuses names that Orbax would take for one: it joins keys by dots."""
    first: dict[str, str] = {}
    for name, path in paths.items():
        parameter = ".".join(path)
        other_name = first.setdefault(parameter, name)
        if other_name != name:
            raise AssignmentError(
                f"Orbax takes `{other_name}` and `{name}` for one: it joins keys by "
                "dots. Give flat=True, or move one of them with assignment_map."
            )


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
