"""Fuzzes the readers: checkpoints with mutations under right checksums, and raw bytes.

    MALLOC_ARENA_MAX=2 python tests/support/fuzz_worker.py SECONDS [SEED]

Runs in little memory, each input in little time. Ends with 0 and the number of inputs,
or with the smallest input that hypothesis finds.
"""

from __future__ import annotations

import json
import pathlib
import random
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import cramjam
import numpy as np
import v1_writer as v1
from bundle_writer import (
    MAGIC,
    block_bytes,
    entry_bytes,
    header_bytes,
    masked,
    rows_in,
    slice_key,
    string_bytes,
    varint,
    with_trailer,
    write_bundle,
)
from bundle_writer import Tensor as Written
from corpus_worker import OK, exercise, limit_memory, too_slow
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import tf2flax

TIME_S = 10
# What is refused of each kind of input, at least, for each second in all ...
REFUSED_PER_S = 5
# ... unless the machine needs so much longer for it.
SLOW_S = 60
INTERESTING = [
    0, 1, 2, 3, 4, 7, 8, 16, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -4, -(2**31), -(2**63),
]  # fmt: skip
numbers = st.sampled_from(INTERESTING) | st.integers(-(2**63), 2**64 - 1)
# Where to mutate (taken modulo the length), how, and with what.
mutations = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.sampled_from(["set", "insert", "delete", "number"]),
        st.binary(min_size=1, max_size=3),
        numbers,
    ),
    max_size=3,
)
Mutations = list[tuple[int, str, bytes, int]]
HALVES = [[(0, 2)], [(2, 2)]]
STRINGS = np.array([b"ab", b""], object)


def mutated(data: bytes, changes: Mutations) -> bytes:
    """Bytes with some of them set, inserted, deleted, or replaced by a varint."""
    out = bytearray(data)
    for place, how, value, number in changes:
        at = place % (len(out) + 1)
        if how == "set":
            out[at : at + len(value)] = value
        elif how == "insert":
            out[at:at] = value
        elif how == "delete":
            del out[at : at + len(value)]
        else:
            out[at : at + 1] = varint(number)
    return bytes(out)


