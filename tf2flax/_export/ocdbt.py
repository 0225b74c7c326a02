"""OCDBT: tensorstore's key-value store in files, with one version and one writer.

A manifest leads to the root of a B-tree; leaves hold values, or say in which file and
where they lie. Every object is framed alike::

    magic, uint32 BE | length, uint64 LE | version 0 | compression 0 | body | CRC-32C LE

Numbers are varints; arrays are stored column by column. Two files and three keys, of
which two are byte ranges of TensorFlow's data file::

    manifest.ocdbt -> d/root -> w/.zarray   145 bytes inline
                                w/0         m.data [5:9]
                                w/1         m.data [9:13]

Source: tensorstore/kvstore/ocdbt/index.rst and format/*.cc.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tf2flax._formats.wire.coding import crc32c, encode_varint64

_MANIFEST_MAGIC: Final = bytes.fromhex("0cdb3a2a")
_NODE_MAGIC: Final = bytes.fromhex("0cdb20de")
# What tensorstore itself writes in the configuration of a manifest.
_MAX_INLINE_NBYTES: Final = 1024
_MAX_NODE_NBYTES: Final = 100_000_000
_ARITY_LOG2: Final = 4
# Bytes of a leaf: first opens of larger ones take long.
_LEAF_NBYTES: Final = 1 << 20
# Children of an interior node.
_MAX_CHILDREN: Final = 10_000


class Reference(NamedTuple):
    """A value that lies in another file.

    Attributes:
        path: The file, relative to the directory of the manifest, below it.
        offset: Its first byte there.
        nbytes: Its length.
    """

    path: str
    offset: int
    nbytes: int


# A key, and its value: bytes, or where they lie.
Item = tuple[bytes, bytes | Reference]


class _Node(NamedTuple):
    """A node that was written, as its parent describes it."""

    first_key: bytes
    place: Reference
    num_keys: int
    num_tree_bytes: int
    num_indirect_bytes: int


def build_ocdbt(
    items: Sequence[Item], node_path: str, *, uuid: bytes
) -> tuple[bytes, bytes]:
    """Builds a store.

    Args:
        items: Keys and values, sorted by key, each key once; at least one.
        node_path: The file that the nodes will be in, relative to the manifest.
        uuid: 16 random bytes.

    Returns:
        The contents of `manifest.ocdbt`, and those of the file of nodes.
    """
    nodes = bytearray()

    def add(
        contents: bytes, keys: tuple[bytes, int], tree: int, indirect: int
    ) -> _Node:
        place = Reference(node_path, len(nodes), len(contents))
        nodes.extend(contents)
        return _Node(keys[0], place, keys[1], tree + len(contents), indirect)

    level = [
        add(
            _leaf(group),
            (group[0][0], len(group)),
            0,
            sum(value.nbytes for _, value in group if isinstance(value, Reference)),
        )
        for group in _groups_of_items(items)
    ]
    height = 0
    while len(level) > 1:
        height += 1
        level = [
            add(
                _interior(height, group),
                (group[0].first_key, sum(node.num_keys for node in group)),
                sum(node.num_tree_bytes for node in group),
                sum(node.num_indirect_bytes for node in group),
            )
            for group in _batched(level, _MAX_CHILDREN)
        ]
    return _manifest(level[0], height, uuid), bytes(nodes)


def _groups_of_items(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Cuts items into leaves of bounded size."""
    groups: list[Sequence[Item]] = []
    begun = nbytes = 0
    for number, (key, value) in enumerate(items):
        item_nbytes = len(key) + (len(value) if isinstance(value, bytes) else 16)
        if number > begun and nbytes + item_nbytes > _LEAF_NBYTES:
            groups.append(items[begun:number])
            begun, nbytes = number, 0
        nbytes += item_nbytes
    groups.append(items[begun:])
    return groups


def _batched(nodes: Sequence[_Node], count: int) -> list[Sequence[_Node]]:
    return [nodes[i : i + count] for i in range(0, len(nodes), count)]


def _framed(magic: bytes, body: bytes) -> bytes:
    """An object with its header and its checksum."""
    length = len(magic) + 8 + 2 + len(body) + 4
    framed = magic + length.to_bytes(8, "little") + b"\0\0" + body
    return framed + crc32c(framed).to_bytes(4, "little")