@st.composite
def entries(draw: st.DrawFn) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Items of a bundle, and its data."""
    data = bytearray(OK.tobytes())
    stored, crc = string_bytes(STRINGS.tolist())

    def one(dims: list[int], size: int, checksum: int, **more: Any) -> bytes:
        fields: dict[str, Any] = {
            "code": 1,
            "dims": dims,
            "size": size,
            "crc": checksum,
        }
        fields |= more
        for name, value in draw(
            st.dictionaries(
                st.sampled_from(["code", "size", "offset", "shard_id", "dim", "rank"]),
                numbers,
                max_size=1,
            )
        ).items():
            if name == "dim":
                fields["dims"] = [*fields["dims"][:-1], value]
            elif name == "rank":
                fields["dims"] = [*fields["dims"], *[value] * draw(st.integers(1, 3))]
            else:
                fields[name] = value
        return mutated(entry_bytes(fields.pop("code"), fields.pop("dims"), **fields),
                       draw(mutations))  # fmt: skip

    header = header_bytes(draw(st.sampled_from([1, 1, 1, 0, 2, 2**31 - 1])))
    listed = draw(st.sampled_from([HALVES, HALVES, [*HALVES, HALVES[0]], HALVES[:1]]))
    items = [
        (b"", mutated(header, draw(mutations))),
        (b"ok", one([4], 16, masked(OK.tobytes()))),
        (b"s", one([2], len(stored), crc, code=7, offset=16)),
        (b"t", one([4], 0, 0, slices=listed)),
    ]
    data += stored
    for i, extents in enumerate(HALVES):
        half = OK[2 * i : 2 * i + 2].tobytes()
        items.append(
            (slice_key(b"t", extents), one([2], 8, masked(half), offset=8 * i))
        )
    return items, bytes(data)


@st.composite
def tables(draw: st.DrawFn, items: list[tuple[bytes, bytes]]) -> bytes:
    """A table of items, mutated at every level, under right checksums."""
    items = sorted(items)
    for place, how, value, _ in draw(mutations):
        at = place % len(items)
        if how == "set":
            items[at] = (value, items[at][1])
        elif how == "insert":
            items.insert(at, items[place % 3])
        elif how == "delete" and len(items) > 1:
            del items[at]
    out = bytearray()
    handles: list[tuple[bytes, bytes]] = []
    step = draw(st.integers(1, 6))
    for start in range(0, len(items), step):
        part = items[start : start + step]
        contents = mutated(block_bytes(part, draw(st.integers(1, 4))), draw(mutations))
        kind = draw(st.sampled_from([0, 0, 1, 2]))
        if kind == 1:
            compressed = bytes(cramjam.snappy.compress_raw(contents))
            contents = mutated(compressed, draw(mutations))
        handle = varint(len(out)) + varint(len(contents))
        handles.append((part[-1][0], mutated(handle, draw(mutations))))
        out += with_trailer(contents, kind=kind if kind != 2 or start else 0)
    places: list[bytes] = []
    for contents in (block_bytes([], 1), block_bytes(handles, 1)):
        contents = mutated(contents, draw(mutations))
        places.append(varint(len(out)) + varint(len(contents)))
        out += with_trailer(contents)
    footer = mutated(b"".join(places), draw(mutations))
    return bytes(out) + footer.ljust(40, b"\0")[:40] + struct.pack("<Q", MAGIC)


@st.composite
def v1_items(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    """Items of a V1 checkpoint, each message mutated."""
    encoding = draw(st.sampled_from(["packed", "unpacked", "content"]))

    def stored(name: bytes, extents: Any, array: np.ndarray) -> bytes:
        tensor = mutated(v1.tensor_proto(array, encoding), draw(mutations))
        return mutated(v1.saved_slice(name, extents, tensor), draw(mutations))

    whole = [(0, -1)]
    dims = [draw(st.sampled_from([4, 4, 4, 2**40, 0, -1]))]
    code = draw(st.sampled_from([1, 1, 3, 0]))
    metas = [
        mutated(v1.slice_meta(b"ok", code, dims, [whole]), draw(mutations)),
        v1.slice_meta(b"s", 7, [2], [whole]),
        mutated(v1.slice_meta(b"t", 1, [4], HALVES), draw(mutations)),
    ]  # fmt: skip
    items = [
        (b"", mutated(v1.saved_list(metas), draw(mutations))),
        (slice_key(b"ok", whole), stored(b"ok", whole, OK)),
        (slice_key(b"s", whole), stored(b"s", whole, STRINGS)),
    ]
    for i, one in enumerate(HALVES):
        items.append((slice_key(b"t", one), stored(b"t", one, OK[2 * i : 2 * i + 2])))
    return items


@st.composite
def bundles(draw: st.DrawFn) -> dict[str, bytes]:
    """The files of a V2 checkpoint."""
    items, data = draw(entries())
    data = mutated(data, draw(mutations)) if draw(st.booleans()) else data
    return {"m.index": draw(tables(items)), "m.data-00000-of-00001": data}


@st.composite
def v1_files(draw: st.DrawFn) -> dict[str, bytes]:
    """The file of a V1 checkpoint."""
    return {"m": draw(tables(draw(v1_items())))}


def right_files(kind: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        tensors = {"ok": OK, "s": STRINGS, "t": Written(OK, slices=rows_in(OK, 2))}
        (v1.write_v1 if kind == "v1" else write_bundle)(folder / "m", tensors)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


@st.composite
def raw_files(draw: st.DrawFn) -> dict[str, bytes]:
    """The files of a right checkpoint, of which one was changed anyhow."""
    files = draw(st.sampled_from([right_files("v1"), right_files("v2")]))
    name = draw(st.sampled_from(sorted(files)))
    changed = mutated(files[name], draw(mutations.filter(len)))
    return {**files, name: draw(st.just(changed) | st.binary(max_size=200))}


class Fuzzer:
    """Runs inputs of one kind and counts what became of them."""

    def __init__(
        self, folder: pathlib.Path, *, least_refused: float, is_strict: bool
    ) -> None:
        self.folder = folder
        self.least_refused = least_refused
        self.is_strict = is_strict
        self.refused = self.read = 0

    def run(self, files: dict[str, bytes]) -> None:
        for old in self.folder.iterdir():
            old.unlink()
        for name, contents in files.items():
            (self.folder / name).write_bytes(contents)
        signal.setitimer(signal.ITIMER_PROF, TIME_S)
        path = str(self.folder / "m")
        errors = exercise(path, is_ok_known=self.is_strict, views=False)
        if self.is_strict and not errors:
            got = tf2flax.open_checkpoint(path).read()
            want = {"ok": OK.tolist(), "s": STRINGS.tolist(), "t": OK.tolist()}
            assert {name: array.tolist() for name, array in got.items()} == want
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.refused += bool(errors)
        self.read += not errors

    @property
    def is_content(self) -> bool:
        """Whether enough has been tried, however slow the machine is."""
        return self.refused >= self.least_refused and self.read > 0


def fuzz(fuzzer: Fuzzer, strategy: Any, until: float, start: int) -> None:
    number = start
    latest = until + SLOW_S

    def is_over() -> bool:
        now = time.monotonic()
        return now >= latest or (now >= until and fuzzer.is_content)

    while not is_over():

        @seed(number)
        @settings(
            max_examples=100,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(files=strategy)
        def run(files: dict[str, bytes]) -> None:
            if not is_over():
                fuzzer.run(files)

        run()
        number += 1


def main(seconds: float, start: int) -> None:
    import hypothesis.internal.conjecture.engine  # noqa: F401  # counts as the start

    limit_memory()
    signal.signal(signal.SIGPROF, too_slow)
    kinds: list[tuple[str, Callable[[], Any], bool]] = [
        ("bundle", bundles, False),
        ("v1", v1_files, False),
        ("raw", raw_files, True),
    ]
    counts: dict[str, dict[str, int]] = {}
    for kind, strategy, is_strict in kinds:
        with tempfile.TemporaryDirectory() as folder:
            fuzzer = Fuzzer(
                pathlib.Path(folder),
                least_refused=REFUSED_PER_S * seconds,
                is_strict=is_strict,
            )
            until = time.monotonic() + seconds / len(kinds)
            fuzz(fuzzer, strategy(), until, start)
            counts[kind] = {"read": fuzzer.read, "refused": fuzzer.refused}
    print(json.dumps({"seed": start, **counts}))


if __name__ == "__main__":
    given_seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    main(float(sys.argv[1]), given_seed)