def _manifest(root: _Node, height: int, uuid: bytes) -> bytes:
    files = _Files([root.place.path])
    generation = 1
    body = b"".join(
        (
            uuid,
            b"\0",  # a single manifest
            _varints(_MAX_INLINE_NBYTES, _MAX_NODE_NBYTES),
            bytes([_ARITY_LOG2]),
            _varints(0),  # no compression
            files.table,
            _varints(1, generation),
            bytes([height]),
            _varints(
                files.number(root.place.path),
                root.place.offset,
                root.place.nbytes,
                root.num_keys,
                root.num_tree_bytes,
                root.num_indirect_bytes,
            ),
            time.time_ns().to_bytes(8, "little"),
            _varints(0),  # no earlier versions
        )
    )
    return _framed(_MANIFEST_MAGIC, body)


def _leaf(items: Sequence[Item]) -> bytes:
    references = [value for _, value in items if isinstance(value, Reference)]
    files = _Files([reference.path for reference in references])
    prefixes, suffixes = _shared_prefixes([key for key, _ in items])
    body = b"".join(
        (
            b"\0",  # height
            files.table,
            _varints(len(items)),
            _varints(*prefixes[1:]),
            _varints(*map(len, suffixes)),
            b"".join(suffixes),
            _varints(*(_nbytes_of(value) for _, value in items)),
            bytes([isinstance(value, Reference) for _, value in items]),
            _varints(*(files.number(reference.path) for reference in references)),
            _varints(*(reference.offset for reference in references)),
            b"".join(value for _, value in items if isinstance(value, bytes)),
        )
    )
    return _framed(_NODE_MAGIC, body)


def _nbytes_of(value: bytes | Reference) -> int:
    return value.nbytes if isinstance(value, Reference) else len(value)


def _interior(height: int, children: Sequence[_Node]) -> bytes:
    files = _Files([child.place.path for child in children])
    prefixes, suffixes = _shared_prefixes([child.first_key for child in children])
    columns: tuple[Callable[[_Node], int], ...] = (
        lambda child: files.number(child.place.path),
        lambda child: child.place.offset,
        lambda child: child.place.nbytes,
        lambda child: child.num_keys,
        lambda child: child.num_tree_bytes,
        lambda child: child.num_indirect_bytes,
    )
    body = b"".join(
        (
            bytes([height]),
            files.table,
            _varints(len(children)),
            _varints(*prefixes[1:]),
            _varints(*map(len, suffixes)),
            _varints(*[0] * len(children)),  # children hold their keys in full
            b"".join(suffixes),
            *(_varints(*map(column, children)) for column in columns),
        )
    )
    return _framed(_NODE_MAGIC, body)


class _Files:
    """The table of the files that an object refers to.

    Attributes:
        table: The table, as it is stored: every path shares its beginning with the
            path before it, and none has a base path of its own.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = sorted({path.encode() for path in paths})
        self._numbers = {path: number for number, path in enumerate(encoded)}
        prefixes, suffixes = _shared_prefixes(encoded)
        self.table = b"".join(
            (
                _varints(len(encoded)),
                _varints(*prefixes[1:]),
                _varints(*map(len, suffixes)),
                _varints(*[0] * len(encoded)),
                b"".join(suffixes),
            )
        )

    def number(self, path: str) -> int:
        """Number of a path in the table."""
        return self._numbers[path.encode()]


def _shared_prefixes(texts: Sequence[bytes]) -> tuple[list[int], list[bytes]]:
    """Splits each text into what it shares with the one before it, and the rest."""
    prefixes, suffixes = [0], [*texts[:1]]
    for before, text in itertools.pairwise(texts):
        shared = _count_shared(before, text)
        prefixes.append(shared)
        suffixes.append(text[shared:])
    return prefixes, suffixes


def _count_shared(first: bytes, second: bytes) -> int:
    """Number of bytes that two texts begin with alike."""
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count


def _varints(*numbers: int) -> bytes:
    return b"".join(map(encode_varint64, numbers))
